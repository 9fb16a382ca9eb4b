// bus/schema.hpp: what a field of a record means.
//
// A record type is declared once, as rows of FieldSpec. Layout, totals, exposition, the reference
// page and the schema that travels in the segment derive from these rows; nothing else spells a
// field. C++17 without exceptions, because producers compile it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/limits.hpp>

namespace rankbus::bus {

// The numbers are part of the layout: append only.
enum class Kind : std::uint8_t {
  id = 1,             // Identifies or describes the record; has no totals.
  stamp = 2,          // A point in time, in the segment's ticks; has no totals.
  counter = 3,        // An amount to add. Totals: the sum.
  running_total = 4,  // A sum that the writer keeps itself. Totals: the newest value.
  gauge = 5,          // A state. Totals: the newest value.
  distribution = 6,   // One observation, or an array of them. Totals: sum and cells.
  label = 7,          // Selects the label row that counters and distributions naming it add to.
  info = 8,           // Text that makes labels, line by line; the newest is shown. Has no totals.
};

enum class Type : std::uint8_t { u8 = 1, u16 = 2, u32 = 3, u64 = 4, i64 = 5, f64 = 6 };

constexpr std::uint32_t type_bytes(Type type) {
  return type == Type::u8 ? 1 : type == Type::u16 ? 2 : type == Type::u32 ? 4 : 8;
}

enum class Unit : std::uint8_t {
  none = 1,         // A plain number, exposed as stored.
  seconds = 2,      // Seconds in a double, exposed as stored.
  nanoseconds = 3,  // Integer nanoseconds, exposed in seconds.
  bytes = 4,        // Bytes, exposed as stored.
  tokens = 5,       // Tokens, exposed as stored.
};

// How values of several ranks and lanes become the value of an engine.
enum class Reduction : std::uint8_t {
  sum = 1,
  max = 2,
  min = 3,
  mean = 4,
  leader = 5,  // The value of the lowest rank.
  newest = 6,  // The value with the newest stamp.
  merge = 7,   // Distributions: sums and cells add up.
  each = 8,    // Not reduced: a series per rank.
};

constexpr std::uint64_t kAbsentBits = ~std::uint64_t{0};

// All bits one means "no value": nothing is counted, observed or set. For a double this is one
// particular NaN, told apart from NaNs that arithmetic makes, which are counted as invalid.
template <class T>
constexpr T absent() {
  static_assert(sizeof(T) <= 8, "a scalar");
  return static_cast<T>(~std::uint64_t{0});
}
template <>
inline double absent<double>() {
  double value = 0;
  const std::uint64_t bits = kAbsentBits;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Upper bounds of classic buckets, inclusive, in the exposed unit, ascending.
struct Bounds {
  const double* values = nullptr;
  std::uint32_t count = 0;
  bool model_length = false;      // vLLM's 1-2-5 series up to max_model_len, known at open.
  std::int16_t native_first = 0;  // Native bounds run from 2^native_first ...
  std::int16_t native_last = 0;   // ... to 2^native_last in steps of 2^(1/8).
};

struct FieldSpec {
  const char* name = "";
  Kind kind = Kind::id;
  Type type = Type::u64;
  Unit unit = Unit::none;
  Reduction reduction = Reduction::sum;
  std::uint16_t capacity = 1;  // Greater than 1: an array with a count.
  const char* metric = "";     // Exposed family; empty: not exposed.
  const char* help = "";
  const char* fixed_label = "";  // A label of the series that is the same for all records.
  const char* fixed_value = "";
  const char* by = "";      // Names of the label fields that split this field, between spaces.
  const char* domain = "";  // Label fields: values 1..n of an enumeration, separated by newlines;
                            // empty: entries of the segment's dictionary.
  Bounds bounds{};
  // Counter arrays: a total, and a series, for each index; `fixed_label` bears the index.
  bool indexed = false;
  bool by_speculative_token = false;  // So many of them exist from the start, known at open.

  constexpr FieldSpec with(const char* label, const char* value) const {
    FieldSpec spec = *this;
    spec.fixed_label = label;
    spec.fixed_value = value;
    return spec;
  }
  constexpr FieldSpec in(Unit exposed_unit) const {
    FieldSpec spec = *this;
    spec.unit = exposed_unit;
    return spec;
  }
  constexpr FieldSpec reduced(Reduction how) const {
    FieldSpec spec = *this;
    spec.reduction = how;
    return spec;
  }
  // One label field, or several between spaces.
  constexpr FieldSpec split_by(const char* label_fields) const {
    FieldSpec spec = *this;
    spec.by = label_fields;
    return spec;
  }
  // Element i of each record's array adds to the series with `label`="i".
  constexpr FieldSpec indexed_as(const char* label) const {
    FieldSpec spec = *this;
    spec.fixed_label = label;
    spec.indexed = true;
    return spec;
  }
  constexpr FieldSpec for_each_speculative_token() const {
    FieldSpec spec = indexed_as("position");
    spec.by_speculative_token = true;
    return spec;
  }
};

// What a field is, for the rows of a declaration. Members of a struct, so that a declaration in any
// namespace finds them.
struct SpecBuilders {
  static constexpr FieldSpec id() { return FieldSpec{}; }
  static constexpr FieldSpec stamp() {
    FieldSpec spec;
    spec.kind = Kind::stamp;
    return spec;
  }
  static constexpr FieldSpec counter(const char* metric) {
    FieldSpec spec;
    spec.kind = Kind::counter;
    spec.metric = metric;
    return spec;
  }
  static constexpr FieldSpec running_total(const char* metric) {
    FieldSpec spec = counter(metric);
    spec.kind = Kind::running_total;
    return spec;
  }
  static constexpr FieldSpec gauge(const char* metric) {
    FieldSpec spec;
    spec.kind = Kind::gauge;
    spec.metric = metric;
    spec.reduction = Reduction::newest;
    return spec;
  }
  static constexpr FieldSpec distribution(const char* metric, Bounds bounds) {
    FieldSpec spec;
    spec.kind = Kind::distribution;
    spec.metric = metric;
    spec.reduction = Reduction::merge;
    spec.bounds = bounds;
    return spec;
  }
  // A gauge of 1 (in seconds: of when it was recorded, since the epoch) with labels made at run
  // time. An array of words, filled from text by `InfoText` of producer/record.hpp.
  static constexpr FieldSpec info(const char* metric) {
    FieldSpec spec;
    spec.kind = Kind::info;
    spec.metric = metric;
    spec.reduction = Reduction::newest;
    return spec;
  }
  // `exposed_as` is the label's name in the exposition, `domain` its values from 1, one per line.
  static constexpr FieldSpec label(const char* exposed_as, const char* domain = "") {
    FieldSpec spec;
    spec.kind = Kind::label;
    spec.metric = exposed_as;
    spec.domain = domain;
    return spec;
  }
};

template <std::size_t N>
constexpr Bounds bounds_of(const double (&values)[N], int native_first, int native_last) {
  Bounds bounds;
  bounds.values = values;
  bounds.count = static_cast<std::uint32_t>(N);
  bounds.native_first = static_cast<std::int16_t>(native_first);
  bounds.native_last = static_cast<std::int16_t>(native_last);
  return bounds;
}
constexpr Bounds bounds_by_model_length() {
  Bounds bounds;
  bounds.model_length = true;
  return bounds;
}

}  // namespace rankbus::bus
