# Labels: release-only
"""Goal:   the tables that people read, in bus/layout.hpp and in bus/README.md, are what the compilers make of the
        structs, and no byte of a shared struct is without a name.
Method: read the LAYOUT tables and the structs out of the header; let g++ and clang++ print the size and place of
        every field; compare all of it, then render the page's generated blocks anew and compare them too. Each
        check is shown to fail on a header that was spoilt on purpose.
Update: RANKBUS_UPDATE_GOLDEN=1 tests/contract_layout.py   rewrites the generated blocks of bus/README.md
Replay: ctest --test-dir build/release -R contract_layout -V
"""

import difflib
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("RANKBUS_SOURCE", pathlib.Path(__file__).resolve().parents[1]))
PAGE = ROOT / "bus/README.md"
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]


# --- what the header says -------------------------------------------------------------------------------------------


def tables_of(header):
    """{struct: (size, alignment, [(offset, size, field, writer, meaning)])} from the LAYOUT comments."""
    tables = {}
    pattern = r"^//   LAYOUT (\w+) size=(\d+) align=(\d+)\n//   offset  size  field +writer +meaning\n(.*?)^//   END$"
    for name, size, alignment, body in re.findall(pattern, header, re.MULTILINE | re.DOTALL):
        rows = []
        for line in body.splitlines():
            row = re.fullmatch(r"// +(\d+) +(\d+)  (\w+) +(creator|producer) +(\S.*)", line)
            if row is None:
                raise AssertionError(f"LAYOUT {name}: not a row: {line!r}")
            offset, row_size, *words = row.groups()
            rows.append((int(offset), int(row_size), *words))
        tables[name] = (int(size), int(alignment), rows)
    return tables


def structs_of(header):
    """{struct: [field]} from the code."""
    structs = {}
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", header, re.MULTILINE | re.DOTALL):
        structs[name] = re.findall(r"^  [\w:]+ (\w+)(?:\[[^\]]*\])?;$", body, re.MULTILINE)
        statements = body.count(";")
        if statements != len(structs[name]):
            raise AssertionError(f"struct {name}: {statements} statements, {len(structs[name])} of them plain fields")
    return structs


def compiled(structs, include, compiler):
    """{struct: (size, alignment, [(offset, size, field)])} as a compiler lays them out."""
    lines = []
    for name, fields in structs.items():
        lines.append(f'std::printf("{name} %zu %zu\\n", sizeof({name}), alignof({name}));')
        for field in fields:
            lines.append(f'std::printf(" {field} %zu %zu\\n", offsetof({name}, {field}), sizeof({name}::{field}));')
    program = "#include <cstdio>\n#include <rankbus/bus/layout.hpp>\nusing namespace rankbus::bus;\nint main() {\n%s\n}\n"
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "probe.cpp"
        source.write_text(program % "\n".join(lines))
        subprocess.run(
            [compiler, "-std=c++17", f"-I{include}", str(source), "-o", str(source.with_suffix(""))],
            check=True,
            capture_output=True,
            text=True,
        )
        printed = subprocess.run([source.with_suffix("")], check=True, capture_output=True, text=True).stdout
    layouts = {}
    for line in printed.splitlines():
        name, first, second = line.split()
        if line.startswith(" "):
            rows.append((int(first), int(second), name))
        else:
            rows = []
            layouts[name] = (int(first), int(second), rows)
    return layouts


def disagreements(header, include, compiler):
    """What the comment, the code and the compiler do not agree on, one sentence each."""
    tables, structs = tables_of(header), structs_of(header)
    for name in structs.keys() - tables.keys():
        yield f"struct {name} has no LAYOUT table"
    for name in tables.keys() - structs.keys():
        yield f"LAYOUT {name} describes no struct"
    layouts = compiled(structs, include, compiler)
    for name in structs.keys() & tables.keys():
        size, alignment, rows = tables[name]
        real_size, real_alignment, real_rows = layouts[name]
        if (size, alignment) != (real_size, real_alignment):
            yield f"{name}: the comment says size={size} align={alignment}, {compiler} {real_size} and {real_alignment}"
        if len(rows) != len(real_rows):
            yield f"{name}: the comment has {len(rows)} rows, the struct {len(real_rows)} fields"
        for row, real in zip(rows, real_rows):
            if row[:3] != real:
                yield f"{name}: the comment says {row[:3]}, {compiler} says {real}"
        end = 0
        for offset, field_size, field in real_rows:
            if offset != end:
                yield f"{name}: bytes {end} to {offset - 1} before {field} have no name"
            end = offset + field_size
        if end != real_size:
            yield f"{name}: bytes {end} to {real_size - 1} at its end have no name"


# --- what the page shows --------------------------------------------------------------------------------------------


