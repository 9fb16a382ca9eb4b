"""Goal:   RANKBUS_RECORD_CALLS keeps what vLLM said, so that `rankbus replay` makes the same /metrics of it; it keeps
        no client's text, is nobody else's to read, and has an end.
Method: stand-ins for vLLM play seeded statistics with the variable set; the files are read as JSON, and replayed into a
        second bus whose /metrics are compared with the second opinion of the process that was recorded.
Replay: ctest --test-dir build/release -R e2e_vllm_calls -V
"""

import contextlib
import gzip
import json
import os
import pathlib
import stat
import sys
import tempfile
import unittest

import lib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vllm_generations"))

import drivers  # noqa: E402

SEED = 20261122
STEPS = 30
CAN_REPLAY = lib.run_rankbus("replay", "--help").returncode == 0
FEATURES = {
    "config": {
        "speculative_config": {"num_speculative_tokens": 3},
        "observability_config": {"kv_cache_metrics": True, "enable_mfu_metrics": True, "cudagraph_metrics": True},
        "lora_config": {"max_loras": 4},
        "kv_transfer_config": {"kv_connector": "NixlConnector"},
    },
    "connector": "nixl",
    "spec_tokens": 3,
    "features": ["spec", "evictions", "mfu", "lora", "graphs"],
}
OFFLOADING = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": {"store_threshold": 2}}


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class RecordedCalls(unittest.TestCase):
    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def record(self, plan, name="calls.jsonl", generation="current", **env):
        """Plays, ends the process, and returns what it expected with the file that it was told to write."""
        path = self.folder / name
        env = {"RANKBUS_RECORD_CALLS": str(path), **env}
        with drivers.Driver(plan, self.bus, generation, env) as driver:
            answer = driver.ask("play", seed=SEED, steps=STEPS)
            self.assertEqual(driver.end(), 0, driver.stderr())
            self.said = driver.stderr()
        return answer, path

    def read(self, path):
        text = gzip.open(path, "rt").read() if path.suffix == ".gz" else path.read_text()
        return [json.loads(line) for line in text.splitlines()]

    def test_File_HasAHeaderAndTheCallsInVllmsWords(self):
        _, path = self.record(FEATURES)
        header, *calls = self.read(path)
        self.assertEqual(header["model_name"], "fake-7b")
        self.assertEqual(header["max_model_len"], 4096)
        self.assertEqual(header["num_speculative_tokens"], 3)
        self.assertEqual(header["engines"], [0])
        self.assertEqual(header["cache_config"]["num_gpu_blocks"], "1234")
        self.assertIn("connector:nixl", header["features"])
        self.assertEqual(len(calls), STEPS)
        self.assertEqual(sorted(call["t"] for call in calls), [call["t"] for call in calls])
        self.assertLessEqual({"num_running_reqs", "kv_cache_usage", "prefix_cache_stats"}, calls[0]["scheduler"].keys())
        finished = [r for call in calls if call["iteration"] for r in call["iteration"]["finished_requests"]]
        reasons = {request["finish_reason"] for request in finished}
        self.assertEqual(reasons, {"stop", "length", "abort", "error", "repetition"})

    def test_RequestIds_AreHashedUnlessAskedOtherwise(self):
        _, path = self.record({})
        self.assertNotIn("of-a-client", path.read_text())
        _, path = self.record({}, "plain.jsonl", RANKBUS_RECORD_CALLS_IDS="plain")
        self.assertIn("of-a-client", path.read_text())

    def test_File_IsForItsOwnerAloneAndNeverWrittenTwice(self):
        _, path = self.record({})
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        before = path.read_bytes()
        self.record({})
        self.assertEqual(path.read_bytes(), before)
        others = sorted(self.folder.iterdir())
        self.assertEqual(len(others), 2)
        self.assertRegex(str(others[1 - others.index(path)]), r"calls\.jsonl\.\d+$")

    def test_SeveralProcesses_WriteAFileEach(self):
        path = self.folder / "calls.jsonl.gz"
        plan = {"start": "fork", "clients": 3}
        with drivers.Driver(plan, self.bus, env={"RANKBUS_RECORD_CALLS": str(path)}) as driver:
            for client in range(3):
                driver.ask("play", client=client, seed=SEED, steps=STEPS)
                driver.ask("log", client=client)
            files = sorted(self.folder.iterdir())
            self.assertEqual(len(files), 3)
            for file in files:
                self.assertTrue(file.name.endswith(".gz"))
                # Flushed by log(), though the process still has it open.
                self.assertGreater(len(read_whole_lines(file)), STEPS / 2)
            for client in range(3):
                driver.ask("scheduler", client=client, engine=0)
            driver.end()
        for file in files:
            self.assertEqual(self.read(file)[-1]["iteration"], None, "the last call, made just before the end")

    def test_FullFile_EndsAtALineAndSaysSo(self):
        _, path = self.record({}, RANKBUS_RECORD_CALLS_MAX_BYTES="20000")
        self.assertLessEqual(path.stat().st_size, 20000)
        self.assertGreater(len(self.read(path)), 2)
        self.assertIn("RANKBUS_RECORD_CALLS_MAX_BYTES", self.said)

    def test_FileThatCannotBeWritten_LeavesVllmRunning(self):
        answer, _ = self.record({}, "no-such-folder/calls.jsonl")
        self.assertIn("totals", answer)
        self.assertIn("ends the recording", self.said)

    def test_ForkedChild_WritesNothingIntoItsParentsFile(self):
        path = self.folder / "calls.jsonl"
        with drivers.Driver({}, self.bus, env={"RANKBUS_RECORD_CALLS": str(path)}) as driver:
            driver.ask("play", seed=SEED, steps=STEPS)
            driver.ask("fork")
            driver.end()
        self.assertEqual(len(self.read(path)), 1 + STEPS + 1)

    @unittest.skipUnless(CAN_REPLAY, "this rankbus has no replay")
    def test_Replayed_GivesTheSameMetrics(self):
        cases = [(FEATURES, generation) for generation in ("0.11", "0.15", "current", "branches")]
        for kind in ("offloading_1", "offloading_prefixed", "offloading_flat", "offloading_labelled", "multi"):
            config = OFFLOADING
            if kind == "multi":
                children = {"connectors": [{"kv_connector": "NixlConnector"}, OFFLOADING]}
                config = {"kv_connector": "MultiConnector", "kv_connector_extra_config": children}
            cases.append(({"connector": kind, "config": {"kv_transfer_config": config}}, "current"))
        for number, (plan, generation) in enumerate(cases):
            with self.subTest(connector=plan["connector"], generation=generation):
                answer, path = self.record({**plan, "engines": [0, 1]}, f"{number}.jsonl.gz", generation)
                expected = drivers.added(answer) | drivers.added(answer, kind="gauges")
                with self.replayed(path) as aggregator:
                    self.assertEqual(drivers.differences(expected, aggregator.scrape()), [])

    @unittest.skipUnless(CAN_REPLAY, "this rankbus has no replay")
    def test_AdaptersReplayed_HaveTheLabelsTheyHad(self):
        with lib.Aggregator(self.bus) as aggregator:
            path = self.folder / "calls.jsonl"
            with drivers.Driver(FEATURES, self.bus, env={"RANKBUS_RECORD_CALLS": str(path)}) as driver:
                driver.ask("scheduler", engine=0, running_lora_adapters={"sql": 2, "poems": 0})
                recorded = aggregator.scrape().select("vllm:lora_requests_info")
        with self.replayed(path) as aggregator:
            shown = aggregator.scrape().select("vllm:lora_requests_info")
        self.assertEqual({dict(series.labels)["max_lora"] for series in recorded}, {"4"})
        self.assertEqual(shown.keys(), recorded.keys())

    @unittest.skipUnless(CAN_REPLAY, "this rankbus has no replay")
    def test_UnusualStatisticsReplayed_CountAsTheyDid(self):
        path = self.folder / "calls.jsonl"
        with lib.Aggregator(self.bus) as aggregator:
            with drivers.Driver(FEATURES, self.bus, env={"RANKBUS_RECORD_CALLS": str(path)}) as driver:
                driver.ask("unusual")
                recorded = counts(aggregator.scrape())
        with self.replayed(path) as aggregator:
            shown = counts(aggregator.scrape())
        self.assertEqual({lib.show_series(s): v for s, v in shown.items()},
                         {lib.show_series(s): v for s, v in recorded.items()})  # fmt: skip
        told = {s.name: value for s, value in recorded.items()}
        self.assertEqual(told["vllm:nixl_xfer_time_seconds_count"], 2)
        self.assertEqual(told["vllm:nixl_bytes_transferred_count"], 3)
        self.assertEqual(told["vllm:e2e_request_latency_seconds_count"], 1)

    @unittest.skipUnless(CAN_REPLAY, "this rankbus has no replay")
    def test_FilesOfSeveralApiServers_ReplayedAsOneServerAddUp(self):
        path = self.folder / "calls.jsonl"
        plan = {"start": "fork", "clients": 2}
        with drivers.Driver(plan, self.bus, env={"RANKBUS_RECORD_CALLS": str(path)}) as driver:
            answers = [driver.ask("play", client=client, seed=SEED, steps=STEPS) for client in range(2)]
            driver.end()
        files = sorted(self.folder.iterdir())
        self.assertEqual(len(files), 2)
        with lib.temporary_bus() as bus, lib.Aggregator(bus) as aggregator:
            for file in files:  # As VLLM.md says: one after the other, and of one run.
                command = ("replay", file, "--bus", bus, "--speed", "max")
                replay = lib.run_rankbus(*command, env={"RANKBUS_RUN_ID": "one-run"})
                self.assertEqual(replay.returncode, 0, replay.stderr)
            self.assertEqual(drivers.differences(drivers.added(*answers), aggregator.scrape()), [])

    @contextlib.contextmanager
    def replayed(self, file):
        """An aggregator of its own that has seen all of a file, while the replay keeps its gauges."""
        with contextlib.ExitStack() as stack:
            bus = stack.enter_context(lib.temporary_bus())
            aggregator = stack.enter_context(lib.Aggregator(bus))
            replay = stack.enter_context(lib.Process("replay", file, "--bus", bus, "--speed", "max", "--linger"))
            lib.wait_for(lambda: "all is published" in replay.stderr(), "it is replayed", alive=[replay])
            yield aggregator


def counts(scrape):
    """{Series: value} of vLLM's counters and histograms."""
    ends = ("_total", "_count", "_sum", "_bucket")
    return {s: value for s, value in scrape.samples.items() if s.name.startswith("vllm:") and s.name.endswith(ends)}


def read_whole_lines(path):
    """The lines of a gzip file that is still being written."""
    lines = []
    with gzip.open(path, "rt") as file, contextlib.suppress(EOFError):
        for line in file:
            lines.append(json.loads(line))
    return lines


if __name__ == "__main__":
    lib.main()
