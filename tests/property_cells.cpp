// Goal:   an observation lands in the cell that a linear search through the bounds gives, for every
//         set of bounds that we declare and for random ones.
// Method: millions of seeded values, among them every bound, its neighbours, the edges of the
//         table's bins and the ends of the number line, against a loop over bounds that the test
//         derives itself.
// Replay: RANKBUS_TEST_SEED=<printed> property_cells [--gtest_filter=...]
#include "bus_fixture.hpp"

namespace bus_test {
namespace {

using rankbus::bus::build_cell_table;
using rankbus::bus::CellTable;
using rankbus::bus::FieldSpec;

std::uint32_t linear_cell(const std::vector<double>& bounds, double value) {
  if (value < std::numeric_limits<double>::min()) return 0;  // Subnormals count as zero.
  std::uint32_t i = 0;
  while (i < bounds.size() && value > bounds[i]) ++i;
  return 1 + i;
}

// Values where a search could go wrong.
std::vector<double> corners(const std::vector<double>& bounds) {
  std::vector<double> values{0.0,
                             -0.0,
                             -1.0,
                             std::numeric_limits<double>::denorm_min(),
                             -std::numeric_limits<double>::denorm_min(),
                             std::numeric_limits<double>::min(),
                             std::nextafter(std::numeric_limits<double>::min(), 0.0),
                             std::numeric_limits<double>::max(),
                             std::numeric_limits<double>::lowest(),
                             std::numeric_limits<double>::infinity(),
                             0x1p63,
                             0x1p64};
  const auto add = [&](double value) {
    for (std::uint64_t ulp = 0; ulp < 7; ++ulp) {
      values.push_back(double_of(bits_of(value) + ulp - 3));
    }
  };
  for (const double bound : bounds) add(bound);
  // The search looks exponent and top mantissa bits up in a table: the edges of its bins, and far
  // beyond both ends.
  for (int exponent = -70; exponent <= 70; ++exponent) {
    for (int bin = 0; bin < 32; ++bin) add(std::ldexp(1.0 + bin / 32.0, exponent));
  }
  return values;
}

void expect_linear(const CellTable& table, const std::vector<double>& bounds, Dice& dice,
                   std::uint64_t values) {
  for (const double value : corners(bounds)) {
    ASSERT_EQ(table.cell_of(value), linear_cell(bounds, value)) << std::hexfloat << value;
  }
  const double low = bounds.front();
  const double high = bounds.back();
  const int first = std::ilogb(low) - 2;
  const int octaves = std::ilogb(high) + 2 - first + 1;
  for (std::uint64_t i = 0; i < values; ++i) {
    const double mantissa = double_of(std::uint64_t{1023} << 52 | dice.next() >> 12);
    const int exponent = first + static_cast<int>(dice.below(static_cast<std::uint64_t>(octaves)));
    double value = std::ldexp(mantissa, exponent);
    if (dice.one_in(4)) value = std::floor(value);
    ASSERT_EQ(table.cell_of(value), linear_cell(bounds, value)) << std::hexfloat << value;
  }
}

template <class T>
void expect_fields_linear(std::uint64_t max_model_len, std::set<std::vector<double>>& seen,
                          Dice& dice) {
  for (const FieldSpec& spec : T::RankbusRecord::kFields) {
    if (spec.kind != Kind::distribution) continue;
    const std::vector<double> bounds = cell_bounds(spec, max_model_len);
    if (!seen.insert(bounds).second) continue;
    SCOPED_TRACE(std::string(spec.metric) + ", max_model_len " + std::to_string(max_model_len));
    double scratch[64];
    const rankbus::bus::Bounds given = rankbus::bus::resolved_bounds(spec, max_model_len, scratch);
    const auto table = std::make_unique<CellTable>();
    std::vector<std::uint16_t> classic(given.count);
    ASSERT_TRUE(build_cell_table(*table, given.values, given.count, given.native_first,
                                 given.native_last, spec.unit, classic.data()));
    ASSERT_EQ(std::vector<double>(table->bounds, table->bounds + table->bound_count), bounds);
    for (std::uint32_t c = 0; c < given.count; ++c) {
      const double stored =
          spec.unit == rankbus::bus::Unit::nanoseconds ? given.values[c] * 1e9 : given.values[c];
      EXPECT_NEAR(table->bounds[classic[c] - 1], stored, stored * 1e-12);
    }
    expect_linear(*table, bounds, dice, scaled(250'000));
  }
}

TEST(Cells, EveryDeclaredSetOfBounds_AgreesWithALinearSearch) {
  Dice dice(test_seed());
  std::set<std::vector<double>> seen;
  for (const std::uint64_t length : {0U, 1U, 7U, 4096U, 131072U, 1'000'000U, 1'048'576U}) {
    expect_fields_linear<rankbus::SchedulerStep>(length, seen, dice);
    expect_fields_linear<rankbus::IterationStats>(length, seen, dice);
    expect_fields_linear<rankbus::FinishedRequest>(length, seen, dice);
    expect_fields_linear<rankbus::WorkerStep>(length, seen, dice);
    expect_fields_linear<llm_engine::Swap>(length, seen, dice);
  }
  EXPECT_GE(seen.size(), 14u);
}

TEST(Cells, RandomBounds_AreRefusedOrAgreeWithALinearSearch) {
  Dice dice(test_seed() + 1);
  std::uint64_t accepted = 0;
  for (std::uint64_t round = 0; round < scaled(400); ++round) {
    // Beyond some minutes, a bound's own rounding is as large as a nanosecond.
    const bool in_ns = dice.one_in(2);
    const int top = in_ns ? 8 : 12;
    std::set<double> classic;
    for (std::uint64_t i = dice.below(40); i > 0; --i) {
      classic.insert(std::ldexp(1.0 + static_cast<double>(dice.below(1024)) / 1024,
                                top - static_cast<int>(dice.below(24))));
    }
    FieldSpec spec;
    const std::vector<double> given(classic.begin(), classic.end());
    spec.bounds.values = given.data();
    spec.bounds.count = static_cast<std::uint32_t>(given.size());
    const int first = top - static_cast<int>(dice.below(24));
    spec.bounds.native_first = static_cast<std::int16_t>(first);
    spec.bounds.native_last = static_cast<std::int16_t>(
        first + static_cast<int>(dice.below(static_cast<std::uint64_t>(top - first) + 1)));
    spec.unit = in_ns ? rankbus::bus::Unit::nanoseconds : rankbus::bus::Unit::none;
    const auto table = std::make_unique<CellTable>();
    if (!build_cell_table(*table, spec.bounds.values, spec.bounds.count, spec.bounds.native_first,
                          spec.bounds.native_last, spec.unit)) {
      continue;
    }
    ++accepted;
    const std::vector<double> bounds = cell_bounds(spec, 0);
    ASSERT_EQ(std::vector<double>(table->bounds, table->bounds + table->bound_count), bounds);
    ASSERT_NO_FATAL_FAILURE(expect_linear(*table, bounds, dice, 500));
  }
  EXPECT_GT(accepted, scaled(100));
}

TEST(Cells, UnusableBounds_AreRefused) {
  const auto table = std::make_unique<CellTable>();
  const auto builds = [&](std::vector<double> classic, int first, int last,
                          rankbus::bus::Unit unit = rankbus::bus::Unit::none) {
    return build_cell_table(*table, classic.data(), static_cast<std::uint32_t>(classic.size()),
                            first, last, unit);
  };
  constexpr auto kNanoseconds = rankbus::bus::Unit::nanoseconds;
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(builds({1, 2}, 0, 1));
  EXPECT_TRUE(builds({}, 0, 0));
  EXPECT_FALSE(builds({2, 1}, 0, 1)) << "descending";
  EXPECT_FALSE(builds({1, 1}, 0, 1)) << "twice";
  EXPECT_FALSE(builds({0, 1}, 0, 1)) << "zero";
  EXPECT_FALSE(builds({-1, 1}, 0, 1)) << "negative";
  EXPECT_FALSE(builds({1, inf}, 0, 1)) << "infinite";
  EXPECT_FALSE(builds({std::nan("")}, 0, 1)) << "not a number";
  EXPECT_FALSE(builds({1}, 1, 0)) << "native bounds descend";
  EXPECT_FALSE(builds({1}, -61, 0)) << "too small";
  EXPECT_FALSE(builds({1}, 0, 61)) << "too large";
  EXPECT_FALSE(builds({1}, -32, 32)) << "too many cells";
  EXPECT_FALSE(builds({1, 1e300}, 0, 1)) << "more octaves than the table has";
  // In nanoseconds: too long for 64 bits, and too short for one.
  EXPECT_FALSE(builds({1e300}, 0, 0, kNanoseconds));
  EXPECT_FALSE(builds({1, 1e10}, 0, 0, kNanoseconds));
  EXPECT_FALSE(builds({1}, 59, 60, kNanoseconds));
  EXPECT_FALSE(builds({1e-10}, -29, -29, kNanoseconds));
  EXPECT_FALSE(builds({1}, -60, -59, kNanoseconds));
  EXPECT_FALSE(builds({1e-300, 1}, 0, 0, kNanoseconds));
}

}  // namespace
}  // namespace bus_test
