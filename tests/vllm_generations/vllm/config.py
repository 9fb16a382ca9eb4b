"""A configuration with the sections that matter. Sections and options that a test does not name are as if unset."""

from types import SimpleNamespace

from vllm.generation import AGE, GENERATIONS


class CacheConfig(SimpleNamespace):
    def metrics_info(self):
        return {name: str(value) for name, value in vars(self).items()}


class VllmConfig:
    def __init__(self, model="fake-7b", max_model_len=4096, **sections):
        self.model_config = SimpleNamespace(
            served_model_name=model, model=f"/models/{model}", max_model_len=max_model_len, is_diffusion=False
        )
        self.cache_config = CacheConfig(block_size=16, num_gpu_blocks=1234, cache_dtype="auto")
        self.parallel_config = SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=1, world_size=1, data_parallel_rank=0
        )
        self.observability_config = SimpleNamespace()
        self.compilation_config = SimpleNamespace(
            cudagraph_mode="CUDAGraphMode.FULL", cudagraph_capture_sizes=[1, 2, 4]
        )
        self.lora_config = None
        self.speculative_config = None
        if AGE >= GENERATIONS.index("0.11"):
            self.kv_transfer_config = None
        for name, options in sections.items():
            section = getattr(self, name, None)
            if section is None:
                setattr(self, name, SimpleNamespace(**options))
            else:
                vars(section).update(options)
