// aggregator/arrivals/group_joins.hpp: what all members of a group did together, put together from
// what each of them on this node says of it: collectives of a communicator, or steps of an engine.
//
// Members count from 0; equal ordinals are one join. Each member tells its own in order, but one
// member's tale of a second may be read before another's begins. A join is settled when every
// member has told it, or has told a later one (then it was lost), is gone, or is `kPatience_ns`
// behind the newest. Only a complete join is handed on, because a lost record must not become an
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

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <span>
#include <utility>
#include <vector>

namespace rankbus {

// Why a member is missing in a join.
enum class Missing : std::uint8_t { lost, late, dead, restarted, never_wrote };
inline constexpr std::array<const char*, 5> kMissingNames = {"lost", "late", "dead", "restarted",
                                                             "never_wrote"};

struct JoinCounts {
  std::uint64_t complete = 0;
  std::uint64_t partial = 0;
  std::array<std::uint64_t, kMissingNames.size()> missing{};  // Members, in partial joins.
  // Records that belong to no join: told again, after their join was settled, or by a member whose
  // group has begun anew without it.
  std::uint64_t ignored = 0;

  double coverage() const {
    const double all = static_cast<double>(complete) + static_cast<double>(partial);
    return all == 0 ? 1 : static_cast<double>(complete) / all;
  }
  void aggregate(const JoinCounts& other) {
    add_saturating(complete, other.complete);
    add_saturating(partial, other.partial);
    for (std::size_t n = 0; n < missing.size(); ++n) add_saturating(missing[n], other.missing[n]);
    add_saturating(ignored, other.ignored);
  }
  bool is_empty() const { return complete == 0 && partial == 0; }
  ReducedStats reduce() const {
    return {{"complete", complete}, {"partial", partial}, {"coverage", coverage()}};
  }
  void reset() { *this = {}; }
  bool operator==(const JoinCounts&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(complete, partial, missing, ignored);
  }
};
static_assert(Accumulates<JoinCounts>);

// `Told` is what a member says of one join; one made by default is none. Its time is `entry_ns`, on
// one clock for all members.
template <class Told>
class GroupJoins {
 public:
  static constexpr std::uint64_t kMaxPending = 1u << 15;
  static constexpr std::int64_t kPatience_ns = 10'000'000'000;

  // What all told of one join, by place.
  using OnJoin = std::function<void(std::uint64_t ordinal, std::span<const Told> told)>;

  // `places` members of the group are on this node, at least one. Complete joins are handed to
  // `on_join` in the order of their ordinals.
  explicit GroupJoins(std::uint32_t places, OnJoin on_join = {})
      : members_(places), told_(places), on_join_(std::move(on_join)) {
    for (Member& member : members_) member.told.resize(capacity_);
  }

  // A process that was not there before has taken the place; it counts from its own beginning.
  void enter(std::uint32_t place, std::int64_t started_ns) {
    Member& member = members_[place];
    if (member.has_told && !member.is_outlived) begin_anew(member.last_ns);
    member.occupant = Occupant::present;
    member.is_outlived = false;
    member.has_told = false;
    member.next = 0;
    member.started_ns = started_ns;
    newest_start_ns_ = std::max(newest_start_ns_, started_ns);
  }

  // The process in that place is dead, and all that it wrote was observed.
  void leave(std::uint32_t place) { members_[place].occupant = Occupant::gone; }

  void observe(std::uint32_t place, std::uint32_t ordinal, const Told& told) {
    Member& member = members_[place];
    const std::uint64_t at = unwrapped(member, ordinal);
    const bool is_old = (member.has_told && at < member.next) ||
                        (has_base_ && at < base_ && (has_settled_ || top_ - at > kMaxPending));
    // Nobody did anything together with a process that was not there yet.
    const bool is_before_all = told.entry_ns < newest_start_ns_;
    if (is_old || is_before_all || member.is_outlived || told == Told{}) {
      add_saturating(counts_.ignored, 1);
      return;
    }
    // Before room is made: of what is settled for it, this member has lost what it has not told.
    member.has_told = true;
    member.next = at + 1;
    if (!has_base_) {
      base_ = top_ = at;
      has_base_ = true;
    }
    make_room_for(at);
    told_at(member, at) = told;
    base_ = std::min(base_, at);
    top_ = std::max(top_, at + 1);
    member.last_ns = told.entry_ns;
    newest_ns_ = std::max(newest_ns_, told.entry_ns);
  }

  // Settles what can be. After each pass over the members' records.
  void settle() {
    settle_below(told_by_all());
    settle_below(overdue());
  }
  // Settles all that is pending, as it is.
  void finish() { settle_below(top_); }

  const JoinCounts& counts() const { return counts_; }
  std::uint64_t pending() const { return top_ - base_; }

 private:
  enum class Occupant : std::uint8_t { nobody, present, gone };
  struct Member {
    Occupant occupant = Occupant::nobody;
    bool is_outlived = false;  // The group has begun anew without it.
    bool has_told = false;
    std::int64_t started_ns = 0;
    std::int64_t last_ns = 0;  // Of what it told last.
    std::uint64_t next = 0;    // The ordinal after the last one told.
    std::vector<Told> told;    // By ordinal modulo the capacity.
  };

  Told& told_at(Member& member, std::uint64_t ordinal) {
    return member.told[ordinal & (capacity_ - 1)];
  }

