// aggregator/series_budget.hpp: how many series a producer, and all of a bus, may make.
//
// A label's values come from a producer, and a producer may be careless. What it declares is
// counted when its segment is found, and fields beyond the bound are not shown; rows of labels are
// counted as they appear, and those beyond the bound go to `other`. What is shown once stays shown:
// a series never disappears into `other` later.
#pragma once

#include <cstdint>
#include <functional>
#include <rankbus/aggregator/segment_reader.hpp>
#include <string>
#include <vector>

namespace rankbus {

// Whether each row of the stream's labels gives that field series of its own, which its schema does
// not tell beforehand.
bool adds_series_by_row(const StreamSchema& stream, std::size_t field);

// What one segment has taken of the budget.
struct SeriesAccount {
  std::uint64_t used = 0;
  std::vector<std::uint32_t> series_a_row;  // Of each stream.
};

class SeriesBudget {
 public:
  // Counts what a new segment declares, and hides the fields that are too many.
  void open_untrusted(SegmentReader& reader, SeriesAccount& account,
                      const std::function<void(const std::string&)>& warn);
  // Shows the rows that appeared since, as many as the budget has series for.
  void show_rows(SegmentReader& reader, SeriesAccount& account);
  // The segment is retired.
  void close(SeriesAccount& account);

 private:
  bool take(SeriesAccount& account, std::uint64_t series);
  std::uint64_t used_ = 0;
};

}  // namespace rankbus
