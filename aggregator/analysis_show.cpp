// What the analyses say: as families, as alerts, as JSON.
#include <cctype>
#include <limits>
#include <nlohmann/json.hpp>
#include <rankbus/aggregator/analysis_engine.hpp>
#include <rankbus/aggregator/analysis_outputs.hpp>
#include <rankbus/aggregator/reduce.hpp>
#include <stdexcept>
#include <string>

namespace rankbus {
namespace {

using Json = nlohmann::ordered_json;

// Of its capacity.
constexpr double kFull = 0.9;
// An anomaly is a moment; as an alert it holds for so long.
constexpr std::int64_t kAnomalyHolds_ns = 60'000'000'000;

Json dict_of(const ReducedStats& stats) {
  Json out = Json::object();
  for (const auto& [name, number] : stats) {
    std::visit([&, &key = name](auto value) { out[key] = value; }, number);
  }
  return out;
}

Json dict_of(const Coverage& coverage) {
  return {{"read", coverage.read}, {"lost", coverage.lost}, {"coverage", coverage.ratio()}};
}

Json dict_of(const Goodput& goodput) {
  return {{"met", goodput.met},
          {"missed", goodput.missed},
          {"unknown", goodput.unknown},
          {"ttft_estimated", goodput.estimated},
          {"ratio", goodput.ratio()},
          {"missed_by_limit",
           {{"ttft", goodput.missed_ttft},
            {"ttft_estimate", goodput.missed_ttft_estimate},
            {"inter_token", goodput.missed_inter_token},
            {"end_to_end", goodput.missed_end_to_end},
            {"failed", goodput.failed}}}};
}

// Adds series of one engine to the families that analysis_outputs.hpp knows.
class EngineFamilies {
 public:
  EngineFamilies(const Identity& who, FamilyBuilder& out)
      : who_(who), labels_(engine_labels(who)), out_(out) {}

  void add(const char* name, const Number& value, const Labels& own = {}) {
    const AnalysisOutput* output = find_analysis_output(name);
    if (output == nullptr) throw std::logic_error(std::string(name) + " is no output of ours");
    const std::string help = std::string(output->help) + ". Made of samples";
    out_.series(name, output->type, help, joined(labels_, in_small_letters(own)), who_).value =
        value;
  }
  void add(const Family& family) {
    for (const Series& series : family.series)
      add(family.name.c_str(), std::get<Number>(series.value), series.labels);
  }

