// Goal:   a producer in another container than its reader (other pid, time, user and mount
// namespaces,
//         another control group) is read like any other, and what means something else over there
//         is no evidence here: its pid, its clock, its boot. A step of the realtime clock or a
//         reboot bends no count.
// Method: fork producers and readers into namespaces of their own, with pids forced to collide and
//         clocks set apart; imitate control groups by mounts, and a reboot by the boot's id in a
//         segment that stayed.
// Replay: fault_namespaces [--gtest_filter=...]; nothing here is random.
#include <linux/magic.h>
#include <sys/statfs.h>

#include <rankbus/aggregator/reduce.hpp>

#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::BusReader;
using rankbus::Producer;

constexpr const char* kNoNamespaces = "namespaces are not permitted here (needs root)";

// Our own series of one rank, by name and state.
std::map<std::string, double> self_metrics(const BusReader& bus, std::uint32_t rank) {
  rankbus::FamilyBuilder families;
  rankbus::TickClock clock;
  rankbus::add_self_metrics(bus, clock, now_s(), {}, families);
  std::map<std::string, double> values;
  for (const rankbus::Family& family : families.take()) {
    for (const rankbus::Series& series : family.series) {
      std::string name = family.name;
      bool is_of_rank = false;
      for (const auto& [label, value] : series.labels) {
        is_of_rank = is_of_rank || (label == "rank" && value == std::to_string(rank));
        if (label == "state") name += "/" + value;
      }
      const auto* number = std::get_if<rankbus::Number>(&series.value);
      if (!is_of_rank || number == nullptr) continue;
      values[name] = std::visit([](auto each) { return static_cast<double>(each); }, *number);
    }
  }
  return values;
}

pid_t stopped_bystander() {
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    raise(SIGSTOP);
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, WUNTRACED);
  return pid;
}

// C-13, C-14
TEST(PidNamespace, StoppedBystanderOfEqualNumber_IsNoEvidence) {
  const Folder folder;
  const pid_t bystander = stopped_bystander();
  // Over there the producer has the bystander's number.
  Child container([&](const Line& line) {
    return in_namespaces(CLONE_NEWPID | CLONE_NEWNS, nothing_to_prepare, [&] {
      if (!mount_own_proc() || !choose_next_pid(bystander)) return kSkipped;
      const pid_t pid = fork();
      if (pid == 0) _exit(live_as_rank(line, folder.bus(), 0, 10));
      waitpid(pid, nullptr, 0);
      return 0;
    });
  });
  const std::string name = container.hear();
  if (!rankbus::bus::is_segment_name(name.c_str())) {
    kill(bystander, SIGKILL);
    waitpid(bystander, nullptr, 0);
    ASSERT_EQ(container.wait(), kSkipped) << name;
    GTEST_SKIP() << kNoNamespaces;
  }
  const auto bus = open_bus(folder.bus(), true);
  full_pass(*bus);
  const auto* segment = bus->live().count(name) != 0 ? &bus->live().at(name) : nullptr;
  EXPECT_TRUE(segment != nullptr);
  if (segment != nullptr) {
    EXPECT_EQ(segment->reader->header().pid, static_cast<std::uint32_t>(bystander));
  }
  const auto there = self_metrics(*bus, 0);
  EXPECT_EQ(there.at("rankbus_rank_state/stopped"), 0) << "it is another process that is stopped";
  EXPECT_EQ(there.at("rankbus_rank_state/ok"), 1);
  kill(bystander, SIGKILL);
  waitpid(bystander, nullptr, 0);

  // Where the number means the same, it is believed.
  Child neighbour([&](const Line& line) { return live_as_rank(line, folder.bus(), 1, 10); });
  ASSERT_TRUE(rankbus::bus::is_segment_name(neighbour.hear().c_str()));
  neighbour.signal(SIGSTOP);
  int status = 0;
  waitpid(neighbour.pid(), &status, WUNTRACED);
  full_pass(*bus);
  EXPECT_EQ(self_metrics(*bus, 1).at("rankbus_rank_state/stopped"), 1);
}

