// Records for tests of the bus: a record type that uses every feature of a declaration, in a
// namespace that is not ours, and seeded records of any type, with values chosen to hurt.
//
// C++17 and no test framework, because a test compiles it into workers with options of their own
// (property_fast_math.cpp). Doubles are made of bits, so that no such option can change them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <rankbus/producer.hpp>
#include <type_traits>
#include <vector>

namespace llm_engine {

enum class Pool : std::uint8_t { small = 1, large };

inline constexpr double kWattValues[] = {0.5, 1, 2.5, 10, 100};
inline constexpr rankbus::bus::Bounds kWatts = rankbus::bus::bounds_of(kWattValues, -2, 3);
inline constexpr double kTinyValues[] = {1e-6};
inline constexpr rankbus::bus::Bounds kTiny = rankbus::bus::bounds_of(kTinyValues, -20, -19);

// clang-format off
#define LLM_ENGINE_SWAP_ROWS(FIELD, OPTIONAL, ARRAY)                                                   \
  FIELD(std::uint64_t, stamp, stamp(), "When the swap ended")                                          \
  FIELD(Pool, pool, label("pool", "small\nlarge"), "Which pool")                                       \
  FIELD(std::uint16_t, adapter, label("adapter"), "Name of the adapter, interned")                     \
  FIELD(std::uint8_t, tries, counter("engine_tries_total"), "Tries")                                   \
  FIELD(std::uint16_t, pages, counter("engine_pages_total"), "Pages")                                  \
  FIELD(std::uint32_t, blocks, counter("engine_blocks_total").split_by("pool"), "Blocks")              \
  FIELD(std::uint64_t, swapped_bytes, counter("engine_swapped_bytes_total").in(Unit::bytes).split_by("adapter"), "Bytes") \
  FIELD(std::int64_t, balance, counter("engine_balance_total"), "Signed amounts")                      \
  FIELD(double, joules, counter("engine_joules_total").split_by("adapter"), "Energy")                  \
  FIELD(std::uint64_t, uptime_ns, running_total("engine_uptime_seconds_total").in(Unit::nanoseconds), "Up") \
  FIELD(double, wear, running_total("engine_wear_total"), "Wear")                                      \
  FIELD(double, watts, gauge("engine_watts").reduced(Reduction::max), "Power")                         \
  FIELD(std::int64_t, offset, gauge("engine_offset").split_by("pool"), "Offset")                       \
  FIELD(std::uint8_t, level, gauge("engine_level"), "Level")                                           \
  FIELD(double, draw, distribution("engine_draw", ::llm_engine::kWatts).split_by("adapter"), "Draw")   \
  OPTIONAL(std::uint64_t, wait_ns, distribution("engine_wait_seconds", ::rankbus::bounds::kStep).in(Unit::nanoseconds), "Wait") \
  FIELD(std::int64_t, skew_ns, distribution("engine_skew_seconds", ::llm_engine::kTiny).in(Unit::nanoseconds), "Skew") \
  FIELD(std::uint16_t, batch, distribution("engine_batch", ::rankbus::bounds::kIterationTokens), "Batch") \
  ARRAY(double, 4, latencies, distribution("engine_latency_seconds", ::rankbus::bounds::kInterTokenLatency).in(Unit::seconds), "Latency") \
  ARRAY(std::uint64_t, 3, sizes, counter("engine_sizes_total"), "Sizes")                               \
  ARRAY(double, 2, heats, counter("engine_heat_total").split_by("pool"), "Heat")                       \
  ARRAY(std::int64_t, 5, drifts, distribution("engine_drift", ::llm_engine::kWatts), "Drift")          \
  FIELD(std::uint32_t, note, id(), "No totals")

// Every field follows from the record's number, so a reader that sees one torn record knows it.
#define LLM_ENGINE_TILE_ROWS(FIELD, OPTIONAL, ARRAY)                            \
  FIELD(std::uint64_t, number, stamp(), "The record's own number, from 1")      \
  FIELD(std::uint64_t, a, counter("tile_a_total"), "First")                     \
  FIELD(std::uint64_t, b, counter("tile_b_total"), "Second")                    \
  FIELD(double, c, counter("tile_c_total"), "Third")                            \
  FIELD(std::uint64_t, d, distribution("tile_d", ::llm_engine::kWatts), "Last")

// The same without totals.
#define LLM_ENGINE_MARK_ROWS(FIELD, OPTIONAL, ARRAY)                            \
  FIELD(std::uint64_t, number, stamp(), "The record's own number, from 1")      \
  FIELD(std::uint64_t, a, id(), "First")                                        \
  FIELD(std::uint64_t, b, id(), "Second")

// Totals that follow from the number of records by a formula.
#define LLM_ENGINE_TALLY_ROWS(FIELD, OPTIONAL, ARRAY)                           \
  FIELD(std::uint64_t, number, stamp(), "The record's own number, from 1")      \
  FIELD(std::uint64_t, one, counter("tally_records_total"), "One")              \
  FIELD(std::uint64_t, index, counter("tally_indices_total"), "Numbers from 0") \
  FIELD(std::uint64_t, low, distribution("tally_low", ::llm_engine::kWatts), "The number modulo 4")
// clang-format on

RANKBUS_RECORD(Tally, "tally", 1, "A record whose totals are known", LLM_ENGINE_TALLY_ROWS)
RANKBUS_RECORD(Swap, "swap", 2, "A record that uses everything", LLM_ENGINE_SWAP_ROWS)
RANKBUS_RECORD(Tile, "tile", 1, "A record that shows tears", LLM_ENGINE_TILE_ROWS)
RANKBUS_RECORD(Mark, "mark", 1, "A sample that shows tears", LLM_ENGINE_MARK_ROWS)

}  // namespace llm_engine

