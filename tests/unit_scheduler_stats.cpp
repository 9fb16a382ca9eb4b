// Scheduler statistics word for word. Each test names the rows of the S0 checklist that it keeps,
// and W1 to W5 are worked by hand.
#include <gtest/gtest.h>

#include <cereal/archives/binary.hpp>
#include <cereal/types/deque.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/optional.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/variant.hpp>
#include <cereal/types/vector.hpp>
#include <cmath>
#include <limits>
#include <rankbus/aggregator/analysis/scheduler_stats_collector.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "unit_exporters_lib.hpp"

namespace rankbus::analysis {
namespace {

using rankbus::test::read_file;
using rankbus::test::run_command;
using rankbus::test::TempDir;
using rankbus::test::write_file;

using Keys = std::vector<std::string>;

Keys keys_of(const Json& dict) {
  Keys keys;
  for (const auto& [key, value] : dict.items()) keys.push_back(key);
  return keys;
}

double number_in(const ReducedStats& stats, std::string_view wanted) {
  for (const auto& [name, value] : stats) {
    if (name == wanted) return std::visit([](auto v) { return static_cast<double>(v); }, value);
  }
  return std::nan("");
}

// The value of a series without labels; NaN where there is none.
double sample_in(const std::string& exposition, const std::string& name) {
  const std::string text = '\n' + exposition;
  const std::size_t at = text.find('\n' + name + ' ');
  return at == std::string::npos ? std::nan("") : std::stod(text.substr(at + name.size() + 2));
}

KvCacheEvictionEvent eviction(std::int64_t stamp_ns, const std::string& request,
                              const std::string& reason = "manual") {
  return KvCacheEvictionEvent::at_untrusted({stamp_ns, 1e9}, request, 3, reason);
}

std::vector<std::string> requests_of(const std::vector<KvCacheEvictionEvent>& events) {
  std::vector<std::string> ids;
  for (const KvCacheEvictionEvent& event : events) ids.push_back(event.request_id);
  return ids;
}

SchedulerStatsCollector collector_of(std::int64_t window_size) {
  return create_stats_collector(window_size).value();
}

constexpr char kReadExposition[] = R"(
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    samples = [sample for family in parse(file.read()) for sample in family.samples]
assert [s.value for s in samples if s.name == "scheduler_running_requests"] == [2], samples
assert any(s.labels.get("adapter") == 'a"b\\c\nd' for s in samples), samples
assert all(s.labels["model_name"] == 'l"\\\n' for s in samples), samples
)";

// Everything that scheduler statistics can hold.
SchedulerStats full_stats() {
  SchedulerStats stats = create_scheduler_stats(true, 3);
  stats.record_step(10, 2, 4, 0.25);
  stats.set_current_wave(10, 7);
  stats.prefix_cache.record(100, 60);
  stats.connector_prefix_cache.emplace().record(50, 20);
  const std::vector<std::int64_t> positions = {0, 1};
  stats.spec_decoding->observe_draft(3, 2, positions);
  stats.cuda_graphs.emplace().record_capture(10, 100);
  stats.cuda_graphs->record_replay(1);
  stats.perf->record_step(1, 8, 1);
  stats.kv_connector.emplace().add_untrusted("loads", std::uint64_t{5});
  stats.set_lora_adapters_untrusted(10, {{"poet", 2}}, {{"clerk", 4}});
  stats.record_eviction(eviction(10, "r1", "timeout"));
  return stats;
}

// S0-02, S0-03, S0-04, W1
TEST(PrefixCacheStats, Records_AddTokensHitsAndMisses) {
  PrefixCacheStats stats;
  EXPECT_EQ(stats.hit_rate(), 0);
  EXPECT_TRUE(stats.record(100, 60));
  EXPECT_FALSE(stats.preempted());
  EXPECT_TRUE(stats.record(50, 40, true));
  EXPECT_TRUE(stats.record(0, 0, false));
  EXPECT_EQ(stats.num_tokens(), 150u);
  EXPECT_EQ(stats.num_hits(), 100u);
  EXPECT_EQ(stats.num_misses(), 50u);
  EXPECT_DOUBLE_EQ(stats.hit_rate(), 2.0 / 3);
  EXPECT_TRUE(stats.preempted());
}

// S0-04, S0-05
TEST(PrefixCacheStats, Reset_IsAsNew) {
  PrefixCacheStats stats;
  stats.record(100, 60, true);
  stats.record(1, 2);
  stats.reset();
  EXPECT_EQ(stats, PrefixCacheStats{});
  EXPECT_FALSE(stats.preempted());
  EXPECT_TRUE(stats.is_empty());
}

// S0-06
TEST(PrefixCacheStats, Copy_DoesNotFollowTheLiveOne) {
  PrefixCacheStats live;
  live.record(100, 60);
  const PrefixCacheStats copy = live;
  live.record(100, 0, true);
  EXPECT_EQ(copy.num_tokens(), 100u);
  EXPECT_EQ(copy.num_hits(), 60u);
  EXPECT_EQ(copy.num_misses(), 40u);
  EXPECT_FALSE(copy.preempted());
}

// S0-07
TEST(PrefixCacheStats, Dict_HasExactlyItsFiveKeys) {
  PrefixCacheStats stats;
  stats.record(4, 1, true);
  EXPECT_EQ(stats.as_dict().dump(),
            R"({"num_tokens":4,"num_hits":1,"num_misses":3,"hit_rate":0.25,"preempted":true})");
}

// S0-08
TEST(PrefixCacheStats, MoreHitsThanTokens_AreLeftOutAndCounted) {
  PrefixCacheStats stats;
  EXPECT_FALSE(stats.record(10, 11, true));
  EXPECT_EQ(stats.num_tokens(), 0u);
  EXPECT_EQ(stats.num_hits(), 0u);
  EXPECT_EQ(stats.num_misses(), 0u);
  EXPECT_FALSE(stats.preempted());
  EXPECT_EQ(stats.bad_records(), 1u);
  EXPECT_TRUE(stats.record(10, 10));
  EXPECT_EQ(stats.hit_rate(), 1);
}

// S0-08
TEST(PrefixCacheStats, CountsAtTheEndOf64Bits_StopInsteadOfWrapping) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  PrefixCacheStats stats;
  stats.record(kMax, kMax);
  stats.record(kMax, kMax);
  EXPECT_EQ(stats.num_tokens(), kMax);
  EXPECT_EQ(stats.hit_rate(), 1);
}

