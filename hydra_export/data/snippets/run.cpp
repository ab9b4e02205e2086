// Runs this bundle's ONNX artifacts on a golden image with onnxruntime's C++ API; 1 where the best output differs. Or on a
// photograph, and names the best label.
//
//   g++ -std=c++17 BUNDLE/snippets/run.cpp -I ORT/include -L ORT/lib -lonnxruntime -o run    (not inside of the bundle)
//   ./run BUNDLE        every artifact at every head count          ./run BUNDLE 6        at one (0: at every one)
//   ./run BUNDLE 6 photo.ppm
//   ./run BUNDLE --budget 33        a hundred calls, at the head counts that keep to 33 ms each
//
// SPDX-License-Identifier: Apache-2.0

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "budget.hpp"
#include "preprocess.hpp"

struct Artifact {
  const char* path;
  int64_t heads;
  bool takes_heads;   // as its input k
  bool takes_pixels;  // uint8 in 0-255; otherwise normalised
  int64_t batch;
  std::ptrdiff_t best;  // position of the largest output, and the output, as PyTorch has them
  double value;
};

const Artifact kArtifacts[] = {
{{artifacts}}
};
constexpr bool kTokens = {{tokens}};  // the outputs are patch tokens
using preprocess::kChannels, preprocess::kHeight, preprocess::kWidth;
const float kMean[] = { {{mean}} }, kStd[] = { {{std}} };

// uint8 [height, width, channels] to float32 [channels, height, width]
std::vector<float> normalised(const std::vector<uint8_t>& pixels) {
  std::vector<float> image;
  for (int64_t c = 0; c < kChannels; ++c)
    for (int64_t at = 0; at < kHeight * kWidth; ++at)
      image.push_back((pixels[at * kChannels + c] / 255.0f - kMean[c]) / kStd[c]);
  return image;
}

template <typename T>
std::vector<T> repeated(const std::vector<T>& image, int64_t times) {
  std::vector<T> batch;
  for (; times > 0; --times) batch.insert(batch.end(), image.begin(), image.end());
  return batch;
}

Ort::Session opened(Ort::Env& env, const std::filesystem::path& bundle, const Artifact& artifact) {
  return Ort::Session(env, (bundle / artifact.path).c_str(), Ort::SessionOptions());
}

// The outputs for one image.
std::vector<float> run(Ort::Session& session, const Artifact& artifact, const std::vector<uint8_t>& pixels) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto bytes = repeated(pixels, artifact.batch);
  auto floats = repeated(normalised(pixels), artifact.batch);
  const int64_t pixel_shape[] = {artifact.batch, kHeight, kWidth, kChannels};
  const int64_t float_shape[] = {artifact.batch, kChannels, kHeight, kWidth};
  int64_t heads = artifact.heads;

  std::vector<const char*> names = {"image"};
  std::vector<Ort::Value> inputs;
  if (artifact.takes_pixels)
    inputs.push_back(Ort::Value::CreateTensor<uint8_t>(memory, bytes.data(), bytes.size(), pixel_shape, 4));
  else
    inputs.push_back(Ort::Value::CreateTensor<float>(memory, floats.data(), floats.size(), float_shape, 4));
  if (artifact.takes_heads) {
    names.push_back("k");
    inputs.push_back(Ort::Value::CreateTensor<int64_t>(memory, &heads, 1, nullptr, 0));
  }
  const char* output = {{output}};
  auto outputs = session.Run(Ort::RunOptions{nullptr}, names.data(), inputs.data(), inputs.size(), &output, 1);
  const float* logits = outputs[0].GetTensorData<float>();
  const auto count = outputs[0].GetTensorTypeAndShapeInfo().GetElementCount() / artifact.batch;
  return std::vector<float>(logits, logits + count);
}

// The line of labels.txt for an output; its number where there is none.
std::string label(const std::filesystem::path& bundle, std::ptrdiff_t number) {
  std::ifstream file(bundle / "labels.txt");
  std::string line;
  for (std::ptrdiff_t i = 0; std::getline(file, line); ++i)
    if (i == number) return line;
  return "class " + std::to_string(number);
}

std::vector<uint8_t> input(const std::filesystem::path& bundle, const char* photograph) {
  if (photograph) return preprocess::fitted(std::string(photograph));
  std::ifstream file(bundle / "{{pixels}}", std::ios::binary);
  std::vector<uint8_t> pixels{std::istreambuf_iterator<char>(file), {}};
  if (pixels.size() != kHeight * kWidth * kChannels) throw std::runtime_error("no golden image in " + bundle.string());
  return pixels;
}

// A hundred calls on the first artifact of each head count. A cascade asks `surest` of the outputs between its runs.
int keep(double ms, Ort::Env& env, const std::filesystem::path& bundle, const std::vector<uint8_t>& pixels) {
  std::map<int64_t, const Artifact*> artifacts;
  std::map<std::string, Ort::Session> sessions;
  const auto timed = [&](int64_t heads) {
    const auto began = std::chrono::steady_clock::now();
    run(sessions.at(artifacts[heads]->path), *artifacts[heads], pixels);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
  };
  std::map<int64_t, double> references;
  for (const Artifact& artifact : kArtifacts) {
    if (!artifacts.emplace(artifact.heads, &artifact).second) continue;
    if (!sessions.count(artifact.path)) sessions.emplace(artifact.path, opened(env, bundle, artifact));
    timed(artifact.heads);  // which is slower, the first time
    references[artifact.heads] = timed(artifact.heads);
  }
  runtime::Budget budget(references, ms);
  for (int call = 0; call < 100; ++call) {
    const int64_t heads = budget.heads();
    budget.saw({runtime::Budget::Run{heads, timed(heads)}});
    std::cout << heads << (call < 99 ? " " : "\n");
  }
  return 0;
}

int main(int argc, char** argv) try {
  const std::filesystem::path bundle = argc > 1 ? argv[1] : ".";
  const bool keeps = argc > 3 && std::string(argv[2]) == "--budget";
  const int64_t chosen = argc > 2 ? std::atoll(argv[2]) : 0;
  const char* photograph = argc > 3 && !keeps ? argv[3] : nullptr;
  const std::vector<uint8_t> pixels = input(bundle, photograph);
  Ort::Env env;
  if (keeps) return keep(std::atof(argv[3]), env, bundle, pixels);
  int runs = 0, differing = 0;
  for (const Artifact& artifact : kArtifacts) {
    if (chosen != 0 && chosen != artifact.heads) continue;
    auto session = opened(env, bundle, artifact);
    const auto logits = run(session, artifact, pixels);
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    ++runs;
    std::cout << artifact.path << ", k = " << artifact.heads << ": ";
    if (photograph) {
      std::cout << label(bundle, best) << " (" << logits[best] << ")\n";
      continue;
    }
    // Of so many outputs as patch tokens have, rounding may order nearly equal ones otherwise.
    const bool near = std::abs(logits[artifact.best] - artifact.value) <= 0.05 * std::abs(artifact.value);
    const bool same = best == artifact.best || (kTokens && near);
    std::cout << "best " << best << " (" << logits[best] << "), expected "
              << artifact.best << " (" << artifact.value << (same ? "), same\n" : "), DIFFERS\n");
    differing += !same;
  }
  if (runs == 0) std::cerr << "No artifact has these heads.\n";
  return runs == 0 ? 2 : differing > 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
