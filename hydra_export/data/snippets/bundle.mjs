// A bundle in a page or in Node: read what an artifact needs, check it, run it at a head count.
// SPDX-License-Identifier: Apache-2.0

import { compared, goldenImage } from "./golden.mjs";
import { readNpz } from "./npz.mjs";
import { fitted, normalised } from "./preprocess.mjs";
import { SESSIONS } from "./sessions.mjs";
import { sha256 } from "./sha256.mjs";

export { best } from "./golden.mjs";

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
    if ((await sha256(bytes)) !== listed.sha256) throw new Error(`${path} does not match the manifest.`);
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
    return goldenImage(this.golden, artifact, index);
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
    return compared(this.golden, artifact, heads, index, logits);
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
