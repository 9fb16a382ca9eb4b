// aggregator/segment_reader.hpp: one producer's segment, followed from attach to death.
//
// The reader keeps its own copy of every stream's totals. It starts from the newest checkpoint
// (of a dead writer from the older, so that the newer proves something), folds every slot after it
// by the producer's own fold, and at each checkpoint that it reaches compares: both must hold the
// same words. Lapped, it starts again from the newest checkpoint and counts the samples that it
// missed; totals never bend.
//
// Records are copied in batches, then the kernel is asked whether the file still has all its bytes,
// and only then are they folded: what a cut or a hole turned to zeros is never used. A segment that
// was cut, or that contradicts itself, keeps the totals that it had.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/aggregator/running_totals.hpp>
#include <rankbus/aggregator/schema_reader.hpp>
#include <rankbus/aggregator/segment_bytes.hpp>
#include <rankbus/bus/slot.hpp>
#include <string>
#include <vector>

namespace rankbus {

// One record as it was read; valid during the call.
struct Sample {
  const StreamSchema& stream;
  const unsigned char* payload;
  std::uint64_t number;
  // Older than what this reader counts: still in the ring when it came.
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
  RunningTotals running;          // Of these, the sums that the source keeps.
  // Which rows of labels are shown under their own texts; rows that nobody judged yet, if anybody
  // does, are not.
  std::vector<bool> rows_shown;
  bool rows_are_judged = false;
  std::uint64_t position = 0;   // The next record to read.
  std::uint64_t published = 0;  // As last seen.
  std::uint64_t first_position =
      0;  // Where reading began; samples before it were never this reader's.
  std::uint64_t seen_before = 0;  // Samples below it were counted before, or by nobody.
  // Of these, told as lost when the segment was quarantined.
  std::uint64_t lost_quarantined = 0;
  std::uint64_t history_from = 0;  // Samples from here to `first_position` are yet to be shown.
  std::uint64_t lost_lapped = 0;   // Samples overwritten before they were read.
  std::uint64_t abandoned = 0;     // Records that the writer died in; 0 or 1.
  std::uint64_t verified = 0;      // Checkpoints that agreed, bit for bit.
  std::uint64_t skipped = 0;       // Checkpoints passed without comparing, after a loss.
  std::uint64_t mismatches = 0;    // Checkpoints that disagreed. Must be 0.
  std::array<std::uint64_t, 2> checkpoint_seen = {};  // Their record counts, once dealt with.
  bool shows_row(std::uint32_t row) const {
    return !rows_are_judged || (row < rows_shown.size() && rows_shown[row]);
  }
  std::string info;              // Newest whole text of its info field; empty: none was seen.
  std::string info_parts;        // Of one that is not whole yet ...
  std::uint64_t info_next = 0;   // ... the part that must come next.
  std::uint64_t info_stamp = 0;  // Ticks of the record that it came with.
};

// How far another reader had come with a stream, before this one.
struct StreamProgress {
  std::uint64_t next_record = 0;
  std::uint64_t lost_lapped = 0;
  std::uint64_t lost_quarantined = 0;  // From `next_record` on: told as lost, so they stay so.
  std::uint64_t verified = 0;
  std::uint64_t skipped = 0;
  std::uint64_t mismatches = 0;
  std::string running = {};  // As `RunningTotals` saved it.
};

class SegmentReader {
 public:
  // Opens `name` in the directory, judges it and reads its schema. Errors say what is wrong with
  // it; nothing is kept then.
  static Result<std::unique_ptr<SegmentReader>> open_untrusted(
      int directory, const std::string& name, ByteAccess access = ByteAccess::copied,
      const bus::AllowedOwners& allowed = {});
  ~SegmentReader();
  SegmentReader(const SegmentReader&) = delete;
  SegmentReader& operator=(const SegmentReader&) = delete;

  // Goes on where another reader stopped; before the first poll. Samples that it saw are history,
  // those after them count, and what was overwritten meanwhile is lost.
  void resume(std::size_t stream, const StreamProgress& progress);

  // Whether the producer's address space still exists. Nobody lives on from an earlier boot,
  // whoever may hold a lock on what was left on a disk.
  bool writer_is_alive() const { return is_of_this_boot() && bytes_->writer_is_alive(); }
  // False if the segment says that it was made before the kernel started.
  bool is_of_this_boot() const;

  // A stamp of the producer's clock, in this process's. They differ for CLOCK_MONOTONIC in another
  // time namespace, and for any clock of an earlier boot; what they have in common then is the
  // realtime clock at the anchor, so a step of that since is in the result. Never 0.
  std::uint64_t stamp_here(std::uint64_t stamp) const;
  // When the producer opened the segment, by this process's CLOCK_MONOTONIC.
  std::uint64_t opened_ns_here() const { return opened_ns_here_; }

  // Reads what is new: at most two capacities of each stream, and not much longer than until
  // `deadline_ns`, CLOCK_MONOTONIC. `writer_is_dead` only after `writer_is_alive` was false.
  // Returns true if anything was read; `error` is set once the segment contradicts itself, and
  // nothing is read from then on.
  bool poll(bool writer_is_dead, const SampleSink& sink, std::uint64_t deadline_ns = kNoDeadline);
  static constexpr std::uint64_t kNoDeadline = ~std::uint64_t{0};

