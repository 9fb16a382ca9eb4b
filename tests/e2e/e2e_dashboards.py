# Labels: multiprocess-heavy
"""Goal:   the dashboards that vLLM's users have show the right numbers, unchanged, in front of rankbus.
Method: Debian's Prometheus scrapes an aggregator from before the first record to after the last of a simulated run
        that stops with requests in its engines. Every expression of vLLM's example dashboards
        (dashboard_expressions.json) is evaluated at the last scrape, over a window that holds the whole run.
        A second Prometheus evaluates the same expressions over what the simulator counted without the bus: zeros
        at every scrape but the last, the truth file's values at the last.
Replay: ctest --test-dir build/release -R e2e_dashboards -V
"""

import contextlib
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import unittest
import urllib.parse

import e2e_prometheus
import lib

EXPRESSIONS = pathlib.Path(__file__).resolve().with_name("dashboard_expressions.json")
DASHBOARDS = json.loads(EXPRESSIONS.read_text())["dashboards"]
MODEL = "simulated-70b"
# What Grafana puts in: the windows hold the whole run, the chosen model is the only one.
VARIABLES = {
    **{"$__rate_interval": "1h", "$__range": "1h", "$model_name": MODEL, "$Deployment_id": MODEL},
    **{"$job": "rankbus", "$instance": ".*"},
}
TOLERANCE = 1e-6

# Few sequences at a time make requests wait, and a pool makes usage a number. The clock is held back, so that some
# scrapes fall into the run.
RUN = (
    *("--model", MODEL, "--engines", 2, "--tp", 2, "--workload", "generated:200", "--kv-blocks", 200),
    *("--max-num-seqs", 3, "--clock", "virtual", "--speed", 10, "--until", 40),
)


def _find_dashboards():
    """RANKBUS_DASHBOARDS, else the place beside a checkout."""
    given = os.environ.get("RANKBUS_DASHBOARDS")
    if given:
        return pathlib.Path(given)
    beside = lib.ROOT.parent / "shared/reference/vllm-dashboards"
    return beside if beside.exists() else None


def all_panels():
    """(where, expressions) of each panel of each dashboard."""
    for dashboard in DASHBOARDS:
        for panel in dashboard["panels"]:
            yield f"{dashboard['file']}, panel {panel['title']!r}", panel["expressions"]


