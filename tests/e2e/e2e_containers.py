"""Goal:   the built programs work across containers: an engine in pid, time, user and mount namespaces of its own, an
        observer elsewhere that sees the bus read-only, an owner of another user; and whoever may not is told so.
Method: unshare(1) starts `rankbus simulate` and `rankbus aggregate` in such worlds; what they publish is compared with
        the truth that the simulation writes and with what an aggregator outside sees.
Replay: ctest --test-dir build/release -R e2e_containers -V
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

import compare_truth
import lib
from e2e_sandbox import kernel_has_landlock

TOKENS = "vllm:generation_tokens_total"
WORKLOAD = ("--workload", "generated:20", "--speed", "max")


def can_unshare(*flags):
    if shutil.which("unshare") is None:
        return False
    # In a session of its own, because `unshare --fork` passes signals on.
    result = subprocess.run(
        ["unshare", *flags, "true"], capture_output=True, timeout=lib.LIMIT_S, check=False, start_new_session=True
    )
    return result.returncode == 0


class Unshared(lib.Process):
    """A rankbus command that unshare(1) starts. The pid is unshare's; `--kill-child` ties the command to it."""

    def __init__(self, flags, prepare, *arguments):
        flags = [*flags, "--fork", "--kill-child"]
        command = f"{prepare} exec {lib.BINARY} \"$@\""
        super().__init__(*flags, "sh", "-c", command, "sh", *arguments, binary=shutil.which("unshare"))

    def stop(self, number=signal.SIGKILL, limit=lib.LIMIT_S):
        self.send(number)
        return self.wait(limit)


class Containers(unittest.TestCase):
    def setUp(self):
        self.bus = pathlib.Path(self.enterContext(lib.temporary_bus()))
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def need(self, *flags):
        if not can_unshare(*flags):
            self.skipTest(f"unshare {' '.join(flags)} is not permitted here (needs root)")

    def segments(self):
        return [name for name in os.listdir(self.bus) if not name.startswith(".")]

    def engine(self, flags, prepare=""):
        """A simulation in namespaces of its own that has published all, and its truth."""
        truth = self.folder / "truth.json"
        engine = self.enterContext(
            Unshared(flags, prepare, "simulate", "--bus", self.bus, "--linger", "--truth", truth, *WORKLOAD)
        )
        lib.wait_for(truth.exists, "all is published", alive=[engine])
        return engine, json.loads(truth.read_text())

    def assert_truth(self, scrape, truth):
        result = compare_truth.compare(truth, scrape.samples)
        self.assertTrue(result.equal(), result.differences[:5])

    # C-13
    def test_EngineInNamespacesOfItsOwn_IsReadExactlyAndDiesWithItsContainer(self):
        flags = ("--mount-proc", "--pid", "--mount", "--uts", "--ipc", "--time", "--monotonic=1000000", "--boottime=1000000")
        self.need(*flags, "--fork")
        with lib.Aggregator(self.bus) as owner:
            engine, truth = self.engine(flags)
            scrape = owner.scrape()
            self.assert_truth(scrape, truth)
            ages = scrape.select("rankbus_source_age_seconds")
            self.assertTrue(ages)
            for series, age in ages.items():
                self.assertLess(age, 500_000, f"{series}: the clock of a container is no age")
            # Its pids are small numbers, which out here are the kernel's threads.
            self.assertEqual(scrape.total("rankbus_rank_state", state="stopped"), 0)
            engine.stop()
            lib.wait_for(lambda: not self.segments(), "the dead are let go", alive=[owner])
            after = owner.scrape()
            for name in (TOKENS, "vllm:prompt_tokens_total", "rankbus_steps_total"):
                self.assertEqual(after.total(name), scrape.total(name), name)

    # C-13
    def test_ObserverWithAReadOnlyMount_SeesWhatTheOwnerSeesAndRemovesNothing(self):
        flags = ("--mount-proc", "--pid", "--mount")
        self.need(*flags, "--fork")
        read_only = f"mount --bind {self.bus} {self.bus} && mount -o remount,bind,ro {self.bus} &&"
        listen = f"127.0.0.1:{lib.free_port()}"
        with lib.simulate(self.bus, "--linger", "--truth", self.folder / "truth", *WORKLOAD) as engine:
            lib.wait_for((self.folder / "truth").exists, "all is published", alive=[engine])
            with Unshared(flags, read_only, "aggregate", "--observe", "--bus", self.bus, "--listen", listen) as observer:

                def ready():
                    try:
                        return lib.http_status(f"http://{listen}/readyz") == 200
                    except OSError:
                        return False

                lib.wait_for(ready, "the observer is ready", alive=[observer])
                seen = lib.Scrape(f"http://{listen}/metrics")
                self.assert_truth(seen, json.loads((self.folder / "truth").read_text()))
                self.assertEqual(seen.total("rankbus_rank_state", state="stopped"), 0)
                names = set(self.segments())
                engine.kill()
                lib.wait_for(
                    lambda: lib.Scrape(f"http://{listen}/metrics").total("rankbus_ranks_reporting") == 0,
                    "the observer sees them dead",
                    alive=[observer],
                )
                self.assertEqual(lib.Scrape(f"http://{listen}/metrics").total(TOKENS), seen.total(TOKENS))
                self.assertEqual(set(self.segments()), names, "who looks on removes nothing")
            # Who could write is told that this place is not for owners.
            refused = subprocess.run(
                ["unshare", *flags, "--fork", "sh", "-c", f"{read_only} exec {lib.BINARY} aggregate --bus {self.bus} --listen {listen}"],
                capture_output=True,
                text=True,
                timeout=lib.LIMIT_S,
                check=False,
                env=lib.clean_environment(),
            )
            self.assertEqual(refused.returncode, 1, refused.stderr)
            self.assertIn("--observe", refused.stderr)

    # C-6
    def test_SandboxedAggregator_StillSeesWhoIsStopped(self):
        if not kernel_has_landlock():
            self.skipTest("this kernel has no Landlock")
        with lib.Aggregator(self.bus, "--sandbox") as owner, lib.simulate(
            self.bus, "--linger", "--truth", self.folder / "truth", *WORKLOAD
        ) as engine:
            lib.wait_for((self.folder / "truth").exists, "all is published", alive=[engine])
            os.killpg(engine.pid, signal.SIGSTOP)  # A session of its own, so a group of its own.

            def stopped():
                return owner.scrape().total("rankbus_rank_state", state="stopped")

            lib.wait_for(lambda: stopped() > 0, "they are seen to be stopped", alive=[owner])
            os.killpg(engine.pid, signal.SIGCONT)
            lib.wait_for(lambda: stopped() == 0, "they are seen to go on", alive=[owner])

    # C-13
    def test_EngineOfAnUnprivilegedContainer_IsReadExactly(self):
        flags = ("--user", "--map-root-user", "--pid", "--mount", "--mount-proc")
        self.need(*flags, "--fork")
        with lib.Aggregator(self.bus) as owner:
            _, truth = self.engine(flags)
            self.assert_truth(owner.scrape(), truth)


