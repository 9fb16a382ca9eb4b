"""Acting on a module once it has been imported, without importing it."""

import functools
import importlib.abc
import sys

from rankbus.vllm.watch import count_error

_waiting = {}  # Module name: what to call with it.


def when_imported(name, act):
    """Calls act(module) now, if the module is there, else right after its first import.

    One that is being imported this very moment is left for the next call. `act` may be called again.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        _safely(act, module)
        return
    _waiting[name] = act
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: asks the other finders, and has the loader they name say when it is done."""

    def find_spec(self, name, path, target=None):
        act = _waiting.get(name)
        if act is None:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                _act_when_executed(spec, act)
                return spec
        return None


def _act_when_executed(spec, act):
    loader = getattr(spec, "loader", None)
    if not hasattr(loader, "exec_module"):
        return
    execute = loader.exec_module

    @functools.wraps(execute)
    def exec_module(module):
        try:
            execute(module)
        finally:
            vars(loader).pop("exec_module", None)
        _waiting.pop(spec.name, None)
        _safely(act, module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        pass  # A loader that takes no attributes: then the module stays as it is.


def _safely(act, module):
    try:
        act(module)
    except Exception as error:
        count_error(f"anything of {module.__name__}", error)
