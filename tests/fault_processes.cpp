// Goal:   whatever a process does after it opened its producer (is stopped for hours, forks by the
// raw
//         system call, loses its main thread, dumps core, comes back under its predecessor's pid)
//         and however little it may have when it opens (descriptors, file size, memory, any umask),
//         its segment says the truth about who lives, every record counts once, and nothing is left
//         behind.
// Method: fork processes that do each of it, beside a bus reader of the test's own; pids are forced
// in
//         a pid namespace of the test's own, memory limits in a mount namespace and a control
//         group.
// Replay: RANKBUS_TEST_SEED=<printed> fault_processes [--gtest_filter=...]
#include <pthread.h>
#include <sys/resource.h>

#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::Producer;

// C-6
TEST(ProducerStopped, LongerThanAnyTimeout_GoesOnInItsOwnSegment) {
  const Folder folder;
  const Environment run("RANKBUS_RUN_ID", "stopped");
  Child stopped([&](const Line& line) { return live_as_rank(line, folder.bus(), 0, 100); });
  const std::string name = stopped.hear();
  ASSERT_TRUE(rankbus::bus::is_segment_name(name.c_str())) << name;
  auto bus = open_bus(folder.bus(), false);
  ASSERT_TRUE(bus);
  full_pass(*bus);
  stopped.signal(SIGSTOP);
  int status = 0;
  ASSERT_EQ(waitpid(stopped.pid(), &status, WUNTRACED), stopped.pid());
  // Ten days of looking on, an owner that is replaced, and a process that takes over.
  for (int day = 0; day < 10; ++day) {
    bus->pass(now_s() + 86400.0 * day, true, [](const auto&, const auto&) {});
    ASSERT_EQ(bus->live().count(name), 1u) << "day " << day;
  }
  bus.reset();
  bus = open_bus(folder.bus(), false);
  Child successor([&](const Line& line) { return live_as_rank(line, folder.bus(), 0, 7); });
  const std::string successors = successor.hear();
  full_pass(*bus);
  ASSERT_EQ(bus->live().count(successors), 1u);
  EXPECT_EQ(bus->live().at(successors).who.lane, 1u) << "the lane of the stopped one is taken";
  stopped.signal(SIGCONT);
  stopped.say("50");
  EXPECT_EQ(stopped.hear(), "150");
  full_pass(*bus);
  EXPECT_EQ(bus->live().at(name).reader->streams()[0].position, 150u);
  EXPECT_EQ(known_records(*bus), 157u);
  stopped.kill9();
  successor.kill9();
  full_pass(*bus);
  EXPECT_EQ(known_records(*bus), 157u);
  EXPECT_EQ(bus->retired_segments(), 2u);
}

