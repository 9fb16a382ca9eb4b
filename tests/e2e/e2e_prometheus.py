"""Goal:   a real Prometheus server reads everything that the aggregator exposes, and reads it right.
Method: Debian's Prometheus scrapes an aggregator, every second, while the simulator runs on the real clock,
        with a model and a server whose names need every kind of escaping. The simulator is stopped once Prometheus
        can compute a quantile of a rate; after one more scrape its HTTP API is compared with a scrape of our own,
        read by the Python client. promtool's complaints are compared with the list of those that are vLLM's doing.
Replay: ctest --test-dir build/release -R e2e_prometheus -V
"""

import contextlib
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest
import urllib.parse

import lib

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
# Each a character that some layer on the way treats as special, or cannot hold in one byte.
MODEL = 'llama "70b" \\n is no newline, \n is; {brackets}, commas, modèle 模型 🚌'
SERVER = "tail\\"
# Bytes that are no UTF-8, from a locale of another time. Prometheus refuses a whole scrape for one of them.
FOREIGN_SERVER, FOREIGN_SERVER_SHOWN = os.fsdecode(b"caf\xe9"), "caf�"

CONFIG = """\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
  - job_name: rankbus
    scrape_interval: 1s
    scrape_timeout: 1s
    static_configs:
      - targets: ["{target}"]
"""

# What promtool may say, as (family, complaint). vLLM chose these names, and dashboards know them.
COLON = "metric names should not contain ':'"
NO_COUNTER = 'non-counter metrics should not have "_total" suffix'


