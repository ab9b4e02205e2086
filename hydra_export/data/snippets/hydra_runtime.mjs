// Runs a bundle's model in an app, in a page or in Node: chooses the head count of each call by a deadline, by its sureness, or
// by both. The caller brings the runtime: the module of onnxruntime-web or onnxruntime-node, or that of @litertjs/core.
//
//   const model = await load("dist/", { ort });       hashes are checked; files are fetched when they first run
//   (await model.run(photo)).label                     {data, width, height}, RGB or RGBA, such as ImageData
//   await model.budget({ ms: 33 });                    the head count that keeps this deadline, call by call
//   model.cascade({ asGoodAs: 12 });                   a small one first, a larger one only where that is unsure
//
// Types: hydra_runtime.d.mts. SPDX-License-Identifier: Apache-2.0

import { Bundle } from "./bundle.mjs";
import { chosen } from "./choice.mjs";
import { fitted, sides } from "./preprocess.mjs";
import { Budget, Cascade, surest } from "./rules.mjs";

export { Bundle } from "./bundle.mjs";
export { decoded, fitted } from "./preprocess.mjs";
export { Budget, Cascade, quantile, surest } from "./rules.mjs";

/**
 * The model in the bundle at *place*: its URL, in Node also its folder, or a Bundle.
 *
 * *ort* is the module of onnxruntime, *litert* that of LiteRT.js after loadLiteRt. *target*, *graph*, *precision*, *artifact* (a
 * path) and *heads* keep others out; by default it is fp32, and one file for all head counts if any. *read* gives the bytes at a
 * URL. *session* are the options of onnxruntime's sessions, *accelerator* is LiteRT.js's.
 */
export async function load(place, options = {}) {
  const { ort, litert, read, target, graph, precision, artifact, heads = [], session = {}, accelerator = "wasm" } = options;
  const bundle = place instanceof Bundle ? place : await Bundle.described(String(place), read);
  const modules = { onnx: ort, tflite: litert };
  const wanted = { target, graph, precision, path: artifact };
  const artifacts = chosen(bundle, modules, wanted, [heads].flat(), accelerator);
  if (artifacts.values().next().value.target === "tflite") {
    return new Model(bundle, artifacts, "litert", (each) => bundle.load(litert, each, { accelerator }));
  }
  const runtime = `onnxruntime-${ort.env?.versions?.node ? "node" : "web"}`;
  return new Model(bundle, artifacts, runtime, (each) => bundle.load(ort, each, session));
}

/** A bundle's model. Calls wait for each other. */
class Model {
  #opened = new Map(); // sessions by path
  #last = Promise.resolve(); // call
  #fixed;
  #budget = null;
  #cascade = null;
  #temperatures;
  #load;

  /** *load* gives a session of an artifact. */
  constructor(bundle, artifacts, runtime, load) {
    Object.assign(this, { bundle, artifacts, heads: [...artifacts.keys()], runtime });
    this.#load = load;
    this.#fixed = Math.max(...this.heads);
    const calibrated = bundle.manifest.calibration?.subnetworks ?? [];
    this.#temperatures = new Map(calibrated.map(({ heads, temperature }) => [heads, temperature]));
  }

  /** Always runs *heads*, by default the largest, without budget or cascade; returns the model, as the other setters do. */
  fixed(heads = Math.max(...this.heads)) {
    this.#fixed = this.#checked(heads);
    this.#budget = this.#cascade = null;
    return this;
  }

