// tests/model/stream_model.hpp: a stream in the machine's memory, its writer, and questions to it.
//
// The writer and the readers use the functions of bus/slot.hpp and nothing else; what is written
// here is only what bus/slot.hpp leaves to its callers: the fields, the fold, which checkpoint is
// next. Each question is a function that runs one reader to its end and returns what was wrong with
// the answer, or nothing. explore() asks it in every possible run.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "machine_atomics.hpp"

namespace rankbus::model {

// A sanitizer slows the search tenfold and watches only the checker, so it gets a shorter one.
#if defined(__SANITIZE_ADDRESS__) || defined(RANKBUS_TSAN)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

struct Shape {
  Word capacity = 1;
  std::size_t fields = 2;
  Word checkpoint_interval = 0;  // In records; 0 for a stream that never writes a checkpoint.
  Word first_record = 0;
  bool slots_start_written = false;  // Else the slots start as zeros, like a new segment.
  // Bit i: another checkpoint after record i (as a clock or a close asks for), due or not.
  std::uint32_t extra_checkpoints = 0;
  // Deliberate mistakes, for the variants that must fail.
  bool only_one_checkpoint = false;
  bool checkpoint_before_publish = false;
};

// What a record holds, told apart from every other record and field.
constexpr Word field_of(Word record, std::size_t field) {
  return 16 * (record + 1) + field;
}

// Not commutative: folding the right records in the wrong order shows.
constexpr Word fold(Word total, Word value) {
  return total * 31 + value;
}

// Two words and the number of records in front: enough for a checkpoint to be torn in two ways.
inline constexpr std::size_t kCheckpointWords = 3;
using Body = std::array<Word, kCheckpointWords>;

class Stream {
 public:
  explicit Stream(const Shape& shape) : shape_(shape), machine_(name_locations(shape)) {}

  const Shape& shape() const { return shape_; }
  Machine& machine() { return machine_; }
  Word* slot(Word record) {
    return machine_.at((record & (shape_.capacity - 1)) * (1 + shape_.fields));
  }
  Word* published() { return machine_.at(shape_.capacity * (1 + shape_.fields)); }
  Word* checkpoint(std::size_t index) { return published() + 1 + index * (1 + kCheckpointWords); }
  std::size_t checkpoints() const {
    if (shape_.checkpoint_interval == 0) return 0;
    return shape_.only_one_checkpoint ? 1 : 2;
  }

  Word first() const { return shape_.first_record; }
  Word end() const { return first() + static_cast<Word>(bodies_.size()) - 1; }

  // The true totals after `records` records; what every reader's answer is compared with.
  const Body& body_at(Word records) const { return bodies_.at(records - first()); }
  bool exists(Word records) const { return records - first() < bodies_.size(); }

  // A question says so when its answer could have been wrong; else a run shows nothing.
  void conclude() { ++conclusive_; }
  std::size_t conclusive() const { return conclusive_; }

  template <class Memory>
  void write_record(Memory& memory) {
    const Word record = end();
    Body body = bodies_.back();
    bus::begin_slot(memory, slot(record), record);
    for (std::size_t i = 0; i < shape_.fields; ++i) {
      memory.store_field(slot(record) + 1 + i, field_of(record, i));
      body[1] += field_of(record, i);
      body[2] = fold(body[2], field_of(record, i));
    }
    body[0] = record + 1;
    bodies_.push_back(body);
    const bool due = shape_.checkpoint_interval != 0 && body[0] % shape_.checkpoint_interval == 0;
    if (due && shape_.checkpoint_before_publish) write_older_checkpoint(memory);
    bus::finish_slot(memory, slot(record), record, published());
    if (due && !shape_.checkpoint_before_publish) write_older_checkpoint(memory);
    if ((shape_.extra_checkpoints >> (record - first()) & 1) != 0) write_older_checkpoint(memory);
  }

