// Goal:   who kept whom waiting is what a brute-force oracle says of the true entries, to the
//         nanosecond, whatever was lost, read late or out of order; and nobody is ever charged for
//         a collective that somebody's record of was lost.
// Method: seeded histories of collectives of 2 to 16 members, each with its true entry; records are
//         dropped, members die and are replaced, one member's records are read long before
//         another's. The oracle sorts the entries of each collective that everybody told.
// Replay: RANKBUS_TEST_SEED=<printed> property_group_joins [--gtest_filter=...]
#include <algorithm>
#include <map>
#include <rankbus/aggregator/arrivals/collective_arrivals.hpp>
#include <rankbus/aggregator/arrivals/step_arrivals.hpp>
#include <set>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::ArrivalTally;
using rankbus::CollectiveArrivals;
using rankbus::JoinCost;
using rankbus::JoinCounts;
using rankbus::Missing;
using rankbus::Passage;
using rankbus::StepArrivals;
using rankbus::StepPassage;

std::uint64_t missing(const JoinCounts& counts, Missing why) {
  return counts.missing[static_cast<std::size_t>(why)];
}

constexpr std::int64_t kLongAgo = std::numeric_limits<std::int64_t>::min();

struct Told {
  std::uint64_t ordinal = 0;
  Passage passage;
};

// One life of a group: what each member tells, in its order, and what of it was all told.
struct Life {
  std::vector<std::vector<Told>> by_member;
  std::map<std::uint64_t, std::vector<std::int64_t>> complete;  // Entries by place.
  std::uint64_t joins = 0;                                      // Of which anybody may know.
};

Life random_life(Dice& dice, std::uint32_t members, std::uint64_t collectives,
                 std::int64_t& now_ns) {
  Life life;
  life.by_member.resize(members);
  std::vector<std::uint64_t> lost_until(members, 0);
  std::uint64_t end = 0;
  for (std::uint64_t ordinal = 0; ordinal < collectives; ++ordinal) {
    std::vector<std::int64_t> entries(members);
    std::int64_t last = 0;
    for (std::int64_t& entry : entries) {
      // Equal arrivals happen, and a long wait now and then.
      entry =
          now_ns + static_cast<std::int64_t>(
                       dice.below(4) == 0 ? 0 : dice.below(dice.below(50) == 0 ? 3'000'000 : 9));
      last = std::max(last, entry);
    }
    bool all = true;
    for (std::uint32_t place = 0; place < members; ++place) {
      if (dice.below(200) == 0) lost_until[place] = ordinal + 1 + dice.below(20);
      if (ordinal < lost_until[place]) {
        all = false;
        continue;
      }
      const bool exit_is_known = dice.below(8) != 0;
      life.by_member[place].push_back(
          {ordinal,
           {entries[place], exit_is_known ? last + static_cast<std::int64_t>(dice.below(5000))
                                          : Passage::kUnknown}});
      end = ordinal + 1;
    }
    if (all) life.complete[ordinal] = std::move(entries);
    now_ns = last + 10'000;
  }
  life.joins = end;
  return life;
}

// Reads a life, each member in its order, the members in any; `settle` after each pass.
void read(Dice& dice, const Life& life, rankbus::GroupJoins<Passage>& joins) {
  std::vector<std::size_t> next(life.by_member.size(), 0);
  for (bool more = true; more;) {
    more = false;
    std::vector<std::uint32_t> order(next.size());
    for (std::uint32_t place = 0; place < order.size(); ++place) order[place] = place;
    for (std::size_t n = order.size(); n > 1; --n) std::swap(order[n - 1], order[dice.below(n)]);
    for (const std::uint32_t place : order) {
      const auto& told = life.by_member[place];
      const std::size_t batch = dice.below(dice.below(5) == 0 ? 3000 : 40);
      for (std::size_t n = 0; n < batch && next[place] < told.size(); ++n, ++next[place]) {
        const Told& each = told[next[place]];
        joins.observe(place, static_cast<std::uint32_t>(each.ordinal), each.passage);
        if (dice.below(100) == 0) {
          joins.observe(place, static_cast<std::uint32_t>(each.ordinal), each.passage);
        }
      }
      more = more || next[place] < told.size();
    }
    joins.settle();
  }
}