class Users(unittest.TestCase):
    ALICE = 21001

    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become other users")
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(dir="/dev/shm")))
        os.chmod(self.folder, 0o755)
        self.bus = self.folder / "bus"
        self.bus.mkdir(mode=0o700)
        try:
            os.chown(self.bus, self.ALICE, self.ALICE)
        except PermissionError as error:
            self.skipTest(f"no directory of another user can be made: {error}")
        # Where it was built, others may have no access.
        self.binary = shutil.copy(lib.BINARY, self.folder)

    def run_as_alice(self):
        return subprocess.run(
            [self.binary, "simulate", "--bus", self.bus, *WORKLOAD],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=lib.LIMIT_S,
            check=False,
            env=lib.clean_environment({"RANKBUS_SERVER": "of-alice"}),
            cwd="/",
            user=self.ALICE,
            group=self.ALICE,
            extra_groups=[],
        )

    # C-17
    def test_BusOfAnotherUser_IsRefusedUnlessThatUserIsNamed(self):
        try:
            result = self.run_as_alice()
        except (OSError, subprocess.SubprocessError) as error:
            self.skipTest(f"no other user can be had: {error}")
        self.assertEqual(result.returncode, 0, result.stderr)
        refused = lib.run_rankbus("aggregate", "--bus", self.bus, "--listen", "127.0.0.1:0")
        self.assertEqual(refused.returncode, 1)
        self.assertIn(f"owned by uid {self.ALICE}", refused.stderr)
        self.assertIn("--allow-uid", refused.stderr)
        with lib.Aggregator(self.bus, "--allow-uid", 4242, "--allow-uid", self.ALICE) as owner:
            scrape = owner.scrape()
            self.assertGreater(scrape.total(TOKENS), 0)
            self.assertEqual(scrape.total("rankbus_segments_rejected"), 0)
            again = self.run_as_alice()
            self.assertEqual(again.returncode, 0, again.stderr)
            self.assertEqual(owner.scrape().total(TOKENS), 2 * scrape.total(TOKENS))
            # By the environment as well, which has room for one.
            second = lib.run_rankbus(
                "aggregate", "--bus", self.bus, "--listen", "127.0.0.1:0", env={"RANKBUS_ALLOW_UID": str(self.ALICE)}
            )
            self.assertEqual(second.returncode, 1)
            self.assertIn("another aggregator owns this bus", second.stderr)

    def test_AllowedUserThatIsNone_IsRefusedWithStatus2(self):
        for wrong in ("no-such-user-here", "", "-1", "4294967295", "99999999999", "12x", "0x10"):
            with self.subTest(wrong):
                result = lib.run_rankbus("aggregate", "--bus", self.bus, "--listen", "127.0.0.1:0", f"--allow-uid={wrong}")
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn("--allow-uid", result.stderr)
        named = lib.run_rankbus("aggregate", "--bus", self.bus, "--listen", "127.0.0.1:0", "--allow-uid", "root")
        self.assertEqual(named.returncode, 1, "a name is taken; it is not the one that is needed")
        self.assertIn(f"owned by uid {self.ALICE}", named.stderr)


if __name__ == "__main__":
    lib.main()
