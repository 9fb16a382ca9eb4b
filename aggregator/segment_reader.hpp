// aggregator/segment_reader.hpp: one producer's segment, followed from attach to death.
//
// The reader keeps its own copy of every stream's totals. It starts from the newest checkpoint
// (of a dead writer from the older, so that the newer proves something), folds every slot after it
// by the producer's own fold, and at each checkpoint that it reaches compares: both must hold the
// same words. Lapped, it starts again from the newest checkpoint and counts the samples that it
// missed; totals never bend.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/aggregator/schema_reader.hpp>
#include <rankbus/bus/slot.hpp>
#include <string>
#include <vector>

namespace boost::interprocess {
class mapped_region;
}

namespace rankbus {

// One record as it was read; valid during the call.
struct Sample {
  const StreamSchema& stream;
  const unsigned char* payload;
  std::uint64_t number;
  // Written before the reader's totals begin: still in the ring when it came, and folded by nobody.
  bool is_history = false;
  // Elements of an array, at most its capacity; continued by the samples whose part is not 0.
  std::size_t count(int field) const {
    const bus::FieldPlan& plan = stream.plan.fields[field];
    const std::uint64_t claimed = bus::raw_of(payload, plan.count_offset, bus::Type::u16);
    return static_cast<std::size_t>(claimed < plan.capacity ? claimed : plan.capacity);
  }
  std::uint64_t element(int field, std::size_t index) const {
    const bus::FieldPlan& plan = stream.plan.fields[field];
    return bus::raw_of(payload, plan.slot_offset + static_cast<std::uint32_t>(8 * index),
                       plan.type);
  }
  // Which part of a record with long arrays this is; its scalars count with part 0 only.
  std::uint64_t part() const {
    return stream.plan.part_offset == bus::kNoOffset
               ? 0
               : bus::raw_of(payload, stream.plan.part_offset, bus::Type::u16);
  }
  // The scalar field of that index as 64 bits.
  std::uint64_t raw(int field) const {
    const bus::FieldPlan& plan = stream.plan.fields[field];
    return bus::raw_of(payload, plan.slot_offset, plan.type);
  }
};
using SampleSink = std::function<void(const Sample&)>;

struct StreamState {
  StreamSchema schema;
  std::vector<bus::Word> totals;  // A body, as of `position`; empty if samples only.
  std::uint64_t position = 0;     // The next record to read.
  std::uint64_t published = 0;    // As last seen.
  std::uint64_t first_position =
      0;  // Where reading began; samples before it were never this reader's.
  std::uint64_t history_from = 0;  // Samples from here to `first_position` are yet to be shown.
  std::uint64_t lost_lapped = 0;   // Samples overwritten before they were read.
  std::uint64_t abandoned = 0;     // Records that the writer died in; 0 or 1.
  std::uint64_t verified = 0;      // Checkpoints that agreed, bit for bit.
  std::uint64_t skipped = 0;       // Checkpoints passed without comparing, after a loss.
  std::uint64_t mismatches = 0;    // Checkpoints that disagreed. Must be 0.
  std::array<std::uint64_t, 2> checkpoint_seen = {};  // Their record counts, once dealt with.
  std::string info;              // Newest whole text of its info field; empty: none was seen.
  std::string info_parts;        // Of one that is not whole yet ...
  std::uint64_t info_next = 0;   // ... the part that must come next.
  std::uint64_t info_stamp = 0;  // Ticks of the record that it came with.
};

class SegmentReader {
 public:
  // Opens `name` in the directory, judges it, maps it read-only and reads its schema. Errors say
  // what is wrong with it; nothing is kept then.
  static Result<std::unique_ptr<SegmentReader>> open_untrusted(int directory,
                                                               const std::string& name);
  ~SegmentReader();
  SegmentReader(const SegmentReader&) = delete;
  SegmentReader& operator=(const SegmentReader&) = delete;

  // Whether the producer's address space still exists.
  bool writer_is_alive() const;

  // Reads what is new, at most about two capacities of each stream. `writer_is_dead` only after
  // `writer_is_alive` was false. Returns true if anything was read; `error` is set once the segment
  // contradicts itself, and nothing is read from then on.
  bool poll(bool writer_is_dead, const SampleSink& sink);

  // Nothing is left to read; with a dead writer, nothing ever will be.
  bool is_drained() const;

  // Text of a dictionary entry, 1 and up; empty if it is not there.
  std::string dictionary_text(std::uint64_t entry) const;

  const std::string& name() const { return name_; }
  const bus::SegmentHeader& header() const { return header_; }
  const std::vector<StreamState>& streams() const { return streams_; }
  const std::string& error() const { return error_; }
  std::uint64_t file_bytes() const { return file_bytes_; }

 private:
  SegmentReader() = default;
  const bus::Word* word_at(std::uint64_t offset) const;
  bool follow(StreamState& stream, std::uint64_t published, bool writer_is_dead,
              const SampleSink& sink);
  void begin(StreamState& stream, std::uint32_t index, bool writer_is_dead);
  bool take_checkpoint(StreamState& stream, int which, std::vector<bus::Word>& body);
  void show_history(StreamState& stream, bool writer_is_dead, const SampleSink& sink) const;
  static void take_info(StreamState& stream, const Sample& sample);
  bool lies_ahead(const StreamState& stream, std::uint64_t published, bool writer_is_dead);
  bool restart_from_checkpoint(StreamState& stream, std::uint64_t published);
  void verify_at(StreamState& stream, std::uint64_t records);
  bool copy_checkpoint(const StreamState& stream, int which, std::vector<bus::Word>& body) const;
  std::optional<std::uint64_t> next_checkpoint(const StreamState& stream,
                                               std::uint64_t published) const;

  std::string name_;
  int fd_ = -1;
  std::uint64_t file_bytes_ = 0;
  std::unique_ptr<boost::interprocess::mapped_region> region_;
  const unsigned char* base_ = nullptr;
  bus::SegmentHeader header_{};
  std::vector<StreamState> streams_;
  std::string error_;
};

}  // namespace rankbus
