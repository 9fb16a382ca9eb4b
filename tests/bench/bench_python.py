"""What a record costs from Python, beside prometheus_client doing the same updates.

    /usr/bin/python3 -B tests/bench/bench_python.py [--small] [--rounds N]

Three processes take turns, so that what disturbs one disturbs all: rankbus, prometheus_client in one process, and
prometheus_client in its multi-process mode, whose values live in mapped files (here in memory). The clients' children
are looked up before, as vLLM does. Prints CPU time of the calling process per record, medians over the rounds, and the
ratios. `--small` proves only that it still runs.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(os.environ.get("RANKBUS_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build/release"))
GOAL_TIMES, GOAL_NS = 40, 500
REASONS = ("stop", "length", "abort", "error", "repetition")

ITL = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TTFT += (160.0, 640.0, 2560.0)
REQUEST = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
REQUEST += (960.0, 1920.0, 7680.0)
LENGTH = tuple(m * 10**e for e in range(6) for m in (1, 2, 5) if m * 10**e <= 131072)


def rankbus_records(bus):
    sys.path.insert(0, str(BUILD / "python"))
    import rankbus

    producer = rankbus.Producer(role="frontend", model="m", bus=bus, max_model_len=131072)
    if producer.inert:
        sys.exit(f"no bus to measure with: {producer.reason}")
    finished, iteration = producer.handle("finished_request"), producer.handle("iteration_stats")
    gaps = [0.01 + i / 1000 for i in range(32)]

    def finished_request(records):
        for i in range(records):
            # 15 values: these 13, and `finished` and `prefill_kv_computed_tokens`, which follow from them.
            finished(
                request_id_hash=i,
                finished_reason="stop",
                num_prompt_tokens=512,
                num_generation_tokens=64,
                num_cached_tokens=128,
                max_tokens_param=256,
                num_preemptions=0,
                e2e_latency_seconds=1.9,
                queued_time_seconds=0.1,
                prefill_time_seconds=0.2,
                inference_time_seconds=1.7,
                decode_time_seconds=1.5,
                mean_time_per_output_token_seconds=0.02,
            )

    def iteration_stats(records):
        for _ in range(records):
            iteration(
                num_preempted_reqs=0,
                prompt_computed_tokens=384,
                prompt_local_cache_hit_tokens=128,
                prompt_external_kv_transfer_tokens=0,
                num_generation_tokens=33,
                time_to_first_token_seconds=[0.2, 0.3],
                inter_token_latency_seconds=gaps,
            )

    def check():
        assert producer.errors == producer.dropped == 0, producer.last_error

    return {"finished_request": finished_request, "iteration_stats": iteration_stats}, check


def prometheus_records(_):
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry, names, at = CollectorRegistry(), ["model_name", "engine"], ("m", "0")

    def histogram(name, buckets):
        return Histogram(name, "help", names, buckets=buckets, registry=registry).labels(*at)

    def counter(name):
        return Counter(name, "help", names, registry=registry).labels(*at)

    success = Counter("vllm:request_success", "help", [*names, "finished_reason"], registry=registry)
    success = {reason: success.labels(*at, reason) for reason in REASONS}
    lengths = [histogram(f"vllm:request_{name}", LENGTH) for name in ("prompt", "generation", "max_tokens", "computed")]
    preemptions = histogram("vllm:request_num_preemptions", (1, 2, 3, 4, 5, 10, 20))
    phases = ("e2e", "queue", "prefill", "inference", "decode")
    times = [histogram(f"vllm:request_{name}_seconds", REQUEST) for name in phases]
    per_token = histogram("vllm:request_time_per_output_token_seconds", ITL)
    prompt, generation, maximum, computed = lengths
    e2e, queue, prefill, inference, decode = times

    def finished_request(records):
        for _ in range(records):
            success["stop"].inc()
            prompt.observe(512)
            generation.observe(64)
            computed.observe(512 - 128)
            maximum.observe(256)
            preemptions.observe(0)
            e2e.observe(1.9)
            queue.observe(0.1)
            prefill.observe(0.2)
            inference.observe(1.7)
            decode.observe(1.5)
            per_token.observe(0.02)

    counters = [counter(f"vllm:counter_{i}") for i in range(7)]
    tokens = histogram("vllm:iteration_tokens", (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384))
    first, gap = histogram("vllm:time_to_first_token_seconds", TTFT), histogram("vllm:inter_token_latency_seconds", ITL)
    amounts = (0, 384, 128, 0, 128, 512, 33)
    gaps = [0.01 + i / 1000 for i in range(32)]

    def iteration_stats(records):
        for _ in range(records):
            for each, amount in zip(counters, amounts):
                each.inc(amount)
            tokens.observe(384 + 33)
            for value in (0.2, 0.3):
                first.observe(value)
            for value in gaps:
                gap.observe(value)

    return {"finished_request": finished_request, "iteration_stats": iteration_stats}, lambda: None


def serve(kind, folder):
    """Answers lines of `record count` with CPU nanoseconds per record."""
    records, check = (rankbus_records if kind == "rankbus" else prometheus_records)(folder)
    for line in sys.stdin:
        name, count = line.split()
        start = time.process_time_ns()
        records[name](int(count))
        print((time.process_time_ns() - start) / int(count), flush=True)
    check()


class Contender:
    def __init__(self, kind, folder):
        environment = {name: text for name, text in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
        if kind == "multi-process":
            environment["PROMETHEUS_MULTIPROC_DIR"] = folder
        arguments = [sys.executable, "-B", __file__, "--serve", kind, folder]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def measure(self, record, count):
        self.process.stdin.write(f"{record} {count}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self):
        self.process.communicate()
        if self.process.returncode != 0:
            sys.exit(f"a measured process ended with {self.process.returncode}")


def measure(rounds, scale):
    """{record: {kind: [ns per round]}}"""
    with tempfile.TemporaryDirectory(prefix="rankbus-bench-", dir="/dev/shm") as parent:
        contenders = {}
        for kind in ("rankbus", "single-process", "multi-process"):
            folder = os.path.join(parent, kind)
            os.mkdir(folder, 0o700)
            contenders[kind] = Contender(kind, folder)
        found = {}
        for record, count in (("finished_request", 4000), ("iteration_stats", 1000)):
            times = found[record] = {kind: [] for kind in contenders}
            for _ in range(rounds + 1):
                for kind, contender in contenders.items():
                    # The client is so much slower that it needs fewer records for a turn as long.
                    turn = count * scale * (10 if kind == "rankbus" else 1)
                    times[kind].append(contender.measure(record, max(int(turn), 10)))
            for kind in times:
                del times[kind][0]  # A first turn warms up.
        for contender in contenders.values():
            contender.end()
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="small inputs: proves that it runs")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="also print the medians as JSON")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(*options.serve)
    if not (BUILD / "python/rankbus/_native.abi3.so").exists():
        sys.exit(f"no package in {BUILD}/python: run scripts/build")
    found = measure(2 if options.small else options.rounds, 0.02 if options.small else 1)
    medians = {}
    for record, times in found.items():
        medians[record] = {kind: statistics.median(values) for kind, values in times.items()}
    print(f"{'CPU ns per record':24} {'rankbus':>10} {'single-process':>22} {'multi-process':>22}")
    for record, times in medians.items():
        ours = times["rankbus"]
        theirs = [f"{times[kind]:.0f} ({times[kind] / ours:.0f}x)" for kind in ("single-process", "multi-process")]
        print(f"{record:24} {ours:10.0f} {theirs[0]:>22} {theirs[1]:>22}")
    if not options.small:
        times = medians["finished_request"]
        least = min(times["single-process"], times["multi-process"]) / times["rankbus"]
        met = least >= GOAL_TIMES and times["rankbus"] < GOAL_NS
        goal = f"goal: {GOAL_TIMES}x and below {GOAL_NS} ns for finished_request"
        print(f"{goal}: {'met' if met else 'not met'} ({least:.0f}x)")
    if options.json:
        print(json.dumps(medians))
    return None


if __name__ == "__main__":
    main()
