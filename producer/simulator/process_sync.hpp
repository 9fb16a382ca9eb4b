// How the processes of a simulation wait for each other.
//
// Everything here is built on semaphores in memory that was shared before the processes were
// forked. A semaphore has no owner: a process that is killed leaves no lock behind, and every wait
// looks now and then whether the simulation is being stopped. Nobody spins.
#pragma once

#include <atomic>
#include <boost/interprocess/sync/interprocess_semaphore.hpp>
#include <cstddef>
#include <cstdint>

namespace rankbus::simulator {

using Semaphore = boost::interprocess::interprocess_semaphore;

// Whether this process should end before its work is done: because the parent says so to all, or
// because somebody sent SIGTERM to this one.
class StopFlag {
 public:
  void stop_all() { stopped_ = true; }
  bool stopped() const { return stopped_ || told_to_end(); }

  // Makes SIGTERM set the flag of this process.
  static void watch_sigterm();
  static bool told_to_end();

 private:
  std::atomic<bool> stopped_ = false;
};

// True once the semaphore was taken, false when the simulation is being stopped.
bool wait_unless_stopped(Semaphore& semaphore, const StopFlag& stop);
// True once the semaphore was taken, false when nothing came for a moment.
bool wait_a_moment(Semaphore& semaphore);

// CLOCK_MONOTONIC.
std::uint64_t monotonic_now_ns();
// Sleeps until the clock reads that much; false when the simulation is being stopped.
bool sleep_until_unless_stopped(std::uint64_t deadline_ns, const StopFlag& stop);

// A bounded one-way stream of bytes between two processes. Bytes travel in batches, so that
// millions of small messages do not cost a context switch each; a writer whose reader is slower
// waits.
struct Channel {
  static constexpr std::uint32_t kBatches = 4;
  static constexpr std::uint32_t kBatchBytes = 32 * 1024;

  struct Batch {
    std::uint32_t used_bytes = 0;
    std::byte bytes[kBatchBytes];
  };

  Semaphore empty{kBatches};
  Semaphore filled{0};
  Batch batches[kBatches];
};

class ChannelWriter {
 public:
  ChannelWriter(Channel& channel, const StopFlag& stop) : channel_(channel), stop_(stop) {}

  // Both return false when the simulation is being stopped.
  template <class T>
  bool write(const T& message) {
    return write_bytes(&message, sizeof message);
  }
  bool write_bytes(const void* bytes, std::size_t size);
  // Hands over what is written so far.
  bool flush();

 private:
  Channel& channel_;
  const StopFlag& stop_;
  std::uint32_t batch_ = 0;
  std::uint32_t used_bytes_ = 0;
  bool holds_batch_ = false;
};

class ChannelReader {
 public:
  ChannelReader(Channel& channel, const StopFlag& stop) : channel_(channel), stop_(stop) {}

  // Both wait for the bytes and return false when the simulation is being stopped.
  template <class T>
  bool read(T& message) {
    return read_bytes(&message, sizeof message);
  }
  bool read_bytes(void* bytes, std::size_t size);

 private:
  Channel& channel_;
  const StopFlag& stop_;
  std::uint32_t batch_ = 0;
  std::uint32_t read_bytes_ = 0;
  bool holds_batch_ = false;
};

// A real barrier between the ranks of an engine.
struct Barrier {
  std::atomic<std::uint32_t> arrived = 0;
  // Rounds alternate between the two gates, so a fast rank that is already in the next round cannot
  // take the pass of a slow one.
  Semaphore gates[2] = {Semaphore(0), Semaphore(0)};
};

// One rank's side of it.
class BarrierMember {
 public:
  BarrierMember(Barrier& barrier, std::uint32_t members, const StopFlag& stop)
      : barrier_(barrier), members_(members), stop_(stop) {}
  // Returns when all members have called, or false when the simulation is being stopped.
  bool arrive_and_wait();

 private:
  Barrier& barrier_;
  std::uint32_t members_;
  const StopFlag& stop_;
  std::uint32_t round_ = 0;
};

}  // namespace rankbus::simulator
