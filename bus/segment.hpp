// bus/segment.hpp: planning a segment from record types, and bringing it to life.
//
// A segment is made without a name, locked, backed by real pages, filled, and only then linked into
// the bus directory. Whoever sees a name therefore sees a whole segment, and a process killed in
// between leaves nothing behind. A name is never used twice and linking never replaces.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <rankbus/bus/clock.hpp>
#include <rankbus/bus/declaration.hpp>
#include <rankbus/bus/directory.hpp>
#include <rankbus/bus/layout.hpp>
#include <rankbus/bus/schema.hpp>
#include <rankbus/bus/totals.hpp>

namespace rankbus::bus {

// One declared record type, as data.
struct RecordType {
  const char* name = "";
  const char* help = "";
  const FieldSpec* fields = nullptr;
  std::uint32_t field_count = 0;
  std::uint32_t weight = 1;   // Share of the segment's slots, against the other streams.
  const void* tag = nullptr;  // Tells C++ types apart inside one process.
};

// Where the fields of a record lie in its payload. The same rule at compile time, for the
// producer's stores, and at run time, for the schema: scalars packed in declared order at their
// natural alignment; then, if there are arrays, the part number and the counts; then the arrays.
struct PayloadLayout {
  std::uint32_t offset[kMaxFieldsPerStream] = {};
  std::uint32_t count_offset[kMaxFieldsPerStream] = {};
  std::uint32_t part_offset = kNoOffset;
  std::uint32_t scalar_words = 0;  // Scalars, part number and counts.
  std::uint32_t words = 0;
};

constexpr PayloadLayout lay_out_payload(const FieldSpec* fields, std::uint32_t count) {
  PayloadLayout layout;
  std::uint32_t next = 0;
  bool arrays = false;
  for (std::uint32_t i = 0; i < count; ++i) {
    layout.count_offset[i] = kNoOffset;
    if (fields[i].capacity > 1) {
      arrays = true;
      continue;
    }
    const std::uint32_t bytes = type_bytes(fields[i].type);
    next = (next + bytes - 1) / bytes * bytes;
    layout.offset[i] = next;
    next += bytes;
  }
  if (arrays) {
    next = (next + 1) / 2 * 2;
    layout.part_offset = next;
    next += 2;
    for (std::uint32_t i = 0; i < count; ++i) {
      if (fields[i].capacity <= 1) continue;
      layout.count_offset[i] = next;
      next += 2;
    }
  }
  next = (next + 7) / 8 * 8;
  layout.scalar_words = next / 8;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (fields[i].capacity <= 1) continue;
    layout.offset[i] = next;
    next += fields[i].capacity * 8u;  // Arrays hold 8-byte elements.
  }
  layout.words = next / 8;
  return layout;
}

// Small slots fill an even part of a cache line, larger ones whole lines.
constexpr std::uint32_t slot_bytes_for(std::uint32_t payload_words) {
  const std::uint32_t bytes = (payload_words + 1) * 8;
  return bytes <= 32 ? 32 : bytes <= 64 ? 64 : (bytes + 63) / 64 * 64;
}

struct StreamPlacement {
  std::uint64_t checkpoint_offset = 0;
  std::uint64_t slots_offset = 0;
  std::uint32_t slot_bytes = 0;
  std::uint32_t capacity = 0;
};

struct SegmentPlan {
  const RecordType* types[kMaxStreams] = {};
  StreamPlan* streams[kMaxStreams] = {};
  StreamPlacement placement[kMaxStreams];
  std::uint32_t stream_count = 0;
  std::uint32_t dictionary_entries = 0;
  std::uint32_t dictionary_text_bytes = 0;
  std::uint64_t max_model_len = 0;
  std::uint32_t num_speculative_tokens = 0;
  std::uint64_t dictionary_offset = 0;
  std::uint64_t segment_bytes = 0;
};

