# Labels: release-only multiprocess-heavy
"""Goal:   the whole conversation trace, served one request at a time in a KV cache without limit, hits what brute
        force over the file says, under either rule of what counts as a hit.
Method: `rankbus simulate --max-num-seqs 1`, which takes more than four million steps, under a running aggregator.
Replay: ctest --test-dir build/release -R e2e_block_rules_trace -V
"""

import json
import pathlib
import tempfile
import unittest

import compare_truth
import lib

PROMPT_TOKENS = 144_793_823
VLLM_HIT_TOKENS = 54_063_104
TRACE_HIT_BLOCKS = 105_710


@unittest.skipIf(lib.TRACE is None, lib.NO_TRACE)
class WholeTraceOneAtATime(unittest.TestCase):
    def serve(self, rule):
        with lib.temporary_bus() as bus, tempfile.TemporaryDirectory() as folder:
            truth = pathlib.Path(folder) / "truth.json"
            with (
                lib.Aggregator(bus) as aggregator,
                lib.simulate(
                    *(bus, "--trace", lib.TRACE, "--truth", truth, "--linger", "--speed", "max"),
                    *("--tp", 1, "--max-num-seqs", 1, "--kv-blocks", 0, "--block-rule", rule),
                ) as simulator,
            ):
                lib.wait_for(truth.exists, "all is published", 1200, [aggregator, simulator])
                scrape = aggregator.scrape()
                comparison = compare_truth.compare(json.loads(truth.read_text()), scrape.samples)
        self.assertTrue(comparison.equal(), "\n".join([comparison.summary(), *comparison.differences[:20]]))
        self.assertEqual(scrape.value("vllm:prefix_cache_queries_total"), PROMPT_TOKENS)
        return scrape

    def test_VllmRule_HitsFullBlocksAndComputesOneToken(self):
        self.assertEqual(self.serve("vllm").value("vllm:prefix_cache_hits_total"), VLLM_HIT_TOKENS)

    def test_TraceRule_HitsPartialLastBlocksToo(self):
        self.assertEqual(self.serve("trace").value("rankbus_simulated_prefix_hit_blocks_total"), TRACE_HIT_BLOCKS)


if __name__ == "__main__":
    lib.main()
