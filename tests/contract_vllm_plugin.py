"""Goal:   the plug-ins keep to themselves: they import nothing of vLLM that it does not, change nothing it returns or
        raises, may be registered any number of times, and are what the package says it installs.
Method: one process of the test's own with a stand-in for vLLM; where records are looked at, the producer is replaced by
        one that keeps what it is given.
Replay: /usr/bin/python3 -B tests/contract_vllm_plugin.py
"""

import os
import pathlib
import re
import subprocess
import sys
import unittest
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "vllm_generations"))

import drivers  # noqa: E402
import lib  # noqa: E402
from in_process import KeepingProducer  # noqa: E402

PYPROJECT = lib.ROOT / "producer/python/pyproject.toml"


def run_python(code, **env):
    with drivers.installed_plugins() as plugins:
        env = drivers.environment(plugins, "/proc/no-bus-here", "current", {"RANKBUS_QUIET": "1", **env})
        command = [sys.executable, "-B", "-c", code]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=lib.LIMIT_S, check=False)


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class Registration(unittest.TestCase):
    def test_Registered_ImportsNothingOfVllm(self):
        code = (
            "import sys; before = set(sys.modules); import rankbus.vllm as r; r.register(); r.register()\n"
            "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
            "print(sorted(new & {'vllm', 'torch', 'prometheus_client'}))"
        )
        self.assertEqual(run_python(code).stdout.strip(), "[]")

    def test_RegisteredManyTimes_WrapsOnce(self):
        code = (
            "import rankbus.vllm as r; r.register()\n"
            "import vllm.v1.worker.worker_base as w, vllm.v1.engine.llm_engine as e\n"
            "for _ in range(3): r.register()\n"
            "for c in (w.WorkerBase, e.LLMEngine): print(hasattr(c.__init__._rankbus, '_rankbus'))"
        )
        done = run_python(code)
        self.assertEqual(done.stdout.strip(), "False\nFalse", done.stderr)

    def test_RegisteredBeforeOrAfterTheImport_WrapsBoth(self):
        register = "import rankbus.vllm as r; r.register()"
        for order in (f"{register}; {{imports}}", f"{{imports}}; {register}"):
            imports = "import vllm.v1.worker.worker_base as w, vllm.v1.engine.llm_engine as e"
            shown = "\nprint(hasattr(w.WorkerBase.__init__, '_rankbus'), hasattr(e.LLMEngine.__init__, '_rankbus'))"
            done = run_python(order.format(imports=imports) + shown)
            self.assertEqual(done.stdout.strip(), "True True", done.stderr)

    def test_FirstProcess_MakesTheRunThatTheOthersInherit(self):
        code = "import os, rankbus.vllm as r; r.register(); print(os.environ['RANKBUS_RUN_ID'])"
        self.assertRegex(run_python(code).stdout, r"^[0-9a-f]{32}\n$")
        self.assertEqual(run_python(code, RANKBUS_RUN_ID="given").stdout, "given\n")

    # C-27
    def test_RequestIds_AreHashedUnderAKeyOfTheProcess(self):
        code = "from rankbus.vllm.mapping import hash_request_id as h; print(h('a'), h('a'), h('b'), h(''))"
        one, other = (run_python(code).stdout.split() for _ in range(2))
        self.assertEqual(one[0], one[1])
        self.assertEqual(one[3], "0")
        self.assertEqual(len({one[0], one[2], other[0], other[2]}), 4)

    def test_ImportThatFails_FailsAsItWould(self):
        code = (
            "import rankbus.vllm.import_hook as h; h.when_imported('no_such_module', print)\n"
            "try: import no_such_module\n"
            "except ModuleNotFoundError as error: print(error)"
        )
        self.assertEqual(run_python(code).stdout.strip(), "No module named 'no_such_module'")

    def test_StatLogger_IsPickledByReference(self):
        code = (
            "import pickle, rankbus.vllm as r; from vllm.v1.metrics.loggers import AggregateStatLoggerBase\n"
            "copy = pickle.loads(pickle.dumps(r.StatLogger))\n"
            "print(copy is r.StatLogger, issubclass(copy, AggregateStatLoggerBase))"
        )
        done = run_python(code)
        self.assertEqual(done.stdout.strip(), "True True", done.stderr)

    def test_WithoutVllm_StatLoggerIsAnAttributeThatIsNotThere(self):
        code = "import sys; sys.modules['vllm'] = None; import rankbus.vllm as r; print(hasattr(r, 'StatLogger'))"
        self.assertEqual(run_python(code).stdout.strip(), "False")

    def test_InstallCommand_IsTheOfflineOneOnEveryPage(self):
        for page in ("README.md", "producer/python/README.md", "producer/python/VLLM.md"):
            commands = re.findall(r"pip install[^`#\n]*", (lib.ROOT / page).read_text())
            self.assertEqual(
                {command.strip() for command in commands},
                {"pip install --no-build-isolation --no-deps ./producer/python"},
                page,
            )

    @unittest.skipUnless(PYPROJECT.exists(), "no pyproject.toml")
    def test_Package_InstallsTheEntryPointsThatTheTestsUse(self):
        import tomllib

        self.assertEqual(tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"], drivers.ENTRY_POINTS)


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class Worker(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import rankbus.vllm
        import vllm.config
        import vllm.v1.worker.fake_worker as workers

        cls.workers, cls.vllm_config = workers, vllm.config.VllmConfig
        rankbus.vllm.register()

    def worker(self, kind="FakeWorker", rank=0, **parallel):
        KeepingProducer.made.clear()
        self.enterContext(mock.patch("rankbus.Producer", KeepingProducer))
        config = self.vllm_config(parallel_config=parallel)
        worker = getattr(self.workers, kind)(config, local_rank=rank % 4, rank=rank)
        worker.init_device()
        worker.load_model()
        self.producer, = KeepingProducer.made
        return worker

    def fields(self):
        self.assertEqual({name for name, _ in self.producer.records}, {"worker_step"})
        return [fields for _, fields in self.producer.records]

    @staticmethod
    def batch(tokens=5):
        return SimpleNamespace(total_num_scheduled_tokens=tokens)

    def test_Step_HasItsStampsInOrderAndItsTimes(self):
        worker = self.worker()
        output = SimpleNamespace(cudagraph_stats=SimpleNamespace(num_paddings=3))
        worker.model_runner.outputs = [output, SimpleNamespace()]
        self.assertIs(worker.execute_model(self.batch()), output)
        worker.execute_model(self.batch())
        first, second = self.fields()
        stamps = [first[name] for name in ("stamp", "entered", "launched", "output_ready")]
        self.assertEqual(stamps, sorted(stamps))
        self.assertEqual(len(set(stamps)), 4)
        self.assertGreater(second["stamp"], first["output_ready"])
        self.assertEqual([first["step"], second["step"]], [0, 1])
        self.assertEqual(first["padded_tokens"], 3)
        self.assertTrue(first["forward_ns"] >= 0 and first["prepare_ns"] >= 0)

    def test_SampledInACallOfItsOwn_IsOneRecordWhenTheOutputIsThere(self):
        worker = self.worker("SplitWorker")
        sampled = SimpleNamespace()
        worker.model_runner.outputs = [None]
        worker.model_runner.samples = [sampled]
        self.assertIsNone(worker.execute_model(self.batch()))
        self.assertEqual(self.producer.records, [])
        self.assertIs(worker.sample_tokens(None), sampled)
        step, = self.fields()
        self.assertIn("sample_ns", step)
        self.assertGreater(step["output_ready"], step["launched"])

    def test_AsynchronousOutput_IsNotReadyWhenTheCallReturns(self):
        worker = self.worker("SplitWorker")
        worker.model_runner.outputs = [None]
        worker.model_runner.samples = [SimpleNamespace(get_output=lambda: None)]
        worker.execute_model(self.batch())
        worker.sample_tokens(None)
        step, = self.fields()
        self.assertNotIn("output_ready", step)

    def test_StageThatNeverSamples_WritesItsStepBeforeTheNext(self):
        worker = self.worker("SplitWorker")
        worker.model_runner.outputs = [None, None]
        worker.execute_model(self.batch())
        worker.execute_model(self.batch())
        self.assertEqual([fields["step"] for fields in self.fields()], [0])

    def test_StepWithoutTokens_IsNoForwardCall(self):
        worker = self.worker()
        worker.execute_model(self.batch(0))
        worker.execute_model(self.batch(1))
        self.assertEqual([fields["step"] for fields in self.fields()], [0])

    def test_DummyBatch_CountsAsADummyStep(self):
        worker = self.worker()
        worker.execute_dummy_batch()
        worker.execute_model(self.batch())
        self.assertEqual([(f["step"], f.get("dummy", 0)) for f in self.fields()], [(0, 1), (1, 0)])

    def test_ExceptionOfTheModel_PassesThroughAndTheNextStepIsRecorded(self):
        worker = self.worker()
        broken = RuntimeError("CUDA error")
        worker.model_runner.outputs = [broken]
        with self.assertRaises(RuntimeError) as raised:
            worker.execute_model(self.batch())
        self.assertIs(raised.exception, broken)
        worker.execute_model(self.batch())
        self.assertEqual(len(self.fields()), 1)

    def test_ProducerThatRaises_HarmsNoStep(self):
        worker = self.worker()
        output = SimpleNamespace()
        worker.model_runner.outputs = [output, output]
        with mock.patch.object(self.producer, "ticks", "no number"):
            self.assertIs(worker.execute_model(self.batch()), output)
        self.assertIs(worker.execute_model("no batch at all"), output)

    def test_ConstructorReachedTwice_RecordsEachStepOnce(self):
        KeepingProducer.made.clear()
        self.enterContext(mock.patch("rankbus.Producer", KeepingProducer))
        worker = self.workers.FakeWorker(self.vllm_config(), local_rank=0, rank=0)
        self.workers.WorkerBase.__init__(worker, self.vllm_config(), local_rank=0, rank=0)
        worker.init_device()
        worker.execute_model(self.batch())
        self.producer, = KeepingProducer.made
        self.assertEqual(len(self.fields()), 1)

    def test_Identity_IsThePlaceInVllmsOrderOfRanks(self):
        self.worker(rank=5, tensor_parallel_size=4, pipeline_parallel_size=2, world_size=8, data_parallel_rank=1)
        options = self.producer.options
        self.assertEqual(options["axes"], [("tp", 1, 4), ("pp", 1, 2)])
        self.assertEqual((options["rank"], options["world_size"], options["local_rank"]), (5, 8, 1))
        self.assertEqual((options["role"], options["engine"], options["model"]), ("worker", 1, "fake-7b"))

    def test_EngineIndexOfNewerReleases_GoesBeforeTheRankThatTheyClear(self):
        self.worker(data_parallel_index=3, data_parallel_rank=0)
        self.assertEqual(self.producer.options["engine"], 3)


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class Records(unittest.TestCase):
    def records(self, **config):
        from rankbus.vllm.features import Features
        from rankbus.vllm.mapping import EngineRecords
        from vllm.config import VllmConfig

        self.producer = KeepingProducer()
        return EngineRecords(self.producer, Features(VllmConfig(**config)))

    def written(self, name):
        return [fields for written, fields in self.producer.records if written == name]

    def test_AdaptersThatStay_AreWrittenOnceASecondAndThoseThatChangeAtOnce(self):
        from vllm.v1.metrics.stats import SchedulerStats

        records = self.records(lora_config={"max_loras": 2})
        with mock.patch("rankbus.vllm.mapping.time.monotonic") as clock:
            for now, running in ((10.0, "a"), (10.1, "a"), (10.9, "a"), (11.0, "a"), (11.1, "b"), (11.2, "b")):
                clock.return_value = now
                records.scheduler(SchedulerStats(running_lora_adapters={running: 1}, waiting_lora_adapters={}))
        shown = [fields["adapters"]["running_lora_adapters"] for fields in self.written("lora_state")]
        self.assertEqual(shown, ["a", "a", "b"])

    def test_ReasonThatIsNotKnown_StillCountsTheRequest(self):
        from rankbus.vllm import watch
        from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats

        records = self.records()
        records.iteration(IterationStats(finished_requests=[FinishedRequestStats(finish_reason="boredom")]))
        self.assertEqual([fields["finished_reason"] for fields in self.written("finished_request")], [None])
        self.assertEqual(watch.unknown_fields()["FinishReason boredom"], 1)

    def test_StepInterval_IsOfBusyStepsAndOfASingleFrontEnd(self):
        from vllm.v1.metrics.stats import SchedulerStats

        for front_ends, expected in ((1, [None, 5, None, 7]), (4, [None] * 4)):
            records = self.records(parallel_config={"_api_process_count": front_ends})
            with mock.patch("rankbus.vllm.mapping.time.monotonic_ns") as clock:
                for now, running in ((100, 1), (105, 0), (900, 2), (907, 2)):
                    clock.return_value = now
                    records.scheduler(SchedulerStats(num_running_reqs=running))
            self.assertEqual([fields["step_interval_ns"] for fields in self.written("scheduler_step")], expected)

    def test_StatisticsOfAnOptionThatIsOff_AreCountedAndNotWritten(self):
        from rankbus.vllm import watch
        from vllm.v1.metrics.stats import PerfStats, SchedulerStats

        self.records().scheduler(SchedulerStats(perf_stats=PerfStats(1, 2, 3)))
        self.assertEqual({name for name, _ in self.producer.records}, {"scheduler_step"})
        self.assertEqual(watch.unknown_fields()["SchedulerStats.perf_stats without its option"], 1)


@unittest.skipUnless(drivers.is_built(), drivers.NO_PACKAGE)
class Doctor(unittest.TestCase):
    def doctor(self, bus, generation="current", plugins=True, **env):
        with drivers.installed_plugins() as folder:
            env = drivers.environment(folder if plugins else "", bus, generation, env)
            return subprocess.run(
                # Ports that nothing listens on, unless a test says otherwise.
                [sys.executable, "-B", "-m", "rankbus.vllm", "doctor", "--rankbus", self.rankbus, "--vllm", self.vllm],
                env=env,
                capture_output=True,
                text=True,
                timeout=lib.LIMIT_S,
                check=False,
            )

    def setUp(self):
        self.rankbus = self.vllm = "127.0.0.1:9"

    def test_EverythingInPlace_IsSaidAndExitsZero(self):
        bus = self.enterContext(lib.temporary_bus())
        aggregator = self.enterContext(lib.Aggregator(bus))
        self.rankbus = aggregator.listen
        for generation in ("0.15", "current"):
            done = self.doctor(bus, generation)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            for said in ("vLLM", "StatLogger derives from vLLM's AggregateStatLoggerBase", "an aggregator reads it",
                         "every field of vLLM's statistics is known", "not both", "0 problems"):  # fmt: skip
                self.assertIn(said, done.stdout)

    def test_TwoEndpointsWithTheSameFamilies_AreSaidToBeOneTooMany(self):
        bus = self.enterContext(lib.temporary_bus())
        aggregator = self.enterContext(lib.Aggregator(bus))
        self.enterContext(drivers.Driver({}, bus))
        lib.wait_for(lambda: aggregator.scrape().select("vllm:engine_sleep_state"), "the engine is seen")
        self.rankbus = aggregator.listen
        self.assertNotIn("would count everything twice", self.doctor(bus).stdout)
        self.vllm = aggregator.listen
        done = self.doctor(bus)
        self.assertIn("would count everything twice", done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_FieldsThatAreNotKnown_AreNamed(self):
        with lib.temporary_bus() as bus:
            done = self.doctor(bus, "branches")
        self.assertIn("3 fields that rankbus does not know", done.stdout)
        self.assertIn("SchedulerStats.num_recomputed_tokens", done.stdout)

    def test_WhatIsMissing_IsAProblemWithWhatToDo(self):
        with lib.temporary_bus() as bus:
            for env, plugins, said, todo in (
                ({}, True, "no aggregator reads this bus", f"rankbus aggregate --bus {bus}"),
                ({"VLLM_PLUGINS": "lora"}, True, "VLLM_PLUGINS=lora leaves out rankbus", "VLLM_PLUGINS=lora,rankbus"),
                ({}, False, "no entry point rankbus.vllm:StatLogger", "pip install"),
                ({"VLLM_USE_V1": "0"}, True, "VLLM_USE_V1=0", "unset VLLM_USE_V1"),
            ):
                done = self.doctor(bus, plugins=plugins, **env)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(said, done.stdout)
                self.assertIn(todo, done.stdout)
            os.chmod(bus, 0o777)
            self.assertIn(f"chmod o-w {bus}", self.doctor(bus).stdout)

    def test_UnknownCommand_ExitsTwo(self):
        done = run_python("import sys; from rankbus.vllm.doctor import main; sys.exit(main(['nurse']))")
        self.assertEqual(done.returncode, 2)


if __name__ == "__main__":
    lib.main()
