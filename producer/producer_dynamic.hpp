// producer/producer_dynamic.hpp: records of types that are known only at run time.
//
// For languages whose users declare record types without a C++ compiler. The same slots, totals and
// checkpoints as Producer::record makes, at the price of loops over the declaration instead of
// constants; the totals are folded by bus::fold_payload, the readers' own fold. Still wait-free.
// Not part of producer.hpp: a worker in C++ has no use for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <rankbus/producer.hpp>

namespace rankbus {

// What a record says for one field of its type: the 64 bits of a scalar (see raw_value), or the
// elements of an array.
struct FieldInput {
  std::uint64_t raw = bus::kAbsentBits;
  Values<std::uint64_t> elements;
};

// One record on its way into a stream.
struct DynamicWriter {
  Producer& producer;
  Producer::Stream& stream;
  const FieldInput* fields;
  std::uint64_t stamp;
  bus::Word payload[bus::kMaxSlotBytes / sizeof(bus::Word)];  // Filled as far as it is used.

  DynamicWriter(Producer& owner, Producer::Stream& to, const FieldInput* values) noexcept
      : producer(owner),
        stream(to),
        fields(values),
        stamp(values[0].raw != 0 ? values[0].raw : owner.now()) {}

  static void record(Producer& producer, const bus::RecordType& type,
                     const FieldInput* fields) noexcept {
    Producer::Stream* stream = stream_of(producer, type);
    if (stream == nullptr) {
      producer.memory_.count(&producer.dropped_);
      return;
    }
    DynamicWriter writer(producer, *stream, fields);
    for (std::size_t part = 0; part <= 0xffff && writer.has_part(part); ++part) writer.write(part);
  }

  static Producer::Stream* stream_of(Producer& producer, const bus::RecordType& type) noexcept {
    if (!producer.alive()) return nullptr;
    for (std::uint32_t i = 0; i < producer.stream_count_; ++i) {
      if (producer.streams_[i].tag == type.tag) return &producer.streams_[i];
    }
    return nullptr;
  }

  // The elements of array `index` that part `part` of the record carries.
  Values<std::uint64_t> chunk_of(std::uint32_t index, std::size_t part) const noexcept {
    const Values<std::uint64_t>& all = fields[index].elements;
    const std::size_t capacity = stream.plan->fields[index].capacity;
    const std::size_t begin = part * capacity;
    if (begin >= all.size) return {};
    const std::size_t left = all.size - begin;
    return {all.data + begin, left < capacity ? left : capacity};
  }

  bool has_part(std::size_t part) const noexcept {
    if (part == 0) return true;
    for (std::uint32_t i = 0; i < stream.plan->field_count; ++i) {
      if (stream.plan->fields[i].capacity > 1 && chunk_of(i, part).size > 0) return true;
    }
    return false;
  }

  void put(std::uint32_t offset, std::uint64_t raw, std::uint32_t bytes) noexcept {
    // Little-endian, so the low bytes come first.
    std::memcpy(reinterpret_cast<unsigned char*>(payload) + offset, &raw, bytes);
  }

  // Composes one part and returns how many words precede its arrays.
  std::uint32_t compose(std::size_t part) noexcept {
    const bus::StreamPlan& plan = *stream.plan;
    std::uint32_t scalar_words = plan.payload_words;
    for (std::uint32_t i = 0; i < plan.field_count; ++i) {
      const std::uint32_t first_word = plan.fields[i].slot_offset / 8;
      if (plan.fields[i].capacity > 1 && first_word < scalar_words) scalar_words = first_word;
    }
    for (std::uint32_t i = 0; i < scalar_words; ++i) payload[i] = 0;
    if (plan.part_offset != bus::kNoOffset) put(plan.part_offset, part, 2);
    for (std::uint32_t i = 0; i < plan.field_count; ++i) {
      const bus::FieldPlan& field = plan.fields[i];
      if (field.capacity == 1) {
        put(field.slot_offset, i == 0 ? stamp : fields[i].raw, bus::type_bytes(field.type));
        continue;
      }
      const Values<std::uint64_t> chunk = chunk_of(i, part);
      put(field.count_offset, chunk.size, 2);
      if (chunk.size > 0) {
        std::memcpy(payload + field.slot_offset / 8, chunk.data, chunk.size * sizeof(bus::Word));
      }
    }
    return scalar_words;
  }

  void write(std::size_t part) noexcept {
    const bus::StreamPlan& plan = *stream.plan;
    const std::uint32_t scalar_words = compose(part);
    const bus::Word number = stream.next_record;
    bus::Word* slot = stream.slots + (number & stream.mask) * stream.slot_words;
    bus::begin_slot(producer.memory_, slot, number);
    for (std::uint32_t i = 0; i < scalar_words; ++i) {
      producer.memory_.store_field(slot + 1 + i, payload[i]);
    }
    for (std::uint32_t f = 0; f < plan.field_count; ++f) {
      if (plan.fields[f].capacity == 1) continue;
      const std::uint32_t first = plan.fields[f].slot_offset / 8;
      const std::size_t size = chunk_of(f, part).size;
      for (std::size_t i = first; i < first + size; ++i) {
        producer.memory_.store_field(slot + 1 + i, payload[i]);
      }
    }
    bus::finish_slot(producer.memory_, slot, number, stream.published);
    stream.next_record = number + 1;
    if (stream.body == nullptr) return;
    bus::fold_payload(plan, payload, stream.body);
    producer.end_record(stream, slot);
  }
};

// Writes one record of a type that `producer` was opened with, or one of a built-in type, whose
// derived fields it leaves alone. `fields` has one element for each field of the type; a first
// stamp of 0 becomes now.
inline void record_dynamic(Producer& producer, const bus::RecordType& type,
                           const FieldInput* fields) noexcept {
  DynamicWriter::record(producer, type, fields);
}

}  // namespace rankbus
