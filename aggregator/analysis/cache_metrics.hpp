// aggregator/analysis/cache_metrics.hpp: the caches of an engine, level by level and together.
//
// A level appears when it is first named: prefix, block, kv, encoder, or a user's own name. All
// share the settings of the whole. Rates over levels and ranks come from summed counts, never from
// rates. CACHES.md has the formulas, what they leave out, and the bounds.
//
// Memory: what cache_level.hpp says, times kMaxLevels at most; further names share `other`.
//
// Values that cereal can store: include its headers of array, deque, map, optional, string and
// vector. Reading bytes that cannot be throws std::runtime_error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/cache_level.hpp>
#include <rankbus/aggregator/analysis/prefix_metrics.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

namespace rankbus {

struct MemoryPressure {
  double pressure = 0;           // 0.7 x utilization + 0.3 x eviction_pressure, 0 to 1.
  double utilization = 0;        // Sum of sizes / sum of capacities, 0 to 1.
  double eviction_pressure = 0;  // min(1, evictions per second over 60 s / 100).
  // A level without a known capacity took part with its past peak, which says less.
  bool is_relative_to_peak = false;
};

class MultiLevelCacheMetrics {
 public:
  static constexpr std::size_t kMaxLevels = 16;

  MultiLevelCacheMetrics() = default;
  explicit MultiLevelCacheMetrics(const CacheMetricsOptions& options)
      : options_(options), prefix_(options) {}

  // Made on first use. A name beyond kMaxLevels is `other`.
  CacheMetrics& level(CacheType type) { return level(name_of(type)); }
  CacheMetrics& level(std::string_view untrusted_name);
  const CacheMetrics* find(std::string_view name) const;
  const CacheMetrics* find(CacheType type) const { return find(name_of(type)); }
  // The level `prefix` with its prefixes.
  PrefixCacheMetrics& prefix();
  const PrefixCacheMetrics& prefix() const { return prefix_; }

  HitCounts observe_hit(CacheType type, std::int64_t now_ns, std::uint64_t bytes = 0,
                        std::uint64_t latency_ns = 0) {
    return level(type).observe_hit(now_ns, bytes, latency_ns);
  }
  HitCounts observe_miss(CacheType type, std::int64_t now_ns, std::uint64_t bytes = 0,
                         std::uint64_t latency_ns = 0) {
    return level(type).observe_miss(now_ns, bytes, latency_ns);
  }

  // Calls each(name, cache) for the levels that exist, by name.
  template <class Each>
  void for_each_level(Each&& each) const {
    bool prefix_is_told = !has_prefix_;
    for (const auto& [name, cache] : levels_) {
      if (!prefix_is_told && name_of(CacheType::prefix) < name) {
        each(std::string(name_of(CacheType::prefix)), prefix_.cache());
        prefix_is_told = true;
      }
      each(name, cache);
    }
    if (!prefix_is_told) each(std::string(name_of(CacheType::prefix)), prefix_.cache());
  }
  std::map<std::string, CacheStats> all_stats() const;
  // Lifetime hits of all levels / lifetime lookups of all levels, 0 if none.
  double combined_hit_rate() const;
  MemoryPressure memory_pressure(std::int64_t now_ns) const;

  void aggregate(const MultiLevelCacheMetrics& other);
  bool is_empty() const;
  ReducedStats reduce() const;  // NAME_hits and so on, of every level.
  void reset() { *this = MultiLevelCacheMetrics(options_); }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(options_, has_prefix_, prefix_, levels_);
    if constexpr (Archive::is_loading::value) {
      if (levels_.size() >= kMaxLevels || levels_.count(std::string(name_of(CacheType::prefix)))) {
        *this = {};
        throw std::runtime_error("stored caches: more levels than there can be");
      }
    }
  }

 private:
  friend class MergedCachePeaks;

  CacheMetricsOptions options_;
  bool has_prefix_ = false;
  PrefixCacheMetrics prefix_;
  std::map<std::string, CacheMetrics> levels_;  // All but prefix.
};

// The peak of a merged level is the highest sum of sizes that was ever seen, not the sum of peaks
// that parts had at different times. Whoever merges ranks anew in each pass keeps one of these and
// shows it each merged value.
class MergedCachePeaks {
 public:
  void sample(MultiLevelCacheMetrics& merged);

  template <class Archive>
  void serialize(Archive& archive) {
    archive(peaks_bytes_);
  }

 private:
  std::map<std::string, std::uint64_t> peaks_bytes_;  // At most kMaxLevels.
};

static_assert(Accumulates<MultiLevelCacheMetrics>);

// The dictionaries of the seed systems, key for key, further keys behind theirs. Durations that are
// infinite are null.
nlohmann::ordered_json as_dict(const CacheStats& stats);
nlohmann::ordered_json as_dict(const CacheWindowStats& stats);
nlohmann::ordered_json as_dict(const PrefixCacheSummary& summary);
// The most shared prefixes, the number of different ones, and the distribution of lengths.
nlohmann::ordered_json as_dict(const PrefixTracker& prefixes, std::size_t how_many = 10);
// One level: totals, window, evictions by reason, efficiency, forecasts.
nlohmann::ordered_json summary(const CacheMetrics& cache, std::int64_t now_ns);
// All levels, the prefixes, the combined hit rate and the memory pressure.
nlohmann::ordered_json summary(const MultiLevelCacheMetrics& caches, std::int64_t now_ns);

}  // namespace rankbus
