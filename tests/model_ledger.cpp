// Labels: release-only
//
// tests/model_ledger.cpp: every order of kills, damage and strangers, for the ledger's decisions.
//
// Goal:   whatever is killed when, and whichever single file is damaged, no count goes back and
// none
//         is counted twice; and the model would notice, because variants with one rule wrong fail.
// Method: all reachable states of a small world: two incarnations of one identity, a bus, the two
//         files of the ledger and an owner that is killed between any two of its steps. The
//         decisions are the very functions of ledger_state.hpp; the world around them is a model.
// Replay: model_ledger; it has no seed, and prints the shortest way to a fault.
//         RANKBUS_TEST_SCALE=2 explores a larger world.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <rankbus/aggregator/ledger_state.hpp>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace rankbus::ledger {
namespace {

constexpr std::size_t kIncarnations = 2;
constexpr std::uint8_t kMostWritten[kIncarnations] = {2, 1};

// What an image, or an owner's memory, holds of one incarnation.
struct Entry {
  Known known = Known::nothing;
  std::uint8_t floor = 0;
};
struct Image {
  std::uint8_t generation = 0;  // 0: no file, or one that cannot be read.
  std::uint8_t total = 0;       // Retired, of the identity.
  Entry entries[kIncarnations];
};
struct Incarnation {
  std::uint8_t written = 0;
  bool began = false, alive = false, has_name = false;
};
enum class Writing : std::uint8_t { nothing, handed_over, new_file };

// Bytes only, without padding, so that a state is its own key.
struct World {
  Incarnation incarnations[kIncarnations];
  Image files[2];
  // The owner's memory.
  bool running = false, scanned = false;
  Writing writing = Writing::nothing;
  Image pending;  // Being written.
  std::uint8_t total = 0;
  Entry known[kIncarnations];
  std::uint8_t since[kIncarnations] = {};  // Generation that contains the retirement first.
  std::uint8_t kept[2] = {};
  std::uint8_t next_generation = 1;
  // Seen by everybody.
  std::uint8_t shown = 0;
  std::uint8_t at_least = 0;  // What the image said that the owner started from.
  bool is_lost = false;       // A stranger removed what nobody had read to its end.
  bool was_removed[kIncarnations] = {};
  // What the rest of the way may still do.
  std::uint8_t saves = 4, kills = 2, damages = 1, removals = 0, restores = 1;
};
static_assert(std::has_unique_object_representations_v<World>);

struct Rules {
  const char* name = "as it is";
  bool (*unlink)(std::uint64_t since, const Kept& kept) = may_unlink;
  int (*replace)(const Kept& kept) = file_to_replace;
  OnStart (*start)(Known known, bool has_name) = on_start;
  bool strangers_remove = false;
};

class Explorer {
 public:
  explicit Explorer(const Rules& rules) : rules_(rules) {}

  // Empty, or the shortest way to a broken promise.
  std::string explore() {
    World first;
    if (const char* more = std::getenv("RANKBUS_TEST_SCALE"); more && std::atof(more) > 1)
      first.saves = 5;
    if (rules_.strangers_remove) {
      first.removals = 1;
      --first.saves;
    }
    reach(first, 0, "");
    while (!queue_.empty() && fault_.empty()) {
      const auto [world, number] = queue_.front();
      queue_.pop_front();
      at_ = number;
      step(world);
    }
    return fault_;
  }
  std::size_t states() const { return ways_.size(); }
  // How often a segment's name went by the owner's decision.
  std::size_t let_go() const { return let_go_; }

 private:
  struct Way {
    std::size_t from;
    std::string action;
  };
  void reach(const World& world, std::size_t from, const std::string& action) {
    const std::string key{reinterpret_cast<const char*>(&world), sizeof world};
    if (!known_.insert(key).second) return;
    queue_.emplace_back(world, ways_.size());
    ways_.push_back({from, action});
  }
  void next(const World& world, const std::string& action) { reach(world, at_, action); }
  void fail(const std::string& what, const std::string& action) {
    if (!fault_.empty()) return;
    std::vector<std::string> actions = {action};
    for (std::size_t at = at_; at != 0; at = ways_.at(at).from)
      actions.push_back(ways_.at(at).action);
    for (std::size_t i = actions.size(); i-- > 0;) fault_ += "    " + actions[i] + "\n";
    fault_ += "  " + what + "\n";
  }

