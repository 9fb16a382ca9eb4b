#include <array>
#include <charconv>
#include <cmath>
#include <rankbus/exporters/log_text.hpp>
#include <rankbus/exporters/number_text.hpp>
#include <rankbus/exporters/python_text.hpp>
#include <variant>

namespace rankbus {
namespace {

void append_python_double(double value, std::string& out) {
  if (std::isnan(value)) {
    out += "nan";
    return;
  }
  if (std::isinf(value)) {
    out += value > 0 ? "inf" : "-inf";
    return;
  }
  // Python goes over to an exponent where the decimal point would be far away.
  const double magnitude = std::abs(value);
  const bool has_point = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  std::array<char, 40> digits;
  const auto [end, error] =
      std::to_chars(digits.data(), digits.data() + digits.size(), value,
                    has_point ? std::chars_format::fixed : std::chars_format::scientific);
  const std::string_view text(digits.data(), static_cast<std::size_t>(end - digits.data()));
  out += text;
  if (has_point && text.find('.') == std::string_view::npos) out += ".0";
}

}  // namespace

void append_python_number(const Number& value, std::string& out) {
  if (const auto* real = std::get_if<double>(&value)) {
    append_python_double(*real, out);
  } else {
    append_number(value, out);
  }
}

void append_python_quoted_untrusted(std::string_view text, std::string& out) {
  std::string harmless;
  append_log_text_untrusted(text, harmless);
  const bool has_apostrophe = harmless.find('\'') != std::string::npos;
  const char quote = has_apostrophe && harmless.find('"') == std::string::npos ? '"' : '\'';
  out += quote;
  for (const char c : harmless) {
    if (c == '\\' || c == quote) out += '\\';
    out += c;
  }
  out += quote;
}

}  // namespace rankbus
