"""The payloads of KV connectors as records. A payload is a dict that ranks filled and vLLM merged; its shape belongs to
the connector and has changed between releases, so each is told by what it looks like, not by a version.

    nixl, moriio, mooncake   lists side by side, one element a transfer; further lists with a 1 a failure
    mooncake_store           operation: list of {duration_seconds, num_keys, num_bytes, status, num_failed_keys}
    hisparse                 lists of counts
    offloading               six generations, see Offloading
    MultiConnector           child's class name: child's payload, or its stats object, or that as a dict
"""

from itertools import zip_longest

from rankbus.vllm.watch import count_error, count_unknown

# Lists with one element per successful transfer, and the fields that they feed.
TRANSFER_LISTS = {
    "transfer_duration": "transfer_duration_seconds",
    "post_duration": "post_duration_seconds",
    "bytes_transferred": "bytes_transferred",
    "num_descriptors": "num_descriptors",
}
TRANSFER_COUNTS = {
    "nixl": ("num_failed_transfers", "num_failed_notifications", "num_kv_expired_reqs"),
    "moriio": ("num_failed_transfers", "num_failed_notifications", "num_kv_expired_reqs"),
    "mooncake": ("num_failed_transfers", "num_failed_recvs", "num_kv_expired_reqs"),
}
HISPARSE_COUNTS = ("cache_hits", "cache_misses", "host_to_device_bytes")
STORE_NUMBERS = ("duration_seconds", "num_keys", "num_bytes", "num_failed_keys")

# What the offloading connector reports, by name without prefix: record type (after `connector:offloading`), field.
OFFLOADING_FIELDS = {
    "load_bytes": ("", "load_bytes"),
    "store_bytes": ("", "store_bytes"),
    "load_time": ("", "load_time"),
    "store_time": ("", "store_time"),
    "load_size": ("", "load_size"),
    "store_size": ("", "store_size"),
    "cpu_cache_usage_perc": (":cpu", "cpu_cache_usage_perc"),
    "cpu_cache_write_usage_perc": (":cpu", "cpu_cache_write_usage_perc"),
    "cpu_cache_read_usage_perc": (":cpu", "cpu_cache_read_usage_perc"),
    "cpu_allocation_size": (":cpu", "cpu_allocation_size"),
    "stores_skipped": (":skipped", "stores_skipped"),
    "allocation_failure": (":lookup", "allocation_failures"),
    "lookup_sync_delay_seconds": (":lookup", "lookup_sync_delay_seconds"),
    "lookup_async_delay_seconds": (":lookup", "lookup_async_delay_seconds"),
}
OFFLOADING_LISTS = ("load_size", "store_size", "cpu_allocation_size", "lookup_sync_delay_seconds",
                    "lookup_async_delay_seconds")  # fmt: skip
OFFLOADING_GAUGES = ("cpu_cache_usage_perc", "cpu_cache_write_usage_perc", "cpu_cache_read_usage_perc")
OFFLOADING_MIRRORS = ("total_bytes", "total_time", "size")  # Deprecated copies of loads and stores.
OFFLOADING_PREFIX = "vllm:kv_offload_"


class ConnectorRecords:
    """Writes the payloads of the configured connectors: one, or a MultiConnector's children."""

    def __init__(self, write, connectors):
        self._write = write  # Record type: handle.
        self._kinds = dict(connectors)  # Class name: kind.

    def record(self, payload):
        only = only_connector(payload, self._kinds)
        if only is not None:
            self._record_one(self._kinds[only], only, payload)
            return
        for name, child in payload.items():
            self._record_one(self._kinds.get(name, ""), name, inner_payload(child))

    def _record_one(self, kind, name, payload):
        if not payload:
            return
        if f"connector:{kind}" not in self._write:
            count_unknown(f"KV connector {name}")
            return
        try:
            if kind in TRANSFER_COUNTS:
                self._transfers(kind, payload)
            elif kind == "mooncake_store":
                self._store_operations(payload)
            elif kind == "hisparse":
                counts = {field: total(payload.get(field, 0)) for field in HISPARSE_COUNTS}
                self._write["connector:hisparse"](**counts)
                count_unknown_keys(kind, payload, HISPARSE_COUNTS)
            else:
                Offloading(payload).write(self._write)
        except Exception as error:
            count_error(f"connector:{kind}", error)

    def _transfers(self, kind, payload):
        write = self._write[f"connector:{kind}"]
        known = [name for name in TRANSFER_LISTS if name in payload]
        if kind == "mooncake":
            known = [name for name in known if name != "post_duration"]
        fields = [TRANSFER_LISTS[name] for name in known]
        for values in zip_longest(*(plain_list(payload[name]) for name in known)):
            write(**dict(zip(fields, values)))
        counts = {name: total(payload.get(name, 0)) for name in TRANSFER_COUNTS[kind]}
        if any(counts.values()):
            write(**counts)
        count_unknown_keys(kind, payload, (*TRANSFER_LISTS, *TRANSFER_COUNTS[kind]))

    def _store_operations(self, payload):
        write = self._write["connector:mooncake_store"]
        for operation, observations in payload.items():
            for seen in observations:
                numbers = {name: part(seen, name, 0) for name in STORE_NUMBERS}
                write(operation=str(operation), status=str(part(seen, "status", "ok")), **numbers)


