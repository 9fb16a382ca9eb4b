// What tests of the bus share: folders in shared memory, child processes that end with the test,
// seeds, and reading a segment to its end.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <rankbus/aggregator/bus_reader.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/bus/clock.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/producer.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "bus_model.hpp"
#include "bus_records.hpp"

namespace bus_test {

// RANKBUS_TEST_SEED, else a new one; printed with the command that repeats the run.
inline std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* given = std::getenv("RANKBUS_TEST_SEED");
    const std::uint64_t chosen = given != nullptr && given[0] != '\0'
                                     ? std::strtoull(given, nullptr, 10)
                                     : std::random_device{}();
    std::printf("[   SEED   ] %llu; replay: RANKBUS_TEST_SEED=%llu %s\n",
                static_cast<unsigned long long>(chosen), static_cast<unsigned long long>(chosen),
                program_invocation_name);
    std::fflush(stdout);
    return chosen;
  }();
  return seed;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr double kUsualScale = 0.1;
#else
inline constexpr double kUsualScale = 1;
#endif

// How often a test repeats: the given count, times RANKBUS_TEST_SCALE. Sanitized builds do a tenth.
inline std::uint64_t scaled(std::uint64_t count) {
  const char* given = std::getenv("RANKBUS_TEST_SCALE");
  const double scale =
      kUsualScale * (given != nullptr && given[0] != '\0' ? std::strtod(given, nullptr) : 1);
  const double result = static_cast<double>(count) * scale;
  return result < 1 ? 1 : static_cast<std::uint64_t>(result);
}

// Generous: only what hangs gets there.
inline constexpr std::uint64_t kLimit_ns = 60'000'000'000;

// Spins until the condition holds; false at the limit. For conditions that another process is about
// to fulfil.
template <class Condition>
bool wait_until(Condition&& condition) {
  const std::uint64_t end = rankbus::bus::monotonic_ns() + kLimit_ns;
  while (!condition()) {
    if (rankbus::bus::monotonic_ns() > end) return false;
    sched_yield();
  }
  return true;
}

