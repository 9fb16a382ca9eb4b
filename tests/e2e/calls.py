"""Recorded record() calls for tests: a generator of everything that vLLM's stats objects can say.

    write_calls(path, seed=1, calls=200, engines=2, features=EVERYTHING)

The same seed gives the same file. Fields and their shapes are those of vLLM's dataclasses
(vllm/v1/metrics/stats.py and the connectors' stats).
"""

import gzip
import json
import random

REASONS = ["stop", "length", "abort", "error", "repetition"]
CONNECTORS = ["nixl", "mooncake", "mooncake_store", "offloading", "hisparse"]
EVERYTHING = [
    "corrupted_requests",
    "kv_block_eviction",
    "spec_decoding",
    "perf_stats",
    "cuda_graph",
    "iteration_details",
    "lora_state",
    *(f"connector:{name}" for name in CONNECTORS),
    "connector:offloading:cpu",
    "connector:offloading:skipped",
    "connector:offloading:lookup",
    "connector:offloading:config",
]
CACHE_CONFIG = {
    "block_size": 16,
    "gpu_memory_utilization": 0.9,
    "cache_dtype": "auto",
    "num_gpu_blocks": 1234,
    "enable_prefix_caching": True,
    "sliding_window": None,
    "prefix_caching_hash_algo": 'sha"256\\',
}


