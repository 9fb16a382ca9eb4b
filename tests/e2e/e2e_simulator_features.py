# Labels: multiprocess-heavy
"""Goal:   whatever vLLM publishes, /metrics says what the simulator counted without the bus.
Method: simulate with every feature, with each alone, with several front ends per engine, and until a time at which
        requests run; compare every series with the truth file while all processes linger. All runs share one
        aggregator, each as a server of its own.
Replay: ctest --test-dir build/release -R e2e_simulator_features -V
"""

import json
import pathlib
import re
import tempfile
import unittest
import urllib.parse

import compare_truth
import lib

RUN = ("--speed", "max", "--engines", 2, "--tp", 2, "--kv-blocks", 300, "--workload", "generated:150")

# The families that appear with a feature, as the reference of vLLM's metrics has them.
TRANSFERS = ("xfer_time_seconds", "post_time_seconds", "bytes_transferred", "num_descriptors")
FAILURES = ("num_failed_transfers", "num_failed_notifications", "num_kv_expired_reqs")
FAMILIES = {
    ("--speculative-tokens", 3): {
        "spec_decode_num_drafts",
        "spec_decode_num_draft_tokens",
        "spec_decode_num_accepted_tokens",
        "spec_decode_num_accepted_tokens_per_pos",
    },
    ("--diffusion",): {
        "diffusion_num_denoising_steps",
        "diffusion_num_canvas_positions",
        "diffusion_num_committed_tokens",
    },
    ("--mfu-metrics",): {
        "estimated_flops_per_gpu",
        "estimated_read_bytes_per_gpu",
        "estimated_write_bytes_per_gpu",
    },
    ("--cudagraph-metrics",): set(),
    ("--iteration-details",): set(),
    ("--multimodal",): set(),
    ("--kv-cache-metrics-sample", 0.2): {
        "kv_block_lifetime_seconds",
        "kv_block_idle_before_evict_seconds",
        "kv_block_reuse_gap_seconds",
    },
    ("--lora-adapters", 6): {"lora_requests_info"},
    ("--corrupted-requests", 5): {"corrupted_requests"},
    ("--cache-config",): {"cache_config_info"},
    ("--block-operations", 0.2): set(),
    ("--cache-metrics",): set(),
    ("--step-phases",): set(),
    ("--sleep", 2): set(),
    ("--kv-connector", "nixl"): {f"nixl_{name}" for name in (*TRANSFERS, *FAILURES)},
    ("--kv-connector", "moriio"): {f"moriio_{name}" for name in (*TRANSFERS, *FAILURES)},
    ("--kv-connector", "mooncake"): set(),
    ("--kv-connector", "mooncake_store"): {
        "mooncake_store_operation",
        "mooncake_store_operation_time_seconds",
        "mooncake_store_operation_keys",
        "mooncake_store_operation_bytes",
        "mooncake_store_operation_failed_keys",
    },
    ("--kv-connector", "offloading"): {
        *("kv_offload_load_bytes", "kv_offload_store_bytes", "kv_offload_load_time", "kv_offload_store_time"),
        *("kv_offload_load_size", "kv_offload_store_size", "kv_offload_stores_skipped"),
        *("kv_offload_cpu_cache_usage_perc", "kv_offload_cpu_cache_write_usage_perc"),
        *("kv_offload_cpu_cache_read_usage_perc", "kv_offload_cpu_allocation_size"),
        *("kv_offload_lookup_sync_delay_seconds", "kv_offload_lookup_async_delay_seconds"),
        *("kv_offload_allocation_failure", "kv_offload_config_info"),
    },
    ("--kv-connector", "hisparse"): {
        "hisparse_cache_hits",
        "hisparse_cache_misses",
        "hisparse_host_to_device_bytes",
    },
}
# What each of those without a family of its own moves instead.
MOVES = {
    ("--cudagraph-metrics",): "rankbus_cudagraph_replays_total",
    ("--iteration-details",): None,  # Only the log tells it.
    ("--multimodal",): "vllm:mm_cache_hits_total",
    ("--sleep", 2): "vllm:engine_sleep_state",
    ("--block-operations", 0.2): "rankbus_kv_block_evictions_total",
    ("--cache-metrics",): "rankbus_cache_hits_total",
    ("--step-phases",): "rankbus_timed_steps_total",
    ("--kv-connector", "mooncake"): "rankbus_kv_transfers_total",
}

# What the requests alone decide, whoever serves them and when.
DECIDED_BY_REQUESTS = (
    "vllm:request_success_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:request_max_num_generation_tokens",
    "vllm:request_params_n",
    "vllm:request_params_max_tokens",
)