// S0-09
TEST(SpecDecodingStats, AnyNumberOfPositions_BeginsAtZero) {
  EXPECT_EQ(SpecDecodingStats().accepted_per_position(), std::vector<std::uint64_t>(5));
  EXPECT_EQ(SpecDecodingStats(0).accepted_per_position(), std::vector<std::uint64_t>());
  EXPECT_EQ(SpecDecodingStats(64).accepted_per_position(), std::vector<std::uint64_t>(64));
  EXPECT_EQ(SpecDecodingStats(kMaxSpecTokens + 9).num_spec_tokens(), kMaxSpecTokens);
}

// S0-10, S0-11, S0-12, S0-13, S0-14, W2
TEST(SpecDecodingStats, Drafts_AreWorkedByHand) {
  SpecDecodingStats stats(3);
  const auto observe = [&](std::uint64_t drafted, std::uint64_t accepted,
                           std::vector<std::int64_t> positions) {
    stats.observe_draft(drafted, accepted, positions);
  };
  observe(3, 2, {0, 1});
  observe(3, 1, {0});
  observe(3, 0, {});
  observe(3, 3, {0, 1, 2, 7});
  EXPECT_EQ(stats.num_drafts(), 4u);
  EXPECT_EQ(stats.num_draft_tokens(), 12u);
  EXPECT_EQ(stats.num_accepted_tokens(), 6u);
  EXPECT_EQ(stats.acceptance_rate(), 0.5);
  EXPECT_EQ(stats.avg_accepted_per_draft(), 1.5);
  EXPECT_EQ(stats.position_acceptance_rates(), (std::vector<double>{0.75, 0.5, 0.25}));
}

// S0-11
TEST(SpecDecodingStats, PositionsOfNoDraft_AreIgnoredAndTwiceCountsTwice) {
  SpecDecodingStats stats(2);
  const std::vector<std::int64_t> positions = {
      -1, 2, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(),
      1,  1};
  stats.observe_draft(2, 2, positions);
  EXPECT_EQ(stats.accepted_per_position(), (std::vector<std::uint64_t>{0, 2}));
  stats.observe_draft(2, 2);
  EXPECT_EQ(stats.accepted_per_position(), (std::vector<std::uint64_t>{0, 2}));
  EXPECT_EQ(stats.num_accepted_tokens(), 4u);
}

// S0-12, S0-13, S0-14
TEST(SpecDecodingStats, WithoutDrafts_RatesAreZero) {
  const SpecDecodingStats stats(3);
  EXPECT_EQ(stats.acceptance_rate(), 0);
  EXPECT_EQ(stats.avg_accepted_per_draft(), 0);
  EXPECT_EQ(stats.position_acceptance_rates(), (std::vector<double>{0, 0, 0}));
}

