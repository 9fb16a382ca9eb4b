"""The synchronous engine: each step's statistics go to its manager, or in the first generation to one logger."""

from vllm.generation import AGE
from vllm.v1.metrics.loggers import HAS_AGGREGATES, PrometheusStatLogger, StatLoggerManager


class LLMEngine:
    def __init__(self, vllm_config, executor_class=None, log_stats=False, stat_loggers=None):
        self.vllm_config = vllm_config
        if AGE == 0:
            self.stat_logger = PrometheusStatLogger(vllm_config) if log_stats else None
        else:
            self.logger_manager = None
            if log_stats:
                self.logger_manager = StatLoggerManager(vllm_config, custom_stat_loggers=stat_loggers)
                self.logger_manager.log_engine_initialized()

    def step(self, scheduler_stats, iteration_stats, mm_cache_stats=None):
        """What the real step does once the outputs are there; here they are given."""
        if AGE == 0:
            if self.stat_logger is not None:
                self.stat_logger.record(scheduler_stats=scheduler_stats, iteration_stats=iteration_stats)
        elif self.logger_manager is not None:
            caches = {"mm_cache_stats": mm_cache_stats} if HAS_AGGREGATES else {}
            self.logger_manager.record(scheduler_stats=scheduler_stats, iteration_stats=iteration_stats, **caches)

    def sleep(self, level=1):
        self.logger_manager.record_sleep_state(1, level)
