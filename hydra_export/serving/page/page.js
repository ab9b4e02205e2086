// What every part of the page shares: its elements, its events and how it writes numbers. SPDX-License-Identifier: Apache-2.0

export const byId = (id) => document.getElementById(id);

/** Tells the other parts, and whoever listens to the document, that something happened. */
export function emit(name, detail) {
  document.dispatchEvent(new CustomEvent(`playground-${name}`, { detail }));
}

export function on(name, action) {
  document.addEventListener(`playground-${name}`, (event) => action(event.detail));
}

/** An element with properties and children; `class`, `role` and the like are attributes. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === undefined || value === null) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Milliseconds with three digits at most. */
export function written(ms) {
  if (ms >= 100) return ms.toFixed(0);
  return ms >= 10 ? ms.toFixed(1) : ms.toFixed(2);
}

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u00a0%`;

export const headsOf = (k) => (k === 1 ? "1 head" : `${k} heads`);

export const callsOf = (count) => (count === 1 ? "1 call" : `${count} calls`);

/** The value that *share* of *values* do not exceed. */
export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(Math.ceil(share * sorted.length) - 1, 0)];
}

/** Shows what went wrong, or with nothing that all is well again. */
export function problem(text = "") {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

/** Runs *action*, and shows its error rather than losing it. */
export async function reported(action) {
  try {
    return await action();
  } catch (error) {
    problem(error?.message ?? String(error));
    return undefined;
  }
}

export const status = (text) => (byId("status").textContent = text);
