#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <rankbus/aggregator/analysis/cache_metrics.hpp>

namespace rankbus {
namespace {

using Json = nlohmann::ordered_json;

double seconds(std::int64_t from_ns, std::int64_t to_ns) {
  // Apart, because the difference of two times may leave 64 bits.
  return from_ns < to_ns ? static_cast<double>(to_ns) / 1e9 - static_cast<double>(from_ns) / 1e9
                         : 0;
}

Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json breakdown_dict(const CacheMetrics::Breakdown& breakdown) {
  Json out = Json::object();
  for (const auto& [reason, events] : breakdown) out[std::string(name_of(reason))] = events;
  return out;
}

}  // namespace

CacheStats CacheMetrics::stats() const {
  CacheStats out;
  out.total_hits = lifetime_.hits;
  out.total_misses = lifetime_.misses;
  out.total_evictions = lifetime_.all_evictions();
  out.total_bytes_read = lifetime_.hit_bytes;
  out.total_bytes_written = lifetime_.written_bytes;
  out.current_size_bytes = current_size_bytes();
  out.peak_size_bytes = peak_size_bytes();
  out.capacity_bytes = capacity_bytes();
  out.total_evicted_blocks = lifetime_.evicted_blocks;
  out.total_bytes_freed = lifetime_.freed_bytes;
  out.avg_eviction_latency_ns = lifetime_.eviction_ns.mean();
  out.p50_eviction_latency_ns = lifetime_.eviction_ns.quantile(0.5);
  out.p99_eviction_latency_ns = lifetime_.eviction_ns.quantile(0.99);
  out.size_inconsistencies = size_inconsistencies_;
  out.late_events = late_events_;
  out.refused_merges = window_.refused_merges();
  return out;
}

CacheWindowStats CacheMetrics::window_stats(std::int64_t now_ns) const {
  const CacheActivity window = window_.read(now_ns);
  CacheWindowStats out;
  out.hits = window.hits;
  out.misses = window.misses;
  out.hit_rate = window.hit_rate();
  out.avg_latency_ns = window.lookup_ns.mean();
  out.p50_latency_ns = window.lookup_ns.quantile(0.5);
  out.p99_latency_ns = window.lookup_ns.quantile(0.99);
  out.window_duration_s = seconds(window.first_lookup_ns, window.last_lookup_ns);
  if (out.window_duration_s > 0) {
    const double bytes =
        static_cast<double>(window.hit_bytes) + static_cast<double>(window.miss_bytes);
    out.bytes_per_second = bytes / out.window_duration_s;
  }
  out.covered_s = seconds(window_.covered_since(now_ns, window_.window_ns()), now_ns);
  out.events_over_bound = window.lookups() - std::min(window.lookups(), options_.max_events);
  return out;
}

CacheMetrics::Breakdown CacheMetrics::breakdown_of(const CacheActivity& activity) {
  Breakdown seen;
  for (std::size_t i = 0; i < activity.evictions.size(); ++i) {
    const std::uint64_t events = activity.evictions[i];
    if (events != 0) seen.emplace_back(static_cast<CacheEvictionReason>(i), events);
  }
  std::stable_sort(seen.begin(), seen.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return seen;
}

std::optional<std::uint64_t> CacheMetrics::capacity_bytes() const {
  const std::uint64_t known = other_capacities_ + (own_capacity_bytes_ ? 1 : 0);
  if (known == 0 || known != parts()) return std::nullopt;
  std::uint64_t sum = other_capacity_bytes_;
  add_saturating(sum, own_capacity_bytes_.value_or(0));
  return sum;
}

double CacheMetrics::efficiency_score(std::int64_t now_ns) const {
  const CacheActivity window = window_.read(now_ns);
  return window.hit_rate() * (1 - ratio_or(0, window.unused_blocks, window.followed_blocks));
}

double CacheMetrics::growth_bytes_per_second(std::int64_t now_ns) const {
  double written = 0;
  double freed = 0;
  window_.for_each(now_ns, [&](const CacheActivity& slot, std::int64_t) {
    written += static_cast<double>(slot.written_bytes);
    freed += static_cast<double>(slot.freed_bytes);
  });
  const std::int64_t covered_since_ns = window_.covered_since(now_ns, window_.window_ns());
  const double watched_s = seconds(std::max(covered_since_ns, began_ns_), now_ns);
  return watched_s > 0 ? (written - freed) / watched_s : 0;
}

std::optional<double> CacheMetrics::seconds_until_full(std::int64_t now_ns) const {
  const std::optional<std::uint64_t> capacity = capacity_bytes();
  if (!capacity) return std::nullopt;
  const std::uint64_t size = current_size_bytes();
  if (size >= *capacity) return 0;
  const double growth = growth_bytes_per_second(now_ns);
  if (growth <= 0) return std::numeric_limits<double>::infinity();
  return static_cast<double>(*capacity - size) / growth;
}

void CacheMetrics::aggregate(const CacheMetrics& other) {
  if (other.is_empty()) return;
  if (is_empty()) options_ = other.options_;
  const std::uint64_t their_parts = other.parts();
  const std::uint64_t their_capacities =
      other.other_capacities_ + (other.own_capacity_bytes_ ? 1 : 0);
  std::uint64_t their_capacity_bytes = other.other_capacity_bytes_;
  add_saturating(their_capacity_bytes, other.own_capacity_bytes_.value_or(0));
  if (told_size_bytes_ || other.told_size_bytes_) {
    std::uint64_t size = current_size_bytes();
    add_saturating(size, other.current_size_bytes());
    told_size_bytes_ = size;
  }
  // What both were seen to have; the sum of both is looked at when it is asked for.
  own_peak_bytes_ = std::max(own_peak_bytes_, other.own_peak_bytes_);
  lifetime_.aggregate(other.lifetime_);
  window_.aggregate(other.window_);
  eviction_rates_.aggregate(other.eviction_rates_);
  forecast_.aggregate(other.forecast_);
  other_parts_ += their_parts;
  other_capacities_ += their_capacities;
  add_saturating(other_capacity_bytes_, their_capacity_bytes);
  add_saturating(size_inconsistencies_, other.size_inconsistencies_);
  add_saturating(late_events_, other.late_events_);
  began_ns_ = std::min(began_ns_, other.began_ns_);
}

CacheMetrics& MultiLevelCacheMetrics::level(std::string_view untrusted_name) {
  if (untrusted_name == name_of(CacheType::prefix)) return prefix().cache();
  const auto found = levels_.find(std::string(untrusted_name));
  if (found != levels_.end()) return found->second;
  // The last two places are kept for `other` and for prefix, so that both always have one.
  const bool has_room = levels_.size() + 2 < kMaxLevels + levels_.count("other");
  std::string name(has_room ? untrusted_name : "other");
  return levels_.try_emplace(std::move(name), options_).first->second;
}

const CacheMetrics* MultiLevelCacheMetrics::find(std::string_view name) const {
  if (name == name_of(CacheType::prefix)) return has_prefix_ ? &prefix_.cache() : nullptr;
  const auto found = levels_.find(std::string(name));
  return found == levels_.end() ? nullptr : &found->second;
}

PrefixCacheMetrics& MultiLevelCacheMetrics::prefix() {
  has_prefix_ = true;
  return prefix_;
}

std::map<std::string, CacheStats> MultiLevelCacheMetrics::all_stats() const {
  std::map<std::string, CacheStats> out;
  for_each_level([&](const std::string& name, const CacheMetrics& cache) {
    out.emplace(name, cache.stats());
  });
  return out;
}

double MultiLevelCacheMetrics::combined_hit_rate() const {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  for_each_level([&](const std::string&, const CacheMetrics& cache) {
    add_saturating(hits, cache.lifetime_activity().hits);
    add_saturating(misses, cache.lifetime_activity().misses);
  });
  return hit_rate_of(hits, misses);
}

MemoryPressure MultiLevelCacheMetrics::memory_pressure(std::int64_t now_ns) const {
  MemoryPressure out;
  double size = 0;
  double room = 0;
  double evictions_per_s = 0;
  for_each_level([&](const std::string&, const CacheMetrics& cache) {
    const std::optional<std::uint64_t> capacity = cache.capacity_bytes();
    size += static_cast<double>(cache.current_size_bytes());
    room += static_cast<double>(capacity.value_or(cache.peak_size_bytes()));
    out.is_relative_to_peak |= !capacity && cache.peak_size_bytes() != 0;
    evictions_per_s += cache.eviction_rate(now_ns);
  });
  out.utilization = room > 0 ? std::min(1.0, size / room) : 0;
  out.eviction_pressure = std::min(1.0, evictions_per_s / 100);
  out.pressure = 0.7 * out.utilization + 0.3 * out.eviction_pressure;
  return out;
}

void MultiLevelCacheMetrics::aggregate(const MultiLevelCacheMetrics& other) {
  if (other.is_empty()) return;
  if (is_empty()) {
    *this = other;
    return;
  }
  if (other.has_prefix_) prefix().aggregate(other.prefix_);
  for (const auto& [name, cache] : other.levels_) level(name).aggregate(cache);
}

bool MultiLevelCacheMetrics::is_empty() const {
  return prefix_.is_empty() && std::all_of(levels_.begin(), levels_.end(), [](const auto& level) {
           return level.second.is_empty();
         });
}

ReducedStats MultiLevelCacheMetrics::reduce() const {
  ReducedStats out;
  for_each_level([&](const std::string& name, const CacheMetrics& cache) {
    for (const auto& [key, value] : cache.reduce()) out.emplace_back(name + "_" + key, value);
  });
  out.emplace_back("combined_hit_rate", combined_hit_rate());
  return out;
}

void MergedCachePeaks::sample(MultiLevelCacheMetrics& merged) {
  const auto sample_level = [&](const std::string& name, CacheMetrics& cache) {
    std::uint64_t& peak = peaks_bytes_[name];
    cache.keep_peak(peak);
    peak = cache.peak_size_bytes();
  };
  if (merged.has_prefix_)
    sample_level(std::string(name_of(CacheType::prefix)), merged.prefix_.cache());
  for (auto& [name, cache] : merged.levels_) sample_level(name, cache);
}

Json as_dict(const CacheStats& stats) {
  Json out = {{"total_hits", stats.total_hits},
              {"total_misses", stats.total_misses},
              {"total_evictions", stats.total_evictions},
              {"total_bytes_read", stats.total_bytes_read},
              {"total_bytes_written", stats.total_bytes_written},
              {"current_size_bytes", stats.current_size_bytes},
              {"peak_size_bytes", stats.peak_size_bytes},
              {"hit_rate", stats.hit_rate()}};
  if (stats.capacity_bytes) out["capacity_bytes"] = *stats.capacity_bytes;
  out["total_evicted_blocks"] = stats.total_evicted_blocks;
  out["total_bytes_freed"] = stats.total_bytes_freed;
  out["avg_eviction_latency_ns"] = stats.avg_eviction_latency_ns;
  out["p50_eviction_latency_ns"] = stats.p50_eviction_latency_ns;
  out["p99_eviction_latency_ns"] = stats.p99_eviction_latency_ns;
  out["size_inconsistencies"] = stats.size_inconsistencies;
  out["late_events"] = stats.late_events;
  out["refused_merges"] = stats.refused_merges;
  return out;
}

Json as_dict(const CacheWindowStats& stats) {
  return {{"hits", stats.hits},
          {"misses", stats.misses},
          {"hit_rate", stats.hit_rate},
          {"avg_latency_ns", stats.avg_latency_ns},
          {"p50_latency_ns", stats.p50_latency_ns},
          {"p99_latency_ns", stats.p99_latency_ns},
          {"bytes_per_second", stats.bytes_per_second},
          {"window_duration", stats.window_duration_s},
          {"covered_seconds", stats.covered_s},
          {"events_over_bound", stats.events_over_bound},
          {"quantile_relative_error", QuantileSketch::kRelativeError}};
}

Json as_dict(const PrefixCacheSummary& summary) {
  return {{"hit_rate", summary.hit_rate},
          {"total_hit_rate", summary.total_hit_rate},
          {"avg_prefix_length", summary.avg_prefix_length},
          {"sharing_factor", summary.sharing_factor},
          {"eviction_rate", summary.eviction_rate},
          {"cache_stats", as_dict(summary.cache_stats)},
          {"window_stats", as_dict(summary.window_stats)}};
}

Json as_dict(const PrefixTracker& prefixes, std::size_t how_many) {
  const PrefixTracker::Shared& shared = prefixes.shared();
  Json most_shared = Json::array();
  for (const auto& entry : shared.top(how_many)) {
    // Keys are texts: JSON readers keep 53 bits of a number.
    most_shared.push_back({{"prefix", std::to_string(entry.key)},
                           {"hits_at_least", entry.count},
                           {"hits_at_most", shared.upper(entry.key)}});
  }
  const QuantileSketch& lengths = prefixes.lengths();
  Json buckets = Json::array();
  const Histogram histogram = lengths.histogram();
  for (std::size_t i = 0; i < histogram.bounds->size(); ++i) {
    buckets.push_back({{"up_to", (*histogram.bounds)[i]}, {"count", histogram.counts[i]}});
  }
  return {{"most_shared", most_shared},
          {"hits_error", shared.error()},
          {"distinct_prefixes", prefixes.distinct().count()},
          {"distinct_is_exact", prefixes.distinct().is_exact()},
          {"length_count", lengths.count()},
          {"length_mean", lengths.mean()},
          {"length_p50", lengths.quantile(0.5)},
          {"length_p90", lengths.quantile(0.9)},
          {"length_p99", lengths.quantile(0.99)},
          {"length_max", lengths.max()},
          {"length_buckets", buckets}};
}

Json summary(const CacheMetrics& cache, std::int64_t now_ns) {
  const CacheActivity window = cache.window_activity(now_ns);
  Json out = {{"cache_stats", as_dict(cache.stats())},
              {"window_stats", as_dict(cache.window_stats(now_ns))},
              {"eviction_rate", cache.eviction_rate(now_ns)},
              {"eviction_breakdown", breakdown_dict(cache.eviction_breakdown())},
              {"window_evictions",
               {{"by_reason", breakdown_dict(cache.eviction_breakdown(now_ns))},
                {"blocks", window.evicted_blocks},
                {"bytes_freed", window.freed_bytes},
                {"avg_latency_ns", window.eviction_ns.mean()},
                {"p99_latency_ns", window.eviction_ns.quantile(0.99)}}},
              {"efficiency_score", cache.efficiency_score(now_ns)},
              {"growth_bytes_per_second", cache.growth_bytes_per_second(now_ns)},
              {"next_window_eviction_rate", cache.next_window_eviction_rate(now_ns)}};
  if (const auto until_full = cache.seconds_until_full(now_ns)) {
    out["seconds_until_full"] = number_or_null(*until_full);
  }
  return out;
}

Json summary(const MultiLevelCacheMetrics& caches, std::int64_t now_ns) {
  Json levels = Json::object();
  caches.for_each_level([&](const std::string& name, const CacheMetrics& cache) {
    levels[name] = summary(cache, now_ns);
  });
  const MemoryPressure pressure = caches.memory_pressure(now_ns);
  Json out = {{"combined_hit_rate", caches.combined_hit_rate()},
              {"memory_pressure", pressure.pressure},
              {"utilization", pressure.utilization},
              {"eviction_pressure", pressure.eviction_pressure},
              {"is_relative_to_peak", pressure.is_relative_to_peak},
              {"levels", levels}};
  if (!caches.prefix().prefixes().is_empty()) {
    out["prefixes"] = as_dict(caches.prefix().prefixes());
  }
  return out;
}

}  // namespace rankbus
