"""A stand-in for vLLM: the names, fields and call orders that rankbus's plug-ins meet, and nothing that computes.

FAKE_VLLM picks the generation: what a release's statistics objects have, what their fields are called, which base
classes its stat loggers have and how it calls them. Written from the project's description of vLLM's interfaces.
"""

from vllm.generation import GENERATION

__version__ = {"branches": "99.0.dev1", "current": "0.30.0"}.get(GENERATION, f"{GENERATION}.0")