  void step(const World& world) {
    producers(world);
    strangers(world);
    if (!world.running) {
      start(world);
      return;
    }
    if (world.kills > 0) kill_owner(world);
    pass(world);
    save(world);
    write(world);
    let_go(world);
  }

  void producers(const World& world) {
    for (std::size_t i = 0; i < kIncarnations; ++i) {
      const std::string who = "incarnation " + std::to_string(i);
      const Incarnation& now = world.incarnations[i];
      if (!now.began && (i == 0 || !world.incarnations[i - 1].alive)) {
        World after = world;
        after.incarnations[i] = {1, true, true, true};
        next(after, who + " begins and writes a record");
      }
      if (!now.alive) continue;
      if (now.written < kMostWritten[i]) {
        World after = world;
        ++after.incarnations[i].written;
        next(after, who + " writes a record");
      }
      World after = world;
      after.incarnations[i].alive = false;
      next(after, who + " is killed");
    }
  }

  void strangers(const World& world) {
    for (int file = 0; file < 2; ++file) {
      if (world.damages > 0 && world.files[file].generation != 0) {
        World after = world;
        --after.damages;
        after.files[file] = {};
        next(after, "image " + std::to_string(world.files[file].generation) + " is damaged");
      }
      const Image& other = world.files[1 - file];
      if (world.restores > 0 && world.damages > 0 && other.generation != 0 &&
          other.generation < world.files[file].generation) {
        World after = world;
        --after.restores;
        --after.damages;
        after.files[file] = other;
        next(after, "image " + std::to_string(world.files[file].generation) +
                        " is overwritten by the older one");
      }
    }
    for (std::size_t i = 0; i < kIncarnations; ++i) {
      if (world.removals == 0 || world.running || !world.incarnations[i].has_name) continue;
      World after = world;
      --after.removals;
      after.incarnations[i].has_name = false;
      after.is_lost = after.was_removed[i] = true;
      next(after, "a stranger removes segment " + std::to_string(i));
    }
    for (std::size_t i = 0; i < kIncarnations; ++i) {
      const Incarnation& segment = world.incarnations[i];
      if (!world.is_lost || world.running || !segment.began || segment.has_name) continue;
      // What the owner itself let go is nowhere to be had.
      if (!world.was_removed[i]) continue;
      World after = world;
      after.was_removed[i] = after.is_lost = false;  // With it, nothing is.
      after.incarnations[i].has_name = true;
      next(after, "segment " + std::to_string(i) + " is there again");
    }
  }

  static void forget_owner(World& world) {
    world.running = world.scanned = false;
    world.writing = Writing::nothing;
    world.pending = {};
    world.total = 0;
    for (std::size_t i = 0; i < kIncarnations; ++i) {
      world.known[i] = {};
      world.since[i] = 0;
    }
    world.kept[0] = world.kept[1] = 0;
    world.next_generation = world.at_least = 0;
  }
  void kill_owner(const World& world) {
    World after = world;
    --after.kills;
    forget_owner(after);
    next(after, "the owner is killed");
  }

  void start(const World& world) {
    World after = world;
    after.running = true;
    for (int file = 0; file < 2; ++file) after.kept[file] = world.files[file].generation;
    const int from = file_to_start_from({after.kept[0], after.kept[1]});
    after.next_generation = 1;
    if (from >= 0) {
      const Image& image = world.files[from];
      after.next_generation = static_cast<std::uint8_t>(image.generation + 1);
      after.total = image.total;
      for (std::size_t i = 0; i < kIncarnations; ++i) {
        after.known[i] = image.entries[i];
        if (image.entries[i].known == Known::retired) after.since[i] = image.generation;
      }
    }
    after.at_least = after.total;
    for (const Entry& entry : after.known)
      after.at_least = static_cast<std::uint8_t>(after.at_least + entry.floor);
    next(after, "an owner starts from image " +
                    std::to_string(from < 0 ? 0 : world.files[from].generation));
  }

