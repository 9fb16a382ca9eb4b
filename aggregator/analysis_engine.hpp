// aggregator/analysis_engine.hpp: all that AnalysisFeed keeps of one engine.
#pragma once

#include <rankbus/aggregator/analysis_feed.hpp>

namespace rankbus {

// Records of a stream's name, over all processes of an engine.
struct AnalysisSource {
  bool feeds_families = false;
  Coverage total;
  SlidingWindow<Coverage> window;
};

struct AnalysisEngine {
  // A scheduler's period; 100 of them are kept.
  static constexpr std::int64_t kPeriod_ns = 10'000'000'000;

  Identity who;  // Of the first segment that was seen of it.
  bool is_virtual = false;
  std::int64_t now_ns = std::numeric_limits<std::int64_t>::min();
  std::optional<analysis::BlockResidency> blocks;
  std::set<std::uint64_t> block_segments;   // Whose blocks are followed.
  std::uint64_t refused_block_records = 0;  // Of another sample rate.
  MultiLevelCacheMetrics caches;
  std::optional<analysis::SchedulerStatsCollector> scheduler;
  std::int64_t next_commit_ns = 0;
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> adapters;  // Running, waiting.
  Goodput goodput;
  SlidingWindow<Goodput> recent_goodput;
  std::set<AnalysisSegment*> segments;  // Of its living processes.
  std::uint64_t ended = 0;              // When the last of them went, counted over all engines.
  std::map<std::string, AnalysisSource> sources;

  double wall_s(std::int64_t time_ns, double wall_behind_monotonic_s) const {
    const double time_s = static_cast<double>(time_ns) * 1e-9;
    return is_virtual ? time_s : time_s + wall_behind_monotonic_s;
  }
  analysis::SchedulerStats& scheduler_stats(std::int64_t time_ns) {
    if (!scheduler) {
      scheduler = std::move(analysis::create_stats_collector().value());
      scheduler->current().perf.emplace();
      next_commit_ns = time_ns + kPeriod_ns;
    } else if (time_ns >= next_commit_ns) {
      scheduler->commit();
      next_commit_ns = time_ns + kPeriod_ns;
    }
    return scheduler->current();
  }
};

}  // namespace rankbus
