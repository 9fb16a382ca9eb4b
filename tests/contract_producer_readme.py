# Labels: release-only
"""Goal:   the programs that producer/README.md shows compile without a warning, run, and do what the page says.
Method: take each block marked `snippet` from the page, build it in the standard that the mark names with both compilers,
        run it on a bus of its own, and read the segment with the foreign reader.
Replay: ctest --test-dir build/release -R contract_producer_readme -V
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import contract_foreign_reader as foreign

PAGE = foreign.ROOT / "producer/README.md"
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror".split()
SNIPPET = re.compile(r"<!-- snippet: (\w+) (c\+\+\d\d) -->\n```cpp\n(.*?)```\n", re.DOTALL)


class Snippets(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="rankbus-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_snippet(self, name, standard, compiler="g++"):
        """The reader of the one segment that the program wrote."""
        texts = [text for found, at, text in SNIPPET.findall(PAGE.read_text()) if (found, at) == (name, standard)]
        self.assertEqual(len(texts), 1)
        program = self.folder / f"{name}-{standard}-{compiler}"
        source = program.with_suffix(".cpp")
        source.write_text(texts[0])
        built = subprocess.run(
            [compiler, f"-std={standard}", *WARNINGS, f"-I{foreign.INCLUDE}", str(source), "-o", str(program)],
            capture_output=True,
            text=True,
        )
        self.assertEqual((built.returncode, built.stderr), (0, ""))
        bus = self.folder / f"bus-{program.name}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RANKBUS_")}
        ran = subprocess.run([program], env=environment | {"RANKBUS_BUS": str(bus)}, capture_output=True, text=True)
        self.assertEqual((ran.returncode, ran.stdout, ran.stderr), (0, "", ""))
        segments = [path for path in bus.iterdir() if not path.name.startswith(".")]
        self.assertEqual(len(segments), 1)
        reader = foreign.Reader(segments[0])
        self.addCleanup(reader.close)
        return reader

    def compilers(self):
        return [compiler for compiler in ("g++", "clang++") if shutil.which(compiler)]

    def test_EverySnippet_IsRunHere(self):
        page = PAGE.read_text()
        self.assertEqual([(name, at) for name, at, _ in SNIPPET.findall(page)],
                         [("worker", "c++20"), ("worker", "c++17"), ("caches", "c++17"), ("own", "c++17")])  # fmt: skip
        self.assertEqual(page.count("```cpp"), 4, "a block without a mark")

    def test_Worker_InBothStyles_CountsItsSteps(self):
        for standard in ("c++20", "c++17"):
            for compiler in self.compilers():
                with self.subTest(f"{standard} {compiler}"):
                    reader = self.run_snippet("worker", standard, compiler)
                    self.assertEqual((reader.model, reader.engine, reader.role, reader.rank), ("llama-3-70b", 0, 3, 3))
                    series = reader.series()
                    self.assertEqual(series["rankbus_steps_total", ()], 100)
                    self.assertEqual(series["rankbus_rank_busy_seconds_total", (("phase", "forward"),)], 4_100_000_000)

    def test_Caches_AreCountedByLevelAndOperation(self):
        for compiler in self.compilers():
            with self.subTest(compiler):
                series = self.run_snippet("caches", "c++17", compiler).series()
                for operation in ("allocate", "evict"):
                    labels = (("operation", operation),)
                    self.assertEqual(series["rankbus_kv_block_operations_total", labels], 4)
                self.assertEqual(series["rankbus_kv_block_evictions_total", (("reason", "capacity"),)], 4)
                level = (("level", "prefix"),)
                self.assertEqual(series["rankbus_cache_hits_total", level], 12)
                self.assertEqual(series["rankbus_cache_misses_total", level], 4)
                self.assertEqual(series["rankbus_cache_freed_bytes_total", level], 8388608)
                self.assertEqual(series["rankbus_cache_written_bytes_total", level], 8388608)
                self.assertEqual(series["rankbus_cache_evicted_blocks_total", (*level, ("reason", "lru"))], 4)

    def test_OwnType_BecomesTheSeriesThatThePageNames(self):
        for compiler in self.compilers():
            with self.subTest(compiler):
                series = self.run_snippet("own", "c++17", compiler).series()
                self.assertEqual(series["my_swapped_bytes_total", (("direction", "out"),)], 6291456)
                total, buckets = series["my_swap_seconds", (("tier", 'nvme "fast"'),)]
                self.assertEqual(total, 0.004)
                self.assertEqual(buckets, [(0.001, 0), (0.01, 1), (0.1, 1), (1.0, 1), (float("inf"), 1)])

    def test_EveryVariableOnThePage_IsOneThatTheHeadersRead(self):
        shown = set(re.findall(r"`(RANKBUS_\w+|POD_NAME)(?:=1)?`", PAGE.read_text().split("| variable | meaning |")[1]))
        read = set()
        for folder in ("bus", "producer"):
            for path in (foreign.ROOT / folder).glob("*.hpp"):
                read |= set(re.findall(r'getenv\("(\w+)"\)', path.read_text()))
        self.assertEqual(shown, read)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
