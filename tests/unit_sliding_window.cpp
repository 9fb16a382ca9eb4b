// The sliding window slot by slot: what is inside, what is not, and what time may do to it.
#include <gtest/gtest.h>

#include <cereal/archives/binary.hpp>
#include <cereal/types/vector.hpp>
#include <limits>
#include <rankbus/aggregator/analysis/event_rates.hpp>
#include <rankbus/aggregator/analysis/sliding_window.hpp>
#include <sstream>

namespace rankbus::test {
namespace {

constexpr std::int64_t kSecond_ns = 1'000'000'000;
constexpr auto kEnd_ns = std::numeric_limits<std::int64_t>::max();
constexpr auto kBeginning_ns = std::numeric_limits<std::int64_t>::min();

using Window = SlidingWindow<EventCount>;

bool add(Window& window, std::int64_t time_ns) {
  EventCount* slot = window.at(time_ns);
  if (slot != nullptr) ++slot->events;
  return slot != nullptr;
}
std::uint64_t events(const Window& window, std::int64_t now_ns) {
  return window.read(now_ns).events;
}

// S2-06: strictly newer than now - window.
TEST(SlidingWindow, EventAtTheWindowsEdge_IsOut) {
  Window window(60 * kSecond_ns, 60);
  add(window, 0);
  EXPECT_EQ(events(window, 0), 1u);
  EXPECT_EQ(events(window, 60 * kSecond_ns - 1), 1u);
  EXPECT_EQ(events(window, 60 * kSecond_ns), 0u);
}

TEST(SlidingWindow, LacksAtMostOneSlotOfYoungEnoughEvents) {
  Window window(60 * kSecond_ns, 60);
  for (std::int64_t tenth = 0; tenth < 2000; ++tenth) {
    const std::int64_t now_ns = tenth * kSecond_ns / 10;
    add(window, now_ns);
    const std::uint64_t exact = static_cast<std::uint64_t>(std::min<std::int64_t>(tenth + 1, 600));
    const std::uint64_t counted = events(window, now_ns);
    ASSERT_LE(counted, exact);
    ASSERT_GE(counted + 10, exact);
    const std::int64_t since_ns = window.covered_since(now_ns, window.window_ns());
    ASSERT_LE(now_ns - since_ns, 60 * kSecond_ns);
    ASSERT_GE(now_ns - since_ns, 59 * kSecond_ns);
  }
}

TEST(SlidingWindow, TimesBeforeZero_AreTimesAsOthers) {
  Window window(10 * kSecond_ns, 10);
  add(window, -15 * kSecond_ns);
  add(window, -1);
  EXPECT_EQ(events(window, -8 * kSecond_ns), 1u);
  EXPECT_EQ(events(window, 0), 1u);
}

TEST(SlidingWindow, ClockThatStandsStill_CountsEverything) {
  Window window(10 * kSecond_ns, 10);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(add(window, 5));
  EXPECT_EQ(events(window, 5), 1000u);
}

TEST(SlidingWindow, EndsOfTime_AreHarmless) {
  for (const std::int64_t slot_ns : {std::int64_t{1}, kSecond_ns}) {
    Window window(10 * slot_ns, 10);
    for (const std::int64_t time_ns : {kBeginning_ns + 1, kEnd_ns, std::int64_t{0}}) {
      add(window, time_ns);
      EXPECT_EQ(events(window, time_ns), 1u) << time_ns;
    }
    EXPECT_EQ(window.for_each(kEnd_ns, 0, [](const auto&, auto) {}), 0u);
    EXPECT_LE(window.for_each(kBeginning_ns, kEnd_ns, [](const auto&, auto) {}), 10u);
    EXPECT_LE(window.for_each(kEnd_ns, kEnd_ns, [](const auto&, auto) {}), 10u);
    EXPECT_EQ(window.reduce().events, 1u);
  }
}

// S2-13: one absurd stamp costs at most its own place in the ring.
TEST(SlidingWindow, StampFromTheFarFuture_NeitherEmptiesNorFreezes) {
  Window window(60 * kSecond_ns, 60);
  for (std::int64_t s = 0; s < 30; ++s) add(window, s * kSecond_ns);
  add(window, 1'000'000 * kSecond_ns);
  EXPECT_GE(events(window, 29 * kSecond_ns), 29u);
  std::uint64_t counted = 0;
  for (std::int64_t s = 30; s < 60; ++s) counted += add(window, s * kSecond_ns) ? 1 : 0;
  EXPECT_GE(counted, 29u);
  EXPECT_GE(events(window, 59 * kSecond_ns), 58u);
}

// S2-13: a clock that goes back, as no monotonic clock should.
TEST(SlidingWindow, ClockThatGoesBack_CountsOnWhereTimeIs) {
  Window window(60 * kSecond_ns, 60);
  for (std::int64_t s = 100; s < 130; ++s) add(window, s * kSecond_ns);
  for (std::int64_t s = 80; s < 100; ++s) EXPECT_TRUE(add(window, s * kSecond_ns));
  EXPECT_EQ(events(window, 129 * kSecond_ns), 50u);
  EXPECT_FALSE(add(window, 69 * kSecond_ns)) << "its place holds a later second by now";
}

TEST(SlidingWindow, LateEvent_JoinsItsOwnSlot) {
  Window window(60 * kSecond_ns, 60);
  add(window, 50 * kSecond_ns);
  EXPECT_TRUE(add(window, 10 * kSecond_ns));
  EXPECT_EQ(events(window, 60 * kSecond_ns), 2u);
  EXPECT_EQ(events(window, 75 * kSecond_ns), 1u);
}

TEST(SlidingWindow, EmptyOne_TakesTheOthersGeometry) {
  Window pooled;
  Window rank(10 * kSecond_ns, 5);
  add(rank, kSecond_ns);
  pooled.aggregate(rank);
  EXPECT_EQ(pooled, rank);
  EXPECT_EQ(pooled.slot_ns(), 2 * kSecond_ns);
}

TEST(SlidingWindow, UnequalGeometries_StayApartAndAreCounted) {
  Window window(60 * kSecond_ns, 60);
  Window other(10 * kSecond_ns, 5);
  add(window, kSecond_ns);
  add(other, kSecond_ns);
  window.aggregate(other);
  EXPECT_EQ(events(window, kSecond_ns), 1u);
  EXPECT_EQ(window.refused_merges(), 1u);
}

TEST(SlidingWindow, AbsurdGeometries_BecomePossibleOnes) {
  Window none(0, 0);
  EXPECT_TRUE(add(none, 5));
  EXPECT_EQ(events(none, 5), 1u);
  Window huge(kEnd_ns, ~std::size_t{0});
  EXPECT_TRUE(add(huge, 5));
  EXPECT_EQ(events(huge, 5), 1u);
}

TEST(SlidingWindow, Stored_ReadsBackAsItWas) {
  Window window(60 * kSecond_ns, 60);
  for (std::int64_t s = 0; s < 100; ++s) add(window, s * kSecond_ns);
  std::stringstream bytes;
  cereal::BinaryOutputArchive output(bytes);
  output(window);
  Window read(kSecond_ns, 1);
  cereal::BinaryInputArchive input(bytes);
  input(read);
  EXPECT_EQ(read, window);
}

TEST(SlidingWindow, StoredWithoutSlots_IsRefused) {
  std::stringstream bytes;
  cereal::BinaryOutputArchive output(bytes);
  output(std::int64_t{10}, std::int64_t{1}, std::uint64_t{0}, std::vector<int>{}, std::uint64_t{0});
  Window read;
  cereal::BinaryInputArchive input(bytes);
  EXPECT_THROW(input(read), std::runtime_error);
  EXPECT_TRUE(add(read, 5)) << "as new";
}

// S2-20: the window is the reader's choice, within 1/64 of it.
TEST(EventRates, AnyWindow_CountsNoOldEventAndNearlyAllYoungOnes) {
  EventRates rates;
  const std::int64_t now_ns = 40'000 * kSecond_ns;
  for (std::int64_t ms = 0; ms < 40'000'000; ms += 10) rates.add(ms * 1'000'000);
  for (const std::int64_t span_s : {1, 2, 7, 60, 61, 300, 3600, 20'000}) {
    const auto exact = static_cast<double>(span_s * 100);
    const auto counted = static_cast<double>(rates.count(now_ns, span_s * kSecond_ns));
    EXPECT_LE(counted, exact) << span_s;
    EXPECT_GE(counted, exact * 63 / 64 - 2) << span_s;
  }
  EXPECT_NEAR(rates.per_second(now_ns, 60 * kSecond_ns), 100, 100 / 64.0);
  EXPECT_EQ(rates.per_second(now_ns, 0), 0);
}

TEST(RateForecast, StraightLine_GoesOn) {
  RateForecast forecast(10 * kSecond_ns);
  for (std::int64_t window = 0; window < 6; ++window) {
    forecast.add(window * 10 * kSecond_ns + 5, static_cast<std::uint64_t>(20 * (window + 1)));
  }
  // 2, 4, 6, 8, 10 events per second in whole windows; the sixth is under way.
  EXPECT_DOUBLE_EQ(forecast.next_window_rate(59 * kSecond_ns, 0, 99), 12);
  EXPECT_DOUBLE_EQ(forecast.next_window_rate(5 * kSecond_ns, 0, 99), 99) << "none is whole";
  EXPECT_DOUBLE_EQ(forecast.next_window_rate(19 * kSecond_ns, 0, 99), 2) << "one has no slope";
}

TEST(RateForecast, EndsOfTime_AreHarmless) {
  for (const std::int64_t window_ns : {std::int64_t{0}, kSecond_ns, kEnd_ns}) {
    RateForecast forecast(window_ns);
    for (const std::int64_t time_ns : {kBeginning_ns + 1, std::int64_t{0}, kEnd_ns}) {
      forecast.add(time_ns);
      EXPECT_GE(forecast.next_window_rate(time_ns, kBeginning_ns + 1, 99), 0);
    }
  }
}

TEST(RateForecast, FallingRates_NeverGoBelowZero) {
  RateForecast forecast(10 * kSecond_ns);
  forecast.add(0, 1000);
  forecast.add(10 * kSecond_ns, 10);
  EXPECT_EQ(forecast.next_window_rate(25 * kSecond_ns, 0, 99), 0);
}

TEST(RateForecast, WindowsBeforeTheBeginning_AreNotTakenForQuiet) {
  RateForecast forecast(10 * kSecond_ns);
  for (std::int64_t s = 35; s < 90; ++s) forecast.add(s * kSecond_ns, 3);
  EXPECT_DOUBLE_EQ(forecast.next_window_rate(90 * kSecond_ns, 35 * kSecond_ns, 99), 3);
}

}  // namespace
}  // namespace rankbus::test
