"""What vLLM's own Prometheus logger would show for given record() calls: a second opinion, from the description of its
metrics alone. It shares no line with the plug-ins or with the record types, and it reads vLLM's objects itself.
"""

import bisect

from prometheus_client.utils import floatToGoString

REASONS = ("stop", "length", "abort", "error", "repetition")
TTFT = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
        160.0, 640.0, 2560.0]  # fmt: skip
ITL = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0]
REQ = [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
       1920.0, 7680.0]  # fmt: skip
ITER = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
RES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800]
NX = [0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 5]
NB = [2.0**e for e in range(11, 34, 2)]
ND = [10, 20, 30, 50, 75, 100, 200, 400, 1000, 2000, 4000, 10000, 20000, 50000]
OFF = [1e6, 5e6, 1e7, 2e7, 4e7, 6e7, 8e7, 1e8, 1.5e8, 2e8]
CHUNKS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144]
SYNC = [1e-5, 5e-5, 1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1]
ASYNC = [1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]
STORE = [0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 4]


def lengths(max_model_len):
    bounds, exponent = [], 0
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * 10**exponent > max_model_len:
                return bounds
            bounds.append(mantissa * 10**exponent)
        exponent += 1


def first(thing, *names, default=0):
    return next((getattr(thing, name) for name in names if getattr(thing, name, None) is not None), default)


