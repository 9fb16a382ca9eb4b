// aggregator/arrivals/group_joins.hpp: the collectives of one group, put together from what each
// member on this node says of them.
//
// A member counts the collectives of a group from 0; equal ordinals are one collective. Each member
// tells its own in order, but one member's tale of a second may be read before another's begins. A
// join is settled when every member has told it, or has told a later one (then it was lost), is
// gone, or is `kPatience_ns` behind the newest arrival. Only a complete join, in which moreover
// everybody left after everybody had entered, charges anybody: a lost record must not become an
// accusation. All others are counted, with who was missing and why.
//
// Places are ranks within the group. A process that takes another's place, as after a restart,
// counts its collectives anew, and the group begins anew with it: what the others told before is
// settled without it, and what they tell afterwards is nothing that it was in, until they are
// replaced as well.
//
// Bounds: kMaxPending collectives per member are kept; what is older is settled as it is. Cost: one
// store per record, and one look per member and collective.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/arrivals/arrival_tally.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <vector>

namespace rankbus {

// One member's way through one collective, on one clock for all members.
struct Passage {
  static constexpr std::int64_t kUnknown = std::numeric_limits<std::int64_t>::min();
  std::int64_t entry_ns = kUnknown;
  std::int64_t exit_ns = kUnknown;  // kUnknown where only the entry was measured.
};

// Why a member is missing in a join.
enum class Missing : std::uint8_t { lost, late, dead, restarted, never_wrote };
inline constexpr std::array<const char*, 5> kMissingNames = {"lost", "late", "dead", "restarted",
                                                             "never_wrote"};

struct JoinCounts {
  std::uint64_t complete = 0;
  // Somebody had left before another one entered: not one collective, whatever the numbers say.
  std::uint64_t not_together = 0;
  std::uint64_t partial = 0;
  std::array<std::uint64_t, kMissingNames.size()> missing{};  // Members, in partial joins.
  // Records that belong to no join: told again, after their join was settled, or by a member whose
  // group has begun anew without it.
  std::uint64_t ignored = 0;

  double coverage() const {
    const double all = static_cast<double>(complete) + static_cast<double>(not_together) +
                       static_cast<double>(partial);
    return all == 0 ? 1 : static_cast<double>(complete) / all;
  }
  void aggregate(const JoinCounts& other) {
    add_saturating(complete, other.complete);
    add_saturating(not_together, other.not_together);
    add_saturating(partial, other.partial);
    for (std::size_t n = 0; n < missing.size(); ++n) add_saturating(missing[n], other.missing[n]);
    add_saturating(ignored, other.ignored);
  }
  bool is_empty() const { return complete == 0 && not_together == 0 && partial == 0; }
  ReducedStats reduce() const {
    return {{"complete", complete},
            {"not_together", not_together},
            {"partial", partial},
            {"coverage", coverage()}};
  }
  void reset() { *this = {}; }
  bool operator==(const JoinCounts&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(complete, not_together, partial, missing, ignored);
  }
};
static_assert(Accumulates<JoinCounts>);

class GroupJoins {
 public:
  static constexpr std::uint64_t kMaxPending = 1u << 15;
  static constexpr std::int64_t kPatience_ns = 10'000'000'000;
  // An exit is rounded to a tick of the clock; nobody leaves this much before another enters.
  static constexpr std::int64_t kClockError_ns = 1'000;

  // A complete join that charged its members: its ordinal, all entries by place, and its cost.
  using OnJoin = std::function<void(std::uint64_t ordinal, std::span<const std::int64_t> entries_ns,
                                    const JoinCost& cost)>;

  // `places` members of the group are on this node, at least one. `on_join` is told of each
  // complete join, in the order of their ordinals.
  explicit GroupJoins(std::uint32_t places, OnJoin on_join = {});

  // A process that was not there before has taken the place; it counts from its own beginning.
  void enter(std::uint32_t place);
  // The process in that place is dead, and all that it wrote was observed.
  void leave(std::uint32_t place);
  void observe(std::uint32_t place, std::uint32_t ordinal, const Passage& passage);
  // Settles what can be. After each pass over the members' records.
  void settle();
  // Settles all that is pending, as it is.
  void finish() { settle_below(top_); }

  const JoinCounts& counts() const { return counts_; }
  const std::vector<ArrivalTally>& tallies() const { return tallies_; }
  std::uint64_t pending() const { return top_ - base_; }

 private:
  enum class Occupant : std::uint8_t { nobody, present, gone };
  struct Member {
    Occupant occupant = Occupant::nobody;
    bool is_outlived = false;  // The group has begun anew without it.
    bool has_told = false;
    std::uint64_t next = 0;         // The ordinal after the last one told.
    std::vector<Passage> passages;  // By ordinal modulo the capacity.
  };

  Passage& passage_at(Member& member, std::uint64_t ordinal) {
    return member.passages[ordinal & (capacity_ - 1)];
  }
  static Missing why_missing(const Member& member, std::uint64_t ordinal);
  std::uint64_t unwrapped(const Member& member, std::uint32_t ordinal) const;
  void begin_anew();
  void make_room_for(std::uint64_t ordinal);
  void settle_below(std::uint64_t end);
  void settle_one(std::uint64_t ordinal);
  void count_untold(std::uint64_t ordinal, std::uint64_t joins);
  std::uint64_t told_by_all() const;
  std::uint64_t overdue() const;

  std::vector<Member> members_;
  std::vector<ArrivalTally> tallies_;
  std::vector<std::int64_t> entries_ns_;
  OnJoin on_join_;
  JoinCounts counts_;
  std::uint64_t capacity_ = 64;
  bool has_base_ = false;
  bool has_settled_ = false;  // Since the group began; before that, base_ may still go down.
  std::uint64_t base_ = 0;    // Everything below is settled ...
  std::uint64_t top_ = 0;     // ... and nothing was told from here on.
  std::int64_t newest_entry_ns_ = Passage::kUnknown;
};

}  // namespace rankbus
