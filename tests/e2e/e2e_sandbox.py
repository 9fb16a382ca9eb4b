"""Goal:   under --sandbox an aggregator does all its work, and can open nothing else, whatever a path leads to; where it
        cannot be confined it does not start.
Method: the real binary. The kernel's own account of each thread; a full life (scrape, log, retire, ledger, restart); and
        an attempt from within: the log's directory is replaced by a link to another one before SIGHUP reopens it.
Replay: ctest --test-dir build/release -R e2e_sandbox -V
"""

import ctypes
import os
import pathlib
import signal
import tempfile
import unittest

import lib

TOKENS = "vllm:generation_tokens_total"


def kernel_has_landlock():
    create_ruleset, version = 444, 1
    return ctypes.CDLL(None).syscall(create_ruleset, None, 0, version) > 0


def confinement(pid):
    """Of every thread: (no new privileges, mode of the system call filter)."""
    found = set()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        lines = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        found.add((lines["NoNewPrivs"], lines["Seccomp"]))
    return found


class Sandbox(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(dir="/dev/shm")))
        self.bus = self.folder / "bus"
        self.state = self.folder / "state"
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        if not kernel_has_landlock():
            result = lib.run_rankbus("aggregate", "--bus", self.bus, "--sandbox", "--listen", "127.0.0.1:0")
            self.assertEqual(result.returncode, 2)
            self.assertIn("--sandbox: this kernel has no Landlock", result.stderr)
            self.skipTest("this kernel has no Landlock")

    def aggregator(self, *arguments):
        return lib.Aggregator(
            self.bus, "--sandbox", "--state-dir", self.state, "--log-file", self.logs / "log", *arguments
        )

    def run_engine(self):
        result = lib.run_rankbus("simulate", "--bus", self.bus, "--workload", "generated:20", "--speed", "max")
        self.assertEqual(result.returncode, 0, result.stderr)

    def segments(self):
        return [name for name in os.listdir(self.bus) if not name.startswith(".")]

    # C-28
    def test_every_thread_is_confined(self):
        with self.aggregator() as aggregator:
            self.assertEqual(confinement(aggregator.pid), {("1", "2")})
        with lib.Aggregator(self.bus) as aggregator:
            self.assertEqual(confinement(aggregator.pid), {("0", "0")}, "only where it is asked for")

    def test_all_its_work_goes_on(self):
        with self.aggregator("--log-interval", 0.2) as aggregator:
            with lib.simulate(self.bus, "--workload", "generated:20", "--speed", "max", "--linger") as engine:
                lib.wait_for(lambda: aggregator.scrape().total(TOKENS), "tokens")
                lib.wait_for(lambda: "Avg prompt throughput" in aggregator.stderr(), "a line of the log")
                state = aggregator.scrape().total("rankbus_rank_state", state="dead")
                self.assertEqual(state, 0, "processes are seen")
                engine.kill()
            lib.wait_for(lambda: not self.segments(), "the dead to be retired")
            tokens = aggregator.scrape().total(TOKENS)
            os.rename(self.logs / "log", self.logs / "log.1")
            aggregator.send(signal.SIGHUP)
            lib.wait_for((self.logs / "log").exists, "the log to be opened anew")
        self.assertIn("Avg prompt throughput", (self.logs / "log.1").read_text())
        self.assertTrue((self.state / ".ledger.0").exists())
        with self.aggregator() as aggregator:
            self.assertEqual(aggregator.scrape().total(TOKENS), tokens, "the ledger carries counts over a restart")

    def test_observer_reads_the_bus(self):
        self.bus.mkdir(mode=0o700)
        with lib.simulate(self.bus, "--workload", "generated:20", "--speed", "max", "--linger"):
            with lib.Aggregator(self.bus, "--sandbox", "--observe") as observer:
                lib.wait_for(lambda: observer.scrape().total(TOKENS), "tokens")
                self.assertEqual(confinement(observer.pid), {("1", "2")})

    # C-28
    def test_a_path_that_leads_elsewhere_cannot_be_opened(self):
        outside = self.folder / "outside"
        outside.mkdir()
        for arguments, may in ((("--sandbox",), False), ((), True)):
            target = outside / "log"
            with lib.Aggregator(self.bus, *arguments, "--log-file", self.logs / "log") as aggregator:
                os.rename(self.logs, self.folder / "was")
                os.symlink(outside, self.logs)
                aggregator.send(signal.SIGHUP)
                if may:
                    lib.wait_for(target.exists, "the log to be opened there: without a sandbox nothing forbids it")
                else:
                    told = f"cannot open log file {self.logs}/log: Permission denied"
                    lib.wait_for(lambda: told in aggregator.stderr(), "it to be refused")
                    self.assertFalse(target.exists())
                    self.assertIn(told, (self.folder / "was/log").read_text(), "lines go on into the old file")
                self.assertEqual(lib.http_status(aggregator.url()), 200)
            os.unlink(self.logs)
            os.rename(self.folder / "was", self.logs)

    # C-28
    def test_an_observer_can_write_into_no_bus(self):
        self.bus.mkdir(mode=0o700)
        target = self.bus / "log"
        # Led to the bus by its log's path, an owner may write there, as it must; an observer may not.
        for arguments, may in ((("--observe",), False), ((), True)):
            with self.aggregator(*arguments) as aggregator:
                os.rename(self.logs, self.folder / "was")
                os.symlink(self.bus, self.logs)
                aggregator.send(signal.SIGHUP)
                if may:
                    lib.wait_for(target.exists, "the owner to write")
                else:
                    told = f"cannot open log file {self.logs}/log: Permission denied"
                    lib.wait_for(lambda: told in aggregator.stderr(), "it to be refused")
                    self.assertFalse(target.exists())
                    self.assertEqual(os.listdir(self.bus), [], "nor has it left anything else")
                self.assertEqual(lib.http_status(aggregator.url()), 200)
            os.unlink(self.logs)
            os.rename(self.folder / "was", self.logs)

    def test_a_directory_that_is_not_there_is_said(self):
        result = lib.run_rankbus(
            "aggregate", "--bus", self.bus, "--sandbox", "--state-dir", self.folder / "no/such", "--listen", "127.0.0.1:0"
        )
        self.assertEqual(result.returncode, 2)
        self.assertIn(f"--sandbox: cannot open directory {self.folder}/no/such: No such file", result.stderr)


if __name__ == "__main__":
    lib.main()
