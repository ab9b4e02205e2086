// Chooses the head count of each call: by a deadline, by how sure the model is, or by both. run.cpp shows how.
// The rules of hydra_runtime.py, with the standard library alone; tests hold both to the same traces.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

namespace runtime {

struct Surest {
  size_t index;
  double probability;
};

// The index of the first largest logit, and its probability: the softmax of logits / temperature.
template <typename T>
Surest surest(const std::vector<T>& logits, double temperature = 1) {
  if (logits.empty()) throw std::invalid_argument("there are no logits");
  std::vector<double> scaled(logits.begin(), logits.end());
  for (double& each : scaled) each /= temperature;
  const auto best = std::max_element(scaled.begin(), scaled.end());
  double sum = 0;
  for (double each : scaled) sum += std::exp(each - *best);
  return {static_cast<size_t>(best - scaled.begin()), 1 / sum};
}

// Head counts in the order in which they run: an answer is accepted if its probability reaches its threshold, and the
// last one always. A calibrated bundle's manifest.json has thresholds and temperatures.
class Cascade {
 public:
  Cascade(std::vector<int64_t> heads, std::vector<double> thresholds)
      : heads_(std::move(heads)), thresholds_(std::move(thresholds)) {
    const bool ascending = std::adjacent_find(heads_.begin(), heads_.end(), std::greater_equal<>()) == heads_.end();
    if (heads_.empty() || thresholds_.size() != heads_.size() - 1 || !ascending)
      throw std::invalid_argument("a cascade has ascending head counts, and a threshold for each but the last");
  }

  const std::vector<int64_t>& heads() const { return heads_; }

  bool accepts(int64_t heads, double probability) const {
    const auto found = std::find(heads_.begin(), heads_.end(), heads);
    if (found == heads_.end()) throw std::invalid_argument("the cascade does not have this head count");
    const size_t at = found - heads_.begin();
    return at == thresholds_.size() || probability >= thresholds_[at];
  }

 private:
  std::vector<int64_t> heads_;
  std::vector<double> thresholds_;
};

// Chooses head counts so that calls take at most *ms* at *quantile* of them (0.5 to below 1). Not for several threads at once.
//
// The machine's slowness is how much longer recent calls took than *references*: by head count, the milliseconds of a call when
// nothing else runs. A head count that no longer fits is replaced at once by the largest that fits; a larger one is tried after
// kCalm calm calls, with room to spare, and twice as late after each failed try.
class Budget {
 public:
  static constexpr int kWindow = 32, kRecent = 6, kCalm = 12, kLongestCalm = 192;
  static constexpr double kRoom = 0.9;

  struct Run {
    int64_t heads;
    double ms;
  };

  Budget(std::map<int64_t, double> references, double ms, double quantile = 0.95)
      : references_(std::move(references)), ms_(ms), quantile_(quantile) {
    for (const auto& [heads, time] : references_) {
      if (!(time > 0 && std::isfinite(time))) throw std::invalid_argument("a reference is a time above 0");
      if (time <= kRoom * ms) at_ = heads_.size();
      heads_.push_back(heads);
    }
    if (heads_.empty()) throw std::invalid_argument("a budget needs a reference for each head count");
    if (!(ms > 0 && std::isfinite(ms))) throw std::invalid_argument("a budget is milliseconds above 0");
    if (!(quantile >= 0.5 && quantile < 1)) throw std::invalid_argument("a quantile is from 0.5 to below 1");
  }

  // The head count of the next call.
  int64_t heads() const { return heads_[at_]; }

  // The head counts to run, in this order: those of *cascade* if all of them fit together, else one.
  std::vector<int64_t> plan(const std::vector<int64_t>& cascade = {}) const {
    double sum = 0;
    for (int64_t heads : cascade) sum += references_.at(heads);
    if (!cascade.empty() && sum * slow(quantile_) <= left()) return cascade;
    return {heads()};
  }

  // Records one call: its runs, and the milliseconds of the rest of the call.
  void saw(const std::vector<Run>& runs, double other_ms = 0) {
    for (const Run& run : runs) keep(slowness_, run.ms / references_.at(run.heads));
    keep(others_, other_ms);
    const double left = this->left(), slow = this->slow(2 * quantile_ - 1);
    size_t lower = at_, above = at_ + 1;
    while (lower > 0 && time(lower) * slow > left) --lower;
    if (lower < at_) {
      if (climbed_) wait_ = std::min(2 * wait_, kLongestCalm);
      return move(lower, false);
    }
    if (++calm_ < wait_) return;
    if (climbed_) wait_ = kCalm;
    climbed_ = false;
    if (above < heads_.size() && time(above) * this->slow(quantile_) <= kRoom * left) move(above, true);
  }

 private:
  static void keep(std::vector<double>& values, double value) {
    values.push_back(value);
    if (values.size() > kWindow) values.erase(values.begin());
  }

  void move(size_t at, bool climbed) { at_ = at, calm_ = 0, climbed_ = climbed; }

  double time(size_t at) const { return references_.at(heads_[at]); }

  // Milliseconds for the runs of a call.
  double left() const { return ms_ - (others_.empty() ? 0 : quantile(others_, quantile_)); }

  double slow(double share) const {
    if (slowness_.empty()) return 1;
    const auto recent = slowness_.end() - std::min<std::ptrdiff_t>(kRecent, slowness_.size());
    return std::max(quantile({recent, slowness_.end()}, 0.8), quantile(slowness_, share));
  }

  // The smallest value that *share* of them do not exceed.
  static double quantile(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    return values[static_cast<size_t>(std::max(std::ceil(share * values.size()) - 1, 0.0))];
  }

  std::map<int64_t, double> references_;
  double ms_, quantile_;
  std::vector<int64_t> heads_;  // ascending
  size_t at_ = 0;
  std::vector<double> slowness_;  // of each run: its time over the reference
  std::vector<double> others_;    // of each call: what it took beside its runs
  int calm_ = 0, wait_ = kCalm;
  bool climbed_ = false;
};

}  // namespace runtime
