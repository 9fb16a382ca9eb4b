"""vLLM's Prometheus logger, written anew from the description of its metrics, on the Prometheus Python client itself.

Families come from tests/conformance/vllm_families.json; what feeds them is written here. It shares nothing with
rankbus: where /metrics and this model differ, to the last bucket, one of them is wrong.
"""

import json
import pathlib
import re

import prometheus_client as client

TABLE = json.loads((pathlib.Path(__file__).resolve().parents[1] / "conformance/vllm_families.json").read_text())


def lengths(max_model_len):
    bounds, exponent = [], 0
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * 10**exponent > max_model_len:
                return bounds
            bounds.append(mantissa * 10**exponent)
        exponent += 1


def bounds_of(family, max_model_len):
    named = family["buckets"]
    return lengths(max_model_len) if named == "1-2-5" else TABLE["buckets"][named] if isinstance(named, str) else named


class Reference:
    def __init__(self, header, features, deprecated=False):
        self.header, self.features = header, set(features)
        self.model = header["model_name"]
        self.registry = client.CollectorRegistry()
        self.metrics, self.labels = {}, {}
        for family in TABLE["families"]:
            feature = family.get("feature", "")
            wanted = deprecated if feature == "--deprecated-names" else not feature or feature in self.features
            if wanted and family.get("labels") != ["*"] and family.get("base") != []:
                self.declare(family)
        for engine in header["engines"]:
            self.set("engine_sleep_state", 1, engine, sleep_state="awake")
            if "cache_config" in self.features:
                self.info("cache_config_info", {"engine": str(engine)} | {k: str(v) for k, v in header["cache_config"].items()}, 1)

    def declare(self, family):
        names = ["model_name", "engine", *family.get("labels", [])]
        kind = {"counter": client.Counter, "gauge": client.Gauge, "histogram": client.Histogram}[family["type"]]
        extra = {"buckets": bounds_of(family, self.header["max_model_len"])} if family["type"] == "histogram" else {}
        name = family["family"]
        self.metrics[name] = kind(name, "-", names, registry=self.registry, **extra)
        children = family.get("children", [None])
        if children == "positions":
            children = [str(i) for i in range(self.header["num_speculative_tokens"])]
        for engine in self.header["engines"]:
            for child in children:
                self.metrics[name].labels(self.model, str(engine), *([child] if child is not None else []))

    def child(self, name, engine, labels):
        metric = self.metrics.get("vllm:" + name)
        return metric and metric.labels(model_name=self.model, engine=str(engine), **labels)

    def count(self, name, amount, engine, **labels):
        if child := self.child(name + "_total", engine, labels):
            child.inc(amount)

    def set(self, name, value, engine, **labels):
        if child := self.child(name, engine, labels):
            child.set(value)

    def observe(self, name, values, engine, **labels):
        if child := self.child(name, engine, labels):
            for value in values if isinstance(values, list) else [values]:
                child.observe(value)

    def info(self, name, labels, value):
        name = "vllm:" + name
        if name not in self.metrics:
            self.metrics[name] = client.Gauge(name, "-", list(labels), registry=self.registry)
        self.metrics[name].labels(**labels).set(value)

    def text(self):
        lines = client.generate_latest(self.registry).decode().splitlines(keepends=True)
        # Off by default in rankbus; some versions of the client cannot be told.
        return "".join(line for line in lines if not re.match(r"(# \w+ )?vllm:\w+_created[ {]", line))

    # What record() does with each stats object.

    def record(self, call):
        engine = call.get("engine", 0)
        if call.get("scheduler"):
            self.scheduler(call["scheduler"], engine)
        if call.get("iteration"):
            self.iteration(call["iteration"], engine)
        if call.get("mm"):
            self.count("mm_cache_queries", call["mm"]["queries"], engine)
            self.count("mm_cache_hits", call["mm"]["hits"], engine)
        if call.get("sleep"):
            asleep, level = call["sleep"]
            for state, is_in in [
                ("awake", not asleep),
                ("weights_offloaded", asleep and level == 1),
                ("discard_all", asleep and level == 2),
            ]:
                self.set("engine_sleep_state", int(is_in), engine, sleep_state=state)

    def scheduler(self, stats, engine):
        waiting, deferred = stats["num_waiting_reqs"], stats["num_skipped_waiting_reqs"]
        self.set("num_requests_running", stats["num_running_reqs"], engine)
        self.set("num_requests_waiting", waiting + deferred, engine)
        self.set("num_requests_waiting_by_reason", waiting, engine, reason="capacity")
        self.set("num_requests_waiting_by_reason", deferred, engine, reason="deferred")
        self.set("kv_cache_usage_perc", stats["kv_cache_usage"], engine)
        for key, name in [("prefix_cache_stats", "prefix_cache"), ("connector_prefix_cache_stats", "external_prefix_cache")]:
            if stats.get(key):
                self.count(name + "_queries", stats[key]["queries"], engine)
                self.count(name + "_hits", stats[key]["hits"], engine)
        for event in stats["kv_cache_eviction_events"]:
            self.observe("kv_block_lifetime_seconds", event["lifetime_seconds"], engine)
            self.observe("kv_block_idle_before_evict_seconds", event["idle_seconds"], engine)
            self.observe("kv_block_reuse_gap_seconds", event["reuse_gaps_seconds"], engine)
        if spec := stats.get("spec_decoding_stats"):
            for ours, theirs in [
                ("diffusion_num_denoising_steps", "num_drafts"),
                ("diffusion_num_canvas_positions", "num_draft_tokens"),
                ("diffusion_num_committed_tokens", "num_accepted_tokens"),
                *((f"spec_decode_{name}", name) for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens")),
            ]:
                self.count(ours, spec[theirs], engine)
            for position, accepted in enumerate(spec["num_accepted_tokens_per_pos"]):
                self.count("spec_decode_num_accepted_tokens_per_pos", accepted, engine, position=str(position))
        if perf := stats.get("perf_stats"):
            for what in ("flops", "read_bytes", "write_bytes"):
                self.count(f"estimated_{what}_per_gpu", perf[f"num_{what}_per_gpu"], engine)
        if payload := stats.get("kv_connector_stats"):
            self.connector(payload, engine)

    def iteration(self, stats, engine):
        prompt = stats["prompt_token_stats"]
        self.count("prompt_tokens", prompt["total"], engine)
        for source, key in [("local_compute", "computed"), ("local_cache_hit", "local_cache_hit"), ("external_kv_transfer",) * 2]:
            self.count("prompt_tokens_by_source", prompt[key], engine, source=source)
        self.count("prompt_tokens_cached", prompt["cached_tokens"], engine)
        self.count("generation_tokens", stats["num_generation_tokens"], engine)
        self.count("num_preemptions", stats["num_preempted_reqs"], engine)
        self.count("corrupted_requests", stats["num_corrupted_reqs"], engine)
        self.observe("iteration_tokens_total", prompt["computed"] + stats["num_generation_tokens"], engine)
        self.observe("time_to_first_token_seconds", stats["time_to_first_tokens_iter"], engine)
        self.observe("inter_token_latency_seconds", stats["inter_token_latencies_iter"], engine)
        self.observe("request_max_num_generation_tokens", stats["max_num_generation_tokens_iter"], engine)
        self.observe("request_params_n", stats["n_params_iter"], engine)
        for request in stats["finished_requests"]:
            self.count("request_success", 1, engine, finished_reason=request["finish_reason"])
            for ours, theirs in [
                ("e2e_request_latency_seconds", "e2e_latency"),
                ("request_queue_time_seconds", "queued_time"),
                ("request_prefill_time_seconds", "prefill_time"),
                ("request_inference_time_seconds", "inference_time"),
                ("request_decode_time_seconds", "decode_time"),
                ("request_time_per_output_token_seconds", "mean_time_per_output_token"),
                ("request_prompt_tokens", "num_prompt_tokens"),
                ("request_generation_tokens", "num_generation_tokens"),
                ("request_num_preemptions", "num_preemptions"),
            ]:
                self.observe(ours, request[theirs], engine)
            cached = max(request["num_cached_tokens"], 0)
            self.observe("request_prefill_kv_computed_tokens", request["num_prompt_tokens"] - cached, engine)
            if request["max_tokens_param"]:
                self.observe("request_params_max_tokens", request["max_tokens_param"], engine)

    def connector(self, payload, engine):
        for child, value in payload.items():
            name = {"NixlConnector": "nixl", "MoRIIOConnector": "moriio"}.get(child)
            data = value["data"]
            if name:
                for ours, key in [
                    ("xfer_time_seconds", "transfer_duration"),
                    ("post_time_seconds", "post_duration"),
                    ("bytes_transferred",) * 2,
                    ("num_descriptors",) * 2,
                ]:
                    self.observe(f"{name}_{ours}", data[key], engine)
                for key in ("num_failed_transfers", "num_failed_notifications", "num_kv_expired_reqs"):
                    self.count(f"{name}_{key}", sum(data[key]), engine)
            elif child == "HiSparseConnector":
                for key, values in data.items():
                    self.count("hisparse_" + key, sum(values), engine)
            elif child == "MooncakeStoreConnector":
                for operation, entries in data.items():
                    for entry in entries:
                        labels = {"operation": operation, "status": entry["status"]}
                        self.observe("mooncake_store_operation_time_seconds", entry["duration_seconds"], engine, **labels)
                        self.count("mooncake_store_operation", 1, engine, **labels)
                        for what in ("keys", "bytes", "failed_keys"):
                            self.count(f"mooncake_store_operation_{what}", entry["num_" + what], engine, **labels)
            elif child == "OffloadingConnector":
                self.offloading(data, engine)

    def offloading(self, payload, engine):
        for name, by_labels in payload["data"].items():
            for value in by_labels.values():
                name = name.removeprefix("vllm:")
                if f"vllm:{name}_total" in self.metrics:
                    self.count(name, value, engine)
                elif isinstance(value, list):
                    self.observe(name, value, engine)
                else:
                    self.set(name, value, engine)
                for what, direction in [("load", "CPU_to_GPU"), ("store", "GPU_to_CPU")]:
                    old = {"bytes": "total_bytes", "time": "total_time", "size": "size"}.get(name.removeprefix(f"kv_offload_{what}_"))
                    if old and isinstance(value, list):
                        self.observe(f"kv_offload_{old}", value, engine, transfer_type=direction)
                    elif old:
                        self.count(f"kv_offload_{old}", value, engine, transfer_type=direction)
        base = {"model_name": self.model, "engine": str(engine)}
        self.info("kv_offload_config_info", base | {k: str(v) for k, v in payload["info"].items()}, 1)


def exposition(lines, deprecated=False):
    """The text that vLLM would expose after a file of calls."""
    header, *calls = (json.loads(line) for line in lines)
    reference = Reference(header, header["features"], deprecated)
    for call in calls:
        reference.record(call)
    return reference.text()
