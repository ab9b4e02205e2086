// A bundle in a page or in Node: read what an artifact needs, check it, run it at a head count.
// SPDX-License-Identifier: Apache-2.0

import { readNpz } from "./npz.mjs";
import { fitted, normalised } from "./preprocess.mjs";
import { SESSIONS } from "./sessions.mjs";
import { sha256 } from "./sha256.mjs";

/** The manifest and golden data of a bundle, and its artifacts that run here; *read* gives the bytes at a URL. */
export class Bundle {
  /** The bundle at *url*: its manifest, whose hash must be that of SHA256SUMS, and its golden data. */
  static async open(url, read = bytesAt) {
    const bundle = await Bundle.described(url, read);
    await bundle.readGolden();
    return bundle;
  }

  /** The same without its golden data, which `readGolden` fetches for `image` and `compare`. */
  static async described(url, read = bytesAt) {
    const bundle = new Bundle(url.endsWith("/") ? url : `${url}/`, read);
    const [manifest, sums] = await Promise.all(["manifest.json", "SHA256SUMS"].map((name) => read(bundle.url + name)));
    if (!text(sums).split("\n").includes(`${await sha256(manifest)}  manifest.json`)) {
      throw new Error("manifest.json is not the file that SHA256SUMS lists. Copy or export the bundle again.");
    }
    bundle.manifest = JSON.parse(text(manifest));
    if (bundle.manifest.generator !== "hydra-export" || bundle.manifest.schema_version !== 1) {
      throw new Error("manifest.json is of another kind or release. Use the release that wrote it.");
    }
    return bundle;
  }

  constructor(url, read) {
    this.url = url;
    this.read = read;
    this.fetched = new Map(); // one buffer serves every session that needs the file
  }

  async readGolden() {
    this.golden ??= readNpz(await this.fetch("golden/golden.npz"));
  }

  get artifacts() {
    return this.manifest.artifacts.filter(({ target }) => target in SESSIONS);
  }

  /** The bytes of a listed file, whose hash must be the manifest's. */
  fetch(path) {
    if (!this.fetched.has(path)) {
      const bytes = this.fetchChecked(path);
      this.fetched.set(path, bytes);
      bytes.catch(() => this.fetched.delete(path)); // so that it can be asked for again
    }
    return this.fetched.get(path);
  }

  async fetchChecked(path) {
    const listed = this.manifest.files.find((file) => file.path === path);
    if (!listed || /[\\:\0]|^\/|(^|\/)\.\.(\/|$)/.test(path)) throw new Error(`The manifest does not list ${path}.`);
    const bytes = await this.read(this.url + path);
    if ((await sha256(bytes)) !== listed.sha256) throw new Error(`${path} is not what the manifest says.`);
    return bytes;
  }

  /**
   * A session that runs *artifact*, in *runtime*: the module of onnxruntime-web or onnxruntime-node, or of @litertjs/core for
   * TFLite. *options* are the runtime's.
   */
  async load(runtime, artifact, options = {}) {
    const files = await Promise.all(
      artifact.files.map(async (path) => [path, new Uint8Array(await this.fetch(path))]),
    );
    return SESSIONS[artifact.target].create(runtime, artifact, Object.fromEntries(files), options);
  }

  /** How many golden images there are. */
  get numImages() {
    return this.golden.pixels.shape[0];
  }

  /** Golden image number *index* as *artifact* wants it: typed array and shape. */
  image(artifact, index) {
    const { data, shape } = this.golden[artifact.input === "image" ? "pixels" : "image"];
    const image = { data: row(data, shape, index), shape: [1, ...shape.slice(1)] };
    return artifact.input === "tensor" && artifact.target === "tflite" ? channelsLast(image) : image;
  }

  /** An upright photograph, as `fitted` takes it, as *artifact* wants it: typed array and shape. */
  photograph(artifact, photo) {
    return this.given(artifact, fitted(photo, this.manifest.model.preprocessing));
  }

  /** What `fitted` gave, as *artifact* wants it: typed array and shape. */
  given(artifact, pixels) {
    const { preprocessing } = this.manifest.model;
    const { shape } = artifact.inputs[0];
    const data = artifact.input === "image" ? pixels : normalised(pixels, preprocessing, artifact.target === "onnx");
    return { data, shape: [1, ...shape.slice(1)] };
  }

  /** How far *logits*, or other outputs, are from the float64 ones of golden image *index*; of int8 the best class decides. */
  compare(artifact, heads, index, logits) {
    const rounded = artifact.precision === "fp16" ? "fp16_" : "";
    const { data, shape } = this.golden[`${rounded}logits_k${heads}`];
    const expected = row(data, shape, index);
    const error = largest(expected.map((value, i) => value - logits[i]));
    // Float32's own noise, as PyTorch shows it on the golden images, four times.
    const noise = largest(this.golden[`${rounded}torch_fp32_logits_k${heads}`].data.map((value, i) => value - data[i]));
    const allowed = artifact.precision === "int8" ? null : Math.max(2e-5 * largest(data), 8 * noise);
    const tokens = shape.length > 2; // of which the direction decides
    const agreed = tokens ? cosine(logits, expected) >= 0.99 : best(logits) === best(expected);
    return { error, allowed, passed: Number.isFinite(error) && (allowed === null ? agreed : error <= allowed) };
  }
}

/** The bytes at a URL, or in Node of a file. */
async function bytesAt(url) {
  if (globalThis.process?.versions?.node && !/^https?:/.test(url)) {
    const files = "node:fs/promises"; // a name that bundlers of pages do not look up
    const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ files);
    const file = await readFile(url.startsWith("file:") ? new URL(url) : url);
    return file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

function text(bytes) {
  return new TextDecoder().decode(bytes);
}

/** The position of the largest of *outputs*, which may be too many for arguments of a function. */
export function best(outputs) {
  return outputs.reduce((most, value, at) => (value > outputs[most] ? at : most), 0);
}

function cosine(one, other) {
  const product = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  return product(one, other) / Math.sqrt(product(one, one) * product(other, other));
}

/** The largest magnitude; NaN where there is one. */
function largest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function row(data, shape, index) {
  const size = shape.slice(1).reduce((product, each) => product * each, 1);
  return data.slice(index * size, (index + 1) * size);
}

/** [1, channels, height, width] as [1, height, width, channels]. */
function channelsLast({ data, shape: [, channels, height, width] }) {
  const plane = height * width;
  const turned = data.map((_, at) => data[(at % channels) * plane + Math.floor(at / channels)]);
  return { data: turned, shape: [1, height, width, channels] };
}
