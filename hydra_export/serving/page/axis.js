// An axis of milliseconds for the charts. SPDX-License-Identifier: Apache-2.0

import { drawn } from "./page.js";

/** From *start* to *end* along the page, logarithmic, with room for all of *values*. */
export function logarithmic(values, start, end) {
  const [low, high] = spread(Math.min(...values), Math.max(...values));
  const at = (value) => {
    const share = (Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low));
    return start + Math.min(Math.max(share, 0), 1) * (end - start);
  };
  return { start, end, at, ticks: (top, bottom, unit) => ticks(low, high, at, { start, end, top, bottom, unit }) };
}

/** The room that a chart has, so that its letters have the page's size. */
export const widthOf = (place) => Math.max(place.clientWidth, 260);

/** At least a factor of four, so that noise does not look like much. */
function spread(low, high) {
  const [first, last] = [Math.max(low, 0.01) / 1.15, Math.max(high, 0.01) * 1.15];
  const missing = Math.max(Math.sqrt(4 / (last / first)), 1);
  return [first / missing, last * missing];
}

function ticks(low, high, at, { start, end, top, bottom, unit }) {
  const round = [-2, -1, 0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
  const fitting = round.filter((value) => value >= low && value <= high);
  const every = Math.ceil(fitting.length / 7);
  const kept = fitting.filter((_, place) => place % every === 0);
  return [
    ...kept.map((value) => drawn("line", { x1: at(value), x2: at(value), y1: top, y2: bottom, class: "grid" })),
    ...kept.map((value) => drawn("text", { x: at(value), y: bottom + 16, class: `muted ${anchor(at(value), start, end)}` }, label(value))),
    drawn("text", { x: (start + end) / 2, y: bottom + 33, class: "muted middle" }, unit),
  ];
}

function anchor(x, start, end) {
  if (x < start + 10) return "";
  return x > end - 14 ? "end" : "middle";
}

const label = (value) => String(Number(value.toPrecision(1)));
