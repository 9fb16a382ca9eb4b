// bus/layout.hpp: the bytes that two processes agree on (layout 1).
//
// A segment is one file on a tmpfs, written by one producer process and read by anybody who may:
//
//   header | status | activity | schema | dictionary | stream 0 | stream 1 | ...
//   stream = checkpoint A | checkpoint B | slots
//
// Nothing outside this folder may be assumed about the mapping. All integers are little-endian; all
// offsets are bytes from the start of the file unless they say otherwise. The tables below are held
// against the compiler by tests/contract_layout.py.
//
//   LAYOUT SegmentHeader size=2048 align=8
//   offset  size  field                    writer    meaning
//        0     8  magic                    creator   kSegmentMagic; stored last of the header
//        8     4  layout_version           creator   how to read; kLayoutVersion
//       12     4  min_reader_version       creator   oldest layout whose readers can read this
//       16     4  header_bytes             creator   size of this header
//       20     4  stream_descriptor_bytes  creator   from one StreamDescriptor to the next
//       24     4  field_descriptor_bytes   creator   from one FieldDescriptor to the next
//       28     4  stream_count             creator   streams in the schema
//       32     8  segment_bytes            creator   size of the file
//       40     8  status_offset            creator   StatusLine
//       48     8  activity_offset          creator   one `published` word per stream
//       56     8  schema_offset            creator   StreamDescriptors, FieldDescriptors, texts
//       64     8  schema_bytes             creator   size of the schema
//       72     8  schema_hash              creator   FNV-1a of the schema's bytes
//       80     8  dictionary_offset        creator   count word, entry words, texts
//       88     4  dictionary_entries       creator   entries that the dictionary can hold
//       92     4  dictionary_text_bytes    creator   bytes of text that it can hold
//       96    16  incarnation              creator   random; never used twice
//      112    16  boot_id                  creator   of the kernel that the segment was made under
//      128    16  run_id                   creator   one life of a server, all its processes
//      144     8  time_namespace           creator   inode of /proc/self/ns/time, 0 if unknown
//      152     4  pid                      creator   a hint for people, never an identity
//      156     4  uid                      creator   effective user of the producer
//      160     4  clock_domain             creator   ClockDomain
//      164     4  clock_source             creator   ClockSource
//      168     8  anchor_ticks             creator   clock when opened ...
//      176     8  anchor_monotonic_ns      creator   ... CLOCK_MONOTONIC at the same moment ...
//      184     8  anchor_realtime_ns       creator   ... and CLOCK_REALTIME
//      192     8  ticks_per_second         creator   nominal; readers fit their own
//      200     4  engine                   creator   global data-parallel index
//      204     4  role                     creator   Role
//      208     4  kv_role                  creator   KvRole
//      212     4  lane                     creator   n-th live process of equal identity
//      216     4  rank                     creator   global rank, kNoRank if none
//      220     4  world_size               creator   ranks of the engine, 0 if unknown
//      224     4  local_rank               creator   rank on this node, kNoRank if none
//      228     4  local_world_size         creator   ranks on this node, 0 if unknown
//      232     8  max_model_len            creator   tokens, 0 if unknown
//      240     4  server_named             creator   1 if somebody named the server
//      244     4  axis_count               creator   used entries of axes
//      248     4  group_count              creator   used entries of groups
//      252     4  removed_segments         creator   dead segments that open removed for room
//      256   128  server                   creator   name of the deployment, NUL-padded UTF-8
//      384   128  model                    creator   model name, NUL-padded UTF-8
//      512    64  host                     creator   host or pod name, NUL-padded UTF-8
//      576    64  gpu                      creator   device of this rank, NUL-padded UTF-8
//      640   256  axes                     creator   parallel axes, ParallelAxis each
//      896   384  groups                   creator   collective groups, CollectiveGroup each
//     1280     8  pid_namespace            creator   inode of /proc/self/ns/pid, 0 if unknown
//     1288   760  header_spare             creator   zero
//   END
//
//   LAYOUT ParallelAxis size=32 align=4
//   offset  size  field       writer    meaning
//        0    24  name        creator   tp, pp, dp, ep, ... NUL-padded
//       24     4  rank        creator   index on this axis
//       28     4  size        creator   members of this axis
//   END
//
//   LAYOUT CollectiveGroup size=24 align=8
//   offset  size  field         writer    meaning
//        0     8  id            creator   the same for all members, and for nobody else in the run
//        8     4  kind          creator   GroupKind
//       12     4  size          creator   members
//       16     4  local_members creator   members on this node, 0 if unknown
//       20     4  group_spare   creator   zero
//   END
//
//   LAYOUT StatusLine size=128 align=8
//   offset  size  field         writer    meaning
//        0     8  stamp         producer  ticks; stored before `where`
//        8     8  where         producer  step 32 | group 8 | ordinal 16 | phase 8, step highest
//       16     8  closed        producer  1 once the producer closed the segment in order
//       24   104  status_spare  creator   zero
//   END
//
//   LAYOUT StreamDescriptor size=80 align=8
//   offset  size  field              writer    meaning
//        0     8  slots_offset       creator   first slot
//        8     8  checkpoint_offset  creator   checkpoint A, followed by B; 0 if samples only
//       16     4  name_offset        creator   text, from the start of the schema
//       20     4  name_bytes         creator   its length
//       24     4  help_offset        creator   text, from the start of the schema
//       28     4  help_bytes         creator   its length
//       32     4  first_field        creator   index of its first FieldDescriptor
//       36     4  field_count        creator   its fields
//       40     4  slot_format        creator   SlotFormat
//       44     4  slot_bytes         creator   from one slot to the next, sequence word included
//       48     4  capacity           creator   slots, a power of two
//       52     4  checkpoint_words   creator   words of a checkpoint's body, 0 if samples only
//       56     4  checkpoint_every   creator   records from one checkpoint to the next
//       60     4  label_rows         creator   rows of totals, row 0 is `other`; 0 without labels
//       64     4  part_offset        creator   of the 16-bit part in the payload, else kNoOffset
//       68     4  flags              creator   zero
//       72     8  stream_spare       creator   zero
//   END
//
//   LAYOUT FieldDescriptor size=104 align=4
//   offset  size  field               writer    meaning
//        0     4  name_offset         creator   text, from the start of the schema
//        4     4  name_bytes          creator   its length
//        8     4  metric_offset       creator   exposed family (label fields: label name)
//       12     4  metric_bytes        creator   its length, 0 if not exposed
//       16     4  help_offset         creator   text
//       20     4  help_bytes          creator   its length
//       24     4  fixed_label_offset  creator   name of a label that is the same for all records
//       28     4  fixed_label_bytes   creator   its length
//       32     4  fixed_value_offset  creator   value of that label
//       36     4  fixed_value_bytes   creator   its length
//       40     4  domain_offset       creator   values of an enumeration, one per line
//       44     4  domain_bytes        creator   its length
//       48     4  bounds_offset       creator   classic bounds, doubles, 8-byte aligned in the file
//       52     4  bounds_count        creator   how many
//       56     4  native_first        creator   signed; native bounds from 2^native_first
//       60     4  native_last         creator   signed; ... to 2^native_last
//       64     4  kind                creator   Kind, of schema.hpp like the next three
//       68     4  type                creator   Type
//       72     4  unit                creator   Unit
//       76     4  reduction           creator   Reduction
//       80     4  capacity            creator   1: a scalar; more: an array
//       84     4  slot_offset         creator   of the value, or first element, in the payload
//       88     4  count_offset        creator   of its 16-bit count in the payload, else kNoOffset
//       92     4  by_labels           creator   bit i: split by the stream's i-th label field
//       96     4  totals_offset       creator   words into the checkpoint's body, else kNoOffset
//      100     4  index_count         creator   of totals by index: series at first, plus 1
//   END
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/limits.hpp>
#include <rankbus/bus/memory.hpp>
#include <type_traits>

