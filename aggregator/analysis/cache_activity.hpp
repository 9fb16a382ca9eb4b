// aggregator/analysis/cache_activity.hpp: what happens to a cache, and what is told of it.
//
// CacheActivity adds up events; it is what a slot of a window holds and what a lifetime holds. It
// Accumulates, and as all of it is integers, merging is exactly associative and commutative.
// Times are nanoseconds of one monotonic clock, as in sliding_window.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/quantile_sketch.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <string_view>

namespace rankbus {

// The levels that have a name from the beginning; a level of any other name is a user's.
enum class CacheType : std::uint8_t { prefix = 1, block, kv, encoder };
inline constexpr std::array<std::string_view, 4> kCacheTypeNames = {"prefix", "block", "kv",
                                                                    "encoder"};
constexpr std::string_view name_of(CacheType type) {
  return kCacheTypeNames[static_cast<std::size_t>(type) - 1];
}

// `other`: a reason that somebody gave and nobody here knows.
enum class CacheEvictionReason : std::uint8_t {
  other,
  lru,
  memory_pressure,
  explicit_request,
  ttl_expired,
  preemption
};
inline constexpr std::array<std::string_view, 6> kEvictionReasonNames = {
    "other", "lru", "memory_pressure", "explicit", "ttl_expired", "preemption"};
constexpr std::string_view name_of(CacheEvictionReason reason) {
  return kEvictionReasonNames[static_cast<std::size_t>(reason)];
}
// The text comes from a producer: what is no name of ours is `other`.
constexpr CacheEvictionReason reason_of_untrusted(std::string_view name) {
  const auto at = std::find(kEvictionReasonNames.begin(), kEvictionReasonNames.end(), name);
  if (at == kEvictionReasonNames.end()) return CacheEvictionReason::other;
  return static_cast<CacheEvictionReason>(at - kEvictionReasonNames.begin());
}
constexpr CacheEvictionReason reason_of_untrusted(std::uint64_t number) {
  if (number >= kEvictionReasonNames.size()) return CacheEvictionReason::other;
  return static_cast<CacheEvictionReason>(number);
}

// A latency of 0 was not measured. `times` lookups of one kind may come as one event; `bytes` are
// those of all of them, `latency_ns` that of each.
struct CacheEvent {
  std::int64_t time_ns = 0;
  bool is_hit = false;
  std::uint64_t bytes = 0;
  std::uint64_t latency_ns = 0;
  std::uint64_t times = 1;

  static CacheEvent hit(std::int64_t time_ns, std::uint64_t bytes = 0,
                        std::uint64_t latency_ns = 0) {
    return {time_ns, true, bytes, latency_ns};
  }
  static CacheEvent miss(std::int64_t time_ns, std::uint64_t bytes = 0,
                         std::uint64_t latency_ns = 0) {
    return {time_ns, false, bytes, latency_ns};
  }
};

struct EvictionEvent {
  std::int64_t time_ns = 0;
  std::uint64_t num_blocks = 0;
  CacheEvictionReason reason = CacheEvictionReason::lru;
  std::uint64_t bytes_freed = 0;
  std::uint64_t latency_ns = 0;
};

constexpr double ratio_or(double none, std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? none : static_cast<double>(part) / static_cast<double>(whole);
}
// hits / (hits + misses), 0 if there are none. In doubles, because counts of strangers may be any
// 64 bits and their sum more.
constexpr double hit_rate_of(std::uint64_t hits, std::uint64_t misses) {
  const double all = static_cast<double>(hits) + static_cast<double>(misses);
  return all == 0 ? 0 : static_cast<double>(hits) / all;
}

struct CacheActivity {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t hit_bytes = 0;
  std::uint64_t miss_bytes = 0;
  std::uint64_t written_bytes = 0;
  // When the first and the last lookup were.
  std::int64_t first_lookup_ns = std::numeric_limits<std::int64_t>::max();
  std::int64_t last_lookup_ns = std::numeric_limits<std::int64_t>::min();
  QuantileSketch lookup_ns;  // Those that were measured, hits and misses.

  std::array<std::uint64_t, kEvictionReasonNames.size()> evictions{};  // Events, by reason.
  std::uint64_t evicted_blocks = 0;
  std::uint64_t freed_bytes = 0;
  QuantileSketch eviction_ns;
  // Of the evicted blocks that somebody followed, and of those the ones nobody had asked for.
  std::uint64_t followed_blocks = 0;
  std::uint64_t unused_blocks = 0;

  void add(const CacheEvent& event) {
    if (event.times == 0) return;
    add_saturating(event.is_hit ? hits : misses, event.times);
    add_saturating(event.is_hit ? hit_bytes : miss_bytes, event.bytes);
    if (event.latency_ns > 0) lookup_ns.add(event.latency_ns, event.times);
    first_lookup_ns = std::min(first_lookup_ns, event.time_ns);
    last_lookup_ns = std::max(last_lookup_ns, event.time_ns);
  }
  void add(const EvictionEvent& event) {
    add_saturating(evictions[static_cast<std::size_t>(event.reason)], 1);
    add_saturating(evicted_blocks, event.num_blocks);
    add_saturating(freed_bytes, event.bytes_freed);
    if (event.latency_ns > 0) eviction_ns.add(event.latency_ns);
  }

  std::uint64_t lookups() const {
    std::uint64_t sum = hits;
    add_saturating(sum, misses);
    return sum;
  }
  std::uint64_t all_evictions() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t events : evictions) add_saturating(sum, events);
    return sum;
  }
  double hit_rate() const { return hit_rate_of(hits, misses); }

  void aggregate(const CacheActivity& other) {
    for (const auto field : counts()) add_saturating(this->*field, other.*field);
    for (std::size_t i = 0; i < evictions.size(); ++i) {
      add_saturating(evictions[i], other.evictions[i]);
    }
    first_lookup_ns = std::min(first_lookup_ns, other.first_lookup_ns);
    last_lookup_ns = std::max(last_lookup_ns, other.last_lookup_ns);
    lookup_ns.aggregate(other.lookup_ns);
    eviction_ns.aggregate(other.eviction_ns);
  }
  bool is_empty() const { return *this == CacheActivity{}; }
  ReducedStats reduce() const {
    return {{"hits", hits},
            {"misses", misses},
            {"hit_rate", hit_rate()},
            {"evictions", all_evictions()},
            {"evicted_blocks", evicted_blocks},
            {"freed_bytes", freed_bytes},
            {"written_bytes", written_bytes},
            {"avg_latency_ns", lookup_ns.mean()},
            {"p50_latency_ns", lookup_ns.quantile(0.5)},
            {"p99_latency_ns", lookup_ns.quantile(0.99)}};
  }
  void reset() { *this = {}; }
  bool operator==(const CacheActivity&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    for (const auto field : counts()) archive(this->*field);
    archive(first_lookup_ns, last_lookup_ns, lookup_ns, evictions, eviction_ns);
  }

 private:
  static constexpr std::array<std::uint64_t CacheActivity::*, 9> counts() {
    return {&CacheActivity::hits,          &CacheActivity::misses,
            &CacheActivity::hit_bytes,     &CacheActivity::miss_bytes,
            &CacheActivity::written_bytes, &CacheActivity::evicted_blocks,
            &CacheActivity::freed_bytes,   &CacheActivity::followed_blocks,
            &CacheActivity::unused_blocks};
  }
};

static_assert(Accumulates<CacheActivity>);

}  // namespace rankbus
