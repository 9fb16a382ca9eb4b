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

inline constexpr double kResidencyValues[] = {0.001, 0.002, 0.005, 0.01,  0.02,  0.05,   0.1,
                                              0.2,   0.5,   1.0,   2.0,   5.0,   10.0,   20.0,
                                              30.0,  60.0,  120.0, 300.0, 600.0, 1200.0, 1800.0};
inline constexpr double kTransferTimeValues[] = {0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                                 0.2,   0.3,  0.5,   0.75, 1.0,   5.0};
inline constexpr double kPostTimeValues[] = {0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                             0.2,   0.3,   0.5,  0.75,  1.0,  5.0};
inline constexpr double kTransferBytesValues[] = {
    2048.0,    8192.0,     32768.0,     131072.0,    524288.0,     2097152.0,
    8388608.0, 33554432.0, 134217728.0, 536870912.0, 2147483648.0, 8589934592.0};
inline constexpr double kDescriptorsValues[] = {10,  20,   30,   50,   75,    100,   200,
                                                400, 1000, 2000, 4000, 10000, 20000, 50000};
inline constexpr double kOffloadBytesValues[] = {1e6, 5e6, 1e7, 2e7,   4e7,
                                                 6e7, 8e7, 1e8, 1.5e8, 2e8};
inline constexpr double kOffloadChunksValues[] = {1,    4,    16,    64,    256,
                                                  1024, 4096, 16384, 65536, 262144};
inline constexpr double kLookupSyncValues[] = {1e-5, 5e-5, 1e-4, 5e-4, 0.001, 0.005,
                                               0.01, 0.05, 0.1,  0.5,  1.0};
inline constexpr double kLookupAsyncValues[] = {1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05,
                                                0.1,  0.5,  1.0,   5.0,   10.0};
inline constexpr double kStoreOperationValues[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4,
                                                   0.5,   0.75,  1.0,  1.5,  2.0, 3.0, 4.0};

inline constexpr bus::Bounds kResidency = bus::bounds_of(kResidencyValues, -12, 12);
inline constexpr bus::Bounds kTransferTime = bus::bounds_of(kTransferTimeValues, -14, 4);
inline constexpr bus::Bounds kPostTime = bus::bounds_of(kPostTimeValues, -14, 4);
inline constexpr bus::Bounds kTransferBytes = bus::bounds_of(kTransferBytesValues, 8, 36);
inline constexpr bus::Bounds kDescriptors = bus::bounds_of(kDescriptorsValues, 0, 17);
inline constexpr bus::Bounds kOffloadBytes = bus::bounds_of(kOffloadBytesValues, 10, 32);
inline constexpr bus::Bounds kOffloadChunks = bus::bounds_of(kOffloadChunksValues, 0, 20);
inline constexpr bus::Bounds kLookupSync = bus::bounds_of(kLookupSyncValues, -20, 4);
inline constexpr bus::Bounds kLookupAsync = bus::bounds_of(kLookupAsyncValues, -16, 6);
// Split by operation and status, so a row's cells are few.
inline constexpr bus::Bounds kStoreOperation = bus::bounds_of(kStoreOperationValues, -12, 4);
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
enum class KvBlockOperation : std::uint16_t { allocate = 1, access, evict };
enum class CacheEvictionCause : std::uint16_t {
  lru = 1,
  memory_pressure,
  explicit_request,
  ttl_expired,
  preemption
};

// clang-format off
#define RANKBUS_SCHEDULER_STEP_ROWS(FIELD, OPTIONAL, ARRAY)                                            \
  FIELD(std::uint64_t, stamp, stamp(), "When the step's output was handed to the front end")           \
  FIELD(std::uint64_t, step, id(), "The scheduler's own count of steps")                               \
  FIELD(std::uint32_t, num_running_reqs, gauge("vllm:num_requests_running"),                           \
        "Number of requests in model execution batches")                                               \
  FIELD(std::uint32_t, num_waiting_reqs,                                                               \
        gauge("vllm:num_requests_waiting_by_reason").with("reason", "capacity"),                       \
        "Number of waiting requests by reason: capacity (queued for room in the batch or the KV cache) or deferred (held back by something else)") \
  FIELD(std::uint32_t, num_skipped_waiting_reqs,                                                       \
        gauge("vllm:num_requests_waiting_by_reason").with("reason", "deferred"),                       \
        "Number of waiting requests by reason: capacity (queued for room in the batch or the KV cache) or deferred (held back by something else)") \
  FIELD(std::uint32_t, num_requests_waiting, gauge("vllm:num_requests_waiting"),                       \
        "Number of requests waiting to be processed, deferred ones included")                          \
  FIELD(double, kv_cache_usage, gauge("vllm:kv_cache_usage_perc"),                                     \
        "Share of KV cache blocks in use, 0 to 1")                                                     \
  FIELD(std::uint64_t, prefix_cache_queries,                                                           \
        counter("vllm:prefix_cache_queries_total").in(Unit::tokens),                                   \
        "Prompt tokens looked up in the prefix cache")                                                 \
  FIELD(std::uint64_t, prefix_cache_hits,                                                              \
        counter("vllm:prefix_cache_hits_total").in(Unit::tokens),                                      \
        "Prompt tokens found in the prefix cache")                                                     \
  FIELD(std::uint64_t, external_prefix_cache_queries,                                                  \
        counter("vllm:external_prefix_cache_queries_total").in(Unit::tokens),                          \
        "Prompt tokens looked up in a cache that other instances share, by a KV connector")            \
  FIELD(std::uint64_t, external_prefix_cache_hits,                                                     \
        counter("vllm:external_prefix_cache_hits_total").in(Unit::tokens),                             \
        "Prompt tokens found in a cache that other instances share, by a KV connector")                \
  OPTIONAL(std::uint64_t, step_interval_ns,                                                            \
        distribution("rankbus_step_interval_seconds", ::rankbus::bounds::kStep).in(Unit::nanoseconds), \
        "Time from the output of one step to the output of the next, the only step time that adds up to wall time") \
  FIELD(std::uint32_t, prefix_cache_requests, id(),                                                    \
        "Requests that looked up the prefix cache in this step")                                       \
  FIELD(std::uint32_t, external_prefix_cache_requests, id(),                                           \
        "Requests that looked up the external prefix cache in this step")                              \
  FIELD(std::uint8_t, prefix_cache_reset, id(), "1 if the prefix cache was reset before this step")    \
  FIELD(std::uint8_t, external_prefix_cache_reset, id(),                                               \
        "1 if the external prefix cache was reset before this step")                                   \
  OPTIONAL(std::uint64_t, current_wave, gauge("rankbus_dp_wave").reduced(Reduction::max),              \
           "Wave of requests that the data-parallel engines are working on")

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
        "Decode time per generated token after the first, one value per request")                      \
  OPTIONAL(double, time_to_first_token_seconds, id(),                                                  \
           "Time to first token, where the engine knows it per request")

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

