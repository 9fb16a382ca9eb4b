// tests/fuzz/segment_case.hpp: a hostile segment as a list of changes to a sound one.
//
//   case = base 1 | flags 1 | passes 1 | fresh 1 | change 16, any number
//
// A few dozen bytes thus say what a file of hundreds of kilobytes says, mutations stay small, and
// every change names a part of the layout instead of an offset that means something else in the
// next version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <rankbus/bus/layout.hpp>
#include <vector>

namespace fuzz {

enum CaseFlag : std::uint8_t {
  kMapped = 1,         // Read behind the guard; else by copies.
  kObserve = 2,        // Read without owning the bus.
  kAlive = 4,          // Somebody holds the segment's lock ...
  kDies = 8,           // ... but for the last pass.
  kHashIsWrong = 16,   // The schema's hash is left as it is.
  kStartsLate = 32,    // The base as its writer left it; else as of the middle of its life.
  kOtherDialect = 64,  // SGLang's names.
};

enum class Part : std::uint8_t {
  header,
  stream,
  field,
  schema,     // Any bytes of it: names, helps, domains, bounds.
  published,  // A word of `activity`.
  status,
  checkpoint,
  slot,
  dictionary,
  anywhere,
  // What is done to the file, or to much of it at once.
  cut,
  hole,
  grown,
  progress,        // Everything as of the end of the base's life.
  moved,           // A page becomes a copy of another one.
  records,         // The writer goes on: whole records with a value of our choice, then published.
  new_checkpoint,  // ... and says that its totals are these.
  count
};

enum class How : std::uint8_t { set, add, flip, count };

struct Change {
  std::uint8_t part = 0;
  std::uint8_t when = 0;  // 3 bits: before, after the first, second or third pass, or 4: all the
                          // time. 2 bits: How.
  std::uint16_t where = 0;
  std::uint32_t index = 0;
  std::uint64_t value = 0;

  Part what() const { return static_cast<Part>(part % static_cast<unsigned>(Part::count)); }
  unsigned moment() const { return when & 7; }
  bool is_live() const { return moment() >= 4; }
  How how() const { return static_cast<How>((when >> 3) % static_cast<unsigned>(How::count)); }
};
static_assert(sizeof(Change) == 16);

struct Case {
  static constexpr std::size_t kHeadBytes = 4;
  static constexpr std::size_t kMostChanges = 48;

  std::uint8_t base = 0, flags = 0, passes = 0, fresh = 0;
  std::vector<Change> changes;

  bool has(CaseFlag flag) const { return (flags & flag) != 0; }
  unsigned pass_count() const { return 1 + passes % 4; }
  // Only one case in four is rendered, which takes longer than all the rest.
  bool is_shown() const { return passes / 4 % 4 == 0; }

  static Case parse(const std::uint8_t* data, std::size_t bytes) {
    Case parsed;
    std::uint8_t head[kHeadBytes] = {};
    std::memcpy(head, data, bytes < kHeadBytes ? bytes : kHeadBytes);
    parsed.base = head[0];
    parsed.flags = head[1];
    parsed.passes = head[2];
    parsed.fresh = head[3];
    for (std::size_t at = kHeadBytes;
         at + sizeof(Change) <= bytes && parsed.changes.size() < kMostChanges;
         at += sizeof(Change)) {
      std::memcpy(&parsed.changes.emplace_back(), data + at, sizeof(Change));
    }
    return parsed;
  }
  std::size_t write(std::uint8_t* data, std::size_t room) const {
    const std::uint8_t head[kHeadBytes] = {base, flags, passes, fresh};
    if (room < kHeadBytes) return 0;
    std::memcpy(data, head, kHeadBytes);
    std::size_t bytes = kHeadBytes;
    for (const Change& change : changes) {
      if (bytes + sizeof change > room) break;
      std::memcpy(data + bytes, &change, sizeof change);
      bytes += sizeof change;
    }
    return bytes;
  }
};

// Where the parts of a sound segment lie; changes go by these places whatever they have become.
class SegmentMap {
 public:
  struct Place {
    std::uint64_t offset = 0;
    unsigned width = 8;
  };

  explicit SegmentMap(const std::vector<unsigned char>& bytes) : bytes_(bytes.size()) {
    std::memcpy(&header_, bytes.data(), sizeof header_);
    streams_.resize(header_.stream_count);
    std::memcpy(streams_.data(), bytes.data() + header_.schema_offset,
                streams_.size() * sizeof(rankbus::bus::StreamDescriptor));
  }