// The definition, without any of the code under test: the entries in order.
void charge_by_oracle(const std::vector<std::int64_t>& entries,
                      std::vector<ArrivalTally>& tallies) {
  std::vector<std::pair<std::int64_t, std::uint32_t>> order;
  for (std::uint32_t place = 0; place < entries.size(); ++place) {
    order.emplace_back(entries[place], entries.size() - place);
  }
  std::sort(order.begin(), order.end());
  const std::int64_t last = order.back().first;
  const std::size_t blamed = entries.size() - order.back().second;
  std::int64_t waits = 0;
  for (std::uint32_t place = 0; place < entries.size(); ++place) {
    tallies[place].joins += 1;
    tallies[place].own_wait_ns += static_cast<std::uint64_t>(last - entries[place]);
    waits += last - entries[place];
  }
  tallies[blamed].imposed_wait_ns += static_cast<std::uint64_t>(waits);
  tallies[blamed].critical_ns += static_cast<std::uint64_t>(last - order[order.size() - 2].first);
  tallies[blamed].last_arrivals += last != order[order.size() - 2].first ? 1 : 0;
}

// C-36
TEST(GroupJoins, AnyHistory_IsWhatTheOracleSays) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(60); ++round) {
    const auto members = static_cast<std::uint32_t>(2 + dice.below(15));
    std::uint64_t calls = 0;
    CollectiveArrivals arrivals(members, [&](std::uint64_t, auto entries, const JoinCost&) {
      ++calls;
      EXPECT_EQ(entries.size(), members);
    });
    auto& joins = arrivals.joins();
    std::vector<ArrivalTally> expected(members);
    std::uint64_t complete = 0, all = 0;
    std::int64_t now_ns = 1'000'000'000;
    for (std::uint64_t lives = 1 + dice.below(3); lives > 0; --lives) {
      const std::int64_t started_ns = now_ns;
      const Life life = random_life(dice, members, 1 + dice.below(1500), now_ns);
      for (std::uint32_t place = 0; place < members; ++place) joins.enter(place, started_ns);
      read(dice, life, joins);
      for (std::uint32_t place = 0; place < members; ++place) joins.leave(place);
      joins.settle();
      for (const auto& [ordinal, entries] : life.complete) charge_by_oracle(entries, expected);
      complete += life.complete.size();
      all += life.joins;
    }
    ASSERT_EQ(arrivals.ledger().tallies, expected) << "round " << round;
    EXPECT_EQ(joins.counts().complete, complete);
    EXPECT_EQ(calls, complete);
    // What nobody told before the first one that anybody did is known to nobody.
    EXPECT_LE(joins.counts().complete + joins.counts().partial, all);
    EXPECT_GE(joins.counts().complete + joins.counts().partial + 25 * 3, all);
    EXPECT_EQ(arrivals.not_together(), 0u);
    EXPECT_EQ(missing(joins.counts(), Missing::late), 0u);
    EXPECT_EQ(joins.pending(), 0u);
  }
}