// S0-15
TEST(SpecDecodingStats, Reset_KeepsPositionsAndCopiesStandAlone) {
  SpecDecodingStats live(3);
  const std::vector<std::int64_t> first = {0};
  live.observe_draft(3, 1, first);
  const SpecDecodingStats copy = live;
  live.observe_draft(3, 1, first);
  live.reset();
  EXPECT_EQ(live, SpecDecodingStats(3));
  EXPECT_EQ(copy.num_drafts(), 1u);
  EXPECT_EQ(copy.accepted_per_position(), (std::vector<std::uint64_t>{1, 0, 0}));
}

// S0-16
TEST(SpecDecodingStats, Dict_HasItsSixKeys) {
  EXPECT_EQ(keys_of(SpecDecodingStats(2).as_dict()),
            (Keys{"num_drafts", "num_draft_tokens", "num_accepted_tokens", "acceptance_rate",
                  "avg_accepted_per_draft", "position_acceptance_rates"}));
}

TEST(SpecDecodingStats, ShorterListOfPositions_GoesOnWithZeros) {
  SpecDecodingStats shorter(1);
  SpecDecodingStats longer(3);
  const std::vector<std::int64_t> positions = {0, 2};
  shorter.observe_draft(1, 1, positions);
  longer.observe_draft(3, 2, positions);
  shorter.aggregate(longer);
  EXPECT_EQ(shorter.accepted_per_position(), (std::vector<std::uint64_t>{2, 0, 1}));
  EXPECT_EQ(shorter.position_acceptance_rates(), (std::vector<double>{1, 0, 0.5}));
}

// S0-17, S0-18, S0-19, W3
TEST(CudaGraphStats, CapturesAndReplays_AreWorkedByHand) {
  CudaGraphStats stats;
  EXPECT_EQ(stats.avg_capture_time_ms(), 0);
  EXPECT_EQ(stats.avg_replay_time_ms(), 0);
  stats.record_capture(10, 100);
  stats.record_capture(20, 80);
  stats.record_replay(1);
  stats.record_replay(3);
  EXPECT_EQ(stats.num_captures(), 2u);
  EXPECT_EQ(stats.capture_time_ms(), 30);
  EXPECT_EQ(stats.graph_memory_mb(), 100);
  EXPECT_EQ(stats.avg_capture_time_ms(), 15);
  EXPECT_EQ(stats.num_replays(), 2u);
  EXPECT_EQ(stats.replay_time_ms(), 4);
  EXPECT_EQ(stats.avg_replay_time_ms(), 2);
}

// S0-20
TEST(CudaGraphStats, Dict_HasItsSevenKeys) {
  EXPECT_EQ(keys_of(CudaGraphStats().as_dict()),
            (Keys{"num_captures", "num_replays", "capture_time_ms", "replay_time_ms",
                  "avg_capture_time_ms", "avg_replay_time_ms", "graph_memory_mb"}));
}

TEST(CudaGraphStats, TimesThatCannotBe_AreLeftOutAndCounted) {
  CudaGraphStats stats;
  EXPECT_FALSE(stats.record_capture(std::nan(""), 1));
  EXPECT_FALSE(stats.record_capture(1, -1));
  EXPECT_FALSE(stats.record_replay(std::numeric_limits<double>::infinity()));
  EXPECT_EQ(stats.num_captures() + stats.num_replays(), 0u);
  EXPECT_EQ(stats.bad_records(), 3u);
  stats.reset();
  EXPECT_TRUE(stats.is_empty());
}

TEST(CudaGraphStats, Memory_IsTheLargestOfAnEngineAndTheSumOfEngines) {
  CudaGraphStats one;
  CudaGraphStats two;
  one.record_capture(10, 100);
  two.record_capture(30, 80);
  CudaGraphStats of_engine = one;
  of_engine.aggregate(two);
  EXPECT_EQ(of_engine.graph_memory_mb(), 100);
  EXPECT_EQ(of_engine.avg_capture_time_ms(), 20);
  CudaGraphStats of_engines = one;
  of_engines.aggregate_engine(two);
  EXPECT_EQ(of_engines.graph_memory_mb(), 180);
}

// S0-21, S0-22, S0-23, W4
TEST(PerfStats, Steps_AreWorkedByHand) {
  PerfStats stats;
  EXPECT_EQ(stats.avg_step_time_ms(), 0);
  stats.record_step(1, 8, 1);
  stats.record_step(2, 9, 1);
  stats.record_all_reduce(4);
  stats.record_model_execute(50);
  EXPECT_EQ(stats.num_steps(), 2u);
  EXPECT_EQ(stats.total_time_ms(), 26);
  EXPECT_EQ(stats.avg_step_time_ms(), 13);
  stats.record_cache_swap(6);
  EXPECT_EQ(stats.total_time_ms(), 32);
}

