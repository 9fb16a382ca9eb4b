// aggregator/analysis/event_rates.hpp: events per second over a window that the reader chooses.
//
// Windows of 128 slots, each twice as wide as the one before: slots of 17 ms for the last 2 s up to
// slots of 5 min for the last 9.8 h. A question goes to the finest that reaches back far enough, so
// it counts no event that is too old and lacks at most 1/64 of its window (or 17 ms), wherever the
// answer lies between one event and any number of them.
//
// Memory: 15 x 128 x 16 bytes = 30 KB. Merging is exactly associative and commutative.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <rankbus/aggregator/accumulates.hpp>
#include <rankbus/aggregator/analysis/sliding_window.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <span>

namespace rankbus {

struct EventCount {
  std::uint64_t events = 0;

  void aggregate(const EventCount& other) { add_saturating(events, other.events); }
  bool is_empty() const { return events == 0; }
  std::uint64_t reduce() const { return events; }
  void reset() { events = 0; }
  bool operator==(const EventCount&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(events);
  }
};

class EventRates {
 public:
  static constexpr std::size_t kSlots = 128;
  static constexpr std::size_t kRings = 15;
  static constexpr std::int64_t kFinest_ns = std::int64_t{1} << 31;
  static constexpr std::int64_t kLongest_ns = kFinest_ns << (kRings - 1);

  EventRates() {
    for (std::size_t i = 0; i < kRings; ++i) rings_[i] = {kFinest_ns << i, kSlots};
  }

  void add(std::int64_t time_ns, std::uint64_t times = 1) {
    for (auto& ring : rings_) {
      if (EventCount* slot = ring.at(time_ns)) add_saturating(slot->events, times);
    }
  }

  // Of the last kLongest_ns at most.
  std::uint64_t count(std::int64_t now_ns, std::int64_t span_ns) const {
    std::size_t i = 0;
    while (i + 1 < kRings && rings_[i].window_ns() < span_ns) ++i;
    std::uint64_t events = 0;
    rings_[i].for_each(now_ns, span_ns, [&](const EventCount& slot, std::int64_t) {
      add_saturating(events, slot.events);
    });
    return events;
  }
  double per_second(std::int64_t now_ns, std::int64_t span_ns) const {
    if (span_ns <= 0) return 0;
    const auto span_s = static_cast<double>(std::min(span_ns, kLongest_ns)) / 1e9;
    return static_cast<double>(count(now_ns, span_ns)) / span_s;
  }

  void aggregate(const EventRates& other) {
    for (std::size_t i = 0; i < kRings; ++i) rings_[i].aggregate(other.rings_[i]);
  }
  bool is_empty() const { return rings_.back().is_empty(); }
  std::uint64_t reduce() const { return rings_.back().reduce().events; }
  void reset() {
    for (auto& ring : rings_) ring.reset();
  }
  bool operator==(const EventRates&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    for (auto& ring : rings_) archive(ring);
  }

 private:
  std::array<SlidingWindow<EventCount>, kRings> rings_;
};

// The rate of whole past windows, and what a straight line through them says of the next.
class RateForecast {
 public:
  static constexpr std::size_t kWindows = 8;
  static constexpr std::int64_t kLongestWindow_ns = std::int64_t{1} << 55;  // 417 days.

  explicit RateForecast(std::int64_t window_ns = 60'000'000'000)
      : window_ns_(std::clamp<std::int64_t>(window_ns, 1, kLongestWindow_ns)),
        windows_(window_ns_ * static_cast<std::int64_t>(kWindows + 1), kWindows + 1) {}

  void add(std::int64_t time_ns, std::uint64_t times = 1) {
    if (EventCount* window = windows_.at(time_ns)) add_saturating(window->events, times);
  }

  // max(0, latest rate + slope x window), events per second: least squares through the rates of at
  // most kWindows whole windows before the one that is under way, of those since `began_ns`, before
  // which nobody was watching. `otherwise` where there is no whole window yet.
  double next_window_rate(std::int64_t now_ns, std::int64_t began_ns, double otherwise) const {
    if (now_ns < std::numeric_limits<std::int64_t>::min() / 2) return otherwise;
    const double window_s = static_cast<double>(window_ns_) / 1e9;
    const std::int64_t current_ns = floor_to_window(now_ns);
    std::array<double, kWindows> rates{};
    std::size_t known = 0;
    while (known < kWindows &&
           current_ns - static_cast<std::int64_t>(known + 1) * window_ns_ >= began_ns) {
      ++known;
    }
    if (known == 0) return otherwise;
    // rates[known - 1] is the latest.
    const std::int64_t oldest_ns = current_ns - static_cast<std::int64_t>(known) * window_ns_;
    const auto whole_span = static_cast<std::int64_t>(kWindows + 1) * window_ns_;
    windows_.for_each(now_ns, whole_span, [&](const EventCount& window, std::int64_t start_ns) {
      if (start_ns < oldest_ns || start_ns >= current_ns) return;
      const auto at = static_cast<std::size_t>((start_ns - oldest_ns) / window_ns_);
      rates[at] = static_cast<double>(window.events) / window_s;
    });
    const double slope_per_window = slope({rates.data(), known});
    return std::max(0.0, rates[known - 1] + slope_per_window);
  }

  void aggregate(const RateForecast& other) {
    if (is_empty() && !other.is_empty()) window_ns_ = other.window_ns_;
    windows_.aggregate(other.windows_);
  }
  bool is_empty() const { return windows_.is_empty(); }
  std::uint64_t reduce() const { return windows_.reduce().events; }
  void reset() { windows_.reset(); }
  bool operator==(const RateForecast&) const = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(windows_);
    window_ns_ = std::min(windows_.slot_ns(), kLongestWindow_ns);
  }

  // Least squares of values against 0, 1, 2, ...; 0 for fewer than two.
  static double slope(std::span<const double> values) {
    const auto n = static_cast<double>(values.size());
    if (values.size() < 2) return 0;
    double mean = 0;
    for (const double value : values) mean += value / n;
    double above = 0;
    double below = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double off = static_cast<double>(i) - (n - 1) / 2;
      above += off * (values[i] - mean);
      below += off * off;
    }
    return above / below;
  }

 private:
  std::int64_t floor_to_window(std::int64_t time_ns) const {
    const std::int64_t rest = time_ns % window_ns_;
    return time_ns - (rest < 0 ? rest + window_ns_ : rest);
  }

  std::int64_t window_ns_;
  SlidingWindow<EventCount> windows_;
};

static_assert(Accumulates<EventCount> && Accumulates<EventRates> && Accumulates<RateForecast>);

}  // namespace rankbus
