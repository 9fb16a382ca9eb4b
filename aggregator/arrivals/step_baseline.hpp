// aggregator/arrivals/step_baseline.hpp: how long a step of this engine usually takes, for what was
// in its batch, so that "slow for its batch" is told from "big batch".
//
// Batches are sorted into classes by the powers of two of their prefill tokens and of their
// decoding sequences; each class remembers the intervals of its steps, in cells of 2^(1/8). Every
// kMemory steps what it remembers weighs half, so that a baseline follows a change of the model or
// of its settings, but not the first minutes of a fault. Bounds: kMaxClasses of 1.2 KiB; a class is
// forgotten for a new one when it was used the longest ago.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

namespace rankbus {

struct BatchShape {
  std::uint64_t prefill_tokens = 0;
  std::uint64_t decode_sequences = 0;
};

class StepBaseline {
 public:
  static constexpr std::uint32_t kMemory = 4096;
  static constexpr std::uint32_t kMinSteps = 32;  // Fewer make no baseline.
  static constexpr std::size_t kMaxClasses = 128;

  // Of steps with such a batch: the median interval, to 2^(1/16); nothing before there were enough.
  std::optional<std::uint64_t> median_ns(const BatchShape& batch) const {
    const auto found = classes_.find(class_of(batch));
    if (found == classes_.end() || found->second.steps < kMinSteps) return std::nullopt;
    std::uint64_t seen = 0;
    for (std::size_t cell = 0; cell < kCells; ++cell) {
      seen += found->second.cells[cell];
      if (2 * seen >= found->second.steps) return middle_ns(cell);
    }
    return std::nullopt;
  }

  void add(const BatchShape& batch, std::uint64_t interval_ns) {
    const auto key = class_of(batch);
    if (classes_.size() >= kMaxClasses && !classes_.contains(key)) forget_one();
    Class& of = classes_[key];
    of.used = ++uses_;
    ++of.cells[cell_of(interval_ns)];
    if (++of.steps < kMemory) return;
    of.steps = 0;
    for (std::uint32_t& cell : of.cells) of.steps += cell /= 2;
  }

  std::size_t classes() const { return classes_.size(); }

 private:
  // From a microsecond to 70 minutes; what is outside is in the cells at the ends.
  static constexpr int kFirstPower = 10;
  static constexpr std::size_t kCells = 256;
  using Key = std::pair<int, int>;

  struct Class {
    std::array<std::uint32_t, kCells> cells{};
    std::uint32_t steps = 0;
    std::uint64_t used = 0;
  };

  static Key class_of(const BatchShape& batch) {
    return {static_cast<int>(std::bit_width(batch.prefill_tokens)),
            static_cast<int>(std::bit_width(batch.decode_sequences))};
  }
  // Eighths of a power of two, cut evenly instead of by equal ratios: within 2^(1/8) as well.
  static std::size_t cell_of(std::uint64_t ns) {
    const int power = static_cast<int>(std::bit_width(ns | 1)) - 1;
    if (power < kFirstPower) return 0;
    const std::uint64_t eighth = (ns >> (power - 3)) & 7;
    const std::size_t cell = static_cast<std::size_t>(power - kFirstPower) * 8 + eighth;
    return cell < kCells ? cell : kCells - 1;
  }
  static std::uint64_t middle_ns(std::size_t cell) {
    const int power = kFirstPower + static_cast<int>(cell / 8);
    const std::uint64_t eighth = std::uint64_t{1} << (power - 3);
    return (std::uint64_t{1} << power) + (cell % 8) * eighth + eighth / 2;
  }
  void forget_one() {
    auto oldest = classes_.begin();
    for (auto at = classes_.begin(); at != classes_.end(); ++at) {
      if (at->second.used < oldest->second.used) oldest = at;
    }
    classes_.erase(oldest);
  }

  std::map<Key, Class> classes_;
  std::uint64_t uses_ = 0;
};

}  // namespace rankbus
