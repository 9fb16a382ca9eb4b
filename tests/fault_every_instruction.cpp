// Labels: multiprocess-heavy
//
// Goal:   a producer killed between any two instructions of recording leaves every record that it
//         finished, and at most one that it did not; killed at any system call of opening, nothing
//         or a whole segment, and nobody waits for it.
// Method: the processor is made to stop after each instruction of the writer (ptrace). What its
//         segment's file holds then is what a kill would leave, so that a copy of each state is
//         read as a dead writer's and held against a model; some are killed in earnest. Opening is
//         stopped before and after each system call, and killed there.
// Replay: RANKBUS_TEST_SEED=<printed> fault_every_instruction [--gtest_filter=...];
//         RANKBUS_TEST_SCALE=10 steps through ten times as many records.
#include <sys/ptrace.h>

#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;

constexpr int kNotTraced = 77;
// The smallest ring has 64 slots, and a checkpoint falls due every sixteen: it wraps soon.
constexpr std::uint64_t kUnwatched = 60;

// Waits until a traced child stops; false if it has ended, and is left to be waited for.
bool has_stopped(const Child& child) {
  const auto id = static_cast<id_t>(child.pid());
  siginfo_t info{};
  while (waitid(P_PID, id, &info, WEXITED | WSTOPPED | WNOWAIT) != 0) {
    if (errno != EINTR) return false;
  }
  if (info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED) return false;
  return waitid(P_PID, id, &info, WSTOPPED) == 0;
}

struct Progress {
  std::atomic<std::uint64_t> calls{0};
};

rankbus::OpenOptions smallest(const std::string& bus) {
  rankbus::OpenOptions options = options_for(bus, rankbus::Role::other);
  options.records[0] = rankbus::record_type<llm_engine::Tile>();
  options.records[1] = rankbus::record_type<llm_engine::Swap>();
  options.segment_bytes = 1;
  return options;
}

// The writer inherits them.
const RecordSequence<llm_engine::Swap>& swaps() {
  static const RecordSequence<llm_engine::Swap> sequence(test_seed(), Temper::tame);
  return sequence;
}

// What the two streams must hold after a number of calls of each.
class Expected {
 public:
  // Whether a dead writer's segment, which had finished `calls` records of each type and may have
  // been inside the next, is read whole.
  testing::AssertionResult are_in(const std::string& bus, const std::string& name,
                                  std::uint64_t calls) {
    const auto reader = open_segment(bus, name);
    if (reader == nullptr) return testing::AssertionFailure() << "refused";
    if (reader->writer_is_alive()) return testing::AssertionFailure() << "still alive";
    if (!read_to_end(*reader)) return testing::AssertionFailure() << "no end";
    if (!reader->error().empty()) return testing::AssertionFailure() << reader->error();
    std::uint64_t abandoned = 0, unfinished = 0;
    for (const rankbus::StreamState& stream : reader->streams()) {
      if (stream.mismatches != 0 || stream.position != stream.published)
        return testing::AssertionFailure() << "not read to its end";
      abandoned += stream.abandoned;
    }
    const rankbus::StreamState& tile_stream = *find_stream(*reader, "tile");
    const rankbus::StreamState& swap_stream = *find_stream(*reader, "swap");
    unfinished += tile_stream.published - calls;
    if (tile_stream.published < calls || unfinished > 1)
      return testing::AssertionFailure() << tile_stream.published << " tiles of " << calls;
    const std::uint64_t slots = swap_stream.published;
    if (slots < swaps_.slots_of_calls(calls) || slots > swaps_.slots_of_calls(calls + 1))
      return testing::AssertionFailure() << slots << " slots of swaps after " << calls << " calls";
    if (abandoned > 1) return testing::AssertionFailure() << abandoned << " records abandoned";
    while (tiles_.slots < tile_stream.published) tiles_.add(tile(tiles_.slots), 0);
    const auto tiles_right = equals_model(tile_stream, tiles_);
    return tiles_right ? equals_model(swap_stream, swaps_.after(slots)) : tiles_right;
  }

 private:
  StreamModel<llm_engine::Tile> tiles_;
  Oracle<llm_engine::Swap> swaps_{swaps()};
};

// A writer that stops itself once its segment is there, and then records until it is killed.
class SteppedWriter {
 public:
  explicit SteppedWriter(const std::string& bus)
      : child_([&](const Line& line) {
          if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) return kNotTraced;
          Producer producer = Producer::open(smallest(bus));
          line.say(producer.segment_name());
          for (std::uint64_t n = 0;; ++n) {
            if (n == kUnwatched) raise(SIGSTOP);
            producer.record(tile(n));
            producer.record(swaps().call(n));
            progress_->calls = n + 1;
          }
        }) {
    name_ = child_.hear();
    if (name_.empty()) return;
    is_stopped_ = has_stopped(child_);
    ptrace(PTRACE_SETOPTIONS, child_.pid(), nullptr, PTRACE_O_EXITKILL);
  }
  bool is_traced() const { return is_stopped_; }
  const std::string& name() const { return name_; }
  std::uint64_t calls() const { return progress_->calls; }
  // One instruction; false if the writer is not there any more.
  bool step() {
    return ptrace(PTRACE_SINGLESTEP, child_.pid(), nullptr, nullptr) == 0 && has_stopped(child_);
  }
  void kill() { child_.kill9(); }

 private:
  Shared<Progress> progress_;
  std::string name_;
  bool is_stopped_ = false;
  Child child_;
};

