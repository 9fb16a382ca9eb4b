// Labels: release-only
// Goal:   reading a window costs the same after a thousand events and after ten million.
// Method: the instructions of a reading are counted (instruction_count.hpp), so that no other load
//         on the machine shows; every slot of both windows holds the same latencies, so that only
//         the number of events differs.
// Replay: unit_window_read_cost [--gtest_filter=...]; nothing here is random.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <rankbus/aggregator/analysis/cache_metrics.hpp>

#include "instruction_count.hpp"

namespace rankbus::test {
namespace {

constexpr std::int64_t kWindow_ns = 60'000'000'000;
constexpr std::int64_t kNow_ns = kWindow_ns - 1;
constexpr std::array<std::uint64_t, 4> kLatencies_ns = {70, 80, 90, 100};

CacheMetrics after(std::int64_t events) {
  CacheMetrics cache;
  for (std::int64_t i = 0; i < events; ++i) {
    const std::int64_t now_ns = i * (kWindow_ns / events);
    const std::uint64_t latency_ns = kLatencies_ns[static_cast<std::size_t>(i) % 4];
    i % 3 == 0 ? cache.observe_miss(now_ns, 1, latency_ns)
               : cache.observe_hit(now_ns, 1, latency_ns);
    if (i % 5 == 0) cache.observe_eviction(now_ns, 1, CacheEvictionReason::lru, 1, 70);
  }
  return cache;
}

// What it returns must not be optimized away.
volatile double told = 0;

TEST(InstructionCount, OfALoop_FollowsItsRounds) {
  const auto of_rounds = [](std::uint64_t rounds) {
    return instructions_of([&] {
      for (std::uint64_t i = 0; i < rounds; ++i) told = static_cast<double>(i);
    });
  };
  const auto few = of_rounds(1'000);
  if (!few) GTEST_SKIP() << "skipped: this process may not trace its child";
  EXPECT_GE(*few, 2'000u);
  EXPECT_EQ(of_rounds(1'000), few) << "the same call, the same count";
  EXPECT_GE(*of_rounds(2'000), *few + 2'000);
}

// S2-12
TEST(CacheMetrics, ReadingAWindow_TakesTheSameInstructionsAfterTenMillionEvents) {
  const CacheMetrics few = after(1'000);
  const CacheMetrics many = after(10'000'000);
  ASSERT_EQ(many.window_stats(kNow_ns).hits + many.window_stats(kNow_ns).misses, 10'000'000u);
  const auto expect_equal = [&](const char* what, auto read, double tolerance) {
    const auto of_few = instructions_of([&] { told = read(few); });
    if (!of_few) GTEST_SKIP() << "skipped: this process may not trace its child";
    const auto of_many = instructions_of([&] { told = read(many); });
    std::printf("  %-13s %8llu instructions after 10^3 events, %8llu after 10^7\n", what,
                static_cast<unsigned long long>(*of_few),
                static_cast<unsigned long long>(*of_many));
    ASSERT_LT(*of_few, kMostInstructions) << "too many to be counted";
    EXPECT_LE(static_cast<double>(*of_many), static_cast<double>(*of_few) * (1 + tolerance));
  };
  // A branch more or less is not what this is about: whoever looked at events would take a thousand
  // times as many.
  expect_equal(
      "hit_rate", [](const auto& cache) { return cache.hit_rate(kNow_ns); }, 0.01);
  expect_equal(
      "eviction_rate", [](const auto& cache) { return cache.eviction_rate(kNow_ns); }, 0.01);
  // It makes the sum of all slots, and how an allocation is served depends on those before it.
  expect_equal(
      "window_stats", [](const auto& cache) { return cache.window_stats(kNow_ns).p99_latency_ns; },
      0.01);
}

}  // namespace
}  // namespace rankbus::test
