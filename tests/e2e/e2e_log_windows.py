"""Goal:   hit rates in the log are vLLM's: of the engine's present life, and over all engines of a server one window of
        the latest 1,000 requests, which a reset by any engine clears; two models under one name are two servers.
Method: real Python producers, a real aggregator, the last lines of its log.
"""

import re
import tempfile
import unittest

import lib
import python_lib

WRITER = """
import sys
import rankbus

bus, model, engine, *steps = sys.argv[1:]
producer = rankbus.Producer(bus=bus, role="scheduler", model=model, engine=int(engine))
front_end = rankbus.Producer(bus=bus, role="frontend", model=model, engine=int(engine))
step = producer.handle("scheduler_step")
for text in steps:
    requests, queries, hits, reset = map(int, text.split(","))
    step(prefix_cache_requests=requests, prefix_cache_queries=queries, prefix_cache_hits=hits, prefix_cache_reset=reset)
front_end.handle("iteration_stats")(num_generation_tokens=500)
print("written", flush=True)
sys.stdin.read()
"""


class LogWindows(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.bus = folder.name

    def write(self, model, engine, *steps, env=None):
        writer = python_lib.start(WRITER, self.bus, model, engine, *steps, env=env, stdin=True)
        self.addCleanup(self.end, writer)
        self.assertEqual(writer.stdout.readline().strip(), "written")
        return writer

    @staticmethod
    def end(writer):
        if writer.poll() is None:
            writer.communicate()  # Its input ends, and so does it.

    def aggregate(self):
        return lib.Aggregator(self.bus, "--log-interval", "600", "--log-level", "debug")

    def hit_rates(self, aggregate):
        aggregate.stop()  # Its last lines cover the whole interval.
        return dict(re.findall(r"\] (.*?): Avg prompt .*Prefix cache hit rate: ([\d.]+)%", aggregate.stderr()))

    def test_EnginesOfAServer_ShareOneWindow(self):
        with self.aggregate() as aggregate:
            self.write("m", 0, "600,600,600,0")
            aggregate.scrape()
            self.write("m", 1, "600,600,0,0")
            aggregate.scrape()
            rates = self.hit_rates(aggregate)
        # 1,200 requests are more than the window; the older update left as a whole.
        self.assertEqual(rates, {"Engine 000": "100.0", "Engine 001": "0.0", "2 Engines Aggregated": "0.0"})

    def test_ResetByOneEngine_ClearsTheSharedWindow(self):
        with self.aggregate() as aggregate:
            self.write("m", 0, "10,100,100,0")
            aggregate.scrape()
            self.write("m", 1, "10,100,0,1")
            aggregate.scrape()
            self.assertEqual(self.hit_rates(aggregate)["2 Engines Aggregated"], "0.0")

    def test_EngineThatBeginsAgain_HasAWindowOfItsOwn(self):
        with self.aggregate() as aggregate:
            first = self.write("m", 0, "10,100,96,0")
            aggregate.scrape()
            self.end(first)
            lib.wait_for(lambda: not aggregate.scrape().select("vllm:num_requests_running"), "it is gone", alive=[aggregate])
            self.write("m", 0, "10,100,5,0")
            aggregate.scrape()
            self.assertEqual(self.hit_rates(aggregate), {"Engine 000": "5.0"})

    def test_TwoModelsUnderOneName_AreTwoServers(self):
        with self.aggregate() as aggregate:
            for model, hits in (("chat", 25), ("embed", 50)):
                self.write(model, 0, f"10,100,{hits},0", env={"RANKBUS_SERVER": "pod"})
            aggregate.scrape()
            rates = self.hit_rates(aggregate)
        self.assertEqual(
            rates, {"Server pod (pod model chat): Engine 000": "25.0", "Server pod (pod model embed): Engine 000": "50.0"}
        )


if __name__ == "__main__":
    lib.main()
