// Random numbers that are the same numbers everywhere.
//
// The standard fixes its generators but not its distributions, and a truth file must not depend on
// whose library built the simulator. So the distributions stand here, made only of operations that
// IEEE 754 rounds exactly (+ - * / sqrt); the library is built without floating-point contraction.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace rankbus::simulator {

// Scrambles 64 bits so that neighbouring inputs give unrelated outputs (the finaliser of
// splitmix64).
constexpr std::uint64_t mix64(std::uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

inline constexpr std::uint64_t kGoldenGamma = 0x9e3779b97f4a7c15u;

constexpr std::uint64_t hash_pair(std::uint64_t left, std::uint64_t right) {
  return mix64(mix64(left + kGoldenGamma) ^ (right * kGoldenGamma + 1));
}

// Natural logarithm of a positive, normal number, to about one unit in the last place.
inline double portable_log(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // Exact by definition.
  if (mantissa < 0.70710678118654752) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);
  const double s2 = s * s;
  double series = 0;
  for (int k = 25; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  return 2 * s * series + exponent * 0.69314718055994531;
}

// e to the power of x for |x| < 700, to about one unit in the last place.
inline double portable_exp(double x) {
  const double whole = std::floor(x / 0.69314718055994531 + 0.5);
  const double rest = x - whole * 0.69314718055994531;
  double series = 1;
  for (int k = 18; k >= 1; --k) series = 1 + series * rest / k;
  return std::ldexp(series, static_cast<int>(whole));
}

// One independent sequence per (seed, stream).
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream) : state_(hash_pair(seed, stream)) {}

  std::uint64_t next() { return mix64(state_ += kGoldenGamma); }

  // Strictly between 0 and 1, so that a logarithm may be taken.
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }

  // 0 to bound-1. The bias of the remainder is below bound / 2^64.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }

  bool chance(double probability) { return uniform() < probability; }

  double exponential(double mean) { return -mean * portable_log(uniform()); }

  // Marsaglia's polar method; the second value of each pair is thrown away to keep no state.
  double normal() {
    for (;;) {
      const double x = 2 * uniform() - 1;
      const double y = 2 * uniform() - 1;
      const double square = x * x + y * y;
      if (square > 0 && square < 1) return x * std::sqrt(-2 * portable_log(square) / square);
    }
  }

  double log_normal(double median, double sigma) { return median * portable_exp(sigma * normal()); }

 private:
  std::uint64_t state_;
};

}  // namespace rankbus::simulator
