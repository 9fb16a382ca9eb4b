"""A bus under load for as long as it takes: ranks that write at full speed and are killed and started again at
random, an aggregator that is too, and somebody who scrapes all the while. Used by e2e_soak and long_soak.

Each rank keeps the number of records that it has made in a file of its own (writer.cpp, `stream`), which is the oracle:
what was published is that number, or one more for a rank that died between the record and the number.
"""

import contextlib
import dataclasses
import mmap
import os
import pathlib
import random
import signal
import statistics
import struct
import subprocess
import tempfile
import time

import lib

INCLUDE = os.environ.get("RANKBUS_INCLUDE", str(lib.ROOT / "build/release/include"))
MODEL = "soak"
RANKS = 16
PADDED = 5  # Tokens a record, see writer.cpp.
LOOKS = 400  # About so many, unless records are few.
LEAST_LOOKS = 16
LEAST_BETWEEN_LOOKS = 2_000_000
# What an aggregator says of itself begins with it.
ITS_OWN = ("process_", "rankbus_http_", "rankbus_ledger_write_failures_total", "rankbus_alerts_suppressed_total")


def compile_writer(folder):
    """Compiles writer.cpp as a worker would be, but optimised."""
    writer = pathlib.Path(folder) / "writer"
    source = pathlib.Path(__file__).with_name("writer.cpp")
    subprocess.run(["g++", "-std=c++17", "-O2", "-fno-exceptions", "-I", INCLUDE, source, "-o", writer], check=True)
    return writer