// S0-21, S0-23
TEST(PerfStats, OmittedParts_AddNothingAndResetClearsAll) {
  PerfStats stats;
  stats.record_step();
  stats.record_step(2);
  EXPECT_EQ(stats.num_steps(), 2u);
  EXPECT_EQ(stats.total_time_ms(), 2);
  stats.record_all_reduce(1);
  stats.record_cache_swap(1);
  stats.record_model_execute(1);
  stats.reset();
  EXPECT_EQ(stats, PerfStats{});
}

// S0-24, S0-25
TEST(PerfStats, Dict_HasItsSixKeysAndTheOtherThreeTimings) {
  PerfStats stats;
  stats.record_step(1, 8, 2);
  stats.record_model_execute(50);
  stats.record_all_reduce(4);
  stats.record_cache_swap(3);
  EXPECT_EQ(stats.as_dict().dump(),
            R"({"num_steps":1,"schedule_time_ms":1.0,"model_forward_time_ms":8.0,)"
            R"("sample_time_ms":2.0,"total_time_ms":18.0,"avg_step_time_ms":18.0,)"
            R"("model_execute_time_ms":50.0,"all_reduce_time_ms":4.0,"cache_swap_time_ms":3.0})");
}

// S0-26
TEST(KvCacheEvictionEvent, Creation_StampsItAndItExportsFourKeys) {
  const auto event =
      KvCacheEvictionEvent::at_untrusted({123, 1700000000.5}, "req", 4, "memory_pressure");
  EXPECT_EQ(event.stamp_ns, 123);
  EXPECT_EQ(event.as_dict().dump(),
            R"({"timestamp":1700000000.5,"request_id":"req","num_blocks":4,)"
            R"("reason":"memory_pressure"})");
}

// S0-27
TEST(KvCacheEvictionEvent, Reasons_ComeBackFromStorageAndExport) {
  for (const char* reason : {"memory_pressure", "timeout", "manual"}) {
    SchedulerStats written;
    written.record_eviction(eviction(1, "r", reason));
    std::stringstream stored;
    cereal::BinaryOutputArchive{stored}(written);
    SchedulerStats read;
    cereal::BinaryInputArchive{stored}(read);
    ASSERT_EQ(read.evictions().events().size(), 1u);
    EXPECT_EQ(read.evictions().events()[0].reason, reason);
    EXPECT_EQ(read.evictions_by_reason().by_name().at(reason), 1u);
    EXPECT_EQ(read.as_dict()["kv_cache_eviction_events"][0]["reason"], reason);
    EXPECT_NE(read.to_prometheus().find("kv_cache_evictions_total{reason=\"" + std::string(reason) +
                                        "\"} 1\n"),
              std::string::npos);
  }
}

// C-24
TEST(KvCacheEvictionEvent, HostileTexts_AreCutAndValidUtf8) {
  const auto event =
      KvCacheEvictionEvent::at_untrusted({}, std::string(1000, '\xFF'), 1, std::string(1000, 'x'));
  EXPECT_LE(event.request_id.size(), kMaxRequestIdBytes);
  EXPECT_EQ(event.request_id.substr(0, 3), "\xEF\xBF\xBD");
  EXPECT_EQ(event.reason.size(), kMaxReasonBytes);
}

// S0-28, S0-29
TEST(SchedulerStats, Step_CountsAndOverwritesGauges) {
  SchedulerStats stats;
  stats.record_step(1, 2, 4, 0.2);
  stats.record_step(2, 5, 1, 0.4);
  EXPECT_EQ(stats.step_counter(), 2u);
  EXPECT_EQ(stats.num_running_reqs(), 5u);
  EXPECT_EQ(stats.num_waiting_reqs(), 1u);
  EXPECT_EQ(stats.total_requests(), 6u);
  EXPECT_EQ(stats.kv_cache_usage(), 0.4);
}

// S0-29
TEST(SchedulerStats, Gauges_AreOfOneStepWhoeverWroteTheNewest) {
  SchedulerStats older;
  SchedulerStats newer;
  older.record_step(1, 100, 1, 0.1);
  newer.record_step(2, 1, 100, 0.2);
  older.aggregate(newer);
  EXPECT_EQ(older.total_requests(), 101u);
  newer.record_step(1, 50, 50, 0.9);  // A late record is counted, and shows no old gauge.
  EXPECT_EQ(newer.num_running_reqs(), 1u);
  EXPECT_EQ(newer.step_counter(), 2u);
}

