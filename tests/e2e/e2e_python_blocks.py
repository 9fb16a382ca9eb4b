"""Goal:   KV blocks told from Python are followed as those told from C++: the same sample, the same lives.
Method: the aggregator leaves out every id that its own rule does not follow, so a differing rule would show.
Replay: ctest --test-dir build/release -R e2e_python_blocks -V
"""

import json
import unittest

import lib
import python_lib  # noqa: F401  Before rankbus: it says where that is.
import rankbus

RATE = 0.1
BLOCKS = [block * 0x9E3779B1 & (1 << 64) - 1 for block in range(5000)] + [0, 1, (1 << 64) - 1]


class Blocks(unittest.TestCase):
    def test_Sample_IsTheAggregators(self):
        followed = rankbus.sampled(BLOCKS, RATE)
        self.assertTrue(300 < len(followed) < 700, len(followed))
        self.assertEqual(rankbus.sampled(BLOCKS, 1.0), BLOCKS)
        with lib.temporary_bus() as bus, lib.Aggregator(bus) as aggregator:
            with rankbus.Producer(role="scheduler", model="m", bus=bus, records=["kv_block_operations"]) as producer:
                handle = producer.handle("kv_block_operations")
                handle(operation="allocate", num_blocks=len(BLOCKS), sample_rate=RATE, block_ids=followed)
                # Ids that are not of the sample are not followed, whoever sends them.
                handle(operation="allocate", num_blocks=3, sample_rate=RATE, block_ids=BLOCKS[:100])
                gone = followed[: len(followed) // 2]
                handle(operation="evict", reason="capacity", num_blocks=len(gone), sample_rate=RATE, block_ids=gone)
                self.assertEqual(producer.errors, 0, producer.last_error)
                aggregator.scrape()
                blocks = json.loads(lib.http_get(aggregator.url("/api/v1/analysis"))[2])["engines"][0]["kv_blocks"]
        again = sum(block in followed for block in BLOCKS[:100])
        self.assertEqual(blocks["sample"]["reallocated_blocks"], again)
        self.assertEqual(blocks["summary"]["total_evictions"], len(gone))
        self.assertEqual(blocks["summary"]["total_blocks_sampled"], len(followed))
        self.assertEqual(blocks["counters"]["total_allocations"], len(BLOCKS) + 3)
        self.assertEqual(blocks["counters"]["total_evictions"], len(gone))


if __name__ == "__main__":
    lib.main()
