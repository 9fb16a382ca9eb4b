"""Goal:   ranks of a real PyTorch job, with real collectives between them, show up rank by rank with exact totals.
Method: tensor-parallel matrix multiplications on two CPU processes, whose partial sums are all-reduced by gloo; each
        rank writes `collective` and `worker_step` records through the Python producer while an aggregator reads.
Replay: ctest --test-dir build/release -R e2e_python_torch -V
"""

import functools
import json
import unittest

import lib
import python_lib  # Before rankbus: it says where that is.

try:
    import torch  # noqa: F401
except ImportError:
    torch = None

TP, STEPS, LAYERS = 2, 60, 5

RANK = """
import json, os, sys
import torch
import torch.distributed as distributed
import rankbus

bus, steps, layers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.set_num_threads(1)
torch.manual_seed(0)
distributed.init_process_group("gloo")
producer = rankbus.Producer(role="worker", model="toy", bus=bus, axes=[("tp", rank, size)], gpu="cpu", strict=True)
assert not producer.inert, producer.reason
worker_step, collective, now = producer.handle("worker_step"), producer.handle("collective"), producer.now

width = 32
weights = [torch.randn(width, width, dtype=torch.float64) / width for _ in range(layers)]
mine = slice(rank * width // size, (rank + 1) * width // size)  # Row-parallel: each rank has some of the rows.
forward_ns = padded = ordinal = 0
for step in range(steps):
    dequeued = now()
    hidden = expected = torch.randn(4 + step % 3, width, dtype=torch.float64)
    entered = now()
    for weight in weights:
        partial = hidden[:, mine] @ weight[mine]
        producer.status(step, 0, ordinal % 65536, 1)
        entry = now()
        distributed.all_reduce(partial)
        collective(entry=entry, duration=min(now() - entry, 2**32 - 1), group=0, step=step, ordinal=ordinal)
        ordinal += 1
        hidden, expected = partial.relu(), (expected @ weight).relu()
    torch.testing.assert_close(hidden, expected)
    ready = now()
    ns = (ready - entered) * 10**9 // producer.ticks_per_second
    forward_ns, padded = forward_ns + ns, padded + step % 3
    worker_step(stamp=dequeued, entered=entered, launched=ready, output_ready=ready, step=step,
                dummy=int(step % 10 == 0), padded_tokens=torch.tensor(step % 3).item(), forward_ns=ns)
assert producer.errors == producer.dropped == 0
distributed.barrier()
print(json.dumps({"forward_ns": forward_ns, "padded": padded, "segment": producer.segment_name}), flush=True)
sys.stdin.readline()  # Lives until the test has looked.
"""


@unittest.skipIf(torch is None, "no torch for this Python; scripts/setup installs python3-torch")
class RealCollectives(unittest.TestCase):
    def test_TwoRanks_ExactTotalsRankByRank(self):
        bus = self.enterContext(lib.temporary_bus())
        port = lib.free_port()
        with lib.Aggregator(bus) as aggregator:
            ranks = []
            for rank in range(TP):
                env = {
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "GLOO_SOCKET_IFNAME": "lo",
                    "RANK": str(rank),
                    "WORLD_SIZE": str(TP),
                    "RANKBUS_RUN_ID": "c" * 32,
                }
                process = python_lib.start(RANK, bus, STEPS, LAYERS, env=env, stdin=True)
                self.addCleanup(python_lib.end, process)
                ranks.append(process)
            told = [self.last_words(process) for process in ranks]
            scrape = aggregator.scrape()
            for process in ranks:
                python_lib.finish(process)  # Closes its input first.
        for rank, truth in enumerate(told):
            value = functools.partial(scrape.value, role="worker", rank=str(rank))
            self.assertEqual(value("rankbus_steps_total"), STEPS)
            self.assertEqual(value("rankbus_dummy_steps_total"), STEPS // 10)
            self.assertEqual(value("rankbus_padded_tokens_total"), truth["padded"])
            busy = value("rankbus_rank_busy_seconds_total", phase="forward")
            self.assertAlmostEqual(busy, truth["forward_ns"] / 1e9, 9)
            self.assertEqual(value("rankbus_records_total", stream="worker_step"), STEPS)
            self.assertEqual(value("rankbus_records_total", stream="collective"), STEPS * LAYERS)
            self.assertTrue(truth["segment"].startswith(f"worker-0-{rank}."))
        self.assertEqual(scrape.value("rankbus_ranks_reporting", engine="0"), TP)
        self.assertEqual(scrape.total("rankbus_checkpoint_mismatches_total") or 0, 0)

    def last_words(self, process):
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"a rank ended early:\n{process.stderr.read()}")
        return json.loads(line)


if __name__ == "__main__":
    lib.main()