// A child by the bare system call, which no handler of pthread_atfork sees.
pid_t raw_clone(unsigned long flags) {
  std::fflush(nullptr);
  return static_cast<pid_t>(
      syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
}

// C-7
TEST(ProducerForked, ByTheRawSystemCall_ChildIsInertAndKeepsNobodyAlive) {
  // The second shares the table of descriptors, so what one closes the other has not.
  for (const unsigned long flags : {0ul, static_cast<unsigned long>(CLONE_FILES)}) {
    const Folder folder;
    const Environment quiet("RANKBUS_QUIET", "1");
    const Shared<std::atomic<int>> verdict;
    const Shared<std::atomic<pid_t>> survivor;
    Child parent([&](const Line& line) {
      Producer producer = Producer::open(tiles_of_rank(folder.bus(), 0));
      record_tiles(producer, 0, 10);
      const pid_t pid = raw_clone(flags);
      if (pid == 0) {
        record_tiles(producer, 500, 1000);
        producer.close();
        const bool inert = producer.inert() && producer.dropped_records() >= 1000;
        Producer own = Producer::open(tiles_of_rank(folder.bus(), 0));
        record_tiles(own, 0, 3);
        *verdict = inert && !own.inert() && own.lane() == 1 ? 1 : 2;
        for (;;) pause();
      }
      *survivor = pid;
      while (*verdict == 0) sched_yield();
      record_tiles(producer, 10, 20);
      line.say(producer.segment_name());
      (void)line.hear();
      return 0;
    });
    const std::string name = parent.hear();
    EXPECT_EQ(*verdict, 1);
    const auto bus = open_bus(folder.bus(), false);
    ASSERT_TRUE(bus);
    full_pass(*bus);
    ASSERT_EQ(bus->live().count(name), 1u);
    EXPECT_EQ(bus->live().at(name).reader->streams()[0].position, 30u);
    EXPECT_EQ(known_records(*bus), 33u);
    ASSERT_EQ(parent.kill9(), -SIGKILL);
    full_pass(*bus);
    EXPECT_EQ(bus->live().count(name), 0u) << "its child keeps it alive";
    EXPECT_EQ(bus->live().size(), 1u) << "the child's own segment";
    kill(*survivor, SIGKILL);
    ASSERT_TRUE(wait_until([&] { return full_pass(*bus), bus->live().empty(); }));
    EXPECT_EQ(known_records(*bus), 33u);
  }
}

// The process looks dead in every list: its first thread is a zombie. The address space lives.
// C-8
TEST(ProducerLives, WithoutItsMainThread_CountsAsAlive) {
  static Folder* folder = nullptr;
  static const Line* line = nullptr;
  const Folder here;
  folder = const_cast<Folder*>(&here);
  Child child([&](const Line& own) {
    line = &own;
    pthread_t thread;
    const auto work = [](void*) -> void* { _exit(live_as_rank(*line, folder->bus(), 0, 5)); };
    if (pthread_create(&thread, nullptr, work, nullptr) != 0) return 1;
    syscall(SYS_exit, 0);  // Of this thread alone.
    return 2;
  });
  const std::string name = child.hear();
  ASSERT_TRUE(rankbus::bus::is_segment_name(name.c_str())) << name;
  const auto bus = open_bus(here.bus(), false);
  ASSERT_TRUE(bus);
  const auto is_zombie = [&] {
    std::ifstream file("/proc/" + std::to_string(child.pid()) + "/stat");
    std::string text;
    std::getline(file, text);
    return text.find(") Z ") != std::string::npos;
  };
  ASSERT_TRUE(wait_until(is_zombie));
  full_pass(*bus);
  EXPECT_EQ(bus->live().count(name), 1u);
  child.say("20");
  EXPECT_EQ(child.hear(), "25");
  full_pass(*bus);
  EXPECT_EQ(known_records(*bus), 25u);
  child.kill9();
  full_pass(*bus);
  EXPECT_EQ(bus->retired_segments(), 1u);
  EXPECT_EQ(known_records(*bus), 25u);
}

bool is_dumping_core(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("CoreDumping:", 0) == 0) return line.back() == '1';
  }
  return false;
}

TEST(ProducerDies, WhileItsCoreIsWritten_CountsAsAlive) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's shadow memory would be in the core";
#endif
  std::ifstream file("/proc/sys/kernel/core_pattern");
  std::string pattern;
  std::getline(file, pattern);
  if (pattern.empty() || pattern[0] == '|' || pattern.find('/') != std::string::npos)
    GTEST_SKIP() << "cores go elsewhere here: " << pattern;
  std::uint64_t seen = 0;
  for (int attempt = 0; attempt < 5 && seen == 0; ++attempt) {
    const Folder folder;
    Child child([&](const Line& line) {
      const rlimit all{RLIM_INFINITY, RLIM_INFINITY};
      if (setrlimit(RLIMIT_CORE, &all) != 0 || chdir(folder.path().c_str()) != 0) return kSkipped;
      // Something to write for a while.
      constexpr std::size_t kBytes = std::size_t{96} << 20;
      void* memory =
          mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) return 1;
      std::memset(memory, 1, kBytes);
      Producer producer = Producer::open(tiles_of_rank(folder.bus(), 0));
      record_tiles(producer, 0, 12);
      line.say(producer.segment_name());
      (void)line.hear();
      signal(SIGABRT, SIG_DFL);
      raise(SIGABRT);
      return 1;
    });
    const std::string name = child.hear();
    if (name.empty()) GTEST_SKIP() << "no core may be written here";
    const auto reader = open_segment(folder.bus(), name);
    ASSERT_TRUE(reader);
    child.say("die");
    while (child.is_running()) {
      const bool before = is_dumping_core(child.pid());
      const bool alive = reader->writer_is_alive();
      if (!before || !is_dumping_core(child.pid())) continue;
      ++seen;
      ASSERT_TRUE(alive) << "what is in a core can still be in the segment";
    }
    EXPECT_EQ(child.wait(), -SIGABRT);
    EXPECT_FALSE(reader->writer_is_alive());
    ASSERT_TRUE(read_to_end(*reader));
    EXPECT_EQ(reader->streams()[0].position, 12u);
  }
  std::printf("asked %llu times during the dump\n", static_cast<unsigned long long>(seen));
  if (seen == 0) GTEST_SKIP() << "no dump was long enough to be seen";
}

