// rankbus/producer.hpp: the only header that a worker includes. C++17 and later, g++ and clang++,
// with or without exceptions; nothing to link.
//
//   auto worker = rankbus::Producer::open({.model = "llama-3-70b", .engine = 0,
//                                          .role = rankbus::Role::worker, .axes = {{"tp", 3, 8}}});
//   worker.record(rankbus::WorkerStep{.step = 7, .forward_ns = 41'000'000});
//
// In C++17, name the members: `rankbus::OpenOptions options; options.model = "llama-3-70b"; ...`.
//
// `open` never harms the caller: it always returns a producer, which is inert if it must be, and
// then says why. `record` is wait-free: no lock, no syscall, no allocation, no exception, no signal
// handler. Each stream (each record type of one Producer) has one writing thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/slot.hpp>
#include <rankbus/producer/records.hpp>
#include <type_traits>
#include <utility>

namespace rankbus {

using bus::ClockDomain;
using bus::KvRole;
using bus::Role;

// A parallel axis as this process sees it, for example {"tp", 3, 8}.
struct Axis {
  const char* name = "";
  std::uint32_t rank = 0;
  std::uint32_t size = 0;
};

// Every text may be left empty; what the environment or the machine knows is then filled in.
struct OpenOptions {
  const char* bus =
      "";  // Directory; else RANKBUS_BUS, else /run/rankbus, else /dev/shm/rankbus-$UID.
  const char* server =
      "";  // Name of the deployment; else RANKBUS_SERVER, else POD_NAME, else unnamed.
  const char* run_id = "";   // One life of a server; else RANKBUS_RUN_ID, else made and put there.
  const char* model = "";    // Served model name.
  std::uint32_t engine = 0;  // Global data-parallel index.
  Role role = Role::other;
  KvRole kv_role = KvRole::none;
  Axis axes[bus::kMaxAxes] = {};
  std::uint32_t rank = bus::kNoRank;  // Global rank; else, for a worker, from the tp and pp axes.
  std::uint32_t world_size = 0;       // Ranks of the engine; else product of the tp and pp sizes.
  std::uint32_t local_rank = bus::kNoRank;   // Rank on this node; else `rank`.
  std::uint32_t local_world_size = 0;        // Ranks of the engine on this node; else `world_size`.
  std::uint64_t max_model_len = 0;           // Tokens; decides the buckets of token counts.
  std::uint32_t num_speculative_tokens = 0;  // Draft positions that have series from the start.
  const char* gpu = "";                      // Device of this rank, as people know it.
  ClockDomain clock =
      ClockDomain::real;             // virtual_time: the caller gives every stamp, in nanoseconds.
  std::uint64_t clock_start_ns = 0;  // On the virtual clock: where it stands at open.
  std::uint64_t segment_bytes = 0;   // Else 2 MiB for a worker, 512 KiB for others.
  // Record types besides those of the role, from record_type<T>().
  const bus::RecordType* records[48] = {};
};

class Producer {
 public:
  Producer() noexcept = default;
  Producer(Producer&& other) noexcept { swap(other); }
  Producer& operator=(Producer&& other) noexcept {
    if (this != &other) {
      close();
      swap(other);
    }
    return *this;
  }
  Producer(const Producer&) = delete;
  Producer& operator=(const Producer&) = delete;
  ~Producer() { close(); }

  // Never fails: look at `inert()` and `reason()`. Says once on stderr why a producer is inert,
  // unless RANKBUS_QUIET=1. Takes milliseconds and system calls; call it before the work begins.
  static Producer open(const OpenOptions& options) noexcept;

  // Writes one record; fields that `derive` knows are filled in, a stamp of 0 becomes now. About 10
  // to 80 ns, by type (tests/bench). Without a bus, or in a forked child, only a count goes up.
  template <class T>
  void record(const T& given) noexcept;

  // Where this process is, for readers that ask which rank is stuck: two stores.
  void status(std::uint32_t step, std::uint8_t group, std::uint16_t ordinal,
              std::uint8_t phase) noexcept {
    if (!alive()) return;
    memory_.store_status(&status_->stamp, now());
    memory_.store_status(&status_->where, std::uint64_t{step} << 32 | std::uint64_t{group} << 24 |
                                              std::uint64_t{ordinal} << 8 | phase);
  }

