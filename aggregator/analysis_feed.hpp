// aggregator/analysis_feed.hpp: what single records tell over time: KV blocks, caches, a
// scheduler's periods, and which requests met their limits; engine by engine.
//
// Everything here is made of samples. What was written and not read is counted by stream, and said
// with every answer; the totals of the same records are exact, and are not made here. After a loss
// in a stream its followed blocks are forgotten. Sizes of caches come from totals alone.
//
// What one pass brings is applied in the order of its stamps, so that it does not matter to which
// ranks the records were dealt out; only between passes is the order that of reading, which may
// move the moment of an alert or of a scheduler's commit. A block is its writer's: whoever
// allocates it also tells its end. Time is the records' own: CLOCK_MONOTONIC of this node, or the
// virtual clock that they bear, which begins anew with each run, and the windows with it. Processes
// of the other clock than the engine's are not analysed. No wall clock decides anything.
//
// Bounds: by engine, those of BlockResidency, MultiLevelCacheMetrics and SchedulerStatsCollector,
// made when such records come; at most kMaxEngines engines: a further one takes the place of the
// one that ended first, and is not analysed while all of them live.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <rankbus/aggregator/alerts.hpp>
#include <rankbus/aggregator/analysis/block_residency.hpp>
#include <rankbus/aggregator/analysis/cache_metrics.hpp>
#include <rankbus/aggregator/analysis/scheduler_stats_collector.hpp>
#include <rankbus/aggregator/analysis_events.hpp>
#include <rankbus/aggregator/goodput.hpp>
#include <rankbus/aggregator/sample_fields.hpp>
#include <rankbus/aggregator/tick_clock.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus {

struct AnalysisOptions {
  SloLimits slo;
  // Whether anomalies of block lives and memory pressure are alerts, and not only counted.
  bool statistical_alerts = false;
};

// Records of one stream name of an engine, as read one by one.
struct Coverage {
  std::uint64_t read = 0;
  std::uint64_t lost = 0;  // Overwritten before they were read.

  double ratio() const {
    const double all = static_cast<double>(read) + static_cast<double>(lost);
    return all == 0 ? 1 : static_cast<double>(read) / all;
  }
  void aggregate(const Coverage& other) {
    add_saturating(read, other.read);
    add_saturating(lost, other.lost);
  }
  bool is_empty() const { return read == 0 && lost == 0; }
  double reduce() const { return ratio(); }
  void reset() { *this = {}; }
  bool operator==(const Coverage&) const = default;
};
static_assert(Accumulates<Coverage>);

class FamilyBuilder;
struct AnalysisEngine;

// Used by the reading thread only.
class AnalysisFeed {
 public:
  static constexpr std::size_t kMaxEngines = 256;

  explicit AnalysisFeed(const AnalysisOptions& options = {});
  ~AnalysisFeed();
  AnalysisFeed(const AnalysisFeed&) = delete;
  AnalysisFeed& operator=(const AnalysisFeed&) = delete;

  void observe(const LiveSegment& segment, const Sample& sample, const TickClock& clock);
  // Applies what the pass brought. Once after each pass.
  void end_pass(const BusReader& bus, const TickClock& clock);
  // Forgets what it keeps for segments that are gone.
  void forget_dead(const BusReader& bus);

  // Forgets the past of engines whose last process ended more than `retain_s` seconds ago; counters
  // stay.
  void forget_engines(const BusReader& bus, double now_s, double retain_s);

  // What only samples tell and must not begin anew with each aggregator: counters. For the ledger,
  // after `end_pass`; back from it before the first pass. False if the bytes are nobody's.
  std::string saved_counters() const;
  bool restore_untrusted(std::string_view bytes);

  // Adds the families of analysis_outputs.hpp, of engines that had a living process in the last
  // `retain_s` seconds.
  void add_families(const BusReader& bus, double now_s, double retain_s, FamilyBuilder& out) const;
  // Raises what holds now; nothing unless `statistical_alerts`.
  void raise_alerts(AlertBoard& board) const;
  // Everything about each engine that has anything to tell, as JSON.
  std::vector<EngineAnalysis> analyses() const;

 private:
  using Engine = AnalysisEngine;
  using Segment = AnalysisSegment;
  using Stream = AnalysisSegment::Stream;
  using Event = AnalysisEvent;

  Engine* find_engine(const LiveSegment& live);
  Segment& find_segment(const LiveSegment& live);
  Stream* find_stream(const LiveSegment& live, const StreamSchema& schema);
  static std::int64_t time_of(Engine& engine, const LiveSegment& live, const Sample& sample,
                              const TickClock& clock);
  static bool count(Stream& stream, const LiveSegment& live, const Sample& sample,
                    std::int64_t time_ns);
  static void count_losses_at_the_end(Stream& stream, const LiveSegment& live);
  static void count_coverage(Stream& stream, const Coverage& seen, std::int64_t time_ns);
  void forget_engine_that_ended_first();

  AnalysisOptions options_;
  std::map<EngineKey, std::unique_ptr<Engine>> engines_;
  std::map<std::uint64_t, std::unique_ptr<Segment>> segments_;  // By the serial of their reader.
  std::uint64_t next_segment_ = 1;
  std::uint64_t engines_ended_ = 0;
  const StreamSchema* latest_schema_ = nullptr;  // Records of a stream come in batches.
  std::uint64_t latest_serial_ = 0;
  Stream* latest_stream_ = nullptr;
  std::vector<Event> events_;
  std::vector<std::uint64_t> ids_;  // Of all events of the pass.
  std::uint64_t pass_ = 1;
};

}  // namespace rankbus
