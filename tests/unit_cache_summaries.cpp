// What is told of caches as dictionaries, and what ranks tell together.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <rankbus/aggregator/analysis/cache_metrics.hpp>
#include <string>
#include <vector>

namespace rankbus::test {
namespace {

constexpr std::int64_t kSecond_ns = 1'000'000'000;
using Json = nlohmann::ordered_json;
using Reason = CacheEvictionReason;

std::vector<std::string> first_keys(const Json& dict, std::size_t how_many) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : dict.items()) {
    if (keys.size() < how_many) keys.push_back(key);
  }
  return keys;
}

// S2-14
TEST(CacheDictionaries, CacheStats_HaveTheSeedsKeysInTheirOrder) {
  CacheMetrics cache;
  cache.observe_hit(0, 10);
  cache.observe_write(0, 20);
  const Json dict = as_dict(cache.stats());
  EXPECT_EQ(first_keys(dict, 8),
            (std::vector<std::string>{"total_hits", "total_misses", "total_evictions",
                                      "total_bytes_read", "total_bytes_written",
                                      "current_size_bytes", "peak_size_bytes", "hit_rate"}));
  EXPECT_EQ(dict["total_bytes_read"], 10);
  EXPECT_EQ(dict["current_size_bytes"], 20);
  EXPECT_FALSE(dict.contains("capacity_bytes")) << "nobody said it";
}

// S2-07, S2-08: the keys, and the error that the quantiles may have.
TEST(CacheDictionaries, WindowStats_HaveTheSeedsKeysAndStateTheirError) {
  CacheMetrics cache;
  cache.observe_hit(0, 10, 1'000'000);
  const Json dict = as_dict(cache.window_stats(0));
  EXPECT_EQ(
      first_keys(dict, 8),
      (std::vector<std::string>{"hits", "misses", "hit_rate", "avg_latency_ns", "p50_latency_ns",
                                "p99_latency_ns", "bytes_per_second", "window_duration"}));
  EXPECT_DOUBLE_EQ(dict["quantile_relative_error"], 1.0 / 129);
  EXPECT_EQ(dict["p50_latency_ns"], 1e6);
}

// S2-29
TEST(CacheDictionaries, PrefixStats_AreTheSevenKeys) {
  PrefixCacheMetrics prefix;
  prefix.observe_prefix_hit(0, 1, 10);
  const Json dict = as_dict(prefix.stats(0));
  EXPECT_EQ(dict.size(), 7u);
  EXPECT_EQ(
      first_keys(dict, 7),
      (std::vector<std::string>{"hit_rate", "total_hit_rate", "avg_prefix_length", "sharing_factor",
                                "eviction_rate", "cache_stats", "window_stats"}));
  EXPECT_EQ(dict["cache_stats"]["total_hits"], 1);
  EXPECT_EQ(dict["window_stats"]["hits"], 1);
}

// S2-30, S2-31
TEST(CacheDictionaries, Prefixes_TellTheMostSharedAndTheLengths) {
  PrefixCacheMetrics prefix;
  constexpr std::uint64_t kWide = 0xFFFF'FFFF'FFFF'FFFF;
  for (int i = 0; i < 3; ++i) prefix.observe_prefix_hit(0, kWide, 100);
  prefix.observe_prefix_hit(0, 7, 200);
  const Json dict = as_dict(prefix.prefixes());
  ASSERT_EQ(dict["most_shared"].size(), 2u);
  EXPECT_EQ(dict["most_shared"][0],
            Json({{"prefix", "18446744073709551615"}, {"hits_at_least", 3}, {"hits_at_most", 3}}));
  EXPECT_EQ(dict["distinct_prefixes"], 2);
  EXPECT_EQ(dict["length_p50"], 100);
  EXPECT_EQ(dict["length_max"], 200);
  EXPECT_EQ(dict["length_buckets"].back(), Json({{"up_to", 255}, {"count", 1}}));
  EXPECT_EQ(as_dict(prefix.prefixes(), 1)["most_shared"].size(), 1u);
}

// S2-22, S2-23, S2-35, S2-38, S2-39
TEST(CacheDictionaries, Summary_TellsEveryLevelItsEvictionsAndWhatIsAhead) {
  MultiLevelCacheMetrics caches;
  caches.observe_hit(CacheType::kv, 0);
  CacheMetrics& kv = caches.level(CacheType::kv);
  kv.set_capacity(1000);
  kv.observe_write(0, 100);
  kv.observe_eviction(kSecond_ns, 4, Reason::ttl_expired, 50, 60);
  caches.prefix().observe_prefix_hit(0, 5, 10);
  const Json dict = summary(caches, 10 * kSecond_ns);
  EXPECT_EQ(dict["combined_hit_rate"], 1.0);
  const Json& level = dict["levels"]["kv"];
  EXPECT_EQ(level["eviction_breakdown"], Json({{"ttl_expired", 1}}));
  EXPECT_EQ(level["window_evictions"]["blocks"], 4);
  EXPECT_EQ(level["window_evictions"]["bytes_freed"], 50);
  EXPECT_EQ(level["window_evictions"]["avg_latency_ns"], 60.0);
  EXPECT_EQ(level["efficiency_score"], 1.0);
  EXPECT_DOUBLE_EQ(level["seconds_until_full"], 190) << "950 bytes at 5 a second";
  EXPECT_TRUE(level.contains("next_window_eviction_rate"));
  EXPECT_EQ(level["cache_stats"]["capacity_bytes"], 1000);
  EXPECT_FALSE(dict["levels"]["prefix"].contains("seconds_until_full")) << "no capacity";
  EXPECT_EQ(dict["prefixes"]["distinct_prefixes"], 1.0);
  kv.observe_eviction(2 * kSecond_ns, 1, Reason::lru, 50);
  EXPECT_TRUE(summary(caches, 10 * kSecond_ns)["levels"]["kv"]["seconds_until_full"].is_null())
      << "it does not grow";
}

