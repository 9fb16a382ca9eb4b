// Goal:   what records on a bus say of KV blocks, caches and promises comes out of the analyses as
// it
//         went in, whatever was lost, died, or was dealt out over ranks; and each answer says of
//         how many records it was made.
// Method: real producers on the virtual clock, so that every expected number is worked by hand; the
//         answers are read where users read them, as families and as JSON.
#include "unit_analysis_lib.hpp"

namespace bus_test {
namespace {

// Each run of a virtual clock begins at its own time, and must not be judged by the one before.
TEST(AnalysisFeed, ASecondVirtualRun_HasWindowsOfItsOwn) {
  const Folder folder;
  Reader reader(folder.bus());
  for (const std::uint64_t began : {5'000ull, 10ull}) {
    Producer scheduler = open_scheduler(folder.bus());
    record_lookup(scheduler, "kv", began * kSecond, 1, 0);
    record_blocks(scheduler, KvBlockOperation::allocate, {1}, began * kSecond);
    record_blocks(scheduler, KvBlockOperation::evict, {1}, (began + 2) * kSecond);
    const json analysis = reader.analysis();
    EXPECT_DOUBLE_EQ(analysis["clock_s"], static_cast<double>(began + 2));
    EXPECT_EQ(analysis["caches"]["levels"]["kv"]["window_stats"]["hits"], 1);
    EXPECT_DOUBLE_EQ(analysis["kv_blocks"]["summary"]["avg_lifetime_seconds"], 2);
    scheduler.close();
    reader.pass();
  }
  // What counts, goes on.
  EXPECT_EQ(reader.value("rankbus_kv_block_followed_evictions_total"), 2);
}

// Times of two clocks cannot be compared: who comes second waits until the first has gone.
TEST(AnalysisFeed, AProcessOfTheOtherClock_IsNotMixedIn) {
  const Folder folder;
  Reader reader(folder.bus());
  Producer simulated = open_scheduler(folder.bus(), 0);
  record_lookup(simulated, "kv", 10 * kSecond, 1, 0);
  reader.pass();
  OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
  options.rank = 1;
  options.records[0] = rankbus::record_type<rankbus::CacheLookup>();
  Producer real = Producer::open(options);
  record_lookup(real, "kv", 0, 0, 5);
  json analysis = reader.analysis();
  EXPECT_EQ(analysis["clock"], "virtual");
  EXPECT_DOUBLE_EQ(analysis["clock_s"], 10);
  EXPECT_EQ(analysis["caches"]["levels"]["kv"]["cache_stats"]["total_misses"], 0);
  EXPECT_EQ(reader.value("rankbus_cache_misses_total", {{"level", "kv"}}), 5);
}

// One stamp of a broken caller does not end an engine's time.
TEST(AnalysisFeed, VirtualStampsOfTheFuture_CountAsNow) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  Reader reader(folder.bus());
  rankbus::SchedulerStep step;
  for (const std::uint64_t stamp : {10 * kSecond, ~std::uint64_t{0} / 2, ~std::uint64_t{0}}) {
    record_lookup(scheduler, "kv", stamp, 1, 0);
    step.stamp = stamp;
    scheduler.record(step);
  }
  record_lookup(scheduler, "kv", 11 * kSecond, 1, 0);
  const json analysis = reader.analysis();
  EXPECT_LT(analysis["clock_s"].get<double>(), 100 * 86'400);
  EXPECT_EQ(reader.value("rankbus_cache_window_lookups", {{"level", "kv"}}), 4);
}

// Counters that only samples make go on in the next aggregator.
TEST(AnalysisFeed, CountersComeBackFromTheLedger) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus(), 0, 1 << 21);
  AnalysisOptions options;
  options.slo.end_to_end_s = 1;
  std::string saved;
  const Labels unused{{"level", "info"}, {"metric", "access_count"}};
  {
    Reader first(folder.bus(), options);
    for (std::uint64_t i = 0; i < 130; ++i) {
      record_blocks(scheduler, KvBlockOperation::allocate, {i}, i * kSecond);
      record_blocks(scheduler, KvBlockOperation::evict, {i}, i * kSecond + 1);
    }
    EXPECT_EQ(first.value("rankbus_kv_block_followed_evictions_total"), 130);
    EXPECT_GT(first.value("rankbus_kv_block_alerts_total", unused), 0);
    saved = first.feeds().analysis.saved_counters();
  }
  Reader second(folder.bus(), options);
  ASSERT_TRUE(second.feeds().analysis.restore_untrusted(saved));
  EXPECT_EQ(second.feeds().analysis.saved_counters(), saved);
  // Without the positions that the ledger has besides, what lies in the ring is counted once more.
  Reader without(folder.bus(), options, true);
  const double found = without.value("rankbus_kv_block_followed_evictions_total");
  EXPECT_EQ(second.value("rankbus_kv_block_followed_evictions_total"), 130 + found);
  EXPECT_FALSE(second.feeds().analysis.restore_untrusted(saved.substr(0, saved.size() / 2)));
}

// A segment that an operator releases is another reading of the same file.
TEST(AnalysisFeed, AFileThatIsReadAnew_IsAnalysedAnew) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  record_lookup(scheduler, "kv", kSecond, 1, 0);
  rankbus::Feeds feeds;
  rankbus::TickClock clock;
  for (int reading = 0; reading < 3; ++reading) {
    // The feeds outlive each reader, and learn of its end only by what lives then.
    const auto bus = open_bus(folder.bus(), true);
    record_lookup(scheduler, "kv", (2 + static_cast<std::uint64_t>(reading)) * kSecond, 1, 0);
    clock.update();
    feeds.pass(*bus, clock, now_s(), true);
    feeds.analysis.forget_dead(*bus);
    feeds.samples.forget_dead(*bus);
  }
  const json analysis = json::parse(feeds.analysis.analyses().at(0).json);
  EXPECT_EQ(analysis["sources"]["cache_lookup"]["read"], 2 + 3 + 4);
}

