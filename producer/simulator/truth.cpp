#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <rankbus/producer/simulator/truth.hpp>
#include <stdexcept>

namespace rankbus::simulator {

namespace {

const std::vector<double> kTtftBounds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                         0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                         20,    40,    80,   160,  640,  2560};
const std::vector<double> kItlBounds = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                        0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
const std::vector<double> kRequestBounds = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                            30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kIterationBounds = {1,   8,    16,   32,   64,   128,  256,
                                              512, 1024, 2048, 4096, 8192, 16384};
const std::vector<double> kParamsNBounds = {1, 2, 5, 10, 20};
const std::vector<double> kPreemptionBounds = {1, 2, 3, 4, 5, 10, 20};

const char* histogram_name(TruthHistogram histogram) {
  switch (histogram) {
    case TruthHistogram::iteration_tokens:
      return "vllm:iteration_tokens_total";
    case TruthHistogram::time_to_first_token:
      return "vllm:time_to_first_token_seconds";
    case TruthHistogram::inter_token_latency:
      return "vllm:inter_token_latency_seconds";
    case TruthHistogram::max_num_generation_tokens:
      return "vllm:request_max_num_generation_tokens";
    case TruthHistogram::params_n:
      return "vllm:request_params_n";
    case TruthHistogram::params_max_tokens:
      return "vllm:request_params_max_tokens";
    case TruthHistogram::prompt_tokens:
      return "vllm:request_prompt_tokens";
    case TruthHistogram::generation_tokens:
      return "vllm:request_generation_tokens";
    case TruthHistogram::time_per_output_token:
      return "vllm:request_time_per_output_token_seconds";
    case TruthHistogram::e2e_latency:
      return "vllm:e2e_request_latency_seconds";
    case TruthHistogram::queue_time:
      return "vllm:request_queue_time_seconds";
    case TruthHistogram::inference_time:
      return "vllm:request_inference_time_seconds";
    case TruthHistogram::prefill_time:
      return "vllm:request_prefill_time_seconds";
    case TruthHistogram::decode_time:
      return "vllm:request_decode_time_seconds";
    case TruthHistogram::num_preemptions:
      return "vllm:request_num_preemptions";
    case TruthHistogram::prefill_kv_computed_tokens:
      return "vllm:request_prefill_kv_computed_tokens";
    case TruthHistogram::count_of_histograms:
      break;
  }
  throw std::logic_error("no such histogram");
}

void write_scheduler(SeriesWriter& out, const SchedulerTruth& truth) {
  out.gauge("vllm:num_requests_running", truth.running);
  out.gauge("vllm:num_requests_waiting", truth.waiting_for_capacity + truth.waiting_deferred);
  out.gauge("vllm:num_requests_waiting_by_reason", truth.waiting_for_capacity,
            {{"reason", "capacity"}});
  out.gauge("vllm:num_requests_waiting_by_reason", truth.waiting_deferred,
            {{"reason", "deferred"}});
  out.gauge("vllm:kv_cache_usage_perc", truth.kv_cache_usage);
  out.counter("vllm:prefix_cache_queries_total", truth.prefix_cache_queries);
  out.counter("vllm:prefix_cache_hits_total", truth.prefix_cache_hits);
  out.counter("rankbus_simulated_prefix_hit_blocks_total", truth.prefix_hit_blocks);
}

void write_front_end(SeriesWriter& out, const FrontEndTruth& truth, std::uint64_t max_model_len) {
  const std::uint64_t cached = truth.local_cache_hit_tokens + truth.external_tokens;
  out.counter("vllm:num_preemptions_total", truth.preemptions);
  out.counter("vllm:prompt_tokens_total", truth.computed_tokens + cached);
  const char* by_source = "vllm:prompt_tokens_by_source_total";
  out.counter(by_source, truth.computed_tokens, {{"source", "local_compute"}});
  out.counter(by_source, truth.local_cache_hit_tokens, {{"source", "local_cache_hit"}});
  out.counter(by_source, truth.external_tokens, {{"source", "external_kv_transfer"}});
  out.counter("vllm:prompt_tokens_cached_total", cached);
  out.counter("vllm:generation_tokens_total", truth.generation_tokens);
  for (std::size_t i = 0; i < truth.success.size(); ++i) {
    out.counter("vllm:request_success_total", truth.success[i],
                {{"finished_reason", FrontEndTruth::kReasons[i]}});
  }
  for (std::size_t i = 0; i < kTruthHistograms; ++i) {
    const auto histogram = static_cast<TruthHistogram>(i);
    out.histogram(histogram_name(histogram), truth.histograms[i],
                  truth_bounds(histogram, max_model_len));
  }
}

std::string temporary_name(const std::string& file) {
  return file + "." + std::to_string(::getpid()) + ".tmp";
}

[[noreturn]] void fail(const std::string& file, const std::string& temporary, const char* action) {
  const std::string reason = std::strerror(errno);
  ::unlink(temporary.c_str());
  throw std::runtime_error("truth file " + file + " cannot be " + action + ": " + reason);
}

}  // namespace

