// aggregator/analysis/residency_config.hpp: which KV blocks are followed, and how much is kept.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <rankbus/aggregator/result.hpp>
#include <rankbus/bus/sampling.hpp>
#include <string>

namespace rankbus::analysis {

// With what a judged lifetime is compared.
enum class Baseline : std::uint8_t {
  predecessors,  // The others of its window, so that no outlier hides itself.
  with_judged,   // The whole window, as older dashboards have it; a small window never alerts.
};

struct ResidencyConfig {
  double sample_rate = 0.01;               // Share of the blocks that is followed.
  std::uint32_t history_size = 1000;       // Evictions that are kept.
  std::uint32_t trend_window = 100;        // The newest of them, for anomalies and trends.
  double anomaly_threshold = 3.0;          // In standard deviations.
  bool enable_detailed = true;             // Keep idle times and gaps between accesses.
  double export_interval_s = 60.0;         // Of a periodic export.
  std::uint32_t max_followed = 65536;      // Blocks followed at a time; further ones are counted.
  std::uint32_t max_alerts = 100;          // Pending; the newest stay.
  std::uint32_t alerts_per_interval = 10;  // Of one metric and level.
  double alert_interval_s = 60.0;
  Baseline baseline = Baseline::predecessors;

  friend bool operator==(const ResidencyConfig&, const ResidencyConfig&) = default;

  template <class Archive>
  void serialize(Archive& archive) {
    archive(sample_rate, history_size, trend_window, anomaly_threshold, enable_detailed,
            export_interval_s, max_followed, max_alerts, alerts_per_interval, alert_interval_s,
            baseline);
  }
};

inline constexpr std::uint32_t kMaxHistory = 1'000'000;

// Why these settings cannot work; none if they can.
inline std::optional<Error> problem_of(const ResidencyConfig& config) {
  const auto refuse = [](const std::string& what, auto value, const std::string& wanted) {
    return Error{what + " is " + std::to_string(value) + ": " + wanted};
  };
  const auto is_positive = [](double value) { return std::isfinite(value) && value > 0; };
  if (!(config.sample_rate > 0 && config.sample_rate <= 1)) {
    return refuse("sample_rate", config.sample_rate, "more than 0 and at most 1");
  }
  if (config.history_size < 1 || config.history_size > kMaxHistory) {
    return refuse("history_size", config.history_size, "1 to " + std::to_string(kMaxHistory));
  }
  if (!is_positive(config.anomaly_threshold)) {
    return refuse("anomaly_threshold", config.anomaly_threshold, "more than 0");
  }
  if (!is_positive(config.export_interval_s)) {
    return refuse("export_interval", config.export_interval_s, "seconds, more than 0");
  }
  if (!is_positive(config.alert_interval_s)) {
    return refuse("alert_interval", config.alert_interval_s, "seconds, more than 0");
  }
  return std::nullopt;
}

using bus::is_sampled;
using bus::mix_bits;

}  // namespace rankbus::analysis
