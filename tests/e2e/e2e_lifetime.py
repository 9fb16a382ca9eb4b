"""Goal:   ranks and aggregators may come, end, be killed and come back in any order: while an aggregator lives no
        count is lost, doubled or goes back, gauges go with their writers, and a clean end keeps the last records.
Method: processes of an engine that write known records on command (writer.cpp, compiled here against the headers
        that a worker gets), and `rankbus simulate`, whose processes are killed one by one.
Replay: ctest --test-dir build/release -R e2e_lifetime -V
"""

import contextlib
import json
import mmap
import os
import pathlib
import re
import signal
import struct
import subprocess
import tempfile
import unittest

import compare_truth
import lib

INCLUDE = os.environ.get("RANKBUS_INCLUDE", str(lib.ROOT / "build/release/include"))
MODEL = "known"
TP = 4
SEGMENT_CAPACITY = 20_000  # More records than any stream of a segment holds.

# What one record of writer.cpp adds to these series of its engine, by role.
ADDED = {
    "scheduler": {"vllm:prefix_cache_queries_total": 10, "vllm:prefix_cache_hits_total": 4},
    "frontend": {
        "vllm:generation_tokens_total": 3,
        "vllm:prompt_tokens_total": 2,
        "vllm:request_success_total": 1,
        "vllm:inter_token_latency_seconds_count": 1,
    },
    "worker": {"rankbus_steps_total": 1, "rankbus_padded_tokens_total": 5},
}
GAUGES = {"vllm:num_requests_running": 7, "vllm:num_requests_waiting": 5, "vllm:kv_cache_usage_perc": 0.25}

_build = contextlib.ExitStack()
_writer = None


def setUpModule():
    """Compiles writer.cpp as a worker would be: C++17, without exceptions, one -I and nothing to link."""
    global _writer
    folder = pathlib.Path(_build.enter_context(tempfile.TemporaryDirectory()))
    _writer = folder / "writer"
    source = pathlib.Path(__file__).with_name("writer.cpp")
    flags = ("-std=c++17", "-O1", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["g++", *flags, "-I", INCLUDE, source, "-o", _writer], check=True)


def tearDownModule():
    _build.close()


