"""Base classes of stat loggers, the manager that calls them, and vLLM's Prometheus logger as far as it harms others."""

from abc import ABC, abstractmethod

from vllm.generation import AGE, GENERATIONS
from vllm.plugins import STAT_LOGGER_PLUGINS_GROUP, load_plugins_by_group

HAS_AGGREGATES = AGE >= GENERATIONS.index("0.15")


class StatLoggerBase(ABC):
    @abstractmethod
    def __init__(self, vllm_config, engine_index=0): ...

    @abstractmethod
    def record(self, scheduler_stats, iteration_stats): ...

    @abstractmethod
    def log_engine_initialized(self): ...

    def log(self):
        pass

    def record_sleep_state(self, is_awake, level):
        pass


if HAS_AGGREGATES:

    class AggregateStatLoggerBase(StatLoggerBase):
        @abstractmethod
        def __init__(self, vllm_config, engine_indexes): ...


def load_stat_logger_plugin_factories():
    factories = []
    for name, plugin in load_plugins_by_group(STAT_LOGGER_PLUGINS_GROUP).items():
        if not isinstance(plugin, type) or not issubclass(plugin, StatLoggerBase):
            raise TypeError(f"Stat logger plugin {name!r} must be a subclass of StatLoggerBase (got {plugin!r}).")
        factories.append(plugin)
    return factories


class PrometheusStatLogger(StatLoggerBase):
    """Builds nothing, but cleans the registry as the real one does."""

    def __init__(self, vllm_config, engine_indexes=None):
        from prometheus_client import REGISTRY

        for collector in list(REGISTRY._collector_to_names):
            if any("vllm" in name for name in REGISTRY._collector_to_names[collector]):
                REGISTRY.unregister(collector)
        self.calls = 0

    def record(self, scheduler_stats, iteration_stats, mm_cache_stats=None, engine_idx=0):
        self.calls += 1

    def log_engine_initialized(self):
        pass


class StatLoggerManager:
    def __init__(self, vllm_config, engine_idxs=None, custom_stat_loggers=None, **ignored):
        self.engine_indexes = engine_idxs or [0]
        self.stat_loggers = []
        for factory in custom_stat_loggers or ():
            if HAS_AGGREGATES and issubclass(factory, AggregateStatLoggerBase):
                self.stat_loggers.append((None, factory(vllm_config=vllm_config, engine_indexes=self.engine_indexes)))
            else:
                self.stat_loggers += [(index, factory(vllm_config, index)) for index in self.engine_indexes]
        self.stat_loggers.append((None, PrometheusStatLogger(vllm_config, self.engine_indexes)))

    def record(self, scheduler_stats, iteration_stats, mm_cache_stats=None, engine_idx=None):
        for index, logger in self.stat_loggers:
            if index is not None and index != (engine_idx or 0):
                continue
            if AGE == GENERATIONS.index("0.8"):
                logger.record(scheduler_stats=scheduler_stats, iteration_stats=iteration_stats)
            elif AGE == GENERATIONS.index("0.11"):
                logger.record(scheduler_stats, iteration_stats, engine_idx or 0)
            else:
                logger.record(
                    scheduler_stats, iteration_stats, mm_cache_stats=mm_cache_stats, engine_idx=engine_idx or 0
                )

    def record_sleep_state(self, sleep=0, level=0):
        for _, logger in self.stat_loggers:
            logger.record_sleep_state(sleep, level)

    def log(self):
        for _, logger in self.stat_loggers:
            logger.log()

    def log_engine_initialized(self):
        for _, logger in self.stat_loggers:
            logger.log_engine_initialized()
