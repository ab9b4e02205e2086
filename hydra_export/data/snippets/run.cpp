// Runs this bundle's ONNX artifacts on a golden image with onnxruntime's C++ API; 1 where the best output differs.
//
//   g++ -std=c++17 BUNDLE/snippets/run.cpp -I ORT/include -L ORT/lib -lonnxruntime -o run    (not inside of the bundle)
//   ./run BUNDLE        every artifact at every head count          ./run BUNDLE 6        at one
//
// SPDX-License-Identifier: Apache-2.0

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

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
constexpr int64_t kSize = {{size}}, kChannels = {{channels}};
const float kMean[] = { {{mean}} }, kStd[] = { {{std}} };

// uint8 [size, size, channels] to float32 [channels, size, size]
std::vector<float> normalised(const std::vector<uint8_t>& pixels) {
  std::vector<float> image;
  for (int64_t c = 0; c < kChannels; ++c)
    for (int64_t at = 0; at < kSize * kSize; ++at)
      image.push_back((pixels[at * kChannels + c] / 255.0f - kMean[c]) / kStd[c]);
  return image;
}

template <typename T>
std::vector<T> repeated(const std::vector<T>& image, int64_t times) {
  std::vector<T> batch;
  for (; times > 0; --times) batch.insert(batch.end(), image.begin(), image.end());
  return batch;
}

// The outputs for one image. An app keeps the session and calls Run alone.
std::vector<float> run(Ort::Env& env, const std::filesystem::path& bundle, const Artifact& artifact,
                       const std::vector<uint8_t>& pixels) {
  Ort::Session session(env, (bundle / artifact.path).c_str(), Ort::SessionOptions());
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto bytes = repeated(pixels, artifact.batch);
  auto floats = repeated(normalised(pixels), artifact.batch);
  const int64_t pixel_shape[] = {artifact.batch, kSize, kSize, kChannels};
  const int64_t float_shape[] = {artifact.batch, kChannels, kSize, kSize};
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

int main(int argc, char** argv) {
  const std::filesystem::path bundle = argc > 1 ? argv[1] : ".";
  const int64_t chosen = argc > 2 ? std::atoll(argv[2]) : 0;
  std::ifstream file(bundle / "{{pixels}}", std::ios::binary);
  const std::vector<uint8_t> pixels{std::istreambuf_iterator<char>(file), {}};
  if (pixels.size() != kSize * kSize * kChannels) {
    std::cerr << bundle / "{{pixels}}" << " is not the golden image\n";
    return 2;
  }
  Ort::Env env;
  int runs = 0, differing = 0;
  for (const Artifact& artifact : kArtifacts) {
    if (chosen != 0 && chosen != artifact.heads) continue;
    const auto logits = run(env, bundle, artifact, pixels);
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    std::cout << artifact.path << ", k = " << artifact.heads << ": best " << best << " (" << logits[best] << "), expected "
              << artifact.best << " (" << artifact.value << (best == artifact.best ? "), same\n" : "), DIFFERS\n");
    differing += best != artifact.best;
    ++runs;
  }
  if (runs == 0) std::cerr << "No artifact has these heads.\n";
  return runs == 0 ? 2 : differing > 0;
}
