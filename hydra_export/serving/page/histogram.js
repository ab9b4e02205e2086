// How long calls take: a row for each head count, all on one axis of time. SPDX-License-Identifier: Apache-2.0

import { logarithmic, widthOf } from "./axis.js";
import { byId, callsOf, drawn, headsOf, on, percent, quantile, written } from "./page.js";
import { budget, misses, runs } from "./times.js";

const [ROW, TOP, BOTTOM, LEFT, RIGHT] = [50, 6, 40, 8, 8];
const [BINS, HEIGHT] = [60, 24];

export function drawHistogram() {
  on("times", draw);
}

function draw() {
  const rows = runs();
  showMisses();
  if (!rows.length) return byId("histogram").replaceChildren();
  const width = widthOf(byId("histogram"));
  const height = TOP + rows.length * ROW + BOTTOM;
  const all = rows.flatMap(([, times]) => [quantile(times, 0.01), quantile(times, 0.99)]);
  const axis = logarithmic(budget() ? [...all, budget()] : all, LEFT, width - RIGHT);
  const svg = drawn(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": summary(rows) },
    ...axis.ticks(TOP, height - BOTTOM, "milliseconds"),
    ...limit(axis, height - BOTTOM),
    ...rows.flatMap(([key, times], at) => row(key, times, TOP + at * ROW, axis)),
  );
  byId("histogram").replaceChildren(svg);
}

function limit(axis, bottom) {
  if (!budget()) return [];
  const x = axis.at(budget());
  return [drawn("line", { x1: x, x2: x, y1: 0, y2: bottom, class: "limit" })];
}

function row(key, times, top, axis) {
  const floor = top + ROW - 4;
  const counts = new Array(BINS).fill(0);
  const step = (axis.end - axis.start) / BINS;
  for (const ms of times) {
    counts[Math.min(Math.max(Math.floor((axis.at(ms) - axis.start) / step), 0), BINS - 1)] += 1;
  }
  const most = Math.max(...counts);
  const bars = counts.flatMap((count, bin) => {
    const high = (count / most) * HEIGHT;
    return count
      ? [drawn("rect", { x: axis.start + bin * step + 0.5, y: floor - high, width: step - 1, height: high, class: "bar" })]
      : [];
  });
  const middle = quantile(times, 0.5);
  return [
    drawn("line", { x1: axis.start, x2: axis.end, y1: floor, y2: floor, class: "grid" }),
    ...bars,
    drawn("line", { x1: axis.at(middle), x2: axis.at(middle), y1: floor - HEIGHT, y2: floor, class: "middle-line" }),
    drawn("text", { x: axis.start, y: top + 13, class: "strong halo" }, named(key)),
    drawn("text", { x: axis.end, y: top + 13, class: "muted end halo" }, `median ${written(middle)} ms · ${callsOf(times.length)}`),
  ];
}

const named = (key) => (key.includes(",") ? key.replaceAll(",", " → ") : headsOf(Number(key)));

function showMisses() {
  const { calls, missed } = misses();
  byId("missed").textContent =
    budget() && calls
      ? `${missed} of ${callsOf(calls)} took longer than ${budget()} ms (${percent(missed / calls, 1)}); the dashed line is the budget.`
      : "";
}

function summary(rows) {
  const said = rows.map(([key, times]) => `${named(key)}: median ${written(quantile(times, 0.5))} ms of ${callsOf(times.length)}`);
  return `Time of calls. ${said.join("; ")}.`;
}
