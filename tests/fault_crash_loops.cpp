// Labels: multiprocess-heavy
//
// Goal:   while ranks crash in a loop and their aggregator dies and comes back, the bus stays
// within its
//         budget at every moment, no rank is kept from starting for good, no count is doubled, and
//         what nobody could read before room was needed is counted as removed unread.
// Method: kill ranks at full speed under a budget of a few segments; owners with a ledger join at
//         seeded moments and are killed at others; somebody who only looks sums up the files all
//         along.
// Replay: RANKBUS_TEST_SEED=<printed> fault_crash_loops; RANKBUS_TEST_SCALE=10 has ten times the
// lives.
#include <thread>

#include "process_world.hpp"

namespace bus_test {
namespace {

using rankbus::BusOptions;
using rankbus::BusReader;

rankbus::Result<std::unique_ptr<BusReader>> open_owner(const std::string& bus) {
  BusOptions options;
  options.directory = bus;
  options.ledger.keep = true;
  options.ledger.save_every_s = 0;
  return BusReader::open(options, [](const std::string&) {});
}

struct Books {
  std::atomic<std::uint64_t> lives{0};
  std::atomic<std::uint64_t> inert{0};
  std::atomic<std::uint64_t> tiles{0};
};

// Lives of one rank, one after the other, each of which ends without a word.
int crash_loop(const std::string& bus, std::uint32_t rank, Books& books) {
  for (std::uint64_t life = 0;; ++life) {
    const std::uint64_t tiles = 1 + life % 50;
    const int status = in_child([&] {
      rankbus::Producer producer = rankbus::Producer::open(tiles_of_rank(bus, rank));
      if (producer.inert()) return 1;
      ++books.lives;
      books.tiles += tiles;
      record_tiles(producer, 0, tiles);
      _exit(0);  // Nothing is closed.
    });
    if (status == 1) ++books.inert;
  }
}

// C-3, C-9
TEST(CrashLoops, UnderAnOwnerThatDiesToo_StayWithinTheBudgetAndDoubleNothing) {
  const Folder folder;
  constexpr std::uint64_t kBudget = 640 << 10;
  const Environment budget("RANKBUS_BUDGET", std::to_string(kBudget));
  const Environment quiet("RANKBUS_QUIET", "1");
  const Environment run("RANKBUS_RUN_ID", "crash-loops");
  ASSERT_EQ(mkdir(folder.bus().c_str(), 0700), 0);
  const Shared<Books> books;
  Dice dice(test_seed());
  std::atomic<bool> over{false};
  std::uint64_t most_used = 0;
  std::uint64_t owners = 0;
  {
    std::vector<std::unique_ptr<Child>> loops;
    for (std::uint32_t rank = 0; rank < 2; ++rank) {
      loops.push_back(std::make_unique<Child>(
          [&, rank](const Line&) { return crash_loop(folder.bus(), rank, *books); }));
    }
    std::thread watch([&] {
      const Directory directory(folder.bus());
      while (!over) most_used = std::max(most_used, rankbus::bus::used_bytes(directory.fd()));
    });
    const std::uint64_t end = scaled(400);
    for (std::uint64_t goal = 0; goal < end && !HasFatalFailure();) {
      goal = books->lives + books->inert + 10 + dice.below(60);
      std::unique_ptr<Child> owner;
      if (!dice.one_in(4)) {
        ++owners;
        owner = std::make_unique<Child>([&](const Line&) -> int {
          auto opened = open_owner(folder.bus());
          for (;;) {
            if (!opened) return 1;
            full_pass(**opened);
            (*opened)->keep_ledger(now_s());
          }
        });
      }
      EXPECT_TRUE(wait_until([&] { return books->lives + books->inert >= goal; })) << goal;
      if (owner) {
        EXPECT_TRUE(owner->is_running()) << "it could not become the owner";
        owner->kill9();
      }
    }
    for (auto& loop : loops) loop->kill9();
    over = true;
    watch.join();
  }
  EXPECT_LE(most_used, kBudget);
  auto last = open_owner(folder.bus());
  ASSERT_TRUE(last) << last.error();
  const Directory directory(folder.bus());
  ASSERT_TRUE(wait_until([&] {
    full_pass(**last);
    (*last)->keep_ledger(now_s());
    return directory.segments().empty();
  }));
  std::uint64_t retired = 0;
  for (const auto& [who, state] : (*last)->identities()) retired += state.retired.incarnations;
  const std::uint64_t removed = (*last)->removed_unread();
  std::printf(
      "%llu lives, %llu found no room, %llu owners; %llu retired, %llu removed unread; "
      "at most %llu of %llu KiB\n",
      static_cast<unsigned long long>(books->lives), static_cast<unsigned long long>(books->inert),
      static_cast<unsigned long long>(owners), static_cast<unsigned long long>(retired),
      static_cast<unsigned long long>(removed), static_cast<unsigned long long>(most_used / 1024),
      static_cast<unsigned long long>(kBudget / 1024));
  EXPECT_GT(books->lives, books->inert) << "a dead owner keeps nobody out for good";
  EXPECT_LE(retired, books->lives) << "no life is counted twice";
  EXPECT_LE(known_records(**last), books->tiles);
  // A name that was counted and not removed yet, when its owner died, may be counted as removed
  // too.
  EXPECT_GE(retired + removed, books->lives) << "a life went without a trace";
  if (retired == books->lives) {
    EXPECT_EQ(known_records(**last), books->tiles);
  }
}

}  // namespace
}  // namespace bus_test
