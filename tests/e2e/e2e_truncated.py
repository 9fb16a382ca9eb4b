"""Goal:   whoever cuts a segment under the running aggregator ends the reading of that segment, and nothing else.
Method: the built binary reads a simulated engine; the file of one rank is cut to nothing, that of another to its half.
        What had been read of them stays, the others' numbers are what they were, and the aggregator ends as it should.
Replay: /usr/bin/python3 -B tests/e2e/e2e_truncated.py
"""

import os
import pathlib
import tempfile
import unittest

import lib

RANKS = 4


class Truncated(unittest.TestCase):
    # C-21
    def test_SegmentsCutUnderTheAggregator_CostThoseSegmentsOnly(self):
        bus = self.enterContext(lib.temporary_bus())
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        aggregator = self.enterContext(lib.Aggregator(bus))
        truth = folder / "truth.json"
        simulator = self.enterContext(
            lib.simulate(
                bus, "--speed", "max", "--linger", "--truth", truth, "--tp", RANKS, "--workload", "generated:200"
            )
        )
        lib.wait_for(truth.exists, "all is published", alive=[simulator, aggregator])
        steps = aggregator.scrape().select("rankbus_steps_total")
        self.assertEqual(len(steps), RANKS)
        workers = sorted(pathlib.Path(bus).glob("worker-*"))
        os.truncate(workers[0], 0)
        os.truncate(workers[1], workers[1].stat().st_size // 2)

        def both_noticed():
            found = aggregator.scrape()
            return found if len(found.select("rankbus_quarantined", reason="truncated")) == 2 else None

        scrape = lib.wait_for(both_noticed, "both cuts are noticed", alive=[aggregator])
        self.assertEqual(scrape.select("rankbus_steps_total"), steps, "what had been read stays")
        self.assertEqual(scrape.total("rankbus_checkpoints_mismatches_total"), 0)
        self.assertEqual(scrape.total("rankbus_ranks_reporting"), RANKS - 2)
        self.assertEqual(aggregator.stop(), 0)


if __name__ == "__main__":
    unittest.main()