def number(literal):
    """The value of a C++ integer constant without names in it."""
    plain = re.sub(r"(?<=[0-9a-f])(u|ull)\b", "", literal.replace("'", ""), flags=re.IGNORECASE)
    if not re.fullmatch(r"[0-9a-fx <>*~()+-]+", plain):
        raise AssertionError(f"not a plain constant: {literal}")
    return eval(plain)  # Digits and operators only, from our own header.


def constants_of(text, prefix="k"):
    """[(name, literal, comment)] of the header's integer constants, in order."""
    pattern = rf"^inline constexpr (?:std::)?\w+ ({prefix}\w+) = ([^;]+);(?: +// (.*))?$"
    return re.findall(pattern, text, re.MULTILINE)


def enum_of(text, name):
    """[(number, name, comment)] of an enumeration in which every enumerator has its number."""
    body = re.search(rf"^enum class {name} : [\w:]+ \{{(.*?)\}};", text, re.MULTILINE | re.DOTALL).group(1)
    entries = re.findall(r"(\w+) = (\d+),?(?:[ \t]*// ([^\n]*))?", body)
    if body.count("=") != len(entries):
        raise AssertionError(f"enum {name}: an enumerator without its number")
    return [(int(value), word, comment) for word, value, comment in entries]


def table(head, rows):
    shown = [head] + [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in shown]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def spoken(name):
    """kMaxSlotBytes -> max slot bytes"""
    return re.sub(r"(?<!^)([A-Z])", r" \1", name.removeprefix("k")).lower()


def rendered(kind, name, sources):
    """The text of one generated block."""
    layout, schema, limits = (sources[path] for path in ("bus/layout.hpp", "bus/schema.hpp", "bus/limits.hpp"))
    if kind == "struct":
        size, alignment, rows = tables_of(layout)[name]
        shown = [(offset, row_size, f"`{field}`", *words) for offset, row_size, field, *words in rows]
        return f"{size} bytes, aligned to {alignment}.\n\n" + table(("offset", "size", "field", "writer", "meaning"), shown)
    if kind == "enum":
        entries = enum_of(layout + schema, name)
        if any(comment for _, _, comment in entries):
            return table(("number", "name", "meaning"), [(n, f"`{word}`", comment) for n, word, comment in entries])
        return f"`{name}`: " + ", ".join(f"{n} {word}" for n, word, _ in entries) + "."
    if kind == "body":
        rows = [(number(literal), f"`{spoken(word)[5:]}`", comment) for word, literal, comment in constants_of(layout, "kBody")]
        if rows[-1][1] != "`head words`":
            raise AssertionError("the body's words must end with kBodyHeadWords")
        return table(("word", "name", "meaning"), rows[:-1])
    if kind == "limits":
        return table(("limit", "value"), [(spoken(word), f"{number(literal):,}") for word, literal, _ in constants_of(limits)])
    raise AssertionError(f"unknown block {kind} {name}")


