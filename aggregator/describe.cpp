#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <rankbus/aggregator/analysis_outputs.hpp>
#include <rankbus/aggregator/describe.hpp>
#include <rankbus/producer/records.hpp>
#include <vector>

namespace rankbus {
namespace {

const char* kind_text(bus::Kind kind) {
  static const char* const names[] = {"",      "id",           "stamp", "counter", "running total",
                                      "gauge", "distribution", "label", "info"};
  return names[static_cast<int>(kind)];
}
const char* type_text(bus::Type type) {
  static const char* const names[] = {"", "u8", "u16", "u32", "u64", "i64", "f64"};
  return names[static_cast<int>(type)];
}
const char* unit_text(bus::Unit unit) {
  static const char* const names[] = {
      "", "", "seconds", "nanoseconds, exposed in seconds", "bytes", "tokens"};
  return names[static_cast<int>(unit)];
}
const char* reduction_text(const bus::FieldSpec& field) {
  static const char* const names[] = {"",       "sum",    "max",   "min",      "mean",
                                      "leader", "newest", "merge", "each rank"};
  const bool reduced = bus::totals_row_words(field.kind, 0) > 0;
  return reduced ? names[static_cast<int>(field.reduction)] : "";
}

std::string series_text(const bus::FieldSpec& field) {
  if (field.kind == bus::Kind::label) return std::string("label `") + field.metric + "`";
  if (field.metric[0] == '\0') return "";
  std::string text = std::string("`") + field.metric;
  if (field.indexed) {
    text += std::string("{") + field.fixed_label + "}";
  } else if (field.fixed_label[0] != '\0')
    text += std::string("{") + field.fixed_label + "=\"" + field.fixed_value + "\"}";
  if (field.by[0] != '\0') text += std::string("{") + field.by + "}";
  return text + "`";
}

void describe_type(const bus::RecordType& type, std::string& out) {
  const bus::PayloadLayout layout = bus::lay_out_payload(type.fields, type.field_count);
  out += std::string("## ") + type.name + "\n\n" + type.help + ". A slot has " +
         std::to_string(bus::slot_bytes_for(layout.words)) + " bytes.\n\n";
  out +=
      "| field | at | type | kind | unit | series | over ranks | meaning "
      "|\n|---|---|---|---|---|---|---|---|\n";
  for (std::uint32_t i = 0; i < type.field_count; ++i) {
    const bus::FieldSpec& field = type.fields[i];
    std::string shape = type_text(field.type);
    if (field.capacity > 1) shape += "[" + std::to_string(field.capacity) + "]";
    out += std::string("| `") + field.name + "` | " + std::to_string(8 + layout.offset[i]) + " | " +
           shape + " | " + kind_text(field.kind) + " | " + unit_text(field.unit) + " | " +
           series_text(field) + " | " + reduction_text(field) + " | " + field.help + " |\n";
  }
  out += "\n";
}

// What no field of a record makes by itself.
void describe_analyses(std::string& out) {
  static const char* const types[] = {"counter", "gauge", "histogram"};
  out +=
      "# What is made of samples\n\nSeries of the tables above are made of totals and exact. Those "
      "of this one need the records one by one, so they stand for what was read: "
      "`rankbus_sample_coverage_ratio` says which share of a stream's records of the last minute "
      "that is, and after a loss the blocks of the stream that were followed are forgotten. "
      "`/api/v1/analysis` has the same and more as JSON, with the records read and lost of each "
      "stream.\n\n| series | type | made of the samples of | meaning |\n|---|---|---|---|\n";
  for (const AnalysisOutput& output : analysis_outputs()) {
    std::string labels = output.labels;
    std::replace(labels.begin(), labels.end(), ' ', ',');
    const std::string streams = output.streams[0] == '\0' ? "each of these" : output.streams;
    out += std::string("| `") + output.name + (labels.empty() ? "" : "{" + labels + "}") + "` | " +
           types[static_cast<int>(output.type)] + " | " + streams + " | " + output.help + " |\n";
  }
}

}  // namespace

std::string reference_page() {
  const bus::RecordType* types[kBuiltInTypes];
  list_built_in_types(types);
  std::string out =
      "# Built-in record types\n\nPrinted by `rankbus describe` from the declarations in "
      "`producer/records.hpp`; `at` is the byte in the slot, whose first 8 bytes are the sequence "
      "word.\n\n";
  for (const bus::RecordType* type : types) describe_type(*type, out);
  describe_analyses(out);
  return out;
}

std::function<int()> add_describe_command(CLI::App& app) {
  app.add_subcommand("describe", "Print the reference page of the built-in record types");
  return [] {
    std::fputs(reference_page().c_str(), stdout);
    return 0;
  };
}

}  // namespace rankbus