#define RANKBUS_MULTIMODAL_CACHE_ROWS(FIELD, OPTIONAL, ARRAY)                                          \
  FIELD(std::uint64_t, stamp, stamp(), "When the front end reported them")                             \
  FIELD(std::uint64_t, queries, counter("vllm:mm_cache_queries_total"),                                \
        "Multimodal items looked up in the multimodal cache")                                          \
  FIELD(std::uint64_t, hits, counter("vllm:mm_cache_hits_total"),                                      \
        "Multimodal items found in the multimodal cache")                                              \
  FIELD(std::uint32_t, requests, id(), "Requests with multimodal items")                               \
  FIELD(std::uint8_t, reset, id(), "1 if the cache was reset before")

#define RANKBUS_SLEEP_STATE_ROWS(FIELD, OPTIONAL, ARRAY)                                               \
  FIELD(std::uint64_t, stamp, stamp(), "When the engine fell asleep or woke")                          \
  FIELD(std::uint8_t, awake, gauge("vllm:engine_sleep_state").with("sleep_state", "awake"),            \
        "1 for the sleep state that the engine is in")                                                 \
  FIELD(std::uint8_t, weights_offloaded,                                                               \
        gauge("vllm:engine_sleep_state").with("sleep_state", "weights_offloaded"),                     \
        "1 for the sleep state that the engine is in")                                                 \
  FIELD(std::uint8_t, discard_all, gauge("vllm:engine_sleep_state").with("sleep_state", "discard_all"), \
        "1 for the sleep state that the engine is in")

#define RANKBUS_CORRUPTED_REQUESTS_ROWS(FIELD, OPTIONAL, ARRAY)                                        \
  FIELD(std::uint64_t, stamp, stamp(), "When they finished")                                           \
  FIELD(std::uint64_t, num_corrupted_reqs, counter("vllm:corrupted_requests_total"),                   \
        "Finished requests with a NaN in their logits")

#define RANKBUS_KV_BLOCK_EVICTION_ROWS(FIELD, OPTIONAL, ARRAY)                                         \
  FIELD(std::uint64_t, stamp, stamp(), "When the block was evicted, or its step reported")             \
  OPTIONAL(double, lifetime_seconds,                                                                   \
        distribution("vllm:kv_block_lifetime_seconds", ::rankbus::bounds::kResidency).in(Unit::seconds), \
        "Time from allocation to eviction, of sampled KV cache blocks")                                \
  OPTIONAL(double, idle_seconds,                                                                       \
        distribution("vllm:kv_block_idle_before_evict_seconds", ::rankbus::bounds::kResidency).in(Unit::seconds), \
        "Time from the last access to eviction, of sampled KV cache blocks")                           \
  ARRAY(double, 4, reuse_gap_seconds,                                                                  \
        distribution("vllm:kv_block_reuse_gap_seconds", ::rankbus::bounds::kResidency).in(Unit::seconds), \
        "Time between the last accesses of sampled KV cache blocks, as known at eviction")

#define RANKBUS_LORA_STATE_ROWS(FIELD, OPTIONAL, ARRAY)                                                \
  FIELD(std::uint64_t, stamp, stamp(), "When the step reported it")                                    \
  ARRAY(std::uint64_t, 32, adapters, info("vllm:lora_requests_info").in(Unit::seconds),                \
        "When this combination of LoRA adapters was last reported, seconds since the epoch; only the present one is shown")

#define RANKBUS_CACHE_CONFIG_ROWS(FIELD, OPTIONAL, ARRAY)                                              \
  FIELD(std::uint64_t, stamp, stamp(), "When the engine had started")                                  \
  ARRAY(std::uint64_t, 32, config, info("vllm:cache_config_info"),                                    \
        "1; the configuration of the engine's KV cache")

#define RANKBUS_SPEC_DECODING_ROWS(FIELD, OPTIONAL, ARRAY)                                             \
  FIELD(std::uint64_t, stamp, stamp(), "When the step's output was handed to the front end")           \
  FIELD(std::uint64_t, num_drafts, counter("vllm:spec_decode_num_drafts_total"),                       \
        "Drafts that speculative decoding proposed")                                                   \
  FIELD(std::uint64_t, num_draft_tokens,                                                               \
        counter("vllm:spec_decode_num_draft_tokens_total").in(Unit::tokens),                           \
        "Tokens that speculative decoding proposed")                                                   \
  FIELD(std::uint64_t, num_accepted_tokens,                                                            \
        counter("vllm:spec_decode_num_accepted_tokens_total").in(Unit::tokens),                        \
        "Proposed tokens that were accepted")                                                          \
  ARRAY(std::uint64_t, 32, num_accepted_tokens_per_pos,                                                \
        counter("vllm:spec_decode_num_accepted_tokens_per_pos_total").in(Unit::tokens).for_each_speculative_token(), \
        "Accepted tokens by their position in the draft")                                              \
  ARRAY(std::uint64_t, 32, num_draft_tokens_per_pos,                                                   \
        counter("rankbus_spec_decode_num_draft_tokens_per_pos_total").in(Unit::tokens).for_each_speculative_token(), \
        "Proposed tokens by their position in the draft")

