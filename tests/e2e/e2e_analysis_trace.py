# Labels: multiprocess-heavy release-only
"""Goal:   what the aggregator says of KV blocks, caches, prefixes and the scheduler's time is what really happened.
Method: simulate, slowly enough that no sample is lost; compute everything again in plain Python (analysis_oracle.py)
        from the simulator's own event log, which never was on the bus; compare with /api/v1/analysis and /metrics.
        Exact where the documentation says exact, else within the error that it states. A bounded pool on two engines
        evicts and preempts; the whole trace in an unlimited one has more prefixes than are counted one by one.
Replay: ctest --test-dir build/release -R e2e_analysis_trace -V
"""

import json
import math
import pathlib
import signal
import tempfile
import unittest

import analysis_oracle
import compare_truth
import lib

SAMPLE_RATE = 0.5
CACHES = ("cache_lookup", "cache_storage", "cache_eviction")
QUANTILE_ERROR = 1 / 129  # quantile_sketch.hpp
DISTINCT_ERROR = 3 * 0.0082  # distinct_counter.hpp: three standard errors.


class Run:
    """One simulation with everything that its aggregator said at the end, and its event logs."""

    def __init__(self, folder, arguments, engines, speed):
        log = folder / f"log-{speed}"
        truth = folder / f"truth-{speed}.json"
        arguments = (*arguments, "--engines", engines, "--tp", 1, "--clock", "virtual", "--speed", speed)
        arguments = (*arguments, "--hold", "--linger", "--event-log", log, "--truth", truth)
        with (
            lib.temporary_bus() as bus,
            lib.Aggregator(bus, "--log-level", "error") as aggregator,
            lib.simulate(bus, *arguments) as simulator,
        ):
            both = [aggregator, simulator]
            lib.wait_for(lambda: "waiting for SIGUSR1" in simulator.stderr(), "all processes", alive=both)
            processes = 3 * engines
            lib.wait_for(lambda: self.ranks_seen(aggregator) == processes, "the aggregator sees them", alive=both)
            simulator.send(signal.SIGUSR1)
            lib.wait_for(truth.exists, "the truth is written", 1200, both)
            self.truth = json.loads(truth.read_text())
            lib.wait_for(lambda: self.everything_is_read(aggregator), "everything is read", alive=both)
            self.scrape = aggregator.scrape()
            status, _, body = lib.http_get(aggregator.url("/api/v1/analysis"))
            assert status == 200, body
        self.engines = {int(one["engine"]): one for one in json.loads(body)["engines"]}
        self.oracles = [analysis_oracle.Oracle(log, engine, SAMPLE_RATE) for engine in range(engines)]

    @staticmethod
    def ranks_seen(aggregator):
        return len(aggregator.scrape().select("rankbus_rank_info"))

    def everything_is_read(self, aggregator):
        return compare_truth.compare(self.truth, aggregator.scrape().samples).equal()

    def is_whole(self, streams):
        """Whether every sample was read, and none so late that its window had moved on."""
        for engine in self.engines.values():
            if any(engine["sources"][stream]["lost"] for stream in streams):
                return False
            if any(level["cache_stats"]["late_events"] for level in engine["caches"]["levels"].values()):
                return False
        return True


class Analysis:
    """What every comparison shares; a subclass says of which run."""

    ARGUMENTS = ()
    ENGINES = 1
    STREAMS = CACHES  # Whose samples are compared.
    LEVELS = ()
    # Model seconds per second, slower after every try that lost a sample or came too late for a window.
    SPEEDS = ()

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(dir="/dev/shm")))
        for speed in cls.SPEEDS:
            cls.run_of = Run(folder, cls.ARGUMENTS, cls.ENGINES, speed)
            if cls.run_of.is_whole(cls.STREAMS):
                return

    def each_engine(self):
        """Yields (what the aggregator said, what happened) of each engine."""
        self.assertEqual(sorted(self.run_of.engines), list(range(self.ENGINES)))
        for number, oracle in enumerate(self.run_of.oracles):
            yield self.run_of.engines[number], oracle

    def assert_same(self, found, expected, what=""):
        """Equal: whole numbers and texts exactly, others but for the last digits."""
        if isinstance(expected, dict):
            self.assertEqual(set(expected) - set(found), set(), what)
            for key, value in expected.items():
                self.assert_same(found[key], value, f"{what}.{key}")
        elif isinstance(expected, float) and math.isfinite(expected):
            self.assertTrue(math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12), f"{what}: {found}, {expected}")
        else:
            self.assertEqual(found, expected, what)

    def assert_quantile(self, found, expected, what):
        self.assertLessEqual(abs(found - expected), expected * QUANTILE_ERROR * (1 + 1e-9), what)

    def metric(self, name, engine, **labels):
        return self.run_of.scrape.value(name, engine=str(engine["engine"]), **labels)

    def test_Coverage_IsWhole(self):
        self.assertTrue(self.run_of.is_whole(self.STREAMS), "samples were lost, or came late, at every speed")
        for engine, _ in self.each_engine():
            for stream in self.STREAMS:
                source = engine["sources"][stream]
                self.assertGreater(source["read"], 0, stream)
                self.assertEqual(source["coverage"], 1, stream)
            for stream in CACHES:
                self.assertEqual(self.metric("rankbus_sample_coverage_ratio", engine, stream=stream), 1)


