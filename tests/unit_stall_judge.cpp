// Goal:   a verdict about a rank that does not move says what its status words prove, in the order
//         of how much they prove, and no more; what may take its time is never called stalled.
// Method: ranks at every kind of place, on a clock that the test sets.
// Replay: unit_stall_judge [--gtest_filter=...]
#include <rankbus/aggregator/arrivals/stall_judge.hpp>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::EngineProgress;
using rankbus::Phase;
using rankbus::ProcessState;
using rankbus::RankPlace;
using rankbus::RankSight;
using rankbus::RankState;
using rankbus::RankVerdict;
using rankbus::StallConfig;
using rankbus::StallReason;

constexpr std::int64_t kSecond = 1'000'000'000;

RankSight at(std::uint32_t step, std::uint16_t ordinal, Phase phase) {
  RankSight sight;
  sight.place = {step, 0, ordinal, phase};
  sight.has_said_anything = true;
  return sight;
}
RankSight inside(std::uint32_t step, std::uint16_t ordinal) {
  return at(step, ordinal, Phase::in_collective);
}

struct Case {
  std::vector<RankSight> ranks;
  EngineProgress progress{true, kSecond};
  std::int64_t now_ns = 2 * kSecond;

  std::vector<RankVerdict> verdicts() const {
    return rankbus::judge_stalls(ranks, progress, now_ns);
  }
};