BLOCK = re.compile(r"(<!-- generated: (\w+) ?(\w*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def renewed(page, sources):
    return BLOCK.sub(lambda m: m.group(1) + rendered(m.group(2), m.group(3), sources) + "\n" + m.group(5), page)


def read_sources():
    return {path: (ROOT / path).read_text() for path in ("bus/layout.hpp", "bus/schema.hpp", "bus/limits.hpp")}


# --- the promises ---------------------------------------------------------------------------------------------------


class Layout(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.header = (ROOT / "bus/layout.hpp").read_text()

    def include_tree(self, header):
        """An include tree with this text in place of layout.hpp."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        bus = pathlib.Path(folder.name) / "rankbus/bus"
        bus.mkdir(parents=True)
        for path in (ROOT / "bus").glob("*.hpp"):
            (bus / path.name).write_text(header if path.name == "layout.hpp" else path.read_text())
        return folder.name

    def found(self, header, compiler="g++"):
        return list(disagreements(header, self.include_tree(header), compiler))

    def changed(self, pattern, replacement):
        text, count = re.subn(pattern, replacement, self.header, count=1, flags=re.MULTILINE)
        self.assertEqual(count, 1, f"{pattern} is not in bus/layout.hpp")
        return text

    # C-37
    def test_Tables_EveryCompiler_AgreeWithTheStructs(self):
        self.assertIn("g++", COMPILERS)
        for compiler in COMPILERS:
            with self.subTest(compiler):
                self.assertEqual(self.found(self.header, compiler), [])

    def test_Tables_RowEdited_IsFound(self):
        header = self.changed(r"^//       16     4  header_bytes ", "//       16     8  header_bytes ")
        self.assertIn("SegmentHeader: the comment says (16, 8, 'header_bytes')", self.found(header)[0])

    def test_Tables_RowDeleted_IsFound(self):
        header = self.changed(r"^//       28     4  stream_count .*\n", "")
        self.assertIn("the comment has", self.found(header)[0])

    def test_Tables_ReflowedByAFormatter_IsFound(self):
        header = self.changed(r"^(//       16     4  header_bytes .*)\n//  ", r"\1")
        self.assertIn("the comment has", self.found(header)[0])
        header = self.changed(r"^(//       16     4  header_bytes)  ", r"\1\n//  ")
        with self.assertRaisesRegex(AssertionError, "not a row"):
            self.found(header)

    def test_Struct_TwoFieldsSwapped_IsFound(self):
        header = self.changed(r"^  std::uint32_t pid;\n  std::uint32_t uid;", "  std::uint32_t uid;\n  std::uint32_t pid;")
        self.assertIn("(152, 4, 'pid')", self.found(header)[0])

    def test_Struct_HoleWithoutAName_IsFound(self):
        header = self.changed(r"^  std::uint32_t group_spare;\n", "")
        header = re.sub(r"^//       20     4  group_spare .*\n", "", header, flags=re.MULTILINE)
        self.assertIn("CollectiveGroup: bytes 20 to 23 at its end have no name", self.found(header))

    def test_Struct_WithoutATable_IsFound(self):
        header = self.changed(r"^struct StatusLine \{", "struct Extra {\n  Word first;\n};\n\nstruct StatusLine {")
        self.assertEqual(self.found(header), ["struct Extra has no LAYOUT table"])


class Page(unittest.TestCase):
    def test_GeneratedBlocks_AreWhatTheHeadersSay(self):
        page = PAGE.read_text()
        self.assertEqual(page.count("<!-- generated:"), len(BLOCK.findall(page)), "a block without its end")
        difference = difflib.unified_diff(
            page.splitlines(), renewed(page, read_sources()).splitlines(), "the page", "the headers", lineterm="", n=0
        )
        self.assertEqual(list(itertools.islice(difference, 20)), [], "to update, see the head of this file")

    def test_NumbersInTheProse_AreThoseOfTheHeaders(self):
        page = PAGE.read_text()
        layout = (ROOT / "bus/layout.hpp").read_text()
        values = {name: literal for name, literal, _ in constants_of(layout)}
        eighths = re.search(r"kEighthPowers\[8\] = \{(.*?)\};", (ROOT / "bus/cells.hpp").read_text(), re.DOTALL).group(1)
        shown = re.search(r"where e is\n(.*?) \(the bounds of", page, re.DOTALL).group(1)
        self.assertEqual([float(word) for word in shown.split(",")], [float(word) for word in eighths.split(",")])
        self.assertIn(f"({number(values['kSegmentMagic']):#x})", page)
        self.assertIn(f"`layout_version` says how to read and is {values['kLayoutVersion']}.", page)
        for constant in re.findall(r"(?:kFnvStart = |\) \* )(\d+)ull", layout):
            self.assertIn(constant, page)
        sizes = {name: size for name, (size, _, _) in tables_of(layout).items()}
        status = sizes["SegmentHeader"]
        activity = status + sizes["StatusLine"]
        schema = activity + 8 * 64
        self.assertRegex(page, rf"\n 0 +{status} +{activity} +{schema} +file size\n")
        self.assertEqual(values["kSchemaOffset"], "kActivityOffset + kMaxStreams * sizeof(Word)")

    def test_EveryStructAndEnumeration_IsShown(self):
        sources = read_sources()
        names = set(structs_of(sources["bus/layout.hpp"]))
        names |= set(re.findall(r"^enum class (\w+)", sources["bus/layout.hpp"] + sources["bus/schema.hpp"], re.MULTILINE))
        shown = {name for _, _, name, _, _ in BLOCK.findall(PAGE.read_text())}
        self.assertEqual(names - shown, set())

    def test_ANumberChanged_IsFound(self):
        page = PAGE.read_text()
        sources = read_sources()
        for path, old, new in [
            ("bus/limits.hpp", "kMaxStreams = 64", "kMaxStreams = 65"),
            ("bus/schema.hpp", "gauge = 5,", "gauge = 8,"),
            ("bus/layout.hpp", "kBodyInvalid = 2", "kBodyInvalid = 9"),
            ("bus/layout.hpp", "enum class Role : std::uint32_t { scheduler = 1", "enum class Role : std::uint32_t { scheduler = 7"),
        ]:
            with self.subTest(old):
                self.assertIn(old, sources[path])
                spoilt = sources | {path: sources[path].replace(old, new)}
                self.assertFalse(renewed(page, spoilt) == page)


if __name__ == "__main__":
    if os.environ.get("RANKBUS_UPDATE_GOLDEN") == "1":
        PAGE.write_text(renewed(PAGE.read_text(), read_sources()))
    unittest.main(argv=sys.argv)
