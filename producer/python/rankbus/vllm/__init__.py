"""rankbus's plug-ins for vLLM: what vLLM counts goes to the bus, under vLLM's own names.

Two entry points, both found by vLLM once the package `rankbus` is installed beside it:

    vllm.stat_logger_plugins   rankbus = rankbus.vllm:StatLogger   the front end of `vllm serve`
    vllm.general_plugins       rankbus = rankbus.vllm:register     every process: ranks, and LLM()

Importing this package imports nothing of vLLM. `StatLogger` is made when somebody asks for it, because its base
class is vLLM's and differs between releases. Nothing here raises into vLLM, and nothing is registered with
prometheus_client: vLLM unregisters every collector whose name contains its own.
"""

from rankbus.vllm.registration import register
from rankbus.vllm.watch import unknown_fields

__all__ = ["StatLogger", "register", "unknown_fields"]


def __getattr__(name):
    if name != "StatLogger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rankbus.vllm.stat_logger import make_stat_logger_class

    try:
        made = make_stat_logger_class()
    except ImportError as error:
        raise AttributeError(f"rankbus.vllm.StatLogger needs vLLM's v1 engine: {error}") from error
    return globals().setdefault(name, made)