// The sum of all waits is told from both sides.
TEST(GroupJoins, WaitsOfAll_AreTheWaitsImposedByAll) {
  Dice dice(test_seed() + 1);
  for (std::uint64_t round = 0; round < scaled(50); ++round) {
    const auto members = static_cast<std::uint32_t>(2 + dice.below(15));
    CollectiveArrivals arrivals(members);
    auto& joins = arrivals.joins();
    std::int64_t now_ns = 0;
    const Life life = random_life(dice, members, 500, now_ns);
    for (std::uint32_t place = 0; place < members; ++place) joins.enter(place, kLongAgo);
    read(dice, life, joins);
    joins.finish();
    ArrivalTally sum;
    for (const ArrivalTally& tally : arrivals.ledger().tallies) sum.aggregate(tally);
    EXPECT_EQ(sum.own_wait_ns, sum.imposed_wait_ns);
    EXPECT_LE(sum.last_arrivals, joins.counts().complete);
    EXPECT_EQ(arrivals.ledger().skew.count(), joins.counts().complete);
    EXPECT_EQ(sum.joins, joins.counts().complete * members);
    EXPECT_LE(sum.critical_ns, sum.imposed_wait_ns);
  }
}

// Members that are replaced one by one, each before the others' tails were read: whatever is joined
// with whom, nobody is charged for entries that were not one collective.
TEST(GroupJoins, MembersReplacedOneByOne_ChargeForTrueJoinsOnly) {
  Dice dice(test_seed() + 2);
  std::uint64_t right = 0;
  for (std::uint64_t round = 0; round < scaled(60); ++round) {
    const auto members = static_cast<std::uint32_t>(2 + dice.below(7));
    std::set<std::vector<std::int64_t>> possible;
    std::uint64_t wrong = 0;
    CollectiveArrivals arrivals(members, [&](std::uint64_t, auto entries, const JoinCost&) {
      wrong += possible.count({entries.begin(), entries.end()}) == 0 ? 1 : 0;
    });
    auto& joins = arrivals.joins();
    std::int64_t now_ns = 1'000'000'000;
    std::vector<std::vector<Told>> tails(members);
    for (int lives = 0; lives < 3; ++lives) {
      const std::int64_t started_ns = now_ns;
      const Life life = random_life(dice, members, 20 + dice.below(200), now_ns);
      for (const auto& [ordinal, entries] : life.complete) possible.insert(entries);
      for (std::uint32_t place = 0; place < members; ++place) {
        // The one before it in this place was read to its end; those in later places were not.
        for (const Told& told : tails[place]) {
          joins.observe(place, static_cast<std::uint32_t>(told.ordinal), told.passage);
        }
        joins.leave(place);
        joins.settle();
        joins.enter(place, started_ns);
        const auto& all = life.by_member[place];
        const std::size_t now = dice.below(all.size() + 1);
        for (std::size_t n = 0; n < now; ++n) {
          joins.observe(place, static_cast<std::uint32_t>(all[n].ordinal), all[n].passage);
        }
        tails[place].assign(all.begin() + static_cast<std::ptrdiff_t>(now), all.end());
        joins.settle();
      }
    }
    EXPECT_EQ(wrong, 0u);
    right += joins.counts().complete;
  }
  EXPECT_GT(right, 0u);
}

TEST(GroupJoins, LostRecordOfOneMember_ChargesNobody) {
  CollectiveArrivals arrivals(2);
  auto& joins = arrivals.joins();
  joins.enter(0, kLongAgo);
  joins.enter(1, kLongAgo);
  for (std::uint32_t ordinal = 0; ordinal < 10; ++ordinal) {
    joins.observe(0, ordinal, {ordinal * 100, ordinal * 100 + 90});
    if (ordinal != 4) joins.observe(1, ordinal, {ordinal * 100 + 50, ordinal * 100 + 90});
  }
  joins.settle();
  EXPECT_EQ(joins.counts().complete, 9u);
  EXPECT_EQ(joins.counts().partial, 1u);
  EXPECT_EQ(missing(joins.counts(), Missing::lost), 1u);
  EXPECT_EQ(arrivals.ledger().tallies[1].imposed_wait_ns, 9u * 50);
  EXPECT_DOUBLE_EQ(joins.counts().coverage(), 0.9);
}

