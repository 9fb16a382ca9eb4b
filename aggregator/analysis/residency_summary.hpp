// aggregator/analysis/residency_summary.hpp: what the retained evictions say. Pure functions of
// their list, oldest first, so that equal lists always say the same. Each takes one pass, the
// summary also a sort.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <rankbus/aggregator/analysis/block_life.hpp>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/aggregator/analysis/residency_alerts.hpp>
#include <string>
#include <utility>
#include <vector>

namespace rankbus::analysis {

using EvictionHistory = std::deque<BlockEviction>;

struct CacheMetricsSummary {
  std::uint64_t total_blocks_sampled = 0;  // Followed now, and retained evictions.
  std::uint64_t total_evictions = 0;       // Retained ones, of followed blocks.
  double avg_lifetime_seconds = 0;
  double avg_idle_seconds = 0;
  double avg_access_count = 0;
  double avg_reuse_gap_seconds = 0;  // Of all gaps of all evictions.
  double p50_lifetime = 0;           // Seconds, as the next two.
  double p95_lifetime = 0;
  double p99_lifetime = 0;
  double hit_rate_estimate = 0;  // Share of the evicted that were accessed more than once.
  std::vector<CacheAlert> alerts;

  Json as_dict() const;  // With `alert_count` in place of the alerts.
};

// Without alerts; without evictions all zeros but the followed blocks.
CacheMetricsSummary summary_of(const EvictionHistory& history, std::uint64_t followed_blocks);

// Lifetimes in `buckets` parts of equal width between the shortest and the longest, ascending,
// without the empty ones: `1.00-2.00` and a count. Parts whose labels are equal are one. `buckets`
// is taken as 1 to 1000.
using LifetimeDistribution = std::vector<std::pair<std::string, std::uint64_t>>;
LifetimeDistribution lifetime_distribution_of(const EvictionHistory& history,
                                              std::uint32_t buckets);

struct ReuseGaps {
  double avg_s = 0;
  double min_s = 0;
  double max_s = 0;
};
struct AccessPatterns {
  bool has_data = false;
  double zero_access_rate = 0;
  double single_access_rate = 0;
  double multi_access_rate = 0;
  std::uint64_t max_access_count = 0;
  double avg_access_count = 0;
  std::optional<ReuseGaps> reuse_gaps;  // Where there is a gap.

  Json as_dict() const;
};
AccessPatterns access_patterns_of(const EvictionHistory& history);

enum class TrendDirection : std::uint8_t { stable, increasing, decreasing };
struct Trend {
  TrendDirection direction = TrendDirection::stable;
  double slope = 0;  // Per evicted sample, by least squares.
  double recent_mean = 0;
};
// Of the newest `window` evictions; nothing where there are fewer, or the window is below 2.
struct Trends {
  std::optional<Trend> lifetime;  // Seconds.
  std::optional<Trend> idle;      // Seconds; nothing where no detail is kept.
  std::optional<Trend> access_count;

  Json as_dict() const;
};
Trends trends_of(const EvictionHistory& history, std::uint32_t window);

// 3.14159 -> "3.14"
std::string two_decimals(double value);

}  // namespace rankbus::analysis
