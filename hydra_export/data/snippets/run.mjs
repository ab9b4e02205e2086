// Runs this bundle's ONNX artifacts in Node on the golden images, and compares, or on a photograph. Exits with 1 where one
// differs.
//
//   npm install onnxruntime-node                       in your project, or onnxruntime-web; not inside of the bundle
//   node BUNDLE/snippets/run.mjs                       every artifact at every head count
//   node BUNDLE/snippets/run.mjs --heads 6             at one
//   node BUNDLE/snippets/run.mjs --artifact onnx/NAME.onnx
//   node BUNDLE/snippets/run.mjs --image photo.ppm     the best labels; for a .jpg and the like: npm install sharp
//
// In a page import bundle.mjs alone: Bundle.open(url) fetches. SPDX-License-Identifier: Apache-2.0

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { parseArgs } from "node:util";

import { Bundle, best } from "./bundle.mjs";

const text = { type: "string" };
const { values: chosen } = parseArgs({ options: { heads: text, artifact: text, image: text } });
const ort = installed("onnxruntime-node", "onnxruntime-web");
ort.env.logLevel = "error";
const bundle = await Bundle.open(new URL("../", import.meta.url).href, async (url) => {
  const file = await readFile(new URL(url));
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
});
const photo = chosen.image && (await decoded(chosen.image));
let runs = 0;
for (const artifact of bundle.artifacts.filter(({ path }) => path === (chosen.artifact ?? path))) {
  const wanted = artifact.heads.filter((k) => k === Number(chosen.heads ?? k));
  if (wanted.length === 0) continue;
  const model = await bundle.load(ort, artifact);
  for (const heads of wanted) {
    runs++;
    if (photo) {
      const shown = named(await model.run(bundle.photograph(artifact, photo), heads));
      console.log(`${artifact.path}, k = ${heads}: ${shown}`);
      continue;
    }
    const found = [];
    let passed = true;
    let worst = 0;
    for (let index = 0; index < bundle.numImages; index++) {
      const logits = await model.run(bundle.image(artifact, index), heads);
      const compared = bundle.compare(artifact, heads, index, logits);
      found.push(best(logits));
      worst = Math.max(worst, compared.error);
      passed &&= compared.passed;
    }
    console.log(`${artifact.path}, k = ${heads}: best ${found}, error ${worst.toExponential(1)}, ${passed ? "same" : "DIFFERS"}`);
    if (!passed) process.exitCode = 1;
  }
  await model.release();
}
if (runs === 0) {
  console.error("No artifact has these heads; manifest.json lists them.");
  process.exitCode = 2;
}

/** The three best labels and their shares. */
function named(logits) {
  const { labels, config } = bundle.manifest.model;
  if (!config.num_classes) refuse("This model has no classes to name.");
  const most = Math.max(...logits);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0);
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, 3);
  const share = (i) => ((100 * Math.exp(logits[i] - most)) / sum).toFixed(1);
  return order.map((i) => `${labels[i] ?? `class ${i}`} ${share(i)}%`).join(", ");
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
