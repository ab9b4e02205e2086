// From a photograph to the pixels that the model takes, with the standard library alone: the steps of preprocessing.json.
// Allowed is 1 of 255 levels from what timm makes with Pillow; measured with bilinear and bicubic were 0, and so for logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace preprocess {

constexpr int64_t kHeight = {{height}}, kWidth = {{width}}, kChannels = {{channels}};
constexpr int64_t kCoveredHeight = {{covered_height}}, kCoveredWidth = {{covered_width}};  // by the resized image
const std::string kInterpolation = "{{interpolation}}";
constexpr int kBits = 22;  // Pillow's weights are integers

struct Image {
  int64_t width, height, channels;
  std::vector<uint8_t> pixels;  // row by row
};

// What one pixel is made of: the first of the old ones, and the weights from there on.
struct Taps {
  int64_t first;
  std::vector<int32_t> weights;
};

inline double kernel(double x) {
  if (kInterpolation == "bilinear") return std::max(1 - x, 0.0);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

struct Size {
  int64_t height, width;
};

// What an image becomes before the crop.
inline Size resized(int64_t height, int64_t width) {
  if (kHeight == kWidth) {
    const int64_t shorter = std::min(width, height);
    return {kCoveredHeight * height / shorter, kCoveredHeight * width / shorter};
  }
  const double ratio =
      std::min(static_cast<double>(height) / kCoveredHeight, static_cast<double>(width) / kCoveredWidth);
  return {std::llrint(height / ratio), std::llrint(width / ratio)};  // halves to even
}

// Of each of the *count* pixels in the middle, where *old* pixels become *size*.
inline std::vector<Taps> taps(int64_t old, int64_t size, int64_t count) {
  const int64_t extra = size - count, half = extra / 2, start = half + (extra & half & 1);  // rounded to even
  const double scale = static_cast<double>(old) / size, stretch = std::max(scale, 1.0);
  const double reach = (kInterpolation == "bilinear" ? 1 : 2) * stretch;
  std::vector<Taps> all;
  for (int64_t i = start; i < start + count; ++i) {
    const double centre = (i + 0.5) * scale;
    if (kInterpolation == "nearest") {
      all.push_back({static_cast<int64_t>(centre), {1 << kBits}});
      continue;
    }
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(centre - reach + 0.5), 0);
    const int64_t behind = std::min(static_cast<int64_t>(centre + reach + 0.5), old);
    std::vector<double> shares;
    double sum = 0;
    for (int64_t j = first; j < behind; ++j) {
      shares.push_back(kernel(std::abs((j - centre + 0.5) * (1 / stretch))));
      sum += shares.back();
    }
    all.push_back({first, {}});
    for (double share : shares)
      all.back().weights.push_back(static_cast<int32_t>(share / sum * (1 << kBits) + (share < 0 ? -0.5 : 0.5)));
  }
  return all;
}

// *image* with one side resampled: its width where *across*, else its height.
inline Image resampled(const Image& image, const std::vector<Taps>& taps, bool across) {
  const int64_t size = static_cast<int64_t>(taps.size()), step = across ? image.channels : image.width * image.channels;
  Image out{across ? size : image.width, across ? image.height : size, image.channels, {}};
  out.pixels.reserve(out.width * out.height * out.channels);
  for (int64_t y = 0; y < out.height; ++y)
    for (int64_t x = 0; x < out.width; ++x)
      for (int64_t c = 0; c < out.channels; ++c) {
        const Taps& tap = taps[across ? x : y];
        const uint8_t* from =
            &image.pixels[(across ? y * image.width + tap.first : tap.first * image.width + x) * image.channels + c];
        int32_t sum = 1 << (kBits - 1);
        for (size_t t = 0; t < tap.weights.size(); ++t) sum += from[t * step] * tap.weights[t];
        out.pixels.push_back(static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255)));
      }
  return out;
}

// uint8 [kHeight, kWidth, kChannels] of an upright photograph, uint8 RGB row by row.
inline std::vector<uint8_t> fitted(const uint8_t* rgb, int64_t width, int64_t height) {
  Image image{width, height, kChannels, {}};
  for (int64_t at = 0; at < width * height * 3; at += 3)
    if (kChannels == 3)
      image.pixels.insert(image.pixels.end(), rgb + at, rgb + at + 3);
    else
      image.pixels.push_back((19595 * rgb[at] + 38470 * rgb[at + 1] + 7471 * rgb[at + 2] + 32768) >> 16);
  const Size size = resized(height, width);
  const auto across = taps(width, size.width, kWidth), down = taps(height, size.height, kHeight);
  // Each pass rounds, so that their order shows: Pillow 13 starts with the height of tall images.
  if (height > 2 * width && size.height < height) return resampled(resampled(image, down, false), across, true).pixels;
  return resampled(resampled(image, across, true), down, false).pixels;
}

// A binary PPM file (P6) of 8 bits; other formats are decoded by whatever the app has for them.
inline std::vector<uint8_t> fitted(const std::string& ppm) {
  std::ifstream file(ppm, std::ios::binary);
  std::string kind;
  int64_t width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  file.get();
  if (!file || kind != "P6" || most != 255 || width < 1 || height < 1 || width > (1 << 28) / height)
    throw std::runtime_error(ppm + " is not a binary PPM file of 8 bits");
  std::vector<uint8_t> rgb(width * height * 3);
  if (!file.read(reinterpret_cast<char*>(rgb.data()), rgb.size())) throw std::runtime_error(ppm + " is truncated");
  return fitted(rgb.data(), width, height);
}

}  // namespace preprocess