// A folder in shared memory that goes away with the test; the bus is a folder in it.
class Folder {
 public:
  Folder() {
    char name[] = "/dev/shm/rankbus-test-XXXXXX";
    if (mkdtemp(name) == nullptr) std::abort();
    path_ = name;
    bus_ = path_ + "/bus";
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }
  const std::string& bus() const { return bus_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
  std::string bus_;
};

// An environment variable for the length of a scope.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = std::make_unique<std::string>(old);
    setenv(name, value.c_str(), 1);
  }
  ~Environment() {
    if (old_) {
      setenv(name_, old_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::unique_ptr<std::string> old_;
};

class Directory {
 public:
  explicit Directory(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}
  ~Directory() {
    if (fd_ >= 0) close(fd_);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  int fd() const { return fd_; }
  std::set<std::string> segments() const {
    std::set<std::string> names;
    rankbus::bus::for_each_segment_name(fd_, [&](const char* name) { names.insert(name); });
    return names;
  }

 private:
  int fd_;
};

// Memory that this process and its children share.
template <class T>
class Shared {
 public:
  Shared() {
    void* memory =
        mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    value_ = new (memory) T{};
  }
  ~Shared() { munmap(value_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return value_; }
  T& operator*() const { return *value_; }

 private:
  T* value_;
};

// The two ends of a conversation, a line at a time.
class Line {
 public:
  Line(int in, int out) : in_(in), out_(out) {}
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;
  ~Line() {
    close(in_);
    close(out_);
  }
  void say(const std::string& text) const {
    const std::string line = text + "\n";
    if (write(out_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) _exit(9);
  }
  // Empty at the end of the conversation, or at the limit.
  std::string hear() const {
    std::string text;
    char c = 0;
    for (;;) {
      pollfd ready{in_, POLLIN, 0};
      if (poll(&ready, 1, static_cast<int>(kLimit_ns / 1'000'000)) <= 0) return {};
      if (read(in_, &c, 1) != 1 || c == '\n') return text;
      text += c;
    }
  }

 private:
  int in_;
  int out_;
};

// A forked process that runs `body` and exits with what it returns. It is killed when the test
// process dies; its own children should live on `hear`, which ends then.
class Child {
 public:
  using Body = std::function<int(const Line&)>;
  explicit Child(const Body& body) {
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) std::abort();
    std::fflush(nullptr);
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(9);
      close(down[1]);
      close(up[0]);
      const Line line(down[0], up[1]);
      const int status = body(line);
      std::fflush(nullptr);
      _exit(status);
    }
    close(down[0]);
    close(up[1]);
    line_ = std::make_unique<Line>(up[0], down[1]);
  }
  ~Child() { kill9(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  std::string hear() const { return line_->hear(); }
  void say(const std::string& text) const { line_->say(text); }
  void hang_up() { line_.reset(); }
  void signal(int number) const {
    if (pid_ > 0) kill(pid_, number);
  }
  bool is_running() const {
    siginfo_t info{};
    return pid_ > 0 &&
           waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0;
  }
  // Waits for the death, and leaves the zombie.
  void wait_dead() const {
    siginfo_t info{};
    while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 &&
           errno == EINTR) {
    }
  }
  // The exit status; negative for a signal.
  int wait() {
    if (pid_ <= 0) return status_;
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return status_;
  }
  int kill9() {
    signal(SIGKILL);
    return wait();
  }

 private:
  pid_t pid_ = 0;
  int status_ = 0;
  std::unique_ptr<Line> line_;
};

// Runs `body` in a process of its own and returns its exit status.
inline int in_child(const std::function<int()>& body) {
  Child child([&](const Line&) { return body(); });
  return child.wait();
}

inline rankbus::OpenOptions options_for(const std::string& bus, rankbus::Role role) {
  rankbus::OpenOptions options;
  options.bus = bus.c_str();
  options.model = "test-model";
  options.role = role;
  if (role == rankbus::Role::worker) options.rank = 0;
  return options;
}

// How the aggregator reads: mapped, behind the guard.
inline rankbus::ByteAccess as_the_aggregator() {
  EXPECT_TRUE(rankbus::MappingGuard::install());
  return rankbus::ByteAccess::mapped;
}

inline std::unique_ptr<rankbus::SegmentReader> open_segment(const std::string& bus,
                                                            const std::string& name) {
  const Directory directory(bus);
  auto opened = rankbus::SegmentReader::open_untrusted(directory.fd(), name, as_the_aggregator());
  if (!opened) {
    ADD_FAILURE() << name << ": " << opened.error();
    return nullptr;
  }
  return std::move(opened.value());
}

// Reads a dead writer's segment to its end; false if it does not end.
inline bool read_to_end(rankbus::SegmentReader& reader, const rankbus::SampleSink& sink = {}) {
  for (int i = 0; i < 10'000; ++i) {
    reader.poll(true, sink);
    if (reader.is_drained()) return true;
  }
  return false;
}

// Checks that a dead writer's stream holds exactly the sequence's first records. Returns how many.
template <class T>
std::uint64_t expect_sequence(const rankbus::SegmentReader& reader, Oracle<T>& oracle) {
  const rankbus::StreamState* stream = find_stream(reader, T::RankbusRecord::kName);
  if (stream == nullptr) {
    ADD_FAILURE() << "no stream " << T::RankbusRecord::kName;
    return 0;
  }
  EXPECT_EQ(stream->position, stream->published);
  EXPECT_EQ(stream->mismatches, 0u);
  EXPECT_TRUE(equals_model(*stream, oracle.after(stream->published)));
  return stream->published;
}

// The `published` words of a segment, through a mapping that outlives its name and its writer: what
// became public, seen by somebody who is not the reader under test.
class PublishedWords {
 public:
  PublishedWords(const std::string& bus, const std::string& name) {
    const int fd = open((bus + "/" + name).c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || fstat(fd, &status) != 0) std::abort();
    bytes_ = static_cast<std::size_t>(status.st_size);
    void* memory = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) std::abort();
    base_ = static_cast<const unsigned char*>(memory);
  }
  ~PublishedWords() {
    if (base_ != nullptr) munmap(const_cast<unsigned char*>(base_), bytes_);
  }
  PublishedWords(PublishedWords&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), bytes_(other.bytes_) {}
  PublishedWords(const PublishedWords&) = delete;
  PublishedWords& operator=(const PublishedWords&) = delete;

  std::uint64_t of_stream(std::uint32_t index) const {
    const rankbus::bus::ProcessMemory memory;
    return memory.load_published(reinterpret_cast<const Word*>(base_ + header().activity_offset) +
                                 index);
  }
  const rankbus::bus::SegmentHeader& header() const {
    return *reinterpret_cast<const rankbus::bus::SegmentHeader*>(base_);
  }

 private:
  const unsigned char* base_ = nullptr;
  std::size_t bytes_ = 0;
};

inline std::unique_ptr<rankbus::BusReader> open_bus(const std::string& bus, bool observe,
                                                    std::vector<std::string>* warnings = nullptr) {
  rankbus::BusOptions options;
  options.directory = bus;
  options.observe = observe;
  options.access = as_the_aggregator();
  auto opened = rankbus::BusReader::open(options, [warnings](const std::string& text) {
    if (warnings != nullptr) warnings->push_back(text);
  });
  if (!opened) {
    ADD_FAILURE() << opened.error();
    return nullptr;
  }
  return std::move(opened.value());
}

inline double now_s() {
  return static_cast<double>(rankbus::bus::monotonic_ns()) * 1e-9;
}

// A pass that looks at names and locks too.
inline bool full_pass(rankbus::BusReader& bus) {
  return bus.pass(now_s(), true, [](const rankbus::LiveSegment&, const rankbus::Sample&) {});
}

}  // namespace bus_test