def fill_in(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    if "$" in expression:
        raise AssertionError(f"a variable without a value in {expression!r}")
    return expression


def openmetrics(truth, scrapes):
    """The truth as a history: 0 at each of these times but the last, the expected value at the last."""
    lines = []
    for kind in ("counters", "sums", "gauges"):
        for text, value in truth[kind].items():
            series = text.replace("{", '{instance="truth",job="rankbus",', 1)
            for scrape in scrapes:
                lines.append(f"{series} {value if scrape == scrapes[-1] else 0} {scrape:.3f}")
    return "\n".join([*lines, "# EOF", ""])


class Server(e2e_prometheus.Prometheus):
    """A Prometheus server with what a dashboard needs besides queries."""

    def get(self, path, **parameters):
        _, _, body = lib.http_get(f"http://{self.listen}{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        if answer["status"] != "success":
            raise AssertionError(f"{path} {parameters}: {answer}")
        return answer["data"]

    def label_values(self, definition):
        """The template-variable query label_values(label) or label_values(metric, label), as Grafana asks it."""
        metric, label = re.fullmatch(r"label_values\((?:([\w:]+),\s*)?(\w+)\)", definition).groups()
        return self.get(f"/api/v1/label/{label}/values", **({"match[]": metric} if metric else {}))

    def scrape_times(self):
        """When it scraped its target, as far as the scrapes succeeded."""
        (up,) = self.get("/api/v1/query", query="up[1h]")["result"]
        return [float(time) for time, value in up["values"] if value == "1"]


class Expressions(unittest.TestCase):
    @unittest.skipIf(
        _find_dashboards() is None,
        "no dashboards: neither RANKBUS_DASHBOARDS nor ../shared/reference/vllm-dashboards",
    )
    def test_TheList_IsWhatTheDashboardsAsk(self):
        for listed in DASHBOARDS:
            if "excerpt" in listed:
                continue
            dashboard = json.loads((_find_dashboards() / listed["file"]).read_text())
            panels = [panel for panel in dashboard["panels"] if panel.get("targets")]
            self.assertEqual(
                [(panel["title"], [target["expr"] for target in panel["targets"]]) for panel in panels],
                [(panel["title"], panel["expressions"]) for panel in listed["panels"]],
            )


@unittest.skipIf(e2e_prometheus.PROMETHEUS is None, "no prometheus server is installed")
@unittest.skipIf(e2e_prometheus.PROMTOOL is None, "no promtool is installed")
class Dashboards(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cleanup = contextlib.ExitStack()
        cls.addClassCleanup(cleanup.close)
        folder = pathlib.Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        cls.scraped = cls.record_run(cleanup, folder / "ours")
        truth = json.loads((folder / "ours/truth.json").read_text())
        cls.expected = cls.load_truth(cleanup, folder / "truth", truth)

    @classmethod
    def record_run(cls, cleanup, folder):
        """The server that watched a run from before its beginning; sets the times of its scrapes."""
        folder.mkdir()
        bus = cleanup.enter_context(lib.temporary_bus())
        aggregator = cleanup.enter_context(lib.Aggregator(bus))
        truth = folder / "truth.json"
        simulator = cleanup.enter_context(lib.simulate(bus, *RUN, "--hold", "--linger", "--truth", truth))
        prometheus = cleanup.enter_context(Server(folder, aggregator.listen))
        alive = [aggregator, simulator, prometheus]
        started = "sum(vllm:generation_tokens_total)"
        lib.wait_for(lambda: prometheus.number(started) == 0, "a scrape before the first record", alive=alive)
        simulator.send(signal.SIGUSR1)
        lib.wait_for(truth.exists, "the run is over", alive=alive)
        total = sum(v for s, v in aggregator.scrape().samples.items() if s.name == "vllm:generation_tokens_total")
        lib.wait_for(lambda: prometheus.number(started) == total, "a scrape after the last record", alive=alive)
        cls.scrapes = prometheus.scrape_times()
        return prometheus

    @classmethod
    def load_truth(cls, cleanup, folder, truth):
        """A server whose history is the truth. What it scrapes itself is later than every query."""
        folder.mkdir()
        (folder / "truth.om").write_text(openmetrics(truth, cls.scrapes))
        subprocess.run(
            [
                *(e2e_prometheus.PROMTOOL, "tsdb", "create-blocks-from", "openmetrics"),
                *(folder / "truth.om", folder / "data"),
            ],
            check=True,
            capture_output=True,
            timeout=lib.LIMIT_S,
        )
        nobody = f"127.0.0.1:{lib.free_port()}"
        return cleanup.enter_context(Server(folder, nobody))

    def evaluate(self, server, expression):
        return server.query(fill_in(expression), at=self.scrapes[-1])

    def test_EveryExpression_GivesTheNumbersOfTheTruth(self):
        for where, expressions in all_panels():
            for expression in expressions:
                with self.subTest(where=where, expression=expression):
                    ours = self.evaluate(self.scraped, expression)
                    truth = self.evaluate(self.expected, expression)
                    self.assertTrue(truth, "no result from the truth")
                    self.assertEqual(self.shown(ours), self.shown(truth))
                    for series, expected in truth.items():
                        self.assertTrue(math.isfinite(ours[series]), f"{lib.show_series(series)}: {ours[series]}")
                        self.assertTrue(
                            math.isclose(ours[series], expected, rel_tol=TOLERANCE),
                            f"{lib.show_series(series)}: {ours[series]!r}, expected {expected!r}",
                        )

    def test_EveryPanel_HasSomethingToShow(self):
        for where, expressions in all_panels():
            with self.subTest(where=where):
                values = [v for expression in expressions for v in self.evaluate(self.scraped, expression).values()]
                self.assertTrue(any(values), f"{len(values)} values, all 0")

    def test_TemplateVariables_OfferTheModel(self):
        definitions = [definition for dashboard in DASHBOARDS for definition in dashboard["variables"]]
        self.assertEqual(len(definitions), 3)
        for definition in definitions:
            with self.subTest(definition=definition):
                self.assertEqual(self.scraped.label_values(definition), [MODEL])

    def test_RequestsLeftRunning_AreSeenRunningAndWaiting(self):
        for name in ("running", "waiting"):
            total = f"sum(vllm:num_requests_{name})"
            values = list(self.evaluate(self.scraped, total).values())
            self.assertEqual(values, list(self.evaluate(self.expected, total).values()))
            self.assertGreater(values[0], 0)

    @staticmethod
    def shown(vector):
        return sorted(map(lib.show_series, vector))


if __name__ == "__main__":
    lib.main()
