// aggregator/analysis/bounded_values.hpp: sums and maps that come out the same in whatever order
// their parts arrive, and whose size nobody else decides.
#pragma once

#include <cmath>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace rankbus::analysis {

// A sum of amounts in whole millionths (nanoseconds, where the amounts are milliseconds). A sum of
// doubles would depend on the order of its parts; this one does not.
class MicroSum {
 public:
  // What a single amount may be: finite, and not negative.
  static bool takes(double amount) { return std::isfinite(amount) && amount >= 0; }

  void add(double amount) { add_saturating(millionths_, millionths_of(amount)); }
  void add(const MicroSum& other) { add_saturating(millionths_, other.millionths_); }
  // For amounts of which the largest counts.
  void raise_to(double amount) { raise_to(MicroSum(amount)); }
  void raise_to(const MicroSum& other) {
    if (millionths_ < other.millionths_) millionths_ = other.millionths_;
  }

  MicroSum() = default;
  double value() const { return static_cast<double>(millionths_) / 1e6; }

  friend auto operator<=>(const MicroSum&, const MicroSum&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(millionths_);
  }

 private:
  explicit MicroSum(double amount) : millionths_(millionths_of(amount)) {}

  static std::uint64_t millionths_of(double amount) {
    const double scaled = std::round(amount * 1e6);
    constexpr double kLimit = 18446744073709551615.0;
    return scaled < kLimit ? static_cast<std::uint64_t>(scaled)
                           : std::numeric_limits<std::uint64_t>::max();
  }

  std::uint64_t millionths_ = 0;
};

// Counts by name: at most kMaxKeys names, the first by their letters; what further names count is
// `other`. Which names those are depends on the names alone, so the order of merges does not show.
class NamedCounts {
 public:
  void add(std::string_view name, std::uint64_t count) {
    auto at = counts_.find(name);
    if (at == counts_.end()) at = counts_.emplace(std::string(name), 0).first;
    add_saturating(at->second, count);
    if (counts_.size() <= kMaxKeys) return;
    const auto last = std::prev(counts_.end());
    add_saturating(other_, last->second);
    counts_.erase(last);
  }
  void aggregate(const NamedCounts& from) {
    const std::uint64_t other = from.other_;
    const std::map<std::string, std::uint64_t, std::less<>> counts = from.counts_;
    for (const auto& [name, count] : counts) add(name, count);
    add_saturating(other_, other);
  }

  bool is_empty() const { return counts_.empty(); }
  // Sorted by name, with `other` among them where it counts anything.
  std::map<std::string, std::uint64_t, std::less<>> by_name() const {
    auto all = counts_;
    if (other_ > 0) add_saturating(all["other"], other_);
    return all;
  }
  std::uint64_t sum() const {
    std::uint64_t total = other_;
    for (const auto& [name, count] : counts_) add_saturating(total, count);
    return total;
  }

  friend auto operator<=>(const NamedCounts&, const NamedCounts&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(counts_, other_);
  }

 private:
  std::map<std::string, std::uint64_t, std::less<>> counts_;
  std::uint64_t other_ = 0;
};

}  // namespace rankbus::analysis
