// bus/cells.hpp: from an observation to its cell in a few nanoseconds.
//
// A distribution has one array of cells whose upper bounds (inclusive) are the union of its classic
// bucket bounds and of 2^(j/8), the bounds of a Prometheus native histogram of schema 3. Classic
// and native histograms are therefore exact sums of cells, and one search serves both.
//
//   cell 0            zero and below
//   cell 1 .. n       greater than the bound before, at most bound[i-1]
//   cell n+1          greater than the last bound
//
// The search is a table indexed by the exponent and the top mantissa bits of the value, followed by
// at most kMaxSteps compares without a branch. Bounds are kept in the *stored* unit, so that
// integer nanoseconds are compared exactly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <rankbus/bus/schema.hpp>

namespace rankbus::bus {

// 2^(j/8) for j = 0..7, the correctly rounded values that every schema 3 histogram uses.
inline constexpr double kEighthPowers[8] = {1.0,
                                            1.0905077326652577,
                                            1.1892071150027210,
                                            1.2968395546510096,
                                            1.4142135623730951,
                                            1.5422108254079407,
                                            1.6817928305074290,
                                            1.8340080864093424};

inline std::uint64_t bits_of(double value) noexcept {
  std::uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline double double_of(std::uint64_t bits) noexcept {
  double value = 0;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
// Tested in integers, because workers may be compiled with -ffast-math.
inline bool is_nan_or_infinite(std::uint64_t bits) noexcept {
  return (bits & 0x7ff0000000000000ull) == 0x7ff0000000000000ull;
}
// 2^exponent, without libm.
inline double power_of_two(int exponent) noexcept {
  return double_of(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

struct CellTable {
  static constexpr int kMantissaBits = 5;
  static constexpr int kBinsPerOctave = 1 << kMantissaBits;
  static constexpr int kMaxOctaves = 64;
  static constexpr std::uint32_t kMaxSteps = 8;

  std::uint32_t bound_count = 0;
  std::uint32_t steps = 0;  // Compares needed after the table, at most kMaxSteps.
  std::uint32_t bin_count = 0;
  std::int64_t first_bin = 0;        // Bin of the smallest bound: its bits >> (52 - kMantissaBits).
  double bounds[kMaxCellsPerField];  // Upper bounds in the stored unit, ascending.
  std::uint16_t bins[kMaxOctaves * kBinsPerOctave + 1];

  std::uint32_t cell_count() const noexcept { return bound_count + 2; }

  // Which cell an observation belongs to; `value` in the stored unit, not NaN. A value up to the
  // first bound but above zero lies in cell 1.
  std::uint32_t cell_of(double value) const noexcept {
    const std::uint64_t bits = bits_of(value);
    // Sign bit set or zero: zero and below. Subnormals count as zero, whatever the worker's
    // floating-point mode flushes.
    if (static_cast<std::int64_t>(bits) < static_cast<std::int64_t>(0x0010000000000000ull))
      return 0;
    std::int64_t bin = static_cast<std::int64_t>(bits >> (52 - kMantissaBits)) - first_bin;
    bin = bin < 0 ? 0 : bin;
    bin = bin > static_cast<std::int64_t>(bin_count) ? static_cast<std::int64_t>(bin_count) : bin;
    std::uint32_t index = bins[bin];
    // bounds[bound_count] is +Inf, so that the steps need no limit of their own.
    for (std::uint32_t i = 0; i < steps; ++i) index += value > bounds[index] ? 1u : 0u;
    return index + 1;
  }
};

// Builds the table of `bounds` (classic bounds given separately, in the exposed unit, because they
// may depend on the model). Returns false, with the table unusable, when the bounds are not
// positive, finite and ascending, or make more cells than the limit. `classic_cells`, when given,
// receives for each classic bound the cell whose upper bound it is.
inline bool build_cell_table(CellTable& table, const double* classic, std::uint32_t classic_count,
                             int native_first, int native_last, Unit unit,
                             std::uint16_t* classic_cells = nullptr) noexcept {
  table.bound_count = 0;
  if (native_first > native_last || native_first < -60 || native_last > 60) return false;
  for (std::uint32_t i = 0; i < classic_count; ++i) {
    if (is_nan_or_infinite(bits_of(classic[i])) || !(classic[i] > 0)) return false;
    if (i > 0 && !(classic[i] > classic[i - 1])) return false;
  }
  const int native_count = (native_last - native_first) * 8 + 1;
  std::uint32_t c = 0;
  int n = 0;
  while (c < classic_count || n < native_count) {
    const double native =
        n < native_count ? kEighthPowers[n % 8] * power_of_two(native_first + n / 8) : 0;
    double bound = 0;
    if (table.bound_count + 3 > kMaxCellsPerField) return false;
    if (n >= native_count || (c < classic_count && classic[c] <= native)) {
      if (classic_cells != nullptr) {
        classic_cells[c] = static_cast<std::uint16_t>(table.bound_count + 1);
      }
      bound = classic[c++];
      if (n < native_count && bound >= native) ++n;  // Equal: one cell serves both.
    } else {
      bound = native;
      ++n;
    }
    if (unit == Unit::nanoseconds) {
      // An integer count of nanoseconds is at most the bound exactly when it is at most its floor.
      // A bound of whole nanoseconds may lie a rounding error below its product with 1e9.
      const double scaled = bound * 1e9;
      if (!(scaled < 9e18)) return false;  // Beyond what counts of nanoseconds can be.
      const double nearest = static_cast<double>(static_cast<std::int64_t>(scaled + 0.5));
      const double gap = scaled > nearest ? scaled - nearest : nearest - scaled;
      bound =
          gap <= nearest * 1e-12 ? nearest : static_cast<double>(static_cast<std::int64_t>(scaled));
      // Bounds that share an integer share a cell boundary; the duplicate cell stays empty.
    }
    table.bounds[table.bound_count++] = bound;
  }
  if (table.bound_count == 0) return false;
  table.bounds[table.bound_count] = double_of(0x7ff0000000000000ull);

  constexpr int kShift = 52 - CellTable::kMantissaBits;
  table.first_bin = static_cast<std::int64_t>(bits_of(table.bounds[0]) >> kShift);
  const std::int64_t last_bin =
      static_cast<std::int64_t>(bits_of(table.bounds[table.bound_count - 1]) >> kShift);
  const std::int64_t bins = last_bin - table.first_bin + 1;
  if (bins > CellTable::kMaxOctaves * CellTable::kBinsPerOctave) return false;
  table.bin_count = static_cast<std::uint32_t>(bins);
  table.steps = 0;
  std::uint32_t next = 0;
  for (std::int64_t bin = 0; bin <= bins; ++bin) {
    const double low = double_of(static_cast<std::uint64_t>(table.first_bin + bin) << kShift);
    const double high = double_of(static_cast<std::uint64_t>(table.first_bin + bin + 1) << kShift);
    // The first bound that a value of this bin can be at most. Bin 0 also takes everything below.
    while (bin > 0 && next < table.bound_count && table.bounds[next] < low) ++next;
    table.bins[bin] = static_cast<std::uint16_t>(next);
    std::uint32_t inside = 0;
    for (std::uint32_t i = next; i < table.bound_count && table.bounds[i] < high; ++i) ++inside;
    if (inside > table.steps) table.steps = inside;
  }
  // In the last bin everything lies above every bound.
  table.bins[bins] = static_cast<std::uint16_t>(table.bound_count);
  return table.steps <= CellTable::kMaxSteps;
}

// vLLM's 1-2-5 series: 1, 2, 5, 10, ... up to the last value not above max_model_len. Returns how
// many were written; `out` needs room for 64. Source: vLLM, build_1_2_5_buckets.
inline std::uint32_t one_two_five(std::uint64_t max_model_len, double* out) noexcept {
  constexpr std::uint64_t kMantissas[3] = {1, 2, 5};
  std::uint32_t count = 0;
  std::uint64_t power = 1;
  while (power <= max_model_len) {
    for (const std::uint64_t mantissa : kMantissas) {
      if (mantissa * power > max_model_len) return count;
      out[count++] = static_cast<double>(mantissa * power);
    }
    if (power > 1'000'000'000'000'000'000ull / 10) return count;
    power *= 10;
  }
  return count;
}

}  // namespace rankbus::bus