class Prometheus(lib.Process):
    """A Prometheus server that scrapes one target; its data lies in `folder`."""

    def __init__(self, folder, target):
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(target=target))
        self.listen = f"127.0.0.1:{lib.free_port()}"
        super().__init__(
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.listen}",
            binary=PROMETHEUS,
        )
        lib.wait_for(self.ready, "Prometheus is ready", alive=[self])

    def __str__(self):
        return f"prometheus (pid {self.pid})"

    def ready(self):
        try:
            return lib.http_status(f"http://{self.listen}/-/ready") == 200
        except OSError:
            return False

    def query(self, promql, at=None):
        """The instant vector of a query as {Series: value}, without the labels that a scrape adds."""
        parameters = {"query": promql} | ({} if at is None else {"time": f"{at:.3f}"})
        _, _, body = lib.http_get(f"http://{self.listen}/api/v1/query?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        if answer["status"] != "success":
            raise AssertionError(f"{promql}: {answer}")
        vector = {}
        for result in answer["data"]["result"]:
            labels = dict(result["metric"])
            name = labels.pop("__name__", "")
            added = {"job", "instance"} & labels.keys()
            vector[lib.Series(name, frozenset((k, v) for k, v in labels.items() if k not in added))] = float(
                result["value"][1]
            )
        return vector

    def good_scrape_after(self, begin):
        """When the last scrape was, if that is later than `begin` and it succeeded."""
        scraped = self.number("timestamp(up)") or 0
        return scraped if scraped > begin and list(self.query("up", at=scraped).values()) == [1.0] else None

    def number(self, promql):
        """The value of a query with one result; None when there is none yet."""
        values = list(self.query(promql).values())
        return values[0] if len(values) == 1 else None


def finite(value):
    return value is not None and math.isfinite(value)


@unittest.skipIf(PROMETHEUS is None, "no prometheus server is installed")
class PrometheusReadsEverything(unittest.TestCase):
    QUANTILE = (
        "histogram_quantile(0.9, sum by (le) (rate(vllm:inter_token_latency_seconds_bucket"
        '{engine="0"}[5m])))'
    )
    RATE = "sum(rate(vllm:generation_tokens_total[5m]))"

    @classmethod
    def setUpClass(cls):
        with contextlib.ExitStack() as cleanup:
            folder = pathlib.Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
            bus = cleanup.enter_context(lib.temporary_bus())
            aggregator = cleanup.enter_context(lib.Aggregator(bus))
            prometheus = cleanup.enter_context(Prometheus(folder, aggregator.listen))
            run = ("--clock", "real", "--speed", 5, "--workload", "generated:100000", "--tp", 2)
            simulators = [
                cleanup.enter_context(
                    lib.simulate(bus, *run, "--engines", 2, "--model", MODEL, "--server", SERVER)
                ),
                cleanup.enter_context(lib.simulate(bus, *run, "--server", FOREIGN_SERVER)),
            ]
            alive = [aggregator, prometheus, *simulators]
            lib.wait_for(
                lambda: finite(prometheus.number(cls.QUANTILE))
                and prometheus.number(cls.RATE) > 0
                and len(prometheus.query("vllm:num_requests_running")) == len(simulators) + 1,
                "Prometheus computes a quantile of a rate, and has seen every engine",
                alive=alive,
            )
            cls.quantile = prometheus.number(cls.QUANTILE)
            cls.rate = prometheus.number(cls.RATE)
            cls.while_running = aggregator.scrape()
            cls.gauges_while_running = prometheus.query("vllm:num_requests_running")
            cls.exit_statuses = [simulator.stop() for simulator in simulators]
            lib.wait_for(
                lambda: aggregator.scrape().total("rankbus_ranks_reporting") == 0,
                "the ranks are gone",
                alive=[aggregator],
            )
            ended = time.time()
            scraped = lib.wait_for(
                lambda: prometheus.good_scrape_after(ended), "a scrape after the end", alive=[aggregator, prometheus]
            )
            cls.ours = aggregator.scrape()
            cls.theirs = prometheus.query('{job="rankbus"}', at=scraped)

    def test_SimulatorsToldToEnd_ExitCleanly(self):
        self.assertEqual(self.exit_statuses, [0, 0])

    def test_EverySeriesThatStandsStill_HasTheNumberThatThePythonClientReads(self):
        # These grow with time or with each scrape, so two scrapes differ.
        moving = re.compile(r"process_|up$|scrape_|rankbus_source_age_seconds|rankbus_ledger_")
        ours = {
            # To Prometheus an empty label and no label are the same.
            lib.Series(series.name, frozenset((name, text) for name, text in series.labels if text)): value
            for series, value in self.ours.samples.items()
            if not moving.match(series.name)
        }
        theirs = {series: value for series, value in self.theirs.items() if not moving.match(series.name)}
        self.assertGreater(sum(series.name.startswith("vllm:") for series in ours), 500)
        self.assertEqual(self.shown(set(ours) - set(theirs)), [], "exposed, but not in Prometheus")
        self.assertEqual(self.shown(set(theirs) - set(ours)), [], "in Prometheus, but no longer exposed")
        different = [
            f"{lib.show_series(series)}: {ours[series]!r} and {theirs[series]!r}"
            for series in ours
            if ours[series] != theirs[series]
        ]
        self.assertEqual(different, [])

    def test_QuantileAndRate_AreFiniteNumbers(self):
        self.assertGreater(self.quantile, 0)
        self.assertGreater(self.rate, 0)

    # C-34
    def test_GaugesOfTheDead_AreGoneFromPrometheusAtTheNextScrape(self):
        self.assertEqual(len(self.gauges_while_running), 3)
        self.assertEqual(self.shown(s for s in self.theirs if s.name == "vllm:num_requests_running"), [])

    def test_LabelsOfEveryKindOfCharacter_ReachPrometheusUnchanged(self):
        found = {
            (dict(series.labels)["server"], dict(series.labels)["model_name"])
            for series in self.theirs
            if series.name.startswith("vllm:")
        }
        self.assertEqual(found, {(SERVER, MODEL), (FOREIGN_SERVER_SHOWN, "simulated-70b")})

    @unittest.skipIf(PROMTOOL is None, "no promtool is installed")
    # C-39
    def test_Promtool_ComplainsAboutVllmsOwnNamesOnly(self):
        checked = subprocess.run(
            [PROMTOOL, "check", "metrics"],
            input=self.while_running.text,
            capture_output=True,
            text=True,
            timeout=lib.LIMIT_S,
            check=False,
        )
        families = set(re.findall(r"^# TYPE (\S+)", self.while_running.text, re.MULTILINE))
        expected = {(family, COLON) for family in families if family.startswith("vllm:")}
        expected.add(("vllm:iteration_tokens_total", NO_COUNTER))
        self.assertGreater(len(expected), 20)
        complaints = {tuple(line.split(" ", 1)) for line in checked.stderr.splitlines()}
        self.assertEqual(complaints, expected, checked.stdout)

    @staticmethod
    def shown(series):
        return sorted(map(lib.show_series, series))


if __name__ == "__main__":
    lib.main()
