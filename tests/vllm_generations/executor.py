"""Worker processes as vLLM's multiprocessing executor has them: a wrapper in each loads the plug-ins and makes the
worker by the name of its class; calls come over a pipe, by name.

    executor.py '{"method": "spawn", "tp": 2, "engines": [0, 1], "steps": 50, "dummies": 3, "kind": "SplitWorker"}'

Prints one line when all steps are done, and stays until its input ends.
"""

import json
import multiprocessing
import sys
from types import SimpleNamespace

from vllm.config import VllmConfig
from vllm.plugins import load_general_plugins
from vllm.v1.worker.worker_base import WorkerWrapperBase


class Device(SimpleNamespace):
    def __str__(self):
        return f"{self.type}:{self.index}"


def worker_main(plan, engine, rank, pipe):
    wrapper = WorkerWrapperBase()
    config = VllmConfig(
        parallel_config={"tensor_parallel_size": plan["tp"], "world_size": plan["tp"], "data_parallel_rank": engine}
    )
    wrapper.init_worker(
        f"vllm.v1.worker.fake_worker.{plan['kind']}", vllm_config=config, local_rank=rank, rank=rank
    )
    wrapper.init_device()
    wrapper.worker.device = Device(type="fake", index=0)
    wrapper.load_model()
    runner = wrapper.worker.model_runner
    splits = plan["kind"] == "SplitWorker"
    for method, arguments in iter(pipe.recv, None):
        if method == "execute_model":
            output = SimpleNamespace(cudagraph_stats=SimpleNamespace(num_paddings=3))
            runner.outputs, runner.samples = ([None], [output]) if splits else ([output], [])
        answer = getattr(wrapper, method)(*arguments)
        pipe.send(answer is not None)


def main():
    plan = json.loads(sys.argv[1])
    load_general_plugins()  # As in the process that starts an engine's workers.
    context = multiprocessing.get_context(plan["method"])
    pipes = []
    for engine in plan["engines"]:
        for rank in range(plan["tp"]):
            ours, theirs = context.Pipe()
            context.Process(target=worker_main, args=(plan, engine, rank, theirs), daemon=True).start()
            pipes.append(ours)

    def collective_rpc(method, *arguments):
        for pipe in pipes:
            pipe.send((method, arguments))
        return sum(pipe.recv() for pipe in pipes)

    outputs = 0
    for _ in range(plan["steps"]):
        outputs += collective_rpc("execute_model", SimpleNamespace(total_num_scheduled_tokens=5))
        if plan["kind"] == "SplitWorker":
            outputs += collective_rpc("sample_tokens", None)
    for _ in range(plan["dummies"]):
        collective_rpc("execute_dummy_batch")
    print(json.dumps({"outputs": outputs}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
