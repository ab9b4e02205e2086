// Calls the model on what is shown: once, or again and again. SPDX-License-Identifier: Apache-2.0

import { cameraOn, frame } from "./camera.js";
import { inUse } from "./chooser.js";
import { byId, emit, on, problem } from "./page.js";

let image; // {photo, sample}
let repeating = false;
let halted = 0; // how many others need the model to themselves
let wanted = false;
let running; // the promise of the calls in progress

export function connectCaller() {
  on("image", (given) => {
    image = given;
    ask();
  });
  on("camera", ask);
  on("leaving", () => (halted += 1));
  on("backend", () => (halted -= 1)); // what decides the head count asks for a call once it is set
  byId("repeat").onclick = () => {
    repeating = !repeating;
    byId("repeat").setAttribute("aria-pressed", String(repeating));
    ask();
  };
  document.addEventListener("visibilitychange", ask);
}

/** Has the model called on what is shown now, after the call in progress. */
export function ask() {
  wanted = true;
  if (running || !ready()) return;
  running = calls().finally(() => {
    running = undefined;
    if (wanted) ask();
  });
}

/** The photograph that a call would be made on. */
export const photo = () => (cameraOn() ? frame() : image?.photo);

const ready = () => !halted && inUse() && (image || cameraOn());

/** Runs *action* while nothing else calls the model. */
export async function alone(action) {
  halted += 1;
  try {
    await running;
    return await action();
  } finally {
    halted -= 1;
    ask();
  }
}

async function calls() {
  while (ready() && (wanted || looping())) {
    wanted = false;
    const { model } = inUse();
    const sample = cameraOn() ? undefined : image.sample;
    try {
      emit("answer", { answer: await model.run(photo()), sample });
    } catch (error) {
      if (inUse()?.model === model) {
        problem(error.message ?? String(error));
        return;
      }
    }
    await painted();
  }
}

const looping = () => (repeating || cameraOn()) && !document.hidden;

/** Lets the browser paint; a page in the background is not painted. */
function painted() {
  return new Promise((resolve) => (document.hidden ? setTimeout(resolve) : requestAnimationFrame(() => setTimeout(resolve))));
}
