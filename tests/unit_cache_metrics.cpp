// Cache metrics row by row: what a cache tells of its window and its life. Identifiers such as
// S2-07 and W15 name the rows and the worked numbers of the requirements that a test holds.
#include <gtest/gtest.h>

#include <limits>
#include <rankbus/aggregator/analysis/cache_metrics.hpp>
#include <string>
#include <thread>
#include <vector>

namespace rankbus::test {
namespace {

constexpr std::int64_t kSecond_ns = 1'000'000'000;
using Reason = CacheEvictionReason;

CacheMetrics with_window(std::int64_t seconds) {
  CacheMetricsOptions options;
  options.window_ns = seconds * kSecond_ns;
  return CacheMetrics(options);
}

// S2-01, S2-33, S2-35
TEST(MultiLevelCacheMetrics, Levels_AppearOnFirstUseAndStayApart) {
  MultiLevelCacheMetrics caches;
  EXPECT_TRUE(caches.all_stats().empty());
  EXPECT_EQ(caches.find(CacheType::kv), nullptr);
  std::uint64_t hits = 0;
  for (const CacheType type :
       {CacheType::prefix, CacheType::block, CacheType::kv, CacheType::encoder}) {
    for (std::uint64_t i = 0; i <= hits; ++i) caches.observe_hit(type, 0);
    ++hits;
  }
  caches.level("my tier").observe_miss(0);
  const auto all = caches.all_stats();
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all.at("prefix").total_hits, 1u);
  EXPECT_EQ(all.at("block").total_hits, 2u);
  EXPECT_EQ(all.at("kv").total_hits, 3u);
  EXPECT_EQ(all.at("encoder").total_hits, 4u);
  EXPECT_EQ(all.at("my tier").total_misses, 1u);
}

// S2-33: the window of the whole is that of each level.
TEST(MultiLevelCacheMetrics, Levels_ShareTheWindow) {
  CacheMetricsOptions options;
  options.window_ns = 10 * kSecond_ns;
  MultiLevelCacheMetrics caches(options);
  for (const char* name : {"prefix", "kv", "mine"}) {
    caches.level(name).observe_hit(0);
    EXPECT_EQ(caches.find(name)->hit_rate(9 * kSecond_ns), 1) << name;
    EXPECT_EQ(caches.find(name)->hit_rate(10 * kSecond_ns), 0) << name;
  }
}

TEST(MultiLevelCacheMetrics, NamesWithoutEnd_ShareOtherAndLoseNothing) {
  MultiLevelCacheMetrics caches;
  for (int i = 0; i < 1000; ++i) caches.level("n" + std::to_string(i)).observe_hit(0);
  caches.observe_hit(CacheType::prefix, 0);
  const auto all = caches.all_stats();
  EXPECT_EQ(all.size(), MultiLevelCacheMetrics::kMaxLevels);
  std::uint64_t hits = 0;
  for (const auto& [name, stats] : all) hits += stats.total_hits;
  EXPECT_EQ(hits, 1001u);
  EXPECT_EQ(all.at("other").total_hits, 1000 - (MultiLevelCacheMetrics::kMaxLevels - 2));
}

// S2-02, S2-22
TEST(CacheMetrics, Evictions_AreCountedByReasonAndOnlyReasonsSeenAreListed) {
  CacheMetrics cache;
  EXPECT_TRUE(cache.eviction_breakdown().empty());
  const std::vector<Reason> reasons = {Reason::lru, Reason::memory_pressure,
                                       Reason::explicit_request, Reason::ttl_expired,
                                       Reason::preemption};
  for (std::size_t i = 0; i < reasons.size(); ++i) {
    for (std::size_t n = 0; n <= i; ++n) cache.observe_eviction(0, 3, reasons[i]);
  }
  EXPECT_EQ(cache.eviction_breakdown(), (CacheMetrics::Breakdown{{Reason::preemption, 5},
                                                                 {Reason::ttl_expired, 4},
                                                                 {Reason::explicit_request, 3},
                                                                 {Reason::memory_pressure, 2},
                                                                 {Reason::lru, 1}}));
  EXPECT_EQ(cache.stats().total_evictions, 15u);
  cache.observe_eviction(100 * kSecond_ns, 1, Reason::lru);
  EXPECT_EQ(cache.eviction_breakdown(100 * kSecond_ns), (CacheMetrics::Breakdown{{Reason::lru, 1}}))
      << "of the window";
}

TEST(CacheEvictionReason, TextsAndNumbersOfStrangers_AreKnownOrOther) {
  for (const auto reason : {Reason::other, Reason::lru, Reason::memory_pressure,
                            Reason::explicit_request, Reason::ttl_expired, Reason::preemption}) {
    EXPECT_EQ(reason_of_untrusted(name_of(reason)), reason);
    EXPECT_EQ(reason_of_untrusted(static_cast<std::uint64_t>(reason)), reason);
  }
  EXPECT_EQ(reason_of_untrusted("LRU?"), Reason::other);
  EXPECT_EQ(reason_of_untrusted(std::uint64_t{6}), Reason::other);
  EXPECT_EQ(reason_of_untrusted(~std::uint64_t{0}), Reason::other);
}

// S2-03
TEST(CacheEvent, CarriesTimeBytesAndLatency_ZeroUnlessGiven) {
  const CacheEvent hit = CacheEvent::hit(7);
  EXPECT_EQ(hit.time_ns, 7);
  EXPECT_TRUE(hit.is_hit);
  EXPECT_EQ(hit.bytes, 0u);
  EXPECT_EQ(hit.latency_ns, 0u);
  for (const CacheEvent& event : {CacheEvent::hit(8, 100, 50), CacheEvent::miss(8, 100, 50)}) {
    CacheMetrics cache;
    cache.observe(event);
    const CacheActivity window = cache.window_activity(8);
    EXPECT_EQ(window.hits, event.is_hit ? 1u : 0u);
    EXPECT_EQ(window.misses, event.is_hit ? 0u : 1u);
    EXPECT_EQ(window.first_lookup_ns, 8);
    EXPECT_EQ(window.hit_bytes + window.miss_bytes, 100u);
    EXPECT_EQ(window.lookup_ns.quantile(0.5), 50);
  }
}

// S2-04, S2-23
TEST(CacheMetrics, Eviction_TellsBlocksBytesLatencyReasonAndTime) {
  CacheMetrics cache;
  cache.observe_write(0, 10'000);
  cache.observe_eviction(EvictionEvent{kSecond_ns, 4, Reason::ttl_expired, 4000, 100});
  cache.observe_eviction(2 * kSecond_ns, 6, Reason::lru, 1000, 50);
  cache.observe_eviction(3 * kSecond_ns, 1, Reason::lru);
  const CacheStats stats = cache.stats();
  EXPECT_EQ(stats.total_evictions, 3u);
  EXPECT_EQ(stats.total_evicted_blocks, 11u);
  EXPECT_EQ(stats.total_bytes_freed, 5000u);
  EXPECT_EQ(stats.avg_eviction_latency_ns, 75) << "of those that were measured";
  EXPECT_EQ(stats.p50_eviction_latency_ns, 100);
  EXPECT_EQ(stats.p99_eviction_latency_ns, 100);
  const CacheActivity window = cache.window_activity(61 * kSecond_ns);
  EXPECT_EQ(window.evicted_blocks, 7u) << "the first was 60 s ago";
  EXPECT_EQ(window.freed_bytes, 1000u);
  EXPECT_EQ(window.eviction_ns.count(), 1u);
}

// S2-05
TEST(CacheMetricsOptions, DefaultsAndOthers_HoldForTheWindow) {
  EXPECT_EQ(CacheMetrics().options().window_ns, 60 * kSecond_ns);
  EXPECT_EQ(CacheMetrics().options().max_events, 10'000u);
  CacheMetrics cache = with_window(5);
  cache.observe_hit(0);
  EXPECT_EQ(cache.hit_rate(5 * kSecond_ns - 1), 1);
  EXPECT_EQ(cache.hit_rate(5 * kSecond_ns), 0);
  CacheMetricsOptions options;
  options.max_events = 3;
  CacheMetrics bounded(options);
  for (int i = 0; i < 5; ++i) bounded.observe_hit(0);
  EXPECT_EQ(bounded.window_stats(0).events_over_bound, 2u);
}

// S2-06
TEST(CacheMetrics, IdleForOneWindow_ReadsZeros) {
  CacheMetrics cache;
  cache.observe_hit(0, 100, 10);
  cache.observe_miss(kSecond_ns, 100, 10);
  EXPECT_EQ(cache.window_stats(59 * kSecond_ns).hits, 1u);
  const CacheWindowStats idle = cache.window_stats(61 * kSecond_ns);
  EXPECT_EQ(idle.hits, 0u);
  EXPECT_EQ(idle.misses, 0u);
  EXPECT_EQ(idle.hit_rate, 0);
  EXPECT_EQ(idle.avg_latency_ns, 0);
  EXPECT_EQ(idle.p50_latency_ns, 0);
  EXPECT_EQ(idle.p99_latency_ns, 0);
  EXPECT_EQ(idle.bytes_per_second, 0);
  EXPECT_EQ(idle.window_duration_s, 0);
}

// S2-07, S2-08, S2-09, W15
TEST(CacheMetrics, FourLookups_GiveTheWorkedNumbers) {
  CacheMetrics cache;
  for (int i = 0; i < 5; ++i) cache.observe_miss(-90 * kSecond_ns, 7, 7);  // Before the window.
  cache.observe_hit(0, 100, 10);
  cache.observe_miss(kSecond_ns, 0, 0);
  cache.observe_hit(2 * kSecond_ns, 300, 30);
  cache.observe_hit(4 * kSecond_ns, 200, 20);
  const CacheWindowStats window = cache.window_stats(4 * kSecond_ns);
  EXPECT_EQ(window.hits, 3u);
  EXPECT_EQ(window.misses, 1u);
  EXPECT_EQ(window.hit_rate, 0.75);
  EXPECT_EQ(window.avg_latency_ns, 20);
  EXPECT_EQ(window.p50_latency_ns, 20);
  EXPECT_EQ(window.p99_latency_ns, 30);
  EXPECT_EQ(window.window_duration_s, 4);
  EXPECT_EQ(window.bytes_per_second, 150);
  cache.observe_miss(4 * kSecond_ns, 400, 0);
  EXPECT_EQ(cache.window_stats(4 * kSecond_ns).bytes_per_second, 250) << "of misses too";
}

// S2-08, W16
TEST(CacheMetrics, LatenciesOneToHundred_GiveTheWorkedQuantiles) {
  CacheMetrics cache;
  for (std::uint64_t ns = 1; ns <= 100; ++ns) {
    cache.observe_hit(static_cast<std::int64_t>(ns) * kSecond_ns / 10, 0, ns);
    cache.observe_miss(static_cast<std::int64_t>(ns) * kSecond_ns / 10, 0, 0);
  }
  const CacheWindowStats window = cache.window_stats(10 * kSecond_ns);
  EXPECT_EQ(window.p50_latency_ns, 51);
  EXPECT_EQ(window.p99_latency_ns, 100);
  EXPECT_EQ(window.avg_latency_ns, 50.5) << "latencies of 0 were not measured";
}

// S2-09
TEST(CacheMetrics, OneLookup_HasNoThroughput) {
  CacheMetrics cache;
  cache.observe_hit(5, 1'000'000, 1);
  EXPECT_EQ(cache.window_stats(5).bytes_per_second, 0);
  EXPECT_EQ(cache.window_stats(5).window_duration_s, 0);
}

// S2-10: each writer has a value of its own and shares nothing, so there is nothing to lock.
TEST(CacheMetrics, ManyWriters_LoseNoUpdate) {
  constexpr std::uint64_t kWriters = 4;
  constexpr std::uint64_t kEach = 20'000;
  std::vector<CacheMetrics> ranks(kWriters);
  std::vector<std::thread> writers;
  for (CacheMetrics& rank : ranks) {
    writers.emplace_back([&rank] {
      for (std::uint64_t i = 0; i < kEach; ++i) {
        const auto now_ns = static_cast<std::int64_t>(i) * 1'000'000;
        i % 4 == 0 ? rank.observe_miss(now_ns) : rank.observe_hit(now_ns, 10, 100);
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  CacheMetrics engine;
  for (const CacheMetrics& rank : ranks) engine.aggregate(rank);
  EXPECT_EQ(engine.stats().total_hits, kWriters * kEach * 3 / 4);
  EXPECT_EQ(engine.stats().total_misses, kWriters * kEach / 4);
  const CacheWindowStats window = engine.window_stats(20 * kSecond_ns);
  EXPECT_EQ(window.hits + window.misses, kWriters * kEach);
  EXPECT_EQ(window.hit_rate, 0.75);
}

// S2-11: ten times the bound, and nothing is forgotten.
TEST(CacheMetrics, MoreEventsThanTheBound_AreAllCountedAndTheCoverageIsSaid) {
  CacheMetrics cache;
  for (std::int64_t i = 0; i < 100'000; ++i) {
    const std::int64_t now_ns = i * kSecond_ns / 2000;
    i < 50'000 ? cache.observe_miss(now_ns) : cache.observe_hit(now_ns);
  }
  const CacheWindowStats window = cache.window_stats(50 * kSecond_ns);
  EXPECT_EQ(window.hits, 50'000u);
  EXPECT_EQ(window.misses, 50'000u);
  EXPECT_EQ(window.hit_rate, 0.5);
  EXPECT_EQ(window.events_over_bound, 90'000u);
  EXPECT_GE(window.covered_s, 59);
  EXPECT_LE(window.covered_s, 60);
  EXPECT_EQ(
      cache.window_stats(65 * kSecond_ns + 1).hits + cache.window_stats(65 * kSecond_ns + 1).misses,
      88'000u)
      << "covered: the 59 s and a bit since 6 s";
}

// S2-12: a slot that says how often it was read.
struct Watched {
  static inline std::uint64_t reads = 0;
  std::uint64_t events = 0;
  void aggregate(const Watched& other) {
    ++reads;
    events += other.events;
  }
  bool is_empty() const { return events == 0; }
  std::uint64_t reduce() const { return events; }
  void reset() { events = 0; }
};

// S2-12
TEST(CacheMetrics, Reading_TouchesTheSameSlotsWhateverTheNumberOfEvents) {
  std::vector<std::uint64_t> reads;
  std::vector<std::size_t> looked_at;
  for (const std::int64_t events : {1'000, 10'000'000}) {
    SlidingWindow<Watched> window(60 * kSecond_ns, 60);
    for (std::int64_t i = 0; i < events; ++i) ++window.at(i * (60 * kSecond_ns / events))->events;
    Watched::reads = 0;
    EXPECT_EQ(window.read(60 * kSecond_ns - 1).events, static_cast<std::uint64_t>(events));
    reads.push_back(Watched::reads);
    looked_at.push_back(window.for_each(60 * kSecond_ns - 1, [](const Watched&, std::int64_t) {}));
  }
  EXPECT_EQ(reads, (std::vector<std::uint64_t>{60, 60}));
  EXPECT_EQ(looked_at, (std::vector<std::size_t>{60, 60}));
}

// S2-14, S2-15, S2-16, S2-17
TEST(CacheMetrics, LifetimeTotals_FollowTheRules) {
  CacheMetrics cache;
  cache.observe_hit(0, 100);
  cache.observe_miss(0, 1000);
  cache.observe_hit(0, 20);
  EXPECT_EQ(cache.stats().total_bytes_read, 120u) << "bytes of misses were not read from the cache";
  cache.observe_write(0, 500);
  cache.observe_write(0, 300);
  EXPECT_EQ(cache.stats().current_size_bytes, 800u);
  EXPECT_EQ(cache.stats().peak_size_bytes, 800u);
  cache.observe_eviction(0, 10, Reason::lru, 600);
  cache.observe_write(0, 100);
  const CacheStats stats = cache.stats();
  EXPECT_EQ(stats.total_hits, 2u);
  EXPECT_EQ(stats.total_misses, 1u);
  EXPECT_EQ(stats.total_evictions, 1u) << "events, not blocks";
  EXPECT_EQ(stats.total_bytes_written, 900u);
  EXPECT_EQ(stats.current_size_bytes, 300u);
  EXPECT_EQ(stats.peak_size_bytes, 800u);
  EXPECT_DOUBLE_EQ(stats.hit_rate(), 2.0 / 3);
  EXPECT_EQ(CacheStats{}.hit_rate(), 0);
}

// S2-18
TEST(CacheMetrics, MoreFreedThanWritten_ReadsZeroAndIsFlagged) {
  CacheMetrics cache;
  cache.observe_write(0, 100);
  cache.observe_eviction(0, 1, Reason::lru, 60);
  EXPECT_EQ(cache.stats().size_inconsistencies, 0u);
  cache.observe_eviction(0, 1, Reason::lru, 60);
  EXPECT_EQ(cache.stats().current_size_bytes, 0u);
  EXPECT_EQ(cache.stats().size_inconsistencies, 1u);
}

// S2-19
TEST(CacheMetrics, WindowedAndLifetimeRates_CanDiffer) {
  CacheMetrics cache;
  for (int i = 0; i < 3; ++i) cache.observe_miss(0);
  cache.observe_hit(100 * kSecond_ns);
  EXPECT_EQ(cache.hit_rate(100 * kSecond_ns), 1);
  EXPECT_EQ(cache.total_hit_rate(), 0.25);
}

// S2-20, S2-21: the windows are the caller's, and thousands of events are thousands.
TEST(CacheMetrics, EvictionRate_IsOfTheCallersWindowAndNotClipped) {
  CacheMetrics cache;
  EXPECT_EQ(cache.eviction_rate(0), 0);
  for (std::int64_t ms = 0; ms < 60'000; ++ms) {
    cache.observe_eviction(ms * 1'000'000, 1, Reason::lru);
  }
  const std::int64_t now_ns = 60 * kSecond_ns - 1;
  EXPECT_EQ(cache.eviction_rate(now_ns), 1000) << "60 s unless said otherwise";
  EXPECT_NEAR(cache.eviction_rate(now_ns, 10 * kSecond_ns), 1000, 1000 / 64.0);
  EXPECT_EQ(cache.eviction_rate(now_ns, 600 * kSecond_ns), 100);
  EXPECT_EQ(cache.eviction_rate(now_ns + 120 * kSecond_ns), 0);
  EXPECT_EQ(cache.eviction_rate(now_ns + 120 * kSecond_ns, 600 * kSecond_ns), 100);
}

// S2-24
TEST(CacheMetrics, Stats_AreACopyOfOneMoment) {
  CacheMetrics cache;
  cache.observe_hit(0, 10);
  const CacheStats before = cache.stats();
  const CacheWindowStats window = cache.window_stats(0);
  cache.observe_hit(0, 10);
  cache.observe_write(0, 99);
  EXPECT_EQ(cache.stats().total_hits, 2u);
  EXPECT_EQ(cache.window_stats(0).hits, 2u);
  EXPECT_EQ(before.total_hits, 1u);
  EXPECT_EQ(before.total_bytes_read, 10u);
  EXPECT_EQ(before.current_size_bytes, 0u);
  EXPECT_EQ(window.hits, 1u);
}

// S2-25, S2-29, S2-30
TEST(PrefixCacheMetrics, HitsAndMisses_RecordHashLengthBytesAndLatency) {
  PrefixCacheMetrics prefix;
  const std::uint64_t key = prefix_key("3f9a");
  prefix.observe_prefix_hit(0, key, 128, 1000, 40);
  prefix.observe_prefix_hit(kSecond_ns, key, 128, 1000, 60);
  prefix.observe_prefix_miss(2 * kSecond_ns, 64, 500, 80);
  prefix.observe_preemption(2 * kSecond_ns, 3, 0);
  EXPECT_EQ(prefix.prefixes().shared().lower(key), 2u);
  EXPECT_EQ(prefix.prefixes().shared().upper(key), 2u);
  EXPECT_EQ(prefix.prefixes().shared().upper(prefix_key("else")), 0u);
  EXPECT_EQ(prefix.prefixes().shared().top(5).size(), 1u) << "a miss has no prefix";
  EXPECT_EQ(prefix.prefixes().lengths().max(), 128u);
  EXPECT_EQ(prefix.prefixes().lengths().min(), 64u);
  const PrefixCacheSummary all = prefix.stats(2 * kSecond_ns);
  EXPECT_DOUBLE_EQ(all.hit_rate, 2.0 / 3);
  EXPECT_DOUBLE_EQ(all.total_hit_rate, 2.0 / 3);
  EXPECT_DOUBLE_EQ(all.avg_prefix_length, 320.0 / 3);
  EXPECT_EQ(all.sharing_factor, 2);
  EXPECT_DOUBLE_EQ(all.eviction_rate, 1.0 / 60);
  EXPECT_EQ(all.cache_stats.total_bytes_read, 2000u);
  EXPECT_EQ(all.window_stats.avg_latency_ns, 60);
  EXPECT_EQ(all.window_stats.bytes_per_second, 1250);
}

// S2-26
TEST(PrefixCacheMetrics, Preemption_IsAnEvictionOfThatReason) {
  PrefixCacheMetrics prefix;
  prefix.cache().observe_write(0, 100);
  prefix.observe_preemption(0, 7, 30);
  EXPECT_EQ(prefix.cache().eviction_breakdown(),
            (CacheMetrics::Breakdown{{Reason::preemption, 1}}));
  EXPECT_EQ(prefix.cache().stats().total_evicted_blocks, 7u);
  EXPECT_EQ(prefix.cache().stats().current_size_bytes, 70u);
}

// S2-27, S2-28, W18
TEST(PrefixCacheMetrics, SharedPrefixes_GiveTheWorkedNumbers) {
  PrefixCacheMetrics prefix;
  EXPECT_EQ(prefix.stats(0).sharing_factor, 1) << "none were hit";
  EXPECT_EQ(prefix.stats(0).avg_prefix_length, 0);
  for (int i = 0; i < 3; ++i) prefix.observe_prefix_hit(0, prefix_key("A"), 10);
  prefix.observe_prefix_hit(0, prefix_key("B"), 20);
  prefix.observe_prefix_miss(0, 50);
  EXPECT_EQ(prefix.stats(0).sharing_factor, 2);
  EXPECT_EQ(prefix.stats(0).avg_prefix_length, 20);
  EXPECT_EQ(prefix.stats(0).total_hit_rate, 0.8);
}

// S2-27: the latest 1,000 lookups and no other, hits and misses alike, however close in time.
TEST(PrefixCacheMetrics, AverageLength_IsThatOfTheLatestThousandLookups) {
  for (const std::int64_t step_ns : {std::int64_t{0}, kSecond_ns}) {
    PrefixCacheMetrics prefix;
    for (std::int64_t i = 0; i < 500; ++i) prefix.observe_prefix_miss(i * step_ns, 1'000'000);
    for (std::int64_t i = 500; i < 1500; ++i) {
      i % 2 == 0 ? (void)prefix.observe_prefix_miss(i * step_ns, i < 1000 ? 10 : 110)
                 : (void)prefix.observe_prefix_hit(i * step_ns, 1, i < 1000 ? 20 : 120);
    }
    EXPECT_EQ(prefix.prefixes().average_length(), 65);
    EXPECT_EQ(prefix.prefixes().lengths().count(), 1500u);
  }
}

// S2-31
TEST(PrefixCacheMetrics, LengthDistribution_HasBucketsAndQuantiles) {
  PrefixCacheMetrics prefix;
  for (std::uint64_t length = 1; length <= 100; ++length) prefix.observe_prefix_miss(0, length);
  const QuantileSketch& lengths = prefix.prefixes().lengths();
  EXPECT_EQ(lengths.quantile(0.5), 51);
  EXPECT_EQ(lengths.quantile(0.99), 100);
  EXPECT_EQ(lengths.histogram().counts, (std::vector<std::uint64_t>{0, 1, 2, 4, 8, 16, 32, 37, 0}));
}

// S2-34, W19
TEST(MultiLevelCacheMetrics, CombinedHitRate_WeighsByLookups) {
  MultiLevelCacheMetrics caches;
  EXPECT_EQ(caches.combined_hit_rate(), 0);
  const auto observe = [](CacheMetrics& cache, int hits, int misses) {
    for (int i = 0; i < hits; ++i) cache.observe_hit(0);
    for (int i = 0; i < misses; ++i) cache.observe_miss(0);
  };
  observe(caches.level(CacheType::prefix), 8, 2);
  observe(caches.level(CacheType::kv), 1, 9);
  EXPECT_DOUBLE_EQ(caches.combined_hit_rate(), 0.45);
  observe(caches.level(CacheType::kv), 9, 81);
  EXPECT_DOUBLE_EQ(caches.combined_hit_rate(), 18.0 / 110);
}

// S2-36, W17
TEST(MultiLevelCacheMetrics, MemoryPressure_GivesTheWorkedNumber) {
  MultiLevelCacheMetrics caches;
  EXPECT_EQ(caches.memory_pressure(0).pressure, 0);
  caches.level(CacheType::kv).observe_write(0, 700);
  caches.level(CacheType::block).observe_write(0, 300);
  for (std::int64_t i = 0; i < 30; ++i) {
    caches.level(i < 20 ? CacheType::kv : CacheType::block)
        .observe_eviction(i * kSecond_ns, 1, Reason::memory_pressure, i < 10 ? 40 : 0);
  }
  const MemoryPressure pressure = caches.memory_pressure(59 * kSecond_ns);
  EXPECT_DOUBLE_EQ(pressure.utilization, 0.6);
  EXPECT_DOUBLE_EQ(pressure.eviction_pressure, 0.005);
  EXPECT_DOUBLE_EQ(pressure.pressure, 0.4215);
  EXPECT_TRUE(pressure.is_relative_to_peak);
}

// S2-37
TEST(MultiLevelCacheMetrics, MemoryPressure_UsesCapacityAndStaysWithinZeroAndOne) {
  MultiLevelCacheMetrics caches;
  CacheMetrics& kv = caches.level(CacheType::kv);
  kv.observe_write(0, 600);
  EXPECT_DOUBLE_EQ(caches.memory_pressure(0).utilization, 1) << "a new high is full of its peak";
  kv.set_capacity(1000);
  EXPECT_DOUBLE_EQ(caches.memory_pressure(0).utilization, 0.6);
  EXPECT_FALSE(caches.memory_pressure(0).is_relative_to_peak);
  kv.observe_write(0, 10'000);
  for (int i = 0; i < 100'000; ++i) kv.observe_eviction(0, 1, Reason::memory_pressure);
  EXPECT_DOUBLE_EQ(caches.memory_pressure(0).pressure, 1);
  kv.observe_eviction(kSecond_ns, 1, Reason::lru, 1'000'000);
  EXPECT_DOUBLE_EQ(caches.memory_pressure(100 * kSecond_ns).pressure, 0);
}

// S2-38
TEST(CacheMetrics, EfficiencyScore_IsTheHitRateLessWhatNobodyAskedFor) {
  CacheMetrics cache;
  EXPECT_EQ(cache.efficiency_score(0), 0);
  for (int i = 0; i < 8; ++i) cache.observe_hit(0);
  for (int i = 0; i < 2; ++i) cache.observe_miss(0);
  EXPECT_DOUBLE_EQ(cache.efficiency_score(0), 0.8) << "nobody followed blocks";
  cache.observe_block_use(0, 40, 10);
  EXPECT_DOUBLE_EQ(cache.efficiency_score(0), 0.6);
  cache.observe_block_use(0, 10, 1000);
  EXPECT_DOUBLE_EQ(cache.efficiency_score(0), 0.8 * 0.6) << "no more unused blocks than blocks";
}

// S2-39
TEST(CacheMetrics, TimeUntilFull_FollowsFromCapacityAndGrowth) {
  CacheMetrics cache;
  EXPECT_FALSE(cache.seconds_until_full(0).has_value());
  cache.set_capacity(10'000);
  EXPECT_EQ(*cache.seconds_until_full(0), std::numeric_limits<double>::infinity());
  for (std::int64_t s = 0; s <= 10; ++s) cache.observe_write(s * kSecond_ns, s == 0 ? 0 : 150);
  cache.observe_eviction(10 * kSecond_ns, 1, Reason::lru, 500);
  // 1,000 bytes in the 10 s since the beginning; 9,000 are left.
  EXPECT_DOUBLE_EQ(cache.growth_bytes_per_second(10 * kSecond_ns), 100);
  EXPECT_DOUBLE_EQ(*cache.seconds_until_full(10 * kSecond_ns), 90);
  cache.observe_eviction(10 * kSecond_ns, 1, Reason::lru, 1000);
  EXPECT_EQ(*cache.seconds_until_full(10 * kSecond_ns), std::numeric_limits<double>::infinity());
  cache.observe_write(11 * kSecond_ns, 20'000);
  EXPECT_EQ(*cache.seconds_until_full(11 * kSecond_ns), 0);
}

// S2-39
TEST(CacheMetrics, EvictionForecast_ContinuesTheTrendOfWholeWindows) {
  CacheMetrics cache = with_window(10);
  EXPECT_EQ(cache.next_window_eviction_rate(0), 0);
  for (std::int64_t window = 0; window < 5; ++window) {
    for (std::int64_t i = 0; i < 10 * (window + 1); ++i) {
      cache.observe_eviction(window * 10 * kSecond_ns + i, 1, Reason::lru);
    }
  }
  // 1, 2, 3, 4, 5 events per second.
  EXPECT_DOUBLE_EQ(cache.next_window_eviction_rate(50 * kSecond_ns), 6);
}

// S2-40
TEST(CacheMetrics, Observation_ReturnsTheUpdatedTriple) {
  CacheMetrics cache;
  HitCounts counts = cache.observe_hit(0, 100, 5);
  EXPECT_EQ(counts.hits, 1u);
  EXPECT_EQ(counts.misses, 0u);
  EXPECT_EQ(counts.hit_rate, 1);
  counts = cache.observe_miss(0);
  EXPECT_EQ(counts.hits, 1u);
  EXPECT_EQ(counts.misses, 1u);
  EXPECT_EQ(counts.hit_rate, 0.5);
  CacheEvent many = CacheEvent::hit(0);
  many.times = 2;
  EXPECT_EQ(cache.observe(many).hit_rate, 0.75);
  many.times = 0;
  EXPECT_EQ(cache.observe(many).hits, 3u);
}

}  // namespace
}  // namespace rankbus::test
