# Labels: release-only
"""Goal:   every behaviour of the systems that rankbus replaces has a test that names it, and a page says which.
Method: the behaviours are in tests/conformance/seed_rows.json; a test names one by its id (S1-19) in the comment
        directly above it, or in its name. aggregator/analysis/ROWS.md is made of both.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/contract_seed_rows.py
"""

import json
import os
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
ROWS = json.loads((ROOT / "tests/conformance/seed_rows.json").read_text())
PAGE = ROOT / "aggregator/analysis/ROWS.md"
ID = re.compile(r"\bS[0-3]-\d\d\b")
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST)\((\w+),\s*(\w+)\)|^    def (test_\w+)\(")
SYSTEMS = {
    "S0": ("Scheduler statistics", "[README.md](README.md)"),
    "S1": ("KV-block residency", "[README.md](README.md)"),
    "S2": ("Caches over sliding windows", "[CACHES.md](CACHES.md)"),
    "S3": ("KV connectors", "[aggregator/README.md](../README.md), [exporters/README.md](../../exporters/README.md)"),
}


def tests_by_row():
    """{row: ['file: Suite.Test', ...]} of the rows named directly above a test."""
    found = {}
    for path in sorted([*ROOT.glob("tests/*.cpp"), *ROOT.glob("tests/e2e/*.py")]):
        named = []
        joined = re.sub(r",\n\s+", ", ", path.read_text())
        for line in joined.splitlines():
            test = TEST.match(line)
            if test:
                name = f"{test[1]}.{test[2]}" if test[1] else test[3]
                for row in dict.fromkeys(named + ID.findall(name)):
                    found.setdefault(row, []).append(f"{path.stem}: {name}")
            named = named + ID.findall(line) if line.lstrip().startswith(("//", "#")) else []
    return found


def page():
    tests = tests_by_row()
    lines = [
        "# What the replaced systems did, row by row",
        "",
        f"Made by `tests/contract_seed_rows.py`. Rows: {ROWS['source']}.",
        "",
        "What these rows name exists as value types and is proved by the tests on the right. Feeding S0 to S2 from records on",
        "the bus, and showing them on `/metrics`, is not there yet; S3 flows from rank to log and `/metrics`.",
    ]
    for system, (title, documented) in SYSTEMS.items():
        lines += ["", f"## {system}: {title}", "", f"Documented in {documented}.", "", "| row | | behaviour | test |", "|---|---|---|---|"]
        for row, (tag, behaviour) in ROWS["rows"].items():
            if row.startswith(system):
                shown = behaviour.replace("|", "\\|")
                lines.append(f"| {row} | {tag} | {shown} | {'; '.join(f'`{test}`' for test in tests.get(row, [])[:3])} |")
    return "\n".join(lines) + "\n"


class SeedRows(unittest.TestCase):
    def test_EveryRow_IsNamedByATest(self):
        self.assertEqual(sorted(set(ROWS["rows"]) - set(tests_by_row())), [])

    def test_NoTest_NamesARowThatIsNone(self):
        self.assertEqual(sorted(set(tests_by_row()) - set(ROWS["rows"])), [])

    def test_Page_IsMadeOfRowsAndTests(self):
        self.assertEqual(PAGE.read_text(), page(), "to update, see the head of this file")


if __name__ == "__main__":
    if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
        PAGE.write_text(page())
    unittest.main(argv=sys.argv)
