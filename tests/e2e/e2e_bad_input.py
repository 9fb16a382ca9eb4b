"""Goal:   whatever is wrong with a bus directory, an option, a file or a port, the message says what, where, what was
        expected and what to do next, the exit status is the documented one, and a worker goes on working.
Method: one fault at a time, with the real binary. File systems that are small, full or read-only are mounted in a
        mount namespace of this process, where that is permitted.
Replay: ctest --test-dir build/release -R e2e_bad_input -V
"""

import contextlib
import ctypes
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import unittest
import urllib.request

import compare_truth
import lib

RUN = ("--workload", "generated:20", "--speed", "max", "--tp", 2)
RUN_PROCESSES = 4
NO_MOUNTS = "mounting file systems is not permitted here"
MEMORY = "/dev/shm"

_mounts_permitted = False


def setUpModule():
    """Gives this process mounts of its own, which go with it."""
    global _mounts_permitted
    clone_newns = 0x00020000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_newns) != 0:
        print(f"mounts: {os.strerror(ctypes.get_errno())}")
        return
    # Nothing that is mounted below shall be seen outside.
    private = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, text=True, check=False)
    print(private.stderr, end="")
    _mounts_permitted = private.returncode == 0


@contextlib.contextmanager
def mounted(options):
    """An empty tmpfs with these options, at a place of its own."""
    if not _mounts_permitted:
        raise unittest.SkipTest(NO_MOUNTS)
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        mount = ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "rankbus-test", place]
        if subprocess.run(mount, check=False).returncode != 0:
            raise unittest.SkipTest(NO_MOUNTS)
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def folder_on_disk():
    """A folder whose files are not in memory."""
    for parent in (os.environ.get("RANKBUS_BUILD"), "/var/tmp", tempfile.gettempdir()):
        if parent is None or not os.path.isdir(parent):
            continue
        kind = subprocess.run(["stat", "-f", "-c", "%T", parent], capture_output=True, text=True, check=True).stdout
        if kind.strip() not in ("tmpfs", "ramfs"):
            with tempfile.TemporaryDirectory(dir=parent) as place:
                yield place
            return
    raise unittest.SkipTest("everything here is in memory")


class TestCase(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(dir=MEMORY)))

    def assert_says(self, text, *parts):
        for part in parts:
            self.assertIn(str(part), text)

    def assert_refused(self, result, status, *parts):
        """It ended with this status and one line, which holds these parts."""
        self.assertEqual(result.returncode, status, result.stderr)
        self.assert_says(result.stderr, *parts)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertEqual(result.stdout, "")

    def aggregate(self, *arguments, **options):
        """An aggregator that is expected to end by itself."""
        return lib.run_rankbus("aggregate", *arguments, **options)


