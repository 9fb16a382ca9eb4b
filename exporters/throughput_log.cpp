#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <rankbus/exporters/log_text.hpp>
#include <rankbus/exporters/throughput_log.hpp>
#include <string_view>

namespace rankbus {
namespace {

// Totals only grow. Should one be found smaller, its engine began anew unseen, and any difference
// would be invented.
std::uint64_t growth(std::uint64_t now, std::uint64_t before) {
  return now >= before ? now - before : 0;
}

// Never infinite and never NaN: without time there is no rate.
double per_second(std::uint64_t amount, double elapsed_s) {
  return elapsed_s > 0 ? static_cast<double>(amount) / elapsed_s : 0.0;
}

// A producer may write any double as its usage.
double finite_or_zero(double value) {
  return std::isfinite(value) ? value : 0.0;
}

}  // namespace

ThroughputLog::ThroughputLog(std::shared_ptr<spdlog::logger> logger, WallClock wall_clock)
    : logger_(std::move(logger)), wall_clock_(std::move(wall_clock)) {}

void ThroughputLog::observe(const Snapshot& snapshot) {
  for (const EngineTotals& engine : snapshot.engines) {
    if (!engine.live) continue;
    const auto [entry, is_new] = engines_.try_emplace({engine.server, engine.engine});
    if (is_new) begin_interval(snapshot, engine, entry->second);
    if (is_new && engine.began_clock_s) {
      // It was seen from its beginning, so its first interval begins there, at 0.
      entry->second.prompt_tokens = entry->second.generation_tokens = entry->second.preemptions = 0;
      (engine.virtual_clock ? entry->second.clock_s : entry->second.monotonic_s) =
          *engine.began_clock_s;
    }
    entry->second.is_shown = true;
  }
}

void ThroughputLog::log(const Snapshot& snapshot) {
  observe(snapshot);
  std::vector<ServerLines> servers = collect(snapshot);
  name_servers(servers);
  for (const ServerLines& server : servers) {
    for (const auto& [engine, line] : server.engines) {
      Tracked& tracked = engines_.at({server.any->server, engine});
      print(fmt::format("{}Engine {:03}", server.prefix, engine), line, tracked.was_moving);
    }
    if (server.engines.size() < 2) continue;
    print(fmt::format("{}{} Engines Aggregated", server.prefix, server.engines.size()), sum(server),
          server_was_moving_[server.any->server]);
  }
}

// Ends every engine's interval, also of those that have no line, and forgets the engines and
// servers that the snapshot no longer knows.
std::vector<ThroughputLog::ServerLines> ThroughputLog::collect(const Snapshot& snapshot) {
  for (auto& [key, tracked] : engines_) tracked.is_present = false;
  std::vector<ServerLines> servers;
  std::map<std::string, bool> still_there;
  for (const EngineTotals& engine : snapshot.engines) {
    const auto entry = engines_.find({engine.server, engine.engine});
    if (entry == engines_.end()) continue;  // Dead since before anybody looked.
    Tracked& tracked = entry->second;
    tracked.is_present = true;
    still_there[engine.server] = server_was_moving_[engine.server];
    const Line line = finish_interval(snapshot, engine, tracked);
    const bool is_due = tracked.is_shown;
    tracked.is_shown = engine.live;
    if (!is_due) continue;
    if (servers.empty() || servers.back().any->server != engine.server) {
      servers.push_back({&engine, {}, {}});
    }
    servers.back().engines.emplace_back(engine.engine, line);
  }
  std::erase_if(engines_, [](const auto& entry) { return !entry.second.is_present; });
  server_was_moving_ = std::move(still_there);
  return servers;
}

void ThroughputLog::begin_interval(const Snapshot& snapshot, const EngineTotals& engine,
                                   Tracked& tracked) {
  tracked.prompt_tokens = engine.prompt_tokens_computed;
  tracked.generation_tokens = engine.generation_tokens;
  tracked.preemptions = engine.preemptions;
  tracked.monotonic_s = snapshot.monotonic_s;
  tracked.clock_s = engine.clock_s;
  tracked.virtual_clock = engine.virtual_clock;
}

ThroughputLog::Line ThroughputLog::finish_interval(const Snapshot& snapshot,
                                                   const EngineTotals& engine, Tracked& tracked) {
  Line line;
  line.running = engine.running.value_or(0);
  line.waiting = engine.waiting.value_or(0);
  line.deferred = engine.deferred.value_or(0);
  line.kv_cache_usage = finite_or_zero(engine.kv_cache_usage.value_or(0));
  line.prefix_cache_queries = engine.prefix_cache.queries;
  line.prefix_cache_hits = engine.prefix_cache.hits;
  // Under the real clock time passes for an idle engine too; a virtual clock is only known from
  // the stamps that an engine writes.
  const double elapsed_s = engine.virtual_clock ? engine.clock_s - tracked.clock_s
                                                : snapshot.monotonic_s - tracked.monotonic_s;
  const bool same_clock = engine.virtual_clock == tracked.virtual_clock;
  // A virtual clock that stands still begins no new interval: tokens under an old stamp belong to
  // the interval that ends with the next one. One that went back belongs to another run.
  if (same_clock && elapsed_s == 0) return line;
  if (same_clock && elapsed_s > 0) {
    line.elapsed_s = elapsed_s;
    line.prompt_tokens = growth(engine.prompt_tokens_computed, tracked.prompt_tokens);
    line.generation_tokens = growth(engine.generation_tokens, tracked.generation_tokens);
    line.preemptions = growth(engine.preemptions, tracked.preemptions);
  }
  begin_interval(snapshot, engine, tracked);
  return line;
}

// As vLLM does it: gauges summed, usage the plain mean, one hit rate over all requests, tokens
// summed before dividing by time. The engines run side by side, so their times do not add up; the
// longest is the interval.
ThroughputLog::Line ThroughputLog::sum(const ServerLines& server) {
  Line total;
  for (const auto& [engine, line] : server.engines) {
    total.prompt_tokens += line.prompt_tokens;
    total.generation_tokens += line.generation_tokens;
    total.elapsed_s = std::max(total.elapsed_s, line.elapsed_s);
    total.running += line.running;
    total.waiting += line.waiting;
    total.deferred += line.deferred;
    total.preemptions += line.preemptions;
    total.kv_cache_usage += line.kv_cache_usage;
    total.prefix_cache_queries += line.prefix_cache_queries;
    total.prefix_cache_hits += line.prefix_cache_hits;
  }
  total.kv_cache_usage /= static_cast<double>(server.engines.size());
  return total;
}

// One server: vLLM's words and nothing else. Several: each line begins with its server's label, or
// its model where it has none, and with the key besides where two would read the same.
void ThroughputLog::name_servers(std::vector<ServerLines>& servers) {
  if (servers.size() < 2) return;
  std::map<std::string, int> uses;
  for (ServerLines& server : servers) {
    const std::string& label = server.any->server_label;
    append_log_text_untrusted(label.empty() ? server.any->model_name : label, server.prefix);
    ++uses[server.prefix];
  }
  for (ServerLines& server : servers) {
    const bool is_unique = uses[server.prefix] == 1 && !server.prefix.empty();
    std::string name = std::move(server.prefix);
    if (!is_unique) {
      name += name.empty() ? "(" : " (";
      append_log_text_untrusted(server.any->server, name);
      name += ')';
    }
    server.prefix = "Server " + name + ": ";
  }
}

void ThroughputLog::print(const std::string& who, const Line& line, bool& was_moving) {
  const double prompt_rate = per_second(line.prompt_tokens, line.elapsed_s);
  const double generation_rate = per_second(line.generation_tokens, line.elapsed_s);
  const double hit_rate = line.prefix_cache_queries == 0
                              ? 0.0
                              : static_cast<double>(line.prefix_cache_hits) /
                                    static_cast<double>(line.prefix_cache_queries);
  text_.clear();
  const auto to_text = std::back_inserter(text_);
  fmt::format_to(to_text,
                 "{}: Avg prompt throughput: {:.1f} tokens/s, "
                 "Avg generation throughput: {:.1f} tokens/s, Running: {} reqs, Waiting: {} reqs",
                 who, prompt_rate, generation_rate, line.running, line.waiting);
  if (line.deferred > 0) fmt::format_to(to_text, ", Deferred: {} reqs", line.deferred);
  if (line.preemptions > 0) fmt::format_to(to_text, ", Preemptions: {}", line.preemptions);
  fmt::format_to(to_text, ", GPU KV cache usage: {:.1f}%, Prefix cache hit rate: {:.1f}%",
                 line.kv_cache_usage * 100, hit_rate * 100);
  const bool is_moving = prompt_rate != 0 || generation_rate != 0;
  const auto level = is_moving || was_moving ? spdlog::level::info : spdlog::level::debug;
  was_moving = is_moving;
  logger_->log(wall_clock_(), spdlog::source_loc{}, level, spdlog::string_view_t(text_));
}

}  // namespace rankbus