#define RANKBUS_DIFFUSION_DECODING_ROWS(FIELD, OPTIONAL, ARRAY)                                        \
  FIELD(std::uint64_t, stamp, stamp(), "When the step's output was handed to the front end")           \
  FIELD(std::uint64_t, num_denoising_steps, counter("vllm:diffusion_num_denoising_steps_total"),       \
        "Denoising steps of a diffusion language model")                                               \
  FIELD(std::uint64_t, num_canvas_positions, counter("vllm:diffusion_num_canvas_positions_total"),     \
        "Canvas positions that denoising steps evaluated")                                             \
  FIELD(std::uint64_t, num_committed_tokens,                                                           \
        counter("vllm:diffusion_num_committed_tokens_total").in(Unit::tokens),                         \
        "Tokens that denoising steps committed")

// Doubles, because a GPU does 2^64 operations in hours.
#define RANKBUS_PERF_STATS_ROWS(FIELD, OPTIONAL, ARRAY)                                                \
  FIELD(std::uint64_t, stamp, stamp(), "When the step was scheduled")                                  \
  FIELD(double, num_flops_per_gpu, counter("vllm:estimated_flops_per_gpu_total"),               \
        "Floating-point operations of one GPU, estimated from the schedule")                           \
  FIELD(double, num_read_bytes_per_gpu,                                                         \
        counter("vllm:estimated_read_bytes_per_gpu_total").in(Unit::bytes),                            \
        "Bytes that one GPU reads from its memory, estimated from the schedule")                       \
  FIELD(double, num_write_bytes_per_gpu,                                                        \
        counter("vllm:estimated_write_bytes_per_gpu_total").in(Unit::bytes),                           \
        "Bytes that one GPU writes to its memory, estimated from the schedule")

#define RANKBUS_CUDA_GRAPH_ROWS(FIELD, OPTIONAL, ARRAY)                                                \
  FIELD(std::uint64_t, stamp, stamp(), "When the step ran, or the graph was captured")                 \
  FIELD(std::uint32_t, num_unpadded_tokens, id(), "Tokens of the batch")                               \
  FIELD(std::uint32_t, num_padded_tokens, id(), "Tokens that were computed, padding included")         \
  FIELD(std::uint16_t, runtime_mode, label("mode"),                                                    \
        "CUDA graph mode of the batch: FULL, PIECEWISE, or NONE where it ran without a graph")         \
  FIELD(std::uint8_t, captured, id(), "1 if a graph was captured, not replayed")                       \
  FIELD(std::uint32_t, num_paddings,                                                                   \
        counter("rankbus_cudagraph_padding_tokens_total").in(Unit::tokens).split_by("runtime_mode"),   \
        "Tokens computed only because no CUDA graph of the batch's size was captured, by runtime mode") \
  FIELD(std::uint32_t, replays, counter("rankbus_cudagraph_replays_total").split_by("runtime_mode"),   \
        "Batches by CUDA graph runtime mode; mode NONE ran without a graph")                           \
  FIELD(std::uint32_t, captures, counter("rankbus_cudagraph_captures_total").split_by("runtime_mode"), \
        "CUDA graphs captured, by runtime mode")                                                       \
  FIELD(std::uint32_t, replayed_tokens,                                                                \
        counter("rankbus_cudagraph_tokens_total").in(Unit::tokens).split_by("runtime_mode"),           \
        "Tokens of batches, padding excluded, by CUDA graph runtime mode")                             \
  FIELD(std::uint64_t, capture_ns,                                                                     \
        counter("rankbus_cudagraph_capture_seconds_total").in(Unit::nanoseconds).split_by("runtime_mode"), \
        "Time that captures of CUDA graphs took, by runtime mode")                                     \
  FIELD(std::uint64_t, replay_ns,                                                                      \
        counter("rankbus_cudagraph_replay_seconds_total").in(Unit::nanoseconds).split_by("runtime_mode"), \
        "Time that replays of CUDA graphs took, by runtime mode")                                      \
  OPTIONAL(std::uint64_t, graph_memory_bytes,                                                          \
           gauge("rankbus_cudagraph_memory_bytes").in(Unit::bytes).reduced(Reduction::max),            \
           "Memory of the captured CUDA graphs, of the rank with most")

#define RANKBUS_CUDA_GRAPH_CONFIG_ROWS(FIELD, OPTIONAL, ARRAY)                                         \
  FIELD(std::uint64_t, stamp, stamp(), "When the engine had started")                                  \
  ARRAY(std::uint64_t, 32, config, info("rankbus_cudagraph_config_info"),                             \
        "1; the configured CUDA graph mode and capture sizes")

#define RANKBUS_ITERATION_DETAILS_ROWS(FIELD, OPTIONAL, ARRAY)                                         \
  FIELD(std::uint64_t, stamp, stamp(), "When the step's output was handed to the front end")           \
  FIELD(std::uint64_t, iteration_index, id(), "The scheduler's own count of iterations")               \
  FIELD(std::uint32_t, num_ctx_requests, id(), "Requests in prefill")                                  \
  FIELD(std::uint32_t, num_ctx_tokens, id(), "Tokens of requests in prefill")                          \
  FIELD(std::uint32_t, num_generation_requests, id(), "Requests in decode")                            \
  FIELD(std::uint32_t, num_generation_tokens, id(), "Tokens of requests in decode")                    \
  FIELD(std::uint32_t, num_encoder_inputs, id(), "Multimodal inputs that the encoder processed")       \
  FIELD(std::uint32_t, num_encoder_output_tokens, id(), "Embeddings that the encoder produced")        \
  FIELD(double, elapsed_ms, id(), "Duration of the iteration, milliseconds")                           \
  FIELD(double, kv_cache_usage, id(), "Share of KV cache blocks in use, 0 to 1")                       \
  FIELD(std::uint8_t, is_dummy, id(), "1 for a batch without work")

