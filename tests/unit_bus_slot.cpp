// Labels: threads
// The slot and checkpoint protocol on plain memory: every outcome by name, at the start of a
// stream's life and near the end of what a sequence word can count.
// Replay: RANKBUS_TEST_SEED=<printed> unit_bus_slot [--gtest_filter=...]
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::bus::begin_slot;
using rankbus::bus::finish_slot;
using rankbus::bus::ProcessMemory;
using rankbus::bus::read_checkpoint;
using rankbus::bus::read_slot;
using rankbus::bus::SlotOutcome;
using rankbus::bus::word_when_whole;
using rankbus::bus::write_checkpoint;

constexpr Word kCapacity = 64;
constexpr std::size_t kPayload = 3;

// A ring and its writer, which starts at any record.
struct Ring {
  explicit Ring(Word first_record) : next(first_record), published(first_record) {}
  ProcessMemory memory;
  Word next;
  Word published;
  Word slots[kCapacity][1 + kPayload] = {};

  Word* slot(Word record) { return slots[record % kCapacity]; }
  void begin() {
    begin_slot(memory, slot(next), next);
    for (std::size_t i = 0; i < kPayload; ++i)
      memory.store_field(slot(next) + 1 + i, mixed(next + i));
  }
  void finish() {
    finish_slot(memory, slot(next), next, &published);
    ++next;
  }
  void write() {
    begin();
    finish();
  }
  SlotOutcome read(Word record, bool dead = false) {
    Word copy[kPayload] = {};
    const SlotOutcome outcome =
        read_slot(memory, slot(record), record, kCapacity, copy, kPayload, dead);
    if (outcome == SlotOutcome::whole) {
      for (std::size_t i = 0; i < kPayload; ++i) EXPECT_EQ(copy[i], mixed(record + i));
    }
    return outcome;
  }
};

class SlotNear : public testing::TestWithParam<Word> {};

// C-20
TEST_P(SlotNear, EveryOutcome_IsNamed) {
  const Word first = GetParam();
  Ring ring(first);
  EXPECT_EQ(ring.read(first), SlotOutcome::not_yet) << "a slot that was never written";
  ring.begin();
  EXPECT_EQ(ring.read(first), SlotOutcome::being_written);
  EXPECT_EQ(ring.read(first, true), SlotOutcome::abandoned);
  EXPECT_EQ(ring.published, first);
  ring.finish();
  EXPECT_EQ(ring.read(first), SlotOutcome::whole);
  EXPECT_EQ(ring.read(first, true), SlotOutcome::whole);
  EXPECT_EQ(ring.published, first + 1);
  for (Word n = 1; n < kCapacity; ++n) ring.write();
  EXPECT_EQ(ring.read(first), SlotOutcome::whole);
  EXPECT_EQ(ring.read(first + kCapacity), SlotOutcome::not_yet) << "the slot holds its predecessor";
  ring.begin();
  EXPECT_EQ(ring.read(first), SlotOutcome::lapped) << "its slot is being overwritten";
  EXPECT_EQ(ring.read(first, true), SlotOutcome::lapped);
  EXPECT_EQ(ring.read(first + kCapacity), SlotOutcome::being_written);
  ring.finish();
  EXPECT_EQ(ring.read(first), SlotOutcome::lapped);
  EXPECT_EQ(ring.read(first + kCapacity), SlotOutcome::whole);
  // Words of records that live in another slot, as no writer leaves them.
  for (const Word foreign : {first + kCapacity + 1, first + 1, first + 2 * kCapacity - 1}) {
    *ring.slot(first) = word_when_whole(foreign);
    EXPECT_EQ(ring.read(first), SlotOutcome::damaged);
    EXPECT_EQ(ring.read(first + kCapacity), SlotOutcome::damaged);
    *ring.slot(first) = rankbus::bus::word_while_writing(foreign);
    EXPECT_EQ(ring.read(first), SlotOutcome::damaged);
  }
}

// C-32
TEST_P(SlotNear, ManyLaps_EveryRecordIsWholeUntilItIsLapped) {
  Ring ring(GetParam());
  for (int n = 0; n < 500; ++n) {
    ring.write();
    const Word newest = ring.next - 1;
    EXPECT_EQ(ring.read(newest), SlotOutcome::whole);
    EXPECT_EQ(ring.read(ring.next), SlotOutcome::not_yet);
    if (n < static_cast<int>(kCapacity)) continue;
    EXPECT_EQ(ring.read(newest - kCapacity + 1), SlotOutcome::whole);
    EXPECT_EQ(ring.read(newest - kCapacity), SlotOutcome::lapped);
  }
}

// A word counts to 2^63 records: at a billion a second, 292 years. Both its parities are tried
// where bit 32 and bit 63 of the word change, and up to the last record whose words still differ
// from 0.
INSTANTIATE_TEST_SUITE_P(Positions, SlotNear,
                         testing::Values(0, 1, 63, 64, (Word{1} << 31) - 70, (Word{1} << 32) - 70,
                                         (Word{1} << 53) - 70, (Word{1} << 62) - 70,
                                         (Word{1} << 63) - 600, (Word{1} << 63) - 1 - 510));

TEST(Checkpoint, WordByWord_IsWholeOnlyBetweenTwoWrites) {
  ProcessMemory memory;
  Word checkpoint[1 + 4] = {};
  Word body[4] = {};
  EXPECT_FALSE(read_checkpoint(memory, checkpoint, body, 4)) << "never written";
  const Word first[4] = {7, 8, 9, 10};
  write_checkpoint(memory, checkpoint, first, 4);
  ASSERT_TRUE(read_checkpoint(memory, checkpoint, body, 4));
  EXPECT_TRUE(std::equal(body, body + 4, first));
  checkpoint[0] += 1;  // The writer died inside the next one.
  EXPECT_FALSE(read_checkpoint(memory, checkpoint, body, 4));
}

// C-32
TEST(Checkpoint, VersionNearItsEnd_GoesOn) {
  ProcessMemory memory;
  Word checkpoint[1 + 1] = {~Word{0} - 5, 0};  // Even.
  Word body[1] = {};
  for (const Word value : {1U, 2U}) {
    write_checkpoint(memory, checkpoint, &value, 1);
    ASSERT_TRUE(read_checkpoint(memory, checkpoint, body, 1));
    EXPECT_EQ(body[0], value);
  }
}

TEST(TaggedWord, AnyOrderOfStores_IsWholeOnlyWithAllTagsOfTheLap) {
  using namespace rankbus::bus;
  Dice dice(test_seed());
  for (int round = 0; round < 1000; ++round) {
    const Word record = dice.next() >> dice.below(64);
    const Word payload = dice.next();
    const Word lap = tagged_lap(record, kCapacity);
    const Word word = pack_tagged(lap, payload);
    EXPECT_TRUE(tagged_is_of_lap(word, lap));
    EXPECT_EQ(tagged_payload(word), payload & kTaggedPayloadMask);
    EXPECT_FALSE(tagged_is_of_lap(word, tagged_lap(record + kCapacity, kCapacity)));
    EXPECT_FALSE(
        tagged_is_of_lap(pack_tagged(tagged_lap(record + kCapacity, kCapacity), payload), lap));
  }
  EXPECT_FALSE(tagged_is_of_lap(0, tagged_lap(0, kCapacity))) << "a zeroed slot is never whole";
}

}  // namespace
}  // namespace bus_test
