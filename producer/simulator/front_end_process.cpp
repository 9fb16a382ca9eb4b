#include <rankbus/producer/simulator/front_end_model.hpp>
#include <rankbus/producer/simulator/processes.hpp>
#include <rankbus/producer/simulator/random.hpp>

namespace rankbus::simulator {

namespace {

class FrontEndProcess {
 public:
  FrontEndProcess(ChildContext& context, Producer& producer)
      : context_(context),
        plan_(context.plan),
        shared_(*context.engine.shared),
        producer_(producer),
        model_(plan_.workload),
        truth_(shared_.truth.front_end, plan_.options.max_model_len),
        steps_(*context.engine.front_end, context.simulation.stop) {}

  // Follows the scheduler to its end; false when the simulation was stopped.
  bool serve() {
    scale_ = context_.time_scale();
    model_.set_time_scale(scale_);
    for (;;) {
      OutputsMessage message;
      if (!steps_.read(message)) return false;
      if (message.last != 0) return true;
      outputs_.resize(message.outputs);
      if (!steps_.read_bytes(outputs_.data(), outputs_.size() * sizeof(Output))) return false;
      model_.process(outputs_, message.tokens_ns, delivered_ns(message));
      record_iteration();
    }
  }

 private:
  // When the outputs had become text for the clients.
  std::uint64_t delivered_ns(const OutputsMessage& message) {
    const std::uint64_t work_ns =
        plan_.times.deliver_ns + plan_.times.deliver_output_ns * message.outputs;
    if (!plan_.real_clock()) return stamp_ = message.tokens_ns + work_ns;
    sleep_until_unless_stopped(monotonic_now_ns() + scale_.duration_ns(work_ns),
                               context_.simulation.stop);
    stamp_ = producer_.now();
    return monotonic_now_ns();
  }

  void record_iteration() {
    const IterationOutcome& iteration = model_.iteration();
    IterationStats record;
    record.stamp = stamp_;
    record.num_preempted_reqs = iteration.preempted_reqs;
    record.prompt_computed_tokens = iteration.computed_tokens;
    record.prompt_local_cache_hit_tokens = iteration.local_cache_hit_tokens;
    record.num_generation_tokens = iteration.generation_tokens;
    record.time_to_first_token_seconds = iteration.time_to_first_token_s;
    record.inter_token_latency_seconds = iteration.inter_token_latency_s;
    record.max_num_generation_tokens = iteration.max_num_generation_tokens;
    record.n_params = iteration.n_params;
    truth_.observe(iteration);
    producer_.record(record);
    for (const FinishedOutcome& finished : model_.finished()) record_finished(finished);
    shared_.finished_requests += model_.finished().size();
  }

  void record_finished(const FinishedOutcome& finished) {
    FinishedRequest record;
    record.stamp = stamp_;
    record.request_id_hash = hash_pair(plan_.options.seed, finished.request);
    record.finished_reason =
        finished.finished == FinishedBy::stop ? FinishedReason::stop : FinishedReason::length;
    record.num_prompt_tokens = finished.prompt_tokens;
    record.num_generation_tokens = finished.generation_tokens;
    record.num_cached_tokens = finished.cached_tokens;
    record.max_tokens_param = finished.max_tokens;
    record.num_preemptions = finished.preemptions;
    record.e2e_latency_seconds = finished.e2e_latency_s;
    record.queued_time_seconds = finished.queued_time_s;
    record.prefill_time_seconds = finished.prefill_time_s;
    record.inference_time_seconds = finished.inference_time_s;
    record.decode_time_seconds = finished.decode_time_s;
    record.mean_time_per_output_token_seconds = finished.mean_time_per_output_token_s;
    truth_.observe(finished);
    producer_.record(record);
  }

  ChildContext& context_;
  const RunPlan& plan_;
  EngineShared& shared_;
  Producer& producer_;
  FrontEndModel model_;
  FrontEndCounter truth_;
  ChannelReader steps_;
  TimeScale scale_;
  std::vector<Output> outputs_;
  std::uint64_t stamp_ = 0;
};

}  // namespace

int run_front_end(ChildContext& context) {
  OpenOptions options = context.producer_options();
  options.role = Role::frontend;
  Producer producer = Producer::open(options);
  FrontEndProcess front_end(context, producer);
  if (context.begin(producer) && front_end.serve()) context.end();
  return 0;
}

}  // namespace rankbus::simulator