// NIXL and MoRI-IO report the same. One record per transfer, per failure, or per anything else that
// the counters name; the fields of the rank's own series are filled by `derive`.
#define RANKBUS_KV_TRANSFER_ROWS(FIELD, OPTIONAL, ARRAY, prefix, connector)                            \
  FIELD(std::uint64_t, stamp, stamp(), "When the transfer ended")                                      \
  OPTIONAL(double, transfer_duration_seconds,                                                          \
        distribution("vllm:" prefix "_xfer_time_seconds", ::rankbus::bounds::kTransferTime).in(Unit::seconds), \
        "Duration of KV cache transfers, of all ranks")                                                \
  OPTIONAL(double, post_duration_seconds,                                                              \
        distribution("vllm:" prefix "_post_time_seconds", ::rankbus::bounds::kPostTime).in(Unit::seconds), \
        "Time to post KV cache transfers, of all ranks")                                               \
  OPTIONAL(std::uint64_t, bytes_transferred,                                                           \
        distribution("vllm:" prefix "_bytes_transferred", ::rankbus::bounds::kTransferBytes).in(Unit::bytes), \
        "Bytes per KV cache transfer, of all ranks")                                                   \
  OPTIONAL(std::uint64_t, num_descriptors,                                                             \
        distribution("vllm:" prefix "_num_descriptors", ::rankbus::bounds::kDescriptors),              \
        "Descriptors per KV cache transfer, of all ranks")                                             \
  FIELD(std::uint32_t, num_failed_transfers, counter("vllm:" prefix "_num_failed_transfers_total"),    \
        "KV cache transfers that failed, sum over ranks")                                              \
  FIELD(std::uint32_t, num_failed_notifications, counter("vllm:" prefix "_num_failed_notifications_total"), \
        "Notifications of KV cache transfers that failed, sum over ranks")                             \
  FIELD(std::uint32_t, num_kv_expired_reqs, counter("vllm:" prefix "_num_kv_expired_reqs_total"),      \
        "Requests whose KV cache expired before it was fetched, sum over ranks")                       \
  RANKBUS_KV_TRANSFER_RANK_ROWS(FIELD, connector)

// What a rank moved, also for connectors without families of vLLM's.
#define RANKBUS_KV_TRANSFER_RANK_ROWS(FIELD, connector)                                                \
  FIELD(std::uint16_t, peer, label("peer"), "The other side of the transfer, where it is known")       \
  FIELD(std::uint32_t, rank_transfers,                                                                 \
        counter("rankbus_kv_transfers_total").with("connector", connector).split_by("peer").reduced(Reduction::each), \
        "KV cache transfers of this rank; add ranks for the engine")                                   \
  FIELD(std::uint32_t, rank_failures,                                                                  \
        counter("rankbus_kv_transfer_failures_total").with("connector", connector).split_by("peer").reduced(Reduction::each), \
        "Failed KV cache transfers and notifications of this rank; add ranks for the engine")          \
  FIELD(std::uint64_t, rank_bytes,                                                                     \
        counter("rankbus_kv_transfer_bytes_total").with("connector", connector).in(Unit::bytes).split_by("peer").reduced(Reduction::each), \
        "Bytes of this rank's KV cache transfers; add ranks for the engine")                           \
  FIELD(double, rank_seconds,                                                                          \
        counter("rankbus_kv_transfer_seconds_total").with("connector", connector).in(Unit::seconds).split_by("peer").reduced(Reduction::each), \
        "Durations of this rank's KV cache transfers, added up also where they overlap; the largest of the ranks is what a request waits for")

#define RANKBUS_NIXL_ROWS(FIELD, OPTIONAL, ARRAY) \
  RANKBUS_KV_TRANSFER_ROWS(FIELD, OPTIONAL, ARRAY, "nixl", "nixl")
#define RANKBUS_MORIIO_ROWS(FIELD, OPTIONAL, ARRAY) \
  RANKBUS_KV_TRANSFER_ROWS(FIELD, OPTIONAL, ARRAY, "moriio", "moriio")

// vLLM shows Mooncake's transfers in its log only.
#define RANKBUS_MOONCAKE_ROWS(FIELD, OPTIONAL, ARRAY)                                                  \
  FIELD(std::uint64_t, stamp, stamp(), "When the transfer ended")                                      \
  OPTIONAL(double, transfer_duration_seconds, id(), "Duration of the transfer")                        \
  OPTIONAL(std::uint64_t, bytes_transferred, id(), "Bytes transferred")                                \
  OPTIONAL(std::uint64_t, num_descriptors, id(), "Descriptors of the transfer")                        \
  FIELD(std::uint32_t, num_failed_transfers, id(), "Transfers that failed")                            \
  FIELD(std::uint32_t, num_failed_recvs, id(), "Receives that failed")                                 \
  FIELD(std::uint32_t, num_kv_expired_reqs, id(), "Requests whose KV cache expired")                   \
  RANKBUS_KV_TRANSFER_RANK_ROWS(FIELD, "mooncake")

#define RANKBUS_MOONCAKE_STORE_ROWS(FIELD, OPTIONAL, ARRAY)                                            \
  FIELD(std::uint64_t, stamp, stamp(), "When the operation ended")                                     \
  FIELD(std::uint16_t, operation, label("operation"), "save_put, load_get, lookup_exists, ...")        \
  FIELD(std::uint16_t, status, label("status"), "ok, error, ...")                                      \
  FIELD(std::uint32_t, operations,                                                                     \
        counter("vllm:mooncake_store_operation_total").split_by("operation status"),                   \
        "Operations on the Mooncake store")                                                            \
  FIELD(double, duration_seconds,                                                                      \
        distribution("vllm:mooncake_store_operation_time_seconds", ::rankbus::bounds::kStoreOperation).in(Unit::seconds).split_by("operation status"), \
        "Duration of operations on the Mooncake store")                                                \
  FIELD(std::uint64_t, num_keys,                                                                       \
        counter("vllm:mooncake_store_operation_keys_total").split_by("operation status"),              \
        "Keys of operations on the Mooncake store")                                                    \
  FIELD(std::uint64_t, num_bytes,                                                                      \
        counter("vllm:mooncake_store_operation_bytes_total").in(Unit::bytes).split_by("operation status"), \
        "Bytes of operations on the Mooncake store")                                                   \
  FIELD(std::uint64_t, num_failed_keys,                                                                \
        counter("vllm:mooncake_store_operation_failed_keys_total").split_by("operation status"),       \
        "Keys that operations on the Mooncake store failed for")

