"""vLLM's statistics objects as records: the one place that says which of vLLM's fields feeds which of ours.

One `EngineRecords` per engine and process holds the handles of its producer. Its methods take vLLM's objects of any
release since 0.8: fields that a release lacks are left out, those that it has under an older name are taken from there.
Numbers are passed as they come; what follows from them (sums, hits, waiting in total) is filled in by the record type.
"""

import hashlib
import os
import time

from rankbus.vllm.connectors import ConnectorRecords
from rankbus.vllm.watch import count_error, count_unknown, look_at

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")  # In the order of vLLM's FinishReason.
# Attributes of SchedulerStats that come only with a feature, and the record type that they need.
OF_FEATURES = {
    "spec_decoding_stats": ("spec_decoding", "diffusion_decoding"),
    "perf_stats": ("perf_stats",),
    "cudagraph_stats": ("cuda_graph",),
    "iteration_details": ("iteration_details",),
    "kv_cache_eviction_events": ("kv_block_eviction",),
}
# Clients choose request ids: the bus gets a hash under a key that never leaves the process and its children.
_request_key = os.urandom(16)


def hash_request_id(request_id):
    """64 bits of a keyed hash; 0 for no id."""
    if not request_id:
        return 0
    text = str(request_id).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=_request_key).digest(), "little")


def reason_text(reason):
    """vLLM's word for a finish reason: an enumeration, its number, or already a word. None for one it has not."""
    if isinstance(reason, int) and not isinstance(reason, bool) and 0 <= reason < len(FINISHED_REASONS):
        return FINISHED_REASONS[reason]
    text = str(getattr(reason, "name", reason)).lower()
    return text if text in FINISHED_REASONS else None


def mode_text(mode):
    """A CUDA graph mode without the name of its enumeration."""
    return str(mode).rpartition(".")[2]


