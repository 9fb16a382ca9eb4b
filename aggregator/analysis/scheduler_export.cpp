// Scheduler statistics as an object, as families and by the name of a format.
#include <rankbus/aggregator/analysis/scheduler_stats.hpp>
#include <utility>

namespace rankbus::analysis {
namespace {

Json dict_of(const NamedCounts& counts) {
  Json dict = Json::object();
  for (const auto& [name, count] : counts.by_name()) dict[name] = count;
  return dict;
}

Json json_of(const Number& number) {
  return std::visit([](auto value) { return Json(value); }, number);
}

void add_named(FamilyList& out, std::string_view family, std::string_view help, FamilyType type,
               const char* label, const NamedCounts& counts) {
  for (const auto& [name, count] : counts.by_name()) {
    out.add(family, help, type, count, {{label, name}});
  }
}

void add_prefix_cache(FamilyList& out, const std::string& before, const PrefixCacheStats& stats) {
  out.add(before + "prefix_cache_hit_rate", "Share of the looked up tokens that were found.",
          FamilyType::gauge, stats.hit_rate());
  out.add(before + "prefix_cache_hits_total", "Tokens found.", FamilyType::counter,
          stats.num_hits());
  out.add(before + "prefix_cache_misses_total", "Tokens not found.", FamilyType::counter,
          stats.num_misses());
}

void add_spec_decoding(FamilyList& out, const SpecDecodingStats& stats) {
  out.add("spec_decode_drafts_total", "Drafts.", FamilyType::counter, stats.num_drafts());
  out.add("spec_decode_acceptance_rate", "Share of the draft tokens that were accepted.",
          FamilyType::gauge, stats.acceptance_rate());
  out.add("spec_decode_draft_tokens_total", "Draft tokens.", FamilyType::counter,
          stats.num_draft_tokens());
  out.add("spec_decode_accepted_tokens_total", "Draft tokens that were accepted.",
          FamilyType::counter, stats.num_accepted_tokens());
  for (std::size_t i = 0; i < stats.accepted_per_position().size(); ++i) {
    out.add("spec_decode_accepted_tokens_per_position_total",
            "Drafts of which this position was accepted.", FamilyType::counter,
            stats.accepted_per_position()[i], {{"position", std::to_string(i)}});
  }
}

void add_cuda_graphs(FamilyList& out, const CudaGraphStats& stats) {
  out.add("cudagraph_captures_total", "Graphs captured.", FamilyType::counter,
          stats.num_captures());
  out.add("cudagraph_replays_total", "Graphs replayed.", FamilyType::counter, stats.num_replays());
  out.add("cudagraph_capture_time_ms_total", "Time spent on captures.", FamilyType::counter,
          stats.capture_time_ms());
  out.add("cudagraph_replay_time_ms_total", "Time spent on replays.", FamilyType::counter,
          stats.replay_time_ms());
  out.add("cudagraph_memory_mb", "The most memory that graphs ever took.", FamilyType::gauge,
          stats.graph_memory_mb());
}

void add_perf(FamilyList& out, const PerfStats& stats) {
  const auto add_phase = [&](const char* phase, double ms) {
    out.add("scheduler_phase_time_ms_total",
            "Time of all steps by phase; model_execute spans model_forward.", FamilyType::counter,
            ms, {{"phase", phase}});
  };
  add_phase("schedule", stats.schedule_time_ms());
  add_phase("model_forward", stats.model_forward_time_ms());
  add_phase("model_execute", stats.model_execute_time_ms());
  add_phase("sample", stats.sample_time_ms());
  add_phase("all_reduce", stats.all_reduce_time_ms());
  add_phase("cache_swap", stats.cache_swap_time_ms());
  out.add("scheduler_timed_steps_total", "Steps that were timed.", FamilyType::counter,
          stats.num_steps());
}

}  // namespace

Json SchedulerStats::as_dict() const {
  const std::optional<double> usage = kv_cache_usage();
  Json dict = {
      {"num_running_reqs", num_running_reqs()}, {"num_waiting_reqs", num_waiting_reqs()},
      {"total_requests", total_requests()},     {"step_counter", step_counter_},
      {"current_wave", current_wave()},         {"kv_cache_usage", usage ? Json(*usage) : Json()},
      {"prefix_cache", prefix_cache.as_dict()}};
  if (spec_decoding) dict["spec_decoding"] = spec_decoding->as_dict();
  if (cuda_graphs) dict["cudagraph"] = cuda_graphs->as_dict();
  if (perf) dict["performance"] = perf->as_dict();
  if (connector_prefix_cache) dict["connector_prefix_cache"] = connector_prefix_cache->as_dict();
  if (kv_connector) {
    Json& values = dict["kv_connector"] = Json::object();
    for (const auto& [name, value] : kv_connector->by_name()) values[name] = json_of(value);
  }
  if (lora_.is_set()) {
    dict["running_lora_adapters"] = dict_of(running_lora_adapters());
    dict["waiting_lora_adapters"] = dict_of(waiting_lora_adapters());
  }
  if (!evictions_.is_empty() || !evictions_by_reason_.is_empty()) {
    Json& events = dict["kv_cache_eviction_events"] = Json::array();
    for (const KvCacheEvictionEvent& event : evictions_.events()) events.push_back(event.as_dict());
    dict["kv_cache_evictions"] = evictions_by_reason_.sum();
    dict["kv_cache_eviction_events_dropped"] = evictions_.dropped();
  }
  if (const std::uint64_t bad = bad_records()) dict["bad_records"] = bad;
  return dict;
}

std::vector<Family> SchedulerStats::families(const Labels& labels) const {
  FamilyList out(labels);
  out.add("scheduler_running_requests", "Requests being executed.", FamilyType::gauge,
          num_running_reqs());
  out.add("scheduler_waiting_requests", "Requests waiting.", FamilyType::gauge, num_waiting_reqs());
  out.add("scheduler_step_counter", "Steps of the scheduler.", FamilyType::counter, step_counter_);
  out.add("scheduler_current_wave", "The wave of data-parallel engines.", FamilyType::gauge,
          current_wave());
  if (const std::optional<double> usage = kv_cache_usage()) {
    out.add("kv_cache_usage", "Share of the KV cache in use, 0 to 1.", FamilyType::gauge, *usage);
  }
  add_prefix_cache(out, "", prefix_cache);
  if (connector_prefix_cache) add_prefix_cache(out, "connector_", *connector_prefix_cache);
  if (spec_decoding) add_spec_decoding(out, *spec_decoding);
  if (cuda_graphs) add_cuda_graphs(out, *cuda_graphs);
  if (perf) add_perf(out, *perf);
  if (kv_connector) {
    for (const auto& [name, value] : kv_connector->by_name()) {
      out.add("kv_connector_value", "What a KV connector reports, by its own names.",
              FamilyType::gauge, value, {{"name", name}});
    }
  }
  add_named(out, "scheduler_running_lora_requests", "Running requests by LoRA adapter.",
            FamilyType::gauge, "adapter", running_lora_adapters());
  add_named(out, "scheduler_waiting_lora_requests", "Waiting requests by LoRA adapter.",
            FamilyType::gauge, "adapter", waiting_lora_adapters());
  add_named(out, "kv_cache_evictions_total", "Evictions by reason.", FamilyType::counter, "reason",
            evictions_by_reason_);
  add_named(out, "kv_cache_evicted_blocks_total", "Evicted blocks by reason.", FamilyType::counter,
            "reason", evicted_blocks_by_reason_);
  out.add("scheduler_bad_records_total", "Records left out because they cannot be true.",
          FamilyType::counter, bad_records());
  return out.take();
}

std::string SchedulerStats::to_prometheus(const Labels& labels) const {
  return std::get<std::string>(export_in(ExportFormat::prometheus, Json(), families(labels)));
}

Result<Exported> SchedulerStats::export_as(std::string_view format, const Labels& labels) const {
  const Result<ExportFormat> known = parse_export_format_untrusted(
      format, {ExportFormat::dict, ExportFormat::prometheus, ExportFormat::json});
  if (!known) return Error{known.error()};
  return export_in(known.value(), as_dict(), families(labels));
}

}  // namespace rankbus::analysis
