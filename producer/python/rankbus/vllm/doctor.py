"""`python -m rankbus.vllm doctor`: whether what vLLM counts here will reach the bus, and what to do if not.

It looks where the engine would look, in the same environment: run it as the engine's user, with the engine's
variables. It starts no engine and writes to no bus that is in use. Exit status 0: all is well, 1: something is not.
"""

import argparse
import fcntl
import importlib
import importlib.metadata
import importlib.util
import os
import stat
import struct
import tempfile
import urllib.error
import urllib.request

OUR_POINTS = {
    "vllm.stat_logger_plugins": ("rankbus.vllm:StatLogger", "the front end of `vllm serve`"),
    "vllm.general_plugins": ("rankbus.vllm:register", "every rank, and LLM()"),
}
STATS_MODULES = {
    "vllm.v1.metrics.stats": (
        "SchedulerStats", "PrefixCacheStats", "MultiModalCacheStats", "IterationStats", "PromptTokenStats",
        "FinishedRequestStats", "KVCacheEvictionEvent", "SchedulerIterationDetails",
    ),
    "vllm.v1.spec_decode.metrics": ("SpecDecodingStats",),
    "vllm.v1.core.kv_cache_metrics": ("KVCacheEvictionEvent",),
    "vllm.compilation.cuda_graph": ("CUDAGraphStat",),
    "vllm.v1.metrics.perf": ("PerfStats",),
}  # fmt: skip
ANSWER_WITHIN_S = 2.0
MOST_ANSWER_BYTES = 16 << 20


class Findings:
    """What was found, one line each. A problem comes with what to do about it."""

    def __init__(self):
        self.problems = 0

    def good(self, what):
        print(f"ok       {what}")

    def note(self, what, hint=""):
        print(f"note     {what}")
        self._hint(hint)

    def bad(self, what, todo):
        self.problems += 1
        print(f"PROBLEM  {what}")
        self._hint(todo)

    @staticmethod
    def _hint(text):
        if text:
            print(f"         -> {text}")


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m rankbus.vllm", description="rankbus's plug-ins for vLLM")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="say whether vLLM's statistics will reach the bus, and why not")
    doctor.add_argument("--rankbus", default="127.0.0.1:9855", metavar="HOST:PORT", help="where the aggregator listens")
    doctor.add_argument("--vllm", default="127.0.0.1:8000", metavar="HOST:PORT", help="where vLLM's server listens")
    options = parser.parse_args(arguments)
    findings = Findings()
    for check in (check_vllm, check_entry_points, check_features, check_package, check_bus, check_recording):
        try:
            check(findings)
        except Exception as error:  # One check that fails must not hide what the others find.
            findings.bad(f"{check.__name__}: {error!r}", "report it with the version of vLLM")
    check_scrapes(findings, options.rankbus, options.vllm)
    print(f"\n{findings.problems} problems" if findings.problems != 1 else "\n1 problem")
    return 1 if findings.problems else 0


def check_vllm(findings):
    if importlib.util.find_spec("vllm") is None:
        findings.bad("vLLM is not installed for this Python", "run the doctor with the Python that runs vLLM")
        return
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        version = getattr(import_or_none("vllm"), "__version__", "of unknown version")
    findings.good(f"vLLM {version}")
    if os.environ.get("VLLM_USE_V1") == "0":
        findings.bad("VLLM_USE_V1=0: the old engine has no stat loggers of this kind", "unset VLLM_USE_V1")


def check_entry_points(findings):
    allowed = os.environ.get("VLLM_PLUGINS")
    for group, (value, purpose) in OUR_POINTS.items():
        names = {point.name for point in importlib.metadata.entry_points(group=group) if point.value == value}
        if not names:
            findings.bad(
                f"no entry point {value} in the group {group}: vLLM will not load what records {purpose}",
                "pip install the package instead of putting it on PYTHONPATH",
            )
        elif allowed is not None and not names & set(allowed.split(",")):
            findings.bad(
                f"VLLM_PLUGINS={allowed} leaves out {', '.join(sorted(names))}: vLLM will not load {value}",
                f"VLLM_PLUGINS={','.join(filter(None, [allowed, *sorted(names)]))}",
            )
        else:
            findings.good(f"{group}: {value}, which records {purpose}")


