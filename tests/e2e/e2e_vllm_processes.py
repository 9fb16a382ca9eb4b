"""Goal:   however vLLM spreads its front end over processes, each count is there once, and gauges are the newest.
Method: real processes, started as vLLM starts its own (from one that has loaded the general plug-ins; by fork and by
        spawn), each with a stat logger manager of the stand-in for vLLM and the plug-ins that its loader found. They
        play seeded statistics; the sums of their second opinions are compared with one aggregator's /metrics.
Replay: ctest --test-dir build/release -R e2e_vllm_processes -V
"""

import contextlib
import pathlib
import sys
import unittest

import lib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vllm_generations"))

import drivers  # noqa: E402

SEED = 20261122
CLIENTS = 4
STEPS = 40


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class VllmProcesses(unittest.TestCase):
    def setUp(self):
        self.stack = self.enterContext(contextlib.ExitStack())
        self.begin()

    def begin(self):
        """A bus and an aggregator of their own; those of the case before are ended."""
        self.stack.close()
        self.bus = self.stack.enter_context(lib.temporary_bus())
        self.aggregator = self.stack.enter_context(lib.Aggregator(self.bus))

    def start(self, plan, generation="current"):
        return self.stack.enter_context(drivers.Driver(plan, self.bus, generation))

    def assert_totals(self, driver, *answers):
        scrape = self.aggregator.scrape()
        self.assertEqual(drivers.differences(drivers.added(*answers), scrape), [], driver.stderr())
        self.assertEqual(scrape.total("rankbus_checkpoint_mismatches_total") or 0, 0)
        return scrape

    def test_FourApiServersAndTwoEngines_SumOnceAndShowTheNewestGauges(self):
        for method in ("spawn", "fork"):
            with self.subTest(method=method):
                self.begin()
                self.four_api_servers(method)

    def four_api_servers(self, method):
        driver = self.start({"start": method, "clients": CLIENTS, "engines": [0, 1]})
        answers = [driver.ask("play", client=client, seed=SEED, steps=STEPS) for client in range(CLIENTS)]
        scrape = self.assert_totals(driver, *answers)
        # One server, which nobody named: its processes share a run, so no series needs to tell them apart.
        self.assertEqual({s for s in scrape.samples if "server" in dict(s.labels)}, set())
        lanes = {(dict(s.labels)["engine"], dict(s.labels).get("lane", "0"))
                 for s in scrape.select("rankbus_records_total", role="frontend")}  # fmt: skip
        self.assertEqual(lanes, {(engine, str(lane)) for engine in "01" for lane in range(CLIENTS)})
        # Scheduler statistics reach one client a step: whoever had the last one is right.
        for client, running in ((2, 17), (0, 3), (3, 99)):
            answer = driver.ask("scheduler", client=client, engine=1, num_running_reqs=running, kv_cache_usage=0.5)
            gauges = drivers.added(answer, kind="gauges")
            self.assertEqual(drivers.differences(gauges, self.aggregator.scrape()), [])

    def test_PluginGivenTwice_RecordsOnce(self):
        driver = self.start({"times": 2})
        self.assert_totals(driver, driver.ask("play", seed=SEED, steps=STEPS))

    def test_OfflineEngine_RecordsWhatItIsToldOnce(self):
        for generation in drivers.GENERATIONS:
            for given in (False, True):
                if given and generation == "0.8":
                    continue  # That generation's synchronous engine takes no loggers.
                with self.subTest(generation=generation, stat_logger_given=given):
                    self.begin()
                    driver = self.start({"via": "LLM", "given": given}, generation)
                    answer = driver.ask("play", seed=SEED, steps=STEPS)
                    scrape = self.assert_totals(driver, answer)
                    self.assertEqual(drivers.differences(drivers.added(answer, kind="gauges"), scrape), [])
                    self.assertEqual(len(scrape.select("vllm:cache_config_info")), 1)
                    self.assertEqual(driver.stderr().count("rankbus records engines"), 1, "a second front end")

    def test_OfflineEngineAsleep_ShowsItsSleepState(self):
        driver = self.start({"via": "LLM"})
        gauges = drivers.added(driver.ask("sleep", sleeping=1, level=2), kind="gauges")
        self.assertEqual(drivers.differences(gauges, self.aggregator.scrape()), [])

    def test_OfflineEngineThatIsGone_LeavesItsCountsAndNoGauges(self):
        driver = self.start({"via": "LLM"})
        answer = driver.ask("play", seed=SEED, steps=STEPS)
        driver.ask("forget")
        gone = lambda: not self.aggregator.scrape().select("vllm:num_requests_running")  # noqa: E731
        lib.wait_for(gone, "the engine's gauges are gone", alive=[self.aggregator])
        self.assert_totals(driver, answer)

    def test_OfflineEngineWithoutStatistics_RecordsNothingAndSaysHow(self):
        driver = self.start({"via": "LLM", "log_stats": False})
        self.assertIn("disable_log_stats=False", driver.stderr())
        self.assertEqual(self.aggregator.scrape().select("vllm:generation_tokens_total"), {})

    def test_ForkedChild_RecordsInALaneOfItsOwn(self):
        driver = self.start({})
        driver.ask("play", seed=SEED, steps=STEPS)
        answer = driver.ask("fork")
        self.assertEqual(answer["status"], 0)
        self.assert_totals(driver, answer)
        self.assert_totals(driver, driver.ask("play", seed=SEED + 1, steps=1))

    def test_ObjectsOfNoRelease_RaiseNothingAndCostOnlyThemselves(self):
        driver = self.start({})
        driver.ask("odd")
        self.assertGreater(len(driver.ask("complaints")["errors"]), 3)
        before = self.aggregator.scrape()
        answer = driver.ask("play", seed=SEED, steps=STEPS)
        scrape = self.aggregator.scrape()
        expected = {s: value + before.samples[s] for s, value in drivers.added(answer).items()}
        self.assertEqual(drivers.differences(expected, scrape), [])

    def test_NoUsableBus_LeavesVllmRunning(self):
        driver = self.enterContext(drivers.Driver({}, "/proc/no-bus-here"))
        driver.ask("play", seed=SEED, steps=3)
        self.assertIn("rankbus", driver.stderr())

    def test_RegistryCleaningOfVllm_TouchesNothingOfOurs(self):
        driver = self.start({"times": 1})
        first = driver.ask("play", seed=SEED, steps=STEPS)
        driver.ask("another_manager")
        second = driver.ask("play", seed=SEED + 1, steps=STEPS)
        self.assert_totals(driver, second)
        self.assertNotEqual(first, second)


if __name__ == "__main__":
    lib.main()
