#include <cstddef>
#include <cstdint>
#include <rankbus/exporters/log_text.hpp>
#include <rankbus/exporters/utf8.hpp>

namespace rankbus {
namespace {

constexpr std::uint32_t kEscape = 0x1B;
constexpr std::uint32_t kBell = 0x07;
// The C1 forms of ESC [ and of ESC \.
constexpr std::uint32_t kControlSequence = 0x9B;
constexpr std::uint32_t kStringEnd = 0x9C;

bool in_range(std::uint32_t value, std::uint32_t first, std::uint32_t last) {
  return value >= first && value <= last;
}

bool is_control(std::uint32_t value) {
  return value < 0x20 || in_range(value, 0x7F, 0x9F);
}

bool is_invisible(std::uint32_t value) {
  return value == 0x2028 || value == 0x2029 ||                     // Line, paragraph separator.
         value == 0x061C || value == 0x200E || value == 0x200F ||  // Direction marks.
         in_range(value, 0x202A, 0x202E) ||
         in_range(value, 0x2066, 0x2069);  // Embeddings, isolates.
}

// ESC or the C1 control that begins a string which the terminal takes in: DCS, SOS, OSC, PM, APC.
bool begins_string(std::uint32_t value, bool after_escape) {
  if (after_escape) {
    return value == 'P' || value == 'X' || value == ']' || value == '^' || value == '_';
  }
  return value == 0x90 || value == 0x98 || in_range(value, 0x9D, 0x9F);
}

// ESC [ parameters final: returns the position after it. A sequence broken off by another character
// ends before that one.
std::size_t skip_control_sequence(std::string_view text, std::size_t at) {
  while (at < text.size() && in_range(static_cast<unsigned char>(text[at]), 0x20, 0x3F)) ++at;
  if (at < text.size() && in_range(static_cast<unsigned char>(text[at]), 0x40, 0x7E)) ++at;
  return at;
}

// Up to BEL, ESC \ or its C1 form; a string without an end takes the rest, as in a terminal.
std::size_t skip_string(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const CodePoint point = read_utf8_untrusted(text, at);
    if (point.valid && point.value == kEscape) {
      const bool is_end = at + 1 < text.size() && text[at + 1] == '\\';
      return at + (is_end ? 2 : 0);
    }
    at += point.bytes;
    if (point.valid && (point.value == kBell || point.value == kStringEnd)) return at;
  }
  return at;
}

// `at` is just after the ESC.
std::size_t skip_escape(std::string_view text, std::size_t at) {
  if (at >= text.size()) return at;
  const auto kind = static_cast<unsigned char>(text[at]);
  if (kind == '[') return skip_control_sequence(text, at + 1);
  if (begins_string(kind, true)) return skip_string(text, at + 1);
  // Other escapes: intermediates, then one final byte.
  while (at < text.size() && in_range(static_cast<unsigned char>(text[at]), 0x20, 0x2F)) ++at;
  if (at < text.size() && in_range(static_cast<unsigned char>(text[at]), 0x30, 0x7E)) ++at;
  return at;
}

}  // namespace

void append_log_text_untrusted(std::string_view text, std::string& out) {
  std::size_t at = 0;
  while (at < text.size()) {
    const CodePoint point = read_utf8_untrusted(text, at);
    const std::size_t next = at + point.bytes;
    if (!point.valid) {
      out += kReplacementCharacter;
      at = next;
    } else if (point.value == kEscape) {
      at = skip_escape(text, next);
    } else if (point.value == kControlSequence) {
      at = skip_control_sequence(text, next);
    } else if (begins_string(point.value, false)) {
      at = skip_string(text, next);
    } else {
      if (!is_control(point.value) && !is_invisible(point.value))
        out += text.substr(at, point.bytes);
      at = next;
    }
  }
}

}  // namespace rankbus
