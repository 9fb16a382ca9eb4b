"""Goal:   no series vanishes, or changes its type or labels, between two builds without notice.
Method: an aggregator beside a simulated deployment with every feature; each family that it exposes, with its type and
        the names of its labels, is held against tests/golden/families.txt. Families that only some events make are
        marked there with a question mark, and need not be seen. promtool judges the same text.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/e2e/e2e_series_contract.py adds what is new. What is taken away or changed is taken
        out by hand, and told to users.
Replay: ctest --test-dir build/release -R e2e_series_contract -V
"""

import collections
import os
import re
import shutil
import subprocess
import unittest

from prometheus_client.parser import text_string_to_metric_families

import lib

GOLDEN = lib.ROOT / "tests/golden/families.txt"
PROMTOOL = shutil.which("promtool")
RUN = ("--speed", "max", "--engines", 1, "--tp", 2, "--kv-blocks", 300, "--workload", "generated:60", "--linger")
# Labels whose names are made at run time.
FREE_LABELS = re.compile(r"_info$")
# Buckets are no meaning, and servers have names where there are several.
NO_CONTRACT = {"le", "server"}


def families_of(text):
    """{family: "type label label"} as the Python client reads it; labels of all of its series together."""
    labels, types = collections.defaultdict(set), {}
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    for family in text_string_to_metric_families(text):
        # Its names of counters lack their `_total`.
        name = family.name if family.name in names else f"{family.name}_total"
        types[name] = family.type
        if not FREE_LABELS.search(name):
            labels[name] |= {label for sample in family.samples for label in sample.labels}
    return {name: " ".join([kind, *sorted(labels[name] - NO_CONTRACT)]) for name, kind in types.items()}


def golden():
    """{family: (what it is, whether it must be seen)}."""
    lines = [line.split(" ", 1) for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")]
    return {name.rstrip("?"): (what, not name.endswith("?")) for name, what in lines}


class SeriesContract(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        bus = cls.enterClassContext(lib.temporary_bus())
        aggregator = cls.enterClassContext(lib.Aggregator(bus))
        alive = [aggregator]
        for features in (("--features", "all"), ("--diffusion", "--server", "diffusion")):
            alive.append(cls.enterClassContext(lib.simulate(bus, *RUN, *features)))
        lib.wait_for(
            lambda: all("all is published" in process.stderr() for process in alive[1:]),
            "everything is served",
            alive=alive,
        )
        cls.text = aggregator.scrape().text
        cls.shown = families_of(cls.text)

    # C-39
    def test_EveryFamilyOfTheList_IsStillThereAndIsWhatItWas(self):
        if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
            head = "".join(line for line in GOLDEN.open() if line.startswith("#")) if GOLDEN.exists() else ""
            known = golden() if GOLDEN.exists() else {}
            for name, what in self.shown.items():
                known.setdefault(name, (what, True))
            GOLDEN.write_text(
                head + "".join(f"{name}{'' if must else '?'} {what}\n" for name, (what, must) in sorted(known.items()))
            )
        expected = golden()
        self.assertGreater(len(expected), 100)
        vanished = [name for name, (_, must) in expected.items() if must and name not in self.shown]
        self.assertEqual(vanished, [], "no longer exposed; see the head of this file")
        changed = {
            name: f"was {expected[name][0]}, is {what}"
            for name, what in self.shown.items()
            if name in expected and what != expected[name][0]
        }
        self.assertEqual(changed, {}, "dashboards rely on what they were; see the head of this file")

    def test_EveryFamilyThatIsShown_IsOnTheList(self):
        self.assertEqual(sorted(set(self.shown) - set(golden())), [], "new; see the head of this file")

    # C-39
    @unittest.skipIf(PROMTOOL is None, "no promtool is installed")
    def test_Promtool_FindsNothingWrongWithOurOwnNames(self):
        checked = subprocess.run(
            [PROMTOOL, "check", "metrics"],
            input=self.text,
            capture_output=True,
            text=True,
            timeout=lib.LIMIT_S,
            check=False,
        )
        ours = [line for line in checked.stderr.splitlines() if line.startswith("rankbus_")]
        self.assertEqual(ours, [], checked.stderr)


if __name__ == "__main__":
    lib.main()
