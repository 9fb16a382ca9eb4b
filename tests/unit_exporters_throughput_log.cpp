// The throughput line, word for word, and of whom and when there is one.
#include <cmath>
#include <limits>

#include "unit_exporters_log_lib.hpp"

namespace rankbus::test {
namespace {

using ThroughputLogTest = EngineLogTest;

TEST_F(ThroughputLogTest, OneEngine_PrintsVllmsWords) {
  engine(0);
  snapshot_.monotonic_s = 1000;
  log_.observe(snapshot_);
  pass_seconds(10);
  EngineTotals& e = engine(0);
  e.prompt_tokens_computed = 594;
  e.generation_tokens = 69;
  e.running = 3;
  e.waiting = 3;
  e.deferred = 1;
  e.kv_cache_usage = 0.25;
  e.prefix_cache = {10, 1000, 400};
  EXPECT_EQ(log(), (Strings{"INFO Engine 000: Avg prompt throughput: 59.4 tokens/s, "
                            "Avg generation throughput: 6.9 tokens/s, Running: 3 reqs, "
                            "Waiting: 3 reqs, Deferred: 1 reqs, GPU KV cache usage: 25.0%, "
                            "Prefix cache hit rate: 40.0%"}));
}

TEST_F(ThroughputLogTest, Preemptions_PrintThoseOfTheInterval) {
  engine(12).preemptions = 5;
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(12).generation_tokens = 1;
  engine(12).preemptions = 9;
  EXPECT_EQ(log(), (Strings{"INFO Engine 012: Avg prompt throughput: 0.0 tokens/s, "
                            "Avg generation throughput: 0.1 tokens/s, Running: 0 reqs, "
                            "Waiting: 0 reqs, Preemptions: 4, GPU KV cache usage: 0.0%, "
                            "Prefix cache hit rate: 0.0%"}));
  pass_seconds(10);
  EXPECT_EQ(log()[0].find("Preemptions"), std::string::npos) << "none in this interval";
}

TEST_F(ThroughputLogTest, EveryPart_PrintsInVllmsOrder) {
  engine(0).corrupted = 2;
  log_.observe(snapshot_);
  pass_seconds(10);
  EngineTotals& e = engine(0);
  e.prompt_tokens_computed = 594;
  e.generation_tokens = 69;
  e.running = 3;
  e.waiting = 3;
  e.deferred = 1;
  e.preemptions = 4;
  e.kv_cache_usage = 0.25;
  e.prefix_cache = {10, 1000, 400};
  e.external_prefix_cache = {10, 1000, 100};
  e.multimodal_cache = {4, 4, 1};
  e.corrupted = 5;
  EXPECT_EQ(log(), (Strings{"INFO Engine 000: Avg prompt throughput: 59.4 tokens/s, "
                            "Avg generation throughput: 6.9 tokens/s, Running: 3 reqs, "
                            "Waiting: 3 reqs, Deferred: 1 reqs, Preemptions: 4, "
                            "GPU KV cache usage: 25.0%, Prefix cache hit rate: 40.0%, "
                            "Corrupted: 3 reqs, External prefix cache hit rate: 10.0%, "
                            "MM cache hit rate: 25.0%"}));
}

TEST_F(ThroughputLogTest, Corrupted_ShowsWhereItIsCountedAndOnlyTheInterval) {
  engine(0).corrupted = 7;
  engine(1);
  const auto ending = [&](std::size_t line) {
    const Strings lines = log();
    return lines[line].substr(lines[line].rfind("rate: ") + 6);
  };
  EXPECT_EQ(ending(0), "0.0%, Corrupted: 0 reqs") << "found at work: nobody watched those";
  pass_seconds(10);
  engine(0).corrupted = 9;
  EXPECT_EQ(ending(0), "0.0%, Corrupted: 2 reqs");
  pass_seconds(10);
  EXPECT_EQ(ending(0), "0.0%, Corrupted: 0 reqs");
  pass_seconds(10);
  EXPECT_EQ(ending(1), "0.0%") << "engine 1 does not look for NaN";
  pass_seconds(10);
  engine(0).corrupted = 10;
  EXPECT_EQ(ending(2), "0.0%, Corrupted: 1 reqs") << "of all engines";
}

TEST_F(ThroughputLogTest, CachesOfOtherKinds_ShowOnceTheirWindowHasRequests) {
  EngineTotals& e = engine(0);
  e.external_prefix_cache = {0, 0, 0};
  e.multimodal_cache = {0, 0, 0};
  const std::string nothing = log()[0];
  EXPECT_EQ(nothing.find("External"), std::string::npos);
  EXPECT_EQ(nothing.find("MM cache"), std::string::npos);
  e.external_prefix_cache = {1, 0, 0};  // A request without tokens is a request.
  e.multimodal_cache = {1, 0, 0};
  const std::string both = log()[0];
  EXPECT_NE(both.find("External prefix cache hit rate: 0.0%, MM cache hit rate: 0.0%"),
            std::string::npos);
}

TEST_F(ThroughputLogTest, AggregatedOtherCaches_ArePooled) {
  engine(0).external_prefix_cache = {1, 100, 100};
  engine(1).external_prefix_cache = {1, 900, 0};
  engine(1).multimodal_cache = {2, 4, 2};
  const std::string line = log()[2];
  EXPECT_NE(line.find("External prefix cache hit rate: 10.0%, MM cache hit rate: 50.0%"),
            std::string::npos)
      << line;
}

TEST_F(ThroughputLogTest, TwoEngines_PrintAggregatedAsVllmDoes) {
  engine(0);
  engine(1);
  log_.observe(snapshot_);
  pass_seconds(10);
  EngineTotals& first = engine(0);
  first.prompt_tokens_computed = 594;
  first.generation_tokens = 69;
  first.running = 3;
  first.waiting = 3;
  first.deferred = 1;
  first.kv_cache_usage = 0.25;
  first.prefix_cache = {10, 1000, 400};
  EngineTotals& second = engine(1);
  second.prompt_tokens_computed = 594;
  second.generation_tokens = 70;
  second.running = 4;
  second.waiting = 3;
  second.deferred = 1;
  second.kv_cache_usage = 0.35;
  second.prefix_cache = {1, 0, 0};
  const Strings lines = log();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].substr(0, 16), "INFO Engine 000:");
  EXPECT_EQ(lines[1].substr(0, 16), "INFO Engine 001:");
  EXPECT_EQ(lines[2],
            "INFO 2 Engines Aggregated: Avg prompt throughput: 118.8 tokens/s, "
            "Avg generation throughput: 13.9 tokens/s, Running: 7 reqs, Waiting: 6 reqs, "
            "Deferred: 2 reqs, GPU KV cache usage: 30.0%, Prefix cache hit rate: 40.0%");
}

