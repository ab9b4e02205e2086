// Keeps what was loaded, so that the page opens without a network. SPDX-License-Identifier: Apache-2.0

import { byId, on } from "./page.js";

/** Has the service worker keep every file that this page has loaded; browsers give one to https and localhost alone. */
export async function keepOffline() {
  if (!navigator.serviceWorker) {
    byId("offline").textContent = "Needs the network each time: browsers only keep pages for offline use on https and localhost.";
    return;
  }
  try {
    await navigator.serviceWorker.register(new URL("../sw.js", import.meta.url));
  } catch {
    if (!navigator.serviceWorker.controller) {
      byId("offline").textContent = "This browser does not keep the page for offline use.";
      return;
    }
  }
  const { active } = await navigator.serviceWorker.ready;
  const keep = async () => {
    await told(active, loaded());
    byId("offline").textContent = "Works offline: this device keeps the page, the bundle and its runtime.";
    document.body.dataset.offline = "true";
  };
  on("backend", keep);
  await keep();
}

/** The page's own address and those of all it asked for, but what has no use without the server. */
function loaded() {
  const asked = performance.getEntriesByType("resource").map(({ name }) => name);
  return [location.href, ...asked].filter((url) => url.startsWith(location.origin) && !url.endsWith("/measurements"));
}

function told(worker, urls) {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = resolve;
    worker.postMessage({ keep: urls }, [port2]);
  });
}
