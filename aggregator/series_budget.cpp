#include <bit>
#include <rankbus/aggregator/series_budget.hpp>
#include <rankbus/bus/limits.hpp>

namespace rankbus {
namespace {

using bus::Kind;

bool is_exposed(const StreamSchema& stream, std::size_t f) {
  const bus::FieldPlan& plan = stream.plan.fields[f];
  return !stream.fields[f].metric.empty() && (plan.row_words > 0 || plan.kind == Kind::info);
}

// Lines of the text format: a histogram has its buckets, the last one, sum and count.
std::uint64_t lines_of(const StreamSchema& stream, std::size_t f) {
  return stream.plan.fields[f].kind == Kind::distribution ? stream.fields[f].bounds->size() + 3 : 1;
}

// The enumeration that alone splits the field, or null: then the schema says how many rows matter.
const FieldSchema* only_enumeration(const StreamSchema& stream, std::size_t f) {
  const std::uint32_t by = stream.plan.fields[f].by_labels;
  if (std::popcount(by) != 1) return nullptr;
  const FieldSchema& label =
      stream.fields[stream.plan.label_fields[static_cast<std::size_t>(std::countr_zero(by))]];
  return label.domain.empty() ? nullptr : &label;
}

// Series that there are, or may be, without any row of labels.
std::uint64_t declared_series(const StreamSchema& stream, std::size_t f) {
  const bus::FieldPlan& plan = stream.plan.fields[f];
  if (plan.indexed) return plan.capacity + 1u;
  const FieldSchema* label = only_enumeration(stream, f);
  return lines_of(stream, f) * (label == nullptr ? 1 : 1 + label->domain.size());
}

}  // namespace

bool adds_series_by_row(const StreamSchema& stream, std::size_t f) {
  return is_exposed(stream, f) && stream.plan.fields[f].by_labels != 0 &&
         only_enumeration(stream, f) == nullptr;
}

bool SeriesBudget::take(SeriesAccount& account, std::uint64_t series) {
  if (account.used + series > bus::kMaxSeriesPerSegment ||
      used_ + series > bus::kMaxSeriesPerNode) {
    return false;
  }
  account.used += series;
  used_ += series;
  return true;
}

void SeriesBudget::open_untrusted(SegmentReader& reader, SeriesAccount& account,
                                  const std::function<void(const std::string&)>& warn) {
  std::uint64_t hidden = 0;
  for (std::size_t s = 0; s < reader.streams().size(); ++s) {
    const StreamSchema& stream = reader.streams()[s].schema;
    std::uint64_t a_row = 0;
    for (std::size_t f = 0; f < stream.fields.size(); ++f) {
      if (!is_exposed(stream, f)) continue;
      if (!take(account, declared_series(stream, f))) {
        reader.hide_field(s, f);
        ++hidden;
      } else if (adds_series_by_row(stream, f)) {
        a_row += lines_of(stream, f);
      }
    }
    account.series_a_row.push_back(static_cast<std::uint32_t>(a_row));
    // Row 0 is `other`, and was counted.
    reader.show_rows(s, 1);
  }
  show_rows(reader, account);
  if (hidden == 0) return;
  warn("segment " + reader.name() + ": " + std::to_string(hidden) +
       " fields are not shown, because it declares more than " +
       std::to_string(bus::kMaxSeriesPerSegment) + " series, or all of the bus more than " +
       std::to_string(bus::kMaxSeriesPerNode) +
       ". Declare fewer, or fewer buckets. Counted in rankbus_refused_fields");
}

void SeriesBudget::show_rows(SegmentReader& reader, SeriesAccount& account) {
  for (std::size_t s = 0; s < reader.streams().size(); ++s) {
    const StreamState& stream = reader.streams()[s];
    if (stream.totals.empty() || stream.schema.plan.label_rows == 0) continue;
    const auto used = static_cast<std::uint32_t>(stream.totals[bus::kBodyRowsUsed]);
    std::uint32_t shown = stream.rows_shown;
    while (shown < used && take(account, account.series_a_row[s])) ++shown;
    reader.show_rows(s, shown);
  }
}

void SeriesBudget::close(SeriesAccount& account) {
  used_ -= account.used;
  account.used = 0;
}

}  // namespace rankbus
