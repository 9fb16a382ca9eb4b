"""Every rank's steps, seen from its host: when a step was taken up, when its forward call began and when the last
kernel was launched, when its output was there.

`WorkerBase` is what all of vLLM's workers derive from, whatever the device. Each instance gets wrappers of its own
around the calls that the executor makes, so no class of vLLM's changes but that one constructor. Stamps cost one
clock reading each. What a call of vLLM's returns or raises passes through unchanged.
"""

import functools
import sys
import time

import rankbus
from rankbus.vllm.features import Features, get
from rankbus.vllm.watch import at_end, count_error, look_at, say_once

DONE = "_rankbus"  # Marks what is wrapped already.


def wrap(module):
    """Has every worker of the module recorded. Does nothing the second time."""
    base = getattr(module, "WorkerBase", None)
    construct = getattr(base, "__init__", None)
    if construct is None or hasattr(construct, DONE):
        return

    @functools.wraps(construct)
    def __init__(self, *arguments, **options):
        construct(self, *arguments, **options)
        try:
            WorkerSteps(self)
        except Exception as error:
            count_error("worker_step", error)

    setattr(__init__, DONE, construct)
    base.__init__ = __init__


class WorkerSteps:
    """The records of one worker: one per forward call, written when the executor's call for its output returns."""

    def __init__(self, worker):
        if DONE in vars(worker):
            return
        setattr(worker, DONE, self)
        self._worker = worker
        self._producer = None
        self._write = None
        self._runner = None
        self._step = 0
        self._open_step = None  # The forward call whose output nobody has asked for yet.
        self._entered = self._entered_ns = self._launched = self._launched_ns = 0
        self._around(worker, "load_model", self._load_model)
        self._around(worker, "execute_model", self._execute_model)
        self._around(worker, "sample_tokens", self._sample_tokens)
        self._around(worker, "execute_dummy_batch", self._execute_dummy_batch)

    @staticmethod
    def _around(thing, name, wrapper):
        original = getattr(thing, name, None)
        if callable(original):
            setattr(thing, name, functools.wraps(original)(functools.partial(wrapper, original)))

    # What the executor calls.

    def _load_model(self, original, *arguments, **options):
        result = original(*arguments, **options)
        self._open()  # Its groups exist now, and no step waits yet.
        return result

    def _execute_model(self, original, scheduler_output, *arguments, **options):
        began = self._guarded(self._begin, scheduler_output)
        result = original(scheduler_output, *arguments, **options)
        if began is not None:
            self._forward_returned(began, result)
        return result

    def _sample_tokens(self, original, *arguments, **options):
        step = self._open_step
        self._open_step = None
        began_ns = time.monotonic_ns()
        result = original(*arguments, **options)
        if step is not None:
            self._guarded(self._sampled, step, began_ns, result)
        return result

    def _execute_dummy_batch(self, original, *arguments, **options):
        began = self._guarded(self._begin, None)
        result = original(*arguments, **options)
        if began is not None:
            self._guarded(self._dummy_returned, began)
        return result

    def _runner_executes(self, original, *arguments, **options):
        self._guarded(self._note_entered)
        result = original(*arguments, **options)
        self._guarded(self._note_launched)
        return result

    # What is made of it. None of these raises.

    def _guarded(self, act, *arguments):
        try:
            return act(*arguments)
        except Exception as error:
            count_error("worker_step", error)
            return None

    def _begin(self, scheduler_output):
        """The stamps of a forward call, or None if there will be none: a step without tokens only moves KV cache."""
        if self._write is None:
            self._open()
        if scheduler_output is not None and getattr(scheduler_output, "total_num_scheduled_tokens", 1) == 0:
            return None
        if self._open_step is not None:  # A pipeline stage that is never asked to sample.
            step, self._open_step = self._open_step, None
            self._finish(step)
        self._entered = self._launched = self._entered_ns = self._launched_ns = 0
        return {"stamp": self._now(), "began_ns": time.monotonic_ns()}

    def _note_entered(self):
        self._entered, self._entered_ns = self._now(), time.monotonic_ns()

    def _note_launched(self):
        self._launched, self._launched_ns = self._now(), time.monotonic_ns()

    def _forward_returned(self, step, result):
        def fill():
            self._forward_fields(step, time.monotonic_ns())
            if result is None and callable(getattr(self._worker, "sample_tokens", None)):
                self._open_step = step
            else:
                self._output_fields(step, result)
                self._finish(step)

        self._guarded(fill)

    def _forward_fields(self, step, returned_ns):
        began_ns = step.pop("began_ns")
        if self._entered_ns:
            step["entered"] = self._entered
            step["prepare_ns"] = self._entered_ns - began_ns
            began_ns = self._entered_ns
        if self._launched_ns:
            step["launched"] = self._launched
            returned_ns = self._launched_ns
        else:
            step["launched"] = self._now()
        step["forward_ns"] = returned_ns - began_ns

    def _sampled(self, step, began_ns, result):
        step["sample_ns"] = time.monotonic_ns() - began_ns
        self._output_fields(step, result)
        self._finish(step)

    def _output_fields(self, step, result):
        # An output with get_output() is still on its way to the host, and arrives in another thread.
        if result is not None and not callable(getattr(result, "get_output", None)):
            step["output_ready"] = self._now()
            graph = getattr(result, "cudagraph_stats", None)
            if graph is not None:
                look_at("CUDAGraphStat", graph)
                step["padded_tokens"] = graph.num_paddings

    def _dummy_returned(self, step):
        self._forward_fields(step, time.monotonic_ns())
        step["dummy"] = 1
        self._finish(step)

    def _finish(self, step):
        step["step"] = self._step
        self._step += 1
        self._write(**step)

    def _open(self):
        """Opens the producer, and finds the model runner, which workers make after themselves."""
        try:
            runner = getattr(self._worker, "model_runner", None)
            if runner is not None and self._runner is not runner:
                self._runner = runner
                self._around(runner, "execute_model", self._runner_executes)
            if self._producer is None:
                self._producer = rankbus.Producer(role="worker", **identity(self._worker))
                at_end(self, self._producer.close)
                self._now = self._producer.now
                self._write = self._producer.handle("worker_step")
                if self._producer.inert:
                    say_once(("inert", self._producer.reason), "rankbus records no steps: %s", self._producer.reason)
        except Exception as error:
            count_error("worker_step", error)
            self._now, self._write = lambda: 0, lambda **_: None


