// The processes of a simulation and what they share.
//
// The parent makes the shared memory, forks everybody and only watches. Per engine, the scheduler
// runs the engine model and sends each step to the ranks and each step's outputs to the front end:
//
//   scheduler --steps--> rank 0..tp-1         rank 0 --output ready--> scheduler   (real clock
//   only)
//             --outputs--> front end
//
// On the virtual clock all stamps come from the model and the seed, so messages travel in large
// batches and nobody answers. On the real clock the ranks sleep their share of the work, meet in
// real barriers, and the scheduler waits for rank 0 as a real one does.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <rankbus/producer/producer.hpp>
#include <rankbus/producer/simulator/connector_model.hpp>
#include <rankbus/producer/simulator/engine_core.hpp>
#include <rankbus/producer/simulator/process_sync.hpp>
#include <rankbus/producer/simulator/simulate.hpp>
#include <rankbus/producer/simulator/truth.hpp>
#include <string>
#include <vector>

namespace rankbus::simulator {

// Exit status of a child that ended because somebody sent it SIGTERM.
inline constexpr int kToldToEnd = 128 + 15;

// What one child tells the parent. Texts are written before the event is posted.
struct ChildReport {
  char inert_reason[sizeof(bus::Reason)] = {};  // empty: the producer works
};

// What the front ends and the ranks of an engine count for the truth, each for itself.
struct FrontEndShare {
  FrontEndTruth truth;
  FeatureTruth features;
};
struct RankShare {
  FeatureTruth features;
};

// What one engine's processes share.
struct EngineShared {
  SchedulerTruth truth;
  FeatureTruth features;  // of the scheduler
  Semaphore output_ready{0};
  Barrier barrier;
  std::atomic<std::uint64_t> finished_requests = 0;
  std::atomic<std::uint64_t> unfinished_requests = 0;  // when the scheduler stopped
  std::atomic<std::uint64_t> refused_requests = 0;
  std::atomic<std::uint64_t> steps = 0;
  std::atomic<std::uint64_t> clock_ns = 0;  // the scheduler's clock at its last step
};

// What all processes share.
struct SimulationShared {
  StopFlag stop;
  Semaphore events{0};   // a child became ready, or published its last record
  Semaphore start{0};    // one post per child: begin
  Semaphore release{0};  // one post per child: close the producer and exit
  std::atomic<std::uint32_t> ready = 0;
  std::atomic<std::uint32_t> published = 0;
  std::atomic<std::uint64_t> origin_ns = 0;  // CLOCK_MONOTONIC at model time 0
};

// Everything that a child inherits by being forked.
struct RunPlan {
  SimulateOptions options;
  Workload workload;
  EngineLimits limits;
  StepTimeModel times;
  std::string run_id;
  std::string server;

  // What the clock reads when the run is stopped, or the end of time.
  std::uint64_t until_ns(const TimeScale& scale) const {
    if (!std::isfinite(options.until_s)) return ~std::uint64_t{0};
    return scale.clock_ns(static_cast<std::uint64_t>(options.until_s * 1e9));
  }
  bool real_clock() const { return options.clock_kind() == ClockKind::real; }
};

struct EngineLinks {
  EngineShared* shared = nullptr;
  std::vector<Channel*> front_ends;
  std::vector<FrontEndShare*> front_end_shares;
  std::vector<Channel*> ranks;
  std::vector<RankShare*> rank_shares;
};

// A child's connection to the parent and to its engine.
struct ChildContext {
  const RunPlan& plan;
  SimulationShared& simulation;
  EngineLinks engine;
  std::uint32_t engine_index;
  ChildReport& report;

  // Options of this engine's producers; the caller adds role and place.
  OpenOptions producer_options() const;
  // Says whether the producer works, then waits for everybody. False when the simulation is
  // stopped.
  bool begin(const Producer& producer);
  // Says that the last record was published, then keeps the producer open until released.
  void end();
  // Model time to this run's clock. Only after begin().
  TimeScale time_scale() const;
};

// One step, as the scheduler broadcasts it to the ranks.
struct StepMessage {
  std::uint64_t step = 0;
  std::uint64_t broadcast_ns = 0;  // virtual clock
  StepCost cost;                   // in model time
  std::uint32_t padded_tokens = 0;
  StepTransfers moved;     // by the KV connectors
  std::uint32_t last = 0;  // 1: no step, the run is over
};

// Those of a step's outputs that are a front end's, on their way there; as many Output follow.
struct OutputsMessage {
  std::uint64_t tokens_ns = 0;
  std::uint32_t outputs = 0;
  std::uint32_t last = 0;  // 1: no outputs, the run is over
  std::uint32_t sleep_level =
      0;  // with `last`: the engine falls asleep at this level; 0: it does not
};

// The bodies of the children; what they return is the exit status.
int run_scheduler(ChildContext& context);
int run_front_end(ChildContext& context, std::uint32_t front_end);
int run_rank(ChildContext& context, std::uint32_t rank);

}  // namespace rankbus::simulator
