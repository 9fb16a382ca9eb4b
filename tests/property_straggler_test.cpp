// Goal:   a member is named only where chance does not explain that it comes late so often, and
//         then it is the right one; even members are never named, in hours.
// Method: steps of members whose arrivals have log-normal noise with a median of 150 us and 1 ms at
//         90 % (as measured in vLLM's RFC 52777), on a clock that nobody waits for; one of them
//         late by a constant. Tail probabilities against exact sums of rational terms.
// Replay: RANKBUS_TEST_SEED=<printed> property_straggler_test [--gtest_filter=...]
#include <array>
#include <cmath>
#include <random>
#include <rankbus/aggregator/arrivals/arrival_tally.hpp>
#include <rankbus/aggregator/arrivals/straggler_test.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::StragglerTest;
using rankbus::StragglerVerdict;

// Pascal's triangle, in doubles: exact enough below 1e15.
double tail_by_counting(unsigned k, unsigned n, unsigned one_in) {
  std::vector<double> row(n + 1, 0);
  row[0] = 1;
  for (unsigned i = 0; i < n; ++i) {
    for (unsigned j = i + 1; j > 0; --j) {
      row[j] = row[j] * (one_in - 1) / one_in + row[j - 1] / one_in;
    }
    row[0] = row[0] * (one_in - 1) / one_in;
  }
  double sum = 0;
  for (unsigned j = n + 1; j-- > k;) sum += row[j];
  return sum;
}

TEST(BinomialTail, AnyCounts_IsTheSumOfItsTerms) {
  for (const unsigned one_in : {2u, 3u, 8u, 16u}) {
    for (const unsigned n : {1u, 2u, 10u, 64u, 300u}) {
      for (unsigned k = 0; k <= n; ++k) {
        const double expected = tail_by_counting(k, n, one_in);
        if (expected < 1e-280) continue;  // Below, a double has fewer digits.
        EXPECT_NEAR(rankbus::binomial_tail(k, n, 1.0 / one_in), expected, 1e-9 * expected)
            << k << " of " << n << ", one in " << one_in;
      }
    }
  }
}

// Steps of an engine whose members come with noise.
class Engine {
 public:
  Engine(std::uint32_t members, std::int64_t step_ns, std::uint64_t seed)
      : members_(members), step_ns_(step_ns), random_(seed), test_(members) {}

  StragglerTest& test() { return test_; }
  std::int64_t now_ns() const { return now_ns_; }

  // Runs for some time, one member late by `delay_ns` in each step; returns how many windows had a
  // verdict, and whether it was always that one.
  struct Outcome {
    std::uint64_t windows = 0;
    std::uint64_t named = 0;
    std::uint64_t named_another = 0;
  };
  Outcome run(std::int64_t duration_ns, std::uint32_t late, std::int64_t delay_ns) {
    Outcome outcome;
    std::vector<std::int64_t> arrivals(members_);
    std::vector<std::uint64_t> critical(members_);
    const std::int64_t end = now_ns_ + duration_ns;
    std::int64_t next_look = now_ns_ + 11'000'000'000;
    while (now_ns_ < end) {
      for (std::uint32_t place = 0; place < members_; ++place) {
        arrivals[place] =
            now_ns_ + static_cast<std::int64_t>(noise_(random_)) + (place == late ? delay_ns : 0);
      }
      const rankbus::JoinCost cost = rankbus::cost_of(arrivals);
      std::fill(critical.begin(), critical.end(), 0);
      critical[cost.last] = cost.critical_ns;
      now_ns_ = arrivals[cost.last] + step_ns_;
      test_.add(now_ns_, critical);
      if (now_ns_ < next_look) continue;
      next_look += 1'000'000'000;
      ++outcome.windows;
      if (const auto& verdict = test_.verdict()) {
        (verdict->place == late ? outcome.named : outcome.named_another) += 1;
      }
    }
    return outcome;
  }

