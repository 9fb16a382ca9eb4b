// Goal:   somebody who tidies up temporary files (RemoveIPC at a logout, a cleaner that goes by
// age,
//         rm -rf) takes away the bus, the owner's lock or the names of segments while everybody
//         lives: who lives goes on and is counted to the end, who comes later is seen, the bus
//         keeps one owner, and a restart continues every count.
// Method: remove each of it under an owner and its producers, at fixed places and at seeded moments
// of a
//         crash loop, and compare what the owner and its successor know with what was recorded.
// Replay: RANKBUS_TEST_SEED=<printed> fault_cleaners [--gtest_filter=...]
#include "owner_world.hpp"
#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::BusOptions;
using rankbus::BusReader;

std::ptrdiff_t count_with(const Warnings& warnings, const std::string& words) {
  return std::count_if(warnings.begin(), warnings.end(), [&](const std::string& text) {
    return text.find(words) != std::string::npos;
  });
}

class Cleaners : public testing::Test {
 protected:
  std::unique_ptr<Child> start(std::uint32_t rank, std::uint64_t tiles) {
    auto child = std::make_unique<Child>([&, rank, tiles](const Line& line) {
      return live_as_rank(line, folder_.bus(), rank, tiles);
    });
    name_ = child->hear();
    EXPECT_TRUE(rankbus::bus::is_segment_name(name_.c_str())) << name_;
    return child;
  }
  static void write_more(const Child& child, std::uint64_t tiles) {
    child.say(std::to_string(tiles));
    EXPECT_NE(child.hear(), "");
  }
  bool is_owned() const { return rankbus::bus::owner_is_present(Directory(folder_.bus()).fd()); }

  Folder folder_;
  Environment run_{"RANKBUS_RUN_ID", "cleaners"};
  std::string name_;  // Of the segment that was made last.
};

// C-17
TEST_F(Cleaners, BusRemovedUnderEverybody_TheLivingGoOnAndNewcomersAreSeen) {
  Warnings warnings;
  auto owner = open_owner(folder_.bus(), &warnings);
  ASSERT_TRUE(owner) << owner.error();
  const auto first = start(0, 10);
  work(**owner);
  for (int logout = 1; logout <= 3; ++logout) {
    SCOPED_TRACE(logout);
    // Whoever lives may make a file again between two of its steps, as any cleaner finds.
    ASSERT_TRUE(wait_until([&] {
      std::error_code raced;
      std::filesystem::remove_all(folder_.bus(), raced);
      return !raced;
    }));
    write_more(*first, 5);
    work(**owner);
    EXPECT_EQ((*owner)->live().size(), 1u) << "nobody died";
    EXPECT_TRUE(is_owned()) << "openers must know that there is somebody who reads them";
    EXPECT_EQ(count_with(warnings, "was removed"), logout) << "it is said once each time";
    // With the bus there went its ledger; it is written again beside the new names.
    const auto newcomer = start(1, 7);
    work(**owner);
    EXPECT_EQ((*owner)->live().count(name_), 1u);
    newcomer->kill9();
    const Directory directory(folder_.bus());
    ASSERT_TRUE(wait_until([&] { return work(**owner), directory.segments().empty(); }));
  }
  first->kill9();
  work(**owner);
  const std::uint64_t records = 10 + 3 * 5 + 3 * 7;
  EXPECT_EQ(known_records(**owner), records);
  EXPECT_EQ((*owner)->retired_segments(), 4u);
  (*owner)->finish(now_s());
  *owner = nullptr;
  auto next = open_owner(folder_.bus(), nullptr);
  ASSERT_TRUE(next) << next.error();
  full_pass(**next);
  EXPECT_EQ(known_records(**next), records) << "over a restart, too";
  EXPECT_EQ((*next)->vanished(), 0u);
}

// C-17
TEST_F(Cleaners, OwnersLockRemoved_TheBusKeepsItsOwner) {
  Warnings warnings;
  auto owner = open_owner(folder_.bus(), &warnings);
  ASSERT_TRUE(owner) << owner.error();
  work(**owner);
  ASSERT_EQ(unlink((folder_.bus() + "/.owner").c_str()), 0);
  EXPECT_FALSE(is_owned());
  work(**owner);
  EXPECT_TRUE(is_owned());
  EXPECT_EQ(count_with(warnings, ".owner"), 1);
  const auto second = open_owner(folder_.bus(), nullptr);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().find("another aggregator owns this bus"), std::string::npos);
}

