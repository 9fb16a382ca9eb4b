// aggregator/observations.hpp: pooled observations, their mean and percentiles, to the last bit as
// the libraries compute them that vLLM uses.
//
// vLLM keeps every observation until it prints. Here count and sum are exact whatever comes, and
// the first kMaxSamples observations are kept as they came, so that everything is exact up to
// there; beyond, they are a uniform random sample of all.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace rankbus {

// Python's round(): the nearest decimal to the very value of the double, a tie to the even digit.
inline double round_as_python(double value, int digits) {
  if (!(std::abs(value) < 1e15)) return value;  // Has no such digits, or is no number.
  char text[40];
  const auto [end, error] =
      std::to_chars(text, text + sizeof text, value, std::chars_format::fixed, digits);
  double rounded = value;
  std::from_chars(text, end, rounded);
  return rounded;
}

// NumPy's, which scales first and so differs in the last digit now and then: 2.675 becomes 2.68,
// and 2.67 in Python. vLLM rounds some values so and some the other way.
inline double round_as_numpy(double value, int digits) {
  const double scale = std::pow(10.0, digits);
  const double scaled = std::nearbyint(value * scale);
  return std::isfinite(scaled) ? scaled / scale : value;
}

// A sum with the error of its additions (Neumaier), as math.fsum and, from Python 3.12 on, sum().
class CompensatedSum {
 public:
  void add(double value) {
    const double next = sum_ + value;
    if (std::abs(sum_) >= std::abs(value)) {
      error_ += (sum_ - next) + value;
    } else {
      error_ += (value - next) + sum_;
    }
    sum_ = next;
  }
  void add(const CompensatedSum& other) {
    add(other.sum_);
    error_ += other.error_;
  }
  // An infinite sum has no error that could be told.
  double value() const { return std::isfinite(error_) ? sum_ + error_ : sum_; }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(sum_, error_);
  }

 private:
  double sum_ = 0;
  double error_ = 0;
};

// In the order of NumPy's sum(), which is why a mean of few microseconds rounds as theirs does.
inline double pairwise_sum(std::span<const double> values) {
  constexpr std::size_t kLanes = 8;
  constexpr std::size_t kBlock = 128;
  if (values.size() > kBlock) {
    const std::size_t half = values.size() / 2 / kLanes * kLanes;
    return pairwise_sum(values.first(half)) + pairwise_sum(values.subspan(half));
  }
  double total = 0;
  std::size_t at = 0;
  if (values.size() >= kLanes) {
    double lane[kLanes] = {};
    for (; at + kLanes <= values.size(); at += kLanes) {
      for (std::size_t i = 0; i < kLanes; ++i) lane[i] += values[at + i];
    }
    total =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  }
  for (; at < values.size(); ++at) total += values[at];
  return total;
}

class Observations {
 public:
  // 800 KB a list: 10,000 observations a second in an interval of 10 s. Beyond, the 90th
  // percentile is that of a sample, whose rank is off by 0.1 percent of all (standard deviation).
  static constexpr std::size_t kMaxSamples = 100'000;

  // Ignores what is not finite, as the totals of a stream do. Returns whether it counted.
  bool add(double value) {
    if (!std::isfinite(value)) return false;
    ++count_;
    sum_.add(value);
    if (samples_.size() < kMaxSamples) {
      samples_.push_back(value);
    } else if (const std::uint64_t at = random_below(count_); at < kMaxSamples) {
      samples_[static_cast<std::size_t>(at)] = value;
    }
    return true;
  }

  void aggregate(const Observations& other) {
    if (samples_.size() + other.samples_.size() <= kMaxSamples) {
      samples_.reserve(samples_.size() + other.samples_.size());
      for (std::size_t i = 0, end = other.samples_.size(); i < end; ++i)
        samples_.push_back(other.samples_[i]);
    } else {
      merge_samples(other);
    }
    count_ += other.count_;
    sum_.add(CompensatedSum(other.sum_));
  }

  bool is_empty() const { return count_ == 0; }
  std::uint64_t count() const { return count_; }
  bool is_complete() const { return count_ == samples_.size(); }

  // The exact sum, rounded once.
  double sum() const { return sum_.value(); }
  // The sum as NumPy adds up, while every observation is there to be added.
  double numpy_sum() const { return is_complete() ? pairwise_sum(samples_) : sum(); }
  double mean() const { return is_empty() ? 0 : sum() / static_cast<double>(count_); }
  double numpy_mean() const { return is_empty() ? 0 : numpy_sum() / static_cast<double>(count_); }

  // numpy.percentile: between two ranks, in proportion. `share` is 0 to 1; 0 if there is none.
  double interpolated_percentile(double share) const {
    if (samples_.empty()) return 0;
    std::vector<double> sorted = samples_;
    const double rank = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(rank);
    const double part = rank - static_cast<double>(below);
    const double low = nth(sorted, below);
    const double high = below + 1 < sorted.size() ? nth(sorted, below + 1) : low;
    // Taken from the nearer end, as NumPy does, so that neither end is ever passed.
    return part < 0.5 ? low + (high - low) * part : high - (high - low) * (1 - part);
  }

  // One of the observations, by the rule of vLLM's Mooncake store.
  double nearest_rank_percentile(double share) const {
    if (samples_.empty()) return 0;
    std::vector<double> sorted = samples_;
    const double rank = share * static_cast<double>(sorted.size()) - 1e-12;
    const auto at = rank > 0 ? static_cast<std::size_t>(rank) : std::size_t{0};
    return nth(sorted, std::min(at, sorted.size() - 1));
  }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(samples_, count_, sum_, random_state_);
  }

 private:
  static double nth(std::vector<double>& values, std::size_t n) {
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(n);
    std::nth_element(values.begin(), at, values.end());
    return *at;
  }

  // Both are uniform samples of what they stand for; so is this of all: each draw comes from one
  // side with the chance that a draw from everything would.
  void merge_samples(const Observations& other) {
    std::vector<double> mine = std::move(samples_);
    std::vector<double> theirs = &other == this ? mine : other.samples_;
    std::uint64_t mine_left = count_;
    std::uint64_t theirs_left = other.count_;
    samples_.clear();
    samples_.reserve(kMaxSamples);
    while (samples_.size() < kMaxSamples) {
      const bool from_mine = random_below(mine_left + theirs_left) < mine_left;
      --(from_mine ? mine_left : theirs_left);
      std::vector<double>& from = from_mine ? mine : theirs;
      double& drawn = from[static_cast<std::size_t>(random_below(from.size()))];
      samples_.push_back(drawn);
      drawn = from.back();
      from.pop_back();
    }
  }

  // splitmix64: always the same numbers, so that a run can be repeated.
  std::uint64_t random_below(std::uint64_t limit) {
    random_state_ += 0x9E3779B97F4A7C15u;
    std::uint64_t mixed = random_state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    return (mixed ^ (mixed >> 31)) % limit;
  }

  std::vector<double> samples_;
  std::uint64_t count_ = 0;
  CompensatedSum sum_;
  std::uint64_t random_state_ = 0;
};

}  // namespace rankbus
