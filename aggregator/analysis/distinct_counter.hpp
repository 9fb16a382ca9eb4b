// aggregator/analysis/distinct_counter.hpp: how many different keys there were.
//
// Exact up to kExactLimit keys; from there on HyperLogLog over 2^14 registers, whose standard error
// is kStandardError of the count (Ertl's estimator, which needs no correction tables and has no gap
// between small and large counts). The state follows from the set of keys alone, so merging is
// exactly associative, commutative and idempotent: a key seen by two ranks counts once.
//
// Memory: 16 KB. Who can choose keys freely can bend the estimate; keys of the bus are keyed
// hashes.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <rankbus/aggregator/accumulates.hpp>
#include <stdexcept>
#include <vector>

namespace rankbus {

// Neighbouring numbers become unrelated ones (the finalizer of splitmix64), one to one.
constexpr std::uint64_t mix_key(std::uint64_t key) {
  key += 0x9E3779B97F4A7C15u;
  key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
  key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
  return key ^ (key >> 31);
}

class DistinctCounter {
 public:
  static constexpr std::size_t kExactLimit = 2048;
  static constexpr double kStandardError = 0.0082;  // 1.04 / sqrt(2^14), rounded up.

  void add(std::uint64_t key) {
    const std::uint64_t hash = mix_key(key);
    if (!registers_.empty()) return note(hash);
    const auto place = std::lower_bound(hashes_.begin(), hashes_.end(), hash);
    if (place != hashes_.end() && *place == hash) return;
    hashes_.insert(place, hash);
    if (hashes_.size() > kExactLimit) estimate_from_now_on();
  }

  void aggregate(const DistinctCounter& other) {
    if (&other == this) return;
    if (registers_.empty() && !other.registers_.empty()) estimate_from_now_on();
    if (!registers_.empty()) {
      for (const std::uint64_t hash : other.hashes_) note(hash);
      for (std::size_t i = 0; i < other.registers_.size(); ++i) {
        registers_[i] = std::max(registers_[i], other.registers_[i]);
      }
      return;
    }
    std::vector<std::uint64_t> both;
    both.reserve(hashes_.size() + other.hashes_.size());
    std::set_union(hashes_.begin(), hashes_.end(), other.hashes_.begin(), other.hashes_.end(),
                   std::back_inserter(both));
    hashes_ = std::move(both);
    if (hashes_.size() > kExactLimit) estimate_from_now_on();
  }
  bool is_empty() const { return hashes_.empty() && registers_.empty(); }
  bool is_exact() const { return registers_.empty(); }
  double reduce() const { return count(); }
  void reset() { *this = {}; }

  double count() const { return is_exact() ? static_cast<double>(hashes_.size()) : estimate(); }

  bool operator==(const DistinctCounter&) const = default;

  // Reading throws where the bytes are no such counter.
  template <class Archive>
  void serialize(Archive& archive) {
    archive(hashes_, registers_);
    if constexpr (Archive::is_loading::value) {
      const bool is_sound =
          hashes_.size() <= kExactLimit && std::is_sorted(hashes_.begin(), hashes_.end()) &&
          (registers_.empty() || (registers_.size() == kRegisters && hashes_.empty())) &&
          std::all_of(registers_.begin(), registers_.end(), [](auto r) { return r <= kMaxRank; });
      if (!is_sound) {
        reset();
        throw std::runtime_error("stored distinct counter: neither a set nor registers");
      }
    }
  }

 private:
  static constexpr int kIndexBits = 14;
  static constexpr std::size_t kRegisters = std::size_t{1} << kIndexBits;
  static constexpr int kMaxRank = 64 - kIndexBits + 1;

  // The top bits choose a register, which keeps the longest run of zeros behind them, plus one.
  void note(std::uint64_t hash) {
    std::uint8_t& kept = registers_[static_cast<std::size_t>(hash >> (64 - kIndexBits))];
    const int rank = std::min(std::countl_zero(hash << kIndexBits) + 1, kMaxRank);
    kept = std::max(kept, static_cast<std::uint8_t>(rank));
  }
  void estimate_from_now_on() {
    registers_.assign(kRegisters, 0);
    for (const std::uint64_t hash : hashes_) note(hash);
    std::vector<std::uint64_t>().swap(hashes_);  // Its memory too.
  }

  // O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017.
  double estimate() const {
    constexpr auto kAll = static_cast<double>(kRegisters);
    std::array<double, kMaxRank + 1> how_many{};
    for (const std::uint8_t rank : registers_) ++how_many[rank];
    double z = kAll * tau(1 - how_many[kMaxRank] / kAll);
    for (std::size_t rank = kMaxRank - 1; rank >= 1; --rank) z = 0.5 * (z + how_many[rank]);
    z += kAll * sigma(how_many[0] / kAll);
    return kAll * kAll / (2 * std::log(2.0)) / z;
  }
  // x + sum of x^(2^k) 2^(k-1): the share of registers that nothing has touched.
  static double sigma(double x) {
    if (x == 1) return std::numeric_limits<double>::infinity();
    double weight = 1;
    double sum = x;
    for (double before = -1; sum != before; weight += weight) {
      x *= x;
      before = sum;
      sum += x * weight;
    }
    return sum;
  }
  // The same for registers that are full.
  static double tau(double x) {
    if (x == 0 || x == 1) return 0;
    double weight = 1;
    double sum = 1 - x;
    for (double before = -1; sum != before;) {
      x = std::sqrt(x);
      before = sum;
      weight *= 0.5;
      sum -= (1 - x) * (1 - x) * weight;
    }
    return sum / 3;
  }

  std::vector<std::uint64_t> hashes_;    // Sorted; empty once there are too many.
  std::vector<std::uint8_t> registers_;  // Empty until then.
};

static_assert(Accumulates<DistinctCounter>);

}  // namespace rankbus
