// Tells whoever wants to know what happened to the caches of one process: its producer, the truth,
// and the event log.
#pragma once

#include <array>
#include <cstdint>
#include <rankbus/producer/producer.hpp>
#include <rankbus/producer/simulator/activity_truth.hpp>
#include <rankbus/producer/simulator/cache_model.hpp>
#include <rankbus/producer/simulator/event_log.hpp>

namespace rankbus::simulator {

// One time as records bear it, and on the run's clock. They differ on the real clock only.
struct Moment {
  std::uint64_t stamp = 0;
  std::uint64_t clock_ns = 0;
};

class CacheRecorder {
 public:
  // `log` may be null. Without `records`, only the log is written.
  CacheRecorder(Producer& producer, ActivityTruth& truth, EventLog* log, bool records);

  static void add_record_types(OpenOptions& options);

  // Something that is nothing (no lookup, no byte, no block) is not told.
  void tell(const Moment& when, const LookupOutcome& outcome);
  void tell(const Moment& when, const StorageOutcome& outcome);
  void tell(const Moment& when, const EvictionOutcome& outcome);

 private:
  std::uint16_t name_of(CacheLevel level);

  Producer& producer_;
  ActivityTruth& truth_;
  EventLog* log_;
  bool records_;
  std::array<std::uint16_t, kCacheLevels> names_{};  // 0: not yet asked for
};

}  // namespace rankbus::simulator
