// Starts the page: reads what is served, connects the parts, and takes the first backend that is right.
// SPDX-License-Identifier: Apache-2.0

import { showAnswers } from "./answer.js";
import { connectCaller } from "./caller.js";
import { offerCamera } from "./camera.js";
import { inUse, offer } from "./chooser.js";
import { drawHistogram } from "./histogram.js";
import { offerSamples, takeImages } from "./images.js";
import { connectMeasurement } from "./measurement.js";
import { connectModes } from "./modes.js";
import { keepOffline } from "./offline.js";
import { byId, problem, status } from "./page.js";
import { drawPlot } from "./plot.js";
import { keepTimes } from "./times.js";

async function start() {
  const [session, manifest] = await Promise.all(["session.json", "bundle/manifest.json"].map(read));
  introduce(manifest, session);
  for (const connect of [connectCaller, keepTimes, connectModes, showAnswers, drawHistogram, offerCamera]) connect();
  takeImages(manifest.model);
  drawPlot(manifest);
  connectMeasurement(session);
  await offer(manifest);
  if (inUse()) offerSamples(inUse().model.bundle);
  else status("");
  keepOffline(); // in its own time
}

async function read(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.json();
}

function introduce({ model, artifacts }, { tool, packages }) {
  document.title = `${model.name} – playground`;
  byId("name").textContent = model.name;
  const heads = [...new Set(artifacts.flatMap((artifact) => artifact.heads))].sort((one, other) => one - other);
  const size = [model.preprocessing.image_size].flat();
  const last = heads.length > 1 ? `${heads.slice(0, -1).join(", ")} or ${heads.at(-1)}` : heads[0];
  byId("about").textContent = `${last} heads · images of ${size[0]} × ${size.at(-1)} pixels`;
  const versions = Object.entries({ "hydra-export": tool.hydra_export, ...packages });
  byId("versions").textContent = versions.map(([name, version]) => `${name} ${version}`).join(" · ");
}

try {
  await start();
} catch (error) {
  status("");
  problem(error.message ?? String(error));
}
document.body.dataset.ready = "true";
