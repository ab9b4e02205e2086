// The camera: its frames, one after another, are what the model sees. SPDX-License-Identifier: Apache-2.0

import { byId, emit, problem, reported } from "./page.js";

const CAUSES = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser’s settings, then try again.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "Another program uses the camera. Close it, then try again.",
};

let stream;
let facing = "environment";

export const cameraOn = () => Boolean(stream);

/** Connects the buttons, or says why there can be no camera. */
export function offerCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    byId("camera").disabled = true;
    byId("camera-note").hidden = false;
    byId("camera-note").textContent = isSecureContext
      ? "This browser does not support the camera."
      : "Browsers allow the camera only on https or localhost. See “Ways onto the phone” in the documentation.";
    return;
  }
  byId("camera").onclick = () => reported(() => (stream ? stopCamera() : start()));
  byId("turn").onclick = () => {
    facing = facing === "environment" ? "user" : "environment";
    reported(start);
  };
}

async function start() {
  problem();
  stopTracks();
  try {
    const wanted = { facingMode: facing, width: { ideal: 640 }, height: { ideal: 480 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  } catch (error) {
    stopCamera();
    throw new Error(CAUSES[error.name] ?? `The camera cannot be used: ${error.message}`);
  }
  const video = byId("video");
  video.srcObject = stream;
  await video.play();
  video.classList.toggle("mirrored", facing === "user");
  for (const track of stream.getVideoTracks()) track.onended = stopCamera;
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  byId("turn").hidden = cameras.length < 2;
  shown(true);
  emit("camera", true);
}

export function stopCamera() {
  stopTracks();
  byId("video").srcObject = null;
  byId("turn").hidden = true;
  shown(false);
  emit("camera", false);
}

function stopTracks() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = undefined;
}

function shown(camera) {
  byId("video").hidden = !camera;
  byId("shown").hidden = camera;
  byId("camera").setAttribute("aria-pressed", String(camera));
  byId("camera").textContent = camera ? "Stop the camera" : "Camera";
}

const frames = new OffscreenCanvas(1, 1);
const context = frames.getContext("2d", { willReadFrequently: true });

/** The frame that the camera shows now. */
export function frame() {
  const { videoWidth: width, videoHeight: height } = byId("video");
  if (frames.width !== width || frames.height !== height) Object.assign(frames, { width, height });
  context.drawImage(byId("video"), 0, 0);
  return context.getImageData(0, 0, width, height);
}
