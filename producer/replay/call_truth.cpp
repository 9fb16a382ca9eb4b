#include <algorithm>
#include <charconv>
#include <cmath>
#include <rankbus/producer/replay/call_truth.hpp>

namespace rankbus::replay {
namespace {

using Bounds = std::vector<double>;

const Bounds kTtft = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                      1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
const Bounds kItl = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                     0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
const Bounds kRequest = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                         30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const Bounds kIteration = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
const Bounds kParamsN = {1, 2, 5, 10, 20};
const Bounds kPreemptions = {1, 2, 3, 4, 5, 10, 20};
const Bounds kResidency = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,  1,   2,
                           5,     10,    20,    30,   60,   120,  300, 600, 1200, 1800};
const Bounds kTransfer = {0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 5};
const Bounds kPost = {0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 5};
const Bounds kBytes = {2048,    8192,     32768,     131072,    524288,     2097152,
                       8388608, 33554432, 134217728, 536870912, 2147483648, 8589934592};
const Bounds kDescriptors = {10,  20,   30,   50,   75,    100,   200,
                             400, 1000, 2000, 4000, 10000, 20000, 50000};
const Bounds kOffload = {1e6, 5e6, 1e7, 2e7, 4e7, 6e7, 8e7, 1e8, 1.5e8, 2e8};
const Bounds kChunks = {1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144};
const Bounds kSyncDelay = {1e-5, 5e-5, 1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1};
const Bounds kAsyncDelay = {1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10};
const Bounds kStore = {0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 4};

// 1, 2, 5, 10, ... up to the longest sequence.
Bounds one_two_five(double most) {
  Bounds bounds;
  for (double power = 1;; power *= 10) {
    for (const double mantissa : {1.0, 2.0, 5.0}) {
      if (mantissa * power > most) return bounds;
      bounds.push_back(mantissa * power);
    }
  }
}

// As the Python client prints a bucket's bound.
std::string le_text(double bound) {
  if (std::isinf(bound)) return "+Inf";
  char text[64];
  if (bound >= 1e6 || bound < 1e-4) {
    std::string out(
        text, std::to_chars(text, text + sizeof text, bound, std::chars_format::scientific).ptr);
    return out;
  }
  std::string out(text,
                  std::to_chars(text, text + sizeof text, bound, std::chars_format::fixed).ptr);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

const Json kNothing = Json::object();

const Json& part(const Json& in, const char* key) {
  const Json* found = member(in, key);
  return found == nullptr ? kNothing : *found;
}

double number(const Json& in, const char* key) {
  return real(in, key).value_or(0);
}

// A number, or the sum of a list of numbers.
double sum(const Json& value) {
  if (value.is_number()) return value.get<double>();
  double total = 0;
  if (value.is_array()) {
    for (const Json& each : value) total += each.is_number() ? each.get<double>() : 0;
  }
  return total;
}

std::string keys_of(const Json& map) {
  std::string names;
  for (const auto& [name, value] : map.items()) names += (names.empty() ? "" : ",") + name;
  return names;
}

}  // namespace

CallTruth::CallTruth(const CallsHeader& header, const std::vector<std::uint32_t>& engines,
                     const std::set<std::string>& features, const std::string& server)
    : header_(header), engines_(engines), server_(server), features_(features) {
  for (const std::uint32_t engine : engines) {
    declare_engine(engine);
    for (const std::string& feature : features) declare_feature(engine, feature);
  }
}

CallTruth::Labels CallTruth::base(std::uint32_t engine) const {
  Labels labels{{"engine", std::to_string(engine)}, {"model_name", header_.model_name}};
  if (!server_.empty()) labels["server"] = server_;
  return labels;
}

std::string CallTruth::series(const std::string& name, const Labels& labels) {
  std::string text = name + "{";
  for (const auto& [label, value] : labels) {
    if (text.back() != '{') text += ',';
    text += label + "=\"";
    for (const char c : value) {
      if (c == '\\' || c == '"') text += '\\';
      text += c == '\n' ? "\\n" : std::string(1, c);
    }
    text += '"';
  }
  return text + "}";
}

void CallTruth::count(const std::string& name, const Labels& labels, double amount) {
  counters_[series(name, labels)] += static_cast<long double>(amount);
}
void CallTruth::set(const std::string& name, const Labels& labels, double value) {
  gauges_[series(name, labels)] = value;
}
void CallTruth::histogram(const std::string& name, const Labels& labels, Bounds bounds) {
  Histogram& made = histograms_[{name, labels}];
  if (!made.counts.empty()) return;
  made.counts.resize(bounds.size() + 1);
  made.bounds = std::move(bounds);
}

// A negative duration goes to the lowest bucket and adds 0: a deliberate difference from vLLM.
void CallTruth::observe_value(const std::string& name, const Labels& labels, double value) {
  const auto found = histograms_.find({name, labels});
  if (found == histograms_.end() || !std::isfinite(value)) return;
  Histogram& histogram = found->second;
  const auto bucket = std::lower_bound(histogram.bounds.begin(), histogram.bounds.end(), value);
  ++histogram.counts[static_cast<std::size_t>(bucket - histogram.bounds.begin())];
  if (value > 0) histogram.sum += value;
}
void CallTruth::observe_values(const std::string& name, const Labels& labels,
                               const std::vector<double>& values) {
  for (const double value : values) observe_value(name, labels, value);
}

namespace {

std::map<std::string, std::string> with(std::map<std::string, std::string> labels,
                                        const std::string& name, const std::string& value) {
  labels[name] = value;
  return labels;
}

constexpr std::string_view kReasons[] = {"stop", "length", "abort", "error", "repetition"};

constexpr const char* kCounters[] = {"vllm:prefix_cache_queries_total",
                                     "vllm:prefix_cache_hits_total",
                                     "vllm:external_prefix_cache_queries_total",
                                     "vllm:external_prefix_cache_hits_total",
                                     "vllm:mm_cache_queries_total",
                                     "vllm:mm_cache_hits_total",
                                     "vllm:num_preemptions_total",
                                     "vllm:prompt_tokens_total",
                                     "vllm:prompt_tokens_cached_total",
                                     "vllm:generation_tokens_total"};

}  // namespace

// What vLLM creates before any traffic.
void CallTruth::declare_engine(std::uint32_t engine) {
  const Labels labels = base(engine);
  for (const char* name : kCounters) count(name, labels, 0);
  for (const char* source : {"local_compute", "local_cache_hit", "external_kv_transfer"})
    count("vllm:prompt_tokens_by_source_total", with(labels, "source", source), 0);
  for (const std::string_view reason : kReasons) {
    count("vllm:request_success_total", with(labels, "finished_reason", std::string(reason)), 0);
  }
  for (const char* name :
       {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}) {
    set(name, labels, 0);
  }
  for (const char* reason : {"capacity", "deferred"})
    set("vllm:num_requests_waiting_by_reason", with(labels, "reason", reason), 0);
  for (const char* state : {"awake", "weights_offloaded", "discard_all"})
    set("vllm:engine_sleep_state", with(labels, "sleep_state", state), state[0] == 'a' ? 1 : 0);
  const Bounds lengths = one_two_five(
      header_.max_model_len == 0 ? 131072 : static_cast<double>(header_.max_model_len));
  for (const char* name :
       {"vllm:request_prompt_tokens", "vllm:request_generation_tokens",
        "vllm:request_max_num_generation_tokens", "vllm:request_params_max_tokens",
        "vllm:request_prefill_kv_computed_tokens"}) {
    histogram(name, labels, lengths);
  }
  histogram("vllm:iteration_tokens_total", labels, kIteration);
  histogram("vllm:request_params_n", labels, kParamsN);
  histogram("vllm:request_num_preemptions", labels, kPreemptions);
  histogram("vllm:time_to_first_token_seconds", labels, kTtft);
  histogram("vllm:inter_token_latency_seconds", labels, kItl);
  histogram("vllm:request_time_per_output_token_seconds", labels, kItl);
  for (const char* name :
       {"vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds",
        "vllm:request_inference_time_seconds", "vllm:request_prefill_time_seconds",
        "vllm:request_decode_time_seconds"}) {
    histogram(name, labels, kRequest);
  }
  if (header_.cache_config.is_object()) {
    Labels config{{"engine", std::to_string(engine)}};
    if (!server_.empty()) config["server"] = server_;
    for (const auto& [name, value] : header_.cache_config.items())
      config[name] = python_text(value);
    set("vllm:cache_config_info", config, 1);
  }
}

void CallTruth::declare_feature(std::uint32_t engine, const std::string& feature) {
  const Labels labels = base(engine);
  const auto counters = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) count(name, labels, 0);
  };
  if (feature == "corrupted_requests") counters({"vllm:corrupted_requests_total"});
  if (feature == "kv_block_eviction") {
    for (const char* name : {"vllm:kv_block_lifetime_seconds", "vllm:kv_block_reuse_gap_seconds",
                             "vllm:kv_block_idle_before_evict_seconds"}) {
      histogram(name, labels, kResidency);
    }
  }
  if (feature == "spec_decoding") {
    counters({"vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_draft_tokens_total",
              "vllm:spec_decode_num_accepted_tokens_total"});
    for (std::uint32_t position = 0; position < header_.num_speculative_tokens; ++position) {
      count("vllm:spec_decode_num_accepted_tokens_per_pos_total",
            with(labels, "position", std::to_string(position)), 0);
    }
  }
  if (feature == "diffusion_decoding") {
    counters({"vllm:diffusion_num_denoising_steps_total",
              "vllm:diffusion_num_canvas_positions_total",
              "vllm:diffusion_num_committed_tokens_total"});
  }
  if (feature == "perf_stats") {
    counters({"vllm:estimated_flops_per_gpu_total", "vllm:estimated_read_bytes_per_gpu_total",
              "vllm:estimated_write_bytes_per_gpu_total"});
  }
  for (const std::string prefix : {"nixl", "moriio"}) {
    if (feature != "connector:" + prefix) continue;
    histogram("vllm:" + prefix + "_xfer_time_seconds", labels, kTransfer);
    histogram("vllm:" + prefix + "_post_time_seconds", labels, kPost);
    histogram("vllm:" + prefix + "_bytes_transferred", labels, kBytes);
    histogram("vllm:" + prefix + "_num_descriptors", labels, kDescriptors);
    for (const char* what : {"failed_transfers", "failed_notifications", "kv_expired_reqs"})
      count("vllm:" + prefix + "_num_" + what + "_total", labels, 0);
  }
  if (feature == "connector:offloading") {
    counters({"vllm:kv_offload_load_bytes_total", "vllm:kv_offload_store_bytes_total",
              "vllm:kv_offload_load_time_total", "vllm:kv_offload_store_time_total"});
    histogram("vllm:kv_offload_load_size", labels, kOffload);
    histogram("vllm:kv_offload_store_size", labels, kOffload);
  }
  if (feature == "connector:offloading:cpu") {
    for (const char* what : {"", "_write", "_read"})
      set(std::string("vllm:kv_offload_cpu_cache") + what + "_usage_perc", labels, 0);
    histogram("vllm:kv_offload_cpu_allocation_size", labels, kChunks);
  }
  if (feature == "connector:offloading:skipped") counters({"vllm:kv_offload_stores_skipped_total"});
  if (feature == "connector:offloading:lookup") {
    counters({"vllm:kv_offload_allocation_failure_total"});
    histogram("vllm:kv_offload_lookup_sync_delay_seconds", labels, kSyncDelay);
    histogram("vllm:kv_offload_lookup_async_delay_seconds", labels, kAsyncDelay);
  }
  if (feature == "connector:hisparse") {
    counters({"vllm:hisparse_cache_hits_total", "vllm:hisparse_cache_misses_total",
              "vllm:hisparse_host_to_device_bytes_total"});
  }
}

