// aggregator/arrivals/collective_arrivals.hpp: who came late to the collectives of one group, by
// when each member entered them (evidence `host_collective`, or `device_collective` where a probe
// on the device tells).
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <rankbus/aggregator/arrivals/arrival_tally.hpp>
#include <rankbus/aggregator/arrivals/group_joins.hpp>
#include <span>
#include <utility>
#include <vector>

namespace rankbus {

// One member's way through one collective, on one clock for all members.
struct Passage {
  static constexpr std::int64_t kUnknown = std::numeric_limits<std::int64_t>::min();

  std::int64_t entry_ns = kUnknown;
  std::int64_t exit_ns = kUnknown;  // kUnknown where only the entry was measured.

  bool operator==(const Passage&) const = default;
};

class CollectiveArrivals {
 public:
  // An exit is rounded to a tick of the clock; nobody leaves this much before another enters.
  static constexpr std::int64_t kClockError_ns = 1'000;

  using OnJoin = std::function<void(std::uint64_t ordinal, std::span<const std::int64_t> entries_ns,
                                    const JoinCost& cost)>;

  explicit CollectiveArrivals(std::uint32_t places, OnJoin on_join = {})
      : joins_(places, [this](std::uint64_t ordinal, auto told) { add(ordinal, told); }),
        ledger_(places),
        entries_ns_(places),
        on_join_(std::move(on_join)) {}
  CollectiveArrivals(const CollectiveArrivals&) = delete;
  CollectiveArrivals& operator=(const CollectiveArrivals&) = delete;

  GroupJoins<Passage>& joins() { return joins_; }
  const GroupJoins<Passage>& joins() const { return joins_; }
  const ArrivalLedger& ledger() const { return ledger_; }
  // Somebody had left before another one entered: not one collective, whatever the numbers say. Of
  // the complete joins, these charged nobody.
  std::uint64_t not_together() const { return not_together_; }

 private:
  void add(std::uint64_t ordinal, std::span<const Passage> told) {
    std::int64_t last_entry_ns = std::numeric_limits<std::int64_t>::min();
    std::int64_t first_exit_ns = std::numeric_limits<std::int64_t>::max();
    for (std::size_t place = 0; place < told.size(); ++place) {
      entries_ns_[place] = told[place].entry_ns;
      last_entry_ns = std::max(last_entry_ns, told[place].entry_ns);
      if (told[place].exit_ns != Passage::kUnknown) {
        first_exit_ns = std::min(first_exit_ns, told[place].exit_ns);
      }
    }
    std::int64_t apart_ns = 0;
    if (!__builtin_sub_overflow(last_entry_ns, first_exit_ns, &apart_ns) &&
        apart_ns > kClockError_ns) {
      add_saturating(not_together_, 1);
      return;
    }
    if (told.size() < 2) return;
    const JoinCost cost = ledger_.add(entries_ns_);
    if (on_join_) on_join_(ordinal, entries_ns_, cost);
  }

  GroupJoins<Passage> joins_;
  ArrivalLedger ledger_;
  std::vector<std::int64_t> entries_ns_;
  OnJoin on_join_;
  std::uint64_t not_together_ = 0;
};

}  // namespace rankbus