// Many lives of one rank under one pid, some closed, some killed, all before anybody cleans up.
int reuse_one_pid(const std::string& bus, std::uint64_t lives, bool beside_an_owner) {
  if (!mount_own_proc()) return kSkipped;
  constexpr pid_t kPid = 4321;
  Dice dice(test_seed());
  const auto owner = beside_an_owner ? open_bus(bus, false) : nullptr;
  std::uint64_t records = 0;
  for (std::uint64_t life = 0; life < lives; ++life) {
    const std::uint64_t tiles = dice.below(200);
    if (!choose_next_pid(kPid)) return kSkipped;
    Child child([&](const Line& line) { return live_as_rank(line, bus, 0, tiles); });
    if (child.pid() != kPid) return kSkipped;
    const std::string name = child.hear();
    CHECK_HERE(rankbus::bus::is_segment_name(name.c_str()));
    if (owner && dice.one_in(3)) full_pass(*owner);
    if (dice.one_in(2)) {
      child.say("3");
      CHECK_HERE(child.hear() == std::to_string(tiles + 3));
      records += 3;
    }
    records += tiles;
    const auto reader = open_segment(bus, name);
    CHECK_HERE(reader && reader->header().pid == static_cast<std::uint32_t>(kPid));
    CHECK_HERE(reader->header().lane == 0);
    if (dice.one_in(4)) child.hang_up();
    child.kill9();
  }
  const auto last = beside_an_owner ? nullptr : open_bus(bus, false);
  rankbus::BusReader& reader = owner ? *owner : *last;
  full_pass(reader);
  CHECK_HERE(reader.live().empty());
  CHECK_HERE(reader.retired_segments() == lives);
  CHECK_HERE(known_records(reader) == records);
  return 0;
}

// C-5, C-14
TEST(ProducerRestarted, UnderThePidOfItsPredecessor_CountsEveryLifeOnce) {
  for (const bool beside_an_owner : {false, true}) {
    const Folder folder;
    const Environment run("RANKBUS_RUN_ID", "one-pid");
    const int status = in_child([&] {
      return in_namespaces(CLONE_NEWPID | CLONE_NEWNS, nothing_to_prepare, [&] {
        return reuse_one_pid(folder.bus(), scaled(60), beside_an_owner);
      });
    });
    SKIP_OR_EXPECT_0(status, "pid namespaces or ns_last_pid are not permitted here (needs root)");
  }
}

std::set<std::string> all_names(const std::string& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    names.insert(entry.path().filename().string());
  return names;
}

// Opens under a limit and records; what came of it is whole, or is nothing.
int open_under(int resource, rlim_t limit, const std::string& bus) {
  const rlimit most{limit, limit};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &most) != 0) return kSkipped;
  const Environment quiet("RANKBUS_QUIET", "1");
  Producer producer = Producer::open(tiles_of_rank(bus, 0));
  record_tiles(producer, 0, 50);
  if (!producer.inert()) return 0;
  return std::strlen(producer.reason()) > 20 && producer.dropped_records() == 50 ? 1 : 2;
}

struct Limit {
  const char* name;
  int resource;
  std::vector<rlim_t> values;
  bool always_works;
};