def families(truth):
    """vLLM's families in a truth file, without prefix and suffixes."""
    names = set()
    for kind in ("counters", "sums", "gauges", "present"):
        for text in truth.get(kind, ()):
            name = text.partition("{")[0]
            for suffix in ("_bucket", "_count", "_sum", "_total"):
                # The one family whose own name ends like a counter's.
                if name != "vllm:iteration_tokens_total":
                    name = name.removesuffix(suffix)
            if name.startswith("vllm:"):
                names.add(name.removeprefix("vllm:"))
    return names


class Features(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bus = cls.enterClassContext(lib.temporary_bus())
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.aggregator = cls.enterClassContext(lib.Aggregator(cls.bus, "--log-level", "error"))

    def run_until_published(self, server, *arguments):
        """Runs a simulation; returns its truth, and a scrape from when all was published and everybody lived."""
        path = self.folder / f"{server}.json"
        with lib.simulate(self.bus, "--linger", "--truth", path, "--server", server, *arguments) as simulator:
            lib.wait_for(path.exists, "the truth is written", 600, [self.aggregator, simulator])
            return json.loads(path.read_text()), self.scrape(server)

    def scrape(self, server):
        return self.aggregator.scrape(f"/metrics?server={urllib.parse.quote(server)}")

    def assert_equal_to_truth(self, truth, scrape, **options):
        comparison = compare_truth.compare(truth, scrape.samples, **options)
        shown = "\n".join(comparison.differences[:20])
        self.assertTrue(comparison.equal(), f"{comparison.summary()}\n{shown}")

    def test_AllFeatures_EverySeriesEqualsTheTruth(self):
        truth, scrape = self.run_until_published("all", *RUN, "--features", "all")
        self.assert_equal_to_truth(truth, scrape)
        expected = set().union(*(names for option, names in FAMILIES.items() if option != ("--diffusion",)))
        self.assertEqual(expected - families(truth), set())
        idle = sorted(
            name for name in {text.partition("{")[0] for text in truth["counters"]}
            if not any(v for text, v in truth["counters"].items() if text.partition("{")[0] == name)
        )
        # The pool is large enough for those that run.
        self.assertEqual([name for name in idle if name != "vllm:num_preemptions_total"], [])

    def test_AllFeaturesOnTheRealClock_EverySeriesEqualsTheTruth(self):
        real = ("--clock", "real", "--speed", 500, "--tp", 2, "--workload", "generated:60", "--kv-blocks", 300)
        truth, scrape = self.run_until_published("real", *real, "--features", "all")
        self.assertEqual(truth["clock"], "real")
        self.assert_equal_to_truth(truth, scrape)

    def test_OneFeature_BringsItsFamiliesAndNoOthers(self):
        plain, scrape = self.run_until_published("plain", *RUN)
        self.assert_equal_to_truth(plain, scrape)
        for number, (option, expected) in enumerate(FAMILIES.items()):
            with self.subTest(option=option):
                truth, scrape = self.run_until_published(f"one-{number}", *RUN, *option)
                self.assert_equal_to_truth(truth, scrape)
                self.assertEqual(families(truth) - families(plain), expected)
                self.assertEqual(families(plain) - families(truth), set())
                moved = MOVES.get(option)
                if moved is not None:
                    self.assertGreater(scrape.total(moved), 0)

    def test_DeprecatedNames_MirrorWhatReplacedThem(self):
        # They are shown on demand only, so this takes an aggregator of its own, which looks on.
        mirrors = {"bytes_total": "kv_offload_total_bytes_total", "time_total": "kv_offload_total_time_total"}
        mirrors |= {f"size_{part}": f"kv_offload_size_{part}" for part in ("bucket", "count", "sum")}
        path = self.folder / "mirrors.json"
        arguments = ("--linger", "--truth", path, "--server", "mirrors", "--kv-connector", "offloading")
        with (
            lib.Aggregator(self.bus, "--observe", "--deprecated-names", "--log-level", "error") as observer,
            lib.simulate(self.bus, *RUN, *arguments) as simulator,
        ):
            lib.wait_for(path.exists, "the truth is written", 600, [observer, simulator])
            truth, scrape = json.loads(path.read_text()), observer.scrape("/metrics?server=mirrors")
        self.assert_equal_to_truth(truth, scrape, unknown_is_different=False)
        expected = {"counters": {}, "sums": {}}
        for kind, values in expected.items():
            for text, value in truth[kind].items():
                found = re.match(r"vllm:kv_offload_(load|store)_(\w+){", text)
                if found and found[2] in mirrors:
                    direction = {"load": "CPU_to_GPU", "store": "GPU_to_CPU"}[found[1]]
                    labels = text[found.end() : -1]
                    values[f'vllm:{mirrors[found[2]]}{{{labels},transfer_type="{direction}"}}'] = value
        self.assertGreater(len(expected["counters"]) * len(expected["sums"]), 0)
        self.assert_equal_to_truth(expected, scrape, unknown_is_different=False)

    def test_SleepingEngines_SayAtWhichLevel(self):
        for level, state in ((0, "awake"), (1, "weights_offloaded"), (2, "discard_all")):
            truth, scrape = self.run_until_published(f"sleep-{level}", *RUN, "--sleep", level)
            self.assert_equal_to_truth(truth, scrape)
            states = scrape.select("vllm:engine_sleep_state", engine="0")
            self.assertEqual(sum(states.values()), 1)
            self.assertEqual(scrape.value("vllm:engine_sleep_state", engine="0", sleep_state=state), 1)

    def test_FourFrontEnds_GiveOneView(self):
        one, _ = self.run_until_published("front-1", *RUN, "--features", "all")
        four, scrape = self.run_until_published("front-4", *RUN, "--features", "all", "--front-ends", 4)
        self.assert_equal_to_truth(four, scrape)
        self.assertEqual(len(scrape.select("rankbus_rank_info", engine="0", role="frontend")), 4)
        # Nobody's share is missing or counted twice.
        compared = 0
        for kind in ("counters", "sums"):
            for text, value in one[kind].items():
                name = text.partition("{")[0]
                for suffix in ("_bucket", "_count", "_sum"):
                    name = name.removesuffix(suffix)
                if name in DECIDED_BY_REQUESTS:
                    compared += 1
                    self.assertEqual(four[kind][text.replace('"front-1"', '"front-4"')], value, text)
        self.assertGreater(compared, 100)
        # One state per engine, whoever reported it.
        self.assertEqual(scrape.total("vllm:engine_sleep_state", engine="1"), 1)
        self.assertEqual(list(scrape.select("vllm:cache_config_info", engine="1").values()), [1])
        self.assertEqual(len(scrape.select("vllm:num_requests_running", engine="1")), 1)

    def test_UntilATime_RequestsAreLeftAsTheTruthSays(self):
        few = ("--max-num-seqs", 3, "--tp", 2, "--kv-blocks", 300, "--until", 30, "--workload", "generated:200")
        for server, clock in (("virtual", ("--speed", "max")), ("slept", ("--clock", "real", "--speed", 20))):
            with self.subTest(clock=clock):
                truth, scrape = self.run_until_published(server, *few, *clock, "--features", "all")
                self.assert_equal_to_truth(truth, scrape)
                for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
                    self.assertGreater(scrape.total(gauge), 0)
                # An engine with requests in it does not fall asleep.
                self.assertEqual(scrape.value("vllm:engine_sleep_state", sleep_state="awake"), 1)

    def test_SmallPool_EvictsAndPreemptsAsTheTruthSays(self):
        small = ("--speed", "max", "--engines", 2, "--tp", 1, "--kv-blocks", 80, "--workload", "generated:300")
        truth, scrape = self.run_until_published("small", *small, "--features", "all")
        self.assert_equal_to_truth(truth, scrape)
        self.assertGreater(scrape.total("rankbus_request_kv_evictions_total", reason="memory_pressure"), 0)
        for engine in ("0", "1"):
            # vLLM counts in tokens what the level counts in blocks of 512.
            for level, name in (("prefix", "vllm:prefix_cache_hits_total"),
                                ("external", "vllm:external_prefix_cache_hits_total")):
                blocks = scrape.value("rankbus_cache_hits_total", engine=engine, level=level)
                self.assertEqual(blocks * 512, scrape.value(name, engine=engine), level)
            preempted = scrape.value("vllm:num_preemptions_total", engine=engine)
            self.assertEqual(scrape.value("rankbus_request_kv_evictions_total", engine=engine), preempted)
            # Every block in use was given back.
            kv = {name: scrape.value(f"rankbus_cache_{name}_bytes_total", engine=engine, level="kv")
                  for name in ("written", "freed")}
            self.assertEqual(kv["written"], kv["freed"])

    def test_MoreAdaptersThanMayRun_DeferRequests(self):
        busy = ("--lora-adapters", 6, "--max-loras", 1, "--tp", 1, "--until", 30, "--workload", "generated:200")
        truth, scrape = self.run_until_published("lora", *busy, "--speed", "max")
        self.assert_equal_to_truth(truth, scrape)
        self.assertGreater(scrape.value("vllm:num_requests_waiting_by_reason", reason="deferred"), 0)
        self.assertGreater(scrape.total("rankbus_lora_requests_waiting"), 0)
        (series,) = scrape.select("vllm:lora_requests_info")
        self.assertEqual(dict(series.labels)["max_lora"], "1")
        self.assertIn("adapter-", dict(series.labels)["running_lora_adapters"])

    def test_SameCommandAgain_WritesTheSameTruthByteForByte(self):
        path = self.folder / "again.json"
        texts = []
        for _ in range(2):
            done = lib.run_rankbus(
                *("simulate", "--bus", self.bus, *RUN, "--server", "again", "--features", "all"),
                *("--front-ends", 2, "--truth", path),
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            texts.append(path.read_bytes())
        self.assertEqual(*texts)


if __name__ == "__main__":
    lib.main()
