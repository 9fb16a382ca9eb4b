# Labels: multiprocess-heavy
"""Goal:   after a whole trace, /metrics says exactly what the simulator counted without the bus.
Method: replay the conversation trace (the generated workload without it) on 2 engines x TP 4 at full speed under
        a running aggregator. Compare every series with the truth file while all processes linger, and again
        after they have gone. Then shorter runs: the same command twice, a named server, two servers at once.
Replay: ctest --test-dir build/release -R e2e_trace_truth -V
"""

import contextlib
import json
import os
import pathlib
import tempfile
import unittest
import urllib.parse

import compare_truth
import lib

ENGINES, TP = 2, 4
PROCESSES = ENGINES * (1 + 1 + TP)  # A scheduler, a front end and the ranks of each engine.
# About as many requests as the trace has, so that the counts are of the same size.
GENERATED = "generated:12000"
WORKLOAD = ("--workload", GENERATED) if lib.TRACE is None else ("--trace", lib.TRACE)
RUN = ("--engines", ENGINES, "--tp", TP, "--speed", "max")
SHORT_RUN = ("--engines", 2, "--tp", 2, "--speed", "max", "--workload", "generated:200")


def read_truth(path):
    return json.loads(path.read_text())


def wait_for_truth(path, *alive):
    """Waits until all is published. The truth file appears in one piece, after the last record."""
    lib.wait_for(path.exists, f"{path.name} is written", 600, alive)
    return read_truth(path)


def parent_of(pid):
    """The parent's process id. The name before it is in parentheses and may hold anything."""
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def nobody_reports(scrape):
    return scrape.total("rankbus_ranks_reporting") == 0


def segments_of(bus):
    return [name for name in os.listdir(bus) if not name.startswith(".")]


class TestCase(unittest.TestCase):
    def assert_equal_to_truth(self, truth, samples, **options):
        comparison = compare_truth.compare(truth, samples, **options)
        shown = "\n".join(comparison.differences[:20])
        self.assertTrue(comparison.equal(), f"{comparison.summary()}\n{shown}")


