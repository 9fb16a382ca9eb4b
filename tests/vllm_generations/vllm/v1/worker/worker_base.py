"""Workers as executors see them: a wrapper that loads plug-ins, then makes the worker by the name of its class."""

import importlib

from vllm.plugins import load_general_plugins


class WorkerBase:
    def __init__(self, vllm_config, local_rank, rank, distributed_init_method="", is_driver_worker=False):
        self.vllm_config = vllm_config
        self.parallel_config = vllm_config.parallel_config
        self.local_rank = local_rank
        self.rank = rank
        self.is_driver_worker = is_driver_worker

    def execute_model(self, scheduler_output):
        raise NotImplementedError


class WorkerWrapperBase:
    def init_worker(self, worker_class, **options):
        load_general_plugins()
        module, _, name = worker_class.rpartition(".")
        self.worker = getattr(importlib.import_module(module), name)(**options)

    def __getattr__(self, name):
        return getattr(self.worker, name)
