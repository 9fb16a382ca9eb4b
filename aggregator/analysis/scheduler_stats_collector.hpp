// aggregator/analysis/scheduler_stats_collector.hpp: one scheduler's statistics period by period.
//
// commit() ends a period: what it held becomes a snapshot that never changes again, and counting
// starts anew. The totals of all periods only grow, whatever is committed. Bounds: `window_size`
// snapshots of the size that scheduler_stats.hpp states, and kMaxEvictionEvents events that wait
// to be drained.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <rankbus/aggregator/analysis/scheduler_stats.hpp>
#include <string_view>
#include <vector>

namespace rankbus::analysis {

class SchedulerStatsCollector {
 public:
  static constexpr std::int64_t kMaxWindow = 10'000;

  // A window of 1 to kMaxWindow commits.
  static Result<SchedulerStatsCollector> create(std::int64_t window_size = 100);

  // The live statistics; their user attaches parts and records into them.
  SchedulerStats& current() { return current_; }
  const SchedulerStats& current() const { return current_; }
  void record_step(std::int64_t now_ns, std::uint64_t num_running, std::uint64_t num_waiting,
                   double kv_usage) {
    current_.record_step(now_ns, num_running, num_waiting, kv_usage);
  }

  std::shared_ptr<const SchedulerStats> commit();

  std::size_t window_size() const { return window_size_; }
  // The newest last.
  const std::deque<std::shared_ptr<const SchedulerStats>>& history() const { return history_; }
  // Means over the window, each snapshot counting the same; the last entry is the hit rate of all
  // its tokens. Empty before the first commit.
  ReducedStats averages() const;

  // Of all periods, the current one included: counters since the beginning, gauges as newest.
  SchedulerStats totals() const;
  // The totals, as `dict`, `prometheus` or `json`.
  Result<Exported> export_as(std::string_view format, const Labels& labels = {}) const {
    return totals().export_as(format, labels);
  }

  // Every event once, oldest first, also those of periods that were committed meanwhile.
  std::vector<KvCacheEvictionEvent> drain_events();
  // Events that were dropped before anybody drained them.
  std::uint64_t dropped_events() const;

 private:
  explicit SchedulerStatsCollector(std::size_t window_size) : window_size_(window_size) {}

  std::size_t window_size_;
  SchedulerStats current_;
  std::deque<std::shared_ptr<const SchedulerStats>> history_;
  SchedulerStats committed_;  // The sum of all periods that ended, without events.
  EvictionLog undrained_;     // Of those periods.
};

Result<SchedulerStatsCollector> create_stats_collector(std::int64_t window_size = 100);

}  // namespace rankbus::analysis