TEST_F(ThroughputLogTest, AggregatedHitRate_IsPooledNotAveraged) {
  engine(0).prefix_cache = {1, 100, 100};
  engine(1).prefix_cache = {1, 900, 0};
  EXPECT_NE(log()[2].find("Prefix cache hit rate: 10.0%"), std::string::npos);
}

TEST_F(ThroughputLogTest, FirstSightInLog_ShowsNoRate) {
  engine(0).prompt_tokens_computed = 1000000;
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0")}));
  pass_seconds(10);
  engine(0).prompt_tokens_computed += 50;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "5.0", "0.0")}));
}

TEST_F(ThroughputLogTest, FirstSightBetweenLogs_CountsFromThere) {
  snapshot_.monotonic_s = 100;
  EXPECT_EQ(log(), Strings{});
  pass_seconds(6);
  engine(0).generation_tokens = 1000;
  log_.observe(snapshot_);
  pass_seconds(1);
  engine(0).generation_tokens = 1100;
  log_.observe(snapshot_);
  pass_seconds(3);
  engine(0).generation_tokens = 1400;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "100.0")}));
}

TEST_F(ThroughputLogTest, EngineSeenFromItsBeginning_CountsFromThere) {
  snapshot_.monotonic_s = 100;
  EXPECT_EQ(log(), Strings{});
  pass_seconds(10);
  engine(0).began_clock_s = 105;
  engine(0).generation_tokens = 100;
  engine(0).preemptions = 2;
  const Strings lines = log();
  EXPECT_EQ(lines[0].substr(0, lines[0].find(", Running")),
            rates("INFO Engine 000", "0.0", "20.0"));
  EXPECT_NE(lines[0].find("Preemptions: 2,"), std::string::npos);
  pass_seconds(10);
  engine(0).generation_tokens = 110;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "1.0")})) << "once only";
}

