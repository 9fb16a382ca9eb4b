"""rankbus: the node-local stats bus for LLM inference, as seen from Python.

    producer = rankbus.Producer(role="frontend", model="llama", records=["spec_decoding"])
    finished = producer.handle("finished_request")
    finished(finished_reason="stop", num_prompt_tokens=512, num_generation_tokens=64, e2e_latency_seconds=1.9)

Recording never raises, blocks or calls the kernel; `rankbus.snapshot()` reads a bus back.
"""

from rankbus._native import record_types
from rankbus._producer import Handle, Producer
from rankbus._record import (
    Field,
    Record,
    counter,
    distribution,
    gauge,
    identifier,
    info,
    label,
    running_total,
    stamp,
)
from rankbus._sampling import is_sampled, sampled
from rankbus._snapshot import Counter, Gauge, Histogram, Metric, Vector, snapshot

__all__ = [
    "Counter",
    "Field",
    "Gauge",
    "Handle",
    "Histogram",
    "Metric",
    "Producer",
    "Record",
    "Vector",
    "counter",
    "distribution",
    "gauge",
    "identifier",
    "info",
    "is_sampled",
    "label",
    "record_types",
    "running_total",
    "sampled",
    "snapshot",
    "stamp",
]