 private:
  // The replaced systems wrote LIFETIME and CRITICAL; labels are written as everywhere else here.
  static Labels in_small_letters(Labels labels) {
    for (auto& [label, value] : labels) {
      if (label != "metric" && value != "INFO" && value != "WARNING" && value != "CRITICAL")
        continue;
      for (char& c : value) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    return labels;
  }

  const Identity& who_;
  Labels labels_;
  FamilyBuilder& out_;
};

bool is_estimate(const std::string& family) {
  return family.size() > 9 && family.compare(family.size() - 9, 9, "_estimate") == 0;
}

void add_blocks(const AnalysisEngine& engine, EngineFamilies& out) {
  for (const auto& [series, count] : engine.block_counters())
    out.add(series.first.c_str(), count, series.second);
  if (!engine.blocks) return;
  for (const Family& family : engine.blocks->families()) {
    const bool is_shown = family.type != FamilyType::counter &&
                          find_analysis_output(family.name.c_str()) != nullptr &&
                          (engine.saw_all_blocks || !is_estimate(family.name));
    if (is_shown) out.add(family);
  }
}

void add_level(const std::string& level, const CacheMetrics& cache, std::int64_t now_ns,
               EngineFamilies& out) {
  const CacheWindowStats window = cache.window_stats(now_ns);
  const CacheActivity activity = cache.window_activity(now_ns);
  const Labels labels{{"level", level}};
  const auto add = [&](const char* name, const Number& value) { out.add(name, value, labels); };
  if (activity.lookups() != 0) {
    add("rankbus_cache_window_hit_ratio", window.hit_rate);
    add("rankbus_cache_efficiency_ratio", cache.efficiency_score(now_ns));
  }
  add("rankbus_cache_window_lookups", activity.lookups());
  const double bytes =
      static_cast<double>(activity.hit_bytes) + static_cast<double>(activity.miss_bytes);
  add("rankbus_cache_window_bytes_per_second",
      bytes * 1e9 / static_cast<double>(cache.options().window_ns));
  const auto add_latency = [&](const char* stat, double latency_ns) {
    out.add("rankbus_cache_window_latency_seconds", latency_ns * 1e-9,
            {{"level", level}, {"stat", stat}});
  };
  if (window.avg_latency_ns > 0) {
    add_latency("mean", window.avg_latency_ns);
    add_latency("p50", window.p50_latency_ns);
    add_latency("p99", window.p99_latency_ns);
  }
  add("rankbus_cache_evictions_per_second", cache.eviction_rate(now_ns));
  add("rankbus_cache_next_evictions_per_second", cache.next_window_eviction_rate(now_ns));
  add("rankbus_cache_size_bytes", cache.current_size_bytes());
  add("rankbus_cache_peak_bytes", cache.peak_size_bytes());
  if (const auto until_full = cache.seconds_until_full(now_ns))
    add("rankbus_cache_seconds_until_full", *until_full);
}

void add_prefixes(const PrefixTracker& prefixes, EngineFamilies& out) {
  out.add("rankbus_prefix_sharing_factor", prefixes.sharing_factor());
  out.add("rankbus_prefix_distinct", prefixes.distinct().count());
  const auto add_length = [&](const char* stat, double tokens) {
    out.add("rankbus_prefix_length_tokens", tokens, {{"stat", stat}});
  };
  add_length("mean", prefixes.average_length());
  add_length("p50", prefixes.lengths().quantile(0.5));
  add_length("p95", prefixes.lengths().quantile(0.95));
  add_length("p99", prefixes.lengths().quantile(0.99));
}

void add_caches(const MultiLevelCacheMetrics& caches, std::int64_t now_ns, EngineFamilies& out) {
  caches.for_each_level([&](const std::string& level, const CacheMetrics& cache) {
    add_level(level, cache, now_ns, out);
  });
  out.add("rankbus_cache_combined_hit_ratio", caches.combined_hit_rate());
  out.add("rankbus_cache_memory_pressure_ratio", caches.memory_pressure(now_ns).pressure);
  const PrefixTracker& prefixes = caches.prefix().prefixes();
  if (!prefixes.is_empty()) add_prefixes(prefixes, out);
}

void add_goodput(const AnalysisEngine& engine, const SloLimits& limits, EngineFamilies& out) {
  const Goodput& goodput = engine.goodput;
  out.add("rankbus_slo_requests_total", goodput.met, {{"result", "met"}});
  out.add("rankbus_slo_requests_total", goodput.missed, {{"result", "missed"}});
  out.add("rankbus_slo_requests_total", goodput.unknown, {{"result", "unknown"}});
  if (limits.ttft_s) out.add("rankbus_slo_ttft_estimated_total", goodput.estimated);
  const auto add_missed = [&](const char* limit, std::uint64_t missed) {
    out.add("rankbus_slo_missed_total", missed, {{"limit", limit}});
  };
  if (limits.ttft_s) {
    add_missed("ttft", goodput.missed_ttft);
    add_missed("ttft_estimate", goodput.missed_ttft_estimate);
  }
  if (limits.inter_token_s) add_missed("inter_token", goodput.missed_inter_token);
  if (limits.end_to_end_s) add_missed("end_to_end", goodput.missed_end_to_end);
  add_missed("failed", goodput.failed);
  const Goodput recent = engine.recent_goodput.read(engine.now_ns);
  if (recent.met + recent.missed != 0) out.add("rankbus_slo_goodput_ratio", recent.ratio());
  out.add("rankbus_slo_goodput_requests_per_second",
          static_cast<double>(recent.met) * 1e9 /
              static_cast<double>(engine.recent_goodput.window_ns()));
}

Json scheduler_dict(const analysis::SchedulerStatsCollector& scheduler) {
  const analysis::SchedulerStats totals = scheduler.totals();
  Json out = totals.as_dict();
  out["window_commits"] = scheduler.history().size();
  out["averages"] = dict_of(scheduler.averages());
  return out;
}

Alert about(const AnalysisEngine& engine, std::string name, AlertLevel level, std::string metric) {
  Alert alert;
  alert.name = std::move(name);
  alert.level = level;
  alert.metric = std::move(metric);
  alert.labels = engine_labels(engine.who);
  alert.server = engine.who.server;
  alert.engine = std::to_string(engine.who.engine);
  return alert;
}

void raise_anomalies(const AnalysisEngine& engine, const analysis::BlockResidency& blocks,
                     AlertBoard& board) {
  for (const analysis::CacheAlert& anomaly : blocks.alerts().pending()) {
    if (analysis::elapsed_ns(anomaly.stamp_ns, engine.now_ns) > kAnomalyHolds_ns) continue;
    // In rising order on both sides.
    const auto level = static_cast<AlertLevel>(anomaly.level);
    const bool is_lifetime = anomaly.metric == analysis::MetricType::lifetime;
    Alert alert = about(engine, is_lifetime ? "kv_block_lifetime" : "kv_block_unused", level,
                        "rankbus_kv_block_alerts_total");
    alert.value = anomaly.value;
    alert.threshold = anomaly.threshold;
    alert.message = anomaly.message;
    board.raise(std::move(alert));
  }
}

// A cache that is nearly full is what caches are for; one that has to evict besides is too small.
void raise_if_full(const AnalysisEngine& engine, const std::string& level,
                   const CacheMetrics& cache, AlertBoard& board) {
  const auto capacity = cache.capacity_bytes();
  if (!capacity || *capacity == 0 || cache.eviction_rate(engine.now_ns) <= 0) return;
  const double used =
      static_cast<double>(cache.current_size_bytes()) / static_cast<double>(*capacity);
  if (used < kFull) return;
  Alert alert = about(engine, "cache_full", AlertLevel::warning, "rankbus_cache_size_bytes");
  alert.labels = joined(alert.labels, {{"level", level}});
  alert.value = used;
  alert.threshold = kFull;
  alert.message = "the cache " + level + " of engine " + alert.engine + " is " +
                  std::to_string(static_cast<int>(used * 100)) + " % full and evicts";
  board.raise(std::move(alert));
}

}  // namespace

void AnalysisFeed::add_families(const BusReader& bus, double now_s, double retain_s,
                                FamilyBuilder& out) const {
  std::set<EngineKey> shown;
  for (const auto& [who, state] : bus.identities()) {
    if (now_s - state.last_alive_s <= retain_s) shown.insert(engine_of(who));
  }
  for (const auto& [key, engine] : engines_) {
    if (shown.count(key) == 0) continue;
    EngineFamilies families(engine->who, out);
    add_blocks(*engine, families);
    if (!engine->caches.is_empty()) add_caches(engine->caches, engine->now_ns, families);
    if (options_.slo.any()) add_goodput(*engine, options_.slo, families);
    for (const auto& [stream, source] : engine->sources) {
      // Of what everybody writes, nothing on /metrics is made of samples.
      if (!source.feeds_families) continue;
      families.add("rankbus_sample_coverage_ratio", source.window.read(engine->now_ns).ratio(),
                   {{"stream", stream}});
    }
  }
  const auto limit = [&](const char* name, std::optional<double> seconds) {
    if (!seconds) return;
    out.gauge("rankbus_slo_limit_seconds", "The configured limit", {{"limit", name}}, Identity{},
              *seconds);
  };
  limit("ttft", options_.slo.ttft_s);
  limit("inter_token", options_.slo.inter_token_s);
  limit("end_to_end", options_.slo.end_to_end_s);
}

void AnalysisFeed::raise_alerts(AlertBoard& board) const {
  if (!options_.statistical_alerts) return;
  for (const auto& [key, engine] : engines_) {
    if (!engine->lives()) continue;
    if (engine->blocks) raise_anomalies(*engine, *engine->blocks, board);
    const AnalysisEngine& living = *engine;
    living.caches.for_each_level([&](const std::string& level, const CacheMetrics& cache) {
      raise_if_full(living, level, cache, board);
    });
  }
}

std::vector<EngineAnalysis> AnalysisFeed::analyses() const {
  std::vector<EngineAnalysis> out;
  for (const auto& [key, engine] : engines_) {
    if (engine->sources.empty()) continue;
    const double clock_s = static_cast<double>(engine->now_ns) * 1e-9;
    Json sources = Json::object();
    for (const auto& [stream, source] : engine->sources) {
      sources[stream] = dict_of(source.total);
      sources[stream]["window"] = dict_of(source.window.read(engine->now_ns));
    }
    Json json = {{"server", engine->who.server_label},
                 {"model_name", engine->who.model},
                 {"engine", engine->who.engine},
                 {"clock", engine->is_virtual ? "virtual" : "real"},
                 {"clock_s", clock_s},
                 {"sources", sources}};
    if (engine->scheduler) json["scheduler"] = scheduler_dict(*engine->scheduler);
    if (engine->blocks) {
      const analysis::Instant now{engine->now_ns, engine->wall_s(engine->now_ns)};
      json["kv_blocks"] = engine->blocks->export_to_dict(now);
      if (!engine->saw_all_blocks) json["kv_blocks"]["estimates"] = nullptr;
    }
    if (engine->blocks || engine->refused_block_records != 0)
      json["kv_blocks"]["refused_records"] = engine->refused_block_records;
    if (!engine->caches.is_empty()) json["caches"] = summary(engine->caches, engine->now_ns);
    if (options_.slo.any()) {
      json["slo"] = dict_of(engine->goodput);
      json["slo"]["window"] = dict_of(engine->recent_goodput.read(engine->now_ns));
    }
    out.push_back({key.server, engine->who.server_label, std::to_string(engine->who.engine),
                   json.dump(-1, ' ', false, Json::error_handler_t::replace)});
  }
  return out;
}

}  // namespace rankbus
