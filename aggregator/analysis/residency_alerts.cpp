#include <algorithm>
#include <cmath>
#include <iterator>
#include <rankbus/aggregator/analysis/instant.hpp>
#include <rankbus/aggregator/analysis/residency_alerts.hpp>
#include <rankbus/aggregator/reduced_stats.hpp>
#include <utility>

namespace rankbus::analysis {

std::string_view name_of(MetricType metric) {
  constexpr std::array<std::string_view, kMetricTypes> kNames = {
      "LIFETIME", "IDLE_TIME", "ACCESS_COUNT", "REUSE_GAP", "EVICTION"};
  return kNames[static_cast<std::size_t>(metric) - 1];
}

std::string_view name_of(AlertLevel level) {
  constexpr std::array<std::string_view, kAlertLevels> kNames = {"INFO", "WARNING", "CRITICAL"};
  return kNames[static_cast<std::size_t>(level) - 1];
}

Json CacheAlert::as_dict() const {
  return {{"level", name_of(level)}, {"message", message},     {"metric", name_of(metric)},
          {"value", value},          {"threshold", threshold}, {"timestamp", timestamp}};
}

std::size_t AlertBook::index_of(MetricType metric, AlertLevel level) {
  return (static_cast<std::size_t>(metric) - 1) * kAlertLevels + static_cast<std::size_t>(level) -
         1;
}

// An alert of an interval that is over counts in the newest one: late news are no licence to flood.
void AlertBook::count(Kind& kind, std::int64_t interval, std::uint64_t alerts) {
  if (alerts == 0) return;
  if (kind.raised_in_interval == 0 || interval > kind.interval) {
    kind.interval = interval;
    kind.raised_in_interval = 0;
  }
  add_saturating(kind.raised_in_interval, alerts);
}

void AlertBook::raise(CacheAlert alert, const ResidencyConfig& config) {
  Kind& kind = kinds_[index_of(alert.metric, alert.level)];
  const double interval = std::floor(seconds_of(alert.stamp_ns) / config.alert_interval_s);
  constexpr double kFarthest = 9e18;
  count(kind, static_cast<std::int64_t>(std::clamp(interval, -kFarthest, kFarthest)), 1);
  add_saturating(kind.raised, 1);
  if (kind.raised_in_interval > config.alerts_per_interval) {
    add_saturating(suppressed_, 1);
  } else {
    insert(std::move(alert), config.max_alerts);
  }
}

void AlertBook::insert(CacheAlert alert, std::size_t limit) {
  auto at = pending_.end();
  while (at != pending_.begin() && alert < *(at - 1)) --at;
  pending_.insert(at, std::move(alert));
  if (pending_.size() <= limit) return;
  pending_.pop_front();
  add_saturating(dropped_, 1);
}

std::vector<CacheAlert> AlertBook::drain() {
  std::vector<CacheAlert> drained(std::make_move_iterator(pending_.begin()),
                                  std::make_move_iterator(pending_.end()));
  pending_.clear();
  return drained;
}

std::uint64_t AlertBook::raised(MetricType metric, AlertLevel level) const {
  return kinds_[index_of(metric, level)].raised;
}

void AlertBook::aggregate(const AlertBook& other, const ResidencyConfig& config) {
  const AlertBook theirs = other;
  for (std::size_t i = 0; i < kinds_.size(); ++i) {
    Kind& mine = kinds_[i];
    const Kind& kind = theirs.kinds_[i];
    add_saturating(mine.raised, kind.raised);
    const bool is_over = mine.raised_in_interval > 0 && kind.interval < mine.interval;
    if (!is_over) count(mine, kind.interval, kind.raised_in_interval);
  }
  add_saturating(suppressed_, theirs.suppressed_);
  add_saturating(dropped_, theirs.dropped_);
  for (const CacheAlert& alert : theirs.pending_) insert(alert, config.max_alerts);
}

}  // namespace rankbus::analysis
