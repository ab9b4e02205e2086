// Where an image comes from: a sample, a file, the clipboard or a drop. SPDX-License-Identifier: Apache-2.0

import { decoded, fitted, sides } from "./runtime/preprocess.mjs";
import { byId, element, emit, reported } from "./page.js";

const NUM_SAMPLES = 5;

/** Connects the ways to give a photograph, which is made ready as *preprocessing* says. */
export function takeImages({ preprocessing }) {
  const take = (file) => reported(() => taken(file, preprocessing));
  byId("choose").onclick = () => byId("file").click();
  byId("file").onchange = () => take(byId("file").files[0]);
  document.addEventListener("paste", (event) => take(imageIn(event.clipboardData)));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").hidden = true;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").hidden = true;
    take(imageIn(event.dataTransfer));
  });
}

const imageIn = (given) => [...(given?.files ?? [])].find((file) => file.type.startsWith("image/"));

async function taken(file, preprocessing) {
  if (!file) return;
  let photo;
  try {
    photo = await decoded(file);
  } catch {
    throw new Error(`${file.name || "The image"} cannot be read by this browser. Choose a JPEG, PNG or WebP image.`);
  }
  show(photo, { name: file.name || "pasted", ready: framed(fitted(photo, preprocessing), preprocessing) });
  byId("file").value = ""; // so that the same file can be chosen again
}

/** Shows a photograph and hands it to the model, made ready once: what is large would take its time in every call. */
function show(photo, { name, ready = photo, sample }) {
  const canvas = byId("shown");
  Object.assign(canvas, { width: photo.width, height: photo.height });
  canvas.getContext("2d").putImageData(photo, 0, 0);
  canvas.setAttribute("aria-label", `The image that the model sees: ${name}`);
  canvas.classList.toggle("coarse", Math.max(photo.width, photo.height) < 128);
  for (const button of byId("samples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.sample) === sample));
  }
  emit("image", { photo: ready, sample });
}

/** Offers golden images to tap, and shows the first. */
export function offerSamples(bundle) {
  const buttons = Array.from({ length: Math.min(bundle.numImages, NUM_SAMPLES) }, (_, index) => {
    const photo = sample(bundle, index);
    const canvas = element("canvas", { width: photo.width, height: photo.height, "aria-hidden": "true" });
    canvas.getContext("2d").putImageData(photo, 0, 0);
    canvas.classList.toggle("coarse", Math.max(photo.width, photo.height) < 128);
    const button = element("button", { type: "button", "aria-label": `Sample ${index + 1}`, "data-sample": index }, canvas);
    button.onclick = () => show(photo, { name: `sample ${index + 1}`, sample: index });
    return element("li", {}, button);
  });
  byId("samples").replaceChildren(...buttons);
  buttons[0]?.firstChild.click();
}

function sample({ golden, manifest }, index) {
  const [, height, width, channels] = golden.pixels.shape;
  const size = height * width * channels;
  return framed(golden.pixels.data.subarray(index * size, (index + 1) * size), manifest.model.preprocessing);
}

/** The photograph that `fitted` makes *pixels* of, as they are: with an edge for the crop to take away. */
function framed(pixels, { image_size: size, mean, crop }) {
  const [height, width] = sides(size);
  const channels = mean.length;
  const [high, wide] = [height, width].map((side) => Math.floor(side / crop));
  const photo = new ImageData(wide, high);
  const [top, left] = [half(high - height), half(wide - width)];
  const inside = (value, last) => Math.min(Math.max(value, 0), last);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      const from = (inside(y - top, height - 1) * width + inside(x - left, width - 1)) * channels;
      const rgb = [0, 1, 2].map((channel) => pixels[from + Math.min(channel, channels - 1)]);
      photo.data.set([...rgb, 255], (y * wide + x) * 4);
    }
  }
  return photo;
}

/** Half of *extra* pixels, rounded to even as the crop does. */
const half = (extra) => (extra >> 1) + (extra & (extra >> 1) & 1);
