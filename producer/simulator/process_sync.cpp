#include <signal.h>
#include <time.h>

#include <algorithm>
#include <boost/date_time/posix_time/posix_time_types.hpp>
#include <boost/interprocess/exceptions.hpp>
#include <cerrno>
#include <cstring>
#include <rankbus/producer/simulator/process_sync.hpp>

namespace rankbus::simulator {

namespace {

// How long a wait may go without looking at the stop flag.
constexpr std::uint64_t kGlanceNs = 100'000'000;

volatile sig_atomic_t sigterm_came = 0;

void note_sigterm(int) {
  sigterm_came = 1;
}

}  // namespace

void StopFlag::watch_sigterm() {
  sigterm_came = 0;
  struct sigaction action {};
  action.sa_handler = note_sigterm;
  // What can be restarted is; a timed wait for a semaphore cannot.
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
}

bool StopFlag::told_to_end() {
  return sigterm_came != 0;
}

bool wait_a_moment(Semaphore& semaphore) {
  if (semaphore.try_wait()) return true;
  const auto now = boost::posix_time::microsec_clock::universal_time();
  try {
    return semaphore.timed_wait(now + boost::posix_time::microseconds(kGlanceNs / 1000));
  } catch (const boost::interprocess::interprocess_exception& error) {
    // A signal handler ran. That nothing came is a fair answer, and the caller looks at its flag.
    if (error.get_native_error() == EINTR) return false;
    throw;
  }
}

bool wait_unless_stopped(Semaphore& semaphore, const StopFlag& stop) {
  while (!stop.stopped()) {
    if (wait_a_moment(semaphore)) return true;
  }
  return false;
}

std::uint64_t monotonic_now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(now.tv_nsec);
}

bool sleep_until_unless_stopped(std::uint64_t deadline_ns, const StopFlag& stop) {
  while (!stop.stopped()) {
    const std::uint64_t now_ns = monotonic_now_ns();
    if (now_ns >= deadline_ns) return true;
    const std::uint64_t until_ns = std::min(deadline_ns, now_ns + kGlanceNs);
    const timespec until = {.tv_sec = static_cast<time_t>(until_ns / 1'000'000'000),
                            .tv_nsec = static_cast<long>(until_ns % 1'000'000'000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
  }
  return false;
}

bool ChannelWriter::write_bytes(const void* bytes, std::size_t size) {
  const auto* from = static_cast<const std::byte*>(bytes);
  while (size > 0) {
    if (!holds_batch_) {
      if (!wait_unless_stopped(channel_.empty, stop_)) return false;
      holds_batch_ = true;
      used_bytes_ = 0;
    }
    const std::size_t now = std::min<std::size_t>(size, Channel::kBatchBytes - used_bytes_);
    std::memcpy(channel_.batches[batch_].bytes + used_bytes_, from, now);
    used_bytes_ += static_cast<std::uint32_t>(now);
    from += now;
    size -= now;
    if (used_bytes_ == Channel::kBatchBytes && !flush()) return false;
  }
  return true;
}

bool ChannelWriter::flush() {
  if (holds_batch_) {
    channel_.batches[batch_].used_bytes = used_bytes_;
    batch_ = (batch_ + 1) % Channel::kBatches;
    holds_batch_ = false;
    channel_.filled.post();
  }
  return !stop_.stopped();
}

bool ChannelReader::read_bytes(void* bytes, std::size_t size) {
  auto* to = static_cast<std::byte*>(bytes);
  while (size > 0) {
    if (!holds_batch_) {
      if (!wait_unless_stopped(channel_.filled, stop_)) return false;
      holds_batch_ = true;
      read_bytes_ = 0;
    }
    const Channel::Batch& batch = channel_.batches[batch_];
    const std::size_t now = std::min<std::size_t>(size, batch.used_bytes - read_bytes_);
    std::memcpy(to, batch.bytes + read_bytes_, now);
    read_bytes_ += static_cast<std::uint32_t>(now);
    to += now;
    size -= now;
    if (read_bytes_ == batch.used_bytes) {
      batch_ = (batch_ + 1) % Channel::kBatches;
      holds_batch_ = false;
      channel_.empty.post();
    }
  }
  return true;
}

bool BarrierMember::arrive_and_wait() {
  Semaphore& gate = barrier_.gates[round_++ % 2];
  if (++barrier_.arrived < members_) return wait_unless_stopped(gate, stop_);
  // The last one resets the count before anybody can enter the next round.
  barrier_.arrived = 0;
  for (std::uint32_t i = 1; i < members_; ++i) gate.post();
  return !stop_.stopped();
}

}  // namespace rankbus::simulator
