# Labels: release-only
"""Goal:   every behaviour of the systems that rankbus replaces has a test that names it, and a page says which.
Method: the behaviours are in tests/conformance/seed_rows.json; a test names one by its id (S1-19) in the comment
        directly above it, or in its name. aggregator/analysis/ROWS.md is made of both. Numbers worked by hand (W7) are
        in tests/conformance/seed_numbers.json; a test that names one has each of them in its text.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/contract_seed_rows.py
"""

import json
import os
import re
import sys
import unittest

from named_tests import ROOT, cell, tests_that_name

ROWS = json.loads((ROOT / "tests/conformance/seed_rows.json").read_text())
NUMBERS = json.loads((ROOT / "tests/conformance/seed_numbers.json").read_text())["numbers"]
PAGE = ROOT / "aggregator/analysis/ROWS.md"
ID = re.compile(r"\bS[0-3]-\d\d\b")
NUMBER_ID = re.compile(r"\bW\d+\b")
SYSTEMS = {
    "S0": ("Scheduler statistics", "[README.md](README.md)"),
    "S1": ("KV-block residency", "[README.md](README.md)"),
    "S2": ("Caches over sliding windows", "[CACHES.md](CACHES.md)"),
    "S3": ("KV connectors", "[aggregator/README.md](../README.md), [exporters/README.md](../../exporters/README.md)"),
}


def tests_by_row():
    return {row: [name for name, _ in tests] for row, tests in tests_that_name(ID).items()}


def tests_by_number():
    """{W: [test, ...]} of those tests that name it and have all of its numbers in their text."""
    found = {}
    for number, tests in sorted(tests_that_name(NUMBER_ID).items(), key=lambda item: int(item[0][1:])):
        _, wanted = NUMBERS.get(number, ("unknown", []))
        # Not as part of a longer number.
        patterns = [rf"(?<!\d)(?<!\d\.){re.escape(part)}(?!\w|\.\d)" for part in wanted]
        found[number] = [name for name, text in tests if all(re.search(pattern, text) for pattern in patterns)]
    return found


def page():
    tests = tests_by_row()
    lines = [
        "# What the replaced systems did, row by row",
        "",
        f"Made by `tests/contract_seed_rows.py`. Rows: {ROWS['source']}.",
        "",
        "The tests on the right prove the value types; records on the bus feed them (S0 to S2: `unit_analysis_*`,",
        "`e2e_analysis_trace`; S3: `e2e_user_connector`, `e2e_every_line`), and `/metrics` and `/api/v1/analysis` show them.",
        "",
        "`scripts/mutate` breaks rows on purpose, twenty drawn at random or those that are named, and says whether the tests",
        "on the right notice: `scripts/mutate --seed 20261122`, `scripts/mutate --rows S1-19,S2`.",
    ]
    for system, (title, documented) in SYSTEMS.items():
        lines += ["", f"## {system}: {title}", "", f"Documented in {documented}.", "", "| row | | behaviour | test |", "|---|---|---|---|"]
        for row, (tag, behaviour) in ROWS["rows"].items():
            if row.startswith(system):
                # Single examples say more than properties.
                named = sorted(tests.get(row, []), key=lambda test: not test.startswith("unit_"))[:3]
                lines.append(f"| {row} | {tag} | {cell(behaviour)} | {'; '.join(f'`{test}`' for test in named)} |")
    lines += ["", "## S4: Engine monitor, owed", "", "An engine monitor with reports is not built; nothing here is ticked.", ""]
    lines += ["| row | | behaviour |", "|---|---|---|"]
    lines += [f"| {row} | {tag} | {cell(text)} |" for row, (tag, text) in ROWS["owed"].items()]
    lines += ["", "## Numbers worked by hand", "", "| | given and expected | rows | test |", "|---|---|---|---|"]
    for number, names in tests_by_number().items():
        rows = sorted(row for row in tests if set(tests[row]) & set(names))
        lines.append(f"| {number} | {NUMBERS[number][0]} | {', '.join(rows)} | {'; '.join(f'`{name}`' for name in names)} |")
    return "\n".join(lines) + "\n"


class SeedRows(unittest.TestCase):
    def test_EveryRow_IsNamedByATest(self):
        self.assertEqual(sorted(set(ROWS["rows"]) - set(tests_by_row())), [])

    def test_NoTest_NamesARowThatIsNone(self):
        self.assertEqual(sorted(set(tests_by_row()) - set(ROWS["rows"])), [])

    def test_EveryWorkedNumber_IsInATestThatNamesIt(self):
        tests = tests_by_number()
        self.assertEqual([number for number in NUMBERS if not tests.get(number)], [])
        self.assertEqual(sorted(set(tests) - set(NUMBERS)), [])

    def test_Page_IsMadeOfRowsAndTests(self):
        self.assertEqual(PAGE.read_text(), page(), "to update, see the head of this file")


if __name__ == "__main__":
    if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
        PAGE.write_text(page())
    unittest.main(argv=sys.argv)
