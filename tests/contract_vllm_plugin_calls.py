"""Goal:   a recording of calls holds the fields that rankbus knows, each number in its place, and no text of a client's.
Method: recordings of statistics that carry texts where no release has them, numbers of several libraries, and numbers
        that are none; read back as JSON.
Replay: /usr/bin/python3 -B tests/contract_vllm_plugin_calls.py
"""

import json
import math
import os
import pathlib
import sys
import tempfile
import unittest
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "vllm_generations"))

import drivers  # noqa: E402
import in_process  # noqa: E402, F401
import lib  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None

CLIENTS = "of-a-client"  # In every text that must not be found in a recording.
CONNECTORS = {
    "NixlConnector": {"transfer_duration": [0.5], "num_failed_transfers": [1]},
    "MoRIIOConnector": {"transfer_duration": [0.5]},
    "MooncakeConnector": {"transfer_duration": [0.5], "num_failed_recvs": [1]},
    "HiSparseConnector": {"cache_hits": [3]},
    "OffloadingConnector": {"load_bytes": 7, "load_size": [7]},
}


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class RecordedCalls(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def recording(self, scheduler=None, iteration=None, mm=None, env=(), **config):
        """(header, call) as they stand in a file."""
        from rankbus.vllm.calls import CallRecording
        from rankbus.vllm.features import Features
        from vllm.config import VllmConfig

        path = self.folder / f"{len(list(self.folder.iterdir()))}.jsonl"
        with mock.patch.dict(os.environ, env):
            recording = CallRecording(str(path), Features(VllmConfig(**config)))
        recording.record(0, scheduler, iteration, mm)
        recording.close()
        self.text = path.read_text()
        return [json.loads(line) for line in self.text.splitlines()]

    def connector_stats(self, payload, connector="NixlConnector", **extra):
        from vllm.v1.metrics.stats import SchedulerStats

        config = {"kv_connector": connector, **extra}
        _, call = self.recording(SchedulerStats(kv_connector_stats=payload), kv_transfer_config=config)
        return call["scheduler"]["kv_connector_stats"]

    def finished(self, **fields):
        from vllm.v1.metrics import stats as v

        request = SimpleNamespace(**{**vars(v.FinishedRequestStats()), **fields})
        return v.IterationStats(finished_requests=[request])

    # No text of a client's.

    def test_IdsUnderOtherNames_AreNotWritten(self):
        names = ("external_req_id", "external_request_id", "client_id", "prompt")
        iteration = self.finished(request_id=CLIENTS, **dict.fromkeys(names, CLIENTS))
        for name in names:
            setattr(iteration, name, {CLIENTS: [CLIENTS]})
        _, call = self.recording(iteration=iteration)
        self.assertNotIn(CLIENTS, self.text)
        request, = call["iteration"]["finished_requests"]
        self.assertRegex(request["request_id"], "^[0-9a-f]{16}$")
        self.assertNotIn("external_req_id", request)

    def test_IdsAskedFor_AreThoseOfRequestsAlone(self):
        iteration = self.finished(request_id="asked-for", external_req_id=CLIENTS)
        _, call = self.recording(iteration=iteration, env={"RANKBUS_RECORD_CALLS_IDS": "plain"})
        self.assertEqual(call["iteration"]["finished_requests"][0]["request_id"], "asked-for")
        self.assertNotIn(CLIENTS, self.text)

    def test_TextWhereNumbersBelong_IsNull(self):
        from vllm.v1.metrics import stats as v

        scheduler = v.SchedulerStats(num_running_reqs=CLIENTS, kv_cache_usage={CLIENTS: 1}, perf_stats=CLIENTS)
        scheduler.prefix_cache_stats = SimpleNamespace(queries=5, hits=CLIENTS, seen=CLIENTS)
        scheduler.running_lora_adapters = {"sql": CLIENTS}
        iteration = self.finished(finish_reason=CLIENTS, e2e_latency=CLIENTS)
        iteration.inter_token_latencies_iter = [0.5, CLIENTS, 0.25]
        iteration.n_params_iter = CLIENTS
        _, call = self.recording(scheduler, iteration, mm=SimpleNamespace(queries=CLIENTS, hits=2))
        self.assertNotIn(CLIENTS, self.text)
        self.assertEqual(call["scheduler"]["prefix_cache_stats"], {"queries": 5, "hits": None})
        self.assertEqual(call["iteration"]["inter_token_latencies_iter"], [0.5, None, 0.25])
        self.assertEqual(call["mm"], {"queries": None, "hits": 2})

    def test_PayloadsOfConnectors_HaveTheirOwnKeysOnly(self):
        for connector, known in CONNECTORS.items():
            with self.subTest(connector=connector):
                odd = {CLIENTS: [1], "peer": CLIENTS, "last": {CLIENTS: CLIENTS}}
                self.assertEqual(self.connector_stats({**known, **odd}, connector), known)
                self.assertNotIn(CLIENTS, self.text)

    def test_ConnectorsThatAreNotKnown_AreLeftOut(self):
        self.assertIsNone(self.connector_stats({CLIENTS: [CLIENTS]}, "TheirConnector"))
        children = {"connectors": [{"kv_connector": "NixlConnector"}, {"kv_connector": "TheirConnector"}]}
        payload = {
            "NixlConnector": SimpleNamespace(data=CONNECTORS["NixlConnector"]),
            "TheirConnector": {"data": {CLIENTS: 1}},
            CLIENTS: CLIENTS,
        }
        shown = self.connector_stats(payload, "MultiConnector", kv_connector_extra_config=children)
        self.assertEqual(shown, {"NixlConnector": CONNECTORS["NixlConnector"]})
        self.assertNotIn(CLIENTS, self.text)

    def test_LabelsOfVllm_AreKept(self):
        from vllm.v1.metrics import stats as v

        graph = SimpleNamespace(num_padded_tokens=8, runtime_mode="CUDAGraphMode.FULL")
        scheduler = v.SchedulerStats(running_lora_adapters={"sql": 2}, waiting_lora_adapters={}, cudagraph_stats=graph)
        _, call = self.recording(scheduler, self.finished())
        self.assertEqual(call["scheduler"]["running_lora_adapters"], {"sql": 2})
        self.assertEqual(call["scheduler"]["waiting_lora_adapters"], {})
        self.assertEqual(call["scheduler"]["cudagraph_stats"], {"num_padded_tokens": 8, "runtime_mode": "FULL"})
        self.assertEqual(call["iteration"]["finished_requests"][0]["finish_reason"], "stop")
        done = {"duration_seconds": 0.5, "num_keys": 1, "num_bytes": 2, "num_failed_keys": 0, "status": "ok"}
        payload = {"save_put": [{**done, "key": CLIENTS}], "load_get": [SimpleNamespace(**done)], CLIENTS: [CLIENTS]}
        shown = self.connector_stats(payload, "MooncakeStoreConnector")
        self.assertEqual(shown, {"save_put": [done], "load_get": [done]})
        self.assertNotIn(CLIENTS, self.text)

    def test_ReasonThatIsNotKnown_IsNull(self):
        _, call = self.recording(iteration=self.finished(finish_reason="boredom"))
        self.assertIsNone(call["iteration"]["finished_requests"][0]["finish_reason"])

    # Every number in its place.

    def test_NumbersThatAreNone_LeaveTheirNeighboursWhereTheyAre(self):
        payload = {"transfer_duration": [0.5, math.nan, 0.25], "bytes_transferred": [1, 2, 3]}
        shown = self.connector_stats({**payload, "num_descriptors": [math.inf]})
        expected = {"transfer_duration": [0.5, None, 0.25], "bytes_transferred": [1, 2, 3], "num_descriptors": [None]}
        self.assertEqual(shown, expected)

    @unittest.skipIf(numpy is None, "no numpy")
    def test_ArraysAndNumbersOfNumpy_AreListsAndNumbers(self):
        from vllm.v1.metrics import stats as v

        scheduler = v.SchedulerStats(
            num_running_reqs=numpy.int64(3),
            kv_cache_usage=numpy.float32(0.5),
            spec_decoding_stats=v.SpecDecodingStats(num_accepted_tokens_per_pos=numpy.array([4, 2])),
        )
        iteration = v.IterationStats(time_to_first_tokens_iter=numpy.array([0.5, math.nan, 0.25]))
        _, call = self.recording(scheduler, iteration)
        self.assertEqual(call["scheduler"]["num_running_reqs"], 3)
        self.assertEqual(call["scheduler"]["kv_cache_usage"], 0.5)
        self.assertEqual(call["scheduler"]["spec_decoding_stats"]["num_accepted_tokens_per_pos"], [4, 2])
        self.assertEqual(call["iteration"]["time_to_first_tokens_iter"], [0.5, None, 0.25])
        self.assertEqual(self.connector_stats({"transfer_duration": numpy.array([1.5])}), {"transfer_duration": [1.5]})
        payload = {"load_size": numpy.array([7, 8]), "load_bytes": numpy.int64(15)}
        self.assertEqual(self.connector_stats(payload, "OffloadingConnector"), {"load_size": [7, 8], "load_bytes": 15})

    def test_ObjectsOfNoRelease_CostTheirOwnFieldAlone(self):
        class Exploding:
            @property
            def __dict__(self):
                raise RuntimeError("not today")

        from vllm.v1.metrics import stats as v

        scheduler = v.SchedulerStats(num_running_reqs=9, perf_stats=Exploding(), kv_connector_stats=Exploding())
        scheduler.kv_cache_eviction_events = [None, 7, Exploding()]
        _, call = self.recording(scheduler, Exploding())
        self.assertEqual(call["scheduler"]["num_running_reqs"], 9)
        self.assertEqual(call["scheduler"]["kv_cache_eviction_events"], [])
        self.assertIsNone(call["scheduler"]["perf_stats"])
        self.assertIsNone(call["iteration"])

    # The header.

    def test_Header_HasTheMostAdaptersAsTheTextThatTheLabelIs(self):
        header, _ = self.recording(lora_config={"max_loras": 4})
        self.assertEqual(header["max_lora"], "4")
        header, _ = self.recording()
        self.assertIsNone(header["max_lora"])


@unittest.skipUnless(drivers.is_built() and numpy is not None, f"{drivers.NO_PACKAGE}, or no numpy")
class LivePayloads(unittest.TestCase):
    def test_ArraysOfNumpy_AreRecordedAsLists(self):
        from rankbus.vllm.features import Features
        from rankbus.vllm.mapping import EngineRecords
        from vllm.config import VllmConfig
        from vllm.v1.metrics.stats import SchedulerStats

        written = []
        for connector, payload in (
            ("NixlConnector", {"transfer_duration": numpy.array([0.5]), "num_failed_transfers": numpy.array([1, 1])}),
            ("OffloadingConnector", {"load_size": numpy.array([7, 8])}),
        ):
            producer = in_process.KeepingProducer()
            records = EngineRecords(producer, Features(VllmConfig(kv_transfer_config={"kv_connector": connector})))
            records.scheduler(SchedulerStats(kv_connector_stats=payload))
            written += [fields for name, fields in producer.records if name.startswith("connector:")]
        self.assertEqual(written[0]["transfer_duration_seconds"], 0.5)
        self.assertEqual(written[1]["num_failed_transfers"], 2)
        self.assertEqual(written[2], {"load_size": [7, 8]})


if __name__ == "__main__":
    lib.main()
