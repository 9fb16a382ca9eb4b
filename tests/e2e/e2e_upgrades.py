"""Goal:   what Prometheus makes of the counters of an engine is right over upgrades and downgrades of its ranks, and
        over restarts of ranks, aggregator and both: increases are neither negative nor doubled.
Method: Debian's Prometheus scrapes five times a second while two Python ranks, whose record type differs from one build
        to the next, and an aggregator with a ledger are ended, killed and started in turns. In the end the samples that
        Prometheus holds, and its own functions, are compared with what the ranks recorded.
Replay: ctest --test-dir build/release -R e2e_upgrades -V
"""

import json
import pathlib
import tempfile
import unittest
import urllib.parse

import e2e_prometheus
import lib
import python_lib

# One record of any build adds 3 tokens and one wait of 2 ms; what a build has besides is its own.
RANK = """
import sys
import rankbus

build, bus, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
bounds = [0.001, 0.005, 0.02] if build == "other_buckets" else [0.001, 0.01]


class Work(rankbus.Record, name="work"):
    if build == "old":
        spare = rankbus.counter("work_spare_total", help="Gone with the upgrade")
        tokens = rankbus.counter("work_tokens_total", type="u32", unit="tokens", help="Tokens")
        waited_seconds = rankbus.distribution("work_wait_seconds", bounds=bounds, unit="seconds", help="Waits")
    else:
        waiting_seconds = rankbus.distribution(
            "work_wait_seconds", bounds=bounds, unit="seconds", help="How long work waited"
        )
        fresh = rankbus.counter("work_fresh_total", help="New with the upgrade")
        made = rankbus.counter("work_tokens_total", type="u64", unit="tokens", help="Tokens that were made")


producer = rankbus.Producer(model="m", bus=bus, role="worker", axes=[("tp", rank, 2)], records=[Work])
assert not producer.inert, producer.reason
work = producer.handle(Work)
print("open", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        if build == "old":
            work(tokens=3, waited_seconds=0.002, spare=1)
        else:
            work(made=3, waiting_seconds=0.002, fresh=1)
    print("written", flush=True)
"""


class Rank:
    def __init__(self, build, bus, rank):
        self.process = python_lib.start(RANK, build, bus, rank, stdin=True)
        self.expect("open")

    def expect(self, word):
        line = self.process.stdout.readline().strip()
        if line != word:
            raise AssertionError(f"{line!r}, expected {word!r}: {self.process.communicate()}")

    def write(self, records):
        self.process.stdin.write(f"{records}\n")
        self.process.stdin.flush()
        self.expect("written")

    def kill(self):
        python_lib.end(self.process)


def increase(samples):
    """What a counter grew by, as Prometheus counts it: a value below the last one began at 0."""
    grown = 0
    for before, now in zip(samples, samples[1:]):
        grown += now - before if now >= before else now
    return grown