void CallTruth::observe(const Call& call) {
  const Labels engine = base(call.engine);
  if (call.scheduler.is_object()) {
    observe_scheduler(call.scheduler, engine);
    if (features_.count("lora_state") != 0 &&
        (member(call.scheduler, "running_lora_adapters") != nullptr ||
         member(call.scheduler, "waiting_lora_adapters") != nullptr)) {
      Labels lora{
          {"max_lora", header_.max_lora},
          {"running_lora_adapters", keys_of(part(call.scheduler, "running_lora_adapters"))},
          {"waiting_lora_adapters", keys_of(part(call.scheduler, "waiting_lora_adapters"))}};
      if (!server_.empty()) lora["server"] = server_;
      adapters_[call.engine] = series("vllm:lora_requests_info", lora);
    }
  }
  if (call.iteration.is_object()) observe_iteration(call.iteration, engine);
  if (call.mm.is_object()) {
    count("vllm:mm_cache_queries_total", engine, number(call.mm, "queries"));
    count("vllm:mm_cache_hits_total", engine, number(call.mm, "hits"));
  }
  for (const std::uint32_t sleeper : engines_) {
    if (!call.sleep || (!call.is_for_all() && call.engine != sleeper)) continue;
    const Labels labels = base(sleeper);
    const int level = call.sleep->asleep ? call.sleep->level : 0;
    const auto state = [&](const char* name, bool is_in) {
      set("vllm:engine_sleep_state", with(labels, "sleep_state", name), is_in ? 1 : 0);
    };
    state("awake", !call.sleep->asleep);
    state("weights_offloaded", level == 1);
    state("discard_all", level == 2);
  }
}

