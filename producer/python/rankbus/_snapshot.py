"""Reading a bus back into Python, in the spirit of vLLM's in-process reader (vllm/v1/metrics/reader.py)."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What all of them have: the name as vLLM's reader gives it, without a counter's `_total`, and labels."""

    name: str
    labels: dict[str, str]


@dataclass(frozen=True)
class Counter(Metric):
    value: int | float


@dataclass(frozen=True)
class Gauge(Metric):
    value: int | float


@dataclass(frozen=True)
class Vector(Metric):
    """A counter by draft position; positions that nobody reported are 0."""

    values: list[int]


@dataclass(frozen=True)
class Histogram(Metric):
    """`buckets` maps the text of `le`, `+Inf` among them, to cumulative counts."""

    count: int
    sum: float
    buckets: dict[str, int]


def snapshot(bus: str | os.PathLike[str] | None = None) -> list[Counter | Gauge | Vector | Histogram]:
    """Every series that `/metrics` of an aggregator started now would show, sorted by name and labels.

    Reads the bus once and looks only: no aggregator is needed, and none is disturbed. Counts of processes that an
    aggregator has already retired are known to that aggregator alone.
    """
    try:
        from rankbus import _reader
    except ImportError as error:
        raise ImportError(f"this installation of rankbus was made without its reader: {error}") from error
    metrics: list[Counter | Gauge | Vector | Histogram] = []
    vectors: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, int]] = {}
    for name, kind, labels, value in _reader.read("" if bus is None else os.fspath(bus)):
        if kind == "histogram":
            metrics.append(Histogram(name, labels, *value))
        elif kind == "gauge":
            metrics.append(Gauge(name, labels, value))
        elif name.endswith("_per_pos_total") and labels.get("position", "").isdigit():
            position = int(labels.pop("position"))
            key = (name.removesuffix("_total"), tuple(labels.items()))
            if key not in vectors:
                vectors[key] = {}
                metrics.append(Vector(key[0], labels, []))
            vectors[key][position] = value
        else:
            metrics.append(Counter(name.removesuffix("_total"), labels, value))
    for metric in metrics:
        if isinstance(metric, Vector):
            positions = vectors[metric.name, tuple(metric.labels.items())]
            metric.values.extend(positions.get(i, 0) for i in range(max(positions) + 1))
    return metrics
