#include <charconv>
#include <cmath>
#include <rankbus/bus/schema.hpp>
#include <rankbus/producer/replay/json_fields.hpp>

namespace rankbus::replay {
namespace {

using bus::absent;

[[noreturn]] void refuse(const char* key, const Json& found, const char* expected) {
  std::string shown = found.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr std::size_t kMostShown = 60;
  if (shown.size() > kMostShown) shown = shown.substr(0, kMostShown) + "...";
  throw BadLine(std::string(key) + ": found " + shown + ", expected " + expected);
}

std::uint64_t whole_of(const char* key, const Json& value) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number >= 0 && number < 0x1p63 && number == std::floor(number))
      return static_cast<std::uint64_t>(number);
  }
  refuse(key, value, "an integer of 0 or more");
}

double real_of(const char* key, const Json& value) {
  if (!value.is_number()) refuse(key, value, "a number");
  return value.get<double>();
}

const Json& list_of(const char* key, const Json& value) {
  if (!value.is_array()) refuse(key, value, "a list");
  return value;
}

}  // namespace

const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) refuse(key, object, "an object around it");
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::uint64_t whole(const Json& object, const char* key, std::uint64_t otherwise) {
  const Json* value = member(object, key);
  return value == nullptr ? otherwise : whole_of(key, *value);
}

std::uint32_t small(const Json& object, const char* key) {
  const std::uint64_t value = whole(object, key);
  if (value >= 0xffffffff) refuse(key, *member(object, key), "an integer below 2^32 - 1");
  return static_cast<std::uint32_t>(value);
}

std::optional<std::int64_t> signed_whole(const Json& object, const char* key) {
  const Json* value = member(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer()) refuse(key, *value, "an integer");
  return value->get<std::int64_t>();
}

std::optional<double> real(const Json& object, const char* key) {
  const Json* value = member(object, key);
  if (value == nullptr) return std::nullopt;
  return real_of(key, *value);
}

std::optional<std::string> text(const Json& object, const char* key) {
  const Json* value = member(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse(key, *value, "a string");
  return value->get<std::string>();
}

bool flag(const Json& object, const char* key) {
  return whole(object, key) != 0;
}

std::vector<double> reals(const Json& object, const char* key) {
  std::vector<double> values;
  if (const Json* list = member(object, key)) {
    for (const Json& value : list_of(key, *list))
      values.push_back(value.is_null() ? absent<double>() : real_of(key, value));
  }
  return values;
}

std::vector<std::uint64_t> wholes(const Json& object, const char* key) {
  std::vector<std::uint64_t> values;
  if (const Json* list = member(object, key)) {
    for (const Json& value : list_of(key, *list))
      values.push_back(value.is_null() ? absent<std::uint64_t>() : whole_of(key, value));
  }
  return values;
}

std::uint64_t sum_of(const Json& object, const char* key) {
  const Json* value = member(object, key);
  if (value != nullptr && !value->is_array()) return whole_of(key, *value);
  std::uint64_t sum = 0;
  for (const std::uint64_t each : wholes(object, key)) {
    if (each != absent<std::uint64_t>()) sum += each;
  }
  return sum;
}

std::vector<const Json*> objects(const Json& object, const char* key) {
  std::vector<const Json*> found;
  if (const Json* list = member(object, key)) {
    for (const Json& value : list_of(key, *list)) {
      if (!value.is_object()) refuse(key, value, "an object");
      found.push_back(&value);
    }
  }
  return found;
}

std::string python_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_number_float()) {
    char digits[64];
    const double number = value.get<double>();
    const auto [end, error] = std::to_chars(digits, digits + sizeof digits, number);
    std::string out(digits, end);
    if (out.find_first_not_of("-0123456789") == std::string::npos) out += ".0";
    return out;
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace rankbus::replay
