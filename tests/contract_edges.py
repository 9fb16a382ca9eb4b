# Labels: release-only
"""Goal:   every acquire and release of the project names its edge, every edge has both its ends and is used at both,
        every relaxed operation says why it may be, and nobody but bus/memory.hpp orders memory.
Method: read the EDGES block and the operations of bus/memory.hpp, once as thread sanitizer builds see it and once as
        all others do. Each check is shown to fail on a text that was spoilt on purpose.
Limits: this is bookkeeping. That the orders suffice, and that each is necessary, is what tests/model_*.cpp show.
Replay: ctest --test-dir build/release -R contract_edges -V
"""

import os
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
MEMORY = "bus/memory.hpp"
FOLDERS = ("bus", "producer", "aggregator", "exporters")
ATOMIC = re.compile(r"\b__atomic_\w+|\b__ATOMIC_\w+|\b__sync_\w+|\bmemory_order\w*|\batomic_thread_fence\b")

# Operations that only the model check calls so far, with the reason.
NOT_USED_YET = {"load_status": "no reader asks yet where a rank is"}

# Ends that are no operation of ours: the kernel drops a segment's lock after the last store of its writer.
DONE_BY_KERNEL = {"DEATH": {"ACQUIRE"}}


def without_prose(text):
    return re.sub(r"//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", "", text)


def variants_of(text):
    """The text as thread sanitizer builds compile it, and as all others do."""
    block = re.search(r"^#if defined\(RANKBUS_TSAN\)\n(.*?)^#else\n(.*?)^#endif\n", text, re.MULTILINE | re.DOTALL)
    if block is None:
        raise AssertionError("no RANKBUS_TSAN branch")
    for name, branch in (("thread sanitizer", block.group(1)), ("ordinary", block.group(2))):
        yield name, text[: block.start()] + branch + text[block.end() :]


def edges_of(text):
    block = re.search(r"^//   EDGES\. .*?\n(.*?)^//   END$", text, re.MULTILINE | re.DOTALL).group(1)
    names = re.findall(r"^//   ([A-Z]+) +\S.* -> reader\S* \S", block, re.MULTILINE)
    reasons = block.count("If it breaks:")
    if len(names) != reasons or not names:
        raise AssertionError(f"{len(names)} edges, {reasons} of them with an 'If it breaks:'")
    return names


def operations_of(text):
    """[(function, the comment above it, its lines)] of ProcessMemory."""
    pattern = r"((?:^  //[^\n]*\n)*)^  \w+ (\w+)\([^)]*\) const noexcept \{(\}|\n.*?^  \})[^\n]*\n"
    return [(name, comment, body) for comment, name, body in re.findall(pattern, text, re.MULTILINE | re.DOTALL)]


def problems(text):
    edges = edges_of(text)
    for variant, seen in variants_of(text):
        ends = {edge: set() for edge in edges}
        counted = 0
        for function, comment, body in operations_of(seen):
            for line in body.splitlines():
                order = re.search(r"\b__ATOMIC_(\w+)", without_prose(line))
                if order is None:
                    continue
                counted += 1
                where = f"{variant}: {function}: {order.group(1).lower()}"
                tag = re.search(r"// ([A-Z]+)$", line)
                if order.group(1) == "RELAXED":
                    if "Relaxed:" not in comment:
                        yield f"{where} without a 'Relaxed:' reason above it"
                elif order.group(1) not in ("RELEASE", "ACQUIRE"):
                    yield f"{where} is no order of this protocol"
                elif tag is None or tag.group(1) not in edges:
                    yield f"{where} without the name of an edge; use one of {edges}"
                else:
                    ends[tag.group(1)].add(order.group(1))
        if counted != len(re.findall(r"\b__ATOMIC_\w+", without_prose(seen))):
            yield f"{variant}: an operation outside a named function"
        for edge, orders in ends.items():
            for order in {"RELEASE", "ACQUIRE"} - orders - DONE_BY_KERNEL.get(edge, set()):
                yield f"{variant}: edge {edge} has no {order.lower()} side"


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".hpp", ".cpp", ".h", ".cu", ".cuh"):
                yield path.relative_to(ROOT).as_posix(), without_prose(path.read_text())


class Edges(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = (ROOT / MEMORY).read_text()

    def spoilt(self, old, new):
        self.assertIn(old, self.text)
        return list(problems(self.text.replace(old, new, 1)))

    def test_EveryOperation_NamesItsEdgeOrItsReason(self):
        self.assertEqual(list(problems(self.text)), [])

    def test_NobodyElse_OrdersMemory(self):
        found = [f"{name}: {word}" for name, code in sources() if name != MEMORY for word in ATOMIC.findall(code)]
        self.assertEqual(found, [])

    def test_EveryOperation_IsUsed(self):
        code = {name: text for name, text in sources() if name != MEMORY}
        unused = {
            function
            for _, seen in variants_of(self.text)
            for function, _, _ in operations_of(seen)
            if not any(re.search(rf"\bmemory_?\.{function}\(", text) for text in code.values())
        }
        self.assertEqual(unused, set(NOT_USED_YET), "an end that nobody calls is no end; or strike it off the list")

    def test_TagRemoved_IsFound(self):
        found = self.spoilt("__ATOMIC_RELEASE);  // PUBLISH", "__ATOMIC_RELEASE);")
        self.assertIn("ordinary: store_published: release without the name of an edge", found[-2])
        self.assertEqual(found[-1], "ordinary: edge PUBLISH has no release side")

    def test_ReleaseWeakened_IsFound(self):
        found = self.spoilt("__ATOMIC_RELEASE);  // WHOLE", "__ATOMIC_RELAXED);")
        self.assertIn("ordinary: store_whole: relaxed without a 'Relaxed:' reason above it", found)
        self.assertIn("ordinary: edge WHOLE has no release side", found)

    def test_OnlyEndOfAnEdgeToTheKernelWeakened_IsFound(self):
        found = self.spoilt("__ATOMIC_RELEASE);  // DEATH", "__ATOMIC_RELAXED);")
        self.assertIn("ordinary: edge DEATH has no release side", found)

    def test_WrongEdge_IsFound(self):
        found = self.spoilt("__ATOMIC_ACQUIRE);  // INTERN", "__ATOMIC_ACQUIRE);  // STATUS")
        self.assertIn("ordinary: edge INTERN has no acquire side", found)

    def test_ReasonRemoved_IsFound(self):
        found = self.spoilt("// Relaxed: a torn copy", "// A torn copy")
        self.assertEqual(found, ["ordinary: load_field: relaxed without a 'Relaxed:' reason above it"])

    def test_StrongerOrder_IsFound(self):
        found = self.spoilt("__ATOMIC_ACQUIRE);  // STATUS", "__ATOMIC_SEQ_CST);  // STATUS")
        self.assertIn("ordinary: load_status: seq_cst is no order of this protocol", found)

    def test_EdgeWithoutItsConsequence_IsFound(self):
        with self.assertRaisesRegex(AssertionError, "If it breaks"):
            self.spoilt("If it breaks: a reader is told", "A reader is told")

    def test_AFenceMissingInOneBuildOnly_IsFound(self):
        found = self.spoilt("__atomic_thread_fence(__ATOMIC_RELEASE);  // MARK", "")
        self.assertEqual(found, ["ordinary: edge MARK has no release side"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
