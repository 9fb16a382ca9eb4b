#include <algorithm>
#include <cstring>
#include <map>
#include <rankbus/aggregator/schema_reader.hpp>
#include <rankbus/bus/declaration.hpp>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace rankbus {
namespace {

using bus::FieldDescriptor;
using bus::Kind;
using bus::SegmentHeader;
using bus::StreamDescriptor;
using bus::Type;

// Thrown and caught inside this file only: a schema is wrong in one of fifty ways, and the first
// ends the parse.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Something that a later build will know; ends the parse of its stream only.
struct Unknown : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void require(bool condition, const std::string& message) {
  if (!condition) throw Refusal(message);
}

void require_known(const char* what, std::uint32_t value, std::uint32_t most,
                   const std::string& where) {
  if (value >= 1 && value <= most) return;
  throw Unknown(where + what + " " + std::to_string(value) + " is unknown to this build");
}
constexpr std::uint32_t kMostKind = static_cast<std::uint32_t>(Kind::info);
constexpr std::uint32_t kMostType = static_cast<std::uint32_t>(Type::f64);
constexpr std::uint32_t kMostUnit = static_cast<std::uint32_t>(bus::Unit::tokens);
constexpr std::uint32_t kMostReduction = static_cast<std::uint32_t>(bus::Reduction::each);

bool is_name(const std::string& text) {
  return bus::is_name(text.data(), text.size());
}
bool is_free_label(const std::string& text) {
  return bus::is_label_name(text.data(), text.size()) &&
         !bus::is_reserved_label(text.data(), text.size());
}
bool is_utf8(const std::string& text) {
  return bus::is_utf8(text.data(), text.size());
}

// A few bytes of a file may stand for many in memory: descriptors may share texts, and a table is
// made of three bounds. Beyond so many times the size of the file nobody means well.
constexpr std::uint64_t kMemoryPerFileByte = 16;

// The cells of distributions with the same bounds, of which there is one.
struct Cells {
  std::shared_ptr<const std::vector<double>> bounds;
  std::vector<std::uint16_t> classic;
  std::shared_ptr<const bus::CellTable> table;
};
using CellsKey = std::tuple<std::vector<double>, int, int, bus::Unit>;

class SchemaParser {
 public:
  SchemaParser(const SegmentHeader& header, std::span<const unsigned char> bytes)
      : header_(header), bytes_(bytes) {}

  std::vector<StreamSchema> parse() {
    std::vector<StreamSchema> streams;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> extents;
    extents.emplace_back(0, header_.schema_offset + header_.schema_bytes);
    for (std::uint32_t s = 0; s < header_.stream_count; ++s) {
      const auto descriptor =
          copy_at<StreamDescriptor>(std::uint64_t{s} * header_.stream_descriptor_bytes);
      take_memory(sizeof(StreamSchema));
      streams.push_back(parse_stream(descriptor));
      if (!streams.back().is_skipped) add_extents(streams.back(), extents);
    }
    check_field_ranges();
    const bool none_is_read =
        std::all_of(streams.begin(), streams.end(),
                    [](const StreamSchema& stream) { return stream.is_skipped; });
    if (none_is_read)
      throw Refusal(streams.front().refusals.front() + ", and no other stream can be read");
    std::sort(extents.begin(), extents.end());
    for (std::size_t i = 1; i < extents.size(); ++i) {
      require(extents[i].first >= extents[i - 1].second, "parts of the segment overlap");
    }
    require(extents.back().second <= header_.segment_bytes, "a stream ends behind the segment");
    return streams;
  }

 private:
  // A field belongs to one stream: else the fields of 64 could be those of one, 64 times in memory.
  void check_field_ranges() const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (std::uint32_t s = 0; s < header_.stream_count; ++s) {
      const auto stream =
          copy_at<StreamDescriptor>(std::uint64_t{s} * header_.stream_descriptor_bytes);
      ranges.emplace_back(stream.first_field,
                          std::uint64_t{stream.first_field} + stream.field_count);
    }
    std::sort(ranges.begin(), ranges.end());
    for (std::size_t i = 1; i < ranges.size(); ++i)
      require(ranges[i].first >= ranges[i - 1].second, "two streams share a field");
  }