class EngineRecords:
    """Turns what vLLM says of one engine into records. No method of the public ones raises."""

    def __init__(self, producer, features):
        self._features = features
        self._declared = frozenset(features.record_types)
        self._reasons = {}  # Finish reason: word. Looked up once a request.
        self._lora = None  # The combination written last, and when.
        self._lora_at = 0.0
        self._busy_since = None  # When the step before was recorded, if it left requests running.
        self.bind(producer)

    def bind(self, producer):
        """Takes the handles of a producer, at the beginning and after it was opened again."""
        handle = producer.handle
        own = ("iteration_stats", "finished_request", "multimodal_cache", "sleep_state")
        self._write = {name: handle(name) for name in (*own, *self._features.record_types)}
        self._connectors = ConnectorRecords(self._write, self._features.connectors)
        self._scheduler_parts = [self._scheduler_step]
        for name, part in (
            ("spec_decoding", self._spec_decoding),
            ("diffusion_decoding", self._diffusion_decoding),
            ("kv_block_eviction", self._kv_block_evictions),
            ("cuda_graph", self._cuda_graph),
            ("perf_stats", self._perf_stats),
            ("iteration_details", self._iteration_details),
            ("lora_state", self._lora_state),
        ):
            if name in self._declared:
                self._scheduler_parts.append(part)
        self._scheduler_parts.append(self._kv_connector)
        self._undeclared = [
            attribute for attribute, types in OF_FEATURES.items() if not self._declared.intersection(types)
        ]

    # What vLLM calls for.

    def scheduler(self, stats):
        for part in self._scheduler_parts:
            try:
                part(stats)
            except Exception as error:  # An odd object costs its own part and no other.
                count_error(part.__name__.lstrip("_"), error)
        for attribute in self._undeclared:
            if getattr(stats, attribute, None):
                count_unknown(f"SchedulerStats.{attribute} without its option")

    def iteration(self, stats):
        try:
            self._iteration(stats)
        except Exception as error:
            count_error("iteration_stats", error)
        if "lora_state" in self._declared and getattr(stats, "running_lora_adapters", None) is not None:
            try:
                self._lora_state(stats)  # Where releases before 0.12 keep the adapters.
            except Exception as error:
                count_error("lora_state", error)
        for request in getattr(stats, "finished_requests", None) or ():
            try:
                self._finished_request(request)
            except Exception as error:
                count_error("finished_request", error)

    def multimodal_cache(self, stats):
        try:
            look_at("MultiModalCacheStats", stats)
            self._write["multimodal_cache"](
                queries=stats.queries,
                hits=stats.hits,
                requests=getattr(stats, "requests", None),
                reset=1 if getattr(stats, "reset", False) else 0,
            )
        except Exception as error:
            count_error("multimodal_cache", error)

    def sleep_state(self, sleeping, level):
        asleep = int(sleeping) == 1
        self._write["sleep_state"](
            awake=0 if asleep else 1,
            weights_offloaded=1 if asleep and level == 1 else 0,
            discard_all=1 if asleep and level == 2 else 0,
        )

    def cache_config(self, texts):
        self._write["cache_config"](config=texts)

    def cuda_graph_config(self, texts):
        if "cuda_graph_config" in self._declared:
            self._write["cuda_graph_config"](config=texts)

    # The parts of SchedulerStats.

    def _scheduler_step(self, stats):
        look_at("SchedulerStats", stats)
        running = getattr(stats, "num_running_reqs", 0)
        usage = getattr(stats, "kv_cache_usage", None)
        details = getattr(stats, "iteration_details", None)
        prefix = cache_counts(getattr(stats, "prefix_cache_stats", None))
        external = cache_counts(getattr(stats, "connector_prefix_cache_stats", None))
        self._write["scheduler_step"](
            step=getattr(stats, "step_counter", 0) if details is None else details.iteration_index,
            num_running_reqs=running,
            num_waiting_reqs=getattr(stats, "num_waiting_reqs", 0),
            num_skipped_waiting_reqs=getattr(stats, "num_skipped_waiting_reqs", 0),
            kv_cache_usage=getattr(stats, "gpu_cache_usage", 0.0) if usage is None else usage,
            prefix_cache_queries=prefix[0],
            prefix_cache_hits=prefix[1],
            prefix_cache_requests=prefix[2],
            prefix_cache_reset=prefix[3],
            external_prefix_cache_queries=external[0],
            external_prefix_cache_hits=external[1],
            external_prefix_cache_requests=external[2],
            external_prefix_cache_reset=external[3],
            step_interval_ns=self._step_interval_ns(running),
        )

    def _step_interval_ns(self, running):
        """Time since the step before; None if that left nothing to run, or other front ends may have had it."""
        if self._features.front_ends > 1:
            return None
        now_ns = time.monotonic_ns()
        interval = None if self._busy_since is None else now_ns - self._busy_since
        self._busy_since = now_ns if running else None
        return interval

    def _spec_decoding(self, stats):
        spec = getattr(stats, "spec_decoding_stats", None)
        if spec is not None:
            look_at("SpecDecodingStats", spec)
            self._write["spec_decoding"](
                num_drafts=spec.num_drafts,
                num_draft_tokens=spec.num_draft_tokens,
                num_accepted_tokens=spec.num_accepted_tokens,
                num_accepted_tokens_per_pos=getattr(spec, "num_accepted_tokens_per_pos", None),
                num_draft_tokens_per_pos=getattr(spec, "num_draft_tokens_per_pos", None),
            )

    def _diffusion_decoding(self, stats):
        spec = getattr(stats, "spec_decoding_stats", None)
        if spec is not None:
            look_at("SpecDecodingStats", spec)
            self._write["diffusion_decoding"](
                num_denoising_steps=spec.num_drafts,
                num_canvas_positions=spec.num_draft_tokens,
                num_committed_tokens=spec.num_accepted_tokens,
            )

    def _kv_block_evictions(self, stats):
        for event in getattr(stats, "kv_cache_eviction_events", None) or ():
            look_at("KVCacheEvictionEvent", event)
            self._write["kv_block_eviction"](
                lifetime_seconds=event.lifetime_seconds,
                idle_seconds=event.idle_seconds,
                reuse_gap_seconds=list(event.reuse_gaps_seconds),
            )

    def _cuda_graph(self, stats):
        graph = getattr(stats, "cudagraph_stats", None)
        if graph is not None:
            look_at("CUDAGraphStat", graph)
            self._write["cuda_graph"](
                num_unpadded_tokens=graph.num_unpadded_tokens,
                num_padded_tokens=graph.num_padded_tokens,
                runtime_mode=mode_text(graph.runtime_mode),
            )

    def _perf_stats(self, stats):
        perf = getattr(stats, "perf_stats", None)
        if perf is not None:
            look_at("PerfStats", perf)
            counts = {
                name: getattr(perf, name, 0)
                for name in ("num_flops_per_gpu", "num_read_bytes_per_gpu", "num_write_bytes_per_gpu")
            }
            if any(counts.values()):
                self._write["perf_stats"](**counts)

    def _iteration_details(self, stats):
        details = getattr(stats, "iteration_details", None)
        if details is not None:
            look_at("SchedulerIterationDetails", details)
            self._write["iteration_details"](
                iteration_index=details.iteration_index,
                num_ctx_requests=details.num_ctx_requests,
                num_ctx_tokens=details.num_ctx_tokens,
                num_generation_requests=details.num_generation_requests,
                num_generation_tokens=details.num_generation_tokens,
                num_encoder_inputs=getattr(details, "num_encoder_inputs", 0),
                num_encoder_output_tokens=getattr(details, "num_encoder_output_tokens", 0),
                elapsed_ms=details.elapsed_ms,
                kv_cache_usage=getattr(stats, "kv_cache_usage", 0.0),
                is_dummy=1 if getattr(details, "is_dummy", False) else 0,
            )

    def _lora_state(self, stats):
        running = getattr(stats, "running_lora_adapters", None)
        waiting = getattr(stats, "waiting_lora_adapters", None)
        if running is None and waiting is None:
            return
        combination = (",".join(running or ()), ",".join(waiting or ()))
        now = time.monotonic()
        # An info record is a text of up to half a kilobyte: said when it changes, and once a second that it lasts.
        if combination == self._lora and now - self._lora_at < 1.0:
            return
        self._lora, self._lora_at = combination, now
        self._write["lora_state"](
            adapters={
                "max_lora": str(self._features.max_loras),
                "running_lora_adapters": combination[0],
                "waiting_lora_adapters": combination[1],
            }
        )

    def _kv_connector(self, stats):
        payload = getattr(stats, "kv_connector_stats", None)
        if payload:
            self._connectors.record(payload)

    # The parts of IterationStats.

    def _iteration(self, stats):
        look_at("IterationStats", stats)
        latencies = getattr(stats, "inter_token_latencies_iter", None)
        if latencies is None:
            latencies = getattr(stats, "time_per_output_tokens_iter", None)
        self._write["iteration_stats"](
            **prompt_tokens(stats),
            num_preempted_reqs=getattr(stats, "num_preempted_reqs", 0),
            num_generation_tokens=getattr(stats, "num_generation_tokens", 0),
            time_to_first_token_seconds=getattr(stats, "time_to_first_tokens_iter", None),
            inter_token_latency_seconds=latencies,
            max_num_generation_tokens=getattr(stats, "max_num_generation_tokens_iter", None),
            n_params=getattr(stats, "n_params_iter", None),
        )
        if "corrupted_requests" in self._declared:
            corrupted = getattr(stats, "num_corrupted_reqs", 0)
            if corrupted:
                self._write["corrupted_requests"](num_corrupted_reqs=corrupted)

    def _finished_request(self, request):
        look_at("FinishedRequestStats", request)
        reason = request.finish_reason
        word = self._reasons.get(reason)
        if word is None:
            word = reason_text(reason)
            if word is None:
                count_unknown(f"FinishReason {reason}")
            else:
                self._reasons[reason] = word
        get = getattr
        self._write["finished_request"](
            request_id_hash=hash_request_id(get(request, "request_id", None)),
            finished_reason=word,
            num_prompt_tokens=get(request, "num_prompt_tokens", 0),
            num_generation_tokens=get(request, "num_generation_tokens", 0),
            num_cached_tokens=get(request, "num_cached_tokens", -1),
            max_tokens_param=get(request, "max_tokens_param", None),
            num_preemptions=get(request, "num_preemptions", 0),
            e2e_latency_seconds=get(request, "e2e_latency", None),
            queued_time_seconds=get(request, "queued_time", None),
            prefill_time_seconds=get(request, "prefill_time", None),
            inference_time_seconds=get(request, "inference_time", None),
            decode_time_seconds=get(request, "decode_time", None),
            mean_time_per_output_token_seconds=get(request, "mean_time_per_output_token", None),
        )


def cache_counts(cache):
    """(queries, hits, requests, reset) of one of vLLM's cache statistics; nothing of none."""
    if cache is None:
        return None, None, None, None
    look_at("PrefixCacheStats", cache)
    return cache.queries, cache.hits, getattr(cache, "requests", 0), 1 if getattr(cache, "reset", False) else 0


def prompt_tokens(stats):
    """Prompt tokens by their source. Releases before the breakdown count all of them as computed."""
    sources = getattr(stats, "prompt_token_stats", None)
    if sources is None:
        return {"prompt_computed_tokens": getattr(stats, "num_prompt_tokens", 0)}
    look_at("PromptTokenStats", sources)
    local, external = sources.local_cache_hit, sources.external_kv_transfer
    # For a while the last token of a wholly cached prompt counted twice, as hit and as recomputed. Totals go first.
    local -= getattr(sources, "recomputed_tokens", 0)
    return {
        "prompt_computed_tokens": sources.computed,
        "prompt_local_cache_hit_tokens": local,
        "prompt_external_kv_transfer_tokens": external,
    }