// What an engine has that is gone costs nothing beyond --retain.
TEST(AnalysisFeed, EnginesBeyondTheirRetention_KeepTheirCountersOnly) {
  const Folder folder;
  Reader reader(folder.bus());
  {
    Producer scheduler = open_scheduler(folder.bus());
    record_lookup(scheduler, "kv", kSecond, 1, 0);
    reader.pass();
  }
  reader.pass();
  EXPECT_EQ(reader.engines().size(), 1);
  reader.forget_engines(3600);
  EXPECT_EQ(reader.engines().size(), 1);
  reader.forget_engines(-1);
  EXPECT_EQ(reader.engines().size(), 0);
  Producer again = open_scheduler(folder.bus());
  record_lookup(again, "kv", kSecond, 1, 0);
  EXPECT_EQ(reader.analysis()["caches"]["levels"]["kv"]["cache_stats"]["total_hits"], 1);
}

// Adapters are those of living processes.
TEST(AnalysisFeed, AdaptersOfTheDead_DoNotRunOn) {
  const Folder folder;
  Reader reader(folder.bus());
  Producer stays = open_scheduler(folder.bus(), 0);
  const auto record = [](Producer& producer, const char* adapter, std::uint32_t running) {
    rankbus::LoraRequests lora;
    lora.stamp = kSecond;
    lora.adapter = producer.intern(adapter);
    lora.num_running_reqs = running;
    producer.record(lora);
  };
  record(stays, "a", 1);
  {
    Producer goes = open_scheduler(folder.bus(), 1);
    record(goes, "a", 2);
    record(goes, "b", 3);
    EXPECT_EQ(reader.running_adapters(), (json{{"a", 3}, {"b", 3}}));
  }
  reader.pass();
  EXPECT_EQ(reader.running_adapters(), (json{{"a", 1}}));
}

