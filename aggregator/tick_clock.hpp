// aggregator/tick_clock.hpp: from a producer's raw ticks to seconds.
//
// All processes of a node read the same TSC, so the aggregator's own pairs of (TSC,
// CLOCK_MONOTONIC) convert everybody's stamps. The rate is fitted over the aggregator's whole life;
// a fit made when a segment was opened would drift by more than 100 ms an hour.
#pragma once

#include <algorithm>
#include <cstdint>
#include <rankbus/bus/clock.hpp>

namespace rankbus {

class TickClock {
 public:
  TickClock()
      : ticks_per_second_(
            static_cast<double>(bus::nominal_ticks_per_second(bus::ClockSource::tsc))),
        first_ticks_(bus::read_ticks(bus::ClockSource::tsc)),
        first_ns_(bus::monotonic_ns()),
        now_ticks_(first_ticks_),
        now_ns_(first_ns_) {}

  // Takes a new pair; once a pass is enough.
  void update() {
    now_ticks_ = bus::read_ticks(bus::ClockSource::tsc);
    now_ns_ = bus::monotonic_ns();
    if (now_ns_ - first_ns_ < 1'000'000'000) return;
    ticks_per_second_ = static_cast<double>(now_ticks_ - first_ticks_) * 1e9 /
                        static_cast<double>(now_ns_ - first_ns_);
  }

  // Seconds of the stamp's clock: CLOCK_MONOTONIC for a real clock, the caller's for a virtual one.
  double seconds(std::uint64_t ticks, bus::ClockSource source) const {
    if (source != bus::ClockSource::tsc) return static_cast<double>(ticks) * 1e-9;
    const double behind = static_cast<double>(static_cast<std::int64_t>(now_ticks_ - ticks));
    return static_cast<double>(now_ns_) * 1e-9 - behind / ticks_per_second_;
  }
  // The same in nanoseconds; of a stamp that is one of nanoseconds already, exactly it.
  std::int64_t nanoseconds(std::uint64_t ticks, bus::ClockSource source) const {
    if (source != bus::ClockSource::tsc) return static_cast<std::int64_t>(ticks);
    const double behind = static_cast<double>(static_cast<std::int64_t>(now_ticks_ - ticks));
    const double at_ns = static_cast<double>(now_ns_) - behind * (1e9 / ticks_per_second_);
    return static_cast<std::int64_t>(std::clamp(at_ns, -9e18, 9e18));
  }
  // CLOCK_MONOTONIC at the latest pair.
  std::int64_t now_ns() const { return static_cast<std::int64_t>(now_ns_); }

 private:
  double ticks_per_second_;
  std::uint64_t first_ticks_;
  std::uint64_t first_ns_;
  std::uint64_t now_ticks_;
  std::uint64_t now_ns_;
};

}  // namespace rankbus