def check_features(findings):
    """The plug-in as vLLM would load it, and vLLM's objects as the plug-in would meet them."""
    from rankbus.vllm.registration import ENGINE_MODULE, WORKER_MODULE
    from rankbus.vllm.watch import KNOWN_FIELDS, field_names

    loggers = import_or_none("vllm.v1.metrics.loggers")
    if loggers is None:
        if importlib.util.find_spec("vllm") is not None:
            findings.bad("vllm.v1.metrics.loggers cannot be imported", "this vLLM has no v1 engine; rankbus needs one")
        return
    try:
        from rankbus.vllm import StatLogger

        findings.good(f"StatLogger derives from vLLM's {StatLogger.__mro__[2].__name__}")
    except ImportError as error:
        findings.bad(f"the stat logger cannot be made: {error}", "report it with the version of vLLM")
    if not hasattr(loggers, "load_stat_logger_plugin_factories"):
        findings.note(
            "this vLLM looks for no stat logger plug-ins: `vllm serve` records ranks only",
            "AsyncLLM.from_engine_args(..., stat_loggers=[rankbus.vllm.StatLogger]) records all",
        )
    for module, name in ((WORKER_MODULE, "WorkerBase"), (ENGINE_MODULE, "LLMEngine")):
        if spec_of(module) is None:
            findings.note(f"{module} is not there: its {name} is not recorded")
        else:
            findings.good(f"{module}.{name} is recorded")
    unknown = []
    for module_name, classes in STATS_MODULES.items():
        module = import_or_none(module_name)
        for name in classes:
            thing = getattr(module, name, None)
            fields = class_fields(thing, field_names)
            unknown += [f"{name}.{field}" for field in fields if field not in KNOWN_FIELDS[name]]
    if unknown:
        names = ", ".join(sorted(set(unknown)))
        findings.note(f"{len(set(unknown))} fields that rankbus does not know, and does not record: {names}")
    else:
        findings.good("every field of vLLM's statistics is known")


def class_fields(thing, field_names):
    if thing is None:
        return []
    names = field_names(thing)
    if names:
        return names
    try:
        return field_names(thing())  # No dataclass: its fields are those of an instance.
    except Exception:
        return []


def check_package(findings):
    """Whether records can be written at all, on a bus of our own that nobody reads."""
    import rankbus

    with tempfile.TemporaryDirectory(prefix="rankbus-doctor-", dir="/dev/shm") as folder:
        os.chmod(folder, 0o700)
        producer = rankbus.Producer(
            role="frontend", model="doctor", records=["scheduler_step"], bus=folder, run_id="doctor"
        )
        inert, reason = producer.inert, producer.reason
        producer.close()
    if inert:
        findings.bad(f"this process cannot record: {reason}", "see the reason")
    else:
        findings.good(f"records can be written: {len(rankbus.record_types())} record types are built in")


def bus_path():
    """As producers and the aggregator resolve it."""
    given = os.environ.get("RANKBUS_BUS")
    if given:
        return given.rstrip("/") or "/"
    return "/run/rankbus" if os.path.isdir("/run/rankbus") else f"/dev/shm/rankbus-{os.geteuid()}"


def check_bus(findings):
    path = bus_path()
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if os.access(parent, os.W_OK | os.X_OK):
            findings.note(f"bus {path}: not there yet; the first producer or aggregator makes it")
        else:
            findings.bad(f"bus {path}: not there, and cannot be made", f"make {parent} writable, or set RANKBUS_BUS")
        findings.bad("no aggregator reads this bus", f"rankbus aggregate --bus {path}")
        return
    except OSError as error:
        findings.bad(f"bus {path}: {error.strerror}", "choose another with RANKBUS_BUS")
        return
    problem = judge(path, found)
    if problem:
        findings.bad(f"bus {path}: {problem[0]}", problem[1])
        return
    segments = sum(name.count(".") == 1 and not name.startswith(".") for name in os.listdir(path))
    findings.good(f"bus {path}: usable, {segments} segments")
    if aggregator_runs(path):
        findings.good("an aggregator reads it")
    else:
        findings.bad("no aggregator reads this bus", f"rankbus aggregate --bus {path}")