TEST(GroupJoins, MemberThatNeverWrote_HoldsNothingBackForEver) {
  CollectiveArrivals arrivals(3);
  auto& joins = arrivals.joins();
  joins.enter(0, kLongAgo);
  joins.enter(1, kLongAgo);
  const std::int64_t second = 1'000'000'000;
  for (std::uint32_t ordinal = 0; ordinal < 30; ++ordinal) {
    joins.observe(0, ordinal, {ordinal * second, ordinal * second + 5});
    joins.observe(1, ordinal, {ordinal * second, ordinal * second + 5});
    joins.settle();
  }
  EXPECT_EQ(joins.counts().complete, 0u);
  EXPECT_EQ(missing(joins.counts(), Missing::never_wrote), joins.counts().partial);
  EXPECT_EQ(joins.counts().partial + joins.pending(), 30u);
  EXPECT_EQ(joins.pending(), 11u) << "as long as its patience lasts";
}

TEST(GroupJoins, OneLeftBeforeAnotherEntered_IsNoCollective) {
  CollectiveArrivals arrivals(2);
  auto& joins = arrivals.joins();
  joins.enter(0, kLongAgo);
  joins.enter(1, kLongAgo);
  joins.observe(0, 0, {0, 1'000'000});
  joins.observe(1, 0, {5'000'000, 6'000'000});
  joins.settle();
  EXPECT_EQ(arrivals.not_together(), 1u);
  EXPECT_EQ(arrivals.ledger().tallies[1], ArrivalTally{});
}

TEST(GroupJoins, OrdinalsBeyond32Bits_GoOn) {
  CollectiveArrivals arrivals(2);
  auto& joins = arrivals.joins();
  joins.enter(0, kLongAgo);
  joins.enter(1, kLongAgo);
  std::uint64_t expected = 0;
  for (std::uint32_t n = 0, ordinal = 0xfffffff0; n < 100; ++n, ++ordinal) {
    for (std::uint32_t place = 0; place < 2; ++place) {
      joins.observe(place, ordinal, {n * 100 + place, n * 100 + 50});
    }
    ++expected;
    if (n % 7 == 0) joins.settle();
  }
  joins.settle();
  EXPECT_EQ(joins.counts().complete, expected);
  EXPECT_EQ(arrivals.ledger().tallies[1].last_arrivals, expected);
}