namespace bus_test {

using rankbus::bus::bits_of;
using rankbus::bus::double_of;

// splitmix64: a few lines, the same on every machine.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t limit) { return next() % limit; }
  bool one_in(std::uint64_t limit) { return below(limit) == 0; }

 private:
  std::uint64_t state_;
};

inline std::uint64_t mixed(std::uint64_t number) {
  return Dice(number).next();
}

inline llm_engine::Tile tile(std::uint64_t number) {
  llm_engine::Tile record;
  record.number = number + 1;
  record.a = mixed(number) >> 32;
  record.b = mixed(number) & 0xffff;
  // Sixteenths add up without rounding, in any order.
  record.c = static_cast<double>(mixed(number) & 0xfff) / 16;
  record.d = mixed(number) & 0x7f;
  return record;
}
inline llm_engine::Mark mark(std::uint64_t number) {
  llm_engine::Mark record;
  record.number = number + 1;
  record.a = mixed(number);
  record.b = ~mixed(number);
  return record;
}

inline llm_engine::Tally tally(std::uint64_t number) {
  llm_engine::Tally record;
  record.number = number + 1;
  record.one = 1;
  record.index = number;
  record.low = number % 4;
  return record;
}

enum class Temper {
  tame,  // Amounts as real servers have them; doubles are multiples of 1/1024, so sums are exact.
  hostile,  // Anything that the type can hold, and bounds with their neighbours.
};

// One of the bounds of a field, or a number right beside it, as bits.
inline std::uint64_t near_a_bound(const rankbus::bus::Bounds& bounds, Dice& dice) {
  double bound = 1;
  if (bounds.count > 0 && dice.one_in(2)) {
    bound = bounds.values[dice.below(bounds.count)];
  } else {
    const auto octaves = static_cast<std::uint64_t>(bounds.native_last - bounds.native_first) + 1;
    bound = rankbus::bus::kEighthPowers[dice.below(8)] *
            rankbus::bus::power_of_two(bounds.native_first + static_cast<int>(dice.below(octaves)));
  }
  return bits_of(bound) + dice.below(3) - 1;
}

inline std::uint64_t hostile_double(const rankbus::bus::Bounds& bounds, Dice& dice) {
  constexpr std::uint64_t kSign = 0x8000000000000000ull;
  constexpr std::uint64_t kSpecial[] = {
      0,
      kSign,                  // -0.0
      1,                      // The smallest subnormal.
      kSign | 1,              // ... and its negative.
      0x000fffffffffffffull,  // The largest subnormal.
      0x0010000000000000ull,  // The smallest normal.
      0x7fefffffffffffffull,  // The largest finite.
      0xffefffffffffffffull,  // ... and its negative.
      0x7ff0000000000000ull,  // Infinities.
      0xfff0000000000000ull,
      0x7ff8000000000000ull,  // NaNs, quiet and signalling.
      0xfff8000000000001ull,
      0x7ff0000000000001ull,
      rankbus::bus::kAbsentBits,
  };
  switch (dice.below(8)) {
    case 0:
      return kSpecial[dice.below(sizeof kSpecial / sizeof kSpecial[0])];
    case 1:
      return dice.next();  // Any bits.
    case 2:
      return near_a_bound(bounds, dice) | (dice.one_in(4) ? kSign : 0);
    case 3:
    case 4:
      return near_a_bound(bounds, dice);
    default:
      // From 2^-24 to 2^24, where most bounds are.
      return (1023 - 24 + dice.below(48)) << 52 | dice.next() >> 12;
  }
}

inline std::uint64_t tame_double(Dice& dice) {
  return bits_of(static_cast<double>(dice.next() >> (44 + dice.below(14))) / 1024);
}

