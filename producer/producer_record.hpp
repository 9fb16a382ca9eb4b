// producer/producer_record.hpp: what happens between a worker's call of `record` and its return.
//
// One load tells whether this process may write. The fields go into the slot as 64-bit words
// composed in registers, the slot is finished and published, and the same values are folded into
// the private totals. Every K records the totals are copied into the older checkpoint. The compiler
// sees kinds, types and offsets as constants; only places that depend on the model's buckets are
// loads.
#pragma once

#include <rankbus/producer/producer.hpp>

namespace rankbus {

// Record types without fields that follow from others need no derive function.
template <class T>
auto derive_if_declared(T& record, int) noexcept -> decltype(derive(record)) {
  derive(record);
}
template <class T>
void derive_if_declared(T&, long) noexcept {}

// Composes the scalar words of a payload. Sub-word fields are shifted into place, because storing
// them one by one and loading the word would stall.
template <class T>
struct ScalarEncoder {
  using Record = typename T::RankbusRecord;
  static constexpr bus::PayloadLayout kLayout =
      bus::lay_out_payload(Record::kFields, Record::kFieldCount);
  static constexpr std::uint32_t kWords = kLayout.scalar_words;

  bus::Word words[kWords] = {};

  template <unsigned I, class V>
  void scalar(V value) noexcept {
    constexpr std::uint32_t kOffset = kLayout.offset[I];
    words[kOffset / 8] |= raw_value(value) << (kOffset % 8 * 8);
  }
  template <unsigned I, class V>
  void array(const Values<V>&) noexcept {}

  void small_at(std::uint32_t offset, std::uint64_t value) noexcept {
    words[offset / 8] |= value << (offset % 8 * 8);
  }
};

// Folds scalars of a record into the private totals; arrays are folded chunk by chunk.
template <class T>
struct Folder {
  using Record = typename T::RankbusRecord;
  const bus::StreamPlan& plan;
  bus::Word* body;
  std::uint32_t row;
  bool first_part;

  template <unsigned I, class V>
  void scalar(V value) noexcept {
    constexpr bus::FieldSpec kSpec = Record::kFields[I];
    if constexpr (bus::totals_row_words(kSpec.kind, 0) > 0) {
      if (!first_part) return;
      const bus::FieldPlan& field = plan.fields[I];
      bus::Word* total = body + field.totals_offset;
      if constexpr (kSpec.by[0] != '\0') total += row * field.row_words;
      if constexpr (kSpec.kind == bus::Kind::counter) {
        bus::fold_counter(body, total, kSpec.type, raw_value(value));
      } else if constexpr (kSpec.kind == bus::Kind::distribution) {
        bus::fold_observation(body, total, *field.table, kSpec.type, raw_value(value));
      } else {
        bus::fold_newest(body, total, kSpec.type, raw_value(value));
      }
    } else if constexpr (kSpec.kind == bus::Kind::stamp && I == 0) {
      if (value != 0) body[bus::kBodyLastStamp] = value;
    }
  }
  template <unsigned I, class V>
  void array(const Values<V>& chunk) noexcept {
    constexpr bus::FieldSpec kSpec = Record::kFields[I];
    const bus::FieldPlan& field = plan.fields[I];
    if constexpr (bus::totals_row_words(kSpec.kind, 0) > 0) {
      bus::Word* total = body + field.totals_offset;
      if constexpr (kSpec.by[0] != '\0') total += row * field.row_words;
      for (std::size_t i = 0; i < chunk.size; ++i) {
        bus::fold_value(body,
                        total + bus::index_words(field, static_cast<std::uint32_t>(i), !first_part),
                        field, raw_value(chunk.data[i]));
      }
    }
  }
};

// The key of a record's label row.
template <class T>
struct LabelKey {
  using Record = typename T::RankbusRecord;
  std::uint64_t key = 0;

