"""Goal:   every behaviour of the systems that rankbus replaces can still be broken on purpose, so that scripts/mutate can
        ask whether its test notices.
Method: tests/conformance/seed_mutations.json names for each row a file, a text in it and what takes its place. The text
        has to stand there exactly once, in code. Whether it compiles and is noticed, scripts/mutate finds out.
"""

import json
import os
import pathlib
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
ROWS = json.loads((ROOT / "tests/conformance/seed_rows.json").read_text())["rows"]
MUTATIONS = json.loads((ROOT / "tests/conformance/seed_mutations.json").read_text())["rows"]
PRODUCT = ("bus/", "aggregator/", "exporters/")


class SeedMutations(unittest.TestCase):
    def test_EveryRow_CanBeBroken(self):
        self.assertEqual(sorted(MUTATIONS), sorted(ROWS))

    def test_WhatIsToBeBroken_StandsInItsFileExactlyOnce(self):
        for row, (file, old, new) in MUTATIONS.items():
            with self.subTest(row=row, file=file):
                self.assertTrue(file.startswith(PRODUCT), "only what is tested may be broken, never a test")
                text = (ROOT / file).read_text()
                self.assertEqual(text.count(old), 1, f"in {file}, write where {row} is implemented now instead of: {old}")
                self.assertNotEqual(old, new)

    def test_NoMutation_ChangesOnlyAComment(self):
        for row, (file, old, new) in MUTATIONS.items():
            text = (ROOT / file).read_text()
            codes = []
            for changed in (text, text.replace(old, new)):
                lines = [line.split("//")[0].strip() for line in changed.splitlines()]
                codes.append([line for line in lines if line])
            self.assertTrue(codes[0] != codes[1], row)

    def test_TwoRows_AreNotBrokenAlike(self):
        changes = [tuple(change) for change in MUTATIONS.values()]
        self.assertEqual(len(set(changes)), len(changes))


if __name__ == "__main__":
    unittest.main()
