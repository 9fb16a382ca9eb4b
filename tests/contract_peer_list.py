# Labels: release-only
"""Goal:   everything that systems like this one were caught by has a test that names it, and a page says which.
Method: the list is in tests/conformance/peer_list.json, in our own words; a test names an item (C-19) in the comment
        directly above it, a fuzz target or a benchmark anywhere in its file. bus/PROMISES.md is made of both. What
        cannot exist in this design has a written reason instead of a test; few things may.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/contract_peer_list.py
"""

import json
import os
import re
import sys
import unittest

from named_tests import ROOT, cell, files_that_name, tests_that_name

LIST = json.loads((ROOT / "tests/conformance/peer_list.json").read_text())
PAGE = ROOT / "bus/PROMISES.md"
ID = re.compile(r"\bC-(\d+)\b")
ITEMS = 44
COST = range(40, ITEMS + 1)  # Measured rather than tested.
MOST_REASONS = 8
SHOWN = 6

# What leaves the program as text, and the tests with texts that try to break out of it. All of them name C-24.
MEDIA = {
    "exposition": ["e2e_hostile_texts", "unit_exporters_prometheus_text", "unit_exporters_read_back"],
    "log lines": ["e2e_hostile_texts", "unit_exporters_engine_log", "unit_exporters_throughput_log"],
    "terminal": ["e2e_hostile_texts", "unit_exporters_log_output"],
    "JSON": ["e2e_hostile_texts", "unit_scheduler_stats"],
    "HTML": ["e2e_hostile_texts"],
    "CSV": ["unit_export_csv"],
}
HOSTILE_TEXTS = 24


def items():
    """{number: (part, promise, note, reason)}"""
    found = {}
    for number, texts in LIST["items"].items():
        part, promise, note = (*texts, "")[:3]
        is_reason = note.startswith("cannot be: ")
        found[int(number)] = (part, promise, "" if is_reason else note, note if is_reason else "")
    return found


def tests_by_item():
    found = {}
    for number, tests in tests_that_name(ID).items():
        found[int(number)] = [name for name, _ in tests]
    for number, names in files_that_name(ID).items():
        found.setdefault(int(number), []).extend(names)
    return found


def told(names, note, reason):
    shown = [f"`{name}`" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        shown.append("and more")
    if not shown:
        return reason or note or "owed"
    return "; ".join(shown) + (f". {note[0].upper()}{note[1:]}" if note else "")


def page():
    tests = tests_by_item()
    lines = [
        "# What is promised, and by which tests",
        "",
        "Made by `tests/contract_peer_list.py`, which fails when an item loses its test. The items are "
        f"{LIST['source']}; `grep -rn 'C-19' tests` finds all that name one.",
    ]
    part_before = ""
    for number, (part, promise, note, reason) in items().items():
        if part != part_before:
            lines += ["", f"## {part}", "", "| item | promise | tests |", "|---|---|---|"]
            part_before = part
        lines.append(f"| C-{number} | {cell(promise)} | {cell(told(tests.get(number, []), note, reason))} |")
    lines += ["", "## Texts of strangers", ""]
    lines += ["CSV is what a summary of block lives can be asked for; no exporter of the binary writes it.", ""]
    lines += ["| medium | tests with hostile texts |", "|---|---|"]
    lines += [f"| {medium} | {', '.join(f'`{name}`' for name in names)} |" for medium, names in MEDIA.items()]
    return "\n".join(lines) + "\n"


class PeerList(unittest.TestCase):
    def test_EveryItem_IsNamedByATestOrHasAReason(self):
        tests = tests_by_item()
        self.assertEqual(sorted(items()), list(range(1, ITEMS + 1)))
        bare = [n for n, (_, _, _, reason) in items().items() if n not in COST and not reason and not tests.get(n)]
        self.assertEqual(bare, [], "items without a test that names them")
        both = [n for n, (_, _, _, reason) in items().items() if reason and tests.get(n)]
        self.assertEqual(both, [], "items with a reason why there is no test, and tests")

    def test_FewItems_HaveOnlyAReason(self):
        reasons = [n for n, (_, _, _, reason) in items().items() if reason]
        self.assertLessEqual(len(reasons), MOST_REASONS, reasons)

    def test_NoTest_NamesAnItemThatIsNone(self):
        self.assertEqual(sorted(set(tests_by_item()) - set(items())), [])

    def test_EveryMedium_IsTriedWithHostileTexts(self):
        trying = {test.split(":")[0] for test in tests_by_item()[HOSTILE_TEXTS]}
        for medium, names in MEDIA.items():
            self.assertEqual(sorted(set(names) - trying), [], medium)

    def test_Page_IsMadeOfItemsAndTests(self):
        self.assertEqual(PAGE.read_text(), page(), "to update, see the head of this file")


if __name__ == "__main__":
    if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
        PAGE.write_text(page())
    unittest.main(argv=sys.argv)