// The reader sits in the container, once with the host's /proc and once with its own.
// C-13
TEST(PidNamespace, ReaderWithinAndProducerOutside_IsReadAndItsPidIsNoEvidence) {
  for (const bool with_own_proc : {false, true}) {
    const Folder folder;
    Child producer([&](const Line& line) { return live_as_rank(line, folder.bus(), 0, 10); });
    ASSERT_TRUE(rankbus::bus::is_segment_name(producer.hear().c_str()));
    producer.signal(SIGSTOP);
    int status = 0;
    waitpid(producer.pid(), &status, WUNTRACED);
    const int result = in_child([&] {
      return in_namespaces(CLONE_NEWPID | CLONE_NEWNS, nothing_to_prepare, [&] {
        if (with_own_proc && !mount_own_proc()) return kSkipped;
        const auto bus = open_bus(folder.bus(), false);
        CHECK_HERE(bus);
        full_pass(*bus);
        CHECK_HERE(known_records(*bus) == 10);
        CHECK_HERE(self_metrics(*bus, 0).at("rankbus_rank_state/stopped") == 0);
        // A producer of this very namespace, seen through a /proc that counts otherwise.
        Child inner([&](const Line& line) { return live_as_rank(line, folder.bus(), 1, 3); });
        CHECK_HERE(rankbus::bus::is_segment_name(inner.hear().c_str()));
        inner.signal(SIGSTOP);
        waitpid(inner.pid(), nullptr, WUNTRACED);
        full_pass(*bus);
        const double stopped = self_metrics(*bus, 1).at("rankbus_rank_state/stopped");
        CHECK_HERE(stopped == (with_own_proc ? 1 : 0));
        return 0;
      });
    });
    SKIP_OR_EXPECT_0(result, kNoNamespaces);
    producer.kill9();
    const auto bus = open_bus(folder.bus(), false);
    full_pass(*bus);
    EXPECT_EQ(known_records(*bus), 13u) << "the owner within has removed nothing that lives";
  }
}

// What is killed with its whole container is dead out here.
// C-13
TEST(PidNamespace, KilledWithItsContainer_IsDeadAndCountsOnce) {
  const Folder folder;
  const auto bus = open_bus(folder.bus(), false);
  ASSERT_TRUE(bus);
  std::uint64_t records = 0;
  for (std::uint64_t life = 1; life <= scaled(10); ++life) {
    Child container([&](const Line& line) {
      return in_namespaces(CLONE_NEWPID | CLONE_NEWUSER, nothing_to_prepare,
                           [&] { return live_as_rank(line, folder.bus(), 0, 10 * life); });
    });
    const std::string name = container.hear();
    if (name.empty()) GTEST_SKIP() << kNoNamespaces;
    if (name.rfind("inert", 0) == 0) GTEST_SKIP() << "no mapping of users: " << name;
    full_pass(*bus);
    EXPECT_EQ(bus->live().count(name), 1u);
    records += 10 * life;
    container.kill9();
    ASSERT_TRUE(wait_until([&] { return full_pass(*bus), bus->live().empty(); }));
    EXPECT_EQ(known_records(*bus), records);
    EXPECT_EQ(bus->retired_segments(), life);
  }
}

constexpr double kApart_s = 5e6;  // Two months.

// Where /sys says so, producers stamp by CLOCK_MONOTONIC.
bool hide_the_tsc(const std::string& scratch) {
  const std::string file = scratch + "/clocksource";
  return write_text(file, "hpet\n") &&
         mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount(file.c_str(), "/sys/devices/system/clocksource/clocksource0/current_clocksource",
               nullptr, MS_BIND, nullptr) == 0;
}

// A rank of real stamps in a time namespace whose CLOCK_MONOTONIC is so many seconds ahead of ours.
int live_in_another_time(const Line& line, const Folder& folder, double ahead_s, bool with_tsc) {
  const auto prepare = [&] {
    const std::string seconds = std::to_string(static_cast<std::int64_t>(ahead_s));
    return write_text("/proc/self/timens_offsets", "monotonic " + seconds + " 0\n") &&
           (with_tsc || hide_the_tsc(folder.path()));
  };
  return in_namespaces(CLONE_NEWTIME | CLONE_NEWNS, prepare, [&] {
    rankbus::OpenOptions options = options_for(folder.bus(), rankbus::Role::worker);
    options.rank = 0;
    Producer producer = Producer::open(options);
    for (int n = 0; n < 20; ++n) producer.record(rankbus::WorkerStep{});
    line.say(producer.inert() ? producer.reason() : producer.segment_name());
    (void)line.hear();
    return 0;
  });
}

