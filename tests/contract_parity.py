# Labels: release-only
"""Goal:   producer/PARITY.md names every family of vLLM's, with what feeds it here, and nothing that is not so.
Method: vLLM's families come from tests/conformance/vllm_families.json, ours from `rankbus describe`; the page is made
        of both and compared with the file. A family on either side alone is a failure.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/contract_parity.py
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
BINARY = os.environ.get("RANKBUS_BINARY", str(ROOT / "build/release/rankbus"))
TABLE = json.loads((ROOT / "tests/conformance/vllm_families.json").read_text())
DIALECT = json.loads((ROOT / "aggregator/dialects/vllm.json").read_text())
PAGE = ROOT / "producer/PARITY.md"

HEAD = """# vLLM's metrics, one by one

Made by `tests/contract_parity.py` from vLLM's families ({source}) and the declarations in `producer/records.hpp`. Each
family has vLLM's name, type, labels, label values and buckets; `tests/e2e/e2e_vllm_conformance.py` compares them, to the
last bucket, with what the Prometheus client shows for vLLM's own definitions.

*Appears with* names the record type that a producer declares when the feature is configured; families without one are
always there, at 0 before any traffic. *Over ranks* says how values of several processes (ranks, front ends, restarts)
become the engine's: sums and histograms add up over living and dead processes, of gauges the one with the newest stamp
is shown, and none once its writer is gone.

**When gauges are taken.** vLLM's scheduler makes its stats when a step's output is processed, and sends them to one
front end. Under asynchronous scheduling the next step has been scheduled by then: `num_requests_running` and
`num_requests_waiting` are those after the newest scheduling decision, up to one step ahead of the tokens that the same
record counts, and `kv_cache_usage_perc` includes blocks that the step in flight has taken. rankbus shows what was
recorded, at the stamp at which it was recorded, and changes neither.

| family | type | labels | fed by (vLLM) | record and field | over ranks | appears with |
|---|---|---|---|---|---|---|
"""

TAIL = """
Not shown: `vllm:kv_cache_capacity_bytes` (seen in a proposal only), the HTTP server's own metrics, and names that vLLM
has removed (`vllm:gpu_cache_usage_perc`, `vllm:time_per_output_token_seconds`, ...).

Differences, on purpose:

- A negative duration (a request that died before its first token) counts in the lowest bucket and adds 0 to the sum;
  vLLM lets it take millions of seconds off the sum. Such values are counted in `rankbus_negative_values_total`.
- `vllm:lora_requests_info` shows the present combination of adapters; vLLM keeps showing the former ones.
- With several API servers gauges are those of the newest record, counters are exact, and there is no directory of
  files of dead processes; connectors' gauges have no `pid` label.
- A `server` label is added where the server has a name (`RANKBUS_SERVER`).
- Log lines: see `exporters/README.md`.
"""


def described():
    """{family: [(record, field, over ranks)]} of the built-in record types."""
    text = subprocess.run([BINARY, "describe"], check=True, capture_output=True, text=True).stdout
    found, record = {}, ""
    for line in text.split("\n# What is made of samples\n")[0].splitlines():
        if line.startswith("## "):
            record = line[3:]
        elif line.startswith("| `"):
            field, _, _, kind, _, series, over_ranks, _ = (cell.strip() for cell in line.strip("|").split(" | ", 7))
            family = re.match(r"`(vllm:\w+)", series)
            if family:
                found.setdefault(family[1], []).append((record, field.strip("`"), over_ranks or "newest"))
    return found


def page():
    ours = described()
    mirrored = {}
    for rule in DIALECT["deprecated"]:
        mirrored.setdefault(rule["family"], []).append(rule["from"])
    rows = []
    for family in TABLE["families"]:
        name = family["family"]
        fed = ours.get(name) or [each for source in mirrored.get(name, []) for each in ours[source]]
        labels = [label for label in [*family.get("base", ["model_name", "engine"]), *family.get("labels", [])]]
        shown = ", ".join("the configuration's" if label == "*" else label for label in labels)
        record = "; ".join(f"`{record}.{field}`" for record, field, _ in fed)
        how = ", ".join(dict.fromkeys(how for _, _, how in fed))
        feature = family.get("feature", "")
        rows.append(
            f"| `{name}` | {family['type']} | {shown} | {family['vllm_field']} | {record} | {how} | {f'`{feature}`' if feature else ''} |"
        )
    return HEAD.format(source=TABLE["source"]) + "\n".join(rows) + "\n" + TAIL


class Parity(unittest.TestCase):
    def test_EveryFamilyOfVllms_IsFedByARecord_AndNoneIsInvented(self):
        ours, theirs = set(described()), {family["family"] for family in TABLE["families"]}
        mirrored = {rule["family"] for rule in DIALECT["deprecated"]}
        self.assertEqual(theirs - ours - mirrored, set())
        self.assertEqual(ours - theirs, set())

    def test_FamiliesOfAFeature_ComeFromThatRecordType(self):
        ours = described()
        for family in TABLE["families"]:
            feature = family.get("feature", "")
            if feature and not feature.startswith("--"):
                self.assertEqual({record for record, _, _ in ours[family["family"]]}, {feature})

    def test_Page_IsMadeOfBoth(self):
        self.assertEqual(PAGE.read_text(), page(), "to update, see the head of this file")


if __name__ == "__main__":
    if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
        PAGE.write_text(page())
    unittest.main(argv=sys.argv)