// Private memory that a producer keeps for its whole life: plans, cell tables, totals.
class Arena {
 public:
  bool reserve(std::size_t bytes) noexcept {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    base_ = static_cast<unsigned char*>(memory);
    size_ = bytes;
    return true;
  }
  void release() noexcept {
    if (base_ != nullptr) munmap(base_, size_);
    base_ = nullptr;
    used_ = size_ = 0;
  }
  // Zeroed, on a cache line of its own; null when the arena is full.
  void* take(std::size_t bytes) noexcept {
    const std::size_t start = (used_ + 63) / 64 * 64;
    if (base_ == nullptr || bytes > size_ || start > size_ - bytes) return nullptr;
    used_ = start + bytes;
    return base_ + start;
  }
  template <class T>
  T* take_array(std::size_t count) noexcept {
    return static_cast<T*>(take(count * sizeof(T)));
  }

 private:
  unsigned char* base_ = nullptr;
  std::size_t size_ = 0;
  std::size_t used_ = 0;
};

// The classic bounds of a field in the exposed unit; `scratch` has room for 64.
inline Bounds resolved_bounds(const FieldSpec& field, std::uint64_t max_model_len,
                              double* scratch) noexcept {
  Bounds bounds = field.bounds;
  if (!bounds.model_length) return bounds;
  const std::uint64_t length = max_model_len != 0 ? max_model_len : 131072;
  bounds.values = scratch;
  bounds.count = one_two_five(length, scratch);
  bounds.native_first = 0;
  bounds.native_last = 0;
  while (bounds.native_last < 60 && (std::uint64_t{1} << bounds.native_last) < length) {
    ++bounds.native_last;
  }
  return bounds;
}

inline bool same_bounds(const FieldSpec& a, const FieldSpec& b) noexcept {
  return a.bounds.values == b.bounds.values && a.bounds.count == b.bounds.count &&
         a.bounds.model_length == b.bounds.model_length &&
         a.bounds.native_first == b.bounds.native_first &&
         a.bounds.native_last == b.bounds.native_last &&
         (a.unit == Unit::nanoseconds) == (b.unit == Unit::nanoseconds);
}

// The cell table of a field, shared with the fields before it that have the same bounds.
inline const CellTable* table_for(const SegmentPlan& plan, std::uint32_t stream,
                                  std::uint32_t field, Arena& arena) noexcept {
  const FieldSpec& wanted = plan.types[stream]->fields[field];
  for (std::uint32_t s = 0; s <= stream; ++s) {
    const std::uint32_t fields = s == stream ? field : plan.types[s]->field_count;
    for (std::uint32_t f = 0; f < fields; ++f) {
      if (plan.types[s]->fields[f].kind == Kind::distribution &&
          same_bounds(plan.types[s]->fields[f], wanted)) {
        return plan.streams[s]->fields[f].table;
      }
    }
  }
  double scratch[64];
  const Bounds bounds = resolved_bounds(wanted, plan.max_model_len, scratch);
  auto* table = arena.take_array<CellTable>(1);
  if (table == nullptr || !build_cell_table(*table, bounds.values, bounds.count,
                                            bounds.native_first, bounds.native_last, wanted.unit)) {
    return nullptr;
  }
  return table;
}

// Checks one declared type and fills its stream plan.
inline bool plan_stream(SegmentPlan& plan, std::uint32_t stream, Arena& arena,
                        Reason& why) noexcept {
  const RecordType& type = *plan.types[stream];
  if (!judge_declaration(type.name, type.help, type.fields, type.field_count, why)) return false;
  auto* out = arena.take_array<StreamPlan>(1);
  if (out == nullptr) {
    why.set("no memory for the plan of record type %s", type.name);
    return false;
  }
  *out = StreamPlan{};
  plan.streams[stream] = out;
  const PayloadLayout layout = lay_out_payload(type.fields, type.field_count);
  out->field_count = type.field_count;
  out->part_offset = layout.part_offset;
  out->payload_words = layout.words;
  for (std::uint32_t i = 0; i < type.field_count; ++i) {
    const FieldSpec& spec = type.fields[i];
    FieldPlan& field = out->fields[i];
    field.kind = spec.kind;
    field.type = spec.type;
    field.capacity = spec.capacity;
    field.slot_offset = layout.offset[i];
    field.count_offset = layout.count_offset[i];
    if (spec.kind == Kind::label) {
      if (out->label_count == kMaxLabelFieldsPerStream) {
        why.set("record type %s: more than %u label fields", type.name, kMaxLabelFieldsPerStream);
        return false;
      }
      out->label_fields[out->label_count++] = i;
      out->label_rows = kMaxLabelRows / 8;
    }
    field.indexed = spec.indexed;
    if (spec.kind == Kind::distribution) {
      field.table = table_for(plan, stream, i, arena);
      if (field.table == nullptr) {
        why.set(
            "record type %s, field %s: bounds must be positive, ascending, and make at most %u "
            "cells",
            type.name, spec.name, kMaxCellsPerField);
        return false;
      }
    }
  }
  for (std::uint32_t i = 0; i < type.field_count; ++i) {
    for (std::uint32_t label = 0; label < out->label_count; ++label) {
      if (names_word(type.fields[i].by, type.fields[out->label_fields[label]].name))
        out->fields[i].by_labels |= 1u << label;
    }
  }
  lay_out_totals(*out);
  if (slot_bytes_for(layout.words) > kMaxSlotBytes) {
    why.set("record type %s: %u bytes a slot, at most %u", type.name, slot_bytes_for(layout.words),
            kMaxSlotBytes);
    return false;
  }
  return true;
}

