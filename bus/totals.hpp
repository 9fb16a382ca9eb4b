// bus/totals.hpp: how a record's values become totals, written once for the producer and its
// readers.
//
// The producer folds each record into totals of its own, in private memory; a reader that follows
// the slots folds the same values by the same functions in the same order, so that at every
// checkpoint both hold the same words, bit for bit. Integers add modulo 2^64; doubles are added one
// by one in record order, and what would make a sum infinite is invalid, because nothing leads back
// from there. Nothing here depends on the compiler's floating-point options.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/cells.hpp>
#include <rankbus/bus/layout.hpp>
#include <rankbus/bus/schema.hpp>

namespace rankbus::bus {

// Where a field's values lie in a payload and its totals in a body; filled from a schema.
struct FieldPlan {
  Kind kind = Kind::id;
  Type type = Type::u64;
  std::uint16_t capacity = 1;
  std::uint32_t slot_offset = 0;            // Bytes from the start of the payload.
  std::uint32_t count_offset = kNoOffset;   // Arrays: bytes to the 16-bit count.
  std::uint32_t totals_offset = kNoOffset;  // Words from the start of the body.
  std::uint32_t row_words = 0;              // Words of totals per label row.
  std::uint32_t by_labels = 0;              // Bit i: the stream's i-th label field splits it.
  bool indexed = false;  // An array with a total for each index, and one for those beyond.
  const CellTable* table = nullptr;  // Distributions.
};

struct StreamPlan {
  FieldPlan fields[kMaxFieldsPerStream];
  std::uint32_t field_count = 0;
  std::uint32_t label_fields[kMaxLabelFieldsPerStream] = {};
  std::uint32_t label_count = 0;
  std::uint32_t label_rows = 0;
  std::uint32_t part_offset = kNoOffset;
  std::uint32_t payload_words = 0;
  std::uint32_t body_words = 0;  // 0: samples only.
};

constexpr std::uint32_t totals_row_words(Kind kind, std::uint32_t cells) {
  return kind == Kind::distribution                                                    ? 1 + cells
         : kind == Kind::counter || kind == Kind::running_total || kind == Kind::gauge ? 1
                                                                                       : 0;
}

// Lays the totals of a plan's fields out in a body; needs kind, by_field and table of each field.
inline void lay_out_totals(StreamPlan& plan) noexcept {
  std::uint32_t next = kBodyHeadWords + plan.label_rows;
  bool any = false;
  for (std::uint32_t i = 0; i < plan.field_count; ++i) {
    FieldPlan& field = plan.fields[i];
    field.row_words =
        field.indexed
            ? field.capacity + 1u
            : totals_row_words(field.kind, field.table != nullptr ? field.table->cell_count() : 0);
    field.totals_offset = kNoOffset;
    if (field.row_words == 0) continue;
    any = true;
    field.totals_offset = next;
    next += field.row_words * (field.by_labels != 0 ? plan.label_rows : 1);
  }
  plan.body_words = any ? next : 0;
}

// The totals of a stream before its first record: zeros, and no gauge.
inline void clear_totals(const StreamPlan& plan, Word* body) noexcept {
  for (std::uint32_t i = 0; i < plan.body_words; ++i) body[i] = 0;
  if (plan.label_rows > 0) body[kBodyRowsUsed] = 1;  // Row 0 is `other`.
  for (std::uint32_t i = 0; i < plan.field_count; ++i) {
    const FieldPlan& field = plan.fields[i];
    if (field.kind != Kind::gauge) continue;
    const std::uint32_t rows = field.by_labels != 0 ? plan.label_rows : 1;
    for (std::uint32_t row = 0; row < rows; ++row) body[field.totals_offset + row] = kAbsentBits;
  }
}

// A value as 64 bits: unsigned integers extended by zeros, i64 and f64 as they are.
constexpr bool is_absent(Type type, std::uint64_t raw) {
  return type == Type::u8    ? raw == 0xff
         : type == Type::u16 ? raw == 0xffff
         : type == Type::u32 ? raw == 0xffffffff
                             : raw == kAbsentBits;
}

// sum + value, which no compiler option may reorder: replay must give the same bits.
inline std::uint64_t add_double_bits(std::uint64_t sum_bits, std::uint64_t value_bits) noexcept {
  double sum = double_of(sum_bits) + double_of(value_bits);
#if defined(__FAST_MATH__)
  asm volatile("" : "+m"(sum));
#endif
  return bits_of(sum);
}

inline void fold_counter(Word* body, Word* total, Type type, std::uint64_t raw) noexcept {
  if (is_absent(type, raw)) return;
  if (type != Type::f64) {
    if (type == Type::i64 && static_cast<std::int64_t>(raw) < 0) {
      ++body[kBodyNegative];  // A counter never goes back.
      return;
    }
    *total += raw;
    return;
  }
  if (is_nan_or_infinite(raw)) {
    ++body[kBodyInvalid];
  } else if (static_cast<std::int64_t>(raw) < 0 && raw << 1 != 0) {
    ++body[kBodyNegative];
  } else if (raw >= 0x0010000000000000ull) {
    const std::uint64_t sum = add_double_bits(*total, raw);
    if (is_nan_or_infinite(sum)) {
      ++body[kBodyInvalid];
    } else {
      *total = sum;
    }
  }
}

inline void fold_newest(Word* body, Word* total, Type type, std::uint64_t raw) noexcept {
  if (is_absent(type, raw)) return;
  if (type == Type::f64 && is_nan_or_infinite(raw)) {
    ++body[kBodyInvalid];
    return;
  }
  *total = raw;
}

// `total` points to the sum; the cells follow it.
inline void fold_observation(Word* body, Word* total, const CellTable& table, Type type,
                             std::uint64_t raw) noexcept {
  if (is_absent(type, raw)) return;
  if (type == Type::f64) {
    if (is_nan_or_infinite(raw)) {
      ++body[kBodyInvalid];
      return;
    }
    const std::uint32_t cell = table.cell_of(double_of(raw));
    // Cell 0 holds what is not positive: it adds nothing to the sum, and a negative one is counted.
    if (cell == 0) {
      if (static_cast<std::int64_t>(raw) < 0 && raw << 1 != 0) ++body[kBodyNegative];
    } else {
      const std::uint64_t sum = add_double_bits(total[0], raw);
      if (is_nan_or_infinite(sum)) {
        ++body[kBodyInvalid];
        return;
      }
      total[0] = sum;
    }
    ++total[1 + cell];
    return;
  }
  if (type == Type::i64 && static_cast<std::int64_t>(raw) < 0) {
    ++body[kBodyNegative];
    ++total[1];
    return;
  }
  total[0] += raw;
  ++total[1 + table.cell_of(static_cast<double>(raw))];
}

inline void fold_value(Word* body, Word* total, const FieldPlan& field,
                       std::uint64_t raw) noexcept {
  switch (field.kind) {
    case Kind::counter:
      fold_counter(body, total, field.type, raw);
      return;
    case Kind::running_total:
    case Kind::gauge:
      fold_newest(body, total, field.type, raw);
      return;
    case Kind::distribution:
      fold_observation(body, total, *field.table, field.type, raw);
      return;
    case Kind::id:
    case Kind::stamp:
    case Kind::label:
    case Kind::info:
      return;
  }
}

// The row of a tuple of label values, in order of first appearance, so that a reader that follows
// the slots numbers the rows as the writer did. Row 0, `other`, takes what has no row left.
inline std::uint32_t label_row(const StreamPlan& plan, Word* body, std::uint64_t key) noexcept {
  const auto used = static_cast<std::uint32_t>(body[kBodyRowsUsed]);
  const Word* keys = body + kBodyHeadWords;
  for (std::uint32_t row = 1; row < used; ++row) {
    if (keys[row] == key) return row;
  }
  if (key == 0) return 0;
  if (used >= plan.label_rows) {
    ++body[kBodyRowsOverflow];
    return 0;
  }
  body[kBodyHeadWords + used] = key;
  ++body[kBodyRowsUsed];
  return used;
}

// Label values packed into a key: 16 bits each, first label field lowest.
constexpr std::uint64_t add_label(std::uint64_t key, std::uint32_t position, std::uint64_t value) {
  return key | (value & 0xffff) << (16 * position);
}

inline std::uint64_t raw_of(const unsigned char* payload, std::uint32_t offset,
                            Type type) noexcept {
  std::uint64_t raw = 0;
  __builtin_memcpy(&raw, payload + offset, type_bytes(type));
  return raw;
}

// Where element `k` of an array adds up. What continues an indexed array lies beyond its capacity,
// and goes to the last total, `other`.
constexpr std::uint32_t index_words(const FieldPlan& field, std::uint32_t k, bool continues) {
  return !field.indexed ? 0 : continues ? field.capacity : k;
}

// Folds one copied payload into a body. `plan` was checked against the payload's size; array counts
// above the capacity, which only a damaged writer stores, are cut.
inline void fold_payload(const StreamPlan& plan, const Word* payload_words, Word* body) noexcept {
  const auto* payload = reinterpret_cast<const unsigned char*>(payload_words);
  ++body[kBodyRecords];
  std::uint32_t row = 0;
  if (plan.label_count > 0) {
    std::uint64_t key = 0;
    for (std::uint32_t i = 0; i < plan.label_count; ++i) {
      const FieldPlan& field = plan.fields[plan.label_fields[i]];
      key = add_label(key, i, raw_of(payload, field.slot_offset, field.type));
    }
    row = label_row(plan, body, key);
  }
  // A part that continues an array repeats the scalars for people who look at samples; they were
  // folded with part 0.
  const bool continues =
      plan.part_offset != kNoOffset && (raw_of(payload, plan.part_offset, Type::u16)) != 0;
  for (std::uint32_t i = 0; i < plan.field_count; ++i) {
    const FieldPlan& field = plan.fields[i];
    if (field.kind == Kind::stamp && i == 0) {
      const std::uint64_t stamp = raw_of(payload, field.slot_offset, field.type);
      if (stamp != 0) body[kBodyLastStamp] = stamp;
      continue;
    }
    if (field.row_words == 0) continue;
    Word* total = body + field.totals_offset + (field.by_labels != 0 ? row : 0) * field.row_words;
    if (field.capacity == 1) {
      if (!continues)
        fold_value(body, total, field, raw_of(payload, field.slot_offset, field.type));
      continue;
    }
    std::uint64_t count = raw_of(payload, field.count_offset, Type::u16);
    if (count > field.capacity) count = field.capacity;
    for (std::uint64_t k = 0; k < count; ++k) {
      fold_value(body, total + index_words(field, static_cast<std::uint32_t>(k), continues), field,
                 raw_of(payload,
                        field.slot_offset + static_cast<std::uint32_t>(k) * type_bytes(field.type),
                        field.type));
    }
  }
}

}  // namespace rankbus::bus