void CallTruth::observe_scheduler(const Json& in, const Labels& engine) {
  const double waiting = number(in, "num_waiting_reqs");
  const double deferred = number(in, "num_skipped_waiting_reqs");
  set("vllm:num_requests_running", engine, number(in, "num_running_reqs"));
  set("vllm:num_requests_waiting", engine, waiting + deferred);
  set("vllm:num_requests_waiting_by_reason", with(engine, "reason", "capacity"), waiting);
  set("vllm:num_requests_waiting_by_reason", with(engine, "reason", "deferred"), deferred);
  set("vllm:kv_cache_usage_perc", engine,
      real(in, "kv_cache_usage").value_or(number(in, "gpu_cache_usage")));
  for (const auto& [key, prefix] :
       {std::pair{"prefix_cache_stats", "vllm:prefix_cache"},
        std::pair{"connector_prefix_cache_stats", "vllm:external_prefix_cache"}}) {
    const Json& cache = part(in, key);
    count(std::string(prefix) + "_queries_total", engine, number(cache, "queries"));
    count(std::string(prefix) + "_hits_total", engine, number(cache, "hits"));
  }
  if (const Json* events = member(in, "kv_cache_eviction_events")) {
    for (const Json& event : *events) {
      observe_value("vllm:kv_block_lifetime_seconds", engine, number(event, "lifetime_seconds"));
      observe_value("vllm:kv_block_idle_before_evict_seconds", engine,
                    number(event, "idle_seconds"));
      observe_values("vllm:kv_block_reuse_gap_seconds", engine, reals(event, "reuse_gaps_seconds"));
    }
  }
  if (features_.count("perf_stats") != 0) {
    const Json& perf = part(in, "perf_stats");
    for (const std::string what : {"flops", "read_bytes", "write_bytes"})
      count("vllm:estimated_" + what + "_per_gpu_total", engine,
            number(perf, ("num_" + what + "_per_gpu").c_str()));
  }
  const Json& spec = part(in, "spec_decoding_stats");
  if (features_.count("diffusion_decoding") != 0) {
    count("vllm:diffusion_num_denoising_steps_total", engine, number(spec, "num_drafts"));
    count("vllm:diffusion_num_canvas_positions_total", engine, number(spec, "num_draft_tokens"));
    count("vllm:diffusion_num_committed_tokens_total", engine, number(spec, "num_accepted_tokens"));
  } else if (features_.count("spec_decoding") != 0) {
    for (const char* what : {"num_drafts", "num_draft_tokens", "num_accepted_tokens"})
      count(std::string("vllm:spec_decode_") + what + "_total", engine, number(spec, what));
    const std::vector<double> accepted = reals(spec, "num_accepted_tokens_per_pos");
    for (std::size_t i = 0; i < accepted.size(); ++i) {
      // Positions beyond the configured ones have a series once there is something to count.
      if (i >= header_.num_speculative_tokens && accepted[i] == 0) continue;
      count("vllm:spec_decode_num_accepted_tokens_per_pos_total",
            with(engine, "position", std::to_string(i)), accepted[i]);
    }
  }
  if (const Json* payload = member(in, "kv_connector_stats"))
    observe_connector(*payload, engine, features_.count("connector:moriio") != 0);
}

