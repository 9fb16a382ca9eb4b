"""Which tests name which promises, for the pages that are made of both (contract_seed_rows.py, contract_peer_list.py).

A test names a promise by its id in a comment directly above it, or in its own name; a fuzz target or a benchmark, which
is one promise from end to end, in any comment of its file.
"""

import os
import pathlib
import re

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
TESTS = ("tests/*.cpp", "tests/contract_*.py", "tests/e2e/*.py")
WHOLE_FILES = ("tests/fuzz/*.cpp", "tests/bench/bench_*")
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P|TYPED_TEST)\((\w+),\s*(\w+)\)|^    def (test_\w+)\(")
COMMENT = ("//", "#")


def files(patterns):
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def tests_that_name(pattern):
    """{id: [('file: Suite.Test', the test's text), ...]}"""
    found = {}
    for path in files(TESTS):
        named, texts = [], []
        for line in re.sub(r",\n\s+", ", ", path.read_text()).splitlines():
            test = TEST.match(line)
            if test:
                name = f"{test[1]}.{test[2]}" if test[1] else test[3]
                texts = []
                for row in dict.fromkeys(named + pattern.findall(name)):
                    found.setdefault(row, []).append((f"{path.stem}: {name}", texts))
            texts.append(line)
            named = named + pattern.findall(line) if line.lstrip().startswith(COMMENT) else []
    return {row: [(name, "\n".join(lines)) for name, lines in tests] for row, tests in found.items()}


def files_that_name(pattern):
    """{id: [file, ...]} of fuzz targets and benchmarks."""
    found = {}
    for path in files(WHOLE_FILES):
        if path.is_file():
            comments = [line for line in path.read_text().splitlines() if line.lstrip().startswith(COMMENT)]
            for row in dict.fromkeys(pattern.findall("\n".join(comments))):
                found.setdefault(row, []).append(path.stem)
    return found


def cell(text):
    """As a cell of a table."""
    return text.replace("|", "\\|")