namespace rankbus::bus {

inline constexpr std::uint64_t kSegmentMagic = 0x3153'5542'4b4e'4152;  // "RANKBUS1", little-endian
inline constexpr std::uint32_t kLayoutVersion = 1;
inline constexpr std::uint32_t kNoRank = 0xffffffff;
inline constexpr std::uint32_t kNoOffset = 0xffffffff;

enum class Role : std::uint32_t { scheduler = 1, frontend = 2, worker = 3, other = 4 };
enum class KvRole : std::uint32_t { none = 0, prefill = 1, decode = 2, both = 3 };
enum class ClockDomain : std::uint32_t { real = 1, virtual_time = 2 };
enum class ClockSource : std::uint32_t { tsc = 1, monotonic = 2, caller = 3 };
enum class GroupKind : std::uint32_t { tp = 1, pp = 2, dp = 3, ep = 4, world = 5, user = 6 };
enum class SlotFormat : std::uint32_t { sequence_word = 1, tagged_words = 2 };

struct ParallelAxis {
  char name[24];
  std::uint32_t rank;
  std::uint32_t size;
};

struct CollectiveGroup {
  std::uint64_t id;
  std::uint32_t kind;
  std::uint32_t size;
  std::uint32_t local_members;
  std::uint32_t group_spare;
};

struct SegmentHeader {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t min_reader_version;
  std::uint32_t header_bytes;
  std::uint32_t stream_descriptor_bytes;
  std::uint32_t field_descriptor_bytes;
  std::uint32_t stream_count;
  std::uint64_t segment_bytes;
  std::uint64_t status_offset;
  std::uint64_t activity_offset;
  std::uint64_t schema_offset;
  std::uint64_t schema_bytes;
  std::uint64_t schema_hash;
  std::uint64_t dictionary_offset;
  std::uint32_t dictionary_entries;
  std::uint32_t dictionary_text_bytes;
  std::uint8_t incarnation[16];
  std::uint8_t boot_id[16];
  std::uint8_t run_id[16];
  std::uint64_t time_namespace;
  std::uint32_t pid;
  std::uint32_t uid;
  std::uint32_t clock_domain;
  std::uint32_t clock_source;
  std::uint64_t anchor_ticks;
  std::uint64_t anchor_monotonic_ns;
  std::uint64_t anchor_realtime_ns;
  std::uint64_t ticks_per_second;
  std::uint32_t engine;
  std::uint32_t role;
  std::uint32_t kv_role;
  std::uint32_t lane;
  std::uint32_t rank;
  std::uint32_t world_size;
  std::uint32_t local_rank;
  std::uint32_t local_world_size;
  std::uint64_t max_model_len;
  std::uint32_t server_named;
  std::uint32_t axis_count;
  std::uint32_t group_count;
  std::uint32_t removed_segments;
  char server[128];
  char model[128];
  char host[64];
  char gpu[64];
  ParallelAxis axes[kMaxAxes];
  CollectiveGroup groups[kMaxGroups];
  std::uint64_t pid_namespace;
  std::uint8_t header_spare[760];
};

struct StatusLine {
  Word stamp;
  Word where;
  Word closed;
  std::uint8_t status_spare[104];
};

struct StreamDescriptor {
  std::uint64_t slots_offset;
  std::uint64_t checkpoint_offset;
  std::uint32_t name_offset;
  std::uint32_t name_bytes;
  std::uint32_t help_offset;
  std::uint32_t help_bytes;
  std::uint32_t first_field;
  std::uint32_t field_count;
  std::uint32_t slot_format;
  std::uint32_t slot_bytes;
  std::uint32_t capacity;
  std::uint32_t checkpoint_words;
  std::uint32_t checkpoint_every;
  std::uint32_t label_rows;
  std::uint32_t part_offset;
  std::uint32_t flags;
  std::uint64_t stream_spare;
};

struct FieldDescriptor {
  std::uint32_t name_offset;
  std::uint32_t name_bytes;
  std::uint32_t metric_offset;
  std::uint32_t metric_bytes;
  std::uint32_t help_offset;
  std::uint32_t help_bytes;
  std::uint32_t fixed_label_offset;
  std::uint32_t fixed_label_bytes;
  std::uint32_t fixed_value_offset;
  std::uint32_t fixed_value_bytes;
  std::uint32_t domain_offset;
  std::uint32_t domain_bytes;
  std::uint32_t bounds_offset;
  std::uint32_t bounds_count;
  std::int32_t native_first;
  std::int32_t native_last;
  std::uint32_t kind;
  std::uint32_t type;
  std::uint32_t unit;
  std::uint32_t reduction;
  std::uint32_t capacity;
  std::uint32_t slot_offset;
  std::uint32_t count_offset;
  std::uint32_t by_labels;
  std::uint32_t totals_offset;
  std::uint32_t index_count;
};

// Room around words that the producer writes often, so that readers of one never steal the line of
// another. A literal, because it is on the wire.
inline constexpr std::uint64_t kLineBytes = 128;

// Places that follow from the header's numbers alone; the creator uses them, readers trust only
// what the header says, after checking it.
inline constexpr std::uint64_t kStatusOffset = sizeof(SegmentHeader);
inline constexpr std::uint64_t kActivityOffset = kStatusOffset + sizeof(StatusLine);
inline constexpr std::uint64_t kSchemaOffset = kActivityOffset + kMaxStreams * sizeof(Word);

// A checkpoint's body: these words, then one key per label row, then each field's totals.
inline constexpr std::uint32_t kBodyRecords = 0;       // Records folded.
inline constexpr std::uint32_t kBodyLastStamp = 1;     // Stamp of the last record that had one.
inline constexpr std::uint32_t kBodyInvalid = 2;       // NaN or infinite values, not folded.
inline constexpr std::uint32_t kBodyNegative = 3;      // Negative observations and amounts.
inline constexpr std::uint32_t kBodyRowsUsed = 4;      // Label rows in use, row 0 included.
inline constexpr std::uint32_t kBodyRowsOverflow = 5;  // Records whose labels went to `other`.
inline constexpr std::uint32_t kBodyHeadWords = 6;

#define RANKBUS_FIELD_AT(type, field, offset_bytes, size_bytes)                                 \
  static_assert(offsetof(type, field) == (offset_bytes) && sizeof(type::field) == (size_bytes), \
                #type "::" #field                                                               \
                      " moved. Running producers still use the old place: move it "             \
                      "back, or bump kLayoutVersion and teach readers both layouts")

RANKBUS_FIELD_AT(SegmentHeader, magic, 0, 8);
RANKBUS_FIELD_AT(SegmentHeader, layout_version, 8, 4);
RANKBUS_FIELD_AT(SegmentHeader, segment_bytes, 32, 8);
RANKBUS_FIELD_AT(SegmentHeader, schema_hash, 72, 8);
RANKBUS_FIELD_AT(SegmentHeader, incarnation, 96, 16);
RANKBUS_FIELD_AT(SegmentHeader, anchor_ticks, 168, 8);
RANKBUS_FIELD_AT(SegmentHeader, engine, 200, 4);
RANKBUS_FIELD_AT(SegmentHeader, server, 256, 128);
RANKBUS_FIELD_AT(SegmentHeader, axes, 640, 256);
RANKBUS_FIELD_AT(SegmentHeader, groups, 896, 384);
RANKBUS_FIELD_AT(SegmentHeader, pid_namespace, 1280, 8);
RANKBUS_FIELD_AT(StreamDescriptor, slots_offset, 0, 8);
RANKBUS_FIELD_AT(StreamDescriptor, part_offset, 64, 4);
RANKBUS_FIELD_AT(FieldDescriptor, kind, 64, 4);
RANKBUS_FIELD_AT(FieldDescriptor, totals_offset, 96, 4);
RANKBUS_FIELD_AT(StatusLine, where, 8, 8);
static_assert(sizeof(SegmentHeader) == 2048 && alignof(SegmentHeader) == 8, "layout 1");
static_assert(sizeof(StatusLine) == 128 && sizeof(ParallelAxis) == 32, "layout 1");
static_assert(sizeof(CollectiveGroup) == 24 && sizeof(StreamDescriptor) == 80, "layout 1");
static_assert(sizeof(FieldDescriptor) == 104, "layout 1");
static_assert(std::is_standard_layout<SegmentHeader>::value, "offsetof is only promised here");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the layout is little-endian");

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// FNV-1a, 64 bit.
constexpr std::uint64_t kFnvStart = 14695981039346656037ull;
inline std::uint64_t fnv1a(const void* data, std::size_t bytes,
                           std::uint64_t hash = kFnvStart) noexcept {
  const auto* next = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < bytes; ++i) hash = (hash ^ next[i]) * 1099511628211ull;
  return hash;
}

}  // namespace rankbus::bus
