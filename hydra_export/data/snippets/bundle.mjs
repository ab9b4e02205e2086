// A bundle in a page or in Node: read what an artifact needs, check it, run it at a head count.
// SPDX-License-Identifier: Apache-2.0

import { readNpz } from "./npz.mjs";
import { fitted, normalised, sides } from "./preprocess.mjs";

/** The manifest and golden data of the bundle at *url*, and its ONNX artifacts; *read* gives the bytes at a URL. */
export class Bundle {
  static async open(url, read = fetchBytes) {
    const bundle = new Bundle(url.endsWith("/") ? url : `${url}/`, read);
    bundle.manifest = JSON.parse(new TextDecoder().decode(await read(`${bundle.url}manifest.json`)));
    bundle.golden = readNpz(await bundle.fetch("golden/golden.npz"));
    return bundle;
  }

  constructor(url, read) {
    this.url = url;
    this.read = read;
    this.fetched = new Map(); // one buffer serves every session that needs the file
  }

  get artifacts() {
    return this.manifest.artifacts.filter((artifact) => artifact.target === "onnx");
  }

  /** The bytes of a listed file, whose hash must be the manifest's. */
  fetch(path) {
    if (!this.fetched.has(path)) this.fetched.set(path, this.fetchChecked(path));
    return this.fetched.get(path);
  }

  async fetchChecked(path) {
    const listed = this.manifest.files.find((file) => file.path === path);
    if (!listed) throw new Error(`The manifest does not list ${path}.`);
    const bytes = await this.read(this.url + path);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (sha256 !== listed.sha256) throw new Error(`${path} is not what the manifest says.`);
    return bytes;
  }

  /** A session of *ort*, the module of onnxruntime-web or onnxruntime-node, that runs *artifact*. */
  async load(ort, artifact, options = {}) {
    const weights = artifact.files.filter((path) => path !== artifact.path);
    const externalData = await Promise.all(
      weights.map(async (path) => ({ path: path.split("/").pop(), data: new Uint8Array(await this.fetch(path)) })),
    );
    const graph = new Uint8Array(await this.fetch(artifact.path));
    const session = await ort.InferenceSession.create(graph, { externalData, ...options });
    return new Model(ort, session, artifact);
  }

  /** How many golden images there are. */
  get numImages() {
    return this.golden.pixels.shape[0];
  }

  /** Golden image number *index* as *artifact* wants it: typed array and shape. */
  image(artifact, index) {
    const { data, shape } = this.golden[artifact.input === "image" ? "pixels" : "image"];
    return { data: row(data, shape, index), shape: [1, ...shape.slice(1)] };
  }

  /** An upright photograph, as `fitted` takes it, as *artifact* wants it: typed array and shape. */
  photograph(artifact, photo) {
    const { preprocessing } = this.manifest.model;
    const [height, width] = sides(preprocessing.image_size);
    const channels = preprocessing.mean.length;
    const pixels = fitted(photo, preprocessing);
    if (artifact.input === "image") return { data: pixels, shape: [1, height, width, channels] };
    return { data: normalised(pixels, preprocessing), shape: [1, channels, height, width] };
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

/** An artifact that is loaded. */
class Model {
  constructor(ort, session, artifact) {
    Object.assign(this, { ort, session, artifact });
  }

  /** The outputs of one image, tokens one after another; *heads* is given to a graph that takes the head count as an input. */
  async run({ data, shape }, heads) {
    const batch = Number(this.artifact.inputs[0].shape[0]) || 1; // one that is chosen at run time has a name
    const images = new data.constructor(data.length * batch);
    for (let at = 0; at < batch; at++) images.set(data, at * data.length);
    const type = this.artifact.input === "image" ? "uint8" : "float32";
    const feeds = { image: new this.ort.Tensor(type, images, [batch, ...shape.slice(1)]) };
    if (this.session.inputNames.includes("k")) {
      feeds.k = new this.ort.Tensor("int64", BigInt64Array.of(BigInt(heads)), []);
    }
    const outputs = await this.session.run(feeds);
    const logits = outputs[this.session.outputNames[0]].data;
    return logits.slice(0, logits.length / batch);
  }

  release() {
    return this.session.release();
  }
}

async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
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
