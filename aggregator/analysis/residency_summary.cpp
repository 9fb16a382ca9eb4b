#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <rankbus/aggregator/analysis/residency_summary.hpp>
#include <rankbus/aggregator/observations.hpp>
#include <span>

namespace rankbus::analysis {
namespace {

// Between these, a slope is no trend.
constexpr double kSteep = 0.01;

class Mean {
 public:
  void add(double value) {
    sum_.add(value);
    ++count_;
  }
  double value() const { return count_ == 0 ? 0 : sum_.value() / static_cast<double>(count_); }

 private:
  CompensatedSum sum_;
  std::uint64_t count_ = 0;
};

std::vector<double> lifetimes_of(const EvictionHistory& history) {
  std::vector<double> lifetimes;
  lifetimes.reserve(history.size());
  for (const BlockEviction& eviction : history) lifetimes.push_back(eviction.lifetime_s());
  return lifetimes;
}

// The element at the truncated index, never between two.
double percentile(std::span<const double> sorted, double share) {
  const auto n = static_cast<double>(sorted.size());
  return sorted[static_cast<std::size_t>(std::min(n - 1, share * n))];
}

Trend trend_of(std::span<const double> values) {
  Mean mean;
  for (const double value : values) mean.add(value);
  const double middle = (static_cast<double>(values.size()) - 1) / 2;
  CompensatedSum together;
  CompensatedSum alone;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double offset = static_cast<double>(i) - middle;
    together.add(offset * (values[i] - mean.value()));
    alone.add(offset * offset);
  }
  Trend trend;
  trend.recent_mean = mean.value();
  trend.slope = alone.value() == 0 ? 0 : together.value() / alone.value();
  if (trend.slope > kSteep) trend.direction = TrendDirection::increasing;
  if (trend.slope < -kSteep) trend.direction = TrendDirection::decreasing;
  return trend;
}

Json dict_of(const Trend& trend) {
  constexpr std::array<const char*, 3> kNames = {"stable", "increasing", "decreasing"};
  return {{"direction", kNames[static_cast<std::size_t>(trend.direction)]},
          {"slope", trend.slope},
          {"recent_mean", trend.recent_mean}};
}

}  // namespace

std::string two_decimals(double value) {
  std::array<char, 400> text{};  // Room for any double.
  const auto [end, error] =
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, 2);
  return {text.data(), end};
}

CacheMetricsSummary summary_of(const EvictionHistory& history, std::uint64_t followed_blocks) {
  CacheMetricsSummary summary;
  summary.total_blocks_sampled = followed_blocks + history.size();
  summary.total_evictions = history.size();
  if (history.empty()) return summary;
  Mean lifetime;
  Mean idle;
  Mean accesses;
  Mean gaps;
  std::uint64_t reused = 0;
  for (const BlockEviction& eviction : history) {
    lifetime.add(eviction.lifetime_s());
    if (eviction.idle_ns) idle.add(seconds_of(*eviction.idle_ns));
    accesses.add(static_cast<double>(eviction.access_count));
    for (const std::int64_t gap : eviction.reuse_gaps_ns) gaps.add(seconds_of(gap));
    reused += eviction.access_count > 1 ? 1 : 0;
  }
  summary.avg_lifetime_seconds = lifetime.value();
  summary.avg_idle_seconds = idle.value();
  summary.avg_access_count = accesses.value();
  summary.avg_reuse_gap_seconds = gaps.value();
  std::vector<double> sorted = lifetimes_of(history);
  std::sort(sorted.begin(), sorted.end());
  summary.p50_lifetime = percentile(sorted, 0.50);
  summary.p95_lifetime = percentile(sorted, 0.95);
  summary.p99_lifetime = percentile(sorted, 0.99);
  summary.hit_rate_estimate = static_cast<double>(reused) / static_cast<double>(history.size());
  return summary;
}

Json CacheMetricsSummary::as_dict() const {
  return {{"total_blocks_sampled", total_blocks_sampled},
          {"total_evictions", total_evictions},
          {"avg_lifetime_seconds", avg_lifetime_seconds},
          {"avg_idle_seconds", avg_idle_seconds},
          {"avg_access_count", avg_access_count},
          {"avg_reuse_gap_seconds", avg_reuse_gap_seconds},
          {"p50_lifetime", p50_lifetime},
          {"p95_lifetime", p95_lifetime},
          {"p99_lifetime", p99_lifetime},
          {"hit_rate_estimate", hit_rate_estimate},
          {"alert_count", alerts.size()}};
}

