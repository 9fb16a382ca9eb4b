#include <algorithm>
#include <rankbus/producer/simulator/info_record.hpp>
#include <rankbus/producer/simulator/scheduler_features.hpp>

namespace rankbus::simulator {

namespace {

std::uint32_t narrow(std::uint64_t count) {
  return static_cast<std::uint32_t>(count);
}

}  // namespace

SchedulerFeatures::SchedulerFeatures(const RunPlan& plan, std::uint32_t engine, EngineCore& core,
                                     Producer& producer, FeatureTruth& truth)
    : plan_(plan),
      features_(plan.options.features),
      engine_(engine),
      core_(core),
      producer_(producer),
      truth_(truth),
      caches_(plan, engine, core, producer, truth.activity) {
  if (features_.kv_cache_metrics_sample > 0) {
    residency_.emplace(features_.kv_cache_metrics_sample, plan.options.seed, engine);
    core.watch_blocks(*residency_);
  }
}

void SchedulerFeatures::add_record_types(const FeatureOptions& features, OpenOptions& options) {
  options.num_speculative_tokens = features.speculative_tokens;
  if (features.speculative_tokens > 0) add_record_type<SpecDecoding>(options);
  if (features.diffusion) add_record_type<DiffusionDecoding>(options);
  if (features.mfu_metrics) add_record_type<PerfStats>(options);
  if (features.cudagraph_metrics) {
    add_record_type<CudaGraph>(options);
    add_record_type<CudaGraphConfig>(options);
  }
  if (features.kv_cache_metrics_sample > 0) add_record_type<KvBlockEviction>(options);
  if (features.iteration_details) add_record_type<IterationDetails>(options);
  if (features.lora_adapters > 0) {
    add_record_type<LoraState>(options);
    add_record_type<LoraRequests>(options);
  }
  if (features.step_phases) add_record_type<StepPhases>(options);
  SchedulerCaches::add_record_types(features, options);
}

void SchedulerFeatures::start(std::uint64_t stamp) {
  if (!features_.cudagraph_metrics) return;
  for (std::size_t mode = 0; mode < graph_modes_.size(); ++mode) {
    graph_modes_[mode] = producer_.intern(kCudaGraphModeNames[mode]);
  }
  record_info<CudaGraphConfig>(producer_, &CudaGraphConfig::config, stamp, cuda_graph_config());
  record_captures(stamp);
}

void SchedulerFeatures::begin_step(const Moment& began) {
  if (residency_) residency_->set_now(began.clock_ns);
  caches_.begin_step(began);
}

void SchedulerFeatures::finish() {
  if (caches_.log() != nullptr) caches_.log()->flush();
}

void SchedulerFeatures::record_step(const Step& step) {
  truth_.observe(step.counts);
  if (features_.speculative_tokens > 0 && step.work.decode_seqs > 0) record_speculation(step);
  if (features_.diffusion && step.work.decode_seqs > 0) record_diffusion(step);
  if (features_.mfu_metrics) record_estimate(step);
  if (features_.cudagraph_metrics) record_cuda_graph(step);
  if (residency_) record_evictions(step);
  if (features_.iteration_details) record_details(step);
  if (features_.lora_adapters > 0) {
    record_adapters(step.stamp);
    record_adapter_requests(step.stamp);
  }
  record_phases(step);
  caches_.record_step({.stamp = step.stamp, .clock_ns = step.tokens_ns});
}

void SchedulerFeatures::record_speculation(const Step& step) {
  const std::uint32_t positions = features_.speculative_tokens;
  const SpeculationOutcome outcome =
      speculate(step.work, positions, plan_.options.seed, engine_, step.number);
  SpecDecoding record;
  record.stamp = step.stamp;
  record.num_drafts = outcome.drafts;
  record.num_draft_tokens = outcome.draft_tokens;
  record.num_accepted_tokens = outcome.accepted_tokens;
  record.num_accepted_tokens_per_pos = {outcome.accepted_at.data(), positions};
  record.num_draft_tokens_per_pos = {outcome.drafted_at.data(), positions};
  truth_.observe(outcome);
  producer_.record(record);
}

void SchedulerFeatures::record_diffusion(const Step& step) {
  const DiffusionOutcome outcome = diffuse(step.work, plan_.options.seed, engine_, step.number);
  DiffusionDecoding record;
  record.stamp = step.stamp;
  record.num_denoising_steps = outcome.denoising_steps;
  record.num_canvas_positions = outcome.canvas_positions;
  record.num_committed_tokens = outcome.committed_tokens;
  truth_.observe(outcome);
  producer_.record(record);
}

void SchedulerFeatures::record_estimate(const Step& step) {
  const WorkEstimate estimate = estimate_work(step.work, ModelSize{}, plan_.options.tp);
  PerfStats record;
  record.stamp = step.stamp;
  record.num_flops_per_gpu = static_cast<double>(estimate.flops);
  record.num_read_bytes_per_gpu = static_cast<double>(estimate.read_bytes);
  record.num_write_bytes_per_gpu = static_cast<double>(estimate.write_bytes);
  truth_.observe(estimate);
  producer_.record(record);
}

void SchedulerFeatures::record_cuda_graph(const Step& step) {
  const CudaGraphUse use = cuda_graph_of(step.work);
  CudaGraph record;
  record.stamp = step.stamp;
  record.num_unpadded_tokens = use.unpadded_tokens;
  record.num_padded_tokens = use.padded_tokens;
  record.runtime_mode = graph_mode(use.mode);
  if (use.mode != CudaGraphMode::none) {
    record.replay_ns = step.phases.model_forward_ns + step.phases.all_reduce_ns;
  }
  truth_.activity.observe_replay(use.mode, record.replay_ns);
  producer_.record(record);
}

void SchedulerFeatures::record_captures(std::uint64_t stamp) {
  for (const CudaGraphMode mode : {CudaGraphMode::piecewise, CudaGraphMode::full}) {
    for (std::uint32_t size = 1; size <= kLargestCudaGraph; size = padded_size(size + 1)) {
      CudaGraph record;
      record.stamp = stamp;
      record.num_unpadded_tokens = size;
      record.num_padded_tokens = size;
      record.runtime_mode = graph_mode(mode);
      record.captured = 1;
      const CudaGraphCapture capture = cuda_graph_capture(size);
      record.capture_ns = capture.duration_ns;
      truth_.activity.observe_capture(mode, capture);
      record.graph_memory_bytes = truth_.activity.graph_memory_bytes;
      producer_.record(record);
    }
  }
}

void SchedulerFeatures::record_evictions(const Step& step) {
  for (const BlockEviction& eviction : residency_->take_evictions()) {
    KvBlockEviction record;
    record.stamp = step.stamp;
    record.lifetime_seconds = eviction.lifetime_s;
    record.idle_seconds = eviction.idle_s;
    record.reuse_gap_seconds = eviction.reuse_gaps_s;
    truth_.observe(eviction);
    producer_.record(record);
  }
}

void SchedulerFeatures::record_details(const Step& step) {
  IterationDetails record;
  record.stamp = step.stamp;
  record.iteration_index = step.number;
  record.num_ctx_requests = narrow(step.work.prefill_seqs);
  record.num_ctx_tokens = narrow(step.work.prefill_tokens);
  record.num_generation_requests = narrow(step.work.decode_seqs);
  record.num_generation_tokens = narrow(step.work.decode_seqs);
  record.num_encoder_inputs = narrow(step.work.encoder_inputs);
  record.num_encoder_output_tokens = narrow(step.work.encoder_inputs * kEncoderTokens);
  record.elapsed_ms = static_cast<double>(step.elapsed_ns) / 1e6;
  record.kv_cache_usage = step.counts.kv_cache_usage;
  producer_.record(record);
}

void SchedulerFeatures::record_phases(const Step& step) {
  const PhaseTimes& phases = step.phases;
  if (EventLog* log = caches_.log()) {
    log->add("step", step.tokens_ns, {},
             {step.number, step.counts.prefix_queries, step.counts.prefix_hits, phases.schedule_ns,
              phases.model_forward_ns, phases.model_execute_ns, phases.sample_ns,
              phases.all_reduce_ns, phases.cache_swap_ns});
  }
  if (!features_.step_phases) return;
  StepPhases record;
  record.stamp = step.stamp;
  record.step = step.number;
  record.schedule_ns = phases.schedule_ns;
  record.model_forward_ns = phases.model_forward_ns;
  record.model_execute_ns = phases.model_execute_ns;
  record.sample_ns = phases.sample_ns;
  record.all_reduce_ns = phases.all_reduce_ns;
  record.cache_swap_ns = phases.cache_swap_ns;
  truth_.activity.observe(phases);
  producer_.record(record);
}

void SchedulerFeatures::record_adapter_requests(std::uint64_t stamp) {
  const auto use = core_.model().adapter_use();
  adapter_use_.resize(use.size());
  // 0 is the base model.
  for (std::uint32_t adapter = 1; adapter < use.size(); ++adapter) {
    if (use[adapter] == adapter_use_[adapter]) continue;
    adapter_use_[adapter] = use[adapter];
    LoraRequests record;
    record.stamp = stamp;
    record.adapter = producer_.intern(adapter_name(adapter).c_str());
    record.num_running_reqs = use[adapter].running;
    record.num_waiting_reqs = use[adapter].live - use[adapter].running;
    truth_.activity.observe_adapter(adapter, use[adapter]);
    producer_.record(record);
  }
}

// Both lists of vLLM name the same adapters: all with a request that waits or runs.
void SchedulerFeatures::record_adapters(std::uint64_t stamp) {
  std::string names;
  for (const std::uint32_t adapter : core_.model().live_adapters()) {
    if (!names.empty()) names += ',';
    names += adapter_name(adapter);
  }
  if (adapters_ == names) return;
  record_info<LoraState>(producer_, &LoraState::adapters, stamp,
                         {{"max_lora", std::to_string(features_.max_loras)},
                          {"running_lora_adapters", names},
                          {"waiting_lora_adapters", names}});
  truth_.observe_lora(names);
  adapters_ = std::move(names);
}

}  // namespace rankbus::simulator
