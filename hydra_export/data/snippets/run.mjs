// Runs this bundle's ONNX artifacts in Node on the golden images, and compares, or on a photograph. Exits with 1 where one
// differs.
//
//   npm install onnxruntime-node                       in your project, or onnxruntime-web; not inside of the bundle
//   node BUNDLE/snippets/run.mjs                       every artifact at every head count
//   node BUNDLE/snippets/run.mjs --heads 6             at one
//   node BUNDLE/snippets/run.mjs --artifact onnx/NAME.onnx
//   node BUNDLE/snippets/run.mjs --image photo.ppm     the best labels; for a .jpg and the like: npm install sharp
//   node BUNDLE/snippets/run.mjs --image photo.ppm --budget-ms 33 --cascade 12     by the head count that these choose
//
// Apps import hydra_runtime.mjs, which stands beside this. SPDX-License-Identifier: Apache-2.0

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { parseArgs } from "node:util";

import { Bundle, load } from "./hydra_runtime.mjs";

const text = { type: "string" };
const options = { heads: text, artifact: text, image: text, "budget-ms": text, cascade: text };
const { values: chosen } = parseArgs({ options });
const ort = installed("onnxruntime-node", "onnxruntime-web");
ort.env.logLevel = "error";
const bundle = await Bundle.described(new URL("../", import.meta.url).href);
if (chosen.image && !bundle.manifest.model.config.num_classes) refuse("This model has no classes to name.");
const photo = chosen.image && (await decoded(chosen.image));
if (photo && (chosen["budget-ms"] || chosen.cascade)) await choose();
else await runAll();

/** Lets a budget, a cascade or both choose the head count for the photograph. */
async function choose() {
  const model = await load(bundle, { ort, artifact: chosen.artifact }).catch((error) => refuse(error.message));
  try {
    if (chosen.cascade) model.cascade({ asGoodAs: Number(chosen.cascade) });
    if (chosen["budget-ms"]) await model.budget({ ms: Number(chosen["budget-ms"]) });
  } catch (error) {
    refuse(error.message);
  }
  const answer = await model.run(photo);
  console.log(`k = ${answer.tried.join(", then ")}: ${named(model, answer)}, ${answer.ms.toFixed(1)} ms`);
}

async function runAll() {
  const onnx = bundle.artifacts.filter(({ target, path }) => target === "onnx" && path === (chosen.artifact ?? path));
  const runs = onnx.flatMap(({ path, heads }) => heads.map((k) => [path, k]));
  const wanted = runs.filter(([, k]) => k === Number(chosen.heads ?? k));
  if (wanted.length === 0) refuse("No artifact has these heads; manifest.json lists them.");
  for (const { path } of onnx) {
    const model = await load(bundle, { ort, artifact: path });
    for (const [, heads] of wanted.filter(([of]) => of === path)) {
      if (photo) console.log(`${path}, k = ${heads}: ${named(model, await model.run(photo, { heads }))}`);
      else await check(model, path, heads);
    }
    await model.release();
  }
}

async function check(model, path, heads) {
  const [{ best, error, passed }] = await model.check({ heads });
  console.log(`${path}, k = ${heads}: best ${best}, error ${error.toExponential(1)}, ${passed ? "same" : "DIFFERS"}`);
  if (!passed) process.exitCode = 1;
}

/** The three best labels and their probabilities. */
function named(model, answer) {
  const name = (label) => (bundle.manifest.model.labels.length > 0 ? label : `class ${label}`);
  const shown = ({ label, confidence }) => `${name(label)} ${(100 * confidence).toFixed(1)}%`;
  return model.top(answer, 3).map(shown).join(", ");
}

/** The photograph in a file, upright: {data, width, height}, three or four bytes a pixel. */
async function decoded(path) {
  const bytes = await readFile(path).catch((error) => refuse(error.message));
  const header = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.subarray(0, 100).toString("latin1"));
  if (header) return { data: bytes.subarray(header[0].length), width: Number(header[1]), height: Number(header[2]) };
  const { data, info } = await installed("sharp")(bytes)
    .rotate() // as the EXIF orientation says
    .toColourspace("srgb")
    .raw()
    .toBuffer({ resolveWithObject: true })
    .catch((error) => refuse(`${path}: ${error.message}`));
  return { data, width: info.width, height: info.height };
}

/** The first of *names* that is installed where this is called. */
function installed(...names) {
  const require = createRequire(`${process.cwd()}/`);
  for (const name of names) {
    try {
      return require(name);
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
    }
  }
  return refuse(`Install one where you call this: npm install ${names[0]}`);
}

function refuse(message) {
  console.error(message);
  process.exit(2);
}