// C-13, C-18
TEST(TimeNamespace, ClockSetApart_AgesAndBeginningsAreThoseOfOneClock) {
  for (const bool with_tsc : {false, true}) {
    SCOPED_TRACE(with_tsc ? "stamps of the TSC" : "stamps of CLOCK_MONOTONIC");
    for (const double ahead_s : {kApart_s, -now_s() / 2}) {
      SCOPED_TRACE(ahead_s);
      const Folder folder;
      Child container(
          [&](const Line& line) { return live_in_another_time(line, folder, ahead_s, with_tsc); });
      const std::string name = container.hear();
      if (name.empty()) GTEST_SKIP() << "time namespaces are not permitted here (needs root)";
      const auto bus = open_bus(folder.bus(), false);
      full_pass(*bus);
      ASSERT_EQ(bus->live().count(name), 1u) << name;
      const rankbus::LiveSegment& segment = bus->live().at(name);
      const rankbus::bus::SegmentHeader& header = segment.reader->header();
      if (!with_tsc) {
        ASSERT_EQ(header.clock_source,
                  static_cast<std::uint32_t>(rankbus::bus::ClockSource::monotonic));
      }
      EXPECT_FALSE(segment.began_here) << "it was there before its reader";
      EXPECT_EQ(known_records(*bus), 20u);
      const double apart_s = std::abs(ahead_s);
      const double age_s = self_metrics(*bus, 0).at("rankbus_source_age_seconds");
      EXPECT_GT(age_s, 0);
      EXPECT_LT(age_s, apart_s / 2) << "the difference of the clocks is no age";
      const double began_s = static_cast<double>(bus->identities().at(segment.who).began_ns) * 1e-9;
      EXPECT_LT(std::abs(now_s() - began_s), apart_s / 2);
      // Dead, it is as old as it was.
      container.kill9();
      ASSERT_TRUE(wait_until([&] { return full_pass(*bus), bus->live().empty(); }));
      const double dead_age_s = self_metrics(*bus, 0).at("rankbus_source_age_seconds");
      EXPECT_GE(dead_age_s, age_s);
      EXPECT_LT(dead_age_s, apart_s / 2);
      EXPECT_EQ(known_records(*bus), 20u);
    }
  }
}

// Who opens after its reader has begun here, however far behind its clock is.
// C-13
TEST(TimeNamespace, ClockFarBehindAndReaderFirst_BeganUnderThatReader) {
  const Folder folder;
  const auto bus = open_bus(folder.bus(), false);
  full_pass(*bus);
  Child container(
      [&](const Line& line) { return live_in_another_time(line, folder, -now_s() / 2, true); });
  const std::string name = container.hear();
  if (name.empty()) GTEST_SKIP() << "time namespaces are not permitted here (needs root)";
  full_pass(*bus);
  ASSERT_EQ(bus->live().count(name), 1u) << name;
  EXPECT_TRUE(bus->live().at(name).began_here);
}

// A directory that outlives a reboot, where there is one; else one in memory does as well, because
// only the boot's id tells.
class Reboot : public testing::Test {
 protected:
  Reboot() {
    std::string name = (std::filesystem::temp_directory_path() / "rankbus-disk-XXXXXX").string();
    struct statfs filesystem {};
    if (mkdtemp(name.data()) == nullptr || statfs(name.c_str(), &filesystem) != 0) std::abort();
    place_ = name;
    std::printf("%s is %s\n", name.c_str(),
                filesystem.f_type == TMPFS_MAGIC ? "in memory" : "on a disk");
  }
  ~Reboot() override { std::filesystem::remove_all(place_); }

