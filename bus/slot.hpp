// bus/slot.hpp: how one record, and one checkpoint, cross from a process to another.
//
// Slot n & (capacity - 1) holds record n behind a sequence word of its own (a seqlock each). The
// word is 2n+1 while record n is written and 2n+2 once it is whole, so one load tells a reader
// which record a slot holds and whether it can be copied. There is no consumer index: the writer
// never looks at a reader, a slow reader is lapped and counts it. Words wrap after 2^63 records,
// 292 years at 10^9 a second; only the record whose word is then 0 reads as not there yet.
//
//   writer of record n                       reader of record n (n < published)
//   ------------------                       ----------------------------------
//   word  = 2n+1      store_mark             first  = word      load_word
//                     fence_after_mark       copy   = fields    load_field
//   fields            store_field                               fence_before_recheck
//   word  = 2n+2      store_whole            second = word      load_word_again
//   published = n+1   store_published        whole if first == second == 2n+2
//
// A checkpoint is a whole copy of a stream's totals behind a version word, odd while it is written.
// There are two; the writer overwrites the older one, so the newer one stands still for a whole
// checkpoint interval and no reader has to race the writer. A writer killed at any instruction
// leaves one whole checkpoint and every published slot since:
//
//   totals at record N = newest whole checkpoint + slots from its `records` up to N
//
// Everything here is exercised by the model checker on a memory weaker than any machine's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/memory.hpp>

#if defined(__CUDACC__)
#define RANKBUS_HOST_DEVICE __host__ __device__
#else
#define RANKBUS_HOST_DEVICE
#endif

namespace rankbus::bus {

// What a reader finds when it asks a slot for record n.
enum class SlotOutcome : std::uint8_t {
  whole,          // The copy is record n.
  not_yet,        // The writer has not begun record n.
  being_written,  // The writer is inside record n.
  lapped,         // The slot holds, or got during the copy, a later record; record n is lost.
  abandoned,      // The writer died inside record n: the one record that was never published.
  damaged,        // The word belongs to no record that this slot can hold.
};

constexpr Word word_while_writing(Word record) {
  return 2 * record + 1;
}
constexpr Word word_when_whole(Word record) {
  return 2 * record + 2;
}

// The writer's half. Between `begin_slot` and `finish_slot` the caller stores the fields with
// `memory.store_field`, as many as the record needs.
template <class Memory>
void begin_slot(Memory& memory, Word* slot, Word record) noexcept {
  memory.store_mark(slot, word_while_writing(record));
  memory.fence_after_mark();
}

template <class Memory>
void finish_slot(Memory& memory, Word* slot, Word record, Word* published) noexcept {
  memory.store_whole(slot, word_when_whole(record));
  memory.store_published(published, record + 1);
}

// The reader's half: copies `words` payload words of record `record` out of its slot. The copy is
// meaningful only when the outcome is `whole`. `writer_is_dead` may be true only after the lock of
// the segment was seen free (edge DEATH).
template <class Memory>
SlotOutcome read_slot(Memory& memory, const Word* slot, Word record, Word capacity, Word* copy,
                      std::size_t words, bool writer_is_dead) noexcept {
  const Word whole = word_when_whole(record);
  const Word first = memory.load_word(slot);
  if (first == 0) return SlotOutcome::not_yet;
  if (first != whole) {
    if (first == word_while_writing(record)) {
      return writer_is_dead ? SlotOutcome::abandoned : SlotOutcome::being_written;
    }
    // Both words of a record name it; a word whose record lives in another slot is nobody's.
    const Word named_record = (first - 1) / 2;
    if ((named_record & (capacity - 1)) != (record & (capacity - 1))) return SlotOutcome::damaged;
    // Signed, because words wrap.
    const auto ahead = static_cast<std::int64_t>(first - whole);
    return ahead < 0 ? SlotOutcome::not_yet : SlotOutcome::lapped;
  }
  for (std::size_t i = 0; i < words; ++i) copy[i] = memory.load_field(slot + 1 + i);
  memory.fence_before_recheck();
  return memory.load_word_again(slot) == whole ? SlotOutcome::whole : SlotOutcome::lapped;
}

// Writes a checkpoint: `body` is the writer's private totals, `body[0]` the number of records in
// them.
template <class Memory>
void write_checkpoint(Memory& memory, Word* checkpoint, const Word* body,
                      std::size_t words) noexcept {
  const Word version = memory.load_own(checkpoint);
  memory.store_mark(checkpoint, version + 1);
  memory.fence_after_mark();
  for (std::size_t i = 0; i < words; ++i) memory.store_field(checkpoint + 1 + i, body[i]);
  memory.store_whole(checkpoint, version + 2);
}

// Copies a checkpoint; false when it was never written, is being written, or changed meanwhile.
template <class Memory>
bool read_checkpoint(Memory& memory, const Word* checkpoint, Word* body,
                     std::size_t words) noexcept {
  const Word version = memory.load_word(checkpoint);
  if (version == 0 || version % 2 != 0) return false;
  for (std::size_t i = 0; i < words; ++i) body[i] = memory.load_field(checkpoint + 1 + i);
  memory.fence_before_recheck();
  return memory.load_word_again(checkpoint) == version;
}

// Slot format 2, for writers on a device: every 64-bit word carries 16 bits of lap and 48 bits of
// payload, so that single aligned stores in any order, without a fence, can be told whole from
// torn. Reserved in this layout; the functions are shared by host and device.
inline constexpr int kTaggedPayloadBits = 48;
inline constexpr Word kTaggedPayloadMask = (Word{1} << kTaggedPayloadBits) - 1;

// Tags of laps go from 1 to this and start anew, so a zeroed slot is never whole.
inline constexpr Word kTaggedLaps = 65535;

// The lap that slots show for record `record`.
RANKBUS_HOST_DEVICE constexpr Word tagged_lap(Word record, Word capacity) {
  return 1 + (record / capacity) % kTaggedLaps;
}
RANKBUS_HOST_DEVICE constexpr Word pack_tagged(Word lap, Word payload) {
  return (lap << kTaggedPayloadBits) | (payload & kTaggedPayloadMask);
}
RANKBUS_HOST_DEVICE constexpr bool tagged_is_of_lap(Word word, Word lap) {
  return (word >> kTaggedPayloadBits) == lap;
}
RANKBUS_HOST_DEVICE constexpr Word tagged_payload(Word word) {
  return word & kTaggedPayloadMask;
}

}  // namespace rankbus::bus
