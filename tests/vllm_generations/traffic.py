"""Statistics as an engine of the present generation of the stand-in would report them, from a seed.

Numbers are drawn to meet every bucket's edge now and then, and every optional part comes and goes.
"""

import random

from vllm.generation import AGE, GENERATIONS
from vllm.v1.engine import FinishReason
from vllm.v1.metrics import stats as v

TOKENS = (0, 1, 2, 5, 10, 100, 777, 1000, 4096, 5000)
SECONDS = (0.0, 1e-4, 0.001, 0.005, 0.01, 0.025, 0.3, 1.0, 2.5, 7.31, 80.0, 2560.0, 9999.0)
ADAPTERS = ("sql", "poems", "legal")


def is_since(generation):
    return AGE >= GENERATIONS.index(generation)


class Traffic:
    """One engine's steps. `connector` makes payloads, if there is one: connector(random)."""

    def __init__(self, seed, connector=None, spec_tokens=0, features=()):
        self.random = random.Random(seed)
        self.connector = connector
        self.spec_tokens = spec_tokens
        self.features = features
        self.requests = 0

    def scheduler(self):
        r = self.random
        stats = v.SchedulerStats(num_running_reqs=r.randrange(200), num_waiting_reqs=r.randrange(50))
        setattr(stats, "kv_cache_usage" if is_since("0.11") else "gpu_cache_usage", r.random())
        stats.prefix_cache_stats = self.cache()
        if is_since("0.11"):
            stats.step_counter = r.randrange(1000)
        if is_since("0.15"):
            stats.connector_prefix_cache_stats = self.cache() if r.random() < 0.5 else None
            for _ in range(r.choice((0, 0, 1, 3)) if "evictions" in self.features else 0):
                gaps = tuple(self.seconds() for _ in range(r.randrange(4)))
                stats.kv_cache_eviction_events.append(v.KVCacheEvictionEvent(self.seconds(), self.seconds(), gaps))
            if "graphs" in self.features and r.random() < 0.5:
                stats.cudagraph_stats = v.CUDAGraphStat(7, 8, 1, r.choice(("FULL", "PIECEWISE", "NONE")))
            if "lora" in self.features:
                stats.running_lora_adapters = {name: 1 for name in ADAPTERS if r.random() < 0.5}
                stats.waiting_lora_adapters = dict.fromkeys(stats.running_lora_adapters, 0)
        if is_since("current"):
            stats.num_skipped_waiting_reqs = r.randrange(9)
            if "mfu" in self.features and r.random() < 0.7:
                stats.perf_stats = v.PerfStats(*(r.choice((0, 10**12, 3)) for _ in range(3)))
            if "details" in self.features and r.random() < 0.5:
                stats.iteration_details = v.SchedulerIterationDetails(r.randrange(99), 1, 512, 3, 3, 12.35, 2, 1152)
        if self.spec_tokens and r.random() < 0.8:
            stats.spec_decoding_stats = self.spec()
        if self.connector is not None and r.random() < 0.8:
            stats.kv_connector_stats = self.connector(r)
        return stats

    def cache(self):
        queries = self.random.choice(TOKENS)
        return v.PrefixCacheStats(
            reset=self.random.random() < 0.1,
            requests=self.random.randrange(4),
            queries=queries,
            hits=self.random.randint(0, queries),
        )

    def spec(self):
        n = self.spec_tokens
        accepted = [self.random.randrange(9) for _ in range(n)]
        stats = v.SpecDecodingStats(n, 9, 9 * n, sum(accepted), accepted)
        if is_since("current"):
            stats.num_draft_tokens_per_pos = [9] * n
        return stats

    def multimodal(self):
        return v.MultiModalCacheStats(requests=1, queries=self.random.randrange(9), hits=self.random.randrange(3))

    def iteration(self):
        r = self.random
        stats = v.IterationStats(num_generation_tokens=r.choice(TOKENS), num_preempted_reqs=r.randrange(3))
        computed, local, external = (r.choice(TOKENS) for _ in range(3))
        if is_since("0.15"):
            stats.prompt_token_stats = v.PromptTokenStats(
                computed=computed,
                local_cache_hit=local,
                external_kv_transfer=external,
                cached_tokens=local + external,
                total=computed + local + external,
            )
            stats.num_corrupted_reqs = r.randrange(2)
        else:
            stats.num_prompt_tokens = computed
        if GENERATIONS[AGE] == "0.15" and local > 0:
            stats.prompt_token_stats.recomputed_tokens = 1  # Counted as a hit, and not as cached.
            stats.prompt_token_stats.cached_tokens -= 1
            stats.prompt_token_stats.total -= 1
        stats.time_to_first_tokens_iter = [self.seconds() for _ in range(r.choice((0, 1, 40)))]
        latencies = [self.seconds() for _ in range(r.choice((0, 1, 200)))]
        setattr(stats, "inter_token_latencies_iter" if is_since("0.11") else "time_per_output_tokens_iter", latencies)
        stats.max_num_generation_tokens_iter = [r.choice(TOKENS) for _ in range(r.randrange(12))]
        stats.n_params_iter = [r.choice((1, 2, 5, 20, 21)) for _ in range(r.randrange(3))]
        stats.finished_requests = [self.finished() for _ in range(r.randrange(4))]
        return stats

    def finished(self):
        r = self.random
        self.requests += 1
        request = v.FinishedRequestStats(
            finish_reason=r.choice(list(FinishReason)),
            e2e_latency=self.seconds(),
            num_prompt_tokens=r.choice(TOKENS),
            num_generation_tokens=r.choice(TOKENS),
            max_tokens_param=r.choice((None, 0, 16, 4096)),
            queued_time=self.seconds(),
            # Stamps that were never set make vLLM's own times negative.
            prefill_time=r.choice((self.seconds(), -12345.5)),
            inference_time=self.seconds(),
            decode_time=self.seconds(),
        )
        if is_since("0.11"):
            request.mean_time_per_output_token = self.seconds()
        if is_since("0.15"):
            request.request_id = f"chatcmpl-{self.requests}-of-a-client"
            request.num_cached_tokens = r.choice((-1, 0, request.num_prompt_tokens))
        if is_since("current"):
            request.num_preemptions = r.choice((0, 0, 1, 7, 25))
        return request

    def seconds(self):
        return self.random.choice(SECONDS) if self.random.random() < 0.5 else self.random.expovariate(2)
