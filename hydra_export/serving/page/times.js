// What calls took here, by the head counts that they ran. SPDX-License-Identifier: Apache-2.0

import { emit, on } from "./page.js";

const KEPT = 2000; // of each kind of call

let byRuns = new Map(); // "3" or "3,6": milliseconds
let byCascade = new Map(); // what it is as good as: milliseconds
let measured = new Map(); // head count: milliseconds that "Measure" found
let late = { calls: 0, missed: 0 };
let rule = { ms: null, asGoodAs: null }; // what decided the head count
let told = false;

/** Milliseconds by the head counts that were tried, the fewest first. */
export const runs = () => [...byRuns].sort(([one], [other]) => order(one, other));
export const cascades = () => byCascade;
export const measurements = () => measured;
/** The budget in milliseconds; null without one. */
export const budget = () => rule.ms;
/** Of the calls since the budget was set: how many there were, and how many took longer. */
export const misses = () => late;

export function keepTimes() {
  on("backend", () => {
    byRuns = new Map();
    byCascade = new Map();
    measured = new Map();
    late = { calls: 0, missed: 0 };
    changed();
  });
  on("mode", (chosen) => {
    rule = chosen;
    late = { calls: 0, missed: 0 };
    changed();
  });
  on("answer", ({ answer }) => {
    add(byRuns, answer.tried.join(), answer.ms);
    const { ms, asGoodAs } = rule;
    if (asGoodAs !== null) add(byCascade, asGoodAs, answer.ms);
    late = { calls: late.calls + 1, missed: late.missed + Number(ms !== null && answer.ms > ms) };
    changed();
  });
  window.addEventListener("resize", changed);
  on("measured", (samples) => {
    measured = new Map(Object.entries(samples).map(([k, times]) => [Number(k), times]));
    changed();
  });
}

function add(times, key, ms) {
  if (!times.has(key)) times.set(key, []);
  times.get(key).push(ms);
  if (times.get(key).length > KEPT) times.get(key).shift();
}

function order(one, other) {
  const [a, b] = [one, other].map((key) => key.split(",").map(Number));
  return a.length - b.length || a.at(-1) - b.at(-1) || a[0] - b[0];
}

/** Tells the charts, a few times a second. */
function changed() {
  if (told) return;
  told = true;
  setTimeout(() => {
    told = false;
    emit("times");
  }, 150);
}
