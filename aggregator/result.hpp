// aggregator/result.hpp: a value, or the sentence that says why there is none.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace rankbus {

struct Error {
  std::string message;
};

// Small, because std::expected is not in C++20.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  explicit operator bool() const { return state_.index() == 0; }
  T& value() { return std::get<0>(state_); }
  const T& value() const { return std::get<0>(state_); }
  const std::string& error() const { return std::get<1>(state_).message; }

 private:
  std::variant<T, Error> state_;
};

}  // namespace rankbus