// One sequence of events, dealt out over one to four ranks: the answers are the same.
TEST(AnalysisFeed, AnySplitOverRanks_SaysTheSame) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(5); ++round) {
    const std::uint64_t seed = dice.next();
    json answers[2];
    for (const std::uint32_t ranks : {1u, 4u}) {
      const Folder folder;
      Reader reader(folder.bus());
      std::vector<Producer> producers;
      for (std::uint32_t rank = 0; rank < ranks; ++rank)
        producers.push_back(open_scheduler(folder.bus(), rank, 1 << 21));
      Dice events(seed);
      Dice deal(seed + 1);
      Dice passes(ranks);
      std::vector<std::size_t> owner_of_block(500);
      for (std::size_t& owner : owner_of_block) owner = deal.below(ranks);
      for (std::uint64_t i = 0; i < 3'000; ++i) {
        const std::uint64_t stamp = i * 50'000'000;
        const std::uint64_t block = events.below(500);
        // A block is one rank's from its allocation to its eviction.
        Producer& owner = producers[owner_of_block[block]];
        Producer& any = producers[deal.below(ranks)];
        const auto operation = static_cast<KvBlockOperation>(1 + events.below(3));
        record_blocks(owner, operation, {block}, stamp);
        record_lookup(any, "prefix", stamp, events.below(3), events.below(3), 1 + events.below(40),
                      16 * (1 + events.below(100)));
        record_storage(any, "kv", stamp, events.below(1000));
        if (events.below(3) == 0) record_cache_eviction(any, "kv", stamp, events.below(900));
        rankbus::SchedulerStep step;
        step.stamp = stamp;
        step.prefix_cache_queries = events.below(100);
        step.prefix_cache_hits = step.prefix_cache_queries / (1 + events.below(5));
        any.record(step);
        if (passes.below(50) == 0) reader.pass();
      }
      json answer = reader.analysis();
      EXPECT_EQ(answer["sources"]["kv_block_operations"]["lost"], 0);
      // Which of two alerts of one moment was raised depends on who was read first, and peaks are
      // of moments between passes.
      json& blocks = answer["kv_blocks"];
      for (const char* key : {"alerts", "alerts_suppressed", "alerts_dropped"}) blocks.erase(key);
      blocks["summary"].erase("alert_count");
      for (auto& [level, told] : answer["caches"]["levels"].items())
        told["cache_stats"].erase("peak_size_bytes");
      // Without a capacity, utilization is of the peak.
      for (const char* key : {"utilization", "memory_pressure"}) answer["caches"].erase(key);
      // A commit begins with the first record that is read after its time has come.
      json& scheduler = answer["scheduler"];
      for (const char* key : {"averages", "window_commits"}) scheduler.erase(key);
      answers[ranks == 1 ? 0 : 1] = {blocks, answer["caches"], scheduler};
    }
    EXPECT_EQ(answers[0].dump(1), answers[1].dump(1)) << "seed of the round: " << seed;
  }
}

