"""A server's processes, driven by a test: one line of JSON in, one out, for as long as the input lasts.

    drive.py '{"start": "here" | "fork" | "spawn", "clients": 4, "engines": [0, 1], "config": {...}, ...}'

The first process is what `vllm serve` starts as: it loads the general plug-ins. With "here" it is also the only API
server; else it starts `clients` of them by multiprocessing, each with a stat logger manager of its own, made from the
factories that vLLM's loader found. Commands name the client that they are for.
"""

import gc
import json
import logging
import multiprocessing
import os
import sys

import payloads
from expected import Expected
from traffic import Traffic
from vllm.config import VllmConfig
from vllm.plugins import load_general_plugins
from vllm.v1.metrics import loggers
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, SchedulerStats


class ApiServer:
    """One API server process: its manager, and the second opinion on what it was told."""

    def __init__(self, plan, client, factories):
        self.plan, self.client = plan, client
        self.config = VllmConfig(**plan.get("config", {}))
        self.spec_tokens = plan.get("spec_tokens", 0)
        self.expected = {
            engine: Expected(self.config.model_config.max_model_len, self.spec_tokens, plan.get("features", ()))
            for engine in plan["engines"]
        }
        for expected in self.expected.values():
            payloads.declare(expected, plan.get("connector", ""))
        if plan.get("via") == "LLM":
            from vllm.v1.engine.llm_engine import LLMEngine

            self.engine = LLMEngine(self.config, log_stats=plan.get("log_stats", True), stat_loggers=factories)
        else:
            self.manager = loggers.StatLoggerManager(self.config, plan["engines"], factories)
            self.manager.log_engine_initialized()

    def play(self, seed, steps):
        """Steps of every engine. All clients draw the same ones; the scheduler's part goes to one client a step."""
        connector = payloads.MAKERS.get(self.plan.get("connector"))
        for engine in self.plan["engines"]:
            traffic = Traffic(f"{seed} {engine}", connector, self.spec_tokens, self.plan.get("features", ()))
            for step in range(steps):
                stats, iteration, mm = traffic.scheduler(), traffic.iteration(), traffic.multimodal()
                mine = traffic.random.randrange(self.plan.get("clients", 1)) == self.client
                own = Traffic(f"{seed} {engine} {step} {self.client}").iteration() if step % 5 else None
                self.tell(engine, stats if mine else None, own, mm if step % 3 == 0 else None)
        return self.totals()

    def tell(self, engine, scheduler, iteration, mm):
        if self.plan.get("via") == "LLM":
            self.engine.step(scheduler, iteration, mm)
        else:
            self.manager.record(scheduler, iteration, mm_cache_stats=mm, engine_idx=engine)
        expected = self.expected[engine]
        if scheduler is not None:
            expected.scheduler(scheduler)
            payload = getattr(scheduler, "kv_connector_stats", None)
            if payload:
                payloads.expect(expected, payload)
        if iteration is not None:
            expected.iteration(iteration)
        if mm is not None and loggers.HAS_AGGREGATES:  # Releases before have no place for these.
            expected.multimodal(mm)

    def scheduler(self, engine, **fields):
        """One step with these values alone, for gauges."""
        self.tell(engine, SchedulerStats(**fields), None, None)
        return {"gauges": {engine: self.expected[engine].present()}}

    def sleep(self, sleeping, level):
        if self.plan.get("via") == "LLM":
            self.engine.logger_manager.record_sleep_state(sleeping, level)
        else:
            self.manager.record_sleep_state(sleeping, level)
        for expected in self.expected.values():
            expected.sleep(sleeping, level)
        return {"gauges": {engine: expected.present() for engine, expected in self.expected.items()}}

    def totals(self):
        return {
            "totals": {engine: expected.totals() for engine, expected in self.expected.items()},
            "gauges": {engine: expected.present() for engine, expected in self.expected.items()},
        }

    def complaints(self):
        from rankbus.vllm import watch

        return {"unknown": watch.unknown_fields(), "errors": watch.errors()}

    def log(self):
        self.manager.log()
        return {}

    def another_manager(self):
        """As when engines are scaled: a new manager is made while the old one lives, and takes its place."""
        factories = loggers.load_stat_logger_plugin_factories()
        self.old, self.manager = self.manager, loggers.StatLoggerManager(self.config, self.plan["engines"], factories)
        self.manager.log_engine_initialized()
        for engine in self.plan["engines"]:
            self.old.record(None, Traffic("told to the old one alone").iteration(), engine_idx=engine)
        return {}

    def forget(self):
        """As a script that is done with its LLM()."""
        self.engine = None
        gc.collect()
        return {}

    def fork(self):
        """A fork with everything that the process has; the child is told of one request more, and ends."""
        for engine in self.plan["engines"]:
            self.scheduler(engine)  # A line so short that a recording holds it back.
        pid = os.fork()
        if pid == 0:
            for engine in self.plan["engines"]:
                iteration = Traffic(f"child {engine}").iteration()
                self.manager.record(None, iteration, engine_idx=engine)
            self.manager.log()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        for engine in self.plan["engines"]:
            self.expected[engine].iteration(Traffic(f"child {engine}").iteration())
        return {"status": status, **self.totals()}

    def unusual(self):
        """What a release might say one day: a new reason, a transfer without its time, lists of unequal length."""
        payload = {
            "transfer_duration": [0.5, float("nan"), 0.25],
            "bytes_transferred": [1000, 3_000_000, 5],
            "num_descriptors": [1],
            "num_failed_transfers": [1],
        }
        iteration = IterationStats(finished_requests=[FinishedRequestStats(finish_reason="boredom", e2e_latency=2.0)])
        self.manager.record(SchedulerStats(kv_connector_stats=payload), iteration, engine_idx=self.plan["engines"][0])
        return {}

    def odd(self):
        """Objects such as no release has: nothing of them may raise."""
        for odd in payloads.odd_objects():
            self.manager.record(odd, odd, mm_cache_stats=odd, engine_idx=self.plan["engines"][0])
        self.manager.record_sleep_state("no number", None)
        return {}


def api_server(plan, client, factories, pipe):
    server = ApiServer(plan, client, factories)
    pipe.send({"ready": client})
    for command in iter(pipe.recv, None):
        pipe.send(getattr(server, command.pop("do"))(**command))


def main():
    plan = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    load_general_plugins()
    factories = loggers.load_stat_logger_plugin_factories() if plan.get("plugins", True) else []
    if plan.get("via") == "LLM" and not plan.get("given"):
        factories = []  # The synchronous engine looks for no plug-ins.
    factories *= plan.get("times", 1)
    pipes = []
    if plan["start"] == "here":
        server = ApiServer(plan, 0, factories)
        ask = lambda client, command: getattr(server, command.pop("do"))(**command)  # noqa: E731
    else:
        context = multiprocessing.get_context(plan["start"])
        children = []
        for client in range(plan["clients"]):
            ours, theirs = context.Pipe()
            children.append(context.Process(target=api_server, args=(plan, client, factories, theirs), daemon=True))
            children[-1].start()
            ours.recv()
            pipes.append(ours)

        def ask(client, command):
            pipes[client].send(command)
            return pipes[client].recv()

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(ask(command.pop("client", 0), command)), flush=True)
    for pipe in pipes:
        pipe.send(None)
    for child in children if pipes else ():
        child.join()


if __name__ == "__main__":
    main()