std::vector<double> bounds_1_2_5(std::uint64_t most) {
  std::vector<double> bounds;
  for (std::uint64_t power = 1;; power *= 10) {
    for (const std::uint64_t mantissa : {1u, 2u, 5u}) {
      if (mantissa * power > most) return bounds;
      bounds.push_back(static_cast<double>(mantissa * power));
    }
  }
}

std::vector<double> truth_bounds(TruthHistogram histogram, std::uint64_t max_model_len) {
  switch (histogram) {
    case TruthHistogram::iteration_tokens:
      return kIterationBounds;
    case TruthHistogram::time_to_first_token:
      return kTtftBounds;
    case TruthHistogram::inter_token_latency:
    case TruthHistogram::time_per_output_token:
      return kItlBounds;
    case TruthHistogram::params_n:
      return kParamsNBounds;
    case TruthHistogram::num_preemptions:
      return kPreemptionBounds;
    case TruthHistogram::e2e_latency:
    case TruthHistogram::queue_time:
    case TruthHistogram::inference_time:
    case TruthHistogram::prefill_time:
    case TruthHistogram::decode_time:
      return kRequestBounds;
    case TruthHistogram::max_num_generation_tokens:
    case TruthHistogram::params_max_tokens:
    case TruthHistogram::prompt_tokens:
    case TruthHistogram::generation_tokens:
    case TruthHistogram::prefill_kv_computed_tokens:
      return bounds_1_2_5(max_model_len);
    case TruthHistogram::count_of_histograms:
      break;
  }
  throw std::logic_error("no such histogram");
}

void SchedulerTruth::observe(const SchedulerCounts& counts) {
  prefix_cache_queries += counts.prefix_queries;
  prefix_cache_hits += counts.prefix_hits;
  prefix_hit_blocks += counts.prefix_hit_blocks;
  running = counts.running;
  waiting_for_capacity = counts.waiting;
  waiting_deferred = counts.deferred;
  kv_cache_usage = counts.kv_cache_usage;
}

void FrontEndTruth::add(const FrontEndTruth& other) {
  preemptions += other.preemptions;
  computed_tokens += other.computed_tokens;
  local_cache_hit_tokens += other.local_cache_hit_tokens;
  external_tokens += other.external_tokens;
  generation_tokens += other.generation_tokens;
  for (std::size_t i = 0; i < success.size(); ++i) success[i] += other.success[i];
  for (std::size_t i = 0; i < histograms.size(); ++i) histograms[i].add(other.histograms[i]);
}

FrontEndCounter::FrontEndCounter(FrontEndTruth& truth, std::uint64_t max_model_len)
    : truth_(truth) {
  for (std::size_t i = 0; i < kTruthHistograms; ++i) {
    bounds_[i] = truth_bounds(static_cast<TruthHistogram>(i), max_model_len);
    assert(bounds_[i].size() < TruthCells::kMostCells);
  }
}

