// From a photograph to the pixels that a model takes, in a page or in Node: the steps of preprocessing.json.
// Allowed is 1 of 255 levels from what timm makes with Pillow; measured with bilinear and bicubic were 0, and so for logits.
// SPDX-License-Identifier: Apache-2.0

const BITS = 22; // Pillow's weights are integers
const KERNELS = {
  bilinear: { radius: 1, weight: (x) => Math.max(1 - x, 0) },
  bicubic: {
    radius: 2,
    weight: (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0),
  },
};

/**
 * uint8 [height, width, channels] of an upright photograph: {data, width, height} with 3 or 4 bytes a pixel, RGB or RGBA,
 * such as ImageData. *preprocessing* is manifest.model.preprocessing; alpha is ignored.
 */
export function fitted(photo, { image_size: size, crop, mean, interpolation }) {
  const kept = sides(size);
  const [height, width] = resized(photo, kept, crop);
  const across = taps(photo.width, width, kept[1], interpolation);
  const down = taps(photo.height, height, kept[0], interpolation);
  let image = withChannels(photo, mean.length);
  // Each pass rounds, so that their order shows: Pillow 13 starts with the height of tall images.
  if (photo.height > 2 * photo.width && height < photo.height) {
    image = resampled(resampled(image, down, false), across, true);
  } else {
    image = resampled(resampled(image, across, true), down, false);
  }
  return new Uint8Array(image.data.buffer);
}

/** Height and width, of a square a number alone. */
export function sides(size) {
  return Array.isArray(size) ? size : [size, size];
}

/** Height and width that *photo* is resized to before the crop. */
function resized(photo, kept, crop) {
  const [high, wide] = kept.map((side) => Math.floor(side / crop));
  const old = [photo.height, photo.width];
  if (kept[0] === kept[1]) return old.map((side) => Math.floor((high * side) / Math.min(...old)));
  const ratio = Math.min(photo.height / high, photo.width / wide);
  return old.map((side) => halvesToEven(side / ratio));
}

function halvesToEven(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

/** float32: (pixel / 255 - mean) / std of what `fitted` gives, [channels, height, width] or with the channels last as there. */
export function normalised(pixels, { mean, std }, channelsFirst = true) {
  const channels = mean.length;
  const plane = pixels.length / channels;
  const values = new Float32Array(pixels.length);
  for (let channel = 0; channel < channels; channel++) {
    const value = Float32Array.from({ length: 256 }, (_, pixel) => (pixel / 255 - mean[channel]) / std[channel]);
    const [start, step] = channelsFirst ? [channel * plane, 1] : [channel, channels];
    for (let at = 0; at < plane; at++) values[start + at * step] = value[pixels[at * channels + channel]];
  }
  return values;
}

/** The upright photograph in a page's File, Blob or fetched image, as `fitted` takes it. */
export async function decoded(blob) {
  const plain = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(blob, plain);
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function withChannels({ data, width, height }, channels) {
  const step = data.length / (width * height);
  if (step !== 3 && step !== 4) {
    throw new Error(`An image of ${width} x ${height} pixels has ${data.length} bytes. Pass 3 or 4 for each pixel.`);
  }
  const pixels = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; to < pixels.length; from += step, to += channels) {
    if (channels === 1) {
      pixels[to] = (19595 * data[from] + 38470 * data[from + 1] + 7471 * data[from + 2] + 32768) >> 16;
    } else {
      for (let channel = 0; channel < 3; channel++) pixels[to + channel] = data[from + channel];
    }
  }
  return { data: pixels, width, height, channels };
}

/** Of each of the *count* pixels in the middle of *next*: the first of the *old* ones it is made of, and their weights. */
function taps(old, next, count, interpolation) {
  const extra = next - count;
  const start = (extra >> 1) + (extra & (extra >> 1) & 1); // half, rounded to even
  const scale = old / next;
  return Array.from({ length: count }, (_, i) => {
    const centre = (start + i + 0.5) * scale;
    if (interpolation === "nearest") return { first: Math.floor(centre), weights: Int32Array.of(1 << BITS) };
    const { radius, weight } = KERNELS[interpolation];
    const stretch = Math.max(scale, 1);
    const first = Math.max(Math.trunc(centre - radius * stretch + 0.5), 0);
    const behind = Math.min(Math.trunc(centre + radius * stretch + 0.5), old);
    const shares = Array.from({ length: behind - first }, (_, j) =>
      weight(Math.abs((first + j - centre + 0.5) * (1 / stretch))),
    );
    const sum = shares.reduce((total, share) => total + share, 0);
    const whole = (share) => Math.trunc((share / sum) * 2 ** BITS + (share < 0 ? -0.5 : 0.5));
    return { first, weights: Int32Array.from(shares, whole) };
  });
}

/** *image* with one side resampled: its width where *across*, else its height. */
function resampled({ data, width, height, channels }, taps, across) {
  const [newWidth, newHeight] = across ? [taps.length, height] : [width, taps.length];
  const pixels = new Uint8ClampedArray(newWidth * newHeight * channels);
  const step = across ? channels : width * channels;
  let to = 0;
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const { first, weights } = taps[across ? x : y];
      const start = (across ? y * width + first : first * width + x) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (BITS - 1);
        for (let tap = 0, from = start + channel; tap < weights.length; tap++, from += step) {
          sum = (sum + Math.imul(data[from], weights[tap])) | 0; // in integers, which is faster
        }
        pixels[to++] = sum >> BITS;
      }
    }
  }
  return { data: pixels, width: newWidth, height: newHeight, channels };
}