 private:
  std::uint32_t members_;
  std::int64_t step_ns_;
  std::mt19937_64 random_;
  // A median of 150 us, and 1 ms at 90 %.
  std::lognormal_distribution<double> noise_{std::log(150e3), std::log(1000.0 / 150) / 1.28155};
  StragglerTest test_;
  std::int64_t now_ns_ = 0;
};

TEST(Straggler, EvenMembersForHours_NobodyIsNamed) {
  const std::uint64_t seed = test_seed();
  for (const std::uint32_t members : {2u, 3u, 8u, 16u}) {
    Engine engine(members, 25'000'000, seed + members);
    const auto outcome =
        engine.run(static_cast<std::int64_t>(scaled(36'000)) * 1'000'000'000, members, 0);
    EXPECT_GT(outcome.windows, 0u);
    EXPECT_EQ(outcome.named_another, 0u) << members << " members";
  }
}

// C-36
TEST(Straggler, OneLateMember_IsNamedAndNobodyElse) {
  const std::uint64_t seed = test_seed() + 1;
  for (const std::uint32_t members : {2u, 4u, 8u, 16u}) {
    Engine engine(members, 25'000'000, seed + members);
    const auto outcome = engine.run(60'000'000'000, members / 2, 5'000'000);
    EXPECT_EQ(outcome.named, outcome.windows) << members << " members";
    EXPECT_EQ(outcome.named_another, 0u);
  }
}

TEST(Straggler, LatenessEnds_VerdictIsTakenBackAndItsBeginningWasKept) {
  Engine engine(4, 25'000'000, test_seed() + 2);
  EXPECT_EQ(engine.run(30'000'000'000, 4, 0).named_another, 0u);
  const std::int64_t begin_ns = engine.now_ns();
  engine.run(60'000'000'000, 3, 5'000'000);
  ASSERT_TRUE(engine.test().verdict().has_value());
  EXPECT_EQ(engine.test().verdict()->place, 3u);
  EXPECT_GT(engine.test().verdict()->since_ns, begin_ns);
  EXPECT_LT(engine.test().verdict()->since_ns, begin_ns + 12'000'000'000);
  engine.run(30'000'000'000, 4, 0);
  EXPECT_FALSE(engine.test().verdict().has_value());
}

// Always the last, by a microsecond: true, and of no interest to anybody.
TEST(Straggler, LatenessThatCostsNothing_IsNotNamed) {
  StragglerTest test(2);
  const std::array<std::uint64_t, 2> critical = {0, 1'000};
  for (std::int64_t n = 0; n < 5000; ++n) test.add(n * 10'000'000, critical);
  EXPECT_FALSE(test.verdict().has_value());
}

// Ten steps in ten seconds prove nothing of two members; a minute of them does.
TEST(Straggler, SlowSteps_AreWatchedForLongerThanAWindow) {
  StragglerTest test(2);
  const std::array<std::uint64_t, 2> critical = {0, 300'000'000};
  std::int64_t n = 0;
  for (; n < 30; ++n) test.add(n * 1'500'000'000, critical);
  EXPECT_FALSE(test.verdict().has_value());
  for (; n < 90; ++n) test.add(n * 1'500'000'000, critical);
  ASSERT_TRUE(test.verdict().has_value());
  EXPECT_EQ(test.verdict()->place, 1u);
  EXPECT_NEAR(test.verdict()->cost(), 0.2, 0.02);
}

// Where two come last together, nobody is the one.
TEST(Straggler, PairsThatComeLastTogether_HaveNoVote) {
  StragglerTest test(4);
  const std::array<std::uint64_t, 4> critical = {0, 0, 5'000'000, 5'000'000};
  for (std::int64_t n = 0; n < 5000; ++n) test.add(n * 10'000'000, critical);
  EXPECT_FALSE(test.verdict().has_value());
}

}  // namespace
}  // namespace bus_test
