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
  std::uint8_t bytes = 0;           // Of a scalar in the record.
  std::uint32_t offset = 0;         // In the record; there an array is a Values<>.
  std::uint32_t labels_before = 0;  // Label fields: how many precede it.
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

// The tables of all built-in types, in the order of list_built_in_types.
const RecordTable* built_in_tables();

// Null if there is no such type.
const RecordTable* built_in_table(const char* name);

}  // namespace rankbus::python
