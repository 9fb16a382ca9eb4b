# Labels: release-only
"""Goal:   the programs that producer/python/README.md shows run, and print what the page says.
Method: the page's snippets, one after the other in one Python on a bus of its own; `...` in a printed line of the page
        stands for anything. The tables' names of functions and words are held against the package.
Replay: ctest --test-dir build/release -R contract_python_readme -V
"""

import inspect
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
PACKAGE = str(pathlib.Path(os.environ.get("RANKBUS_BUILD", ROOT / "build/release")) / "python")
sys.path.insert(0, PACKAGE)
import rankbus

PAGE = (ROOT / "producer/python/README.md").read_text()
SNIPPET = re.compile(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```\n(.*?)(?=\n\S)", re.DOTALL)
BREAK = "---- next snippet ----"


class Readme(unittest.TestCase):
    def test_Snippets_PrintWhatThePageSays(self):
        snippets = SNIPPET.findall(re.sub(r"```\n\n(\S)", r"```\n\n    \n\1", PAGE))
        self.assertEqual([name for name, _, _ in snippets], ["first", "blocks", "errors", "own"])
        program = f"\nprint({BREAK!r})\n".join(code for _, code, _ in snippets)
        shown = []
        for _, _, block in snippets:
            lines = [line[4:] for line in block.splitlines() if line.startswith("    ") and line.strip()]
            shown.append([line for line in lines if not line.startswith("$")])
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="rankbus-test-") as bus:
            environment = {name: text for name, text in os.environ.items() if not name.startswith("RANKBUS_")}
            environment |= {"RANKBUS_BUS": bus, "PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(
                [sys.executable, "-"], input=program, capture_output=True, text=True, env=environment, check=False
            )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        for expected, printed in zip(shown, done.stdout.split(BREAK + "\n"), strict=True):
            printed = printed.splitlines()
            self.assertEqual(len(printed), len(expected), printed)
            for line, wanted in zip(printed, expected):
                self.assertRegex(line, "^" + re.escape(wanted).replace(r"\.\.\.", ".*") + "$")

    def test_FunctionsOfTheTable_ExistAndTheirDefaultsAreAsSaid(self):
        for call in re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE):
            self.assertTrue(callable(getattr(rankbus, call)), call)
        self.assertEqual(rankbus.counter("a").type, "u64")
        self.assertEqual(rankbus.counter("a", unit="seconds").type, "f64")
        self.assertEqual(rankbus.gauge("a").type, "f64")
        defaults = {"none": "f64", "seconds": "f64", "nanoseconds": "u64", "bytes": "u64", "tokens": "u64"}
        for unit, value in defaults.items():
            self.assertEqual(rankbus.distribution("a", bounds=[1], unit=unit).type, value)

    def test_PublicNames_AreTypedAndWhatTheExtensionHas(self):
        self.assertTrue((pathlib.Path(rankbus.__file__).parent / "py.typed").exists())
        for name in rankbus.__all__:
            self.assertTrue(hasattr(rankbus, name), name)
        stub = (ROOT / "producer/python/rankbus/_native.pyi").read_text()
        shown = {name for name in dir(rankbus._native.Producer) if not name.startswith("_")}
        self.assertEqual(set(re.findall(r"^    def ([a-z]\w*)", stub, re.MULTILINE)), shown)
        options = set(inspect.signature(rankbus.Producer).parameters) - {"records"}
        self.assertEqual(set(re.findall(r"^        (\w+): ", stub, re.MULTILINE)) - {"records"}, options)


if __name__ == "__main__":
    unittest.main()
