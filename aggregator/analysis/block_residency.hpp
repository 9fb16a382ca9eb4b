// aggregator/analysis/block_residency.hpp: how long KV blocks live, how often they are used and
// when that changes, seen through a sample of them.
//
// A stream is one writer whose block ids mean its own blocks: a rank. Its calls come in the order
// of time; streams may be read in any order, and all results but the moment of an alert are the
// same. Totals count every block; everything else is of followed blocks, those whose id is in the
// sample (residency_config.hpp). After a loss in a stream, forget() drops its followed blocks: a
// block whose eviction was lost and whose id came back would otherwise seem to have lived on.
//
// aggregate() takes in another object that saw other streams, and gives what one object that saw
// all would have; alerts stay as they were raised and are put in the order of time.
//
// Bounds: max_followed blocks of 200 bytes, history_size evictions of at most 350 bytes, max_alerts
// alerts of 300 bytes and 32 KB. With the default settings that is 0.5 MB for 100,000 live blocks
// and never more than 14 MB, whatever ids come.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/block_life.hpp>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/aggregator/analysis/instant.hpp>
#include <rankbus/aggregator/analysis/residency_alerts.hpp>
#include <rankbus/aggregator/analysis/residency_config.hpp>
#include <rankbus/aggregator/analysis/residency_summary.hpp>
#include <rankbus/aggregator/analysis/sampled_counts.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <string_view>
#include <utility>
#include <vector>

namespace rankbus::analysis {

// What happened to the sample itself; all counts.
struct SampleHealth {
  std::uint64_t followed_evictions = 0;   // Evictions that became events.
  std::uint64_t unmatched_evictions = 0;  // Of sampled blocks whose allocation nobody saw.
  std::uint64_t reallocated_blocks = 0;   // Allocated anew without an eviction: begun anew.
  std::uint64_t unfollowed_blocks = 0;    // Not followed, because max_followed others were.
  std::uint64_t forgotten_blocks = 0;     // Dropped after losses.
  std::uint64_t losses = 0;
  std::uint64_t dropped_events = 0;  // Left the history before they were drained.
  std::uint64_t refused_merges = 0;  // Of other settings.

  friend bool operator==(const SampleHealth&, const SampleHealth&) = default;

  void aggregate(const SampleHealth& other);
  Json as_dict() const;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(followed_evictions, unmatched_evictions, reallocated_blocks, unfollowed_blocks,
            forgotten_blocks, losses, dropped_events, refused_merges);
  }
};

class BlockResidency {
 public:
  static constexpr std::size_t kMaxReasonBytes = 64;

  BlockResidency() = default;
  static Result<BlockResidency> create(const ResidencyConfig& config);

  bool should_sample(std::uint64_t block_id) const {
    return is_sampled(block_id, config_.sample_rate);
  }
  void on_allocated(std::uint64_t stream, std::uint64_t block_id, std::int64_t now_ns);
  void on_accessed(std::uint64_t stream, std::uint64_t block_id, std::int64_t now_ns);
  void on_evicted_untrusted(std::uint64_t stream, std::uint64_t block_id, Instant now,
                            std::string_view reason = "capacity");
  // The same calls for callers who count by themselves: the totals stay as they are.
  void follow_allocated(std::uint64_t stream, std::uint64_t block_id, std::int64_t now_ns);
  void follow_accessed(std::uint64_t stream, std::uint64_t block_id, std::int64_t now_ns);
  void follow_evicted_untrusted(std::uint64_t stream, std::uint64_t block_id, Instant now,
                                std::string_view reason = "capacity");
  // Many blocks at a time, in the totals alone: those that nobody follows, or that are told by
  // follow_ besides.
  void count_unsampled(std::uint64_t allocations, std::uint64_t accesses, std::uint64_t evictions);
  // Records of the stream were lost.
  void forget(std::uint64_t stream);
  // The stream has ended, and its blocks with it: nobody evicted them.
  void end(std::uint64_t stream);

  const ResidencyConfig& config() const { return config_; }
  // Of every block, followed or not.
  std::uint64_t total_allocations() const { return total_allocations_; }
  std::uint64_t total_accesses() const { return total_accesses_; }
  std::uint64_t total_evictions() const { return total_evictions_; }
  // Null if the block is not followed.
  const BlockLife* followed(std::uint64_t stream, std::uint64_t block_id) const;
  std::size_t followed_blocks() const { return followed_.size(); }
  const EvictionHistory& history() const { return history_; }
  const AlertBook& alerts() const { return alerts_; }
  const SampleHealth& health() const { return health_; }

  CacheMetricsSummary summary() const;
  LifetimeDistribution lifetime_distribution(std::uint32_t buckets = 10) const;
  AccessPatterns access_patterns() const { return access_patterns_of(history_); }
  Trends trends() const { return trends_of(history_, config_.trend_window); }
  // Of all blocks. After forget(), live blocks are too few until they were allocated anew.
  Estimate estimated_live_blocks() const;
  Estimate estimated_evictions() const;

  // Each eviction once, oldest first; it stays in the history.
  std::vector<BlockEviction> drain_events();
  std::vector<CacheAlert> drain_alerts() { return alerts_.drain(); }

  // Takes in other streams. An object that saw nothing takes over the settings; one with other
  // settings is refused and counted, because its figures stand for something else.
  bool aggregate(const BlockResidency& other);
  bool is_empty() const;
  ReducedStats reduce() const;
  void reset();  // Keeps the settings.

  Json export_to_dict(Instant now) const;
  std::vector<Family> families(const Labels& labels = {}) const;
  // `dict`, `prometheus`, `json` or `csv`.
  Result<Exported> export_as(std::string_view format, Instant now, const Labels& labels = {}) const;
  // Whether an export is due: at once, then every export_interval_s. Turns that nobody asked for
  // are not made up for.
  bool export_due(std::int64_t now_ns);

  friend bool operator==(const BlockResidency&, const BlockResidency&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(config_, followed_, history_, next_number_, total_allocations_, total_accesses_,
            total_evictions_, sampled_evictions_, alerts_, health_, next_export_ns_);
  }

 private:
  using Key = std::pair<std::uint64_t, std::uint64_t>;  // Stream, block.

  std::uint64_t drop_followed(std::uint64_t stream);
  // Returns the place, or none if the eviction is older than all of a full history.
  std::optional<std::size_t> remember(BlockEviction eviction);
  void judge(std::size_t at);
  void raise(const BlockEviction& eviction, AlertLevel level, MetricType metric, double value,
             double threshold, std::string message);

  ResidencyConfig config_;
  std::map<Key, BlockLife> followed_;
  EvictionHistory history_;  // Oldest first.
  std::uint64_t next_number_ = 0;
  std::uint64_t total_allocations_ = 0;
  std::uint64_t total_accesses_ = 0;
  std::uint64_t total_evictions_ = 0;
  SampledCounts sampled_evictions_;
  AlertBook alerts_;
  SampleHealth health_;
  std::optional<std::int64_t> next_export_ns_;
};

static_assert(Accumulates<BlockResidency>);

}  // namespace rankbus::analysis
