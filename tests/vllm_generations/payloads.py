"""Payloads of KV connectors, in every shape that one has had, and what vLLM's own metrics would make of them."""

from types import SimpleNamespace

import expected as e

SIZES = (999, 2048, 1_000_000, 5_000_001, 300_000_000, 2**33 + 1)


def nixl(r):
    n = r.randrange(4)
    return {
        "transfer_duration": [r.choice((0.004, 0.005, 0.2, 6.0)) for _ in range(n)],
        "post_duration": [r.choice((0.0005, 0.001, 0.3)) for _ in range(n)],
        "bytes_transferred": [r.choice(SIZES) for _ in range(n)],
        "num_descriptors": [r.choice((1, 10, 55, 60000)) for _ in range(n)],
        "num_failed_transfers": [1] * r.randrange(2),
        "num_failed_notifications": [1] * r.randrange(3),
        "num_kv_expired_reqs": [1] * r.randrange(2),
    }


def mooncake_store(r):
    return {
        operation: [
            {
                "duration_seconds": r.choice((0.0005, 0.1, 9.0)),
                "num_keys": r.randrange(5),
                "num_bytes": r.choice(SIZES),
                "status": r.choice(("ok", "error")),
                "num_failed_keys": r.randrange(2),
            }
            for _ in range(r.randrange(3))
        ]
        for operation in ("save_put", "load_get")
    }


def hisparse(r):
    return {name: [r.randrange(9)] * 2 for name in ("cache_hits", "cache_misses", "host_to_device_bytes")}


def operations(r, as_objects=True):
    made = [{"op_size": r.choice(SIZES), "op_time": r.choice((0.25, 0.5))} for _ in range(r.randrange(3))]
    return [SimpleNamespace(**operation) for operation in made] if as_objects else made


def offloading_1(r):
    return {"GPU_to_CPU": operations(r), "CPU_to_GPU": operations(r)}


def offloading_prefixed(r):
    return {
        "xfer:GPU_to_CPU": operations(r, as_objects=False),
        "counter:stores_skipped": 2,
        "gauge:cpu_cache_usage_perc": r.random(),
        "histogram:cpu_allocation_size": [1, 5],
    }


def offloading_flat(r):
    return {
        "load_bytes": r.choice(SIZES),
        "store_bytes": 7,
        "load_time": 0.25,
        "load_size": [r.choice(SIZES), 5],
        "stores_skipped": 1,
        "cpu_cache_usage_perc": r.random(),
        "cpu_allocation_size": [1, 4, 300000],
        "total_bytes": 12345,  # The deprecated copy.
    }


def offloading_typed(r, labelled=False):
    kinds = {
        "vllm:kv_offload_load_bytes": ("counter", r.choice(SIZES)),
        "vllm:kv_offload_store_size": ("histogram", [r.choice(SIZES)]),
        "vllm:kv_offload_cpu_cache_write_usage_perc": ("gauge", r.random()),
        "vllm:kv_offload_allocation_failure": ("counter", 1),
        "vllm:kv_offload_lookup_sync_delay_seconds": ("histogram", [1e-5, 0.02]),
        "vllm:kv_offload_lookup_async_delay_seconds": ("histogram", [1e-5, 20.0]),
        "vllm:kv_offload_total_bytes": ("counter", 99),
    }
    return {
        "types": {name: kind for name, (kind, _) in kinds.items()},
        "data": {name: {(): value} if labelled else value for name, (_, value) in kinds.items()},
    }


def offloading_labelled(r):
    return {**offloading_typed(r, labelled=True), "info": {"num_blocks": 77, "medium": "cpu"}}


def multi(r):
    children = {"NixlConnector": nixl(r), "OffloadingConnector": offloading_typed(r, labelled=True)}
    wrap = r.choice((lambda data: SimpleNamespace(data=data), lambda data: {"data": data}))
    return {name: wrap(data) for name, data in children.items()}


MAKERS = {
    "nixl": nixl,
    "moriio": nixl,
    "mooncake_store": mooncake_store,
    "hisparse": hisparse,
    "offloading_1": offloading_1,
    "offloading_prefixed": offloading_prefixed,
    "offloading_flat": offloading_flat,
    "offloading_typed": offloading_typed,
    "offloading_labelled": offloading_labelled,
    "multi": multi,
}


