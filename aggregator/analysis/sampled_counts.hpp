// aggregator/analysis/sampled_counts.hpp: what a sample says about all blocks, and how surely.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <rankbus/aggregator/analysis/residency_config.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <vector>

namespace rankbus::analysis {

struct Estimate {
  double value = 0;
  // Two standard errors: the truth is within in about 95 of 100 cases; in 91 where 40 blocks were
  // sampled and a tenth of all is twenty times as busy as the rest.
  double error = 0;
  double low = 0;  // Never below what was seen.
  double high = 0;
};

// Counts events of sampled blocks. Events of one block are sampled together or not at all, so the
// error follows the squares of the counts of each block: a thousand events of one block say less
// than one event each of a thousand. Blocks share kParts places by hash (32 KB), which can only
// make the stated error too large.
class SampledCounts {
 public:
  static constexpr std::size_t kParts = 4096;

  void add(std::uint64_t block_id, std::uint64_t count = 1) {
    if (parts_.empty()) parts_.resize(kParts);
    // Other bits than those that chose the sample.
    add_saturating(parts_[static_cast<std::size_t>(mix_bits(mix_bits(block_id)) % kParts)], count);
  }
  void aggregate(const SampledCounts& other) {
    if (other.parts_.empty()) return;
    parts_.resize(kParts);
    for (std::size_t i = 0; i < kParts; ++i) add_saturating(parts_[i], other.parts_[i]);
  }

  std::uint64_t count() const {
    std::uint64_t total = 0;
    for (const std::uint64_t part : parts_) add_saturating(total, part);
    return total;
  }

  // Of all blocks: the count divided by the rate, with the error of Horvitz and Thompson.
  Estimate of_all(double sample_rate) const {
    double squares = 0;
    for (const std::uint64_t part : parts_) {
      squares += static_cast<double>(part) * static_cast<double>(part);
    }
    const auto seen = static_cast<double>(count());
    Estimate estimate;
    estimate.value = seen / sample_rate;
    estimate.error = 2 * std::sqrt((1 - sample_rate) * squares) / sample_rate;
    // Nothing seen is no proof of nothing: with 3 / rate blocks, one in 20 samples has none.
    if (seen == 0 && sample_rate < 1) estimate.error = 3 / sample_rate;
    estimate.low = std::max(seen, estimate.value - estimate.error);
    estimate.high = estimate.value + estimate.error;
    return estimate;
  }

  friend bool operator==(const SampledCounts&, const SampledCounts&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(parts_);
    if (!parts_.empty()) parts_.resize(kParts);
  }

 private:
  std::vector<std::uint64_t> parts_;  // Empty until something is counted.
};

}  // namespace rankbus::analysis