  // One pass: names, then what each segment says, then the dead are folded and all of it is shown.
  void pass(const World& world) {
    World after = world;
    std::uint8_t shown = 0;
    for (std::size_t i = 0; i < kIncarnations; ++i) {
      const Incarnation& segment = world.incarnations[i];
      Entry& entry = after.known[i];
      const bool is_attached = world.scanned && entry.known == Known::lives;
      const OnStart what =
          is_attached ? OnStart::resume : rules_.start(entry.known, segment.has_name);
      switch (what) {
        case OnStart::attach:
        case OnStart::resume:
          // Of a mapping, everything can be read also without its name.
          entry = {Known::lives, segment.written};
          if (!segment.alive) retire(after, i);
          break;
        case OnStart::set_aside:
          break;
        case OnStart::retire_at_floor:
          retire(after, i);
          break;
        case OnStart::leave:
          break;
        case OnStart::forget:
          entry = {};
          after.since[i] = 0;
          break;
      }
      if (entry.known == Known::lives) shown = static_cast<std::uint8_t>(shown + entry.floor);
    }
    after.scanned = true;
    show(after, static_cast<std::uint8_t>(shown + after.total));
  }
  static void retire(World& world, std::size_t i) {
    world.total = static_cast<std::uint8_t>(world.total + world.known[i].floor);
    world.known[i] = {Known::retired, 0};
    world.since[i] = world.next_generation;
  }

  void show(World& after, std::uint8_t shown) {
    const std::string action = "a pass shows " + std::to_string(shown);
    std::uint8_t published = 0;
    for (const Incarnation& each : after.incarnations)
      published = static_cast<std::uint8_t>(published + each.written);
    if (shown > published) {
      fail("of " + std::to_string(published) + " records: counted twice", action);
    }
    // What was removed costs at most what came after the image.
    if (!after.is_lost && shown != published) {
      fail("of " + std::to_string(published) + " records, after " + std::to_string(after.shown),
           action);
    }
    if (shown < after.at_least)
      fail("the image had " + std::to_string(after.at_least) + ": it went back", action);
    after.shown = shown;
    next(after, action);
  }

  void save(const World& world) {
    if (!world.scanned || world.writing != Writing::nothing || world.saves == 0) return;
    World after = world;
    --after.saves;
    Image& image = after.pending;
    image.generation = world.next_generation;
    image.total = world.total;
    for (std::size_t i = 0; i < kIncarnations; ++i) image.entries[i] = world.known[i];
    ++after.next_generation;
    after.writing = Writing::handed_over;
    next(after, "image " + std::to_string(image.generation) + " is handed over");
  }

  void write(const World& world) {
    if (world.writing == Writing::handed_over) {
      World after = world;
      after.writing = Writing::new_file;
      next(after, "image " + std::to_string(world.pending.generation) + " is written");
      World failed = world;
      failed.writing = Writing::nothing;
      failed.pending = {};
      next(failed, "image " + std::to_string(world.pending.generation) + " finds no room");
    }
    if (world.writing == Writing::new_file) {
      World after = world;
      const auto file = static_cast<std::size_t>(rules_.replace({world.kept[0], world.kept[1]}));
      after.files[file] = world.pending;
      after.kept[file] = world.pending.generation;
      after.writing = Writing::nothing;
      after.pending = {};
      next(after, "image " + std::to_string(world.pending.generation) + " is renamed");
    }
  }

  void let_go(const World& world) {
    for (std::size_t i = 0; i < kIncarnations; ++i) {
      if (world.known[i].known != Known::retired || !world.incarnations[i].has_name) continue;
      if (!rules_.unlink(world.since[i], {world.kept[0], world.kept[1]})) continue;
      World after = world;
      after.incarnations[i].has_name = false;
      ++let_go_;
      next(after, "segment " + std::to_string(i) + " is unlinked");
    }
  }

