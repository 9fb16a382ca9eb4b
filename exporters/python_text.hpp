// exporters/python_text.hpp: numbers and texts as Python prints them, for lines that vLLM formats
// from dictionaries.
#pragma once

#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <string_view>

namespace rankbus {

// As repr(): integers bare, doubles the shortest text that reads back the same: 14.0, 1e-05, 1e+16,
// inf, nan.
void append_python_number(const Number& value, std::string& out);

// As repr() of a text, in single quotes unless it has only such in it; what append_log_text leaves
// out, this leaves out too.
void append_python_quoted_untrusted(std::string_view text, std::string& out);

}  // namespace rankbus
