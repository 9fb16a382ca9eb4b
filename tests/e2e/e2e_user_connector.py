"""Goal:   a connector that nobody here has heard of flows from a rank to /metrics and to the log's KV Transfer line,
        without a change of the aggregator; transfers are told apart by rank, and by peer where that is asked for.
Method: real Python producers of two ranks declare a connector of their own and record NIXL transfers with peers; a real
        aggregator, its log and its /metrics.
"""

import re
import tempfile
import unittest

import lib
import python_lib

WRITER = """
import sys
import rankbus

class Tape(rankbus.Record, name="connector:tape", help="Blocks on tape"):
    rewinds = rankbus.counter("my_tape_rewinds_total", help="Rewinds of the tape, sum over ranks")
    read_seconds = rankbus.distribution("my_tape_read_seconds", bounds=[0.1, 1.0, 10.0], unit="seconds", help="Reads from tape")

rank = int(sys.argv[2])
records = [Tape, "connector:nixl"] if sys.argv[3] == "both" else [Tape]
producer = rankbus.Producer(bus=sys.argv[1], role="worker", model="m", engine=0, axes=[("tp", rank, 2)], records=records)
tape = producer.handle(Tape)
for seconds in (0.5, 1.5, 2.5, 3.5, 20.0):
    tape(rewinds=rank + 1, read_seconds=seconds)
if sys.argv[3] == "both":
    nixl = producer.handle("connector:nixl")
    for peer, size in (("10.0.0.1", 1000), ("10.0.0.2", 2000), ("10.0.0.1", 4000)):
        nixl(peer=peer, transfer_duration_seconds=0.25, post_duration_seconds=0.001, bytes_transferred=size, num_descriptors=10)
    nixl(peer="10.0.0.2", num_failed_transfers=1)
if rank == 0:  # The log speaks of engines that serve somebody.
    front_end = rankbus.Producer(bus=sys.argv[1], role="frontend", model="m", engine=0)
    front_end.handle("iteration_stats")(num_generation_tokens=5)
print("written", flush=True)
sys.stdin.read()
"""


class UserConnector(unittest.TestCase):
    def run_ranks(self, which, *arguments):
        """Writes from two ranks; returns (scrape, log)."""
        with tempfile.TemporaryDirectory(dir="/dev/shm") as bus:
            with lib.Aggregator(bus, "--log-interval", "600", *arguments) as aggregate:
                writers = [python_lib.start(WRITER, bus, rank, which, stdin=True) for rank in (0, 1)]
                try:
                    for writer in writers:
                        self.assertEqual(writer.stdout.readline().strip(), "written")
                    scrape = aggregate.scrape()
                    aggregate.stop()  # Its last line covers the whole interval.
                finally:
                    for writer in writers:
                        writer.communicate()
            return scrape, aggregate.stderr()

    # S3-08
    def test_OwnConnector_ReachesMetricsAndTheLog(self):
        scrape, log = self.run_ranks("own")
        self.assertEqual(scrape.value("my_tape_rewinds_total", engine="0"), 5 * 1 + 5 * 2)
        self.assertEqual(scrape.value("my_tape_read_seconds_count", engine="0"), 10)
        self.assertEqual(scrape.value("my_tape_read_seconds_bucket", le="1.0"), 2)
        (line,) = re.findall(r"KV Transfer metrics: (.*)", log)
        self.assertEqual(line, "rewinds=15, read_seconds_count=10, read_seconds_avg=5.6, read_seconds_p90=20.0")

    def test_TransfersOfRanks_AreToldApart_AndPeersOnRequest(self):
        scrape, log = self.run_ranks("both")
        for rank in ("0", "1"):
            self.assertEqual(scrape.value("rankbus_kv_transfer_bytes_total", rank=rank, connector="nixl"), 7000)
            self.assertEqual(scrape.value("rankbus_kv_transfers_total", rank=rank), 3)
            self.assertEqual(scrape.value("rankbus_kv_transfer_failures_total", rank=rank), 1)
            self.assertEqual(scrape.value("rankbus_kv_transfer_seconds_total", rank=rank), 0.75)
        self.assertEqual(scrape.value("vllm:nixl_bytes_transferred_sum", engine="0"), 14000)
        self.assertIn("NixlConnector={'Num successful transfers': 6, 'Avg xfer time (ms)': 250.0", log)
        self.assertIn("tape={'rewinds': 15", log)
        scrape, _ = self.run_ranks("both", "--per-peer")
        self.assertEqual(scrape.value("rankbus_kv_transfer_bytes_total", rank="1", peer="10.0.0.1"), 5000)
        self.assertEqual(scrape.value("rankbus_kv_transfer_failures_total", rank="1", peer="10.0.0.2"), 1)
        self.assertEqual(scrape.total("rankbus_kv_transfer_bytes_total", rank="1"), 7000)


if __name__ == "__main__":
    lib.main()
