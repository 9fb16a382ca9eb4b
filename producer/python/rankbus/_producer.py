"""The producer: a thin cover over `rankbus._native`, which does all the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from rankbus import _native
from rankbus._record import Record

Handle = Callable[..., None]


class Producer:
    """The writing end of one shared-memory segment, one per process.

    Opening never fails for want of a bus: look at `inert` and `reason`. It raises only for options that no program
    can mean, such as an unknown role.
    """

    __slots__ = ("_declared", "_handles", "_native", "now", "status")

    now: Callable[[], int]
    status: Callable[[int, int, int, int], None]

    def __init__(
        self,
        *,
        role: str = "other",
        model: str = "",
        engine: int = 0,
        records: Iterable[str | type[Record]] = (),
        num_speculative_tokens: int = 0,
        max_model_len: int = 0,
        server: str | None = None,
        run_id: str | None = None,
        bus: str | os.PathLike[str] | None = None,
        axes: Sequence[tuple[str, int, int]] = (),
        rank: int | None = None,
        world_size: int = 0,
        local_rank: int | None = None,
        local_world_size: int = 0,
        gpu: str = "",
        kv_role: str = "none",
        clock: str = "real",
        clock_start_ns: int = 0,
        segment_bytes: int = 0,
        strict: bool = False,
    ) -> None:
        records = list(records)
        self._declared = {record for record in records if not isinstance(record, str)}
        self._native = _native.Producer(
            [record if isinstance(record, str) else _type_of(record) for record in records],
            role=role,
            model=model,
            engine=engine,
            num_speculative_tokens=num_speculative_tokens,
            max_model_len=max_model_len,
            server=server,
            run_id=run_id,
            bus=None if bus is None else os.fspath(bus),
            axes=axes,
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            local_world_size=local_world_size,
            gpu=gpu,
            kv_role=kv_role,
            clock=clock,
            clock_start_ns=clock_start_ns,
            segment_bytes=segment_bytes,
            strict=strict,
        )
        self._handles: dict[Any, Handle] = {}
        # The methods themselves: a cover would cost more than they do.
        self.now = self._native.now
        self.status = self._native.status
        _export_run_id()

    def handle(self, record: str | type[Record]) -> Handle:
        """The callable that writes records of this type, by keywords. Fetch it once: the first time makes it."""
        known = self._handles.get(record)
        if known is not None:
            return known
        try:
            if isinstance(record, str):
                made = self._native.handle(record)
            elif record in self._declared:
                made = self._native.handle(record.__rankbus_name__)
            else:
                raise KeyError
        except KeyError:
            names = ", ".join(self._native.record_names)
            raise KeyError(f"record type {record!r} was not declared at open; declared: {names}") from None
        self._handles[record] = made
        return made

    @property
    def inert(self) -> bool:
        """Nothing is written: no usable bus, `close` was called, or this is a forked child."""
        return self._native.inert

    @property
    def reason(self) -> str:
        """Why it is inert, or an empty text."""
        return self._native.reason

    @property
    def dropped(self) -> int:
        """Records that came while it was inert."""
        return self._native.dropped

    @property
    def errors(self) -> int:
        """Values and names that were left out because they did not fit their field."""
        return self._native.errors

    @property
    def last_error(self) -> str:
        """The latest of them in words, or an empty text."""
        return self._native.last_error

    @property
    def records(self) -> tuple[str, ...]:
        """Names of the record types that can be written, those of the role first."""
        return self._native.record_names

    @property
    def segment_name(self) -> str:
        """File name of the segment, or an empty text."""
        return self._native.segment_name

    @property
    def lane(self) -> int:
        """Which one of several processes with otherwise equal identity this is, from 0."""
        return self._native.lane

    @property
    def ticks_per_second(self) -> int:
        """How fast `now()` counts."""
        return self._native.ticks_per_second

    def reopen(self) -> None:
        """Opens a new segment with the same options in this process, for example after a fork. Handles go on."""
        self._native.reopen()
        _export_run_id()

    def close(self) -> None:
        """Last checkpoints, then the segment's end in order. Later records are dropped."""
        self._native.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"inert: {self.reason}" if self.inert else self.segment_name
        return f"<rankbus.Producer {state}>"


def _type_of(record: type[Record]) -> _native.RecordType:
    try:
        return record.__rankbus_type__
    except AttributeError:
        raise TypeError(f"{record!r} is neither a built-in type's name nor a class made of rankbus.Record") from None


def _export_run_id() -> None:
    """Opening puts the run into the process's environment. Programs pass os.environ on, which is a copy of before."""
    if "RANKBUS_RUN_ID" not in os.environ and (run_id := _native.run_id()):
        os.environ["RANKBUS_RUN_ID"] = run_id
