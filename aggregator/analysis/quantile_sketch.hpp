// aggregator/analysis/quantile_sketch.hpp: quantiles of any number of integers in bounded memory.
//
// Every value falls into one bucket, by its exponent and its top six mantissa bits: below 128 a
// bucket holds one value, above it is at most 1/64 wide in proportion. quantile() is therefore off
// by at most kRelativeError of the value that sorting would have found there; count, sum, mean, min
// and max are exact. Buckets are integers found by integer arithmetic and cover all 64 bits, so
// nothing is ever collapsed and merging is exactly associative and commutative, on every machine.
//
// Memory: 8 bytes a bucket between the smallest and the largest value seen, at most 30,208. A value
// costs a few nanoseconds, a merge or a quantile at most kBuckets steps.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <stdexcept>
#include <vector>

namespace rankbus {

class QuantileSketch {
 public:
  static constexpr double kRelativeError = 1.0 / 129;
  static constexpr std::size_t kBuckets = 128 + 57 * 64;

  void add(std::uint64_t value, std::uint64_t times = 1) {
    if (times == 0) return;
    add_saturating(at(bucket_of(value)), times);
    add_saturating(count_, times);
    add_to_sum(static_cast<Wide>(value) * times);
    min_ = std::min(min_, value);
    max_ = std::max(max_, value);
  }

  void aggregate(const QuantileSketch& other) {
    if (other.is_empty()) return;
    // Both ends first, so that no cell moves while cells are read: `other` may be this one.
    const std::size_t first = other.first_;
    const std::size_t cells = other.counts_.size();
    at(first);
    at(first + cells - 1);
    for (std::size_t i = 0; i < cells; ++i) {
      add_saturating(counts_[first - first_ + i], other.counts_[i]);
    }
    add_saturating(count_, other.count_);
    add_to_sum(other.sum_);
    min_ = std::min(min_, other.min_);
    max_ = std::max(max_, other.max_);
  }
  bool is_empty() const { return count_ == 0; }
  ReducedStats reduce() const {
    return {{"count", count_},
            {"mean", mean()},
            {"p50", quantile(0.5)},
            {"p90", quantile(0.9)},
            {"p99", quantile(0.99)},
            {"min", is_empty() ? 0 : min_},
            {"max", is_empty() ? 0 : max_}};
  }
  void reset() { *this = {}; }

  std::uint64_t count() const { return count_; }
  std::uint64_t min() const { return is_empty() ? 0 : min_; }
  std::uint64_t max() const { return max_; }
  double sum() const { return static_cast<double>(sum_); }
  double mean() const { return is_empty() ? 0 : sum() / static_cast<double>(count_); }

  // Near the element that stands at index trunc(share * count) of all values in ascending order, or
  // at the last one: the rule of the seed systems, without interpolation. 0 if there is none.
  double quantile(double share) const {
    if (is_empty()) return 0;
    const double rank = share * static_cast<double>(count_);
    std::uint64_t below = rank > 0 ? count_ - 1 : 0;
    if (rank > 0 && rank < static_cast<double>(below)) below = static_cast<std::uint64_t>(rank);
    std::size_t cell = 0;
    while (cell + 1 < counts_.size() && below >= counts_[cell]) below -= counts_[cell++];
    return std::clamp(middle_of(first_ + cell), static_cast<double>(min_),
                      static_cast<double>(max_));
  }

  // Calls each(lower, upper, count) for every bucket that holds a value, both bounds inclusive, in
  // ascending order.
  template <class Each>
  void for_each_bucket(Each&& each) const {
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      if (counts_[i] != 0) each(lower_of(first_ + i), upper_of(first_ + i), counts_[i]);
    }
  }