class Writer:
    """A process of an engine, see writer.cpp. Leaving the context kills it."""

    def __init__(self, bus, role, engine=0, rank=0, model=MODEL):
        self.role = role
        self._child = subprocess.Popen(
            [_writer, bus, model, str(engine), role, str(rank), str(TP)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=lib.clean_environment({"RANKBUS_RUN_ID": "a" * 32}),
            preexec_fn=lib.die_with_parent,
            close_fds=False,  # Its forked child holds on to a pipe of ours.
        )
        self.pid = self._child.pid
        # Who comes next then finds it open.
        self.segment = self._answer("open").removeprefix("open ")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def ask(self, command):
        """Sends a command and returns the line that answers it."""
        self._child.stdin.write(command + "\n")
        return self._answer(command)

    def _answer(self, command):
        answer = self._child.stdout.readline()
        if not answer:
            raise AssertionError(f"writer (pid {self.pid}) ended at `{command}`")
        return answer.strip()

    def write(self, records):
        """Writes so many records of each type of its role; returns how many it has written by now."""
        answer = self.ask(f"write {records}")
        if not answer.startswith("written "):
            raise AssertionError(answer)
        return int(answer.removeprefix("written "))

    def send(self, number):
        self._child.send_signal(number)

    def kill(self):
        """SIGKILL, and waits until the process is gone."""
        self._child.kill()
        self._child.wait(lib.LIMIT_S)
        self._child.stdin.close()
        self._child.stdout.close()

    def end(self):
        """Closes its producer and exits."""
        self._child.stdin.close()
        self._child.wait(lib.LIMIT_S)
        self._child.stdout.close()


class TestCase(unittest.TestCase):
    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def aggregator(self, *arguments, **options):
        return self.enterContext(lib.Aggregator(self.bus, *arguments, **options))

    def writer(self, role, **options):
        return self.enterContext(Writer(self.bus, role, **options))

    def simulate(self, *arguments):
        """A lingering simulation that has published all, and its truth."""
        path = self.folder / "truth.json"
        simulator = lib.simulate(self.bus, "--speed", "max", "--linger", "--truth", path, *arguments)
        self.enterContext(simulator)
        lib.wait_for(path.exists, "all is published", alive=[simulator])
        return simulator, json.loads(path.read_text())

    def segments(self):
        return [name for name in os.listdir(self.bus) if not name.startswith(".")]

    def wait_until_let_go(self):
        """A dead segment's name goes once both images of the ledger have its counts."""
        lib.wait_for(lambda: not self.segments(), "the dead are let go")

    def assert_counts(self, scrape, records, role, **labels):
        """The series of this role hold what so many records of it add."""
        for name, added in ADDED[role].items():
            self.assertEqual(scrape.total(name, **labels), records * added, name)

    def assert_no_contradiction(self, scrape):
        self.assertEqual(scrape.total("rankbus_checkpoints_mismatches_total"), 0)
        self.assertEqual(scrape.select("rankbus_quarantined"), {})

    def wait_without(self, aggregator, name, **labels):
        """Waits until no such series is exposed any more, and returns the scrape that says so."""

        def scrape_without():
            scrape = aggregator.scrape()
            return scrape if not scrape.select(name, **labels) else None

        return lib.wait_for(scrape_without, f"{name} is gone", alive=[aggregator])


class Coming(TestCase):
    def test_RanksBeforeTheAggregator_AreCountedFromTheirFirstRecord(self):
        for role in ADDED:
            self.assertEqual(self.writer(role).write(3 * SEGMENT_CAPACITY + 7), 3 * SEGMENT_CAPACITY + 7)
        scrape = self.aggregator().scrape()
        for role in ADDED:
            self.assert_counts(scrape, 3 * SEGMENT_CAPACITY + 7, role)
        for gauge, value in GAUGES.items():
            self.assertEqual(scrape.value(gauge), value)
        self.assert_no_contradiction(scrape)

    def test_RanksAfterTheAggregator_AreCountedAtTheNextScrape(self):
        aggregator = self.aggregator()
        for role in ADDED:
            self.writer(role).write(5)
        scrape = aggregator.scrape()
        for role in ADDED:
            self.assert_counts(scrape, 5, role)
        self.assert_no_contradiction(scrape)

    def test_RankThatNeverSawAnAggregator_IsCountedAfterItsDeath(self):
        for end in (Writer.end, Writer.kill):
            with self.subTest(end=end.__name__), lib.temporary_bus() as self.bus:
                with Writer(self.bus, "worker") as worker:
                    worker.write(SEGMENT_CAPACITY + 3)
                    end(worker)
                    with lib.Aggregator(self.bus) as aggregator:
                        scrape = aggregator.scrape()
                        self.assert_counts(scrape, SEGMENT_CAPACITY + 3, "worker")
                        self.assert_no_contradiction(scrape)
                        self.wait_until_let_go()

    def test_LivingRanks_KeepTheirCountsWhenTheAggregatorRestarts(self):
        worker = self.writer("worker")
        with lib.Aggregator(self.bus) as first:
            worker.write(100)
            self.assert_counts(first.scrape(), 100, "worker")
        worker.write(SEGMENT_CAPACITY)
        second = self.aggregator()
        self.assert_counts(second.scrape(), SEGMENT_CAPACITY + 100, "worker")

    def test_RanksReporting_FollowsThemOneByOne(self):
        aggregator = self.aggregator()
        workers = []
        for rank in range(TP):
            workers.append(self.writer("worker", rank=rank))
            scrape = aggregator.scrape()
            self.assertEqual(scrape.value("rankbus_ranks_reporting"), rank + 1)
            self.assertEqual(scrape.value("rankbus_ranks_expected"), TP)
        for left, worker in zip(reversed(range(TP)), workers):
            worker.kill()
            lib.wait_for(
                lambda left=left: aggregator.scrape().value("rankbus_ranks_reporting") == left,
                f"{left} ranks report",
                alive=[aggregator],
            )
        scrape = aggregator.scrape()
        # The moment at which an alert on reporting < expected is needed most.
        self.assertEqual(scrape.value("rankbus_ranks_expected"), TP)
        self.assertEqual(len(scrape.select("rankbus_rank_state", state="dead")), TP)
        self.assertEqual(len(scrape.select("rankbus_source_age_seconds")), TP)

    def test_SeriesOfTheGone_StayUntilRetainAndNoLonger(self):
        aggregator = self.aggregator("--retain", 0)
        with self.writer("worker") as worker, self.writer("scheduler") as scheduler:
            worker.write(3)
            scheduler.write(3)
            self.assert_counts(aggregator.scrape(), 3, "worker")

        def nothing_left():
            return not [s for s in aggregator.scrape().samples if ("model_name", MODEL) in s.labels]

        lib.wait_for(nothing_left, "every series of the engine is gone", alive=[aggregator])


class Dying(TestCase):
    def setUp(self):
        super().setUp()
        self.owner = self.aggregator()

    # C-34
    def test_KilledScheduler_GaugesGoAndCountersStay(self):
        scheduler = self.writer("scheduler")
        scheduler.write(50)
        self.assertEqual(self.owner.scrape().value("vllm:num_requests_running"), 7)
        scheduler.kill()
        scrape = self.wait_without(self.owner, "vllm:num_requests_running")
        self.assert_counts(scrape, 50, "scheduler")
        for gauge in GAUGES:
            self.assertEqual(scrape.select(gauge), {}, gauge)
        self.assertEqual(scrape.value("rankbus_rank_state", role="scheduler", state="dead"), 1)
        self.wait_until_let_go()

    # C-7
    def test_KilledRankWhoseForkedChildLivesOn_IsDead(self):
        worker, scheduler = self.writer("worker"), self.writer("scheduler")
        hold, keep = os.pipe()
        os.set_inheritable(hold, True)
        try:
            with Writer(self.bus, "scheduler", engine=1) as parent:
                parent.write(20)
                answer = parent.ask(f"fork {hold}")
                child = int(answer.split()[1])
                self.assertIn("forked", answer.split(maxsplit=2)[2], "the child's producer says why it is inert")
                self.assertEqual(self.owner.scrape().value("vllm:num_requests_running", engine="1"), 7)
                parent.kill()
                scrape = self.wait_without(self.owner, "vllm:num_requests_running", engine="1")
                os.kill(child, 0)  # Still there, and it holds no rank alive.
            # What the child tried to record was not counted either.
            self.assert_counts(scrape, 20, "scheduler", engine="1")
            for other in (worker, scheduler):
                other.write(1)
            self.assert_counts(self.owner.scrape(), 1, "scheduler", engine="0")
        finally:
            os.close(keep)
            os.close(hold)

    # C-5, C-35
    def test_RestartedRank_ContinuesItsCountersWithoutStepBackOrDouble(self):
        total, seen = 0, 0
        for life in range(25):
            # Some lives are longer than the ring, some leave nothing behind.
            records = (0, 1, 700, SEGMENT_CAPACITY)[life % 4]
            with Writer(self.bus, "worker") as worker:
                if records:
                    worker.write(records)
                total += records
                now = self.owner.scrape().total("rankbus_steps_total")
                self.assertEqual(now, total, f"while life {life} lasts")
                if life % 3 == 0:
                    worker.end()
            after = self.owner.scrape().total("rankbus_steps_total")
            self.assertEqual(after, total, f"after life {life}")
            self.assertGreaterEqual(after, seen)
            seen = after
        scrape = self.owner.scrape()
        self.assert_counts(scrape, total, "worker", rank="0")
        # One identity that came back, not one that ran many times at once.
        self.assertEqual([s for s in scrape.select("rankbus_steps_total") if "lane" in dict(s.labels)], [])
        self.assert_no_contradiction(scrape)

    # C-1
    def test_KilledAtFullSpeed_EveryFinishedRecordIsCountedOnce(self):
        made_for_sure = 0
        lives = 10
        for life in range(lives):
            counter = self.folder / f"made-{life}"
            counter.write_bytes(bytes(8))
            with Writer(self.bus, "worker") as worker, counter.open("r+b") as file:
                with mmap.mmap(file.fileno(), 8) as made:
                    self.assertEqual(worker.ask(f"stream {counter}"), "streaming")
                    lib.wait_for(lambda: struct.unpack("Q", made[:])[0] > 2000 * life, "it writes")
                    worker.kill()
                    made_for_sure += struct.unpack("Q", made[:])[0]
            counted = self.owner.scrape().total("rankbus_steps_total")
            # Each life may have ended between a record and the oracle's note of it.
            self.assertGreaterEqual(counted, made_for_sure)
            self.assertLessEqual(counted, made_for_sure + life + 1)
        scrape = self.owner.scrape()
        self.assert_counts(scrape, scrape.total("rankbus_steps_total"), "worker")
        self.assert_no_contradiction(scrape)

    def test_SegmentThatContradictsItself_IsReadNoMoreAndItsDeadShowNoGauge(self):
        fine = self.writer("scheduler", engine=1)
        fine.write(10)
        with Writer(self.bus, "scheduler") as damaged:
            damaged.write(50)
            self.assert_counts(self.owner.scrape(), 50, "scheduler", engine="0")
            # Somebody who may write the segment takes records back, which no producer ever does.
            with open(f"{self.bus}/{damaged.segment}", "r+b") as file:
                file.seek(int(damaged.ask("where").split()[1]))
                file.write(struct.pack("Q", 3))
            scrape = self.owner.scrape()
            self.assertEqual(scrape.value("rankbus_quarantined", engine="0", role="scheduler"), 1)
            self.assert_counts(scrape, 50, "scheduler", engine="0")
            self.assertIn(damaged.segment, self.owner.stderr())
        scrape = lib.wait_for(
            lambda: (now := self.owner.scrape()).value("rankbus_rank_state", engine="0", state="dead") and now,
            "its writer is seen to be dead",
            alive=[self.owner],
        )
        self.assertEqual(scrape.select("vllm:num_requests_running", engine="0"), {})
        self.assertEqual(scrape.select("rankbus_rank_info", engine="0"), {})
        self.assertEqual(scrape.value("rankbus_quarantined"), 1)
        self.assert_counts(scrape, 50, "scheduler", engine="0")
        self.assertEqual(self.segments().count(damaged.segment), 1, "it stays for people to look at")
        # Neither a successor nor another engine is touched by it.
        self.writer("scheduler").write(7)
        fine.write(1)
        scrape = self.owner.scrape()
        self.assert_counts(scrape, 57, "scheduler", engine="0")
        self.assert_counts(scrape, 11, "scheduler", engine="1")
        self.assertEqual(scrape.value("vllm:num_requests_running", engine="0"), 7)

    # C-5
    def test_TwoLivingProcessesOfOneIdentity_GetLanesAndAddUp(self):
        first, second = self.writer("frontend"), self.writer("frontend")
        first.write(10)
        second.write(30)
        scrape = self.owner.scrape()
        self.assert_counts(scrape, 40, "frontend")
        lanes = {dict(s.labels).get("lane", "0"): value for s, value in scrape.select(
            "rankbus_records_total", stream="iteration_stats").items()}
        self.assertEqual(lanes, {"0": 10, "1": 30})
        second.kill()
        self.assert_counts(self.owner.scrape(), 40, "frontend")

    # C-6
    def test_StoppedProcess_IsAliveAndKeepsItsGauges(self):
        scheduler = self.writer("scheduler")
        scheduler.write(1)
        scheduler.send(signal.SIGSTOP)
        lib.wait_for(
            lambda: self.owner.scrape().value("rankbus_rank_state", role="scheduler", state="stopped") == 1,
            "it is seen to be stopped",
            alive=[self.owner],
        )
        self.assertEqual(self.owner.scrape().value("vllm:num_requests_running"), 7)
        scheduler.send(signal.SIGCONT)
        lib.wait_for(
            lambda: self.owner.scrape().value("rankbus_rank_state", role="scheduler", state="ok") == 1,
            "it goes on",
            alive=[self.owner],
        )

    # C-35
    def test_SimulatedProcessesKilledOneByOne_NeverChangeACounter(self):
        simulator, truth = self.simulate("--tp", TP, "--workload", "generated:300")

        def compare(scrape):
            kinds = ("counters", "sums")
            comparison = compare_truth.compare(truth, scrape.samples, kinds=kinds)
            self.assertTrue(comparison.equal(), "\n".join(comparison.differences[:10]))

        pids = {}
        for series in self.owner.scrape().select("rankbus_rank_info"):
            labels = dict(series.labels)
            pids[labels["role"], labels["rank"]] = int(labels["pid"])
        self.assertEqual(len(pids), TP + 2)
        for number, ((role, rank), pid) in enumerate(sorted(pids.items()), 1):
            os.kill(pid, signal.SIGKILL)
            scrape = self.wait_without(self.owner, "rankbus_rank_info", role=role, rank=rank)
            self.assertEqual(len(scrape.select("rankbus_rank_info")), TP + 2 - number)
            compare(scrape)
            lib.wait_for(lambda pid=pid: f"(pid {pid})" in simulator.stderr(), "the simulator tells of it")
        self.assertEqual(self.owner.scrape().value("rankbus_ranks_reporting"), 0)
        self.assertEqual(simulator.stop(), 0)
        compare(self.owner.scrape())


class Owning(TestCase):
    def test_SecondAggregator_IsRefusedAndToldWhatToDo(self):
        owner = self.aggregator()
        self.writer("worker").write(3)
        second = lib.run_rankbus("aggregate", "--bus", self.bus, "--listen", f"127.0.0.1:{lib.free_port()}")
        self.assertEqual(second.returncode, 1)
        for part in (self.bus, "another aggregator owns this bus", "--observe", "--bus"):
            self.assertIn(part, second.stderr)
        self.assertEqual(len(second.stderr.splitlines()), 1, "one sentence is enough")
        self.assert_counts(owner.scrape(), 3, "worker")

    def test_AnotherBus_MayHaveItsOwnAggregator(self):
        self.aggregator()
        with lib.temporary_bus() as other:
            self.enterContext(lib.Aggregator(other))

    def test_AfterTheOwner_TheNextOneMayCome(self):
        with lib.Aggregator(self.bus) as killed:
            killed.kill()
        self.aggregator()

    def test_Observer_SeesWhatTheOwnerSees(self):
        owner = self.aggregator()
        self.simulate("--engines", 2, "--tp", 2, "--workload", "generated:100")
        observer = self.aggregator("--observe")
        theirs = {s: v for s, v in owner.scrape().samples.items() if s.name.startswith("vllm:")}
        seen = {s: v for s, v in observer.scrape().samples.items() if s.name.startswith("vllm:")}
        self.assertEqual(seen, theirs)
        self.assertTrue(seen)

    def test_ObserverBesideTheOwner_CountsTheDeadOnceToo(self):
        owner, observer = self.aggregator(), self.aggregator("--observe")
        for records in (5, SEGMENT_CAPACITY):
            with Writer(self.bus, "worker") as worker:
                worker.write(records)
                # Whoever has seen a segment can read it to its end, also after the owner removed its name.
                self.assertEqual(observer.scrape().value("rankbus_ranks_reporting"), 1)
        for aggregator in (owner, observer):
            self.assert_counts(aggregator.scrape(), SEGMENT_CAPACITY + 5, "worker")
            self.assert_no_contradiction(aggregator.scrape())
        self.wait_until_let_go()

    def test_Observer_RemovesNothing(self):
        with Writer(self.bus, "worker") as worker:
            worker.write(10)
        before = sorted(os.listdir(self.bus))
        with lib.Aggregator(self.bus, "--observe") as observer:
            self.assert_counts(observer.scrape(), 10, "worker")
            # However often it looks, the dead count once.
            self.assert_counts(observer.scrape(), 10, "worker")
            self.assertEqual(observer.stop(), 0)
        self.assertEqual(sorted(os.listdir(self.bus)), before)
        owner = self.aggregator()
        self.assert_counts(owner.scrape(), 10, "worker")
        self.wait_until_let_go()


# vLLM's words. Its parser in people's dashboards and scripts is a regular expression like this one.
LINE = re.compile(
    r"INFO \d\d-\d\d \d\d:\d\d:\d\d \[rankbus\] "
    r"(?P<who>Engine \d{3}|\d+ Engines Aggregated): "
    r"Avg prompt throughput: (?P<prompt>\d+\.\d) tokens/s, "
    r"Avg generation throughput: (?P<generation>\d+\.\d) tokens/s, "
    r"Running: (?P<running>\d+) reqs, Waiting: (?P<waiting>\d+) reqs, "
    r"(Preemptions: \d+, )?"
    r"GPU KV cache usage: (?P<usage>\d+\.\d)%, Prefix cache hit rate: (?P<hits>\d+\.\d)%"
)


class Logging(TestCase):
    def lines(self, text):
        """Every throughput line of the text, in order; a line that only resembles one is an error."""
        found = []
        for line in text.splitlines():
            match = LINE.fullmatch(line)
            if match:
                found.append(match)
            elif "throughput" in line:
                self.fail(f"no throughput line as vLLM words it: {line}")
        return found

    def engine(self, number):
        """A scheduler and a front end."""
        return self.writer("scheduler", engine=number), self.writer("frontend", engine=number)

    def test_ThroughputLines_AreVllmsPerEngineAndAggregated(self):
        aggregator = self.aggregator("--log-interval", 0.2)
        writers = [*self.engine(0), *self.engine(1)]

        def interval_of_both():
            for writer in writers:
                writer.write(10)
            lines = self.lines(aggregator.stderr())
            last = {line["who"]: line for line in lines[-3:]}
            complete = last.keys() == {"Engine 000", "Engine 001", "2 Engines Aggregated"}
            moving = complete and all(float(line["prompt"]) > 0 for line in last.values())
            return [last[who] for who in sorted(last)] if moving else None

        both, *engines = lib.wait_for(interval_of_both, "a line of each engine and one of both", alive=[aggregator])
        for engine in engines:
            self.assertEqual((engine["running"], engine["waiting"]), ("7", "5"))
            # Tokens of one record: 2 of the prompt, 3 generated.
            self.assertAlmostEqual(float(engine["generation"]) / float(engine["prompt"]), 1.5, 1)
        self.assertEqual((both["running"], both["waiting"]), ("14", "10"))
        for line in (both, *engines):
            self.assertEqual((line["usage"], line["hits"]), ("25.0", "40.0"))

    def test_OneEngine_HasNoAggregatedLine(self):
        aggregator = self.aggregator("--log-interval", 0.1)
        for writer in self.engine(0):
            writer.write(10)
        lib.wait_for(lambda: len(self.lines(aggregator.stderr())) >= 2, "two lines", alive=[aggregator])
        self.assertEqual({line["who"] for line in self.lines(aggregator.stderr())}, {"Engine 000"})

    def test_EndBySignal_ReadsAndLogsWhatWasWrittenJustBefore(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number.name), lib.temporary_bus() as self.bus:
                log = self.folder / f"{number.name}.log"
                # No interval ends and nobody scrapes: whatever is told, the end tells.
                with (
                    lib.Aggregator(self.bus, "--log-interval", 80_000, "--log-file", log) as aggregator,
                    Writer(self.bus, "scheduler") as scheduler,
                    Writer(self.bus, "frontend") as front_end,
                ):
                    scheduler.write(10)
                    front_end.write(100_000)
                    self.assertEqual(aggregator.stop(number), 0)
                    (line,) = self.lines(aggregator.stderr())
                    self.assertEqual(line["who"], "Engine 000")
                    self.assertGreater(float(line["generation"]), 0)
                    self.assertEqual((line["running"], line["hits"]), ("7", "40.0"))
                    self.assertEqual(log.read_text(), aggregator.stderr(), "the file holds what stderr shows")
                    self.assertTrue(aggregator.stderr().endswith(f"Ended after a last read of {self.bus}\n"))

    def test_LogFile_HoldsEachLineAtOnceAndIsReopenedAfterARename(self):
        log, rotated = self.folder / "rankbus.log", self.folder / "rankbus.log.1"
        aggregator = self.aggregator("--log-interval", 0.1, "--log-file", log)
        writers = self.engine(0)

        def busy(file):
            for writer in writers:
                writer.write(10)
            return file.exists() and len(self.lines(file.read_text())) >= 2

        lib.wait_for(lambda: busy(log), "whole lines in the file", alive=[aggregator])
        log.rename(rotated)
        before = len(self.lines(rotated.read_text()))
        # Until it is told, it goes on in the file that it has.
        lib.wait_for(
            lambda: busy(rotated) and len(self.lines(rotated.read_text())) > before, "more lines", alive=[aggregator]
        )
        self.assertFalse(log.exists())
        aggregator.send(signal.SIGHUP)
        lib.wait_for(lambda: busy(log), "lines in the new file", alive=[aggregator])
        end = rotated.read_text()
        lib.wait_for(lambda: busy(log) and len(self.lines(log.read_text())) >= 4, "more of them", alive=[aggregator])
        self.assertEqual(rotated.read_text(), end, "nothing is written to the old file any more")
        self.assertEqual(aggregator.stop(), 0)
        self.assertEqual(rotated.read_text() + log.read_text(), aggregator.stderr(), "no line lost, none twice")

    def test_LogFileThatCannotBeReopened_KeepsTheOldOneAndSaysSo(self):
        folder = self.folder / "logs"
        folder.mkdir()
        aggregator = self.aggregator("--log-file", folder / "rankbus.log")
        folder.rename(self.folder / "moved")
        aggregator.send(signal.SIGHUP)
        lib.wait_for(
            lambda: "lines go on into the old file" in aggregator.stderr(), "it says so", alive=[aggregator]
        )
        self.assertIn(str(folder / "rankbus.log"), (self.folder / "moved/rankbus.log").read_text())


if __name__ == "__main__":
    lib.main()