// S0-08
TEST(SchedulerStats, UsageThatIsNoShare_LeavesTheLastOneAndIsCounted) {
  SchedulerStats stats;
  stats.record_step(1, 1, 1, 0.5);
  stats.record_step(2, 2, 2, std::nan(""));
  stats.record_step(3, 3, 3, KvBlocks{5, 4});
  EXPECT_EQ(stats.kv_cache_usage(), 0.5);
  EXPECT_EQ(stats.num_running_reqs(), 3u);
  EXPECT_EQ(stats.step_counter(), 3u);
  EXPECT_EQ(stats.as_dict()["bad_records"], 2);
}

// S0-30, S0-36
TEST(SchedulerStats, Reset_ClearsThePeriodAndKeepsWhatIsTheEngines) {
  SchedulerStats stats = full_stats();
  stats.reset();
  EXPECT_EQ(stats.num_running_reqs(), 0u);
  EXPECT_EQ(stats.num_waiting_reqs(), 0u);
  EXPECT_EQ(stats.kv_cache_usage(), 0);
  EXPECT_EQ(stats.step_counter(), 0u);
  EXPECT_EQ(stats.prefix_cache, PrefixCacheStats{});
  EXPECT_EQ(stats.spec_decoding, SpecDecodingStats(3));
  EXPECT_EQ(stats.perf, PerfStats{});
  EXPECT_TRUE(stats.evictions().events().empty());
  EXPECT_EQ(stats.current_wave(), 7u);
  EXPECT_EQ(stats.as_dict()["current_wave"], 7);
  EXPECT_EQ(stats.cuda_graphs->num_captures(), 1u);
  EXPECT_EQ(stats.connector_prefix_cache->num_hits(), 20u);
}

// S0-31
TEST(SchedulerStats, Dict_HasSevenKeysAndOnlyThePartsThatExist) {
  const Keys base = {"num_running_reqs", "num_waiting_reqs", "total_requests", "step_counter",
                     "current_wave",     "kv_cache_usage",   "prefix_cache"};
  SchedulerStats stats;
  EXPECT_EQ(keys_of(stats.as_dict()), base);
  stats.spec_decoding.emplace();
  stats.cuda_graphs.emplace();
  stats.perf.emplace();
  Keys all = base;
  all.insert(all.end(), {"spec_decoding", "cudagraph", "performance"});
  EXPECT_EQ(keys_of(stats.as_dict()), all);
}

