// The residency of KV blocks word for word. Each test names the rows of the S1 checklist that it
// keeps; W6 to W14 are worked by hand.
#include <gtest/gtest.h>

#include <cereal/archives/binary.hpp>
#include <cereal/types/array.hpp>
#include <cereal/types/deque.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/optional.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/vector.hpp>
#include <cmath>
#include <limits>
#include <rankbus/aggregator/analysis/batched_block_residency.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "unit_exporters_lib.hpp"

namespace rankbus::analysis {
namespace {

using rankbus::test::run_command;
using rankbus::test::TempDir;
using rankbus::test::write_file;

using Keys = std::vector<std::string>;
using Ids = std::vector<std::uint64_t>;

constexpr std::int64_t kSecond = 1'000'000'000;

std::int64_t ns(double seconds) {
  return static_cast<std::int64_t>(std::llround(seconds * 1e9));
}
Instant at(double seconds, double wall_s = 1.7e9) {
  return {ns(seconds), wall_s};
}

Keys keys_of(const Json& dict) {
  Keys keys;
  for (const auto& [key, value] : dict.items()) keys.push_back(key);
  return keys;
}

// Follows every block, keeps as many alerts as come.
ResidencyConfig follow_all() {
  ResidencyConfig config;
  config.sample_rate = 1;
  config.alerts_per_interval = 1'000'000;
  config.max_alerts = 1'000'000;
  return config;
}
BlockResidency residency_of(const ResidencyConfig& config = follow_all()) {
  return BlockResidency::create(config).value();
}

// One more eviction, a thousand seconds after the one before, of a block that lived so long.
void add_life(BlockResidency& residency, double lifetime_s, int accesses = 1,
              std::uint64_t stream = 0) {
  const auto id = residency.total_evictions();
  const std::int64_t end_ns = static_cast<std::int64_t>(id + 1) * 1000 * kSecond;
  residency.on_allocated(stream, id, end_ns - ns(lifetime_s));
  for (int i = 0; i < accesses; ++i) residency.on_accessed(stream, id, end_ns - ns(lifetime_s));
  residency.on_evicted_untrusted(stream, id, {end_ns, 1.7e9});
}
void add_lives(BlockResidency& residency, const std::vector<double>& lifetimes) {
  for (const double lifetime : lifetimes) add_life(residency, lifetime);
}
BlockResidency lives_of(const std::vector<double>& lifetimes) {
  BlockResidency residency = residency_of();
  add_lives(residency, lifetimes);
  return residency;
}

// 1, 2, 1, 2, ..., 1 and then `last`: a hundred.
std::vector<double> ones_and_twos(double last) {
  std::vector<double> lifetimes;
  for (int i = 0; i < 99; ++i) lifetimes.push_back(i % 2 == 0 ? 1 : 2);
  lifetimes.push_back(last);
  return lifetimes;
}

// S1-01
TEST(CacheAlert, MetricTypes_AreToldApartInAlertsAndExports) {
  std::set<std::string_view> names;
  for (int i = 1; i <= 5; ++i) names.insert(name_of(static_cast<MetricType>(i)));
  EXPECT_EQ(names, (std::set<std::string_view>{"LIFETIME", "IDLE_TIME", "ACCESS_COUNT", "REUSE_GAP",
                                               "EVICTION"}));
  BlockResidency residency = residency_of();
  for (const double lifetime : ones_and_twos(10)) add_life(residency, lifetime, 0);
  std::set<std::string> exported;
  const Json dict = residency.export_to_dict(at(0));
  for (const Json& alert : dict["alerts"]) exported.insert(alert["metric"]);
  EXPECT_EQ(exported, (std::set<std::string>{"LIFETIME", "ACCESS_COUNT"}));
  const std::string text = std::get<std::string>(residency.export_as("prometheus", at(0)).value());
  EXPECT_NE(text.find("{level=\"CRITICAL\",metric=\"LIFETIME\"} 1\n"), std::string::npos);
  EXPECT_NE(text.find("{level=\"INFO\",metric=\"ACCESS_COUNT\"} 1\n"), std::string::npos);
}

// S1-02
TEST(CacheAlert, Levels_AreOrderedAndToldApart) {
  EXPECT_LT(AlertLevel::info, AlertLevel::warning);
  EXPECT_LT(AlertLevel::warning, AlertLevel::critical);
  EXPECT_EQ(name_of(AlertLevel::info), "INFO");
  EXPECT_EQ(name_of(AlertLevel::warning), "WARNING");
  EXPECT_EQ(name_of(AlertLevel::critical), "CRITICAL");
}

// S1-03
TEST(ResidencyConfig, Defaults) {
  const ResidencyConfig config;
  EXPECT_EQ(config.sample_rate, 0.01);
  EXPECT_EQ(config.history_size, 1000u);
  EXPECT_EQ(config.trend_window, 100u);
  EXPECT_EQ(config.anomaly_threshold, 3.0);
  EXPECT_TRUE(config.enable_detailed);
  EXPECT_EQ(config.export_interval_s, 60.0);
  EXPECT_FALSE(problem_of(config));
}

// S1-04
TEST(ResidencyConfig, RateThatIsNoShare_IsRefusedByItsValue) {
  for (const auto& [rate, text] : std::vector<std::pair<double, std::string>>{
           {0, "0.0"}, {-0.5, "-0.5"}, {1.5, "1.5"}, {std::nan(""), "nan"}}) {
    ResidencyConfig config;
    config.sample_rate = rate;
    const auto refused = BlockResidency::create(config);
    EXPECT_FALSE(refused);
    EXPECT_NE(refused.error().find("sample_rate is " + text), std::string::npos) << refused.error();
  }
  EXPECT_TRUE(BlockResidency::create(follow_all()));
}

TEST(ResidencyConfig, SettingsWithoutBound_AreRefused) {
  const auto is_refused = [](auto change) {
    ResidencyConfig config;
    change(config);
    return !BlockResidency::create(config);
  };
  EXPECT_TRUE(is_refused([](auto& config) { config.history_size = 0; }));
  EXPECT_TRUE(is_refused([](auto& config) { config.history_size = kMaxHistory + 1; }));
  EXPECT_TRUE(is_refused([](auto& config) { config.anomaly_threshold = -1; }));
  EXPECT_TRUE(is_refused([](auto& config) { config.export_interval_s = 0; }));
  EXPECT_TRUE(is_refused([](auto& config) { config.alert_interval_s = std::nan(""); }));
}

// S1-05
TEST(BlockResidency, WithoutDetail_IdleAndGapsAreNotKept) {
  ResidencyConfig config = follow_all();
  config.enable_detailed = false;
  config.trend_window = 2;
  BlockResidency residency = residency_of(config);
  add_life(residency, 5, 3);
  add_life(residency, 5, 3);
  const BlockEviction& eviction = residency.history().back();
  EXPECT_EQ(eviction.access_count, 3u);
  EXPECT_EQ(eviction.lifetime_s(), 5);
  EXPECT_TRUE(eviction.reuse_gaps_ns.empty());
  EXPECT_TRUE(eviction.as_dict()["idle_seconds"].is_null()) << "unknown is not 0";
  EXPECT_FALSE(residency.access_patterns().reuse_gaps);
  EXPECT_TRUE(residency.trends().lifetime);
  EXPECT_FALSE(residency.trends().idle);
}

// S1-05
TEST(BlockResidency, Export_IsDueOncePerIntervalAtItsOwnPace) {
  BlockResidency residency = residency_of();
  EXPECT_TRUE(residency.export_due(ns(100)));
  EXPECT_FALSE(residency.export_due(ns(100)));
  EXPECT_FALSE(residency.export_due(ns(159.9)));
  EXPECT_TRUE(residency.export_due(ns(165)));  // Late: the next one is still at 220.
  EXPECT_FALSE(residency.export_due(ns(219.9)));
  EXPECT_TRUE(residency.export_due(ns(220)));
  EXPECT_TRUE(residency.export_due(ns(1000)));  // Many turns late, and made up for by one.
  EXPECT_FALSE(residency.export_due(ns(1000)));
  EXPECT_TRUE(residency.export_due(ns(1060)));
}

// S1-06
TEST(BlockResidency, RateOfOne_FollowsEveryBlock) {
  BlockResidency residency = residency_of();
  for (std::uint64_t id = 0; id < 1000; ++id) residency.on_allocated(0, id * 977, 1);
  residency.on_allocated(0, std::numeric_limits<std::uint64_t>::max(), 1);
  EXPECT_EQ(residency.followed_blocks(), 1001u);
}

// S1-06
TEST(BlockResidency, FollowedShare_TendsToTheRate) {
  constexpr std::uint64_t kBlocks = 200'000;
  for (const double rate : {0.01, 0.1, 0.5}) {
    std::uint64_t followed = 0;
    for (std::uint64_t id = 0; id < kBlocks; ++id) followed += is_sampled(id, rate) ? 1 : 0;
    const double deviation = std::sqrt(rate * (1 - rate) / kBlocks);
    EXPECT_NEAR(static_cast<double>(followed) / kBlocks, rate, 5 * deviation);
  }
}

// S1-06
TEST(BlockResidency, Sample_IsTheSameInEveryProcess) {
  Ids followed;
  for (std::uint64_t id = 0; id < 700; ++id) {
    if (is_sampled(id, 0.01)) followed.push_back(id);
  }
  EXPECT_EQ(followed, (Ids{196, 295, 472, 558, 663, 689}));
  for (const std::uint64_t id : followed) EXPECT_TRUE(is_sampled(id, 0.02)) << "samples nest";
}

// S1-07, S1-08, S1-14
TEST(BlockResidency, Totals_CountAllBlocksAndEventsOnlyFollowedOnes) {
  BlockResidency residency = residency_of(ResidencyConfig{});
  for (std::uint64_t id = 0; id < 700; ++id) {
    residency.on_allocated(0, id, ns(1));
    residency.on_accessed(0, id, ns(2));
    residency.on_accessed(0, id, ns(3));
    residency.on_evicted_untrusted(0, id, at(4));
  }
  EXPECT_EQ(residency.total_allocations(), 700u);
  EXPECT_EQ(residency.total_accesses(), 1400u);
  EXPECT_EQ(residency.total_evictions(), 700u);
  ASSERT_FALSE(residency.history().empty());
  EXPECT_LT(residency.history().size(), 30u);
  const std::size_t before = residency.history().size();
  residency.on_evicted_untrusted(0, 196, at(5));  // In the sample, but nobody saw it allocated.
  EXPECT_EQ(residency.history().size(), before);
  for (const BlockEviction& eviction : residency.history()) {
    EXPECT_TRUE(is_sampled(eviction.block_id, 0.01));
    EXPECT_EQ(eviction.access_count, 2u);
  }
}

// S1-08, S1-09, S1-10
TEST(BlockResidency, FollowedBlock_HasAgeIdleTimeAndAccesses) {
  BlockResidency residency = residency_of();
  residency.on_allocated(0, 7, ns(10));
  const BlockLife* life = residency.followed(0, 7);
  ASSERT_NE(life, nullptr);
  EXPECT_EQ(life->lifetime_ns(ns(13)), ns(3));
  EXPECT_EQ(life->idle_ns(ns(13)), ns(3)) << "never accessed: idle since birth";
  residency.on_accessed(0, 7, ns(12));
  EXPECT_EQ(life->access_count(), 1u);
  EXPECT_EQ(life->last_access_ns(), ns(12));
  EXPECT_EQ(life->lifetime_ns(ns(13)), ns(3));
  EXPECT_EQ(life->idle_ns(ns(13)), ns(1));
  residency.on_accessed(0, 8, ns(12));
  EXPECT_EQ(residency.total_accesses(), 2u);
  EXPECT_EQ(residency.followed(0, 8), nullptr);
}

// S1-09
TEST(BlockResidency, WallClock_ChangesTimestampsAndNothingElse) {
  BlockResidency steady = residency_of();
  BlockResidency jumping = residency_of();
  double wall = 1.7e9;
  for (std::uint64_t id = 0; id < 300; ++id) {
    wall += id % 7 == 0 ? -86400 : 3600;
    for (BlockResidency* residency : {&steady, &jumping}) {
      const double now = static_cast<double>(id);
      residency->on_allocated(0, id, ns(now));
      residency->on_evicted_untrusted(
          0, id, at(now + 1 + (id % 3 == 0 ? 0.25 : 0), residency == &steady ? 1.7e9 : wall));
    }
  }
  Json left = steady.export_to_dict(at(0));
  Json right = jumping.export_to_dict(at(0));
  for (Json* dict : {&left, &right}) {
    for (Json& alert : (*dict)["alerts"]) alert.erase("timestamp");
  }
  EXPECT_EQ(left, right);
  EXPECT_FALSE(left["alerts"].empty());
}

// S1-09
TEST(BlockLife, StampsOfStrangers_NeverWrap) {
  constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  BlockLife life(kMin);
  life.record_access(kMax);
  life.record_access(5);
  EXPECT_EQ(life.lifetime_ns(kMax), kMax);
  EXPECT_EQ(life.idle_ns(kMin), 0);
  EXPECT_EQ(life.reuse_gaps_ns(), std::vector<std::int64_t>{0});
}

// S1-11, W14
TEST(BlockLife, Gaps_AreBetweenTheLastTenAccesses) {
  BlockLife life(ns(0));
  EXPECT_TRUE(life.reuse_gaps_ns().empty());
  life.record_access(ns(0));
  EXPECT_TRUE(life.reuse_gaps_ns().empty()) << "birth to the first access is no gap";
  for (const double stamp : {1.5, 3.0, 5.5}) life.record_access(ns(stamp));
  EXPECT_EQ(life.reuse_gaps_ns(), (std::vector<std::int64_t>{ns(1.5), ns(1.5), ns(2.5)}));
  for (int i = 0; i < 8; ++i) life.record_access(ns(10 + i));
  EXPECT_EQ(life.access_count(), 12u);
  EXPECT_EQ(life.reuse_gaps_ns(), (std::vector<std::int64_t>{ns(2.5), ns(4.5), ns(1), ns(1), ns(1),
                                                             ns(1), ns(1), ns(1), ns(1)}));
}

// S1-12
TEST(BlockLife, AccessFrequency_IsPerSecondOfLife) {
  BlockLife life(ns(10));
  for (int i = 0; i < 6; ++i) life.record_access(ns(11));
  EXPECT_EQ(life.access_frequency(ns(13)), 2);
  EXPECT_EQ(life.access_frequency(ns(10)), 0);
  EXPECT_EQ(life.access_frequency(ns(9)), 0);
}

// S1-13, S1-15
TEST(BlockResidency, Eviction_IsOneEventWithSevenKeys) {
  BlockResidency residency = residency_of();
  residency.on_allocated(3, 42, ns(10));
  residency.on_accessed(3, 42, ns(11));
  residency.on_accessed(3, 42, ns(12.5));
  residency.on_evicted_untrusted(3, 42, at(14, 1700000000.25));
  ASSERT_EQ(residency.history().size(), 1u);
  EXPECT_EQ(residency.history()[0].as_dict().dump(),
            R"({"block_id":42,"lifetime_seconds":4.0,"idle_seconds":1.5,"access_count":2,)"
            R"("reuse_gaps_seconds":[1.5],"timestamp":1700000000.25,"reason":"capacity"})");
  residency.on_evicted_untrusted(3, 42, at(15));
  EXPECT_EQ(residency.history().size(), 1u) << "it is not followed any more";
  residency.on_allocated(3, 42, ns(16));
  residency.on_evicted_untrusted(3, 42, at(17), "preempted");
  EXPECT_EQ(residency.history()[1].reason, "preempted");
}

// S1-16
TEST(BlockResidency, AllocationWithoutEviction_BeginsANewLife) {
  BlockResidency residency = residency_of();
  residency.on_allocated(0, 1, ns(0));
  residency.on_accessed(0, 1, ns(1));
  residency.on_allocated(0, 1, ns(100));
  residency.on_evicted_untrusted(0, 1, at(102));
  EXPECT_EQ(residency.history().back().lifetime_s(), 2);
  EXPECT_EQ(residency.history().back().access_count, 0u);
  EXPECT_EQ(residency.health().reallocated_blocks, 1u);
}

// S1-16
TEST(BlockResidency, Loss_DropsTheStreamsBlocksInsteadOfStretchingTheirLives) {
  BlockResidency residency = residency_of();
  residency.on_allocated(1, 5, ns(0));
  residency.on_allocated(1, 6, ns(0));
  residency.on_allocated(2, 5, ns(0));
  residency.forget(1);
  EXPECT_EQ(residency.health().forgotten_blocks, 2u);
  EXPECT_EQ(residency.health().losses, 1u);
  EXPECT_EQ(residency.followed_blocks(), 1u);
  residency.on_evicted_untrusted(1, 5, at(500));
  EXPECT_TRUE(residency.history().empty()) << "nobody knows how long it lived";
  EXPECT_EQ(residency.health().unmatched_evictions, 1u);
  residency.on_evicted_untrusted(2, 5, at(3));
  EXPECT_EQ(residency.history().back().lifetime_s(), 3) << "other streams lost nothing";
  residency.forget(std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(residency.health().losses, 2u);
}

TEST(BlockResidency, MissedEvictions_TakeNoMoreThanTheBound) {
  ResidencyConfig config = follow_all();
  config.max_followed = 10;
  BlockResidency residency = residency_of(config);
  for (std::uint64_t id = 0; id < 1000; ++id) residency.on_allocated(0, id, 1);
  EXPECT_EQ(residency.followed_blocks(), 10u);
  EXPECT_EQ(residency.health().unfollowed_blocks, 990u);
}

// S1-17
TEST(BlockResidency, History_KeepsTheNewest) {
  ResidencyConfig config = follow_all();
  config.history_size = 5;
  BlockResidency residency = residency_of(config);
  for (int i = 1; i <= 20; ++i) add_life(residency, i);
  ASSERT_EQ(residency.history().size(), 5u);
  EXPECT_EQ(residency.history().front().lifetime_s(), 16);
  EXPECT_EQ(residency.history().back().lifetime_s(), 20);
  EXPECT_EQ(residency.summary().total_evictions, 5u);
  EXPECT_EQ(residency.total_evictions(), 20u);
  EXPECT_EQ(residency.drain_events().size(), 5u);
  EXPECT_EQ(residency.health().dropped_events, 15u);
  add_life(residency, 21);
  EXPECT_EQ(residency.health().dropped_events, 15u) << "the one that left had been drained";
}

// S1-18
TEST(BlockResidency, BeforeTheWindowIsFull_NothingIsJudged) {
  std::vector<double> lifetimes = ones_and_twos(1000);
  lifetimes.erase(lifetimes.begin());
  BlockResidency residency = lives_of(lifetimes);
  EXPECT_TRUE(residency.alerts().pending().empty()) << "99 evictions";
  EXPECT_EQ(lives_of(ones_and_twos(1000)).alerts().pending().size(), 1u) << "100 evictions";
}

// The only alert where the judged lifetime is part of its own baseline.
CacheAlert older_alert_of(const std::vector<double>& lifetimes, double anomaly_threshold = 3) {
  ResidencyConfig config = follow_all();
  config.baseline = Baseline::with_judged;
  config.anomaly_threshold = anomaly_threshold;
  BlockResidency residency = residency_of(config);
  add_lives(residency, lifetimes);
  EXPECT_EQ(residency.alerts().pending().size(), 1u);
  return residency.alerts().pending().empty() ? CacheAlert() : residency.alerts().pending()[0];
}

// What that baseline is, by two of its bounds: k deviations above the mean.
struct OlderBaseline {
  explicit OlderBaseline(double last)
      : deviation(older_alert_of(ones_and_twos(last), 3).threshold -
                  older_alert_of(ones_and_twos(last), 2).threshold),
        mean(older_alert_of(ones_and_twos(last), 3).threshold - 3 * deviation),
        z((last - mean) / deviation) {}
  double deviation;
  double mean;
  double z;
};

// S1-19, S1-20, W10
TEST(BlockResidency, MildOutlier_IsAWarning) {
  const BlockResidency residency = lives_of(ones_and_twos(3.3));
  ASSERT_EQ(residency.alerts().pending().size(), 1u);
  const CacheAlert& alert = residency.alerts().pending()[0];
  EXPECT_EQ(alert.level, AlertLevel::warning);
  EXPECT_EQ(alert.metric, MetricType::lifetime);
  EXPECT_DOUBLE_EQ(alert.value, 3.3);
  EXPECT_NEAR(alert.threshold, 3.002506, 5e-7) << "of the 99 before it";
  EXPECT_EQ(alert.timestamp, 1.7e9);
  EXPECT_NE(alert.message.find("3.30s"), std::string::npos) << alert.message;
  EXPECT_NE(alert.message.find("3.59"), std::string::npos) << alert.message;

  const CacheAlert older = older_alert_of(ones_and_twos(3.3));
  EXPECT_EQ(older.level, AlertLevel::warning);
  EXPECT_NEAR(older.threshold, 3.10768, 5e-6);
  EXPECT_NE(older.message.find("3.36"), std::string::npos);
  EXPECT_NEAR(OlderBaseline(3.3).mean, 1.513, 5e-7);
  EXPECT_NEAR(OlderBaseline(3.3).deviation, 0.531561, 5e-7);
  EXPECT_NEAR(OlderBaseline(3.3).z, 3.3618, 5e-5);
}

// S1-19, S1-20, W11
TEST(BlockResidency, StrongOutlier_IsCritical) {
  const BlockResidency residency = lives_of(ones_and_twos(10));
  ASSERT_EQ(residency.alerts().pending().size(), 1u);
  EXPECT_EQ(residency.alerts().pending()[0].level, AlertLevel::critical);
  EXPECT_NEAR(residency.alerts().pending()[0].threshold, 3.002506, 5e-7);

  const CacheAlert older = older_alert_of(ones_and_twos(10));
  EXPECT_EQ(older.level, AlertLevel::critical);
  EXPECT_NEAR(older.threshold, 4.53973, 5e-6);
  EXPECT_NE(older.message.find("8.53"), std::string::npos);
  EXPECT_NEAR(OlderBaseline(10).mean, 1.58, 5e-7);
  EXPECT_NEAR(OlderBaseline(10).deviation, 0.986577, 5e-7);
  EXPECT_NEAR(OlderBaseline(10).z, 8.5346, 5e-5);
}

// S1-19
TEST(BlockResidency, Level_ChangesAtFourDeviations) {
  ResidencyConfig config = follow_all();
  config.trend_window = 3;
  const auto alerts_of = [&](double deviations) {
    BlockResidency residency = residency_of(config);
    add_lives(residency, {1, 3, 2 + deviations * std::sqrt(2.0)});
    return residency.drain_alerts();
  };
  EXPECT_TRUE(alerts_of(2.99).empty());
  ASSERT_EQ(alerts_of(3.01).size(), 1u);
  EXPECT_EQ(alerts_of(3.01)[0].level, AlertLevel::warning);
  EXPECT_EQ(alerts_of(3.99)[0].level, AlertLevel::warning);
  EXPECT_EQ(alerts_of(4.01)[0].level, AlertLevel::critical);
}

// S1-21
TEST(BlockResidency, LowOutlierOfASmallWindow_AlertsWithTheLowerBound) {
  ResidencyConfig config = follow_all();
  config.trend_window = 3;
  BlockResidency residency = residency_of(config);
  add_lives(residency, {10, 12, 5});
  ASSERT_EQ(residency.alerts().pending().size(), 1u);
  EXPECT_NEAR(residency.alerts().pending()[0].threshold, 11 - 3 * std::sqrt(2.0), 1e-9);
  EXPECT_EQ(residency.alerts().pending()[0].level, AlertLevel::critical);

  config.baseline = Baseline::with_judged;
  BlockResidency older = residency_of(config);
  add_lives(older, {10, 12, 5});
  EXPECT_TRUE(older.alerts().pending().empty()) << "an outlier in its own baseline hides itself";
}

// S1-22
TEST(BlockResidency, EqualLifetimes_RaiseNoAlertEvenForAnother) {
  ResidencyConfig config = follow_all();
  config.trend_window = 20;
  BlockResidency residency = residency_of(config);
  for (int i = 0; i < 50; ++i) add_life(residency, 0.1);
  EXPECT_TRUE(residency.alerts().pending().empty());
  add_life(residency, 99);
  EXPECT_TRUE(residency.alerts().pending().empty()) << "no spread, no measure of far";
}

// S1-23
TEST(BlockResidency, BlockThatNobodyUsed_IsAnInfoAfterWarmUp) {
  ResidencyConfig config = follow_all();
  config.trend_window = 10;
  BlockResidency residency = residency_of(config);
  for (int i = 0; i < 9; ++i) add_life(residency, 2, 0);
  EXPECT_TRUE(residency.alerts().pending().empty());
  add_life(residency, 2, 0);
  add_life(residency, 2, 1);
  ASSERT_EQ(residency.alerts().pending().size(), 1u);
  const CacheAlert& alert = residency.alerts().pending()[0];
  EXPECT_EQ(alert.level, AlertLevel::info);
  EXPECT_EQ(alert.metric, MetricType::access_count);
  EXPECT_EQ(alert.value, 0);
  EXPECT_EQ(alert.threshold, 1);
  EXPECT_NE(alert.message.find("2.00s"), std::string::npos);
}

// S1-24
TEST(BlockResidency, FloodOfAlerts_IsLimitedAndCounted) {
  ResidencyConfig config;
  config.sample_rate = 1;
  config.trend_window = 2;
  BlockResidency residency = residency_of(config);
  const auto evict_unused = [&](std::uint64_t id, double now) {
    residency.on_allocated(0, id, ns(now));
    residency.on_evicted_untrusted(0, id, at(now));
  };
  for (std::uint64_t id = 0; id < 1001; ++id) evict_unused(id, 60);
  EXPECT_EQ(residency.alerts().pending().size(), 10u);
  EXPECT_EQ(residency.alerts().suppressed(), 990u);
  EXPECT_EQ(residency.alerts().raised(MetricType::access_count, AlertLevel::info), 1000u);
  EXPECT_EQ(residency.export_to_dict(at(0))["alerts_suppressed"], 990);
  evict_unused(2000, 119.9);
  EXPECT_EQ(residency.alerts().pending().size(), 10u);
  evict_unused(2001, 120);
  EXPECT_EQ(residency.alerts().pending().size(), 11u) << "a new interval";
  for (int minute = 3; minute < 100; ++minute) {
    for (std::uint64_t id = 0; id < 20; ++id) evict_unused(id, 60 * minute);
  }
  EXPECT_EQ(residency.alerts().pending().size(), 100u) << "however long nobody drains them";
  EXPECT_EQ(residency.alerts().pending().back().stamp_ns, ns(60 * 99));
  EXPECT_GT(residency.alerts().dropped(), 0u);
}

// S1-25, W6
TEST(BlockResidency, Summary_OfTenLifetimesIsWorkedByHand) {
  const CacheMetricsSummary summary = lives_of({7, 2, 3, 10, 5, 6, 1, 8, 9, 4}).summary();
  EXPECT_EQ(summary.p50_lifetime, 6);
  EXPECT_EQ(summary.p95_lifetime, 10);
  EXPECT_EQ(summary.p99_lifetime, 10);
  EXPECT_EQ(summary.avg_lifetime_seconds, 5.5);
}

// S1-25, W7
TEST(BlockResidency, Percentiles_OfTwoHundredLifetimes) {
  std::vector<double> lifetimes;
  for (int i = 200; i >= 1; --i) lifetimes.push_back(i);
  const CacheMetricsSummary summary = lives_of(lifetimes).summary();
  EXPECT_EQ(summary.p50_lifetime, 101);
  EXPECT_EQ(summary.p95_lifetime, 191);
  EXPECT_EQ(summary.p99_lifetime, 199);
}

// S1-25, S1-27, S1-28
TEST(BlockResidency, Summary_HasElevenFields) {
  BlockResidency residency = residency_of();
  residency.on_allocated(0, 1, ns(0));
  for (const double stamp : {1.0, 2.0, 4.0}) residency.on_accessed(0, 1, ns(stamp));
  residency.on_evicted_untrusted(0, 1, at(6));
  residency.on_allocated(0, 2, ns(6));
  residency.on_accessed(0, 2, ns(7));
  residency.on_evicted_untrusted(0, 2, at(10));
  residency.on_allocated(0, 3, ns(10));
  const CacheMetricsSummary summary = residency.summary();
  EXPECT_EQ(summary.total_blocks_sampled, 3u);
  EXPECT_EQ(summary.total_evictions, 2u);
  EXPECT_EQ(summary.avg_lifetime_seconds, 5);
  EXPECT_EQ(summary.avg_idle_seconds, 2.5);
  EXPECT_EQ(summary.avg_access_count, 2);
  EXPECT_EQ(summary.avg_reuse_gap_seconds, 1.5) << "of all gaps, not of means";
  EXPECT_EQ(summary.hit_rate_estimate, 0.5) << "one access is no reuse";
  EXPECT_EQ(keys_of(summary.as_dict()),
            (Keys{"total_blocks_sampled", "total_evictions", "avg_lifetime_seconds",
                  "avg_idle_seconds", "avg_access_count", "avg_reuse_gap_seconds", "p50_lifetime",
                  "p95_lifetime", "p99_lifetime", "hit_rate_estimate", "alert_count"}));
}

// S1-25, S1-28
TEST(BlockResidency, SummaryWithAlerts_ExportsTheirNumber) {
  const CacheMetricsSummary summary = lives_of(ones_and_twos(10)).summary();
  ASSERT_EQ(summary.alerts.size(), 1u);
  EXPECT_EQ(summary.as_dict()["alert_count"], 1);
  EXPECT_FALSE(summary.as_dict().contains("alerts"));
}

// S1-26
TEST(BlockResidency, SummaryWithoutEvictions_IsZeroButForFollowedBlocks) {
  BlockResidency residency = residency_of();
  for (std::uint64_t id = 0; id < 4; ++id) residency.on_allocated(0, id, 1);
  const Json dict = residency.summary().as_dict();
  for (const auto& [key, value] : dict.items()) {
    EXPECT_EQ(value, key == "total_blocks_sampled" ? 4 : 0) << key;
  }
}

// S1-29
TEST(BlockResidency, SampledCounts_AreScaledWithAnErrorAndApartFromTotals) {
  ResidencyConfig config;
  config.sample_rate = 0.1;
  BlockResidency residency = residency_of(config);
  std::uint64_t sampled = 0;
  for (std::uint64_t id = 0; id < 10'000; ++id) {
    residency.on_allocated(0, id, 1);
    sampled += is_sampled(id, 0.1) ? 1 : 0;
  }
  for (std::uint64_t id = 0; id < 5000; ++id) residency.on_evicted_untrusted(0, id, at(2));
  const Estimate evictions = residency.estimated_evictions();
  const auto seen = static_cast<double>(residency.health().followed_evictions);
  EXPECT_EQ(residency.total_evictions(), 5000u);
  EXPECT_EQ(evictions.value, seen / 0.1);
  EXPECT_GE(evictions.error, 2 * std::sqrt(0.9 * seen) / 0.1);
  EXPECT_LE(evictions.low, 5000);
  EXPECT_GE(evictions.high, 5000);
  const Estimate live = residency.estimated_live_blocks();
  EXPECT_EQ(live.value, (static_cast<double>(sampled) - seen) / 0.1);
  EXPECT_LE(live.low, 5000);
  EXPECT_GE(live.high, 5000);
  const Json dict = residency.export_to_dict(at(0));
  EXPECT_EQ(dict["counters"]["total_evictions"], 5000);
  EXPECT_EQ(dict["summary"]["total_evictions"], residency.history().size());
  EXPECT_EQ(dict["sample"]["followed_evictions"], residency.health().followed_evictions);
  EXPECT_EQ(dict["estimates"]["evictions"]["value"], evictions.value);
}

// S1-29
TEST(BlockResidency, EstimateOfEveryBlock_IsExact) {
  const BlockResidency residency = lives_of({1, 2, 3});
  EXPECT_EQ(residency.estimated_evictions().value, 3);
  EXPECT_EQ(residency.estimated_evictions().error, 0);
  EXPECT_EQ(BlockResidency().estimated_evictions().high, 300) << "none seen proves no nothing";
}

// S1-30, S1-31, W8
TEST(BlockResidency, Distribution_HasEqualPartsAscending) {
  const LifetimeDistribution expected = {
      {"1.00-2.00", 2}, {"2.00-3.00", 1}, {"5.00-6.00", 1}, {"10.00-11.00", 1}};
  EXPECT_EQ(lives_of({1, 1.5, 2, 5, 11}).lifetime_distribution(), expected);
  EXPECT_EQ(lives_of({11, 5, 2, 1.5, 1}).lifetime_distribution(), expected);
  const LifetimeDistribution in_two = {{"1.00-6.00", 4}, {"6.00-11.00", 1}};
  EXPECT_EQ(lives_of({11, 5, 2, 1.5, 1}).lifetime_distribution(2), in_two);
}

// S1-30, W9
TEST(BlockResidency, Distribution_OfEqualOrNoLifetimes) {
  EXPECT_EQ(lives_of({3, 3}).lifetime_distribution(), (LifetimeDistribution{{"3.00", 2}}));
  EXPECT_TRUE(residency_of().lifetime_distribution().empty());
  EXPECT_EQ(lives_of({1, 2}).lifetime_distribution(0).size(), 1u);
  const LifetimeDistribution narrow = lives_of({1, 1.0004, 1.001}).lifetime_distribution();
  EXPECT_EQ(narrow, (LifetimeDistribution{{"1.00-1.00", 3}})) << "equal labels are one part";
}

// S1-32, S1-33
TEST(BlockResidency, AccessPatterns_ShareOutAllBlocks) {
  BlockResidency residency = residency_of();
  EXPECT_EQ(residency.access_patterns().as_dict().dump(), R"({"status":"no_data"})");
  add_life(residency, 5, 0);
  add_life(residency, 5, 1);
  EXPECT_EQ(keys_of(residency.access_patterns().as_dict()),
            (Keys{"zero_access_rate", "single_access_rate", "multi_access_rate", "max_access_count",
                  "avg_access_count"}))
      << "no gap yet";
  add_life(residency, 5, 1);
  residency.on_allocated(9, 9, 0);
  for (const double stamp : {1.0, 2.0, 4.0}) residency.on_accessed(9, 9, ns(stamp));
  residency.on_evicted_untrusted(9, 9, at(5));
  const AccessPatterns patterns = residency.access_patterns();
  EXPECT_EQ(patterns.zero_access_rate, 0.25);
  EXPECT_EQ(patterns.single_access_rate, 0.5);
  EXPECT_EQ(patterns.multi_access_rate, 0.25);
  EXPECT_EQ(patterns.max_access_count, 3u);
  EXPECT_EQ(patterns.avg_access_count, 1.25);
  const Json dict = patterns.as_dict();
  EXPECT_EQ(dict["avg_reuse_gap"], 1.5);
  EXPECT_EQ(dict["min_reuse_gap"], 1);
  EXPECT_EQ(dict["max_reuse_gap"], 2);
}

// S1-34
TEST(BlockResidency, TrendOfTooFew_IsInsufficient) {
  BlockResidency residency = lives_of(std::vector<double>(99, 1));
  EXPECT_EQ(residency.trends().as_dict().dump(), R"({"status":"insufficient_data"})");
  add_life(residency, 1);
  EXPECT_EQ(residency.trends().as_dict()["status"], "ok");
  ResidencyConfig config = follow_all();
  config.trend_window = 1;
  BlockResidency tiny = residency_of(config);
  add_lives(tiny, {1, 2, 3});
  EXPECT_EQ(tiny.trends().as_dict()["status"], "insufficient_data");
}

// S1-35, W12, W13
TEST(BlockResidency, Trend_IsWorkedByHand) {
  const auto trend_of = [](auto lifetime_at) {
    std::vector<double> lifetimes = {50, 60};  // Before the window.
    for (int i = 0; i < 100; ++i) lifetimes.push_back(lifetime_at(i));
    return lives_of(lifetimes).trends().as_dict()["lifetime_trend"];
  };
  const Json up = trend_of([](int i) { return 0.02 * i; });
  EXPECT_EQ(up["direction"], "increasing");
  EXPECT_NEAR(up["slope"], 0.02, 1e-12);
  EXPECT_NEAR(up["recent_mean"], 0.99, 1e-12);
  const Json down = trend_of([](int i) { return 5 - 0.05 * i; });
  EXPECT_EQ(down["direction"], "decreasing");
  EXPECT_NEAR(down["slope"], -0.05, 1e-12);
  EXPECT_NEAR(down["recent_mean"], 2.525, 1e-12);
  const Json flat = trend_of([](int) { return 4.0; });
  EXPECT_EQ(flat["direction"], "stable");
  EXPECT_EQ(flat["slope"], 0);
  EXPECT_EQ(trend_of([](int i) { return 0.0099 * i; })["direction"], "stable");
  EXPECT_EQ(trend_of([](int i) { return 2 - 0.0099 * i; })["direction"], "stable");
}

// S1-36
TEST(BlockResidency, Trends_AreAlsoOfIdleTimesAndAccesses) {
  ResidencyConfig config = follow_all();
  config.trend_window = 4;
  BlockResidency residency = residency_of(config);
  for (int i = 0; i < 4; ++i) {
    const std::int64_t end_ns = ns(100 + 10 * i);
    const auto id = static_cast<std::uint64_t>(i);
    residency.on_allocated(0, id, end_ns - ns(10));
    for (int access = 0; access <= i; ++access) {
      residency.on_accessed(0, id, end_ns - ns(5 - 0.5 * i));
    }
    residency.on_evicted_untrusted(0, id, {end_ns, 0});
  }
  const Json trends = residency.trends().as_dict();
  EXPECT_EQ(trends["lifetime_trend"]["direction"], "stable");
  EXPECT_NEAR(trends["idle_trend"]["slope"], -0.5, 1e-12);
  EXPECT_EQ(trends["idle_trend"]["direction"], "decreasing");
  EXPECT_NEAR(trends["access_count_trend"]["slope"], 1, 1e-12);
  EXPECT_NEAR(trends["access_count_trend"]["recent_mean"], 2.5, 1e-12);
}

// S1-37, S1-38
TEST(BlockResidency, DrainedEvents_ComeOnceOldestFirstAndSummariesStay) {
  BlockResidency residency = lives_of({3, 1, 2});
  const Json before = residency.export_to_dict(at(0));
  const std::vector<BlockEviction> drained = residency.drain_events();
  ASSERT_EQ(drained.size(), 3u);
  EXPECT_EQ(drained[0].lifetime_s(), 3);
  EXPECT_EQ(drained[2].lifetime_s(), 2);
  EXPECT_TRUE(residency.drain_events().empty());
  EXPECT_EQ(residency.export_to_dict(at(0)), before);
  add_life(residency, 9);
  EXPECT_EQ(residency.drain_events().size(), 1u);
}

// S1-39
TEST(BlockResidency, DrainedAlerts_ComeOnce) {
  BlockResidency residency = lives_of(ones_and_twos(10));
  ASSERT_EQ(residency.drain_alerts().size(), 1u);
  EXPECT_TRUE(residency.drain_alerts().empty());
  EXPECT_TRUE(residency.summary().alerts.empty());
}

// S1-40
TEST(BlockResidency, Reset_ClearsAllButSettings) {
  BlockResidency residency = lives_of(ones_and_twos(10));
  residency.on_allocated(0, 1, 1);
  residency.reset();
  EXPECT_EQ(residency, residency_of());
  EXPECT_TRUE(residency.is_empty());
  EXPECT_EQ(residency.config().sample_rate, 1);
  EXPECT_EQ(residency.followed_blocks(), 0u);
}

// S1-41
TEST(BlockResidency, FullExport_HasSevenKeysAndWhatTheSampleIsWorth) {
  const Json dict = lives_of({1, 2}).export_to_dict(at(5, 1700000001.5));
  Keys keys = keys_of(dict);
  ASSERT_GE(keys.size(), 7u);
  keys.resize(7);
  EXPECT_EQ(keys, (Keys{"summary", "lifetime_distribution", "access_patterns", "trends", "counters",
                        "sample_rate", "timestamp"}));
  EXPECT_EQ(dict["counters"].dump(),
            R"({"total_allocations":2,"total_accesses":2,"total_evictions":2})");
  EXPECT_EQ(dict["lifetime_distribution"].dump(), R"({"1.00-1.10":1,"1.90-2.00":1})");
  EXPECT_EQ(dict["sample_rate"], 1);
  EXPECT_EQ(dict["timestamp"], 1700000001.5);
}

constexpr char kReadExports[] = R"(
import csv, sys
from prometheus_client.parser import text_string_to_metric_families as parse
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    rows = dict(csv.reader(file))
assert rows["name"] == "value" and rows["summary.total_evictions"] == "100", rows
assert float(rows["summary.p50_lifetime"]) == 2 and "estimates.evictions.error" in rows, rows
assert rows["alerts.0.message"].startswith("a block lived 10.00s, "), rows
with open(sys.argv[2], encoding="utf-8", newline="") as file:
    samples = {(s.name, s.labels.get("stat")): s.value for f in parse(file.read()) for s in f.samples}
assert samples["rankbus_kv_block_evictions_total", None] == 100, samples
assert samples["rankbus_kv_block_recent_lifetime_seconds", "p50"] == 2, samples
)";

// S1-42
TEST(BlockResidency, Formats_AreReadByOthersAndAgree) {
  const BlockResidency residency = lives_of(ones_and_twos(10));
  const auto text_as = [&](const char* format) {
    return std::get<std::string>(residency.export_as(format, at(0), {{"engine", "0"}}).value());
  };
  EXPECT_EQ(Json::parse(text_as("json")),
            std::get<Json>(residency.export_as("dict", at(0)).value()));
  const TempDir dir;
  write_file(dir / "csv", text_as("csv"));
  write_file(dir / "prometheus", text_as("prometheus"));
  write_file(dir / "read.py", kReadExports);
  const auto [status, output] = run_command("/usr/bin/python3 -B '" + dir / "read.py" + "' '" +
                                                dir / "csv" + "' '" + dir / "prometheus" + "'",
                                            dir);
  EXPECT_EQ(status, 0) << output;
  EXPECT_FALSE(residency.export_as("xml", at(0)));
}

// S1-43, S1-46
TEST(BatchedBlockResidency, Batches_GiveWhatSingleCallsGive) {
  BlockResidency single = residency_of();
  BatchedBlockResidency batched = BatchedBlockResidency::create(follow_all()).value();
  for (int round = 0; round < 40; ++round) {
    Ids ids;
    for (std::uint64_t id = 0; id < 1 + static_cast<std::uint64_t>(round % 30); ++id) {
      ids.push_back(id);
    }
    const double now = 100 * round;
    for (const std::uint64_t id : ids) single.on_allocated(1, id, ns(now));
    for (const std::uint64_t id : ids) single.on_accessed(1, id, ns(now + 2));
    for (const std::uint64_t id : ids) single.on_evicted_untrusted(1, id, at(now + 5), "cap");
    batched.batch_allocate(1, ids, ns(now));
    batched.batch_access(1, ids, ns(now + 2));
    batched.batch_evict_untrusted(1, ids, at(now + 5), "cap");
  }
  EXPECT_EQ(batched.flushed(), single);
}

// S1-44
TEST(BatchedBlockResidency, HundredOfAKind_ArePublishedByThemselves) {
  BatchedBlockResidency batched = BatchedBlockResidency::create(follow_all()).value();
  const Ids some(60, 1);
  const Ids rest(39, 1);
  const Ids one(1, 1);
  batched.batch_allocate(0, some, 1);
  batched.batch_access(0, some, 1);
  EXPECT_EQ(batched.published().total_allocations(), 0u) << "120 entries, but of two kinds";
  batched.batch_allocate(0, rest, 1);
  EXPECT_EQ(batched.published().total_allocations(), 0u);
  batched.batch_allocate(0, one, 1);
  EXPECT_EQ(batched.published().total_allocations(), 100u);
  EXPECT_EQ(batched.pending(), 0u);
  batched.batch_evict_untrusted(0, Ids(250, 1), at(1));
  EXPECT_EQ(batched.published().total_evictions(), 250u);
}

// S1-43
TEST(BatchedBlockResidency, BlocksOutsideTheSample_AreCountedAndNeverStored) {
  ResidencyConfig config;
  config.sample_rate = 1e-12;  // None of these.
  BatchedBlockResidency batched = BatchedBlockResidency::create(config).value();
  Ids ids;
  for (std::uint64_t id = 0; id < 99; ++id) ids.push_back(id);
  batched.batch_allocate(0, ids, 1);
  batched.batch_access(0, ids, 2);
  EXPECT_EQ(batched.pending(), 198u);
  EXPECT_EQ(batched.stored(), 0u);
  batched.batch_evict_untrusted(0, ids, at(3));
  batched.flush_all();
  EXPECT_EQ(batched.pending(), 0u);
  EXPECT_EQ(batched.published().total_allocations(), 99u);
  EXPECT_EQ(batched.published().total_accesses(), 99u);
  EXPECT_EQ(batched.published().total_evictions(), 99u);
}

// S1-45
TEST(BatchedBlockResidency, Readers_SeeEverythingThatIsPending) {
  BatchedBlockResidency batched = BatchedBlockResidency::create(follow_all()).value();
  batched.batch_allocate(0, Ids{1, 2, 3}, ns(1));
  batched.batch_evict_untrusted(0, Ids{1}, at(2));
  EXPECT_EQ(batched.published().total_allocations(), 0u);
  EXPECT_EQ(batched.summary().total_evictions, 1u);
  batched.batch_evict_untrusted(0, Ids{2}, at(3));
  batched.flush_all();
  EXPECT_EQ(batched.published().total_evictions(), 2u);
  EXPECT_EQ(batched.pending(), 0u);
}

// S1-46
TEST(BatchedBlockResidency, Entries_KeepTheTimeAndOrderOfTheirCalls) {
  BatchedBlockResidency batched = BatchedBlockResidency::create(follow_all()).value();
  batched.batch_allocate(0, Ids{1}, ns(10));
  batched.batch_evict_untrusted(0, Ids(1, 1), at(12, 1.5e9), "timeout");
  batched.batch_allocate(0, Ids{1}, ns(20));
  batched.batch_access(0, Ids{1}, ns(21));
  batched.batch_evict_untrusted(0, Ids(98, 1), at(25), "manual");
  EXPECT_EQ(batched.published().total_evictions(), 0u);
  batched.batch_evict_untrusted(0, Ids{2}, at(30));  // The hundredth.
  const EvictionHistory& history = batched.published().history();
  ASSERT_EQ(history.size(), 2u);
  EXPECT_EQ(history[0].lifetime_s(), 2);
  EXPECT_EQ(history[0].reason, "timeout");
  EXPECT_EQ(history[0].timestamp, 1.5e9);
  EXPECT_EQ(history[1].lifetime_s(), 5);
  EXPECT_EQ(history[1].access_count, 1u);
  EXPECT_EQ(history[1].reason, "manual");
}

TEST(BatchedBlockResidency, Loss_ForgetsWhatWasPendingToo) {
  BatchedBlockResidency batched = BatchedBlockResidency::create(follow_all()).value();
  batched.batch_allocate(4, Ids{1, 2}, ns(1));
  batched.forget(4);
  EXPECT_EQ(batched.published().health().forgotten_blocks, 2u);
}

// S1-47
TEST(MetricsCollector, Factory_ChoosesTheKindAndAppliesAllSettings) {
  ResidencyConfig config;
  config.trend_window = 7;
  config.history_size = 9;
  for (const bool batch_mode : {false, true}) {
    MetricsCollector made = create_metrics_collector(0.5, batch_mode, config).value();
    EXPECT_EQ(std::holds_alternative<BatchedBlockResidency>(made), batch_mode);
    const ResidencyConfig& used = batch_mode
                                      ? std::get<BatchedBlockResidency>(made).published().config()
                                      : std::get<BlockResidency>(made).config();
    EXPECT_EQ(used.sample_rate, 0.5);
    EXPECT_EQ(used.trend_window, 7u);
    EXPECT_EQ(used.history_size, 9u);
    EXPECT_FALSE(create_metrics_collector(0, batch_mode, config));
  }
  EXPECT_TRUE(std::holds_alternative<BlockResidency>(create_metrics_collector().value()));
}

TEST(BlockResidency, OtherSettings_AreNotMixed) {
  BlockResidency mine = lives_of({1, 2});
  ResidencyConfig config = follow_all();
  config.sample_rate = 0.5;
  BlockResidency other = residency_of(config);
  other.on_allocated(7, 1, 1);
  EXPECT_FALSE(mine.aggregate(other));
  EXPECT_EQ(mine.total_allocations(), 2u);
  EXPECT_EQ(mine.health().refused_merges, 1u);
  BlockResidency fresh;
  EXPECT_TRUE(fresh.aggregate(other));
  EXPECT_EQ(fresh.config().sample_rate, 0.5);
}

TEST(BlockResidency, Storage_GivesBackAllOfIt) {
  BlockResidency residency = lives_of(ones_and_twos(10));
  residency.on_allocated(3, 77, 5);
  residency.on_accessed(3, 77, 6);
  residency.export_due(7);
  std::stringstream stored;
  cereal::BinaryOutputArchive{stored}(residency);
  BlockResidency read;
  cereal::BinaryInputArchive{stored}(read);
  EXPECT_EQ(read, residency);
}

}  // namespace
}  // namespace rankbus::analysis
