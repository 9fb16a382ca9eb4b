"""RANKBUS_RECORD_CALLS=FILE: what vLLM handed to record(), as lines that `rankbus replay` reads.

The first line says model, engines, record types and cache configuration; then one JSON object per call, as `plain.py`
makes them. Request ids are chosen by clients, so they are hashed unless RANKBUS_RECORD_CALLS_IDS=plain.
"""

import gzip
import json
import os
import threading
import time

from rankbus.vllm.plain import PlainStatistics
from rankbus.vllm.watch import at_end, count_error, log

DEFAULT_MAX_BYTES = 1 << 30
FLUSH_EVERY_S = 1.0

_recording = None
_lock = threading.RLock()


def open_for_this_process(features, engines):
    """The recording of this process, joined by a further front end; None unless the environment asks for one."""
    global _recording
    path = os.environ.get("RANKBUS_RECORD_CALLS")
    if not path:
        return None
    with _lock:
        if _recording is None:
            _recording = CallRecording(path, features)
        _recording.engines.update(engines)
        return _recording


def _after_fork():
    global _lock
    _lock = threading.RLock()
    if _recording is not None:
        _recording.forget_file()


os.register_at_fork(after_in_child=_after_fork)


class CallRecording:
    """One file of one process. It is opened by the first call, when the engines have started and can be described."""

    def __init__(self, path, features):
        self._path = path
        self._features = features
        self._plain = PlainStatistics(features.connectors, os.environ.get("RANKBUS_RECORD_CALLS_IDS") == "plain")
        self._file = self._raw = None
        self._path_in_use = path
        self._left = max_bytes()
        self._done = False
        self._flushed = self._began = time.monotonic()
        self.engines = set()
        self.cache_config = None

    def record(self, engine, scheduler, iteration, mm):
        self._write(lambda: {"engine": engine, **self._plain.call(scheduler, iteration, mm)})

    def sleep(self, engine, sleeping, level):
        self._write(lambda: {"engine": engine, "sleep": [int(sleeping), int(level)]})

    def flush(self):
        with _lock:
            try:
                if self._file is not None:
                    self._file.flush()
                    self._flushed = time.monotonic()
            except OSError as error:
                self._stop(f"cannot be written: {error}")

    def close(self):
        with _lock:
            file, self._file, self._done = self._file, None, True
            try:
                if file is not None:
                    file.close()
                    self._raw.close()  # Which GzipFile leaves open.
            except OSError as error:
                count_error("recorded calls", error)

    def forget_file(self):
        """A forked child writes a file of its own. What the parent buffered is the parent's to write."""
        if self._file is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._raw.fileno(), inheritable=False)
            os.close(nowhere)
            self._file = None

    def _write(self, make):
        with _lock:
            if self._done:
                return
            try:
                if self._file is None:
                    self._open()
                now = time.monotonic()
                self._put({"t": round(now - self._began, 6), **make()})
                if self._file is not None and now - self._flushed >= FLUSH_EVERY_S:
                    self.flush()
            except OSError as error:
                self._stop(f"cannot be written: {error}")

    def _open(self):
        fd, path = create_private(self._path)
        raw = os.fdopen(fd, "wb")
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=raw) if is_gzip(path) else raw
        self._raw, self._path_in_use = raw, path
        self._began = time.monotonic()
        at_end(None, self.close)
        log.info("rankbus writes the calls of vLLM's stat loggers to %s", path)
        features = self._features
        self._put(
            {
                "model_name": features.model_name,
                "max_model_len": features.max_model_len,
                "num_speculative_tokens": features.num_speculative_tokens,
                "engines": sorted(self.engines),
                "features": features.record_types,
                "cache_config": self.cache_config,
                "max_lora": str(features.max_loras) if features.has_lora else None,  # As the label has it.
            }
        )

    def _put(self, line):
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        if len(data) > self._left:
            self._stop("is full: RANKBUS_RECORD_CALLS_MAX_BYTES")
            return
        self._left -= len(data)
        self._file.write(data)

    def _stop(self, why):
        log.warning("rankbus ends the recording of calls: %s %s", self._path_in_use, why)
        self.close()


def max_bytes():
    """The limit on the lines of one file, before compression."""
    try:
        return int(os.environ.get("RANKBUS_RECORD_CALLS_MAX_BYTES", DEFAULT_MAX_BYTES))
    except ValueError:
        return DEFAULT_MAX_BYTES


def is_gzip(path):
    return path.endswith(".gz")


def create_private(path):
    """A new file that only its owner can read, and its name: FILE, or FILE.PID before .gz if that is taken.

    An existing file is never written: it may be another process's, an earlier run's, or a link somewhere else.
    """
    stem = path[: -len(".gz")] if is_gzip(path) else path
    end = path[len(stem) :]
    names = [path, f"{stem}.{os.getpid()}{end}"]
    names += [f"{stem}.{os.getpid()}-{attempt}{end}" for attempt in range(1, 100)]
    for name in names:
        try:
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), name
        except FileExistsError as error:
            taken = error
    raise taken
