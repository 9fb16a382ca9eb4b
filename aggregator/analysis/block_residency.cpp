#include <algorithm>
#include <cmath>
#include <limits>
#include <rankbus/aggregator/analysis/block_residency.hpp>
#include <rankbus/aggregator/observations.hpp>
#include <utility>

namespace rankbus::analysis {
namespace {

// From here on an outlier is critical, whatever the threshold.
constexpr double kCriticalDeviations = 4;

struct Spread {
  double mean = 0;
  double deviation = 0;  // Of a sample: divided by n - 1. Exactly 0 where all are equal.
};

template <class Iterator>
Spread spread_of(Iterator begin, Iterator end) {
  const auto n = static_cast<double>(end - begin);
  CompensatedSum sum;
  bool are_equal = true;
  for (auto at = begin; at != end; ++at) {
    sum.add(at->lifetime_s());
    are_equal = are_equal && at->lifetime_ns == begin->lifetime_ns;
  }
  Spread spread;
  if (n > 0) spread.mean = sum.value() / n;
  if (n < 2 || are_equal) return spread;
  CompensatedSum squares;
  for (auto at = begin; at != end; ++at) {
    const double off = at->lifetime_s() - spread.mean;
    squares.add(off * off);
  }
  spread.deviation = std::sqrt(squares.value() / (n - 1));
  return spread;
}

}  // namespace

void SampleHealth::aggregate(const SampleHealth& other) {
  add_saturating(followed_evictions, other.followed_evictions);
  add_saturating(unmatched_evictions, other.unmatched_evictions);
  add_saturating(reallocated_blocks, other.reallocated_blocks);
  add_saturating(unfollowed_blocks, other.unfollowed_blocks);
  add_saturating(forgotten_blocks, other.forgotten_blocks);
  add_saturating(losses, other.losses);
  add_saturating(dropped_events, other.dropped_events);
  add_saturating(refused_merges, other.refused_merges);
}

Result<BlockResidency> BlockResidency::create(const ResidencyConfig& config) {
  if (const std::optional<Error> problem = problem_of(config)) return *problem;
  BlockResidency residency;
  residency.config_ = config;
  return residency;
}

void BlockResidency::on_allocated(std::uint64_t stream, std::uint64_t block_id,
                                  std::int64_t now_ns) {
  add_saturating(total_allocations_, 1);
  follow_allocated(stream, block_id, now_ns);
}

void BlockResidency::follow_allocated(std::uint64_t stream, std::uint64_t block_id,
                                      std::int64_t now_ns) {
  if (!should_sample(block_id)) return;
  const Key key(stream, block_id);
  if (const auto at = followed_.find(key); at != followed_.end()) {
    add_saturating(health_.reallocated_blocks, 1);
    at->second = BlockLife(now_ns);
  } else if (followed_.size() < config_.max_followed) {
    followed_.emplace(key, BlockLife(now_ns));
  } else {
    add_saturating(health_.unfollowed_blocks, 1);
  }
}

void BlockResidency::on_accessed(std::uint64_t stream, std::uint64_t block_id,
                                 std::int64_t now_ns) {
  add_saturating(total_accesses_, 1);
  follow_accessed(stream, block_id, now_ns);
}

void BlockResidency::follow_accessed(std::uint64_t stream, std::uint64_t block_id,
                                     std::int64_t now_ns) {
  if (!should_sample(block_id)) return;
  const auto at = followed_.find(Key(stream, block_id));
  if (at != followed_.end()) at->second.record_access(now_ns, config_.enable_detailed);
}

void BlockResidency::on_evicted_untrusted(std::uint64_t stream, std::uint64_t block_id, Instant now,
                                          std::string_view reason) {
  add_saturating(total_evictions_, 1);
  follow_evicted_untrusted(stream, block_id, now, reason);
}

void BlockResidency::follow_evicted_untrusted(std::uint64_t stream, std::uint64_t block_id,
                                              Instant now, std::string_view reason) {
  if (!should_sample(block_id)) return;
  sampled_evictions_.add(block_id);
  const auto at = followed_.find(Key(stream, block_id));
  if (at == followed_.end()) {
    add_saturating(health_.unmatched_evictions, 1);
    return;
  }
  const BlockLife& life = at->second;
  BlockEviction eviction;
  eviction.evicted_ns = now.monotonic_ns;
  eviction.stream = stream;
  eviction.number = next_number_++;
  eviction.block_id = block_id;
  eviction.lifetime_ns = life.lifetime_ns(now.monotonic_ns);
  if (config_.enable_detailed) eviction.idle_ns = life.idle_ns(now.monotonic_ns);
  eviction.access_count = life.access_count();
  eviction.reuse_gaps_ns = life.reuse_gaps_ns();
  eviction.timestamp = now.wall_s;
  eviction.reason = clean_text_untrusted(reason, kMaxReasonBytes);
  followed_.erase(at);
  add_saturating(health_.followed_evictions, 1);
  if (const auto place = remember(std::move(eviction))) judge(*place);
}

void BlockResidency::count_unsampled(std::uint64_t allocations, std::uint64_t accesses,
                                     std::uint64_t evictions) {
  add_saturating(total_allocations_, allocations);
  add_saturating(total_accesses_, accesses);
  add_saturating(total_evictions_, evictions);
}

void BlockResidency::forget(std::uint64_t stream) {
  add_saturating(health_.forgotten_blocks, drop_followed(stream));
  add_saturating(health_.losses, 1);
}

void BlockResidency::end(std::uint64_t stream) {
  drop_followed(stream);
}

std::uint64_t BlockResidency::drop_followed(std::uint64_t stream) {
  const auto first = followed_.lower_bound(Key(stream, 0));
  const auto last = followed_.upper_bound(Key(stream, std::numeric_limits<std::uint64_t>::max()));
  const auto dropped = static_cast<std::uint64_t>(std::distance(first, last));
  followed_.erase(first, last);
  return dropped;
}

const BlockLife* BlockResidency::followed(std::uint64_t stream, std::uint64_t block_id) const {
  const auto at = followed_.find(Key(stream, block_id));
  return at == followed_.end() ? nullptr : &at->second;
}

// Nearly always at the end.
std::optional<std::size_t> BlockResidency::remember(BlockEviction eviction) {
  auto at = history_.end();
  while (at != history_.begin() && eviction.is_before(*(at - 1))) --at;
  const auto place = static_cast<std::size_t>(at - history_.begin());
  history_.insert(at, std::move(eviction));
  if (history_.size() <= config_.history_size) return place;
  if (!history_.front().is_drained) add_saturating(health_.dropped_events, 1);
  history_.pop_front();
  return place == 0 ? std::nullopt : std::optional(place - 1);
}

// A window is trend_window evictions, the judged one the newest of them.
void BlockResidency::judge(std::size_t at) {
  const std::size_t window = config_.trend_window;
  if (at + 1 < window) return;
  const BlockEviction& judged = history_[at];
  const auto end = history_.begin() + static_cast<std::ptrdiff_t>(at + 1);
  const auto begin = end - static_cast<std::ptrdiff_t>(window);
  const bool is_alone = config_.baseline == Baseline::predecessors && window > 0;
  const Spread spread = spread_of(begin, is_alone ? end - 1 : end);
  const double lifetime = judged.lifetime_s();
  if (spread.deviation > 0) {
    const double deviations = (lifetime - spread.mean) / spread.deviation;
    if (std::abs(deviations) > config_.anomaly_threshold) {
      const double bound = std::copysign(config_.anomaly_threshold, deviations);
      const bool is_critical = std::abs(deviations) >= kCriticalDeviations;
      raise(judged, is_critical ? AlertLevel::critical : AlertLevel::warning, MetricType::lifetime,
            lifetime, spread.mean + bound * spread.deviation,
            "a block lived " + two_decimals(lifetime) + "s, " + two_decimals(deviations) +
                " standard deviations from the mean of the blocks before it");
    }
  }
  if (judged.access_count == 0) {
    raise(judged, AlertLevel::info, MetricType::access_count, 0, 1,
          "a block was never accessed in the " + two_decimals(lifetime) + "s that it lived");
  }
}

void BlockResidency::raise(const BlockEviction& eviction, AlertLevel level, MetricType metric,
                           double value, double threshold, std::string message) {
  CacheAlert alert;
  alert.stamp_ns = eviction.evicted_ns;
  alert.stream = eviction.stream;
  alert.number = eviction.number;
  alert.level = level;
  alert.metric = metric;
  alert.value = value;
  alert.threshold = threshold;
  alert.timestamp = eviction.timestamp;
  alert.message = std::move(message);
  alerts_.raise(std::move(alert), config_);
}

CacheMetricsSummary BlockResidency::summary() const {
  CacheMetricsSummary summary = summary_of(history_, followed_.size());
  if (!history_.empty()) summary.alerts.assign(alerts_.pending().begin(), alerts_.pending().end());
  return summary;
}

LifetimeDistribution BlockResidency::lifetime_distribution(std::uint32_t buckets) const {
  return lifetime_distribution_of(history_, buckets);
}

Estimate BlockResidency::estimated_live_blocks() const {
  SampledCounts live;
  for (const auto& [key, life] : followed_) live.add(key.second);
  return live.of_all(config_.sample_rate);
}

Estimate BlockResidency::estimated_evictions() const {
  return sampled_evictions_.of_all(config_.sample_rate);
}

std::vector<BlockEviction> BlockResidency::drain_events() {
  std::vector<BlockEviction> drained;
  for (BlockEviction& eviction : history_) {
    if (eviction.is_drained) continue;
    eviction.is_drained = true;
    drained.push_back(eviction);
  }
  return drained;
}

bool BlockResidency::aggregate(const BlockResidency& other) {
  if (is_empty()) config_ = other.is_empty() ? config_ : other.config_;
  if (!(config_ == other.config_) && !other.is_empty()) {
    add_saturating(health_.refused_merges, 1);
    return false;
  }
  const EvictionHistory theirs = other.history_;
  for (const auto& [key, life] : other.followed_) {
    const auto [at, is_new] = followed_.emplace(key, life);
    if (!is_new) at->second = std::max(at->second, life);
    if (followed_.size() <= config_.max_followed) continue;
    followed_.erase(std::prev(followed_.end()));
    add_saturating(health_.unfollowed_blocks, 1);
  }
  for (const BlockEviction& eviction : theirs) remember(eviction);
  next_number_ = std::max(next_number_, other.next_number_);
  add_saturating(total_allocations_, other.total_allocations_);
  add_saturating(total_accesses_, other.total_accesses_);
  add_saturating(total_evictions_, other.total_evictions_);
  sampled_evictions_.aggregate(other.sampled_evictions_);
  alerts_.aggregate(other.alerts_, config_);
  health_.aggregate(other.health_);
  return true;
}

bool BlockResidency::is_empty() const {
  return total_allocations_ == 0 && total_accesses_ == 0 && total_evictions_ == 0 &&
         health_ == SampleHealth{};
}

ReducedStats BlockResidency::reduce() const {
  const CacheMetricsSummary all = summary();
  return {{"total_blocks_sampled", all.total_blocks_sampled},
          {"total_evictions", all.total_evictions},
          {"avg_lifetime_seconds", all.avg_lifetime_seconds},
          {"avg_idle_seconds", all.avg_idle_seconds},
          {"avg_access_count", all.avg_access_count},
          {"avg_reuse_gap_seconds", all.avg_reuse_gap_seconds},
          {"p50_lifetime", all.p50_lifetime},
          {"p95_lifetime", all.p95_lifetime},
          {"p99_lifetime", all.p99_lifetime},
          {"hit_rate_estimate", all.hit_rate_estimate}};
}

void BlockResidency::reset() {
  const ResidencyConfig kept = config_;
  *this = {};
  config_ = kept;
}

bool BlockResidency::export_due(std::int64_t now_ns) {
  if (next_export_ns_ && now_ns < *next_export_ns_) return false;
  // Kept to its own pace: a late turn does not move the next one.
  const double interval_ns =
      std::clamp(std::round(config_.export_interval_s * kNanosecondsPerSecond), 1.0, 9e18);
  const auto step = static_cast<std::int64_t>(interval_ns);
  const std::int64_t late_ns = next_export_ns_ ? elapsed_ns(*next_export_ns_, now_ns) % step : 0;
  std::int64_t next = 0;
  if (__builtin_add_overflow(now_ns, step - late_ns, &next)) {
    next = std::numeric_limits<std::int64_t>::max();
  }
  next_export_ns_ = next;
  return true;
}

}  // namespace rankbus::analysis