TEST(CacheDictionaries, NothingSeen_IsADictionaryOfZeros) {
  const Json dict = summary(MultiLevelCacheMetrics(), 0);
  EXPECT_EQ(dict["combined_hit_rate"], 0.0);
  EXPECT_EQ(dict["memory_pressure"], 0.0);
  EXPECT_TRUE(dict["levels"].empty());
  EXPECT_FALSE(dict.contains("prefixes"));
}

TEST(CachesOfRanks, Capacity_IsKnownOnceEveryRankSaidIts) {
  CacheMetrics one;
  one.observe_write(0, 10);
  one.set_capacity(100);
  CacheMetrics two;
  two.observe_write(0, 20);
  CacheMetrics engine;
  engine.aggregate(one);
  EXPECT_EQ(engine.capacity_bytes(), 100u);
  engine.aggregate(two);
  EXPECT_EQ(engine.capacity_bytes(), std::nullopt) << "a part of a sum is no sum";
  two.set_capacity(50);
  two.set_capacity(200);
  CacheMetrics again;
  again.aggregate(two);
  again.aggregate(one);
  again.aggregate(CacheMetrics{});
  EXPECT_EQ(again.capacity_bytes(), 300u);
  EXPECT_EQ(again.current_size_bytes(), 30u);
}

TEST(CachesOfRanks, PeakOfTheSum_IsTheHighestSumSeenNotTheSumOfPeaks) {
  MultiLevelCacheMetrics ranks[2];
  MergedCachePeaks peaks;
  const auto merged = [&] {
    MultiLevelCacheMetrics engine;
    for (const auto& rank : ranks) engine.aggregate(rank);
    peaks.sample(engine);
    return engine.find(CacheType::kv)->stats();
  };
  ranks[0].level(CacheType::kv).observe_write(0, 100);
  ranks[1].level(CacheType::kv).observe_write(0, 40);
  EXPECT_EQ(merged().peak_size_bytes, 140u);
  ranks[0].level(CacheType::kv).observe_eviction(1, 1, Reason::lru, 100);
  ranks[1].level(CacheType::kv).observe_write(1, 60);
  const CacheStats later = merged();
  EXPECT_EQ(later.current_size_bytes, 100u);
  EXPECT_EQ(later.peak_size_bytes, 140u) << "each had 100, but never at once";
}

TEST(CachesOfRanks, AnotherWindow_MergesTheTotalsAndSaysSo) {
  CacheMetricsOptions options;
  options.window_ns = 5 * kSecond_ns;
  CacheMetrics rank(options);
  rank.observe_hit(0);
  CacheMetrics engine;
  engine.observe_hit(0);
  engine.aggregate(rank);
  EXPECT_EQ(engine.stats().total_hits, 2u);
  EXPECT_EQ(engine.window_stats(0).hits, 1u);
  EXPECT_EQ(engine.stats().refused_merges, 1u);
  CacheMetrics fresh;
  fresh.aggregate(rank);
  EXPECT_EQ(fresh.options(), options) << "who has nothing yet takes the window of the first";
  EXPECT_EQ(fresh.window_stats(0).hits, 1u);
}

TEST(CachesOfRanks, LateObservation_IsInTheTotalsAndCounted) {
  CacheMetrics cache;
  cache.observe_hit(1000 * kSecond_ns);
  cache.observe_hit(940 * kSecond_ns);
  EXPECT_EQ(cache.stats().total_hits, 2u);
  EXPECT_EQ(cache.stats().late_events, 1u);
  EXPECT_EQ(cache.window_stats(1000 * kSecond_ns).hits, 1u);
}

TEST(CachesOfRanks, Reset_IsAsNewWithTheSameOptions) {
  CacheMetricsOptions options;
  options.window_ns = 5 * kSecond_ns;
  MultiLevelCacheMetrics caches(options);
  caches.observe_hit(CacheType::prefix, 0);
  caches.level("mine").observe_miss(0);
  EXPECT_FALSE(caches.is_empty());
  EXPECT_FALSE(caches.reduce().empty());
  caches.reset();
  EXPECT_TRUE(caches.is_empty());
  EXPECT_TRUE(caches.all_stats().empty());
  caches.observe_hit(CacheType::kv, 0);
  EXPECT_EQ(caches.find(CacheType::kv)->options(), options);
}

TEST(CachesOfRanks, CountsOfStrangers_StopAtTheLargest) {
  constexpr auto kLargest = ~std::uint64_t{0};
  MultiLevelCacheMetrics rank;
  CacheEvent event = CacheEvent::hit(0, kLargest, kLargest);
  event.times = kLargest;
  for (int i = 0; i < 2; ++i) {
    rank.level(CacheType::kv).observe(event);
    rank.level(CacheType::kv).observe_write(0, kLargest);
    rank.level(CacheType::kv).observe_eviction(0, kLargest, Reason::lru, kLargest, kLargest);
  }
  MultiLevelCacheMetrics engine = rank;
  engine.aggregate(rank);
  const Json dict = summary(engine, 0);
  EXPECT_EQ(dict["levels"]["kv"]["cache_stats"]["total_hits"], kLargest);
  EXPECT_EQ(dict["combined_hit_rate"], 1.0);
  EXPECT_EQ(dict["levels"]["kv"]["cache_stats"]["current_size_bytes"], 0);
}

}  // namespace
}  // namespace rankbus::test
