// What /metrics must say after a run, counted a second time.
//
// This code shares nothing with the bus, the producer or the exporters: names, bounds and formulas
// are written out again from the metrics' public description, and buckets are found by a plain
// scan. Where the two counts differ, one of them is wrong. Keep it that way: include nothing of
// theirs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <rankbus/producer/simulator/engine_model.hpp>
#include <rankbus/producer/simulator/feature_truth.hpp>
#include <rankbus/producer/simulator/front_end_model.hpp>
#include <rankbus/producer/simulator/truth_series.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace rankbus::simulator {

enum class TruthHistogram : std::size_t {
  iteration_tokens,
  time_to_first_token,
  inter_token_latency,
  max_num_generation_tokens,
  params_n,
  params_max_tokens,
  prompt_tokens,
  generation_tokens,
  time_per_output_token,
  e2e_latency,
  queue_time,
  inference_time,
  prefill_time,
  decode_time,
  num_preemptions,
  prefill_kv_computed_tokens,
  count_of_histograms,
};
inline constexpr std::size_t kTruthHistograms =
    static_cast<std::size_t>(TruthHistogram::count_of_histograms);

// vLLM's 1-2-5 series up to `most`.
std::vector<double> bounds_1_2_5(std::uint64_t most);
// The bounds of one histogram, without the infinite one.
std::vector<double> truth_bounds(TruthHistogram histogram, std::uint64_t max_model_len);

// What an engine's scheduler publishes. Plain memory, so that it can be counted in the scheduler's
// process and read by the parent.
struct SchedulerTruth {
  std::uint64_t prefix_cache_queries = 0;
  std::uint64_t prefix_cache_hits = 0;
  std::uint64_t prefix_hit_blocks = 0;
  double running = 0;
  double waiting_for_capacity = 0;
  double waiting_deferred = 0;
  double kv_cache_usage = 0;

  void observe(const SchedulerCounts& counts);
};

// What an engine's front end publishes. `success` is by finished reason, in the order of kReasons.
struct FrontEndTruth {
  static constexpr std::array kReasons = {"stop", "length", "abort", "error", "repetition"};

  std::uint64_t preemptions = 0;
  std::uint64_t computed_tokens = 0;
  std::uint64_t local_cache_hit_tokens = 0;
  std::uint64_t external_tokens = 0;
  std::uint64_t generation_tokens = 0;
  std::array<std::uint64_t, kReasons.size()> success{};
  std::array<TruthCells, kTruthHistograms> histograms{};

  void add(const FrontEndTruth& other);
};

struct EngineTruth {
  SchedulerTruth scheduler;
  FrontEndTruth front_end;  // of all front ends
  FeatureTruth features;    // of all processes
};
static_assert(std::is_trivially_copyable_v<EngineTruth>, "it is read by another process");

// Counts a front end's outcomes into a FrontEndTruth.
class FrontEndCounter {
 public:
  FrontEndCounter(FrontEndTruth& truth, std::uint64_t max_model_len);
  void observe(const IterationOutcome& iteration);
  void observe(const FinishedOutcome& finished);

 private:
  void add(TruthHistogram histogram, double value);

  FrontEndTruth& truth_;
  std::array<std::vector<double>, kTruthHistograms> bounds_;
};

struct TruthHeader {
  std::string clock;  // "virtual" or "real"
  std::uint64_t seed = 0;
  std::string model_name;
  std::string server;  // empty: unnamed, no such label
  std::uint64_t max_model_len = 0;
  FeatureOptions features = {};
  std::uint32_t kv_blocks = 0;
};

// The truth file's text; engines are numbered from 0.
std::string truth_json(const TruthHeader& header, std::span<const EngineTruth> engines);

// Writes under a temporary name in the same directory, then renames. Throws std::runtime_error with
// a message that names the file.
void write_truth_file(const std::string& file, const std::string& text);

// Throws as write_truth_file would if the file could not be created now.
void check_truth_file(const std::string& file);

}  // namespace rankbus::simulator