// Engines that are gone make room, those that live do not.
TEST(AnalysisFeed, EnginesAreBounded_AndTheDeadMakeRoom) {
  const Folder folder;
  Reader reader(folder.bus());
  const auto open_engine = [&](std::uint32_t engine) {
    OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
    options.engine = engine;
    options.segment_bytes = 4096;
    options.records[0] = rankbus::record_type<rankbus::CacheLookup>();
    Producer producer = Producer::open(options);
    record_lookup(producer, "kv", 0, 1, 0);
    return producer;
  };
  Producer living = open_engine(100'000);
  constexpr auto kMost = static_cast<std::uint32_t>(rankbus::AnalysisFeed::kMaxEngines);
  for (std::uint32_t engine = 0; engine < kMost + 20; ++engine) {
    { const Producer gone = open_engine(engine); }
    reader.pass();
    reader.pass();
  }
  const auto engines = reader.engines();
  EXPECT_EQ(engines.size(), kMost);
  EXPECT_EQ(engines.count("100000"), 1);
  EXPECT_EQ(engines.count(std::to_string(kMost + 19)), 1);
  EXPECT_EQ(engines.count("0"), 0);
}

// On a real clock, nothing is of the future, whatever a producer says.
TEST(AnalysisFeed, StampsOfTheFuture_DoNotFreezeAWindow) {
  const Folder folder;
  OpenOptions options = options_for(folder.bus(), rankbus::Role::other);
  options.records[0] = rankbus::record_type<rankbus::CacheLookup>();
  Producer producer = Producer::open(options);
  Reader reader(folder.bus());
  record_lookup(producer, "kv", ~std::uint64_t{0} / 2, 1, 0);
  record_lookup(producer, "kv", 0, 0, 1);
  EXPECT_EQ(reader.value("rankbus_cache_window_lookups", {{"level", "kv"}}), 2);
}

TEST(AnalysisFeed, Scheduler_IsToldAsItsValueTypeTellsIt) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  Reader reader(folder.bus());
  rankbus::SchedulerStep step;
  step.stamp = kSecond;
  step.num_running_reqs = 3;
  step.num_waiting_reqs = 2;
  step.kv_cache_usage = 0.5;
  step.prefix_cache_queries = 100;
  step.prefix_cache_hits = 25;
  step.current_wave = 4;
  scheduler.record(step);
  rankbus::StepPhases phases;
  phases.stamp = kSecond;
  phases.schedule_ns = 1'000'000;
  phases.model_forward_ns = 5'000'000;
  phases.model_execute_ns = 6'000'000;
  phases.sample_ns = 2'000'000;
  phases.all_reduce_ns = 500'000;
  phases.cache_swap_ns = 250'000;
  scheduler.record(phases);
  rankbus::RequestKvEviction eviction;
  eviction.stamp = kSecond;
  eviction.reason = scheduler.intern("memory_pressure");
  eviction.num_blocks = 7;
  scheduler.record(eviction);
  rankbus::LoraRequests lora;
  lora.stamp = kSecond;
  lora.adapter = scheduler.intern("sql");
  lora.num_running_reqs = 2;
  scheduler.record(lora);
  rankbus::CudaGraph graph;
  graph.stamp = kSecond;
  graph.runtime_mode = scheduler.intern("FULL");
  graph.captured = 1;
  graph.capture_ns = 30'000'000;
  graph.graph_memory_bytes = 64 << 20;
  scheduler.record(graph);
  graph.captured = 0;
  graph.capture_ns = 0;
  graph.replay_ns = 4'000'000;
  scheduler.record(graph);
  rankbus::SpecDecoding drafts;
  drafts.stamp = kSecond;
  drafts.num_drafts = 2;
  drafts.num_draft_tokens = 6;
  drafts.num_accepted_tokens = 3;
  const std::uint64_t accepted[] = {2, 1, 0};
  drafts.num_accepted_tokens_per_pos = accepted;
  scheduler.record(drafts);
  const json told = reader.analysis()["scheduler"];
  EXPECT_EQ(told["num_running_reqs"], 3);
  EXPECT_EQ(told["total_requests"], 5);
  EXPECT_EQ(told["current_wave"], 4);
  EXPECT_DOUBLE_EQ(told["prefix_cache"]["hit_rate"], 0.25);
  EXPECT_DOUBLE_EQ(told["performance"]["total_time_ms"], 8.75);
  EXPECT_DOUBLE_EQ(told["cudagraph"]["avg_capture_time_ms"], 30);
  EXPECT_DOUBLE_EQ(told["cudagraph"]["avg_replay_time_ms"], 4);
  EXPECT_DOUBLE_EQ(told["cudagraph"]["graph_memory_mb"], 64);
  EXPECT_DOUBLE_EQ(told["spec_decoding"]["acceptance_rate"], 0.5);
  EXPECT_EQ(told["spec_decoding"]["position_acceptance_rates"], json({1.0, 0.5, 0.0}));
  // All six timings, evictions, adapters and the wave are on /metrics too, from totals.
  EXPECT_DOUBLE_EQ(reader.value("rankbus_step_phase_seconds_total", {{"phase", "model_execute"}}),
                   0.006);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_step_phase_seconds_total", {{"phase", "cache_swap"}}),
                   0.00025);
  EXPECT_EQ(
      reader.value("rankbus_request_kv_evicted_blocks_total", {{"reason", "memory_pressure"}}), 7);
  EXPECT_EQ(reader.value("rankbus_lora_requests_running", {{"lora_name", "sql"}}), 2);
  EXPECT_EQ(reader.value("rankbus_dp_wave"), 4);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_cudagraph_capture_seconds_total", {{"mode", "FULL"}}),
                   0.03);
}

