// What the model says of the image. SPDX-License-Identifier: Apache-2.0

import { inUse } from "./chooser.js";
import { byId, element, headsOf, on, percent, written } from "./page.js";

const COUNT = 5;

export function showAnswers() {
  on("answer", ({ answer }) => show(answer, inUse().model));
}

function show(answer, model) {
  const classes = model.bundle.manifest.model.config.num_classes > 0;
  byId("label").textContent = classes ? answer.label : `${answer.outputs.length} features`;
  const took = `${written(answer.ms)} ms`;
  const used =
    answer.tried.length > 1 ? `tried ${answer.tried.join(", then ")} heads` : headsOf(answer.heads);
  byId("facts").textContent = [classes ? `${percent(answer.confidence)} sure` : "", took, used].filter(Boolean).join(" · ");
  byId("top").hidden = !classes;
  if (classes) showTop(model.top(answer, COUNT));
}

function showTop(listed) {
  const rows = byId("top");
  while (rows.children.length > listed.length) rows.lastChild.remove();
  while (rows.children.length < listed.length) {
    const track = element("span", { class: "track" }, element("span", { class: "filled" }));
    rows.append(element("li", {}, element("span", { class: "who" }), track, element("span", { class: "share" })));
  }
  listed.forEach(({ label, confidence }, at) => {
    const [who, track, share] = rows.children[at].children;
    who.textContent = label;
    track.firstChild.style.inlineSize = `${100 * confidence}%`;
    share.textContent = percent(confidence, confidence < 0.0995 ? 1 : 0);
  });
}
