// What tests of processes, users and namespaces share: bodies that run in namespaces of their own,
// and a child's own account of what was wrong.
#pragma once

#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "bus_fixture.hpp"

namespace bus_test {

// Where something is not permitted the body returns this, and the test is skipped.
inline constexpr int kSkipped = 77;

#define CHECK_HERE(condition)                                             \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      return 1;                                                           \
    }                                                                     \
  } while (false)

#define SKIP_OR_EXPECT_0(status, what)                                \
  do {                                                                \
    const int result_of_body = (status);                              \
    if (result_of_body == ::bus_test::kSkipped) GTEST_SKIP() << what; \
    EXPECT_EQ(result_of_body, 0);                                     \
  } while (false)

inline bool write_text(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const bool done =
      fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (fd >= 0) close(fd);
  return done;
}

// Runs `body` as the first process of new namespaces, after `prepare` in the one that makes them;
// kSkipped where that is not permitted. To be called in a child that may change its own.
inline int in_namespaces(int flags, const std::function<bool()>& prepare,
                         const std::function<int()>& body) {
  if (unshare(flags) != 0 || !prepare()) return kSkipped;
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int status = body();
    std::fflush(nullptr);
    _exit(status);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
inline bool nothing_to_prepare() {
  return true;
}

// A /proc of the pid namespace that this process is the first of.
inline bool mount_own_proc() {
  return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("proc", "/proc", "proc", 0, nullptr) == 0;
}

// The next process of this pid namespace gets this number, if nobody has it.
inline bool choose_next_pid(pid_t pid) {
  return write_text("/proc/sys/kernel/ns_last_pid", std::to_string(pid - 1));
}

// The number of records that every incarnation and living segment of a bus has together, as a
// reader knows it.
inline std::uint64_t known_records(const rankbus::BusReader& bus) {
  std::uint64_t records = 0;
  for (const auto& [who, state] : bus.identities()) {
    for (const auto& [name, counts] : state.retired.streams) records += counts.records;
  }
  for (const auto& [name, segment] : bus.live()) {
    for (const rankbus::StreamState& stream : segment.reader->streams()) records += stream.position;
  }
  return records;
}

// A rank that records numbered tiles.
inline rankbus::OpenOptions tiles_of_rank(const std::string& bus, std::uint32_t rank) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.rank = rank;
  options.segment_bytes = 32 << 10;
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  return options;
}
inline void record_tiles(rankbus::Producer& producer, std::uint64_t from, std::uint64_t count) {
  for (std::uint64_t n = from; n < from + count; ++n) producer.record(tile(n));
}

// A process that says the name of its segment once it has recorded `tiles`, and lives until it is
// told to write more or hears the end.
inline int live_as_rank(const Line& line, const std::string& bus, std::uint32_t rank,
                        std::uint64_t tiles) {
  rankbus::Producer producer = rankbus::Producer::open(tiles_of_rank(bus, rank));
  if (producer.inert()) {
    line.say(std::string("inert: ") + producer.reason());
    return 1;
  }
  record_tiles(producer, 0, tiles);
  line.say(producer.segment_name());
  for (std::uint64_t written = tiles;;) {
    const std::string more = line.hear();
    if (more.empty()) return 0;
    const std::uint64_t count = std::strtoull(more.c_str(), nullptr, 10);
    record_tiles(producer, written, count);
    written += count;
    line.say(std::to_string(written));
  }
}

}  // namespace bus_test