TEST(AnalysisFeed, Goodput_TellsAMeasuredFirstTokenFromAnEstimate) {
  const Folder folder;
  Producer front = open_scheduler(folder.bus());
  AnalysisOptions options;
  options.slo.ttft_s = 1;
  options.slo.end_to_end_s = 10;
  Reader reader(folder.bus(), options);
  FinishedRequest request;
  request.finished_reason = rankbus::FinishedReason::stop;
  request.stamp = 100 * kSecond;
  request.e2e_latency_seconds = 2;
  request.queued_time_seconds = 0.5;
  request.prefill_time_seconds = 0.4;
  front.record(request);  // Met, by the estimate.
  request.prefill_time_seconds = 0.6;
  front.record(request);  // Missed, by the estimate.
  request.time_to_first_token_seconds = 0.9;
  front.record(request);  // Met: what is measured counts.
  request.time_to_first_token_seconds = 1.1;
  front.record(request);  // Missed.
  EXPECT_EQ(reader.value("rankbus_slo_requests_total", {{"result", "met"}}), 2);
  EXPECT_EQ(reader.value("rankbus_slo_missed_total", {{"limit", "ttft"}}), 1);
  EXPECT_EQ(reader.value("rankbus_slo_missed_total", {{"limit", "ttft_estimate"}}), 1);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_slo_goodput_ratio"), 0.5);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_slo_goodput_requests_per_second"), 2.0 / 60);
  EXPECT_EQ(reader.value("rankbus_slo_ttft_estimated_total"), 2);
  // Who tells no time at all is neither met nor missed, and an endless one is missed.
  FinishedRequest silent;
  silent.stamp = 100 * kSecond;
  silent.finished_reason = rankbus::FinishedReason::stop;
  front.record(silent);
  silent.e2e_latency_seconds = 2;
  silent.time_to_first_token_seconds = std::numeric_limits<double>::infinity();
  front.record(silent);
  EXPECT_EQ(reader.value("rankbus_slo_requests_total", {{"result", "met"}}), 2);
  EXPECT_EQ(reader.value("rankbus_slo_requests_total", {{"result", "missed"}}), 3);
  EXPECT_EQ(reader.value("rankbus_slo_requests_total", {{"result", "unknown"}}), 1);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_slo_goodput_ratio"), 0.4);
  // The share is of the last minute, the counts are of always.
  request.stamp = 200 * kSecond;
  front.record(request);
  EXPECT_DOUBLE_EQ(reader.value("rankbus_slo_goodput_ratio"), 0);
  EXPECT_EQ(reader.value("rankbus_slo_requests_total", {{"result", "met"}}), 2);
}

