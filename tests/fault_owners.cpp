// Goal:   a bus has one owner at a time, however many come at the same instant and however they
// end;
//         whoever cleans up can die in the middle, and the next one finishes; what is removed is
//         what was read, what another user left stands in nobody's way, and whose files are taken
//         is said.
// Method: many processes open one bus at a barrier and are killed at seeded moments; names are
// swapped,
//         removed and given to other users between the steps of a retirement.
// Replay: RANKBUS_TEST_SEED=<printed> fault_owners [--gtest_filter=...];
//         RANKBUS_TEST_SCALE=10 repeats ten times as often.
#include "owner_world.hpp"
#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::BusOptions;
using rankbus::BusReader;
using rankbus::Producer;

bool contains(const Warnings& warnings, const std::string& words) {
  return std::any_of(warnings.begin(), warnings.end(), [&](const std::string& text) {
    return text.find(words) != std::string::npos;
  });
}

// A segment whose rank died after so many tiles.
std::string leave_dead(const std::string& bus, std::uint32_t rank, std::uint64_t tiles) {
  Child child([&](const Line& line) { return live_as_rank(line, bus, rank, tiles); });
  std::string name = child.hear();
  child.kill9();
  return name;
}

constexpr int kRacers = 4;

// What a round of racers tells.
struct Race {
  std::atomic<bool> go{false};
  std::atomic<int> ready{0};
  std::atomic<int> owners{0};
  std::atomic<int> refused{0};
  std::atomic<int> strange{0};
};

int race_for(const std::string& bus, Race& race, const Line& line) {
  ++race.ready;
  while (!race.go) sched_yield();
  auto opened = open_owner(bus);
  if (opened) {
    ++race.owners;
    line.say("owner");
  } else if (opened.error().find("another aggregator owns this bus") != std::string::npos) {
    ++race.refused;
    line.say("refused");
  } else {
    ++race.strange;
    line.say(opened.error());
  }
  (void)line.hear();
  return 0;
}

// C-4
TEST(Owners, StartedAtTheSameInstant_OneOwnsAndTheOthersAreToldWhy) {
  for (std::uint64_t round = 0; round < scaled(60); ++round) {
    const Folder folder;
    const Shared<Race> race;
    std::vector<std::unique_ptr<Child>> racers;
    for (int i = 0; i < kRacers; ++i) {
      racers.push_back(std::make_unique<Child>(
          [&](const Line& line) { return race_for(folder.bus(), *race, line); }));
    }
    ASSERT_TRUE(wait_until([&] { return race->ready == kRacers; }));
    race->go = true;
    Child* owner = nullptr;
    for (auto& racer : racers) {
      const std::string said = racer->hear();
      if (said == "owner") owner = racer.get();
      ASSERT_TRUE(said == "owner" || said == "refused") << said;
    }
    ASSERT_EQ(race->owners, 1) << "round " << round;
    ASSERT_EQ(race->refused, kRacers - 1);
    // Whoever comes next follows at once, and finds no half of a predecessor.
    ASSERT_EQ(owner->kill9(), -SIGKILL);
    const auto next = open_owner(folder.bus());
    ASSERT_TRUE(next) << next.error();
  }
}

// Nobody waits for the dead to be reaped: each of them tries until it owns, and kills itself.
// C-3, C-4
TEST(Owners, EachKilledWhileOthersTry_NobodyIsEverTwoAndNobodyIsLockedOut) {
  const Folder folder;
  struct Turns {
    std::atomic<int> inside{0};
    std::atomic<int> most_inside{0};
    std::atomic<int> strange{0};
  };
  const Shared<Turns> turns;
  const std::uint64_t rounds = scaled(40);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    std::vector<std::unique_ptr<Child>> all;
    for (int i = 0; i < 3; ++i) {
      all.push_back(std::make_unique<Child>([&](const Line&) {
        std::unique_ptr<BusReader> owner;
        while (!owner) {
          auto opened = open_owner(folder.bus());
          if (opened) {
            owner = std::move(opened.value());
          } else if (opened.error().find("another aggregator owns") == std::string::npos) {
            std::printf("%s\n", opened.error().c_str());
            ++turns->strange;
          }
          sched_yield();
        }
        const int inside = ++turns->inside;
        if (inside > turns->most_inside) turns->most_inside = inside;
        sched_yield();
        --turns->inside;
        raise(SIGKILL);
        return 0;
      }));
    }
    for (auto& each : all) ASSERT_EQ(each->wait(), -SIGKILL);
  }
  EXPECT_EQ(turns->most_inside, 1);
  EXPECT_EQ(turns->strange, 0) << "a refusal that does not name the owner";
}