// Chooses capacities for at most `target_bytes`, none below the minimum, and places every part.
// Each stream gets its share rounded down to a power of two; what the rounding left goes to whoever
// can double within it.
inline void place_streams(SegmentPlan& plan, std::uint64_t schema_bytes,
                          std::uint64_t target_bytes) noexcept {
  std::uint64_t fixed = align_up(kSchemaOffset + schema_bytes, kLineBytes);
  plan.dictionary_offset = fixed;
  fixed += sizeof(Word) * (1 + plan.dictionary_entries) + align_up(plan.dictionary_text_bytes, 8);
  std::uint64_t next = fixed;
  std::uint32_t weights = 0;
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    fixed +=
        2 * align_up((1 + plan.streams[s]->body_words) * sizeof(Word), kLineBytes) + kLineBytes;
    weights += plan.types[s]->weight;
  }
  const std::uint64_t room = target_bytes > fixed ? target_bytes - fixed : 0;
  std::uint64_t taken = 0;
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    StreamPlacement& place = plan.placement[s];
    place.slot_bytes = slot_bytes_for(plan.streams[s]->payload_words);
    const std::uint64_t share = room * plan.types[s]->weight / weights;
    place.capacity = kMinCapacity;
    while (place.capacity < kMaxCapacity && 2ull * place.capacity * place.slot_bytes <= share) {
      place.capacity *= 2;
    }
    taken += std::uint64_t{place.capacity} * place.slot_bytes;
  }
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    StreamPlacement& place = plan.placement[s];
    const std::uint64_t more = std::uint64_t{place.capacity} * place.slot_bytes;
    if (taken + more <= room && place.capacity < kMaxCapacity) {
      place.capacity *= 2;
      taken += more;
    }
  }
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    StreamPlacement& place = plan.placement[s];
    place.checkpoint_offset = 0;
    next = align_up(next, kLineBytes);
    if (plan.streams[s]->body_words > 0) {
      place.checkpoint_offset = next;
      next += 2 * align_up((1 + plan.streams[s]->body_words) * sizeof(Word), kLineBytes);
    }
    place.slots_offset = next;
    next += std::uint64_t{place.capacity} * place.slot_bytes;
  }
  plan.segment_bytes = align_up(next, 4096);
}

inline bool is_smallest(const SegmentPlan& plan) noexcept {
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    if (plan.placement[s].capacity > kMinCapacity) return false;
  }
  return true;
}

// Writes a schema into a buffer; with a null buffer it only measures.
class SchemaWriter {
 public:
  SchemaWriter(unsigned char* buffer, std::size_t size) : buffer_(buffer), size_(size) {}
  void skip_to(std::uint64_t offset) noexcept { next_ = offset; }
  std::uint64_t next() const noexcept { return next_; }
  bool fits() const noexcept { return next_ <= size_; }