class Blocks(Analysis):
    """KV blocks, and what the scheduler tells."""

    def test_KvBlocks_AreTheLivesOfTheSampledBlocks(self):
        for engine, oracle in self.each_engine():
            found = engine["kv_blocks"]
            # Else the bound on the retained evictions would not be tested.
            self.assertGreater(oracle.sampled_evictions, 1000)
            self.assert_same(found["counters"], oracle.block_counters(), "counters")
            self.assert_same(found["summary"], oracle.block_summary(), "summary")
            self.assert_same(found["access_patterns"], oracle.access_patterns(), "access_patterns")
            self.assert_same(found["trends"], oracle.trends(), "trends")
            self.assertEqual(found["lifetime_distribution"], oracle.lifetime_distribution())
            self.assertEqual(found["sample"]["followed_evictions"], oracle.sampled_evictions)
            for trouble in ("unmatched_evictions", "reallocated_blocks", "forgotten_blocks", "losses"):
                self.assertEqual(found["sample"][trouble], 0, trouble)
            self.assertEqual(found["refused_records"], 0)
            estimates = found["estimates"]
            self.assert_same(estimates["evictions"]["value"], oracle.sampled_evictions / SAMPLE_RATE)
            self.assert_same(estimates["live_blocks"]["value"], oracle.followed_now() / SAMPLE_RATE)

    def test_KvBlockAlerts_AreTheLivesFarFromThoseBefore(self):
        for engine, oracle in self.each_engine():
            raised = oracle.block_alerts()
            self.assertGreater(sum(raised.values()), 0)
            for (metric, level), count in raised.items():
                found = self.metric("rankbus_kv_block_alerts_total", engine, metric=metric.lower(), level=level.lower())
                self.assertEqual(found, count, f"{metric} {level}")

    def test_KvBlockGauges_AreThoseOfTheSummary(self):
        for engine, oracle in self.each_engine():
            summary = oracle.block_summary()
            recent = "rankbus_kv_block_recent_"
            for stat in ("p50", "p95", "p99"):
                found = self.metric(f"{recent}lifetime_seconds", engine, stat=stat)
                self.assert_same(found, summary[f"{stat}_lifetime"], stat)
            self.assert_same(self.metric(f"{recent}idle_seconds", engine), summary["avg_idle_seconds"])
            self.assert_same(self.metric(f"{recent}reuse_gap_seconds", engine), summary["avg_reuse_gap_seconds"])
            self.assert_same(self.metric(f"{recent}accesses", engine), summary["avg_access_count"])
            self.assert_same(self.metric(f"{recent}reused_ratio", engine), summary["hit_rate_estimate"])
            self.assertEqual(self.metric("rankbus_kv_blocks_followed", engine), oracle.followed_now())
            self.assertEqual(self.metric("rankbus_kv_block_sample_rate", engine), SAMPLE_RATE)

    def test_Scheduler_SpentItsTimeAsTheLogSays(self):
        for engine, oracle in self.each_engine():
            scheduler = engine["scheduler"]
            self.assertEqual(scheduler["step_counter"], oracle.steps)
            self.assert_same(scheduler["prefix_cache"], oracle.prefix_cache(), "prefix_cache")
            self.assert_same(scheduler["performance"], oracle.step_times(), "performance")
            # One block of the external level is 512 of the connector's tokens.
            hits, _ = oracle.levels["external"].totals()
            self.assertEqual(scheduler["connector_prefix_cache"]["num_hits"], hits * 512)
            self.assertEqual(self.metric("rankbus_timed_steps_total", engine), oracle.steps)

    def test_Preemptions_TakeBlocksFromRequests(self):
        for engine, oracle in self.each_engine():
            name = "rankbus_request_kv_evicted_blocks_total"
            found = self.run_of.scrape.total(name, engine=str(engine["engine"]), reason="memory_pressure")
            self.assertEqual(found or 0, sum(one["num_blocks"] for one in oracle.request_evictions))
            events = engine["scheduler"]["kv_cache_eviction_events"]
            self.assertEqual(len(events), len(oracle.request_evictions))
            for event, expected in zip(events, oracle.request_evictions):
                self.assert_same(event, expected)


