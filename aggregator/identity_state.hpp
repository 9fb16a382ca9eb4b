// aggregator/identity_state.hpp: what is known of an identity whether it lives or not.
#pragma once

#include <cstdint>
#include <map>
#include <rankbus/aggregator/field_value.hpp>
#include <string>

namespace rankbus {

// Bookkeeping of one stream name of one identity, over all its incarnations.
struct StreamCounts {
  std::uint64_t records = 0;
  std::uint64_t lost_lapped = 0;
  std::uint64_t lost_quarantined = 0;
  std::uint64_t abandoned = 0;
  std::uint64_t verified = 0;
  std::uint64_t skipped = 0;
  std::uint64_t mismatches = 0;
  std::uint64_t invalid = 0;
  std::uint64_t negative = 0;
  std::uint64_t label_overflow = 0;

  void add(const StreamCounts& other);
};
StreamCounts counts_of(const StreamState& stream);

// What is left of an identity's dead incarnations.
struct Retired {
  FieldValues values;
  std::map<std::string, StreamCounts> streams;
  std::uint64_t incarnations = 0;
};
// Under which name a stream of an identity is told; an identity that invents stream names in every
// life has `other` for those beyond a bound.
const std::string& stream_label(const Retired& retired, const std::string& stream);

struct IdentityState {
  Retired retired;
  double last_alive_s = 0;     // CLOCK_MONOTONIC.
  std::uint64_t began_ns = 0;  // When its first known incarnation was opened, CLOCK_MONOTONIC ...
  std::uint64_t began_ticks = 0;  // ... by that incarnation's own clock ...
  double began_realtime_s = 0;    // ... and in seconds since the epoch.
  std::uint64_t last_stamp = 0;   // Newest stamp of its dead incarnations, in ticks ...
  bus::ClockSource last_source = bus::ClockSource::monotonic;  // ... of this clock.
  double last_active_s = 0;          // When a record of them was last noticed, CLOCK_MONOTONIC.
  std::uint32_t ranks_expected = 0;  // Ranks of its engine on this node, as told by the latest.
};

}  // namespace rankbus
