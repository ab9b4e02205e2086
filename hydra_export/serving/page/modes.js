// Who chooses the head count: a slider, a budget, a cascade, or both of these. SPDX-License-Identifier: Apache-2.0

import { alone, photo } from "./caller.js";
import { inUse } from "./chooser.js";
import { byId, element, emit, headsOf, on, problem, status } from "./page.js";

const NOTES = {
  fixed: "The slider sets the head count of the next call.",
  budget: "The largest head count that meets the budget on this device. The slider follows.",
  cascade: "Small head counts first; larger ones only if these are unsure.",
  both: "A cascade if all its head counts fit the budget together, otherwise one head count that fits.",
};

let heads = []; // of the model
let fixed; // the head count that the slider chose
let references; // milliseconds of a run by head count, measured once for each backend
let suggested = true; // that is, nobody typed a budget

const mode = () => document.querySelector("[name=mode]:checked").value;
const budgeted = () => mode() === "budget" || mode() === "both";
const cascaded = () => mode() === "cascade" || mode() === "both";

/** What decides now: {mode, heads, ms or null, asGoodAs or null}. */
export const choice = () => ({
  mode: mode(),
  heads: fixed,
  ms: budgeted() ? Number(byId("ms").value) : null,
  asGoodAs: cascaded() ? Number(byId("as-good-as").value) : null,
});

export function connectModes() {
  on("backend", (current) => {
    references = undefined;
    byId("heads").disabled = !current;
    if (current) offer(current.model);
  });
  on("answer", ({ answer }) => {
    if (mode() !== "fixed") point(answer.heads);
  });
  byId("heads").oninput = () => {
    fixed = heads[byId("heads").value];
    point(fixed);
    apply();
  };
  for (const radio of document.querySelectorAll("[name=mode]")) radio.onchange = apply;
  byId("ms").onchange = () => {
    suggested = false;
    apply();
  };
  for (const id of ["quantile", "as-good-as"]) byId(id).onchange = apply;
  byId("choice").onsubmit = (event) => event.preventDefault();
}

/** Offers the head counts and cascades of *model*. */
function offer(model) {
  heads = [...model.heads];
  if (!heads.includes(fixed)) fixed = heads[0];
  byId("heads").max = heads.length - 1;
  const every = Math.ceil(heads.length / 16); // labels that fit a phone
  byId("ticks").replaceChildren(...heads.map((k, at) => element("span", {}, at % every ? "·" : String(k))));
  byId("ticks").classList.toggle("alone", heads.length === 1);
  point(fixed);
  const cascades = model.bundle.manifest.calibration?.cascades ?? [];
  const usable = cascades.filter((each) => each.heads.every((k) => heads.includes(k)));
  const before = byId("as-good-as").value;
  byId("as-good-as").replaceChildren(...usable.map((each) => new Option(headsOf(each.as_good_as), each.as_good_as)));
  byId("as-good-as").value = usable.some((each) => String(each.as_good_as) === before) ? before : usable.at(-1)?.as_good_as;
  byId("calibrate-note").hidden = usable.length > 0;
  for (const name of ["cascade", "both"]) document.querySelector(`[name=mode][value=${name}]`).disabled = !usable.length;
  if (cascaded() && !usable.length) document.querySelector("[name=mode][value=fixed]").checked = true;
  apply();
}

/** Puts the slider on *k*. */
function point(k) {
  byId("heads").value = heads.indexOf(k);
  byId("heads").setAttribute("aria-valuetext", headsOf(k));
  byId("heads-now").textContent = k;
}

let applied = Promise.resolve();

/** Has the model decide as the controls say; one change after another, of which the last one counts. */
function apply() {
  showFields();
  applied = applied.then(() => settle(inUse())).catch((error) => problem(error.message ?? String(error)));
  return applied;
}

/** No call is in progress meanwhile, so that each belongs to one rule. */
async function settle(current) {
  if (!current) return;
  problem();
  await alone(async () => {
    const { model } = current;
    if (budgeted()) await measureOnce(model);
    if (inUse() !== current) return;
    const { ms, asGoodAs } = choice();
    model.fixed(fixed);
    if (ms !== null) await model.budget({ ms, quantile: Number(byId("quantile").value), references });
    if (asGoodAs !== null) model.cascade({ asGoodAs });
    if (mode() === "fixed") point(fixed);
    status("Ready");
    emit("mode", choice());
  });
}

function showFields() {
  byId("mode-note").textContent = NOTES[mode()];
  for (const id of ["budget-field", "quantile-field"]) byId(id).hidden = !budgeted();
  byId("cascade-field").hidden = !cascaded();
  byId("heads").disabled = mode() !== "fixed" || !inUse();
}

/** Times the runs, which a budget reckons with, and whole calls for a budget to begin with: one that leaves a choice. */
async function measureOnce(model) {
  if (references) return;
  status("Timing a few calls for the budget …");
  const runs = await model.measure(5);
  if (suggested && photo()) {
    const least = await longest(model, heads[0]);
    const most = await longest(model, heads.at(-1));
    byId("ms").value = Number(Math.sqrt(least * most).toPrecision(2));
  }
  byId("ms").value ||= 33; // 30 frames a second
  references = runs;
}

async function longest(model, k) {
  const times = [];
  for (let call = 0; call < 5; call++) times.push((await model.run(photo(), { heads: k })).ms);
  return Math.max(...times);
}
