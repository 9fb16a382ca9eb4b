// bus/declaration.hpp: what a record type must be before a segment is made of it.
//
// Readers refuse a whole segment for one wrong name in its schema, and then the worker's built-in
// records are lost with it. So the producer holds a declaration against the same rules first, where
// the person who wrote it reads the sentence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <rankbus/bus/directory.hpp>
#include <rankbus/bus/limits.hpp>
#include <rankbus/bus/schema.hpp>

namespace rankbus::bus {

// 1 to 128 of [a-zA-Z0-9_:], not a digit first: names of streams, fields and metrics.
inline bool is_name(const char* text, std::size_t bytes) noexcept {
  if (bytes == 0 || bytes > kMaxNameBytes || (text[0] >= '0' && text[0] <= '9')) return false;
  for (std::size_t i = 0; i < bytes; ++i) {
    const char c = text[i];
    const bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '_' || c == ':';
    if (!ok) return false;
  }
  return true;
}

// Label names are names without a colon.
inline bool is_label_name(const char* text, std::size_t bytes) noexcept {
  return is_name(text, bytes) && std::memchr(text, ':', bytes) == nullptr;
}

// Labels that readers put on every series; a record's label of that name would be lost, and with it
// the counts that it tells apart.
inline bool is_reserved_label(const char* text, std::size_t bytes) noexcept {
  constexpr const char* kReserved[] = {"engine", "model_name", "server", "role",    "rank",
                                       "lane",   "stream",     "le",     "quantile"};
  if (bytes >= 2 && text[0] == '_' && text[1] == '_') return true;
  for (const char* reserved : kReserved) {
    if (std::strlen(reserved) == bytes && std::memcmp(text, reserved, bytes) == 0) return true;
  }
  return false;
}

// Sequences of lead and continuation bytes; what they encode is the business of whoever prints it.
inline bool is_utf8(const char* text, std::size_t bytes) noexcept {
  for (std::size_t i = 0; i < bytes;) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80       ? 1
                               : lead >> 5 == 6  ? 2
                               : lead >> 4 == 14 ? 3
                               : lead >> 3 == 30 ? 4
                                                 : 0;
    if (length == 0 || length > bytes - i) return false;
    for (std::size_t k = 1; k < length; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

// Text of at most `most` bytes; null is no text.
inline bool is_bounded_utf8(const char* text, std::size_t most) noexcept {
  return text != nullptr && strnlen(text, most + 1) <= most && is_utf8(text, std::strlen(text));
}

// Whether one of the words of `list`, which stand between spaces, is `word`.
inline bool names_word(const char* list, const char* word) noexcept {
  const std::size_t length = std::strlen(word);
  for (const char* at = list; *at != '\0';) {
    const std::size_t bytes = std::strcspn(at, " ");
    if (bytes == length && std::memcmp(at, word, bytes) == 0) return true;
    at += bytes;
    at += std::strspn(at, " ");
  }
  return false;
}

// Whether every word of `list` is the name of a label field.
inline bool names_labels(const char* list, const FieldSpec* fields,
                         std::uint32_t field_count) noexcept {
  for (const char* at = list + std::strspn(list, " "); *at != '\0';) {
    const std::size_t bytes = std::strcspn(at, " ");
    bool found = false;
    for (std::uint32_t i = 0; i < field_count; ++i) {
      found = found || (fields[i].kind == Kind::label && std::strlen(fields[i].name) == bytes &&
                        std::memcmp(fields[i].name, at, bytes) == 0);
    }
    if (!found) return false;
    at += bytes;
    at += std::strspn(at, " ");
  }
  return true;
}

// What is wrong with one field, or null.
inline const char* fault_of_field(const FieldSpec& field, const FieldSpec* fields,
                                  std::uint32_t field_count) noexcept {
  const auto is_known = [](const char* text) { return text != nullptr && text[0] != '\0'; };
  const auto length = [](const char* text) { return strnlen(text, kMaxNameBytes + 1); };
  if (!is_known(field.name) || !is_name(field.name, length(field.name))) {
    return "a name is 1 to 128 of [a-zA-Z0-9_:] and begins with no digit";
  }
  if (!is_bounded_utf8(field.help, kMaxHelpBytes)) return "help is at most 512 bytes of UTF-8";
  if (is_known(field.metric) && !is_name(field.metric, length(field.metric))) {
    return "a metric's name is 1 to 128 of [a-zA-Z0-9_:] and begins with no digit";
  }
  if (is_known(field.fixed_label) && !is_label_name(field.fixed_label, length(field.fixed_label))) {
    return "a label's name is 1 to 128 of [a-zA-Z0-9_] and begins with no digit";
  }
  if (!is_bounded_utf8(field.fixed_value, kMaxLabelTextBytes)) {
    return "a label's value is at most 1024 bytes of UTF-8";
  }
  if (field.capacity == 0 || (field.capacity > 1 && type_bytes(field.type) != 8)) {
    return "an array has room for at least 2 elements of 8 bytes";
  }
  if (field.kind == Kind::label &&
      (field.capacity != 1 || !is_label_name(field.metric, length(field.metric)) ||
       !is_bounded_utf8(field.domain, kMaxSchemaBytes))) {
    return "a label is a scalar, exposed under a name of [a-zA-Z0-9_], with a domain in UTF-8";
  }
  const char* own_label = field.kind == Kind::label ? field.metric : field.fixed_label;
  if (is_known(own_label) && is_reserved_label(own_label, length(own_label))) {
    return "a label of that name is put on every series by the aggregator, or by Prometheus";
  }
  if (field.kind == Kind::info &&
      (field.capacity < 2 || field.type != Type::u64 || !is_known(field.metric))) {
    return "info is an exposed array of std::uint64_t";
  }
  if (field.indexed && (field.kind != Kind::counter || field.capacity < 2 ||
                        !is_known(field.fixed_label) || is_known(field.fixed_value))) {
    return "only an array of counters has an index, and a label that bears it";
  }
  if (is_known(field.by) && !names_labels(field.by, fields, field_count)) {
    return "split_by names what is no label field of the record type";
  }
  return nullptr;
}

// Judges a declaration; false with a reason that names the field.
inline bool judge_declaration(const char* name, const char* help, const FieldSpec* fields,
                              std::uint32_t field_count, Reason& why) noexcept {
  if (name == nullptr || !is_name(name, strnlen(name, kMaxNameBytes + 1)) ||
      !is_bounded_utf8(help, kMaxHelpBytes) || field_count == 0 ||
      field_count > kMaxFieldsPerStream) {
    why.set(
        "record type %.128s: %u fields, expected 1 to %u, a name of 1 to %u of [a-zA-Z0-9_:], and "
        "help of at most %u bytes",
        name == nullptr ? "" : name, field_count, kMaxFieldsPerStream, kMaxNameBytes,
        kMaxHelpBytes);
    return false;
  }
  for (std::uint32_t i = 0; i < field_count; ++i) {
    const char* fault = fault_of_field(fields[i], fields, field_count);
    if (fault == nullptr) continue;
    why.set("record type %s, field %.128s: %s", name,
            fields[i].name == nullptr ? "" : fields[i].name, fault);
    return false;
  }
  return true;
}

}  // namespace rankbus::bus
