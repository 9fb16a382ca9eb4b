// aggregator/field_value.hpp: the totals of one field of one producer, in a form that adds up.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <utility>
#include <vector>

namespace rankbus {

// One series' worth of totals. Counters and distributions of several incarnations add up; gauges
// have a stamp.
struct FieldValue {
  std::string help;
  bus::Kind kind = bus::Kind::counter;
  bus::Type type = bus::Type::u64;
  bus::Unit unit = bus::Unit::none;
  bus::Reduction reduction = bus::Reduction::sum;
  std::uint64_t bits = 0;     // The sum, or a gauge's value, as the totals hold it.
  std::uint64_t stamp = 0;    // Ticks of the record that set a gauge.
  std::uint64_t records = 0;  // Records folded into the stream that it comes from.
  bool is_info = false;       // A gauge of 1, or of the time when it was recorded, by its labels.
  std::shared_ptr<const std::vector<double>> bounds;  // Distributions.
  std::vector<std::uint16_t> classic_cells;
  std::vector<std::uint64_t> cells;

  bool is_real() const { return type == bus::Type::f64; }
};

// Family name and the labels that come from the schema or the record, sorted by name.
using FieldKey = std::pair<std::string, Labels>;
using FieldValues = std::map<FieldKey, FieldValue>;

// Everything exposed that a producer's totals say. Children of an enumeration are there from the
// start, at zero.
FieldValues extract_values(const SegmentReader& reader);
// The same of one of its streams.
FieldValues extract_values(const SegmentReader& reader, const StreamState& stream);

// The labels of a field in that row of its stream's labels.
Labels labels_of_row(const SegmentReader& reader, const StreamState& stream, std::size_t field,
                     std::uint32_t row);

// Text of a label field's value; `other` if it has none.
std::string label_text(const SegmentReader& reader, const FieldSchema& label, std::uint64_t value);

// Whether sums of both types are sums of the same: integers without a sign are, of any width.
constexpr bool adds_up(bus::Type a, bus::Type b) {
  const auto is_unsigned = [](bus::Type type) { return type <= bus::Type::u64; };
  return a == b || (is_unsigned(a) && is_unsigned(b));
}

// Adds a counter or distribution to another of the same meaning; false if their bounds differ.
bool add_value(FieldValue& into, const FieldValue& from);

// The value in the exposed unit.
Number exposed_number(const FieldValue& value);
Histogram exposed_histogram(const FieldValue& value);

}  // namespace rankbus