  // The number of a run-time label's text in this segment's dictionary; 0, `other`, when the
  // dictionary is full or there is none. Not for the hot path: compares texts.
  std::uint16_t intern(const char* text) noexcept;

  // Ticks of the segment's clock; on the virtual clock, 0.
  std::uint64_t now() const noexcept { return bus::read_ticks(clock_source_); }
  std::uint64_t ticks_per_second() const noexcept { return ticks_per_second_; }

  // Nothing is written: there is no usable bus, `close` was called, or this is a forked child.
  bool inert() const noexcept { return !alive(); }
  // Why it is inert, or empty.
  const char* reason() const noexcept {
    if (alive()) return "";
    return segment_ != nullptr
               ? "this process was forked from the one that opened the producer; open "
                 "another one here"
               : reason_.text;
  }
  std::uint64_t dropped_records() const noexcept { return memory_.load_own(&dropped_); }
  // File name of the segment, or empty.
  const char* segment_name() const noexcept { return alive() ? segment_name_ : ""; }
  std::uint32_t lane() const noexcept { return lane_; }

  // Last checkpoints, then the segment's end. Without it, a dead process ends it as exactly.
  void close() noexcept;

  friend struct DynamicWriter;  // Record types known only at run time, producer_dynamic.hpp.

 private:
  // Everything that one stream's writer touches, on lines of its own.
  struct alignas(64) Stream {
    const void* tag;
    bus::Word* slots;
    bus::Word mask;
    bus::Word slot_words;
    bus::Word next_record;
    bus::Word checkpoint_at;  // The record count of the next checkpoint.
    bus::Word checkpoint_every;
    bus::Word checkpoint_stamp;  // Stamp of the latest checkpoint.
    bus::Word* published;
    bus::Word* body;  // Private totals; null: samples only.
    bus::Word* checkpoints[2];
    std::uint32_t older;  // Which checkpoint is overwritten next.
    const bus::StreamPlan* plan;
  };

  bool alive() const noexcept { return __builtin_expect(*alive_ != 0, 1); }
  template <class T>
  Stream* stream_of() noexcept;
  template <class T>
  void write_record(Stream& stream, const T& record) noexcept;
  template <class T>
  void write_parts(Stream& stream, const T& record) noexcept;
  void end_record(Stream& stream, bus::Word* slot) noexcept;
  void checkpoint(Stream& stream) noexcept;
  bool start(const OpenOptions& options) noexcept;
  bool choose_types(const OpenOptions& options, bus::SegmentPlan& plan) noexcept;
  bool watch_forks() noexcept;
  void attach_streams(const bus::SegmentPlan& plan) noexcept;
  void swap(Producer& other) noexcept;

  // A word that the kernel clears in a forked child; of an inert producer, one that is always 0.
  static const bus::Word* never_alive() noexcept {
    static const bus::Word zero = 0;
    return &zero;
  }

  bus::ProcessMemory memory_;
  const volatile bus::Word* alive_ = never_alive();
  Stream* streams_ = nullptr;
  std::uint32_t stream_count_ = 0;
  std::uint32_t lane_ = 0;
  bus::ClockSource clock_source_ = bus::ClockSource::monotonic;
  std::uint64_t ticks_per_second_ = 1'000'000'000;
  std::uint64_t dropped_ = 0;
  bus::StatusLine* status_ = nullptr;
  unsigned char* segment_ = nullptr;
  std::uint64_t segment_bytes_ = 0;
  void* fork_page_ = nullptr;
  bus::Word* dictionary_ = nullptr;
  std::uint32_t dictionary_entries_ = 0;
  std::uint32_t dictionary_text_bytes_ = 0;
  std::uint32_t dictionary_text_used_ = 0;
  bus::Arena arena_;
  char segment_name_[128] = {};
  bus::Reason reason_;
};

}  // namespace rankbus

// Opening and closing: everything that may call the kernel. Recording: nothing that may.
#include <rankbus/producer/producer_open.hpp>
#include <rankbus/producer/producer_record.hpp>

// What takes more than one record.
#include <rankbus/producer/kv_blocks.hpp>
