// Values as caches and requests give them: twenty shapes of distribution, as integers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace rankbus::test {

using Values = std::vector<std::uint64_t>;

// Prompt lengths of the request trace that RANKBUS_TRACE names, empty without one.
inline Values prompt_lengths_of_the_trace() {
  Values lengths;
  const char* file = std::getenv("RANKBUS_TRACE");
  if (file == nullptr) return lengths;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) lengths.push_back(nlohmann::json::parse(line).at("input_length"));
  }
  return lengths;
}

template <class Draw>
Values draw(std::size_t count, Draw&& one) {
  Values values(count);
  for (std::uint64_t& value : values) {
    const double drawn = std::min(std::max(0.0, static_cast<double>(one())), 0x1p63);
    value = static_cast<std::uint64_t>(drawn);
  }
  return values;
}

// Scaled to nanoseconds, tokens or bytes where the distribution itself is of small numbers.
inline std::vector<std::pair<std::string, Values>> twenty_distributions(std::uint64_t seed,
                                                                        std::size_t count) {
  std::mt19937_64 random(seed);
  const auto of = [&](auto distribution, double scale = 1) {
    return draw(count, [&]() mutable { return static_cast<double>(distribution(random)) * scale; });
  };
  std::vector<std::pair<std::string, Values>> all;
  all.emplace_back("uniform, narrow", of(std::uniform_real_distribution(1000.0, 1100.0)));
  all.emplace_back("uniform, wide", of(std::uniform_real_distribution(0.0, 1e12)));
  all.emplace_back("uniform over 63 bits", of(std::uniform_real_distribution(0.0, 0x1p63)));
  all.emplace_back("normal", of(std::normal_distribution(1e6, 1e5)));
  all.emplace_back("exponential", of(std::exponential_distribution(1.0), 1e7));
  all.emplace_back("lognormal", of(std::lognormal_distribution(0.0, 1.0), 1e6));
  all.emplace_back("lognormal, heavy", of(std::lognormal_distribution(0.0, 4.0), 1e6));
  all.emplace_back("gamma", of(std::gamma_distribution(2.0, 2.0), 1e5));
  all.emplace_back("weibull", of(std::weibull_distribution(0.5, 1.0), 1e6));
  all.emplace_back("extreme values", of(std::extreme_value_distribution(1e6, 1e5)));
  all.emplace_back("cauchy", of(std::cauchy_distribution(1e6, 1e5)));
  all.emplace_back("chi squared", of(std::chi_squared_distribution(3.0), 1e4));
  all.emplace_back("student", of(std::student_t_distribution(2.0), 1e6));
  all.emplace_back("poisson", of(std::poisson_distribution(300)));
  all.emplace_back("geometric", of(std::geometric_distribution(0.001)));
  all.emplace_back("binomial", of(std::binomial_distribution(5000, 0.3)));
  std::uniform_real_distribution<double> share(1e-9, 1.0);
  all.emplace_back("pareto", draw(count, [&] { return 1e3 / std::pow(share(random), 1 / 1.1); }));
  all.emplace_back("two modes", draw(count, [&] {
                     return share(random) < 0.9 ? 5e4 * share(random) : 2e9 + 1e9 * share(random);
                   }));
  all.emplace_back("one value", Values(count, 123'456'789));
  Values lengths = prompt_lengths_of_the_trace();
  // Without the trace, powers of two and their neighbours, where buckets begin and end.
  const bool has_trace = !lengths.empty();
  if (!has_trace) {
    for (int exponent = 0; exponent < 64; ++exponent) {
      const std::uint64_t power = std::uint64_t{1} << exponent;
      for (const std::uint64_t value : {power - 1, power, power + 1}) lengths.push_back(value);
    }
  }
  all.emplace_back(has_trace ? "prompt lengths of the trace" : "powers of two", std::move(lengths));
  return all;
}

// The rule of the seed systems: ascending, the element at the truncated index.
inline std::uint64_t exact_quantile(const Values& sorted, double share) {
  if (sorted.empty()) return 0;
  const auto at = static_cast<std::size_t>(share * static_cast<double>(sorted.size()));
  return sorted[std::min(at, sorted.size() - 1)];
}

}  // namespace rankbus::test