// S0-32
TEST(SchedulerStats, ConnectorLoraAndEvictions_AreInEverySnapshotAndExport) {
  SchedulerStatsCollector collector = collector_of(2);
  collector.current() = full_stats();
  const auto snapshot = collector.commit();
  const Json dict = snapshot->as_dict();
  EXPECT_EQ(dict["connector_prefix_cache"]["num_hits"], 20);
  EXPECT_EQ(dict["kv_connector"]["loads"], 5);
  EXPECT_EQ(dict["running_lora_adapters"]["poet"], 2);
  EXPECT_EQ(dict["waiting_lora_adapters"]["clerk"], 4);
  EXPECT_EQ(dict["kv_cache_eviction_events"][0]["request_id"], "r1");
  const std::string text = snapshot->to_prometheus();
  for (const char* line :
       {"connector_prefix_cache_hits_total 20\n", "kv_connector_value{name=\"loads\"} 5\n",
        "scheduler_running_lora_requests{adapter=\"poet\"} 2\n",
        "scheduler_waiting_lora_requests{adapter=\"clerk\"} 4\n",
        "kv_cache_evicted_blocks_total{reason=\"timeout\"} 3\n",
        "scheduler_phase_time_ms_total{phase=\"model_forward\"} 8\n",
        "cudagraph_captures_total 1\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "in\n" << text;
  }
}

TEST(SchedulerStats, MoreAdaptersThanNames_CountAsOther) {
  std::map<std::string, std::uint64_t> running;
  for (int i = 0; i < 1000; ++i) running["adapter" + std::to_string(1000 + i)] = 1;
  SchedulerStats stats;
  stats.set_lora_adapters_untrusted(1, running, {});
  const auto by_name = stats.running_lora_adapters().by_name();
  EXPECT_EQ(by_name.size(), kMaxKeys + 1);
  EXPECT_EQ(by_name.at("other"), 1000 - kMaxKeys);
  EXPECT_EQ(stats.running_lora_adapters().sum(), 1000u);
}

// S0-33
TEST(SchedulerStats, Prometheus_HasTheSevenNames) {
  SchedulerStats stats;
  stats.record_step(1, 2, 4, 0.25);
  stats.prefix_cache.record(8, 2);
  const std::string text = stats.to_prometheus();
  EXPECT_EQ(sample_in(text, "scheduler_running_requests"), 2);
  EXPECT_EQ(sample_in(text, "scheduler_waiting_requests"), 4);
  EXPECT_EQ(sample_in(text, "scheduler_step_counter"), 1);
  EXPECT_EQ(sample_in(text, "kv_cache_usage"), 0.25);
  EXPECT_EQ(sample_in(text, "prefix_cache_hit_rate"), 0.25);
  EXPECT_EQ(sample_in(text, "prefix_cache_hits_total"), 2);
  EXPECT_EQ(sample_in(text, "prefix_cache_misses_total"), 6);
}

// S0-34
TEST(SchedulerStats, Prometheus_HasSpeculationOnlyWhereItIsOn) {
  SchedulerStats stats;
  EXPECT_EQ(stats.to_prometheus().find("spec_decode"), std::string::npos);
  stats.spec_decoding.emplace(2).observe_draft(4, 1);
  EXPECT_EQ(sample_in(stats.to_prometheus(), "spec_decode_drafts_total"), 1);
  EXPECT_EQ(sample_in(stats.to_prometheus(), "spec_decode_acceptance_rate"), 0.25);
}

// S0-35
TEST(SchedulerStats, Prometheus_PassesStrictParsersWithAnyLabel) {
  SchedulerStats stats = full_stats();
  stats.set_lora_adapters_untrusted(11, {{"a\"b\\c\nd", 1}, {"\xFF\xFE", 2}}, {});
  const std::string text = stats.to_prometheus({{"engine", "0"}, {"model_name", "l\"\\\n"}});
  EXPECT_EQ(text.back(), '\n');
  for (const char* name : {"scheduler_running_requests", "kv_cache_usage",
                           "spec_decode_drafts_total", "prefix_cache_hits_total"}) {
    EXPECT_NE(text.find("# HELP " + std::string(name) + ' '), std::string::npos) << name;
    EXPECT_NE(text.find("# TYPE " + std::string(name) + ' '), std::string::npos) << name;
  }
  const TempDir dir;
  write_file(dir / "exposition", text);
  write_file(dir / "read.py", kReadExposition);
  const auto [status, output] = run_command(
      "/usr/bin/python3 -B '" + dir / "read.py" + "' '" + dir / "exposition" + "'", dir);
  EXPECT_EQ(status, 0) << output;
}

// S0-35
TEST(SchedulerStatsCollector, Totals_NeverDecreaseAcrossCommits) {
  SchedulerStatsCollector collector = collector_of(2);
  collector.current() = create_scheduler_stats(true);
  collector.current().cuda_graphs.emplace();
  double hits_before = 0;
  double drafts_before = 0;
  for (int round = 1; round <= 5; ++round) {
    collector.record_step(round, 1, 1, 0.5);
    collector.current().prefix_cache.record(10, 6);
    collector.current().spec_decoding->observe_draft(4, 1);
    collector.current().cuda_graphs->record_replay(1);
    for (const bool is_committed : {false, true}) {
      if (is_committed) collector.commit();
      const std::string text = std::get<std::string>(collector.export_as("prometheus").value());
      const double hits = sample_in(text, "prefix_cache_hits_total");
      const double drafts = sample_in(text, "spec_decode_drafts_total");
      EXPECT_EQ(hits, 6 * round);
      EXPECT_EQ(sample_in(text, "scheduler_step_counter"), round);
      EXPECT_EQ(sample_in(text, "cudagraph_replays_total"), round);
      EXPECT_EQ(sample_in(text, "scheduler_running_requests"), 1) << "a commit is no step";
      EXPECT_GE(hits, hits_before);
      EXPECT_GE(drafts, drafts_before);
      hits_before = hits;
      drafts_before = drafts;
    }
  }
}

// S0-01
TEST(SchedulerStats, Formats_AgreeOnValuesAndOthersAreRefused) {
  const SchedulerStats stats = full_stats();
  const Json dict = std::get<Json>(stats.export_as("dict").value());
  EXPECT_EQ(Json::parse(std::get<std::string>(stats.export_as("json").value())), dict);
  const std::string text = std::get<std::string>(stats.export_as("prometheus").value());
  EXPECT_EQ(sample_in(text, "scheduler_running_requests"), dict["num_running_reqs"]);
  EXPECT_EQ(sample_in(text, "scheduler_waiting_requests"), dict["num_waiting_reqs"]);
  EXPECT_EQ(sample_in(text, "scheduler_step_counter"), dict["step_counter"]);
  EXPECT_EQ(sample_in(text, "kv_cache_usage"), dict["kv_cache_usage"]);
  EXPECT_EQ(sample_in(text, "prefix_cache_hit_rate"), dict["prefix_cache"]["hit_rate"]);
  EXPECT_EQ(sample_in(text, "spec_decode_acceptance_rate"),
            dict["spec_decoding"]["acceptance_rate"]);
  EXPECT_EQ(sample_in(text, "cudagraph_capture_time_ms_total"),
            dict["cudagraph"]["capture_time_ms"]);
  for (const char* unknown : {"", "DICT", "yaml", "csv", "json "}) {
    const auto refused = stats.export_as(unknown);
    EXPECT_FALSE(refused) << unknown;
    EXPECT_NE(refused.error().find("dict, prometheus, json"), std::string::npos);
  }
}

// S0-37, S0-45
TEST(SchedulerStatsCollector, Window_IsAHundredCommitsUnlessChosen) {
  EXPECT_EQ(create_stats_collector().value().window_size(), 100u);
  SchedulerStatsCollector collector = collector_of(3);
  EXPECT_EQ(collector.window_size(), 3u);
  for (int i = 0; i < 1000; ++i) collector.record_step(i, 1, 1, 0.1);
  EXPECT_TRUE(collector.history().empty()) << "steps are no commits";
}

// S0-38
TEST(SchedulerStatsCollector, Commit_ReturnsStoresAndRestarts) {
  SchedulerStatsCollector collector = collector_of(2);
  for (std::uint64_t i = 1; i <= 3; ++i) {
    collector.record_step(static_cast<std::int64_t>(i), i, 0, 0.1);
    const auto snapshot = collector.commit();
    EXPECT_EQ(snapshot->num_running_reqs(), i);
    EXPECT_EQ(snapshot->step_counter(), 1u);
    EXPECT_EQ(collector.history().back(), snapshot);
    EXPECT_EQ(collector.current().step_counter(), 0u);
  }
  ASSERT_EQ(collector.history().size(), 2u);
  EXPECT_EQ(collector.history()[0]->num_running_reqs(), 2u);
  EXPECT_EQ(collector.history()[1]->num_running_reqs(), 3u);
}

// S0-39
TEST(SchedulerStatsCollector, Snapshot_NeverChangesAfterwards) {
  SchedulerStatsCollector collector = collector_of(5);
  collector.current() = full_stats();
  const auto snapshot = collector.commit();
  EXPECT_EQ(*snapshot, full_stats());
  collector.current().perf->record_step(9, 9, 9);
  collector.current().cuda_graphs->record_capture(99, 999);
  collector.current().cuda_graphs->reset();
  collector.drain_events();
  collector.commit();
  EXPECT_EQ(*snapshot, full_stats());
  EXPECT_EQ(snapshot->perf->total_time_ms(), 10);
  EXPECT_EQ(snapshot->cuda_graphs->graph_memory_mb(), 100);
  EXPECT_EQ(snapshot->evictions().events().size(), 1u);
}

// S0-40, W5
TEST(SchedulerStatsCollector, Averages_AreOverTheWindow) {
  SchedulerStatsCollector collector = collector_of(2);
  EXPECT_TRUE(collector.averages().empty());
  collector.record_step(1, 2, 4, 0.2);
  EXPECT_TRUE(collector.averages().empty());
  collector.commit();
  collector.record_step(2, 4, 0, 0.4);
  collector.commit();
  collector.record_step(3, 6, 2, 0.9);
  collector.commit();
  const ReducedStats averages = collector.averages();
  EXPECT_EQ(number_in(averages, "avg_running_reqs"), 5);
  EXPECT_EQ(number_in(averages, "avg_waiting_reqs"), 1);
  EXPECT_DOUBLE_EQ(number_in(averages, "avg_kv_usage"), 0.65);
  EXPECT_EQ(number_in(averages, "avg_prefix_hit_rate"), 0);
}

// S0-40, S0-41
TEST(SchedulerStatsCollector, HitRate_IsPlainAndWeightedByTokens) {
  SchedulerStatsCollector collector = collector_of(4);
  collector.current().prefix_cache.record(10, 10);
  collector.commit();
  collector.current().prefix_cache.record(90, 0);
  collector.commit();
  collector.commit();  // Nobody looked anything up: counts as 0 in the plain mean only.
  const ReducedStats averages = collector.averages();
  EXPECT_DOUBLE_EQ(number_in(averages, "avg_prefix_hit_rate"), 1.0 / 3);
  EXPECT_DOUBLE_EQ(number_in(averages, "token_weighted_prefix_hit_rate"), 0.1);
}

// S0-42
TEST(SchedulerStatsCollector, Drain_GivesEachEventOnceInOrder) {
  SchedulerStatsCollector collector = collector_of(2);
  collector.current().record_eviction(eviction(1, "b"));
  collector.current().record_eviction(eviction(2, "c"));
  collector.current().record_eviction(eviction(2, "a"));
  EXPECT_EQ(requests_of(collector.drain_events()), (Keys{"b", "c", "a"}));
  EXPECT_TRUE(collector.drain_events().empty());
}

// S0-43
TEST(SchedulerStatsCollector, EventsOfCommittedPeriods_AreStillDrained) {
  SchedulerStatsCollector collector = collector_of(1);
  for (std::int64_t i = 1; i <= 3; ++i) {
    collector.current().record_eviction(eviction(7, std::to_string(i)));
    collector.commit();
  }
  collector.current().record_eviction(eviction(7, "4"));
  EXPECT_EQ(requests_of(collector.drain_events()), (Keys{"1", "2", "3", "4"}));
  EXPECT_TRUE(collector.drain_events().empty());
  EXPECT_EQ(collector.dropped_events(), 0u);
}

// S0-43
TEST(SchedulerStatsCollector, EventsBeyondTheBound_AreCountedAsDropped) {
  SchedulerStatsCollector collector = collector_of(1);
  constexpr std::size_t kEvents = kMaxEvictionEvents * 2 + 10;
  for (std::size_t i = 0; i < kEvents; ++i) {
    collector.current().record_eviction(eviction(static_cast<std::int64_t>(i), std::to_string(i)));
    if (i % 700 == 0) collector.commit();
  }
  EXPECT_EQ(collector.totals().evictions_by_reason().sum(), kEvents);
  collector.commit();
  EXPECT_EQ(collector.dropped_events(), kEvents - kMaxEvictionEvents);
  const std::vector<KvCacheEvictionEvent> drained = collector.drain_events();
  ASSERT_EQ(drained.size(), kMaxEvictionEvents);
  EXPECT_EQ(drained.back().request_id, std::to_string(kEvents - 1)) << "the newest stay";
}

// S0-44
TEST(SchedulerStats, Factory_AttachesTimingsAndSpeculationOnRequest) {
  EXPECT_TRUE(create_scheduler_stats().perf);
  EXPECT_FALSE(create_scheduler_stats().spec_decoding);
  EXPECT_FALSE(create_scheduler_stats(true).cuda_graphs);
  EXPECT_EQ(create_scheduler_stats(true).spec_decoding->num_spec_tokens(), 5u);
  EXPECT_EQ(create_scheduler_stats(true, 3).spec_decoding->num_spec_tokens(), 3u);
  EXPECT_FALSE(create_scheduler_stats(false, 3).spec_decoding);
}

// S0-45, S0-46
TEST(SchedulerStatsCollector, WindowThatHoldsNothing_IsRefused) {
  for (const std::int64_t window : {std::int64_t{0}, std::int64_t{-1}, INT64_MIN, INT64_MAX}) {
    const auto collector = create_stats_collector(window);
    EXPECT_FALSE(collector);
    EXPECT_NE(collector.error().find(std::to_string(window)), std::string::npos);
  }
  EXPECT_TRUE(create_stats_collector(1));
}

TEST(SchedulerStats, Engines_AddUpAndUsageIsOfAllBlocks) {
  SchedulerStats one;
  SchedulerStats two;
  one.record_step(5, 2, 1, KvBlocks{10, 100});
  two.record_step(3, 3, 4, KvBlocks{270, 300});
  one.set_current_wave(5, 7);
  two.set_current_wave(3, 8);
  one.set_lora_adapters_untrusted(1, {{"a", 1}, {"b", 1}}, {});
  two.set_lora_adapters_untrusted(1, {{"b", 2}}, {});
  one.aggregate_engine(two);
  EXPECT_EQ(one.num_running_reqs(), 5u);
  EXPECT_EQ(one.num_waiting_reqs(), 5u);
  EXPECT_EQ(one.kv_cache_usage(), 0.7);
  EXPECT_EQ(one.current_wave(), 8u);
  EXPECT_EQ(one.running_lora_adapters().by_name().at("b"), 3u);

  SchedulerStats three;  // Tells a share of nobody knows how much.
  three.record_step(4, 1, 1, 0.5);
  one.aggregate_engine(three);
  EXPECT_EQ(one.num_running_reqs(), 6u);
  EXPECT_EQ(one.kv_cache_usage(), std::nullopt);
  EXPECT_TRUE(one.as_dict()["kv_cache_usage"].is_null());
  EXPECT_EQ(one.to_prometheus().find("kv_cache_usage "), std::string::npos);
}

TEST(SchedulerStats, Storage_GivesBackAllOfIt) {
  std::stringstream stored;
  cereal::BinaryOutputArchive{stored}(full_stats());
  SchedulerStats read;
  cereal::BinaryInputArchive{stored}(read);
  EXPECT_EQ(read, full_stats());
  EXPECT_FALSE(read.is_empty());
}

}  // namespace
}  // namespace rankbus::analysis
