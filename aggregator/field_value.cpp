#include <algorithm>
#include <rankbus/aggregator/field_value.hpp>
#include <rankbus/aggregator/identity.hpp>
#include <rankbus/aggregator/running_totals.hpp>
#include <rankbus/aggregator/series_budget.hpp>
#include <rankbus/bus/declaration.hpp>
#include <string_view>

namespace rankbus {
namespace {

using bus::Kind;
using bus::Word;

constexpr std::size_t kMaxInfoLabels = 128;

void set_label(Labels& labels, const std::string& name, const std::string& value) {
  const auto at =
      std::lower_bound(labels.begin(), labels.end(), name,
                       [](const auto& label, const std::string& key) { return label.first < key; });
  labels.insert(at, {name, value});
}

Labels base_labels(const FieldSchema& field) {
  Labels labels;
  if (!field.fixed_label.empty()) set_label(labels, field.fixed_label, field.fixed_value);
  return labels;
}

class Extractor {
 public:
  Extractor(const SegmentReader& reader, const StreamState& stream, FieldValues& out)
      : reader_(reader), stream_(stream), out_(out) {}

  void extract() {
    for (std::uint32_t f = 0; f < stream_.schema.plan.field_count; ++f) {
      const bus::FieldPlan& plan = stream_.schema.plan.fields[f];
      const FieldSchema& field = stream_.schema.fields[f];
      if (field.metric.empty()) continue;
      if (plan.kind == Kind::info) add_info(field, plan);
      if (plan.row_words == 0) continue;
      if (plan.indexed) {
        add_indexed(field, plan);
      } else if (plan.by_labels == 0) {
        add(field, plan, base_labels(field), 0);
      } else {
        add_rows(f, adds_series_by_row(stream_.schema, f));
      }
    }
  }

 private:
  const Word* row_of(const bus::FieldPlan& plan, std::uint32_t row) const {
    return stream_.totals.data() + plan.totals_offset + std::size_t{row} * plan.row_words;
  }

  // Rows are tuples of all labels of the stream; a field shows those that it names, so that several
  // rows may add up to one series.
  void add_rows(std::size_t index, bool is_bounded) {
    const FieldSchema& field = stream_.schema.fields[index];
    const bus::FieldPlan& plan = stream_.schema.plan.fields[index];
    const auto used = static_cast<std::uint32_t>(stream_.totals[bus::kBodyRowsUsed]);
    for (std::uint32_t row = 0; row < used; ++row) {
      const Word* total = row_of(plan, row);
      const bool empty =
          std::all_of(total, total + plan.row_words, [](Word word) { return word == 0; });
      if (row == 0 && empty) continue;  // Nothing went to `other`.
      const bool is_other = is_bounded && !stream_.shows_row(row);
      add(field, plan, labels_of_row(reader_, stream_, index, is_other ? 0 : row), row);
    }
    add_enumeration(field, plan);
  }

  // The children of an enumeration that no record has named yet. Of several labels, the domain is
  // not known beforehand.
  void add_enumeration(const FieldSchema& field, const bus::FieldPlan& plan) {
    if (plan.kind == Kind::gauge) return;  // Nobody has set it yet, so there is no value to show.
    const bus::StreamPlan& stream = stream_.schema.plan;
    if ((plan.by_labels & (plan.by_labels - 1)) != 0) return;
    std::uint32_t position = 0;
    while ((plan.by_labels >> position & 1) == 0) ++position;
    const FieldSchema& label = stream_.schema.fields[stream.label_fields[position]];
    for (const std::string& text : label.domain) {
      Labels labels = base_labels(field);
      set_label(labels, label.metric, text);
      out_.emplace(FieldKey{field.metric, labels}, empty_value(field, plan));
    }
  }