TEST(StallJudge, WordOfAStatusLine_IsTakenApartAsTheLayoutSays) {
  EXPECT_EQ(rankbus::place_of(0x0000'00cc'03ab'cd05),
            (RankPlace{0xcc, 3, 0xabcd, Phase::in_collective}));
}

// C-36
TEST(StallJudge, OneBeforeTheCollectiveThatOthersAreIn_IsNamedWithIt) {
  const Case before{{inside(7, 3), at(7, 2, Phase::left_collective), inside(7, 3), inside(7, 3)}};
  const auto verdicts = before.verdicts();
  EXPECT_EQ(verdicts[1].state, RankState::lagging);
  EXPECT_EQ(verdicts[1].reason, StallReason::before_collective);
  EXPECT_EQ(verdicts[1].peers, 3u);
  EXPECT_EQ(rankbus::text_of(verdicts[1]),
            "has not entered collective 3 of group 0 in step 7; 3 peers are in it");
  for (const int other : {0, 2, 3}) {
    EXPECT_EQ(verdicts[static_cast<std::size_t>(other)].state, RankState::ok);
    EXPECT_EQ(verdicts[static_cast<std::size_t>(other)].reason, StallReason::waiting_for_peer);
  }
}

TEST(StallJudge, OneAStepBehind_IsNamedWhateverItSaysItDoes) {
  for (const Phase phase : {Phase::waiting, Phase::preparing, Phase::forward, Phase::sampling,
                            Phase::waiting_output, Phase::unknown}) {
    const Case behind{{at(6, 8, phase), inside(7, 0)}};
    const auto verdicts = behind.verdicts();
    EXPECT_EQ(verdicts[0].state, RankState::lagging);
    EXPECT_EQ(verdicts[0].reason, StallReason::before_collective);
  }
}

TEST(StallJudge, OneInsideThatOthersHaveLeft_IsNamed) {
  const Case left{
      {inside(7, 3), at(7, 3, Phase::left_collective), inside(7, 4), at(8, 0, Phase::preparing)}};
  const auto verdicts = left.verdicts();
  EXPECT_EQ(verdicts[0].reason, StallReason::inside_collective);
  EXPECT_EQ(verdicts[0].peers, 3u);
  EXPECT_EQ(verdicts[0].state, RankState::lagging);
}

TEST(StallJudge, AllInsideAndNoneLeft_NamesTheCollectiveAndNoRank) {
  const Case all{{inside(7, 3), inside(7, 3), inside(7, 3)}};
  for (const RankVerdict& verdict : all.verdicts()) {
    EXPECT_EQ(verdict.reason, StallReason::all_inside);
    EXPECT_EQ(verdict.at, (RankPlace{7, 0, 3, Phase::in_collective}));
    EXPECT_NE(rankbus::text_of(verdict).find("no rank can be named"), std::string::npos);
  }
}

TEST(StallJudge, WithoutCollectivesToTell_TheCauseIsNotVisible) {
  const Case graph{{at(7, 0, Phase::waiting_output), at(7, 0, Phase::waiting_output)}};
  for (const RankVerdict& verdict : graph.verdicts()) {
    EXPECT_EQ(verdict.state, RankState::lagging);
    EXPECT_EQ(verdict.reason, StallReason::not_visible);
  }
}

TEST(StallJudge, NothingToDo_IsIdle) {
  Case idle{{at(7, 0, Phase::waiting), at(7, 0, Phase::waiting)}};
  idle.now_ns = 3600 * kSecond;
  for (const RankVerdict& verdict : idle.verdicts()) EXPECT_EQ(verdict.state, RankState::idle);
}

TEST(StallJudge, ProcessThatIsGone_IsThatBeforeAllElse) {
  Case gone{{inside(7, 3), inside(7, 3), inside(7, 3), at(7, 2, Phase::forward)}};
  gone.ranks[0].process = ProcessState::dead;
  gone.ranks[1].process = ProcessState::dumping_core;
  gone.ranks[3].process = ProcessState::stopped;
  const auto verdicts = gone.verdicts();
  EXPECT_EQ(verdicts[0].state, RankState::dead);
  EXPECT_EQ(verdicts[1].state, RankState::dead);
  EXPECT_EQ(verdicts[1].reason, StallReason::dumping_core);
  EXPECT_EQ(verdicts[3].state, RankState::stopped);
  EXPECT_EQ(verdicts[2].reason, StallReason::waiting_for_peer);
}

TEST(StallJudge, OneThatMoves_IsOk) {
  Case moves{{inside(7, 3), at(7, 2, Phase::forward)}};
  moves.ranks[1].unchanged_since_ns = moves.now_ns - 100'000'000;
  EXPECT_EQ(
      moves.verdicts()[1],
      (RankVerdict{RankState::ok, StallReason::none, 0, {}, moves.ranks[1].unchanged_since_ns}));
}

TEST(StallJudge, OneThatWritesNoStatus_IsNeverBlamed) {
  Case silent{{inside(7, 3), {}, inside(7, 3)}};
  silent.now_ns = 3600 * kSecond;
  const auto verdicts = silent.verdicts();
  EXPECT_EQ(verdicts[1].state, RankState::ok);
  // It may be anywhere, so that not all are known to be inside.
  EXPECT_EQ(verdicts[0].reason, StallReason::waiting_for_peer);
}

TEST(StallJudge, LaggingBecomesStalled_AfterALongTimeForThisEngine) {
  Case stuck{{inside(7, 3), at(7, 2, Phase::forward)}};
  stuck.now_ns = 60 * kSecond - 1;
  EXPECT_EQ(stuck.verdicts()[1].state, RankState::lagging);
  stuck.now_ns = 60 * kSecond;
  EXPECT_EQ(stuck.verdicts()[1].state, RankState::stalled);
  EXPECT_EQ(stuck.verdicts()[0].state, RankState::ok) << "it waits";

  stuck.progress.longest_step_ns = 70 * kSecond;  // As one did that was well.
  stuck.now_ns = 209 * kSecond;
  EXPECT_EQ(stuck.verdicts()[1].state, RankState::lagging);
  stuck.now_ns = 210 * kSecond;
  EXPECT_EQ(stuck.verdicts()[1].state, RankState::stalled);
}

TEST(StallJudge, StartSleepCompilationAndReload_AreNeverStalled) {
  for (const Phase phase : {Phase::starting, Phase::compiling, Phase::sleeping, Phase::reloading}) {
    Case slow{{inside(7, 3), at(7, 2, phase)}};
    slow.now_ns = 3600 * kSecond;
    for (const RankVerdict& verdict : slow.verdicts()) {
      EXPECT_NE(verdict.state, RankState::stalled);
    }
  }
  Case first{{inside(0, 3), at(0, 2, Phase::forward)}};
  first.progress = {};
  first.now_ns = 3600 * kSecond;
  for (const RankVerdict& verdict : first.verdicts()) {
    EXPECT_NE(verdict.state, RankState::stalled);
  }
}

TEST(StallJudge, OrdinalsThatWrap_AreStillInOrder) {
  const Case wraps{{inside(7, 2), at(7, 0xfffe, Phase::left_collective)}};
  EXPECT_EQ(wraps.verdicts()[1].reason, StallReason::before_collective);
  EXPECT_EQ(wraps.verdicts()[0].reason, StallReason::waiting_for_peer);
}

// Whatever the words are: a rank is named only if a peer's word shows that it waits for it.
TEST(StallJudge, AnyWords_NameNobodyWithoutAPeerThatWaits) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(20'000); ++round) {
    Case any;
    any.now_ns = 3600 * kSecond;
    for (std::uint64_t n = 2 + dice.below(6); n > 0; --n) {
      const bool wild = dice.below(10) == 0;
      RankSight sight = at(static_cast<std::uint32_t>(7 + dice.below(2)),
                           static_cast<std::uint16_t>(dice.below(3)),
                           static_cast<Phase>(wild ? dice.below(256) : dice.below(12)));
      sight.place.group = dice.below(8) == 0 ? 1 : 0;
      any.ranks.push_back(sight);
    }
    const auto verdicts = any.verdicts();
    for (std::size_t n = 0; n < verdicts.size(); ++n) {
      const RankVerdict& verdict = verdicts[n];
      if (verdict.reason != StallReason::before_collective) continue;
      std::uint32_t waiting = 0;
      for (std::size_t other = 0; other < verdicts.size(); ++other) {
        const RankPlace& place = any.ranks[other].place;
        waiting += other != n && place.phase == Phase::in_collective && place == verdict.at ? 1 : 0;
      }
      EXPECT_EQ(waiting, verdict.peers);
      EXPECT_GT(waiting, 0u);
      EXPECT_NE(any.ranks[n].place.phase, Phase::in_collective);
    }
  }
}

}  // namespace
}  // namespace bus_test
