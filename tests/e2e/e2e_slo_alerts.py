"""Goal:   goodput counts the requests that met the configured limits; alerts reach /metrics and the log, once each.
Method: recorded calls replayed into a real aggregator with limits and rules; the requests judged again here.
"""

import json
import os
import pathlib
import random
import tempfile
import unittest

import lib
from calls import write_calls

SEED = int(os.environ.get("RANKBUS_SEED", random.randrange(1 << 30)))
TTFT, INTER_TOKEN, END_TO_END = 2.0, 0.05, 500.0


class SloAndAlerts(unittest.TestCase):
    def replayed(self, *arguments, calls=80):
        """Replays calls under an aggregator with these arguments; returns (calls, scrape, aggregator)."""
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            file, truth, bus = (pathlib.Path(folder) / name for name in ("calls", "truth", "bus"))
            write_calls(file, seed=SEED, calls=calls, engines=2, features=[])
            with lib.Aggregator(bus, "--log-interval", "600", *arguments) as aggregate:
                with lib.Process(
                    "replay", file, "--bus", bus, "--speed", "max", "--truth", truth, "--linger"
                ) as replay:
                    lib.wait_for(truth.exists, "all calls are written", alive=[replay, aggregate])
                    scrape = aggregate.scrape()
            return [json.loads(line) for line in file.read_text().splitlines()[1:]], scrape, aggregate

    def test_Goodput_CountsTheRequestsThatMetEveryLimit(self):
        print(f"RANKBUS_SEED={SEED}")
        limits = ["--slo-ttft", TTFT, "--slo-inter-token", INTER_TOKEN, "--slo-end-to-end", END_TO_END]
        calls, scrape, _ = self.replayed(*limits)
        self.assertEqual(scrape.total("rankbus_samples_lost_total"), 0)
        for engine in (0, 1):
            requests = [
                request
                for call in calls
                if call.get("engine", 0) == engine and call.get("iteration")
                for request in call["iteration"]["finished_requests"]
            ]
            late = [r["queued_time"] + r["prefill_time"] > TTFT for r in requests]
            slow = [r["mean_time_per_output_token"] > INTER_TOKEN for r in requests]
            long = [r["e2e_latency"] > END_TO_END for r in requests]
            failed = [r["finish_reason"] in ("abort", "error") for r in requests]
            missed = sum(map(any, zip(late, slow, long, failed)))
            self.assertGreater(missed, 0)
            for limit, those in [("ttft_estimate", late), ("inter_token", slow), ("end_to_end", long), ("failed", failed)]:
                self.assertEqual(scrape.value("rankbus_slo_missed_total", engine=str(engine), limit=limit), sum(those))
            found = {
                result: scrape.value("rankbus_slo_requests_total", engine=str(engine), result=result)
                for result in ("met", "missed")
            }
            self.assertEqual(found, {"met": len(requests) - missed, "missed": missed})
        self.assertEqual(scrape.value("rankbus_slo_limit_seconds", limit="ttft"), TTFT)

    def test_WithoutLimits_NothingIsJudged(self):
        _, scrape, _ = self.replayed()
        self.assertEqual([s for s in scrape.samples if s.name.startswith("rankbus_slo")], [])

    def test_Alerts_ReachMetricsAndTheLogOnce(self):
        _, scrape, aggregate = self.replayed(
            "--alert", 'busy critical vllm:num_requests_running{engine="1"} >= 0',
            "--alert", "never vllm:num_requests_running < 0",
        )  # fmt: skip
        (alert,) = (dict(series.labels) for series in scrape.samples if series.name == "rankbus_alert")
        self.assertEqual((alert["name"], alert["level"], alert["engine"]), ("busy", "critical", "1"))
        log = aggregate.stderr()
        self.assertEqual(log.count("Alert busy: vllm:num_requests_running{"), 1, log)
        self.assertEqual(log.count("Alert busy is over after"), 1, log)
        self.assertNotIn("never", log)

    def test_RuleThatCannotBeRead_IsRefusedWithTheGrammar(self):
        result = lib.run_rankbus("aggregate", "--bus", "/dev/shm/rankbus-test-none", "--alert", "full usage")
        self.assertEqual(result.returncode, 2)
        self.assertIn('--alert "full usage": there is no comparison; expected NAME', result.stderr)


if __name__ == "__main__":
    lib.main()