class BusDirectory(TestCase):
    """Each unusable directory: the aggregator ends with 1 and says why; the simulation warns and does its work."""

    @classmethod
    def setUpClass(cls):
        with lib.temporary_bus() as bus, tempfile.TemporaryDirectory() as folder:
            truth = pathlib.Path(folder) / "truth.json"
            good = lib.run_rankbus("simulate", "--bus", bus, *RUN, "--truth", truth)
            assert good.returncode == 0, good.stderr
            assert "warning" not in good.stderr, good.stderr
            cls.truth = truth.read_bytes()

    def assert_unusable(self, bus, *reason):
        self.assert_refused(self.aggregate("--bus", bus, "--listen", "127.0.0.1:0"), 1, bus, *reason)
        self.assert_workers_go_on(bus, *reason)

    def assert_workers_go_on(self, bus, *reason):
        truth = self.folder / "truth.json"
        result = lib.run_rankbus("simulate", "--bus", bus, *RUN, "--truth", truth)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_says(result.stderr, f"of {RUN_PROCESSES} processes write no records", bus, *reason)
        self.assertEqual(truth.read_bytes(), self.truth, "they did the same work as on a good bus")

    def test_ParentMissing_SaysToMakeIt(self):
        self.assert_unusable(self.folder / "no/such", "No such file or directory", "Make its parent", "RANKBUS_BUS")

    def test_LastComponentMissing_IsMade(self):
        bus = self.folder / "new"
        with lib.Aggregator(bus):
            self.assertEqual(bus.stat().st_mode & 0o7777, 0o700)

    def test_FileInItsPlace_IsNamed(self):
        bus = self.folder / "file"
        bus.touch()
        self.assert_unusable(bus, "not a directory", "RANKBUS_BUS")

    def test_SymbolicLink_IsNotFollowed(self):
        bus = self.folder / "link"
        bus.symlink_to(self.folder)
        self.assert_unusable(bus, "symbolic link", "give the place that it points to")

    def test_WritableForEverybody_SaysTheCommandThatMendsIt(self):
        bus = self.folder / "open"
        bus.mkdir()
        bus.chmod(0o777)
        self.assert_unusable(bus, "mode 0777", "expected 0700", f"chmod o-w {bus}")

    @unittest.skipUnless(os.geteuid() == 0, "only root can give a directory away")
    def test_OwnedBySomebodyElse_SaysWhoseItIs(self):
        bus = self.folder / "theirs"
        bus.mkdir(mode=0o700)
        os.chown(bus, 12345, -1)
        self.assert_unusable(bus, "owned by uid 12345", "expected uid 0", "RANKBUS_BUS")

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_NotOurs_SaysThatPermissionIsDenied(self):
        bus = self.folder / "bus"
        bus.mkdir(mode=0o700)
        self.folder.chmod(0o755)
        try:
            result = self.aggregate("--bus", bus, "--listen", "127.0.0.1:0", user=65534, group=65534)
        except PermissionError:
            self.skipTest("another user may not run the binary")
        self.assert_refused(result, 1, bus, "permission denied", "RANKBUS_BUS")

    # C-16
    def test_OnDisk_IsRefusedUnlessAllowed(self):
        with folder_on_disk() as place:
            bus = pathlib.Path(place) / "bus"
            bus.mkdir(mode=0o700)
            self.assert_unusable(bus, "not in memory", "expected tmpfs", "/dev/shm", "RANKBUS_ALLOW_DISK=1")
            self.assertEqual(os.listdir(bus), [])
            self.assert_serves_everything(bus, allow={"RANKBUS_ALLOW_DISK": "1"})

    def assert_serves_everything(self, bus, *run, allow=None):
        """A simulation of 2 engines x TP 4 on this bus, compared with its truth; returns the last scrape."""
        truth = self.folder / "served.json"
        truth.unlink(missing_ok=True)
        with (
            lib.Aggregator(bus, env=allow) as aggregator,
            lib.simulate(
                *(bus, "--engines", 2, "--tp", 4, "--workload", "generated:300", "--speed", "max"),
                *(*run, "--linger", "--truth", truth),
                env=allow,
            ) as simulator,
        ):
            lib.wait_for(truth.exists, "all is published", alive=[aggregator, simulator])
            scrape = aggregator.scrape()
            self.assertNotIn("write no records", simulator.stderr())
            comparison = compare_truth.compare(json.loads(truth.read_text()), scrape.samples)
            self.assertTrue(comparison.equal(), "\n".join(comparison.differences[:10]))
            self.assertEqual(len(scrape.select("rankbus_rank_info")), 12)
        return scrape, aggregator.stderr()

    def test_ReadOnly_SaysSoAndThatObserversMayLook(self):
        with mounted("ro") as bus:
            self.assert_refused(self.aggregate("--bus", bus), 1, bus, "Read-only file system", "--observe")
            self.assert_workers_go_on(bus, "Read-only file system", "mount options")
            with lib.Aggregator(bus, "--observe") as observer:
                self.assertEqual(observer.scrape().value("rankbus_segments"), 0)

    def test_FullFileSystem_WarnsAndWorkersGoOn(self):
        with mounted("size=1m") as bus:
            with open(f"{bus}/fill", "wb", buffering=0) as fill, contextlib.suppress(OSError):
                while True:
                    fill.write(bytes(4096))
            self.assert_workers_go_on(bus, "0 KiB are free", "free space there")
            with lib.Aggregator(bus) as aggregator:
                self.assert_says(aggregator.stderr(), "WARNING", bus, "0 KiB left", "Free space")

    def test_NoRoomForAFile_SaysSo(self):
        with mounted("size=64m,nr_inodes=1") as bus:
            self.assert_refused(
                self.aggregate("--bus", bus), 1, bus, "No space left on device", "even for an empty file"
            )
            self.assert_workers_go_on(bus, "No space left on device")

    def test_BudgetUsedUp_SaysWhatItIsAndHowToRaiseIt(self):
        result = lib.run_rankbus("simulate", "--bus", self.folder / "bus", *RUN, env={"RANKBUS_BUDGET": "64k"})
        self.assertEqual(result.returncode, 0)
        self.assert_says(result.stderr, "write no records", "budget of 64 KiB", "RANKBUS_BUDGET", "raise the budget")

    # C-15
    def test_SixtyFourMebibytes_WarnsAndHoldsTwoEnginesWithinTheBudget(self):
        # The size of /dev/shm in a container that nobody thought about.
        with mounted("size=64m") as bus:
            budget = (64 << 20) // 8
            used = []

            def measure():
                used.append(sum(entry.stat().st_blocks * 512 for entry in os.scandir(bus)))

            # Twice, because what the first run left behind must not take the second one's room.
            for _ in range(2):
                _, told = self.assert_serves_everything(bus)
                measure()
                self.assert_says(told, "WARNING", bus, "8 MiB", "--shm-size", "RANKBUS_BUDGET")
                # With its ledger, the second would continue the first one's counts.
                lib.forget_counts(bus)
            self.assertLessEqual(max(used), budget)

    def test_SixtyFourMebibytes_WithoutAnAggregatorStaysWithinTheBudget(self):
        with mounted("size=64m") as bus:
            for _ in range(12):
                result = lib.run_rankbus(
                    *("simulate", "--bus", bus, "--engines", 2, "--tp", 4),
                    *("--workload", "generated:20", "--speed", "max"),
                )
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertNotIn("write no records", result.stderr)
                used = sum(entry.stat().st_blocks * 512 for entry in os.scandir(bus))
                self.assertLessEqual(used, (64 << 20) // 8)

    def test_ObserverOfABusThatIsNotThere_MakesNoneAndSaysSo(self):
        bus = self.folder / "none"
        self.assert_refused(self.aggregate("--bus", bus, "--observe"), 1, bus, "no such directory", "misspelt")
        self.assert_refused(lib.run_rankbus("inspect", "--bus", bus), 1, bus, "no such directory", "misspelt")
        self.assertFalse(bus.exists())


class Options(TestCase):
    def test_WithoutSubcommand_NamesThem(self):
        self.assert_refused(lib.run_rankbus(), 2, "no subcommand", "aggregate", "simulate", "--help")

    def test_UnknownSubcommand_IsNamedAndTheKnownOnesToo(self):
        self.assert_refused(lib.run_rankbus("agregate"), 2, "'agregate'", "aggregate, simulate", "--help")

    def test_BadFlagOrValue_IsNamedWithWhatWasExpected(self):
        cases = {
            ("aggregate", "--liste", "127.0.0.1:0"): ("unknown argument", "--liste 127.0.0.1:0"),
            ("aggregate", "stray"): ("unknown argument", "stray"),
            ("aggregate", "--listen"): ("--listen", "value is missing"),
            ("aggregate", "--log-interval", "often"): ("--log-interval", "often", "86400"),
            ("aggregate", "--log-interval=-1"): ("--log-interval", "-1", "86400"),
            ("aggregate", "--log-level", "loud"): ("--log-level", "loud", "warning"),
            ("aggregate", "--retain", "x"): ("--retain", "x"),
            ("simulate", "--tp", "0"): ("--tp", "0", "1 to 256"),
            ("simulate", "--engines", "1000"): ("--engines", "1000", "1 to 256"),
            ("simulate", "--speed", "fast"): ("--speed", "fast", "max"),
            ("simulate", "--speed", "-1"): ("--speed", "-1", "max"),
            ("simulate", "--clock", "lunar"): ("--clock", "lunar", "virtual"),
            ("simulate", "--block-rule", "x"): ("--block-rule", "x", "vllm"),
            ("simulate", "--duration", "0"): ("--duration", "0"),
            ("simulate", "--seed", "one"): ("--seed", "one"),
            ("inspect", "--everything"): ("unknown argument", "--everything"),
        }
        for arguments, parts in cases.items():
            with self.subTest(arguments=" ".join(arguments)):
                result = lib.run_rankbus(*arguments)
                self.assert_refused(result, 2, *parts, f"rankbus {arguments[0]}: ", f"rankbus {arguments[0]} --help")

    def test_ValuesThatNoParserKnows_AreNamedToo(self):
        cases = {
            ("simulate", "--workload", "made"): ("--workload", "'made'", "generated:REQUESTS"),
            ("simulate", "--workload", "generated:0"): ("--workload", "generated:0", "1 to"),
            ("simulate", "--trace", "a", "--workload", "generated"): ("--trace", "--workload", "exclude each other"),
        }
        for arguments, parts in cases.items():
            with self.subTest(arguments=" ".join(arguments)):
                self.assert_refused(lib.run_rankbus(*arguments), 2, *parts)

    def test_BadAddress_SaysWhatAGoodOneLooksLike(self):
        cases = {
            "9855": "HOST:PORT",
            "127.0.0.1": "HOST:PORT",
            "127.0.0.1:": "0 to 65535",
            "127.0.0.1:99999": "0 to 65535",
            "1.2.3.4.5:80": "127.0.0.1",
            "example.org:80": "127.0.0.1",
            "::1:80": "[::1]",
        }
        for address, expected in cases.items():
            with self.subTest(address=address):
                result = self.aggregate("--bus", self.folder / "bus", "--listen", address)
                self.assert_refused(result, 2, "--listen", address, expected)

    def test_PortInUse_SaysSoWithStatusOne(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            result = self.aggregate("--bus", self.folder / "bus", "--listen", listen)
            self.assert_refused(result, 1, listen, "Address already in use", "--listen")

    def test_AddressOfAnotherMachine_SaysSoWithStatusOne(self):
        # Reserved for documentation: no machine has it.
        result = self.aggregate("--bus", self.folder / "bus", "--listen", "192.0.2.1:9855")
        self.assert_refused(result, 1, "192.0.2.1:9855", "no interface of this machine")

    def test_LogFileThatCannotBeOpened_SaysSoWithStatusOne(self):
        for path, reason in ((self.folder / "no/log", "No such file"), (self.folder, "Is a directory")):
            result = self.aggregate("--bus", self.folder / "bus", "--listen", "127.0.0.1:0", "--log-file", path)
            self.assert_refused(result, 1, "--log-file", path, reason)

    def test_HelpAndVersion_AreSuccesses(self):
        for arguments in (["--help"], ["--version"], ["aggregate", "--help"], ["simulate", "--help"]):
            result = lib.run_rankbus(*arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertIn("rankbus", result.stdout)


class Precedence(TestCase):
    """Flag, then environment, then file."""

    def setUp(self):
        super().setUp()
        self.bus = self.enterContext(lib.temporary_bus())
        self.file, self.variable, self.flag = (f"127.0.0.1:{lib.free_port()}" for _ in range(3))
        self.config = self.folder / "rankbus.conf"
        self.config.write_text(f"[aggregate]\nlisten = {self.file}\n")

    def listens_on(self, *arguments, env=None):
        """Where an aggregator that is started so says that it listens."""
        with lib.Process(*arguments, "--bus", self.bus, env=env) as process:
            lib.wait_for(lambda: "metrics on http://" in process.stderr(), "it says where", alive=[process])
            return process.stderr().partition("metrics on http://")[2].partition("/metrics")[0]

    def test_File_IsHeardWhereverTheFlagStands(self):
        self.assertEqual(self.listens_on("--config", self.config, "aggregate"), self.file)
        self.assertEqual(self.listens_on("aggregate", "--config", self.config), self.file)
        self.assertEqual(self.listens_on("aggregate", env={"RANKBUS_CONFIG": str(self.config)}), self.file)

    def test_Environment_WinsOverTheFile(self):
        found = self.listens_on("aggregate", "--config", self.config, env={"RANKBUS_LISTEN": self.variable})
        self.assertEqual(found, self.variable)

    def test_Flag_WinsOverBoth(self):
        found = self.listens_on(
            *("aggregate", "--config", self.config, "--listen", self.flag), env={"RANKBUS_LISTEN": self.variable}
        )
        self.assertEqual(found, self.flag)

    def test_Simulate_FollowsTheSameOrder(self):
        self.config.write_text("[aggregate]\nobserve = true\n[simulate]\ntp = 2\nengines = 2\nmax-num-seqs = 7\n")
        for arguments, env, expected in (
            ([], {}, "on 2 engines x TP 2"),
            ([], {"RANKBUS_TP": "3"}, "on 2 engines x TP 3"),
            (["--tp", 1], {"RANKBUS_TP": "3"}, "on 2 engines x TP 1"),
            (["--engines=1"], {"RANKBUS_TP": "3"}, "on 1 engine x TP 3"),
        ):
            result = lib.run_rankbus(
                *("simulate", "--config", self.config, "--workload", "generated:1", "--speed", "max"),
                *("--bus", self.bus, *arguments),
                env=env,
            )
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(expected, result.stderr)

    def test_FlagInTheEnvironment_IsSetByOneAndNotByZero(self):
        missing = self.folder / "none"
        for value, status_of_owner in (("1", 1), ("true", 1)):
            result = self.aggregate("--bus", missing, env={"RANKBUS_OBSERVE": value})
            self.assertEqual(result.returncode, status_of_owner, value)
        self.listens_on("aggregate", "--listen", self.flag, env={"RANKBUS_OBSERVE": "0"})
        result = self.aggregate("--bus", missing, env={"RANKBUS_OBSERVE": "maybe"})
        self.assert_refused(result, 2, "--observe", "'maybe'", "RANKBUS_OBSERVE")

    def test_BadValueInTheEnvironment_NamesTheVariable(self):
        result = self.aggregate(env={"RANKBUS_LOG_INTERVAL": "often"})
        self.assert_refused(result, 2, "--log-interval", "often", "from RANKBUS_LOG_INTERVAL")

    def test_BadVllmInterval_IsWarnedOfAndNotObeyed(self):
        with lib.Aggregator(self.bus, env={"VLLM_LOG_STATS_INTERVAL": "often"}) as aggregator:
            self.assert_says(aggregator.stderr(), "WARNING", "VLLM_LOG_STATS_INTERVAL", "'often'", "10 s")

    def test_BadConfigFile_IsNamedWithTheKey(self):
        cases = {
            "[aggregate]\nlog-intervall = 3\n": ("unknown key 'aggregate.log-intervall'", "[aggregate]"),
            "[aggregate]\nlog-interval = often\n": ("--log-interval", "often", f"from {self.config}"),
            "[agregate]\nlog-interval = 3\n": ("unknown section [agregate]",),
            "log-interval = 3\n": ("unknown key 'log-interval'", "in a section"),
            "[aggregate\nlisten = x\n": ("unknown key '[aggregate'",),
            "[aggregate]\nobserve = maybe\n": ("--observe", "maybe", f"from {self.config}"),
        }
        for text, parts in cases.items():
            with self.subTest(config=text):
                self.config.write_text(text)
                result = self.aggregate("--bus", self.bus, "--config", self.config)
                self.assert_refused(result, 2, self.config, *parts)

    def test_MissingConfigFile_IsNamed(self):
        result = self.aggregate("--config", self.folder / "none.conf")
        self.assert_refused(result, 2, "--config", self.folder / "none.conf", "cannot be read")


class Traces(TestCase):
    GOOD = '{"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}'

    def simulate(self, trace, *arguments):
        return lib.run_rankbus("simulate", "--bus", self.folder / "bus", "--speed", "max", "--trace", trace, *arguments)

    def test_MalformedLine_IsNamedByFileAndNumber(self):
        cases = {
            "{": "expected one JSON object per line",
            "[1]": "expected one JSON object per line",
            self.GOOD.replace("timestamp", "time"): 'no "timestamp"',
            self.GOOD.replace("600", '"600"'): '"input_length"',
            self.GOOD.replace("600", "-5"): '"input_length" is -5',
            self.GOOD.replace("600", "0"): '"input_length" is 0',
            self.GOOD.replace(": 2,", ": 1e30,"): '"output_length"',
            self.GOOD.replace('"timestamp": 0', '"timestamp": -1'): '"timestamp" is -1',
            self.GOOD.replace("[1, 2]", "[1]"): "has 1 entries, expected 2",
            self.GOOD.replace("[1, 2]", '[1, "x"]'): "expected integers",
            self.GOOD.replace("[1, 2]", "7"): "expected an array",
        }
        trace = self.folder / "trace.jsonl"
        for line, reason in cases.items():
            with self.subTest(line=line):
                # The empty line counts too, or an editor would show another number.
                trace.write_text(f"{self.GOOD}\n\n{line}\n{self.GOOD}\n")
                self.assert_refused(self.simulate(trace), 2, f"{trace}:3: ", reason)

    def test_LastLineCutShort_IsNamed(self):
        trace = self.folder / "trace.jsonl"
        trace.write_text(f"{self.GOOD}\n{self.GOOD[:40]}")
        self.assert_refused(self.simulate(trace), 2, f"{trace}:2: ")

    def test_MissingOrEmptyTrace_IsNamed(self):
        trace = self.folder / "none.jsonl"
        self.assert_refused(self.simulate(trace), 2, trace, "No such file or directory")
        trace.write_text("\n\n")
        self.assert_refused(self.simulate(trace), 2, trace, "no request")
        self.assert_refused(self.simulate(self.folder), 2, self.folder, "Is a directory")

    def test_TruthThatCannotBeWritten_IsToldBeforeTheWork(self):
        trace = self.folder / "trace.jsonl"
        trace.write_text(self.GOOD)
        truth = self.folder / "no/truth.json"
        self.assert_refused(self.simulate(trace, "--truth", truth), 1, truth, "No such file or directory")


class Http(TestCase):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(lib.Aggregator(self.enterContext(lib.temporary_bus())))

    def request(self, path, method="GET"):
        request = urllib.request.Request(self.server.url(path), method=method)
        return lib.http_get(request)

    def test_HealthAndReadiness_AreAnsweredWithoutAnyProducer(self):
        for path, answer in (("/healthz", b"ok\n"), ("/readyz", b"ready\n")):
            status, headers, body = self.request(path)
            self.assertEqual((status, body), (200, answer))
            self.assertIn("text/plain", headers["Content-Type"])

    def test_UnknownPage_Is404AndNamesTheKnownOnes(self):
        for path in ("/metric", "/metrics/", "/healthz/engine", "/..%2f..%2fetc/passwd"):
            status, _, body = self.request(path)
            self.assertEqual(status, 404, path)
            self.assertIn(b"/metrics", body)

    def test_OtherMethods_Are405AndSayWhichAreAllowed(self):
        for method in ("POST", "PUT", "DELETE"):
            status, headers, _ = self.request("/metrics", method)
            self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"))
        status, _, body = self.request("/metrics", "HEAD")
        self.assertEqual((status, body), (200, b""))

    def test_BadParameters_Are400AndSayWhatIsKnown(self):
        cases = {
            "?engine=one": b"not a number",
            "?engine=-1": b"not a number",
            "?engine=0&engine=1": b"twice",
            "?server=": b"empty",
            "?enigne=0": b"server and engine",
        }
        for query, reason in cases.items():
            status, _, body = self.request(f"/metrics{query}")
            self.assertEqual(status, 400, query)
            self.assertIn(reason, body)

    # C-19, C-27
    def test_BadRequests_LeaveItServing(self):
        host, _, port = self.server.listen.partition(":")
        for garbage in (b"\0" * 5000, b"GET / HTTP/9.9\r\n\r\n", b"G" * 100_000, b"GET /metrics HTTP/1.1\r\n"):
            with socket.create_connection((host, int(port)), lib.LIMIT_S) as client:
                with contextlib.suppress(OSError):
                    client.sendall(garbage)
        self.assertEqual(self.server.scrape().value("rankbus_segments"), 0)


if __name__ == "__main__":
    lib.main()
