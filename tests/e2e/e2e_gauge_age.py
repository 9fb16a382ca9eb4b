"""Goal:   a gauge of a living process is shown however old, unless --gauge-ttl says otherwise; one of a dead process goes.
Method: a real Python producer that sets gauges, an info and counters once, then lives on in silence; aggregators with and
        without the limit.
Replay: ctest --test-dir build/release -R e2e_gauge_age -V
"""

import unittest

import lib
import python_lib

WRITER = """
import sys
import rankbus

class Own(rankbus.Record, name="own"):
    level = rankbus.gauge("own_level", help="Level")
    seen = rankbus.counter("own_seen_total", help="Seen")

class Told(rankbus.Record, name="told"):
    told = rankbus.info("own_told_info", help="Told")

producer = rankbus.Producer(role="other", model="m", records=[Own, Told])
own = producer.handle(Own)
own(level=7, seen=1)
producer.handle(Told)(told={"a": "b"})
print("ready", flush=True)
for line in sys.stdin:
    own(level=8, seen=1)
    print("set", flush=True)
"""


class GaugeAge(unittest.TestCase):
    def setUp(self):
        self.bus = self.enterContext(lib.temporary_bus())
        self.writer = python_lib.start(WRITER, env={"RANKBUS_BUS": self.bus}, stdin=True)
        self.addCleanup(python_lib.end, self.writer)
        self.assertEqual(self.writer.stdout.readline(), "ready\n")

    def set_again(self):
        self.writer.stdin.write("again\n")
        self.writer.stdin.flush()
        self.assertEqual(self.writer.stdout.readline(), "set\n")

    # C-34
    def test_an_old_gauge_goes_and_comes_back_while_the_rest_stays(self):
        with lib.Aggregator(self.bus, "--gauge-ttl", 1) as aggregator:
            lib.wait_for(lambda: aggregator.scrape().total("own_level") is None, "the old gauge to go")
            scrape = aggregator.scrape()
            self.assertGreaterEqual(scrape.total("rankbus_source_age_seconds"), 1, "not before its time")
            self.assertEqual(scrape.total("own_seen_total"), 1)
            self.assertEqual(scrape.total("own_told_info"), 1, "what is told once stays true")
            self.assertEqual(scrape.total("rankbus_rank_state", state="dead"), 0)

            def is_back():
                self.set_again()
                return aggregator.scrape().total("own_level") == 8

            lib.wait_for(is_back, "the gauge that was set again")

    # C-34
    def test_without_a_limit_it_stays_with_its_age_and_goes_with_its_writer(self):
        with lib.Aggregator(self.bus) as aggregator:
            old = lib.wait_for(
                lambda: (s := aggregator.scrape()).total("rankbus_source_age_seconds") > 2 and s, "it to be old"
            )
            self.assertEqual(old.total("own_level"), 7)
            python_lib.end(self.writer)
            lib.wait_for(lambda: aggregator.scrape().total("own_level") is None, "the gauge of the dead to go")
            self.assertEqual(aggregator.scrape().total("own_seen_total"), 1)

    def test_a_limit_that_is_none_is_a_bad_option(self):
        result = lib.run_rankbus("aggregate", "--bus", self.bus, "--gauge-ttl", "-1")
        self.assertEqual(result.returncode, 2)


if __name__ == "__main__":
    lib.main()
