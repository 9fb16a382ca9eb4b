// The virtual clock: ranks that agree without talking, and collectives that nobody leaves early.
#include <gtest/gtest.h>

#include <algorithm>
#include <rankbus/producer/simulator/step_time.hpp>

namespace rankbus::simulator {
namespace {

StepCost cost_of(const StepWork& work) {
  return step_cost(StepTimeModel{}, work, 4);
}

TEST(RankTimelines, Collective_IsLeftByAllTogetherAfterTheLastEntry) {
  RankTimelines ranks(1, 0, 4, 3);
  std::uint64_t broadcast_ns = 0;
  for (std::uint64_t step = 0; step < 500; ++step) {
    ranks.advance(StepTimeModel{}, step, broadcast_ns, cost_of({.decode_seqs = 4}));
    for (std::size_t i = 0; i < 3; ++i) {
      std::uint64_t last_entry = 0;
      for (std::uint32_t r = 0; r < 4; ++r) {
        last_entry = std::max(last_entry, ranks.collectives(r)[i].entry_ns);
        EXPECT_EQ(ranks.collectives(r)[i].exit_ns, ranks.collectives(0)[i].exit_ns);
        const std::uint64_t came_from = i == 0 ? 0 : ranks.collectives(r)[i - 1].exit_ns;
        EXPECT_GE(ranks.collectives(r)[i].entry_ns, came_from);
      }
      EXPECT_GE(ranks.collectives(0)[i].exit_ns, last_entry);
    }
    broadcast_ns = ranks.rank(0).output_ready_ns;
  }
}

TEST(RankTimelines, StampsOfARank_NeverGoBack) {
  for (const std::uint32_t collectives : {0u, 2u}) {
    RankTimelines ranks(1, 0, 3, collectives);
    std::vector<std::uint64_t> ready(3, 0);
    for (std::uint64_t step = 0; step < 2000; ++step) {
      ranks.advance(StepTimeModel{}, step, ready[0], cost_of({.decode_seqs = 1}));
      for (std::uint32_t r = 0; r < 3; ++r) {
        const RankStepTimes& times = ranks.rank(r);
        EXPECT_GE(times.dequeued_ns, ready[r]);
        EXPECT_GE(times.entered_ns, times.dequeued_ns);
        EXPECT_GT(times.launched_ns, times.entered_ns);
        EXPECT_GT(times.forward_end_ns, times.launched_ns);
        EXPECT_GT(times.output_ready_ns, times.forward_end_ns);
        ready[r] = times.output_ready_ns;
      }
    }
  }
}

TEST(RankTimelines, TwoCopiesFedTheSameSteps_Agree) {
  RankTimelines one(9, 2, 4, 2);
  RankTimelines two(9, 2, 4, 2);
  RankTimelines other_seed(10, 2, 4, 2);
  bool differs = false;
  for (std::uint64_t step = 0; step < 50; ++step) {
    const StepCost cost = cost_of({.prefill_tokens = 100 * step});
    for (RankTimelines* ranks : {&one, &two, &other_seed}) {
      ranks->advance(StepTimeModel{}, step, step * 1'000'000'000, cost);
    }
    for (std::uint32_t r = 0; r < 4; ++r) {
      EXPECT_EQ(one.rank(r).output_ready_ns, two.rank(r).output_ready_ns);
      differs |= one.rank(r).output_ready_ns != other_seed.rank(r).output_ready_ns;
    }
  }
  EXPECT_TRUE(differs);
}

TEST(RankTimelines, NoRank_IsLastMuchMoreOftenThanOthers) {
  RankTimelines ranks(3, 0, 4, 1);
  int last[4] = {};
  for (std::uint64_t step = 0; step < 4000; ++step) {
    ranks.advance(StepTimeModel{}, step, step * 1'000'000'000, cost_of({.decode_seqs = 1}));
    std::uint32_t latest = 0;
    for (std::uint32_t r = 1; r < 4; ++r) {
      if (ranks.collectives(r)[0].entry_ns > ranks.collectives(latest)[0].entry_ns) latest = r;
    }
    ++last[latest];
  }
  for (const int count : last) EXPECT_NEAR(count, 1000, 150);
}

TEST(Jitter, Stretch_IsBoundedAndSometimesStalls) {
  const Jitter jitter(1, 0, 0);
  constexpr std::uint64_t kDuration = 10'000'000;
  int stalls = 0;
  std::uint64_t total = 0;
  for (std::uint64_t step = 0; step < 20'000; ++step) {
    const std::uint64_t stretched = jitter.stretched_ns(kDuration, step, Jitter::kPrepare);
    EXPECT_GE(stretched, kDuration);
    EXPECT_LE(stretched, kDuration + kDuration / 50 + 2'000'000);
    stalls += stretched > kDuration + kDuration / 50;
    total += stretched;
  }
  EXPECT_GT(stalls, 5);
  EXPECT_LT(stalls, 40);
  EXPECT_NEAR(static_cast<double>(total) / 20'000 / kDuration, 1.01, 0.001);
}

TEST(StepCost, MoreWork_TakesLonger) {
  const auto forward = [](const StepWork& work) { return cost_of(work).forward_ns; };
  const std::uint64_t idle = forward({.decode_seqs = 1});
  EXPECT_GT(forward({.decode_seqs = 2}), idle);
  EXPECT_GT(forward({.decode_seqs = 1, .decode_context_tokens = 9000}), idle);
  EXPECT_GT(forward({.prefill_tokens = 500}), idle);
  EXPECT_GT(forward({.prefill_tokens = 500, .prefill_token_pairs = 500 * 9000}),
            forward({.prefill_tokens = 500}));
}

TEST(PaddedTokens, DecodeStep_IsPaddedToTheNextCapturedSize) {
  const auto padded = [](std::uint64_t decodes) { return padded_tokens({.decode_seqs = decodes}); };
  EXPECT_EQ(padded(1), 0u);
  EXPECT_EQ(padded(2), 0u);
  EXPECT_EQ(padded(3), 1u);
  EXPECT_EQ(padded(4), 0u);
  EXPECT_EQ(padded(5), 3u);
  EXPECT_EQ(padded(8), 0u);
  EXPECT_EQ(padded(505), 7u);
  EXPECT_EQ(padded(513), 0u);
  EXPECT_EQ(padded_tokens({.prefill_tokens = 1, .decode_seqs = 3}), 0u);
}

}  // namespace
}  // namespace rankbus::simulator
