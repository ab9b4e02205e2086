// The documents that `hydra-export serve` and `profile import` take: one for each artifact that was timed.
// SPDX-License-Identifier: Apache-2.0

const LONGEST = 500; // letters of a text

/** What was measured with *current*, the backend in use, as documents. */
export async function records(current, { samples, conditions }, session) {
  const { bundle, artifacts } = current.model;
  const { name, checkpoint_sha256 } = bundle.manifest.model;
  const browser = await describeBrowser();
  const paths = [...new Set(current.model.heads.map((k) => artifacts.get(k).path))];
  return paths.map((path) => {
    const heads = current.model.heads.filter((k) => artifacts.get(k).path === path);
    const { sha256, precision } = artifacts.get(heads[0]);
    return {
      kind: "hydra-export browser times",
      schema_version: 1,
      date: new Date().toISOString().slice(0, 10),
      model: { name, checkpoint_sha256 },
      artifact: { path, sha256, precision },
      backend: current.backend.backend,
      version: session.packages[current.backend.package],
      provider: current.backend.provider,
      threads: current.threads,
      browser,
      conditions,
      checks: Object.fromEntries(heads.map((k) => [k, checkOf(current.checks, k)])),
      samples_ms: Object.fromEntries(heads.map((k) => [k, samples[k]])),
    };
  });
}

function checkOf(checks, k) {
  const { error, allowed, passed } = checks.find(({ heads }) => heads === k);
  return { error, allowed, passed };
}

/** What the browser says of itself and the device; "" and null where it says nothing. */
export async function describeBrowser() {
  const asked = ["platformVersion", "model", "architecture"];
  const agent = (await navigator.userAgentData?.getHighEntropyValues(asked).catch(() => ({}))) ?? {};
  const texts = {
    user_agent: navigator.userAgent,
    platform: agent.platform ?? navigator.platform,
    platform_version: agent.platformVersion,
    model: agent.model,
    architecture: agent.architecture,
    gpu: graphics(),
  };
  return {
    ...Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, String(text ?? "").slice(0, LONGEST)])),
    mobile: agent.mobile ?? /\bMobi/.test(navigator.userAgent),
    cores: navigator.hardwareConcurrency ?? 1,
    memory_gb: navigator.deviceMemory ?? null,
    cross_origin_isolated: crossOriginIsolated,
  };
}

/** The graphics processor's name, as WebGL has it. */
function graphics() {
  const context = new OffscreenCanvas(1, 1).getContext("webgl");
  const info = context?.getExtension("WEBGL_debug_renderer_info");
  const name = context?.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : context.RENDERER);
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return name;
}

/** What the server made of a record: {device, name, records, file}. */
export async function post(record) {
  const response = await fetch("measurements", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(record),
  });
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const { message = `The server answered ${response.status}.`, remedy = "" } = answer.error ?? {};
  throw new Error(`${message} ${remedy}`.trim());
}

/** Downloads *record* as a file. */
export function download(record) {
  const text = `${JSON.stringify(record, null, 1)}\n`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const stem = record.artifact.path.split("/").pop().replace(/\.[^.]*$/, "");
  link.download = `${stem}-${record.backend}-${record.provider}-${record.date}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
