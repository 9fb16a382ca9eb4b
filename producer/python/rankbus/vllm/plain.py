"""A record() call of vLLM's as what JSON knows: the fields that `KNOWN_FIELDS` and the connectors' tables name, and
nothing else, because what we do not know may be a client's text.

Numbers stay numbers; texts are those of the tables below. What is neither becomes null, in lists as well, where leaving
it out would move its neighbours. Names are those of vLLM's present releases, whatever the recorded one called them, so
that one reader serves all. A field that is not as expected costs itself and no other.
"""

import math
from collections.abc import Collection, Mapping

from rankbus.vllm import connectors
from rankbus.vllm.mapping import hash_request_id, mode_text, reason_text
from rankbus.vllm.watch import KNOWN_FIELDS, count_error, field_names

# Fields that hold one of vLLM's objects, or a list of them.
OBJECTS = {
    "prefix_cache_stats": "PrefixCacheStats",
    "connector_prefix_cache_stats": "PrefixCacheStats",
    "kv_cache_eviction_events": "KVCacheEvictionEvent",
    "spec_decoding_stats": "SpecDecodingStats",
    "cudagraph_stats": "CUDAGraphStat",
    "perf_stats": "PerfStats",
    "iteration_details": "SchedulerIterationDetails",
    "prompt_token_stats": "PromptTokenStats",
    "finished_requests": "FinishedRequestStats",
}
# Where earlier releases had another name, or another place.
RENAMED = {"gpu_cache_usage": "kv_cache_usage", "time_per_output_tokens_iter": "inter_token_latencies_iter"}
ADAPTERS = ("running_lora_adapters", "waiting_lora_adapters")


class PlainStatistics:
    """Makes the calls of one configuration plain."""

    def __init__(self, kinds, plain_ids):
        self._special = {
            "request_id": text if plain_ids else hashed_id,
            "finish_reason": reason_text,
            "runtime_mode": lambda mode: text(mode_text(mode)),
            "kv_connector_stats": lambda payload: payload_fields(payload, kinds),
            **dict.fromkeys(ADAPTERS, adapter_counts),
        }

    def call(self, scheduler, iteration, mm):
        given = (("scheduler", "SchedulerStats", scheduler), ("iteration", "IterationStats", iteration),
                 ("mm", "MultiModalCacheStats", mm))  # fmt: skip
        return with_present_names({name: self._object(kind, thing) for name, kind, thing in given})

    def _object(self, kind, thing):
        try:
            names = field_names(thing) if thing is not None else ()
        except Exception as error:
            count_error(f"{kind} among the calls", error)
            return None
        fields = {name: self._field(kind, name, thing) for name in names if name in KNOWN_FIELDS[kind]}
        return fields or None

    def _field(self, kind, name, thing):
        try:
            value = getattr(thing, name, None)
            if value is None:
                return None
            if name in self._special:
                return self._special[name](value)
            if name not in OBJECTS:
                return numbers(value)
            if not isinstance(value, (list, tuple)):
                return self._object(OBJECTS[name], value)
            return [made for one in value if (made := self._object(OBJECTS[name], one)) is not None]
        except Exception as error:
            count_error(f"{kind}.{name} among the calls", error)
            return None


def number(value):
    """A number of Python's, numpy's or torch's; None for anything else and for what JSON cannot say."""
    value = connectors.plain_list(value)
    if isinstance(value, int):
        return value if isinstance(value, bool) else int(value)
    return float(value) if isinstance(value, float) and math.isfinite(value) else None


def numbers(value):
    """A number, or a list of them."""
    value = connectors.plain_list(value)
    if isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping)):
        return [number(one) for one in value]
    return number(value)


def text(value):
    """A text that every reader of JSON can read."""
    return str(value).encode(errors="replace").decode()


def hashed_id(request_id):
    return f"{hash_request_id(request_id):016x}"


def adapter_counts(adapters):
    counts = adapters if isinstance(adapters, Mapping) else dict.fromkeys(adapters, 0)
    return {text(name): number(count) for name, count in counts.items()}


def payload_fields(payload, kinds):
    """A step's connector payload; of a MultiConnector, those of the children that we know."""
    only = connectors.only_connector(payload, kinds)
    if only is not None:
        return one_payload(kinds[only], payload)
    fields = {}
    for name, child in payload.items():
        try:
            made = one_payload(kinds.get(name, ""), connectors.inner_payload(child))
        except Exception as error:
            count_error(f"{name} among the calls", error)
        else:
            if made is not None:
                fields[name] = made
    return fields


def one_payload(kind, payload):
    if not payload or not kind:
        return None
    if kind == "mooncake_store":
        return {text(operation): store_operations(seen) for operation, seen in payload.items() if are_operations(seen)}
    if kind == "offloading":
        return offloading_fields(payload)
    known = connectors.HISPARSE_COUNTS
    if kind in connectors.TRANSFER_COUNTS:
        known = (*connectors.TRANSFER_LISTS, *connectors.TRANSFER_COUNTS[kind])
    return {name: numbers(payload[name]) for name in known if name in payload}


def are_operations(seen):
    """Whether the key above it names an operation: no table does, so what lies under it must look like one."""
    known = isinstance(seen, (list, tuple))
    return known and all(connectors.part(one, "duration_seconds", None) is not None for one in seen)


def store_operations(observations):
    return [
        {
            **{name: number(connectors.part(seen, name, 0)) for name in connectors.STORE_NUMBERS},
            "status": text(connectors.part(seen, "status", "ok")),
        }
        for seen in observations
    ]


def offloading_fields(payload):
    """Its third generation, whichever it was; with texts of a configuration, its last."""
    values, info = connectors.offloading_values(payload)
    fields = {name: numbers(value) for name, value in values.items()}
    if not info:
        return fields
    return {"types": {}, "data": fields, "info": {text(label): text(said) for label, said in info.items()}}


def with_present_names(call):
    """A call as the present releases would make it."""
    scheduler, iteration = call["scheduler"], call["iteration"]
    for part in (scheduler, iteration):
        for name in RENAMED.keys() & part.keys() if part else ():
            part[RENAMED[name]] = part.pop(name)
    if iteration:
        sources = iteration.get("prompt_token_stats") or {}
        if sources.get("recomputed_tokens"):
            sources["local_cache_hit"] = (sources.get("local_cache_hit") or 0) - sources.pop("recomputed_tokens")
        if scheduler:
            scheduler.update({name: iteration.pop(name) for name in ADAPTERS if name in iteration})
    return call
