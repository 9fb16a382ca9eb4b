// aggregator/analysis/cache_level.hpp: one cache, over a window and since the beginning.
//
// A value: one writer, no lock, no clock. Ranks each have their own and merge. Counts are exact
// whatever the number of events; what a window covers is said with it (sliding_window.hpp), and
// quantiles are off by at most QuantileSketch::kRelativeError.
//
// Memory: 60 slots of two sketches, each as wide as its latencies spread: about 0.5 MB for
// latencies over three decades, 4 MB at the very most, whatever the number of events.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/cache_activity.hpp>
#include <rankbus/aggregator/analysis/event_rates.hpp>
#include <rankbus/aggregator/analysis/sliding_window.hpp>
#include <utility>
#include <vector>

namespace rankbus {

inline constexpr std::int64_t kDefaultCacheWindow_ns = 60'000'000'000;

struct CacheMetricsOptions {
  std::int64_t window_ns = kDefaultCacheWindow_ns;
  std::size_t slots = 60;
  // A window that keeps single events would forget beyond so many. This one does not; it says how
  // many those would have been.
  std::uint64_t max_events = 10'000;
  bool operator==(const CacheMetricsOptions&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    std::uint64_t count = slots;
    archive(window_ns, count, max_events);
    slots = static_cast<std::size_t>(count);
  }
};

// What an observation returns: lifetime totals after it.
struct HitCounts {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  double hit_rate = 0;
};

// Lifetime totals.
struct CacheStats {
  std::uint64_t total_hits = 0;
  std::uint64_t total_misses = 0;
  std::uint64_t total_evictions = 0;   // Events, not blocks.
  std::uint64_t total_bytes_read = 0;  // Of hits.
  std::uint64_t total_bytes_written = 0;
  std::uint64_t current_size_bytes = 0;
  std::uint64_t peak_size_bytes = 0;
  std::optional<std::uint64_t> capacity_bytes;
  std::uint64_t total_evicted_blocks = 0;
  std::uint64_t total_bytes_freed = 0;
  double avg_eviction_latency_ns = 0;
  double p50_eviction_latency_ns = 0;
  double p99_eviction_latency_ns = 0;
  // Evictions that freed more than had been written: the size was set to 0 and is too small.
  std::uint64_t size_inconsistencies = 0;
  // Observations older than the window when they came: in the totals, not in the window.
  std::uint64_t late_events = 0;
  std::uint64_t refused_merges = 0;  // Of windows with other slots; the totals were merged.

  double hit_rate() const { return hit_rate_of(total_hits, total_misses); }
};

struct CacheWindowStats {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  double hit_rate = 0;
  double avg_latency_ns = 0;  // Of latencies > 0, as are the quantiles.
  double p50_latency_ns = 0;
  double p99_latency_ns = 0;
  double bytes_per_second = 0;   // Of hits and misses, over window_duration_s; 0 for one moment.
  double window_duration_s = 0;  // From the first to the last lookup in the window.
  double covered_s = 0;          // No lookup of the last so many seconds is missing.
  std::uint64_t events_over_bound = 0;  // Lookups beyond max_events; counted here all the same.
};

class CacheMetrics {
 public:
  CacheMetrics() : CacheMetrics(CacheMetricsOptions{}) {}
  explicit CacheMetrics(const CacheMetricsOptions& options)
      : options_(options),
        window_(options.window_ns, options.slots),
        forecast_(options.window_ns) {}

  const CacheMetricsOptions& options() const { return options_; }

  HitCounts observe(const CacheEvent& event) {
    if (event.times == 0) return hit_counts();
    lifetime_.add(event);
    if (CacheActivity* slot = slot_at(event.time_ns)) slot->add(event);
    return hit_counts();
  }
  HitCounts observe_hit(std::int64_t now_ns, std::uint64_t bytes = 0,
                        std::uint64_t latency_ns = 0) {
    return observe(CacheEvent::hit(now_ns, bytes, latency_ns));
  }
  HitCounts observe_miss(std::int64_t now_ns, std::uint64_t bytes = 0,
                         std::uint64_t latency_ns = 0) {
    return observe(CacheEvent::miss(now_ns, bytes, latency_ns));
  }
  void observe_write(std::int64_t now_ns, std::uint64_t bytes) {
    add_saturating(lifetime_.written_bytes, bytes);
    if (CacheActivity* slot = slot_at(now_ns)) add_saturating(slot->written_bytes, bytes);
    own_peak_bytes_ = std::max(own_peak_bytes_, current_size_bytes());
  }
  void observe_eviction(const EvictionEvent& event) {
    if (!told_size_bytes_ && event.bytes_freed > current_size_bytes())
      add_saturating(size_inconsistencies_, 1);
    lifetime_.add(event);
    if (CacheActivity* slot = slot_at(event.time_ns)) slot->add(event);
    eviction_rates_.add(event.time_ns);
    forecast_.add(event.time_ns);
  }
  void observe_eviction(std::int64_t now_ns, std::uint64_t num_blocks, CacheEvictionReason reason,
                        std::uint64_t bytes_freed = 0, std::uint64_t latency_ns = 0) {
    observe_eviction(EvictionEvent{now_ns, num_blocks, reason, bytes_freed, latency_ns});
  }
  // How many evicted blocks had been followed, and how many of those had never been accessed.
  void observe_block_use(std::int64_t now_ns, std::uint64_t followed, std::uint64_t unused) {
    const auto add_to = [&](CacheActivity& activity) {
      add_saturating(activity.followed_blocks, followed);
      add_saturating(activity.unused_blocks, std::min(unused, followed));
    };
    add_to(lifetime_);
    if (CacheActivity* slot = slot_at(now_ns)) add_to(*slot);
  }
  void set_capacity(std::optional<std::uint64_t> bytes) { own_capacity_bytes_ = bytes; }
  // The size as somebody knows it who missed no write and no eviction; from then on it stands for
  // the difference of those that were observed.
  bool is_size_told() const { return told_size_bytes_.has_value(); }
  void set_size(std::uint64_t bytes) {
    told_size_bytes_ = bytes;
    own_peak_bytes_ = std::max(own_peak_bytes_, bytes);
  }

