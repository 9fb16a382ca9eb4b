#include <rankbus/producer/simulator/front_end_model.hpp>

namespace rankbus::simulator {

namespace {

// Signed, because two processes read the clock: a difference may come out below zero.
double seconds_between(std::uint64_t from_ns, std::uint64_t to_ns) {
  return static_cast<double>(static_cast<std::int64_t>(to_ns - from_ns)) / 1e9;
}

}  // namespace

void FrontEndModel::process(std::span<const Output> outputs, std::uint64_t tokens_ns,
                            std::uint64_t now_ns) {
  iteration_.preempted_reqs = 0;
  iteration_.computed_tokens = 0;
  iteration_.local_cache_hit_tokens = 0;
  iteration_.external_tokens = 0;
  iteration_.generation_tokens = outputs.size();
  iteration_.time_to_first_token_s.clear();
  iteration_.inter_token_latency_s.clear();
  iteration_.max_num_generation_tokens.clear();
  iteration_.n_params.clear();
  finished_.clear();
  for (const Output& output : outputs) {
    State& state = states_[output.request];
    iteration_.preempted_reqs += output.preemptions;
    state.preemptions += output.preemptions;
    if (output.first) {
      first_token(output, state, tokens_ns, now_ns);
    } else {
      iteration_.inter_token_latency_s.push_back(seconds_between(state.last_token_ns, tokens_ns));
    }
    state.last_token_ns = tokens_ns;
    ++state.generated;
    if (output.finished != FinishedBy::nothing) finish(output, state, now_ns);
  }
}

void FrontEndModel::first_token(const Output& output, State& state, std::uint64_t tokens_ns,
                                std::uint64_t now_ns) {
  const Request& request = workload_.requests[output.request];
  state.time_to_first_token_s = seconds_between(scale_.clock_ns(request.arrival_ns), now_ns);
  iteration_.time_to_first_token_s.push_back(state.time_to_first_token_s);
  const std::uint32_t cached = output.cached_tokens + output.external_tokens;
  iteration_.computed_tokens += request.prompt_tokens - cached;
  iteration_.local_cache_hit_tokens += output.cached_tokens;
  iteration_.external_tokens += output.external_tokens;
  state.queued_ns = output.queued_ns;
  state.scheduled_ns = output.scheduled_ns;
  state.first_token_ns = tokens_ns;
  state.cached = cached;
}

void FrontEndModel::finish(const Output& output, const State& state, std::uint64_t now_ns) {
  const Request& request = workload_.requests[output.request];
  FinishedOutcome& done = finished_.emplace_back();
  done.request = output.request;
  done.finished = output.finished;
  done.prompt_tokens = request.prompt_tokens;
  done.generation_tokens = state.generated;
  done.cached_tokens = state.cached;
  done.max_tokens = request.max_tokens;
  done.preemptions = state.preemptions;
  done.time_to_first_token_s = state.time_to_first_token_s;
  done.e2e_latency_s = seconds_between(scale_.clock_ns(request.arrival_ns), now_ns);
  done.queued_time_s = seconds_between(state.queued_ns, state.scheduled_ns);
  done.prefill_time_s = seconds_between(state.scheduled_ns, state.first_token_ns);
  done.inference_time_s = seconds_between(state.scheduled_ns, state.last_token_ns);
  done.decode_time_s = seconds_between(state.first_token_ns, state.last_token_ns);
  done.mean_time_per_output_token_s =
      state.generated > 1 ? done.decode_time_s / (state.generated - 1) : 0.0;
  // Clients ask for one completion here, so a request is its own only sample.
  iteration_.max_num_generation_tokens.push_back(state.generated);
  iteration_.n_params.push_back(1);
}

}  // namespace rankbus::simulator