class Generator:
    def __init__(self, seed, features=EVERYTHING, num_speculative_tokens=3):
        self.random = random.Random(seed)
        self.features = set(features)
        self.positions = num_speculative_tokens

    def has(self, feature):
        return feature in self.features

    def cache(self):
        queries = self.random.randrange(5000)
        return {
            "reset": self.random.random() < 0.02,
            "requests": self.random.randrange(4),
            "queries": queries,
            "hits": self.random.randrange(queries + 1),
        }

    def seconds(self, low=1e-5, high=100.0):
        return low * (high / low) ** self.random.random()

    def spec(self):
        drafts = self.random.randrange(1, 20)
        accepted = [0] * self.positions
        drafted = [drafts] * self.positions
        for _ in range(drafts):
            for position in range(self.random.randrange(self.positions + 1)):
                accepted[position] += 1
        return {
            "num_spec_tokens": self.positions,
            "num_drafts": drafts,
            "num_draft_tokens": drafts * self.positions,
            "num_accepted_tokens": sum(accepted),
            "num_accepted_tokens_per_pos": accepted,
            "num_draft_tokens_per_pos": drafted,
        }

    def transfers(self, prefix_keys):
        n = self.random.randrange(5)
        payload = {
            "transfer_duration": [self.seconds(1e-3, 8) for _ in range(n)],
            "bytes_transferred": [self.random.randrange(1, 1 << 34) for _ in range(n)],
            "num_descriptors": [self.random.randrange(1, 60000) for _ in range(n)],
        }
        for key in prefix_keys:
            payload[key] = [1] * self.random.choice([0, 0, 0, 1, 3])
        if "num_failed_notifications" in prefix_keys:
            payload["post_duration"] = [self.seconds(1e-4, 8) for _ in range(n)]
        return payload

    def store(self):
        return {
            operation: [
                {
                    "duration_seconds": self.seconds(1e-4, 8),
                    "num_keys": self.random.randrange(100),
                    "num_bytes": self.random.randrange(1 << 30),
                    "status": self.random.choice(["ok", "ok", "error"]),
                    "num_failed_keys": self.random.randrange(3),
                }
                for _ in range(self.random.randrange(1, 4))
            ]
            for operation in self.random.sample(["save_put", "load_get", "lookup_exists"], 2)
        }

    def sizes(self):
        return [self.random.randrange(1, 3 * 10**8) for _ in range(self.random.randrange(1, 20))]

    def offloading(self):
        generation = self.random.randrange(3)
        load, store = self.sizes(), self.sizes()
        if generation == 0:
            operation = lambda size: {"op_size": size, "op_time": size * 1e-9}
            return {"CPU_to_GPU": [operation(s) for s in load], "GPU_to_CPU": [operation(s) for s in store]}
        flat = {
            "load_bytes": sum(load),
            "load_time": self.seconds(),
            "load_size": load,
            "store_bytes": sum(store),
            "store_time": self.seconds(),
            "store_size": store,
            "stores_skipped": self.random.randrange(3),
            "cpu_cache_usage_perc": self.random.random(),
            "cpu_cache_write_usage_perc": self.random.random(),
            "cpu_cache_read_usage_perc": self.random.random(),
            "cpu_allocation_size": [self.random.randrange(1, 300000) for _ in range(3)],
        }
        if generation == 1:
            return flat
        flat["lookup_sync_delay_seconds"] = [self.seconds(1e-6, 3) for _ in range(5)]
        flat["lookup_async_delay_seconds"] = [self.seconds(1e-5, 20) for _ in range(5)]
        flat["allocation_failure"] = self.random.randrange(2)
        data = {"vllm:kv_offload_" + name: {"()": value} for name, value in flat.items()}
        return {"types": {}, "data": data, "info": {"medium": "cpu", "num_blocks": 4096}}

    def connector(self, name):
        failed = ["num_failed_transfers", "num_kv_expired_reqs"]
        return {
            "nixl": lambda: self.transfers(failed + ["num_failed_notifications"]),
            "moriio": lambda: self.transfers(failed + ["num_failed_notifications"]),
            "mooncake": lambda: self.transfers(failed + ["num_failed_recvs"]),
            "mooncake_store": self.store,
            "offloading": self.offloading,
            "hisparse": lambda: {
                key: [self.random.randrange(1000) for _ in range(2)]
                for key in ("cache_hits", "cache_misses", "host_to_device_bytes")
            },
        }[name]()

    def connectors(self):
        configured = [name for name in [*CONNECTORS, "moriio"] if self.has("connector:" + name)]
        if not configured:
            return None
        if len(configured) == 1:
            return self.connector(configured[0])
        classes = {
            "nixl": "NixlConnector",
            "moriio": "MoRIIOConnector",
            "mooncake": "MooncakeConnector",
            "mooncake_store": "MooncakeStoreConnector",
            "offloading": "OffloadingConnector",
            "hisparse": "HiSparseConnector",
        }
        return {classes[name]: {"data": self.connector(name)} for name in configured if self.random.random() < 0.7}

    def adapters(self):
        return {name: self.random.randrange(3) for name in self.random.sample(["sql", "chat", "zebra", "a,b"], 2)}

    def scheduler(self, index):
        stats = {
            "num_running_reqs": self.random.randrange(300),
            "num_waiting_reqs": self.random.randrange(50),
            "num_skipped_waiting_reqs": self.random.randrange(5),
            "step_counter": index,
            "current_wave": 0,
            "kv_cache_usage": self.random.random(),
            "prefix_cache_stats": self.cache(),
            "connector_prefix_cache_stats": self.cache() if self.random.random() < 0.5 else None,
            "kv_cache_eviction_events": [],
            "spec_decoding_stats": None,
            "kv_connector_stats": self.connectors(),
            "cudagraph_stats": None,
            "perf_stats": None,
            "a_field_of_a_later_release": {"of": "any shape"},
        }
        if self.has("kv_block_eviction"):
            stats["kv_cache_eviction_events"] = [
                {
                    "lifetime_seconds": self.seconds(1e-4, 4000),
                    "idle_seconds": self.seconds(1e-4, 4000),
                    "reuse_gaps_seconds": [self.seconds(1e-4, 4000) for _ in range(self.random.randrange(4))],
                }
                for _ in range(self.random.randrange(3))
            ]
        if self.has("spec_decoding") or self.has("diffusion_decoding"):
            stats["spec_decoding_stats"] = self.spec() if self.random.random() < 0.8 else None
        if self.has("perf_stats"):
            stats["perf_stats"] = {
                "num_flops_per_gpu": self.random.randrange(10**15),
                "num_read_bytes_per_gpu": self.random.randrange(10**11),
                "num_write_bytes_per_gpu": self.random.randrange(10**10),
            }
        if self.has("cuda_graph"):
            tokens = self.random.choice([7, 8, 300])
            padded = {7: 8, 8: 8, 300: 512}[tokens]
            stats["cudagraph_stats"] = {
                "num_unpadded_tokens": tokens,
                "num_padded_tokens": padded,
                "num_paddings": padded - tokens,
                "runtime_mode": "PIECEWISE" if tokens == 300 else "FULL",
            }
        if self.has("iteration_details"):
            stats["iteration_details"] = {
                "iteration_index": index,
                "num_ctx_requests": 1,
                "num_ctx_tokens": 512,
                "num_generation_requests": 3,
                "num_generation_tokens": 3,
                "elapsed_ms": 12.345678,
                "num_encoder_inputs": index % 2,
                "num_encoder_output_tokens": 1152,
                "is_dummy": index % 7 == 0,
            }
        if self.has("lora_state"):
            adapters = self.adapters()
            stats["waiting_lora_adapters"] = {name: 0 for name in adapters}
            stats["running_lora_adapters"] = adapters
        return stats

    def finished(self):
        prompt = self.random.randrange(1, 100000)
        generated = self.random.randrange(0, 5000)
        decode = self.seconds()
        return {
            "finish_reason": self.random.choice(REASONS),
            "request_id": f"request-{self.random.randrange(1 << 30)}",
            "e2e_latency": self.seconds(1e-2, 9000),
            "num_prompt_tokens": prompt,
            "num_generation_tokens": generated,
            "max_tokens_param": self.random.choice([None, 0, 16, 4096]),
            "queued_time": self.seconds(),
            # A request that died before its first token.
            "prefill_time": self.seconds() if self.random.random() < 0.95 else -123456.5,
            "inference_time": self.seconds(),
            "decode_time": decode,
            "mean_time_per_output_token": decode / max(generated - 1, 1),
            "is_corrupted": False,
            "num_cached_tokens": self.random.choice([-1, 0, prompt // 2]),
            "num_preemptions": self.random.choice([0, 0, 0, 1, 25]),
        }

    def iteration(self):
        computed, local, external = (self.random.randrange(3000) for _ in range(3))
        stats = {
            "iteration_timestamp": 1.7e9,
            "num_generation_tokens": self.random.randrange(300),
            "num_preempted_reqs": self.random.choice([0, 0, 2]),
            "finished_requests": [self.finished() for _ in range(self.random.randrange(3))],
            "max_num_generation_tokens_iter": [self.random.randrange(1, 9000) for _ in range(self.random.randrange(12))],
            "n_params_iter": [self.random.choice([1, 1, 2, 30]) for _ in range(self.random.randrange(12))],
            "time_to_first_tokens_iter": [self.seconds(1e-4, 5000) for _ in range(self.random.randrange(20))],
            "inter_token_latencies_iter": [self.seconds(1e-3, 100) for _ in range(self.random.randrange(200))],
            "num_corrupted_reqs": self.random.choice([0, 0, 1]) if self.has("corrupted_requests") else 0,
        }
        if self.random.random() < 0.9:
            stats["prompt_token_stats"] = {
                "computed": computed,
                "local_cache_hit": local,
                "external_kv_transfer": external,
                "cached_tokens": local + external,
                "total": computed + local + external,
            }
        else:
            stats["num_prompt_tokens"] = computed
        return stats

    def call(self, index, engines):
        if index % 50 == 49:
            whose = {"engine": index % engines} if index % 100 == 49 else {}
            return {"t": index * 0.05, **whose, "sleep": [index // 50 % 2, 1 + index % 3]}
        return {
            "t": index * 0.05,
            "engine": index % engines,
            "scheduler": self.scheduler(index) if self.random.random() < 0.9 else None,
            "iteration": self.iteration() if self.random.random() < 0.9 else None,
            "mm": self.cache() if self.random.random() < 0.3 else None,
        }


def write_calls(path, seed=1, calls=200, engines=2, features=EVERYTHING, name_features=True, num_speculative_tokens=3):
    generator = Generator(seed, features, num_speculative_tokens)
    header = {
        "model_name": 'recorded "model"',
        "max_model_len": 8192,
        "num_speculative_tokens": num_speculative_tokens,
        "engines": list(range(engines)),
        "cache_config": CACHE_CONFIG,
        "max_lora": 4,
        "something_new": 1,
    }
    if name_features:
        header["features"] = list(features)
    opened = gzip.open(path, "wt") if str(path).endswith(".gz") else open(path, "w")
    with opened as file:
        print(json.dumps(header), file=file)
        for index in range(calls):
            print(json.dumps(generator.call(index, engines)), file=file)