void FrontEndCounter::add(TruthHistogram histogram, double value) {
  const auto i = static_cast<std::size_t>(histogram);
  truth_.histograms[i].observe(value, bounds_[i]);
}

void FrontEndCounter::observe(const IterationOutcome& iteration) {
  truth_.preemptions += iteration.preempted_reqs;
  truth_.computed_tokens += iteration.computed_tokens;
  truth_.local_cache_hit_tokens += iteration.local_cache_hit_tokens;
  truth_.external_tokens += iteration.external_tokens;
  truth_.generation_tokens += iteration.generation_tokens;
  add(TruthHistogram::iteration_tokens,
      static_cast<double>(iteration.computed_tokens + iteration.generation_tokens));
  for (const double s : iteration.time_to_first_token_s) {
    add(TruthHistogram::time_to_first_token, s);
  }
  for (const double s : iteration.inter_token_latency_s) {
    add(TruthHistogram::inter_token_latency, s);
  }
  for (const std::uint64_t tokens : iteration.max_num_generation_tokens) {
    add(TruthHistogram::max_num_generation_tokens, static_cast<double>(tokens));
  }
  for (const std::uint64_t n : iteration.n_params) {
    add(TruthHistogram::params_n, static_cast<double>(n));
  }
}

void FrontEndCounter::observe(const FinishedOutcome& finished) {
  ++truth_.success[finished.finished == FinishedBy::stop ? 0 : 1];
  add(TruthHistogram::prompt_tokens, finished.prompt_tokens);
  add(TruthHistogram::generation_tokens, finished.generation_tokens);
  if (finished.max_tokens > 0) add(TruthHistogram::params_max_tokens, finished.max_tokens);
  add(TruthHistogram::time_per_output_token, finished.mean_time_per_output_token_s);
  add(TruthHistogram::e2e_latency, finished.e2e_latency_s);
  add(TruthHistogram::queue_time, finished.queued_time_s);
  add(TruthHistogram::inference_time, finished.inference_time_s);
  add(TruthHistogram::prefill_time, finished.prefill_time_s);
  add(TruthHistogram::decode_time, finished.decode_time_s);
  add(TruthHistogram::num_preemptions, finished.preemptions);
  add(TruthHistogram::prefill_kv_computed_tokens,
      static_cast<double>(finished.prompt_tokens - finished.cached_tokens));
}

std::string truth_json(const TruthHeader& header, std::span<const EngineTruth> engines) {
  nlohmann::json out;
  out["clock"] = header.clock;
  out["seed"] = header.seed;
  out["counters"] = nlohmann::json::object();
  out["sums"] = nlohmann::json::object();
  out["gauges"] = nlohmann::json::object();
  for (std::size_t engine = 0; engine < engines.size(); ++engine) {
    std::map<std::string, std::string> labels{{"model_name", header.model_name},
                                              {"engine", std::to_string(engine)}};
    if (!header.server.empty()) labels["server"] = header.server;
    SeriesWriter writer(out, std::move(labels));
    write_scheduler(writer, engines[engine].scheduler);
    write_front_end(writer, engines[engine].front_end, header.max_model_len);
    write_features(writer, engines[engine].features, header.features, header.kv_blocks);
  }
  return out.dump(1) + "\n";
}

void write_truth_file(const std::string& file, const std::string& text) {
  const std::string temporary = temporary_name(file);
  std::FILE* out = std::fopen(temporary.c_str(), "w");
  if (out == nullptr) fail(file, temporary, "created");
  const bool written = std::fwrite(text.data(), 1, text.size(), out) == text.size();
  if (std::fclose(out) != 0 || !written) fail(file, temporary, "written");
  if (::rename(temporary.c_str(), file.c_str()) != 0) fail(file, temporary, "renamed into place");
}

void check_truth_file(const std::string& file) {
  const std::string temporary = temporary_name(file);
  std::FILE* out = std::fopen(temporary.c_str(), "w");
  if (out == nullptr) fail(file, temporary, "created");
  std::fclose(out);
  ::unlink(temporary.c_str());
}

}  // namespace rankbus::simulator
