// aggregator/analysis/prefix_metrics.hpp: the prefixes of a prefix cache, however many there are.
//
// Which are shared most (HeavyHitters: bounds that hold always), how many different ones were hit
// (DistinctCounter: exact up to 2,048, then within 0.82 % standard error), how long they are (exact
// mean of the latest 1,000 lookups; distribution of all by QuantileSketch). Merging is commutative;
// associative too, except for which rare prefixes stay in the table (heavy_hitters.hpp).
//
// A prefix is known by 64 bits: its hash where that is a number, else prefix_key(text).
//
// Memory: 64 KB heavy hitters + 16 KB distinct + 24 KB latest lengths + at most 30 KB distribution.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/cache_level.hpp>
#include <rankbus/aggregator/analysis/distinct_counter.hpp>
#include <rankbus/aggregator/analysis/heavy_hitters.hpp>
#include <rankbus/aggregator/analysis/quantile_sketch.hpp>
#include <stdexcept>
#include <string_view>

namespace rankbus {

// The key of a prefix whose hash is a text (FNV-1a, then mixed).
constexpr std::uint64_t prefix_key(std::string_view untrusted_hash) {
  std::uint64_t key = 0xCBF29CE484222325u;
  for (const char c : untrusted_hash) {
    key = (key ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  }
  return mix_key(key);
}

// The latest kLimit lookups by time, of all writers together; of equal times those that their
// writer saw last. That is an order of all lookups, so merging is associative and commutative.
class RecentLengths {
 public:
  static constexpr std::size_t kLimit = 1000;

  void add(std::int64_t time_ns, std::uint64_t length) { insert({time_ns, next_++, length}); }
  void aggregate(const RecentLengths& other) {
    const std::deque<Lookup> theirs = other.lookups_;
    for (const Lookup& lookup : theirs) insert(lookup);
    next_ = std::max(next_, other.next_);
  }
  bool is_empty() const { return lookups_.empty(); }
  double reduce() const { return mean(); }
  void reset() { *this = {}; }

  std::size_t count() const { return lookups_.size(); }
  double mean() const {
    double sum = 0;
    for (const Lookup& lookup : lookups_) sum += static_cast<double>(lookup.length);
    return lookups_.empty() ? 0 : sum / static_cast<double>(lookups_.size());
  }
  bool operator==(const RecentLengths&) const = default;

  // Reading throws where the bytes are no such list.
  template <class Archive>
  void serialize(Archive& archive) {
    archive(lookups_, next_);
    if constexpr (Archive::is_loading::value) {
      if (lookups_.size() > kLimit || !std::is_sorted(lookups_.begin(), lookups_.end())) {
        reset();
        throw std::runtime_error("stored recent lengths: too many, or not in their order");
      }
    }
  }

 private:
  struct Lookup {
    std::int64_t time_ns = 0;
    std::uint64_t number = 0;  // Of its writer's lookups.
    std::uint64_t length = 0;
    auto operator<=>(const Lookup&) const = default;

    template <class Archive>
    void serialize(Archive& archive) {
      archive(time_ns, number, length);
    }
  };

  void insert(const Lookup& lookup) {
    if (lookups_.size() >= kLimit && lookup <= lookups_.front()) return;
    // Nearly always at the end.
    lookups_.insert(std::upper_bound(lookups_.begin(), lookups_.end(), lookup), lookup);
    while (lookups_.size() > kLimit) lookups_.pop_front();
  }

  std::deque<Lookup> lookups_;  // Oldest first.
  std::uint64_t next_ = 0;
};

class PrefixTracker {
 public:
  using Shared = HeavyHitters<1024>;

  void observe_hit(std::int64_t now_ns, std::uint64_t prefix, std::uint64_t length) {
    shared_.add(prefix);
    distinct_.add(prefix);
    observe_length(now_ns, length);
  }
  void observe_miss(std::int64_t now_ns, std::uint64_t length) { observe_length(now_ns, length); }

  double average_length() const { return recent_.mean(); }
  // Hits per different prefix, 1 while there is none: how many times a prefix is worth keeping.
  double sharing_factor() const {
    const double distinct = distinct_.count();
    return distinct == 0 ? 1 : static_cast<double>(shared_.total()) / distinct;
  }
  // Hits of one prefix lie between lower(prefix) and upper(prefix) of it.
  const Shared& shared() const { return shared_; }
  const DistinctCounter& distinct() const { return distinct_; }
  const QuantileSketch& lengths() const { return lengths_; }

  void aggregate(const PrefixTracker& other) {
    shared_.aggregate(other.shared_);
    distinct_.aggregate(other.distinct_);
    lengths_.aggregate(other.lengths_);
    recent_.aggregate(other.recent_);
  }
  bool is_empty() const { return lengths_.is_empty(); }
  ReducedStats reduce() const {
    return {{"distinct_prefixes", distinct_.count()},
            {"sharing_factor", sharing_factor()},
            {"avg_prefix_length", average_length()}};
  }
  void reset() { *this = {}; }
  bool operator==(const PrefixTracker&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(shared_, distinct_, lengths_, recent_);
  }

 private:
  void observe_length(std::int64_t now_ns, std::uint64_t length) {
    lengths_.add(length);
    recent_.add(now_ns, length);
  }

  Shared shared_;
  DistinctCounter distinct_;
  QuantileSketch lengths_;
  RecentLengths recent_;
};

// What PrefixCacheMetrics::stats() tells.
struct PrefixCacheSummary {
  double hit_rate = 0;  // Of the window.
  double total_hit_rate = 0;
  double avg_prefix_length = 0;
  double sharing_factor = 1;
  double eviction_rate = 0;  // Events per second over 60 s.
  CacheStats cache_stats;
  CacheWindowStats window_stats;
};

// A prefix cache: the cache, and its prefixes.
class PrefixCacheMetrics {
 public:
  PrefixCacheMetrics() = default;
  explicit PrefixCacheMetrics(const CacheMetricsOptions& options) : cache_(options) {}

  HitCounts observe_prefix_hit(std::int64_t now_ns, std::uint64_t prefix, std::uint64_t length,
                               std::uint64_t bytes = 0, std::uint64_t latency_ns = 0) {
    prefixes_.observe_hit(now_ns, prefix, length);
    return cache_.observe_hit(now_ns, bytes, latency_ns);
  }
  HitCounts observe_prefix_miss(std::int64_t now_ns, std::uint64_t length, std::uint64_t bytes = 0,
                                std::uint64_t latency_ns = 0) {
    prefixes_.observe_miss(now_ns, length);
    return cache_.observe_miss(now_ns, bytes, latency_ns);
  }
  // A lookup of many blocks of one prefix, which counts once among prefixes: as a hit if any block
  // of it was found.
  void observe_blocks(const CacheEvent& hits, const CacheEvent& misses, std::uint64_t prefix,
                      std::uint64_t length) {
    if (hits.times > 0) {
      prefixes_.observe_hit(hits.time_ns, prefix, length);
    } else {
      prefixes_.observe_miss(misses.time_ns, length);
    }
    cache_.observe(hits);
    cache_.observe(misses);
  }
  void observe_preemption(std::int64_t now_ns, std::uint64_t num_blocks,
                          std::uint64_t bytes_freed = 0) {
    cache_.observe_eviction(now_ns, num_blocks, CacheEvictionReason::preemption, bytes_freed);
  }

  CacheMetrics& cache() { return cache_; }
  const CacheMetrics& cache() const { return cache_; }
  const PrefixTracker& prefixes() const { return prefixes_; }
  PrefixCacheSummary stats(std::int64_t now_ns) const {
    const CacheWindowStats window = cache_.window_stats(now_ns);
    return {window.hit_rate,
            cache_.total_hit_rate(),
            prefixes_.average_length(),
            prefixes_.sharing_factor(),
            cache_.eviction_rate(now_ns),
            cache_.stats(),
            window};
  }

  void aggregate(const PrefixCacheMetrics& other) {
    cache_.aggregate(other.cache_);
    prefixes_.aggregate(other.prefixes_);
  }
  bool is_empty() const { return cache_.is_empty() && prefixes_.is_empty(); }
  ReducedStats reduce() const {
    ReducedStats out = cache_.reduce();
    for (const auto& entry : prefixes_.reduce()) out.push_back(entry);
    return out;
  }
  void reset() {
    cache_.reset();
    prefixes_.reset();
  }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(cache_, prefixes_);
  }

 private:
  CacheMetrics cache_;
  PrefixTracker prefixes_;
};

static_assert(Accumulates<RecentLengths> && Accumulates<PrefixTracker>);
static_assert(Accumulates<PrefixCacheMetrics>);

}  // namespace rankbus
