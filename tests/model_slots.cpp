// tests/model_slots.cpp: bus/slot.hpp in every execution that C++ allows.
//
// Goal: the code that workers run, not a copy of it, keeps its promises on a memory weaker than any
// machine's. That each of its orderings is needed for that is shown in tests/model_variants.cpp.
// Method: tests/model/view_memory.hpp runs the writer once and the reader in every possible way,
// from one record up to a few laps. There is no seed. tests/model/README.md sums up.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>

#include "model/variants.hpp"

namespace rankbus::model {
namespace {

using bus::ProcessMemory;

constexpr std::array<Word, 3> kCapacities = {1, 2, 4};
constexpr std::array<std::size_t, 2> kFields = {2, 3};

// Asks ProcessMemory itself.
template <class Question>
void expect_holds(const char* what, const Shape& shape, Word records, Question question) {
  const Exploration result = explore(shape, ProcessMemory{}, records, question);
  std::printf(
      "  %-24s capacity %llu, %zu fields, interval %llu, %llu records: %zu executions, %zu "
      "conclusive\n",
      what, static_cast<unsigned long long>(shape.capacity), shape.fields,
      static_cast<unsigned long long>(shape.checkpoint_interval),
      static_cast<unsigned long long>(result.records), result.executions, result.conclusive);
  EXPECT_GT(result.conclusive, 0U) << what;
  EXPECT_FALSE(result.broken()) << what << "\n" << result.counterexample;
}

template <class Question>
std::string counterexample(const Shape& shape, const Orders& orders, Word records,
                           Question question) {
  return explore(shape, ViewMemory(orders), records, question).counterexample;
}

Orders with_relaxed_mark() {
  Orders orders;
  orders.store_mark = Order::relaxed;
  return orders;
}

Orders orders_of_process_memory() {
  Machine machine({"x"});
  Word* const x = machine.at(0);
  const ProcessMemory memory;
  const auto order_of = [&](auto operation) {
    machine.take_last_order();
    operation();
    return machine.take_last_order();
  };
  Orders orders;
  orders.store_mark = order_of([&] { memory.store_mark(x, 1); });
  orders.fence_after_mark = order_of([&] { memory.fence_after_mark(); });
  orders.store_field = order_of([&] { memory.store_field(x, 1); });
  orders.store_whole = order_of([&] { memory.store_whole(x, 1); });
  orders.store_published = order_of([&] { memory.store_published(x, 1); });
  machine.start_reading();
  orders.load_word = order_of([&] { memory.load_word(x); });
  orders.load_field = order_of([&] { memory.load_field(x); });
  orders.fence_before_recheck = order_of([&] { memory.fence_before_recheck(); });
  orders.load_word_again = order_of([&] { memory.load_word_again(x); });
  orders.load_published = order_of([&] { memory.load_published(x); });
  return orders;
}

// The variants weaken what ProcessMemory really does, or what it does for thread sanitizer.
TEST(Model, ProcessMemory_EachOperation_HasTheOrderThatTheVariantsWeaken) {
#if defined(RANKBUS_TSAN)
  EXPECT_EQ(orders_of_process_memory(), orders_without_fences());
#else
  EXPECT_EQ(orders_of_process_memory(), Orders{});
#endif
}

// Part 1: slots.

// C-29, C-30
TEST(Model, Slot_WriterRacesReader_OutcomeIsTheTruthAndNeverTorn) {
  for (const Word capacity : kCapacities) {
    for (const std::size_t fields : kFields) {
      const Shape shape = {.capacity = capacity, .fields = fields};
      expect_holds("any slot, any time", shape, 3 * capacity + 1, ask_slot<const ProcessMemory>);
    }
  }
}

TEST(Model, Slot_RecordIsPublished_IsWholeOrLapped) {
  for (const Word capacity : kCapacities) {
    for (const std::size_t fields : kFields) {
      const Shape shape = {.capacity = capacity, .fields = fields};
      expect_holds("published slot", shape, 3 * capacity + 1, ask_published<const ProcessMemory>);
    }
  }
}

// Words wrap after 2^63 records, which take 292 years at 10^9 a second. The word of this one whole
// record is then 0, like that of an empty slot.
constexpr Word kWordIsZero = (Word{1} << 63) - 1;
static_assert(bus::word_when_whole(kWordIsZero) == 0);

// C-32
TEST(Model, Slot_WordsOrPositionsWrap_OutcomeIsTheTruthAndNeverTorn) {
  for (const Word capacity : kCapacities) {
    for (const Word first : {kWordIsZero - 2, Word{0} - 3}) {
      const Shape shape = {
          .capacity = capacity, .fields = 2, .first_record = first, .slots_start_written = true};
      expect_holds("any slot, wrapping", shape, 2 * capacity + 3, ask_slot<const ProcessMemory>);
    }
  }
}

TEST(Model, Slot_PublishedRecordsBelowAndAboveTheWrap_AreWholeOrLapped) {
  for (const Word capacity : kCapacities) {
    const Word records = 2 * capacity + 1;
    for (const Word first : {kWordIsZero - records, kWordIsZero + 1}) {
      const Shape shape = {
          .capacity = capacity, .fields = 2, .first_record = first, .slots_start_written = true};
      expect_holds("published, near the wrap", shape, records, ask_published<const ProcessMemory>);
    }
  }
}

// The limit that is left is real, so it is tested too.
TEST(Model, Slot_WordOfAWholeRecordIsZero_IsNotYetAlthoughPublished) {
  const Shape written = {
      .capacity = 2, .fields = 2, .first_record = kWordIsZero, .slots_start_written = true};
  EXPECT_NE(counterexample(written, {}, 1, ask_published<const ViewMemory>)
                .find("record 9223372036854775807 is published, but not_yet"),
            std::string::npos);
  const Shape empty = {.capacity = 1, .fields = 2, .first_record = kWordIsZero};
  EXPECT_EQ(counterexample(empty, {}, 1, ask_slot<const ViewMemory>), "");
}

TEST(Model, Slot_RecordsFarApart_AreToldApartWithinHalfTheirWords) {
  Machine machine({"word"});
  const ProcessMemory memory;
  constexpr Word kHalf = Word{1} << 62;
  const auto outcome_when_slot_holds = [&](Word held, Word asked) {
    machine.start_writing();
    memory.store_whole(machine.at(0), bus::word_when_whole(held));
    machine.forget_history();
    machine.start_reading();
    return bus::read_slot(memory, machine.at(0), asked, 1, nullptr, 0, false);
  };
  for (const Word record : {Word{7}, kWordIsZero + 7 - kHalf, kWordIsZero + 7, Word{0} - 7}) {
    for (const Word distance : {Word{1}, kHalf - 1}) {
      EXPECT_EQ(outcome_when_slot_holds(record + distance, record), SlotOutcome::lapped);
      EXPECT_EQ(outcome_when_slot_holds(record, record + distance), SlotOutcome::not_yet);
    }
    EXPECT_EQ(outcome_when_slot_holds(record + kHalf, record), SlotOutcome::not_yet);
  }
}

// What a dead writer leaves, when it had begun at most so many records that it never published.
template <class Memory>
std::string ask_what_is_left(Stream& stream, Memory& memory, std::size_t moved_ahead,
                             Word most_unpublished, Word& most_abandoned) {
  stream.machine().writer_dies(moved_ahead);
  const Word published = memory.load_published(stream.published());
  const Word capacity = stream.shape().capacity;
  Word abandoned = 0;
  for (Word record = stream.first(); record <= stream.end(); ++record) {
    Copy copy{};
    const SlotOutcome outcome = read(stream, memory, record, copy, true);
    std::string name = "record " + std::to_string(record) + " of " + std::to_string(published) +
                       " is " + to_string(outcome);
    if (outcome == SlotOutcome::whole) {
      std::string wrong = what_is_wrong_with_copy(stream, record, copy);
      if (!wrong.empty()) return wrong;
    }
    if (outcome == SlotOutcome::being_written || outcome == SlotOutcome::damaged) return name;
    if (outcome == SlotOutcome::abandoned) ++abandoned;
    // The last `capacity` records are there, less those whose slots the unpublished ones took.
    const bool must_be_whole =
        record < published && record + capacity >= published + most_unpublished;
    if (must_be_whole && outcome != SlotOutcome::whole) return name;
    if (record < published && outcome != SlotOutcome::whole && outcome != SlotOutcome::lapped) {
      return name;
    }
    const bool begun = outcome == SlotOutcome::abandoned || outcome == SlotOutcome::whole;
    if (begun && record >= published + most_unpublished) return name;
  }
  most_abandoned = std::max(most_abandoned, abandoned);
  return {};
}

// Expects no more than that, and that so many abandoned records are really found in some run.
template <class Memory>
void expect_left(const Memory& memory, std::size_t moved_ahead, Word most_unpublished) {
  Word most_abandoned = 0;
  for (const Word capacity : kCapacities) {
    const Shape shape = {.capacity = capacity, .fields = 2};
    const Exploration result =
        explore(shape, memory, 3 * capacity + 1, [&](Stream& stream, auto& of_reader) {
          return ask_what_is_left(stream, of_reader, moved_ahead, most_unpublished, most_abandoned);
        });
    EXPECT_FALSE(result.broken()) << result.counterexample;
    std::printf("  left by the dead, capacity %llu: %zu executions\n",
                static_cast<unsigned long long>(capacity), result.executions);
  }
  EXPECT_EQ(most_abandoned, most_unpublished);
}

TEST(Model, Slots_WriterKilledInProgramOrder_LeaveOneAbandonedRecordAtMost) {
  expect_left(ProcessMemory{}, kInProgramOrder, 1);
}

// C-1
TEST(Model, Slots_WriterKilledWithAnyCompiler_LeaveOneAbandonedRecordAtMost) {
  expect_left(ProcessMemory{}, kAnyCompiler, 1);
}

// A compiler may move a relaxed mark up to the fence before it. Then a second record is abandoned,
// and its slot is one more that a reader of the dead finds overwritten.
TEST(Model, Slots_MarkStoredRelaxed_LeaveTwoAbandonedRecordsWithSomeCompiler) {
  expect_left(ViewMemory(with_relaxed_mark()), kAnyCompiler, 2);
}

// Part 2: totals.

constexpr std::array<Shape, 4> kTotalsShapes = {{
    {.capacity = 2, .fields = 1, .checkpoint_interval = 1},
    {.capacity = 4, .fields = 1, .checkpoint_interval = 1},
    {.capacity = 4, .fields = 1, .checkpoint_interval = 2},
    {.capacity = 8, .fields = 1, .checkpoint_interval = 2},
}};

TEST(Model, Checkpoint_WriterRacesReader_WholeOnesHoldTheTotalsAtTheirRecords) {
  for (const Shape& shape : kTotalsShapes) {
    expect_holds("checkpoint", shape, 10, ask_checkpoint<const ProcessMemory>);
  }
}

TEST(Model, Checkpoint_SeenWhole_ItsRecordsArePublished) {
  for (const Shape& shape : kTotalsShapes) {
    expect_holds("published >= records", shape, 10, ask_cut<const ProcessMemory>);
  }
}

TEST(Model, Totals_ReaderAttachesToALiveWriter_AreExactIfNotLapped) {
  for (const Shape& shape : kTotalsShapes) {
    expect_holds("attach", shape, kSanitized ? 6 : 8, ask_attach_live<const ProcessMemory>);
  }
}

TEST(Model, Totals_ReaderFollowsAndVerifies_AgreeWithEveryCheckpoint) {
  for (const Shape& shape : kTotalsShapes) {
    expect_holds("follow", shape, kSanitized ? 4 : 6, ask_follow<const ProcessMemory>);
  }
}

constexpr std::array kDeaths = {kInProgramOrder, kAnyCompiler};

// C-1
TEST(Model, Totals_WriterKilledAnywhere_AreExactAtTheFirstAttempt) {
  for (const std::size_t moved_ahead : kDeaths) {
    for (const Shape& shape : kTotalsShapes) {
      expect_holds("attach to the dead", shape, 12, [&](Stream& stream, auto& memory) {
        return ask_attach_dead(stream, memory, moved_ahead);
      });
    }
  }
}

TEST(Model, Totals_WriterDiesWhileTheyAreFollowed_AreExactIfNotLapped) {
  for (const std::size_t moved_ahead : kDeaths) {
    for (const Shape& shape : kTotalsShapes) {
      expect_holds("follow to death", shape, 10, [&](Stream& stream, auto& memory) {
        return ask_follow_to_death(stream, memory, moved_ahead);
      });
    }
  }
}

// Clocks and closes ask for checkpoints between the due ones. Bit i of a pattern: after record i,
// if need be a second time.
constexpr Word kPatternRecords = kSanitized ? 4 : 6;
constexpr std::uint32_t kPatterns = 1U << kPatternRecords;
constexpr Shape shape_with_extra(std::uint32_t extra) {
  return {.capacity = 4, .fields = 1, .checkpoint_interval = 2, .extra_checkpoints = extra};
}
// Whether a due checkpoint, of every second record, is written twice in a row.
constexpr bool has_repeats(std::uint32_t extra) {
  return (extra & 0b101010) != 0;
}

// All patterns, less those without a bit at any of the due ones.
constexpr std::size_t kPatternsThatRepeat = kPatterns - (1U << kPatternRecords / 2);

template <class Memory>
std::size_t count_patterns_lost(const Memory& memory, std::size_t moved_ahead, bool repeats) {
  std::size_t lost = 0;
  std::size_t executions = 0;
  for (std::uint32_t extra = 0; extra < kPatterns; ++extra) {
    if (has_repeats(extra) != repeats) continue;
    const Exploration result = explore(shape_with_extra(extra), memory, kPatternRecords,
                                       [&](Stream& stream, auto& of_reader) {
                                         return ask_attach_dead(stream, of_reader, moved_ahead);
                                       });
    executions += result.executions;
    if (result.broken()) ++lost;
  }
  std::printf("  %s extra checkpoints, dead: %zu executions\n", repeats ? "repeated" : "new",
              executions);
  return lost;
}

TEST(Model, Totals_CheckpointsMoreOftenThanDue_AreExactIfNotLapped) {
  std::size_t executions = 0;
  for (std::uint32_t extra = 0; extra < kPatterns; ++extra) {
    const Exploration result = explore(shape_with_extra(extra), ProcessMemory{}, kPatternRecords,
                                       ask_attach_live<const ProcessMemory>);
    executions += result.executions;
    EXPECT_FALSE(result.broken()) << result.counterexample;
  }
  std::printf("  extra checkpoints, alive: %zu executions\n", executions);
}

TEST(Model, Totals_CheckpointsMoreOftenThanDueAndWriterKilled_AreExactAtTheFirstAttempt) {
  for (const std::size_t moved_ahead : kDeaths) {
    for (const bool repeats : {false, true}) {
      EXPECT_EQ(count_patterns_lost(ProcessMemory{}, moved_ahead, repeats), 0U);
    }
  }
}

// Two checkpoints without a record between them have no fence between the first one's end and the
// second one's mark: were the mark relaxed, a compiler could have both of them open at once, and a
// writer killed then would leave none.
TEST(Model, Totals_MarkStoredRelaxed_AreLostWhereACheckpointIsRepeated) {
  const ViewMemory memory(with_relaxed_mark());
  EXPECT_EQ(count_patterns_lost(memory, kAnyCompiler, false), 0U);
  EXPECT_EQ(count_patterns_lost(memory, kAnyCompiler, true), kPatternsThatRepeat);
}

}  // namespace
}  // namespace rankbus::model
