"""Which record types a vLLM configuration calls for, so that a feature's families appear where it is used."""

import glob
import importlib.util
import os
import sys

from rankbus.vllm.watch import count_unknown

# A front end's own types (iteration_stats, finished_request, multimodal_cache, sleep_state) come with its role.
ALWAYS = ["scheduler_step", "cache_config"]
MOST = 2**32 - 2  # What fits a number of the bus: the next one says that there is none.
KV_ROLES = {"kv_producer": "prefill", "kv_consumer": "decode", "kv_both": "both"}


def get(thing, path, default=None):
    """thing.a.b.c, or the default where anything on the way is missing or None."""
    for name in path.split("."):
        thing = getattr(thing, name, None)
        if thing is None:
            return default
    return thing


def odd(option, value):
    """Counts an option that is not as expected. It costs what depends on it, and nothing else."""
    count_unknown(f"{option}={value!r}"[:80])


def whole(thing, path, default):
    """An option as a whole number of 0 or more; the default where it is none."""
    value = get(thing, path, default)
    try:
        if 0 <= int(value) <= MOST:
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    odd(path.rpartition(".")[2], value)
    return default


class Features:
    """What a `VllmConfig` says, as far as this release of vLLM has it."""

    def __init__(self, config):
        name = get(config, "model_config.served_model_name") or get(config, "model_config.model", "")
        name = str(name[0] if isinstance(name, (list, tuple)) and name else name)
        self.model_name = name.encode(errors="replace").decode()  # A path may hold bytes that are no UTF-8.
        self.max_model_len = whole(config, "model_config.max_model_len", 0)
        self.is_diffusion = bool(get(config, "model_config.is_diffusion", False))
        self.num_speculative_tokens = whole(config, "speculative_config.num_speculative_tokens", 0)
        self.has_spec_decoding = get(config, "speculative_config") is not None or self.is_diffusion
        self.max_loras = get(config, "lora_config.max_loras")
        self.has_lora = get(config, "lora_config") is not None
        self.kv_role = kv_role(get(config, "kv_transfer_config.kv_role"))
        self.connectors = connectors_of(get(config, "kv_transfer_config"))  # Class name: kind, "" if unknown.
        self.front_ends = max(1, whole(config, "parallel_config._api_process_count", 1))
        self.record_types = self._record_types(config)

    def _record_types(self, config):
        observability = getattr(config, "observability_config", None)
        types = list(ALWAYS)
        if computes_nans():
            types.append("corrupted_requests")
        if get(observability, "kv_cache_metrics"):
            types.append("kv_block_eviction")
        if self.has_spec_decoding:
            types.append("diffusion_decoding" if self.is_diffusion else "spec_decoding")
        if get(observability, "enable_mfu_metrics"):
            types.append("perf_stats")
        if get(observability, "cudagraph_metrics"):
            types += ["cuda_graph", "cuda_graph_config"]
        if get(observability, "enable_logging_iteration_details"):
            types.append("iteration_details")
        if self.has_lora:
            types.append("lora_state")
        for kind in sorted(set(self.connectors.values()) - {""}):
            types.append(f"connector:{kind}")
            if kind == "offloading":
                types += offloading_parts(get(config, "kv_transfer_config"))
        return types


def computes_nans():
    environment = sys.modules.get("vllm.envs")
    try:
        if environment is not None:
            return bool(environment.VLLM_COMPUTE_NANS_IN_LOGITS)
        return bool(int(os.environ.get("VLLM_COMPUTE_NANS_IN_LOGITS", "0")))
    except (AttributeError, ValueError):
        return False


def kv_role(given):
    if given is not None and given not in tuple(KV_ROLES):
        odd("kv_role", given)
        return "none"
    return KV_ROLES.get(given, "none")


def connector_kind(name):
    """The KV connector's part in the name of its record types, by the name of its class; "" if it has none."""
    name = name.lower()
    if "mooncake" in name:
        return "mooncake_store" if "store" in name else "mooncake"
    return next((kind for kind in ("nixl", "moriio", "offloading", "hisparse") if kind in name), "")


def connectors_of(transfer):
    """{class name: kind} of the configured connector, or of a MultiConnector's children."""
    return {name: connector_kind(name) for name, _ in _configured(transfer)}


def _configured(transfer):
    """(class name, its options) of each connector, as far as the configuration is one."""
    name = getattr(transfer, "kv_connector", None)
    extra = getattr(transfer, "kv_connector_extra_config", None)
    if name == "MultiConnector":
        children = _options(extra).get("connectors", ())
        if not isinstance(children, (list, tuple)):
            odd("connectors", children)
            children = ()
        configured = []
        for child in children:
            if isinstance(child, dict):
                configured.append((child.get("kv_connector"), child.get("kv_connector_extra_config")))
            else:
                odd("connectors", child)
    else:
        configured = [(name, extra)]
    for name, extra in configured:
        if isinstance(name, str):
            if name:
                yield name, _options(extra)
        elif name is not None:
            odd("kv_connector", name)


def _options(extra):
    if extra is not None and not isinstance(extra, dict):
        odd("kv_connector_extra_config", extra)
        return {}
    return extra or {}


def offloading_parts(transfer):
    """Which of the offloading connector's families this release registers: they came one after the other."""
    extra = next((extra for name, extra in _configured(transfer) if connector_kind(name) == "offloading"), {})
    mentioned = _offloading_sources()
    parts = []
    if "cpu" in str(extra.get("spec_name", "CPUOffloadingSpec")).lower() and mentioned("cpu_cache_usage_perc"):
        parts.append("connector:offloading:cpu")
    if _threshold(extra.get("store_threshold")) >= 2 and mentioned("stores_skipped"):
        parts.append("connector:offloading:skipped")
    if mentioned("lookup_sync_delay"):
        parts.append("connector:offloading:lookup")
    if mentioned("kv_offload_config_info"):
        parts.append("connector:offloading:config")
    return parts


def _threshold(given):
    try:
        return float(given or 0)
    except (TypeError, ValueError):
        odd("store_threshold", given)
        return 0.0


def _offloading_sources():
    """A question to the sources of the installed vLLM: whether its offloading code names a metric.

    Importing them instead would drag in CUDA. Where there are none to read, the answer is yes: a family too many
    is better than counts that are lost.
    """
    # Not find_spec of the inner packages: that would import the outer ones.
    package = importlib.util.find_spec("vllm") if "vllm" not in sys.modules else sys.modules["vllm"].__spec__
    texts = []
    for folder in (package.submodule_search_locations or ()) if package else ():
        for place in ("v1/kv_offload", "distributed/kv_transfer/kv_connector/v1/offloading"):
            for path in glob.glob(f"{glob.escape(folder)}/{place}/**/*.py", recursive=True):
                try:
                    with open(path, encoding="utf-8", errors="replace") as source:
                        texts.append(source.read())
                except OSError:
                    pass
    return lambda name: not texts or any(name in text for text in texts)