  Rules rules_;
  std::unordered_set<std::string> known_;
  std::vector<Way> ways_;  // To each known state, in the order in which they were found.
  std::deque<std::pair<World, std::size_t>> queue_;
  std::size_t at_ = 0;
  std::string fault_;
  std::size_t let_go_ = 0;
};

void expect_holds(const Rules& rules) {
  Explorer explorer(rules);
  const std::string fault = explorer.explore();
  EXPECT_EQ(fault, "") << rules.name << " breaks:\n" << fault;
  EXPECT_GT(explorer.let_go(), 0u) << "what is never let go is no proof";
  std::printf("  %s: holds in all %zu states\n", rules.name, explorer.states());
}

void expect_breaks(const Rules& rules) {
  Explorer explorer(rules);
  const std::string fault = explorer.explore();
  EXPECT_NE(fault, "") << rules.name << ": holds in all " << explorer.states()
                       << " states, so the model could not tell";
  std::printf("  %s breaks:\n%s", rules.name, fault.c_str());
}

// C-12
TEST(LedgerModel, KillsDamageAndAnOlderImageRestored_NeitherLoseNorDoubleACount) {
  expect_holds({});
}

TEST(LedgerModel, SegmentRemovedByAStrangerAndPutBack_LosesAndDoublesNothing) {
  Rules rules{.name = "with strangers who remove segments and put them back"};
  rules.strangers_remove = true;
  expect_holds(rules);
}

TEST(LedgerModel, UnlinkedAfterOneGeneration_CountsGoBack) {
  Rules rules{.name = "unlink after one generation"};
  rules.unlink = [](std::uint64_t since, const Kept& kept) {
    return since != 0 && (kept[0] >= since || kept[1] >= since);
  };
  expect_breaks(rules);
}

// It is safe, because it is of no use: the older image stays what it was.
TEST(LedgerModel, NewerImageOverwritten_NothingIsEverLetGo) {
  Rules rules{.name = "overwrite the newer image"};
  rules.replace = [](const Kept& kept) { return kept[0] >= kept[1] ? 0 : 1; };
  Explorer explorer(rules);
  EXPECT_EQ(explorer.explore(), "");
  EXPECT_EQ(explorer.let_go(), 0u);
}

TEST(LedgerModel, RetiredSegmentReadAgain_IsCountedTwice) {
  Rules rules{.name = "read again what is retired and has a name"};
  rules.start = [](Known known, bool has_name) {
    return known == Known::retired && has_name ? OnStart::attach : on_start(known, has_name);
  };
  expect_breaks(rules);
}

TEST(LedgerModel, RemovedSegmentRetiredAtOnce_DoesNotGoOnWhenItComesBack) {
  Rules rules{.name = "retire at once who lived and is gone"};
  rules.strangers_remove = true;
  rules.start = [](Known known, bool has_name) {
    return known == Known::lives && !has_name ? OnStart::retire_at_floor
                                              : on_start(known, has_name);
  };
  expect_breaks(rules);
}

TEST(LedgerModel, RetiredSegmentForgottenWhenItsNameIsGone_IsCountedTwiceWhenItComesBack) {
  Rules rules{.name = "forget who is retired and has no name"};
  rules.strangers_remove = true;
  rules.start = [](Known known, bool has_name) {
    return known == Known::retired && !has_name ? OnStart::forget : on_start(known, has_name);
  };
  expect_breaks(rules);
}

TEST(LedgerModel, LivingSegmentForgottenWhenItsNameIsGone_CountsGoBack) {
  Rules rules{.name = "forget who lived and is gone"};
  rules.strangers_remove = true;
  rules.start = [](Known known, bool has_name) {
    return known == Known::lives && !has_name ? OnStart::forget : on_start(known, has_name);
  };
  expect_breaks(rules);
}

}  // namespace
}  // namespace rankbus::ledger
