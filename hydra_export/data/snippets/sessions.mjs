// What runs an artifact: onnxruntime or LiteRT.js, whose module the caller gives. SPDX-License-Identifier: Apache-2.0

/** An artifact that is loaded. */
class Session {
  /** The outputs of one image, tokens one after another, at a head count that the artifact has. */
  async run({ data, shape }, heads) {
    const batch = Number(this.artifact.inputs[0].shape[0]) || 1; // one that is chosen at run time has a name
    let images = data;
    if (batch > 1) {
      images = new data.constructor(data.length * batch);
      for (let at = 0; at < batch; at++) images.set(data, at * data.length);
    }
    const outputs = await this.outputs(images, [batch, ...shape.slice(1)], heads);
    return outputs.slice(0, outputs.length / batch);
  }
}

/** Of onnxruntime-web or onnxruntime-node; a graph that takes the head count as an input is given it. */
class OnnxSession extends Session {
  /** *files* are the bytes by path, *options* those of InferenceSession.create. */
  static async create(ort, artifact, files, options = {}) {
    const { [artifact.path]: graph, ...weights } = files;
    const externalData = Object.entries(weights).map(([path, data]) => ({ path: path.split("/").pop(), data }));
    const session = await ort.InferenceSession.create(graph, { externalData, ...options });
    return Object.assign(new OnnxSession(), { ort, session, artifact });
  }

  async outputs(images, shape, heads) {
    const type = this.artifact.input === "image" ? "uint8" : "float32";
    const feeds = { image: new this.ort.Tensor(type, images, shape) };
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

/** Of LiteRT.js, after loadLiteRt; a universal file has a signature for each head count. */
class LiteRtSession extends Session {
  /** *options* are those of loadAndCompile. */
  static async create(litert, artifact, files, { accelerator = "wasm", ...options } = {}) {
    if (typeof artifact.inputs[0].shape[0] !== "number") {
      const remedy = "Export it with a batch of 1.";
      throw new Error(`${artifact.path} has a dynamic batch, which LiteRT.js does not support. ${remedy}`);
    }
    const refused = (cause) => {
      const remedy = 'Load separate artifacts, or with accelerator "wasm".';
      throw new Error(`${artifact.path} does not run on ${accelerator} here. ${remedy}`, { cause });
    };
    const model = await litert.loadAndCompile(files[artifact.path], { accelerator, ...options }).catch(refused);
    if (model.options.accelerator !== accelerator) {
      model.delete(); // what LiteRT.js took instead, which would be timed by the wrong name
      refused();
    }
    return Object.assign(new LiteRtSession(), { litert, model, artifact });
  }

  async outputs(images, shape, heads) {
    const given = new this.litert.Tensor(images, shape);
    const signature = this.artifact.graph === "universal" ? `k${heads}` : this.model.key;
    try {
      const [output] = await this.model.run(signature, [given]);
      const data = await output.data();
      output.delete();
      return data;
    } finally {
      given.delete();
    }
  }

  async release() {
    this.model.delete();
  }
}

/** By an artifact's target. */
export const SESSIONS = { onnx: OnnxSession, tflite: LiteRtSession };
