// Block residency as an object, as families and by the name of a format.
#include <rankbus/aggregator/analysis/block_residency.hpp>
#include <string>
#include <utility>

namespace rankbus::analysis {
namespace {

Json dict_of(const Estimate& estimate) {
  return {{"value", estimate.value},
          {"error", estimate.error},
          {"low", estimate.low},
          {"high", estimate.high}};
}

void add_estimate(FamilyList& out, const std::string& name, const char* help,
                  const Estimate& estimate) {
  out.add(name, help, FamilyType::gauge, estimate.value, {{"bound", "estimate"}});
  out.add(name, help, FamilyType::gauge, estimate.low, {{"bound", "low"}});
  out.add(name, help, FamilyType::gauge, estimate.high, {{"bound", "high"}});
}

void add_summary(FamilyList& out, const CacheMetricsSummary& summary, bool has_detail) {
  const auto add_lifetime = [&](const char* stat, double value) {
    out.add("rankbus_kv_block_recent_lifetime_seconds", "Lifetimes of the retained evictions.",
            FamilyType::gauge, value, {{"stat", stat}});
  };
  add_lifetime("mean", summary.avg_lifetime_seconds);
  add_lifetime("p50", summary.p50_lifetime);
  add_lifetime("p95", summary.p95_lifetime);
  add_lifetime("p99", summary.p99_lifetime);
  if (has_detail) {
    out.add("rankbus_kv_block_recent_idle_seconds", "Mean time from last access to eviction.",
            FamilyType::gauge, summary.avg_idle_seconds);
    out.add("rankbus_kv_block_recent_reuse_gap_seconds", "Mean time between accesses.",
            FamilyType::gauge, summary.avg_reuse_gap_seconds);
  }
  out.add("rankbus_kv_block_recent_accesses", "Mean accesses in a block's life.", FamilyType::gauge,
          summary.avg_access_count);
  out.add("rankbus_kv_block_recent_reused_ratio", "Share accessed more than once.",
          FamilyType::gauge, summary.hit_rate_estimate);
}

void add_trends(FamilyList& out, const Trends& trends) {
  const auto add_trend = [&](const char* metric, const std::optional<Trend>& trend) {
    if (!trend) return;
    out.add("rankbus_kv_block_trend_slope", "Change from one eviction to the next.",
            FamilyType::gauge, trend->slope, {{"metric", metric}});
  };
  add_trend("LIFETIME", trends.lifetime);
  add_trend("IDLE_TIME", trends.idle);
  add_trend("ACCESS_COUNT", trends.access_count);
}

void add_alerts(FamilyList& out, const AlertBook& alerts) {
  for (const auto& [metric, level] : {std::pair(MetricType::lifetime, AlertLevel::warning),
                                      std::pair(MetricType::lifetime, AlertLevel::critical),
                                      std::pair(MetricType::access_count, AlertLevel::info)}) {
    out.add("rankbus_kv_block_alerts_total", "Alerts raised, suppressed ones included.",
            FamilyType::counter, alerts.raised(metric, level),
            {{"metric", std::string(name_of(metric))}, {"level", std::string(name_of(level))}});
  }
  out.add("rankbus_kv_block_alerts_suppressed_total", "Alerts beyond the rate limit.",
          FamilyType::counter, alerts.suppressed());
}

}  // namespace

Json SampleHealth::as_dict() const {
  return {{"followed_evictions", followed_evictions}, {"unmatched_evictions", unmatched_evictions},
          {"reallocated_blocks", reallocated_blocks}, {"unfollowed_blocks", unfollowed_blocks},
          {"forgotten_blocks", forgotten_blocks},     {"losses", losses},
          {"dropped_events", dropped_events},         {"refused_merges", refused_merges}};
}

Json BlockResidency::export_to_dict(Instant now) const {
  Json distribution = Json::object();
  for (const auto& [label, count] : lifetime_distribution()) distribution[label] = count;
  Json pending = Json::array();
  for (const CacheAlert& alert : alerts_.pending()) pending.push_back(alert.as_dict());
  return {{"summary", summary().as_dict()},
          {"lifetime_distribution", distribution},
          {"access_patterns", access_patterns().as_dict()},
          {"trends", trends().as_dict()},
          {"counters",
           {{"total_allocations", total_allocations_},
            {"total_accesses", total_accesses_},
            {"total_evictions", total_evictions_}}},
          {"sample_rate", config_.sample_rate},
          {"timestamp", now.wall_s},
          {"estimates",
           {{"live_blocks", dict_of(estimated_live_blocks())},
            {"evictions", dict_of(estimated_evictions())}}},
          {"sample", health_.as_dict()},
          {"alerts", pending},
          {"alerts_suppressed", alerts_.suppressed()},
          {"alerts_dropped", alerts_.dropped()}};
}

std::vector<Family> BlockResidency::families(const Labels& labels) const {
  FamilyList out(labels);
  const auto count = [&](const char* name, const char* help, std::uint64_t value) {
    out.add(name, help, FamilyType::counter, value);
  };
  count("rankbus_kv_block_allocations_total", "Allocations of all blocks.", total_allocations_);
  count("rankbus_kv_block_accesses_total", "Accesses of all blocks.", total_accesses_);
  count("rankbus_kv_block_evictions_total", "Evictions of all blocks.", total_evictions_);
  count("rankbus_kv_block_followed_evictions_total", "Evictions of blocks that were followed.",
        health_.followed_evictions);
  count("rankbus_kv_block_unmatched_evictions_total",
        "Evictions of sampled blocks whose allocation nobody saw.", health_.unmatched_evictions);
  count("rankbus_kv_block_forgotten_total", "Followed blocks dropped after a loss.",
        health_.forgotten_blocks);
  out.add("rankbus_kv_block_sample_rate", "Share of the blocks that is followed.",
          FamilyType::gauge, config_.sample_rate);
  out.add("rankbus_kv_blocks_followed", "Blocks being followed.", FamilyType::gauge,
          std::uint64_t{followed_.size()});
  add_estimate(out, "rankbus_kv_blocks_live_estimate",
               "Live blocks by the sample; within the bounds in about 95 of 100 cases.",
               estimated_live_blocks());
  add_estimate(out, "rankbus_kv_block_evictions_estimate",
               "Evictions by the sample; within the bounds in about 95 of 100 cases.",
               estimated_evictions());
  if (!history_.empty()) add_summary(out, summary(), config_.enable_detailed);
  add_trends(out, trends());
  add_alerts(out, alerts_);
  return out.take();
}

Result<Exported> BlockResidency::export_as(std::string_view format, Instant now,
                                           const Labels& labels) const {
  const Result<ExportFormat> known = parse_export_format_untrusted(
      format,
      {ExportFormat::dict, ExportFormat::prometheus, ExportFormat::json, ExportFormat::csv});
  if (!known) return Error{known.error()};
  return export_in(known.value(), export_to_dict(now), families(labels));
}

}  // namespace rankbus::analysis