  static constexpr std::uint32_t position(unsigned index) {
    std::uint32_t labels_before = 0;
    for (unsigned i = 0; i < index; ++i) {
      if (Record::kFields[i].kind == bus::Kind::label) ++labels_before;
    }
    return labels_before;
  }
  template <unsigned I, class V>
  void scalar(V value) noexcept {
    if constexpr (Record::kFields[I].kind == bus::Kind::label) {
      key = bus::add_label(key, position(I), raw_value(value));
    }
  }
  template <unsigned I, class V>
  void array(const Values<V>&) noexcept {}
};

template <class T>
constexpr bool has_arrays() {
  return ScalarEncoder<T>::kLayout.part_offset != bus::kNoOffset;
}
template <class T, class Holds>
constexpr bool any_field(Holds holds) {
  // NOLINTNEXTLINE(readability-use-anyofallof): constexpr in C++20 only.
  for (const bus::FieldSpec& field : T::RankbusRecord::kFields) {
    if (holds(field)) return true;
  }
  return false;
}
template <class T>
constexpr bool has_labels() {
  return any_field<T>([](const bus::FieldSpec& field) { return field.kind == bus::Kind::label; });
}
template <class T>
constexpr bool has_totals() {
  return any_field<T>(
      [](const bus::FieldSpec& field) { return bus::totals_row_words(field.kind, 0) > 0; });
}

template <class T>
std::uint32_t row_for(const bus::StreamPlan& plan, bus::Word* body, const T& record) noexcept {
  if constexpr (has_labels<T>()) {
    LabelKey<T> labels;
    T::RankbusRecord::visit(record, labels);
    return bus::label_row(plan, body, labels.key);
  } else {
    (void)plan;
    (void)body;
    (void)record;
    return 0;
  }
}

// Fills the stamp, which is the first row whatever its name.
struct StampFiller {
  const Producer& producer;

  template <unsigned I, class V>
  void scalar(V& value) noexcept {
    if constexpr (I == 0) {
      if (value == 0) value = producer.now();
    }
  }
  template <unsigned I, class V>
  void array(const Values<V>&) noexcept {}
};

template <class T>
Producer::Stream* Producer::stream_of() noexcept {
  const void* tag = record_type<T>()->tag;
  for (std::uint32_t i = 0; i < stream_count_; ++i) {
    if (streams_[i].tag == tag) return &streams_[i];
  }
  return nullptr;
}

template <class T>
void Producer::record(const T& given) noexcept {
  static_assert(T::RankbusRecord::kFields[0].kind == bus::Kind::stamp,
                "the first field of a record is its stamp");
  Stream* stream = alive() ? stream_of<T>() : nullptr;
  if (__builtin_expect(stream == nullptr, 0)) {
    memory_.count(&dropped_);
    return;
  }
  T record = given;
  derive_if_declared(record, 0);
  StampFiller filler{*this};
  T::RankbusRecord::visit(record, filler);
  if constexpr (has_arrays<T>()) {
    write_parts(*stream, record);
  } else {
    write_record(*stream, record);
  }
}

template <class T>
void Producer::write_record(Stream& stream, const T& record) noexcept {
  ScalarEncoder<T> encoder;
  T::RankbusRecord::visit(record, encoder);
  const bus::Word number = stream.next_record;
  bus::Word* slot = stream.slots + (number & stream.mask) * stream.slot_words;
  bus::begin_slot(memory_, slot, number);
  for (std::uint32_t i = 0; i < encoder.kWords; ++i) {
    memory_.store_field(slot + 1 + i, encoder.words[i]);
  }
  bus::finish_slot(memory_, slot, number, stream.published);
  stream.next_record = number + 1;
  if constexpr (has_totals<T>()) {
    ++stream.body[bus::kBodyRecords];
    Folder<T> folder{*stream.plan, stream.body, row_for(*stream.plan, stream.body, record), true};
    T::RankbusRecord::visit(record, folder);
    end_record(stream, slot);
  }
}

// Takes the next chunk of every array, writes it into the slot and folds it.
template <class T>
struct PartCutter {
  using Record = typename T::RankbusRecord;
  static constexpr bus::PayloadLayout kLayout = ScalarEncoder<T>::kLayout;
  std::size_t done[Record::kFieldCount] = {};
  std::size_t taken[Record::kFieldCount] = {};
  bool more = false;
  ScalarEncoder<T>* encoder = nullptr;