  void put_at(std::uint64_t offset, const void* data, std::size_t bytes) noexcept {
    if (buffer_ != nullptr && offset + bytes <= size_ && bytes > 0) {
      std::memcpy(buffer_ + offset, data, bytes);
    }
  }
  void text(const char* value, std::uint32_t& offset, std::uint32_t& bytes) noexcept {
    bytes = static_cast<std::uint32_t>(std::strlen(value));
    offset = static_cast<std::uint32_t>(next_);
    put_at(next_, value, bytes);
    next_ += bytes;
  }
  void doubles(const double* values, std::uint32_t count, std::uint32_t& offset) noexcept {
    next_ = align_up(next_, sizeof(double));
    offset = static_cast<std::uint32_t>(next_);
    put_at(next_, values, count * sizeof(double));
    next_ += count * sizeof(double);
  }

 private:
  unsigned char* buffer_;
  std::size_t size_;
  std::uint64_t next_ = 0;
};

inline FieldDescriptor describe_field(const SegmentPlan& plan, std::uint32_t stream,
                                      std::uint32_t index, SchemaWriter& out) noexcept {
  const FieldSpec& spec = plan.types[stream]->fields[index];
  const FieldPlan& field = plan.streams[stream]->fields[index];
  FieldDescriptor descriptor{};
  out.text(spec.name, descriptor.name_offset, descriptor.name_bytes);
  out.text(spec.metric, descriptor.metric_offset, descriptor.metric_bytes);
  out.text(spec.help, descriptor.help_offset, descriptor.help_bytes);
  out.text(spec.fixed_label, descriptor.fixed_label_offset, descriptor.fixed_label_bytes);
  out.text(spec.fixed_value, descriptor.fixed_value_offset, descriptor.fixed_value_bytes);
  out.text(spec.domain, descriptor.domain_offset, descriptor.domain_bytes);
  if (spec.kind == Kind::distribution) {
    double scratch[64];
    const Bounds bounds = resolved_bounds(spec, plan.max_model_len, scratch);
    out.doubles(bounds.values, bounds.count, descriptor.bounds_offset);
    descriptor.bounds_count = bounds.count;
    descriptor.native_first = bounds.native_first;
    descriptor.native_last = bounds.native_last;
  }
  descriptor.kind = static_cast<std::uint32_t>(spec.kind);
  descriptor.type = static_cast<std::uint32_t>(spec.type);
  descriptor.unit = static_cast<std::uint32_t>(spec.unit);
  descriptor.reduction = static_cast<std::uint32_t>(spec.reduction);
  descriptor.capacity = spec.capacity;
  descriptor.slot_offset = field.slot_offset;
  descriptor.count_offset = field.count_offset;
  descriptor.by_labels = field.by_labels;
  if (spec.indexed) {
    descriptor.index_count = spec.capacity;
    if (spec.by_speculative_token && plan.num_speculative_tokens < spec.capacity)
      descriptor.index_count = plan.num_speculative_tokens;
    descriptor.index_count += 1;
  }
  descriptor.totals_offset = field.totals_offset;
  return descriptor;
}

// Encodes the whole schema: all stream descriptors, all field descriptors, then texts and bounds.
// Returns its size; with a null buffer it only measures.
inline std::uint64_t encode_schema(const SegmentPlan& plan, unsigned char* buffer,
                                   std::size_t size) noexcept {
  SchemaWriter out(buffer, size);
  std::uint32_t fields = 0;
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) fields += plan.types[s]->field_count;
  const std::uint64_t fields_at = plan.stream_count * sizeof(StreamDescriptor);
  out.skip_to(fields_at + fields * sizeof(FieldDescriptor));
  std::uint32_t first = 0;
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    const StreamPlan& stream = *plan.streams[s];
    const StreamPlacement& place = plan.placement[s];
    StreamDescriptor descriptor{};
    descriptor.slots_offset = place.slots_offset;
    descriptor.checkpoint_offset = place.checkpoint_offset;
    out.text(plan.types[s]->name, descriptor.name_offset, descriptor.name_bytes);
    out.text(plan.types[s]->help, descriptor.help_offset, descriptor.help_bytes);
    descriptor.first_field = first;
    descriptor.field_count = stream.field_count;
    descriptor.slot_format = static_cast<std::uint32_t>(SlotFormat::sequence_word);
    descriptor.slot_bytes = place.slot_bytes;
    descriptor.capacity = place.capacity;
    descriptor.checkpoint_words = stream.body_words;
    descriptor.checkpoint_every = place.capacity / 4;
    descriptor.label_rows = stream.label_rows;
    descriptor.part_offset = stream.part_offset;
    for (std::uint32_t f = 0; f < stream.field_count; ++f) {
      const FieldDescriptor field = describe_field(plan, s, f, out);
      out.put_at(fields_at + (first + f) * sizeof(FieldDescriptor), &field, sizeof field);
    }
    out.put_at(s * sizeof(StreamDescriptor), &descriptor, sizeof descriptor);
    first += stream.field_count;
  }
  return align_up(out.next(), 8);
}

