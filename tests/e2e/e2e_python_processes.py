# Labels: multiprocess-heavy
"""Goal:   records of forked, spawned, killed and threaded Python processes arrive exactly, and a forked child never
        touches what is its parent's.
Method: 8 processes write 100,000 records in all while a real aggregator reads; counters come from its /metrics.
Replay: ctest --test-dir build/release -R e2e_python_processes -V
"""

import functools
import os
import signal
import threading
import traceback
import unittest

import lib
import python_lib  # Before rankbus: it says where that is.
import rankbus

PROCESSES = 8
EACH = 12_500
REASONS = ("stop", "length", "abort", "error", "repetition")


def write(handle, records):
    for i in range(records):
        handle(finished_reason=REASONS[i % 5], num_generation_tokens=i % 7, e2e_latency_seconds=0.5)


SPAWNED = """
import sys, rankbus
bus, engine, records = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with rankbus.Producer(role="frontend", model="m", engine=engine, bus=bus) as producer:
    handle = producer.handle("finished_request")
    for i in range(records):
        handle(finished_reason=("stop", "length", "abort", "error", "repetition")[i % 5],
               num_generation_tokens=i % 7, e2e_latency_seconds=0.5)
    assert producer.errors == producer.dropped == 0, producer.last_error
"""

KILLED = """
import sys, rankbus
producer = rankbus.Producer(role="frontend", model="killed", bus=sys.argv[1])
handle = producer.handle("multimodal_cache")
for i in range(int(sys.argv[2])):
    handle(queries=3, hits=1)
print("written", flush=True)
sys.stdout.close()
import signal
signal.pause()
"""

RUN_ID = """
import json, os, sys, rankbus
rankbus.Producer(role="worker", bus=sys.argv[1])
print(json.dumps(os.environ["RANKBUS_RUN_ID"]))
"""


def in_child(work):
    """Forks; the child does `work` and ends without unwinding into the test. Returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            lib.die_with_parent()
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


class Processes(unittest.TestCase):
    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())

    def open(self, **options):
        producer = rankbus.Producer(role="frontend", model="m", bus=self.bus, **options)
        self.addCleanup(producer.close)
        self.assertFalse(producer.inert, producer.reason)
        return producer

    def test_ForkedAndSpawned_HundredThousandRecordsArriveExactly(self):
        parent = self.open(engine=9)
        handle = parent.handle("finished_request")

        def forked():
            assert parent.inert and "forked" in parent.reason, parent.reason
            handle(num_prompt_tokens=1)  # Dropped: this is no writer yet.
            parent.reopen()
            assert not parent.inert and parent.dropped == 1, parent.reason
            write(handle, EACH)
            assert parent.errors == 0 and parent.dropped == 1, parent.last_error
            parent.close()

        with lib.Aggregator(self.bus) as aggregator:
            spawned = [python_lib.start(SPAWNED, self.bus, i % 2, EACH) for i in range(PROCESSES // 2)]
            children = [in_child(forked) for _ in range(PROCESSES // 2)]
            for child in children:
                self.assertEqual(os.waitpid(child, 0)[1], 0, "a forked child failed")
            for process in spawned:
                python_lib.finish(process)
            self.assertFalse(parent.inert)
            scrape = aggregator.scrape()
            for engine, processes in (("0", 2), ("1", 2), ("9", 4)):
                value = functools.partial(scrape.value, engine=engine)
                for side, reason in enumerate(REASONS):
                    expected = processes * len(range(side, EACH, 5))
                    self.assertEqual(value("vllm:request_success_total", finished_reason=reason), expected)
                tokens = processes * sum(i % 7 for i in range(EACH))
                self.assertEqual(value("vllm:request_generation_tokens_sum"), tokens)
                self.assertEqual(value("vllm:e2e_request_latency_seconds_count"), processes * EACH)
            self.assertEqual(scrape.total("vllm:request_success_total"), PROCESSES * EACH)
            self.assertEqual(scrape.total("rankbus_checkpoint_mismatches_total") or 0, 0)

    def test_Child_ClosingOrEndingLeavesTheParentsSegmentAlone(self):
        parent = self.open()
        handle = parent.handle("multimodal_cache")
        handle(queries=1)

        def child():
            handle(queries=1000)
            parent.close()

        self.assertEqual(os.waitpid(in_child(child), 0)[1], 0)
        self.assertEqual(os.waitpid(in_child(lambda: handle(queries=1000)), 0)[1], 0)
        self.assertFalse(parent.inert, parent.reason)
        handle(queries=2)
        found = {metric.name: metric for metric in rankbus.snapshot(self.bus)}
        self.assertEqual(found["vllm:mm_cache_queries"].value, 3)
        self.assertEqual(self.open().lane, 1)  # The parent still holds lane 0.

    def test_Reopen_AlsoInTheSameProcess_CountsOn(self):
        producer = self.open(records=["cuda_graph"])
        handle = producer.handle("cuda_graph")
        with lib.Aggregator(self.bus) as aggregator:
            for life in range(3):
                for mode in ("FULL", "PIECEWISE") if life % 2 else ("PIECEWISE", "NONE", "FULL"):
                    handle(runtime_mode=mode, num_unpadded_tokens=1, num_padded_tokens=2)
                self.assertEqual(producer.lane, 0)
                producer.reopen()
            scrape = aggregator.scrape()
        self.assertEqual(scrape.value("rankbus_cudagraph_replays_total", mode="FULL"), 3)
        self.assertEqual(scrape.value("rankbus_cudagraph_replays_total", mode="PIECEWISE"), 3)
        self.assertEqual(scrape.value("rankbus_cudagraph_replays_total", mode="NONE"), 2)

    def test_Killed_EveryRecordCounts(self):
        process = python_lib.start(KILLED, self.bus, 5000)
        self.assertEqual(process.stdout.readline(), "written\n")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = {m.name: m for m in rankbus.snapshot(self.bus) if m.labels.get("model_name") == "killed"}
        self.assertEqual(found["vllm:mm_cache_queries"].value, 15_000)
        self.assertEqual(found["vllm:mm_cache_hits"].value, 5000)

    def test_Threads_ShareOneHandle(self):
        producer = self.open()
        handle = producer.handle("iteration_stats")

        class Slow:
            """Its conversion runs Python code, in the middle of which other threads come."""

            def __float__(self):
                return sum(0.25 for _ in range(4))

        def work():
            for i in range(2000):
                handle(num_generation_tokens=1, inter_token_latency_seconds=[0.5, Slow(), 1.0])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = {metric.name: metric for metric in rankbus.snapshot(self.bus)}
        self.assertEqual(found["vllm:generation_tokens"].value, 8000)
        self.assertEqual(found["vllm:inter_token_latency_seconds"].count, 24_000)
        self.assertEqual(found["vllm:inter_token_latency_seconds"].sum, 20_000)
        self.assertEqual(producer.errors, 0)

    def test_RunId_IsInheritedByProcessesStartedWithOsEnviron(self):
        first = python_lib.run(RUN_ID, self.bus)
        self.assertEqual(len(first), 32)
        self.assertEqual(python_lib.run(RUN_ID, self.bus, env={"RANKBUS_RUN_ID": first}), first)


if __name__ == "__main__":
    lib.main()
