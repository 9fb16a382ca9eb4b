"""Goal:   a user's dialect shows what its rules say on top of vLLM's names, and mistakes in it are told before anything starts.
Method: dialect files, good and bad; recorded calls replayed into a real aggregator.
"""

import json
import pathlib
import tempfile
import unittest

import lib
from calls import write_calls


class Dialect(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def shown(self, dialect, *arguments):
        (self.folder / "dialect.json").write_text(dialect if isinstance(dialect, str) else json.dumps(dialect))
        file, truth, bus = (self.folder / name for name in ("calls", "truth", "bus"))
        write_calls(file, seed=3, calls=40, engines=2)
        with lib.Aggregator(bus, "--names", self.folder / "dialect.json", *arguments) as aggregate:
            with lib.Process("replay", file, "--bus", bus, "--speed", "max", "--truth", truth, "--linger") as replay:
                lib.wait_for(truth.exists, "all calls are written", alive=[replay, aggregate])
                return aggregate.scrape()

    def refusal(self, dialect):
        (self.folder / "dialect.json").write_text(dialect if isinstance(dialect, str) else json.dumps(dialect))
        result = lib.run_rankbus("aggregate", "--bus", self.folder / "bus", "--names", self.folder / "dialect.json")
        self.assertEqual(result.returncode, 2, result.stderr)
        return result.stderr

    def test_OwnNames_StandBesideVllms(self):
        scrape = self.shown(
            {
                "families": [
                    {"family": "my_tokens_total", "from": "vllm:generation_tokens_total", "rename": {"engine": "replica"}},
                    {"family": "my_requests_total", "from": "vllm:request_success_total", "drop": ["finished_reason", "engine"]},
                    {
                        "family": "my_aborts_total",
                        "from": "vllm:request_success_total",
                        "where": {"finished_reason": "abort"},
                        "set": {"finished_reason": "gone"},
                        "help": "Aborted",
                    },
                    {"family": "my_latency", "from": "vllm:e2e_request_latency_seconds", "drop": ["engine"]},
                ]
            },
            "--deprecated-names",
        )
        for replica in "01":
            self.assertEqual(
                scrape.value("my_tokens_total", replica=replica), scrape.value("vllm:generation_tokens_total", engine=replica)
            )
        self.assertEqual(scrape.value("my_requests_total"), scrape.total("vllm:request_success_total"))
        self.assertEqual(
            scrape.total("my_aborts_total", finished_reason="gone"), scrape.total("vllm:request_success_total", finished_reason="abort")
        )
        self.assertEqual(scrape.value("my_latency_count"), scrape.total("vllm:e2e_request_latency_seconds_count"))
        # vLLM's own rules still hold.
        for series in scrape.select("vllm:cache_config_info"):
            self.assertNotIn("model_name", dict(series.labels))
        for series in scrape.select("vllm:lora_requests_info"):
            self.assertNotIn("engine", dict(series.labels))
        self.assertGreater(scrape.total("vllm:kv_offload_total_bytes_total"), 0)

    def test_Mistakes_AreToldWithTheirPlace(self):
        rule = {"family": "a_total", "from": "vllm:generation_tokens_total"}
        for dialect, said in [
            ("{", "parse error"),
            ("[]", 'an object with "families" is expected'),
            ({"families": None}, "families: a list is expected"),
            ({"families": [], "hidden": []}, 'unknown key "hidden"'),
            ({"families": [], "hide": "vllm:"}, "hide: a list of prefixes is expected"),
            ({"families": [], "hide": ["rankbus_"]}, "families of rankbus's own"),
            ({"families": [], "hide": [""]}, "families of rankbus's own"),
            ({"families": [rule, 5]}, "families[1]: an object is expected"),
            ({"families": [rule | {"drop": "engine"}]}, "families[0]: drop: a list of strings is expected"),
            ({"families": [rule | {"set": {"a": 1}}]}, "set: an object of strings is expected"),
            ({"families": [rule | {"form": "x"}]}, 'unknown key "form"'),
            ({"families": [rule | {"family": "a b"}]}, '"a b" is no metric name'),
            ({"families": [rule | {"family": "rankbus_checkpoints_mismatches_total"}]}, "rankbus's own"),
            ({"families": [rule | {"rename": {"engine": "le"}}]}, '"le" is no label name'),
        ]:
            with self.subTest(said):
                self.assertIn(said, self.refusal(dialect))

    def test_NoSuchDialect_NamesThoseThereAre(self):
        result = lib.run_rankbus("aggregate", "--bus", self.folder / "bus", "--names", "triton")
        self.assertEqual(result.returncode, 2)
        self.assertIn("triton: no such dialect, and no file that can be read. Give vllm, sglang, or", result.stderr)

    def test_IntervalThatIsNoNumber_IsRefused(self):
        for option in ("--log-interval", "--retain", "--slo-ttft"):
            result = lib.run_rankbus("aggregate", "--bus", self.folder / "bus", option, "nan")
            self.assertEqual(result.returncode, 2, option)
            self.assertIn("nan", result.stderr)


if __name__ == "__main__":
    lib.main()
