// Answers from the network, and without one from what the page loaded before. SPDX-License-Identifier: Apache-2.0

const CACHE = "hydra-export-playground";
const MANIFEST = "bundle/manifest.json";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(self.registration.scope)) event.respondWith(answer(event));
});

self.addEventListener("message", (event) => {
  const { keep } = event.data;
  event.waitUntil(keepAll(keep).finally(() => event.ports[0].postMessage("kept")));
});

async function answer(event) {
  const { request } = event;
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) event.waitUntil(kept(cache, request.url, response.clone()));
    return response;
  } catch (error) {
    const found = await cache.match(plain(request.url));
    if (found) return found;
    throw error;
  }
}

/** Keeps *response*; with another manifest the files of the former bundle go. */
async function kept(cache, url, response) {
  if (url.endsWith(MANIFEST)) {
    const before = await cache.match(url);
    if (before && (await before.text()) !== (await response.clone().text())) {
      const folder = url.slice(0, -"manifest.json".length);
      for (const each of await cache.keys()) if (each.url.startsWith(folder)) await cache.delete(each);
    }
  }
  await cache.put(plain(url), response);
}

async function keepAll(urls) {
  const cache = await caches.open(CACHE);
  for (const url of new Set(urls.map(plain))) {
    if (await cache.match(url)) continue;
    const response = await fetch(url).catch(() => undefined);
    if (response?.ok) await cache.put(url, response);
  }
}

/** Without ?calls= and the like, of which the files do not depend. */
const plain = (url) => url.split(/[?#]/)[0];