#define RANKBUS_OFFLOADING_ROWS(FIELD, OPTIONAL, ARRAY)                                                \
  FIELD(std::uint64_t, stamp, stamp(), "When the operations were reported")                            \
  FIELD(std::uint64_t, load_bytes, counter("vllm:kv_offload_load_bytes_total").in(Unit::bytes),        \
        "Bytes moved from the offloading medium to GPUs, sum over ranks")                              \
  FIELD(std::uint64_t, store_bytes, counter("vllm:kv_offload_store_bytes_total").in(Unit::bytes),      \
        "Bytes moved from GPUs to the offloading medium, sum over ranks")                              \
  FIELD(double, load_time, counter("vllm:kv_offload_load_time_total").in(Unit::seconds),               \
        "Seconds of operations from the offloading medium to GPUs, sum over ranks")                    \
  FIELD(double, store_time, counter("vllm:kv_offload_store_time_total").in(Unit::seconds),             \
        "Seconds of operations from GPUs to the offloading medium, sum over ranks")                    \
  ARRAY(std::uint64_t, 16, load_size,                                                                  \
        distribution("vllm:kv_offload_load_size", ::rankbus::bounds::kOffloadBytes).in(Unit::bytes),   \
        "Bytes per operation from the offloading medium to a GPU")                                     \
  ARRAY(std::uint64_t, 16, store_size,                                                                 \
        distribution("vllm:kv_offload_store_size", ::rankbus::bounds::kOffloadBytes).in(Unit::bytes),  \
        "Bytes per operation from a GPU to the offloading medium")

#define RANKBUS_OFFLOADING_CPU_ROWS(FIELD, OPTIONAL, ARRAY)                                            \
  FIELD(std::uint64_t, stamp, stamp(), "When it was reported")                                         \
  OPTIONAL(double, cpu_cache_usage_perc,                                                               \
        gauge("vllm:kv_offload_cpu_cache_usage_perc"),                                                 \
        "Share of the CPU cache that active transfers pin, 0 to 1")                                    \
  OPTIONAL(double, cpu_cache_write_usage_perc,                                                         \
        gauge("vllm:kv_offload_cpu_cache_write_usage_perc"),                                           \
        "Share of the CPU cache that active stores pin, 0 to 1")                                       \
  OPTIONAL(double, cpu_cache_read_usage_perc,                                                          \
        gauge("vllm:kv_offload_cpu_cache_read_usage_perc"),                                            \
        "Share of the CPU cache that active loads pin, 0 to 1")                                        \
  ARRAY(std::uint64_t, 16, cpu_allocation_size,                                                        \
        distribution("vllm:kv_offload_cpu_allocation_size", ::rankbus::bounds::kOffloadChunks),        \
        "Chunks requested to prepare a store")

#define RANKBUS_OFFLOADING_SKIPPED_ROWS(FIELD, OPTIONAL, ARRAY)                                        \
  FIELD(std::uint64_t, stamp, stamp(), "When it was reported")                                         \
  FIELD(std::uint64_t, stores_skipped, counter("vllm:kv_offload_stores_skipped_total"),                \
        "Blocks not stored, because they were not used often enough")

#define RANKBUS_OFFLOADING_LOOKUP_ROWS(FIELD, OPTIONAL, ARRAY)                                         \
  FIELD(std::uint64_t, stamp, stamp(), "When it was reported")                                         \
  FIELD(std::uint64_t, allocation_failures, counter("vllm:kv_offload_allocation_failure_total"),       \
        "Stores that found no room in the offloading medium")                                          \
  ARRAY(double, 16, lookup_sync_delay_seconds,                                                         \
        distribution("vllm:kv_offload_lookup_sync_delay_seconds", ::rankbus::bounds::kLookupSync).in(Unit::seconds), \
        "Time that lookups in the offloading medium held the scheduler up")                            \
  ARRAY(double, 16, lookup_async_delay_seconds,                                                        \
        distribution("vllm:kv_offload_lookup_async_delay_seconds", ::rankbus::bounds::kLookupAsync).in(Unit::seconds), \
        "Time that requests waited for lookups in the offloading medium")

#define RANKBUS_OFFLOADING_CONFIG_ROWS(FIELD, OPTIONAL, ARRAY)                                         \
  FIELD(std::uint64_t, stamp, stamp(), "When the connector had started")                               \
  ARRAY(std::uint64_t, 32, config, info("vllm:kv_offload_config_info"),                               \
        "1; the configuration of KV cache offloading")

#define RANKBUS_HISPARSE_ROWS(FIELD, OPTIONAL, ARRAY)                                                  \
  FIELD(std::uint64_t, stamp, stamp(), "When it was reported")                                         \
  FIELD(std::uint64_t, cache_hits, counter("vllm:hisparse_cache_hits_total"),                          \
        "Hits of the sparse-attention hot buffer, sum over ranks")                                     \
  FIELD(std::uint64_t, cache_misses, counter("vllm:hisparse_cache_misses_total"),                      \
        "Misses of the sparse-attention hot buffer, sum over ranks")                                   \
  FIELD(std::uint64_t, host_to_device_bytes, counter("vllm:hisparse_host_to_device_bytes_total").in(Unit::bytes), \
        "Bytes fetched from host memory into the sparse-attention hot buffer, sum over ranks")

