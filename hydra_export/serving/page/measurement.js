// "Measure": its button, its progress, its result, and what becomes of the record. SPDX-License-Identifier: Apache-2.0

import { alone } from "./caller.js";
import { stopCamera } from "./camera.js";
import { inUse } from "./chooser.js";
import { measure } from "./measure.js";
import { byId, element, emit, on, problem, quantile, written } from "./page.js";
import { download, post, records } from "./record.js";

const NOTABLE_DRIFT = 1.1;

let made = []; // the records of the last measurement

export function connectMeasurement(session) {
  byId("measure-about").textContent = session.can_save
    ? "Times every head count in turn, on the backend chosen here. The times, and what the browser reports about the device, go to the " +
      "computer that serves this page, and nowhere else."
    : "Times every head count in turn, on the backend chosen here. The times stay in this page until you save them; " +
      "hydra-export profile import FILE --bundle BUNDLE takes the file.";
  on("backend", (current) => {
    byId("measure").disabled = !current;
    for (const id of ["measured", "measure-status"]) byId(id).replaceChildren();
    byId("save").hidden = true;
  });
  byId("measure").onclick = () => run(session);
  byId("save").onclick = () => made.forEach(download);
}

async function run(session) {
  const current = inUse();
  const stopping = new AbortController();
  byId("stop").onclick = () => stopping.abort();
  problem();
  stopCamera();
  busy(true);
  try {
    const found = await alone(() => measure(current.model, { calls: wantedCalls(), progress, signal: stopping.signal }));
    emit("measured", found.samples);
    showTimes(found.samples);
    made = await records(current, found, session);
    await keep(session, notes(found.conditions));
  } catch (error) {
    byId("measure-status").textContent = stopping.signal.aborted ? "Stopped; nothing was saved." : "";
    if (!stopping.signal.aborted) problem(error.message ?? String(error));
  }
  busy(false);
}

/** Fewer calls than usual, for a quick look: ?calls=10 */
function wantedCalls() {
  const given = Number(new URLSearchParams(location.search).get("calls"));
  return given >= 1 ? given : undefined;
}

function busy(yes) {
  for (const input of document.querySelectorAll("button, input, select")) {
    if (input.id === "stop") continue;
    if (yes) input.dataset.before = input.disabled;
    input.disabled = yes || input.dataset.before === "true";
  }
  for (const id of ["stop", "progress"]) byId(id).hidden = !yes;
  (yes ? byId("stop") : byId("measure")).focus();
  byId("progress").value = 0;
  if (yes) byId("measure-status").textContent = "Measuring. Leave the device alone and this page in front.";
}

function progress(share) {
  byId("progress").value = share;
}

function notes({ hidden, drift }) {
  const said = [];
  if (hidden) said.push("The page was in the background for a while; it waited, and the record notes this.");
  if (drift > NOTABLE_DRIFT) {
    said.push(`The last calls took ${((drift - 1) * 100).toFixed(0)} % longer than the first: the device may be getting warm.`);
  }
  return said.join(" ");
}

async function keep(session, noted) {
  byId("save").hidden = false;
  const lines = noted ? [element("span", {}, noted)] : [];
  if (session.can_save) {
    try {
      const answers = [];
      for (const record of made) answers.push(await post(record));
      lines.unshift(saved(answers));
    } catch (error) {
      lines.unshift(element("span", { class: "bad" }, `Not saved: ${error.message} “Save JSON” still saves the times.`));
    }
  } else {
    lines.unshift(element("span", {}, "Done. Save the times with “Save JSON”."));
  }
  byId("measure-status").replaceChildren(...lines.flatMap((line) => [line, " "]));
}

function saved(answers) {
  const { device, name, runtime } = answers[0];
  const count = answers.reduce((sum, { records }) => sum + records, 0);
  const times = count === 1 ? "1 time" : `${count} times`;
  const command = element("code", {}, `hydra-export profile --device ${device} --runtime ${runtime}`);
  return element("span", {}, element("b", { class: "good" }, "Saved"), ` ${times} of ${name}. `, command, " shows them.");
}

function showTimes(samples) {
  const head = ["heads", "median", "p10–p90", "calls"].map((text) => element("th", { scope: "col" }, text));
  const rows = Object.entries(samples).map(([k, times]) => {
    const [low, middle, high] = [0.1, 0.5, 0.9].map((share) => written(quantile(times, share)));
    const cells = [`${middle} ms`, `${low}–${high} ms`, times.length].map((text) => element("td", {}, String(text)));
    return element("tr", {}, element("th", { scope: "row" }, k), ...cells);
  });
  byId("measured").replaceChildren(
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)),
  );
}