void CallTruth::observe_iteration(const Json& in, const Labels& engine) {
  const Json* sources = member(in, "prompt_token_stats");
  const double computed =
      sources == nullptr ? number(in, "num_prompt_tokens") : number(*sources, "computed");
  const double local = sources == nullptr ? 0 : number(*sources, "local_cache_hit");
  const double external = sources == nullptr ? 0 : number(*sources, "external_kv_transfer");
  const double generated = number(in, "num_generation_tokens");
  const auto by_source = [&](const char* source, double tokens) {
    count("vllm:prompt_tokens_by_source_total", with(engine, "source", source), tokens);
  };
  by_source("local_compute", computed);
  by_source("local_cache_hit", local);
  by_source("external_kv_transfer", external);
  count("vllm:prompt_tokens_cached_total", engine, local + external);
  count("vllm:prompt_tokens_total", engine, computed + local + external);
  count("vllm:generation_tokens_total", engine, generated);
  count("vllm:num_preemptions_total", engine, number(in, "num_preempted_reqs"));
  if (features_.count("corrupted_requests") != 0)
    count("vllm:corrupted_requests_total", engine, number(in, "num_corrupted_reqs"));
  observe_value("vllm:iteration_tokens_total", engine, computed + generated);
  observe_values("vllm:time_to_first_token_seconds", engine,
                 reals(in, "time_to_first_tokens_iter"));
  observe_values("vllm:inter_token_latency_seconds", engine,
                 reals(in, member(in, "inter_token_latencies_iter") == nullptr
                               ? "time_per_output_tokens_iter"
                               : "inter_token_latencies_iter"));
  observe_values("vllm:request_max_num_generation_tokens", engine,
                 reals(in, "max_num_generation_tokens_iter"));
  observe_values("vllm:request_params_n", engine, reals(in, "n_params_iter"));
  if (const Json* finished = member(in, "finished_requests")) {
    for (const Json& request : *finished) observe_finished(request, engine);
  }
}

