// Which of a bundle's artifacts hydra_runtime.mjs runs. SPDX-License-Identifier: Apache-2.0

const GRAPHS = ["universal", "shared", "separate", "fixed"];
const GRAPHS_ON_GPU = ["separate", "universal"]; // of TFLite: LiteRT.js 2.5.3 compiles no universal file for WebGPU
const PRECISIONS = ["fp32", "fp16", "int8", "w8a16", "int8-static"];
const PACKAGES = { onnx: "ort, the module of onnxruntime-web or -node", tflite: "litert, the module of @litertjs/core" };

/** Of each head count its artifact, ascending: all of one kind, the one with most head counts that the caller's modules run. */
export function chosen(bundle, modules, wanted, heads, accelerator) {
  const whole = kinds(bundle, wanted, heads).filter(({ artifacts }) => heads.every((k) => artifacts.has(k)));
  if (whole.length === 0) {
    const asked = [...Object.values(wanted).filter(Boolean), ...heads.map((k) => `k = ${k}`)].join(", ");
    const held = bundle.manifest.artifacts.map((each) => `${each.path} (k = ${each.heads})`).join(", ");
    throw new Error(`The bundle has no artifacts for ${asked || "ONNX and TFLite"}. It has ${held}.`);
  }
  const runnable = whole.filter(({ target }) => modules[target]);
  if (runnable.length === 0) {
    const missing = [...new Set(whole.map(({ target }) => PACKAGES[target]))].join(", or ");
    throw new Error(`None of the runtimes passed runs these artifacts. Pass ${missing}.`);
  }
  const [{ artifacts }] = runnable.sort((one, other) => compared(order(one, accelerator), order(other, accelerator)));
  return new Map([...artifacts].sort(([a], [b]) => a - b));
}

/** Artifacts that differ in their head counts alone, as {target, graph, precision, artifacts: a Map by head count}. */
function kinds(bundle, { graph: wantedGraph, ...wanted }, heads) {
  const found = new Map();
  for (const artifact of bundle.artifacts) {
    const { target, precision, input } = artifact;
    const graph = graphOf(artifact);
    if (artifact.outputs[0].scale !== undefined) continue; // integers outside, which this library does not count
    if (wantedGraph && ![graph, artifact.graph].includes(wantedGraph)) continue;
    if (Object.entries(wanted).some(([name, value]) => value && artifact[name] !== value)) continue;
    const own = artifact.heads.filter((k) => heads.length === 0 || heads.includes(k));
    if (own.length === 0) continue;
    const name = [target, graph, precision, input].join();
    if (!found.has(name)) found.set(name, { target, graph, precision, artifacts: new Map() });
    for (const k of own) found.get(name).artifacts.set(k, artifact);
  }
  return [...found.values()];
}

/** A universal graph of one head count, which takes no choice, is "fixed". */
function graphOf({ graph, heads, inputs }) {
  return graph === "universal" && heads.length === 1 && inputs.length === 1 ? "fixed" : graph;
}

function order({ target, graph, precision, artifacts }, accelerator) {
  const graphs = target === "tflite" && accelerator !== "wasm" ? GRAPHS_ON_GPU : GRAPHS;
  const places = [PRECISIONS.indexOf(precision), graphs.indexOf(graph), Object.keys(PACKAGES).indexOf(target)];
  return [-artifacts.size, ...places];
}

/** Below, at or above 0 where *one* comes before, with or behind *other*, by the first number that differs. */
function compared(one, other) {
  const at = one.findIndex((value, i) => value !== other[i]);
  return at < 0 ? 0 : one[at] - other[at];
}