class Caches(Analysis):
    """Caches and prefixes."""

    def test_Levels_AreThoseThatTheEngineHas(self):
        for engine, oracle in self.each_engine():
            self.assertEqual(sorted(engine["caches"]["levels"]), list(self.LEVELS))
            self.assertEqual(sorted(oracle.levels), list(self.LEVELS))

    def test_Lifetime_OfEachLevel_IsExact(self):
        for engine, oracle in self.each_engine():
            for name, level in oracle.levels.items():
                stats = engine["caches"]["levels"][name]["cache_stats"]
                self.assert_same(stats, level.lifetime(), name)
                self.assertEqual(engine["caches"]["levels"][name]["eviction_breakdown"], level.evictions_by_reason())
                self.assertEqual(stats["size_inconsistencies"], 0)
                # Writes and evictions come in streams of their own, so a peak is what readers saw.
                self.assertGreaterEqual(stats["peak_size_bytes"], stats["current_size_bytes"])
                self.assertLessEqual(stats["peak_size_bytes"], stats["total_bytes_written"])
                for share, key in ((0.5, "p50_eviction_latency_ns"), (0.99, "p99_eviction_latency_ns")):
                    self.assert_quantile(stats[key], level.eviction_latency_quantile(share), f"{name} {key}")

    def test_Window_OfEachLevel_IsThatOfItsSlots(self):
        for engine, oracle in self.each_engine():
            now_ns = round(engine["clock_s"] * 1e9)
            seen = 0
            for name, level in oracle.levels.items():
                found = engine["caches"]["levels"][name]
                window = level.window(now_ns)
                self.assert_same(found["window_stats"], window.lookup_stats(), f"{name} window")
                self.assert_same(found["window_evictions"], window.eviction_stats(), f"{name} window evictions")
                for share, key in ((0.5, "p50_latency_ns"), (0.99, "p99_latency_ns")):
                    self.assert_quantile(found["window_stats"][key], window.latency_quantile(share), f"{name} {key}")
                self.assert_same(found["efficiency_score"], window.efficiency(), f"{name} efficiency")
                self.assert_same(found["growth_bytes_per_second"], level.growth(now_ns), f"{name} growth")
                self.assert_same(found["eviction_rate"], level.eviction_rate(now_ns), f"{name} eviction rate")
                lookups = self.metric("rankbus_cache_window_lookups", engine, level=name)
                self.assertEqual(lookups, found["window_stats"]["hits"] + found["window_stats"]["misses"])
                # Where nothing was asked there is no ratio.
                if lookups:
                    ratio = self.metric("rankbus_cache_window_hit_ratio", engine, level=name)
                    self.assert_same(ratio, found["window_stats"]["hit_rate"])
                seen += len(window.lookups) + len(window.evictions)
            self.assertGreater(seen, 0, "nothing happened in the last minute")

    def test_AllLevels_TogetherAreSums(self):
        for engine, oracle in self.each_engine():
            caches = engine["caches"]
            self.assert_same(caches["combined_hit_rate"], oracle.combined_hit_rate())
            self.assert_same(self.metric("rankbus_cache_combined_hit_ratio", engine), oracle.combined_hit_rate())
            used, rate = oracle.utilization(), oracle.eviction_rate(round(engine["clock_s"] * 1e9))
            # Without a capacity, the size is compared with the largest that readers saw.
            self.assertEqual(caches["is_relative_to_peak"], used is None)
            if used is not None:
                self.assert_same(caches["utilization"], used)
            self.assert_same(caches["eviction_pressure"], min(1.0, rate / 100))
            self.assert_same(caches["memory_pressure"], 0.7 * caches["utilization"] + 0.3 * min(1.0, rate / 100))

    def test_Sizes_AreWhatIsWrittenAndNotFreed(self):
        for engine, oracle in self.each_engine():
            for name, level in oracle.levels.items():
                if level.written == 0:
                    continue
                found = self.metric("rankbus_cache_size_bytes", engine, level=name)
                self.assertEqual(found, level.written - level.freed, name)
                if level.capacity:
                    self.assertLessEqual(found, level.capacity)
            # Whoever has finished uses no block.
            self.assertEqual(self.metric("rankbus_cache_size_bytes", engine, level="kv"), 0)

    def test_Prefixes_AreCountedByTheirHash(self):
        for engine, oracle in self.each_engine():
            found = engine["caches"]["prefixes"]
            prefixes = oracle.prefixes
            distinct = len(prefixes.hits)
            if found["distinct_is_exact"]:
                self.assertEqual(found["distinct_prefixes"], distinct)
            else:
                self.assertGreater(distinct, 2048)
                self.assertLessEqual(abs(found["distinct_prefixes"] - distinct), distinct * DISTINCT_ERROR)
            total = sum(prefixes.hits.values())
            factor = self.metric("rankbus_prefix_sharing_factor", engine)
            self.assert_same(factor, total / found["distinct_prefixes"])
            self.assertLessEqual(found["hits_error"], total / 1025)
            if distinct <= 2048:
                self.assertEqual(found["hits_error"], 0)
            self.assertEqual(len(found["most_shared"]), min(10, distinct))
            for entry in found["most_shared"]:
                hits = prefixes.hits[int(entry["prefix"])]
                self.assertLessEqual(entry["hits_at_least"], hits)
                self.assertGreaterEqual(entry["hits_at_most"], hits)
            # Nobody is missing who has more hits than the last one that is shown can have.
            shown = {int(entry["prefix"]) for entry in found["most_shared"]}
            least = min(entry["hits_at_most"] for entry in found["most_shared"])
            self.assertEqual({key for key, hits in prefixes.hits.items() if hits > least} - shown, set())

    def test_PrefixLengths_AreThoseAskedFor(self):
        for engine, oracle in self.each_engine():
            found = engine["caches"]["prefixes"]
            lengths = oracle.prefixes.lengths
            self.assertEqual(found["length_count"], len(lengths))
            self.assertEqual(found["length_max"], max(lengths))
            self.assert_same(found["length_mean"], math.fsum(lengths) / len(lengths))
            for share, key in ((0.5, "length_p50"), (0.9, "length_p90"), (0.99, "length_p99")):
                self.assert_quantile(found[key], analysis_oracle.truncated_quantile(lengths, share), key)
            for bucket, count in zip(found["length_buckets"], oracle.prefixes.length_buckets(), strict=True):
                self.assertEqual((bucket["up_to"], bucket["count"]), count)
            latest = oracle.prefixes.latest_mean()
            self.assert_same(self.metric("rankbus_prefix_length_tokens", engine, stat="mean"), latest)