@unittest.skipIf(e2e_prometheus.PROMETHEUS is None, "no prometheus server is installed")
class Upgrades(unittest.TestCase):
    def setUp(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.bus = self.enterContext(lib.temporary_bus())
        self.listen = f"127.0.0.1:{lib.free_port()}"
        self.aggregator = lib.Aggregator(self.bus, listen=self.listen)
        self.addCleanup(lambda: self.end_aggregator(kill=True))
        config = e2e_prometheus.CONFIG
        e2e_prometheus.CONFIG = config.replace("1s", "200ms")
        try:
            self.prometheus = self.enterContext(e2e_prometheus.Prometheus(folder, self.listen))
        finally:
            e2e_prometheus.CONFIG = config
        self.ranks = {}
        self.records = 0
        self.addCleanup(lambda: [rank.kill() for rank in self.ranks.values()])

    def start(self, rank, build):
        self.ranks[rank] = Rank(build, self.bus, rank)

    def write(self, rank, records):
        self.ranks[rank].write(records)
        self.records += records

    def until_seen(self, promql, value):
        """Until Prometheus has scraped that value."""
        alive = [self.prometheus] + ([self.aggregator] if self.aggregator.status() is None else [])
        try:
            lib.wait_for(lambda: self.prometheus.number(promql) == value, f"{promql} is {value}", alive=alive)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{promql} is {self.prometheus.query(promql)}") from None

    def until_all_seen(self):
        self.until_seen("work_tokens_total", 3 * self.records)

    def end_aggregator(self, kill):
        with self.aggregator:
            (self.aggregator.kill if kill else self.aggregator.stop)()

    def restart_aggregator(self, kill):
        """The next owner has the same address; Prometheus may find nobody there meanwhile."""
        self.end_aggregator(kill)
        self.aggregator = lib.Aggregator(self.bus, listen=self.listen)

    def samples(self, selector):
        """{series: values} of all that Prometheus holds of a selector, oldest first."""
        query = urllib.parse.urlencode({"query": f"{selector}[1h]"})
        _, _, body = lib.http_get(f"http://{self.prometheus.listen}/api/v1/query?{query}")
        return {
            json.dumps(result["metric"], sort_keys=True): [float(value) for _, value in result["values"]]
            for result in json.loads(body)["data"]["result"]
        }

    # C-32, C-35
    def test_RestartsOfAllKinds_IncreasesAreExactAndNothingWasEverReset(self):
        self.start(0, "old")
        self.start(1, "old")
        self.until_seen("work_tokens_total", 0)
        self.write(0, 100)
        self.write(1, 50)
        self.until_all_seen()
        # One rank is upgraded; the other goes on.
        self.ranks.pop(1).kill()
        self.start(1, "new")
        self.write(1, 20)
        self.until_all_seen()
        self.restart_aggregator(kill=True)
        self.write(0, 10)
        self.until_all_seen()
        # Both at once, and records that nobody saw while there was no reader.
        self.end_aggregator(kill=True)
        self.write(0, 1000)
        self.ranks.pop(0).kill()
        self.start(0, "new")
        self.write(0, 1)
        self.aggregator = lib.Aggregator(self.bus, listen=self.listen)
        self.until_all_seen()
        self.restart_aggregator(kill=False)
        self.until_all_seen()
        # Back again, with the reader down for a while too.
        self.ranks.pop(1).kill()
        self.restart_aggregator(kill=True)
        self.start(1, "old")
        self.write(1, 7)
        self.until_all_seen()
        self.until_seen("work_wait_seconds_count", self.records)

        for metric in ("work_tokens_total", "work_wait_seconds_count", "work_wait_seconds_bucket", "rankbus_records_total"):
            with self.subTest(metric):
                self.assertEqual(set(self.prometheus.query(f"resets({metric}[1h])").values()), {0.0})
        (tokens,) = self.samples("work_tokens_total").values()
        self.assertEqual(tokens[0], 0)
        self.assertEqual(increase(tokens), 3 * self.records)
        self.assertGreaterEqual(min(self.prometheus.query("rate(work_tokens_total[1h])").values()), 0)
        spare = 100 + 50 + 10 + 1000 + 7
        (shown,) = self.samples("work_spare_total").values()
        self.assertEqual(increase(shown), spare, "of the build that has it")
        self.assertEqual(self.prometheus.number("sum(rankbus_checkpoints_mismatches_total)"), 0)

    # C-35
    def test_BucketsThatChange_AreCountedOnce(self):
        self.start(0, "new")
        self.until_seen("work_wait_seconds_count", 0)
        self.write(0, 100)
        self.until_seen("work_wait_seconds_count", 100)
        self.start(1, "other_buckets")
        self.write(1, 30)
        self.until_all_seen()
        self.until_seen("rankbus_refused_fields", 1)
        self.assertEqual(self.prometheus.number("work_wait_seconds_count"), 100)
        self.restart_aggregator(kill=True)
        self.until_seen("rankbus_refused_fields", 1)
        self.ranks.pop(0).kill()
        self.until_seen("work_wait_seconds_count", 30)
        self.start(0, "other_buckets")
        self.write(0, 5)
        self.until_all_seen()
        self.until_seen("work_wait_seconds_count", 35)
        (count,) = self.samples("work_wait_seconds_count").values()
        self.assertEqual(increase(count), 135, count)
        self.assertEqual(self.prometheus.number("resets(work_wait_seconds_count[1h])"), 1)
        self.assertEqual(set(self.prometheus.query("resets(work_tokens_total[1h])").values()), {0.0})
        self.assertIn("no process with the former ones lives", self.aggregator.stderr())


if __name__ == "__main__":
    lib.main()
