"""The rules of this house that no compiler knows. Each message names the replacement.

Run by ctest, or alone: /usr/bin/python3 -B tests/style/style_rules.py. Comments and string contents are
blanked before the code is searched, so prose may name what code may not.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CPP = (".hpp", ".cpp", ".h", ".cu", ".cuh")

# Functions that may be longer than MAX_LINES, as "file:function": lines. The numbers may only fall: whoever
# shortens one lowers it here, and nobody adds one without saying why beside it.
MAX_LINES = 70
LONG_FUNCTIONS = {}

# (files, pattern, what to do instead)
FORBIDDEN = [
    (
        r"^(?!bus/|tests/model).*\.(hpp|cpp|h|cu|cuh)$",
        r"\b(std::)?memory_order\b|\bmemory_order_\w+|\b__atomic_\w+|\b__sync_\w+|\batomic_thread_fence\b",
        "only bus/ orders memory: use the named operations of bus/memory.hpp, or std::atomic with its default order (the model check in tests/model may name what it models)",
    ),
    (
        r"^tests/.*\.(hpp|cpp|h|cu)$",
        r"\bsleep_for\b|\bsleep_until\b|\busleep\s*\(|\bnanosleep\s*\(|(?<![\w.:>])sleep\s*\(",
        "a sleep is a guess: wait for the condition (poll it, join, waitpid, or a latch)",
    ),
    (
        r"^tests/(?!e2e/lib\.py).*\.py$",
        r"\btime\.sleep\b",
        "a sleep is a guess: wait for the condition with lib.wait_for",
    ),
]

# folder of the including file -> what it may not include, and where that belongs instead
SIDEWAYS = [
    (r"^bus/", r"^(producer|aggregator|exporters)(/|\.hpp)", "bus/ depends on nothing above it; move what both need into bus/"),
    # One Python package has both ends; its reader is an extension of its own.
    (r"^producer/(?!python/reader/)", r"^(aggregator|exporters)/", "a producer never sees its readers; move what both need into bus/"),
    (r"^producer/simulator/truth", r"^bus/", "the truth is counted without the code under test; count it again here"),
    (r"^aggregator/(?!main\.cpp)", r"^producer/simulator/", "only main.cpp starts the simulator"),
    (r"^exporters/", r"^aggregator/(?!snapshot\.hpp|result\.hpp)", "an exporter sees snapshots only: put the value into aggregator/snapshot.hpp"),
    (r"^exporters/", r"^producer/", "an exporter never sees a producer: put the value into aggregator/snapshot.hpp"),
]

# Spelled in pieces, so that this file does not find itself.
MACHINE_PATHS = re.compile("(?<![\\w.])/(?:" + "|".join(("wor" + "k", "roo" + "t", "ho" + "me", "far" + "m")) + ")/")


def repository_files():
    """Tracked files, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in set(listed.stdout.split("\0")) if name and (ROOT / name).is_file())


def blank(text, pattern):
    """Replaces each match by spaces, keeping the line breaks, so that line numbers stay true."""
    return re.sub(pattern, lambda match: re.sub(r"[^\n]", " ", match.group()), text, flags=re.DOTALL)


CPP_PROSE = r"//[^\n]*|/\*.*?\*/|R\"(?P<tag>\w*)\(.*?\)(?P=tag)\"|\"(?:\\.|[^\"\\\n])*\"|(?<!\w)'(?:\\.|[^'\\\n])+'"
PYTHON_PROSE = r"#[^\n]*|\"\"\".*?\"\"\"|\"(?:\\.|[^\"\\\n])*\""


def code_only(name, text):
    return blank(text, CPP_PROSE if name.endswith(CPP) else PYTHON_PROSE)


def find_forbidden(name, code):
    for files, pattern, instead in FORBIDDEN:
        if re.search(files, name):
            for match in re.finditer(pattern, code):
                yield code.count("\n", 0, match.start()) + 1, f"`{match.group().strip()}`: {instead}"


def find_sideways_includes(name, text):
    for match in re.finditer(r'^\s*#\s*include\s*["<](?:\.\./)*(?:rankbus/)?([^">]+)[">]', text, re.MULTILINE):
        for files, included, instead in SIDEWAYS:
            if re.search(files, name) and re.search(included, match.group(1)):
                yield text.count("\n", 0, match.start()) + 1, f"includes {match.group(1)}: {instead}"


def find_long_functions(name, code):
    """A brace that opens at namespace or class level behind a parameter list opens a function."""
    if not re.match(r"bus/.*\.(hpp|cpp)$|producer/[^/]+\.hpp$", name):
        return
    code = re.sub(r"^[ \t]*#.*(\\\n.*)*", lambda match: "\n" * match.group().count("\n"), code, flags=re.MULTILINE)
    open_braces, head_start = [], 0
    for match in re.finditer(r"[{};]", code):
        here = match.start()
        head, head_start = code[head_start:here], match.end()
        if match.group() == "{":
            function = "(" in head and not re.search(r"\b(namespace|class|struct|union|enum)\b[^()]*$", head)
            outermost = all(kind == "scope" for kind, _, _ in open_braces)
            kind = "function" if function and outermost else "scope" if outermost and "=" not in head else "inner"
            called = re.search(r"([\w~:]+)\s*\(", head)
            open_braces.append((kind, code.count("\n", 0, here) + 1, called.group(1) if called else "?"))
        elif match.group() == "}" and open_braces:
            kind, line, function = open_braces.pop()
            length = code.count("\n", 0, here) + 2 - line
            allowed = LONG_FUNCTIONS.get(f"{name}:{function}", MAX_LINES)
            if kind != "function":
                continue
            if allowed > MAX_LINES and length < allowed:
                yield line, f"{function} has only {length} lines now: lower its number in LONG_FUNCTIONS"
            if length > allowed:
                yield line, f"{function} has {length} lines, more than {allowed}: one screen is the limit; split it by what it decides"


def find_everywhere(text):
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX)\b(?!\([\w.-]+\))", line) and "style_rules" not in line:
            yield number, "a TODO without an owner is nobody's: write TODO" + "(name), or do it"
        if MACHINE_PATHS.search(line):
            yield number, "a path of one machine: use one relative to the repository, or a temporary directory"


def problems(name):
    path = ROOT / name
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return  # Not text: nothing here applies.
    if name != "tests/style/style_rules.py":
        yield from find_everywhere(text)
    if name.endswith((*CPP, ".py")):
        code = code_only(name, text)
        yield from find_forbidden(name, code)
        if name.endswith(CPP):
            yield from find_sideways_includes(name, text)
            yield from find_long_functions(name, code)


def main():
    names = repository_files()
    found = [f"{name}:{line}: {message}" for name in names for line, message in problems(name)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"style: {len(names)} files, {len(found)} problems")
    return 1 if found or not names else 0


if __name__ == "__main__":
    sys.exit(main())
