// Goal:   sketches tell the truth within the bounds that their headers state, whatever the values,
//         the order, and the way in which parts are merged; and their memory does not grow.
// Method: twenty distributions (one of them the prompt lengths of the request trace, where
//         RANKBUS_TRACE names it), sorted to know the exact quantiles; seeded parts merged in
//         random trees; prefixes without end beside an exact count. RANKBUS_TEST_SCALE=100 makes
//         10^8.
// Replay: RANKBUS_TEST_SEED=<printed> property_sketch [--gtest_filter=...]
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <rankbus/aggregator/analysis/prefix_metrics.hpp>
#include <set>
#include <vector>

#include "analysis_distributions.hpp"
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::DistinctCounter;
using rankbus::HeavyHitters;
using rankbus::PrefixTracker;
using rankbus::QuantileSketch;
using rankbus::test::exact_quantile;
using rankbus::test::twenty_distributions;

QuantileSketch sketch_of(const rankbus::test::Values& values) {
  QuantileSketch sketch;
  for (const std::uint64_t value : values) sketch.add(value);
  return sketch;
}

// Merges neighbours in random order until one is left.
template <class T>
T merged_somehow(std::vector<T> parts, Dice& dice) {
  while (parts.size() > 1) {
    const std::size_t at = dice.below(parts.size() - 1);
    if (dice.one_in(2)) std::swap(parts[at], parts[at + 1]);
    parts[at].aggregate(parts[at + 1]);
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  return parts[0];
}

// S2-08, S2-31
TEST(QuantileSketch, OnTwentyDistributions_IsWithinTheStatedErrorOfTheExactQuantile) {
  const auto distributions = twenty_distributions(test_seed(), scaled(50'000));
  ASSERT_EQ(distributions.size(), 20u);
  for (const auto& [name, values] : distributions) {
    const QuantileSketch sketch = sketch_of(values);
    rankbus::test::Values sorted = values;
    std::sort(sorted.begin(), sorted.end());
    double worst = 0;
    for (int permille = 0; permille <= 1000; ++permille) {
      const double share = permille / 1000.0;
      const auto exact = static_cast<double>(exact_quantile(sorted, share));
      const double error = std::abs(sketch.quantile(share) - exact);
      worst = std::max(worst, exact > 0 ? error / exact : error);
    }
    EXPECT_LE(worst, QuantileSketch::kRelativeError * (1 + 1e-9)) << name;
    EXPECT_EQ(sketch.min(), sorted.front()) << name;
    EXPECT_EQ(sketch.max(), sorted.back()) << name;
    std::printf("  %-28s %7zu values, worst error %.4f %%\n", name.c_str(), values.size(),
                100 * worst);
  }
}

// S2-08
TEST(QuantileSketch, PartsInAnyTree_AreTheWholeToTheBit) {
  Dice dice(test_seed() + 1);
  for (const auto& [name, values] : twenty_distributions(test_seed() + 1, scaled(2'000))) {
    std::vector<QuantileSketch> parts(1 + dice.below(12));
    for (const std::uint64_t value : values) parts[dice.below(parts.size())].add(value);
    EXPECT_EQ(merged_somehow(parts, dice), sketch_of(values)) << name;
  }
}

TEST(QuantileSketch, Merging_IsAssociativeAndCommutative) {
  Dice dice(test_seed() + 2);
  for (std::uint64_t round = 0; round < scaled(300); ++round) {
    std::vector<QuantileSketch> abc(3);
    for (QuantileSketch& sketch : abc) {
      for (std::uint64_t i = dice.below(50); i > 0; --i) {
        sketch.add(dice.next() >> dice.below(64), dice.next() >> dice.below(64));
      }
    }
    auto [a, b, c] = std::tie(abc[0], abc[1], abc[2]);
    QuantileSketch ab = a;
    ab.aggregate(b);
    QuantileSketch ba = b;
    ba.aggregate(a);
    ASSERT_EQ(ab, ba);
    QuantileSketch left = ab;
    left.aggregate(c);
    QuantileSketch bc = b;
    bc.aggregate(c);
    QuantileSketch right = a;
    right.aggregate(bc);
    ASSERT_EQ(left, right);
  }
}

// Few keys often and many rarely, as prefixes are shared.
std::uint64_t skewed_key(Dice& dice) {
  return dice.next() >> (1 + dice.below(63));
}

template <class Hitters>
void expect_bounds(const Hitters& hitters, const std::map<std::uint64_t, std::uint64_t>& exact,
                   std::uint64_t total, std::uint64_t share) {
  ASSERT_EQ(hitters.total(), total);
  ASSERT_LE(hitters.error(), total / share);
  for (const auto& [key, count] : exact) {
    ASSERT_LE(hitters.lower(key), count);
    ASSERT_GE(hitters.upper(key), count);
    if (count > total / share) {
      ASSERT_GT(hitters.lower(key), 0u) << "a frequent key is always tracked";
    }
  }
}

// S2-32
TEST(HeavyHitters, AnyStreamInAnyTreeOfMerges_KeepsTheBounds) {
  Dice dice(test_seed() + 3);
  for (std::uint64_t round = 0; round < scaled(200); ++round) {
    std::vector<HeavyHitters<16>> parts(1 + dice.below(8));
    std::map<std::uint64_t, std::uint64_t> exact;
    std::uint64_t total = 0;
    for (std::uint64_t i = dice.below(5'000); i > 0; --i) {
      const std::uint64_t key = skewed_key(dice);
      const std::uint64_t times = dice.one_in(10) ? 1 + dice.below(1000) : 1;
      parts[dice.below(parts.size())].add(key, times);
      exact[key] += times;
      total += times;
    }
    const auto merged = merged_somehow(parts, dice);
    ASSERT_LE(merged.tracked(), 32u);
    expect_bounds(merged, exact, total, 17);
  }
}

TEST(HeavyHitters, Merging_IsCommutativeAndWithRoomForAllAssociative) {
  Dice dice(test_seed() + 4);
  for (std::uint64_t round = 0; round < scaled(300); ++round) {
    std::vector<HeavyHitters<16>> parts(3);
    const std::uint64_t keys = dice.one_in(2) ? 32 : 500;
    for (auto& part : parts) {
      for (std::uint64_t i = dice.below(200); i > 0; --i) part.add(dice.below(keys));
    }
    auto ab = parts[0];
    ab.aggregate(parts[1]);
    auto ba = parts[1];
    ba.aggregate(parts[0]);
    ASSERT_EQ(ab, ba);
    if (keys > 32) continue;
    auto bc = parts[1];
    bc.aggregate(parts[2]);
    ab.aggregate(parts[2]);
    auto right = parts[0];
    right.aggregate(bc);
    ASSERT_EQ(ab, right);
  }
}

// S2-28: what is merged counts a prefix once, whoever saw it.
TEST(DistinctCounter, PartsInAnyTree_AreTheWholeToTheBit) {
  Dice dice(test_seed() + 5);
  for (std::uint64_t round = 0; round < scaled(60); ++round) {
    std::vector<DistinctCounter> parts(1 + dice.below(6));
    DistinctCounter whole;
    std::set<std::uint64_t> exact;
    const std::uint64_t keys = dice.one_in(2) ? 2'100 : 20'000;
    for (std::uint64_t i = dice.below(20'000); i > 0; --i) {
      const std::uint64_t key = dice.below(keys);
      parts[dice.below(parts.size())].add(key);
      if (dice.one_in(3)) parts[dice.below(parts.size())].add(key);
      whole.add(key);
      exact.insert(key);
    }
    ASSERT_EQ(merged_somehow(parts, dice), whole);
    const auto count = static_cast<double>(exact.size());
    ASSERT_NEAR(whole.count(), count,
                whole.is_exact() ? 0 : 6 * DistinctCounter::kStandardError * count);
  }
}

// S2-27
TEST(RecentLengths, PartsInAnyTree_KeepTheLatestThousandOfAll) {
  Dice dice(test_seed() + 7);
  for (std::uint64_t round = 0; round < scaled(50); ++round) {
    std::vector<rankbus::RecentLengths> parts(1 + dice.below(6));
    rankbus::test::Values lengths;
    for (std::uint64_t i = 500 + dice.below(3'000); i > 0; --i) {
      lengths.push_back(dice.below(100'000));
      parts[dice.below(parts.size())].add(static_cast<std::int64_t>(lengths.size()),
                                          lengths.back());
    }
    const std::size_t latest = std::min<std::size_t>(lengths.size(), 1000);
    double sum = 0;
    for (std::size_t i = 0; i < latest; ++i) {
      sum += static_cast<double>(lengths[lengths.size() - 1 - i]);
    }
    const rankbus::RecentLengths merged = merged_somehow(parts, dice);
    ASSERT_EQ(merged.count(), latest);
    ASSERT_DOUBLE_EQ(merged.mean(), sum / static_cast<double>(latest));
  }
}

std::size_t allocated_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// S2-32: new prefixes without end, a few old ones among them, all hits in constant memory.
TEST(PrefixTracker, MillionsOfNewPrefixes_TakeConstantMemoryWithinTheBounds) {
  Dice dice(test_seed() + 6);
  const std::size_t before_bytes = allocated_bytes();
  const std::uint64_t prefixes = scaled(1'000'000);
  constexpr std::uint64_t kFrequent = 50;
  std::vector<std::uint64_t> exact(kFrequent);
  PrefixTracker tracker;
  std::uint64_t next_new = 1'000'000;
  std::uint64_t hits = 0;
  const auto pass = [&](std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i, ++hits) {
      std::uint64_t prefix = next_new;
      if (dice.one_in(4)) {
        prefix = std::min(dice.below(kFrequent), dice.below(kFrequent));
        ++exact[prefix];
      } else {
        ++next_new;
      }
      tracker.observe_hit(static_cast<std::int64_t>(hits), prefix, 1 + prefix % 100'000);
    }
  };
  pass(prefixes / 10);
  const std::size_t early_bytes = allocated_bytes();
  pass(prefixes - prefixes / 10);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // The tables were full long ago; a few lists move within what they may take.
  EXPECT_LE(allocated_bytes(), early_bytes + 16'384);
  EXPECT_LE(allocated_bytes(), before_bytes + 150'000) << "as prefix_metrics.hpp says";
#else
  (void)early_bytes;
  (void)before_bytes;
#endif
  const PrefixTracker::Shared& shared = tracker.shared();
  EXPECT_EQ(shared.total(), hits);
  EXPECT_LE(shared.error(), hits / 1025);
  for (std::uint64_t prefix = 0; prefix < kFrequent; ++prefix) {
    ASSERT_LE(shared.lower(prefix), exact[prefix]) << prefix;
    ASSERT_GE(shared.upper(prefix), exact[prefix]) << prefix;
  }
  EXPECT_EQ(
      shared.top(1)[0].key,
      static_cast<std::uint64_t>(std::max_element(exact.begin(), exact.end()) - exact.begin()));
  const auto seen = static_cast<std::uint64_t>(
      std::count_if(exact.begin(), exact.end(), [](std::uint64_t count) { return count > 0; }));
  const auto distinct = static_cast<double>(next_new - 1'000'000 + seen);
  EXPECT_NEAR(tracker.distinct().count(), distinct, 6 * DistinctCounter::kStandardError * distinct);
  std::printf(
      "  %zu bytes, %llu hits of %.0f prefixes: no count off by more than %llu, %.0f distinct\n",
      allocated_bytes() - before_bytes, static_cast<unsigned long long>(hits), distinct,
      static_cast<unsigned long long>(shared.error()), tracker.distinct().count());
}

// S2-12: memory, too, does not follow the number of events.
TEST(CacheMetrics, MillionsOfEvents_TakeNoMoreMemoryThanStated) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "skipped: a sanitizer counts its own memory";
#else
  Dice dice(test_seed() + 8);
  for (const bool is_hostile : {false, true}) {
    const std::size_t before_bytes = allocated_bytes();
    rankbus::CacheMetrics cache;
    // Three decades of latencies, or any that 64 bits can say.
    const auto latency_ns = [&] {
      return is_hostile ? dice.next() >> dice.below(64) : 1000 + dice.below(1'000'000);
    };
    for (std::uint64_t i = 0; i < scaled(2'000'000); ++i) {
      const auto now_ns = static_cast<std::int64_t>(i) * 100'000;
      cache.observe_hit(now_ns, 1, latency_ns());
      if (is_hostile) {
        cache.observe_eviction(now_ns, 1, rankbus::CacheEvictionReason::lru, 1, latency_ns());
      }
    }
    const std::size_t bytes = allocated_bytes() - before_bytes;
    EXPECT_LE(bytes, is_hostile ? 4'000'000u : 500'000u);
    std::printf("  %zu bytes\n", bytes);
  }
#endif
}

}  // namespace
}  // namespace bus_test
