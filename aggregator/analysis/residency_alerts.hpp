// aggregator/analysis/residency_alerts.hpp: alerts about KV blocks, bounded and rate-limited.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <rankbus/aggregator/analysis/export_format.hpp>
#include <rankbus/aggregator/analysis/residency_config.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankbus::analysis {

enum class MetricType : std::uint8_t {
  lifetime = 1,
  idle_time,
  access_count,
  reuse_gap,
  eviction,
};
inline constexpr std::size_t kMetricTypes = 5;
std::string_view name_of(MetricType metric);  // LIFETIME, ...

enum class AlertLevel : std::uint8_t { info = 1, warning, critical };
inline constexpr std::size_t kAlertLevels = 3;
std::string_view name_of(AlertLevel level);  // INFO, ...

struct CacheAlert {
  // When and by which eviction it was raised; these order alerts.
  std::int64_t stamp_ns = 0;
  std::uint64_t stream = 0;
  std::uint64_t number = 0;
  AlertLevel level = AlertLevel::info;
  MetricType metric = MetricType::lifetime;
  double value = 0;
  double threshold = 0;
  double timestamp = 0;  // Seconds since the epoch.
  std::string message;

  Json as_dict() const;

  friend auto operator<=>(const CacheAlert&, const CacheAlert&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(stamp_ns, stream, number, level, metric, value, threshold, timestamp, message);
  }
};

// Alerts that wait to be drained. Of one metric and level, `alerts_per_interval` are taken in each
// `alert_interval_s` of the monotonic clock and the rest is counted, so that a flood says how large
// it is and takes no memory.
class AlertBook {
 public:
  void raise(CacheAlert alert, const ResidencyConfig& config);

  const std::deque<CacheAlert>& pending() const { return pending_; }  // Oldest first.
  std::vector<CacheAlert> drain();
  std::uint64_t raised(MetricType metric, AlertLevel level) const;  // Suppressed ones included.
  std::uint64_t suppressed() const { return suppressed_; }          // By the rate limit.
  std::uint64_t dropped() const { return dropped_; }  // Never drained, for lack of room.

  void aggregate(const AlertBook& other, const ResidencyConfig& config);

  friend bool operator==(const AlertBook&, const AlertBook&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(pending_, kinds_, suppressed_, dropped_);
  }

 private:
  struct Kind {
    std::uint64_t raised = 0;
    std::int64_t interval = 0;  // The newest one with an alert.
    std::uint64_t raised_in_interval = 0;

    friend bool operator==(const Kind&, const Kind&) = default;

    template <class Archive>
    void serialize(Archive& archive) {
      archive(raised, interval, raised_in_interval);
    }
  };

  static std::size_t index_of(MetricType metric, AlertLevel level);
  static void count(Kind& kind, std::int64_t interval, std::uint64_t alerts);
  void insert(CacheAlert alert, std::size_t limit);

  std::deque<CacheAlert> pending_;
  std::array<Kind, kMetricTypes * kAlertLevels> kinds_{};
  std::uint64_t suppressed_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace rankbus::analysis
