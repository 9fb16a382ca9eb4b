"""What a record() call of vLLM's costs the front end: microseconds, the best of five rounds.

    PYTHONPATH=build/release/python:tests/vllm_generations /usr/bin/python3 tests/vllm_generations/cost.py
"""

import os
import tempfile
import time

ROUNDS, CALLS = 5, 4000


def measure(logger, *statistics):
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            logger.record(*statistics, mm_cache_stats=None, engine_idx=0)
        best = min(best, (time.perf_counter() - start) / CALLS)
    return best * 1e6


def main():
    import rankbus.vllm
    from vllm.config import VllmConfig
    from vllm.v1.metrics import stats as v

    logger = rankbus.vllm.StatLogger(vllm_config=VllmConfig(), engine_indexes=[0])
    scheduler = v.SchedulerStats(num_running_reqs=64, prefix_cache_stats=v.PrefixCacheStats(False, 1, 100, 50))

    def iteration(finished):
        stats = v.IterationStats(num_generation_tokens=64, inter_token_latencies_iter=[0.02] * 64)
        request = v.FinishedRequestStats(request_id="chatcmpl-" + "0" * 32, num_prompt_tokens=1000, e2e_latency=1.5)
        stats.finished_requests = [request] * finished
        return stats

    for what, statistics in (
        ("a step's scheduler statistics", (scheduler, None)),
        ("an iteration with 64 latencies", (None, iteration(0))),
        ("both", (scheduler, iteration(0))),
        ("both, and 10 finished requests", (scheduler, iteration(10))),
    ):
        print(f"{what:32} {measure(logger, *statistics):6.1f} us")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm") as bus:
        os.environ["RANKBUS_BUS"] = bus
        main()