// Of a killed owner's locks that of the bus falls first; the one of its ledger is still held for a
// moment, when the next owner is there already.
// C-3, C-4
TEST(Owners, FollowedBeforeItsLastLockFell_IsNotTakenForAnother) {
  const Folder folder;
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
  Child dying([&](const Line& line) {
    const std::string path = folder.bus() + "/" + rankbus::kLedgerLockFile;
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || !rankbus::bus::take_write_lock(fd)) return 1;
    line.say("holds");
    const Directory directory(folder.bus());
    return wait_until([&] { return rankbus::bus::owner_is_present(directory.fd()); }) ? 0 : 2;
  });
  ASSERT_EQ(dying.hear(), "holds");
  const auto next = open_owner(folder.bus());
  EXPECT_TRUE(next) << next.error();
  EXPECT_EQ(dying.wait(), 0);
}

// C-4
TEST(Owners, KilledWhileItRemovesTheDead_TheNextFinishesAndEveryCountIsExact) {
  Dice dice(test_seed());
  for (std::uint64_t round = 0; round < scaled(4); ++round) {
    const Folder folder;
    const Environment run("RANKBUS_RUN_ID", "cleaners");
    constexpr std::uint32_t kDead = 24;
    std::uint64_t records = 0;
    for (std::uint32_t rank = 0; rank < kDead; ++rank) {
      const std::uint64_t tiles = dice.below(100);
      ASSERT_TRUE(rankbus::bus::is_segment_name(leave_dead(folder.bus(), rank, tiles).c_str()));
      records += tiles;
    }
    const Directory directory(folder.bus());
    // Two are killed on their way, at names that are drawn.
    for (int owner = 0; owner < 2; ++owner) {
      const std::size_t left = directory.segments().size();
      const std::size_t until = dice.below(left + 1);
      Child cleaner([&](const Line& line) {
        auto opened = open_owner(folder.bus());
        if (!opened) return 1;
        line.say("owns");
        for (;;) work(**opened);
      });
      ASSERT_EQ(cleaner.hear(), "owns");
      ASSERT_TRUE(wait_until([&] { return directory.segments().size() <= until; }));
      cleaner.kill9();
    }
    auto last = open_owner(folder.bus());
    ASSERT_TRUE(last) << last.error();
    ASSERT_TRUE(wait_until([&] { return work(**last), directory.segments().empty(); }));
    EXPECT_EQ(known_records(**last), records);
    EXPECT_EQ((*last)->identities().size(), kDead);
    EXPECT_EQ((*last)->vanished(), 0u);
  }
}

// Openers clean up too, while nobody owns the bus; killed in the middle of it, they leave room for
// the others and no half of a file.
// C-4
TEST(Openers, KilledWhileTheyMakeRoom_TheRestStayWithinTheBudget) {
  const Folder folder;
  const Environment quiet("RANKBUS_QUIET", "1");
  constexpr std::uint64_t kBudget = 256 << 10;
  const Environment budget("RANKBUS_BUDGET", std::to_string(kBudget));
  Dice dice(test_seed() + 1);
  std::uint64_t opened = 0;
  for (std::uint64_t round = 0; round < scaled(40); ++round) {
    std::vector<std::unique_ptr<Child>> openers;
    for (std::uint32_t i = 0; i < 4; ++i) {
      openers.push_back(std::make_unique<Child>([&, i](const Line& line) {
        line.say("opens");
        Producer producer = Producer::open(tiles_of_rank(folder.bus(), i));
        record_tiles(producer, 0, 5);
        line.say(producer.inert() ? "inert" : "open");
        (void)line.hear();
        return 0;
      }));
    }
    for (auto& opener : openers) ASSERT_EQ(opener->hear(), "opens");
    // Some die in the middle of it, and some are heard.
    for (auto& opener : openers) {
      if (dice.one_in(2)) {
        for (std::uint64_t spin = dice.below(200); spin > 0; --spin) sched_yield();
      } else {
        opened += opener->hear() == "open" ? 1u : 0u;
      }
      opener->kill9();
    }
  }
  EXPECT_GT(opened, 0u);
  const Directory directory(folder.bus());
  EXPECT_LE(rankbus::bus::used_bytes(directory.fd()), kBudget);
  for (const std::string& name : directory.segments()) {
    const auto reader = open_segment(folder.bus(), name);
    ASSERT_TRUE(reader && read_to_end(*reader));
    EXPECT_LE(reader->streams()[0].position, 5u);
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder.bus())) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(name == ".open" || rankbus::bus::is_segment_name(name.c_str())) << name;
  }
}

