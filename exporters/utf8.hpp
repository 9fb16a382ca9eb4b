// exporters/utf8.hpp: reads UTF-8 that another process wrote, one code point at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rankbus {

// What every exporter writes in place of bytes that are not UTF-8: U+FFFD, itself in UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

struct CodePoint {
  std::uint32_t value = 0;  // Meaningless unless valid.
  std::size_t bytes = 1;    // At least 1, also when invalid, so that a caller's loop always ends.
  bool valid = false;
};

// Reads the code point at `position`, which must lie inside `text`. Overlong forms, surrogates and
// values above U+10FFFF are invalid; `bytes` then spans the longest prefix that some valid sequence
// begins with, so that each broken sequence becomes one replacement character and resynchronises.
inline CodePoint read_utf8_untrusted(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t offset) -> std::uint32_t {
    return static_cast<unsigned char>(text[position + offset]);
  };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  std::size_t length = 0;
  std::uint32_t second_min = 0x80;
  std::uint32_t second_max = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) second_min = 0xA0;
    if (lead == 0xED) second_max = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) second_min = 0x90;
    if (lead == 0xF4) second_max = 0x8F;
  } else {
    return {0, 1, false};
  }
  std::uint32_t value = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (position + i >= text.size()) return {0, i, false};
    const std::uint32_t next = byte(i);
    const std::uint32_t min = i == 1 ? second_min : 0x80;
    const std::uint32_t max = i == 1 ? second_max : 0xBF;
    if (next < min || next > max) return {0, i, false};
    value = (value << 6) | (next & 0x3F);
  }
  return {value, length, true};
}

}  // namespace rankbus