inline std::uint64_t hostile_integer(const rankbus::bus::FieldSpec& spec, Dice& dice) {
  switch (dice.below(6)) {
    case 0:
      return ~std::uint64_t{0};  // Absent, or the nearest that the type has.
    case 1:
      return 0;
    case 2:
      return dice.next();
    case 3:
      return dice.next() >> dice.below(64);
    default:
      break;
  }
  const double scale = spec.unit == rankbus::bus::Unit::nanoseconds ? 1e9 : 1;
  const std::uint64_t bits = near_a_bound(spec.bounds, dice) & 0x7fffffffffffffffull;
  const double near = double_of(bits) * scale;
  return static_cast<std::uint64_t>(near < 1e18 ? near : 1e18) + dice.below(3) - 1;
}

// Makes records of a type, all from one seed.
template <class T>
class RecordMaker {
 public:
  RecordMaker(std::uint64_t seed, Temper temper) : dice_(seed), temper_(temper) {}

  // The arrays of the record live as long as the maker.
  T make() {
    T record;
    T::RankbusRecord::visit(record, *this);
    return record;
  }

  template <unsigned I, class V>
  void scalar(V& value) {
    constexpr rankbus::bus::FieldSpec kSpec = T::RankbusRecord::kFields[I];
    if constexpr (kSpec.kind == rankbus::bus::Kind::label) {
      // A handful of values; `hostile` uses up the label rows.
      value = static_cast<V>(dice_.below(temper_ == Temper::tame ? 4 : 9));
    } else {
      value = number<V>(kSpec);
    }
  }
  template <unsigned I, class V>
  void array(rankbus::Values<V>& values) {
    constexpr rankbus::bus::FieldSpec kSpec = T::RankbusRecord::kFields[I];
    // Empty, part of a slot, exactly full, one more, and several slots.
    const std::uint64_t room = kSpec.capacity;
    const std::uint64_t sizes[] = {0, dice_.below(room), room, room + 1, dice_.below(3 * room)};
    const std::uint64_t size = sizes[dice_.below(5)];
    auto& kept = storage<V>();
    kept.emplace_back();
    for (std::uint64_t i = 0; i < size; ++i) kept.back().push_back(number<V>(kSpec));
    values = rankbus::Values<V>(kept.back());
  }

 private:
  template <class V>
  V number(const rankbus::bus::FieldSpec& spec) {
    const bool hostile = temper_ == Temper::hostile;
    if constexpr (std::is_same<V, double>::value) {
      return double_of(hostile ? hostile_double(spec.bounds, dice_) : tame_double(dice_));
    } else {
      if (hostile) return static_cast<V>(hostile_integer(spec, dice_));
      // Small enough that no sum of a test overflows, with a few large ones.
      return static_cast<V>(dice_.next() >> (48 + dice_.below(16)));
    }
  }
  template <class V>
  auto& storage() {
    if constexpr (std::is_same<V, double>::value) {
      return doubles_;
    } else if constexpr (std::is_signed<V>::value) {
      return integers_;
    } else {
      return counts_;
    }
  }

  Dice dice_;
  Temper temper_;
  std::deque<std::vector<double>> doubles_;
  std::deque<std::vector<std::uint64_t>> counts_;
  std::deque<std::vector<std::int64_t>> integers_;
};

// An endless sequence of records: call n takes the n-th of a few hundred, with a stamp of its own.
// Making them once lets writers run at full speed.
template <class T>
class RecordSequence {
 public:
  RecordSequence(std::uint64_t seed, Temper temper, std::size_t distinct = 512)
      : maker_(seed, temper) {
    for (std::size_t i = 0; i < distinct; ++i) records_.push_back(maker_.make());
  }
  RecordSequence(const RecordSequence&) = delete;
  RecordSequence& operator=(const RecordSequence&) = delete;

  T call(std::uint64_t n) const {
    T record = records_[n % records_.size()];
    StampSetter setter{stamp_of(n)};
    T::RankbusRecord::visit(record, setter);
    return record;
  }
  // A second passes every fifty records or so, whatever the clock, so that checkpoints come both by
  // records and by time.
  static std::uint64_t stamp_of(std::uint64_t n) { return (n + 1) * 40'000'003; }
  std::size_t distinct() const { return records_.size(); }

 private:
  struct StampSetter {
    std::uint64_t stamp;
    template <unsigned I, class V>
    void scalar(V& value) {
      if constexpr (I == 0) value = static_cast<V>(stamp);
    }
    template <unsigned I, class V>
    void array(rankbus::Values<V>&) {}
  };

  RecordMaker<T> maker_;
  std::vector<T> records_;
};

}  // namespace bus_test
