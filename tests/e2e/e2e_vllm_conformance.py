"""Goal:   /metrics has every family of vLLM's that is configured, and none that is not: same names, types, labels,
        label values, bucket bounds to the letter, and the values that vLLM's logger would have.
Method: tests/golden/calls_*.jsonl are recorded record() calls; tests/golden/exposition_*.txt is what vLLM's logger
        would show after them, made by vllm_reference.py with the Prometheus Python client from the description of
        vLLM's metrics. `rankbus replay` writes the calls; /metrics is compared with the golden text, line by line.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/e2e/e2e_vllm_conformance.py   (then read the difference)
"""

import collections
import json
import os
import pathlib
import re
import tempfile
import unittest

import lib
import vllm_reference
from calls import EVERYTHING, Generator, write_calls

GOLDEN = lib.ROOT / "tests/golden"
SCENES = {
    "everything": EVERYTHING,
    "plain": [],
    "others": ["diffusion_decoding", "connector:moriio", "connector:nixl"],
}


def golden_calls(scene):
    return (GOLDEN / f"calls_{scene}.jsonl").read_text().splitlines()


def make_golden(scene, features):
    """Small calls that vLLM's own shapes allow: one generation of payloads, no negative durations."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "calls"
        write_calls(path, seed=5, calls=6, features=features)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    header = lines[0]
    header["features"].append("cache_config")
    generator = Generator(6, features)
    for call in lines[1:]:
        iteration = call.get("iteration") or {}
        for name, values in iteration.items():
            if isinstance(values, list):
                iteration[name] = values[:8]
        for request in iteration.get("finished_requests", []):
            request["prefill_time"] = abs(request["prefill_time"])
        if iteration and "prompt_token_stats" not in iteration:
            call["iteration"] = None
        payload = (call.get("scheduler") or {}).get("kv_connector_stats") or {}
        while "OffloadingConnector" in payload and "types" not in payload["OffloadingConnector"]["data"]:
            payload["OffloadingConnector"]["data"] = generator.offloading()
        scheduler = call.get("scheduler")
        if scheduler and features == SCENES["others"]:
            scheduler["kv_connector_stats"] = {
                name: {"data": generator.connector(kind)} for name, kind in [("MoRIIOConnector", "moriio"), ("NixlConnector", "nixl")]
            }
    lines.append({"t": 9.0, "engine": 1, "sleep": [1, 2]})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (GOLDEN / f"calls_{scene}.jsonl").write_text(text)
    (GOLDEN / f"exposition_{scene}.txt").write_text(vllm_reference.exposition(text.splitlines(), deprecated=scene == "everything"))


def samples_of(text):
    """{'name{labels}' as it is written: value} and {family: type} of vLLM's families."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE vllm:"):
            _, _, family, kind = line.split()
            types[family] = kind
        elif line.startswith("vllm:"):
            series, value = line.rsplit(" ", 1)
            if series in samples:
                raise AssertionError(f"exposed twice: {series}")
            samples[series] = float(value)
    return samples, types


class Conformance(unittest.TestCase):
    def scraped(self, scene, *arguments):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            bus, truth = pathlib.Path(folder) / "bus", pathlib.Path(folder) / "truth"
            with lib.Aggregator(bus, *arguments) as aggregate:
                file = GOLDEN / f"calls_{scene}.jsonl"
                with lib.Process("replay", file, "--bus", bus, "--speed", "max", "--truth", truth, "--linger") as replay:
                    lib.wait_for(truth.exists, "all calls are written", alive=[replay, aggregate])
                    return aggregate.scrape().text

    def assert_golden(self, scene, text):
        expected, expected_types = samples_of((GOLDEN / f"exposition_{scene}.txt").read_text())
        found, found_types = samples_of(text)
        # The value of this one is a time; what it was made of is in its labels.
        lora = [series for series in found if series.startswith("vllm:lora_requests_info")]
        if scene == "everything":
            self.assertGreaterEqual(len(lora), 1)
            self.assertEqual(found_types.pop("vllm:lora_requests_info"), "gauge")
            self.assertEqual(lora, [s for s in lora if re.search(r'{max_lora="4",running_lora_adapters="[^"]+",waiting_lora_adapters="[^"]+"} *', s)])
        for series in lora:
            self.assertGreater(found.pop(series), 1.7e9)
        self.assertEqual(found_types, expected_types)
        self.assertEqual(sorted(set(expected) - set(found))[:10], [], "missing")
        self.assertEqual(sorted(set(found) - set(expected))[:10], [], "extra")
        different = [
            (series, found[series], value)
            for series, value in expected.items()
            # The other way round, NaN would be equal to everything.
            if not abs(found[series] - value) <= (1e-9 * abs(value) if re.search(r"_sum{|_time_total{|:estimated_", series) else 0)
        ]
        self.assertEqual(different[:10], [])

    # S3-09
    def test_Everything_IsWhatVllmWouldShow(self):
        self.assert_golden("everything", self.scraped("everything", "--deprecated-names"))

    def test_PlainEngine_IsWhatVllmWouldShow(self):
        self.assert_golden("plain", self.scraped("plain"))

    def test_DiffusionAndBothTransferConnectors_AreWhatVllmWouldShow(self):
        self.assert_golden("others", self.scraped("others"))

    # C-39
    def test_GoldenText_IsWhatTheReferenceSays(self):
        for scene in SCENES:
            text = vllm_reference.exposition(golden_calls(scene), deprecated=scene == "everything")
            self.assertEqual(samples_of(text), samples_of((GOLDEN / f"exposition_{scene}.txt").read_text()), scene)

    def test_GoldenTexts_CoverEveryFamilyOfTheTable(self):
        shown = set()
        for scene in SCENES:
            shown |= set(samples_of((GOLDEN / f"exposition_{scene}.txt").read_text())[1])
        self.assertEqual({family["family"] for family in vllm_reference.TABLE["families"]} - shown, {"vllm:lora_requests_info"})

    # S3-10
    def test_BeforeAnyTraffic_EveryChildIsThereAtZero(self):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            file = pathlib.Path(folder) / "calls"
            file.write_text(golden_calls("everything")[0] + "\n")
            with lib.Aggregator(pathlib.Path(folder) / "bus") as aggregate:
                with lib.Process("replay", file, "--bus", pathlib.Path(folder) / "bus", "--linger") as replay:
                    lib.wait_for(lambda: "vllm:" in aggregate.scrape().text, "an engine is there", alive=[replay])
                    found, _ = samples_of(aggregate.scrape().text)
        header = json.loads(golden_calls("everything")[0])
        expected, _ = samples_of(vllm_reference.Reference(header, header["features"]).text())
        self.assertEqual(found, expected)

    def test_CreatedSeries_StandBesideEachCounterAndHistogram(self):
        text = self.scraped("plain", "--created-series")
        found, types = samples_of(text)
        counted = collections.Counter(kind for family, kind in types.items() if not family.endswith("_created"))
        created = [family for family in types if family.endswith("_created")]
        self.assertEqual(len(created), counted["counter"] + counted["histogram"])
        self.assertIn("vllm:prompt_tokens_created", created)
        self.assertIn("vllm:iteration_tokens_total_created", created)
        for series, value in found.items():
            if "_created{" in series:
                self.assertGreater(value, 1.7e9)


if __name__ == "__main__":
    if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
        for name, chosen in SCENES.items():
            make_golden(name, chosen)
    lib.main()