class Expected:
    """{(name, labels beside model_name and engine): value} of one engine. `features` are the words used below."""

    def __init__(self, max_model_len, spec_tokens=0, features=()):
        self.counters, self.gauges, self.histograms = {}, {}, {}
        self.features = set(features)
        for name in """prefix_cache_queries prefix_cache_hits external_prefix_cache_queries external_prefix_cache_hits
                mm_cache_queries mm_cache_hits num_preemptions prompt_tokens prompt_tokens_cached
                generation_tokens""".split():
            self.count(name, 0)
        for source in ("local_compute", "local_cache_hit", "external_kv_transfer"):
            self.count("prompt_tokens_by_source", 0, source=source)
        for reason in REASONS:
            self.count("request_success", 0, finished_reason=reason)
        self.lengths = lengths(max_model_len)
        for name in """request_prompt_tokens request_generation_tokens request_max_num_generation_tokens
                request_params_max_tokens request_prefill_kv_computed_tokens""".split():
            self.histogram(name, self.lengths)
        self.histogram("iteration_tokens_total", ITER)
        self.histogram("request_params_n", [1, 2, 5, 10, 20])
        self.histogram("request_num_preemptions", [1, 2, 3, 4, 5, 10, 20])
        self.histogram("time_to_first_token_seconds", TTFT)
        self.histogram("inter_token_latency_seconds", ITL)
        self.histogram("request_time_per_output_token_seconds", ITL)
        for name in ("e2e_request_latency", "request_queue_time", "request_inference_time", "request_prefill_time",
                     "request_decode_time"):  # fmt: skip
            self.histogram(f"{name}_seconds", REQ)
        if "nans" in self.features:
            self.count("corrupted_requests", 0)
        if "evictions" in self.features:
            for name in ("kv_block_lifetime", "kv_block_idle_before_evict", "kv_block_reuse_gap"):
                self.histogram(f"{name}_seconds", RES)
        if "spec" in self.features:
            for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens"):
                self.count(f"spec_decode_{name}", 0)
            for position in range(spec_tokens):
                self.count("spec_decode_num_accepted_tokens_per_pos", 0, position=str(position))
        if "diffusion" in self.features:
            for name in ("num_denoising_steps", "num_canvas_positions", "num_committed_tokens"):
                self.count(f"diffusion_{name}", 0)
        if "mfu" in self.features:
            for name in ("flops", "read_bytes", "write_bytes"):
                self.count(f"estimated_{name}_per_gpu", 0)
        self.sleep(0, 0)

    # The three kinds of metric.

    def count(self, name, amount, **labels):
        key = f"vllm:{name}_total", frozenset(labels.items())
        self.counters[key] = self.counters.get(key, 0) + amount

    def gauge(self, name, value, **labels):
        self.gauges[f"vllm:{name}", frozenset(labels.items())] = value

    def histogram(self, name, bounds, **labels):
        key = f"vllm:{name}", frozenset(labels.items())
        return self.histograms.setdefault(key, {"bounds": bounds, "cells": [0] * (len(bounds) + 1), "sum": 0.0})

    def observe(self, name, value, **labels):
        histogram = self.histograms[f"vllm:{name}", frozenset(labels.items())]
        histogram["cells"][bisect.bisect_left(histogram["bounds"], value)] += 1
        # Where vLLM takes a negative duration off the sum, rankbus adds nothing: the one difference meant.
        histogram["sum"] += max(value, 0)

    # What vLLM is told.

    def sleep(self, sleeping, level):
        self.gauge("engine_sleep_state", 0 if sleeping == 1 else 1, sleep_state="awake")
        self.gauge("engine_sleep_state", int(sleeping == 1 and level == 1), sleep_state="weights_offloaded")
        self.gauge("engine_sleep_state", int(sleeping == 1 and level == 2), sleep_state="discard_all")

    def scheduler(self, stats):
        skipped = first(stats, "num_skipped_waiting_reqs")
        self.gauge("num_requests_running", stats.num_running_reqs)
        self.gauge("num_requests_waiting", stats.num_waiting_reqs + skipped)
        self.gauge("num_requests_waiting_by_reason", stats.num_waiting_reqs, reason="capacity")
        self.gauge("num_requests_waiting_by_reason", skipped, reason="deferred")
        self.gauge("kv_cache_usage_perc", first(stats, "kv_cache_usage", "gpu_cache_usage"))
        self.count("prefix_cache_queries", stats.prefix_cache_stats.queries)
        self.count("prefix_cache_hits", stats.prefix_cache_stats.hits)
        external = first(stats, "connector_prefix_cache_stats", default=None)
        if external is not None:
            self.count("external_prefix_cache_queries", external.queries)
            self.count("external_prefix_cache_hits", external.hits)
        spec = stats.spec_decoding_stats
        if spec is not None and "spec" in self.features:
            self.count("spec_decode_num_drafts", spec.num_drafts)
            self.count("spec_decode_num_draft_tokens", spec.num_draft_tokens)
            self.count("spec_decode_num_accepted_tokens", spec.num_accepted_tokens)
            for position, accepted in enumerate(spec.num_accepted_tokens_per_pos):
                self.count("spec_decode_num_accepted_tokens_per_pos", accepted, position=str(position))
        if spec is not None and "diffusion" in self.features:
            self.count("diffusion_num_denoising_steps", spec.num_drafts)
            self.count("diffusion_num_canvas_positions", spec.num_draft_tokens)
            self.count("diffusion_num_committed_tokens", spec.num_accepted_tokens)
        perf = first(stats, "perf_stats", default=None)
        if perf is not None and "mfu" in self.features:
            self.count("estimated_flops_per_gpu", perf.num_flops_per_gpu)
            self.count("estimated_read_bytes_per_gpu", perf.num_read_bytes_per_gpu)
            self.count("estimated_write_bytes_per_gpu", perf.num_write_bytes_per_gpu)
        for event in first(stats, "kv_cache_eviction_events", default=()) if "evictions" in self.features else ():
            self.observe("kv_block_lifetime_seconds", event.lifetime_seconds)
            self.observe("kv_block_idle_before_evict_seconds", event.idle_seconds)
            for gap in event.reuse_gaps_seconds:
                self.observe("kv_block_reuse_gap_seconds", gap)

    def multimodal(self, stats):
        self.count("mm_cache_queries", stats.queries)
        self.count("mm_cache_hits", stats.hits)

    def iteration(self, stats):
        if "nans" in self.features:
            self.count("corrupted_requests", first(stats, "num_corrupted_reqs"))
        self.count("num_preemptions", stats.num_preempted_reqs)
        self.count("generation_tokens", stats.num_generation_tokens)
        sources = first(stats, "prompt_token_stats", default=None)
        if sources is None:
            computed = stats.num_prompt_tokens
            self.count("prompt_tokens", computed)
            self.count("prompt_tokens_by_source", computed, source="local_compute")
        else:
            computed = sources.computed
            self.count("prompt_tokens", sources.total)
            self.count("prompt_tokens_cached", sources.cached_tokens)
            self.count("prompt_tokens_by_source", computed, source="local_compute")
            # One generation counts a recomputed token as a hit too. Ours add up to the total instead.
            local = sources.local_cache_hit - first(sources, "recomputed_tokens")
            self.count("prompt_tokens_by_source", local, source="local_cache_hit")
            self.count("prompt_tokens_by_source", sources.external_kv_transfer, source="external_kv_transfer")
        self.observe("iteration_tokens_total", computed + stats.num_generation_tokens)
        for value in stats.max_num_generation_tokens_iter:
            self.observe("request_max_num_generation_tokens", value)
        for value in stats.n_params_iter:
            self.observe("request_params_n", value)
        for value in stats.time_to_first_tokens_iter:
            self.observe("time_to_first_token_seconds", value)
        for value in first(stats, "inter_token_latencies_iter", "time_per_output_tokens_iter"):
            self.observe("inter_token_latency_seconds", value)
        for request in stats.finished_requests:
            self.finished(request)

    def finished(self, request):
        self.count("request_success", 1, finished_reason=REASONS[request.finish_reason])
        self.observe("request_prompt_tokens", request.num_prompt_tokens)
        self.observe("request_generation_tokens", request.num_generation_tokens)
        cached = max(first(request, "num_cached_tokens", default=-1), 0)
        self.observe("request_prefill_kv_computed_tokens", request.num_prompt_tokens - cached)
        if request.max_tokens_param:
            self.observe("request_params_max_tokens", request.max_tokens_param)
        self.observe("request_num_preemptions", first(request, "num_preemptions"))
        self.observe("e2e_request_latency_seconds", request.e2e_latency)
        self.observe("request_queue_time_seconds", request.queued_time)
        self.observe("request_prefill_time_seconds", request.prefill_time)
        self.observe("request_inference_time_seconds", request.inference_time)
        self.observe("request_decode_time_seconds", request.decode_time)
        if hasattr(request, "mean_time_per_output_token"):
            self.observe("request_time_per_output_token_seconds", request.mean_time_per_output_token)

    # Across processes.

    def totals(self):
        """Everything that adds up over processes, as pairs that JSON can carry: ((name, [labels]), value)."""
        flat = dict(self.counters)
        for (name, labels), histogram in self.histograms.items():
            below = 0
            for bound, cell in zip([*histogram["bounds"], float("inf")], histogram["cells"]):
                below += cell
                flat[f"{name}_bucket", labels | {("le", floatToGoString(bound))}] = below
            flat[f"{name}_count", labels] = below
            flat[f"{name}_sum", labels] = histogram["sum"]
        return as_pairs(flat)

    def present(self):
        return as_pairs(self.gauges)


def as_pairs(flat):
    return [[name, sorted(labels), value] for (name, labels), value in flat.items()]