  /**
   * Chooses the head count of each call so that *quantile* of them take at most *ms* milliseconds. *references* are
   * milliseconds of a run by head count, by default what `measure` gives. null removes the budget.
   */
  async budget(wanted) {
    if (wanted === null) {
      this.#budget = null;
      return this;
    }
    const { ms, quantile = 0.95, references } = wanted;
    new Budget({ 1: 1 }, ms, quantile); // wrong numbers are refused before anything is measured
    Object.keys(references ?? {}).forEach((k) => this.#checked(Number(k)));
    this.#budget = new Budget(references ?? (await this.measure()), ms, quantile);
    return this;
  }

  /**
   * Runs small head counts first, and larger ones only if these are unsure: by the cascade that the bundle's
   * calibration has for the accuracy of *asGoodAs*, or by *heads* and *thresholds*. null removes the cascade.
   */
  cascade(wanted) {
    if (wanted === null) {
      this.#cascade = null;
      return this;
    }
    const { asGoodAs, heads, thresholds = [] } = wanted;
    const cascade = heads ? new Cascade(heads, thresholds, asGoodAs) : this.#calibrated(asGoodAs);
    cascade.heads.forEach((k) => this.#checked(k));
    this.#cascade = cascade;
    return this;
  }

  /** Milliseconds of a run by head count: the median of *calls*, after a warm-up. */
  async measure(calls = 3) {
    const { image_size: size, mean } = this.bundle.manifest.model.preprocessing;
    const [height, width] = sides(size);
    const pixels = new Uint8Array(height * width * mean.length);
    const times = {};
    for (const k of this.heads) {
      const given = this.bundle.given(this.artifacts.get(k), pixels);
      const taken = await this.#alone(async () => {
        const all = [];
        for (let call = 0; call <= calls; call++) all.push((await this.#timed(k, given)).ms);
        return all.slice(1).sort((a, b) => a - b);
      });
      times[k] = taken[Math.floor(calls / 2)];
    }
    return times;
  }

  /** The model's answer for *photo*, which `fitted` takes; with *heads*, by that head count regardless of settings. */
  async run(photo, { heads } = {}) {
    const began = performance.now();
    if (heads !== undefined) this.#checked(heads);
    const pixels = fitted(photo, this.bundle.manifest.model.preprocessing);
    const given = this.bundle.given(this.artifacts.get(this.heads[0]), pixels); // of all in the same form
    return this.#alone(async () => {
      const plan = heads === undefined ? this.#plan() : [heads];
      const runs = [];
      let opening = 0;
      let answer;
      for (const k of plan) {
        const { outputs, ms, opened } = await this.#timed(k, given);
        runs.push([k, ms]);
        opening += opened;
        answer = { ...this.#surest(outputs, k), heads: k, outputs };
        if (this.#cascade?.accepts(k, answer.confidence ?? 0)) break;
      }
      const ms = performance.now() - began;
      const others = ms - opening - runs.reduce((sum, [, each]) => sum + each, 0);
      if (heads === undefined) this.#budget?.saw(runs, others);
      return { ...answer, ms, tried: runs.map(([k]) => k) };
    });
  }

  /** The outputs, float32, of an image that is fitted already: uint8 [height, width, channels]. */
  runFitted(pixels, heads) {
    const given = this.bundle.given(this.artifacts.get(this.#checked(heads)), pixels);
    return this.#alone(async () => (await this.#timed(heads, given)).outputs);
  }

  /** The *count* best labels of an answer and their probabilities, the best first. */
  top({ outputs, heads }, count = 5) {
    const temperature = this.#temperatures.get(heads) ?? 1;
    const { index: best, probability } = surest(outputs, temperature);
    const confidence = (at) => probability * Math.exp(outputs[at] / temperature - outputs[best] / temperature);
    const order = [...outputs.keys()].sort((a, b) => outputs[b] - outputs[a]);
    return order.slice(0, count).map((at) => ({ label: this.#label(at), confidence: confidence(at) }));
  }

  /** How *heads*, by default every head count, do on the golden images: the largest error, and what each image's best is. */
  async check({ heads = this.heads } = {}) {
    await this.bundle.readGolden();
    const checked = [];
    for (const k of [heads].flat()) {
      const artifact = this.artifacts.get(this.#checked(k));
      const result = { heads: k, error: 0, allowed: null, passed: true, best: [] };
      for (let index = 0; index < this.bundle.numImages; index++) {
        const given = this.bundle.image(artifact, index);
        const { outputs } = await this.#alone(() => this.#timed(k, given));
        const { error, allowed, passed } = this.bundle.compare(artifact, k, index, outputs);
        Object.assign(result, { error: Math.max(result.error, error), allowed, passed: result.passed && passed });
        result.best.push(surest(outputs).index);
      }
      checked.push(result);
    }
    return checked;
  }

  /** Lets go of all that is loaded; a later call loads it again. */
  release() {
    return this.#alone(async () => {
      for (const session of this.#opened.values()) await session.release();
      this.#opened.clear();
    });
  }

  /** What *action* gives, after all that was asked before is done. */
  #alone(action) {
    const done = this.#last.then(action);
    this.#last = done.catch(() => {});
    return done;
  }

  #plan() {
    const cascade = this.#cascade?.heads ?? [];
    if (this.#budget) return this.#budget.plan(cascade);
    return cascade.length > 0 ? cascade : [this.#fixed];
  }

  /** The outputs, the milliseconds of the run, and those before it of opening the artifact, which a budget does not see. */
  async #timed(heads, given) {
    const asked = performance.now();
    const session = this.#opened.get(this.artifacts.get(heads).path) ?? (await this.#open(this.artifacts.get(heads)));
    const began = performance.now();
    const outputs = await session.run(given, heads);
    return { outputs, ms: performance.now() - began, opened: began - asked };
  }

  async #open(artifact) {
    const session = await this.#load(artifact);
    this.#opened.set(artifact.path, session);
    const unopened = [...this.artifacts.values()].filter(({ path }) => !this.#opened.has(path));
    for (const path of artifact.files) {
      if (!unopened.some(({ files }) => files.includes(path))) this.bundle.fetched.delete(path);
    }
    return session;
  }

  #surest(outputs, heads) {
    if (!this.bundle.manifest.model.config.num_classes) return { label: "", index: null, confidence: null };
    const { index, probability } = surest(outputs, this.#temperatures.get(heads) ?? 1);
    return { label: this.#label(index), index, confidence: probability };
  }

  #label(index) {
    const { labels } = this.bundle.manifest.model;
    return labels.length > 0 ? labels[index] : String(index);
  }

  #checked(heads) {
    if (this.artifacts.has(heads)) return heads;
    throw new Error(`There is no head count ${heads} here. Choose from ${this.heads.join(", ")}.`);
  }

  #calibrated(asGoodAs) {
    const listed = this.bundle.manifest.calibration?.cascades ?? [];
    if (listed.length === 0) {
      throw new Error(
        "This bundle is not calibrated: no thresholds are known. Run `hydra-export calibrate` on it, or pass heads " +
          "and thresholds.",
      );
    }
    const fitting = listed.find((each) => each.as_good_as === asGoodAs && each.heads.every((k) => this.artifacts.has(k)));
    if (fitting) return new Cascade(fitting.heads, fitting.thresholds, asGoodAs);
    const known = listed.map((each) => each.as_good_as).join(", ");
    throw new Error(`The bundle has no cascade as good as k = ${asGoodAs}. It has some for ${known}.`);
  }
}
