// exporters/or_error.hpp: a value, or one sentence that says why there is none.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace rankbus {

template <typename T>
struct OrError {
  std::optional<T> value;
  std::string error;  // Empty if and only if there is a value.

  explicit operator bool() const { return value.has_value(); }
  T& operator*() { return *value; }
  T* operator->() { return &*value; }

  static OrError success(T result) { return {std::move(result), {}}; }
  static OrError failure(std::string why) { return {std::nullopt, std::move(why)}; }
};

}  // namespace rankbus
