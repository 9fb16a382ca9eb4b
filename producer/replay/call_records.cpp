#include <algorithm>
#include <rankbus/producer/replay/call_records.hpp>
#include <utility>

namespace rankbus::replay {
namespace {

FinishedReason reason_of(const std::string& text) {
  // As vLLM writes them.
  if (text == "stop") return FinishedReason::stop;
  if (text == "length") return FinishedReason::length;
  if (text == "abort") return FinishedReason::abort;
  if (text == "error") return FinishedReason::error;
  if (text == "repetition") return FinishedReason::repetition;
  // A reason of another release, or none at all, counts as `other`.
  return static_cast<FinishedReason>(0);
}

std::string joined_keys(const Json& in, const char* key) {
  std::string names;
  const Json* map = member(in, key);
  if (map == nullptr) return names;
  if (!map->is_object()) throw BadLine(std::string(key) + ": an object is expected");
  for (const auto& [name, count] : map->items()) names += (names.empty() ? "" : ",") + name;
  return names;
}

bool is_empty(const Json& in, const char* key) {
  const Json* map = member(in, key);
  return map == nullptr || map->empty();
}

template <class Record>
void write_all(Producer& producer, std::uint64_t stamp, std::vector<Record>& records) {
  for (Record& record : records) {
    record.stamp = stamp;
    producer.record(record);
  }
}

template <class Record>
void write_one(Producer& producer, std::uint64_t stamp, std::optional<Record>& record) {
  if (!record) return;
  record->stamp = stamp;
  producer.record(*record);
}

}  // namespace

namespace {

// What people call a feature, beside its record type's name: vLLM's options, objects and classes.
constexpr std::pair<const char*, const char*> kFeatureNames[] = {
    {"spec_decode", "spec_decoding"},
    {"speculative_decoding", "spec_decoding"},
    {"diffusion", "diffusion_decoding"},
    {"mfu", "perf_stats"},
    {"mfu_metrics", "perf_stats"},
    {"perf", "perf_stats"},
    {"kv_cache_metrics", "kv_block_eviction"},
    {"kv_cache_residency", "kv_block_eviction"},
    {"cudagraph", "cuda_graph"},
    {"cudagraph_metrics", "cuda_graph"},
    {"lora", "lora_state"},
    {"corrupted", "corrupted_requests"},
    {"nans", "corrupted_requests"},
    {"cache_config_info", "cache_config"},
    {"iteration_detail", "iteration_details"},
    {"NixlConnector", "connector:nixl"},
    {"MoRIIOConnector", "connector:moriio"},
    {"MooncakeConnector", "connector:mooncake"},
    {"MooncakeStoreConnector", "connector:mooncake_store"},
    {"OffloadingConnector", "connector:offloading"},
    {"HiSparseConnector", "connector:hisparse"},
};

std::string full_name(const std::string& name) {
  for (const auto& [called, type] : kFeatureNames) {
    if (name == called) return type;
  }
  return name;
}

}  // namespace

Features features_of(const std::vector<std::string>& names, std::vector<std::string>& unknown) {
  const bus::RecordType* types[kBuiltInTypes];
  list_built_in_types(types);
  Features features;
  for (const std::string& name : names) {
    const std::string full = full_name(name);
    const bool known = std::any_of(std::begin(types), std::end(types), [&](const auto* type) {
      if (full != type->name && "connector:" + full != type->name) return false;
      features.insert(type->name);
      return true;
    });
    if (!known) unknown.push_back(name);
  }
  return features;
}

CallRecords::CallRecords(const Call& call, const CallsHeader& header, const Features& configured) {
  if (call.scheduler.is_object()) {
    take_scheduler(call.scheduler, configured.count("connector:moriio") != 0);
    const Json* spec = member(call.scheduler, "spec_decoding_stats");
    if (spec != nullptr) take_spec_decoding(*spec, configured.count("diffusion_decoding") != 0);
    // Releases with LoRA code have the maps whether it is used or not.
    const bool has_adapters = !is_empty(call.scheduler, "waiting_lora_adapters") ||
                              !is_empty(call.scheduler, "running_lora_adapters");
    if (has_adapters || configured.count("lora_state") != 0)
      take_adapters(call.scheduler, header.max_lora);
  }
  if (call.iteration.is_object()) take_iteration(call.iteration);
  if (call.mm.is_object()) {
    MultimodalCache& record = multimodal_.emplace();
    record.reset = flag(call.mm, "reset") ? 1 : 0;
    record.requests = small(call.mm, "requests");
    record.queries = whole(call.mm, "queries");
    record.hits = whole(call.mm, "hits");
  }
  if (call.sleep) sleep_ = sleep_state(call.sleep->asleep, call.sleep->level);
}

void CallRecords::take_scheduler(const Json& in, bool is_moriio) {
  SchedulerStep& step = step_.emplace();
  step.step = whole(in, "step_counter");
  step.num_running_reqs = small(in, "num_running_reqs");
  step.num_waiting_reqs = small(in, "num_waiting_reqs");
  step.num_skipped_waiting_reqs = small(in, "num_skipped_waiting_reqs");
  // The former name is of releases up to 0.9.
  step.kv_cache_usage =
      real(in, "kv_cache_usage").value_or(real(in, "gpu_cache_usage").value_or(0));
  if (const Json* cache = member(in, "prefix_cache_stats")) {
    step.prefix_cache_reset = flag(*cache, "reset") ? 1 : 0;
    step.prefix_cache_requests = small(*cache, "requests");
    step.prefix_cache_queries = whole(*cache, "queries");
    step.prefix_cache_hits = whole(*cache, "hits");
  }
  if (const Json* cache = member(in, "connector_prefix_cache_stats")) {
    step.external_prefix_cache_reset = flag(*cache, "reset") ? 1 : 0;
    step.external_prefix_cache_requests = small(*cache, "requests");
    step.external_prefix_cache_queries = whole(*cache, "queries");
    step.external_prefix_cache_hits = whole(*cache, "hits");
  }
  for (const Json* event : objects(in, "kv_cache_eviction_events")) {
    KvBlockEviction& eviction = evictions_.emplace_back();
    if (const auto lifetime = real(*event, "lifetime_seconds"))
      eviction.lifetime_seconds = *lifetime;
    if (const auto idle = real(*event, "idle_seconds")) eviction.idle_seconds = *idle;
    eviction.reuse_gap_seconds = keep(reals(*event, "reuse_gaps_seconds"));
  }
  if (const Json* stats = member(in, "perf_stats")) {
    PerfStats& perf = perf_.emplace();
    perf.num_flops_per_gpu = real(*stats, "num_flops_per_gpu").value_or(0);
    perf.num_read_bytes_per_gpu = real(*stats, "num_read_bytes_per_gpu").value_or(0);
    perf.num_write_bytes_per_gpu = real(*stats, "num_write_bytes_per_gpu").value_or(0);
  }
  if (const Json* stats = member(in, "cudagraph_stats")) {
    CudaGraph& graph = cuda_graph_.emplace();
    graph.num_unpadded_tokens = small(*stats, "num_unpadded_tokens");
    graph.num_padded_tokens = small(*stats, "num_padded_tokens");
    cuda_graph_mode_ = text(*stats, "runtime_mode").value_or("NONE");
  }
  if (const Json* stats = member(in, "iteration_details")) {
    IterationDetails& details = details_.emplace();
    details.iteration_index = whole(*stats, "iteration_index");
    details.num_ctx_requests = small(*stats, "num_ctx_requests");
    details.num_ctx_tokens = small(*stats, "num_ctx_tokens");
    details.num_generation_requests = small(*stats, "num_generation_requests");
    details.num_generation_tokens = small(*stats, "num_generation_tokens");
    details.num_encoder_inputs = small(*stats, "num_encoder_inputs");
    details.num_encoder_output_tokens = small(*stats, "num_encoder_output_tokens");
    details.elapsed_ms = real(*stats, "elapsed_ms").value_or(0);
    details.is_dummy = flag(*stats, "is_dummy") ? 1 : 0;
    details.kv_cache_usage = step.kv_cache_usage;
  }
  if (const Json* payload = member(in, "kv_connector_stats"))
    parse_connector_payload(*payload, is_moriio, connectors_);
}

void CallRecords::take_spec_decoding(const Json& in, bool is_diffusion) {
  if (is_diffusion) {
    DiffusionDecoding& diffusion = diffusion_.emplace();
    diffusion.num_denoising_steps = whole(in, "num_drafts");
    diffusion.num_canvas_positions = whole(in, "num_draft_tokens");
    diffusion.num_committed_tokens = whole(in, "num_accepted_tokens");
    return;
  }
  SpecDecoding& spec = spec_.emplace();
  spec.num_drafts = whole(in, "num_drafts");
  spec.num_draft_tokens = whole(in, "num_draft_tokens");
  spec.num_accepted_tokens = whole(in, "num_accepted_tokens");
  spec.num_accepted_tokens_per_pos = keep(wholes(in, "num_accepted_tokens_per_pos"));
  spec.num_draft_tokens_per_pos = keep(wholes(in, "num_draft_tokens_per_pos"));
}

// vLLM shows the adapters of both maps, in their order.
void CallRecords::take_adapters(const Json& in, const std::string& max_lora) {
  if (member(in, "waiting_lora_adapters") == nullptr &&
      member(in, "running_lora_adapters") == nullptr) {
    return;
  }
  InfoText& adapters = adapters_.emplace();
  adapters.add("max_lora", max_lora.c_str());
  adapters.add("running_lora_adapters", joined_keys(in, "running_lora_adapters").c_str());
  adapters.add("waiting_lora_adapters", joined_keys(in, "waiting_lora_adapters").c_str());
}

void CallRecords::take_iteration(const Json& in) {
  IterationStats& iteration = iteration_.emplace();
  iteration.num_preempted_reqs = whole(in, "num_preempted_reqs");
  iteration.num_generation_tokens = whole(in, "num_generation_tokens");
  if (const Json* prompt = member(in, "prompt_token_stats")) {
    iteration.prompt_computed_tokens = whole(*prompt, "computed");
    iteration.prompt_local_cache_hit_tokens = whole(*prompt, "local_cache_hit");
    iteration.prompt_external_kv_transfer_tokens = whole(*prompt, "external_kv_transfer");
  } else {
    // Earlier releases knew one number only.
    iteration.prompt_computed_tokens = whole(in, "num_prompt_tokens");
  }
  iteration.time_to_first_token_seconds = keep(reals(in, "time_to_first_tokens_iter"));
  const bool has_former_name = member(in, "inter_token_latencies_iter") == nullptr;
  iteration.inter_token_latency_seconds = keep(
      reals(in, has_former_name ? "time_per_output_tokens_iter" : "inter_token_latencies_iter"));
  iteration.max_num_generation_tokens = keep(wholes(in, "max_num_generation_tokens_iter"));
  iteration.n_params = keep(wholes(in, "n_params_iter"));
  corrupted_ = whole(in, "num_corrupted_reqs");
  for (const Json* finished : objects(in, "finished_requests")) take_finished(*finished);
}

void CallRecords::take_finished(const Json& in) {
  FinishedRequest& record = finished_.emplace_back();
  record.finished_reason = reason_of(text(in, "finish_reason").value_or(""));
  record.num_prompt_tokens = whole(in, "num_prompt_tokens");
  record.num_generation_tokens = whole(in, "num_generation_tokens");
  record.num_cached_tokens = signed_whole(in, "num_cached_tokens").value_or(0);
  record.max_tokens_param = whole(in, "max_tokens_param", absent<std::uint64_t>());
  record.num_preemptions = whole(in, "num_preemptions");
  // A time that its release did not know is no observation of 0.
  const auto time = [&](const char* key) { return real(in, key).value_or(absent<double>()); };
  record.e2e_latency_seconds = time("e2e_latency");
  record.queued_time_seconds = time("queued_time");
  record.prefill_time_seconds = time("prefill_time");
  record.inference_time_seconds = time("inference_time");
  record.decode_time_seconds = time("decode_time");
  record.mean_time_per_output_token_seconds = time("mean_time_per_output_token");
}

Features CallRecords::features() const {
  Features found;
  const auto add = [&](bool is_there, const bus::RecordType* type) {
    if (is_there) found.insert(type->name);
  };
  add(step_.has_value(), record_type<SchedulerStep>());
  add(corrupted_ > 0, record_type<CorruptedRequests>());
  add(!evictions_.empty(), record_type<KvBlockEviction>());
  add(spec_.has_value(), record_type<SpecDecoding>());
  add(diffusion_.has_value(), record_type<DiffusionDecoding>());
  add(perf_.has_value(), record_type<PerfStats>());
  add(cuda_graph_.has_value(), record_type<CudaGraph>());
  add(details_.has_value(), record_type<IterationDetails>());
  add(adapters_.has_value(), record_type<LoraState>());
  add(!connectors_.nixl.empty(), record_type<NixlTransfer>());
  add(!connectors_.moriio.empty(), record_type<MoriioTransfer>());
  add(!connectors_.mooncake.empty(), record_type<MooncakeTransfer>());
  add(!connectors_.store.empty(), record_type<MooncakeStoreOperation>());
  add(!connectors_.hisparse.empty(), record_type<HiSparse>());
  for (const OffloadingReport& report : connectors_.offloading) {
    add(true, record_type<Offloading>());
    add(report.has_cpu, record_type<OffloadingCpu>());
    add(report.stores_skipped.has_value(), record_type<OffloadingSkipped>());
    add(report.has_lookups, record_type<OffloadingLookup>());
    add(!report.config.empty(), record_type<OffloadingConfig>());
  }
  return found;
}

void CallRecords::write(Producer& producer, std::uint64_t stamp) {
  write_one(producer, stamp, step_);
  write_one(producer, stamp, iteration_);
  write_all(producer, stamp, finished_);
  write_one(producer, stamp, multimodal_);
  write_one(producer, stamp, sleep_);
  if (corrupted_ > 0) {
    CorruptedRequests corrupted;
    corrupted.stamp = stamp;
    corrupted.num_corrupted_reqs = corrupted_;
    producer.record(corrupted);
  }
  write_all(producer, stamp, evictions_);
  write_one(producer, stamp, spec_);
  write_one(producer, stamp, diffusion_);
  write_one(producer, stamp, perf_);
  if (cuda_graph_) cuda_graph_->runtime_mode = producer.intern(cuda_graph_mode_.c_str());
  write_one(producer, stamp, cuda_graph_);
  write_one(producer, stamp, details_);
  if (adapters_) {
    LoraState state;
    state.stamp = stamp;
    state.adapters = adapters_->words();
    producer.record(state);
  }
  write_connectors(producer, stamp);
}

void CallRecords::write_connectors(Producer& producer, std::uint64_t stamp) {
  write_all(producer, stamp, connectors_.nixl);
  write_all(producer, stamp, connectors_.moriio);
  write_all(producer, stamp, connectors_.mooncake);
  for (StoreOperation& operation : connectors_.store) {
    operation.record.stamp = stamp;
    operation.record.operation = producer.intern(operation.operation.c_str());
    operation.record.status = producer.intern(operation.status.c_str());
    producer.record(operation.record);
  }
  write_all(producer, stamp, connectors_.hisparse);
  write_offloading(producer, stamp);
}

void CallRecords::write_offloading(Producer& producer, std::uint64_t stamp) {
  for (OffloadingReport& report : connectors_.offloading) {
    report.transfers.stamp = stamp;
    report.transfers.load_size = report.load_sizes;
    report.transfers.store_size = report.store_sizes;
    producer.record(report.transfers);
    if (report.has_cpu) {
      report.cpu.stamp = stamp;
      report.cpu.cpu_allocation_size = report.allocation_sizes;
      producer.record(report.cpu);
    }
    if (report.stores_skipped) {
      OffloadingSkipped skipped;
      skipped.stamp = stamp;
      skipped.stores_skipped = *report.stores_skipped;
      producer.record(skipped);
    }
    if (report.has_lookups) {
      OffloadingLookup lookups;
      lookups.stamp = stamp;
      lookups.allocation_failures = report.allocation_failures;
      lookups.lookup_sync_delay_seconds = report.sync_delays_s;
      lookups.lookup_async_delay_seconds = report.async_delays_s;
      producer.record(lookups);
    }
    if (!report.config.empty()) {
      InfoText config;
      for (const auto& [label, value] : report.config) config.add(label.c_str(), value.c_str());
      OffloadingConfig record;
      record.stamp = stamp;
      record.config = config.words();
      producer.record(record);
    }
  }
}

InfoText cache_config_text(const Json& config) {
  InfoText text;
  for (const auto& [name, value] : config.items())
    text.add(name.c_str(), python_text(value).c_str());
  return text;
}

}  // namespace rankbus::replay
