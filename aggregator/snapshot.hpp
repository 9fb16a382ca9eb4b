// aggregator/snapshot.hpp: what exporters see, and all that they see.
//
// One pass of the aggregator over the bus makes one immutable Snapshot. Exporters only render it;
// they never see a ring, a segment or a rank's bytes. Texts here are what producers wrote, bounded
// but not escaped: each exporter escapes for its own medium.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace rankbus {

// Sorted by name; names are valid Prometheus label names, values any UTF-8 text.
using Labels = std::vector<std::pair<std::string, std::string>>;

// Integers stay integers, so that they print without exponent up to 2^53.
using Number = std::variant<std::uint64_t, std::int64_t, double>;

// A histogram's buckets in the exposed unit. `counts[i]` counts observations <= bounds[i] and
// greater than the bound before it (not cumulative); `counts` has one more element, for those above
// the last bound. Count is the sum of all counts.
struct Histogram {
  std::shared_ptr<const std::vector<double>> bounds;
  std::vector<std::uint64_t> counts;
  double sum = 0;
};

struct Series {
  Labels labels;
  std::string server;  // Key of the server that it belongs to, "" for the aggregator's own series.
  std::string engine;  // The engine as text, "" where a series belongs to none.
  std::variant<Number, Histogram> value;
  double created_s = 0;  // When it began to count, seconds since the epoch; 0: unknown.
};

enum class FamilyType : std::uint8_t { counter, gauge, histogram };

struct Family {
  std::string name;  // As exposed; counters end in _total.
  std::string help;
  FamilyType type = FamilyType::gauge;
  std::vector<Series> series;  // Sorted by labels, no two with equal labels.
};

// Hits and queries of a cache over vLLM's window of the latest 1,000 requests (CachingMetrics).
struct CacheWindow {
  std::uint64_t requests = 0;
  std::uint64_t queries = 0;
  std::uint64_t hits = 0;
};

// Totals since the beginning, as those of EngineTotals.
struct SpecDecodingTotals {
  std::uint64_t drafts = 0;
  std::uint64_t draft_tokens = 0;
  std::uint64_t accepted_tokens = 0;
  std::vector<std::uint64_t> accepted_per_position;
};
struct DiffusionTotals {
  std::uint64_t denoising_steps = 0;
  std::uint64_t canvas_positions = 0;
  std::uint64_t committed_tokens = 0;
};
// Estimates for one GPU.
struct PerfTotals {
  double flops = 0;
  double read_bytes = 0;
  double write_bytes = 0;
};
// As configured, in vLLM's words.
struct CudaGraphSettings {
  std::string mode;
  std::string capture_sizes;
};

// What the periodic throughput line of one engine needs: totals since the engine's first record and
// the newest gauges, never rates, so that each log divides by the elapsed time of its own interval.
struct EngineTotals {
  std::string server;        // Key of the server, equal for all engines of one server.
  std::string server_label;  // What the `server` label shows; "" for an unnamed server.
  std::string model_name;
  std::uint32_t engine = 0;
  bool live = false;           // A process of the engine lives.
  bool virtual_clock = false;  // Clock domain of `clock_s`.
  double clock_s = 0;          // Newest stamp of the engine in its clock domain, seconds.
  // When all totals of the engine were 0, in its clock domain, if the aggregator was there by then.
  std::optional<double> began_clock_s;
  std::uint64_t prompt_tokens_computed = 0;
  std::uint64_t generation_tokens = 0;
  std::uint64_t preemptions = 0;
  std::optional<std::uint64_t> running;
  std::optional<std::uint64_t> waiting;  // Includes deferred.
  std::optional<std::uint64_t> deferred;
  std::optional<double> kv_cache_usage;  // 0 to 1.
  CacheWindow prefix_cache;
  CacheWindow external_prefix_cache;
  CacheWindow multimodal_cache;
  // Of features, where a producer of the engine has them.
  std::optional<std::uint64_t> corrupted;
  std::optional<SpecDecodingTotals> spec_decoding;
  std::optional<DiffusionTotals> diffusion;
  std::optional<PerfTotals> perf;
  std::optional<CudaGraphSettings> cuda_graph_settings;
  std::string num_gpu_blocks;  // As the cache configuration says; "" if unknown.
};

// What a connector's reduce() says of an interval: names and numbers in the order of the log line.
struct ConnectorReport {
  std::string connector;  // nixl, offloading, ..., or a user's own.
  std::vector<std::pair<std::string, Number>> entries;
};

struct CudaGraphCount {
  std::uint64_t unpadded_tokens = 0;
  std::uint64_t padded_tokens = 0;
  std::uint64_t paddings = 0;
  std::string mode;
  std::uint64_t count = 0;
};

// What only samples tell, of one engine or of all engines of a server, over one log interval.
struct IntervalStats {
  std::string server;                   // Key of the server.
  std::optional<std::uint32_t> engine;  // None: all engines of the server, pooled.
  bool has_several_connectors = false;  // Configured, whether or not they had anything to tell.
  std::vector<ConnectorReport> connectors;
  std::vector<CudaGraphCount> cuda_graphs;  // Highest count first, equal ones as first seen.
};

// One engine iteration, for a line of its own.
struct IterationDetail {
  std::string server;
  std::uint32_t engine = 0;
  std::uint64_t index = 0;
  std::uint64_t ctx_requests = 0;
  std::uint64_t ctx_tokens = 0;
  std::uint64_t generation_requests = 0;
  std::uint64_t generation_tokens = 0;
  std::uint64_t encoder_inputs = 0;
  std::uint64_t encoder_output_tokens = 0;
  double elapsed_ms = 0;
  double kv_cache_usage = 0;
  bool is_dummy = false;
};

// vLLM's windows over all engines of a server: the latest 1,000 requests of any of them.
struct ServerCaches {
  std::string server;  // Key of the server.
  CacheWindow prefix_cache;
  CacheWindow external_prefix_cache;
  CacheWindow multimodal_cache;
};

// An alert that began to hold, or is over.
struct AlertNote {
  std::string name;
  std::string level;  // info, warning or critical.
  std::string message;
  bool is_over = false;
  double held_s = 0;  // How long it had held, when it is over.
};

// What the analyses of one engine say, as an object of JSON.
struct EngineAnalysis {
  std::string server;        // Key of the server, and the engine as text, as those of Series.
  std::string server_label;  // What the `server` label shows; "" for an unnamed server.
  std::string engine;
  std::string json;
};

// What a snapshot is asked to hold.
enum class SnapshotParts : std::uint8_t { families, analyses_too };

struct Snapshot {
  std::uint64_t pass = 0;             // Counts the aggregator's passes over the bus, from 1.
  double monotonic_s = 0;             // When the pass began, CLOCK_MONOTONIC.
  bool complete = false;              // The first pass over every segment found at start is done.
  std::vector<Family> families;       // Sorted by name.
  std::vector<EngineTotals> engines;  // Sorted by server, then engine.
  std::vector<ServerCaches> caches;   // Sorted by server.
  std::vector<EngineAnalysis> analyses;  // Filled where somebody asked for them.
  // Filled for the log only: at the end of its interval, and what came since the last snapshot.
  std::vector<IntervalStats> intervals;  // Those with anything to tell, in the order of `engines`.
  std::vector<IterationDetail> iterations;
  std::vector<AlertNote> alerts;
};

}  // namespace rankbus