  void take_memory(std::uint64_t bytes) {
    memory_ += bytes;
    require(memory_ <= kMemoryPerFileByte * header_.segment_bytes,
            "its schema takes more than " + std::to_string(kMemoryPerFileByte) +
                " times the memory of its " + std::to_string(header_.segment_bytes) + " bytes");
  }

  template <class T>
  T copy_at(std::uint64_t offset) const {
    require(offset <= bytes_.size() && bytes_.size() - offset >= sizeof(T),
            "the schema is shorter than its descriptors");
    T copy;
    std::memcpy(&copy, bytes_.data() + offset, sizeof copy);
    return copy;
  }

  std::string text(std::uint32_t offset, std::uint32_t size, std::uint32_t most, const char* what) {
    require(size <= most && offset <= bytes_.size() && size <= bytes_.size() - offset,
            std::string("the text of a ") + what + " lies outside the schema or is too long");
    take_memory(size);
    return {reinterpret_cast<const char*>(bytes_.data()) + offset, size};
  }

  StreamSchema parse_stream(const StreamDescriptor& in) {
    StreamSchema out;
    out.name = text(in.name_offset, in.name_bytes, bus::kMaxNameBytes, "stream name");
    require(is_name(out.name), "a stream's name has characters outside [a-zA-Z0-9_:]");
    const std::string where = "stream " + out.name + ": ";
    out.help = text(in.help_offset, in.help_bytes, bus::kMaxHelpBytes, "stream help");
    require(is_utf8(out.help), where + "help is not UTF-8");
    require(in.field_count >= 1 && in.field_count <= bus::kMaxFieldsPerStream,
            where + "field count");
    try {
      parse_readable(in, out, where);
    } catch (const Unknown& unknown) {
      StreamSchema skipped;
      skipped.name = out.name;
      skipped.help = out.help;
      skipped.is_skipped = true;
      skipped.refused_fields = in.field_count;
      skipped.refusals.emplace_back(unknown.what());
      return skipped;
    }
    return out;
  }

  void parse_readable(const StreamDescriptor& in, StreamSchema& out, const std::string& where) {
    if (in.slot_format != static_cast<std::uint32_t>(bus::SlotFormat::sequence_word)) {
      throw Unknown(where + "slot format " + std::to_string(in.slot_format) +
                    ", this build reads 1");
    }
    require(in.slot_bytes >= bus::kMinSlotBytes && in.slot_bytes <= bus::kMaxSlotBytes &&
                in.slot_bytes % 8 == 0,
            where + "slot size");
    require(
        in.capacity >= bus::kMinCapacity && in.capacity <= bus::kMaxCapacity &&
            (in.capacity & (in.capacity - 1)) == 0,
        where + "capacity " + std::to_string(in.capacity) + " is not a power of two within limits");
    require(in.label_rows <= bus::kMaxLabelRows, where + "label rows");
    out.slots_offset = in.slots_offset;
    out.checkpoint_offset = in.checkpoint_offset;
    out.slot_bytes = in.slot_bytes;
    out.capacity = in.capacity;
    out.plan.field_count = in.field_count;
    out.plan.label_rows = in.label_rows;
    out.plan.part_offset = in.part_offset;
    out.plan.payload_words = in.slot_bytes / 8 - 1;
    const std::uint32_t payload_bytes = in.slot_bytes - 8;
    require(in.part_offset == bus::kNoOffset ||
                (in.part_offset % 2 == 0 && in.part_offset <= payload_bytes - 2),
            where + "part offset");
    for (std::uint32_t f = 0; f < in.field_count; ++f) {
      parse_field(in, f, payload_bytes, out, where);
    }
    require((out.plan.label_count > 0) == (in.label_rows > 0), where + "label rows without labels");
    finish_totals(in, out, where);
  }

  // What a value is in, and how ranks go together, matters to who shows it; the totals are the same
  // without it, but for cells, whose bounds are in the unit. Returns why the field cannot be shown.
  static std::string judge_meaning(const FieldDescriptor& in, Kind kind, FieldSchema& field,
                                   const std::string& where) {
    if (kind == Kind::distribution) require_known("unit", in.unit, kMostUnit, where);
    try {
      require_known("unit", in.unit, kMostUnit, where);
      field.unit = static_cast<bus::Unit>(in.unit);
      require_known("reduction", in.reduction, kMostReduction, where);
      field.reduction = static_cast<bus::Reduction>(in.reduction);
    } catch (const Unknown& unknown) {
      if (kind != Kind::label && !field.metric.empty()) return unknown.what();
    }
    return {};
  }