// C-26
TEST(Retirement, NameGivenToAnotherFileBeforeItMayGo_IsLeftAlone) {
  const Folder folder;
  Warnings warnings;
  auto owner = open_owner(folder.bus(), &warnings);
  ASSERT_TRUE(owner) << owner.error();
  const std::string name = leave_dead(folder.bus(), 0, 10);
  const std::string path = folder.bus() + "/" + name;
  full_pass(**owner);
  ASSERT_EQ((*owner)->retired_segments(), 1u);
  ASSERT_TRUE(std::filesystem::exists(path)) << "it goes once both images know of it";
  // A copy, so that only its inode tells it from what was retired.
  std::filesystem::copy_file(path, folder / "copy");
  ASSERT_EQ(rename((folder / "copy").c_str(), path.c_str()), 0);
  ASSERT_TRUE(wait_until([&] { return work(**owner), contains(warnings, "another file"); }));
  for (int pass = 0; pass < 5; ++pass) work(**owner);
  EXPECT_TRUE(std::filesystem::exists(path)) << "what was not read is not removed";
  EXPECT_EQ((*owner)->retired_segments(), 1u);
  EXPECT_EQ(known_records(**owner), 10u);
  EXPECT_EQ(std::count_if(
                warnings.begin(), warnings.end(),
                [](const auto& text) { return text.find("another file") != std::string::npos; }),
            1);
}

// The next owner knows only the name; that somebody writes the file it can tell.
// C-26
TEST(Retirement, NameGivenToALivingSegmentOverARestart_IsLeftAlone) {
  const Folder folder;
  const std::string name = leave_dead(folder.bus(), 0, 10);
  const std::string path = folder.bus() + "/" + name;
  {
    auto owner = open_owner(folder.bus());
    ASSERT_TRUE(owner) << owner.error();
    full_pass(**owner);
    (*owner)->keep_ledger(now_s());
    // One image, and no second: the name may not go yet.
  }
  ASSERT_TRUE(std::filesystem::exists(path));
  Child living([&](const Line& line) { return live_as_rank(line, folder / "other", 0, 3); });
  const std::string other = living.hear();
  ASSERT_EQ(rename((folder / "other" + "/" + other).c_str(), path.c_str()), 0);
  Warnings warnings;
  auto owner = open_owner(folder.bus(), &warnings);
  ASSERT_TRUE(owner) << owner.error();
  ASSERT_TRUE(wait_until([&] { return work(**owner), contains(warnings, "another file"); }));
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(known_records(**owner), 10u);
}

// Runs `body` as another user of this group.
int as_user(uid_t uid, gid_t gid, const std::function<int()>& body) {
  return in_child([&] {
    if (setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0) return kSkipped;
    return body();
  });
}
constexpr uid_t kAlice = 21001, kBob = 21002;
constexpr gid_t kGroup = 21000;
constexpr const char* kNoUsers = "only root can become other users";

// A service's directory whose service is not Alice and not Bob.
bool make_group_directory(const Folder& folder, uid_t owner) {
  return chmod(folder.path().c_str(), 0755) == 0 && mkdir(folder.bus().c_str(), 0700) == 0 &&
         chown(folder.bus().c_str(), owner, kGroup) == 0 && chmod(folder.bus().c_str(), 03770) == 0;
}

int die_as(const std::string& bus) {
  const Environment quiet("RANKBUS_QUIET", "1");
  Producer producer = Producer::open(tiles_of_rank(bus, 0));
  if (producer.inert()) std::printf("%s\n", producer.reason());
  return producer.inert() ? 1 : 0;
}

// C-17
TEST(StickyDirectory, DeadOfAnotherUser_DoNotStandInTheWayOfOnesOwn) {
  const Folder folder;
  if (geteuid() != 0 || !make_group_directory(folder, 0)) GTEST_SKIP() << kNoUsers;
  const Environment budget("RANKBUS_BUDGET", "96k");
  // Bob's are the oldest, and nobody but Bob may remove them.
  std::uint64_t bobs = 0;
  while (bobs < 3) {
    SKIP_OR_EXPECT_0(as_user(kBob, kGroup, [&] { return die_as(folder.bus()); }), kNoUsers);
    ++bobs;
  }
  const Directory directory(folder.bus());
  const std::set<std::string> of_bob = directory.segments();
  // A crash loop of Alice's lives on what Alice's dead leave.
  for (int life = 0; life < 20; ++life)
    ASSERT_EQ(as_user(kAlice, kGroup, [&] { return die_as(folder.bus()); }), 0) << "life " << life;
  EXPECT_LE(rankbus::bus::used_bytes(directory.fd()), 96u << 10);
  const std::set<std::string> left = directory.segments();
  EXPECT_TRUE(std::includes(left.begin(), left.end(), of_bob.begin(), of_bob.end()));
}

