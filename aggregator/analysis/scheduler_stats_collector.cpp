#include <rankbus/aggregator/analysis/scheduler_stats_collector.hpp>
#include <string>

namespace rankbus::analysis {

Result<SchedulerStatsCollector> SchedulerStatsCollector::create(std::int64_t window_size) {
  if (window_size < 1 || window_size > kMaxWindow) {
    return Error{"a window of " + std::to_string(window_size) + " commits: 1 to " +
                 std::to_string(kMaxWindow) + " are possible"};
  }
  return SchedulerStatsCollector(static_cast<std::size_t>(window_size));
}

Result<SchedulerStatsCollector> create_stats_collector(std::int64_t window_size) {
  return SchedulerStatsCollector::create(window_size);
}

std::shared_ptr<const SchedulerStats> SchedulerStatsCollector::commit() {
  auto snapshot = std::make_shared<const SchedulerStats>(current_);
  history_.push_back(snapshot);
  if (history_.size() > window_size_) history_.pop_front();
  committed_.aggregate(current_.counted_in_period());
  undrained_.aggregate(current_.evictions());
  current_.reset();
  return snapshot;
}

ReducedStats SchedulerStatsCollector::averages() const {
  if (history_.empty()) return {};
  double running = 0;
  double waiting = 0;
  double kv_usage = 0;
  double hit_rate = 0;
  PrefixCacheStats tokens;
  for (const auto& snapshot : history_) {
    running += static_cast<double>(snapshot->num_running_reqs());
    waiting += static_cast<double>(snapshot->num_waiting_reqs());
    kv_usage += snapshot->kv_cache_usage().value_or(0);
    hit_rate += snapshot->prefix_cache.hit_rate();
    tokens.aggregate(snapshot->prefix_cache);
  }
  const auto n = static_cast<double>(history_.size());
  return {{"avg_running_reqs", running / n},
          {"avg_waiting_reqs", waiting / n},
          {"avg_kv_usage", kv_usage / n},
          {"avg_prefix_hit_rate", hit_rate / n},
          {"token_weighted_prefix_hit_rate", tokens.hit_rate()}};
}

SchedulerStats SchedulerStatsCollector::totals() const {
  SchedulerStats all = committed_;
  all.aggregate(current_);
  all.evictions_.aggregate(undrained_);
  return all;
}

std::vector<KvCacheEvictionEvent> SchedulerStatsCollector::drain_events() {
  EvictionLog waiting = undrained_;
  undrained_.drain();
  std::vector<KvCacheEvictionEvent> of_current = current_.drain_events();
  std::vector<KvCacheEvictionEvent> drained = waiting.drain();
  drained.insert(drained.end(), std::make_move_iterator(of_current.begin()),
                 std::make_move_iterator(of_current.end()));
  return drained;
}

std::uint64_t SchedulerStatsCollector::dropped_events() const {
  std::uint64_t dropped = undrained_.dropped();
  add_saturating(dropped, current_.evictions().dropped());
  return dropped;
}

}  // namespace rankbus::analysis
