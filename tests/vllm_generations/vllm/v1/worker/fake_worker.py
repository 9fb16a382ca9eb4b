"""A worker and its model runner. `outputs` says what the runner returns: a value, or an exception that it raises."""

from types import SimpleNamespace

from vllm.v1.worker.worker_base import WorkerBase


class FakeRunner:
    def __init__(self):
        self.outputs = []
        self.samples = []

    def execute_model(self, scheduler_output, intermediate_tensors=None):
        return give(self.outputs)

    def sample_tokens(self, grammar_output):
        return give(self.samples)

    def _dummy_run(self, tokens):
        pass


class FakeWorker(WorkerBase):
    """Samples within execute_model, as releases did first."""

    def init_device(self):
        self.device = SimpleNamespace(type="fake")
        self.model_runner = FakeRunner()

    def load_model(self):
        pass

    def execute_model(self, scheduler_output):
        return self.model_runner.execute_model(scheduler_output)

    def execute_dummy_batch(self):
        self.model_runner._dummy_run(1)


class SplitWorker(FakeWorker):
    """Samples in a call of its own, as releases do now."""

    def sample_tokens(self, grammar_output):
        return self.model_runner.sample_tokens(grammar_output)


def give(outputs):
    output = outputs.pop(0) if outputs else SimpleNamespace()
    if isinstance(output, Exception):
        raise output
    return output