def declare(expected, connector):
    """The families that a connector's metrics consist of from the start."""
    if connector in ("nixl", "moriio"):
        expected.transfer_prefix = connector
        expected.histogram(f"{connector}_xfer_time_seconds", e.NX[1:])
        expected.histogram(f"{connector}_post_time_seconds", e.NX)
        expected.histogram(f"{connector}_bytes_transferred", e.NB)
        expected.histogram(f"{connector}_num_descriptors", e.ND)
        for name in ("transfers", "notifications"):
            expected.count(f"{connector}_num_failed_{name}", 0)
        expected.count(f"{connector}_num_kv_expired_reqs", 0)
    elif connector == "hisparse":
        for name in ("cache_hits", "cache_misses", "host_to_device_bytes"):
            expected.count(f"hisparse_{name}", 0)
    elif connector.startswith("offloading"):
        for verb in ("load", "store"):
            expected.count(f"kv_offload_{verb}_bytes", 0)
            expected.count(f"kv_offload_{verb}_time", 0)
            expected.histogram(f"kv_offload_{verb}_size", e.OFF)
        for verb in ("", "write_", "read_"):
            expected.gauge(f"kv_offload_cpu_cache_{verb}usage_perc", 0)
        expected.histogram("kv_offload_cpu_allocation_size", e.CHUNKS)
        expected.count("kv_offload_stores_skipped", 0)
        expected.count("kv_offload_allocation_failure", 0)
        expected.histogram("kv_offload_lookup_sync_delay_seconds", e.SYNC)
        expected.histogram("kv_offload_lookup_async_delay_seconds", e.ASYNC)
    elif connector == "multi":
        declare(expected, "nixl")
        declare(expected, "offloading")


def expect(expected, payload):
    """One payload. Told by its keys, as the tests know which connector they configured."""
    if "NixlConnector" in payload:
        for child in payload.values():
            expect(expected, child["data"] if isinstance(child, dict) else child.data)
    elif "transfer_duration" in payload:
        prefix = expected.transfer_prefix
        for key, name in (
            ("transfer_duration", "xfer_time_seconds"),
            ("post_duration", "post_time_seconds"),
            ("bytes_transferred", "bytes_transferred"),
            ("num_descriptors", "num_descriptors"),
        ):
            for value in payload[key]:
                expected.observe(f"{prefix}_{name}", value)
        for name in ("num_failed_transfers", "num_failed_notifications", "num_kv_expired_reqs"):
            expected.count(f"{prefix}_{name}", sum(payload[name]))
    elif "cache_hits" in payload:
        for name, values in payload.items():
            expected.count(f"hisparse_{name}", sum(values))
    elif "save_put" in payload:
        for operation, seen in payload.items():
            for one in seen:
                expect_store(expected, one, {"operation": operation, "status": one["status"]})
    else:
        expect_offloading(expected, payload)


def expect_store(expected, one, labels):
    expected.histogram("mooncake_store_operation_time_seconds", e.STORE, **labels)
    expected.observe("mooncake_store_operation_time_seconds", one["duration_seconds"], **labels)
    expected.count("mooncake_store_operation", 1, **labels)
    expected.count("mooncake_store_operation_keys", one["num_keys"], **labels)
    expected.count("mooncake_store_operation_bytes", one["num_bytes"], **labels)
    expected.count("mooncake_store_operation_failed_keys", one["num_failed_keys"], **labels)


def expect_offloading(expected, payload):
    for key, value in payload.get("data", payload).items():
        name = key.replace("vllm:kv_offload_", "").split(":")[-1]
        value = value[()] if isinstance(value, dict) else value
        if name in ("GPU_to_CPU", "CPU_to_GPU"):
            verb = "load" if name == "CPU_to_GPU" else "store"
            for one in value:
                one = one if isinstance(one, dict) else vars(one)
                expected.count(f"kv_offload_{verb}_bytes", one["op_size"])
                expected.count(f"kv_offload_{verb}_time", one["op_time"])
                expected.observe(f"kv_offload_{verb}_size", one["op_size"])
        elif name == "total_bytes":
            pass
        elif isinstance(value, list):
            for one in value:
                expected.observe(f"kv_offload_{name}", one)
        elif name.endswith("_perc"):
            expected.gauge(f"kv_offload_{name}", value)
        else:
            expected.count(f"kv_offload_{name}", value)


class Exploding:
    """Every attribute raises."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} today")


def odd_objects():
    yield Exploding()
    yield SimpleNamespace()
    yield SimpleNamespace(num_running_reqs="many", prefix_cache_stats=3, finished_requests=[None, Exploding(), 7])
    yield SimpleNamespace(kv_connector_stats={"transfer_duration": None}, inter_token_latencies_iter=[object()])
    yield {"a": "dict"}
    yield 3.5