void CallTruth::observe_finished(const Json& in, const Labels& engine) {
  std::string reason = text(in, "finish_reason").value_or("");
  if (!std::count(std::begin(kReasons), std::end(kReasons), reason)) reason = "other";
  count("vllm:request_success_total", with(engine, "finished_reason", reason), 1);
  const double prompt = number(in, "num_prompt_tokens");
  observe_value("vllm:request_prompt_tokens", engine, prompt);
  observe_value("vllm:request_generation_tokens", engine, number(in, "num_generation_tokens"));
  observe_value("vllm:request_prefill_kv_computed_tokens", engine,
                std::max(0.0, prompt - std::max(0.0, number(in, "num_cached_tokens"))));
  const double most = number(in, "max_tokens_param");
  if (most > 0) observe_value("vllm:request_params_max_tokens", engine, most);
  observe_value("vllm:request_num_preemptions", engine, number(in, "num_preemptions"));
  for (const auto& [key, name] :
       {std::pair{"e2e_latency", "vllm:e2e_request_latency_seconds"},
        std::pair{"queued_time", "vllm:request_queue_time_seconds"},
        std::pair{"prefill_time", "vllm:request_prefill_time_seconds"},
        std::pair{"inference_time", "vllm:request_inference_time_seconds"},
        std::pair{"decode_time", "vllm:request_decode_time_seconds"},
        std::pair{"mean_time_per_output_token", "vllm:request_time_per_output_token_seconds"}}) {
    if (const auto seconds = real(in, key)) observe_value(name, engine, *seconds);
  }
}

