// aggregator/sample_fields.hpp: the fields of samples by name, for whoever needs records one by
// one.
//
// A stream that is named like a built-in type may be anything: what it lacks, or has in another
// shape, is not there.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <rankbus/aggregator/bus_reader.hpp>
#include <string>
#include <string_view>

namespace rankbus {

struct EngineKey {
  std::string server;
  std::string model;
  std::uint32_t engine = 0;
  auto operator<=>(const EngineKey&) const = default;
};

inline EngineKey engine_of(const Identity& who) {
  return {who.server, who.model, who.engine};
}

// Places of scalar fields; -1: the stream has no such scalar.
template <std::size_t N>
std::array<int, N> find_scalars(const StreamSchema& stream,
                                std::initializer_list<std::string_view> names) {
  std::array<int, N> fields = {};
  fields.fill(-1);
  std::size_t next = 0;
  for (const std::string_view name : names) {
    const int field = stream.find(name);
    const bool is_scalar =
        field >= 0 && stream.plan.fields[static_cast<std::size_t>(field)].capacity == 1;
    fields[next++] = is_scalar ? field : -1;
  }
  return fields;
}

// The place of an array of that type, or -1.
inline int find_array(const StreamSchema& stream, std::string_view name, bus::Type type) {
  const int field = stream.find(name);
  if (field < 0) return -1;
  const bus::FieldPlan& plan = stream.plan.fields[static_cast<std::size_t>(field)];
  return plan.capacity > 1 && plan.type == type ? field : -1;
}

// An absent, missing or negative number counts as 0 here.
inline std::uint64_t whole(const Sample& sample, int field) {
  if (field < 0) return 0;
  const bus::Type type = sample.stream.plan.fields[field].type;
  const std::uint64_t raw = sample.raw(field);
  const bool is_negative = type == bus::Type::i64 && static_cast<std::int64_t>(raw) < 0;
  return type == bus::Type::f64 || is_negative || bus::is_absent(type, raw) ? 0 : raw;
}
inline bool has_number(const Sample& sample, int field) {
  return field >= 0 && !bus::is_absent(sample.stream.plan.fields[field].type, sample.raw(field));
}
inline double real(const Sample& sample, int field) {
  if (field < 0 || sample.stream.plan.fields[field].type != bus::Type::f64) return 0;
  const std::uint64_t raw = sample.raw(field);
  return bus::is_nan_or_infinite(raw) ? 0 : bus::double_of(raw);
}

}  // namespace rankbus
