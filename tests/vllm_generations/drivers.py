"""Drivers for tests: starts drive.py with the plug-ins where vLLM's loader finds them, and reads its answers."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import lib  # noqa: E402

PACKAGE = pathlib.Path(os.environ.get("RANKBUS_BUILD", str(lib.ROOT / "build/release"))) / "python"
# What the installed package declares; compared with its pyproject.toml by contract_vllm_plugin.py.
ENTRY_POINTS = {
    "vllm.stat_logger_plugins": {"rankbus": "rankbus.vllm:StatLogger"},
    "vllm.general_plugins": {"rankbus": "rankbus.vllm:register"},
}
GENERATIONS = ("0.8", "0.11", "0.15", "current", "branches")
NO_PACKAGE = "the Python package is not built: scripts/build release rankbus_python_native"


def is_built():
    return any((PACKAGE / "rankbus").glob("_native*.so"))


@contextlib.contextmanager
def installed_plugins():
    """A folder that, on the path, makes rankbus an installed distribution with its entry points."""
    with tempfile.TemporaryDirectory() as folder:
        info = pathlib.Path(folder) / "rankbus-0.0.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rankbus\nVersion: 0.0.0\n")
        lines = []
        for group, points in ENTRY_POINTS.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        yield folder


def environment(plugins, bus, generation, extra=None):
    path = os.pathsep.join(map(str, (PACKAGE, plugins, HERE)))
    settings = {"PYTHONPATH": path, "RANKBUS_BUS": bus, "FAKE_VLLM": generation, "PYTHONDONTWRITEBYTECODE": "1"}
    return lib.clean_environment(settings | (extra or {}))


class Driver:
    """A running drive.py."""

    def __init__(self, plan, bus, generation="current", env=None):
        self._cleanup = contextlib.ExitStack()
        plugins = self._cleanup.enter_context(installed_plugins())
        self._log = self._cleanup.enter_context(tempfile.TemporaryFile())
        self._child = subprocess.Popen(
            [sys.executable, "-B", str(HERE / "drive.py"), json.dumps({"start": "here", "engines": [0], **plan})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(plugins, bus, generation, env),
            text=True,
            start_new_session=True,
            preexec_fn=lib.die_with_parent,
        )
        self.pid = self._child.pid
        self._answer()

    def ask(self, do, client=0, **arguments):
        self._child.stdin.write(json.dumps({"do": do, "client": client, **arguments}) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._child.stdout.readline()
        if not line:
            raise AssertionError(f"drive.py ended with {self._child.wait(lib.LIMIT_S)}:\n{self.stderr()}")
        return json.loads(line)

    def stderr(self):
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        self._cleanup.close()

    def end(self):
        """Ends its input, and with that the process. Returns its exit status."""
        if not self._child.stdin.closed:
            self._child.stdin.close()
        status = self._child.wait(lib.LIMIT_S)
        self._child.stdout.close()
        return status


def as_series(pairs, engine, model="fake-7b"):
    """{Series: value} of what Expected says of one engine."""
    return {
        lib.Series(name, frozenset(map(tuple, labels)) | {("model_name", model), ("engine", str(engine))}): value
        for name, labels, value in pairs
    }


def added(*answers, kind="totals"):
    """{Series: value} over engines and processes: totals add up."""
    total = {}
    for answer in answers:
        for engine, pairs in answer[kind].items():
            for series, value in as_series(pairs, engine).items():
                total[series] = total.get(series, 0) + value
    return total


def differences(expected, scrape):
    """What a scrape shows otherwise than expected, in words; empty if all is equal and nothing is missing."""
    found = []
    for series, value in expected.items():
        shown = scrape.samples.get(series)
        if shown is None or abs(shown - value) > 1e-9 * max(1.0, abs(value)):
            found.append(f"{lib.show_series(series)}: expected {value!r}, shown {shown!r}")
    return sorted(found)