  void parse_field(const StreamDescriptor& stream, std::uint32_t f, std::uint32_t payload_bytes,
                   StreamSchema& out, const std::string& stream_name) {
    const std::uint64_t first =
        std::uint64_t{header_.stream_count} * header_.stream_descriptor_bytes;
    const auto in = copy_at<FieldDescriptor>(first + (std::uint64_t{stream.first_field} + f) *
                                                         header_.field_descriptor_bytes);
    FieldSchema field;
    take_memory(sizeof field);
    field.name = text(in.name_offset, in.name_bytes, bus::kMaxNameBytes, "field name");
    const std::string where = stream_name + "field " + field.name + ": ";
    require(is_name(field.name), where + "name has characters outside [a-zA-Z0-9_:]");
    field.metric = text(in.metric_offset, in.metric_bytes, bus::kMaxNameBytes, "metric name");
    require(field.metric.empty() || is_name(field.metric), where + "metric name");
    field.help = text(in.help_offset, in.help_bytes, bus::kMaxHelpBytes, "help");
    require(is_utf8(field.help), where + "help is not UTF-8");
    field.fixed_label =
        text(in.fixed_label_offset, in.fixed_label_bytes, bus::kMaxNameBytes, "label");
    require(field.fixed_label.empty() || is_free_label(field.fixed_label), where + "label name");
    field.fixed_value =
        text(in.fixed_value_offset, in.fixed_value_bytes, bus::kMaxLabelTextBytes, "label value");
    require(is_utf8(field.fixed_value), where + "label value is not UTF-8");
    require_known("kind", in.kind, kMostKind, where);
    require_known("type", in.type, kMostType, where);
    bus::FieldPlan& plan = out.plan.fields[f];
    plan.kind = static_cast<Kind>(in.kind);
    plan.type = static_cast<Type>(in.type);
    std::string refusal = judge_meaning(in, plan.kind, field, where);
    check_place(in, payload_bytes, out, plan, where);
    if (plan.kind == Kind::label) parse_label(in, f, out, field, where);
    plan.by_labels = in.by_labels;
    if (in.index_count != 0) {
      require(plan.kind == Kind::counter && in.capacity > 1 && !field.fixed_label.empty() &&
                  in.index_count - 1 <= in.capacity,
              where + "an index of what is no array of counters");
      plan.indexed = true;
      field.index_count = in.index_count - 1;
    }
    if (plan.kind == Kind::info) {
      require(
          in.capacity > 1 && plan.type == Type::u64 && !field.metric.empty() && out.info_field < 0,
          where + "info that is no exposed array of words, or the second of its stream");
      out.info_field = static_cast<int>(f);
    }
    if (plan.kind == Kind::distribution) parse_bounds(in, field, plan, where);
    if (!refusal.empty()) {
      field.metric.clear();
      ++out.refused_fields;
      out.refusals.push_back(std::move(refusal));
    }
    out.fields.push_back(std::move(field));
  }

  static void check_place(const FieldDescriptor& in, std::uint32_t payload_bytes,
                          const StreamSchema& stream, bus::FieldPlan& plan,
                          const std::string& where) {
    const std::uint32_t bytes = bus::type_bytes(plan.type);
    require(in.capacity >= 1 && in.capacity <= bus::kMaxSlotBytes / 8, where + "array capacity");
    require(in.slot_offset % bytes == 0 && in.slot_offset <= payload_bytes &&
                std::uint64_t{in.capacity} * bytes <= payload_bytes - in.slot_offset,
            where + "lies outside its slot");
    plan.capacity = static_cast<std::uint16_t>(in.capacity);
    plan.slot_offset = in.slot_offset;
    plan.count_offset = in.count_offset;
    if (in.capacity > 1) {
      require(bytes == 8 && stream.plan.part_offset != bus::kNoOffset && in.count_offset % 2 == 0 &&
                  in.count_offset <= payload_bytes - 2,
              where + "array without a count in the slot");
    }
  }

