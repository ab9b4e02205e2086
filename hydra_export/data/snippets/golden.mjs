// A bundle's golden data: its images, and what the float64 model makes of them. SPDX-License-Identifier: Apache-2.0

/** Image number *index* as *artifact* wants it: typed array and shape. */
export function goldenImage(golden, artifact, index) {
  const { data, shape } = golden[artifact.input === "image" ? "pixels" : "image"];
  const image = { data: row(data, shape, index), shape: [1, ...shape.slice(1)] };
  return artifact.input === "tensor" && artifact.target === "tflite" ? channelsLast(image) : image;
}

/** How far *logits*, or other outputs, are from the float64 ones of golden image *index*; of int8 the best class decides. */
export function compared(golden, artifact, heads, index, logits) {
  const rounded = artifact.precision === "fp16" ? "fp16_" : "";
  const { data, shape } = golden[`${rounded}logits_k${heads}`];
  const expected = row(data, shape, index);
  const error = largest(expected.map((value, i) => value - logits[i]));
  // Float32's own noise, as PyTorch shows it on the golden images, four times.
  const noise = largest(golden[`${rounded}torch_fp32_logits_k${heads}`].data.map((value, i) => value - data[i]));
  const inIntegers = ["int8", "int8-static", "w8a16"].includes(artifact.precision);
  const allowed = inIntegers ? null : Math.max(2e-5 * largest(data), 8 * noise);
  const features = artifact.outputs[0].name !== "logits"; // of which the direction decides
  const agreed = features ? cosine(logits, expected) >= 0.99 : best(logits) === best(expected);
  return { error, allowed, passed: Number.isFinite(error) && (allowed === null ? agreed : error <= allowed) };
}

/** The position of the largest of *outputs*, which may be too many for arguments of a function. */
export function best(outputs) {
  return outputs.reduce((most, value, at) => (value > outputs[most] ? at : most), 0);
}

function cosine(one, other) {
  const product = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  return product(one, other) / Math.sqrt(product(one, one) * product(other, other));
}

/** The largest magnitude; NaN where there is one. */
function largest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function row(data, shape, index) {
  const size = shape.slice(1).reduce((product, each) => product * each, 1);
  return data.slice(index * size, (index + 1) * size);
}

/** [1, channels, height, width] as [1, height, width, channels]. */
function channelsLast({ data, shape: [, channels, height, width] }) {
  const plane = height * width;
  const turned = data.map((_, at) => data[(at % channels) * plane + Math.floor(at / channels)]);
  return { data: turned, shape: [1, height, width, channels] };
}