  // Begins the history: zeros, or a full lap of records before the first one; and a whole
  // checkpoint of no records, as a new segment has it.
  template <class Memory>
  void start(Memory& memory) {
    machine_.start_writing();
    if (shape_.slots_start_written) {
      for (Word back = shape_.capacity; back > 0; --back) {
        const Word record = first() - back;
        bus::begin_slot(memory, slot(record), record);
        for (std::size_t i = 0; i < shape_.fields; ++i) {
          memory.store_field(slot(record) + 1 + i, field_of(record, i));
        }
        bus::finish_slot(memory, slot(record), record, published());
      }
    }
    bodies_.assign(1, Body{first(), 0, 0});
    next_checkpoint_ = 0;
    if (checkpoints() != 0) write_older_checkpoint(memory);
    if (first() != 0) memory.store_published(published(), first());
    machine_.forget_history();
  }

 private:
  template <class Memory>
  void write_older_checkpoint(Memory& memory) {
    bus::write_checkpoint(memory, checkpoint(next_checkpoint_), bodies_.back().data(),
                          kCheckpointWords);
    next_checkpoint_ = (next_checkpoint_ + 1) % checkpoints();
  }

  static std::vector<std::string> name_locations(const Shape& shape) {
    std::vector<std::string> names;
    for (Word slot = 0; slot < shape.capacity; ++slot) {
      const std::string name = "slot[" + std::to_string(slot) + "].";
      names.push_back(name + "word");
      for (std::size_t i = 0; i < shape.fields; ++i) {
        names.push_back(name + "field[" + std::to_string(i) + "]");
      }
    }
    names.emplace_back("published");
    const std::size_t checkpoints =
        shape.checkpoint_interval == 0 ? 0 : (shape.only_one_checkpoint ? 1 : 2);
    for (std::size_t c = 0; c < checkpoints; ++c) {
      const std::string name = "checkpoint[" + std::to_string(c) + "].";
      names.push_back(name + "version");
      names.push_back(name + "records");
      names.push_back(name + "sum");
      names.push_back(name + "fold");
    }
    return names;
  }