class WholeTrace(TestCase):
    """One run for all tests of this class: scrapes while its processes linger, and after they have gone."""

    @classmethod
    def setUpClass(cls):
        if lib.TRACE is None:
            print("the generated workload takes the trace's place")
        with contextlib.ExitStack() as cleanup:
            bus = cleanup.enter_context(lib.temporary_bus())
            folder = pathlib.Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
            aggregator = cleanup.enter_context(lib.Aggregator(bus))
            simulator = cleanup.enter_context(
                lib.simulate(bus, *RUN, *WORKLOAD, "--linger", "--truth", folder / "truth.json")
            )
            cls.truth = wait_for_truth(folder / "truth.json", aggregator, simulator)
            cls.during = aggregator.scrape()
            cls.engine_1 = aggregator.scrape("/metrics?engine=1")
            cls.no_engine = aggregator.scrape("/metrics?engine=2")
            cls.parents = {pid: parent_of(pid) for pid in map(int, cls.labels(cls.during, "pid"))}
            cls.simulator_pid = simulator.pid
            cls.exit_status = simulator.stop()
            lib.wait_for(lambda: nobody_reports(aggregator.scrape()), "the ranks are gone", alive=[aggregator])
            cls.after = aggregator.scrape()
            # Names go once both images of the ledger have the counts; nobody is left who would add one.
            lib.wait_for(lambda: not segments_of(bus), "the dead are let go", alive=[aggregator])
            cls.files_left = segments_of(bus)
            # Without an aggregator this time: whoever reads must not change what is written.
            cleanup.enter_context(lib.removed_at_end(f"{bus}-again"))
            again = lib.run_rankbus(
                *("simulate", "--bus", f"{bus}-again", *RUN, *WORKLOAD, "--truth", folder / "again.json"), limit=600
            )
            cls.again = again
            cls.first_bytes = (folder / "truth.json").read_bytes()
            cls.second_bytes = (folder / "again.json").read_bytes()

    @staticmethod
    def labels(scrape, name):
        return [dict(series.labels)[name] for series in scrape.select("rankbus_rank_info")]

    # C-36
    def test_WhileProcessesLinger_EverySeriesEqualsTheTruth(self):
        self.assert_equal_to_truth(self.truth, self.during.samples)

    def test_AfterExit_EveryCounterStays(self):
        self.assert_equal_to_truth(self.truth, self.after.samples, kinds=("counters", "sums"))

    def test_AfterExit_EveryGaugeOfTheTruthIsGone(self):
        self.assertTrue(self.truth["gauges"])
        names = {compare_truth.truth_series(text, 0)[0].name for text in self.truth["gauges"]}
        left = [lib.show_series(series) for series in self.after.samples if series.name in names]
        self.assertEqual(left, [])

    @unittest.skipIf(lib.TRACE is None, lib.NO_TRACE)
    def test_TheTrace_IsServedToItsLastToken(self):
        self.assertEqual(self.during.total("vllm:request_success_total"), 12_031)
        self.assertEqual(self.during.total("vllm:prompt_tokens_total"), 144_793_823)
        self.assertEqual(self.during.total("vllm:generation_tokens_total"), 4_122_048)

    def test_EveryPartOfEachEngine_IsAProcessOfItsOwn(self):
        self.assertEqual(len(set(self.labels(self.during, "pid"))), PROCESSES)
        self.assertEqual(set(self.parents.values()), {self.simulator_pid})
        places = [
            tuple(dict(series.labels)[name] for name in ("engine", "role", "rank"))
            for series in self.during.select("rankbus_rank_info")
        ]
        expected = []
        for engine in map(str, range(ENGINES)):
            expected += [(engine, "scheduler", ""), (engine, "frontend", "")]
            expected += [(engine, "worker", str(rank)) for rank in range(TP)]
        self.assertEqual(sorted(places), sorted(expected))

    def test_EachEngine_ReportsItsRanksWhileTheyLive(self):
        for engine in map(str, range(ENGINES)):
            self.assertEqual(self.during.value("rankbus_ranks_expected", engine=engine), TP)
            self.assertEqual(self.during.value("rankbus_ranks_reporting", engine=engine), TP)
            self.assertEqual(self.after.value("rankbus_ranks_reporting", engine=engine), 0)

    def test_EveryProcess_HasVerifiedCheckpointsAndNoMismatch(self):
        for scrape in (self.during, self.after):
            mismatches = scrape.select("rankbus_checkpoints_mismatches_total")
            self.assertEqual(len(mismatches), PROCESSES)
            self.assertEqual({lib.show_series(s): v for s, v in mismatches.items() if v != 0}, {})
            self.assertEqual(scrape.select("rankbus_quarantined"), {})
        # A producer that ends writes a last checkpoint, so whoever followed it has something to compare.
        verified = self.after.select("rankbus_checkpoints_verified_total")
        self.assertEqual(len(verified), PROCESSES)
        self.assertEqual([lib.show_series(s) for s, v in verified.items() if v == 0], [])

    def test_EveryRank_CountsItsRecords(self):
        for engine in map(str, range(ENGINES)):
            steps = self.during.total("rankbus_records_total", engine=engine, stream="scheduler_step")
            self.assertGreater(steps, 0)
            for rank in map(str, range(TP)):
                rank_steps = self.during.value("rankbus_steps_total", engine=engine, rank=rank)
                self.assertEqual(rank_steps, steps, f"engine {engine}, rank {rank}")
                collectives = self.during.value(
                    "rankbus_records_total", engine=engine, rank=rank, stream="collective"
                )
                lost = self.during.value(
                    "rankbus_samples_lost_total", engine=engine, rank=rank, stream="collective", cause="lapped"
                )
                # This stream is samples only: whoever comes late knows at least how many there were.
                self.assertGreaterEqual(collectives, 2 * steps)
                self.assertLessEqual(lost, collectives)

    def test_ViewOfOneEngine_ShowsThatEngineAndNothingElse(self):
        engine_1 = {
            series: value for series, value in self.during.samples.items() if ("engine", "1") in series.labels
        }
        own = {series for series in engine_1 if series.name.startswith("vllm:")}
        self.assertEqual(set(self.engine_1.samples), set(engine_1))
        for series in own:
            self.assertEqual(self.engine_1.samples[series], engine_1[series], lib.show_series(series))

    def test_ViewOfAnUnknownEngine_IsEmpty(self):
        self.assertEqual(self.no_engine.samples, {})

    def test_Exit_IsClean(self):
        self.assertEqual(self.exit_status, 0)

    def test_TheDead_LeaveNoFileBehind(self):
        self.assertEqual(self.files_left, [])

    def test_SameCommandAgain_WritesTheSameTruthByteForByte(self):
        self.assertEqual(self.again.returncode, 0, self.again.stderr)
        self.assertEqual(self.first_bytes, self.second_bytes)


