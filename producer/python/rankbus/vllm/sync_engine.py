"""LLM() and other users of the synchronous engine, which finds no stat logger plug-ins: it is told of every step as
vLLM's own loggers of that engine are, by the same front end that `vllm serve` has."""

import functools
import logging

from rankbus.vllm.stat_logger import FrontEnd, is_recorded
from rankbus.vllm.watch import count_error, say_once

# Where releases keep what records the steps: a manager of loggers, before that one logger.
MANAGERS = ("logger_manager", "stat_logger")


def wrap(module):
    """Has every LLMEngine of the module recorded. Does nothing the second time."""
    engine_class = getattr(module, "LLMEngine", None)
    construct = getattr(engine_class, "__init__", None)
    if construct is None or hasattr(construct, "_rankbus"):
        return

    @functools.wraps(construct)
    def __init__(self, *arguments, **options):
        construct(self, *arguments, **options)
        try:
            record_engine(self, options.get("vllm_config", arguments[0] if arguments else None))
        except Exception as error:
            count_error("the engine of LLM()", error)

    __init__._rankbus = construct
    engine_class.__init__ = __init__


def record_engine(engine, config):
    config = getattr(engine, "vllm_config", None) or config
    manager = next((found for name in MANAGERS if (found := getattr(engine, name, None)) is not None), None)
    if manager is None or not callable(getattr(manager, "record", None)):
        say_once(
            "no statistics",
            "rankbus records the ranks, but no requests: the statistics of this engine are off. "
            "Turn them on with LLM(..., disable_log_stats=False)",
            level=logging.INFO,
        )
        return
    # A stat logger of ours among vLLM's own, given by the user or found as a plug-in, is told already.
    if config is None or is_recorded(config):
        return
    front_end = FrontEnd(config, [0])
    front_end.log_engine_initialized()
    for name in ("record", "record_sleep_state", "log"):
        told_too(manager, name, getattr(front_end, name))
    manager._rankbus_front_end = front_end  # Lives as long as what it listens to.


def told_too(manager, name, listener):
    """Calls listener with what manager.name is called with."""
    original = getattr(manager, name, None)
    if not callable(original):
        return

    @functools.wraps(original)
    def both(*arguments, **options):
        listener(*arguments, **options)
        return original(*arguments, **options)

    setattr(manager, name, both)
