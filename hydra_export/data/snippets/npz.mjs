// Reads what numpy.savez writes: a zip of uncompressed .npy files. SPDX-License-Identifier: Apache-2.0

const TYPES = { "<f4": Float32Array, "<f8": Float64Array, "|u1": Uint8Array };

/** Arrays by name, each {data, shape}, of an ArrayBuffer. */
export function readNpz(buffer) {
  const view = new DataView(buffer);
  const end = findEnd(view);
  const arrays = {};
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint16(at + 10, true) !== 0) throw new Error("The .npz is compressed.");
    const [size, nameLength, extra, comment] = [24, 28, 30, 32].map((offset, i) =>
      i === 0 ? view.getUint32(at + offset, true) : view.getUint16(at + offset, true),
    );
    const local = view.getUint32(at + 42, true);
    const name = text(buffer, at + 46, nameLength).replace(/\.npy$/, "");
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays[name] = readNpy(buffer.slice(start, start + size));
    at += 46 + nameLength + extra + comment;
  }
  return arrays;
}

function findEnd(view) {
  for (let at = view.byteLength - 22; at >= 0; at--) if (view.getUint32(at, true) === 0x06054b50) return at;
  throw new Error("Not an .npz file.");
}

function readNpy(buffer) {
  const view = new DataView(buffer);
  const [length, start] = view.getUint8(6) === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = text(buffer, start, length);
  const dtype = /'descr': '([^']+)'/.exec(header)[1];
  if (!(dtype in TYPES) || header.includes("'fortran_order': True")) throw new Error(`No reader for ${header}`);
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((size) => size.trim()).map(Number);
  return { data: new TYPES[dtype](buffer.slice(start + length)), shape };
}

function text(buffer, at, length) {
  return new TextDecoder().decode(new Uint8Array(buffer, at, length));
}
