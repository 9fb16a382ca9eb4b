// aggregator/analysis/instant.hpp: when something happened, as its caller says. Nothing in this
// folder reads a clock, so a replay at any speed gives what the run gave.
#pragma once

#include <compare>
#include <cstdint>
#include <limits>
#include <utility>

namespace rankbus::analysis {

// Order, ages and intervals come from the monotonic clock alone; the wall clock is only shown.
struct Instant {
  std::int64_t monotonic_ns = 0;
  double wall_s = 0;  // Seconds since the epoch.
};

inline constexpr double kNanosecondsPerSecond = 1e9;

inline double seconds_of(std::int64_t nanoseconds) {
  return static_cast<double>(nanoseconds) / kNanosecondsPerSecond;
}

// Never negative and never wrapped: stamps come from other processes and may be anything.
inline std::int64_t elapsed_ns(std::int64_t from_ns, std::int64_t to_ns) {
  if (to_ns <= from_ns) return 0;
  std::int64_t elapsed = 0;
  const bool too_long = __builtin_sub_overflow(to_ns, from_ns, &elapsed);
  return too_long ? std::numeric_limits<std::int64_t>::max() : elapsed;
}

// A value of which the newest counts, whoever wrote it. Stamps that are equal say nothing, so that
// between two objects the larger value stands: the result may not depend on who asks whom.
template <class T>
class Stamped {
 public:
  void set(std::int64_t now_ns, T value) {
    if (is_set_ && now_ns < stamp_ns_) return;
    is_set_ = true;
    stamp_ns_ = now_ns;
    value_ = std::move(value);
  }
  void take_newest(const Stamped& other) {
    if (!other.is_set_) return;
    const bool is_newer = !is_set_ || other.stamp_ns_ > stamp_ns_ ||
                          (other.stamp_ns_ == stamp_ns_ && value_ < other.value_);
    if (is_newer) *this = other;
  }

  bool is_set() const { return is_set_; }
  std::int64_t stamp_ns() const { return stamp_ns_; }
  const T& value() const { return value_; }

  friend bool operator==(const Stamped&, const Stamped&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(is_set_, stamp_ns_, value_);
  }

 private:
  bool is_set_ = false;
  std::int64_t stamp_ns_ = 0;
  T value_{};
};

}  // namespace rankbus::analysis
