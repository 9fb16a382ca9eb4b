// Goal:   a step is compared with steps of equal batches, and the baseline is neither bent by the
//         first minutes of a fault nor held for ever.
// Method: intervals of known classes; medians against sorted lists.
// Replay: RANKBUS_TEST_SEED=<printed> unit_step_baseline [--gtest_filter=...]
#include <rankbus/aggregator/arrivals/step_baseline.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::BatchShape;
using rankbus::StepBaseline;

TEST(StepBaseline, BeforeThereAreEnoughSteps_SaysNothing) {
  StepBaseline baseline;
  for (std::uint32_t n = 0; n + 1 < StepBaseline::kMinSteps; ++n) baseline.add({0, 8}, 20'000'000);
  EXPECT_FALSE(baseline.median_ns({0, 8}).has_value());
  baseline.add({0, 8}, 20'000'000);
  EXPECT_TRUE(baseline.median_ns({0, 8}).has_value());
  EXPECT_FALSE(baseline.median_ns({512, 8}).has_value()) << "another batch";
}

TEST(StepBaseline, AnyIntervals_MedianIsWithinASixteenthOfAPowerOfTwo) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(200); ++round) {
    StepBaseline baseline;
    std::vector<std::uint64_t> all;
    const std::uint64_t spread = 1'000'000 + dice.below(100'000'000);
    for (std::uint64_t n = 33 + dice.below(500); n > 0; --n) {
      all.push_back(1'000'000 + dice.below(spread));
      baseline.add({100, 3}, all.back());
    }
    std::sort(all.begin(), all.end());
    const auto exact = static_cast<double>(all[(all.size() - 1) / 2]);
    const auto median = static_cast<double>(*baseline.median_ns({100, 3}));
    EXPECT_NEAR(median / exact, 1, 0.0625);
  }
}

TEST(StepBaseline, BigBatches_LeaveTheBaselineOfSmallOnesAlone) {
  StepBaseline baseline;
  for (int n = 0; n < 200; ++n) {
    baseline.add({0, 16}, 20'000'000);
    baseline.add({8192, 16}, 400'000'000);
  }
  EXPECT_NEAR(static_cast<double>(*baseline.median_ns({0, 16})), 20e6, 1.3e6);
  EXPECT_NEAR(static_cast<double>(*baseline.median_ns({8192, 16})), 400e6, 25e6);
}

TEST(StepBaseline, StepsThatBecomeSlow_AreTheBaselineOnlyAfterALongTime) {
  StepBaseline baseline;
  for (int n = 0; n < 5000; ++n) baseline.add({0, 16}, 20'000'000);
  for (int n = 0; n < 1000; ++n) baseline.add({0, 16}, 60'000'000);
  EXPECT_LT(*baseline.median_ns({0, 16}), 25'000'000u);
  for (int n = 0; n < 20'000; ++n) baseline.add({0, 16}, 60'000'000);
  EXPECT_GT(*baseline.median_ns({0, 16}), 50'000'000u);
}

TEST(StepBaseline, Malicious_AnyNumbers_TakeBoundedMemory) {
  StepBaseline baseline;
  Dice dice(test_seed() + 1);
  for (std::uint64_t n = 0; n < scaled(100'000); ++n) {
    baseline.add({dice.next() >> dice.below(64), dice.next() >> dice.below(64)},
                 dice.next() >> dice.below(64));
    EXPECT_LE(baseline.classes(), StepBaseline::kMaxClasses);
  }
}

}  // namespace
}  // namespace bus_test
