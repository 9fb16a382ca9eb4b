#include <algorithm>
#include <rankbus/aggregator/arrivals/group_joins.hpp>
#include <utility>

namespace rankbus {

GroupJoins::GroupJoins(std::uint32_t places, OnJoin on_join)
    : members_(places), tallies_(places), entries_ns_(places), on_join_(std::move(on_join)) {
  for (Member& member : members_) member.passages.resize(capacity_);
}

void GroupJoins::enter(std::uint32_t place) {
  Member& member = members_[place];
  const bool replaces = member.occupant != Occupant::nobody && member.has_told;
  if (replaces && !member.is_outlived) begin_anew();
  member.occupant = Occupant::present;
  member.is_outlived = false;
  member.has_told = false;
  member.next = 0;
}

void GroupJoins::leave(std::uint32_t place) {
  members_[place].occupant = Occupant::gone;
}

void GroupJoins::begin_anew() {
  finish();
  has_base_ = false;
  has_settled_ = false;
  for (Member& member : members_) {
    member.is_outlived = member.occupant != Occupant::nobody && member.has_told;
  }
}

// The ordinal of which these are the low 32 bits, nearest to where the member is.
std::uint64_t GroupJoins::unwrapped(const Member& member, std::uint32_t ordinal) const {
  if (!member.has_told && !has_base_) return ordinal;
  const std::uint64_t near = member.has_told ? member.next : base_;
  const auto step = static_cast<std::int32_t>(ordinal - static_cast<std::uint32_t>(near));
  if (step < 0 && near < static_cast<std::uint64_t>(-std::int64_t{step})) return ordinal;
  return near + static_cast<std::uint64_t>(std::int64_t{step});
}

void GroupJoins::observe(std::uint32_t place, std::uint32_t ordinal, const Passage& passage) {
  Member& member = members_[place];
  const std::uint64_t at = unwrapped(member, ordinal);
  const bool is_old = (member.has_told && at < member.next) ||
                      (has_base_ && at < base_ && (has_settled_ || top_ - at > kMaxPending));
  if (is_old || member.is_outlived || passage.entry_ns == Passage::kUnknown) {
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
  passage_at(member, at) = passage;
  base_ = std::min(base_, at);
  top_ = std::max(top_, at + 1);
  newest_entry_ns_ = std::max(newest_entry_ns_, passage.entry_ns);
}

void GroupJoins::make_room_for(std::uint64_t ordinal) {
  const std::uint64_t end = std::max(top_, ordinal + 1);
  if (end - std::min(base_, ordinal) > kMaxPending) settle_below(end - kMaxPending);
  const std::uint64_t first = std::min(base_, ordinal);
  if (end - first <= capacity_) return;
  const std::uint64_t old_capacity = capacity_;
  while (end - first > capacity_) capacity_ *= 2;
  for (Member& member : members_) {
    std::vector<Passage> old(capacity_);
    old.swap(member.passages);
    for (std::uint64_t n = base_; n < top_; ++n) {
      passage_at(member, n) = old[n & (old_capacity - 1)];
    }
  }
}

// Where every member that can still tell anything is.
std::uint64_t GroupJoins::told_by_all() const {
  std::uint64_t told = top_;
  for (const Member& member : members_) {
    if (member.occupant == Occupant::gone || member.is_outlived) continue;
    told = std::min(told, member.has_told ? member.next : base_);
  }
  return told;
}

// The end of those that somebody entered so long ago that who has not told them will not.
std::uint64_t GroupJoins::overdue() const {
  std::uint64_t end = base_;
  for (std::uint64_t ordinal = base_; ordinal < top_; ++ordinal) {
    std::int64_t first_ns = std::numeric_limits<std::int64_t>::max();
    for (const Member& member : members_) {
      const Passage& passage = member.passages[ordinal & (capacity_ - 1)];
      if (passage.entry_ns != Passage::kUnknown) first_ns = std::min(first_ns, passage.entry_ns);
    }
    if (first_ns == std::numeric_limits<std::int64_t>::max()) continue;
    std::int64_t age_ns = 0;
    if (!__builtin_sub_overflow(newest_entry_ns_, first_ns, &age_ns) && age_ns <= kPatience_ns) {
      break;
    }
    end = ordinal + 1;
  }
  return end;
}

void GroupJoins::settle() {
  settle_below(told_by_all());
  settle_below(overdue());
}

void GroupJoins::settle_below(std::uint64_t end) {
  if (end <= base_) return;
  has_settled_ = true;
  const std::uint64_t told = std::min(end, top_);
  for (; base_ < told; ++base_) settle_one(base_);
  // A jump beyond all that was told: nobody told what lies between.
  if (end > base_) count_untold(base_, end - base_);
  base_ = end;
  top_ = std::max(top_, end);
}

void GroupJoins::settle_one(std::uint64_t ordinal) {
  std::int64_t last_entry_ns = std::numeric_limits<std::int64_t>::min();
  std::int64_t first_exit_ns = std::numeric_limits<std::int64_t>::max();
  bool is_complete = true;
  for (std::size_t place = 0; place < members_.size(); ++place) {
    Passage& passage = passage_at(members_[place], ordinal);
    entries_ns_[place] = passage.entry_ns;
    last_entry_ns = std::max(last_entry_ns, passage.entry_ns);
    if (passage.exit_ns != Passage::kUnknown) {
      first_exit_ns = std::min(first_exit_ns, passage.exit_ns);
    }
    if (passage.entry_ns == Passage::kUnknown) is_complete = false;
    passage = {};
  }
  if (!is_complete) {
    add_saturating(counts_.partial, 1);
    for (std::size_t place = 0; place < members_.size(); ++place) {
      if (entries_ns_[place] != Passage::kUnknown) continue;
      const Missing why = why_missing(members_[place], ordinal);
      add_saturating(counts_.missing[static_cast<std::size_t>(why)], 1);
    }
    return;
  }
  std::int64_t overlap_ns = 0;
  if (!__builtin_sub_overflow(last_entry_ns, first_exit_ns, &overlap_ns) &&
      overlap_ns > kClockError_ns) {
    add_saturating(counts_.not_together, 1);
    return;
  }
  add_saturating(counts_.complete, 1);
  if (members_.size() < 2) return;
  const JoinCost cost = charge(entries_ns_, tallies_);
  if (on_join_) on_join_(ordinal, entries_ns_, cost);
}

void GroupJoins::count_untold(std::uint64_t ordinal, std::uint64_t joins) {
  add_saturating(counts_.partial, joins);
  for (const Member& member : members_) {
    const Missing why = why_missing(member, ordinal);
    add_saturating(counts_.missing[static_cast<std::size_t>(why)], joins);
  }
}

Missing GroupJoins::why_missing(const Member& member, std::uint64_t ordinal) {
  if (member.occupant == Occupant::nobody) return Missing::never_wrote;
  if (member.is_outlived) return Missing::restarted;
  if (member.has_told && ordinal < member.next) return Missing::lost;
  if (member.occupant == Occupant::gone) return Missing::dead;
  return member.has_told ? Missing::late : Missing::never_wrote;
}

}  // namespace rankbus
