// aggregator/result.hpp: a value, or the sentence that says why there is none. With snapshot.hpp
// the only header of this folder that exporters include.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace rankbus {

struct Error {
  std::string message;
  bool is_transient = false;  // The same attempt may succeed a moment later.
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
  T& operator*() { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  // Why there is no value; empty if there is one.
  std::string error() const { return *this ? std::string() : std::get<1>(state_).message; }
  bool is_transient() const { return !*this && std::get<1>(state_).is_transient; }

 private:
  std::variant<T, Error> state_;
};

}  // namespace rankbus
