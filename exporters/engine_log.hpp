// exporters/engine_log.hpp: what vLLM logs of an engine, for each engine and for all of a server.
//
//   Engine 000: Avg prompt throughput: 59.4 tokens/s, Avg generation throughput: 6.9 tokens/s, ...
//   SpecDecoding metrics: Mean acceptance length: 2.50, ...
//   KV Transfer metrics: Num successful transfers=3, ...
//
// Here is decided which lines there are, about whom, and at which level; their words are in
// log_lines.hpp.
#pragma once

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <rankbus/aggregator/snapshot.hpp>
#include <rankbus/exporters/log_lines.hpp>
#include <string>
#include <utility>
#include <vector>

namespace rankbus {

// One thread at a time.
class EngineLog {
 public:
  using WallClock = std::function<std::chrono::system_clock::time_point()>;

  // The wall clock stamps the lines and nothing else: rates come from the snapshots' own clocks.
  explicit EngineLog(std::shared_ptr<spdlog::logger> logger,
                     WallClock wall_clock = &std::chrono::system_clock::now);

  // Notes engines that appear, so that their first line covers the time since they began, or since
  // now where that is not known; prints what is printed at once: starts and single iterations.
  // Cheap; meant for every pass. A snapshot goes to observe() or to log(), not to both.
  void observe(const Snapshot& snapshot);

  // Prints the lines of the interval since the latest call and begins the next one.
  void log(const Snapshot& snapshot);

 private:
  using EngineKey = std::pair<std::string, std::uint32_t>;  // Server, engine.
  // By server and engine; without an engine, all engines of the server.
  using Intervals =
      std::map<std::pair<std::string, std::optional<std::uint32_t>>, const IntervalStats*>;
  // What each line about a server begins with.
  using Prefixes = std::map<std::string, std::string>;

  struct Tracked {
    EngineTotals before;      // Where the engine stood when its interval began.
    double monotonic_s = 0;   // When that was.
    bool is_shown = false;    // Lives, or died since its latest line.
    bool was_moving = false;  // A throughput of the interval before was not 0.
    bool is_present = false;  // In the snapshot at hand.
    // The num_gpu_blocks that was announced: of the engine, and of all of the server together.
    std::string told_blocks;
    std::string told_blocks_together;
  };

  // The engines of one server that have lines now.
  struct Server {
    std::string key;
    std::vector<const EngineTotals*> engines;
    std::vector<IntervalFigures> figures;  // One per engine.
  };

  void print_alert(const AlertNote& note);
  static void begin_interval(const Snapshot& snapshot, const EngineTotals& engine,
                             Tracked& tracked);
  static IntervalFigures finish_interval(const Snapshot& snapshot, const EngineTotals& engine,
                                         Tracked& tracked);
  static Intervals intervals_of(const Snapshot& snapshot);

  Prefixes prefixes_of(const Snapshot& snapshot) const;
  std::vector<Server> collect(const Snapshot& snapshot);
  void print_starts(const std::vector<const EngineTotals*>& started, const Prefixes& prefixes);
  void print_iterations(const Snapshot& snapshot, const Prefixes& prefixes);
  void print_start(const Server& server, const std::string& prefix);
  void print_engines(const Server& server, const Intervals& intervals, const std::string& prefix);
  void print_all_engines(const Server& server, const Snapshot& snapshot, const Intervals& intervals,
                         const std::string& prefix);
  void print_samples(spdlog::level::level_enum level, const Intervals& intervals,
                     const std::string& server, std::optional<std::uint32_t> engine,
                     const std::optional<CudaGraphSettings>& settings, const std::string& prefix);
  void print(spdlog::level::level_enum level, const std::string& prefix, const std::string& line);

  std::shared_ptr<spdlog::logger> logger_;
  WallClock wall_clock_;
  std::map<EngineKey, Tracked> engines_;
  std::map<std::string, bool> server_was_moving_;
};

}  // namespace rankbus
