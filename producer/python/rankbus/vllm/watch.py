"""What the plug-ins did not expect: fields that vLLM has and we do not know, and errors in odd objects.

Both are counted, and said in vLLM's log the first time only: a message a step would cost more than what it says.
"""

import collections
import dataclasses
import logging
from multiprocessing.util import Finalize

# A child of vLLM's logger, so that its handlers and levels apply.
log = logging.getLogger("vllm.rankbus")

# Every field of vLLM's statistics that is mapped, or left out on purpose.
KNOWN_FIELDS = {
    "SchedulerStats": """num_running_reqs num_waiting_reqs num_skipped_waiting_reqs step_counter current_wave
        kv_cache_usage gpu_cache_usage iteration_details prefix_cache_stats connector_prefix_cache_stats
        kv_cache_eviction_events spec_decoding_stats kv_connector_stats waiting_lora_adapters running_lora_adapters
        cudagraph_stats perf_stats num_corrupted_reqs""",
    "PrefixCacheStats": "reset requests queries hits preempted_requests preempted_queries preempted_hits",
    "MultiModalCacheStats": "reset requests queries hits",
    "IterationStats": """iteration_timestamp num_generation_tokens num_prompt_tokens prompt_token_stats
        num_preempted_reqs finished_requests max_num_generation_tokens_iter n_params_iter time_to_first_tokens_iter
        inter_token_latencies_iter time_per_output_tokens_iter num_corrupted_reqs waiting_lora_adapters
        running_lora_adapters""",
    "PromptTokenStats": "computed local_cache_hit external_kv_transfer cached_tokens total recomputed_tokens",
    "FinishedRequestStats": """finish_reason request_id e2e_latency num_prompt_tokens num_generation_tokens
        max_tokens_param queued_time prefill_time inference_time decode_time mean_time_per_output_token is_corrupted
        num_cached_tokens num_preemptions""",
    "SpecDecodingStats": """num_spec_tokens num_drafts num_draft_tokens num_accepted_tokens
        num_accepted_tokens_per_pos num_draft_tokens_per_pos""",
    "KVCacheEvictionEvent": "lifetime_seconds idle_seconds reuse_gaps_seconds",
    "CUDAGraphStat": "num_unpadded_tokens num_padded_tokens num_paddings runtime_mode",
    "PerfStats": "num_flops_per_gpu num_read_bytes_per_gpu num_write_bytes_per_gpu debug_stats",
    "SchedulerIterationDetails": """iteration_index num_ctx_requests num_ctx_tokens num_generation_requests
        num_generation_tokens elapsed_ms num_encoder_inputs num_encoder_output_tokens is_dummy""",
}
KNOWN_FIELDS = {kind: frozenset(names.split()) for kind, names in KNOWN_FIELDS.items()}

_unknown = collections.Counter()
_errors = collections.Counter()
_said = set()
_by_class = {}  # Class: its unknown fields as counted names. Looked up once a record.


def field_names(thing):
    """The fields of one of vLLM's objects, whatever kind of class it is."""
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing)]
    names = getattr(thing, "__struct_fields__", None)
    return list(names) if names is not None else [name for name in getattr(thing, "__dict__", ()) if name[0] != "_"]


def look_at(kind, thing):
    """Counts the fields of `thing`, one of vLLM's `kind`, that we do not know."""
    unknown = _by_class.get(type(thing))
    if unknown is None:
        known = KNOWN_FIELDS[kind]
        unknown = tuple(f"{kind}.{name}" for name in field_names(thing) if name not in known)
        _by_class[type(thing)] = unknown
    for name in unknown:
        count_unknown(name)


def count_unknown(name):
    _unknown[name] += 1
    say_once(("unknown", name), "rankbus does not know %s of this vLLM, and only counts it", name)


def count_error(where, error):
    """Keeps an exception out of vLLM. `where` names the record that was lost."""
    _errors[f"{where}: {type(error).__name__}"] += 1
    say_once(("error", where, type(error)), "rankbus could not record %s: %r; said once, then counted", where, error)


def say_once(key, message, *arguments, level=logging.WARNING):
    if key not in _said:
        _said.add(key)
        log.log(level, message, *arguments)


def at_end(owner, act):
    """Calls act() when the owner is gone, or this process ends in order; multiprocessing's children run no atexit."""
    Finalize(owner, act, exitpriority=10)


def unknown_fields():
    """{name: how often seen} of what this process was given and did not know."""
    return dict(_unknown)


def errors():
    """{record and error: how often} of what was lost to objects that are not as expected."""
    return dict(_errors)