// What the engine did with its KV cache and other caches, and with its time, where it says so.
#define RANKBUS_STEP_PHASES_ROWS(FIELD, OPTIONAL, ARRAY)                                               \
  FIELD(std::uint64_t, stamp, stamp(), "When the step ended")                                          \
  FIELD(std::uint64_t, step, id(), "The scheduler's own count of steps")                               \
  FIELD(std::uint32_t, steps, counter("rankbus_timed_steps_total"), "Steps whose phases were timed")   \
  FIELD(std::uint64_t, schedule_ns,                                                                    \
        counter("rankbus_step_phase_seconds_total").with("phase", "schedule").in(Unit::nanoseconds),   \
        "Time of steps by phase; model_execute spans model_forward, all others add up")                \
  FIELD(std::uint64_t, model_forward_ns,                                                               \
        counter("rankbus_step_phase_seconds_total").with("phase", "model_forward").in(Unit::nanoseconds), \
        "Time of steps by phase; model_execute spans model_forward, all others add up")                \
  FIELD(std::uint64_t, model_execute_ns,                                                               \
        counter("rankbus_step_phase_seconds_total").with("phase", "model_execute").in(Unit::nanoseconds), \
        "Time of steps by phase; model_execute spans model_forward, all others add up")                \
  FIELD(std::uint64_t, sample_ns,                                                                      \
        counter("rankbus_step_phase_seconds_total").with("phase", "sample").in(Unit::nanoseconds),     \
        "Time of steps by phase; model_execute spans model_forward, all others add up")                \
  FIELD(std::uint64_t, all_reduce_ns,                                                                  \
        counter("rankbus_step_phase_seconds_total").with("phase", "all_reduce").in(Unit::nanoseconds), \
        "Time of steps by phase; model_execute spans model_forward, all others add up")                \
  FIELD(std::uint64_t, cache_swap_ns,                                                                  \
        counter("rankbus_step_phase_seconds_total").with("phase", "cache_swap").in(Unit::nanoseconds), \
        "Time of steps by phase; model_execute spans model_forward, all others add up")

#define RANKBUS_REQUEST_KV_EVICTION_ROWS(FIELD, OPTIONAL, ARRAY)                                       \
  FIELD(std::uint64_t, stamp, stamp(), "When the blocks were taken from the request")                  \
  FIELD(std::uint64_t, request_id_hash, id(), "Keyed hash of the request id, which clients choose")    \
  FIELD(std::uint16_t, reason, label("reason"), "memory_pressure, timeout, manual, or a user's own")   \
  FIELD(std::uint32_t, evictions, counter("rankbus_request_kv_evictions_total").split_by("reason"),    \
        "Requests that lost KV cache blocks, by reason")                                               \
  FIELD(std::uint64_t, num_blocks,                                                                     \
        counter("rankbus_request_kv_evicted_blocks_total").split_by("reason"),                         \
        "KV cache blocks taken from requests, by reason")

#define RANKBUS_LORA_REQUESTS_ROWS(FIELD, OPTIONAL, ARRAY)                                             \
  FIELD(std::uint64_t, stamp, stamp(), "When the step reported them")                                  \
  FIELD(std::uint16_t, adapter, label("lora_name"), "The LoRA adapter")                                \
  FIELD(std::uint32_t, num_running_reqs,                                                               \
        gauge("rankbus_lora_requests_running").split_by("adapter"),                                  \
        "Running requests of a LoRA adapter")                                                          \
  FIELD(std::uint32_t, num_waiting_reqs,                                                               \
        gauge("rankbus_lora_requests_waiting").split_by("adapter"),                                  \
        "Waiting requests of a LoRA adapter")

#define RANKBUS_KV_BLOCK_OPERATIONS_ROWS(FIELD, OPTIONAL, ARRAY)                                       \
  FIELD(std::uint64_t, stamp, stamp(), "When the blocks were allocated, accessed or evicted")          \
  FIELD(::rankbus::KvBlockOperation, operation, label("operation", "allocate\naccess\nevict"),         \
        "What was done with the blocks")                                                               \
  FIELD(std::uint16_t, reason, label("reason"), "Why they were evicted: capacity, or another word")    \
  FIELD(std::uint32_t, num_blocks,                                                                     \
        counter("rankbus_kv_block_operations_total").split_by("operation"),                            \
        "KV cache blocks that were allocated, accessed and evicted, followed or not")                  \
  FIELD(std::uint32_t, num_evicted, counter("rankbus_kv_block_evictions_total").split_by("reason"),    \
        "KV cache blocks that were evicted, followed or not, by reason")                               \
  FIELD(double, sample_rate, id(), "Share of the blocks that is followed")                             \
  ARRAY(std::uint64_t, 24, block_ids, id(), "Those of the blocks that is_sampled() follows")

#define RANKBUS_CACHE_LOOKUP_ROWS(FIELD, OPTIONAL, ARRAY)                                              \
  FIELD(std::uint64_t, stamp, stamp(), "When the cache was asked")                                     \
  FIELD(std::uint16_t, level, label("level"), "prefix, block, kv, encoder, or a user's own")           \
  FIELD(std::uint64_t, hits, counter("rankbus_cache_hits_total").split_by("level"),                    \
        "Lookups that found what they asked for, by cache level")                                      \
  FIELD(std::uint64_t, misses, counter("rankbus_cache_misses_total").split_by("level"),                \
        "Lookups that did not find what they asked for, by cache level")                               \
  FIELD(std::uint64_t, hit_bytes,                                                                      \
        counter("rankbus_cache_read_bytes_total").in(Unit::bytes).split_by("level"),                   \
        "Bytes of what lookups found, by cache level")                                                 \
  FIELD(std::uint64_t, miss_bytes, id(), "Bytes of what they did not find")                            \
  FIELD(std::uint64_t, latency_ns, id(), "Nanoseconds of each of the lookups, 0 if not measured")      \
  FIELD(std::uint64_t, prefix_hash, id(), "Hash of the prefix that was found")                         \
  FIELD(std::uint64_t, prefix_length, id(), "Tokens of the prefix that was asked for, 0 if it was none")

#define RANKBUS_CACHE_STORAGE_ROWS(FIELD, OPTIONAL, ARRAY)                                             \
  FIELD(std::uint64_t, stamp, stamp(), "When it was written")                                          \
  FIELD(std::uint16_t, level, label("level"), "prefix, block, kv, encoder, or a user's own")           \
  FIELD(std::uint64_t, written_bytes,                                                                  \
        counter("rankbus_cache_written_bytes_total").in(Unit::bytes).split_by("level"),                \
        "Bytes written to a cache, by cache level")                                                    \
  OPTIONAL(std::uint64_t, capacity_bytes,                                                              \
           gauge("rankbus_cache_capacity_bytes").in(Unit::bytes).reduced(Reduction::sum).split_by("level"), \
           "What a cache can hold, by cache level")

