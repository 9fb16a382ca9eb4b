// `rankbus simulate`: replays a request trace through a model of an inference engine, and writes
// the records that a real engine would write, from real processes: one per scheduler, front end and
// rank.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <rankbus/producer/simulator/features.hpp>
#include <string>

namespace CLI {
class App;
}

namespace rankbus::simulator {

enum class ClockKind : std::uint8_t { real, virtual_time };

inline constexpr double kMaxSpeed = std::numeric_limits<double>::infinity();

struct SimulateOptions {
  std::string bus;       // empty: as the producer finds it
  std::string trace;     // empty: the generated workload
  std::string workload;  // "generated" or "generated:REQUESTS"; empty: "generated"
  std::string model = "simulated-70b";
  std::string server;  // empty: RANKBUS_SERVER, else POD_NAME, else unnamed
  std::uint32_t max_model_len = 131072;
  std::uint32_t engines = 1;
  std::uint32_t tp = 1;
  std::uint32_t front_ends = 1;    // per engine
  double speed = 1;                // kMaxSpeed: as fast as it goes
  std::optional<ClockKind> clock;  // else virtual at kMaxSpeed, real otherwise
  double duration_s = std::numeric_limits<double>::infinity();
  double until_s = std::numeric_limits<double>::infinity();
  std::uint64_t seed = 1;
  std::uint32_t kv_blocks = 0;
  BlockRule block_rule = BlockRule::vllm;
  std::uint32_t max_num_seqs = 256;
  std::uint32_t max_num_batched_tokens = 8192;
  std::uint32_t collectives = 2;
  FeatureOptions features;
  bool hold = false;
  bool linger = false;
  std::string truth;      // empty: none is written
  std::string event_log;  // empty: none is written

  ClockKind clock_kind() const {
    return clock.value_or(speed == kMaxSpeed ? ClockKind::virtual_time : ClockKind::real);
  }
};

// Runs to the end (or to SIGTERM / SIGINT) and returns the exit status: 0 done or ended by signal,
// 1 failed, 2 bad option or input. Messages and progress go to stderr, the summary to stdout.
// Call it from a process with one thread: it forks.
int run_simulate(const SimulateOptions& options);

// Adds the subcommand `simulate`. Call the result after parsing, if the subcommand was chosen; it
// runs with the parsed options and returns the exit status.
std::function<int()> add_simulate_command(CLI::App& app);

}  // namespace rankbus::simulator