class Servers(TestCase):
    """Whose series are whose, when servers are named and when they are not."""

    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.aggregator = self.enterContext(lib.Aggregator(self.bus))

    def start(self, name, *arguments, **environment):
        """Runs a short simulation until all is published; returns its truth. It lives until the test ends."""
        path = self.folder / f"{name}.json"
        simulator = lib.simulate(
            self.bus, *SHORT_RUN, "--linger", "--truth", path, *arguments, env=environment
        )
        self.enterContext(simulator)
        return wait_for_truth(path, self.aggregator, simulator)

    def view(self, server):
        return self.aggregator.scrape(f"/metrics?server={urllib.parse.quote(server)}")

    def test_NamedServer_EverySeriesOfItBearsTheName(self):
        truth = self.start("named", RANKBUS_SERVER="chat-eu")
        scrape = self.aggregator.scrape()
        self.assert_equal_to_truth(truth, scrape.samples)
        unlabelled = [
            lib.show_series(series)
            for series in scrape.samples
            if "model_name" in dict(series.labels) and ("server", "chat-eu") not in series.labels
        ]
        self.assertEqual(unlabelled, [])

    def test_PodName_IsTheServerWhereNobodyNamedOne(self):
        truth = self.start("pod", POD_NAME="chat-7f9c")
        self.assert_equal_to_truth(truth, self.view("chat-7f9c").samples)

    def test_TwoNamedServersOfOneModel_StayApart(self):
        # Different seeds, or each could be shown in the other's place.
        blue = self.start("blue", "--server", "blue", "--seed", 1)
        green = self.start("green", "--server", "green", "--seed", 2)
        self.assertNotEqual(blue["counters"], green["counters"])
        self.assert_equal_to_truth(blue, self.view("blue").samples)
        self.assert_equal_to_truth(green, self.view("green").samples)
        both = {kind: blue[kind] | green[kind] for kind in ("counters", "sums", "gauges")}
        self.assert_equal_to_truth(both, self.aggregator.scrape().samples)

    def test_SecondUnnamedServer_IsToldApartByItsRunIdWithAWarning(self):
        first_run, second_run = "1" * 32, "2" * 32
        first = self.start("first", "--seed", 1, RANKBUS_RUN_ID=first_run)
        before = self.aggregator.scrape()
        self.assert_equal_to_truth(first, before.samples)
        second = self.start("second", "--seed", 2, RANKBUS_RUN_ID=second_run)
        after = self.aggregator.scrape()

        def without_server(samples):
            return {
                lib.Series(series.name, series.labels - {("server", second_run)}): value
                for series, value in samples.items()
            }

        unlabelled = {s: v for s, v in after.samples.items() if "server" not in dict(s.labels)}
        self.assert_equal_to_truth(first, unlabelled)
        self.assert_equal_to_truth(second, without_server(self.view(second_run).samples))
        self.assertIn(second_run, self.aggregator.stderr())
        self.assertIn("RANKBUS_SERVER", self.aggregator.stderr())

    def test_ViewOfAnUnknownServer_IsEmpty(self):
        self.start("named", "--server", "blue")
        self.assertEqual(self.view("green").samples, {})


if __name__ == "__main__":
    lib.main()
