#include <algorithm>
#include <bit>
#include <rankbus/aggregator/series_budget.hpp>
#include <rankbus/bus/limits.hpp>
#include <set>

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

// Series of the identity's dead that the segment does not declare, and so does not pay for.
std::uint64_t series_of_the_dead(const SegmentReader& reader, const FieldValues& dead) {
  std::set<std::string> declared;
  for (const StreamState& stream : reader.streams()) {
    for (std::size_t f = 0; f < stream.schema.fields.size(); ++f) {
      if (is_exposed(stream.schema, f) && !adds_series_by_row(stream.schema, f))
        declared.insert(stream.schema.fields[f].metric);
    }
  }
  std::uint64_t series = 0;
  for (const auto& [key, value] : dead) {
    if (declared.count(key.first) == 0) series += lines_of(value);
  }
  return series;
}

// Fields of a row appear together, so the first one stands for all.
bool is_known(const SegmentReader& reader, const StreamState& stream, std::uint32_t row,
              const KnownSeries& known) {
  for (std::size_t f = 0; f < stream.schema.fields.size(); ++f) {
    if (!adds_series_by_row(stream.schema, f)) continue;
    const FieldKey key{stream.schema.fields[f].metric, labels_of_row(reader, stream, f, row)};
    return std::any_of(known.begin(), known.end(),
                       [&](const FieldValues* values) { return values->count(key) != 0; });
  }
  return true;  // No field makes a series of it.
}

}  // namespace

bool adds_series_by_row(const StreamSchema& stream, std::size_t f) {
  return is_exposed(stream, f) && stream.plan.fields[f].by_labels != 0 &&
         only_enumeration(stream, f) == nullptr;
}

std::uint64_t lines_of(const FieldValue& value) {
  return value.bounds ? value.bounds->size() + 3 : 1;
}

std::uint64_t lines_of(const FieldValues& values) {
  std::uint64_t lines = 0;
  for (const auto& [key, value] : values) lines += lines_of(value);
  return lines;
}

bool SeriesBudget::take(SeriesAccount& account, std::uint64_t series,
                        std::uint64_t most_of_identity) {
  if (account.used + series > bus::kMaxSeriesPerSegment ||
      account.of_the_dead + account.used + series > most_of_identity ||
      retired_ + used_ + series > bus::kMaxSeriesPerNode) {
    return false;
  }
  account.used += series;
  used_ += series;
  return true;
}

void SeriesBudget::open_untrusted(SegmentReader& reader, SeriesAccount& account,
                                  const KnownSeries& known,
                                  const std::function<void(const std::string&)>& warn) {
  if (!known.empty()) account.of_the_dead = series_of_the_dead(reader, *known.front());
  std::uint64_t hidden = 0;
  for (std::size_t s = 0; s < reader.streams().size(); ++s) {
    const StreamSchema& stream = reader.streams()[s].schema;
    std::uint64_t a_row = 0;
    for (std::size_t f = 0; f < stream.fields.size(); ++f) {
      if (!is_exposed(stream, f)) continue;
      if (!take(account, declared_series(stream, f), kMaxSeriesPerIdentity)) {
        reader.hide_field(s, f);
        ++hidden;
      } else if (adds_series_by_row(stream, f)) {
        a_row += lines_of(stream, f);
      }
    }
    account.series_a_row.push_back(static_cast<std::uint32_t>(a_row));
    // Row 0 is `other`, and was counted.
    reader.judge_row(s, true);
  }
  show_rows(reader, account, known);
  if (hidden == 0) return;
  warn("segment " + reader.name() + ": " + std::to_string(hidden) +
       " fields are not shown, because it declares more than " +
       std::to_string(bus::kMaxSeriesPerSegment) + " series, its identity in all its lives " +
       std::to_string(kMaxSeriesPerIdentity) + ", or all of the bus more than " +
       std::to_string(bus::kMaxSeriesPerNode) +
       ". Declare fewer, or fewer buckets. Counted in rankbus_refused_fields");
}

void SeriesBudget::show_rows(SegmentReader& reader, SeriesAccount& account,
                             const KnownSeries& known) {
  for (std::size_t s = 0; s < reader.streams().size(); ++s) {
    const StreamState& stream = reader.streams()[s];
    if (stream.totals.empty() || stream.schema.plan.label_rows == 0) continue;
    const auto used = static_cast<std::uint32_t>(stream.totals[bus::kBodyRowsUsed]);
    for (auto row = static_cast<std::uint32_t>(stream.rows_shown.size()); row < used; ++row) {
      reader.judge_row(s, is_known(reader, stream, row, known) ||
                              take(account, account.series_a_row[s], kMaxRowSeriesPerIdentity));
    }
  }
}

void SeriesBudget::close(SeriesAccount& account) {
  used_ -= account.used;
  account.used = 0;
}

}  // namespace rankbus
