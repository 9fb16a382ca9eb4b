// Helpers for processes that choose their record types at run time, and for those with a text.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <rankbus/producer/producer.hpp>
#include <string>

namespace rankbus::simulator {

// Declares one more type; there is room for all that exist.
template <class Record>
void add_record_type(OpenOptions& options) {
  *std::find(std::begin(options.records), std::end(options.records), nullptr) =
      record_type<Record>();
}

// Writes a record whose `field` is a text of labels.
template <class Record>
void record_info(Producer& producer, Values<std::uint64_t> Record::*field, std::uint64_t stamp,
                 const std::map<std::string, std::string>& labels) {
  InfoText text;
  for (const auto& [label, value] : labels) text.add(label.c_str(), value.c_str());
  Record record;
  record.stamp = stamp;
  record.*field = text.words();
  producer.record(record);
}

}  // namespace rankbus::simulator
