// aggregator/reduced_stats.hpp: what a connector's reduce() gives, and sums of what strangers
// wrote.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace rankbus {

// In the order of the log line.
using ReducedStats = std::vector<std::pair<std::string, Number>>;

// Names that one value keeps apart. They come from segments, and a hostile one may make up any
// number of them.
inline constexpr std::size_t kMaxKeys = 64;

// Counts of strangers may be any 64 bits; a sum that stops is nearer the truth than one that wraps.
inline void add_saturating(std::uint64_t& sum, std::uint64_t value) {
  if (__builtin_add_overflow(sum, value, &sum)) sum = std::numeric_limits<std::uint64_t>::max();
}

// Integers stay integers, as in Python, unless they leave 64 bits.
inline Number add_numbers(const Number& left, const Number& right) {
  return std::visit(
      []<class A, class B>(A a, B b) -> Number {
        if constexpr (std::is_integral_v<A> && std::is_integral_v<B>) {
          std::conditional_t<std::is_same_v<A, B>, A, std::int64_t> sum = 0;
          if (!__builtin_add_overflow(a, b, &sum)) return sum;
        }
        return static_cast<double>(a) + static_cast<double>(b);
      },
      left, right);
}

inline double as_double(const Number& number) {
  return std::visit([](auto value) { return static_cast<double>(value); }, number);
}

inline bool is_finite(const Number& number) {
  const auto* value = std::get_if<double>(&number);
  return value == nullptr || std::isfinite(*value);
}

}  // namespace rankbus