  HitCounts hit_counts() const { return {lifetime_.hits, lifetime_.misses, lifetime_.hit_rate()}; }
  double total_hit_rate() const { return lifetime_.hit_rate(); }
  // Of the window, without a look at any latency.
  double hit_rate(std::int64_t now_ns) const {
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;
    window_.for_each(now_ns, [&](const CacheActivity& slot, std::int64_t) {
      add_saturating(hits, slot.hits);
      add_saturating(misses, slot.misses);
    });
    return hit_rate_of(hits, misses);
  }
  CacheStats stats() const;
  CacheWindowStats window_stats(std::int64_t now_ns) const;
  // Everything of the window, evictions too.
  CacheActivity window_activity(std::int64_t now_ns) const { return window_.read(now_ns); }
  const CacheActivity& lifetime_activity() const { return lifetime_; }

  // Eviction events per second of the window that the caller chooses.
  double eviction_rate(std::int64_t now_ns, std::int64_t span_ns = kDefaultCacheWindow_ns) const {
    return eviction_rates_.per_second(now_ns, span_ns);
  }
  // Reasons that were seen and their number of events, most first.
  using Breakdown = std::vector<std::pair<CacheEvictionReason, std::uint64_t>>;
  Breakdown eviction_breakdown() const { return breakdown_of(lifetime_); }
  Breakdown eviction_breakdown(std::int64_t now_ns) const {
    return breakdown_of(window_.read(now_ns));
  }

  std::uint64_t current_size_bytes() const {
    if (told_size_bytes_) return *told_size_bytes_;
    const std::uint64_t freed = lifetime_.freed_bytes;
    return lifetime_.written_bytes > freed ? lifetime_.written_bytes - freed : 0;
  }
  std::uint64_t peak_size_bytes() const { return std::max(own_peak_bytes_, current_size_bytes()); }
  // A merged cache has the highest size that it was ever seen to have; who merges again and again
  // hands on what the earlier ones had.
  void keep_peak(std::uint64_t earlier_bytes) {
    own_peak_bytes_ = std::max(own_peak_bytes_, earlier_bytes);
  }
  // None unless every part that was merged said its own.
  std::optional<std::uint64_t> capacity_bytes() const;

  // 0 to 1: how much of what was asked for was there, less what was kept for nobody. Windowed hit
  // rate x (1 - share of evicted blocks that were never accessed, 0 while unknown).
  double efficiency_score(std::int64_t now_ns) const;
  // Written less freed bytes of the window, per second of it that was watched.
  double growth_bytes_per_second(std::int64_t now_ns) const;
  // (capacity - current) / growth: infinite while it does not grow, 0 when full, none without
  // a capacity.
  std::optional<double> seconds_until_full(std::int64_t now_ns) const;
  double next_window_eviction_rate(std::int64_t now_ns) const {
    return forecast_.next_window_rate(now_ns, began_ns_, eviction_rate(now_ns, options_.window_ns));
  }

  void aggregate(const CacheMetrics& other);
  bool is_empty() const { return parts() == 0; }
  ReducedStats reduce() const { return lifetime_.reduce(); }
  // Keeps the options.
  void reset() { *this = CacheMetrics(options_); }

  template <class Archive>
  void serialize(Archive& archive) {
    archive(options_, lifetime_, window_, eviction_rates_, forecast_, own_peak_bytes_,
            own_capacity_bytes_, told_size_bytes_, other_parts_, other_capacities_,
            other_capacity_bytes_, size_inconsistencies_, late_events_, began_ns_, was_observed_);
  }

 private:
  static constexpr std::int64_t kNotYet = std::numeric_limits<std::int64_t>::max();

  static Breakdown breakdown_of(const CacheActivity& activity);
  CacheActivity* slot_at(std::int64_t time_ns) {
    was_observed_ = true;
    began_ns_ = std::min(began_ns_, time_ns);
    CacheActivity* slot = window_.at(time_ns);
    if (slot == nullptr) add_saturating(late_events_, 1);
    return slot;
  }
  std::uint64_t parts() const {
    return other_parts_ + (was_observed_ || own_capacity_bytes_ ? 1 : 0);
  }

  CacheMetricsOptions options_;
  CacheActivity lifetime_;
  SlidingWindow<CacheActivity> window_;
  EventRates eviction_rates_;
  RateForecast forecast_;
  std::uint64_t own_peak_bytes_ = 0;
  std::optional<std::uint64_t> own_capacity_bytes_;
  std::optional<std::uint64_t> told_size_bytes_;
  std::uint64_t other_parts_ = 0;       // Merged into this one.
  std::uint64_t other_capacities_ = 0;  // Of those that knew theirs.
  std::uint64_t other_capacity_bytes_ = 0;
  std::uint64_t size_inconsistencies_ = 0;
  std::uint64_t late_events_ = 0;
  std::int64_t began_ns_ = kNotYet;  // The earliest time that was observed, by any part.
  bool was_observed_ = false;        // By this one itself.
};

static_assert(Accumulates<CacheMetrics>);

}  // namespace rankbus