LifetimeDistribution lifetime_distribution_of(const EvictionHistory& history,
                                              std::uint32_t buckets) {
  if (history.empty()) return {};
  const std::vector<double> lifetimes = lifetimes_of(history);
  const auto [shortest, longest] = std::minmax_element(lifetimes.begin(), lifetimes.end());
  const double start = *shortest;
  if (start == *longest) return {{two_decimals(start), lifetimes.size()}};
  std::vector<std::uint64_t> counts(std::clamp(buckets, 1U, 1000U));
  const double width = (*longest - start) / static_cast<double>(counts.size());
  for (const double lifetime : lifetimes) {
    const auto at = static_cast<std::size_t>((lifetime - start) / width);
    ++counts[std::min(at, counts.size() - 1)];  // The longest belongs to the last part.
  }
  LifetimeDistribution distribution;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    const double from = start + static_cast<double>(i) * width;
    std::string label = two_decimals(from) + '-' + two_decimals(from + width);
    if (!distribution.empty() && distribution.back().first == label) {
      distribution.back().second += counts[i];
    } else {
      distribution.emplace_back(std::move(label), counts[i]);
    }
  }
  return distribution;
}

AccessPatterns access_patterns_of(const EvictionHistory& history) {
  AccessPatterns patterns;
  if (history.empty()) return patterns;
  patterns.has_data = true;
  std::uint64_t unused = 0;
  std::uint64_t used_once = 0;
  Mean accesses;
  Mean gap_mean;
  for (const BlockEviction& eviction : history) {
    unused += eviction.access_count == 0 ? 1 : 0;
    used_once += eviction.access_count == 1 ? 1 : 0;
    accesses.add(static_cast<double>(eviction.access_count));
    patterns.max_access_count = std::max(patterns.max_access_count, eviction.access_count);
    for (const std::int64_t gap_ns : eviction.reuse_gaps_ns) {
      const double gap_s = seconds_of(gap_ns);
      if (!patterns.reuse_gaps) patterns.reuse_gaps = ReuseGaps{0, gap_s, gap_s};
      patterns.reuse_gaps->min_s = std::min(patterns.reuse_gaps->min_s, gap_s);
      patterns.reuse_gaps->max_s = std::max(patterns.reuse_gaps->max_s, gap_s);
      gap_mean.add(gap_s);
    }
  }
  const auto share = [&](std::uint64_t count) {
    return static_cast<double>(count) / static_cast<double>(history.size());
  };
  patterns.zero_access_rate = share(unused);
  patterns.single_access_rate = share(used_once);
  patterns.multi_access_rate = share(history.size() - unused - used_once);
  patterns.avg_access_count = accesses.value();
  if (patterns.reuse_gaps) patterns.reuse_gaps->avg_s = gap_mean.value();
  return patterns;
}

Json AccessPatterns::as_dict() const {
  if (!has_data) return {{"status", "no_data"}};
  Json dict = {{"zero_access_rate", zero_access_rate},
               {"single_access_rate", single_access_rate},
               {"multi_access_rate", multi_access_rate},
               {"max_access_count", max_access_count},
               {"avg_access_count", avg_access_count}};
  if (reuse_gaps) {
    dict["avg_reuse_gap"] = reuse_gaps->avg_s;
    dict["min_reuse_gap"] = reuse_gaps->min_s;
    dict["max_reuse_gap"] = reuse_gaps->max_s;
  }
  return dict;
}

Trends trends_of(const EvictionHistory& history, std::uint32_t window) {
  Trends trends;
  if (window < 2 || history.size() < window) return trends;
  std::vector<double> lifetimes;
  std::vector<double> idles;
  std::vector<double> accesses;
  for (auto at = history.end() - static_cast<std::ptrdiff_t>(window); at != history.end(); ++at) {
    lifetimes.push_back(at->lifetime_s());
    if (at->idle_ns) idles.push_back(seconds_of(*at->idle_ns));
    accesses.push_back(static_cast<double>(at->access_count));
  }
  trends.lifetime = trend_of(lifetimes);
  if (idles.size() == window) trends.idle = trend_of(idles);
  trends.access_count = trend_of(accesses);
  return trends;
}

Json Trends::as_dict() const {
  if (!lifetime) return {{"status", "insufficient_data"}};
  Json dict = {{"status", "ok"}, {"lifetime_trend", dict_of(*lifetime)}};
  if (idle) dict["idle_trend"] = dict_of(*idle);
  if (access_count) dict["access_count_trend"] = dict_of(*access_count);
  return dict;
}

}  // namespace rankbus::analysis
