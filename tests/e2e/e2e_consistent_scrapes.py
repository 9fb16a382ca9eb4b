"""Goal:   however fast records come, each scrape is consistent in itself: in every histogram the buckets only grow and end
        at the count, and nothing goes back from one scrape to the next.
Method: an engine simulated at full speed, scraped without pause by two clients while it runs; every histogram of every
        answer is added up.
Replay: /usr/bin/python3 -B tests/e2e/e2e_consistent_scrapes.py
"""

import concurrent.futures
import math
import pathlib
import tempfile
import unittest

import lib


def without(labels, name):
    return frozenset(label for label in labels if label[0] != name)


class ConsistentScrapes(unittest.TestCase):
    def check_histograms(self, scrape):
        """Returns how many there were."""
        buckets = {}
        for series, value in scrape.samples.items():
            if series.name.endswith("_bucket"):
                bound = float(dict(series.labels)["le"])
                key = (series.name.removesuffix("_bucket"), without(series.labels, "le"))
                buckets.setdefault(key, []).append((bound, value))
        for (name, labels), found in buckets.items():
            counts = [count for _, count in sorted(found)]
            self.assertEqual(counts, sorted(counts), f"{name} {labels}")
            self.assertEqual(max(found)[0], math.inf)
            self.assertEqual(counts[-1], scrape.samples[lib.Series(name + "_count", labels)], f"{name} {labels}")
        return len(buckets)

    def scrape_until(self, aggregator, is_over):
        last, histograms, scrapes = {}, 0, 0
        while not is_over():
            scrape = aggregator.scrape()
            histograms += self.check_histograms(scrape)
            scrapes += 1
            for series, value in scrape.samples.items():
                if series.name.endswith(("_total", "_bucket", "_count")):
                    self.assertGreaterEqual(value, last.get(series, 0), lib.show_series(series))
                    last[series] = value
        return scrapes, histograms

    # C-30
    def test_BucketsOfEveryScrape_AddUpToTheirCount(self):
        bus = self.enterContext(lib.temporary_bus())
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        truth = folder / "truth.json"
        aggregator = self.enterContext(lib.Aggregator(bus))
        arguments = ("--speed", "max", "--linger", "--truth", truth, "--tp", 2, "--workload", "generated:20000")
        simulator = self.enterContext(lib.simulate(bus, *arguments))
        with concurrent.futures.ThreadPoolExecutor(2) as clients:
            runs = [clients.submit(self.scrape_until, aggregator, truth.exists) for _ in range(2)]
            lib.wait_for(truth.exists, "all is published", alive=[simulator, aggregator])
        found = [run.result() for run in runs]
        print(f"(scrapes, histograms) of each client: {found}")
        self.assertTrue(all(scrapes and histograms for scrapes, histograms in found), found)
        scrape = aggregator.scrape()
        self.assertEqual(scrape.total("rankbus_checkpoints_mismatches_total"), 0)
        for series, steps in scrape.select("rankbus_steps_total").items():
            rank = dict(series.labels)["rank"]
            self.assertEqual(scrape.value("rankbus_records_total", stream="worker_step", rank=rank), steps, rank)


if __name__ == "__main__":
    lib.main()
