// Types of hydra_runtime.mjs. SPDX-License-Identifier: Apache-2.0

/** An upright photograph: 3 or 4 bytes a pixel, red, green, blue and what is ignored; ImageData is one. */
export interface Photo {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** A model's answer for one image. */
export interface Answer {
  /** Of the best class; its number if the model does not name its classes, "" if it has none. */
  label: string;
  /** The best class; null without classes. */
  index: number | null;
  /** Its probability, calibrated if the bundle is; null without classes. */
  confidence: number | null;
  /** The head count that answered. */
  heads: number;
  /** All that ran, in this order. */
  tried: number[];
  /** Milliseconds of the whole call: preprocessing, waiting for earlier calls and fetching files included. */
  ms: number;
  /** Logits, features or patch tokens. */
  outputs: Float32Array;
}

/** How one head count does on the golden images. */
export interface Check {
  heads: number;
  /** The largest difference from the float64 outputs. */
  error: number;
  /** How large it may be; null for int8, where the best class decides. */
  allowed: number | null;
  passed: boolean;
  /** Of each golden image the position of the largest output. */
  best: number[];
}

export interface LoadOptions {
  /** The module of onnxruntime-web or onnxruntime-node, for ONNX artifacts. */
  ort?: object;
  /** The module of @litertjs/core after loadLiteRt, for TFLite artifacts. */
  litert?: object;
  /** The bytes at a URL; by default fetched, or in Node read. */
  read?: (url: string) => Promise<ArrayBuffer>;
  target?: "onnx" | "tflite";
  /** "fixed" are universal graphs of one head count. */
  graph?: "universal" | "shared" | "separate" | "fixed";
  precision?: "fp32" | "fp16" | "int8" | "int8-static" | "w8a16";
  /** Only this artifact, by its path. */
  artifact?: string;
  /** Only these may be chosen. */
  heads?: number | readonly number[];
  /** Options of onnxruntime's InferenceSession.create, such as {executionProviders: ["webgpu"]}. */
  session?: object;
  /** LiteRT.js's, by default "wasm". */
  accelerator?: "wasm" | "webgpu" | "webnn";
}

/** Milliseconds of a run by head count. */
export type Milliseconds = Record<number, number>;

/** An entry of the manifest's artifacts. */
export interface Artifact {
  path: string;
  target: string;
  graph: string;
  precision: string;
  input: "tensor" | "image";
  heads: number[];
  inputs: { name: string; dtype: string; shape: (number | string)[] }[];
  outputs: { name: string; dtype: string; shape: (number | string)[] }[];
  files: string[];
  bytes: number;
  sha256: string;
}

/** The input of a session: of one image. */
export interface Given {
  data: Float32Array | Uint8Array;
  shape: (number | string)[];
}

/** A loaded artifact. */
export interface Session {
  run(given: Given, heads: number): Promise<Float32Array>;
  release(): Promise<void>;
}

/** A bundle: its manifest, its files, whose hashes are checked, and its golden data. */
export class Bundle {
  static open(url: string, read?: (url: string) => Promise<ArrayBuffer>): Promise<Bundle>;
  /** Without golden data, until `readGolden`. */
  static described(url: string, read?: (url: string) => Promise<ArrayBuffer>): Promise<Bundle>;
  readonly url: string;
  /** See docs/formats.md for its contents. */
  readonly manifest: any;
  /** Arrays by name. */
  readonly golden?: Record<string, { data: Float32Array | Float64Array | Uint8Array; shape: number[] }>;
  readonly artifacts: Artifact[];
  readonly numImages: number;
  readGolden(): Promise<void>;
  fetch(path: string): Promise<ArrayBuffer>;
  load(runtime: object, artifact: Artifact, options?: object): Promise<Session>;
  image(artifact: Artifact, index: number): Given;
  photograph(artifact: Artifact, photo: Photo): Given;
  given(artifact: Artifact, pixels: Uint8Array): Given;
  compare(
    artifact: Artifact,
    heads: number,
    index: number,
    logits: Float32Array,
  ): { error: number; allowed: number | null; passed: boolean };
}

/** A bundle's model; `load` makes one. Calls wait for each other. */
export interface Model {
  readonly bundle: Bundle;
  /** Of each head count that can be chosen, the artifact that runs it. */
  readonly artifacts: Map<number, Artifact>;
  /** Ascending. */
  readonly heads: number[];
  readonly runtime: "onnxruntime-web" | "onnxruntime-node" | "litert";
  /** The model's answer for a photo; with *heads*, by that head count regardless of settings. */
  run(photo: Photo, options?: { heads?: number }): Promise<Answer>;
  /** The outputs of pixels that `fitted` gave. */
  runFitted(pixels: Uint8Array, heads: number): Promise<Float32Array>;
  /** The best labels of an answer, 5 by default, and their probabilities, the best first. */
  top(answer: Answer, count?: number): { label: string; confidence: number }[];
  /** Always runs *heads*, by default the largest, without budget or cascade. */
  fixed(heads?: number): this;
  /**
   * Chooses the head count of each call so that *quantile*, by default 0.95, of them take at most *ms*.
   * *references* are what `measure` returns, which is called by default. null removes the budget.
   */
  budget(wanted: { ms: number; quantile?: number; references?: Milliseconds } | null): Promise<this>;
  /** Runs small head counts first, and larger ones only if these are unsure. null removes the cascade. */
  cascade(wanted: { asGoodAs: number } | { heads: number[]; thresholds: number[]; asGoodAs?: number } | null): this;
  /** The median of several calls, 3 by default, after a warm-up. */
  measure(calls?: number): Promise<Milliseconds>;
  /** How head counts, by default all, do on the bundle's golden images. */
  check(options?: { heads?: number | readonly number[] }): Promise<Check[]>;
  /** Lets go of all that is loaded; a later call loads it again. */
  release(): Promise<void>;
}

/** The model in the bundle at *place*: its URL, in Node also its folder. Files are fetched when they first run. */
export function load(place: string | URL | Bundle, options: LoadOptions): Promise<Model>;

/** Chooses head counts so that calls take at most *ms* at *quantile* of them. */
export class Budget {
  /** *references*: the milliseconds of a call by head count, on a machine that does nothing else. */
  constructor(references: Milliseconds, ms: number, quantile?: number);
  readonly references: Milliseconds;
  readonly ms: number;
  readonly quantile: number;
  /** The head count of the next call. */
  readonly heads: number;
  /** The head counts to run, in this order: those of *cascade* if all of them fit together, else one. */
  plan(cascade?: readonly number[]): number[];
  /** Records one call: head count and milliseconds of each run, and milliseconds of the rest of the call. */
  saw(runs: readonly (readonly [number, number])[], otherMs?: number): void;
}

/** Head counts in the order in which they run; an answer is accepted if its probability reaches its threshold. */
export class Cascade {
  /** *heads* ascend; *thresholds* are for all but the last, whose answer is always accepted. */
  constructor(heads: readonly number[], thresholds: readonly number[], asGoodAs?: number);
  readonly heads: number[];
  readonly thresholds: number[];
  readonly asGoodAs: number;
  /** Whether the answer of *heads* is accepted. */
  accepts(heads: number, probability: number): boolean;
}

/** The index of the first largest logit, and its probability: the softmax of logits / temperature. */
export function surest(logits: ArrayLike<number>, temperature?: number): { index: number; probability: number };

/** The smallest of *values* that *share* of them do not exceed. */
export function quantile(values: readonly number[], share: number): number;

/** The manifest's preprocessing of photographs. */
export interface Preprocessing {
  image_size: number | [number, number];
  mean: number[];
  std: number[];
  crop: number;
  interpolation: "nearest" | "bilinear" | "bicubic";
}

/** The pixels that a model takes of a photo: uint8 [height, width, channels]. */
export function fitted(photo: Photo, preprocessing: Preprocessing): Uint8Array;

/** In a page: the upright photograph in a File, Blob or fetched image. */
export function decoded(blob: Blob): Promise<Photo>;