  // The segment of a rank that died, as if a kernel before this one had seen it made.
  std::string left_behind(std::uint64_t tiles) {
    Child child([&](const Line& line) { return live_as_rank(line, bus(), 0, tiles); });
    const std::string name = child.hear();
    child.kill9();
    const int fd = open((bus() + "/" + name).c_str(), O_RDWR | O_CLOEXEC);
    rankbus::bus::SegmentHeader header{};
    EXPECT_EQ(pread(fd, &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    header.boot_id[3] = static_cast<std::uint8_t>(header.boot_id[3] + 1);
    // That boot was up for longer, and was some time ago.
    header.anchor_monotonic_ns += std::uint64_t{1'000'000} * 1'000'000'000;
    header.anchor_realtime_ns -= std::uint64_t{3600} * 1'000'000'000;
    EXPECT_EQ(pwrite(fd, &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    close(fd);
    return name;
  }
  std::string bus() const { return place_ + "/bus"; }

  std::string place_;
  Environment allow_{"RANKBUS_ALLOW_DISK", "1"};
};

// C-18
TEST_F(Reboot, SegmentThatStayed_IsDeadWhateverItsLockSays) {
  const std::string name = left_behind(17);
  // A backup, or whatever else started with the machine, has a lock on it.
  const int fd = open((bus() + "/" + name).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_TRUE(rankbus::bus::take_write_lock(fd));
  {
    const auto reader = open_segment(bus(), name);
    ASSERT_TRUE(reader);
    EXPECT_FALSE(reader->writer_is_alive());
  }
  const auto owner = open_bus(bus(), false);
  ASSERT_TRUE(owner);
  full_pass(*owner);
  EXPECT_EQ(owner->retired_segments(), 1u);
  EXPECT_EQ(known_records(*owner), 17u);
  EXPECT_TRUE(Directory(bus()).segments().empty());
  ASSERT_EQ(owner->identities().size(), 1u);
  const rankbus::IdentityState& state = owner->identities().begin()->second;
  EXPECT_LT(state.began_ns, owner->opened_ns()) << "the clock of that boot stood elsewhere";
  close(fd);
  // Its rank comes back, and continues.
  Child child([&](const Line& line) { return live_as_rank(line, bus(), 0, 5); });
  (void)child.hear();
  full_pass(*owner);
  EXPECT_EQ(known_records(*owner), 22u);
}

// C-18
TEST_F(Reboot, LedgerFromTheFuture_CountsGoOn) {
  // The realtime clock was a day ahead when the image was made, and was set right since; once on
  // this boot, and once before.
  for (const bool rebooted : {false, true}) {
    SCOPED_TRACE(rebooted);
    std::filesystem::remove_all(bus());
    ASSERT_EQ(mkdir(bus().c_str(), 0700), 0);
    rankbus::Identity who;
    who.model = "test-model";
    who.role = static_cast<std::uint32_t>(rankbus::Role::other);
    who.rank = 0;
    rankbus::IdentityState state;
    state.retired.streams["tile"].records = 100;
    state.last_alive_s = now_s() - 30;
    state.began_ns = 1;
    {
      auto store = rankbus::LedgerStore::open(bus());
      ASSERT_TRUE(store) << store.error();
      auto image = std::make_shared<rankbus::LedgerImage>();
      image->generation = (*store)->next_generation();
      image->boot_id = rankbus::this_boot();
      if (rebooted) image->boot_id[0] = static_cast<std::uint8_t>(image->boot_id[0] + 1);
      image->written_s = now_s();
      image->written_realtime_s =
          static_cast<double>(rankbus::bus::clock_ns(CLOCK_REALTIME)) * 1e-9 + 86400;
      image->identities[who] = std::make_shared<const rankbus::IdentityState>(state);
      (*store)->write(std::move(image));
      (*store)->wait();
    }
    rankbus::BusOptions options;
    options.directory = bus();
    options.ledger.keep = true;
    auto opened = BusReader::open(options, [](const std::string&) {});
    ASSERT_TRUE(opened) << opened.error();
    BusReader& owner = **opened;
    full_pass(owner);
    EXPECT_EQ(known_records(owner), 100u);
    const double ended_s = owner.identities().at(who).last_alive_s;
    EXPECT_LE(ended_s, now_s()) << "nobody ended in the future";
    Child child([&](const Line& line) { return live_as_rank(line, bus(), 0, 5); });
    (void)child.hear();
    full_pass(owner);
    EXPECT_EQ(known_records(owner), 105u);
    EXPECT_EQ(owner.vanished(), 0u);
  }
}

}  // namespace
}  // namespace bus_test
