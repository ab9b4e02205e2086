// Follows the orders on its input, and writes what budget.hpp answers.

#include "budget.hpp"

#include <iostream>
#include <optional>
#include <string>

template <typename T>
T next() {
  T value{};
  std::cin >> value;
  return value;
}

template <typename T>
std::vector<T> list() {
  std::vector<T> values(next<size_t>());
  for (T& value : values) value = next<T>();
  return values;
}

int main() {
  std::cout.precision(17);
  std::optional<runtime::Budget> budget;
  std::optional<runtime::Cascade> cascade;
  std::vector<int64_t> asked;
  for (std::string order; std::cin >> order;) {
    if (order == "budget") {
      const auto ms = next<double>(), quantile = next<double>();
      const auto heads = list<int64_t>();
      const auto times = list<double>();
      std::map<int64_t, double> references;
      for (size_t i = 0; i < heads.size(); ++i) references[heads[i]] = times[i];
      asked = list<int64_t>();
      try {
        budget.emplace(references, ms, quantile);
      } catch (const std::invalid_argument&) {
        std::cout << "refused\n";
      }
    } else if (order == "plan") {
      for (int64_t heads : budget->plan(asked)) std::cout << heads << " ";
      std::cout << "\n";
    } else if (order == "saw") {
      const auto other = next<double>();
      const auto heads = list<int64_t>();
      const auto times = list<double>();
      std::vector<runtime::Budget::Run> runs;
      for (size_t i = 0; i < heads.size(); ++i) runs.push_back({heads[i], times[i]});
      budget->saw(runs, other);
    } else if (order == "cascade") {
      const auto heads = list<int64_t>();
      const auto thresholds = list<double>();
      try {
        cascade.emplace(heads, thresholds);
      } catch (const std::invalid_argument&) {
        std::cout << "refused\n";
      }
    } else if (order == "answer") {
      const auto heads = next<int64_t>();
      const auto temperature = next<double>();
      const auto best = runtime::surest(list<double>(), temperature);
      std::cout << best.index << " " << best.probability << " " << cascade->accepts(heads, best.probability) << "\n";
    }
  }
}
