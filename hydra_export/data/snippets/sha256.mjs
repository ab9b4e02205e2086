// SHA-256 of bytes, in hexadecimal: the browser's own, or, as pages of plain http have none, FIPS 180-4 written out.
// SPDX-License-Identifier: Apache-2.0

const ROUNDS = 64;
const primes = Array.from({ length: 312 }, (_, n) => n).filter((n) => n > 1 && !hasDivisor(n)); // the first 64
const K = Int32Array.from(primes, (prime) => fraction(Math.cbrt(prime)));
const START = Int32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));

/** The digest of an ArrayBuffer. */
export async function sha256(buffer) {
  const subtle = globalThis.crypto?.subtle;
  return hex(subtle ? new Uint8Array(await subtle.digest("SHA-256", buffer)) : digest(new Uint8Array(buffer)));
}

/** The same without the browser's. */
export function digest(bytes) {
  const state = START.slice();
  const whole = bytes.length - (bytes.length % 64);
  compress(state, new DataView(bytes.buffer, bytes.byteOffset, whole));
  const rest = new Uint8Array(bytes.length % 64 < 56 ? 64 : 128);
  rest.set(bytes.subarray(whole));
  rest[bytes.length % 64] = 0x80;
  new DataView(rest.buffer).setBigUint64(rest.length - 8, BigInt(bytes.length) * 8n);
  compress(state, new DataView(rest.buffer));
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((word, at) => out.setInt32(4 * at, word));
  return new Uint8Array(out.buffer);
}

function compress(state, view) {
  const w = new Int32Array(ROUNDS);
  for (let from = 0; from < view.byteLength; from += 64) {
    for (let t = 0; t < 16; t++) w[t] = view.getInt32(from + 4 * t);
    for (let t = 16; t < ROUNDS; t++) {
      const [x, y] = [w[t - 15], w[t - 2]];
      const first = turned(x, 7) ^ turned(x, 18) ^ (x >>> 3);
      const second = turned(y, 17) ^ turned(y, 19) ^ (y >>> 10);
      w[t] = w[t - 16] + first + w[t - 7] + second;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let t = 0; t < ROUNDS; t++) {
      const one = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t]) | 0;
      const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, at) => (state[at] += word));
  }
}

function turned(word, bits) {
  return (word >>> bits) | (word << (32 - bits));
}

/** The first 32 bits behind the point. */
function fraction(value) {
  return Math.floor((value - Math.floor(value)) * 2 ** 32);
}

function hasDivisor(n) {
  for (let each = 2; each * each <= n; each++) if (n % each === 0) return true;
  return false;
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
