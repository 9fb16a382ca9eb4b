// exporters/log_lines.hpp: the words of vLLM's log lines, from numbers to text.
//
// Which lines there are, at which level and about whom is engine_log.hpp's business. An empty text
// means that there is nothing to tell. Nothing here divides by zero: without time there is no rate.
#pragma once

#include <cstdint>
#include <optional>
#include <rankbus/aggregator/snapshot.hpp>
#include <string>
#include <vector>

namespace rankbus {

// What the lines about one engine, or about all engines of a server, tell of one interval: gauges
// at its end, and what was counted in it.
struct IntervalFigures {
  double elapsed_s = 0;
  std::uint64_t prompt_tokens = 0;  // Computed ones.
  std::uint64_t generation_tokens = 0;
  std::uint64_t preemptions = 0;
  std::uint64_t running = 0;
  std::uint64_t waiting = 0;
  std::uint64_t deferred = 0;
  double kv_cache_usage = 0;
  CacheWindow prefix_cache;
  CacheWindow external_prefix_cache;
  CacheWindow multimodal_cache;
  // Where the engine has the feature; counts of the interval, not totals.
  std::optional<std::uint64_t> corrupted;
  std::optional<SpecDecodingTotals> spec_decoding;
  std::optional<DiffusionTotals> diffusion;
  std::optional<PerfTotals> perf;

  double prompt_rate() const;
  double generation_rate() const;
};

// As vLLM does it: gauges and counts summed, usage the plain mean, one hit rate over all requests.
// The engines run side by side, so their times do not add up; the longest is the interval.
IntervalFigures sum_of(const std::vector<IntervalFigures>& engines);

// Avg prompt throughput: 59.4 tokens/s, ..., Prefix cache hit rate: 40.0%
std::string throughput_line(const IntervalFigures& figures);

// SpecDecoding metrics: ..., or DiffusionDecoding metrics: ... where that is what the engine does.
std::string decoding_line(const IntervalFigures& figures);

// KV Transfer metrics: Num successful transfers=3, ...; by connector where there are several.
std::string connector_line_untrusted(const IntervalStats& interval);

// The table of batches by CUDA graph, line by line, below what is configured, if that is known.
std::vector<std::string> cuda_graph_table_untrusted(
    const std::vector<CudaGraphCount>& batches, const std::optional<CudaGraphSettings>& settings);

// MFU: 312.4 TF/s/GPU 1893.0 GB/s/GPU
std::string perf_line(const IntervalFigures& figures);

// Iteration(42): 1 context requests, ...
std::string iteration_line(const IterationDetail& iteration);

}  // namespace rankbus