#define RANKBUS_CACHE_EVICTION_ROWS(FIELD, OPTIONAL, ARRAY)                                            \
  FIELD(std::uint64_t, stamp, stamp(), "When it was evicted")                                          \
  FIELD(std::uint16_t, level, label("level"), "prefix, block, kv, encoder, or a user's own")           \
  FIELD(::rankbus::CacheEvictionCause, reason,                                                         \
        label("reason", "lru\nmemory_pressure\nexplicit\nttl_expired\npreemption"),                          \
        "Why it was evicted")                                                                          \
  FIELD(std::uint32_t, evictions,                                                                      \
        counter("rankbus_cache_evictions_total").split_by("level reason"),                             \
        "Evictions, each of any number of blocks, by cache level and reason")                          \
  FIELD(std::uint64_t, num_blocks,                                                                     \
        counter("rankbus_cache_evicted_blocks_total").split_by("level reason"),                        \
        "Evicted blocks, by cache level and reason")                                                   \
  FIELD(std::uint64_t, freed_bytes,                                                                    \
        counter("rankbus_cache_freed_bytes_total").in(Unit::bytes).split_by("level"),                  \
        "Bytes that evictions freed, by cache level")                                                  \
  FIELD(std::uint64_t, latency_ns, id(), "Nanoseconds that it took, 0 if not measured")                \
  FIELD(std::uint64_t, followed_blocks, id(), "Of the blocks, those whose accesses were counted ...")  \
  FIELD(std::uint64_t, unused_blocks, id(), "... and of these, those that nobody had accessed")
// clang-format on

RANKBUS_RECORD(SchedulerStep, "scheduler_step", 10, "One step of an engine's scheduler",
               RANKBUS_SCHEDULER_STEP_ROWS)
RANKBUS_RECORD(IterationStats, "iteration_stats", 20, "What a front end saw of one engine step",
               RANKBUS_ITERATION_STATS_ROWS)
RANKBUS_RECORD(FinishedRequest, "finished_request", 10, "One finished request",
               RANKBUS_FINISHED_REQUEST_ROWS)
RANKBUS_RECORD(MultimodalCache, "multimodal_cache", 1, "Lookups in the multimodal cache",
               RANKBUS_MULTIMODAL_CACHE_ROWS)
RANKBUS_RECORD(SleepState, "sleep_state", 1, "The engine's sleep state", RANKBUS_SLEEP_STATE_ROWS)
RANKBUS_RECORD(WorkerStep, "worker_step", 10, "One forward call of one rank",
               RANKBUS_WORKER_STEP_ROWS)
RANKBUS_RECORD(Collective, "collective", 10, "One collective as one rank saw it",
               RANKBUS_COLLECTIVE_ROWS)

// The rest is declared where the feature is configured, so that the families of a feature appear
// where it is used: `OpenOptions::records`.
RANKBUS_RECORD(CorruptedRequests, "corrupted_requests", 1, "Finished requests with NaN logits",
               RANKBUS_CORRUPTED_REQUESTS_ROWS)
RANKBUS_RECORD(KvBlockEviction, "kv_block_eviction", 4, "The eviction of one sampled KV block",
               RANKBUS_KV_BLOCK_EVICTION_ROWS)
RANKBUS_RECORD(SpecDecoding, "spec_decoding", 10, "Speculative decoding of one engine step",
               RANKBUS_SPEC_DECODING_ROWS)
RANKBUS_RECORD(DiffusionDecoding, "diffusion_decoding", 4, "Diffusion decoding of one engine step",
               RANKBUS_DIFFUSION_DECODING_ROWS)
RANKBUS_RECORD(PerfStats, "perf_stats", 4, "Estimated work of one engine step on one GPU",
               RANKBUS_PERF_STATS_ROWS)
RANKBUS_RECORD(CudaGraph, "cuda_graph", 4, "One batch, or one capture, by its CUDA graph",
               RANKBUS_CUDA_GRAPH_ROWS)
RANKBUS_RECORD(CudaGraphConfig, "cuda_graph_config", 1, "Configuration of CUDA graphs",
               RANKBUS_CUDA_GRAPH_CONFIG_ROWS)
RANKBUS_RECORD(IterationDetails, "iteration_details", 4, "One engine iteration, for the log",
               RANKBUS_ITERATION_DETAILS_ROWS)
RANKBUS_RECORD(LoraState, "lora_state", 1, "The LoRA adapters in use", RANKBUS_LORA_STATE_ROWS)
RANKBUS_RECORD(CacheConfig, "cache_config", 1, "Configuration of the KV cache",
               RANKBUS_CACHE_CONFIG_ROWS)
RANKBUS_RECORD(StepPhases, "step_phases", 4, "Where the time of one engine step went",
               RANKBUS_STEP_PHASES_ROWS)
RANKBUS_RECORD(RequestKvEviction, "request_kv_eviction", 1,
               "KV cache blocks taken from one request", RANKBUS_REQUEST_KV_EVICTION_ROWS)
RANKBUS_RECORD(LoraRequests, "lora_requests", 1, "The requests of one LoRA adapter",
               RANKBUS_LORA_REQUESTS_ROWS)
RANKBUS_RECORD(KvBlockOperations, "kv_block_operations", 16,
               "One operation on any number of KV cache blocks", RANKBUS_KV_BLOCK_OPERATIONS_ROWS)
RANKBUS_RECORD(CacheLookup, "cache_lookup", 8, "Lookups in one level of the caches",
               RANKBUS_CACHE_LOOKUP_ROWS)
RANKBUS_RECORD(CacheStorage, "cache_storage", 4, "What one level of the caches was given",
               RANKBUS_CACHE_STORAGE_ROWS)
RANKBUS_RECORD(CacheEviction, "cache_eviction", 4, "One eviction from one level of the caches",
               RANKBUS_CACHE_EVICTION_ROWS)

