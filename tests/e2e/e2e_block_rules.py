"""Goal:   the simulator's two rules of what counts as a prefix hit are the documented ones, up to /metrics.
Method: prompts served one after another in a KV cache without limit, so that hits can be told by brute force from
        the blocks seen so far; among them prompts that are exact multiples of a block and fully cached, on which the
        rules differ. The whole trace is in e2e_block_rules_trace.py.
Replay: ctest --test-dir build/release -R e2e_block_rules -V
"""

import dataclasses
import itertools
import json
import pathlib
import random
import tempfile
import unittest

import lib

BLOCK_TOKENS = 512
SEED = 20240901


@dataclasses.dataclass
class Request:
    tokens: int
    blocks: tuple[int, ...]  # Identities of the started blocks; equal up to here means equal content.


@dataclasses.dataclass
class Hits:
    queries: int = 0
    tokens: int = 0
    blocks: int = 0


def expected_hits(requests, rule):
    """What is found of each prompt when all before it were served and nothing was ever evicted."""
    hits, seen = Hits(), set()
    for request in requests:
        hits.queries += request.tokens
        # vLLM computes at least the last prompt token, and shares full blocks only.
        most = (request.tokens - 1) // BLOCK_TOKENS if rule == "vllm" else len(request.blocks)
        prefixes = list(itertools.accumulate(((block,) for block in request.blocks)))
        found = 0
        while found < most and prefixes[found] in seen:
            found += 1
        hits.blocks += found
        hits.tokens += min(found * BLOCK_TOKENS, request.tokens - 1)
        full = request.tokens // BLOCK_TOKENS if rule == "vllm" else len(request.blocks)
        seen.update(prefixes[:full])
    return hits


def write_trace(path, requests):
    """One request an hour: each is finished long before the next one comes."""
    lines = [
        json.dumps(
            {
                "timestamp": number * 3_600_000,
                "input_length": request.tokens,
                "output_length": 2,
                "hash_ids": list(request.blocks),
            }
        )
        for number, request in enumerate(requests)
    ]
    path.write_text("\n".join(lines) + "\n")


def random_requests(count, seed):
    """Prompts that share beginnings; half of them end with their last block."""
    chooser = random.Random(seed)
    requests = []
    for _ in range(count):
        length = chooser.randint(1, 6)
        blocks = tuple(chooser.randint(0, 1) * 10 + place for place in range(length))
        rest = BLOCK_TOKENS if chooser.random() < 0.5 else chooser.randint(1, BLOCK_TOKENS - 1)
        requests.append(Request((length - 1) * BLOCK_TOKENS + rest, blocks))
    return requests


class BlockRules(unittest.TestCase):
    def serve(self, requests, rule):
        """Replays the requests one at a time; returns the engine's hits as /metrics shows them."""
        with lib.temporary_bus() as bus, tempfile.TemporaryDirectory() as folder:
            trace, truth = pathlib.Path(folder) / "trace.jsonl", pathlib.Path(folder) / "truth.json"
            write_trace(trace, requests)
            with (
                lib.Aggregator(bus) as aggregator,
                lib.simulate(
                    *(bus, "--trace", trace, "--truth", truth, "--linger", "--speed", "max"),
                    *("--tp", 1, "--max-num-seqs", 1, "--kv-blocks", 0, "--block-rule", rule),
                ) as simulator,
            ):
                lib.wait_for(truth.exists, "all is published", alive=[aggregator, simulator])
                scrape = aggregator.scrape()
        return Hits(
            queries=scrape.value("vllm:prefix_cache_queries_total"),
            tokens=scrape.value("vllm:prefix_cache_hits_total"),
            blocks=scrape.value("rankbus_simulated_prefix_hit_blocks_total"),
        )

    def test_PromptOfWholeBlocksFullyCached_VllmRuleComputesTheLastBlockAgain(self):
        four_blocks = Request(4 * BLOCK_TOKENS, (1, 2, 3, 4))
        self.assertEqual(
            self.serve([four_blocks, four_blocks], "vllm"),
            Hits(queries=8 * BLOCK_TOKENS, tokens=3 * BLOCK_TOKENS, blocks=3),
        )

    def test_PromptOfWholeBlocksFullyCached_TraceRuleFindsEveryBlock(self):
        # One token is computed under either rule, or there would be nothing to sample from.
        four_blocks = Request(4 * BLOCK_TOKENS, (1, 2, 3, 4))
        self.assertEqual(
            self.serve([four_blocks, four_blocks], "trace"),
            Hits(queries=8 * BLOCK_TOKENS, tokens=4 * BLOCK_TOKENS - 1, blocks=4),
        )

    def test_PartialLastBlock_CountsUnderTheTraceRuleOnly(self):
        partial = Request(2 * BLOCK_TOKENS + 100, (1, 2, 3))
        self.assertEqual(self.serve([partial, partial], "vllm").blocks, 2)
        self.assertEqual(self.serve([partial, partial], "trace").blocks, 3)

    def test_RandomPrompts_EitherRuleEqualsBruteForce(self):
        requests = random_requests(400, SEED)
        for rule in ("vllm", "trace"):
            with self.subTest(rule=rule, seed=SEED):
                self.assertEqual(self.serve(requests, rule), expected_hits(requests, rule))
        self.assertNotEqual(expected_hits(requests, "vllm"), expected_hits(requests, "trace"))


if __name__ == "__main__":
    lib.main()
