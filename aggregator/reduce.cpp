#include <algorithm>
#include <optional>
#include <rankbus/aggregator/reduce.hpp>
#include <set>

namespace rankbus {
namespace {

using bus::Kind;
using bus::Reduction;

bool is_shown(const IdentityState& state, double now_s, double retain_s) {
  return now_s - state.last_alive_s <= retain_s;
}

// Found in one go over all identities, because every one of them may be asked for.
std::set<EngineKey> engines_shown(const BusReader& bus, double now_s, double retain_s) {
  std::set<EngineKey> shown;
  for (const auto& [who, state] : bus.identities()) {
    if (is_shown(state, now_s, retain_s)) shown.insert(engine_of(who));
  }
  return shown;
}

double as_double(const FieldValue& value) {
  return std::visit([](auto number) { return static_cast<double>(number); }, exposed_number(value));
}

// A gauge of an engine from those of its ranks and lanes.
struct GaugeReduction {
  std::optional<FieldValue> chosen;
  std::uint32_t chosen_rank = 0;
  double sum = 0;
  std::uint64_t count = 0;

  void take(const FieldValue& value, std::uint32_t rank) {
    sum += as_double(value);
    ++count;
    const auto better = [&] {
      switch (value.reduction) {
        case Reduction::max:
          return as_double(value) > as_double(*chosen);
        case Reduction::min:
          return as_double(value) < as_double(*chosen);
        case Reduction::leader:
          // Of several lanes of the first rank, who spoke last.
          return rank < chosen_rank || (rank == chosen_rank && value.stamp >= chosen->stamp);
        default:
          return value.stamp >= chosen->stamp;
      }
    };
    if (!chosen || better()) {
      chosen = value;
      chosen_rank = rank;
    }
  }
  Number result() const {
    if (chosen->reduction == Reduction::sum) return sum;
    if (chosen->reduction == Reduction::mean) return sum / static_cast<double>(count);
    return exposed_number(*chosen);
  }
};

FamilyType family_type(Kind kind) {
  return kind == Kind::gauge          ? FamilyType::gauge
         : kind == Kind::distribution ? FamilyType::histogram
                                      : FamilyType::counter;
}

struct EngineFamilies {
  Identity who;  // Any of its identities; rank and lane mean nothing here.
  double created_s = 0;
  std::map<std::string, std::pair<Labels, FieldValue>> infos;  // The newest of each family.
  std::map<FieldKey, FieldValue> added;
  std::map<FieldKey, GaugeReduction> gauges;
};

void show(FamilyBuilder& out, const FieldKey& key, const FieldValue& value, const Labels& labels,
          const Identity& who) {
  Series& series =
      out.series(key.first, family_type(value.kind), value.help, joined(labels, key.second), who);
  if (value.kind == Kind::distribution) {
    series.value = exposed_histogram(value);
  } else {
    series.value = exposed_number(value);
  }
}

double gauge_age_s(const LiveSegment& segment, const FieldValue& value, const TickClock& clock,
                   double now_s) {
  if (value.kind != Kind::gauge || value.is_info) return 0;
  const bus::SegmentHeader& header = segment.reader->header();
  const bool has_age = header.clock_domain == 1 && value.stamp != 0;
  const auto source = static_cast<bus::ClockSource>(header.clock_source);
  return now_s - (has_age ? clock.seconds(segment.reader->stamp_here(value.stamp), source)
                          : segment.active_s);
}

}  // namespace

ValuesByIdentity collect_values(const BusReader& bus) {
  return collect_values(bus, TickClock(), 0, 0);
}

ValuesByIdentity collect_values(const BusReader& bus, const TickClock& clock, double now_s,
                                double ttl_s) {
  ValuesByIdentity all;
  for (const auto& [who, state] : bus.identities()) {
    FieldValues& values = all[who] = state.retired.values;
    if (!bus.buckets().is_mixed(who)) continue;
    std::erase_if(values, [&, &engine = who](const auto& entry) {
      return !bus.buckets().is_current(engine, entry.first, entry.second);
    });
  }
  for (const auto& [name, segment] : bus.live()) {
    FieldValues& values = all[segment.who];
    for (auto& [key, value] : totals_of(segment)) {
      if (!bus.buckets().is_current(segment.who, key, value)) continue;
      // What is read no more has counts that were true, and a state that may no longer be.
      if (value.kind == Kind::gauge && !segment.quarantine.empty()) continue;
      if (ttl_s > 0 && gauge_age_s(segment, value, clock, now_s) > ttl_s) continue;
      const auto [at, fresh] = values.emplace(key, value);
      if (!fresh && !add_value(at->second, value)) at->second = value;
    }
  }
  for (const auto& [name, left] : bus.unread()) {
    for (const auto& [key, value] : left->totals) {
      if (!bus.buckets().is_current(left->who, key, value)) continue;
      const auto [at, fresh] = all[left->who].emplace(key, value);
      if (!fresh && !add_value(at->second, value)) at->second = value;
    }
  }
  return all;
}

Series& FamilyBuilder::series(const std::string& name, FamilyType type, const std::string& help,
                              const Labels& labels, const Identity& who) {
  Growing& growing = families_[name];
  if (growing.family.name.empty()) {
    growing.family.name = name;
    growing.family.type = type;
  }
  if (growing.family.type != type) return refused_;
  if (growing.family.help.empty()) growing.family.help = help;
  Series& series = growing.series[labels];
  series.labels = labels;
  series.created_s = created_s_;
  series.server = who.server;
  series.engine = who.role == 0 && !who.is_whole_engine() ? "" : who.engine_text();
  return series;
}

Series& FamilyBuilder::gauge(const std::string& name, const std::string& help, const Labels& labels,
                             const Identity& who, Number value) {
  Series& made = series(name, FamilyType::gauge, help, labels, who);
  made.value = value;
  return made;
}

Series& FamilyBuilder::counter(const std::string& name, const std::string& help,
                               const Labels& labels, const Identity& who, Number value) {
  Series& made = series(name, FamilyType::counter, help, labels, who);
  made.value = value;
  return made;
}

std::vector<Family> FamilyBuilder::take() {
  std::vector<Family> families;
  for (auto& [name, growing] : families_) {
    for (auto& [labels, series] : growing.series)
      growing.family.series.push_back(std::move(series));
    families.push_back(std::move(growing.family));
  }
  families_.clear();
  return families;
}

void reduce_records(const BusReader& bus, const ValuesByIdentity& values_of, double now_s,
                    const ReduceOptions& options, FamilyBuilder& out) {
  std::map<EngineKey, EngineFamilies> engines;
  const std::set<EngineKey> shown = engines_shown(bus, now_s, options.retain_engine_s);
  for (const auto& [who, values] : values_of) {
    const bool rank_shown = is_shown(bus.identities().at(who), now_s, options.retain_rank_s);
    if (!rank_shown && shown.count(engine_of(who)) == 0) continue;
    EngineFamilies& engine = engines[engine_of(who)];
    engine.who = who;
    const double created_s = bus.identities().at(who).began_realtime_s;
    if (engine.created_s == 0 || created_s < engine.created_s) engine.created_s = created_s;
    for (const auto& [key, value] : values) {
      out.set_created(std::max(created_s, bus.buckets().since_s(who, key.first)));
      if (value.reduction == Reduction::each) {
        if (rank_shown) show(out, key, value, rank_labels(who), who);
      } else if (value.is_info) {
        // Labels made at run time are the state; an older state is not shown beside it.
        const auto [at, fresh] = engine.infos.try_emplace(key.first, key.second, value);
        if (!fresh && value.stamp >= at->second.second.stamp) at->second = {key.second, value};
      } else if (value.kind == Kind::gauge) {
        engine.gauges[key].take(value, who.rank);
      } else {
        const auto [at, fresh] = engine.added.emplace(key, value);
        // All have the family's buckets, and its meaning was judged when they came.
        if (!fresh) (void)add_value(at->second, value);
      }
    }
  }
  for (const auto& [key, engine] : engines) {
    const Labels labels = engine_labels(engine.who);
    out.set_created(engine.created_s);
    for (const auto& [field, value] : engine.added) {
      out.set_created(std::max(engine.created_s, bus.buckets().since_s(engine.who, field.first)));
      show(out, field, value, labels, engine.who);
    }
    out.set_created(engine.created_s);
    for (const auto& [family, info] : engine.infos)
      show(out, {family, info.first}, info.second, labels, engine.who);
    for (const auto& [field, gauge] : engine.gauges) {
      out.gauge(field.first, gauge.chosen->help, joined(labels, field.second), engine.who,
                gauge.result());
    }
  }
}

// `<name>_created`, where a counter's name is without its `_total`.
void add_created_series(std::vector<Family>& families) {
  std::vector<Family> created;
  // A family that a producer declared is not given a second time.
  std::set<std::string> names;
  for (const Family& family : families) names.insert(family.name);
  for (const Family& family : families) {
    if (family.type == FamilyType::gauge) continue;
    Family& made = created.emplace_back();
    made.name = family.name;
    const std::string total = "_total";
    if (family.type == FamilyType::counter && made.name.ends_with(total))
      made.name.resize(made.name.size() - total.size());
    made.name += "_created";
    made.help = family.help;
    for (const Series& series : family.series) {
      if (series.created_s <= 0) continue;
      made.series.push_back(series);
      made.series.back().value = Number{series.created_s};
    }
    if (made.series.empty() || !names.insert(made.name).second) created.pop_back();
  }
  for (Family& family : created) families.push_back(std::move(family));
  std::stable_sort(families.begin(), families.end(),
                   [](const Family& a, const Family& b) { return a.name < b.name; });
}

namespace {

// An engine's clock: of its living processes, or where it stood when the last of them died.
struct EngineClock {
  bool live = false;
  bool is_virtual = false;
  double now_s = 0;
  bool all_began_here = true;
  std::uint64_t began_ns = ~std::uint64_t{0};
  std::uint64_t began_ticks = 0;