  template <unsigned I, class V>
  void scalar(V) noexcept {}
  template <unsigned I, class V>
  void array(const Values<V>& values) noexcept {
    constexpr std::size_t kCapacity = Record::kFields[I].capacity;
    const std::size_t left = values.size - done[I];
    taken[I] = left < kCapacity ? left : kCapacity;
    if (left > kCapacity) more = true;
    encoder->small_at(kLayout.count_offset[I], taken[I]);
  }
};

template <class T>
struct ArrayWriter {
  const bus::ProcessMemory& memory;
  bus::Word* payload;
  const PartCutter<T>& cut;

  template <unsigned I, class V>
  void scalar(V) noexcept {}
  template <unsigned I, class V>
  void array(const Values<V>& values) noexcept {
    bus::Word* out = payload + ScalarEncoder<T>::kLayout.offset[I] / 8;
    const V* from = values.data + cut.done[I];
    for (std::size_t i = 0; i < cut.taken[I]; ++i) memory.store_field(out + i, raw_value(from[i]));
  }
};

template <class T>
struct PartFolder {
  Folder<T> folder;
  const PartCutter<T>& cut;

  template <unsigned I, class V>
  void scalar(V value) noexcept {
    folder.template scalar<I>(value);
  }
  template <unsigned I, class V>
  void array(const Values<V>& values) noexcept {
    folder.template array<I>(Values<V>{values.data + cut.done[I], cut.taken[I]});
  }
};

// A record with arrays is one or more slots with consecutive numbers; each says which part it is,
// and the scalars count with part 0 only.
template <class T>
void Producer::write_parts(Stream& stream, const T& record) noexcept {
  using Record = typename T::RankbusRecord;
  PartCutter<T> cut;
  for (std::uint32_t part = 0; part == 0 || (cut.more && part <= 0xffff); ++part) {
    ScalarEncoder<T> encoder;
    cut.encoder = &encoder;
    cut.more = false;
    Record::visit(record, encoder);
    Record::visit(record, cut);
    encoder.small_at(ScalarEncoder<T>::kLayout.part_offset, part);

    const bus::Word number = stream.next_record;
    bus::Word* slot = stream.slots + (number & stream.mask) * stream.slot_words;
    bus::begin_slot(memory_, slot, number);
    for (std::uint32_t i = 0; i < encoder.kWords; ++i) {
      memory_.store_field(slot + 1 + i, encoder.words[i]);
    }
    ArrayWriter<T> writer{memory_, slot + 1, cut};
    Record::visit(record, writer);
    bus::finish_slot(memory_, slot, number, stream.published);
    stream.next_record = number + 1;
    if constexpr (has_totals<T>()) {
      ++stream.body[bus::kBodyRecords];
      PartFolder<T> folder{Folder<T>{*stream.plan, stream.body,
                                     row_for(*stream.plan, stream.body, record), part == 0},
                           cut};
      Record::visit(record, folder);
      end_record(stream, slot);
    }
    for (std::uint32_t i = 0; i < Record::kFieldCount; ++i) {
      cut.done[i] += cut.taken[i];
      cut.taken[i] = 0;
    }
  }
}

inline void Producer::end_record(Stream& stream, bus::Word*) noexcept {
  const bus::Word records = stream.next_record;
  // A second of silence would otherwise leave the newest checkpoint as old as the ring.
  // Signed, because callers may give stamps out of order.
  const auto since =
      static_cast<std::int64_t>(stream.body[bus::kBodyLastStamp] - stream.checkpoint_stamp);
  const bool late = clock_source_ != bus::ClockSource::caller &&
                    since > static_cast<std::int64_t>(ticks_per_second_);
  if (__builtin_expect(records >= stream.checkpoint_at || late, 0)) checkpoint(stream);
}

inline void Producer::checkpoint(Stream& stream) noexcept {
  bus::write_checkpoint(memory_, stream.checkpoints[stream.older], stream.body,
                        stream.plan->body_words);
  stream.older ^= 1;
  stream.checkpoint_at = stream.next_record + stream.checkpoint_every;
  stream.checkpoint_stamp = stream.body[bus::kBodyLastStamp];
}

}  // namespace rankbus
