"""Goal:   what is odd costs its own part and no other: an option of a configuration, an engine index that vLLM does not
        have, a fork whose producer cannot be opened again. Each is counted, and nothing waits for ever.
Method: one process of the test's own with a stand-in for vLLM. Configurations are recorded to a real bus and read back;
        the fork is a real one, ended by an alarm if it hangs.
Replay: /usr/bin/python3 -B tests/contract_vllm_plugin_odd.py
"""

import os
import pathlib
import signal
import sys
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "vllm_generations"))

import drivers  # noqa: E402
import lib  # noqa: E402
from in_process import KeepingProducer  # noqa: E402

HANGS_AFTER_S = 60  # Ends a child that hangs; no claim about how long anything takes.
OFFLOADING = "OffloadingConnector"


def multi(*children):
    return {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": children}}


# What a configuration might hold, the record type that is declared nevertheless, and the part that is counted.
ODD_OPTIONS = (
    ({"speculative_config": {"num_speculative_tokens": "3x"}}, "spec_decoding", "num_speculative_tokens"),
    ({"speculative_config": {"num_speculative_tokens": -1}}, "spec_decoding", "num_speculative_tokens"),
    ({"max_model_len": "long"}, "scheduler_step", "max_model_len"),
    ({"max_model_len": float("inf")}, "scheduler_step", "max_model_len"),
    ({"parallel_config": {"_api_process_count": "four"}}, "scheduler_step", "_api_process_count"),
    ({"kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": ["kv_both"]}}, "connector:nixl", "kv_role"),
    (
        {"kv_transfer_config": {"kv_connector": OFFLOADING, "kv_connector_extra_config": {"store_threshold": "two"}}},
        "connector:offloading:cpu",
        "store_threshold",
    ),
    (
        {"kv_transfer_config": {"kv_connector": OFFLOADING, "kv_connector_extra_config": "none"}},
        "connector:offloading:cpu",
        "kv_connector_extra_config",
    ),
    ({"kv_transfer_config": {"kv_connector": 3}}, "scheduler_step", "kv_connector"),
    ({"kv_transfer_config": multi("nixl", {"kv_connector": "NixlConnector"})}, "connector:nixl", "connectors"),
    (
        {"kv_transfer_config": multi({"kv_connector": 3}, {"kv_connector": "NixlConnector"})},
        "connector:nixl",
        "kv_connector",
    ),
    (
        {"kv_transfer_config": {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": 7}}},
        "scheduler_step",
        "connectors",
    ),
)  # fmt: skip


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class OddOptions(unittest.TestCase):
    def test_OddOption_CostsItsOwnPartAndIsCounted(self):
        import rankbus
        from rankbus.vllm import watch
        from rankbus.vllm.stat_logger import FrontEnd
        from vllm.config import VllmConfig
        from vllm.v1.metrics.stats import SchedulerStats

        for config, declared, counted in ODD_OPTIONS:
            with self.subTest(config=config), lib.temporary_bus() as bus, mock.patch.dict(os.environ, RANKBUS_BUS=bus):
                model_config = {name: config[name] for name in ("max_model_len",) if name in config}
                sections = {name: section for name, section in config.items() if name not in model_config}
                before = dict(watch.unknown_fields())
                front_end = FrontEnd(VllmConfig(model_config=model_config, **sections), [0])
                front_end.record(SchedulerStats(num_running_reqs=17), None)
                shown = {metric.name: getattr(metric, "value", None) for metric in rankbus.snapshot(bus)}
                self.assertEqual(shown.get("vllm:num_requests_running"), 17)
                line, = front_end._owned.values()
                self.assertIn(declared, line.producer.records)
                newly = [name for name, count in watch.unknown_fields().items() if count != before.get(name)]
                self.assertTrue(any(counted in name for name in newly), newly)

    def test_ModelNameThatIsNoUtf8_IsShownAsFarAsItIs(self):
        import rankbus
        from rankbus.vllm.stat_logger import FrontEnd
        from vllm.config import VllmConfig

        with lib.temporary_bus() as bus, mock.patch.dict(os.environ, RANKBUS_BUS=bus):
            front_end = FrontEnd(VllmConfig(os.fsdecode(b"models/caf\xe9")), [0])
            names = {metric.labels.get("model_name") for metric in rankbus.snapshot(bus)}
            self.assertIn("models/caf?", names)
            front_end.log()  # Kept until here, or its gauges would be gone.

    def test_OptionsAsTheyShouldBe_AreNotCounted(self):
        from rankbus.vllm import watch
        from rankbus.vllm.features import Features
        from vllm.config import VllmConfig

        before = dict(watch.unknown_fields())
        options = {"kv_connector": OFFLOADING, "kv_connector_extra_config": {"store_threshold": "2"}}
        config = VllmConfig(speculative_config={"num_speculative_tokens": "3"}, kv_transfer_config=multi(options))
        features = Features(config)
        self.assertEqual(features.num_speculative_tokens, 3)
        self.assertIn("connector:offloading:skipped", features.record_types)
        self.assertEqual(watch.unknown_fields(), before)


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class OddCalls(unittest.TestCase):
    def setUp(self):
        from rankbus.vllm.stat_logger import FrontEnd
        from vllm.config import VllmConfig
        from vllm.v1.metrics.stats import SchedulerStats

        KeepingProducer.made.clear()
        self.enterContext(mock.patch("rankbus.Producer", KeepingProducer))
        self.front_end = FrontEnd(VllmConfig(), [0, 1])
        self.stats = SchedulerStats

    def test_EngineIndexThatVllmDoesNotHave_IsDroppedAndSaidOnce(self):
        from rankbus.vllm import watch

        with self.assertLogs("vllm.rankbus") as said:
            for _ in range(3):
                self.front_end.record(self.stats(num_running_reqs=5), None, engine_idx=7)
        self.assertEqual([producer.options["engine"] for producer in KeepingProducer.made], [0, 1])
        for producer in KeepingProducer.made:
            self.assertNotIn("scheduler_step", {name for name, _ in producer.records})
        self.assertEqual(watch.unknown_fields()["engine index 7"], 3)
        self.assertEqual(len(said.output), 1)

    def test_ForkThatCannotOpenAgain_LosesThatCallAndHangsNobody(self):
        for broken in ("reopen", "handle"):  # What __enter__ of an engine's line calls after a fork.
            with self.subTest(broken=broken):
                pid = os.fork()
                if pid == 0:
                    status = 1
                    try:
                        signal.alarm(HANGS_AFTER_S)
                        status = self.record_twice(broken)
                    finally:
                        os._exit(status)
                self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def record_twice(self, broken):
        """In the child: 0 if the first call is lost and counted, and the second is recorded."""
        from rankbus.vllm import watch

        with mock.patch.object(KeepingProducer, broken, side_effect=RuntimeError("no room")):
            self.front_end.record(self.stats(), None)
        lost = watch.errors().get("a record() call: RuntimeError")
        self.front_end.record(self.stats(num_running_reqs=3), None)
        steps = [fields for name, fields in KeepingProducer.made[0].records if name == "scheduler_step"]
        return 0 if lost == 1 and [step["num_running_reqs"] for step in steps] == [3] else 2


if __name__ == "__main__":
    lib.main()
