"""Goal:   whoever cuts, punches or scribbles over a segment while Python reads the bus harms neither the reading process nor
        a number of any other segment.
Method: the ranks of a simulated engine that has finished; the file of one is cut at random, punched and put back without
        pause, while another process takes rankbus.snapshot() again and again. A mapping would end it by SIGBUS.
Replay: RANKBUS_TEST_SEED=<printed> /usr/bin/python3 -B tests/e2e/e2e_python_truncated.py
"""

import ctypes
import json
import os
import pathlib
import random
import tempfile
import unittest

import lib
import python_lib

RANKS = 4
SNAPSHOTS = 150

# Takes snapshots until it has seen the victim both whole and not, at least as many as asked for; prints of each rank
# all values that its steps ever had, None for a rank that was not there.
READER = """
import json, sys
import rankbus

bus, least = sys.argv[1], int(sys.argv[2])
seen, bad, taken = {}, 0, 0
while taken < least:
    metrics = rankbus.snapshot(bus)
    taken += 1
    steps = {m.labels["rank"]: m.value for m in metrics if m.name == "rankbus_steps"}
    for rank in map(str, range(int(sys.argv[3]))):
        seen.setdefault(rank, set()).add(steps.get(rank))
    bad += sum(m.value for m in metrics if m.name == "rankbus_checkpoints_mismatches" and m.labels.get("rank") != "0")
print(json.dumps({"seen": {rank: sorted(values, key=str) for rank, values in seen.items()}, "mismatches": bad}))
"""


def punch_hole(descriptor, offset, length):
    keep_size, punch = 1, 2
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return fallocate(descriptor, keep_size | punch, offset, length)


class PythonTruncated(unittest.TestCase):
    # C-21
    def test_SegmentCutUnderASnapshot_CostsThatSegmentAtMost(self):
        seed = int(os.environ.get("RANKBUS_TEST_SEED") or random.randrange(2**32))
        print(f"seed {seed}: RANKBUS_TEST_SEED={seed} /usr/bin/python3 -B tests/e2e/e2e_python_truncated.py")
        dice = random.Random(seed)
        bus = self.enterContext(lib.temporary_bus())
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        truth = folder / "truth.json"
        arguments = ("--speed", "max", "--linger", "--truth", truth, "--tp", RANKS, "--workload", "generated:200")
        simulator = self.enterContext(lib.simulate(bus, *arguments))
        lib.wait_for(truth.exists, "all is published", alive=[simulator])
        before = python_lib.run(READER, bus, 1, RANKS)["seen"]
        victim = next(pathlib.Path(bus).glob("worker-0-0.*"))
        good = victim.read_bytes()
        descriptor = os.open(victim, os.O_RDWR)
        self.addCleanup(os.close, descriptor)
        reader = python_lib.start(READER, bus, SNAPSHOTS, RANKS)
        self.addCleanup(python_lib.end, reader)
        attacks = 0
        while reader.poll() is None:
            at = dice.randrange(len(good))
            attack = dice.randrange(4)
            if attack == 0:
                os.ftruncate(descriptor, at)
            elif attack == 1:
                os.ftruncate(descriptor, at)
                os.ftruncate(descriptor, len(good))
            elif attack == 2:
                punch_hole(descriptor, at // 4096 * 4096, 4096 * dice.randrange(1, 9))
            else:
                os.pwrite(descriptor, dice.randbytes(min(64, len(good) - at)), at)
            os.ftruncate(descriptor, len(good))
            # Sometimes what was harmed is seen for a while.
            if dice.randrange(3):
                os.pwrite(descriptor, good, 0)
            attacks += 1
        os.pwrite(descriptor, good, 0)
        result = json.loads(python_lib.finish(reader).splitlines()[-1])
        for rank in range(1, RANKS):
            self.assertEqual(result["seen"][str(rank)], before[str(rank)], f"rank {rank} after {attacks} attacks")
        self.assertEqual(result["mismatches"], 0)
        self.assertGreater(len(result["seen"]["0"]), 1, f"{attacks} attacks, and the segment was always whole")
        self.assertEqual(python_lib.run(READER, bus, 1, RANKS)["seen"], before, "put back, it is as it was")


if __name__ == "__main__":
    lib.main()
