// Accuracy, which the manifest has, over the time that is measured here. SPDX-License-Identifier: Apache-2.0

import { logarithmic, widthOf } from "./axis.js";
import { byId, drawn, headsOf, on, quantile, written } from "./page.js";
import { cascades, measurements, runs } from "./times.js";

const [HEIGHT, TOP, BOTTOM, LEFT, RIGHT] = [270, 20, 40, 40, 14];
const [LETTER, LINE] = [7.5, 15]; // room for a label's text

export function drawPlot(manifest) {
  on("times", () => draw(manifest));
}

function draw(manifest) {
  const { measure, of } = judged(manifest);
  if (!measure) {
    byId("plot-note").textContent = "The manifest has no accuracy: export with labelled images, or calibrate, to see it here.";
    return;
  }
  const points = found(manifest, measure);
  byId("plot-note").textContent = points.length
    ? `${of}. Time: median here${measurements().size ? ", as measured below" : " of the calls so far"}, and from p10 to p90.`
    : "Points appear as calls are made.";
  byId("plot").replaceChildren(...(points.length ? [chart(points, of, widthOf(byId("plot")))] : []));
}

/** Which figure of a subnetwork the manifest has, and what it is of. */
function judged({ model }) {
  if (model.subnetworks.some(({ accuracy }) => accuracy !== null)) {
    return { measure: "accuracy", of: `Accuracy in %: ${model.accuracy_data || "as the checkpoint states"}` };
  }
  if (model.subnetworks.some(({ agreement }) => agreement !== null)) {
    return { measure: "agreement", of: `Agreement with the largest head count in %: ${model.agreement_data}` };
  }
  return {};
}

function found(manifest, measure) {
  const live = new Map(runs().filter(([key]) => !key.includes(",")).map(([key, times]) => [Number(key), times]));
  const fixed = manifest.model.subnetworks
    .map((each) => ({ name: String(each.heads), value: each[measure], times: measurements().get(each.heads) ?? live.get(each.heads) }))
    .filter(({ value, times }) => value !== null && times);
  const { labels, cascades: calibrated = [] } = manifest.calibration ?? {};
  const together = calibrated
    .filter((each) => cascades().has(each.as_good_as) && labels === (measure === "accuracy"))
    .map((each) => ({
      name: `cascade for ${each.as_good_as}`,
      value: each.accuracy,
      times: cascades().get(each.as_good_as),
      cascade: true,
    }));
  return [...fixed, ...together].map((point) => ({ ...point, ...timed(point) }));
}

/** A cascade's calls differ much, so that its mean says more. */
function timed({ times, cascade }) {
  const mean = times.reduce((sum, ms) => sum + ms, 0) / times.length;
  return { ms: cascade ? mean : quantile(times, 0.5), low: quantile(times, 0.1), high: quantile(times, 0.9) };
}

function chart(points, of, width) {
  const axis = logarithmic(points.flatMap(({ low, high }) => [low, high]), LEFT, width - RIGHT);
  const values = points.map(({ value }) => value);
  const room = Math.max((Math.max(...values) - Math.min(...values)) * 0.2, 0.5);
  const [worst, best] = [Math.min(...values) - room, Math.min(Math.max(...values) + room, 100)];
  const height = (value) => TOP + ((best - value) / (best - worst)) * (HEIGHT - TOP - BOTTOM);
  const said = points.map(({ name, value, ms }) => `${name}: ${value.toFixed(1)} % at ${written(ms)} ms`);
  const placed = points.map((point) => ({ ...point, x: axis.at(point.ms), y: height(point.value) }));
  return drawn(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img", "aria-label": `${of}. ${said.join("; ")}.` },
    ...levels(worst, best, height, width),
    ...axis.ticks(TOP, HEIGHT - BOTTOM, "milliseconds"),
    ...placed.map(({ low, high, y }) => drawn("line", { x1: axis.at(low), x2: axis.at(high), y1: y, y2: y, class: "reach" })),
    ...placed.map(mark),
    ...labels(placed, width),
  );
}

function levels(worst, best, height, width) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((each) => (best - worst) / each <= 5) ?? 50;
  const count = Math.floor(best / step) - Math.ceil(worst / step) + 1;
  return Array.from({ length: count }, (_, at) => (Math.ceil(worst / step) + at) * step).flatMap((value) => [
    drawn("line", { x1: LEFT, x2: width - RIGHT, y1: height(value), y2: height(value), class: "grid" }),
    drawn("text", { x: LEFT - 6, y: height(value) + 4, class: "muted end" }, value.toFixed(step < 1 ? 1 : 0)),
  ]);
}

function mark({ x, y, cascade }) {
  return cascade
    ? drawn("path", { d: `M${x} ${y - 7}l7 7l-7 7l-7 -7z`, class: "mark cascade" })
    : drawn("circle", { cx: x, cy: y, r: 5.5, class: "mark" });
}

/** A name at each point, above or below it, where it meets no other name and no mark. */
function labels(points, width) {
  const taken = points.map(({ x, y }) => ({ left: x - 8, right: x + 8, top: y - 8, bottom: y + 8 }));
  return points.flatMap(({ x, y, name, cascade }) => {
    const text = cascade ? name : headsOf(Number(name));
    const half = (text.length * LETTER) / 2;
    const across = [x, x + half, x - half].map((at) => Math.min(Math.max(at, LEFT + half), width - half));
    const boxes = [y - 10, y + 22]
      .flatMap((foot) => across.map((middle) => ({ left: middle - half, right: middle + half, top: foot - LINE, bottom: foot })))
      .filter(({ top, bottom }) => top >= 0 && bottom <= HEIGHT - BOTTOM);
    const box = boxes.find((each) => !taken.some((other) => meet(each, other)));
    if (!box) return []; // its dot stays, and the description names it
    taken.push(box);
    return [drawn("text", { x: (box.left + box.right) / 2, y: box.bottom - 3, class: "middle halo" }, text)];
  });
}

const meet = (one, other) =>
  one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
