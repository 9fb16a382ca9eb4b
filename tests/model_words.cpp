// tests/model_words.cpp: what crosses without a sequence word: tagged words, dictionary, status.
//
// Goal: slot format 2 is never torn although a device stores its words in any order and without a
// fence, while its 16-bit laps tell records apart; the edges INTERN and STATUS carry what they say.
// Method: the machine of tests/model, every execution; where something has a limit, the limit too.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "model/machine_atomics.hpp"

namespace rankbus::model {
namespace {

using bus::ProcessMemory;

constexpr std::size_t kWords = 3;
using Permutation = std::array<std::size_t, kWords>;

std::vector<Permutation> permutations() {
  std::vector<Permutation> all;
  Permutation order = {0, 1, 2};
  do {
    all.push_back(order);
  } while (std::next_permutation(order.begin(), order.end()));
  return all;
}

constexpr Word payload_of(Word record, std::size_t word) {
  return 16 * (record + 1) + word;
}

// One stream of tagged slots. A record's words go out in the order that the caller says.
struct TaggedStream {
  explicit TaggedStream(Word with_capacity)
      : capacity(with_capacity), machine(std::vector<std::string>(capacity * kWords, "word")) {}

  Word* word(Word record, std::size_t i) {
    return machine.at((record & (capacity - 1)) * kWords + i);
  }
  void write(Word record, const Permutation& order) {
    const Word lap = bus::tagged_lap(record, capacity);
    for (const std::size_t i : order) {
      machine.store(word(record, i), bus::pack_tagged(lap, payload_of(record, i)), Order::relaxed);
    }
  }
  // Empty, or what is wrong with a record that looks whole.
  std::string read(Word record) {
    const Word lap = bus::tagged_lap(record, capacity);
    std::array<Word, kWords> copy{};
    bool whole = true;
    for (std::size_t i = 0; i < kWords; ++i) {
      copy.at(i) = machine.load(word(record, i), Order::relaxed);
      whole = whole && bus::tagged_is_of_lap(copy.at(i), lap);
    }
    if (!whole) return {};
    ++found_whole;
    for (std::size_t i = 0; i < kWords; ++i) {
      if (bus::tagged_payload(copy.at(i)) == payload_of(record, i)) continue;
      return "record " + std::to_string(record) + " looks whole, but its word " +
             std::to_string(i) + " holds " + std::to_string(bus::tagged_payload(copy.at(i)));
    }
    return {};
  }
  // Reads any of the first `records` records in every execution; the first wrong one.
  std::string explore(Word records, bool kill) {
    machine.start_reading();
    std::string first_wrong;
    do {
      if (kill) machine.writer_dies(kInProgramOrder);
      const std::string wrong = read(machine.pick(records));
      if (first_wrong.empty() && !wrong.empty()) first_wrong = wrong + "\n" + machine.describe();
      ++executions;
    } while (machine.next());
    return first_wrong;
  }