// Streams named `connector:NAME` or `connector:NAME:PART` are what the connector NAME reports.
RANKBUS_RECORD(NixlTransfer, "connector:nixl", 8, "One KV cache transfer by NIXL",
               RANKBUS_NIXL_ROWS)
RANKBUS_RECORD(MoriioTransfer, "connector:moriio", 8, "One KV cache transfer by MoRI-IO",
               RANKBUS_MORIIO_ROWS)
RANKBUS_RECORD(MooncakeTransfer, "connector:mooncake", 8, "One KV cache transfer by Mooncake",
               RANKBUS_MOONCAKE_ROWS)
RANKBUS_RECORD(MooncakeStoreOperation, "connector:mooncake_store", 8,
               "One operation on the Mooncake store", RANKBUS_MOONCAKE_STORE_ROWS)
RANKBUS_RECORD(Offloading, "connector:offloading", 8, "KV cache offloading since the last report",
               RANKBUS_OFFLOADING_ROWS)
RANKBUS_RECORD(OffloadingCpu, "connector:offloading:cpu", 4, "The CPU cache of KV cache offloading",
               RANKBUS_OFFLOADING_CPU_ROWS)
RANKBUS_RECORD(OffloadingSkipped, "connector:offloading:skipped", 1,
               "Stores that KV cache offloading skipped", RANKBUS_OFFLOADING_SKIPPED_ROWS)
RANKBUS_RECORD(OffloadingLookup, "connector:offloading:lookup", 4,
               "Lookups and failed allocations of KV cache offloading",
               RANKBUS_OFFLOADING_LOOKUP_ROWS)
RANKBUS_RECORD(OffloadingConfig, "connector:offloading:config", 1,
               "Configuration of KV cache offloading", RANKBUS_OFFLOADING_CONFIG_ROWS)
RANKBUS_RECORD(HiSparse, "connector:hisparse", 4, "The sparse-attention hot buffer",
               RANKBUS_HISPARSE_ROWS)

inline constexpr std::uint32_t kBuiltInTypes = 34;

// All built-in record types: those of roles first, then those of features.
inline void list_built_in_types(const bus::RecordType* (&out)[kBuiltInTypes]) noexcept {
  const bus::RecordType* const all[] = {
      record_type<SchedulerStep>(),     record_type<IterationStats>(),
      record_type<FinishedRequest>(),   record_type<MultimodalCache>(),
      record_type<SleepState>(),        record_type<WorkerStep>(),
      record_type<Collective>(),        record_type<CorruptedRequests>(),
      record_type<KvBlockEviction>(),   record_type<SpecDecoding>(),
      record_type<DiffusionDecoding>(), record_type<PerfStats>(),
      record_type<CudaGraph>(),         record_type<CudaGraphConfig>(),
      record_type<IterationDetails>(),  record_type<LoraState>(),
      record_type<CacheConfig>(),       record_type<StepPhases>(),
      record_type<RequestKvEviction>(), record_type<LoraRequests>(),
      record_type<KvBlockOperations>(), record_type<CacheLookup>(),
      record_type<CacheStorage>(),      record_type<CacheEviction>(),
      record_type<NixlTransfer>(),      record_type<MoriioTransfer>(),
      record_type<MooncakeTransfer>(),  record_type<MooncakeStoreOperation>(),
      record_type<Offloading>(),        record_type<OffloadingCpu>(),
      record_type<OffloadingSkipped>(), record_type<OffloadingLookup>(),
      record_type<OffloadingConfig>(),  record_type<HiSparse>()};
  static_assert(sizeof all / sizeof all[0] == kBuiltInTypes, "a type is missing from the list");
  for (std::uint32_t i = 0; i < kBuiltInTypes; ++i) out[i] = all[i];
}

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
inline void derive(CudaGraph& record) noexcept {
  record.replays = record.captured != 0 ? 0 : 1;
  record.captures = record.captured != 0 ? 1 : 0;
  record.replayed_tokens = record.captured != 0 ? 0 : record.num_unpadded_tokens;
  record.num_paddings =
      record.captured != 0 || record.num_padded_tokens < record.num_unpadded_tokens
          ? 0
          : record.num_padded_tokens - record.num_unpadded_tokens;
}
inline void derive(StepPhases& record) noexcept {
  record.steps = 1;
}
inline void derive(RequestKvEviction& record) noexcept {
  record.evictions = 1;
}
inline void derive(KvBlockOperations& record) noexcept {
  record.num_evicted = record.operation == KvBlockOperation::evict ? record.num_blocks : 0;
}
inline void derive(CacheEviction& record) noexcept {
  record.evictions = 1;
}
inline void derive(MooncakeStoreOperation& record) noexcept {
  record.operations = 1;
}

// A record with a duration is a transfer that succeeded.
template <class Transfer>
void derive_rank_transfer(Transfer& record, std::uint32_t failures) noexcept {
  const bool succeeded = bus::bits_of(record.transfer_duration_seconds) != bus::kAbsentBits;
  record.rank_transfers = succeeded ? 1 : 0;
  record.rank_bytes = succeeded ? record.bytes_transferred : 0;
  record.rank_seconds = succeeded ? record.transfer_duration_seconds : 0;
  record.rank_failures = failures;
}
inline void derive(NixlTransfer& record) noexcept {
  derive_rank_transfer(record, record.num_failed_transfers + record.num_failed_notifications);
}
inline void derive(MoriioTransfer& record) noexcept {
  derive_rank_transfer(record, record.num_failed_transfers + record.num_failed_notifications);
}
inline void derive(MooncakeTransfer& record) noexcept {
  derive_rank_transfer(record, record.num_failed_transfers + record.num_failed_recvs);
}

// The record of an engine that wakes (not asleep) or sleeps at a level; vLLM knows 1 and 2.
inline SleepState sleep_state(bool asleep, int level) noexcept {
  SleepState state;
  state.awake = asleep ? 0 : 1;
  state.weights_offloaded = asleep && level == 1 ? 1 : 0;
  state.discard_all = asleep && level == 2 ? 1 : 0;
  return state;
}

}  // namespace rankbus
