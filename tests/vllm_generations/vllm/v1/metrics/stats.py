"""The statistics objects, as wide as the generation knows them."""

from vllm.generation import record_class, since, until
from vllm.v1.engine import FinishReason

BaseCacheStats = {"reset": False, "requests": 0, "queries": 0, "hits": 0}
PrefixCacheStats = record_class(
    "PrefixCacheStats",
    **BaseCacheStats,
    **since("0.11", preempted_requests=0, preempted_queries=0, preempted_hits=0),
)
MultiModalCacheStats = record_class("MultiModalCacheStats", **BaseCacheStats)
SpecDecodingStats = record_class(
    "SpecDecodingStats",
    num_spec_tokens=0,
    num_drafts=0,
    num_draft_tokens=0,
    num_accepted_tokens=0,
    num_accepted_tokens_per_pos=[],
    **since("current", num_draft_tokens_per_pos=[]),
)
KVCacheEvictionEvent = record_class(
    "KVCacheEvictionEvent", lifetime_seconds=0.0, idle_seconds=0.0, reuse_gaps_seconds=()
)
CUDAGraphStat = record_class(
    "CUDAGraphStat", num_unpadded_tokens=0, num_padded_tokens=0, num_paddings=0, runtime_mode="NONE"
)
PerfStats = record_class(
    "PerfStats", num_flops_per_gpu=0, num_read_bytes_per_gpu=0, num_write_bytes_per_gpu=0, debug_stats=None
)
SchedulerIterationDetails = record_class(
    "SchedulerIterationDetails",
    iteration_index=0,
    num_ctx_requests=0,
    num_ctx_tokens=0,
    num_generation_requests=0,
    num_generation_tokens=0,
    elapsed_ms=0.0,
    num_encoder_inputs=0,
    num_encoder_output_tokens=0,
    is_dummy=False,
)
SchedulerStats = record_class(
    "SchedulerStats",
    num_running_reqs=0,
    num_waiting_reqs=0,
    **since("current", num_skipped_waiting_reqs=0),
    **since("0.11", step_counter=0, current_wave=0),
    **until("0.8", gpu_cache_usage=0.0),
    **since("0.11", kv_cache_usage=0.0),
    **since("branches", num_recomputed_tokens=0),
    **since("current", iteration_details=None),
    prefix_cache_stats=PrefixCacheStats,
    **since("0.15", connector_prefix_cache_stats=None, kv_cache_eviction_events=[]),
    spec_decoding_stats=None,
    **since("0.11", kv_connector_stats=None),
    **since("0.15", waiting_lora_adapters={}, running_lora_adapters={}, cudagraph_stats=None),
    **since("current", perf_stats=None),
)
PromptTokenStats = record_class(
    "PromptTokenStats",
    computed=0,
    local_cache_hit=0,
    external_kv_transfer=0,
    cached_tokens=0,
    **(until("0.15", recomputed_tokens=0)),
    total=0,
)
FinishedRequestStats = record_class(
    "FinishedRequestStats",
    finish_reason=FinishReason.STOP,
    **since("0.15", request_id="", is_corrupted=False, num_cached_tokens=0),
    e2e_latency=0.0,
    num_prompt_tokens=0,
    num_generation_tokens=0,
    max_tokens_param=None,
    queued_time=0.0,
    prefill_time=0.0,
    inference_time=0.0,
    decode_time=0.0,
    **since("0.11", mean_time_per_output_token=0.0),
    **since("current", num_preemptions=0),
    **since("branches", num_cache_creation_tokens=0),
)
_IterationFields = record_class(
    "_IterationFields",
    iteration_timestamp=0.0,
    num_generation_tokens=0,
    **until("0.11", num_prompt_tokens=0),
    **since("0.15", prompt_token_stats=PromptTokenStats),
    num_preempted_reqs=0,
    finished_requests=[],
    max_num_generation_tokens_iter=[],
    n_params_iter=[],
    time_to_first_tokens_iter=[],
    **until("0.8", time_per_output_tokens_iter=[]),
    **since("0.11", inter_token_latencies_iter=[]),
    **until("0.11", waiting_lora_adapters={}, running_lora_adapters={}),
    **since("0.15", num_corrupted_reqs=0),
    **since("branches", timing_guards=[]),
)


class IterationStats:
    """No dataclass in vLLM either."""

    def __init__(self, **given):
        vars(self).update(vars(_IterationFields(**given)))
