#include <optional>
#include <rankbus/producer/simulator/cache_recorder.hpp>
#include <rankbus/producer/simulator/front_end_model.hpp>
#include <rankbus/producer/simulator/image_cache.hpp>
#include <rankbus/producer/simulator/info_record.hpp>
#include <rankbus/producer/simulator/processes.hpp>
#include <rankbus/producer/simulator/random.hpp>

namespace rankbus::simulator {

namespace {

class FrontEndProcess {
 public:
  FrontEndProcess(ChildContext& context, std::uint32_t front_end, Producer& producer)
      : context_(context),
        plan_(context.plan),
        shared_(*context.engine.shared),
        share_(*context.engine.front_end_shares[front_end]),
        producer_(producer),
        model_(plan_.workload),
        truth_(share_.truth, plan_.options.max_model_len),
        log_(logs_images() ? std::make_optional<EventLog>(front_end_log_name(
                                 plan_.options.event_log, context.engine_index, front_end))
                           : std::nullopt),
        image_caches_(producer, share_.features.activity, log_ ? &*log_ : nullptr,
                      plan_.options.features.cache_metrics),
        steps_(*context.engine.front_ends[front_end], context.simulation.stop) {}

  // Follows the scheduler to its end; false when the simulation was stopped.
  bool serve() {
    scale_ = context_.time_scale();
    model_.set_time_scale(scale_);
    record_start();
    for (;;) {
      OutputsMessage message;
      if (!steps_.read(message)) return false;
      if (message.last != 0) return fall_asleep(message);
      outputs_.resize(message.outputs);
      if (!steps_.read_bytes(outputs_.data(), outputs_.size() * sizeof(Output))) return false;
      model_.process(outputs_, message.tokens_ns, delivered_ns(message));
      record_iteration();
    }
  }

 private:
  void record_start() {
    producer_.record(sleep_state(false, 0));
    if (!plan_.options.features.cache_config) return;
    record_info<CacheConfig>(producer_, &CacheConfig::config, producer_.now(),
                             cache_config(plan_.options.kv_blocks));
  }

  // Of caches, a front end has the one of images.
  bool logs_images() const {
    return !plan_.options.event_log.empty() && plan_.options.features.multimodal;
  }

  bool fall_asleep(const OutputsMessage& message) {
    if (log_) log_->flush();
    if (message.sleep_level == 0) return true;
    SleepState state = sleep_state(true, static_cast<int>(message.sleep_level));
    state.stamp = plan_.real_clock() ? producer_.now() : message.tokens_ns;
    share_.features.sleep_level = message.sleep_level;
    producer_.record(state);
    return true;
  }

  // When the outputs had become text for the clients.
  std::uint64_t delivered_ns(const OutputsMessage& message) {
    const std::uint64_t work_ns =
        plan_.times.deliver_ns + plan_.times.deliver_output_ns * message.outputs;
    if (!plan_.real_clock()) return clock_ns_ = stamp_ = message.tokens_ns + work_ns;
    sleep_until_unless_stopped(monotonic_now_ns() + scale_.duration_ns(work_ns),
                               context_.simulation.stop);
    stamp_ = producer_.now();
    return clock_ns_ = monotonic_now_ns();
  }

  void record_iteration() {
    const IterationOutcome& iteration = model_.iteration();
    IterationStats record;
    record.stamp = stamp_;
    record.num_preempted_reqs = iteration.preempted_reqs;
    record.prompt_computed_tokens = iteration.computed_tokens;
    record.prompt_local_cache_hit_tokens = iteration.local_cache_hit_tokens;
    record.prompt_external_kv_transfer_tokens = iteration.external_tokens;
    record.num_generation_tokens = iteration.generation_tokens;
    record.time_to_first_token_seconds = iteration.time_to_first_token_s;
    record.inter_token_latency_seconds = iteration.inter_token_latency_s;
    record.max_num_generation_tokens = iteration.max_num_generation_tokens;
    record.n_params = iteration.n_params;
    truth_.observe(iteration);
    producer_.record(record);
    for (const FinishedOutcome& finished : model_.finished()) record_finished(finished);
    if (plan_.options.features.multimodal) record_images();
    if (plan_.options.features.corrupted_requests > 0) record_corrupted();
    shared_.finished_requests += model_.finished().size();
  }

  // A request's images are looked up when it comes; they are told with its first output.
  void record_images() {
    MultimodalCache record;
    for (const Output& output : outputs_) {
      const std::uint32_t images = plan_.workload.requests[output.request].images;
      if (!output.first || images == 0) continue;
      ++record.requests;
      record.queries += images;
      record.hits += images_.look_up(output.request, images);
    }
    if (record.requests == 0) return;
    record.stamp = stamp_;
    share_.features.observe_images(record.queries, record.hits);
    producer_.record(record);
    record_image_cache(record.hits, record.queries - record.hits);
  }

  void record_image_cache(std::uint64_t hits, std::uint64_t misses) {
    const Moment when = {.stamp = stamp_, .clock_ns = clock_ns_};
    const std::uint64_t seed = plan_.options.seed;
    image_caches_.tell(when,
                       LookupOutcome{.level = CacheLevel::encoder,
                                     .hits = hits,
                                     .misses = misses,
                                     .hit_bytes = hits * kImageBytes,
                                     .miss_bytes = misses * kImageBytes,
                                     .latency_ns = lookup_latency_ns(CacheLevel::encoder, seed,
                                                                     outputs_.front().request)});
    const std::uint64_t evicted = images_.take_evicted();
    image_caches_.tell(when, EvictionOutcome{.level = CacheLevel::encoder,
                                             .cause = EvictionCause::lru,
                                             .blocks = evicted,
                                             .bytes = evicted * kImageBytes,
                                             .latency_ns = evicted * kEvictBlock_ns});
    image_caches_.tell(when, StorageOutcome{.level = CacheLevel::encoder,
                                            .bytes = misses * kImageBytes,
                                            .capacity_bytes = ImageCache::kRoom * kImageBytes});
  }

  void record_corrupted() {
    CorruptedRequests record;
    for (const FinishedOutcome& finished : model_.finished()) {
      record.num_corrupted_reqs += plan_.workload.requests[finished.request].corrupted;
    }
    if (record.num_corrupted_reqs == 0) return;
    record.stamp = stamp_;
    share_.features.observe_corrupted(record.num_corrupted_reqs);
    producer_.record(record);
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
    record.time_to_first_token_seconds = finished.time_to_first_token_s;
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
  FrontEndShare& share_;
  Producer& producer_;
  FrontEndModel model_;
  FrontEndCounter truth_;
  ImageCache images_{plan_.options.seed};
  std::optional<EventLog> log_;
  CacheRecorder image_caches_;
  ChannelReader steps_;
  TimeScale scale_;
  std::vector<Output> outputs_;
  std::uint64_t stamp_ = 0;
  std::uint64_t clock_ns_ = 0;  // The same on the run's clock.
};

}  // namespace

int run_front_end(ChildContext& context, std::uint32_t front_end) {
  const FeatureOptions& features = context.plan.options.features;
  OpenOptions options = context.producer_options();
  options.role = Role::frontend;
  if (features.corrupted_requests > 0) add_record_type<CorruptedRequests>(options);
  if (features.cache_config) add_record_type<CacheConfig>(options);
  if (features.cache_metrics && features.multimodal) CacheRecorder::add_record_types(options);
  Producer producer = Producer::open(options);
  FrontEndProcess process(context, front_end, producer);
  if (context.begin(producer) && process.serve()) context.end();
  return 0;
}

}  // namespace rankbus::simulator
