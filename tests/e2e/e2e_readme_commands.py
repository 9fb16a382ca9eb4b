# Labels: release-only alone
"""Goal:   every command that the README shows does what it says on this machine.
Method: take the lines that begin with `$ ` from the README's code blocks and run them in the repository root, in
        order. `scripts/demo` is started with RANKBUS_DEMO_KEEP=1 and a short RANKBUS_DEMO_SECONDS on a free port, and
        kept alive for the commands after it, in which localhost:9855 is replaced with that port; at the end Ctrl-C
        must end it with status 0. Commands that contain this test are left out.
Replay: ctest --test-dir build/release -R e2e_readme_commands -V
"""

import os
import re
import signal
import subprocess
import tempfile
import unittest

import lib

LEFT_OUT = {
    "scripts/test": "runs this test; .ci/run runs it word for word",
    "scripts/check": "runs this test",
    "git clone": "this is the clone",
}
DEMO_SECONDS = "30"


def shown_commands(markdown):
    """The commands of fenced and of indented code blocks, with continued lines joined."""
    joined = markdown.replace("\\\n", "")
    return re.findall(r"^ {0,4}\$ (.+?)(?:\s+# .*)?$", joined, re.MULTILINE)


class Demo:
    """scripts/demo, kept running until interrupt()."""

    def __init__(self, command, listen):
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=lib.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=lib.clean_environment(
                {"RANKBUS_DEMO_KEEP": "1", "RANKBUS_DEMO_SECONDS": DEMO_SECONDS, "RANKBUS_DEMO_LISTEN": listen}
            ),
        )

    def __str__(self):
        return "scripts/demo"

    def status(self):
        return self.child.poll()

    def stderr(self):
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode(errors="replace")

    def interrupt(self):
        if self.status() is None:
            os.kill(self.child.pid, signal.SIGINT)
        return self.child.wait(lib.LIMIT_S)


class Readme(unittest.TestCase):
    def setUp(self):
        self.commands = shown_commands((lib.ROOT / "README.md").read_text())

    def test_TheTwoCommands_AreShown(self):
        for command in ("scripts/demo", "scripts/test"):
            self.assertTrue(any(shown.startswith(command) for shown in self.commands), f"README lacks $ {command}")

    def test_EveryCommand_Succeeds(self):
        listen = f"127.0.0.1:{lib.free_port()}"
        demo = None
        try:
            for command in self.commands:
                if any(command.startswith(left_out) for left_out in LEFT_OUT):
                    continue
                with self.subTest(command=command):
                    if command.startswith("scripts/demo"):
                        self.assertIsNone(demo, "the README starts the demo twice")
                        demo = Demo(command, listen)
                        lib.wait_for(lambda: "kept running" in demo.stderr(), "it shows its result", 600, [demo])
                        self.assertIn("equal the truth", demo.stderr())
                    else:
                        self.run_shown(re.sub(r"\b(localhost|127\.0\.0\.1):9855\b", listen, command))
        finally:
            if demo is not None:
                self.assertEqual(demo.interrupt(), 0, demo.stderr())

    def run_shown(self, command):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=lib.ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        self.assertEqual(done.returncode, 0, f"$ {command}\n{done.stdout}{done.stderr}")
        self.assertTrue(done.stdout.strip(), f"$ {command} printed nothing")


if __name__ == "__main__":
    lib.main()
