"""Goal:   a file of recorded calls becomes on /metrics exactly what vLLM's loggers would have made of it.
Method: files with everything that vLLM's stats objects can say, written from a seed; `rankbus replay` through real
        producers into a real aggregator; compared with the truth that replay counts from the JSON alone, and with a
        few sums that the test computes itself.
Replay: the seed is printed; RANKBUS_SEED=N repeats it.
"""

import gzip
import json
import os
import pathlib
import random
import tempfile
import unittest

import lib
from calls import EVERYTHING, write_calls
from compare_truth import compare

SEED = int(os.environ.get("RANKBUS_SEED", random.randrange(1 << 30)))


class Replay(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"RANKBUS_SEED={SEED}")

    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.bus = self.folder / "bus"

    def replayed(self, file, *arguments, speed="max", aggregator=()):
        """Replays a file and returns (truth, scrape while the producers live, log text)."""
        truth = self.folder / "truth.json"
        truth.unlink(missing_ok=True)
        lib.forget_counts(self.bus)  # Each replay is compared with a truth of its own.
        with lib.Aggregator(self.bus, "--log-interval", "0.5", *aggregator) as aggregate:
            with lib.Process(
                "replay", file, "--bus", self.bus, "--speed", speed, "--truth", truth, "--linger", *arguments
            ) as replay:
                lib.wait_for(truth.exists, "the truth is written", alive=[replay, aggregate])
                scrape = aggregate.scrape()
            return json.loads(truth.read_text()), scrape, aggregate

    def assert_equal_to_truth(self, truth, scrape, at_least):
        result = compare(truth, scrape.samples)
        self.assertEqual(result.differences[:10], [])
        self.assertGreaterEqual(result.total(), at_least)

    def test_Everything_EqualsTheTruth(self):
        file = self.folder / "calls.jsonl"
        write_calls(file, seed=SEED, calls=300)
        truth, scrape, _ = self.replayed(file)
        self.assert_equal_to_truth(truth, scrape, at_least=1300)
        generated = sum(
            (json.loads(line).get("iteration") or {}).get("num_generation_tokens", 0)
            for line in file.read_text().splitlines()
        )
        self.assertEqual(scrape.total("vllm:generation_tokens_total"), generated)

    def test_GzippedFileWithoutFeatures_ShowsWhatItContains(self):
        file = self.folder / "calls.gz"
        write_calls(file, seed=SEED + 1, calls=300, name_features=False)
        truth, scrape, _ = self.replayed(file)
        self.assert_equal_to_truth(truth, scrape, at_least=1300)

    def test_PlainEngine_ShowsNoFamilyOfAFeature(self):
        file = self.folder / "calls.jsonl"
        write_calls(file, seed=SEED + 2, calls=100, engines=1, features=[])
        truth, scrape, _ = self.replayed(file)
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        names = {series.name for series in scrape.samples}
        for word in ("spec_decode", "diffusion", "nixl", "kv_offload", "mooncake", "estimated", "kv_block", "corrupted", "lora"):
            self.assertEqual([name for name in names if name.startswith("vllm:") and word in name], [])

    def test_DiffusionAndMoriio_TakeThePlaceOfTheirLikes(self):
        file = self.folder / "calls.jsonl"
        write_calls(file, seed=SEED + 3, calls=100, features=["diffusion_decoding", "connector:moriio"])
        truth, scrape, _ = self.replayed(file)
        self.assert_equal_to_truth(truth, scrape, at_least=400)
        self.assertGreater(scrape.total("vllm:diffusion_num_denoising_steps_total"), 0)
        self.assertGreater(scrape.total("vllm:moriio_xfer_time_seconds_count"), 0)
        self.assertIsNone(scrape.total("vllm:spec_decode_num_drafts_total"))
        self.assertIsNone(scrape.total("vllm:nixl_xfer_time_seconds_count"))

    def test_DeprecatedNames_MirrorTheirSuccessors(self):
        file = self.folder / "calls.jsonl"
        features = [name for name in EVERYTHING if name.startswith("connector:offloading")]
        write_calls(file, seed=SEED + 4, calls=60, features=features)
        _, scrape, _ = self.replayed(file, aggregator=["--deprecated-names"])
        for old, new, direction in [
            ("vllm:kv_offload_total_bytes_total", "vllm:kv_offload_load_bytes_total", "CPU_to_GPU"),
            ("vllm:kv_offload_total_bytes_total", "vllm:kv_offload_store_bytes_total", "GPU_to_CPU"),
            ("vllm:kv_offload_total_time_total", "vllm:kv_offload_load_time_total", "CPU_to_GPU"),
            ("vllm:kv_offload_size_count", "vllm:kv_offload_store_size_count", "GPU_to_CPU"),
        ]:
            self.assertGreater(scrape.total(new), 0)
            self.assertEqual(scrape.total(old, transfer_type=direction), scrape.total(new))

    def test_SglangDialect_ShowsItsCoreMetricsAndNoneOfVllms(self):
        file = self.folder / "calls.jsonl"
        write_calls(file, seed=SEED + 5, calls=100, engines=2)
        truth, scrape, _ = self.replayed(file, aggregator=["--names", "sglang"])
        names = {series.name for series in scrape.samples}
        self.assertEqual([name for name in names if name.startswith("vllm:")], [])
        expected = lambda name, **labels: sum(
            value
            for text, value in truth["counters"].items()
            if text.startswith(name + "{") and all(f'{k}="{v}"' in text for k, v in labels.items())
        )
        self.assertEqual(scrape.total("sglang:prompt_tokens_total"), expected("vllm:prompt_tokens_total"))
        self.assertEqual(scrape.total("sglang:num_requests_total"), expected("vllm:request_success_total"))
        self.assertEqual(
            scrape.total("sglang:num_aborted_requests_total", dp_rank="1"),
            expected("vllm:request_success_total", finished_reason="abort", engine="1"),
        )
        self.assertEqual(
            scrape.total("sglang:time_to_first_token_seconds_count"), expected("vllm:time_to_first_token_seconds_count")
        )
        self.assertEqual(len(scrape.select("sglang:num_running_reqs", tp_rank="0", engine_type="unified")), 2)

    def test_BadLine_EndsWithItsNumberBeforeAnythingIsPublished(self):
        file = self.folder / "calls.jsonl"
        write_calls(file, seed=SEED + 6, calls=20)
        lines = file.read_text().splitlines()
        good = len(lines)
        lines.insert(11, '{"engine": 0, "scheduler": {"num_running_reqs": "three"}}')
        lines.insert(15, "{this is no JSON")
        file.write_text("\n".join(lines) + "\n")
        result = lib.run_rankbus("replay", file, "--bus", self.bus, "--speed", "max")
        self.assertEqual(result.returncode, 2)
        self.assertIn("line 12: num_running_reqs: found \"three\", expected an integer", result.stderr)
        self.assertFalse(self.bus.exists())
        skipping = lib.run_rankbus("replay", file, "--bus", self.bus, "--speed", "max", "--skip-bad")
        self.assertEqual(skipping.returncode, 0, skipping.stderr)
        self.assertIn(f"replayed {good - 1} calls", skipping.stdout)
        self.assertIn("(2 bad lines left out)", skipping.stdout)

    def odd(self, *calls, features=None, gzipped=False, cut=0):
        """Replays hand-made calls; returns (truth, scrape, what replay said)."""
        header = {"model_name": "m", "max_model_len": 4096, "engines": [0]}
        if features is not None:
            header["features"] = features
        text = "".join(json.dumps(line) + "\n" for line in [header, *calls])
        file = self.folder / ("calls.gz" if gzipped else "calls.jsonl")
        data = gzip.compress(text.encode()) if gzipped else text.encode()
        file.write_bytes(data[: len(data) - cut])
        truth, scrape, _ = self.replayed(file)
        said = lib.run_rankbus("replay", file, "--bus", self.folder / "again", "--speed", "max")
        self.assertEqual(said.returncode, 0, said.stderr)
        return truth, scrape, said.stderr

    def test_UnknownConnector_CostsNothingButItself(self):
        scheduler = {"num_running_reqs": 3, "kv_connector_stats": {"LMCacheConnector": [1, 2], "NixlConnector": None}}
        truth, scrape, said = self.odd({"scheduler": scheduler, "iteration": {"num_generation_tokens": 50}})
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        self.assertEqual(scrape.value("vllm:generation_tokens_total"), 50)
        self.assertIn("1 payloads of connectors that are not known", said)

    def test_ListsOfDifferentLengthsAndNulls_CountWhatTheyHave(self):
        payload = {
            "transfer_duration": [0.5],
            "post_duration": [0.1, None, 0.2],
            "bytes_transferred": [4096, 8192],
            "num_descriptors": [None, 3],
            "num_failed_notifications": [],
            "num_failed_transfers": [1, 1],
        }
        truth, scrape, _ = self.odd({"scheduler": {"kv_connector_stats": payload}})
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        for family, count in [("xfer_time_seconds", 1), ("post_time_seconds", 2), ("bytes_transferred", 2), ("num_descriptors", 1)]:
            self.assertEqual(scrape.value(f"vllm:nixl_{family}_count"), count, family)
        self.assertEqual(scrape.value("vllm:nixl_num_failed_transfers_total"), 2)

    def test_UnknownReason_CountsAsOther(self):
        requests = [{"finish_reason": reason, "num_prompt_tokens": 5} for reason in (None, "tool_call", "stop")]
        truth, scrape, _ = self.odd({"iteration": {"finished_requests": requests}})
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        self.assertEqual(scrape.value("vllm:request_success_total", finished_reason="other"), 2)
        self.assertEqual(scrape.value("vllm:request_success_total", finished_reason="stop"), 1)

    def test_FileOfAKilledWriter_IsReplayedUpToThere(self):
        calls = [{"t": i, "iteration": {"num_generation_tokens": 1}} for i in range(2000)]
        for gzipped, cut in ((False, 9), (True, 200)):
            truth, scrape, said = self.odd(*calls, gzipped=gzipped, cut=cut)
            self.assert_equal_to_truth(truth, scrape, at_least=300)
            self.assertGreater(scrape.value("vllm:generation_tokens_total"), 100)
            self.assertLess(scrape.value("vllm:generation_tokens_total"), 2000)
            self.assertIn("ends in the middle of a line", said)

    def test_UndeclaredFeature_IsLeftOutAndSaid(self):
        perf = {"num_flops_per_gpu": 1, "num_read_bytes_per_gpu": 1, "num_write_bytes_per_gpu": 1}
        truth, scrape, said = self.odd({"scheduler": {"perf_stats": perf}}, features=[])
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        self.assertIn("the calls have perf_stats, which the header's features do not name", said)

    def test_OperationsBeyond64Bits_KeepCounting(self):
        perf = {"num_flops_per_gpu": 9e18, "num_read_bytes_per_gpu": 0, "num_write_bytes_per_gpu": 0}
        truth, scrape, _ = self.odd(*[{"scheduler": {"perf_stats": perf}}] * 5)
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        self.assertEqual(scrape.value("vllm:estimated_flops_per_gpu_total"), 4.5e19)

    def test_WhatVllmCallsAFeature_IsUnderstood_AndNonsenseCostsNothing(self):
        _, scrape, _ = self.odd({}, features=["spec_decode", "mfu", "kv_cache_metrics", "NixlConnector", "hisparse"])
        for family in ("spec_decode_num_drafts_total", "estimated_flops_per_gpu_total", "kv_block_lifetime_seconds_count"):
            self.assertEqual(scrape.value("vllm:" + family), 0)
        self.assertEqual(scrape.value("vllm:nixl_xfer_time_seconds_count"), 0)
        perf = {"num_flops_per_gpu": 7, "num_read_bytes_per_gpu": 1, "num_write_bytes_per_gpu": 1}
        truth, scrape, said = self.odd({"scheduler": {"perf_stats": perf}}, features=["nonsense"])
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        self.assertEqual(scrape.value("vllm:estimated_flops_per_gpu_total"), 7)
        self.assertIn('features: "nonsense" is no record type', said)

    def test_LabelTuplesAsPairs_AreUnderstood(self):
        data = {"vllm:kv_offload_load_bytes": [[[], 5], [["cpu"], 6]], "vllm:kv_offload_load_size": [[[], [5, 6]]]}
        payload = {"types": {}, "data": data}
        truth, scrape, _ = self.odd({"scheduler": {"kv_connector_stats": payload}})
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        self.assertEqual(scrape.value("vllm:kv_offload_load_bytes_total"), 11)
        self.assertEqual(scrape.value("vllm:kv_offload_load_size_count"), 2)

    def test_FormerNamesOfFields_AreUnderstood(self):
        truth, scrape, _ = self.odd(
            {"scheduler": {"gpu_cache_usage": 0.25}, "iteration": {"time_per_output_tokens_iter": [0.5, 0.25]}}
        )
        self.assert_equal_to_truth(truth, scrape, at_least=300)
        self.assertEqual(scrape.value("vllm:kv_cache_usage_perc"), 0.25)
        self.assertEqual(scrape.value("vllm:inter_token_latency_seconds_count"), 2)

    def test_NoHeader_SaysWhatIsMissing(self):
        file = self.folder / "calls.jsonl"
        for text, said in [("", "header"), ('{"engine": 0}\n', "model_name"), ('{"model_name": "m", "features": "nixl"}\n', "a list of names")]:
            file.write_text(text)
            result = lib.run_rankbus("replay", file, "--bus", self.bus)
            self.assertEqual(result.returncode, 2, text)
            self.assertIn(said, result.stderr)
            self.assertIn(f"{file} line 1: ", result.stderr)
        missing = lib.run_rankbus("replay", self.folder / "none", "--bus", self.bus)
        self.assertEqual(missing.returncode, 1)
        self.assertIn("No such file", missing.stderr)


if __name__ == "__main__":
    lib.main()
