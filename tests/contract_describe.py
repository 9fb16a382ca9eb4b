# Labels: release-only
"""Goal:   producer/RECORDS.md is what `rankbus describe` prints, and describes every built-in record type.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/contract_describe.py   (tests/golden/describe.md is a link to the page)
Replay: ctest --test-dir build/release -R contract_describe -V
"""

import difflib
import itertools
import os
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
BINARY = os.environ.get("RANKBUS_BINARY", str(ROOT / "build/release/rankbus"))
GOLDEN = ROOT / "tests/golden/describe.md"
PAGE = ROOT / "producer/RECORDS.md"


def described():
    return subprocess.run([BINARY, "describe"], check=True, capture_output=True, text=True).stdout


class Describe(unittest.TestCase):
    # C-39
    def test_GoldenPage_IsWhatTheProgramPrints(self):
        self.assertEqual(GOLDEN.resolve(), PAGE, "one text, or the two will differ one day")
        difference = difflib.unified_diff(
            GOLDEN.read_text().splitlines(), described().splitlines(), "the page", "rankbus describe", lineterm="", n=0
        )
        self.assertEqual(list(itertools.islice(difference, 20)), [], "to update, see the head of this file")

    def test_EveryBuiltInType_IsDescribedWithEveryField(self):
        """`describe` has a list of its own, so a new type could be forgotten there."""
        source = (ROOT / "producer/records.hpp").read_text()
        rows = dict(re.findall(r"#define (RANKBUS_\w+_ROWS)\(FIELD[^)]*\)((?:.*\\\n)*.*\n)", source))

        def fields_of(macro):
            found = re.findall(r"\b(?:FIELD|OPTIONAL|ARRAY)\([\w:]+, (?:\d+, )?(\w+),|(RANKBUS_\w+_ROWS)\(", rows[macro])
            return [name for field, shared in found for name in ([field] if field else fields_of(shared))]

        types = re.findall(r'^RANKBUS_RECORD\(\w+, "([\w:]+)",[^)]*?(RANKBUS_\w+_ROWS)\)', source, re.MULTILINE | re.DOTALL)
        self.assertGreaterEqual(len(types), 34)
        shared = {macro for body in rows.values() for macro in re.findall(r"RANKBUS_\w+_ROWS", body)}
        self.assertEqual(set(rows) - shared, {macro for _, macro in types})
        page = described()
        self.assertEqual([name for name, _ in types], re.findall(r"^## ([\w:]+)$", page, re.MULTILINE))
        for name, macro in types:
            declared = fields_of(macro)
            section = re.split(r"\n##? ", page.split(f"## {name}\n")[1])[0]
            self.assertEqual(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE), declared, name)

    def test_EveryField_SaysWhatItMeans(self):
        for line in described().splitlines():
            if line.startswith("| `"):
                self.assertRegex(line, r"\| [^|]{10,} \|$")


if __name__ == "__main__":
    if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
        PAGE.write_text(described())
    unittest.main(argv=sys.argv)
