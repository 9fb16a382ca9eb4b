"""Goal:   whatever vLLM's release calls its statistics, what it reports is what /metrics shows, series by series.
Method: a stand-in for vLLM with the fields, base classes and call orders of several generations loads the plug-ins as
        vLLM does, and plays seeded statistics through its own stat logger manager. A second opinion, written from the
        description of vLLM's metrics, says what vLLM's Prometheus logger would show; a real aggregator shows ours.
Replay: ctest --test-dir build/release -R e2e_vllm_generations -V
"""

import contextlib
import pathlib
import sys
import time
import unittest

import lib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vllm_generations"))

import drivers  # noqa: E402

SEED = 20261122
# Families that are there beside those that the second opinion computes.
INFO = {"vllm:cache_config_info", "vllm:lora_requests_info", "vllm:kv_offload_config_info"}
EVERYTHING = {
    "config": {
        "speculative_config": {"num_speculative_tokens": 3},
        "observability_config": {
            "kv_cache_metrics": True,
            "enable_mfu_metrics": True,
            "cudagraph_metrics": True,
            "enable_logging_iteration_details": True,
        },
        "lora_config": {"max_loras": 4},
    },
    "spec_tokens": 3,
    "features": ["spec", "evictions", "mfu", "nans", "lora", "graphs", "details"],
}


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class VllmGenerations(unittest.TestCase):
    def setUp(self):
        self.stack = self.enterContext(contextlib.ExitStack())

    def play(self, plan, generation="current", steps=60):
        """Plays and scrapes while the process lives, so that its gauges are there. Returns (answer, scrape, driver)."""
        self.stack.close()  # Of the play before.
        env = {"VLLM_COMPUTE_NANS_IN_LOGITS": "1"} if "nans" in plan.get("features", ()) else {}
        bus = self.stack.enter_context(lib.temporary_bus())
        self.aggregator = self.stack.enter_context(lib.Aggregator(bus))
        driver = self.stack.enter_context(drivers.Driver(plan, bus, generation, env))
        answer = driver.ask("play", seed=SEED, steps=steps)
        scrape = self.aggregator.scrape()
        self.assert_shown(answer, scrape, driver)
        return answer, scrape, driver

    def assert_shown(self, answer, scrape, driver):
        expected = drivers.added(answer) | drivers.added(answer, kind="gauges")
        self.assertEqual(drivers.differences(expected, scrape), [], driver.stderr())
        extra = {s for s in scrape.samples if s.name.startswith("vllm:") and s.name not in INFO} - set(expected)
        self.assertEqual(sorted(map(lib.show_series, extra)), [], "families that this vLLM would not show")
        self.assertEqual(scrape.total("rankbus_checkpoint_mismatches_total") or 0, 0)

    def test_StatisticsOfEveryGeneration_AreWhatVllmWouldShow(self):
        for generation in drivers.GENERATIONS:
            with self.subTest(generation=generation):
                _, _, driver = self.play(EVERYTHING, generation)
                complaints = driver.ask("complaints")
                self.assertEqual(complaints["errors"], {})
                unknown = {"SchedulerStats.num_recomputed_tokens", "IterationStats.timing_guards",
                           "FinishedRequestStats.num_cache_creation_tokens"}  # fmt: skip
                self.assertEqual(set(complaints["unknown"]), unknown if generation == "branches" else set())

    def test_FeaturesThatAreNotConfigured_HaveNoFamilies(self):
        _, scrape, _ = self.play({})
        self.assertEqual(scrape.select("vllm:spec_decode_num_drafts_total"), {})
        self.assertEqual(scrape.select("vllm:lora_requests_info"), {})

    def test_DiffusionModels_HaveTheirOwnThreeCounters(self):
        plan = {"config": {"model_config": {"is_diffusion": True}}, "spec_tokens": 2, "features": ["diffusion"]}
        self.play(plan)

    def test_ConnectorPayloadsOfEveryShape_AreWhatVllmWouldShow(self):
        names = {"nixl": "NixlConnector", "moriio": "MoRIIOConnector", "mooncake_store": "MooncakeStoreConnector",
                 "hisparse": "HiSparseConnector"}  # fmt: skip
        offloading = ("offloading_1", "offloading_prefixed", "offloading_flat", "offloading_typed",
                      "offloading_labelled")  # fmt: skip
        extra = {"spec_name": "CPUOffloadingSpec", "store_threshold": 2}
        configs = {kind: {"kv_connector": name, "kv_role": "kv_both"} for kind, name in names.items()}
        for kind in offloading:
            configs[kind] = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": extra}
        children = [
            {"kv_connector": "NixlConnector"},
            {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": extra},
        ]
        configs["multi"] = {"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": children}}
        for kind, config in configs.items():
            with self.subTest(connector=kind):
                _, scrape, driver = self.play({"config": {"kv_transfer_config": config}, "connector": kind})
                self.assertEqual(driver.ask("complaints"), {"unknown": {}, "errors": {}})
                if kind == "offloading_labelled":
                    self.assertEqual(scrape.value("vllm:kv_offload_config_info", num_blocks="77", medium="cpu"), 1)

    def test_TransfersUnderVllm_AreSumsOverRanksWithoutPeers(self):
        config = {"kv_transfer_config": {"kv_connector": "NixlConnector"}}
        _, scrape, _ = self.play({"config": config, "connector": "nixl"})
        series, = scrape.select("rankbus_kv_transfers_total")
        labels = dict(series.labels)
        self.assertEqual((labels["connector"], labels["rank"], labels.get("peer")), ("nixl", "", None))

    def test_ConfigurationsAndAdapters_AreInfoSeriesWithVllmsLabels(self):
        _, scrape, driver = self.play(EVERYTHING)
        (config, value), = scrape.select("vllm:cache_config_info").items()
        self.assertEqual(
            dict(config.labels), {"engine": "0", "block_size": "16", "num_gpu_blocks": "1234", "cache_dtype": "auto"}
        )
        self.assertEqual(value, 1)
        before = time.time()
        running = {"sql": 2, "poems": 0}
        driver.ask("scheduler", engine=0, running_lora_adapters=running, waiting_lora_adapters={"sql": 0})
        (adapters, value), = self.aggregator.scrape().select("vllm:lora_requests_info").items()
        self.assertEqual(
            dict(adapters.labels),
            {"max_lora": "4", "running_lora_adapters": "sql,poems", "waiting_lora_adapters": "sql"},
        )
        self.assertGreater(value, before - 1)

    def test_CudaGraphsThatVllmOnlyLogs_AreCountersOfOurs(self):
        _, scrape, _ = self.play(EVERYTHING)
        replays = scrape.select("rankbus_cudagraph_replays_total")
        self.assertEqual({dict(s.labels)["mode"] for s in replays if replays[s]}, {"FULL", "PIECEWISE", "NONE"})
        # The stand-in's batches are all of 7 tokens, padded by one.
        self.assertEqual(scrape.total("rankbus_cudagraph_tokens_total"), 7 * sum(replays.values()))
        self.assertEqual(scrape.total("rankbus_cudagraph_padding_tokens_total"), sum(replays.values()))
        self.assertEqual(scrape.value("rankbus_cudagraph_config_info", mode="FULL", capture_sizes="[1, 2, 4]"), 1)

    def test_SleepStates_FollowVllmsArgumentAndNotItsName(self):
        bus = self.enterContext(lib.temporary_bus())
        aggregator = self.enterContext(lib.Aggregator(bus))
        driver = self.enterContext(drivers.Driver({"engines": [0, 1]}, bus))
        for sleeping, level in ((1, 1), (1, 2), (1, 3), (0, 0)):
            answer = driver.ask("sleep", sleeping=sleeping, level=level)
            self.assertEqual(drivers.differences(drivers.added(answer, kind="gauges"), aggregator.scrape()), [])


if __name__ == "__main__":
    lib.main()