TEST_F(ThroughputLogTest, VirtualEngineSeenFromItsBeginning_CountsFromThere) {
  snapshot_.monotonic_s = 100;
  engine(0).virtual_clock = true;
  engine(0).began_clock_s = 5;
  engine(0).clock_s = 25;
  engine(0).prompt_tokens_computed = 100;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "5.0", "0.0")}));
}

TEST_F(ThroughputLogTest, BeginningInTheFuture_ShowsNoRate) {
  snapshot_.monotonic_s = 100;
  engine(0).began_clock_s = 1e9;
  engine(0).generation_tokens = 100;
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0")}));
  pass_seconds(10);
  engine(0).generation_tokens = 110;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "1.0")}));
}

TEST_F(ThroughputLogTest, IdleEngine_GoesToDebugAfterOneZeroLine) {
  engine(0);
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).generation_tokens = 10;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "1.0")}));
  pass_seconds(10);
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "0.0")}));
  pass_seconds(10);
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0")}));
  pass_seconds(10);
  engine(0).prompt_tokens_computed = 1;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.1", "0.0")}));
}

TEST_F(ThroughputLogTest, AggregatedLevel_FollowsItsOwnThroughput) {
  engine(0);
  engine(1);
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(1).generation_tokens = 10;
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0"),
                                  rates("INFO Engine 001", "0.0", "1.0"),
                                  rates("INFO 2 Engines Aggregated", "0.0", "1.0")}));
}

TEST_F(ThroughputLogTest, NoTimePassed_ShowsNoRateAndLosesNoTokens) {
  engine(0);
  log_.observe(snapshot_);
  engine(0).generation_tokens = 10;
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0")}));
  pass_seconds(1);
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "10.0")}));
}

TEST_F(ThroughputLogTest, VirtualClock_DividesByTheEnginesOwnTime) {
  engine(0).virtual_clock = true;
  engine(0).clock_s = 5000;
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).clock_s = 5100;
  engine(0).generation_tokens = 1000;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "10.0")}));
  pass_seconds(10);
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "0.0")})) << "stands still";
  pass_seconds(10);
  engine(0).clock_s = 5110;
  engine(0).generation_tokens = 1050;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "5.0")}));
  pass_seconds(10);
  engine(0).clock_s = 3;  // Another run of the same identity.
  engine(0).generation_tokens = 1060;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "0.0")}));
  pass_seconds(10);
  engine(0).clock_s = 5;
  engine(0).generation_tokens = 1080;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "10.0")}));
}

TEST_F(ThroughputLogTest, VirtualEngines_AggregateOverTheLongestTime) {
  engine(0).virtual_clock = true;
  engine(1).virtual_clock = true;
  log_.observe(snapshot_);
  pass_seconds(1);
  engine(0).clock_s = 10;
  engine(0).generation_tokens = 100;
  engine(1).clock_s = 5;
  engine(1).generation_tokens = 20;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "10.0"),
                                  rates("INFO Engine 001", "0.0", "4.0"),
                                  rates("INFO 2 Engines Aggregated", "0.0", "12.0")}));
}

TEST_F(ThroughputLogTest, TotalsThatShrank_ShowNoRate) {
  engine(0).generation_tokens = 100;
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).generation_tokens = 50;
  engine(0).prompt_tokens_computed = 10;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "1.0", "0.0")}));
}