  void parse_label(const FieldDescriptor& in, std::uint32_t f, StreamSchema& out,
                   FieldSchema& field, const std::string& where) {
    require(out.plan.label_count < bus::kMaxLabelFieldsPerStream, where + "too many labels");
    require(out.plan.fields[f].capacity == 1, where + "a label cannot be an array");
    require(is_free_label(field.metric), where + "label name");
    out.plan.label_fields[out.plan.label_count++] = f;
    const std::string domain =
        text(in.domain_offset, in.domain_bytes, bus::kMaxSchemaBytes, "domain");
    require(is_utf8(domain), where + "domain is not UTF-8");
    for (std::size_t at = 0; !domain.empty() && at <= domain.size();) {
      const std::size_t end = std::min(domain.find('\n', at), domain.size());
      take_memory(sizeof(std::string));
      field.domain.push_back(domain.substr(at, end - at));
      at = end + 1;
    }
    require(field.domain.size() <= bus::kMaxLabelRows, where + "domain too large");
  }

  void parse_bounds(const FieldDescriptor& in, FieldSchema& field, bus::FieldPlan& plan,
                    const std::string& where) {
    require(in.bounds_count <= bus::kMaxCellsPerField && in.bounds_offset <= bytes_.size() &&
                std::uint64_t{in.bounds_count} * sizeof(double) <= bytes_.size() - in.bounds_offset,
            where + "bounds lie outside the schema");
    std::vector<double> bounds(in.bounds_count);
    if (!bounds.empty()) {
      std::memcpy(bounds.data(), bytes_.data() + in.bounds_offset, bounds.size() * sizeof(double));
    }
    const std::string wrong = where + "bounds must be positive, ascending, and make at most " +
                              std::to_string(bus::kMaxCellsPerField) + " cells";
    for (const double bound : bounds) require(!bus::is_nan_or_infinite(bus::bits_of(bound)), wrong);
    Cells& cells = cells_[CellsKey{bounds, in.native_first, in.native_last, field.unit}];
    if (!cells.table) {
      take_memory(sizeof(bus::CellTable) + bounds.size() * sizeof(double));
      auto table = std::make_shared<bus::CellTable>();
      cells.classic.resize(bounds.size());
      require(bus::build_cell_table(*table, bounds.data(), in.bounds_count, in.native_first,
                                    in.native_last, field.unit, cells.classic.data()),
              wrong);
      cells.table = std::move(table);
      cells.bounds = std::make_shared<const std::vector<double>>(std::move(bounds));
    }
    take_memory(cells.classic.size() * sizeof(std::uint16_t));
    field.native_first = in.native_first;
    field.native_last = in.native_last;
    field.classic_cells = cells.classic;
    field.bounds = cells.bounds;
    field.table = cells.table;
    plan.table = field.table.get();
  }

  // Totals are laid out by the rule of bus/totals.hpp; a segment that says otherwise is foreign.
  void finish_totals(const StreamDescriptor& in, StreamSchema& out,
                     const std::string& where) const {
    for (std::uint32_t f = 0; f < in.field_count; ++f) {
      require(out.plan.fields[f].by_labels >> out.plan.label_count == 0,
              where + "split by a label that its stream does not have");
    }
    bus::lay_out_totals(out.plan);
    require(out.plan.body_words == in.checkpoint_words,
            where + "size of totals differs from the schema's");
    require((in.checkpoint_words == 0) == (in.checkpoint_offset == 0), where + "checkpoint offset");
    out.checkpoint_stride =
        bus::align_up((1 + std::uint64_t{in.checkpoint_words}) * 8, bus::kLineBytes);
  }

  void add_extents(const StreamSchema& stream,
                   std::vector<std::pair<std::uint64_t, std::uint64_t>>& extents) const {
    const auto add = [&](std::uint64_t offset, std::uint64_t size) {
      require(offset % 8 == 0 && offset <= header_.segment_bytes &&
                  size <= header_.segment_bytes - offset,
              "stream " + stream.name + " lies outside the segment");
      extents.emplace_back(offset, offset + size);
    };
    add(stream.slots_offset, std::uint64_t{stream.capacity} * stream.slot_bytes);
    if (stream.plan.body_words > 0) add(stream.checkpoint_offset, 2 * stream.checkpoint_stride);
  }

  const SegmentHeader& header_;
  std::span<const unsigned char> bytes_;
  std::map<CellsKey, Cells> cells_;
  std::uint64_t memory_ = 0;
};

