// Heavy hitters and distinct counts: what is exact, what is bounded, and what is refused.
#include <gtest/gtest.h>

#include <cereal/archives/binary.hpp>
#include <cereal/types/vector.hpp>
#include <cmath>
#include <limits>
#include <rankbus/aggregator/analysis/heavy_hitters.hpp>
#include <rankbus/aggregator/analysis/prefix_metrics.hpp>
#include <sstream>
#include <string>

namespace rankbus::test {
namespace {

template <class T>
T stored_and_read(const T& value) {
  std::stringstream bytes;
  cereal::BinaryOutputArchive output(bytes);
  output(value);
  T read;
  cereal::BinaryInputArchive input(bytes);
  input(read);
  return read;
}

// S2-30: the count of one key, and the most frequent ones.
TEST(HeavyHitters, FewKeys_AreCountedExactly) {
  HeavyHitters<4> hitters;
  EXPECT_TRUE(hitters.is_empty());
  EXPECT_EQ(hitters.lower(7), 0u);
  for (std::uint64_t key = 0; key < 8; ++key) hitters.add(key, 10 + key);
  EXPECT_EQ(hitters.error(), 0u);
  for (std::uint64_t key = 0; key < 8; ++key) {
    EXPECT_EQ(hitters.lower(key), 10 + key);
    EXPECT_EQ(hitters.upper(key), 10 + key);
  }
  EXPECT_EQ(hitters.upper(99), 0u);
  EXPECT_EQ(hitters.top(2), (std::vector<HeavyHitters<4>::Entry>{{7, 17}, {6, 16}}));
}

TEST(HeavyHitters, EqualCounts_StandInTheOrderOfTheirKeys) {
  HeavyHitters<4> hitters;
  for (const std::uint64_t key : {5u, 1u, 3u}) hitters.add(key);
  EXPECT_EQ(hitters.reduce(), (std::vector<HeavyHitters<4>::Entry>{{1, 1}, {3, 1}, {5, 1}}));
}

// S2-32: one more key than there is room for, and the bounds take the place of counts.
TEST(HeavyHitters, TooManyKeys_KeepTheFrequentOnesWithinTheBound) {
  HeavyHitters<4> hitters;
  for (int i = 0; i < 100; ++i) hitters.add(1);
  for (std::uint64_t key = 1000; key < 1100; ++key) hitters.add(key);
  EXPECT_LE(hitters.tracked(), 8u);
  EXPECT_LE(hitters.error(), hitters.total() / 5);
  EXPECT_GT(hitters.error(), 0u);
  EXPECT_LE(hitters.lower(1), 100u);
  EXPECT_GE(hitters.upper(1), 100u);
  EXPECT_EQ(hitters.top(1)[0].key, 1u);
}

TEST(HeavyHitters, CountsOfStrangers_StopAtTheLargest) {
  constexpr auto kLargest = std::numeric_limits<std::uint64_t>::max();
  HeavyHitters<4> hitters;
  hitters.add(1, kLargest);
  hitters.add(1, kLargest);
  EXPECT_EQ(hitters.lower(1), kLargest);
  EXPECT_EQ(hitters.upper(1), kLargest);
}

TEST(HeavyHitters, Stored_ReadBackAsTheyWere) {
  HeavyHitters<8> hitters;
  for (std::uint64_t key = 0; key < 1000; ++key) hitters.add(key % 37, 1 + key % 5);
  const auto read = stored_and_read(hitters);
  EXPECT_EQ(read, hitters);
  EXPECT_GT(read.error(), 0u);
}

TEST(HeavyHitters, StoredWithMoreKeysThanCanBe_AreRefused) {
  HeavyHitters<64> many;
  for (std::uint64_t key = 0; key < 100; ++key) many.add(key);
  std::stringstream bytes;
  cereal::BinaryOutputArchive output(bytes);
  output(many);
  HeavyHitters<4> few;
  cereal::BinaryInputArchive input(bytes);
  EXPECT_THROW(input(few), std::runtime_error);
  EXPECT_TRUE(few.is_empty());
}

TEST(HeavyHitters, Reset_IsAsNew) {
  HeavyHitters<4> hitters;
  for (std::uint64_t key = 0; key < 100; ++key) hitters.add(key);
  hitters.reset();
  EXPECT_EQ(hitters, HeavyHitters<4>{});
}

TEST(DistinctCounter, UpToItsLimit_IsExact) {
  DistinctCounter counter;
  EXPECT_TRUE(counter.is_empty());
  for (std::uint64_t key = 0; key < DistinctCounter::kExactLimit; ++key) {
    counter.add(key);
    counter.add(key / 2);
  }
  EXPECT_TRUE(counter.is_exact());
  EXPECT_EQ(counter.count(), static_cast<double>(DistinctCounter::kExactLimit));
}

TEST(DistinctCounter, BeyondItsLimit_IsWithinFiveStandardErrors) {
  DistinctCounter counter;
  std::uint64_t key = 0;
  for (const std::uint64_t count : {2'049u, 5'000u, 20'000u, 40'000u, 80'000u, 300'000u}) {
    for (; key < count; ++key) counter.add(key);
    EXPECT_FALSE(counter.is_exact());
    const auto exact = static_cast<double>(count);
    EXPECT_NEAR(counter.count(), exact, 5 * DistinctCounter::kStandardError * exact);
  }
}

TEST(DistinctCounter, Stored_ReadsBackAsItWas) {
  DistinctCounter counter;
  for (const std::uint64_t until : {100u, 10'000u}) {
    for (std::uint64_t key = 0; key < until; ++key) counter.add(key);
    EXPECT_EQ(stored_and_read(counter), counter);
  }
}

TEST(PrefixKey, Texts_AreToldApart) {
  EXPECT_EQ(prefix_key("abc"), prefix_key("abc"));
  EXPECT_NE(prefix_key("abc"), prefix_key("abd"));
  EXPECT_NE(prefix_key(""), prefix_key(std::string_view("\0", 1)));
}

}  // namespace
}  // namespace rankbus::test
