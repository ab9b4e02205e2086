// Runs this bundle's ONNX artifacts on the golden images in Node, and compares. Exits with 1 where one differs.
//
//   npm install onnxruntime-node                       in your project, or onnxruntime-web; not inside of the bundle
//   node BUNDLE/snippets/run.mjs                       every artifact at every head count
//   node BUNDLE/snippets/run.mjs --heads 6             at one
//   node BUNDLE/snippets/run.mjs --artifact onnx/NAME.onnx
//
// In a page import bundle.mjs alone: Bundle.open(url) fetches. SPDX-License-Identifier: Apache-2.0

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { parseArgs } from "node:util";

import { Bundle } from "./bundle.mjs";

const { values: chosen } = parseArgs({ options: { heads: { type: "string" }, artifact: { type: "string" } } });
const ort = installed("onnxruntime-node", "onnxruntime-web");
ort.env.logLevel = "error";
const bundle = await Bundle.open(new URL("../", import.meta.url).href, async (url) => {
  const file = await readFile(new URL(url));
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
});
let runs = 0;
for (const artifact of bundle.artifacts.filter(({ path }) => path === (chosen.artifact ?? path))) {
  const wanted = artifact.heads.filter((k) => k === Number(chosen.heads ?? k));
  if (wanted.length === 0) continue;
  const model = await bundle.load(ort, artifact);
  for (const heads of wanted) {
    const best = [];
    let passed = true;
    let worst = 0;
    for (let index = 0; index < bundle.numImages; index++) {
      const logits = await model.run(bundle.image(artifact, index), heads);
      const compared = bundle.compare(artifact, heads, index, logits);
      best.push(logits.indexOf(Math.max(...logits)));
      worst = Math.max(worst, compared.error);
      passed &&= compared.passed;
    }
    console.log(`${artifact.path}, k = ${heads}: best ${best}, error ${worst.toExponential(1)}, ${passed ? "same" : "DIFFERS"}`);
    if (!passed) process.exitCode = 1;
    runs++;
  }
  await model.release();
}
if (runs === 0) {
  console.error("No artifact has these heads; manifest.json lists them.");
  process.exitCode = 2;
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
  console.error(`Install one where you call this: npm install ${names[0]}`);
  process.exit(2);
}
