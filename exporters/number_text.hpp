// exporters/number_text.hpp: numbers as Prometheus text shows them, appended without temporaries.
#pragma once

#include <cstdint>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>

namespace rankbus {

// All digits, also above 2^53: the text stays exact, and what a reader loses by parsing it as a
// double is the reader's choice.
void append_integer(std::uint64_t value, std::string& out);
void append_integer(std::int64_t value, std::string& out);

// The shortest text that reads back as the same double; a whole number up to 2^53 as bare digits;
// NaN, +Inf and -Inf as Prometheus spells them.
void append_double(double value, std::string& out);

void append_number(const Number& value, std::string& out);

// As the Python client prints a float (its floatToGoString), for `le`: 1.0, 0.005, 1e-05, 1e+06,
// +Inf. Text that differs would be another series to whoever has stored vLLM's own.
void append_le(double bound, std::string& out);

}  // namespace rankbus