  // Totals by index: those that exist from the start, and whatever else was counted.
  void add_indexed(const FieldSchema& field, const bus::FieldPlan& plan) {
    const Word* totals = row_of(plan, 0);
    for (std::uint32_t index = 0; index <= plan.capacity; ++index) {
      if (index >= field.index_count && totals[index] == 0) continue;
      FieldValue value = empty_value(field, plan);
      value.bits = totals[index];
      Labels labels;
      set_label(labels, field.fixed_label,
                index == plan.capacity ? "other" : std::to_string(index));
      put({field.metric, labels}, value);
    }
  }

  // The newest text, line by line. What has a wrong or reserved name, or no name, is left out.
  void add_info(const FieldSchema& field, const bus::FieldPlan& plan) {
    if (stream_.info.empty()) return;
    Labels labels;
    for (std::size_t at = 0; at < stream_.info.size();) {
      const std::size_t end = std::min(stream_.info.find('\n', at), stream_.info.size());
      add_info_label(std::string_view(stream_.info).substr(at, end - at), labels);
      at = end + 1;
    }
    FieldValue value = empty_value(field, plan);
    value.kind = Kind::gauge;
    value.is_info = true;
    value.bits = 1;
    value.type = bus::Type::u64;
    value.stamp = stream_.info_stamp;
    if (field.unit == bus::Unit::seconds) {
      value.bits = bus::bits_of(realtime_s(value.stamp));
      value.type = bus::Type::f64;
    }
    put({field.metric, labels}, value);
  }

  // When a record was made, seconds since the epoch, by the clock that the header anchors.
  double realtime_s(std::uint64_t ticks) const {
    const bus::SegmentHeader& header = reader_.header();
    const auto since = static_cast<std::int64_t>(ticks - header.anchor_ticks);
    const double per_second =
        header.ticks_per_second > 0 ? static_cast<double>(header.ticks_per_second) : 1e9;
    return static_cast<double>(header.anchor_realtime_ns) * 1e-9 +
           static_cast<double>(since) / per_second;
  }

  static void add_info_label(std::string_view line, Labels& labels) {
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos || labels.size() >= kMaxInfoLabels) return;
    const std::string name(line.substr(0, equals));
    if (!bus::is_label_name(name.data(), name.size()) ||
        bus::is_reserved_label(name.data(), name.size())) {
      return;
    }
    std::string text;
    for (std::size_t i = equals + 1; i < line.size(); ++i) {
      const bool escaped = line[i] == '\\' && i + 1 < line.size();
      if (escaped) ++i;
      text += escaped && line[i] == 'n' ? '\n' : line[i];
    }
    const bool known = std::any_of(labels.begin(), labels.end(),
                                   [&](const auto& label) { return label.first == name; });
    if (!known) set_label(labels, name, as_utf8_untrusted(text));
  }

  FieldValue empty_value(const FieldSchema& field, const bus::FieldPlan& plan) const {
    FieldValue value;
    value.help = field.help;
    value.kind = plan.kind;
    value.type = plan.type;
    value.unit = field.unit;
    value.reduction = field.reduction;
    if (!stream_.totals.empty()) value.records = stream_.totals[bus::kBodyRecords];
    if (plan.kind == Kind::distribution) {
      value.bounds = field.bounds;
      value.classic_cells = field.classic_cells;
      value.cells.resize(plan.row_words - 1);
    }
    return value;
  }

  void add(const FieldSchema& field, const bus::FieldPlan& plan, const Labels& labels,
           std::uint32_t row) {
    const Word* total = row_of(plan, row);
    const bool is_unset = plan.kind == Kind::gauge && *total == bus::kAbsentBits;
    // vLLM's gauges are 0 before anybody set them.
    const bool is_zero_at_first = plan.by_labels == 0 && field.metric.rfind("vllm:", 0) == 0;
    if (is_unset && !is_zero_at_first) return;
    FieldValue value = empty_value(field, plan);
    const std::uint32_t word = plan.totals_offset + row * plan.row_words;
    value.bits = is_unset ? 0 : stream_.running.whole(word, *total);
    value.stamp = is_unset ? 0 : stream_.totals[bus::kBodyLastStamp];
    std::copy(total + 1, total + 1 + value.cells.size(), value.cells.begin());
    put({field.metric, labels}, value);
  }