TEST(AnalysisFeed, StatisticalAlerts_AreOffUntilAskedFor) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus(), 0, 1 << 21);
  Reader quiet(folder.bus());
  AnalysisOptions options;
  options.statistical_alerts = true;
  Reader asked(folder.bus(), options, true);
  // Lives of 1.0 to 1.1 s, and one of 100 s.
  for (std::uint64_t i = 0; i < 150; ++i) {
    record_blocks(scheduler, KvBlockOperation::allocate, {i}, i * kSecond);
    record_blocks(scheduler, KvBlockOperation::access, {i}, i * kSecond + 1);
    record_blocks(scheduler, KvBlockOperation::evict, {i},
                  i * kSecond + kSecond + (i % 11) * kSecond / 100);
  }
  record_blocks(scheduler, KvBlockOperation::allocate, {999}, 160 * kSecond);
  record_blocks(scheduler, KvBlockOperation::access, {999}, 161 * kSecond);
  record_blocks(scheduler, KvBlockOperation::evict, {999}, 260 * kSecond);
  record_storage(scheduler, "kv", 260 * kSecond, 100, 100);
  for (int i = 0; i < 6'000; ++i) {
    record_cache_eviction(scheduler, "kv", 260 * kSecond, 0);
    if (i % 100 != 0) continue;
    quiet.pass();
    asked.pass();
  }
  EXPECT_TRUE(quiet.alerts().holding().empty());
  EXPECT_EQ(
      quiet.value("rankbus_kv_block_alerts_total", {{"level", "critical"}, {"metric", "lifetime"}}),
      1);
  std::map<std::string, rankbus::Alert> holding;
  for (const rankbus::Alert& alert : asked.alerts().holding()) holding[alert.name] = alert;
  ASSERT_EQ(holding.count("kv_block_lifetime"), 1);
  EXPECT_EQ(holding["kv_block_lifetime"].level, rankbus::AlertLevel::critical);
  EXPECT_DOUBLE_EQ(holding["kv_block_lifetime"].value, 100);
  ASSERT_EQ(holding.count("cache_full"), 1);
  EXPECT_DOUBLE_EQ(holding["cache_full"].value, 1);
  EXPECT_EQ(holding["cache_full"].labels,
            (Labels{{"engine", "0"}, {"level", "kv"}, {"model_name", "test-model"}}));
  // An anomaly is over a minute later.
  record_lookup(scheduler, "kv", 330 * kSecond, 1, 0);
  for (const rankbus::Alert& alert : asked.alerts().holding())
    EXPECT_NE(alert.name, "kv_block_lifetime");
  // Who is gone needs nobody's attention; its clock stands still.
  record_storage(scheduler, "kv", 330 * kSecond, 0, 100);
  record_cache_eviction(scheduler, "kv", 330 * kSecond, 0);
  EXPECT_FALSE(asked.alerts().holding().empty());
  scheduler.close();
  asked.pass();
  EXPECT_TRUE(asked.alerts().holding().empty());
}

// The page lists what there is, and everything on it can be had.
TEST(AnalysisFeed, EveryOutputOfTheListIsExposed) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus(), 0, 1 << 21);
  AnalysisOptions options;
  options.slo.ttft_s = 1;
  Reader reader(folder.bus(), options);
  for (std::uint64_t i = 0; i < 120; ++i) {
    record_blocks(scheduler, KvBlockOperation::allocate, {i}, i * kSecond);
    record_blocks(scheduler, KvBlockOperation::access, {i, i}, i * kSecond + 1);
    record_blocks(scheduler, KvBlockOperation::evict, {i}, i * kSecond + kSecond);
  }
  rankbus::CacheLookup lookup;
  lookup.stamp = 120 * kSecond;
  lookup.level = scheduler.intern("prefix");
  lookup.hits = 1;
  lookup.latency_ns = 100;
  lookup.prefix_hash = 1;
  lookup.prefix_length = 10;
  scheduler.record(lookup);
  record_storage(scheduler, "prefix", 120 * kSecond, 10, 100);
  record_cache_eviction(scheduler, "prefix", 120 * kSecond, 1);
  FinishedRequest request;
  request.stamp = 120 * kSecond;
  request.finished_reason = rankbus::FinishedReason::stop;
  request.prefill_time_seconds = 0.5;
  scheduler.record(request);
  record_blocks(scheduler, KvBlockOperation::allocate, {1}, 120 * kSecond, -1);
  std::map<std::string, Family> shown;
  for (const Family& family : reader.families()) shown[family.name] = family;
  const auto outputs = rankbus::analysis_outputs();
  EXPECT_TRUE(std::is_sorted(outputs.begin(), outputs.end(), [](const auto& a, const auto& b) {
    return std::strcmp(a.name, b.name) < 0;
  }));
  for (const rankbus::AnalysisOutput& output : rankbus::analysis_outputs()) {
    ASSERT_EQ(shown.count(output.name), 1) << output.name;
    EXPECT_EQ(shown[output.name].type, output.type) << output.name;
    for (const rankbus::Series& series : shown[output.name].series) {
      for (const auto& [label, value] : series.labels) {
        const std::string known = std::string("engine model_name ") + output.labels;
        EXPECT_TRUE(rankbus::bus::names_word(known.c_str(), label.c_str()))
            << output.name << " has a label " << label;
      }
    }
  }
  EXPECT_EQ(reader.value("rankbus_sample_coverage_ratio", {{"stream", "cache_lookup"}}), 1);
}

}  // namespace
}  // namespace bus_test