// A file that nobody can find yet. Without a name it disappears with its last user; where the
// kernel cannot do that, or there is no /proc to name it by later, it gets a dot-name that no
// reader opens.
struct UnlinkedFile {
  int fd = -1;
  char dot_name[NAME_MAX + 1] = {};  // Empty when the file has no name at all.
};

inline UnlinkedFile make_unlinked_file(int directory, const char* path, const char* name,
                                       mode_t mode, Reason& why) noexcept {
  UnlinkedFile file;
  if (access("/proc/thread-self/fd", X_OK) == 0) {
    file.fd = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    if (file.fd >= 0) return file;
  }
  if (errno != EROFS && errno != EACCES) {
    snprintf(file.dot_name, sizeof file.dot_name, ".%.200s", name);
    file.fd =
        openat(directory, file.dot_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
  }
  if (file.fd < 0) {
    why.set("%s: a segment cannot be made: %s. Check the directory's mode, owner and mount options",
            path, strerror(errno));
  }
  return file;
}

// Backs the file with real pages now, because a page that cannot be had later is a SIGBUS in the
// worker.
inline bool allocate_pages(int fd, const char* path, int directory, std::uint64_t bytes,
                           Reason& why) noexcept {
  const std::uint64_t free = free_bytes(directory);
  if (free < bytes) {
    why.set(
        "%s: %llu KiB free, a segment needs %llu KiB. Enlarge the file system or set a smaller "
        "RANKBUS_BUDGET",
        path, static_cast<unsigned long long>(free / 1024),
        static_cast<unsigned long long>(bytes / 1024));
    return false;
  }
  const std::uint64_t headroom = memory_limit_headroom_bytes();
  if (headroom < bytes + bytes / 4) {
    why.set(
        "the memory limit of this process's control group leaves %llu KiB, a segment needs %llu "
        "KiB",
        static_cast<unsigned long long>(headroom / 1024),
        static_cast<unsigned long long>(bytes / 1024));
    return false;
  }
  // Going over it would not fail but raise SIGXFSZ, which ends the worker.
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      limit.rlim_cur < bytes) {
    why.set("the file size limit of this process (ulimit -f) is %llu KiB, a segment needs %llu KiB",
            static_cast<unsigned long long>(limit.rlim_cur / 1024),
            static_cast<unsigned long long>(bytes / 1024));
    return false;
  }
  const int error = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  if (error != 0) {
    why.set("%s: %llu KiB for a segment cannot be allocated: %s", path,
            static_cast<unsigned long long>(bytes / 1024), strerror(error));
    return false;
  }
  return true;
}

// Maps the file for writing and touches every page, so that no record ever waits for one.
inline unsigned char* map_for_writing(int fd, std::uint64_t bytes, Reason& why) noexcept {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    why.set("a segment of %llu bytes cannot be mapped: %s", static_cast<unsigned long long>(bytes),
            strerror(errno));
    return nullptr;
  }
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, Linux 5.14.
  if (madvise(memory, bytes, kPopulateWrite) != 0) {
    auto* page = static_cast<volatile unsigned char*>(memory);
    for (std::uint64_t at = 0; at < bytes; at += 4096) page[at] = 0;
  }
  // A child must not keep the segment alive, nor write it.
  if (madvise(memory, bytes, MADV_DONTFORK) != 0) {
    why.set("the kernel cannot keep a mapping from children (MADV_DONTFORK): %s", strerror(errno));
    munmap(memory, bytes);
    return nullptr;
  }
  return static_cast<unsigned char*>(memory);
}

