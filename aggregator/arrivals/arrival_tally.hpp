// aggregator/arrivals/arrival_tally.hpp: who kept whom waiting, and for how long.
//
// A collective ends for nobody before its last member has entered it, so all members' durations say
// the same and only their arrivals tell them apart. Of one set of arrivals: the last to arrive made
// every other member wait; of that, what fixing this one member alone would have saved is the time
// from the second-last arrival to the last. Where two came last together nobody was the last, and
// what the others waited is charged to the lower place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <span>
#include <vector>

namespace rankbus {

// Of one member, over all complete joins that it was in. Times are integer nanoseconds, so sums are
// exact; an imposed wait is in rank-nanoseconds.
struct ArrivalTally {
  std::uint64_t joins = 0;
  std::uint64_t own_wait_ns = 0;      // Until the last one came.
  std::uint64_t imposed_wait_ns = 0;  // The others' waits for this one, where it was the last.
  std::uint64_t critical_ns = 0;      // Where it was the last: after the second-last.
  std::uint64_t last_arrivals = 0;

  void aggregate(const ArrivalTally& other) {
    add_saturating(joins, other.joins);
    add_saturating(own_wait_ns, other.own_wait_ns);
    add_saturating(imposed_wait_ns, other.imposed_wait_ns);
    add_saturating(critical_ns, other.critical_ns);
    add_saturating(last_arrivals, other.last_arrivals);
  }
  bool is_empty() const { return joins == 0; }
  ReducedStats reduce() const {
    return {{"joins", joins},
            {"own_wait_ns", own_wait_ns},
            {"imposed_wait_ns", imposed_wait_ns},
            {"critical_ns", critical_ns},
            {"last_arrivals", last_arrivals}};
  }
  void reset() { *this = {}; }
  bool operator==(const ArrivalTally&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(joins, own_wait_ns, imposed_wait_ns, critical_ns, last_arrivals);
  }
};
static_assert(Accumulates<ArrivalTally>);

// What one complete join cost, and whose doing it was.
struct JoinCost {
  std::size_t last = 0;           // The place that it is charged to.
  std::uint64_t skew_ns = 0;      // From the first arrival to the last.
  std::uint64_t critical_ns = 0;  // From the second-last arrival to the last.
  std::uint64_t imposed_ns = 0;   // All waits together, in rank-nanoseconds.
};

// Of at least two arrivals, by place, on one clock.
inline JoinCost cost_of(std::span<const std::int64_t> arrivals_ns) {
  std::size_t last = 0, first = 0;
  for (std::size_t place = 1; place < arrivals_ns.size(); ++place) {
    if (arrivals_ns[place] > arrivals_ns[last]) last = place;
    if (arrivals_ns[place] < arrivals_ns[first]) first = place;
  }
  const auto since = [&](std::int64_t then) {
    return static_cast<std::uint64_t>(arrivals_ns[last]) - static_cast<std::uint64_t>(then);
  };
  JoinCost cost;
  cost.last = last;
  cost.skew_ns = since(arrivals_ns[first]);
  cost.critical_ns = cost.skew_ns;
  for (std::size_t place = 0; place < arrivals_ns.size(); ++place) {
    if (place == last) continue;
    const std::uint64_t wait = since(arrivals_ns[place]);
    add_saturating(cost.imposed_ns, wait);
    if (wait < cost.critical_ns) cost.critical_ns = wait;
  }
  return cost;
}

// Charges the members of one complete join, `tallies` by place. Returns what it cost.
inline JoinCost charge(std::span<const std::int64_t> arrivals_ns, std::span<ArrivalTally> tallies) {
  const JoinCost cost = cost_of(arrivals_ns);
  for (std::size_t place = 0; place < arrivals_ns.size(); ++place) {
    ArrivalTally& tally = tallies[place];
    ++tally.joins;
    add_saturating(tally.own_wait_ns, static_cast<std::uint64_t>(arrivals_ns[cost.last]) -
                                          static_cast<std::uint64_t>(arrivals_ns[place]));
  }
  ArrivalTally& last = tallies[cost.last];
  add_saturating(last.imposed_wait_ns, cost.imposed_ns);
  add_saturating(last.critical_ns, cost.critical_ns);
  if (cost.critical_ns > 0) ++last.last_arrivals;
  return cost;
}

// Times from the first arrival to the last, of one engine and kind of group.
struct SkewHistogram {
  // In nanoseconds, upper bounds inclusive: from what a fabric needs to a step lost.
  static constexpr std::array<std::uint64_t, 15> kBounds_ns = {
      10'000,     25'000,     50'000,      100'000,     250'000,
      500'000,    1'000'000,  2'500'000,   5'000'000,   10'000'000,
      25'000'000, 50'000'000, 100'000'000, 250'000'000, 1'000'000'000};

  std::array<std::uint64_t, kBounds_ns.size() + 1> cells{};
  std::uint64_t sum_ns = 0;

  void observe(std::uint64_t skew_ns) {
    std::size_t cell = 0;
    while (cell < kBounds_ns.size() && skew_ns > kBounds_ns[cell]) ++cell;
    ++cells[cell];
    add_saturating(sum_ns, skew_ns);
  }
  void aggregate(const SkewHistogram& other) {
    for (std::size_t n = 0; n < cells.size(); ++n) add_saturating(cells[n], other.cells[n]);
    add_saturating(sum_ns, other.sum_ns);
  }
  std::uint64_t count() const {
    std::uint64_t all = 0;
    for (const std::uint64_t cell : cells) add_saturating(all, cell);
    return all;
  }
  bool is_empty() const { return count() == 0; }
  ReducedStats reduce() const { return {{"joins", count()}, {"skew_ns", sum_ns}}; }
  void reset() { *this = {}; }
  bool operator==(const SkewHistogram&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(cells, sum_ns);
  }
};
static_assert(Accumulates<SkewHistogram>);

// The account of one group under one kind of evidence.
struct ArrivalLedger {
  std::vector<ArrivalTally> tallies;  // By place.
  SkewHistogram skew;

  explicit ArrivalLedger(std::size_t places = 0) : tallies(places) {}

  JoinCost add(std::span<const std::int64_t> arrivals_ns) {
    const JoinCost cost = charge(arrivals_ns, tallies);
    skew.observe(cost.skew_ns);
    return cost;
  }
};

}  // namespace rankbus
