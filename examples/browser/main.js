// The page: choose an artifact and a head count, see what it says of the golden images, check every artifact.
//
//   ?bundle=URL        another bundle's data; the code that reads it is that of "bundle/"
//   ?provider=webgpu   another execution provider than wasm

const query = new URLSearchParams(location.search);
const provider = query.get("provider") ?? "wasm";
const ort = await import(`./node_modules/onnxruntime-web/dist/ort.${provider}.bundle.min.mjs`);
const options = { executionProviders: [provider] };
ort.env.logLevel = "error";

const byId = (id) => document.getElementById(id);
let bundle;
let artifacts;
let chosen; // {artifact, model}

async function start() {
  const { Bundle } = await import("./bundle/snippets/bundle.mjs");
  bundle = await Bundle.open(query.get("bundle") ?? "bundle/");
  byId("title").textContent = bundle.manifest.model.name;
  artifacts = bundle.artifacts.filter(({ target }) => target === "onnx");
  byId("artifact").replaceChildren(...artifacts.map((artifact, i) => new Option(shortName(artifact), i)));
  byId("artifact").onchange = () => reported(choose);
  byId("check").onclick = () => reported(checkAll);
  byId("photograph").onchange = () => reported(classifyPhotograph);
  const universal = artifacts.findIndex((artifact) => artifact.inputs.length > 1);
  byId("artifact").value = Math.max(universal, 0);
  drawImages();
  await choose();
  byId("check").disabled = false;
}

/** Loads the chosen artifact and offers its head counts. */
async function choose() {
  const artifact = artifacts[byId("artifact").value];
  byId("status").textContent = `Loading ${artifact.path} …`;
  await chosen?.model.release();
  chosen = { artifact, model: await bundle.load(ort, artifact, options) };
  byId("heads").replaceChildren(
    ...artifact.heads.map((k, i) => {
      const label = document.createElement("label");
      const button = Object.assign(document.createElement("input"), { type: "radio", name: "k", value: k });
      button.checked = i === 0;
      button.onchange = () => reported(() => classify(k));
      label.append(button, ` ${k}`);
      return label;
    }),
  );
  await classify(artifact.heads[0]);
}

/** Says under each golden image what the chosen artifact takes it for with *heads* heads. */
async function classify(heads) {
  const { artifact, model } = chosen;
  await model.run(bundle.image(artifact, 0), heads); // the first run is slower
  let milliseconds = 0;
  for (const [index, figure] of [...byId("images").children].entries()) {
    const started = performance.now();
    const logits = await model.run(bundle.image(artifact, index), heads);
    milliseconds += performance.now() - started;
    figure.lastChild.textContent = bestLabel(logits);
  }
  const each = (milliseconds / bundle.numImages).toFixed(1);
  byId("status").textContent = `${heads} heads on ${provider}: ${each} ms an image.`;
  await classifyPhotograph();
}

/** Says what the chosen artifact takes the visitor's photograph for, if there is one; it stays in the page. */
async function classifyPhotograph() {
  const [file] = byId("photograph").files;
  if (!file) return;
  const { decoded } = await import("./bundle/snippets/preprocess.mjs");
  const heads = Number(document.querySelector("#heads :checked").value);
  const { artifact, model } = chosen;
  byId("answer").textContent = bestLabel(await model.run(bundle.photograph(artifact, await decoded(file)), heads));
}

function bestLabel(logits) {
  const best = logits.indexOf(Math.max(...logits));
  const share = 1 / logits.reduce((sum, logit) => sum + Math.exp(logit - logits[best]), 0);
  return `${bundle.manifest.model.labels[best] ?? `class ${best}`}, ${(100 * share).toFixed(0)} %`;
}

/** Runs every artifact at every head count, image by image in another order of head counts each time. */
async function checkAll() {
  byId("check").disabled = true;
  byId("results").replaceChildren();
  byId("results").parentElement.hidden = false;
  for (const artifact of artifacts) {
    const model = await bundle.load(ort, artifact, options);
    const worst = new Map(artifact.heads.map((k) => [k, { error: 0, allowed: null, passed: true }]));
    for (const { k, index } of shuffled(artifact.heads.flatMap((k) => indices().map((index) => ({ k, index }))))) {
      const logits = await model.run(bundle.image(artifact, index), k);
      const { error, allowed, passed } = bundle.compare(artifact, k, index, logits);
      const found = worst.get(k);
      worst.set(k, { error: Math.max(found.error, error), allowed, passed: found.passed && passed });
    }
    await model.release();
    for (const [k, { error, allowed, passed }] of worst) addResult(artifact, k, error, allowed, passed);
  }
  const failed = document.querySelectorAll(".failed").length;
  byId("status").textContent = failed ? `${failed} checks failed.` : "Every artifact gives the golden logits.";
  byId("check").disabled = false;
}

function addResult(artifact, k, error, allowed, passed) {
  const cells = [shortName(artifact), k, error.toExponential(1), allowed?.toExponential(1) ?? "same class"];
  const tr = byId("results").insertRow();
  tr.append(...[...cells, passed ? "passed" : "failed"].map((text) => cell(text)));
  tr.lastChild.className = passed ? "passed" : "failed";
}

function cell(text) {
  const td = document.createElement("td");
  td.textContent = text;
  if (typeof text === "number" || /^\d/.test(text)) td.className = "number";
  return td;
}

function drawImages() {
  const [, height, width, channels] = bundle.golden.pixels.shape;
  byId("images").replaceChildren(
    ...indices().map((index) => {
      const pixels = bundle.image({ input: "image" }, index).data;
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      const shown = new ImageData(width, height);
      for (let at = 0; at < width * height; at++) {
        const rgb = [0, 1, 2].map((c) => pixels[at * channels + Math.min(c, channels - 1)]);
        shown.data.set([...rgb, 255], at * 4);
      }
      canvas.getContext("2d").putImageData(shown, 0, 0);
      const figure = document.createElement("figure");
      figure.append(canvas, document.createElement("figcaption"));
      return figure;
    }),
  );
}

function shortName(artifact) {
  return artifact.path.replace(/^onnx\//, "");
}

function indices() {
  return Array.from({ length: bundle.numImages }, (_, index) => index);
}

function shuffled(list) {
  return list.map((each) => [Math.random(), each]).sort(([a], [b]) => a - b).map(([, each]) => each);
}

async function reported(action) {
  byId("error").textContent = "";
  try {
    await action();
  } catch (error) {
    byId("error").textContent = error.message ?? String(error);
  }
}

await reported(start);
document.body.dataset.ready = "true";