class BoundedPool(Blocks, Caches):
    """Two engines with everything that is compared."""

    ENGINES = 2
    STREAMS = ("kv_block_operations", *CACHES, "step_phases", "scheduler_step", "request_kv_eviction")
    LEVELS = ("encoder", "external", "kv", "prefix")
    SPEEDS = (20, 8, 3)
    FEATURES = (
        *("--multimodal", "--kv-connector", "offloading"),
        *("--block-operations", SAMPLE_RATE, "--cache-metrics", "--step-phases"),
    )


class GeneratedWorkload(BoundedPool, unittest.TestCase):
    ARGUMENTS = ("--workload", "generated:1200", "--kv-blocks", 90, *BoundedPool.FEATURES)


@unittest.skipUnless(lib.TRACE, lib.NO_TRACE)
class ConversationTrace(BoundedPool, unittest.TestCase):
    ARGUMENTS = ("--trace", lib.TRACE, "--duration", 500, "--kv-blocks", 600, *BoundedPool.FEATURES)


@unittest.skipUnless(lib.TRACE, lib.NO_TRACE)
class ManyPrefixes(Caches, unittest.TestCase):
    ARGUMENTS = ("--trace", lib.TRACE, "--cache-metrics")
    LEVELS = ("kv", "prefix")
    SPEEDS = (250, 100, 40)

    def test_DifferentPrefixes_AreMoreThanAreCountedOneByOne(self):
        for engine, oracle in self.each_engine():
            self.assertGreater(len(oracle.prefixes.hits), 2048)
            self.assertFalse(engine["caches"]["prefixes"]["distinct_is_exact"])
            self.assertGreater(engine["caches"]["prefixes"]["hits_error"], 0)


if __name__ == "__main__":
    lib.main()