// Gives the finished file its name; never replaces another.
inline bool link_segment(const UnlinkedFile& file, int directory, const char* path,
                         const char* name, Reason& why) noexcept {
  if (file.dot_name[0] != '\0') {
    constexpr unsigned kNoReplace = 1;  // RENAME_NOREPLACE
    if (syscall(SYS_renameat2, directory, file.dot_name, directory, name, kNoReplace) == 0)
      return true;
  } else {
    // The thread's own table: a process whose first thread has ended has none under its number.
    char self[64];
    snprintf(self, sizeof self, "/proc/thread-self/fd/%d", file.fd);
    if (linkat(AT_FDCWD, self, directory, name, AT_SYMLINK_FOLLOW) == 0) return true;
  }
  why.set("%s: the segment cannot get its name %s: %s", path, name, strerror(errno));
  if (file.dot_name[0] != '\0') unlinkat(directory, file.dot_name, 0);
  return false;
}

inline const char* role_name(std::uint32_t role) noexcept {
  switch (static_cast<Role>(role)) {
    case Role::scheduler:
      return "scheduler";
    case Role::frontend:
      return "frontend";
    case Role::worker:
      return "worker";
    case Role::other:
      break;
  }
  return "other";
}

inline void write_hex(const std::uint8_t* bytes, std::size_t count, char* out) noexcept {
  constexpr char kDigits[] = "0123456789abcdef";
  for (std::size_t i = 0; i < count; ++i) {
    out[2 * i] = kDigits[bytes[i] >> 4];
    out[2 * i + 1] = kDigits[bytes[i] & 15];
  }
  out[2 * count] = '\0';
}

// "worker-0-3", before the dot and the incarnation.
inline void segment_name_prefix(const SegmentHeader& header, char (&out)[64]) noexcept {
  if (header.rank == kNoRank) {
    snprintf(out, sizeof out, "%s-%u-none", role_name(header.role), header.engine);
  } else {
    snprintf(out, sizeof out, "%s-%u-%u", role_name(header.role), header.engine, header.rank);
  }
}

// Whether two processes would write the same series: all that series are labelled by, but the lane.
// An unnamed server is known by its run.
inline bool same_identity(const SegmentHeader& a, const SegmentHeader& b) noexcept {
  if (a.server_named != b.server_named || a.engine != b.engine || a.role != b.role ||
      a.rank != b.rank) {
    return false;
  }
  const bool same_server = a.server_named != 0
                               ? std::memcmp(a.server, b.server, sizeof a.server) == 0
                               : std::memcmp(a.run_id, b.run_id, sizeof a.run_id) == 0;
  return same_server && std::memcmp(a.model, b.model, sizeof a.model) == 0;
}

// The lowest lane that no live process of equal identity has.
inline std::uint32_t choose_lane(int directory, const SegmentHeader& mine) noexcept {
  bool taken[256] = {};
  char prefix[64];
  segment_name_prefix(mine, prefix);
  const std::size_t length = std::strlen(prefix);
  for_each_segment_name(directory, [&](const char* name) {
    if (std::strncmp(name, prefix, length) != 0 || name[length] != '.') return;
    const int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    SegmentHeader other{};
    if (pread(fd, &other, sizeof other, 0) == static_cast<ssize_t>(sizeof other) &&
        other.magic == kSegmentMagic && other.lane < 256 && same_identity(other, mine) &&
        write_lock_is_held(fd)) {
      taken[other.lane] = true;
    }
    close(fd);
  });
  std::uint32_t lane = 0;
  while (lane < 255 && taken[lane]) ++lane;
  return lane;
}

// Whether this process may remove a file from the directory. In a sticky one, a group's, everybody
// removes only what is theirs, and what is another's must not stand in the way of it.
inline bool may_remove(const struct stat& directory, const struct stat& file) noexcept {
  return (directory.st_mode & S_ISVTX) == 0 || geteuid() == 0 || directory.st_uid == geteuid() ||
         file.st_uid == geteuid();
}