void check_versions(const SegmentHeader& h) {
  require(
      h.magic != __builtin_bswap64(bus::kSegmentMagic),
      "its bytes are in the other order; segments are read on the machine that wrote them, or on "
      "one of its kind");
  require(h.magic == bus::kSegmentMagic, "not a rankbus segment (magic)");
  const std::string versions = "layout version " + std::to_string(h.layout_version) +
                               " (readable by " + std::to_string(h.min_reader_version) +
                               " and later), this build reads " +
                               std::to_string(bus::kLayoutVersion);
  require(h.min_reader_version <= bus::kLayoutVersion,
          versions + ". Upgrade the aggregator before the producers");
  require(
      h.layout_version >= bus::kLayoutVersion,
      versions + ". Restart the process with a rankbus of this release, or read it with its own");
}

void check_header(const SegmentHeader& h, std::uint64_t file_bytes) {
  check_versions(h);
  require(
      h.header_bytes >= sizeof(SegmentHeader) && h.header_bytes <= 64 * 1024 &&
          h.stream_descriptor_bytes >= sizeof(StreamDescriptor) &&
          h.stream_descriptor_bytes <= 4096 &&
          h.field_descriptor_bytes >= sizeof(FieldDescriptor) && h.field_descriptor_bytes <= 4096,
      "descriptor sizes " + std::to_string(h.header_bytes) + ", " +
          std::to_string(h.stream_descriptor_bytes) + " and " +
          std::to_string(h.field_descriptor_bytes) + ", expected at least " +
          std::to_string(sizeof(SegmentHeader)) + ", " + std::to_string(sizeof(StreamDescriptor)) +
          " and " + std::to_string(sizeof(FieldDescriptor)));
  require(h.segment_bytes <= file_bytes && h.segment_bytes <= bus::kMaxSegmentBytes,
          "the file has " + std::to_string(file_bytes) + " bytes, its header says " +
              std::to_string(h.segment_bytes));
  require(h.stream_count >= 1 && h.stream_count <= bus::kMaxStreams, "stream count");
  const auto inside = [&](std::uint64_t offset, std::uint64_t size) {
    return offset % 8 == 0 && offset >= sizeof(SegmentHeader) && offset <= h.segment_bytes &&
           size <= h.segment_bytes - offset;
  };
  require(inside(h.status_offset, sizeof(bus::StatusLine)), "status lies outside the segment");
  require(inside(h.activity_offset, h.stream_count * 8ull), "activity lies outside the segment");
  require(h.schema_bytes >= 1 && h.schema_bytes <= bus::kMaxSchemaBytes &&
              inside(h.schema_offset, h.schema_bytes),
          "schema lies outside the segment");
  require(
      h.dictionary_entries <= bus::kMaxDictionaryEntries &&
          h.dictionary_text_bytes <= bus::kMaxDictionaryTextBytes &&
          inside(h.dictionary_offset, 8ull * (1 + h.dictionary_entries) + h.dictionary_text_bytes),
      "dictionary lies outside the segment");
  require(h.role >= 1 && h.role <= 4 && h.kv_role <= 3 && h.clock_domain >= 1 &&
              h.clock_domain <= 2 && h.clock_source >= 1 && h.clock_source <= 3,
          "role or clock unknown to this build");
  require(h.axis_count <= bus::kMaxAxes && h.group_count <= bus::kMaxGroups, "axes or groups");
}

}  // namespace

int StreamSchema::find(std::string_view field_name) const {
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (fields[i].name == field_name) return static_cast<int>(i);
  }
  return -1;
}

Result<SegmentHeader> check_untrusted_header(const SegmentHeader& header,
                                             std::uint64_t file_bytes) {
  try {
    check_header(header, file_bytes);
    return header;
  } catch (const Refusal& refusal) {
    return Error{refusal.what()};
  }
}

Result<std::vector<StreamSchema>> parse_untrusted_schema(const SegmentHeader& header,
                                                         std::span<const unsigned char> schema) {
  try {
    require(bus::fnv1a(schema.data(), schema.size()) == header.schema_hash,
            "the schema's hash differs from the header's");
    return SchemaParser(header, schema).parse();
  } catch (const Refusal& refusal) {
    return Error{refusal.what()};
  }
}

}  // namespace rankbus