void CallTruth::observe_transfers(const Json& payload, const std::string& prefix,
                                  const Labels& engine) {
  if (features_.count("connector:" + prefix) == 0) return;
  observe_values("vllm:" + prefix + "_xfer_time_seconds", engine,
                 reals(payload, "transfer_duration"));
  observe_values("vllm:" + prefix + "_post_time_seconds", engine, reals(payload, "post_duration"));
  observe_values("vllm:" + prefix + "_bytes_transferred", engine,
                 reals(payload, "bytes_transferred"));
  observe_values("vllm:" + prefix + "_num_descriptors", engine, reals(payload, "num_descriptors"));
  for (const std::string what :
       {"num_failed_transfers", "num_failed_notifications", "num_kv_expired_reqs"}) {
    if (const Json* list = member(payload, what.c_str()))
      count("vllm:" + prefix + "_" + what + "_total", engine, sum(*list));
  }
}

void CallTruth::observe_store(const Json& payload, const Labels& engine) {
  if (features_.count("connector:mooncake_store") == 0) return;
  for (const auto& [operation, list] : payload.items()) {
    for (const Json& entry : list) {
      const Labels labels = with(with(engine, "operation", operation), "status",
                                 text(entry, "status").value_or("ok"));
      const std::string prefix = "vllm:mooncake_store_operation";
      histogram(prefix + "_time_seconds", labels, kStore);
      observe_value(prefix + "_time_seconds", labels, number(entry, "duration_seconds"));
      count(prefix + "_total", labels, 1);
      count(prefix + "_keys_total", labels, number(entry, "num_keys"));
      count(prefix + "_bytes_total", labels, number(entry, "num_bytes"));
      count(prefix + "_failed_keys_total", labels, number(entry, "num_failed_keys"));
    }
  }
}

void CallTruth::observe_offloading_metric(std::string name, const Json& value,
                                          const Labels& engine) {
  const std::string prefix = "vllm:kv_offload_";
  if (!name.starts_with(prefix)) name = prefix + name;
  if (name.ends_with("_total")) name.resize(name.size() - 6);
  if (histograms_.count({name, engine}) != 0) {
    for (const Json& each : value) {
      if (each.is_number()) observe_value(name, engine, each.get<double>());
    }
  } else if (counters_.count(series(name + "_total", engine)) != 0) {
    count(name + "_total", engine, sum(value));
  } else if (gauges_.count(series(name, engine)) != 0) {
    set(name, engine, value.get<double>());
  }
}

void CallTruth::observe_offloading(const Json& payload, const Labels& engine) {
  if (features_.count("connector:offloading") == 0) return;
  for (const auto& [direction, what] :
       {std::pair{"CPU_to_GPU", "load"}, std::pair{"GPU_to_CPU", "store"}}) {
    const Json* operations = member(payload, direction);
    for (std::size_t i = 0; operations != nullptr && i < operations->size(); ++i) {
      const Json& operation = operations->at(i);
      const std::string prefix = std::string("vllm:kv_offload_") + what;
      count(prefix + "_bytes_total", engine, number(operation, "op_size"));
      count(prefix + "_time_total", engine, number(operation, "op_time"));
      observe_value(prefix + "_size", engine, number(operation, "op_size"));
    }
  }
  const Json* data = member(payload, "data");
  for (const auto& [name, value] : (data == nullptr ? payload : *data).items()) {
    if (name == "CPU_to_GPU" || name == "GPU_to_CPU") continue;
    if (value.is_array() && !value.empty() && value[0].is_array()) {
      for (const Json& pair : value) observe_offloading_metric(name, pair.at(1), engine);
      continue;
    }
    if (!value.is_object()) {
      observe_offloading_metric(name, value, engine);
      continue;
    }
    for (const auto& [labels, each] : value.items()) observe_offloading_metric(name, each, engine);
  }
  const bool has_config = data != nullptr && features_.count("connector:offloading:config") != 0;
  if (const Json* info = has_config ? member(payload, "info") : nullptr) {
    Labels labels = engine;
    for (const auto& [label, value] : info->items()) labels[label] = python_text(value);
    set("vllm:kv_offload_config_info", labels, 1);
  }
}

