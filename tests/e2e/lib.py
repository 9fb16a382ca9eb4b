"""What the end-to-end tests and scripts/demo share: processes, conditions, scrapes.

Processes are started with a clean environment, so that no setting of the caller's shell bends a test, and
are ended by their process id. They get a parent-death signal: killing a test leaves nothing behind.
Traffic stays on 127.0.0.1.
"""

import collections
import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("RANKBUS_BINARY", str(ROOT / "build/release/rankbus"))


def _find_trace():
    """RANKBUS_TRACE, else the place beside a checkout where scripts/demo looks for it too."""
    given = os.environ.get("RANKBUS_TRACE")
    if given:
        return pathlib.Path(given)
    beside = ROOT.parent / "shared/traces/mooncake_conversation.jsonl"
    return beside if beside.exists() else None


TRACE = _find_trace()  # The real request trace, or None.
NO_TRACE = "no request trace: neither RANKBUS_TRACE nor ../shared/traces/mooncake_conversation.jsonl"
LIMIT_S = 120.0  # Ends a wait that hangs; no claim about how long anything takes.


def clean_environment(extra=None):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RANKBUS_") and name not in ("POD_NAME", "VLLM_LOG_STATS_INTERVAL")
    }
    return kept | (extra or {})


def wait_for(condition, what, limit=LIMIT_S, alive=()):
    """Polls until condition() is true and returns its value. A process of `alive` that ends first is a failure."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        for process in alive:
            if process.status() is not None and not (value := condition()):
                raise AssertionError(f"{process} ended with {process.status()} before {what}:\n{process.stderr()}")
            if value:
                return value
        if time.monotonic() > deadline:
            told = "".join(f"\n--- {process}:\n{process.stderr()}" for process in alive)
            raise AssertionError(f"still waiting for {what} after {limit:.0f} s{told}")
        time.sleep(0.02)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def temporary_bus(prefix="rankbus-test-"):
    """A bus directory of its own in memory, removed at the end."""
    path = tempfile.mkdtemp(prefix=prefix, dir="/dev/shm")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def forget_counts(bus):
    """Removes the ledger of a bus that nobody owns: the next aggregator counts from 0."""
    for file in pathlib.Path(bus).glob(".ledger.*"):
        file.unlink()


@contextlib.contextmanager
def removed_at_end(path):
    """Removes a directory that a command under test makes."""
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Process:
    """A running rankbus command. Its standard error is kept in a file, or shown as it comes."""

    def __init__(self, *arguments, env=None, show=False, binary=BINARY):
        self.arguments = [str(argument) for argument in arguments]
        self._log = None if show else tempfile.TemporaryFile()
        self._last_words = None
        # A session of its own: Ctrl-C reaches the script that started it, which then ends it in order.
        self._child = subprocess.Popen(
            [binary, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=clean_environment(env),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.pid = self._child.pid

    def __str__(self):
        return f"rankbus {' '.join(self.arguments)} (pid {self.pid})"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            if self._log is not None:
                self._last_words = self.stderr()
                self._log.close()

    def status(self):
        """The exit status, negative for a signal; None while it runs."""
        return self._child.poll()

    def stderr(self):
        """What it has printed so far, on either channel."""
        if self._log is None:
            return "(shown above)"
        if self._last_words is not None:
            return self._last_words
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def send(self, number):
        if self.status() is None:
            os.kill(self.pid, number)

    def wait(self, limit=LIMIT_S):
        try:
            return self._child.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} is still running after {limit:.0f} s:\n{self.stderr()}") from None

    def stop(self, number=signal.SIGTERM, limit=LIMIT_S):
        """Asks it to end, waits, and returns its exit status. What does not end is killed, and that is a failure."""
        self.send(number)
        try:
            return self.wait(limit)
        except AssertionError:
            self.kill()
            raise

    def kill(self):
        self.send(signal.SIGKILL)
        return self.wait()


class Aggregator(Process):
    """`rankbus aggregate` on a port of its own; ready when the constructor returns."""

    def __init__(self, bus, *arguments, listen=None, wait=True, **options):
        self.listen = listen or f"127.0.0.1:{free_port()}"
        super().__init__("aggregate", "--bus", bus, "--listen", self.listen, *arguments, **options)
        if wait:
            try:
                wait_for(self.ready, "it is ready", alive=[self])
            except BaseException:
                self.send(signal.SIGKILL)
                raise

    def url(self, path="/metrics"):
        return f"http://{self.listen}{path}"

    def ready(self):
        try:
            return http_status(self.url("/readyz")) == 200
        except OSError:
            return False

    def scrape(self, path="/metrics"):
        return Scrape(self.url(path))


def simulate(bus, *arguments, **options):
    """Starts `rankbus simulate`."""
    return Process("simulate", "--bus", bus, *arguments, **options)


def run_rankbus(*arguments, env=None, limit=LIMIT_S, **options):
    """Runs a command to its end; returns subprocess's result with text in stdout and stderr."""
    return subprocess.run(
        [BINARY, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=clean_environment(env),
        timeout=limit,
        preexec_fn=die_with_parent,
        check=False,
        **options,
    )


# Never through a proxy that the environment may name: all our traffic is on the loopback interface.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http_get(url, limit=LIMIT_S):
    """Returns (status, headers, body as bytes), for error statuses too."""
    try:
        with _opener.open(url, timeout=limit) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def http_status(url):
    return http_get(url)[0]


Series = collections.namedtuple("Series", "name labels")  # labels: frozenset of (name, value)


def parse_exposition(text):
    """Reads exposition text with the Prometheus project's own parser into {Series: value}."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = Series(sample.name, frozenset(sample.labels.items()))
            if series in samples:
                raise AssertionError(f"series exposed twice: {show_series(series)}")
            samples[series] = sample.value
    return samples


def show_series(series):
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    inside = ",".join(f'{name}="{value.translate(escapes)}"' for name, value in sorted(series.labels))
    return f"{series.name}{{{inside}}}" if inside else series.name


class Scrape:
    """One answer of /metrics: its size, how long it took, and its samples as the Python client reads them."""

    def __init__(self, url):
        start = time.monotonic()
        status, self.headers, body = http_get(url)
        self.seconds = time.monotonic() - start
        self.bytes = len(body)
        self.text = body.decode()
        if status != 200:
            raise AssertionError(f"{url} answered {status}: {self.text}")
        self.samples = parse_exposition(self.text)

    def select(self, name, **labels):
        """{Series: value} of the series with this name whose labels include these."""
        wanted = set(labels.items())
        return {s: value for s, value in self.samples.items() if s.name == name and wanted <= s.labels}

    def total(self, name, **labels):
        """The sum over all such series; None when there is none."""
        values = self.select(name, **labels).values()
        return sum(values) if values else None

    def value(self, name, **labels):
        """The value of the only such series."""
        found = self.select(name, **labels)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} series {name}{labels}, expected one")
        return next(iter(found.values()))


def main():
    """Runs the tests of the calling file. Prints each skip with its reason; 77 tells ctest that all were skipped."""
    sys.stdout.reconfigure(line_buffering=True)
    result = unittest.main(module="__main__", verbosity=2, exit=False).result
    for test, reason in result.skipped:
        print(f"skipped: {test.id().removeprefix('__main__.')}: {reason}")
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.testsRun and len(result.skipped) == result.testsRun else 0)
