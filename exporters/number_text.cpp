#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <rankbus/exporters/number_text.hpp>
#include <string_view>
#include <variant>

namespace rankbus {
namespace {

// Up to here every whole number has a double of its own, so that printing it as an integer is
// exact.
constexpr double kLargestExactInteger = 9007199254740992.0;  // 2^53

// Room for any double in shortest form and for any 64-bit integer.
using Digits = std::array<char, 32>;

template <typename T>
void append_chars(T value, std::string& out) {
  Digits digits;
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  out.append(digits.data(), end);
}

// NaN and the infinities, which to_chars spells otherwise. Returns whether it was one of them.
bool append_special(double value, std::string& out) {
  if (std::isnan(value)) {
    out += "NaN";
  } else if (std::isinf(value)) {
    out += value > 0 ? "+Inf" : "-Inf";
  } else {
    return false;
  }
  return true;
}

// A positive or negative double in scientific form, taken apart: its significant digits and the
// decimal exponent of the first one.
struct Decimal {
  std::array<char, 20> digits{};
  std::size_t count = 0;
  int exponent = 0;

  explicit Decimal(double magnitude) {
    Digits text;
    const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), magnitude,
                                            std::chars_format::scientific);
    const char* at = text.data();
    for (; at != end && *at != 'e'; ++at) {
      if (*at != '.') digits[count++] = *at;
    }
    ++at;                  // The 'e'.
    if (*at == '+') ++at;  // from_chars takes a minus but no plus.
    std::from_chars(at, end, exponent);
  }

  std::string_view from(std::size_t first) const {
    return {digits.data() + first, count > first ? count - first : 0};
  }
};

}  // namespace

void append_integer(std::uint64_t value, std::string& out) {
  append_chars(value, out);
}
void append_integer(std::int64_t value, std::string& out) {
  append_chars(value, out);
}

void append_double(double value, std::string& out) {
  if (append_special(value, out)) return;
  const bool negative_zero = value == 0 && std::signbit(value);
  if (std::abs(value) <= kLargestExactInteger && value == std::trunc(value) && !negative_zero) {
    append_integer(static_cast<std::int64_t>(value), out);
  } else {
    append_chars(value, out);
  }
}

void append_number(const Number& value, std::string& out) {
  if (const auto* unsigned_value = std::get_if<std::uint64_t>(&value)) {
    append_integer(*unsigned_value, out);
  } else if (const auto* signed_value = std::get_if<std::int64_t>(&value)) {
    append_integer(*signed_value, out);
  } else {
    append_double(std::get<double>(value), out);
  }
}

void append_le(double bound, std::string& out) {
  if (append_special(bound, out)) return;
  if (std::signbit(bound)) out += '-';
  const Decimal decimal(std::abs(bound));
  // Python's repr writes a point between these exponents. From seven digits before the point on,
  // the client goes over to a mantissa, but for positive numbers only, and always puts one zero
  // before the exponent's digits (1e+06, and 1e+010 as well).
  const bool has_point = decimal.exponent >= -4 && decimal.exponent < 16;
  if (has_point && decimal.exponent >= 6 && bound > 0) {
    out += decimal.digits[0];
    if (decimal.count > 1) {
      out += '.';
      out += decimal.from(1);
    }
    out += "e+0";
    append_chars(decimal.exponent, out);
  } else if (has_point && decimal.exponent >= 0) {
    const auto whole = static_cast<std::size_t>(decimal.exponent) + 1;
    out += std::string_view(decimal.digits.data(), std::min(whole, decimal.count));
    if (decimal.count < whole) out.append(whole - decimal.count, '0');
    out += '.';
    out += decimal.count > whole ? decimal.from(whole) : std::string_view("0");
  } else if (has_point) {
    out += "0.";
    out.append(static_cast<std::size_t>(-decimal.exponent) - 1, '0');
    out += decimal.from(0);
  } else {
    Digits text;
    const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), std::abs(bound),
                                            std::chars_format::scientific);
    out.append(text.data(), end);
  }
}

}  // namespace rankbus