// C-9, C-15
TEST(ProducerOpens, UnderSmallLimits_WorksOrSaysWhyAndLeavesNothing) {
  std::vector<rlim_t> few;
  for (rlim_t n = 0; n < 24; ++n) few.push_back(n);
  const std::vector<Limit> limits = {
    {"descriptors", RLIMIT_NOFILE, few, false},
    {"file size", RLIMIT_FSIZE, {0, 1, 4096, 16384, 65536, 1 << 20}, false},
    {"locked memory", RLIMIT_MEMLOCK, {0, 4096}, true},
    {"stack", RLIMIT_STACK, {128 << 10}, true},
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    {"address space", RLIMIT_AS, {0, 1 << 20, 16 << 20, 32 << 20, 256 << 20}, false},
#endif
  };
  for (const Limit& limit : limits) {
    std::uint64_t worked = 0, inert = 0;
    for (const rlim_t value : limit.values) {
      SCOPED_TRACE(std::string(limit.name) + " " + std::to_string(value));
      const Folder folder;
      ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
      const int status = in_child([&] { return open_under(limit.resource, value, folder.bus()); });
      ASSERT_TRUE(status == 0 || (status == 1 && !limit.always_works)) << status;
      ++(status == 0 ? worked : inert);
      std::set<std::string> names = all_names(folder.bus());
      names.erase(".open");
      EXPECT_EQ(names.size(), status == 0 ? 1u : 0u) << "half a segment is left";
      if (status != 0 || names.empty()) continue;
      const auto reader = open_segment(folder.bus(), *names.begin());
      ASSERT_TRUE(reader && read_to_end(*reader));
      EXPECT_EQ(reader->streams()[0].position, 50u);
    }
    std::printf("%s: %llu worked, %llu said why not\n", limit.name,
                static_cast<unsigned long long>(worked), static_cast<unsigned long long>(inert));
    EXPECT_GT(worked, 0u) << limit.name << ": none of the limits is large enough to mean anything";
    EXPECT_EQ(inert > 0, !limit.always_works) << limit.name;
  }
}

// Whoever looks for lanes with its last descriptor may share one; both count all the same.
// C-5
TEST(ProducerOpens, WithTooFewDescriptorsToFindItsLane_BothAreCounted) {
  const Environment quiet("RANKBUS_QUIET", "1");
  const Environment run("RANKBUS_RUN_ID", "few");
  std::uint64_t shared_lanes = 0;
  for (rlim_t most = 5; most < 24; ++most) {
    const Folder folder;
    Child first([&](const Line& line) { return live_as_rank(line, folder.bus(), 0, 11); });
    ASSERT_TRUE(rankbus::bus::is_segment_name(first.hear().c_str()));
    Child second([&](const Line& line) {
      const rlimit limit{most, most};
      setrlimit(RLIMIT_NOFILE, &limit);
      return live_as_rank(line, folder.bus(), 0, 31);
    });
    const std::string name = second.hear();
    if (name.rfind("inert: ", 0) == 0) continue;
    const auto bus = open_bus(folder.bus(), false);
    ASSERT_TRUE(bus);
    full_pass(*bus);
    EXPECT_EQ(bus->live().size(), 2u);
    EXPECT_EQ(known_records(*bus), 42u);
    shared_lanes += bus->live().at(name).who.lane == 0 ? 1u : 0u;
    first.kill9();
    second.kill9();
    full_pass(*bus);
    EXPECT_EQ(known_records(*bus), 42u);
    EXPECT_EQ(bus->retired_segments(), 2u);
  }
  std::printf("%llu limits made two processes share a lane\n",
              static_cast<unsigned long long>(shared_lanes));
}

// C-17
TEST(ProducerOpens, UnderAnyUsualUmask_DirectoryAndSegmentAreItsOwnersAlone) {
  for (const mode_t mask : {0000u, 0022u, 0027u, 0077u}) {
    SCOPED_TRACE(mask);
    const Folder folder;
    Child child([&](const Line& line) {
      umask(mask);
      return live_as_rank(line, folder.bus(), 0, 9);
    });
    const std::string name = child.hear();
    ASSERT_TRUE(rankbus::bus::is_segment_name(name.c_str())) << name;
    struct stat status {};
    ASSERT_EQ(stat(folder.bus().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0700u);
    ASSERT_EQ(stat((folder.bus() + "/" + name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    // An owner with the same mask is seen by those who open later.
    Child owner([&](const Line& line) {
      umask(mask);
      const auto bus = open_bus(folder.bus(), false);
      if (!bus) return 1;
      line.say("owns");
      (void)line.hear();
      return 0;
    });
    ASSERT_EQ(owner.hear(), "owns");
    EXPECT_TRUE(rankbus::bus::owner_is_present(Directory(folder.bus()).fd()));
    ASSERT_EQ(stat((folder.bus() + "/.owner").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
  }
}

}  // namespace
}  // namespace bus_test
