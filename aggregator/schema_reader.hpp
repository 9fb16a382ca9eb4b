// aggregator/schema_reader.hpp: what a segment says of itself, after every byte of it was checked.
#pragma once

#include <cstdint>
#include <memory>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/bus/layout.hpp>
#include <rankbus/bus/schema.hpp>
#include <rankbus/bus/totals.hpp>
#include <span>
#include <string>
#include <vector>

namespace rankbus {

struct FieldSchema {
  std::string name;
  std::string metric;
  std::string help;
  std::string fixed_label;
  std::string fixed_value;
  std::vector<std::string> domain;  // Label fields: the text of value i+1.
  bus::Unit unit = bus::Unit::none;
  bus::Reduction reduction = bus::Reduction::sum;
  std::uint32_t index_count = 0;  // Arrays with totals by index: series from the start.
  int native_first = 0;
  int native_last = 0;
  std::shared_ptr<const std::vector<double>> bounds;  // Classic, in the exposed unit.
  std::vector<std::uint16_t> classic_cells;           // The cell that ends at each classic bound.
  std::shared_ptr<const bus::CellTable> table;
};

struct StreamSchema {
  std::string name;
  std::string help;
  std::vector<FieldSchema> fields;
  bus::StreamPlan plan;  // Parallel to `fields`.
  int info_field = -1;   // The field whose newest text is shown, or -1.
  std::uint64_t slots_offset = 0;
  std::uint64_t checkpoint_offset = 0;
  std::uint64_t checkpoint_stride = 0;
  std::uint32_t slot_bytes = 0;
  std::uint32_t capacity = 0;
  std::uint32_t refused_fields = 0;   // That this build cannot show ...
  std::vector<std::string> refusals;  // ... and why, in sentences without an end.
  // A newer writer's stream, of which only the name is known: nothing of it is read. Its place in
  // the list is kept, because `published` words are found by it.
  bool is_skipped = false;

  // Index of the field of that name, or -1.
  int find(std::string_view field_name) const;
};

// Checks a copied header: magic, versions, sizes, places. `file_bytes` is what fstat said.
Result<bus::SegmentHeader> check_untrusted_header(const bus::SegmentHeader& header,
                                                  std::uint64_t file_bytes);

// Checks a copied schema against its copied header. What is only unknown to this build, as opposed
// to wrong, costs the field or the stream that says it; the others are read.
Result<std::vector<StreamSchema>> parse_untrusted_schema(const bus::SegmentHeader& header,
                                                         std::span<const unsigned char> schema);

}  // namespace rankbus
