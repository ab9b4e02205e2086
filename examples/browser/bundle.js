// A bundle in the browser: fetch what an artifact needs, check it, run it at a head count.

import { readNpz } from "./npz.js";

/** The manifest and golden data of the bundle at *url*, and its ONNX artifacts. */
export class Bundle {
  static async open(url) {
    const bundle = new Bundle(url.endsWith("/") ? url : `${url}/`);
    bundle.manifest = await (await fetchOk(`${bundle.url}manifest.json`)).json();
    bundle.golden = readNpz(await bundle.fetch("golden/golden.npz"));
    return bundle;
  }

  constructor(url) {
    this.url = url;
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
    const bytes = await (await fetchOk(this.url + path)).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (sha256 !== listed.sha256) throw new Error(`${path} is not what the manifest says.`);
    return bytes;
  }

  /** A session of onnxruntime-web's module *ort* that runs *artifact*. */
  async load(ort, artifact, options = {}) {
    const weights = artifact.files.filter((path) => path !== artifact.path);
    const externalData = await Promise.all(
      weights.map(async (path) => ({ path: path.split("/").pop(), data: await this.fetch(path) })),
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

  /** The float64 logits of the golden images at *heads*, and how far an artifact may be off. */
  expected(artifact, heads, index) {
    const rounded = artifact.precision === "fp16" ? "fp16_" : "";
    const { data, shape } = this.golden[`${rounded}logits_k${heads}`];
    return { logits: row(data, shape, index), allowed: artifact.parity[heads].bound };
  }
}

/** An artifact that is loaded. */
class Model {
  constructor(ort, session, artifact) {
    Object.assign(this, { ort, session, artifact });
  }

  /** The logits of one image; *heads* is given to a graph that takes the head count as an input. */
  async run({ data, shape }, heads) {
    const feeds = { image: new this.ort.Tensor(this.artifact.input === "image" ? "uint8" : "float32", data, shape) };
    if (this.session.inputNames.includes("k")) {
      feeds.k = new this.ort.Tensor("int64", BigInt64Array.of(BigInt(heads)), []);
    }
    const outputs = await this.session.run(feeds);
    return outputs[this.session.outputNames[0]].data;
  }

  release() {
    return this.session.release();
  }
}

async function fetchOk(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

function row(data, shape, index) {
  const size = shape.slice(1).reduce((product, each) => product * each, 1);
  return data.slice(index * size, (index + 1) * size);
}
