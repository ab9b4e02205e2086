// The list of backends: each is checked before it is used, and one that fails is not used. SPDX-License-Identifier: Apache-2.0

import { BACKENDS, nameOf, obstacle, open, precisions, unitOf } from "./backends.js";
import { byId, element, emit, headsOf, problem, status } from "./page.js";

let current; // {backend, precision, model, threads, checks} in use
let busy = Promise.resolve();

export const inUse = () => current;

/** Lists the backends and takes the first one that gives the golden outputs. */
export async function offer(manifest) {
  const rows = await Promise.all(BACKENDS.map(async (backend) => row(backend, await obstacle(backend, manifest))));
  byId("backends").replaceChildren(...rows);
  byId("precision").onchange = () => choose(current.backend, manifest, byId("precision").value);
  for (const backend of BACKENDS) radio(backend).onchange = () => choose(backend, manifest);
  for (const backend of BACKENDS.filter((each) => !radio(each).disabled)) {
    await choose(backend, manifest);
    if (current) return;
  }
  if (byId("problem").hidden) problem("Nothing in this browser runs the bundle’s artifacts. See the list of backends for the reason.");
}

const radio = (backend) => byId(`use-${backend.id}`);

function row(backend, why) {
  const input = element("input", { type: "radio", name: "backend", id: `use-${backend.id}`, disabled: Boolean(why) });
  const said = element("span", { class: "verdict", id: `verdict-${backend.id}` }, why || "Not checked yet");
  const title = element("span", { class: "title" }, element("b", {}, nameOf(backend)), ` ${unitOf(backend)}`);
  return element(
    "div",
    { class: "backend", "data-backend": backend.id },
    element("label", {}, input, element("span", {}, title, said)),
    element("details", { hidden: true }, element("summary", {}, "Errors by head count"), element("div")),
  );
}

/** Uses *backend* where it passes; else what was used before. One choice waits for another. */
export function choose(backend, manifest, precision = precisions(backend, manifest)[0]) {
  busy = busy.then(() => changed(backend, manifest, precision));
  return busy;
}

async function changed(backend, manifest, precision) {
  const before = current;
  current = undefined;
  emit("leaving");
  problem();
  await before?.model.release();
  current = (await tried(backend, precision)) ?? (before && (await tried(before.backend, before.precision)));
  for (const each of BACKENDS) radio(each).checked = each === current?.backend;
  if (current) offerPrecisions(manifest);
  emit("backend", current);
}

/** The loaded and checked backend; undefined, and its row says why, where it cannot be loaded or fails. */
async function tried(backend, precision) {
  status(`Loading ${nameOf(backend)} …`);
  verdict(backend, "busy", "Loading …");
  let opened;
  try {
    opened = await open(backend, precision);
    verdict(backend, "busy", "Checking …");
    const checks = await opened.model.check({});
    showChecks(backend, checks);
    if (checks.every(({ passed }) => passed)) return { backend, precision, checks, ...opened };
    problem(`${nameOf(backend)} does not reproduce the golden outputs here. It is neither used nor timed.`);
  } catch (error) {
    verdict(backend, "failed", `Cannot be used: ${reason(error)}`);
    problem(`${nameOf(backend)}: ${reason(error)}`);
  }
  await opened?.model.release();
  return undefined;
}

/** What a runtime's error says, without the places in its own source that LiteRT.js lists. */
function reason(error) {
  const said = String(error?.message ?? error).replaceAll(/(ERROR: )?\[[^\]]*\]|└/g, " ").replaceAll(/\s+/g, " ").trim();
  return said.slice(0, 300) || "it cannot load the bundle’s files.";
}

function verdict(backend, state, text) {
  const row = byId("backends").querySelector(`[data-backend="${backend.id}"]`);
  row.dataset.state = state;
  row.querySelector(".verdict").textContent = text;
  row.querySelector("details").hidden = true;
}

function showChecks(backend, checks) {
  const passed = checks.every((check) => check.passed);
  const closest = checks.reduce((one, other) => (nearness(other) > nearness(one) ? other : one));
  const failing = checks.filter((check) => !check.passed).map(({ heads }) => headsOf(heads));
  const limit = closest.allowed === null ? "" : `, allowed ${exponent(closest.allowed)}`;
  const text = passed ? `Passed: error ${exponent(closest.error)}${limit}` : `Failed with ${failing.join(", ")}`;
  verdict(backend, passed ? "passed" : "failed", text);
  const body = checks.map(({ heads, error, allowed, passed: good }) =>
    element(
      "tr",
      { "data-heads": heads },
      element("th", { scope: "row" }, String(heads)),
      element("td", { class: good ? "good" : "bad" }, good ? "passed" : "failed"),
      element("td", {}, exponent(error)),
      element("td", {}, allowed === null ? "same class" : exponent(allowed)),
    ),
  );
  const head = ["heads", "result", "error", "allowed"].map((text) => element("th", { scope: "col" }, text));
  const details = byId("backends").querySelector(`[data-backend="${backend.id}"] details`);
  details.lastChild.replaceChildren(
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)),
  );
  details.hidden = false;
}

/** How near a head count comes to what is allowed. */
const nearness = ({ error, allowed }) => error / (allowed ?? 1);

const exponent = (value) => value.toExponential(1).replace("e-", "e−").replace("e+", "e");

function offerPrecisions(manifest) {
  const offered = precisions(current.backend, manifest);
  byId("precision-field").hidden = offered.length < 2;
  byId("precision").replaceChildren(...offered.map((each) => new Option(each, each, false, each === current.precision)));
}
