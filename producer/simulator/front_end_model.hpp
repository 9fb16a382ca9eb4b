// The front end's half of the engine: follows each request from its arrival to its last token and
// computes the latencies, by vLLM's formulas and from the same stamps as vLLM.
#pragma once

#include <cstdint>
#include <rankbus/producer/simulator/engine_core.hpp>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <span>
#include <vector>

namespace rankbus::simulator {

// What one step with outputs adds to the statistics.
struct IterationOutcome {
  std::uint64_t preempted_reqs = 0;
  std::uint64_t computed_tokens = 0;         // of prompts that ended their prefill
  std::uint64_t local_cache_hit_tokens = 0;  // of the same prompts
  std::uint64_t external_tokens = 0;         // of the same prompts
  std::uint64_t generation_tokens = 0;
  std::vector<double> time_to_first_token_s;
  std::vector<double> inter_token_latency_s;
  std::vector<std::uint64_t> max_num_generation_tokens;
  std::vector<std::uint64_t> n_params;
};

struct FinishedOutcome {
  std::uint32_t request = 0;
  FinishedBy finished = FinishedBy::nothing;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generation_tokens = 0;
  std::uint32_t cached_tokens = 0;  // external ones included
  std::uint32_t max_tokens = 0;     // 0: the client gave none
  std::uint32_t preemptions = 0;
  double time_to_first_token_s = 0;
  double e2e_latency_s = 0;
  double queued_time_s = 0;
  double prefill_time_s = 0;
  double inference_time_s = 0;
  double decode_time_s = 0;
  double mean_time_per_output_token_s = 0;
};

class FrontEndModel {
 public:
  // `workload` must outlive the model.
  explicit FrontEndModel(const Workload& workload)
      : workload_(workload), states_(workload.requests.size()) {}

  void set_time_scale(const TimeScale& scale) { scale_ = scale; }

  // Takes the outputs of one step: `tokens_ns` is the engine's stamp on them, `now_ns` the front
  // end's own clock. The results stay valid until the next call. A step without outputs has no
  // iteration: do not call.
  void process(std::span<const Output> outputs, std::uint64_t tokens_ns, std::uint64_t now_ns);
  const IterationOutcome& iteration() const { return iteration_; }
  std::span<const FinishedOutcome> finished() const { return finished_; }

 private:
  struct State {
    std::uint64_t scheduled_ns = 0;
    std::uint64_t queued_ns = 0;
    std::uint64_t first_token_ns = 0;
    std::uint64_t last_token_ns = 0;
    std::uint32_t generated = 0;
    std::uint32_t cached = 0;
    std::uint32_t preemptions = 0;
    double time_to_first_token_s = 0;
  };

  void first_token(const Output& output, State& state, std::uint64_t tokens_ns,
                   std::uint64_t now_ns);
  void finish(const Output& output, const State& state, std::uint64_t now_ns);

  const Workload& workload_;
  TimeScale scale_;
  std::vector<State> states_;
  IterationOutcome iteration_;
  std::vector<FinishedOutcome> finished_;
};

}  // namespace rankbus::simulator