  // Somebody is replaced who was last seen at `last_ns`: who had started by then was with it, and
  // is not with its successor.
  void begin_anew(std::int64_t last_ns) {
    finish();
    has_base_ = false;
    has_settled_ = false;
    for (Member& member : members_) {
      if (member.occupant != Occupant::nobody && member.started_ns <= last_ns) {
        member.is_outlived = true;
      }
    }
  }

  // The ordinal of which these are the low 32 bits, nearest to where the member is.
  std::uint64_t unwrapped(const Member& member, std::uint32_t ordinal) const {
    if (!member.has_told && !has_base_) return ordinal;
    const std::uint64_t near = member.has_told ? member.next : base_;
    const auto step = static_cast<std::int32_t>(ordinal - static_cast<std::uint32_t>(near));
    if (step < 0 && near < static_cast<std::uint64_t>(-std::int64_t{step})) return ordinal;
    return near + static_cast<std::uint64_t>(std::int64_t{step});
  }

  void make_room_for(std::uint64_t ordinal) {
    const std::uint64_t end = std::max(top_, ordinal + 1);
    if (end - std::min(base_, ordinal) > kMaxPending) settle_below(end - kMaxPending);
    const std::uint64_t first = std::min(base_, ordinal);
    if (end - first <= capacity_) return;
    const std::uint64_t old_capacity = capacity_;
    while (end - first > capacity_) capacity_ *= 2;
    for (Member& member : members_) {
      std::vector<Told> old(capacity_);
      old.swap(member.told);
      for (std::uint64_t n = base_; n < top_; ++n) {
        told_at(member, n) = old[n & (old_capacity - 1)];
      }
    }
  }

  // Where every member that can still tell anything is.
  std::uint64_t told_by_all() const {
    std::uint64_t told = top_;
    for (const Member& member : members_) {
      if (member.occupant == Occupant::gone || member.is_outlived) continue;
      told = std::min(told, member.has_told ? member.next : base_);
    }
    return told;
  }

  // The end of those that somebody entered so long ago that who has not told them will not.
  std::uint64_t overdue() const {
    std::uint64_t end = base_;
    for (std::uint64_t ordinal = base_; ordinal < top_; ++ordinal) {
      std::int64_t first_ns = std::numeric_limits<std::int64_t>::max();
      for (const Member& member : members_) {
        const Told& told = member.told[ordinal & (capacity_ - 1)];
        if (told != Told{}) first_ns = std::min(first_ns, told.entry_ns);
      }
      if (first_ns == std::numeric_limits<std::int64_t>::max()) continue;
      std::int64_t age_ns = 0;
      if (!__builtin_sub_overflow(newest_ns_, first_ns, &age_ns) && age_ns <= kPatience_ns) {
        break;
      }
      end = ordinal + 1;
    }
    return end;
  }

  void settle_below(std::uint64_t end) {
    if (end <= base_) return;
    has_settled_ = true;
    const std::uint64_t told = std::min(end, top_);
    for (; base_ < told; ++base_) settle_one(base_);
    // A jump beyond all that was told: nobody told what lies between.
    if (end > base_) count_untold(base_, end - base_);
    base_ = end;
    top_ = std::max(top_, end);
  }

  void settle_one(std::uint64_t ordinal) {
    bool is_complete = true;
    for (std::size_t place = 0; place < members_.size(); ++place) {
      told_[place] = std::exchange(told_at(members_[place], ordinal), Told{});
      if (told_[place] == Told{}) is_complete = false;
    }
    if (is_complete) {
      add_saturating(counts_.complete, 1);
      if (on_join_) on_join_(ordinal, told_);
      return;
    }
    add_saturating(counts_.partial, 1);
    for (std::size_t place = 0; place < members_.size(); ++place) {
      if (told_[place] == Told{}) count_missing(members_[place], ordinal, 1);
    }
  }

  void count_untold(std::uint64_t ordinal, std::uint64_t joins) {
    add_saturating(counts_.partial, joins);
    for (const Member& member : members_) count_missing(member, ordinal, joins);
  }

  void count_missing(const Member& member, std::uint64_t ordinal, std::uint64_t joins) {
    const Missing why = member.occupant == Occupant::nobody        ? Missing::never_wrote
                        : member.is_outlived                       ? Missing::restarted
                        : member.has_told && ordinal < member.next ? Missing::lost
                        : member.occupant == Occupant::gone        ? Missing::dead
                        : member.has_told                          ? Missing::late
                                                                   : Missing::never_wrote;
    add_saturating(counts_.missing[static_cast<std::size_t>(why)], joins);
  }

  std::vector<Member> members_;
  std::vector<Told> told_;  // Of the join that is settled.
  OnJoin on_join_;
  JoinCounts counts_;
  std::uint64_t capacity_ = 64;
  bool has_base_ = false;
  bool has_settled_ = false;  // Since the group began; before that, base_ may still go down.
  std::uint64_t base_ = 0;    // Everything below is settled ...
  std::uint64_t top_ = 0;     // ... and nothing was told from here on.
  std::int64_t newest_start_ns_ = std::numeric_limits<std::int64_t>::min();
  std::int64_t newest_ns_ = std::numeric_limits<std::int64_t>::min();
};

}  // namespace rankbus
