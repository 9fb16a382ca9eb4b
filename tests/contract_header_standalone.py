# Labels: release-only
"""Goal:   a worker needs `-I build/<type>/include` to compile a producer, and nothing to link: C++17 and later, g++ and
        clang++, with and without exceptions and run-time types, at -O0 and -O2 and with -ffast-math, warnings as errors.
Method: build tests/standalone (two translation units that include everything) in each way, run it against a bus of its
        own, and read what it wrote with the foreign reader. The C++ library is left out of the link, to see that
        nothing of it is needed.
Replay: ctest --test-dir build/release -R contract_header_standalone -V
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import contract_foreign_reader as foreign

SOURCES = foreign.ROOT / "tests/standalone"
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror".split()
# Workers are extensions of PyTorch, or small tools that know no exceptions.
WITHOUT = "-fno-exceptions -fno-rtti".split()


def ways():
    """(name, compiler, options of the first unit, options of the second)"""
    for compiler in ("g++", "clang++"):
        for standard in ("-std=c++17", "-std=c++20"):
            for level in ("-O0", "-O2"):
                options = [standard, level, *WITHOUT]
                yield f"{compiler} {standard} {level}", compiler, options, options
        yield f"{compiler} with exceptions", compiler, ["-std=c++20", "-O2"], ["-std=c++20", "-O2"]
        fast = ["-std=c++17", "-O2", "-ffast-math", *WITHOUT]
        yield f"{compiler} -ffast-math", compiler, fast, fast
        newest = ["-std=c++2b", "-O1", *WITHOUT]
        yield f"{compiler} newest standard", compiler, newest, newest
        yield f"{compiler} of two standards", compiler, ["-std=c++20", "-O2"], ["-std=c++17", "-O0", *WITHOUT]


class Standalone(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="rankbus-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def compile(self, compiler, options, unit, out):
        subprocess.run(
            [compiler, *options, *WARNINGS, f"-I{foreign.INCLUDE}", "-c", str(SOURCES / unit), "-o", str(out)],
            check=True,
            capture_output=True,
            text=True,
        )

    def build(self, number, compiler, first, second, second_compiler=None):
        base = self.folder / str(number)
        base.mkdir()
        self.compile(compiler, first, "small_producer.cpp", base / "first.o")
        self.compile(second_compiler or compiler, second, "second_unit.cpp", base / "second.o")
        # With exceptions a program asks for the C++ library itself; without, the C library does.
        alone = ["-nodefaultlibs", "-lc", "-lgcc"] if "-fno-exceptions" in first + second and first == second else []
        program = base / "program"
        subprocess.run(
            [compiler, str(base / "first.o"), str(base / "second.o"), *alone, "-o", str(program)],
            check=True, capture_output=True, text=True)  # fmt: skip
        return program

    def check_run(self, program):
        bus = program.parent / "bus"
        run = subprocess.run([program, bus], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        reader = foreign.Reader(bus / run.stdout.strip())
        self.addCleanup(reader.close)
        self.assertEqual([stream.name for stream in reader.streams], ["worker_step", "collective", "swap"])
        # Ten swaps of five blocks, two to a slot.
        self.assertEqual([reader.published(stream) for stream in reader.streams], [1000, 0, 30])
        series = reader.series()
        self.assertEqual(series["rankbus_steps_total", ()], 1000)
        self.assertEqual(series["rankbus_rank_busy_seconds_total", (("phase", "forward"),)], 41_000_000_000)
        self.assertEqual(series["my_swapped_bytes_total", ()], 40960)
        self.assertEqual(series["my_swap_seconds", ()][0], 5.0)

    def test_EveryWay_CompilesWithoutAWarningLinksAloneAndRecords(self):
        found = [way for way in ways() if shutil.which(way[1])]
        self.assertTrue(found)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            built = [pool.submit(self.build, i, *way[1:]) for i, way in enumerate(found)]
        for way, program in zip(found, built):
            with self.subTest(way[0]):
                try:
                    self.check_run(program.result())
                except subprocess.CalledProcessError as failure:
                    self.fail(f"{' '.join(map(str, failure.cmd))}\n{failure.stderr[:4000]}")

    def test_UnitsOfBothCompilers_LinkAndAgree(self):
        if not shutil.which("clang++"):
            self.skipTest("no clang++")
        self.check_run(self.build(0, "g++", ["-std=c++20", "-O2"], ["-std=c++17", "-O1"], "clang++"))

    def test_Header_PullsInNoMoreThanAWorkerCanAfford(self):
        """A line is no second, but it does not depend on who else uses the machine."""
        lines = subprocess.run(
            ["g++", "-std=c++17", "-E", "-P", f"-I{foreign.INCLUDE}", "-include", "rankbus/producer.hpp", "-x", "c++", "/dev/null"],
            check=True, capture_output=True, text=True).stdout.count("\n")  # fmt: skip
        self.assertLess(lines, 10_000, "which new include is it? g++ -H tells")

    def test_Mistakes_AreRefusedByTheCompiler(self):
        mistakes = {
            "the first field of a record is its stamp": "FIELD(std::uint64_t, size, id(), \"\")",
            "an array's elements have 8 bytes": "FIELD(std::uint64_t, stamp, stamp(), \"\") ARRAY(std::uint32_t, 4, a, id(), \"\")",
            "an array has room for at least two elements": "FIELD(std::uint64_t, stamp, stamp(), \"\") ARRAY(double, 1, a, id(), \"\")",
            "bool has no fixed layout": "FIELD(std::uint64_t, stamp, stamp(), \"\") FIELD(bool, flag, id(), \"\")",
            "use double": "FIELD(std::uint64_t, stamp, stamp(), \"\") FIELD(float, share, id(), \"\")",
            "signed fields are std::int64_t": "FIELD(std::uint64_t, stamp, stamp(), \"\") FIELD(std::int32_t, n, id(), \"\")",
        }  # fmt: skip
        for number, (message, rows) in enumerate(mistakes.items()):
            with self.subTest(message):
                source = self.folder / f"mistake{number}.cpp"
                source.write_text(
                    "#include <rankbus/producer.hpp>\n"
                    f"#define ROWS(FIELD, OPTIONAL, ARRAY) {rows}\n"
                    'RANKBUS_RECORD(Wrong, "wrong", 1, "Wrong", ROWS)\n'
                    "void use(rankbus::Producer& producer) { producer.record(Wrong{}); }\n"
                )
                run = subprocess.run(
                    ["g++", "-std=c++17", "-fsyntax-only", f"-I{foreign.INCLUDE}", str(source)], capture_output=True, text=True
                )
                self.assertNotEqual(run.returncode, 0)
                self.assertIn(message, run.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
