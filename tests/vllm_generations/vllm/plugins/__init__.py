import vllm.envs as envs

STAT_LOGGER_PLUGINS_GROUP = "vllm.stat_logger_plugins"
DEFAULT_PLUGINS_GROUP = "vllm.general_plugins"
plugins_loaded = False


def load_plugins_by_group(group):
    from importlib.metadata import entry_points

    allowed = envs.VLLM_PLUGINS
    return {point.name: point.load() for point in entry_points(group=group) if allowed is None or point.name in allowed}


def load_general_plugins():
    global plugins_loaded
    if not plugins_loaded:
        plugins_loaded = True
        for function in load_plugins_by_group(DEFAULT_PLUGINS_GROUP).values():
            function()
