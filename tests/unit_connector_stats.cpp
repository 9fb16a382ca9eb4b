// Connector statistics word for word: what each type says of what it took in.
#include <gtest/gtest.h>

#include <cereal/archives/binary.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/variant.hpp>
#include <cereal/types/vector.hpp>
#include <cmath>
#include <limits>
#include <rankbus/aggregator/connector_stats.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace rankbus::test {
namespace {

constexpr std::uint64_t kMb = 1 << 20;

Number whole(std::uint64_t value) {
  return value;
}

// S3-05
TEST(NixlStats, Transfers_ReduceToVllmsWordsAndNumbers) {
  NixlStats stats;
  stats.add_transfer(0.010, 0.001, 32 * kMb, 30);
  stats.add_transfer(0.012, 0.001, 64 * kMb, 40);
  stats.add_transfer(0.020, 0.002, 96 * kMb, 58);
  EXPECT_FALSE(stats.is_empty());
  EXPECT_EQ(stats.reduce(), (ReducedStats{{"Num successful transfers", whole(3)},
                                          {"Avg xfer time (ms)", 14.0},
                                          {"P90 xfer time (ms)", 18.4},
                                          {"Avg post time (ms)", 1.333},
                                          {"P90 post time (ms)", 1.8},
                                          {"Avg MB per transfer", 64.0},
                                          {"Throughput (MB/s)", 4571.429},
                                          {"Avg number of descriptors", 42.7}}));
}

// S3-02, S3-03, S3-04
TEST(NixlStats, OnlyFailures_AreNotEmptyAndReduceToZeros) {
  for (const auto add : {&NixlStats::add_failed_transfers, &NixlStats::add_failed_notifications,
                         &NixlStats::add_expired_requests}) {
    NixlStats stats;
    EXPECT_TRUE(stats.is_empty());
    (stats.*add)(1);
    EXPECT_FALSE(stats.is_empty());
    const ReducedStats reduced = stats.reduce();
    ASSERT_EQ(reduced.size(), 8u);
    for (const auto& [name, value] : reduced) EXPECT_EQ(value, whole(0)) << name;
    NixlStats pooled;
    pooled.aggregate(stats);
    EXPECT_FALSE(pooled.is_empty());
    stats.reset();
    EXPECT_TRUE(stats.is_empty());
  }
}

TEST(NixlStats, Posts_AreAveragedOverThoseThatWereMeasured) {
  NixlStats stats;
  stats.add_transfer(1, std::nullopt, 0, 0);
  stats.add_transfer(1, 0.004, 0, 0);
  EXPECT_EQ(stats.reduce()[3], (ReducedStats::value_type{"Avg post time (ms)", 4.0}));
}

TEST(NixlStats, NoTimeAtAll_ShowsNoThroughput) {
  MoriioStats stats;
  stats.add_transfer(0, 0, kMb, 1);
  EXPECT_EQ(stats.reduce()[6], (ReducedStats::value_type{"Throughput (MB/s)", whole(0)}));
}

TEST(MooncakeTransferStats, CountsFailuresWithoutASuccess) {
  MooncakeTransferStats stats;
  stats.add_failed_transfers(1);
  stats.add_failed_receives(2);
  stats.add_expired_requests(3);
  EXPECT_EQ(stats.reduce(), (ReducedStats{{"Num successful transfers", whole(0)},
                                          {"Avg xfer time (ms)", whole(0)},
                                          {"P90 xfer time (ms)", whole(0)},
                                          {"Avg MB per transfer", whole(0)},
                                          {"Throughput (MB/s)", whole(0)},
                                          {"Avg number of descriptors", whole(0)},
                                          {"Num failed transfers", whole(1)},
                                          {"Num failed recvs", whole(2)},
                                          {"Num KV expired reqs", whole(3)}}));
}

TEST(MooncakeStoreStats, Operations_ReduceByNameInOrder) {
  MooncakeStoreStats stats;
  stats.add("save_put", {0.002, 3, 300, 1, true});
  for (int i = 1; i <= 10; ++i) stats.add("load_get", {0.001 * i, 2, 10, 0, false});
  EXPECT_EQ(stats.reduce(), (ReducedStats{{"load_get_count", whole(10)},
                                          {"load_get_avg_ms", 5.5},
                                          {"load_get_p90_ms", 9.0},
                                          {"load_get_total_keys", whole(20)},
                                          {"load_get_total_bytes", whole(100)},
                                          {"load_get_failed_keys", whole(0)},
                                          {"load_get_error_count", whole(0)},
                                          {"save_put_count", whole(1)},
                                          {"save_put_avg_ms", 2.0},
                                          {"save_put_p90_ms", 2.0},
                                          {"save_put_total_keys", whole(3)},
                                          {"save_put_total_bytes", whole(300)},
                                          {"save_put_failed_keys", whole(1)},
                                          {"save_put_error_count", whole(1)}}));
}

TEST(OffloadingStats, CountersAddGaugesReplaceHistogramsCount) {
  OffloadingStats first;
  first.add_to_counter("vllm:kv_offload_load_bytes", std::uint64_t{1000});
  first.add_to_counter("vllm:kv_offload_load_time", 0.25);
  first.observe("vllm:kv_offload_load_size", std::uint64_t{1000});
  first.set_gauge("vllm:kv_offload_cpu_cache_usage_perc", 0.5);
  OffloadingStats second;
  second.add_to_counter("vllm:kv_offload_load_bytes", std::uint64_t{24});
  second.observe("vllm:kv_offload_load_size", std::uint64_t{24});
  second.set_gauge("vllm:kv_offload_cpu_cache_usage_perc", 0.25);
  first.aggregate(second);
  EXPECT_EQ(first.reduce(), (ReducedStats{{"vllm:kv_offload_load_bytes", whole(1024)},
                                          {"vllm:kv_offload_load_time", 0.25},
                                          {"vllm:kv_offload_load_size_count", whole(2)},
                                          {"vllm:kv_offload_load_size_sum", whole(1024)},
                                          {"vllm:kv_offload_cpu_cache_usage_perc", 0.25}}));
}

TEST(OffloadingStats, LabelledRows_StandTogetherUnderTheirTuple) {
  OffloadingStats stats;
  stats.add_to_counter("bytes", std::uint64_t{1}, {"CPU_to_GPU"});
  stats.observe("size", std::uint64_t{7}, {"it's", "a \"b\" 'c'"});
  stats.add_to_counter("bytes", std::uint64_t{2}, {"GPU_to_CPU"});
  EXPECT_EQ(stats.reduce(), (ReducedStats{{"bytes:('CPU_to_GPU',)", whole(1)},
                                          {"bytes:('GPU_to_CPU',)", whole(2)},
                                          {"size:(\"it's\", 'a \"b\" \\'c\\'')_count", whole(1)},
                                          {"size:(\"it's\", 'a \"b\" \\'c\\'')_sum", whole(7)}}));
}

TEST(HiSparseStats, Reports_AddUp) {
  HiSparseStats stats;
  EXPECT_TRUE(stats.is_empty());
  stats.add(0, 0, 0);
  EXPECT_FALSE(stats.is_empty()) << "a report of zeros is a report";
  stats.add(3, 2, 4096);
  stats.add(1, 0, 0);
  EXPECT_EQ(stats.reduce(), (ReducedStats{{"HiSparse hot-buffer hits", whole(4)},
                                          {"HiSparse hot-buffer misses", whole(2)},
                                          {"HiSparse host-to-device bytes", whole(4096)}}));
}

TEST(UserConnectorStats, ReduceToCountMeanPercentileAndSum) {
  UserConnectorStats stats;
  for (int i = 1; i <= 11; ++i) stats.observe("swap_seconds", i / 3.0);
  stats.add_to_counter("swapped_bytes", std::uint64_t{5});
  stats.add_to_counter("swapped_bytes", std::uint64_t{6});
  EXPECT_EQ(stats.reduce(), (ReducedStats{{"swap_seconds_count", whole(11)},
                                          {"swap_seconds_avg", 2.0},
                                          {"swap_seconds_p90", 3.33333},
                                          {"swapped_bytes", whole(11)}}));
}

TEST(MultiConnectorStats, Children_ReduceSideBySideInTheSameOrderAlways) {
  MultiConnectorStats stats;
  EXPECT_TRUE(stats.is_empty());
  stats.child<UserConnectorStats>("other")->add_to_counter("n", std::uint64_t{1});
  stats.child<HiSparseStats>("hisparse")->add(1, 2, 3);
  ASSERT_NE(stats.child<NixlStats>("nixl"), nullptr);
  stats.child<OffloadingStats>("offloading")->add_to_counter("bytes", std::uint64_t{1});
  MultiConnectorStats other;
  other.child<OffloadingStats>("offloading")->add_to_counter("bytes", std::uint64_t{2});
  other.child<UserConnectorStats>("mine")->add_to_counter("n", std::uint64_t{9});
  stats.aggregate(other);
  const std::vector<ConnectorReport> reports = stats.reduce();
  ASSERT_EQ(reports.size(), 4u) << "nixl has nothing to tell";
  EXPECT_EQ(reports[0].connector, "offloading");
  EXPECT_EQ(reports[0].entries, (ReducedStats{{"bytes", whole(3)}}));
  EXPECT_EQ(reports[1].connector, "hisparse");
  EXPECT_EQ(reports[2].connector, "mine");
  EXPECT_EQ(reports[2].entries, (ReducedStats{{"n", whole(9)}}));
  EXPECT_EQ(reports[3].connector, "other");
  stats.reset();
  EXPECT_TRUE(stats.is_empty());
  EXPECT_TRUE(stats.reduce().empty());
}

TEST(MultiConnectorStats, SameIdOfAnotherType_IsLeftOut) {
  MultiConnectorStats stats;
  stats.child<HiSparseStats>("x")->add(1, 0, 0);
  EXPECT_EQ(stats.child<NixlStats>("x"), nullptr);
  MultiConnectorStats other;
  other.child<NixlStats>("x")->add_transfer(1, 1, 1, 1);
  stats.aggregate(other);
  EXPECT_EQ(stats.reduce().size(), 1u);
  EXPECT_EQ(stats.reduce()[0].entries[0].first, "HiSparse hot-buffer hits");
}

// S3-01
TEST(MultiConnectorStats, Stored_ReadsBackAsItWas) {
  MultiConnectorStats stats;
  stats.child<NixlStats>("nixl")->add_transfer(0.5, 0.25, 100, 2);
  stats.child<MoriioStats>("moriio")->add_expired_requests(1);
  stats.child<MooncakeTransferStats>("mooncake")->add_failed_receives(3);
  stats.child<MooncakeStoreStats>("mooncake_store")->add("save_put", {0.1, 1, 2, 3, true});
  stats.child<OffloadingStats>("offloading")->observe("size", std::uint64_t{5}, {"a"});
  stats.child<HiSparseStats>("hisparse")->add(1, 2, 3);
  stats.child<UserConnectorStats>("mine")->observe("seconds", 0.125);
  std::stringstream bytes;
  cereal::BinaryOutputArchive output(bytes);
  output(stats);
  MultiConnectorStats read;
  cereal::BinaryInputArchive input(bytes);
  input(read);
  const auto written_reports = stats.reduce();
  const auto read_reports = read.reduce();
  ASSERT_EQ(read_reports.size(), 7u);
  for (std::size_t i = 0; i < read_reports.size(); ++i) {
    EXPECT_EQ(read_reports[i].connector, written_reports[i].connector);
    EXPECT_EQ(read_reports[i].entries, written_reports[i].entries);
  }
}

}  // namespace
}  // namespace rankbus::test