  Word capacity;
  Machine machine;
  std::size_t executions = 0;
  std::size_t found_whole = 0;
};

TEST(TaggedWords, StoredInAnyOrder_AreNeverTorn) {
  std::size_t executions = 0;
  std::size_t found_whole = 0;
  for (const Word capacity : {Word{1}, Word{2}}) {
    for (const bool kill : {false, true}) {
      for (const Permutation& first : permutations()) {
        for (const Permutation& second : permutations()) {
          for (const Permutation& third : permutations()) {
            TaggedStream stream(capacity);
            stream.write(0, first);
            stream.write(1, second);
            stream.write(2, third);
            EXPECT_EQ(stream.explore(4, kill), "");
            executions += stream.executions;
            found_whole += stream.found_whole;
          }
        }
      }
    }
  }
  std::printf("  tagged words: %zu executions, %zu whole records\n", executions, found_whole);
  EXPECT_GT(found_whole, 0U);
}

// A reader that is this many laps late takes the words of both laps for words of one.
using bus::kTaggedLaps;

TEST(TaggedWords, FewerLapsApartThanTagsCount_AreNeverTorn) {
  for (const Word laps : {Word{1}, Word{2}, kTaggedLaps - 1}) {
    TaggedStream stream(1);
    stream.write(7, {0, 1, 2});
    stream.write(7 + laps, {2, 0, 1});
    stream.machine.start_reading();
    do {
      EXPECT_EQ(stream.read(7), "");
      EXPECT_EQ(stream.read(7 + laps), "");
    } while (stream.machine.next());
    EXPECT_GT(stream.found_whole, 0U);
  }
}

TEST(TaggedWords, AsManyLapsApartAsTagsCount_AreTorn) {
  TaggedStream stream(1);
  stream.write(7, {0, 1, 2});
  stream.write(7 + kTaggedLaps, {0, 1, 2});
  stream.machine.start_reading();
  bool torn = false;
  do {
    torn = torn || !stream.read(7).empty();
  } while (stream.machine.next());
  EXPECT_TRUE(torn);
}

TEST(TaggedWords, NeverWritten_AreWholeInNoLap) {
  for (Word lap = 0; lap < 2 * kTaggedLaps; ++lap) {
    ASSERT_FALSE(bus::tagged_is_of_lap(0, bus::tagged_lap(8 * lap, 8))) << lap;
  }
}

TEST(TaggedWords, EveryLap_IsToldByTheWordsThatShowIt) {
  for (Word lap = 0; lap < 2 * kTaggedLaps; ++lap) {
    const Word tag = bus::tagged_lap(8 * lap, 8);
    ASSERT_TRUE(bus::tagged_is_of_lap(bus::pack_tagged(tag, lap), tag)) << lap;
  }
}

TEST(TaggedWords, PayloadOfAllBits_IsKeptApartFromTheTag) {
  constexpr Word kAll = (Word{1} << 48) - 1;
  for (const Word lap : {Word{0}, Word{1}, Word{0xffff}}) {
    for (const Word payload : {Word{0}, Word{1}, kAll}) {
      const Word word = bus::pack_tagged(lap, payload);
      EXPECT_TRUE(bus::tagged_is_of_lap(word, lap));
      EXPECT_EQ(bus::tagged_payload(word), payload);
    }
  }
  EXPECT_EQ(bus::pack_tagged(1, ~Word{0}) >> 48, 1U);
}

// A text and the count that says it is there.
TEST(Interned, CountIsSeen_TextIsThere) {
  const ProcessMemory memory;
  Machine machine({"text", "count"});
  for (Word count = 1; count <= 2; ++count) {
    memory.store_field(machine.at(0), 100 + count);
    memory.store_interned(machine.at(1), count);
  }
  machine.start_reading();
  do {
    const Word count = memory.load_interned(machine.at(1));
    const Word text = memory.load_field(machine.at(0));
    if (count != 0) {
      ASSERT_GE(text, 100 + count) << machine.describe();
    }
  } while (machine.next());
}

// The stamp is stored before the word that says where the writer is. Two words without a second
// look: the stamp is of that place or of a later one, never of an earlier one.
TEST(Status, PlaceIsSeen_StampIsNotOlderButMayBeNewer) {
  const ProcessMemory memory;
  Machine machine({"stamp", "where"});
  for (Word place = 1; place <= 3; ++place) {
    memory.store_status(machine.at(0), 100 + place);
    memory.store_status(machine.at(1), place);
  }
  bool newer = false;
  machine.start_reading();
  do {
    const Word place = memory.load_status(machine.at(1));
    const Word stamp = memory.load_status(machine.at(0));
    if (place != 0) {
      ASSERT_GE(stamp, 100 + place) << machine.describe();
    }
    newer = newer || stamp > 100 + place;
  } while (machine.next());
  EXPECT_TRUE(newer);
}

TEST(Status, StampIsReadFirst_MayBeOlder) {
  const ProcessMemory memory;
  Machine machine({"stamp", "where"});
  memory.store_status(machine.at(0), 101);
  memory.store_status(machine.at(1), 1);
  bool older = false;
  machine.start_reading();
  do {
    const Word stamp = memory.load_status(machine.at(0));
    const Word place = memory.load_status(machine.at(1));
    older = older || (place == 1 && stamp == 0);
  } while (machine.next());
  EXPECT_TRUE(older);
}

}  // namespace
}  // namespace rankbus::model
