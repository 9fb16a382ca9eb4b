// aggregator/running_totals.hpp: sums that their sources keep themselves, and that begin anew when
// a source does.
//
// The writer's totals hold what the source said last. That falls when the source was started again
// (a device, a library), and a counter must not: so the reader adds what the source says now on top
// of what it had reached. The totals themselves stay as the writer has them, bit for bit. A fall
// that lies between two looks, and is made up for before the second, cannot be seen.
#pragma once

#include <cstdint>
#include <rankbus/bus/totals.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus {

// Two sums of one type, which stay finite: where a double has no room, the largest there is.
bus::Word sum_of(bus::Type type, bus::Word a, bus::Word b);

class RunningTotals {
 public:
  RunningTotals() = default;
  explicit RunningTotals(const bus::StreamPlan& plan);

  // A stream's totals as of that record.
  void note(const std::vector<bus::Word>& totals, std::uint64_t position);
  // The whole sum of a word of the totals, which holds `now`.
  bus::Word whole(std::uint32_t word, bus::Word now) const;

  // What a later reader has to know, as of `position`; empty if there is nothing.
  std::string saved(std::uint64_t position) const;
  // To be followed by `note`, once. Bytes that are none of ours say nothing.
  void restore_untrusted(std::string_view bytes);

 private:
  struct Each {
    std::uint32_t word = 0;
    bus::Type type = bus::Type::u64;
    bus::Word before = 0;  // Of the source's former lives, together ...
    bus::Word last = 0;    // ... and of this one.
  };
  std::vector<Each> all_;    // In the order of their words.
  std::uint64_t known_ = 0;  // Falls of earlier records are in `before`.
};

}  // namespace rankbus