// Removes the oldest segment whose writer is dead, and returns how many are lost with it: itself
// and those that its own opener had removed, which only its header told; 0 if there is none that
// may be removed. Only for a bus without an owner: with one, the dead are the owner's to read and
// to remove.
inline std::uint32_t remove_oldest_dead_segment(int directory) noexcept {
  struct stat parent {};
  if (fstat(directory, &parent) != 0) return 0;
  char oldest[NAME_MAX + 1] = {};
  timespec oldest_time{};
  std::uint32_t lost = 0;
  for_each_segment_name(directory, [&](const char* name) {
    struct stat status {};
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode))
      return;
    if (!may_remove(parent, status)) return;
    const timespec made = status.st_ctim;
    const bool older = oldest[0] == '\0' || made.tv_sec < oldest_time.tv_sec ||
                       (made.tv_sec == oldest_time.tv_sec && made.tv_nsec < oldest_time.tv_nsec);
    if (!older) return;
    const int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    SegmentHeader header{};
    const bool is_segment = pread(fd, &header, sizeof header, 0) == sizeof header &&
                            header.magic == kSegmentMagic && header.removed_segments < 1u << 30;
    const bool dead = !write_lock_is_held(fd);
    close(fd);
    if (!dead) return;
    snprintf(oldest, sizeof oldest, "%s", name);
    oldest_time = made;
    lost = 1 + (is_segment ? header.removed_segments : 0);
  });
  return oldest[0] != '\0' && unlinkat(directory, oldest, 0) == 0 ? lost : 0;
}

// Holds off other openers while lane and budget are decided, for a bounded time: a stopped process
// must not stop others from starting. Without the lock two openers may share a lane or overdraw the
// budget by one segment, which readers cope with.
class OpenersLock {
 public:
  explicit OpenersLock(int directory, mode_t mode) noexcept {
    fd_ = open_shared_file(directory, kOpenFile, mode);
    // The first opener's mask must not keep the rest of its group out; for the others this fails.
    if (fd_ >= 0 && fchmod(fd_, mode) != 0) errno = 0;
    for (int i = 0; fd_ >= 0 && i < 250 && !take_write_lock(fd_); ++i) {
      const timespec two_ms{0, 2'000'000};
      nanosleep(&two_ms, nullptr);
    }
  }
  ~OpenersLock() {
    if (fd_ >= 0) close(fd_);
  }
  OpenersLock(const OpenersLock&) = delete;
  OpenersLock& operator=(const OpenersLock&) = delete;

 private:
  int fd_ = -1;
};

// Makes room for `bytes` more within the budget: first by a smaller plan, then, while nobody owns
// the bus, by removing dead segments. Leaves the plan and the encoded schema size to the caller.
inline bool fit_budget(SegmentPlan& plan, std::uint64_t schema_bytes, std::uint64_t target_bytes,
                       int directory, const char* path, std::uint32_t& removed,
                       Reason& why) noexcept {
  const std::uint64_t budget = budget_bytes(directory);
  std::uint64_t used = used_bytes(directory);
  const auto fits = [&] {
    const std::uint64_t free = free_bytes(directory);
    return plan.segment_bytes <= budget && used <= budget - plan.segment_bytes &&
           plan.segment_bytes <= free && plan.segment_bytes <= kMaxSegmentBytes;
  };
  // Whoever comes first does not take it all: in a container's 64 MiB, twelve processes of the
  // default size would leave nothing for the last ones.
  const std::uint64_t left = used < budget ? budget - used : 0;
  if (target_bytes > left / 8) target_bytes = left / 8;
  place_streams(plan, schema_bytes, target_bytes);
  while (!fits() && !is_smallest(plan)) {
    target_bytes /= 2;
    place_streams(plan, schema_bytes, target_bytes);
  }
  // What does not fit into an empty bus is not worth anybody's unread totals.
  while (!fits() && plan.segment_bytes <= budget && !owner_is_present(directory)) {
    const std::uint32_t lost = remove_oldest_dead_segment(directory);
    if (lost == 0) break;
    removed += lost;
    used = used_bytes(directory);
  }
  if (fits()) return true;
  why.set(
      "%s: segments use %llu KiB of a budget of %llu KiB (RANKBUS_BUDGET), %llu KiB are free, the "
      "smallest segment needs %llu KiB. Stop unused workers, start an aggregator, free space "
      "there, "
      "or raise the budget",
      path, static_cast<unsigned long long>(used / 1024),
      static_cast<unsigned long long>(budget / 1024),
      static_cast<unsigned long long>(free_bytes(directory) / 1024),
      static_cast<unsigned long long>(plan.segment_bytes / 1024));
  return false;
}

