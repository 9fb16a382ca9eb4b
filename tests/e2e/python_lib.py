"""What the tests of the Python package share: the package as it was built, and Python processes that use it.

Importing this makes `import rankbus` find the build's package.
"""

import json
import os
import pathlib
import subprocess
import sys

import lib

BUILD = pathlib.Path(os.environ.get("RANKBUS_BUILD", lib.ROOT / "build/release"))
PACKAGE = str(BUILD / "python")
sys.path.insert(0, PACKAGE)
os.environ["RANKBUS_QUIET"] = "1"  # Inert producers are part of what is tested.


def environment(extra=None):
    ours = {"PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1", "RANKBUS_QUIET": "1"}
    return lib.clean_environment(ours | (extra or {}))


def start(code, *arguments, env=None, stdin=False):
    """A Python process of its own that runs `code` with these arguments, and with a pipe as its input if asked."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
        preexec_fn=lib.die_with_parent,
    )


def finish(process, limit=lib.LIMIT_S):
    """Waits for such a process, which must end well, and returns what it printed."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"a Python process is still running after {limit:.0f} s") from None
    if process.returncode != 0:
        raise AssertionError(f"a Python process ended with {process.returncode}:\n{err}")
    return out


def end(process):
    """Kills what is left of such a process."""
    if process.poll() is None:
        process.kill()
        process.communicate()


def run(code, *arguments, env=None, limit=lib.LIMIT_S):
    """Runs `code` to its end; what it printed last, read as JSON."""
    return json.loads(finish(start(code, *arguments, env=env), limit).splitlines()[-1])


def by_series(metrics):
    """{(name, labels): metric} of a rankbus.snapshot."""
    return {(metric.name, frozenset(metric.labels.items())): metric for metric in metrics}
