// aggregator/arrivals/arrival_tally.hpp: who kept whom waiting, and for how long.
//
// A collective ends for nobody before its last member has entered it, so all members' durations say
// the same and only their arrivals tell them apart. Of one set of arrivals: the last to arrive made
// every other member wait; of that, what fixing this one member alone would have saved is the time
// from the second-last arrival to the last. Ranks are ordered by arrival, equal ones by their
// place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <span>

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
  std::size_t last = 0;           // The place of the last to arrive.
  std::uint64_t skew_ns = 0;      // From the first arrival to the last.
  std::uint64_t critical_ns = 0;  // From the second-last arrival to the last.
  std::uint64_t imposed_ns = 0;   // All waits together, in rank-nanoseconds.
};

// Of at least two arrivals, by place, on one clock.
inline JoinCost cost_of(std::span<const std::int64_t> arrivals_ns) {
  std::size_t last = 0, first = 0;
  for (std::size_t place = 1; place < arrivals_ns.size(); ++place) {
    // Of equal ones the lowest place is the last, whichever order they were read in.
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
  ++last.last_arrivals;
  return cost;
}

}  // namespace rankbus
