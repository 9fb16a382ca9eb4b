"""The main job of scripts/demo, once everything is built; scripts/demo says what it does."""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import compare_truth
import lib

TRACE = ROOT.parent / "shared/traces/mooncake_conversation.jsonl"
ENGINES, TP = 2, 4
LOG_INTERVAL_S = 2
# The model clock runs this much faster than ours, so that the hour takes a quarter of a minute and its
# throughput can be watched; a shorter excerpt is slowed down to be seen as well.
SPEED, SHORTEST_REPLAY_S = 240, 5
GENERATED_REQUESTS = 7000  # About an hour too.
KV_BLOCKS = 8192  # Of 512 tokens, per engine: enough for the busiest minute, so that its use can be watched.


def say(text=""):
    print(text, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo", allow_abbrev=False)
    seconds = os.environ.get("RANKBUS_DEMO_SECONDS")
    parser.add_argument("--seconds", type=float, default=seconds and float(seconds), metavar="N")
    parser.add_argument("--keep", action="store_true", default=os.environ.get("RANKBUS_DEMO_KEEP") == "1")
    return parser.parse_args()


def choose_listen():
    """The documented port, so that the README's commands work; another one where somebody has that."""
    asked = os.environ.get("RANKBUS_DEMO_LISTEN")
    if asked:
        return asked
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 9855))
            return "127.0.0.1:9855"
        except OSError:
            listen = f"127.0.0.1:{lib.free_port()}"
            say(f"127.0.0.1:9855 is taken; listening on {listen} instead")
            return listen


def workload(seconds):
    """The simulator's arguments for the input, and what to call it."""
    arguments = [] if seconds is None else ["--duration", f"{seconds:g}"]
    if not TRACE.exists():
        return (
            [*arguments, "--workload", f"generated:{GENERATED_REQUESTS}"],
            "a generated workload (../shared/traces has no request trace)",
        )
    return [*arguments, "--trace", TRACE], "real chat requests of ../shared/traces"


def number(value):
    return "-" if value is None else f"{value:,.0f}"


def report(scrape, comparison):
    rows = [
        ("requests finished", number(scrape.total("vllm:request_success_total"))),
        ("prompt tokens", number(scrape.total("vllm:prompt_tokens_total"))),
        ("generation tokens", number(scrape.total("vllm:generation_tokens_total"))),
        ("records", number(scrape.total("rankbus_records_total"))),
        ("samples lost", number(scrape.total("rankbus_samples_lost_total") or 0)),
        ("checkpoints verified", number(scrape.total("rankbus_checkpoints_verified_total"))),
        ("checkpoint mismatches", number(scrape.total("rankbus_checkpoints_mismatches_total"))),
        ("series", number(len(scrape.samples))),
        ("one scrape", f"{scrape.bytes / 1e3:,.0f} kB in {scrape.seconds * 1e3:,.1f} ms"),
        ("against the truth", comparison.summary()),
    ]
    say()
    for name, value in rows:
        say(f"  {name:<24}{value}")


def run(options, cleanup, interrupted):
    bus = cleanup.enter_context(lib.temporary_bus("rankbus-demo-"))
    truth_path = pathlib.Path(bus).with_suffix(".truth.json")
    cleanup.callback(truth_path.unlink, missing_ok=True)
    arguments, what = workload(options.seconds)
    speed = SPEED if options.seconds is None else min(SPEED, options.seconds / SHORTEST_REPLAY_S)

    say(f"replaying {what} on {ENGINES} engines x TP {TP}, virtual clock, {speed:g} times as fast")
    aggregator = cleanup.enter_context(
        lib.Aggregator(bus, "--log-interval", LOG_INTERVAL_S, listen=choose_listen(), show=True)
    )
    say(f"look at {aggregator.url()}, for example: curl -s {aggregator.listen}/metrics | grep vllm:request_success")
    simulator = cleanup.enter_context(
        lib.simulate(
            *(bus, "--engines", ENGINES, "--tp", TP, "--clock", "virtual", "--speed", f"{speed:g}"),
            *("--kv-blocks", KV_BLOCKS),
            *("--linger", "--truth", truth_path, *arguments),
            show=True,
        )
    )
    processes = [aggregator, simulator]
    # The truth file appears in one piece after the last record, while everybody still lives. The wait has no
    # limit: how long the replay takes is the machine's business.
    lib.wait_for(lambda: truth_path.exists() or interrupted.is_set(), "the replay ends", float("inf"), processes)
    if interrupted.is_set():
        say("interrupted before the end")
        return False

    scrape = aggregator.scrape()
    comparison = compare_truth.compare(json.loads(truth_path.read_text()), scrape.samples)
    for difference in comparison.differences[:20]:
        say(f"different: {difference}")
    if options.keep:
        report(scrape, comparison)
        say(f"\nkept running: curl -s {aggregator.listen}/metrics ... Ctrl-C ends it")
        lib.wait_for(interrupted.is_set, "Ctrl-C", float("inf"), processes)
    statuses = {process: process.stop() for process in reversed(processes)}
    for process, status in statuses.items():
        if status != 0:
            say(f"{process} ended with status {status}, expected 0")
    if not options.keep:
        report(scrape, comparison)
    return comparison.equal() and not any(statuses.values())


def main():
    options = parse_arguments()
    # A signal only sets a flag: everybody is then ended in order, and the bus directory is removed.
    interrupted = threading.Event()
    for number_ in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number_, lambda *_: interrupted.set())
    try:
        with contextlib.ExitStack() as cleanup:
            return 0 if run(options, cleanup, interrupted) else 1
    except AssertionError as error:
        say(f"demo: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