class FileBytes {
 public:
  explicit FileBytes(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || fstat(fd, &status) != 0) std::abort();
    size_ = static_cast<std::size_t>(status.st_size);
    void* memory = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) std::abort();
    bytes_ = static_cast<const char*>(memory);
    last_.assign(size_, 0);
  }
  ~FileBytes() { munmap(const_cast<char*>(bytes_), size_); }
  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;
  // Whether anything is other than at the last call.
  bool have_changed() {
    if (std::memcmp(last_.data(), bytes_, size_) == 0) return false;
    std::memcpy(last_.data(), bytes_, size_);
    return true;
  }
  void put(const std::string& path) const {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, last_.data(), size_) != static_cast<ssize_t>(size_)) std::abort();
    close(fd);
  }

 private:
  const char* bytes_ = nullptr;
  std::size_t size_ = 0;
  std::vector<char> last_;
};

// C-1
TEST(ProducerStepped, BetweenAnyTwoInstructions_AKillLosesOneRecordAtMost) {
  const Folder folder;
  const Folder copies;
  Expected expected;
  SteppedWriter writer(folder.bus());
  if (!writer.is_traced()) GTEST_SKIP() << "this system lets nobody trace its child";
  FileBytes bytes(folder.bus() + "/" + writer.name());
  Producer::open(smallest(copies.bus())).close();  // Makes the directory.
  const std::uint64_t calls = kUnwatched + 4 + scaled(14);
  std::uint64_t steps = 0, states = 0;
  while (writer.calls() < calls) {
    ASSERT_TRUE(writer.step());
    ++steps;
    if (!bytes.have_changed()) continue;
    ++states;
    bytes.put(copies.bus() + "/" + writer.name());
    ASSERT_TRUE(expected.are_in(copies.bus(), writer.name(), writer.calls()))
        << "after instruction " << steps;
  }
  EXPECT_GT(states, 20 * (calls - kUnwatched));
  std::printf("%llu instructions, %llu states of the segment, %llu records of each type\n",
              static_cast<unsigned long long>(steps), static_cast<unsigned long long>(states),
              static_cast<unsigned long long>(calls - kUnwatched));
}

// C-1
TEST(ProducerStepped, KilledAtARandomInstruction_ItsLockIsFreeAndItsRecordsAreThere) {
  const Folder folder;
  Dice dice(test_seed());
  for (std::uint64_t kill = 0; kill < scaled(10); ++kill) {
    Expected expected;
    SteppedWriter writer(folder.bus());
    if (!writer.is_traced()) GTEST_SKIP() << "this system lets nobody trace its child";
    for (std::uint64_t steps = dice.below(6'000); steps > 0; --steps) ASSERT_TRUE(writer.step());
    const std::uint64_t calls = writer.calls();
    writer.kill();
    ASSERT_TRUE(expected.are_in(folder.bus(), writer.name(), calls)) << "kill " << kill;
    unlink((folder.bus() + "/" + writer.name()).c_str());
  }
}

// Runs a body that opens a producer up to its `stops`th stop at a system call, and kills it there.
// Returns false once it came to its end before.
bool kill_at_call(const std::string& bus, std::uint64_t stops, bool& is_traced) {
  Child child([&](const Line&) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) return kNotTraced;
    raise(SIGSTOP);
    return Producer::open(smallest(bus)).inert() ? 1 : 0;
  });
  is_traced = has_stopped(child);
  if (!is_traced) return false;
  ptrace(PTRACE_SETOPTIONS, child.pid(), nullptr, PTRACE_O_EXITKILL);
  for (std::uint64_t stop = 0; stop < stops; ++stop) {
    if (ptrace(PTRACE_SYSCALL, child.pid(), nullptr, nullptr) != 0) return false;
    if (!has_stopped(child)) return false;
  }
  child.kill9();
  return true;
}

// C-1, C-3
TEST(ProducerStepped, KilledAtAnySystemCallOfOpening_LeavesNothingOrAWholeSegmentAndHoldsNobodyUp) {
  std::uint64_t kills = 0, left = 0;
  // Every other stop is the end of a call, which leaves what the beginning of the next one finds.
  for (std::uint64_t stops = 1; stops < 2'000; stops += 2) {
    const Folder folder;
    bool is_traced = false;
    const bool was_killed = kill_at_call(folder.bus(), stops, is_traced);
    if (!is_traced) GTEST_SKIP() << "this system lets nobody trace its child";
    if (!was_killed) break;
    ++kills;
    // Who comes next is the only one of its identity, whatever the dead held.
    Producer next = Producer::open(smallest(folder.bus()));
    ASSERT_FALSE(next.inert()) << next.reason() << " after stop " << stops;
    EXPECT_EQ(next.lane(), 0u);
    next.record(tile(0));
    std::vector<std::string> warnings;
    const auto bus = open_bus(folder.bus(), false, &warnings);
    ASSERT_TRUE(bus);
    full_pass(*bus);
    EXPECT_EQ(bus->rejected(), 0u) << "after stop " << stops;
    EXPECT_EQ(warnings, std::vector<std::string>());
    EXPECT_EQ(bus->live().size(), 1u);
    left += bus->retired_segments();
    EXPECT_EQ(Directory(folder.bus()).segments().size(), 1u);
  }
  EXPECT_GT(kills, 20u);
  EXPECT_GT(left, 0u) << "no kill came after the segment had its name";
  std::printf("%llu kills, %llu of them left a segment\n", static_cast<unsigned long long>(kills),
              static_cast<unsigned long long>(left));
}

}  // namespace
}  // namespace bus_test