void CallTruth::observe_connector(const Json& payload, const Labels& engine, bool is_moriio) {
  const auto has = [&](const char* key) { return payload.contains(key); };
  if (has("num_failed_recvs")) return;  // Mooncake's transfers are in vLLM's log only.
  if (has("transfer_duration") || has("num_failed_transfers")) {
    observe_transfers(payload, is_moriio ? "moriio" : "nixl", engine);
    return;
  }
  if (has("cache_hits") || has("host_to_device_bytes")) {
    if (features_.count("connector:hisparse") == 0) return;
    for (const std::string what : {"cache_hits", "cache_misses", "host_to_device_bytes"}) {
      if (const Json* value = member(payload, what.c_str()))
        count("vllm:hisparse_" + what + "_total", engine, sum(*value));
    }
    return;
  }
  const Json* first = nullptr;
  for (const Json& value : payload) {
    if (!value.is_null() && first == nullptr) first = &value;
  }
  if (first == nullptr) return;
  if (first->is_array() && !first->empty() && first->at(0).is_object() &&
      first->at(0).contains("duration_seconds")) {
    observe_store(payload, engine);
    return;
  }
  const bool is_nested = first->is_object() && !has("types") && !has("data");
  if (!is_nested) {
    observe_offloading(payload, engine);
    return;
  }
  for (const auto& [child, value] : payload.items()) {
    if (!value.is_object()) continue;
    const bool is_wrapped = value.size() == 1 && value.contains("data");
    observe_connector(is_wrapped ? value.at("data") : value, engine,
                      child.find("MoRI") != std::string::npos);
  }
}

std::string CallTruth::json() const {
  Json out = {{"clock", "virtual"},         {"seed", 0},
              {"counters", Json::object()}, {"sums", Json::object()},
              {"gauges", Json::object()},   {"present", Json::array()}};
  const auto number_json = [](long double value) {
    return value == std::floor(value) && value >= 0 && value < 0x1p64L
               ? Json(static_cast<std::uint64_t>(value))
               : Json(static_cast<double>(value));
  };
  for (const auto& [name, value] : counters_) {
    // Sums of doubles are equal to rounding only.
    const bool is_real =
        name.find("_time_total{") != std::string::npos || name.starts_with("vllm:estimated_");
    out[is_real ? "sums" : "counters"][name] = number_json(value);
  }
  for (const auto& [name, value] : gauges_) out["gauges"][name] = number_json(value);
  for (const auto& [key, histogram] : histograms_) {
    const auto& [name, labels] = key;
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
      total += histogram.counts[i];
      const double bound = i < histogram.bounds.size() ? histogram.bounds[i] : INFINITY;
      out["counters"][series(name + "_bucket", with(labels, "le", le_text(bound)))] = total;
    }
    out["counters"][series(name + "_count", labels)] = total;
    out["sums"][series(name + "_sum", labels)] = histogram.sum;
  }
  std::set<std::string> present;
  for (const auto& [engine, name] : adapters_) present.insert(name);
  for (const std::string& name : present) out["present"].push_back(name);
  return out.dump(1) + "\n";
}

}  // namespace rankbus::replay
