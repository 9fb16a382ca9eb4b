"""Goal:   every rank of an engine is visible: its steps, its own phases, its place, and which rank stopped stepping.
Method: worker processes made as vLLM's executor makes them (by spawn and by fork, with the plug-ins loaded within),
        step a stand-in model; an aggregator's /metrics is compared with what the executor asked for.
Replay: ctest --test-dir build/release -R e2e_vllm_ranks -V
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import lib

HERE = pathlib.Path(__file__).resolve().parents[1] / "vllm_generations"
sys.path.insert(0, str(HERE))

import drivers  # noqa: E402

TP = 2
STEPS = 50
DUMMIES = 3
PADDED = 3


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class VllmRanks(unittest.TestCase):
    @contextlib.contextmanager
    def executor(self, bus, generation, method, kind):
        """Runs executor.py, which lives until its input ends; yields what it has printed on one line."""
        with drivers.installed_plugins() as plugins, tempfile.TemporaryFile() as log:
            plan = {"method": method, "tp": TP, "engines": [0, 1], "steps": STEPS, "dummies": DUMMIES, "kind": kind}
            child = subprocess.Popen(
                [sys.executable, "-B", str(HERE / "executor.py"), json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=drivers.environment(plugins, bus, generation),
                text=True,
                start_new_session=True,
                preexec_fn=lib.die_with_parent,
            )
            with child.stdout, contextlib.ExitStack() as stack:
                stack.callback(child.wait, lib.LIMIT_S)
                stack.callback(child.stdin.close)
                line = child.stdout.readline()
                if not line:
                    log.seek(0)
                    self.fail(log.read().decode(errors="replace"))
                yield json.loads(line)

    def test_EveryRankOfEveryEngine_HasItsStepsPhasesAndPlace(self):
        for generation, method, kind in (
            ("current", "spawn", "SplitWorker"),
            ("current", "fork", "SplitWorker"),
            ("0.8", "spawn", "FakeWorker"),
        ):
            with (
                self.subTest(generation=generation, method=method),
                lib.temporary_bus() as bus,
                lib.Aggregator(bus) as aggregator,
                self.executor(bus, generation, method, kind) as done,
            ):
                self.assertEqual(done["outputs"], STEPS * TP * 2)
                scrape = aggregator.scrape()
                for engine in "01":
                    for rank in "01":
                        labels = {"engine": engine, "rank": rank, "model_name": "fake-7b"}
                        self.assertEqual(scrape.value("rankbus_steps_total", **labels), STEPS + DUMMIES)
                        self.assertEqual(scrape.value("rankbus_dummy_steps_total", **labels), DUMMIES)
                        self.assertEqual(scrape.value("rankbus_padded_tokens_total", **labels), PADDED * STEPS)
                        for phase in ("prepare", "forward", *(["sample"] if kind == "SplitWorker" else [])):
                            busy = scrape.value("rankbus_rank_busy_seconds_total", phase=phase, **labels)
                            self.assertGreater(busy, 0, phase)
                        # One of each: no step is told twice.
                        info, = (dict(s.labels) for s in scrape.select("rankbus_rank_info", **labels, role="worker"))
                        place = {"tp_rank": rank, "tp_size": str(TP), "pp_rank": "0", "pp_size": "1", "gpu": "fake:0"}
                        self.assertEqual({name: info[name] for name in place}, place)
                    for name in ("rankbus_ranks_expected", "rankbus_ranks_reporting"):
                        self.assertEqual(scrape.value(name, engine=engine), TP)
                self.assertEqual({s for s in scrape.samples if "server" in dict(s.labels)}, set())


if __name__ == "__main__":
    lib.main()
