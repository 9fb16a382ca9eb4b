"""Record types declared as Python classes.

    class Swap(rankbus.Record, name="my_swap", help="One swap of KV blocks"):
        direction = rankbus.label("direction", domain=["in", "out"])
        swapped_bytes = rankbus.counter("my_swapped_bytes_total", unit="bytes", by="direction", help="Bytes moved")

The class is only a declaration: no aggregator has to know it, because the schema travels with the data. What is
wrong with one is said when the class is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rankbus import _native

_MODEL_LENGTH = "model_length"


@dataclass(frozen=True)
class Field:
    """One row of a declaration, in the words of bus/schema.hpp. Made by the functions below."""

    kind: str
    type: str = "u64"
    unit: str = "none"
    reduction: str = "sum"
    capacity: int = 1
    metric: str = ""
    help: str = ""
    fixed_label: str = ""
    fixed_value: str = ""
    by: str = ""
    domain: str = ""
    bounds: tuple[float, ...] | None = ()
    native_first: int = 0
    native_last: int = 0
    indexed: bool = False

    def row(self, name: str) -> tuple[Any, ...]:
        return (
            name, self.kind, self.type, self.unit, self.reduction, self.capacity, self.metric, self.help,
            self.fixed_label, self.fixed_value, self.by, self.domain, self.bounds, self.native_first,
            self.native_last, self.indexed,
        )  # fmt: skip


def _series(
    field: Field,
    by: str | Sequence[str],
    fixed: Mapping[str, str] | None,
    array: int,
    indexed_as: str,
) -> Field:
    """What counters, gauges and distributions have in common."""
    fixed = dict(fixed or {})
    if indexed_as and fixed:
        raise ValueError(f"{field.metric}: the index takes the place of a fixed label")
    if len(fixed) > 1:
        raise ValueError(f"{field.metric}: a field has one fixed label at most")
    label, value = next(iter(fixed.items()), (indexed_as, ""))
    return replace(
        field,
        by=by if isinstance(by, str) else " ".join(by),
        fixed_label=label,
        fixed_value=value,
        capacity=_capacity(array),
        indexed=bool(indexed_as),
    )


def _capacity(array: int) -> int:
    if array == 0:
        return 1
    if array < 2:
        raise ValueError(f"array={array}: a slot has room for at least 2 elements; more continue in further slots")
    return array


def counter(
    metric: str,
    *,
    unit: str = "none",
    type: str = "",
    by: str | Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    reduction: str = "sum",
    array: int = 0,
    indexed_as: str = "",
    help: str = "",
) -> Field:
    """Amounts to add. `indexed_as="expert"`: element i of an array adds to the series with expert="i"."""
    type = type or ("f64" if unit == "seconds" else "u64")
    return _series(Field("counter", type, unit, reduction, metric=metric, help=help), by, fixed, array, indexed_as)


def running_total(
    metric: str,
    *,
    unit: str = "none",
    type: str = "",
    fixed: Mapping[str, str] | None = None,
    reduction: str = "sum",
    help: str = "",
) -> Field:
    """A sum that the caller keeps."""
    type = type or ("f64" if unit == "seconds" else "u64")
    return _series(Field("running_total", type, unit, reduction, metric=metric, help=help), (), fixed, 0, "")


def gauge(
    metric: str,
    *,
    unit: str = "none",
    type: str = "f64",
    by: str | Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    reduction: str = "newest",
    help: str = "",
) -> Field:
    """A state; the newest value counts."""
    return _series(Field("gauge", type, unit, reduction, metric=metric, help=help), by, fixed, 0, "")


def distribution(
    metric: str,
    *,
    bounds: Sequence[float] | str,
    native: tuple[int, int] | None = None,
    unit: str = "none",
    type: str = "",
    by: str | Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    reduction: str = "merge",
    array: int = 0,
    help: str = "",
) -> Field:
    """Observations. `bounds` are those of the classic buckets in the exposed unit, or "model_length" for vLLM's
    1-2-5 series; native buckets run from 2**native[0] to 2**native[1], by default a little beyond the classic ones."""
    type = type or ("u64" if unit in ("nanoseconds", "bytes", "tokens") else "f64")
    field = Field("distribution", type, unit, reduction, metric=metric, help=help)
    if isinstance(bounds, str):
        if bounds != _MODEL_LENGTH:
            raise ValueError(f"{metric}: bounds are numbers, or '{_MODEL_LENGTH}'")
        field = replace(field, bounds=None)
    else:
        values = tuple(float(bound) for bound in bounds)
        first, last = native if native is not None else _native_range(values)
        field = replace(field, bounds=values, native_first=first, native_last=last)
    return _series(field, by, fixed, array, "")


def _native_range(bounds: tuple[float, ...]) -> tuple[int, int]:
    usable = [bound for bound in bounds if 0 < bound < math.inf]
    if not usable:
        return 0, 0  # What is wrong with them is said by whoever judges the declaration.
    first = max(math.floor(math.log2(min(usable))) - 2, -60)
    last = min(math.ceil(math.log2(max(usable))) + 2, 60)
    return first, max(min(last, first + 40), first)


def label(exposed_as: str, *, domain: Sequence[str] = (), help: str = "") -> Field:
    """A label of the series that name this field in `by`: of an enumeration, or any text."""
    for text in domain:
        if not text or "\n" in text:
            raise ValueError(f"label {exposed_as}: {text!r} is no value of an enumeration")
    return Field("label", "u16", metric=exposed_as, domain="\n".join(domain), help=help)


def identifier(*, type: str = "u64", array: int = 0, help: str = "") -> Field:
    """What tells records apart or describes them; it counts nothing."""
    return Field("id", type, capacity=_capacity(array), help=help)


def stamp(*, help: str = "") -> Field:
    """A further point in time, in ticks of `Producer.now()`."""
    return Field("stamp", help=help)


def info(metric: str, *, unit: str = "none", array: int = 256, help: str = "") -> Field:
    """A gauge of 1 with labels that a record brings as a dict; the newest is shown.

    Give it a record type of its own: a later record without it takes it away, and texts lie in the ring only, where
    one among busy records is overwritten before a late reader comes."""
    return Field("info", "u64", unit, "newest", metric=metric, capacity=_capacity(array), help=help)


class Record:
    """Base of declared record types. Only declares: nobody makes instances of it."""

    __rankbus_type__: ClassVar[_native.RecordType]
    __rankbus_name__: ClassVar[str]
    __rankbus_fields__: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, *, name: str, help: str = "", weight: int = 1, **more: Any) -> None:
        super().__init_subclass__(**more)
        fields = {key: value for key, value in vars(cls).items() if isinstance(value, Field)}
        first = {"stamp": fields.pop("stamp", stamp(help="When it was recorded"))}
        fields = first | fields
        # The weight is the stream's share of the segment's slots, against the other streams.
        rows = [field.row(key) for key, field in fields.items()]
        cls.__rankbus_type__ = _native.RecordType(name, help, weight, rows)
        cls.__rankbus_name__ = name
        cls.__rankbus_fields__ = tuple(fields)

    def __new__(cls, *_: Any, **__: Any) -> Record:
        raise TypeError(f"{cls.__name__} declares a record type; write records by producer.handle({cls.__name__})(...)")
