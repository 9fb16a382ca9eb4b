// Goal:   lives of KV blocks come out of the analyses as they went in, whatever was lost or died.
// Method: as unit_analysis_feed.
#include "unit_analysis_lib.hpp"

namespace bus_test {
namespace {

TEST(AnalysisFeed, BlockLives_AreThoseThatWereRecorded) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  Reader reader(folder.bus());
  record_blocks(scheduler, KvBlockOperation::allocate, {1, 2, 3}, 10 * kSecond);
  record_blocks(scheduler, KvBlockOperation::access, {1, 1, 3}, 11 * kSecond);
  record_blocks(scheduler, KvBlockOperation::access, {1}, 14 * kSecond);
  record_blocks(scheduler, KvBlockOperation::evict, {1, 2}, 16 * kSecond, 1, "timeout");
  const json blocks = reader.analysis()["kv_blocks"];
  EXPECT_EQ(blocks["counters"]["total_allocations"], 3);
  EXPECT_EQ(blocks["counters"]["total_accesses"], 4);
  EXPECT_EQ(blocks["counters"]["total_evictions"], 2);
  EXPECT_EQ(blocks["summary"]["total_evictions"], 2);
  EXPECT_DOUBLE_EQ(blocks["summary"]["avg_lifetime_seconds"], 6);
  EXPECT_DOUBLE_EQ(blocks["summary"]["avg_idle_seconds"], (2.0 + 6.0) / 2);
  EXPECT_DOUBLE_EQ(blocks["summary"]["avg_access_count"], 1.5);
  EXPECT_DOUBLE_EQ(blocks["summary"]["avg_reuse_gap_seconds"], 1.5);  // 0 s and 3 s.
  EXPECT_DOUBLE_EQ(reader.value("rankbus_kv_block_recent_lifetime_seconds", {{"stat", "p50"}}), 6);
  EXPECT_EQ(reader.value("rankbus_kv_blocks_followed"), 1);
  // Exact, from totals, with the words of the record.
  EXPECT_EQ(reader.value("rankbus_kv_block_operations_total", {{"operation", "access"}}), 4);
  EXPECT_EQ(reader.value("rankbus_kv_block_evictions_total", {{"reason", "timeout"}}), 2);
}

// Many blocks make several records; all are counted, and those of the sample are followed.
TEST(AnalysisFeed, ManyBlocks_AreCountedAndSampledById) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  Reader reader(folder.bus());
  std::vector<std::uint64_t> ids(10'000);
  std::uint64_t sampled = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = 7 * i;
    sampled += rankbus::is_sampled(ids[i], 0.1) ? 1 : 0;
  }
  record_blocks(scheduler, KvBlockOperation::allocate, ids, kSecond, 0.1);
  const json analysis = reader.analysis();
  EXPECT_EQ(analysis["kv_blocks"]["counters"]["total_allocations"], 10'000);
  EXPECT_EQ(analysis["kv_blocks"]["summary"]["total_blocks_sampled"], sampled);
  EXPECT_EQ(analysis["kv_blocks"]["sample_rate"], 0.1);
  EXPECT_NEAR(analysis["kv_blocks"]["estimates"]["live_blocks"]["value"], 10'000, 1'000);
  EXPECT_EQ(reader.value("rankbus_kv_block_operations_total", {{"operation", "allocate"}}), 10'000);
}

// An eviction that nobody read must not make a block live on until its id comes again.
TEST(AnalysisFeed, AfterALoss_BlocksAreForgottenAndCoverageSaysSo) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus(), 0, 65'536);
  Reader reader(folder.bus());
  record_blocks(scheduler, KvBlockOperation::allocate, {1, 2}, kSecond);
  EXPECT_EQ(reader.analysis()["kv_blocks"]["summary"]["total_blocks_sampled"], 2);
  record_blocks(scheduler, KvBlockOperation::evict, {1}, 2 * kSecond);
  for (std::uint64_t i = 0; i < 10'000; ++i)
    record_blocks(scheduler, KvBlockOperation::access, {9}, 2 * kSecond + i);
  record_blocks(scheduler, KvBlockOperation::evict, {1, 2}, 100 * kSecond);
  const json analysis = reader.analysis();
  EXPECT_EQ(analysis["kv_blocks"]["summary"]["total_evictions"], 0);
  EXPECT_EQ(analysis["kv_blocks"]["sample"]["forgotten_blocks"], 2);
  EXPECT_EQ(analysis["kv_blocks"]["sample"]["losses"], 1);
  const json& source = analysis["sources"]["kv_block_operations"];
  EXPECT_EQ(source["read"].get<std::uint64_t>() + source["lost"].get<std::uint64_t>(), 10'003);
  EXPECT_GT(source["lost"].get<std::uint64_t>(), 0);
  EXPECT_LT(source["coverage"].get<double>(), 1);
  // What is scaled up from a sample with holes would be a number with a wrong error.
  EXPECT_TRUE(analysis["kv_blocks"]["estimates"].is_null());
  EXPECT_TRUE(std::isnan(reader.value("rankbus_kv_blocks_live_estimate")));
  // The totals miss nothing.
  EXPECT_EQ(reader.value("rankbus_kv_block_operations_total", {{"operation", "access"}}), 10'000);
  EXPECT_EQ(reader.value("rankbus_kv_block_operations_total", {{"operation", "evict"}}), 3);
}

// A process that began under this reader and filled its ring before the first look has lost the
// rest, and every place says so.
TEST(AnalysisFeed, WhatOutranTheFirstLook_IsLost) {
  const Folder folder;
  Reader reader(folder.bus());
  Producer scheduler = open_scheduler(folder.bus(), 0, 65'536);
  for (std::uint64_t i = 0; i < 5'000; ++i) record_lookup(scheduler, "kv", kSecond + i, 1, 0);
  const json source = reader.analysis()["sources"]["cache_lookup"];
  EXPECT_GT(source["lost"].get<std::uint64_t>(), 0);
  EXPECT_EQ(source["read"].get<std::uint64_t>() + source["lost"].get<std::uint64_t>(), 5'000);
  EXPECT_EQ(reader.value("rankbus_samples_lost_total", {{"stream", "cache_lookup"}}),
            source["lost"].get<double>());
}

TEST(AnalysisFeed, BlocksOfADeadProcess_AreNotFollowedOn) {
  const Folder folder;
  Reader reader(folder.bus());
  {
    Producer first = open_scheduler(folder.bus());
    record_blocks(first, KvBlockOperation::allocate, {1}, kSecond);
    EXPECT_EQ(reader.analysis()["kv_blocks"]["summary"]["total_blocks_sampled"], 1);
  }
  Producer second = open_scheduler(folder.bus());
  record_blocks(second, KvBlockOperation::evict, {1}, 50 * kSecond);
  reader.pass();
  const json blocks = reader.analysis()["kv_blocks"];
  EXPECT_EQ(blocks["summary"]["total_evictions"], 0);
  EXPECT_EQ(blocks["sample"]["unmatched_evictions"], 1);
  EXPECT_EQ(blocks["sample"]["losses"], 0);
  EXPECT_EQ(blocks["summary"]["total_blocks_sampled"], 0);
}

// Two rates are two samples, whose mixture stands for nothing.
TEST(AnalysisFeed, ASecondSampleRate_IsRefusedAndCounted) {
  const Folder folder;
  Reader reader(folder.bus());
  {
    Producer first = open_scheduler(folder.bus(), 0);
    Producer second = open_scheduler(folder.bus(), 1);
    record_blocks(first, KvBlockOperation::allocate, {1}, kSecond, 1);
    record_blocks(second, KvBlockOperation::allocate, {2}, 2 * kSecond, 0.5);
    record_blocks(second, KvBlockOperation::allocate, {3}, 2 * kSecond, -1);
    const json blocks = reader.analysis()["kv_blocks"];
    EXPECT_EQ(blocks["refused_records"], 2);
    EXPECT_EQ(blocks["sample_rate"], 1);
  }
  // Once nobody uses the first any more, another may come.
  reader.pass();
  Producer third = open_scheduler(folder.bus(), 0);
  record_blocks(third, KvBlockOperation::allocate, {4}, 3 * kSecond, 0.25);
  EXPECT_EQ(reader.analysis()["kv_blocks"]["sample_rate"], 0.25);
  // Also its own only user may change it.
  record_blocks(third, KvBlockOperation::allocate, {5}, 4 * kSecond, 0.75);
  EXPECT_EQ(reader.analysis()["kv_blocks"]["sample_rate"], 0.75);
  EXPECT_EQ(reader.value("rankbus_kv_block_refused_records_total"), 2);
}

// Without any usable rate there is nothing but the refusal, which is told.
TEST(AnalysisFeed, RecordsWithoutARate_AreRefusedAndCounted) {
  const Folder folder;
  Producer scheduler = open_scheduler(folder.bus());
  Reader reader(folder.bus());
  record_blocks(scheduler, KvBlockOperation::allocate, {1}, kSecond, 0);
  EXPECT_EQ(reader.analysis()["kv_blocks"]["refused_records"], 1);
  EXPECT_EQ(reader.value("rankbus_kv_block_refused_records_total"), 1);
}

}  // namespace
}  // namespace bus_test
