// Times every head count in turn, so that heat and other work fall on all alike. SPDX-License-Identifier: Apache-2.0

import { quantile } from "./page.js";

export const WARMUP_CALLS = 5; // of each head count
const [CALLS, LONGEST_MS] = [50, 10_000]; // of each head count, whichever is first

/**
 * Milliseconds of calls on the first golden image by head count, and what they were measured under.
 * *progress* is told the share that is done; *signal* stops it.
 */
export async function measure(model, { calls = CALLS, progress = () => {}, signal }) {
  const hidden = watchHidden();
  const image = firstImage(model.bundle);
  const samples = Object.fromEntries(model.heads.map((k) => [k, []]));
  const order = []; // [head count, milliseconds] as they came
  try {
    await warmUp(model, image, signal);
    for (let left = [...model.heads]; left.length; left = left.filter((k) => !enough(samples[k], calls))) {
      if (await hidden.waited()) await warmUp(model, image, signal, 1);
      for (const k of shuffled(left)) {
        const ms = await timed(model, image, k, signal);
        if (document.hidden) break; // of no worth: the browser slows what is not seen
        samples[k].push(ms);
        order.push([k, ms]);
      }
      progress(share(Object.values(samples), calls));
    }
  } finally {
    hidden.stop();
  }
  return { samples, conditions: { hidden: hidden.seen(), drift: drift(order), warmup_calls: WARMUP_CALLS } };
}

function firstImage({ golden }) {
  const [, ...shape] = golden.pixels.shape;
  return golden.pixels.data.slice(0, shape.reduce((product, side) => product * side));
}

async function warmUp(model, image, signal, calls = WARMUP_CALLS) {
  for (let call = 0; call < calls; call++) for (const k of model.heads) await timed(model, image, k, signal);
}

async function timed(model, image, heads, signal) {
  signal?.throwIfAborted();
  await new Promise((resolve) => setTimeout(resolve)); // the page stays usable between two calls
  const began = performance.now();
  await model.runFitted(image, heads);
  return Math.max(performance.now() - began, 0.001); // clocks of browsers are coarse
}

const spent = (times) => times.reduce((sum, ms) => sum + ms, 0);

const enough = (times, calls) => times.length >= calls || spent(times) >= LONGEST_MS;

function share(all, calls) {
  const shares = all.map((times) => Math.min(Math.max(times.length / calls, spent(times) / LONGEST_MS), 1));
  return spent(shares) / shares.length;
}

/** The last third's median over the first's, each time in units of its head count's median; 1 of too few. */
export function drift(order) {
  const third = Math.floor(order.length / 3);
  if (!third) return 1;
  const medians = new Map();
  for (const [k] of order) {
    if (!medians.has(k)) medians.set(k, quantile(order.filter(([other]) => other === k).map(([, ms]) => ms), 0.5));
  }
  const relative = order.map(([k, ms]) => ms / medians.get(k));
  return quantile(relative.slice(-third), 0.5) / quantile(relative.slice(0, third), 0.5);
}

function shuffled(list) {
  return list.map((each) => [Math.random(), each]).sort(([one], [other]) => one - other).map(([, each]) => each);
}

/** Notices that the page goes into the background, and waits until it is back. */
function watchHidden() {
  let seen = document.hidden;
  const notice = () => (seen ||= document.hidden);
  document.addEventListener("visibilitychange", notice);
  const shown = () => new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  return {
    seen: () => seen,
    stop: () => document.removeEventListener("visibilitychange", notice),
    /** Whether it had to wait. */
    waited: async () => {
      const before = document.hidden;
      while (document.hidden) await shown();
      return before;
    },
  };
}