  void put(FieldKey key, const FieldValue& value) {
    const auto [at, fresh] = out_.emplace(std::move(key), value);
    if (!fresh && !add_value(at->second, value)) at->second = value;
  }

  const SegmentReader& reader_;
  const StreamState& stream_;
  FieldValues& out_;
};

double exposed_scale(bus::Unit unit) {
  return unit == bus::Unit::nanoseconds ? 1e9 : 1.0;
}

}  // namespace

Labels labels_of_row(const SegmentReader& reader, const StreamState& stream, std::size_t field,
                     std::uint32_t row) {
  const bus::StreamPlan& plan = stream.schema.plan;
  const std::uint64_t key = row == 0 ? 0 : stream.totals[bus::kBodyHeadWords + row];
  Labels labels = base_labels(stream.schema.fields[field]);
  for (std::uint32_t position = 0; position < plan.label_count; ++position) {
    if ((plan.fields[field].by_labels >> position & 1) == 0) continue;
    const FieldSchema& label = stream.schema.fields[plan.label_fields[position]];
    set_label(labels, label.metric, label_text(reader, label, key >> (16 * position) & 0xffff));
  }
  return labels;
}

std::string label_text(const SegmentReader& reader, const FieldSchema& label, std::uint64_t value) {
  if (value == 0) return "other";
  std::string text = label.domain.empty()           ? reader.dictionary_text(value)
                     : value <= label.domain.size() ? label.domain[value - 1]
                                                    : std::string();
  return text.empty() ? "other" : text;
}

FieldValues extract_values(const SegmentReader& reader) {
  FieldValues out;
  for (const StreamState& stream : reader.streams()) {
    if (!stream.totals.empty() || stream.schema.info_field >= 0)
      Extractor(reader, stream, out).extract();
  }
  return out;
}

FieldValues extract_values(const SegmentReader& reader, const StreamState& stream) {
  FieldValues out;
  if (!stream.totals.empty()) Extractor(reader, stream, out).extract();
  return out;
}

bool add_value(FieldValue& into, const FieldValue& from) {
  if (into.kind != from.kind || !adds_up(into.type, from.type) || into.unit != from.unit ||
      into.reduction != from.reduction) {
    return false;
  }
  if (into.kind == Kind::gauge) {
    if (from.stamp >= into.stamp) {
      into.bits = from.bits;
      into.stamp = from.stamp;
    }
    return true;
  }
  if (into.kind == Kind::distribution &&
      (into.cells.size() != from.cells.size() || into.classic_cells != from.classic_cells ||
       *into.bounds != *from.bounds)) {
    return false;
  }
  into.records += from.records;
  into.bits = sum_of(into.type, into.bits, from.bits);
  for (std::size_t i = 0; i < into.cells.size(); ++i) into.cells[i] += from.cells[i];
  return true;
}

Number exposed_number(const FieldValue& value) {
  if (value.is_real()) return bus::double_of(value.bits);
  if (value.unit == bus::Unit::nanoseconds) {
    return static_cast<double>(value.bits) / exposed_scale(value.unit);
  }
  if (value.type == bus::Type::i64) return static_cast<std::int64_t>(value.bits);
  return value.bits;
}

Histogram exposed_histogram(const FieldValue& value) {
  Histogram histogram;
  histogram.bounds = value.bounds;
  histogram.counts.assign(value.bounds->size() + 1, 0);
  std::size_t bucket = 0;
  for (std::size_t cell = 0; cell < value.cells.size(); ++cell) {
    while (bucket < value.classic_cells.size() && cell > value.classic_cells[bucket]) ++bucket;
    histogram.counts[bucket] += value.cells[cell];
  }
  histogram.sum = value.is_real() ? bus::double_of(value.bits)
                                  : static_cast<double>(value.bits) / exposed_scale(value.unit);
  return histogram;
}

}  // namespace rankbus