  // What exporters show as a histogram: buckets up to 0, 1, 3, 7, ... 2^k - 1, where k is the first
  // that holds the maximum. Exact, because no bucket of the sketch lies across these bounds.
  Histogram histogram() const {
    auto bounds = std::make_shared<std::vector<double>>();
    Histogram out;
    if (!is_empty()) {
      const auto octaves = static_cast<std::size_t>(std::bit_width(max_));
      for (std::size_t k = 0; k <= octaves; ++k) {
        bounds->push_back(
            static_cast<double>(k == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << k) - 1));
      }
      out.counts.assign(octaves + 2, 0);
      for_each_bucket([&](std::uint64_t lower, std::uint64_t, std::uint64_t count) {
        add_saturating(out.counts[static_cast<std::size_t>(std::bit_width(lower))], count);
      });
    } else {
      out.counts.assign(1, 0);
    }
    out.bounds = std::move(bounds);
    out.sum = sum();
    return out;
  }

  bool operator==(const QuantileSketch&) const = default;

  // Reading throws where the bytes are no sketch: its indexes must not be believed.
  template <class Archive>
  void serialize(Archive& archive) {
    auto high = static_cast<std::uint64_t>(sum_ >> 64);
    auto low = static_cast<std::uint64_t>(sum_);
    std::uint64_t first = first_;
    archive(first, counts_, count_, high, low, min_, max_);
    if constexpr (Archive::is_loading::value) {
      sum_ = (static_cast<Wide>(high) << 64) | low;
      first_ = static_cast<std::size_t>(first);
      const bool fits = counts_.size() <= kBuckets && first <= kBuckets - counts_.size();
      if (!fits || counts_.empty() != (count_ == 0)) {
        reset();
        throw std::runtime_error("stored quantile sketch: buckets outside of its range");
      }
    }
  }

  static constexpr std::size_t bucket_of(std::uint64_t value) {
    if (value < kExact) return static_cast<std::size_t>(value);
    const auto exponent = static_cast<int>(std::bit_width(value)) - 1;
    return kExact + static_cast<std::size_t>(exponent - 7) * kPerOctave +
           static_cast<std::size_t>((value >> (exponent - 6)) - kPerOctave);
  }
  static constexpr std::uint64_t lower_of(std::size_t bucket) {
    if (bucket < kExact) return bucket;
    return (kPerOctave + (bucket - kExact) % kPerOctave) << shift_of(bucket);
  }
  static constexpr std::uint64_t upper_of(std::size_t bucket) {
    if (bucket < kExact) return bucket;
    return lower_of(bucket) + ((std::uint64_t{1} << shift_of(bucket)) - 1);
  }

 private:
  __extension__ typedef unsigned __int128 Wide;

  static constexpr std::uint64_t kExact = 128;
  static constexpr std::uint64_t kPerOctave = 64;

  static constexpr std::size_t shift_of(std::size_t bucket) {
    return 1 + (bucket - kExact) / kPerOctave;
  }

  // The value whose distance to both ends is the same in proportion.
  static double middle_of(std::size_t bucket) {
    const auto lower = static_cast<double>(lower_of(bucket));
    const auto upper = static_cast<double>(upper_of(bucket));
    return lower == upper ? lower : lower + (upper - lower) * (lower / (lower + upper));
  }

  // The count of a bucket, the range widened exactly as far as needed: equal contents then mean
  // equal sketches.
  std::uint64_t& at(std::size_t bucket) {
    if (counts_.empty()) {
      first_ = bucket;
      counts_.push_back(0);
    } else if (bucket < first_) {
      make_room(first_ - bucket);
      counts_.insert(counts_.begin(), first_ - bucket, 0);
      first_ = bucket;
    } else if (bucket - first_ >= counts_.size()) {
      make_room(bucket - first_ + 1 - counts_.size());
      counts_.resize(bucket - first_ + 1);
    }
    return counts_[bucket - first_];
  }
  // A vector left to itself would take up to twice what there can be.
  void make_room(std::size_t more) {
    const std::size_t needed = counts_.size() + more;
    if (needed <= counts_.capacity()) return;
    counts_.reserve(std::min(kBuckets, std::max(needed, 2 * counts_.capacity())));
  }
  void add_to_sum(Wide value) {
    if (__builtin_add_overflow(sum_, value, &sum_)) sum_ = ~Wide{0};
  }

  std::size_t first_ = 0;  // Bucket of counts_[0].
  std::vector<std::uint64_t> counts_;
  std::uint64_t count_ = 0;
  Wide sum_ = 0;
  std::uint64_t min_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t max_ = 0;
};

static_assert(Accumulates<QuantileSketch>);
static_assert(QuantileSketch::bucket_of(~std::uint64_t{0}) == QuantileSketch::kBuckets - 1);
static_assert(QuantileSketch::upper_of(QuantileSketch::kBuckets - 1) == ~std::uint64_t{0});

}  // namespace rankbus