def judge(path, found):
    """(what is wrong, what to do) with a bus directory, or None."""
    mode = stat.S_IMODE(found.st_mode)
    in_group = mode & stat.S_ISGID and mode & stat.S_ISVTX
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link, expected a directory", "give the place that it points to"
    if not stat.S_ISDIR(found.st_mode):
        return "not a directory", "choose another with RANKBUS_BUS"
    if found.st_uid not in (0, os.geteuid()) and not in_group:
        return f"belongs to uid {found.st_uid}, expected {os.geteuid()}", "run as its owner, or set RANKBUS_BUS"
    if mode & stat.S_IWOTH:
        return f"mode {mode:04o} lets every user write", f"chmod o-w {path}"
    if mode & stat.S_IWGRP and not in_group:
        return f"mode {mode:04o} lets its group replace segments", f"chmod 3770 {path}"
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return "may not be written by this user", "run as its owner or in its group, or set RANKBUS_BUS"
    kind = file_system_of(path)
    if kind not in ("tmpfs", "ramfs") and os.environ.get("RANKBUS_ALLOW_DISK") != "1":
        return f"on a {kind} file system, expected tmpfs", "use a directory in /dev/shm"
    return None


def file_system_of(path):
    """The type of the file system that a path lies on, by the longest mount point above it."""
    path = os.path.realpath(path)
    best, kind = "", "unknown"
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            _, point, found, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
                best, kind = point, found
    return kind


def aggregator_runs(path):
    """Whether a process holds the bus's owner lock. Asking takes no lock."""
    try:
        fd = os.open(os.path.join(path, ".owner"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        return struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK
    finally:
        os.close(fd)


def check_recording(findings):
    path = os.environ.get("RANKBUS_RECORD_CALLS")
    if path:
        folder = os.path.dirname(os.path.abspath(path))
        if os.access(folder, os.W_OK | os.X_OK):
            findings.note(f"RANKBUS_RECORD_CALLS: every call is also written to {path}")
        else:
            findings.bad(f"RANKBUS_RECORD_CALLS: {folder} cannot be written", "choose another file")


def check_scrapes(findings, rankbus_address, vllm_address):
    """Both endpoints show the same families: who scrapes both counts everything twice."""
    ours, theirs = (serves_vllm_families(address) for address in (rankbus_address, vllm_address))
    if ours and theirs:
        findings.note(
            f"both http://{rankbus_address}/metrics and http://{vllm_address}/metrics show vllm: families",
            "scrape vLLM or rankbus, not both: sums over all targets would count everything twice",
        )
    elif ours:
        findings.good(f"http://{rankbus_address}/metrics shows vllm: families. Scrape vLLM or rankbus, not both")
    else:
        findings.note(f"http://{rankbus_address}/metrics shows no vllm: families yet. Scrape vLLM or rankbus, not both")


def serves_vllm_families(address):
    """Whether /metrics there has a series of vLLM's. The answer is untrusted: read up to a limit, and only searched."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # Never through a proxy: both are near.
    try:
        with opener.open(f"http://{address}/metrics", timeout=ANSWER_WITHIN_S) as answer:
            return b"\nvllm:" in answer.read(MOST_ANSWER_BYTES)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def spec_of(module):
    try:
        return importlib.util.find_spec(module)
    except ImportError:
        return None


def import_or_none(name):
    """A module of vLLM's; None if it is not there or cannot be imported here, for example without a GPU."""
    try:
        return importlib.import_module(name)
    except Exception:
        return None
