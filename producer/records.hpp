// producer/records.hpp: the built-in record types.
//
// One row per field: type, name, what it feeds, help. Names, types, labels and buckets of `vllm:`
// families are vLLM's (vllm/v1/metrics/loggers.py and stats.py); the reference page with everything
// derived from these rows is printed by `rankbus describe`.
#pragma once

#include <rankbus/producer/record.hpp>

namespace rankbus {

// Classic bucket bounds. Native bounds run from 2^first to 2^last of the exposed unit.
namespace bounds {
inline constexpr double kTimeToFirstTokenValues[] = {
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
    1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
inline constexpr double kInterTokenLatencyValues[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                                      0.3,  0.4,   0.5,  0.75,  1.0, 2.5,  5.0,
                                                      7.5,  10.0,  20.0, 40.0,  80.0};
inline constexpr double kRequestValues[] = {0.3,  0.5,   0.8,   1.0,   1.5,   2.0,    2.5,
                                            5.0,  10.0,  15.0,  20.0,  30.0,  40.0,   50.0,
                                            60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
inline constexpr double kIterationTokensValues[] = {1,   8,    16,   32,   64,   128,  256,
                                                    512, 1024, 2048, 4096, 8192, 16384};
inline constexpr double kParamsNValues[] = {1, 2, 5, 10, 20};
inline constexpr double kPreemptionsValues[] = {1, 2, 3, 4, 5, 10, 20};
inline constexpr double kStepValues[] = {0.001, 0.0025, 0.005, 0.0075, 0.01,  0.015,
                                         0.02,  0.03,   0.04,  0.05,   0.075, 0.1,
                                         0.15,  0.2,    0.3,   0.5,    1.0,   2.5};

inline constexpr bus::Bounds kTimeToFirstToken = bus::bounds_of(kTimeToFirstTokenValues, -20, 13);
inline constexpr bus::Bounds kInterTokenLatency = bus::bounds_of(kInterTokenLatencyValues, -20, 13);
inline constexpr bus::Bounds kRequest = bus::bounds_of(kRequestValues, -20, 13);
inline constexpr bus::Bounds kIterationTokens = bus::bounds_of(kIterationTokensValues, 0, 20);
inline constexpr bus::Bounds kModelLength = bus::bounds_by_model_length();
inline constexpr bus::Bounds kParamsN = bus::bounds_of(kParamsNValues, 0, 8);
inline constexpr bus::Bounds kPreemptions = bus::bounds_of(kPreemptionsValues, 0, 8);
inline constexpr bus::Bounds kStep = bus::bounds_of(kStepValues, -20, 10);
}  // namespace bounds

enum class FinishedReason : std::uint16_t { stop = 1, length, abort, error, repetition };

// clang-format off
#define RANKBUS_SCHEDULER_STEP_ROWS(FIELD, OPTIONAL, ARRAY)                                            \
  FIELD(std::uint64_t, stamp, stamp(), "When the step's output was handed to the front end")           \
  FIELD(std::uint64_t, step, id(), "The scheduler's own count of steps")                               \
  FIELD(std::uint64_t, num_running_reqs, gauge("vllm:num_requests_running"),                           \
        "Number of requests in model execution batches")                                               \
  FIELD(std::uint64_t, num_waiting_reqs,                                                               \
        gauge("vllm:num_requests_waiting_by_reason").with("reason", "capacity"),                       \
        "Number of waiting requests by reason: capacity (queued for room in the batch or the KV cache) or deferred (held back by something else)") \
  FIELD(std::uint64_t, num_skipped_waiting_reqs,                                                       \
        gauge("vllm:num_requests_waiting_by_reason").with("reason", "deferred"),                       \
        "Number of waiting requests by reason: capacity (queued for room in the batch or the KV cache) or deferred (held back by something else)") \
  FIELD(std::uint64_t, num_requests_waiting, gauge("vllm:num_requests_waiting"),                       \
        "Number of requests waiting to be processed, deferred ones included")                          \
  FIELD(double, kv_cache_usage, gauge("vllm:kv_cache_usage_perc"),                                     \
        "Share of KV cache blocks in use, 0 to 1")                                                     \
  FIELD(std::uint64_t, prefix_cache_requests, id(),                                                    \
        "Requests that looked up the prefix cache in this step")                                       \
  FIELD(std::uint64_t, prefix_cache_queries,                                                           \
        counter("vllm:prefix_cache_queries_total").in(Unit::tokens),                                   \
        "Prompt tokens looked up in the prefix cache")                                                 \
  FIELD(std::uint64_t, prefix_cache_hits,                                                              \
        counter("vllm:prefix_cache_hits_total").in(Unit::tokens),                                      \
        "Prompt tokens found in the prefix cache")                                                     \
  FIELD(std::uint64_t, prefix_cache_reset, id(), "1 if the prefix cache was reset before this step")   \
  OPTIONAL(std::uint64_t, step_interval_ns,                                                            \
        distribution("rankbus_step_interval_seconds", ::rankbus::bounds::kStep).in(Unit::nanoseconds), \
        "Time from the output of one step to the output of the next, the only step time that adds up to wall time")

#define RANKBUS_ITERATION_STATS_ROWS(FIELD, OPTIONAL, ARRAY)                                           \
  FIELD(std::uint64_t, stamp, stamp(), "When the front end had processed the outputs of one step")     \
  FIELD(std::uint64_t, num_preempted_reqs, counter("vllm:num_preemptions_total"),                      \
        "Preemptions by the scheduler")                                                                \
  FIELD(std::uint64_t, prompt_computed_tokens,                                                         \
        counter("vllm:prompt_tokens_by_source_total").with("source", "local_compute").in(Unit::tokens), \
        "Prompt tokens by where their KV cache came from")                                             \
  FIELD(std::uint64_t, prompt_local_cache_hit_tokens,                                                  \
        counter("vllm:prompt_tokens_by_source_total").with("source", "local_cache_hit").in(Unit::tokens), \
        "Prompt tokens by where their KV cache came from")                                             \
  FIELD(std::uint64_t, prompt_external_kv_transfer_tokens,                                             \
        counter("vllm:prompt_tokens_by_source_total").with("source", "external_kv_transfer").in(Unit::tokens), \
        "Prompt tokens by where their KV cache came from")                                             \
  FIELD(std::uint64_t, prompt_cached_tokens,                                                           \
        counter("vllm:prompt_tokens_cached_total").in(Unit::tokens),                                   \
        "Prompt tokens found in a cache, local or external")                                           \
  FIELD(std::uint64_t, prompt_tokens, counter("vllm:prompt_tokens_total").in(Unit::tokens),            \
        "Prefill tokens processed, cached ones included")                                              \
  FIELD(std::uint64_t, num_generation_tokens,                                                          \
        counter("vllm:generation_tokens_total").in(Unit::tokens), "Generated tokens")                  \
  FIELD(std::uint64_t, iteration_tokens,                                                               \
        distribution("vllm:iteration_tokens_total", ::rankbus::bounds::kIterationTokens).in(Unit::tokens), \
        "Tokens computed per engine step, prompt tokens from caches excluded")                         \
  ARRAY(double, 16, time_to_first_token_seconds,                                                       \
        distribution("vllm:time_to_first_token_seconds", ::rankbus::bounds::kTimeToFirstToken).in(Unit::seconds), \
        "Time to first token")                                                                         \
  ARRAY(double, 64, inter_token_latency_seconds,                                                       \
        distribution("vllm:inter_token_latency_seconds", ::rankbus::bounds::kInterTokenLatency).in(Unit::seconds), \
        "Time between successive outputs of a request")                                                \
  ARRAY(std::uint64_t, 8, max_num_generation_tokens,                                                   \
        distribution("vllm:request_max_num_generation_tokens", ::rankbus::bounds::kModelLength).in(Unit::tokens), \
        "Largest number of tokens generated by one sample of a request")                               \
  ARRAY(std::uint64_t, 8, n_params, distribution("vllm:request_params_n", ::rankbus::bounds::kParamsN), \
        "The n parameter of requests")

#define RANKBUS_FINISHED_REQUEST_ROWS(FIELD, OPTIONAL, ARRAY)                                          \
  FIELD(std::uint64_t, stamp, stamp(), "When the request finished")                                    \
  FIELD(std::uint64_t, request_id_hash, id(), "Keyed hash of the request id, which clients choose")    \
  FIELD(::rankbus::FinishedReason, finished_reason,                                                    \
        label("finished_reason", "stop\nlength\nabort\nerror\nrepetition"), "Why the request ended")   \
  FIELD(std::uint32_t, finished,                                                                       \
        counter("vllm:request_success_total").split_by("finished_reason"),                             \
        "Finished requests, whatever the reason")                                                      \
  FIELD(std::uint64_t, num_prompt_tokens,                                                              \
        distribution("vllm:request_prompt_tokens", ::rankbus::bounds::kModelLength).in(Unit::tokens),  \
        "Prompt tokens per request")                                                                   \
  FIELD(std::uint64_t, num_generation_tokens,                                                          \
        distribution("vllm:request_generation_tokens", ::rankbus::bounds::kModelLength).in(Unit::tokens), \
        "Generated tokens per request")                                                                \
  FIELD(std::int64_t, num_cached_tokens, id(), "Prompt tokens found in a cache, negative if unknown")  \
  OPTIONAL(std::uint64_t, prefill_kv_computed_tokens,                                                  \
        distribution("vllm:request_prefill_kv_computed_tokens", ::rankbus::bounds::kModelLength).in(Unit::tokens), \
        "Prompt tokens per request whose KV cache was computed, cached ones excluded")                 \
  OPTIONAL(std::uint64_t, max_tokens_param,                                                            \
        distribution("vllm:request_params_max_tokens", ::rankbus::bounds::kModelLength).in(Unit::tokens), \
        "The max_tokens parameter of requests that set it")                                            \
  FIELD(std::uint64_t, num_preemptions,                                                                \
        distribution("vllm:request_num_preemptions", ::rankbus::bounds::kPreemptions),                 \
        "Preemptions per request")                                                                     \
  OPTIONAL(double, e2e_latency_seconds,                                                                \
        distribution("vllm:e2e_request_latency_seconds", ::rankbus::bounds::kRequest).in(Unit::seconds), \
        "End to end request latency")                                                                  \
  OPTIONAL(double, queued_time_seconds,                                                                \
        distribution("vllm:request_queue_time_seconds", ::rankbus::bounds::kRequest).in(Unit::seconds), \
        "Time from being queued to being scheduled first")                                             \
  OPTIONAL(double, prefill_time_seconds,                                                               \
        distribution("vllm:request_prefill_time_seconds", ::rankbus::bounds::kRequest).in(Unit::seconds), \
        "Time from being scheduled first to the first token")                                          \
  OPTIONAL(double, inference_time_seconds,                                                             \
        distribution("vllm:request_inference_time_seconds", ::rankbus::bounds::kRequest).in(Unit::seconds), \
        "Time from being scheduled first to the last token")                                           \
  OPTIONAL(double, decode_time_seconds,                                                                \
        distribution("vllm:request_decode_time_seconds", ::rankbus::bounds::kRequest).in(Unit::seconds), \
        "Time from the first token to the last token")                                                 \
  OPTIONAL(double, mean_time_per_output_token_seconds,                                                 \
        distribution("vllm:request_time_per_output_token_seconds", ::rankbus::bounds::kInterTokenLatency).in(Unit::seconds), \
        "Decode time per generated token after the first, one value per request")

#define RANKBUS_WORKER_STEP_ROWS(FIELD, OPTIONAL, ARRAY)                                               \
  FIELD(std::uint64_t, stamp, stamp(), "When the worker took the step from its queue (dequeued)")      \
  FIELD(std::uint64_t, entered, stamp(), "When the forward call began")                                \
  FIELD(std::uint64_t, launched, stamp(), "When the last kernel of the step was launched")             \
  FIELD(std::uint64_t, output_ready, stamp(), "When the step's output was on the host")                \
  FIELD(std::uint64_t, step, id(), "Forward calls of this run, equal on all ranks")                    \
  FIELD(std::uint32_t, steps, counter("rankbus_steps_total").reduced(Reduction::each),                 \
        "Forward calls of this rank, dummy ones included")                                             \
  FIELD(std::uint32_t, dummy,                                                                          \
        counter("rankbus_dummy_steps_total").reduced(Reduction::each),                                 \
        "Forward calls without work, made to keep other ranks' collectives going")                     \
  FIELD(std::uint64_t, padded_tokens,                                                                  \
        counter("rankbus_padded_tokens_total").in(Unit::tokens).reduced(Reduction::each),              \
        "Tokens computed only because a CUDA graph of that size was not captured")                     \
  FIELD(std::uint64_t, prepare_ns,                                                                     \
        counter("rankbus_rank_busy_seconds_total").with("phase", "prepare").in(Unit::nanoseconds).reduced(Reduction::each), \
        "Time a rank's host spent in its own phases of a step")                                        \
  FIELD(std::uint64_t, forward_ns,                                                                     \
        counter("rankbus_rank_busy_seconds_total").with("phase", "forward").in(Unit::nanoseconds).reduced(Reduction::each), \
        "Time a rank's host spent in its own phases of a step")                                        \
  FIELD(std::uint64_t, sample_ns,                                                                      \
        counter("rankbus_rank_busy_seconds_total").with("phase", "sample").in(Unit::nanoseconds).reduced(Reduction::each), \
        "Time a rank's host spent in its own phases of a step")                                        \
  OPTIONAL(std::uint64_t, launch_gap_ns,                                                               \
        counter("rankbus_rank_launch_gap_seconds_total").in(Unit::nanoseconds).reduced(Reduction::each), \
        "Time a rank's device stood idle before a step, where device events tell")                     \
  FIELD(std::uint64_t, in_flight, id(), "Steps submitted and not finished when this one began")

#define RANKBUS_COLLECTIVE_ROWS(FIELD, OPTIONAL, ARRAY)                                                \
  FIELD(std::uint64_t, entry, stamp(), "When this rank entered the collective")                        \
  FIELD(std::uint32_t, duration, id(), "Ticks from entry to exit, all ones if longer or unknown")      \
  FIELD(std::uint16_t, group, id(), "Index in the segment's table of groups")                          \
  FIELD(std::uint16_t, flags, id(), "Reserved, zero")                                                  \
  FIELD(std::uint32_t, step, id(), "Low 32 bits of the worker's step")                                 \
  FIELD(std::uint32_t, ordinal, id(), "Collectives of this group before this one, counted by the writer")
// clang-format on

RANKBUS_RECORD(SchedulerStep, "scheduler_step", 1, "One step of an engine's scheduler",
               RANKBUS_SCHEDULER_STEP_ROWS)
RANKBUS_RECORD(IterationStats, "iteration_stats", 2, "What a front end saw of one engine step",
               RANKBUS_ITERATION_STATS_ROWS)
RANKBUS_RECORD(FinishedRequest, "finished_request", 1, "One finished request",
               RANKBUS_FINISHED_REQUEST_ROWS)
RANKBUS_RECORD(WorkerStep, "worker_step", 1, "One forward call of one rank",
               RANKBUS_WORKER_STEP_ROWS)
RANKBUS_RECORD(Collective, "collective", 1, "One collective as one rank saw it",
               RANKBUS_COLLECTIVE_ROWS)

// Fields that follow from others are filled by `record`, by vLLM's formulas (stats.py), so that no
// caller can make them disagree.
inline void derive(SchedulerStep& record) noexcept {
  record.num_requests_waiting = record.num_waiting_reqs + record.num_skipped_waiting_reqs;
}
inline void derive(IterationStats& record) noexcept {
  record.prompt_cached_tokens =
      record.prompt_local_cache_hit_tokens + record.prompt_external_kv_transfer_tokens;
  record.prompt_tokens = record.prompt_computed_tokens + record.prompt_cached_tokens;
  record.iteration_tokens = record.prompt_computed_tokens + record.num_generation_tokens;
}
inline void derive(FinishedRequest& record) noexcept {
  const std::int64_t cached = record.num_cached_tokens > 0 ? record.num_cached_tokens : 0;
  const auto hits = static_cast<std::uint64_t>(cached);
  record.finished = 1;
  record.prefill_kv_computed_tokens =
      record.num_prompt_tokens > hits ? record.num_prompt_tokens - hits : 0;
  if (record.max_tokens_param == 0) record.max_tokens_param = absent<std::uint64_t>();
}
inline void derive(WorkerStep& record) noexcept {
  record.steps = 1;
}

}  // namespace rankbus
