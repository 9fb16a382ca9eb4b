"""The front end's side: what vLLM hands to its stat loggers goes to the bus, one producer per engine index.

`FrontEnd` is all of it but vLLM's base class, which `make_stat_logger_class` adds. A process may get several front ends
for one engine (named by the user and found as a plug-in; or made anew when engines are scaled), and each would be told
of every step. So an engine's records belong to the newest of them: it takes the line over, and the older is told
nothing twice.
"""

import os
import threading
import weakref

import rankbus
from rankbus.vllm import calls
from rankbus.vllm.features import Features
from rankbus.vllm.mapping import EngineRecords, mode_text
from rankbus.vllm.watch import at_end, count_error, count_unknown, log, say_once

_forks = 0  # How often this process came from a fork since the plug-in was loaded.
_lines = weakref.WeakValueDictionary()  # (id of the configuration, engine): _EngineLine.
_taking = threading.Lock()


def _count_fork():
    global _forks, _taking
    _forks += 1
    _taking = threading.Lock()  # Another thread of the parent may have held it.


os.register_at_fork(after_in_child=_count_fork)


def is_recorded(config):
    """Whether a front end of this process records what an engine with this configuration says."""
    return any(line.config is config for line in list(_lines.values()))


class _EngineLine:
    """An engine's producer with its records, and who feeds it."""

    def __init__(self, config, features, engine, owner):
        self.config = config  # Kept, so that its id stays its own.
        self.engine = engine
        self.owner = weakref.ref(owner)
        self.cache_config = None
        self._forks = _forks
        self._lock = threading.Lock()  # vLLM records from one thread, and sleeps from another.
        self.producer = rankbus.Producer(
            role="frontend",
            model=features.model_name,
            engine=engine,
            records=features.record_types,
            num_speculative_tokens=features.num_speculative_tokens,
            max_model_len=features.max_model_len,
            kv_role=features.kv_role,
        )
        at_end(self, self.producer.close)
        self._records = EngineRecords(self.producer, features)
        if self.producer.inert:
            say_once(("inert", self.producer.reason), "rankbus records nothing: %s", self.producer.reason)
        self._records.sleep_state(0, 0)

    def __enter__(self):
        self._lock.acquire()
        try:
            if self._forks != _forks:
                self._forks = _forks  # Tried once: a producer that cannot be opened again drops what it is given.
                self.producer.reopen()  # The parent's segment is not ours; ours is a lane of its own.
                self._records.bind(self.producer)
        except BaseException:
            self._lock.release()  # Python calls no __exit__ then, and the next call would wait for ever.
            raise
        return self._records

    def __exit__(self, *_):
        self._lock.release()

    def after_fork(self):
        """The lock may have been held by a thread that the fork did not take along."""
        self._lock = threading.Lock()


def _free_line_locks():
    for line in list(_lines.values()):
        line.after_fork()


os.register_at_fork(after_in_child=_free_line_locks)