TEST_F(ThroughputLogTest, DeadEngine_PrintsItsLastLineOnce) {
  engine(0);
  engine(1);
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(1).live = false;
  engine(1).generation_tokens = 10;
  log_.observe(snapshot_);
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0"),
                                  rates("INFO Engine 001", "0.0", "1.0"),
                                  rates("INFO 2 Engines Aggregated", "0.0", "1.0")}));
  pass_seconds(10);
  engine(0).generation_tokens = 10;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "1.0")}));
  pass_seconds(10);
  engine(1).live = true;  // The identity returned: its time away belongs to no interval.
  engine(1).generation_tokens = 30;
  EXPECT_EQ(log_rates()[1], rates("INFO Engine 001", "0.0", "2.0"));
}

TEST_F(ThroughputLogTest, EngineThatLivedBetweenTwoLogs_HasOneLine) {
  EXPECT_EQ(log(), Strings{});
  engine(0);
  log_.observe(snapshot_);
  pass_seconds(10);
  engine(0).live = false;
  engine(0).generation_tokens = 10;
  EXPECT_EQ(log_rates(), (Strings{rates("INFO Engine 000", "0.0", "1.0")}));
  EXPECT_EQ(log(), Strings{});
}

TEST_F(ThroughputLogTest, EngineDeadFromTheBeginning_IsSilent) {
  engine(0).live = false;
  engine(0).generation_tokens = 10;
  EXPECT_EQ(log(), Strings{});
}

TEST_F(ThroughputLogTest, VanishedEngine_IsForgotten) {
  engine(0).generation_tokens = 1000;
  log();
  snapshot_.engines.clear();
  pass_seconds(10);
  EXPECT_EQ(log(), Strings{});
  pass_seconds(10);
  engine(0).generation_tokens = 5000;
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0")}));
}

TEST_F(ThroughputLogTest, OneNamedServer_HasNoPrefix) {
  engine(0).server_label = "chat";
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Engine 000", "0.0", "0.0")}));
}

TEST_F(ThroughputLogTest, SeveralServers_AreToldApart) {
  engine(0, "k1").server_label = "chat";
  engine(1, "k1").server_label = "chat";
  engine(0, "k2").model_name = "mistral";
  engine(0, "k3").model_name = "qwen";
  engine(0, "k4").model_name = "qwen";
  engine(0, "k5").model_name = "";
  EXPECT_EQ(log_rates(), (Strings{rates("DEBUG Server chat: Engine 000", "0.0", "0.0"),
                                  rates("DEBUG Server chat: Engine 001", "0.0", "0.0"),
                                  rates("DEBUG Server chat: 2 Engines Aggregated", "0.0", "0.0"),
                                  rates("DEBUG Server mistral: Engine 000", "0.0", "0.0"),
                                  rates("DEBUG Server qwen (k3): Engine 000", "0.0", "0.0"),
                                  rates("DEBUG Server qwen (k4): Engine 000", "0.0", "0.0"),
                                  rates("DEBUG Server (k5): Engine 000", "0.0", "0.0")}));
}

// C-24
TEST_F(ThroughputLogTest, HostileNamesAndNumbers_StayHarmless) {
  engine(0, "k1").server_label = "a\nINFO forged\x1B[31m";
  engine(0, "k2").model_name = "b\x1B]0;title\x07";
  engine(0, "k2").kv_cache_usage = std::nan("");
  const Strings lines = log();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].substr(0, 33), "DEBUG Server aINFO forged: Engine");
  EXPECT_EQ(lines[1].substr(0, 22), "DEBUG Server b: Engine");
  EXPECT_NE(lines[1].find("GPU KV cache usage: 0.0%"), std::string::npos);
}

TEST_F(ThroughputLogTest, HugeTotals_StayFinite) {
  engine(0);
  log_.observe(snapshot_);
  pass_seconds(1e-9);
  engine(0).generation_tokens = std::numeric_limits<std::uint64_t>::max();
  const Strings lines = log();
  EXPECT_EQ(lines[0].find("inf"), std::string::npos);
  EXPECT_EQ(lines[0].find("nan"), std::string::npos);
}

}  // namespace
}  // namespace rankbus::test
