// aggregator/analysis/sliding_window.hpp: the recent past of anything that accumulates.
//
// Time is cut into slots of equal width, aligned to multiples of it, and each slot accumulates what
// happened in it. The window at a moment is every slot that began less than `span` ago: it never
// holds an event of `span` ago or older, and lacks at most one slot's width of younger ones;
// covered_since() says from when on it is complete. Adding costs the same always; reading looks at
// no more slots than there are, whatever the number of events.
//
// No clock is read: every call says its time, nanoseconds of any monotonic clock. A place of the
// ring keeps the latest slot that it was given, so the contents follow from the set of events, not
// from their order, and merging is exactly associative and commutative where T's is. A clock that
// stands still fills one slot, one that jumps ahead empties the window as time would, and a stamp
// from the future waits unseen in its own slot.
//
// Memory: slots x (sizeof(T) + 8), made with the first event, and what the Ts hold.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <rankbus/aggregator/accumulates.hpp>
#include <stdexcept>
#include <vector>

namespace rankbus {

template <Accumulates T>
class SlidingWindow {
 public:
  static constexpr std::size_t kMaxSlots = 1 << 16;

  SlidingWindow() : SlidingWindow(60'000'000'000, 60) {}
  SlidingWindow(std::int64_t window_ns, std::size_t slots)
      : slots_(std::clamp<std::size_t>(slots, 1, kMaxSlots)) {
    const auto parts = static_cast<std::int64_t>(slots_);
    const std::int64_t length_ns = std::max(window_ns, parts);
    slot_ns_ = length_ns / parts + (length_ns % parts == 0 ? 0 : 1);
    window_ns_ = length_ns;
  }

  std::int64_t window_ns() const { return window_ns_; }
  std::int64_t slot_ns() const { return slot_ns_; }

  // Where an event of that time accumulates; null where its slot has already made room for a later
  // one.
  T* at(std::int64_t time_ns) {
    if (ring_.empty()) ring_.resize(slots_);
    const std::int64_t number = number_of(time_ns);
    Slot& slot = ring_[place_of(number)];
    if (slot.number > number) return nullptr;
    if (slot.number < number) slot = Slot{number, T{}};
    return &slot.value;
  }

  // Calls each(value, slot_start_ns) for every slot of the window at `now` that holds anything,
  // oldest first. Returns how many slots were looked at.
  template <class Each>
  std::size_t for_each(std::int64_t now_ns, std::int64_t span_ns, Each&& each) const {
    if (ring_.empty() || span_ns <= 0) return 0;
    const std::int64_t last = number_of(now_ns);
    std::size_t looked_at = 0;
    const std::int64_t first = first_of(now_ns, span_ns);
    if (first > last) return 0;
    for (std::int64_t number = first;; ++number) {
      const Slot& slot = ring_[place_of(number)];
      ++looked_at;
      if (slot.number == number) each(slot.value, saturating_start(number));
      if (number >= last) return looked_at;
    }
  }
  template <class Each>
  std::size_t for_each(std::int64_t now_ns, Each&& each) const {
    return for_each(now_ns, window_ns_, each);
  }
  T read(std::int64_t now_ns) const {
    T sum;
    for_each(now_ns, [&](const T& value, std::int64_t) { sum.aggregate(value); });
    return sum;
  }

  // From when on the window at `now` lacks nothing: where its oldest slot begins.
  std::int64_t covered_since(std::int64_t now_ns, std::int64_t span_ns) const {
    return std::min(now_ns, saturating_start(first_of(now_ns, span_ns)));
  }

  // Windows of one geometry merge slot by slot. One that is empty takes the other's geometry; else
  // unequal ones stay apart, and that is counted.
  void aggregate(const SlidingWindow& other) {
    refused_merges_ += other.refused_merges_;
    if (other.is_empty()) return;
    if (is_empty()) {
      const std::uint64_t refused = refused_merges_;
      *this = other;
      refused_merges_ = refused;
      return;
    }
    if (other.slot_ns_ != slot_ns_ || other.slots_ != slots_) {
      ++refused_merges_;
      return;
    }
    for (std::size_t place = 0; place < slots_; ++place) {
      const Slot& theirs = other.ring_[place];
      Slot& mine = ring_[place];
      if (theirs.number == mine.number && mine.number != kNever) {
        mine.value.aggregate(theirs.value);
      } else if (theirs.number > mine.number) {
        mine = theirs;
      }
    }
  }
  bool is_empty() const {
    return std::all_of(ring_.begin(), ring_.end(),
                       [](const Slot& slot) { return slot.number == kNever; });
  }
  // The window that ends with the latest event.
  T reduce() const {
    std::int64_t latest = kNever;
    for (const Slot& slot : ring_) latest = std::max(latest, slot.number);
    return latest == kNever ? T{} : read(saturating_start(latest));
  }
  // Keeps the geometry.
  void reset() {
    ring_.clear();
    refused_merges_ = 0;
  }
  std::uint64_t refused_merges() const { return refused_merges_; }

  bool operator==(const SlidingWindow&) const = default;

  // Reading throws where the bytes are no window.
  template <class Archive>
  void serialize(Archive& archive) {
    std::uint64_t slots = slots_;
    archive(window_ns_, slot_ns_, slots, ring_, refused_merges_);
    if constexpr (Archive::is_loading::value) {
      slots_ = static_cast<std::size_t>(slots);
      const bool is_sound = slots >= 1 && slots <= kMaxSlots && slot_ns_ >= 1 && window_ns_ >= 1 &&
                            (ring_.empty() || ring_.size() == slots_) && every_slot_is_in_place();
      if (!is_sound) {
        *this = {};
        throw std::runtime_error("stored window: slots that cannot be");
      }
    }
  }

 private:
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::min();

  struct Slot {
    std::int64_t number = kNever;  // Of all slots since time 0.
    T value;
    bool operator==(const Slot&) const = default;

    template <class Archive>
    void serialize(Archive& archive) {
      archive(number, value);
    }
  };

  std::int64_t number_of(std::int64_t time_ns) const {
    const std::int64_t whole = time_ns / slot_ns_;
    return whole * slot_ns_ > time_ns ? whole - 1 : whole;  // Down, also before time 0.
  }
  std::size_t place_of(std::int64_t number) const {
    const auto parts = static_cast<std::int64_t>(slots_);
    const std::int64_t rest = number % parts;
    return static_cast<std::size_t>(rest < 0 ? rest + parts : rest);
  }
  std::int64_t first_of(std::int64_t now_ns, std::int64_t span_ns) const {
    const std::int64_t last = number_of(now_ns);
    std::int64_t bound_ns = 0;
    const bool reaches_back_forever =
        __builtin_sub_overflow(now_ns, std::max<std::int64_t>(span_ns, 1), &bound_ns);
    std::int64_t oldest = 0;
    if (__builtin_sub_overflow(last, static_cast<std::int64_t>(slots_) - 1, &oldest)) return last;
    if (reaches_back_forever) return oldest;
    return std::max(number_of(bound_ns) + 1, oldest);
  }
  std::int64_t saturating_start(std::int64_t number) const {
    std::int64_t start_ns = 0;
    return __builtin_mul_overflow(number, slot_ns_, &start_ns) ? kNever : start_ns;
  }
  bool every_slot_is_in_place() const {
    for (std::size_t place = 0; place < ring_.size(); ++place) {
      const std::int64_t number = ring_[place].number;
      if (number != kNever && place_of(number) != place) return false;
    }
    return true;
  }

  std::int64_t window_ns_ = 0;
  std::int64_t slot_ns_ = 1;
  std::size_t slots_;
  std::vector<Slot> ring_;
  std::uint64_t refused_merges_ = 0;
};

}  // namespace rankbus
