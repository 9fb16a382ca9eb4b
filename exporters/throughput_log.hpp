// exporters/throughput_log.hpp: vLLM's periodic line, for each engine and for all of a server.
//
//   Engine 000: Avg prompt throughput: 59.4 tokens/s, Avg generation throughput: 6.9 tokens/s,
//   Running: 3 reqs, Waiting: 3 reqs, GPU KV cache usage: 25.0%, Prefix cache hit rate: 40.0%
#pragma once

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <utility>
#include <vector>

namespace rankbus {

// One thread at a time.
class ThroughputLog {
 public:
  using WallClock = std::function<std::chrono::system_clock::time_point()>;

  // The wall clock stamps the lines and nothing else: rates come from the snapshots' own clocks.
  explicit ThroughputLog(std::shared_ptr<spdlog::logger> logger,
                         WallClock wall_clock = &std::chrono::system_clock::now);

  // Notes engines that appear, so that their first line covers the time since they began, or since
  // now where that is not known. Cheap; meant for every pass.
  void observe(const Snapshot& snapshot);

  // Prints the lines of the interval since the latest call and begins the next one.
  void log(const Snapshot& snapshot);

 private:
  using EngineKey = std::pair<std::string, std::uint32_t>;  // Server, engine.

  // What one line shows; also the sum over the engines of a server.
  struct Line {
    std::uint64_t prompt_tokens = 0;
    std::uint64_t generation_tokens = 0;
    double elapsed_s = 0;
    std::uint64_t running = 0;
    std::uint64_t waiting = 0;
    std::uint64_t deferred = 0;
    std::uint64_t preemptions = 0;
    double kv_cache_usage = 0;
    std::uint64_t prefix_cache_queries = 0;
    std::uint64_t prefix_cache_hits = 0;
  };

  // Where an engine stood when its interval began.
  struct Tracked {
    std::uint64_t prompt_tokens = 0;
    std::uint64_t generation_tokens = 0;
    std::uint64_t preemptions = 0;
    double monotonic_s = 0;
    double clock_s = 0;
    bool virtual_clock = false;
    bool is_shown = false;    // Lives, or died since its latest line.
    bool was_moving = false;  // A throughput of the interval before was not 0.
    bool is_present = false;  // In the snapshot at hand.
  };

  // The lines of one server in the snapshot at hand.
  struct ServerLines {
    const EngineTotals* any = nullptr;  // For the names, which all engines of a server share.
    std::vector<std::pair<std::uint32_t, Line>> engines;
    std::string prefix;
  };

  static void begin_interval(const Snapshot& snapshot, const EngineTotals& engine,
                             Tracked& tracked);
  static Line finish_interval(const Snapshot& snapshot, const EngineTotals& engine,
                              Tracked& tracked);
  static Line sum(const ServerLines& server);
  static void name_servers(std::vector<ServerLines>& servers);

  std::vector<ServerLines> collect(const Snapshot& snapshot);
  void print(const std::string& who, const Line& line, bool& was_moving);

  std::shared_ptr<spdlog::logger> logger_;
  WallClock wall_clock_;
  std::map<EngineKey, Tracked> engines_;
  std::map<std::string, bool> server_was_moving_;
  std::string text_;
};

}  // namespace rankbus