def identity(worker):
    """Who a worker is: its engine, its place on each axis, its device."""
    config = worker.vllm_config
    features = Features(config)
    parallel = getattr(config, "parallel_config", None)
    # Newer releases keep the data-parallel index apart from the rank, which they clear for dense models.
    engine = getattr(parallel, "data_parallel_index", None)
    engine = getattr(parallel, "data_parallel_rank", 0) if engine is None else engine
    rank, local_rank = int(getattr(worker, "rank", 0)), int(getattr(worker, "local_rank", 0))
    tp, pp = get(parallel, "tensor_parallel_size", 1), get(parallel, "pipeline_parallel_size", 1)
    world = int(get(parallel, "world_size", tp * pp))
    return {
        "model": features.model_name,
        "engine": int(engine or 0),
        "axes": [
            ("tp", *group_place("get_tp_group", rank % tp, tp)),
            ("pp", *group_place("get_pp_group", rank // tp % pp, pp)),
        ],
        "rank": rank,
        "world_size": world,
        "local_rank": local_rank,
        "local_world_size": int(get(parallel, "local_world_size", 0)),
        "kv_role": features.kv_role,
        "max_model_len": features.max_model_len,
        "gpu": device_name(worker),
    }


def group_place(getter, rank, size):
    """(rank, size) in one of vLLM's groups; as computed where the groups cannot be asked."""
    state = sys.modules.get("vllm.distributed.parallel_state")
    try:
        group = getattr(state, getter)()
        return int(group.rank_in_group), int(group.world_size)
    except Exception:  # Not initialised, or another release's.
        return rank, size


def device_name(worker):
    """What the device is called, as far as PyTorch says so without being imported or initialised for it."""
    device = getattr(worker, "device", None)
    try:
        cuda = sys.modules["torch"].cuda
        if getattr(device, "type", "") == "cuda" and cuda.is_initialized():
            return f"{cuda.get_device_name(device)} {device}"
    except Exception:  # No PyTorch, no CUDA, no such device: then there is nothing to call it by.
        pass
    return "" if device is None else str(device)