  const rankbus::bus::SegmentHeader& header() const { return header_; }
  const rankbus::bus::StreamDescriptor& stream(std::uint64_t index) const {
    return streams_[index % streams_.size()];
  }
  std::size_t stream_count() const { return streams_.size(); }
  std::uint64_t bytes() const { return bytes_; }

  std::uint64_t published_offset(std::uint64_t stream_index) const {
    return header_.activity_offset + 8 * (stream_index % streams_.size());
  }
  std::uint64_t slot_offset(std::uint64_t stream_index, std::uint64_t record) const {
    const auto& of = stream(stream_index);
    return of.slots_offset + record % of.capacity * of.slot_bytes;
  }
  std::uint64_t checkpoint_offset(std::uint64_t stream_index, unsigned which) const {
    const auto& of = stream(stream_index);
    return of.checkpoint_offset +
           which * rankbus::bus::align_up(8 * (1 + std::uint64_t{of.checkpoint_words}),
                                          rankbus::bus::kLineBytes);
  }

  Place place_of(const Change& change) const {
    switch (change.what()) {
      case Part::header:
        return header_place(change.index);
      case Part::stream:
        return stream_place(change.where % streams_.size(), change.index);
      case Part::field: {
        const std::uint64_t number =
            stream(change.where).first_field + change.index / 26 % stream(change.where).field_count;
        return {header_.schema_offset + streams_.size() * sizeof(rankbus::bus::StreamDescriptor) +
                    number * sizeof(rankbus::bus::FieldDescriptor) + 4 * (change.index % 26),
                4};
      }
      case Part::schema:
        return {header_.schema_offset + change.index % header_.schema_bytes, 1 + change.where % 8u};
      case Part::published:
        return {published_offset(change.where), 8};
      case Part::status:
        return {header_.status_offset + 8 * (change.index % 3), 8};
      case Part::checkpoint:
        return {checkpoint_offset(change.where / 2, change.where % 2) +
                    8 * (change.index % (1 + stream(change.where / 2).checkpoint_words)),
                8};
      case Part::slot:
        return {stream(change.where).slots_offset +
                    8 * (change.index % (std::uint64_t{stream(change.where).capacity} *
                                         stream(change.where).slot_bytes / 8)),
                8};
      case Part::dictionary:
        // Mostly the count and the first entries, which are the used ones.
        return {
            header_.dictionary_offset +
                8 * (change.where % 4 != 0 ? change.index % 8
                                           : change.index % (1 + header_.dictionary_entries +
                                                             header_.dictionary_text_bytes / 8u)),
            8};
      default:
        return {change.index % bytes_, 8};
    }
  }

 private:
  static Place header_place(std::uint32_t index) {
    // Words of 4 bytes from the layout's version on, of 8 where the layout has such.
    constexpr Place kPlaces[] = {
        {0, 8},   {8, 4},   {12, 4},  {16, 4},  {20, 4},  {24, 4},  {28, 4},  {32, 8},  {40, 8},
        {48, 8},  {56, 8},  {64, 8},  {72, 8},  {80, 8},  {88, 4},  {92, 4},  {96, 8},  {112, 8},
        {128, 8}, {144, 8}, {152, 4}, {156, 4}, {160, 4}, {164, 4}, {168, 8}, {176, 8}, {184, 8},
        {192, 8}, {200, 4}, {204, 4}, {208, 4}, {212, 4}, {216, 4}, {220, 4}, {224, 4}, {228, 4},
        {232, 8}, {240, 4}, {244, 4}, {248, 4}, {252, 4}};
    constexpr std::uint32_t kNumbers = sizeof kPlaces / sizeof kPlaces[0];
    index %= kNumbers + (rankbus::bus::kSchemaOffset - 256) / 8;
    if (index < kNumbers) return kPlaces[index];
    return {256 + 8 * std::uint64_t{index - kNumbers}, 8};  // Texts, axes and groups.
  }
  Place stream_place(std::uint64_t stream_index, std::uint32_t index) const {
    const std::uint64_t begin =
        header_.schema_offset + stream_index * sizeof(rankbus::bus::StreamDescriptor);
    index %= 17;
    if (index < 2) return {begin + 8 * index, 8};
    return {begin + 16 + 4 * (index - 2), 4};
  }

  rankbus::bus::SegmentHeader header_{};
  std::vector<rankbus::bus::StreamDescriptor> streams_;
  std::uint64_t bytes_;
};

}  // namespace fuzz
