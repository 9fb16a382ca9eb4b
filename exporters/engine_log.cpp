#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <rankbus/exporters/engine_log.hpp>
#include <rankbus/exporters/log_text.hpp>

namespace rankbus {
namespace {

// Totals only grow. Should one be found smaller, its engine began anew unseen, and any difference
// would be invented.
std::uint64_t growth(std::uint64_t now, std::uint64_t before) {
  return now >= before ? now - before : 0;
}

SpecDecodingTotals growth(const SpecDecodingTotals& now, const SpecDecodingTotals& before) {
  SpecDecodingTotals grown;
  grown.drafts = growth(now.drafts, before.drafts);
  grown.draft_tokens = growth(now.draft_tokens, before.draft_tokens);
  grown.accepted_tokens = growth(now.accepted_tokens, before.accepted_tokens);
  const auto& earlier = before.accepted_per_position;
  for (std::size_t i = 0; i < now.accepted_per_position.size(); ++i) {
    const std::uint64_t since = i < earlier.size() ? earlier[i] : 0;
    grown.accepted_per_position.push_back(growth(now.accepted_per_position[i], since));
  }
  return grown;
}

DiffusionTotals growth(const DiffusionTotals& now, const DiffusionTotals& before) {
  return {growth(now.denoising_steps, before.denoising_steps),
          growth(now.canvas_positions, before.canvas_positions),
          growth(now.committed_tokens, before.committed_tokens)};
}

double growth(double now, double before) {
  return now >= before ? now - before : 0;
}

PerfTotals growth(const PerfTotals& now, const PerfTotals& before) {
  return {growth(now.flops, before.flops), growth(now.read_bytes, before.read_bytes),
          growth(now.write_bytes, before.write_bytes)};
}

// A feature that was not there before began at 0.
template <class Totals>
std::optional<Totals> growth(const std::optional<Totals>& now,
                             const std::optional<Totals>& before) {
  if (!now) return std::nullopt;
  return growth(*now, before.value_or(Totals{}));
}

std::string engine_name(std::uint32_t engine) {
  return fmt::format("Engine {:03}: ", engine);
}

// vLLM's words at the start of an engine, or of several.
std::string start_line_untrusted(const std::string& num_gpu_blocks) {
  std::string line = "vllm cache_config_info with initialization after num_gpu_blocks is: ";
  append_log_text_untrusted(num_gpu_blocks, line);
  return line;
}

// vLLM announces no start before the number of blocks is known, and not without blocks.
bool has_blocks(const EngineTotals& engine) {
  return !engine.num_gpu_blocks.empty() && engine.num_gpu_blocks != "0" &&
         engine.num_gpu_blocks != "None";
}

// DEBUG where nothing moved in this interval and the one before.
spdlog::level::level_enum level_of(const IntervalFigures& figures, bool& was_moving) {
  const bool is_moving = figures.prompt_rate() != 0 || figures.generation_rate() != 0;
  const bool is_worth_it = is_moving || was_moving;
  was_moving = is_moving;
  return is_worth_it ? spdlog::level::info : spdlog::level::debug;
}

}  // namespace

EngineLog::EngineLog(std::shared_ptr<spdlog::logger> logger, WallClock wall_clock)
    : logger_(std::move(logger)), wall_clock_(std::move(wall_clock)) {}

void EngineLog::observe(const Snapshot& snapshot) {
  std::vector<const EngineTotals*> started;
  for (const EngineTotals& engine : snapshot.engines) {
    if (!engine.live) continue;
    const auto [entry, is_new] = engines_.try_emplace({engine.server, engine.engine});
    Tracked& tracked = entry->second;
    if (is_new) begin_interval(snapshot, engine, tracked);
    if (is_new && engine.began_clock_s) {
      // It was seen from its beginning, so its first interval begins there, at 0.
      tracked.before = EngineTotals{};
      tracked.before.virtual_clock = engine.virtual_clock;
      tracked.before.clock_s = *engine.began_clock_s;
      if (!engine.virtual_clock) tracked.monotonic_s = *engine.began_clock_s;
    }
    tracked.is_shown = true;
    if (!has_blocks(engine) || engine.num_gpu_blocks == tracked.told_blocks) continue;
    tracked.told_blocks = engine.num_gpu_blocks;
    started.push_back(&engine);
  }
  for (const AlertNote& note : snapshot.alerts) print_alert(note);
  if (started.empty() && snapshot.iterations.empty()) return;
  const Prefixes prefixes = prefixes_of(snapshot);
  print_starts(started, prefixes);
  print_iterations(snapshot, prefixes);
}

// No words of vLLM's: it has no alerts.
void EngineLog::print_alert(const AlertNote& note) {
  const auto level = note.is_over || note.level == "info" ? spdlog::level::info
                     : note.level == "warning"            ? spdlog::level::warn
                                                          : spdlog::level::err;
  std::string text = "Alert ";
  append_log_text_untrusted(note.name, text);
  text += note.is_over ? fmt::format(" is over after {:.0f} s: ", note.held_s) : ": ";
  append_log_text_untrusted(note.message, text);
  logger_->log(wall_clock_(), spdlog::source_loc{}, level, spdlog::string_view_t(text));
}

void EngineLog::log(const Snapshot& snapshot) {
  observe(snapshot);
  const Prefixes prefixes = prefixes_of(snapshot);
  const Intervals intervals = intervals_of(snapshot);
  for (const Server& server : collect(snapshot)) {
    const std::string& prefix = prefixes.at(server.key);
    if (server.engines.size() > 1) print_start(server, prefix);
    print_engines(server, intervals, prefix);
    if (server.engines.size() > 1) print_all_engines(server, snapshot, intervals, prefix);
  }
}

// Ends every engine's interval, also of those that have no line, and forgets the engines and
// servers that the snapshot no longer knows.
std::vector<EngineLog::Server> EngineLog::collect(const Snapshot& snapshot) {
  for (auto& [key, tracked] : engines_) tracked.is_present = false;
  std::vector<Server> servers;
  std::map<std::string, bool> still_there;
  for (const EngineTotals& engine : snapshot.engines) {
    const auto entry = engines_.find({engine.server, engine.engine});
    if (entry == engines_.end()) continue;  // Dead since before anybody looked.
    Tracked& tracked = entry->second;
    tracked.is_present = true;
    still_there[engine.server] = server_was_moving_[engine.server];
    const IntervalFigures figures = finish_interval(snapshot, engine, tracked);
    const bool is_due = tracked.is_shown;
    tracked.is_shown = engine.live;
    if (!is_due) continue;
    if (servers.empty() || servers.back().key != engine.server) {
      servers.push_back({engine.server, {}, {}});
    }
    servers.back().engines.push_back(&engine);
    servers.back().figures.push_back(figures);
  }
  std::erase_if(engines_, [](const auto& entry) { return !entry.second.is_present; });
  server_was_moving_ = std::move(still_there);
  return servers;
}

void EngineLog::begin_interval(const Snapshot& snapshot, const EngineTotals& engine,
                               Tracked& tracked) {
  tracked.before = engine;
  tracked.monotonic_s = snapshot.monotonic_s;
}

IntervalFigures EngineLog::finish_interval(const Snapshot& snapshot, const EngineTotals& engine,
                                           Tracked& tracked) {
  const EngineTotals& before = tracked.before;
  IntervalFigures figures;
  figures.running = engine.running.value_or(0);
  figures.waiting = engine.waiting.value_or(0);
  figures.deferred = engine.deferred.value_or(0);
  figures.kv_cache_usage = engine.kv_cache_usage.value_or(0);
  figures.prefix_cache = engine.prefix_cache;
  figures.external_prefix_cache = engine.external_prefix_cache;
  figures.multimodal_cache = engine.multimodal_cache;
  if (engine.corrupted) figures.corrupted = 0;
  // Under the real clock time passes for an idle engine too; a virtual clock is only known from
  // the stamps that an engine writes.
  const double elapsed_s = engine.virtual_clock ? engine.clock_s - before.clock_s
                                                : snapshot.monotonic_s - tracked.monotonic_s;
  const bool same_clock = engine.virtual_clock == before.virtual_clock;
  // A virtual clock that stands still begins no new interval: tokens under an old stamp belong to
  // the interval that ends with the next one, unless the engine died and there is none. One that
  // went back belongs to another run.
  if (same_clock && elapsed_s == 0 && engine.live) return figures;
  if (same_clock && elapsed_s >= 0) {
    figures.elapsed_s = elapsed_s;
    figures.prompt_tokens = growth(engine.prompt_tokens_computed, before.prompt_tokens_computed);
    figures.generation_tokens = growth(engine.generation_tokens, before.generation_tokens);
    figures.preemptions = growth(engine.preemptions, before.preemptions);
    figures.corrupted = growth(engine.corrupted, before.corrupted);
    figures.spec_decoding = growth(engine.spec_decoding, before.spec_decoding);
    figures.diffusion = growth(engine.diffusion, before.diffusion);
    figures.perf = growth(engine.perf, before.perf);
  }
  begin_interval(snapshot, engine, tracked);
  return figures;
}

EngineLog::Intervals EngineLog::intervals_of(const Snapshot& snapshot) {
  Intervals intervals;
  for (const IntervalStats& one : snapshot.intervals) intervals[{one.server, one.engine}] = &one;
  return intervals;
}

// One server: vLLM's words and nothing else. Several: each line begins with its server's label, or
// its model where it has none, and with the key besides where two would read the same.
EngineLog::Prefixes EngineLog::prefixes_of(const Snapshot& snapshot) const {
  Prefixes names;
  std::map<std::string, int> uses;
  for (const EngineTotals& engine : snapshot.engines) {
    const auto entry = engines_.find({engine.server, engine.engine});
    if (entry == engines_.end() || !entry->second.is_shown) continue;
    const auto [name, is_new] = names.try_emplace(engine.server);
    if (!is_new) continue;
    const std::string& label = engine.server_label;
    append_log_text_untrusted(label.empty() ? engine.model_name : label, name->second);
    ++uses[name->second];
  }
  for (auto& [server, name] : names) {
    if (names.size() == 1) {
      name.clear();
      continue;
    }
    if (name.empty() || uses[name] > 1) {
      name += name.empty() ? "(" : " (";
      append_log_text_untrusted(server, name);
      name += ')';
    }
    name = "Server " + name + ": ";
  }
  return names;
}

void EngineLog::print_starts(const std::vector<const EngineTotals*>& started,
                             const Prefixes& prefixes) {
  for (const EngineTotals* engine : started) {
    print(spdlog::level::debug, prefixes.at(engine->server) + engine_name(engine->engine),
          start_line_untrusted(engine->num_gpu_blocks));
  }
}

void EngineLog::print_iterations(const Snapshot& snapshot, const Prefixes& prefixes) {
  for (const IterationDetail& iteration : snapshot.iterations) {
    const auto prefix = prefixes.find(iteration.server);
    print(
        spdlog::level::info,
        (prefix == prefixes.end() ? std::string() : prefix->second) + engine_name(iteration.engine),
        iteration_line(iteration));
  }
}

// Once all engines of a server have told their blocks. Where the numbers differ, which vLLM cannot
// show, each stands there once.
void EngineLog::print_start(const Server& server, const std::string& prefix) {
  bool is_new = false;
  std::vector<std::string> numbers;
  for (const EngineTotals* engine : server.engines) {
    const std::string& number = engine->num_gpu_blocks;
    if (!has_blocks(*engine)) return;
    if (std::find(numbers.begin(), numbers.end(), number) == numbers.end())
      numbers.push_back(number);
    if (engines_.at({server.key, engine->engine}).told_blocks_together != number) is_new = true;
  }
  if (!is_new) return;
  for (const EngineTotals* engine : server.engines) {
    engines_.at({server.key, engine->engine}).told_blocks_together = engine->num_gpu_blocks;
  }
  print(spdlog::level::info, fmt::format("{}{} Engines: ", prefix, server.engines.size()),
        start_line_untrusted(fmt::format("{}", fmt::join(numbers, ", "))));
}

void EngineLog::print_engines(const Server& server, const Intervals& intervals,
                              const std::string& prefix) {
  for (std::size_t i = 0; i < server.engines.size(); ++i) {
    const EngineTotals& engine = *server.engines[i];
    const IntervalFigures& figures = server.figures[i];
    const std::string who = prefix + engine_name(engine.engine);
    const auto level = level_of(figures, engines_.at({server.key, engine.engine}).was_moving);
    print(level, who, throughput_line(figures));
    print(level, prefix, decoding_line(figures));
    print_samples(level, intervals, server.key, engine.engine, engine.cuda_graph_settings, prefix);
    print(level, who, perf_line(figures));
  }
}

void EngineLog::print_all_engines(const Server& server, const Snapshot& snapshot,
                                  const Intervals& intervals, const std::string& prefix) {
  IntervalFigures figures = sum_of(server.figures);
  for (const ServerCaches& caches : snapshot.caches) {
    if (caches.server != server.key) continue;
    figures.prefix_cache = caches.prefix_cache;
    figures.external_prefix_cache = caches.external_prefix_cache;
    figures.multimodal_cache = caches.multimodal_cache;
  }
  const auto level = level_of(figures, server_was_moving_[server.key]);
  std::optional<CudaGraphSettings> settings;  // Engines of a server are configured alike.
  for (const EngineTotals* engine : server.engines) {
    if (!settings) settings = engine->cuda_graph_settings;
  }
  print(level, fmt::format("{}{} Engines Aggregated: ", prefix, server.engines.size()),
        throughput_line(figures));
  print(level, prefix, decoding_line(figures));
  print_samples(level, intervals, server.key, std::nullopt, settings, prefix);
}

// What only samples tell: KV transfers and CUDA graphs.
void EngineLog::print_samples(spdlog::level::level_enum level, const Intervals& intervals,
                              const std::string& server, std::optional<std::uint32_t> engine,
                              const std::optional<CudaGraphSettings>& settings,
                              const std::string& prefix) {
  const auto entry = intervals.find({server, engine});
  if (entry == intervals.end()) return;
  print(level, prefix, connector_line_untrusted(*entry->second));
  const auto table = cuda_graph_table_untrusted(entry->second->cuda_graphs, settings);
  for (const std::string& line : table) {
    logger_->log(wall_clock_(), spdlog::source_loc{}, level, spdlog::string_view_t(prefix + line));
  }
}

// Nothing where there is no line.
void EngineLog::print(spdlog::level::level_enum level, const std::string& prefix,
                      const std::string& line) {
  if (line.empty()) return;
  logger_->log(wall_clock_(), spdlog::source_loc{}, level, spdlog::string_view_t(prefix + line));
}

}  // namespace rankbus