// Somebody was faster: there must never be two who remove names.
// C-4, C-17
TEST_F(Cleaners, OwnersLockRemovedAndTakenByAnother_TheFirstLooksOn) {
  Warnings warnings;
  auto first = open_owner(folder_.bus(), &warnings, false);
  ASSERT_TRUE(first) << first.error();
  ASSERT_EQ(unlink((folder_.bus() + "/.owner").c_str()), 0);
  auto second = open_owner(folder_.bus(), nullptr, false);
  ASSERT_TRUE(second) << second.error();
  start(0, 10)->kill9();
  for (int pass = 0; pass < 3; ++pass) work(**first);
  EXPECT_EQ((*first)->retired_segments(), 1u) << "it is read all the same, once";
  EXPECT_EQ(Directory(folder_.bus()).segments().size(), 1u) << "its removal is the other's";
  EXPECT_EQ(count_with(warnings, "another aggregator"), 1);
  work(**second);
  EXPECT_EQ(known_records(**second), 10u);
  EXPECT_TRUE(Directory(folder_.bus()).segments().empty());
  // The other ends; the bus is the first one's again.
  *second = nullptr;
  work(**first);
  start(1, 3)->kill9();
  work(**first);
  EXPECT_TRUE(Directory(folder_.bus()).segments().empty());
  EXPECT_EQ(known_records(**first), 13u);
}

// C-17
TEST_F(Cleaners, NamesRemovedByAge_TheLivingAreCountedToTheirEnd) {
  auto owner = open_owner(folder_.bus(), nullptr);
  ASSERT_TRUE(owner) << owner.error();
  const auto observer = open_bus(folder_.bus(), true);
  ASSERT_TRUE(observer);
  std::vector<std::unique_ptr<Child>> ranks;
  for (std::uint32_t rank = 0; rank < 3; ++rank) ranks.push_back(start(rank, 20));
  work(**owner);
  full_pass(*observer);
  for (const std::string& name : Directory(folder_.bus()).segments())
    ASSERT_EQ(unlink((folder_.bus() + "/" + name).c_str()), 0);
  for (const auto& rank : ranks) write_more(*rank, 30);
  work(**owner);
  full_pass(*observer);
  EXPECT_EQ((*owner)->live().size(), 3u);
  // Whoever opens now cannot see their lanes, and counts beside them.
  ranks.push_back(start(0, 9));
  for (const auto& rank : ranks) rank->kill9();
  for (int pass = 0; pass < 3; ++pass) {
    work(**owner);
    full_pass(*observer);
    EXPECT_EQ(known_records(**owner), 159u);
    EXPECT_EQ(known_records(*observer), 159u);
  }
  EXPECT_EQ((*owner)->retired_segments(), 4u);
}

// C-17
TEST_F(Cleaners, AtAnyMomentOfACrashLoop_NobodyFailsAndTheLastLivesAreSeen) {
  const Environment quiet("RANKBUS_QUIET", "1");
  Dice dice(test_seed());
  auto owner = open_owner(folder_.bus(), nullptr);
  ASSERT_TRUE(owner) << owner.error();
  const Shared<std::atomic<std::uint64_t>> lives;
  const Shared<std::atomic<std::uint64_t>> inert;
  Child loop([&](const Line&) -> int {
    for (;;) {
      rankbus::Producer producer = rankbus::Producer::open(tiles_of_rank(folder_.bus(), 0));
      record_tiles(producer, 0, 10);
      if (producer.inert()) ++*inert;
      ++*lives;
    }
  });
  for (std::uint64_t round = 0; round < scaled(30); ++round) {
    const std::uint64_t until = *lives + dice.below(4);
    ASSERT_TRUE(wait_until([&] { return *lives >= until; }));
    std::error_code raced;  // Names appear while it removes.
    std::filesystem::remove_all(folder_.bus(), raced);
    if (dice.one_in(2)) work(**owner);
  }
  loop.kill9();
  std::printf("%llu lives, %llu of them found no bus\n", static_cast<unsigned long long>(*lives),
              static_cast<unsigned long long>(*inert));
  work(**owner);
  const std::uint64_t before = known_records(**owner);
  start(1, 33)->kill9();
  work(**owner);
  EXPECT_EQ(known_records(**owner), before + 33);
  EXPECT_TRUE(is_owned());
}

}  // namespace
}  // namespace bus_test
