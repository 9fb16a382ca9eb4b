// producer/replay/json_fields.hpp: fields of a recorded call, as vLLM's dataclasses have them.
//
// Releases differ in their fields: what is missing or null is not told, and unknown keys are never
// looked at. What is there must be of the right kind, or the line is bad.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace rankbus::replay {

// Ordered, because vLLM joins the keys of some maps in their order.
using Json = nlohmann::ordered_json;

// A line that cannot be used; the message says which field, what was found and what was expected.
struct BadLine : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The member, or null if it is missing or null. Throws BadLine if `object` is no object.
const Json* member(const Json& object, const char* key);

// Integers of 0 and more; booleans count as 0 and 1. Missing: `otherwise`.
std::uint64_t whole(const Json& object, const char* key, std::uint64_t otherwise = 0);
std::uint32_t small(const Json& object, const char* key);
std::optional<std::int64_t> signed_whole(const Json& object, const char* key);
std::optional<double> real(const Json& object, const char* key);
std::optional<std::string> text(const Json& object, const char* key);
bool flag(const Json& object, const char* key);

// Lists; missing: empty. A null in one is a value that was not told, which nothing counts. A list
// of numbers that was counted only, such as vLLM's lists of ones, has its sum as count.
std::vector<double> reals(const Json& object, const char* key);
std::vector<std::uint64_t> wholes(const Json& object, const char* key);
std::uint64_t sum_of(const Json& object, const char* key);
// Elements of a list of objects; missing: empty.
std::vector<const Json*> objects(const Json& object, const char* key);

// A value as Python's str() prints it.
std::string python_text(const Json& value);

}  // namespace rankbus::replay
