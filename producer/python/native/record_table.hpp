// producer/python/native/record_table.hpp: how the fields of a record type are set by name.
//
// A call from Python fills a copy of a prototype record, field by field, and hands it to `write`.
// For built-in types that record is the C++ struct and `write` is Producer::record, so that what
// `derive` promises holds here too. For types declared in Python it is an array of FieldInput.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/producer/producer_dynamic.hpp>

namespace rankbus::python {

// What a field takes from Python.
enum class Takes : std::uint8_t { integer, real, label, integers, reals, info };

struct FieldSetter {
  Takes takes = Takes::integer;
  std::uint8_t bytes = 0;          // Of a scalar in the record.
  std::uint8_t labels_before = 0;  // Label fields: how many precede it.
  std::uint32_t offset = 0;        // In the record; there an array is a Values<>.
  std::uint64_t plain = 0;         // Integers from 0 to this one need no closer look.
};

inline constexpr std::size_t kMaxRecordBytes = 2048;

struct RecordTable {
  const bus::RecordType* type = nullptr;
  const void* prototype = nullptr;  // Every field at its default, or absent.
  std::size_t record_bytes = 0;
  FieldSetter fields[bus::kMaxFieldsPerStream];
  void (*write)(Producer& producer, const RecordTable& table,
                const void* record) noexcept = nullptr;
};

inline Takes takes_of(const bus::FieldSpec& spec) {
  const bool real = spec.type == bus::Type::f64;
  if (spec.kind == bus::Kind::info) return Takes::info;
  if (spec.kind == bus::Kind::label) return Takes::label;
  if (spec.capacity > 1) return real ? Takes::reals : Takes::integers;
  return real ? Takes::real : Takes::integer;
}

// What a setter knows of a field wherever it lies. `labels` counts the label fields so far.
inline void describe_setter(FieldSetter& setter, const bus::FieldSpec& spec, std::uint8_t& labels) {
  setter.takes = takes_of(spec);
  setter.labels_before = labels;
  if (setter.takes == Takes::label) ++labels;
  // The largest value of each type means absence; beyond 2^63 - 1 Python's way is another.
  const std::uint32_t bytes = bus::type_bytes(spec.type);
  setter.plain = bytes == 8 ? bus::kAbsentBits >> 1 : (bus::kAbsentBits >> (64 - 8 * bytes)) - 1;
}

// The tables of all built-in types, in the order of list_built_in_types.
const RecordTable* built_in_tables();

// Null if there is no such type.
const RecordTable* built_in_table(const char* name);

}  // namespace rankbus::python
