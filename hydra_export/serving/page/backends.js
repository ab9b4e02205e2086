// What can run the bundle in a browser, and how each is loaded. SPDX-License-Identifier: Apache-2.0

import { load } from "./runtime/hydra_runtime.mjs";

const ORT = new URL("../packages/onnxruntime-web/dist/", import.meta.url);
const LITERT = new URL("../packages/litert/", import.meta.url);

export const BACKENDS = [
  { id: "ort-wasm", backend: "onnxruntime-web", provider: "wasm", target: "onnx", package: "onnxruntime-web" },
  { id: "ort-webgpu", backend: "onnxruntime-web", provider: "webgpu", target: "onnx", package: "onnxruntime-web" },
  { id: "litert-wasm", backend: "litert-web", provider: "wasm", target: "tflite", package: "@litertjs/core" },
  { id: "litert-webgpu", backend: "litert-web", provider: "webgpu", target: "tflite", package: "@litertjs/core" },
];

const NAMES = { "onnxruntime-web": "onnxruntime-web", "litert-web": "LiteRT.js" };
const UNITS = { wasm: "processor, WebAssembly", webgpu: "graphics processor, WebGPU" };
const FILES = { onnx: "ONNX", tflite: "TFLite" };

export const nameOf = ({ backend }) => NAMES[backend];
export const unitOf = ({ provider }) => UNITS[provider];

/** The precisions in which the bundle has artifacts for *backend*. */
export function precisions(backend, manifest) {
  const own = manifest.artifacts.filter((artifact) => artifact.target === backend.target);
  return ["fp32", "fp16", "int8", "int8-static", "w8a16"].filter((each) => own.some((artifact) => artifact.precision === each));
}

/** Why *backend* cannot run here; "" where it can be tried. */
export async function obstacle(backend, manifest) {
  if (!precisions(backend, manifest).length) {
    return `The bundle has no ${FILES[backend.target]} files: hydra-export export --target ${backend.target}`;
  }
  if (backend.provider === "wasm") return "";
  if (!navigator.gpu) {
    return isSecureContext ? "This browser has no WebGPU." : "WebGPU needs https or localhost; this page has neither.";
  }
  return (await navigator.gpu.requestAdapter()) ? "" : "This browser found no GPU for WebGPU.";
}

/** The bundle's model run by *backend*, and the threads it takes. */
export async function open(backend, precision) {
  const url = new URL("../bundle/", import.meta.url).href;
  if (backend.backend === "litert-web") {
    const litert = await litertFor(backend.provider);
    return { model: await load(url, { litert, target: "tflite", precision, accelerator: backend.provider }), threads: 1 };
  }
  const ort = await import(new URL(`ort.${backend.provider}.bundle.min.mjs`, ORT));
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = ORT.href;
  const session = { executionProviders: [backend.provider], logSeverityLevel: 3 };
  const model = await load(url, { ort, target: "onnx", precision, session });
  return { model, threads: crossOriginIsolated ? ort.env.wasm.numThreads || 1 : 1 };
}

let loadedFor; // LiteRT.js is one per page: its forms for the processor and for the graphics processor take turns

async function litertFor(provider) {
  const litert = await import(new URL("dist/index.js", LITERT));
  if (loadedFor !== provider) {
    if (loadedFor) litert.unloadLiteRt();
    loadedFor = undefined;
    const jspi = provider === "webgpu" && (await litert.supportsFeature("jspi"));
    await litert.loadLiteRt(new URL("wasm/", LITERT).href, { jspi });
    loadedFor = provider;
  }
  return litert;
}