class FrontEnd:
    """vLLM's stat logger interface, for one engine or all of them. No method raises."""

    def __init__(self, vllm_config, engine_indexes=0, engine_index=None):
        # Aggregate loggers get a list by keyword; others an index, by position or by keyword.
        given = engine_indexes if engine_index is None else engine_index
        self._config = vllm_config
        self._owned = {}
        try:
            self._engines = list(given) if isinstance(given, (list, tuple, set, range)) else [int(given or 0)]
            self._features = Features(vllm_config)
            self._calls = calls.open_for_this_process(self._features, self._engines)
            for engine in self._engines:
                self._own(engine)
            log.info(
                "rankbus records engines %s as %s, with %s. Scrape vLLM or rankbus, not both",
                ", ".join(map(str, self._engines)),
                self._features.model_name,
                ", ".join(self._features.record_types),
            )
        except Exception as error:
            self._features = None  # Then every method returns at once.
            count_error("anything of this engine", error)

    def _own(self, engine):
        """Takes the engine's line over from an older front end, or opens it."""
        key = id(self._config), engine
        with _taking:
            line = _lines.get(key)
            if line is None:
                line = _lines[key] = _EngineLine(self._config, self._features, engine, self)
            else:
                older = line.owner()
                if older is not None and older is not self:
                    older._owned[engine] = None
                line.owner = weakref.ref(self)
            self._owned[engine] = line
        return line

    def _line(self, engine):
        """None for an engine that a newer front end has, or that vLLM did not name: it drops those too."""
        if engine not in self._owned:
            count_unknown(f"engine index {engine}")
            return None
        return self._owned[engine]

    def record(self, scheduler_stats=None, iteration_stats=None, mm_cache_stats=None, engine_idx=None, **more):
        if self._features is None:
            return
        try:
            if isinstance(mm_cache_stats, int):  # Releases before 0.11 pass the engine in this place.
                mm_cache_stats, engine_idx = None, mm_cache_stats
            line = self._line(self._engines[0] if engine_idx is None else engine_idx)
            if line is None:
                return
            for name in more:
                count_unknown(f"record(..., {name})")
            with line as records:
                if scheduler_stats is not None:
                    records.scheduler(scheduler_stats)
                if mm_cache_stats is not None:
                    records.multimodal_cache(mm_cache_stats)
                if iteration_stats is not None:
                    records.iteration(iteration_stats)
            if self._calls is not None:
                self._calls.record(line.engine, scheduler_stats, iteration_stats, mm_cache_stats)
        except Exception as error:
            count_error("a record() call", error)

    def record_sleep_state(self, sleep=0, level=0):
        """vLLM passes 1 for asleep, whatever the parameter is called in its base class."""
        if self._features is None:
            return
        try:
            for engine in self._engines:
                line = self._line(engine)
                if line is not None:
                    with line as records:
                        records.sleep_state(sleep, level)
                    if self._calls is not None:
                        self._calls.sleep(engine, sleep, level)
        except Exception as error:
            count_error("sleep_state", error)

    def log(self):
        """Called every few seconds: time to write out what a recording holds back, and to say what did not fit."""
        if self._features is None:
            return
        for line in list(self._owned.values()):
            if line is not None and line.producer.errors:
                say_once(("misfit", line.engine), "rankbus left out values of engine %s: %s", line.engine,
                         line.producer.last_error)  # fmt: skip
        if self._calls is not None:
            self._calls.flush()

    def log_engine_initialized(self):
        """The engines have started: what they found out, such as the number of KV blocks, is in the configuration."""
        if self._features is None:
            return
        try:
            texts = config_texts(getattr(self._config, "cache_config", None))
            graphs = getattr(self._config, "compilation_config", None)
            for engine in self._engines:
                line = self._line(engine)
                if line is not None:
                    with line as records:
                        records.cache_config(texts)
                        records.cuda_graph_config(
                            {
                                "mode": mode_text(getattr(graphs, "cudagraph_mode", "")),
                                "capture_sizes": str(getattr(graphs, "cudagraph_capture_sizes", "")),
                            }
                        )
            if self._calls is not None:
                self._calls.cache_config = texts
        except Exception as error:
            count_error("cache_config", error)


def config_texts(cache_config):
    """The labels of vllm:cache_config_info: vLLM's own list of them, else the fields of the configuration."""
    texts = cache_config.metrics_info() if hasattr(cache_config, "metrics_info") else vars(cache_config)
    return {str(name): str(value) for name, value in texts.items()}


def make_stat_logger_class():
    """A FrontEnd that vLLM accepts. Raises ImportError where there is no v1 engine."""
    from vllm.v1.metrics import loggers

    base = getattr(loggers, "AggregateStatLoggerBase", None) or loggers.StatLoggerBase
    members = {
        "__module__": "rankbus.vllm",  # Where pickle finds it again, in a process that was spawned.
        "__qualname__": "StatLogger",
        "__doc__": "rankbus's stat logger: one for all engines where vLLM has such a kind, else one per engine.",
    }
    return type(base)("StatLogger", (FrontEnd, base), members)