// The definition of lateness of a host, step by step, without any of the code under test.
TEST(StepArrivals, AnyHistory_ChargesWhatTheDevicesStoodDryFor) {
  Dice dice(test_seed() + 4);
  for (std::uint64_t round = 0; round < scaled(60); ++round) {
    const auto members = static_cast<std::uint32_t>(2 + dice.below(15));
    const std::size_t steps = 1 + dice.below(300);
    StepArrivals arrivals(members);
    for (std::uint32_t place = 0; place < members; ++place) arrivals.joins().enter(place, kLongAgo);
    std::vector<std::vector<StepPassage>> told(steps, std::vector<StepPassage>(members));
    std::int64_t now_ns = 0;
    for (auto& step : told) {
      const std::int64_t ready = now_ns + 5'000'000;
      const bool has_gaps = dice.below(4) != 0;
      for (StepPassage& each : step) {
        // Up to a whole step ahead of the device, or up to half a step late.
        each.entry_ns = now_ns - 5'000'000 + static_cast<std::int64_t>(dice.below(7'500'000));
        each.ready_ns = ready + static_cast<std::int64_t>(dice.below(100'000));
        if (has_gaps) each.gap_ns = static_cast<std::int64_t>(dice.below(1'000'000));
        if (dice.below(300) == 0) each = {};  // Lost.
      }
      now_ns = ready;
    }
    std::vector<std::size_t> next(members, 0);
    for (bool more = true; more;) {
      more = false;
      for (std::uint32_t place = 0; place < members; ++place) {
        for (std::uint64_t n = dice.below(30); n > 0 && next[place] < steps; --n, ++next[place]) {
          const StepPassage& each = told[next[place]][place];
          if (each == StepPassage{}) continue;
          arrivals.joins().observe(place, static_cast<std::uint32_t>(next[place]), each);
        }
        more = more || next[place] < steps;
      }
      arrivals.joins().settle();
    }
    arrivals.joins().finish();

    std::vector<ArrivalTally> host(members), device(members);
    const auto is_whole = [&](const std::vector<StepPassage>& step) {
      return std::count(step.begin(), step.end(), StepPassage{}) == 0;
    };
    for (std::size_t n = 0; n < steps; ++n) {
      if (!is_whole(told[n])) continue;
      std::vector<std::int64_t> gaps, entries;
      for (const StepPassage& each : told[n]) gaps.push_back(each.gap_ns);
      if (gaps[0] != StepPassage::kUnknown) charge_by_oracle(gaps, device);
      if (n == 0 || !is_whole(told[n - 1])) continue;
      std::int64_t dry = told[n - 1][0].ready_ns;
      for (const StepPassage& each : told[n - 1]) dry = std::min(dry, each.ready_ns);
      for (const StepPassage& each : told[n]) entries.push_back(std::max(each.entry_ns, dry));
      charge_by_oracle(entries, host);
    }
    ASSERT_EQ(arrivals.host().tallies, host) << "round " << round;
    ASSERT_EQ(arrivals.device().tallies, device) << "round " << round;
  }
}

// A host that is late while its device is still busy costs nobody anything.
TEST(StepArrivals, LateHostAheadOfItsDevice_IsChargedNothing) {
  for (const std::int64_t late_ns : {9'000'000, 11'000'000}) {
    StepArrivals arrivals(2);
    arrivals.joins().enter(0, kLongAgo);
    arrivals.joins().enter(1, kLongAgo);
    for (std::uint32_t step = 0; step < 100; ++step) {
      // Each launches a step ahead: 10 ms before its device is done with the one before.
      const std::int64_t launch = step * 10'000'000, ready = launch + 20'000'000;
      arrivals.joins().observe(0, step, {launch, ready, StepPassage::kUnknown});
      arrivals.joins().observe(1, step, {launch + late_ns, ready, StepPassage::kUnknown});
    }
    arrivals.joins().settle();
    const ArrivalTally& late = arrivals.host().tallies[1];
    EXPECT_EQ(late.imposed_wait_ns, late_ns > 10'000'000 ? 99u * 1'000'000 : 0u);
    EXPECT_EQ(late.last_arrivals, late_ns > 10'000'000 ? 99u : 0u);
    EXPECT_EQ(arrivals.host().tallies[0].imposed_wait_ns, 0u);
  }
}

// Ordinals and stamps are a stranger's.
TEST(GroupJoins, Malicious_OrdinalsAndStamps_EndAndStayBounded) {
  Dice dice(test_seed() + 3);
  for (std::uint64_t round = 0; round < scaled(20); ++round) {
    CollectiveArrivals arrivals(4);
    auto& joins = arrivals.joins();
    for (std::uint32_t place = 0; place < 4; ++place) joins.enter(place, kLongAgo);
    std::uint32_t ordinal = 0;
    for (std::uint64_t n = 0; n < 20'000; ++n) {
      const auto place = static_cast<std::uint32_t>(dice.below(4));
      if (dice.below(50) == 0) ordinal = static_cast<std::uint32_t>(dice.next());
      const auto entry = static_cast<std::int64_t>(dice.next());
      joins.observe(place, ordinal + static_cast<std::uint32_t>(dice.below(9)),
                    {entry, static_cast<std::int64_t>(dice.next())});
      if (dice.below(100) == 0) joins.settle();
      if (dice.below(1000) == 0) joins.enter(place, static_cast<std::int64_t>(dice.next()));
      if (dice.below(1000) == 0) joins.leave(place);
      ASSERT_LE(joins.pending(), rankbus::GroupJoins<Passage>::kMaxPending);
    }
    joins.finish();
    EXPECT_EQ(joins.pending(), 0u);
  }
}

}  // namespace
}  // namespace bus_test
