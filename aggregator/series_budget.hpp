// aggregator/series_budget.hpp: how many series a producer, and all of a bus, may make.
//
// A label's values come from a producer, and a producer may be careless. What it declares is
// counted when its segment is found, and fields beyond the bound are not shown; rows of labels are
// counted as they appear, and those beyond the bound go to `other`. What is shown once stays shown,
// and what went to `other` stays there: a series never disappears into another one later.
//
// Series of the dead count too. An identity that crashes again and again, with other labels in
// every life, has a share for all its lives together; texts that it used before cost nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <rankbus/aggregator/field_value.hpp>
#include <rankbus/aggregator/segment_reader.hpp>
#include <rankbus/bus/limits.hpp>
#include <string>
#include <vector>

namespace rankbus {

// Of all lives of an identity together: that its rows of labels may make, and what it declares
// besides. A schema may change over the lives, so declared fields have room of their own.
inline constexpr std::uint64_t kMaxRowSeriesPerIdentity = 2 * bus::kMaxSeriesPerSegment;
inline constexpr std::uint64_t kMaxSeriesPerIdentity = 3 * bus::kMaxSeriesPerSegment;

// Whether each row of the stream's labels gives that field series of its own, which its schema does
// not tell beforehand.
bool adds_series_by_row(const StreamSchema& stream, std::size_t field);

// Lines of the text format that these totals make.
std::uint64_t lines_of(const FieldValue& value);
std::uint64_t lines_of(const FieldValues& values);

// What one segment has taken of the budget.
struct SeriesAccount {
  std::uint64_t used = 0;
  std::uint64_t of_the_dead = 0;            // Series of its identity that are not its own.
  std::vector<std::uint32_t> series_a_row;  // Of each stream.
};

// Totals in which series are looked for that need no room, because they are there.
using KnownSeries = std::vector<const FieldValues*>;

class SeriesBudget {
 public:
  // Counts what a new segment declares, and hides the fields that are too many. `known` begins with
  // the totals of the identity's dead.
  void open_untrusted(SegmentReader& reader, SeriesAccount& account, const KnownSeries& known,
                      const std::function<void(const std::string&)>& warn);
  // Shows the rows that appeared since, as many as the budget has series for.
  void show_rows(SegmentReader& reader, SeriesAccount& account, const KnownSeries& known);
  // The segment is retired.
  void close(SeriesAccount& account);
  // Series that only the dead have: so many in all, or so many more.
  void set_retired(std::uint64_t series) { retired_ = series; }
  void add_retired(std::uint64_t series) { retired_ += series; }

 private:
  bool take(SeriesAccount& account, std::uint64_t series, std::uint64_t most_of_identity);
  std::uint64_t used_ = 0;
  std::uint64_t retired_ = 0;
};

}  // namespace rankbus
