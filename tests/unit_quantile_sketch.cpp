// The quantile sketch at its edges: which bucket holds what, and what is told of it.
#include <gtest/gtest.h>

#include <cereal/archives/binary.hpp>
#include <cereal/types/vector.hpp>
#include <cmath>
#include <limits>
#include <rankbus/aggregator/analysis/quantile_sketch.hpp>
#include <sstream>
#include <string>

namespace rankbus::test {
namespace {

constexpr auto kLargest = std::numeric_limits<std::uint64_t>::max();

TEST(QuantileSketch, NothingSeen_TellsZeros) {
  const QuantileSketch sketch;
  EXPECT_TRUE(sketch.is_empty());
  EXPECT_EQ(sketch.quantile(0.5), 0);
  EXPECT_EQ(sketch.mean(), 0);
  EXPECT_EQ(sketch.min(), 0u);
  EXPECT_EQ(sketch.max(), 0u);
  EXPECT_EQ(sketch.histogram().counts, (std::vector<std::uint64_t>{0}));
}

// S2-08, W16: the truncated index, exact because small values have buckets of their own.
TEST(QuantileSketch, OneToHundred_GivesTheElementsAtTheTruncatedIndex) {
  QuantileSketch sketch;
  for (std::uint64_t value = 100; value >= 1; --value) sketch.add(value);
  EXPECT_EQ(sketch.quantile(0.5), 51);
  EXPECT_EQ(sketch.quantile(0.99), 100);
  EXPECT_EQ(sketch.quantile(0), 1);
  EXPECT_EQ(sketch.quantile(1), 100);
  EXPECT_EQ(sketch.mean(), 50.5);
  EXPECT_EQ(sketch.count(), 100u);
}

TEST(QuantileSketch, EveryBucket_BeginsWhereTheOneBeforeEnds) {
  std::uint64_t next = 0;
  for (std::size_t bucket = 0; bucket < QuantileSketch::kBuckets; ++bucket) {
    ASSERT_EQ(QuantileSketch::lower_of(bucket), next) << bucket;
    next = QuantileSketch::upper_of(bucket) + 1;
    ASSERT_EQ(QuantileSketch::bucket_of(QuantileSketch::lower_of(bucket)), bucket);
    ASSERT_EQ(QuantileSketch::bucket_of(QuantileSketch::upper_of(bucket)), bucket);
  }
  EXPECT_EQ(next, 0u) << "the last one ends at 2^64 - 1";
}

TEST(QuantileSketch, BothEndsOfEveryBucket_AreWithinTheStatedError) {
  for (std::size_t bucket = 0; bucket < QuantileSketch::kBuckets; ++bucket) {
    const std::uint64_t lower = QuantileSketch::lower_of(bucket);
    const std::uint64_t upper = QuantileSketch::upper_of(bucket);
    QuantileSketch sketch;
    sketch.add(lower);
    sketch.add(upper);
    for (const auto& [share, exact] : {std::pair(0.0, lower), std::pair(1.0, upper)}) {
      const auto value = static_cast<double>(exact);
      ASSERT_LE(std::abs(sketch.quantile(share) - value),
                value * QuantileSketch::kRelativeError * (1 + 1e-12))
          << bucket;
    }
  }
}

TEST(QuantileSketch, OneValueHoweverLarge_IsItself) {
  for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{1'000'000'007}, kLargest}) {
    QuantileSketch sketch;
    sketch.add(value, 3);
    EXPECT_EQ(sketch.quantile(0.5), static_cast<double>(value));
    EXPECT_EQ(sketch.count(), 3u);
    EXPECT_EQ(sketch.max(), value);
  }
}

TEST(QuantileSketch, SumBeyond64Bits_DoesNotWrap) {
  QuantileSketch sketch;
  sketch.add(kLargest, 4);
  EXPECT_EQ(sketch.mean(), std::ldexp(1.0, 64));
}

TEST(QuantileSketch, CountsWithoutEnd_StopAtTheLargest) {
  QuantileSketch sketch;
  sketch.add(5, kLargest);
  sketch.add(5, kLargest);
  EXPECT_EQ(sketch.count(), kLargest);
  EXPECT_EQ(sketch.quantile(0.99), 5);
}

TEST(QuantileSketch, MergedWithItself_CountsTwice) {
  QuantileSketch sketch;
  for (const std::uint64_t value : {7u, 900u, 70'000u}) sketch.add(value);
  QuantileSketch twice = sketch;
  twice.aggregate(sketch);
  sketch.aggregate(sketch);
  EXPECT_EQ(sketch, twice);
  EXPECT_EQ(sketch.count(), 6u);
}

// S2-31: buckets, whose counts are exact at any power of two.
TEST(QuantileSketch, Histogram_CountsExactlyBelowPowersOfTwo) {
  QuantileSketch sketch;
  for (const std::uint64_t value : {0u, 1u, 2u, 3u, 4u, 1023u, 1024u, 1025u}) sketch.add(value);
  const Histogram histogram = sketch.histogram();
  EXPECT_EQ(*histogram.bounds,
            (std::vector<double>{0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047}));
  EXPECT_EQ(histogram.counts, (std::vector<std::uint64_t>{1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0}));
  EXPECT_EQ(histogram.sum, 3082);
}

TEST(QuantileSketch, HistogramOfTheLargestValue_HasABucketForIt) {
  QuantileSketch sketch;
  sketch.add(kLargest);
  const Histogram histogram = sketch.histogram();
  EXPECT_EQ(histogram.bounds->back(), std::ldexp(1.0, 64));
  EXPECT_EQ(histogram.counts.at(64), 1u);
}

std::string stored(const QuantileSketch& sketch) {
  std::stringstream bytes;
  cereal::BinaryOutputArchive output(bytes);
  output(sketch);
  return bytes.str();
}

TEST(QuantileSketch, Stored_ReadsBackAsItWas) {
  QuantileSketch sketch;
  for (std::uint64_t value = 1; value < 1'000'000; value *= 3) sketch.add(value, value);
  sketch.add(kLargest, 2);
  std::stringstream bytes(stored(sketch));
  QuantileSketch read;
  cereal::BinaryInputArchive input(bytes);
  input(read);
  EXPECT_EQ(read, sketch);
}

TEST(QuantileSketch, StoredWithAnImpossibleBucket_IsRefusedAndLeavesNothing) {
  QuantileSketch sketch;
  sketch.add(5);
  std::string text = stored(sketch);
  // The number of the first bucket comes first.
  text[2] = '\x7f';
  std::stringstream bytes(text);
  QuantileSketch read;
  cereal::BinaryInputArchive input(bytes);
  EXPECT_THROW(input(read), std::runtime_error);
  EXPECT_TRUE(read.is_empty());
}

}  // namespace
}  // namespace rankbus::test
