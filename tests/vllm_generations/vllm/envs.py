import os

VLLM_COMPUTE_NANS_IN_LOGITS = os.environ.get("VLLM_COMPUTE_NANS_IN_LOGITS", "0") == "1"
VLLM_PLUGINS = os.environ["VLLM_PLUGINS"].split(",") if "VLLM_PLUGINS" in os.environ else None