  std::optional<double> began_s() const {
    if (!all_began_here) return std::nullopt;
    return static_cast<double>(is_virtual ? began_ticks : began_ns) * 1e-9;
  }
};

// Of all engines, in one go.
std::map<EngineKey, EngineClock> engine_clocks(const BusReader& bus, const TickClock& clock) {
  std::map<EngineKey, EngineClock> clocks;
  for (const auto& [who, state] : bus.identities()) {
    EngineClock& engine = clocks[engine_of(who)];
    engine.all_began_here = engine.all_began_here && state.began_ns >= bus.opened_ns();
    if (state.began_ns < engine.began_ns) {
      engine.began_ns = state.began_ns;
      engine.began_ticks = state.began_ticks;
    }
    engine.is_virtual = engine.is_virtual || state.last_source == bus::ClockSource::caller;
    if (state.last_stamp != 0)
      engine.now_s = std::max(engine.now_s, clock.seconds(state.last_stamp, state.last_source));
  }
  for (const auto& [name, segment] : bus.live()) {
    EngineClock& engine = clocks[engine_of(segment.who)];
    const auto source = static_cast<bus::ClockSource>(segment.reader->header().clock_source);
    // The stamps of a run that is over say nothing of the one that lives.
    if (!engine.live) engine.now_s = 0;
    engine.live = true;
    engine.is_virtual = source == bus::ClockSource::caller;
    const std::uint64_t stamp = newest_stamp(*segment.reader);
    if (stamp != 0) engine.now_s = std::max(engine.now_s, clock.seconds(stamp, source));
  }
  return clocks;
}

using Gauges = std::map<FieldKey, GaugeReduction>;

std::optional<double> number(const Gauges& gauges, const char* name, const Labels& labels) {
  const auto found = gauges.find({name, labels});
  if (found == gauges.end()) return std::nullopt;
  return std::visit([](auto value) { return static_cast<double>(value); }, found->second.result());
}

std::optional<std::uint64_t> whole(const Gauges& gauges, const char* name, const Labels& labels) {
  const auto value = number(gauges, name, labels);
  // A foreign schema may call anything by this name; what is no count is shown as none.
  if (!value || !(*value >= 0) || *value >= 0x1p63) return std::nullopt;
  return static_cast<std::uint64_t>(*value);
}

// Adds a counter of a producer to a total; false if it has no such counter.
bool add_counter(const FieldValues& values, const char* name, const Labels& labels,
                 std::uint64_t& total) {
  const auto found = values.find({name, labels});
  if (found == values.end() || found->second.kind != Kind::counter || found->second.is_real()) {
    return false;
  }
  total += found->second.bits;
  return true;
}

// The same of a counter of doubles.
bool add_real(const FieldValues& values, const char* name, double& total) {
  const auto found = values.find({name, {}});
  if (found == values.end() || found->second.kind != Kind::counter) return false;
  total += as_double(found->second);
  return true;
}

void add_positions(const FieldValues& values, std::vector<std::uint64_t>& totals) {
  const std::string family = "vllm:spec_decode_num_accepted_tokens_per_pos_total";
  for (auto at = values.lower_bound({family, {}}); at != values.end() && at->first.first == family;
       ++at) {
    if (at->first.second.size() != 1) continue;
    const std::string& position = at->first.second[0].second;
    // Positions are few; anything else is somebody else's text.
    const bool is_number = !position.empty() && position.size() < 4 &&
                           position.find_first_not_of("0123456789") == std::string::npos;
    if (!is_number) continue;
    const auto index = static_cast<std::size_t>(std::stoul(position));
    if (index >= totals.size()) totals.resize(index + 1);
    totals[index] += at->second.bits;
  }
}

// What appears only where a feature is configured.
void add_features(const FieldValues& values, EngineTotals& engine) {
  std::uint64_t corrupted = engine.corrupted.value_or(0);
  if (add_counter(values, "vllm:corrupted_requests_total", {}, corrupted))
    engine.corrupted = corrupted;
  SpecDecodingTotals spec = engine.spec_decoding.value_or(SpecDecodingTotals{});
  if (add_counter(values, "vllm:spec_decode_num_drafts_total", {}, spec.drafts)) {
    add_counter(values, "vllm:spec_decode_num_draft_tokens_total", {}, spec.draft_tokens);
    add_counter(values, "vllm:spec_decode_num_accepted_tokens_total", {}, spec.accepted_tokens);
    add_positions(values, spec.accepted_per_position);
    engine.spec_decoding = spec;
  }
  DiffusionTotals diffusion = engine.diffusion.value_or(DiffusionTotals{});
  if (add_counter(values, "vllm:diffusion_num_denoising_steps_total", {},
                  diffusion.denoising_steps)) {
    add_counter(values, "vllm:diffusion_num_canvas_positions_total", {},
                diffusion.canvas_positions);
    add_counter(values, "vllm:diffusion_num_committed_tokens_total", {},
                diffusion.committed_tokens);
    engine.diffusion = diffusion;
  }
  PerfTotals perf = engine.perf.value_or(PerfTotals{});
  if (add_real(values, "vllm:estimated_flops_per_gpu_total", perf.flops)) {
    add_real(values, "vllm:estimated_read_bytes_per_gpu_total", perf.read_bytes);
    add_real(values, "vllm:estimated_write_bytes_per_gpu_total", perf.write_bytes);
    engine.perf = perf;
  }
}

// A label of an info family, or empty.
std::string info_label(const Labels& labels, const std::string& name) {
  for (const auto& [label, value] : labels) {
    if (label == name) return value;
  }
  return {};
}

void add_infos(const FieldValues& values, EngineTotals& engine) {
  for (const auto& [key, value] : values) {
    if (!value.is_info) continue;
    if (key.first == "vllm:cache_config_info")
      engine.num_gpu_blocks = info_label(key.second, "num_gpu_blocks");
    if (key.first == "rankbus_cudagraph_config_info") {
      engine.cuda_graph_settings = CudaGraphSettings{info_label(key.second, "mode"),
                                                     info_label(key.second, "capture_sizes")};
    }
  }
}

void add_tokens(const FieldValues& values, EngineTotals& engine) {
  const auto add = [&](const char* name, const Labels& labels, std::uint64_t& total) {
    add_counter(values, name, labels, total);
  };
  add("vllm:generation_tokens_total", {}, engine.generation_tokens);
  add("vllm:num_preemptions_total", {}, engine.preemptions);
  add("vllm:prompt_tokens_by_source_total", {{"source", "local_compute"}},
      engine.prompt_tokens_computed);
}

}  // namespace

std::vector<EngineTotals> engine_totals(const BusReader& bus, const ValuesByIdentity& values_of,
                                        const TickClock& clock, double now_s,
                                        const ReduceOptions& options, const SampleFeed& feed) {
  struct Growing {
    Identity who;
    EngineTotals totals;
    Gauges gauges;
    bool serves = false;  // Some process of it, dead or alive, is a scheduler or a front end.
  };
  std::map<EngineKey, Growing> engines;
  const std::set<EngineKey> shown = engines_shown(bus, now_s, options.retain_rank_s);
  for (const auto& [who, values] : values_of) {
    if (shown.count(engine_of(who)) == 0 || who.is_whole_model()) continue;
    Growing& engine = engines[engine_of(who)];
    engine.who = who;
    engine.serves = engine.serves || values.count({"vllm:generation_tokens_total", {}}) != 0 ||
                    values.count({"vllm:prefix_cache_queries_total", {}}) != 0;
    add_tokens(values, engine.totals);
    add_features(values, engine.totals);
    add_infos(values, engine.totals);
    for (const auto& [field, value] : values) {
      if (value.kind == Kind::gauge && !value.is_info) engine.gauges[field].take(value, who.rank);
    }
  }
  std::vector<EngineTotals> out;
  const std::map<EngineKey, EngineClock> clocks = engine_clocks(bus, clock);
  for (auto& [key, engine] : engines) {
    EngineTotals& totals = engine.totals;
    totals.server = server_key(key);
    totals.server_label = engine.who.server_label;
    totals.model_name = key.model;
    totals.engine = key.engine;
    const EngineClock& engine_clock = clocks.at(key);
    totals.live = engine_clock.live;
    totals.virtual_clock = engine_clock.is_virtual;
    totals.clock_s = engine_clock.now_s;
    totals.began_clock_s = engine_clock.began_s();
    totals.running = whole(engine.gauges, "vllm:num_requests_running", {});
    totals.waiting = whole(engine.gauges, "vllm:num_requests_waiting", {});
    totals.deferred =
        whole(engine.gauges, "vllm:num_requests_waiting_by_reason", {{"reason", "deferred"}});
    totals.kv_cache_usage = number(engine.gauges, "vllm:kv_cache_usage_perc", {});
    if (const CacheWindows* windows = feed.windows(key)) {
      totals.prefix_cache = windows->prefix.sum();
      totals.external_prefix_cache = windows->external_prefix.sum();
      totals.multimodal_cache = windows->multimodal.sum();
    }
    // Workers alone have no throughput to speak of.
    if (engine.serves) out.push_back(std::move(totals));
  }
  return out;
}

}  // namespace rankbus