// Fills a fresh mapping: header, schema, first checkpoints. Magic last.
inline void fill_segment(unsigned char* base, const SegmentPlan& plan, SegmentHeader header,
                         std::uint64_t schema_bytes) noexcept {
  header.magic = 0;
  header.layout_version = kLayoutVersion;
  header.min_reader_version = kLayoutVersion;
  header.header_bytes = sizeof(SegmentHeader);
  header.stream_descriptor_bytes = sizeof(StreamDescriptor);
  header.field_descriptor_bytes = sizeof(FieldDescriptor);
  header.stream_count = plan.stream_count;
  header.segment_bytes = plan.segment_bytes;
  header.status_offset = kStatusOffset;
  header.activity_offset = kActivityOffset;
  header.schema_offset = kSchemaOffset;
  header.schema_bytes = schema_bytes;
  header.dictionary_offset = plan.dictionary_offset;
  header.dictionary_entries = plan.dictionary_entries;
  header.dictionary_text_bytes = plan.dictionary_text_bytes;
  encode_schema(plan, base + kSchemaOffset, schema_bytes);
  header.schema_hash = fnv1a(base + kSchemaOffset, schema_bytes);
  std::memcpy(base, &header, sizeof header);
  ProcessMemory memory;
  reinterpret_cast<SegmentHeader*>(base)->magic = kSegmentMagic;
  for (std::uint32_t s = 0; s < plan.stream_count; ++s) {
    if (plan.placement[s].checkpoint_offset == 0) continue;
    auto* checkpoint = reinterpret_cast<Word*>(base + plan.placement[s].checkpoint_offset);
    clear_totals(*plan.streams[s], checkpoint + 1);
    memory.store_whole(checkpoint, 2);
  }
}

struct CreatedSegment {
  unsigned char* base = nullptr;
  std::uint64_t bytes = 0;
  char name[128] = {};
};

// Brings the planned segment to life in the directory. On failure nothing is left behind and `why`
// says what happened.
inline bool create_segment(SegmentPlan& plan, SegmentHeader& header, std::uint64_t target_bytes,
                           int directory, const char* path, CreatedSegment& created,
                           Reason& why) noexcept {
  struct stat status {};
  const bool group = fstat(directory, &status) == 0 && is_group_directory(status);
  const OpenersLock lock(directory, group ? 0660 : 0600);
  header.lane = choose_lane(directory, header);
  const std::uint64_t schema_bytes = encode_schema(plan, nullptr, 0);
  if (schema_bytes > kMaxSchemaBytes) {
    why.set("the record types need a schema of %llu bytes, at most %u",
            static_cast<unsigned long long>(schema_bytes), kMaxSchemaBytes);
    return false;
  }
  if (!fit_budget(plan, schema_bytes, target_bytes, directory, path, header.removed_segments,
                  why)) {
    return false;
  }
  char prefix[64];
  char incarnation[33];
  segment_name_prefix(header, prefix);
  write_hex(header.incarnation, sizeof header.incarnation, incarnation);
  snprintf(created.name, sizeof created.name, "%s.%s", prefix, incarnation);
  const mode_t mode = group ? 0640 : 0600;
  const UnlinkedFile file = make_unlinked_file(directory, path, created.name, mode, why);
  if (file.fd < 0) return false;
  // The mask of the process must not decide who can read the bus.
  bool ok = fchmod(file.fd, mode) == 0;
  if (ok && !take_write_lock(file.fd)) {
    why.set("%s: the kernel grants no open file description lock: %s", path, strerror(errno));
    ok = false;
  }
  ok = ok && allocate_pages(file.fd, path, directory, plan.segment_bytes, why);
  created.base = ok ? map_for_writing(file.fd, plan.segment_bytes, why) : nullptr;
  created.bytes = plan.segment_bytes;
  if (created.base != nullptr) {
    fill_segment(created.base, plan, header, schema_bytes);
    if (!link_segment(file, directory, path, created.name, why)) {
      munmap(created.base, created.bytes);
      created.base = nullptr;
    }
  } else if (file.dot_name[0] != '\0') {
    unlinkat(directory, file.dot_name, 0);
  }
  // The mapping keeps the description, and with it the lock, as long as the address space lives.
  close(file.fd);
  return created.base != nullptr;
}

}  // namespace rankbus::bus