class Rank:
    """One life of a rank: writes until it is killed."""

    def __init__(self, writer, bus, rank, folder):
        self._made = tempfile.TemporaryFile(dir=folder)
        self._made.truncate(mmap.PAGESIZE)
        self._word = mmap.mmap(self._made.fileno(), mmap.PAGESIZE)
        self._child = subprocess.Popen(
            [writer, bus, MODEL, "0", "worker", str(rank), str(RANKS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=lib.clean_environment({"RANKBUS_RUN_ID": "b" * 32}),
            preexec_fn=lib.die_with_parent,
            pass_fds=[self._made.fileno()],
        )
        opened = self._child.stdout.readline().split()
        if len(opened) != 2:
            raise AssertionError(f"rank {rank} has no segment")
        self._child.stdin.write(f"stream /proc/self/fd/{self._made.fileno()}\n")
        if self._child.stdout.readline() != "streaming\n":
            raise AssertionError(f"rank {rank} does not write")

    def made(self):
        return struct.unpack_from("=Q", self._word)[0]

    def kill(self):
        """Returns how many records it made."""
        self._child.kill()
        self._child.wait(lib.LIMIT_S)
        self._child.stdin.close()
        self._child.stdout.close()
        made = self.made()
        self._word.close()
        self._made.close()
        return made


@dataclasses.dataclass
class Look:
    """What the aggregator and the bus take, at one moment."""

    resident_bytes: int
    descriptors: int
    bus_bytes: int
    series: int


def look(aggregator, bus, scrape):
    proc = pathlib.Path(f"/proc/{aggregator.pid}")
    resident = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS:"))
    size = 0
    for file in pathlib.Path(bus).iterdir():
        with contextlib.suppress(FileNotFoundError):  # The dead are reclaimed meanwhile.
            size += file.stat().st_blocks * 512
    return Look(int(resident.split()[1]) * 1024, len(list((proc / "fd").iterdir())), size, len(scrape.samples))


class CounterWatch:
    """Counters, sums and buckets over all scrapes, whoever answered them."""

    def __init__(self):
        self._last = {}
        self.scrapes = 0

    def see(self, scrape):
        types = dict(line.split()[2:4] for line in scrape.text.splitlines() if line.startswith("# TYPE "))
        self.scrapes += 1
        for series, value in self._last.items():
            if value > 0 and series not in scrape.samples:
                raise AssertionError(f"{lib.show_series(series)} disappeared")
        for series, value in scrape.samples.items():
            family = series.name
            for suffix in ("_bucket", "_count", "_sum"):
                if types.get(family.removesuffix(suffix)) == "histogram":
                    family = family.removesuffix(suffix)
            if types.get(family) not in ("counter", "histogram") or series.name.startswith(ITS_OWN):
                continue
            if value < self._last.get(series, 0):
                raise AssertionError(f"{lib.show_series(series)} went from {self._last[series]} to {value}")
            self._last[series] = value


def kill(aggregator):
    with aggregator:
        aggregator.kill()


def soak(records, seed):
    """Runs until so many records were written. Returns a line that says what happened; raises AssertionError."""
    dice = random.Random(seed)
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(lib.temporary_bus())
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        writer = compile_writer(folder)
        start = time.monotonic()
        aggregator = lib.Aggregator(bus, "--log-interval", "0")
        stack.callback(lambda: kill(aggregator))
        ranks = [Rank(writer, bus, rank, folder) for rank in range(RANKS)]
        stack.callback(lambda: [rank.kill() for rank in ranks])
        watch, looks = CounterWatch(), []
        made_by_dead = deaths = owners = 0

        def made():
            return made_by_dead + sum(rank.made() for rank in ranks)

        while (before := made()) < records or len(looks) < LEAST_LOOKS:
            target = before + dice.randrange(2 * max(records // LOOKS, LEAST_BETWEEN_LOOKS))
            lib.wait_for(lambda: made() >= target, f"{target} records", alive=[aggregator])
            if dice.random() < 0.5:
                index = dice.randrange(RANKS)
                made_by_dead += ranks[index].kill()
                deaths += 1
                ranks[index] = Rank(writer, bus, index, folder)
            if dice.random() < 0.1:
                if dice.random() < 0.8:
                    kill(aggregator)
                else:
                    with aggregator:
                        status = aggregator.stop(signal.SIGTERM)
                    if status != 0:
                        raise AssertionError(f"the aggregator ended with {status}:\n{aggregator.stderr()}")
                owners += 1
                aggregator = lib.Aggregator(bus, "--log-interval", "0")
            scrape = aggregator.scrape()
            watch.see(scrape)
            looks.append(look(aggregator, bus, scrape))
        writing_s = time.monotonic() - start
        made_by_dead += sum(rank.kill() for rank in ranks)
        lives = deaths + len(ranks)
        ranks.clear()
        scrape = aggregator.scrape()
        watch.see(scrape)
        check_totals(scrape, made_by_dead, lives)
        lib.wait_for(lambda: not list(pathlib.Path(bus).glob("worker-*")), "the dead are reclaimed", alive=[aggregator])
        flat = compare_quarters(looks)
        return (
            f"{made_by_dead} records in {writing_s:.0f} s, {lives} lives of ranks, {owners + 1} of the aggregator, "
            f"{watch.scrapes} scrapes; {flat}"
        )


def check_totals(scrape, made, lives):
    """A rank that was killed may have published one record more than it has noted."""
    steps = scrape.total("rankbus_steps_total")
    if not made <= steps <= made + lives:
        raise AssertionError(f"{steps:.0f} steps, {made} to {made + lives} were made")
    if scrape.total("rankbus_padded_tokens_total") != steps * PADDED:
        raise AssertionError("steps and their tokens disagree")
    if scrape.total("rankbus_records_total", stream="worker_step") != steps:
        raise AssertionError("steps and records disagree")
    if scrape.total("rankbus_checkpoints_mismatches_total") != 0 or scrape.total("rankbus_quarantined"):
        raise AssertionError("totals contradict their records")


def compare_quarters(looks):
    """Raises unless the last quarter's median is about the first's, of everything that must not grow."""
    told = []
    for name, tolerance in (("resident_bytes", 8 << 20), ("descriptors", 4), ("bus_bytes", 16 << 20), ("series", 20)):
        quarters = []
        for quarter in range(4):
            part = looks[quarter * len(looks) // 4 : (quarter + 1) * len(looks) // 4]
            quarters.append(int(statistics.median(getattr(at, name) for at in part)))
        told.append(f"{name} by quarter {quarters}")
        if quarters[-1] > quarters[0] * 1.25 + tolerance:
            raise AssertionError(f"{name} grew: {quarters}")
    return "; ".join(told)
