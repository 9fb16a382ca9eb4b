// aggregator/analysis_engine.hpp: all that AnalysisFeed keeps of one engine.
#pragma once

#include <rankbus/aggregator/analysis_events.hpp>
#include <rankbus/aggregator/analysis_feed.hpp>
#include <set>

namespace rankbus {

// Records of a stream's name, over all processes of an engine.
struct AnalysisSource {
  bool feeds_families = false;
  Coverage total;
  SlidingWindow<Coverage> window;
};

struct AnalysisEngine {
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::min();

  Identity who;                         // Of the first segment that was seen of it.
  std::set<AnalysisSegment*> segments;  // Of its living processes.
  std::uint64_t ended = 0;              // When the last of them went, counted over all engines.

  bool is_virtual = false;
  std::int64_t now_ns = kNever;
  double wall_ahead_s = 0;  // Realtime less the records' clock.

  std::optional<analysis::BlockResidency> blocks;
  std::set<std::uint64_t> block_segments;  // Whose blocks are followed.
  bool saw_all_blocks = true;              // From the first record on, without a loss.
  std::uint64_t refused_block_records = 0;
  MultiLevelCacheMetrics caches;
  std::optional<analysis::SchedulerStatsCollector> scheduler;
  std::int64_t next_commit_ns = 0;
  Goodput goodput;
  SlidingWindow<Goodput> recent_goodput;
  std::map<std::string, AnalysisSource> sources;
  // What counters of earlier BlockResidencies had come to, by series.
  std::map<std::pair<std::string, Labels>, std::uint64_t> carried;

  bool lives() const { return !segments.empty(); }
  double wall_s(std::int64_t time_ns) const {
    return static_cast<double>(time_ns) * 1e-9 + (is_virtual ? 0 : wall_ahead_s);
  }
  // The counters that only samples make, of all times.
  std::map<std::pair<std::string, Labels>, std::uint64_t> block_counters() const;
  // As new but for what only grows: requests by their promises, and counters.
  void forget_all_but_counters();

  void take(const AnalysisEvent& event, const std::vector<std::uint64_t>& ids);
  // Sizes and capacities from what the living processes' totals say.
  void sum_levels();
  // Adapters of all living processes.
  void tell_adapters(std::int64_t time_ns);

 private:
  void take_blocks(const AnalysisEvent& event, const AnalysisEvent::Blocks& blocks,
                   const std::vector<std::uint64_t>& ids);
  void take_lookup(const AnalysisEvent::Lookup& lookup);
  void take_scheduler(const AnalysisEvent& event, const AnalysisEvent::Scheduler& record,
                      const std::vector<std::uint64_t>& ids);
  CacheMetrics& level_untrusted(const std::string& name);
  analysis::SchedulerStats& scheduler_stats(std::int64_t time_ns);
};

}  // namespace rankbus
