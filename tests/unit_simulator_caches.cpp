// What the simulator tells of KV blocks and caches: batches that keep each block's own order,
// counts that agree with the pool and with vLLM's, times that fit into the step, and a log of all
// of it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <rankbus/producer/simulator/block_journal.hpp>
#include <rankbus/producer/simulator/engine_core.hpp>
#include <rankbus/producer/simulator/event_log.hpp>
#include <rankbus/producer/simulator/front_end_model.hpp>
#include <rankbus/producer/simulator/image_cache.hpp>
#include <rankbus/producer/simulator/truth.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace rankbus::simulator {
namespace {

namespace fs = std::filesystem;

using Blocks = std::vector<std::uint32_t>;

EngineLimits pool_of(std::uint32_t blocks) {
  EngineLimits limits;
  limits.kv_blocks = blocks;
  limits.max_sequence_tokens = longest_sequence(limits.max_sequence_tokens, blocks);
  return limits;
}

// Serves a workload in steps of 20 ms and calls `each(core)` after each of them.
template <class Each>
void run(const Workload& workload, const EngineLimits& limits, BlockJournal* journal, Each&& each) {
  EngineCore core(workload, limits, StepTimeModel{}, 0, 1);
  if (journal != nullptr) core.watch_blocks(*journal);
  std::uint64_t now_ns = 0;
  while (!core.finished()) {
    core.admit_arrivals(now_ns);
    if (core.idle()) {
      now_ns = core.next_arrival_ns();
      continue;
    }
    if (journal != nullptr) journal->set_now(now_ns);
    core.begin_step(now_ns);
    now_ns += 20'000'000;
    core.end_step();
    each(core);
    if (journal != nullptr) journal->clear();
  }
}

class Folder {
 public:
  Folder() {
    char name[] = "/dev/shm/rankbus-unit-XXXXXX";
    if (mkdtemp(name) == nullptr) std::abort();
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

std::vector<std::string> lines_of(const std::string& file) {
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(BlockJournal, EventsOfAStep_AreOneBatchWhileEachBlocksOrderAllows) {
  BlockJournal journal(nullptr);
  journal.evicted(1);  // Never allocated: nothing that could be evicted.
  journal.allocated(1);
  journal.allocated(2);
  journal.accessed(1);
  journal.accessed(1);
  ASSERT_EQ(journal.batches().size(), 1u);
  EXPECT_TRUE(journal.batches()[0].evicted.empty());
  EXPECT_EQ(journal.batches()[0].allocated, (Blocks{1, 2}));
  EXPECT_EQ(journal.batches()[0].accessed, (Blocks{1, 1}));
  journal.clear();
  EXPECT_TRUE(journal.batches().empty());
  journal.accessed(1);
  journal.evicted(2);  // Of another block: before or after the access is the same.
  journal.allocated(2);
  ASSERT_EQ(journal.batches().size(), 1u);
  EXPECT_EQ(journal.batches()[0].evicted, (Blocks{2}));
  EXPECT_EQ(journal.batches()[0].allocated, (Blocks{2}));
}

TEST(BlockJournal, WhatOneBatchCannotTellInOrder_IsTwo) {
  BlockJournal journal(nullptr);
  journal.allocated(1);
  journal.accessed(1);
  journal.evicted(1);
  journal.allocated(1);
  journal.evicted(1);
  ASSERT_EQ(journal.batches().size(), 3u);
  EXPECT_EQ(journal.batches()[0].allocated, (Blocks{1}));
  EXPECT_EQ(journal.batches()[0].accessed, (Blocks{1}));
  EXPECT_EQ(journal.batches()[1].evicted, (Blocks{1}));
  EXPECT_EQ(journal.batches()[1].allocated, (Blocks{1}));
  EXPECT_EQ(journal.batches()[2].evicted, (Blocks{1}));
}

TEST(BlockJournal, Changes_AreThoseOfThePool) {
  const Workload workload = generate_workload(300, 1);
  BlockJournal journal(nullptr);
  std::int64_t in_use = 0;
  std::int64_t findable = 0;
  std::uint64_t lost = 0;
  std::uint64_t unused = 0;
  std::uint64_t preempted = 0;
  run(workload, pool_of(80), &journal, [&](const EngineCore& core) {
    const BlockChanges& changes = journal.changes();
    in_use += static_cast<std::int64_t>(changes.put_in_use);
    for (const BlockRelease& release : core.model().releases()) {
      EXPECT_LE(release.freed_blocks, release.held_blocks);
      in_use -= release.freed_blocks;
      preempted += release.preempted;
    }
    ASSERT_EQ(in_use, core.model().pool().blocks_in_use());
    findable += static_cast<std::int64_t>(changes.stored);
    findable -= static_cast<std::int64_t>(changes.lost);
    ASSERT_GE(findable, 0);
    ASSERT_LE(findable, 80);
    lost += changes.lost;
    unused += changes.lost_unused;
  });
  EXPECT_EQ(in_use, 0);
  EXPECT_GT(preempted, 0u);
  EXPECT_GT(unused, 0u);
  EXPECT_LT(unused, lost);
}

TEST(BlockJournal, Batches_TellEveryLifeOfEveryBlock) {
  const Workload workload = generate_workload(200, 1);
  BlockJournal journal(nullptr);
  std::set<std::uint32_t> alive;
  std::uint64_t accesses = 0;
  run(workload, pool_of(80), &journal, [&](const EngineCore&) {
    for (const BlockBatch& batch : journal.batches()) {
      for (const std::uint32_t block : batch.evicted) ASSERT_EQ(alive.erase(block), 1u);
      for (const std::uint32_t block : batch.allocated) ASSERT_TRUE(alive.insert(block).second);
      for (const std::uint32_t block : batch.accessed) ASSERT_TRUE(alive.contains(block));
      accesses += batch.accessed.size();
    }
  });
  EXPECT_EQ(alive.size(), 80u) << "the whole pool has been used";
  EXPECT_GT(accesses, 0u);
}

TEST(PrefixLookup, Blocks_AreVllmsTokens) {
  Workload workload = generate_workload(300, 1);
  EngineLimits limits = pool_of(120);
  limits.external_cache = true;
  std::uint64_t hits = 0;
  std::uint64_t external_hits = 0;
  std::set<std::uint32_t> requests;
  std::map<std::uint32_t, std::uint32_t> length_of;  // By the content that names a prefix.
  SchedulerCounts sum;
  EngineCore core(workload, limits, StepTimeModel{}, 0, 1);
  for (std::uint64_t now_ns = 0; !core.finished(); now_ns += 20'000'000) {
    core.admit_arrivals(now_ns);
    if (core.idle()) continue;
    core.begin_step(now_ns);
    core.end_step();
    const SchedulerCounts counts = core.take_counts();
    sum.prefix_hits += counts.prefix_hits;
    sum.external_hits += counts.external_hits;
    for (const PrefixLookup& lookup : core.model().lookups()) {
      EXPECT_TRUE(requests.insert(lookup.request).second) << "a request looks up once";
      EXPECT_EQ(lookup.prompt_tokens, workload.requests[lookup.request].prompt_tokens);
      EXPECT_EQ(lookup.asked_blocks, (lookup.prompt_tokens - 1) / kBlockTokens);
      EXPECT_LE(lookup.hit_blocks, lookup.asked_blocks);
      EXPECT_EQ(lookup.external_asked_blocks, lookup.asked_blocks - lookup.hit_blocks);
      EXPECT_LE(lookup.external_hit_blocks, lookup.external_asked_blocks);
      EXPECT_EQ(lookup.last_content == BlockPool::kNone, lookup.hit_blocks == 0);
      if (lookup.hit_blocks > 0) {
        const auto [known, is_new] = length_of.emplace(lookup.last_content, lookup.hit_blocks);
        EXPECT_TRUE(is_new || known->second == lookup.hit_blocks) << "one name, one prefix";
      }
      hits += lookup.hit_blocks;
      external_hits += lookup.external_hit_blocks;
    }
  }
  EXPECT_EQ(requests.size(), 300u);
  EXPECT_EQ(hits * kBlockTokens, sum.prefix_hits);
  EXPECT_EQ(external_hits * kBlockTokens, sum.external_hits);
  EXPECT_GT(external_hits, 0u);
}

TEST(AdapterUse, EachRequest_CountsWhileItWaitsOrRuns) {
  Workload workload = generate_workload(200, 1);
  FeatureOptions features;
  features.lora_adapters = 4;
  assign_features(workload, features, 1);
  EngineLimits limits;
  limits.max_loras = 1;
  bool any_waits = false;
  run(workload, limits, nullptr, [&](const EngineCore& core) {
    const auto use = core.model().adapter_use();
    ASSERT_EQ(use.size(), 5u);
    std::size_t running = 0;
    std::size_t live = 0;
    for (const AdapterUse& one : use) {
      EXPECT_LE(one.running, one.live);
      running += one.running > 0;
      live += one.live > 0;
      any_waits |= one.live > one.running;
    }
    EXPECT_LE(running, 1u);
    EXPECT_EQ(live, core.model().live_adapters().size());
  });
  EXPECT_TRUE(any_waits);
}

TEST(PhaseTimes, PartsOfAStep_FitIntoIt) {
  for (const std::uint32_t collectives : {0u, 2u}) {
    RankTimelines ranks(3, 0, 4, collectives);
    std::uint64_t began_ns = 0;
    for (std::uint64_t step = 0; step < 500; ++step) {
      const StepWork work = {.prefill_tokens = step * 7, .decode_seqs = 3};
      const StepCost cost = step_cost(StepTimeModel{}, work, 3);
      ranks.advance(StepTimeModel{}, step, began_ns + cost.schedule_ns, cost);
      const PhaseTimes phases = ranks.phases(cost);
      const std::uint64_t elapsed_ns = ranks.rank(0).output_ready_ns - began_ns;
      EXPECT_LE(phases.schedule_ns + phases.model_forward_ns + phases.sample_ns +
                    phases.all_reduce_ns + phases.cache_swap_ns,
                elapsed_ns);
      EXPECT_GE(phases.model_execute_ns, phases.model_forward_ns + phases.all_reduce_ns);
      EXPECT_LE(phases.schedule_ns + phases.model_execute_ns + phases.sample_ns, elapsed_ns);
      EXPECT_EQ(phases.all_reduce_ns == 0, collectives == 0);
      EXPECT_GT(phases.model_forward_ns, 0u);
      began_ns = ranks.rank(0).output_ready_ns;
    }
  }
}

TEST(PhaseTimes, OfAPlan_AreItsCosts) {
  const StepCost cost = {
      .schedule_ns = 1, .prepare_ns = 2, .forward_ns = 100, .communication_ns = 8, .sample_ns = 5};
  const PhaseTimes phases = planned_phases(cost);
  EXPECT_EQ(phases.schedule_ns, 1u);
  EXPECT_EQ(phases.model_forward_ns, 92u);
  EXPECT_EQ(phases.all_reduce_ns, 8u);
  EXPECT_EQ(phases.model_execute_ns, 102u);
  EXPECT_EQ(phases.sample_ns, 5u);
}

TEST(ImageCache, Evictions_AreWhatDidNotFit) {
  ImageCache cache(1);
  std::uint64_t missed = 0;
  std::uint64_t evicted = 0;
  for (std::uint32_t request = 0; request < 200; ++request) {
    missed += 2 - cache.look_up(request, 2);
    evicted += cache.take_evicted();
    EXPECT_LE(missed - evicted, ImageCache::kRoom);
  }
  EXPECT_EQ(missed - evicted, ImageCache::kRoom) << "it is full";
  EXPECT_EQ(cache.take_evicted(), 0u);
}

TEST(FinishedOutcome, TimeToFirstToken_IsThatOfTheIteration) {
  const Workload workload = generate_workload(40, 1);
  FrontEndModel front_end(workload);
  EngineCore core(workload, {}, StepTimeModel{}, 0, 1);
  std::map<std::uint32_t, double> told;
  std::size_t finished = 0;
  for (std::uint64_t now_ns = 0; !core.finished(); now_ns += 20'000'000) {
    core.admit_arrivals(now_ns);
    if (core.idle()) continue;
    core.begin_step(now_ns);
    const auto outputs = core.end_step();
    if (outputs.empty()) continue;
    front_end.process(outputs, now_ns, now_ns + 1000);
    auto next = front_end.iteration().time_to_first_token_s.begin();
    for (const Output& output : outputs) {
      if (output.first) told[output.request] = *next++;
    }
    for (const FinishedOutcome& done : front_end.finished()) {
      ++finished;
      EXPECT_GT(done.time_to_first_token_s, 0);
      EXPECT_EQ(done.time_to_first_token_s, told.at(done.request));
    }
  }
  EXPECT_EQ(finished, 40u);
}

TEST(EventLog, Lines_HoldWhatHappenedInOrder) {
  const Folder folder;
  const std::string file = folder / "log";
  EventLog log(engine_log_name(file, 3));
  BlockJournal journal(&log);
  journal.set_now(5);
  journal.allocated(7);
  journal.set_now(8);
  journal.accessed(7);
  journal.evicted(7);
  log.add("evict", 9, {"prefix", "lru"}, {1, ~std::uint64_t{0}});
  log.flush();
  EXPECT_EQ(lines_of(folder / "log.engine3"),
            (std::vector<std::string>{"block,5,allocate,7", "block,8,access,7", "block,8,evict,7",
                                      "evict,9,prefix,lru,1,18446744073709551615"}));
  EXPECT_EQ(front_end_log_name("a", 1, 2), "a.engine1.front2");
}

TEST(EventLog, FolderThatDoesNotExist_IsNamed) {
  try {
    const EventLog log("/nowhere/at/all.engine0");
    FAIL() << "opened";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("/nowhere/at/all.engine0"), std::string::npos);
  }
}

nlohmann::json truth_of(const ActivityTruth& activity) {
  EngineTruth engine;
  engine.features.activity = activity;
  return nlohmann::json::parse(
      truth_json({.clock = "virtual", .model_name = "m", .server = "", .max_model_len = 1000},
                 std::span(&engine, 1)));
}

TEST(ActivityTruth, SharesOfSeveralProcesses_AddUp) {
  ActivityTruth scheduler;
  scheduler.observe(LookupOutcome{.level = CacheLevel::prefix, .hits = 3, .misses = 2});
  scheduler.observe(
      EvictionOutcome{.level = CacheLevel::kv, .cause = EvictionCause::preemption, .blocks = 9});
  scheduler.observe(BlockOperation::evict, 4);
  scheduler.observe_request_eviction(9);
  scheduler.observe(PhaseTimes{.schedule_ns = 500'000'000});
  scheduler.observe_adapter(2, {.live = 5, .running = 3});
  scheduler.observe_wave(7);
  ActivityTruth front_end;
  front_end.observe(
      StorageOutcome{.level = CacheLevel::encoder, .bytes = 10, .capacity_bytes = 100});
  ActivityTruth sum;
  sum.add(scheduler);
  sum.add(front_end);
  sum.add(front_end);
  const nlohmann::json truth = truth_of(sum);
  const auto series = [](const std::string& name, const std::string& before,
                         const std::string& after = "") {
    return name + "{engine=\"0\"," + before + "model_name=\"m\"" + after + "}";
  };
  const nlohmann::json& counters = truth["counters"];
  EXPECT_EQ(counters.at(series("rankbus_cache_hits_total", "level=\"prefix\",")), 3);
  EXPECT_EQ(counters.at(series("rankbus_cache_misses_total", "level=\"prefix\",")), 2);
  EXPECT_EQ(counters.at(series("rankbus_cache_evicted_blocks_total", "level=\"kv\",",
                               ",reason=\"preemption\"")),
            9);
  EXPECT_EQ(counters.at(series("rankbus_cache_written_bytes_total", "level=\"encoder\",")), 20);
  EXPECT_EQ(truth["gauges"].at(series("rankbus_cache_capacity_bytes", "level=\"encoder\",")), 200);
  EXPECT_EQ(counters.at(series("rankbus_kv_block_evictions_total", "", ",reason=\"capacity\"")), 4);
  EXPECT_EQ(counters.at(series("rankbus_request_kv_evicted_blocks_total", "",
                               ",reason=\"memory_pressure\"")),
            9);
  EXPECT_EQ(truth["sums"].at(series("rankbus_step_phase_seconds_total", "", ",phase=\"schedule\"")),
            0.5);
  EXPECT_EQ(truth["gauges"].at(series("rankbus_lora_requests_waiting", "lora_name=\"adapter-2\",")),
            2);
  EXPECT_EQ(truth["gauges"].at(series("rankbus_dp_wave", "")), 7);
}

TEST(ActivityTruth, WhatWasNeverReported_IsNotExpected) {
  const nlohmann::json truth = truth_of({});
  for (const char* kind : {"counters", "gauges", "sums"}) {
    for (const auto& [series, value] : truth[kind].items()) {
      EXPECT_FALSE(series.starts_with("rankbus_cache") || series.starts_with("rankbus_kv") ||
                   series.starts_with("rankbus_step") || series.starts_with("rankbus_dp"))
          << series;
    }
  }
}

}  // namespace
}  // namespace rankbus::simulator