  Shape shape_;
  Machine machine_;
  std::vector<Body> bodies_;  // The writer's private totals after each record.
  std::size_t next_checkpoint_ = 0;
  std::size_t conclusive_ = 0;
};

using bus::SlotOutcome;

inline const char* to_string(SlotOutcome outcome) {
  static constexpr std::array<const char*, 6> kNames = {"whole",  "not_yet",   "being_written",
                                                        "lapped", "abandoned", "damaged"};
  return kNames.at(static_cast<std::size_t>(outcome));
}

// Capacity of the copy; more fields than any shape here has.
using Copy = std::array<Word, 8>;

template <class Memory>
SlotOutcome read(Stream& stream, Memory& memory, Word record, Copy& copy, bool dead) {
  return bus::read_slot(memory, stream.slot(record), record, stream.shape().capacity, copy.data(),
                        stream.shape().fields, dead);
}

inline std::string what_is_wrong_with_copy(Stream& stream, Word record, const Copy& copy) {
  stream.conclude();
  for (std::size_t i = 0; i < stream.shape().fields; ++i) {
    if (copy[i] == field_of(record, i)) continue;
    return "record " + std::to_string(record) + " is whole, but its field " + std::to_string(i) +
           (copy[i] == 0 ? " was never written"
                         : " is that of record " + std::to_string(copy[i] / 16 - 1));
  }
  return {};
}

// Question 1: any slot at any time, without asking `published` first. A whole record is that
// record; every other outcome says what the word that was looked at first really meant, unless that
// word was 0: it means an empty slot, also where words wrap and a record's own word is 0.
template <class Memory>
std::string ask_slot(Stream& stream, Memory& memory) {
  const Word written = stream.end() - stream.first();
  const Word record = stream.first() + stream.machine().pick(written + 1);
  Copy copy{};
  const SlotOutcome outcome = read(stream, memory, record, copy, false);
  if (outcome == SlotOutcome::whole) return what_is_wrong_with_copy(stream, record, copy);
  // Message 2k+1 of a slot's word is the mark of the slot's record k, message 2k+2 its end.
  const std::size_t message = stream.machine().message_of_step(0);
  const Word lap = (record - stream.first()) / stream.shape().capacity;
  SlotOutcome truth = SlotOutcome::lapped;
  if (message < 2 * lap + 1) truth = SlotOutcome::not_yet;
  if (message == 2 * lap + 1) truth = SlotOutcome::being_written;
  const Word whole_lap = message / 2 - 1;
  const Word whole_record = record + (whole_lap - lap) * stream.shape().capacity;
  if (message % 2 == 0 && bus::word_when_whole(whole_record) == 0) truth = SlotOutcome::not_yet;
  if (outcome == truth) return {};
  return "record " + std::to_string(record) + " is " + to_string(outcome) + ", but was " +
         to_string(truth);
}

// Question 2: a record that `published` counts is there, or was overwritten, and nothing else.
template <class Memory>
std::string ask_published(Stream& stream, Memory& memory) {
  const Word published = memory.load_published(stream.published());
  if (published == stream.first()) return {};
  const Word record = stream.first() + stream.machine().pick(published - stream.first());
  Copy copy{};
  const SlotOutcome outcome = read(stream, memory, record, copy, false);
  if (outcome == SlotOutcome::whole) return what_is_wrong_with_copy(stream, record, copy);
  if (outcome == SlotOutcome::lapped) return {};
  return "record " + std::to_string(record) + " is published, but " + to_string(outcome);
}

// Question 3: a whole checkpoint holds the totals at its own `records`.
template <class Memory>
std::string ask_checkpoint(Stream& stream, Memory& memory) {
  Word* const checkpoint = stream.checkpoint(stream.machine().pick(stream.checkpoints()));
  Body body{};
  if (!bus::read_checkpoint(memory, checkpoint, body.data(), body.size())) return {};
  stream.conclude();
  if (stream.exists(body[0]) && body == stream.body_at(body[0])) return {};
  return "a whole checkpoint of " + std::to_string(body[0]) + " records has other totals";
}

// Question 4: who has seen a checkpoint finds at least its records published.
template <class Memory>
std::string ask_cut(Stream& stream, Memory& memory) {
  Word* const checkpoint = stream.checkpoint(stream.machine().pick(stream.checkpoints()));
  Body body{};
  if (!bus::read_checkpoint(memory, checkpoint, body.data(), body.size())) return {};
  const Word published = memory.load_published(stream.published());
  stream.conclude();
  if (published >= body[0]) return {};
  return "the checkpoint has " + std::to_string(body[0]) + " records, published are " +
         std::to_string(published);
}

// False when no checkpoint is whole, or none stood still for the reader.
template <class Memory>
bool read_newest_checkpoint(Stream& stream, Memory& memory, Body& newest) {
  bool found = false;
  for (std::size_t i = 0; i < stream.checkpoints(); ++i) {
    Body body{};
    if (!bus::read_checkpoint(memory, stream.checkpoint(i), body.data(), body.size())) continue;
    if (!found || body[0] > newest[0]) newest = body;
    found = true;
  }
  return found;
}

enum class Fold : std::uint8_t { folded, lost, wrong };

// Folds record body[0]; `wrong` when a published record is neither there nor overwritten.
template <class Memory>
Fold fold_next(Stream& stream, Memory& memory, Body& body, bool dead) {
  Copy copy{};
  const SlotOutcome outcome = read(stream, memory, body[0], copy, dead);
  if (outcome == SlotOutcome::lapped) return Fold::lost;
  if (outcome != SlotOutcome::whole) return Fold::wrong;
  for (std::size_t i = 0; i < stream.shape().fields; ++i) {
    body[1] += copy[i];
    body[2] = fold(body[2], copy[i]);
  }
  ++body[0];
  return Fold::folded;
}

inline std::string what_is_wrong_with_totals(Stream& stream, const Body& body) {
  stream.conclude();
  if (stream.exists(body[0]) && body == stream.body_at(body[0])) return {};
  return "the totals at " + std::to_string(body[0]) + " records are other totals";
}

// Questions 5 and 6: who attaches takes the newest whole checkpoint and folds the slots up to
// `published`. Alive, it may be lapped on the way and must try again; what it gets otherwise is
// exact. Dead, it gets all of `published` at the first attempt.
template <class Memory>
std::string ask_attach(Stream& stream, Memory& memory, bool dead) {
  Body body{};
  if (!read_newest_checkpoint(stream, memory, body)) return dead ? "no checkpoint is whole" : "";
  const Word published = memory.load_published(stream.published());
  if (published < body[0]) return "fewer records are published than the checkpoint holds";
  while (body[0] != published) {
    const Fold step = fold_next(stream, memory, body, dead);
    if (step == Fold::lost && !dead) return {};
    if (step == Fold::folded) continue;
    return "record " + std::to_string(body[0]) + " of " + std::to_string(published) +
           " published ones is " + (step == Fold::lost ? "lost" : "not there");
  }
  return what_is_wrong_with_totals(stream, body);
}
template <class Memory>
std::string ask_attach_live(Stream& stream, Memory& memory) {
  return ask_attach(stream, memory, false);
}
template <class Memory>
std::string ask_attach_dead(Stream& stream, Memory& memory, std::size_t moved_ahead) {
  stream.machine().writer_dies(moved_ahead);
  return ask_attach(stream, memory, true);
}

// Question 7: who follows from the beginning and meets a whole checkpoint at its own position holds
// the same totals. It looks at the checkpoints before each of its passes.
template <class Memory>
std::string ask_follow(Stream& stream, Memory& memory) {
  Body body = stream.body_at(stream.first());
  for (int pass = 0; pass < 2; ++pass) {
    Body checkpoint{};
    const bool found = read_newest_checkpoint(stream, memory, checkpoint);
    const Word published = memory.load_published(stream.published());
    while (true) {
      if (found && body[0] == checkpoint[0] && body[0] != stream.first()) stream.conclude();
      if (found && body[0] == checkpoint[0] && body != checkpoint) {
        return "follower and checkpoint disagree at " + std::to_string(body[0]) + " records";
      }
      if (body[0] >= published) break;
      const Fold step = fold_next(stream, memory, body, false);
      if (step == Fold::lost) return {};  // It would attach anew.
      if (step == Fold::wrong) return "a published record is not there";
    }
  }
  return {};
}

// Question 8: the same follower sees its writer die after the first pass, and finishes.
template <class Memory>
std::string ask_follow_to_death(Stream& stream, Memory& memory, std::size_t moved_ahead) {
  Body body = stream.body_at(stream.first());
  for (const bool dead : {false, true}) {
    if (dead) stream.machine().writer_dies(moved_ahead);
    const Word published = memory.load_published(stream.published());
    if (published < body[0]) return "published went back";
    while (body[0] != published) {
      const Fold step = fold_next(stream, memory, body, dead);
      if (step == Fold::lost) return {};
      if (step == Fold::wrong) return "a published record is not there";
    }
  }
  return what_is_wrong_with_totals(stream, body);
}

struct Exploration {
  std::size_t executions = 0;
  std::size_t conclusive = 0;
  Word records = 0;  // The last size of history that was searched.
  std::string counterexample;
  bool broken() const { return !counterexample.empty(); }
};

// Asks in every possible run, of one record written, then of two, up to `most_records`; stops at
// the first size that has a counterexample and keeps its shortest one.
template <class Memory, class Question>
Exploration explore(const Shape& shape, Memory memory, Word most_records, Question question) {
  Exploration result;
  Stream stream(shape);
  stream.start(memory);
  while (result.records < most_records && !result.broken()) {
    stream.machine().start_writing();
    stream.write_record(memory);
    ++result.records;
    stream.machine().start_reading();
    std::array<std::size_t, 3> shortest{};
    do {
      ++result.executions;
      const std::string wrong = question(stream, memory);
      if (wrong.empty()) continue;
      if (result.broken() && shortest <= stream.machine().length()) continue;
      shortest = stream.machine().length();
      result.counterexample = "    " + wrong + "\n" + stream.machine().describe();
    } while (stream.machine().next());
  }
  result.conclusive = stream.conclusive();
  return result;
}

}  // namespace rankbus::model