  // The last poll ended before it reached what was published when it, or the first of its like,
  // began; the next one goes on towards that.
  bool is_behind() const { return is_behind_ && error_.empty(); }
  // The next poll reads up to what is published then, whatever the last one left.
  void aim_anew() { is_behind_ = false; }

  // Nothing is left to read; with a dead writer, nothing ever will be.
  bool is_drained() const;

  // Asks the kernel whether the file still has its bytes; if not, that is the error.
  void examine();
  // Whether the name still leads to the file that is read, or to none.
  bool has_its_name(int directory) const { return bytes_->has_its_name(directory, name_); }
  FileId file_id() const { return bytes_->file_id(); }

  // Shows nothing of that field from now on; samples have it all the same.
  void hide_field(std::size_t stream, std::size_t field);
  std::uint64_t hidden_fields() const { return hidden_fields_; }
  // What a newer writer says that this build does not know, in sentences without an end.
  std::vector<std::string> unknown_to_this_build() const;
  // Whether the stream's next row of labels is shown under its own texts, or as `other`, from now
  // on and for good. Rows that were not judged are hidden once one was.
  void judge_row(std::size_t stream, bool is_shown);
  // Rows that are shown as `other`.
  std::uint64_t hidden_rows() const;

  // Text of a dictionary entry, 1 and up, as it was when it was first seen; empty if it was not.
  std::string dictionary_text(std::uint64_t entry) const;

  const std::string& name() const { return name_; }
  // Of no other reader of this process: one file may be read anew.
  std::uint64_t serial() const { return serial_; }
  const bus::SegmentHeader& header() const { return header_; }
  const std::vector<StreamState>& streams() const { return streams_; }
  const std::string& error() const { return error_; }
  // Why nothing more is read, in a word for a label; empty without an error.
  const char* error_kind() const { return error_kind_; }
  std::uint64_t file_bytes() const { return bytes_->file_bytes(); }

 private:
  // Copies of records, to be used once the file is known to be whole.
  struct Batch {
    std::vector<bus::Word> payloads;
    std::vector<std::uint64_t> numbers;
    bus::SlotOutcome ended_by = bus::SlotOutcome::whole;
  };

  SegmentReader() = default;
  static std::uint64_t next_serial();
  void compare_clocks();
  std::uint64_t most_published() const;
  bool first_look_is_possible();
  void begin_streams();
  void begin(StreamState& stream, std::size_t index, bool writer_is_dead);
  void contradict(const std::string& what);
  bool file_is_whole();
  std::uint64_t load_published(std::size_t stream) const;
  bool load_targets(bool writer_is_dead);
  void learn_texts();
  bool read_stream(std::size_t index, bool writer_is_dead, const SampleSink& sink);
  bool follow(std::size_t index, bool writer_is_dead, const SampleSink& sink);
  bool catch_up(StreamState& stream, bool writer_is_dead);
  bool end_lapped(std::size_t index, bool writer_is_dead);
  void copy_batch(const StreamState& stream, std::uint64_t from, std::uint64_t count,
                  bool writer_is_dead, bool skip_others);
  void fold_batch(StreamState& stream, const SampleSink& sink);
  void look_for_abandoned(StreamState& stream);
  bool take_checkpoint(StreamState& stream, int which, std::vector<bus::Word>& body);
  void show_history(StreamState& stream, bool writer_is_dead, const SampleSink& sink);
  static void take_info(StreamState& stream, const Sample& sample);
  static void count_lost(StreamState& stream, std::uint64_t from, std::uint64_t to);
  bool lies_ahead(const StreamState& stream, std::uint64_t published, bool writer_is_dead);
  bool is_published(const StreamState& stream, std::uint64_t records);
  bool restart_from_checkpoint(StreamState& stream, std::uint64_t published);
  void verify_at(StreamState& stream, std::uint64_t records);
  bool copy_checkpoint(const StreamState& stream, int which, std::vector<bus::Word>& body) const;
  std::optional<std::uint64_t> next_checkpoint(const StreamState& stream,
                                               std::uint64_t published) const;

  std::string name_;
  std::unique_ptr<SegmentBytes> bytes_;
  bus::SegmentHeader header_{};
  std::uint64_t clock_shift_ = 0;  // From the producer's stamps to ours.
  std::uint64_t opened_ns_here_ = 0;
  std::vector<StreamState> streams_;
  std::vector<std::string> texts_;  // Of the dictionary, from entry 1; what is known stays so.
  std::uint64_t text_bytes_ = 0;    // Of them as they were stored.
  Batch batch_;
  std::size_t first_stream_ = 0;  // Where the next poll begins.
  bool is_behind_ = false;
  std::uint64_t deadline_ns_ = 0;    // Of the poll that is going on.
  std::uint64_t targets_at_ns_ = 0;  // When `published` of the streams was loaded.
  const std::uint64_t serial_ = next_serial();
  std::uint64_t hidden_fields_ = 0;
  std::string error_;
  const char* error_kind_ = "";
};

}  // namespace rankbus