// C-13, C-17
TEST(GroupDirectory, OwnerWithItsOwnUser_ReadsAndRemovesSegmentsOfOthers) {
  const Folder folder;
  constexpr uid_t kService = 21003;
  if (geteuid() != 0 || !make_group_directory(folder, kService)) GTEST_SKIP() << kNoUsers;
  SKIP_OR_EXPECT_0(as_user(kAlice, kGroup, [&] { return die_as(folder.bus()); }), kNoUsers);
  SKIP_OR_EXPECT_0(as_user(kBob, kGroup, [&] { return die_as(folder.bus()); }), kNoUsers);
  // A member may look on, and removes nothing.
  EXPECT_EQ(as_user(kAlice, kGroup,
                    [&] {
                      const auto observer = open_bus(folder.bus(), true);
                      CHECK_HERE(observer);
                      full_pass(*observer);
                      CHECK_HERE(observer->live().size() + observer->retired_segments() == 2);
                      return 0;
                    }),
            0);
  EXPECT_EQ(Directory(folder.bus()).segments().size(), 2u);
  EXPECT_EQ(as_user(kService, kGroup,
                    [&] {
                      const auto owner = open_bus(folder.bus(), false);
                      CHECK_HERE(owner);
                      full_pass(*owner);
                      CHECK_HERE(owner->retired_segments() == 2);
                      return 0;
                    }),
            0);
  EXPECT_TRUE(Directory(folder.bus()).segments().empty());
}

// C-17, C-26
TEST(AllowedUsers, DirectoryOfAnotherUser_IsTakenOnlyIfThatUserIsNamed) {
  const Folder folder;
  if (geteuid() != 0 || chmod(folder.path().c_str(), 0755) != 0 ||
      mkdir(folder.bus().c_str(), 0700) != 0 || chown(folder.bus().c_str(), kAlice, kGroup) != 0)
    GTEST_SKIP() << kNoUsers;
  const std::string name = [&] {
    Child child([&](const Line& line) {
      if (setresgid(kGroup, kGroup, kGroup) != 0 || setresuid(kAlice, kAlice, kAlice) != 0)
        return kSkipped;
      return live_as_rank(line, folder.bus(), 0, 12);
    });
    return child.hear();
  }();
  if (name.empty()) GTEST_SKIP() << kNoUsers;
  ASSERT_TRUE(rankbus::bus::is_segment_name(name.c_str())) << name;
  BusOptions options;
  options.directory = folder.bus();
  options.allowed_uids = {kBob};
  const auto refused = BusReader::open(options, [](const std::string&) {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().find("owned by uid 21001"), std::string::npos) << refused.error();
  EXPECT_FALSE(std::filesystem::exists(folder.bus() + "/.owner")) << "nothing is left there";
  options.allowed_uids = {kBob, kAlice};
  auto taken = BusReader::open(options, [](const std::string&) {});
  ASSERT_TRUE(taken) << taken.error();
  full_pass(**taken);
  EXPECT_EQ(known_records(**taken), 12u);
  EXPECT_EQ((*taken)->retired_segments(), 1u);
  EXPECT_FALSE(std::filesystem::exists(folder.bus() + "/" + name));
  // Root's aggregator is an owner like any other to those who open as Alice.
  EXPECT_EQ(as_user(kAlice, kGroup,
                    [&] {
                      const Directory directory(folder.bus());
                      return rankbus::bus::owner_is_present(directory.fd()) ? 0 : 1;
                    }),
            0);
}

// C-17, C-26
TEST(AllowedUsers, SegmentOfAnotherUser_IsReadOnlyIfThatUserIsNamed) {
  const Folder folder;
  if (geteuid() != 0) GTEST_SKIP() << kNoUsers;
  const std::string name = leave_dead(folder.bus(), 0, 4);
  const std::string path = folder.bus() + "/" + name;
  if (chown(path.c_str(), kAlice, kAlice) != 0) GTEST_SKIP() << kNoUsers;
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  ASSERT_EQ(chmod(folder.bus().c_str(), 0755), 0);
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  SKIP_OR_EXPECT_0(as_user(kBob, kGroup,
                           [&] {
                             BusOptions options;
                             options.directory = folder.bus();
                             options.observe = true;
                             Warnings warnings;
                             const auto warn = [&](const std::string& text) {
                               warnings.push_back(text);
                             };
                             auto bus = BusReader::open(options, warn);
                             CHECK_HERE(bus);
                             full_pass(**bus);
                             CHECK_HERE((*bus)->rejected() == 1);
                             CHECK_HERE(contains(warnings, "owned by uid 21001"));
                             CHECK_HERE(contains(warnings, "--allow-uid"));
                             options.allowed_uids = {kAlice};
                             bus = BusReader::open(options, warn);
                             CHECK_HERE(bus);
                             full_pass(**bus);
                             CHECK_HERE((*bus)->rejected() == 0);
                             CHECK_HERE(known_records(**bus) == 4);
                             return 0;
                           }),
                   kNoUsers);
}

}  // namespace
}  // namespace bus_test