class Offloading:
    """One payload of the offloading connector, brought to {name without prefix: value}. The generations:

    1  {"GPU_to_CPU": [{op_size, op_time}, ...], "CPU_to_GPU": [...]}
    2  the same with kinds in the keys: "xfer:GPU_to_CPU", "counter:NAME", "gauge:NAME", "histogram:NAME"
    3  {"load_bytes": n, "load_size": [...], ...}
    4  {"types": {...}, "data": {metric name: value}}
    5  {"types": {...}, "data": {metric name: {label values: value}}}
    6  as 5, with "info": {label: text}, once after the start
    """

    def __init__(self, payload, unknown=count_unknown):
        self.values = {}
        self.info = None
        self._unknown = unknown
        if "types" in payload and "data" in payload:
            self.info = payload.get("info")
            payload = payload["data"]
        for key, value in payload.items():
            self._take(str(key), value)

    def _take(self, key, value):
        name = key.partition(":")[2] if key.startswith(("xfer:", "counter:", "gauge:", "histogram:")) else key
        if "_to_" in name:
            return self._take_operations(name, value)
        name = name[len(OFFLOADING_PREFIX) :] if name.startswith(OFFLOADING_PREFIX) else name
        if name not in OFFLOADING_FIELDS and name.endswith("_total"):
            name = name[: -len("_total")]
        if name in OFFLOADING_MIRRORS:
            return None
        if name not in OFFLOADING_FIELDS:
            return self._unknown(f"connector:offloading {name}")
        for one in value.values() if isinstance(value, dict) else (value,):
            self._add(name, one)

    def _take_operations(self, transfer, operations):
        # Whatever the medium is called: what ends on the GPU is a load.
        verb = "load" if transfer.lower().endswith("_to_gpu") else "store"
        sizes = [part(operation, "op_size", 0) for operation in operations]
        self._add(f"{verb}_size", sizes)
        self._add(f"{verb}_bytes", sum(sizes))
        self._add(f"{verb}_time", sum(part(operation, "op_time", 0.0) for operation in operations))

    def _add(self, name, value):
        if name in OFFLOADING_LISTS:
            value = plain_list(value)
            self.values.setdefault(name, []).extend(value if isinstance(value, (list, tuple)) else [value])
        elif name in OFFLOADING_GAUGES:
            self.values[name] = value
        else:
            self.values[name] = self.values.get(name, 0) + value

    def write(self, handles):
        records = {}
        for name, value in self.values.items():
            part_name, field = OFFLOADING_FIELDS[name]
            records.setdefault(f"connector:offloading{part_name}", {})[field] = value
        if self.info:
            texts = {str(label): str(text) for label, text in self.info.items()}
            records["connector:offloading:config"] = {"config": texts}
        for record_type, fields in records.items():
            if record_type in handles:
                handles[record_type](**fields)
            else:
                count_unknown(f"{record_type} without its option")


def offloading_values(payload):
    """({name: value}, {label: text} or None) of a payload of any generation, without counting what is not known."""
    report = Offloading(payload, unknown=lambda name: None)
    return report.values, report.info


def only_connector(payload, kinds):
    """The class name of the one connector whose payload this is; None if it has one under each class's name."""
    return next(iter(kinds)) if len(kinds) == 1 and not any(name in kinds for name in payload) else None


def inner_payload(stats):
    """A child's payload: stats objects keep it in `data`, and arrive as such, or as a dict with that one key."""
    data = getattr(stats, "data", None)
    if data is not None:
        return data
    if isinstance(stats, dict) and set(stats) == {"data"}:
        return stats["data"]
    return stats


def part(thing, name, default):
    """A member of something that may be an object or a dict: crossing a process turns one into the other."""
    return thing.get(name, default) if isinstance(thing, dict) else getattr(thing, name, default)


def plain_list(value):
    """A list that numpy or torch made as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def total(value):
    value = plain_list(value)
    return sum(value) if isinstance(value, (list, tuple)) else value


def count_unknown_keys(kind, payload, known):
    for name in payload:
        if name not in known:
            count_unknown(f"connector:{kind} {name}")
