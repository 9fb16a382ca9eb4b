"""Goal:   a process that records for ever does not grow: not by calls, good or bad, nor by handles and producers that
        come and go.
Method: a million calls after a warm-up, and what the process then holds, by tracemalloc and by its resident size.
Replay: ctest --test-dir build/release -R e2e_python_memory -V
"""

import gc
import tracemalloc
import unittest

import lib
import python_lib  # Before rankbus: it says where that is.
import rankbus

CALLS = 1_000_000
BOUND_BYTES = 4 << 20  # A leak of 5 bytes a call would show.


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


class Memory(unittest.TestCase):
    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())

    def assert_flat(self, work, warm_up, count):
        work(warm_up)
        gc.collect()
        before = resident_bytes()
        work(count)
        gc.collect()
        self.assertLess(resident_bytes() - before, BOUND_BYTES)
        # Python's own view, which sees also what fits into pages that were there before; it slows calls down.
        tracemalloc.start()
        try:
            work(1000)
            before = tracemalloc.get_traced_memory()[0]
            work(min(count, 20_000))
            gc.collect()
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, 20_000)
        finally:
            tracemalloc.stop()

    def test_MillionCalls_GoodAndBad(self):
        producer = rankbus.Producer(role="frontend", bus=self.bus, records=["lora_state", "connector:nixl"])
        self.addCleanup(producer.close)
        self.assertFalse(producer.inert, producer.reason)
        iteration = producer.handle("iteration_stats")
        finished = producer.handle("finished_request")
        lora = producer.handle("lora_state")
        nixl = producer.handle("connector:nixl")

        def work(calls):
            for i in range(calls // 10):
                iteration(num_generation_tokens=i, inter_token_latency_seconds=[i / 1000] * (i % 100))
                finished(finished_reason="stop", num_prompt_tokens=i, e2e_latency_seconds=float(i))
                finished(**{"finished_reason": f"unknown {i}", f"no field {i % 1000}": i})
                finished(num_prompt_tokens=str(i), e2e_latency_seconds=object())
                iteration(inter_token_latency_seconds=[1.0, None, i])
                iteration(n_params=(1, 2, 3), time_to_first_token_seconds=iter([0.5]))
                lora(adapters={"running_lora_adapters": f"adapter {i}"})
                nixl(peer=f"peer {i}", transfer_duration_seconds=0.01, bytes_transferred=i)
                nixl(peer="one peer", num_failed_transfers=1)
                finished()

        self.assert_flat(work, 50_000, CALLS)
        self.assertGreater(producer.errors, CALLS // 10)

    def test_ProducersAndHandles_ComeAndGo(self):
        def work(count):
            for i in range(max(count // 1000, 1)):

                class Declared(rankbus.Record, name="declared"):
                    amount = rankbus.counter("declared_total", by="who")
                    sizes = rankbus.distribution("declared_sizes", bounds=[1, 2, 3], array=4)
                    who = rankbus.label("who")

                with rankbus.Producer(bus=self.bus, records=[Declared, "worker_step"]) as producer:
                    producer.handle(Declared)(amount=1, who=f"somebody {i}", sizes=[1.0] * 10_000)
                    producer.handle("worker_step")(step=i)
                    producer.reopen()
                    producer.handle(Declared)(amount=1, who="somebody")

        self.assert_flat(work, 50_000, 300_000)


if __name__ == "__main__":
    lib.main()
