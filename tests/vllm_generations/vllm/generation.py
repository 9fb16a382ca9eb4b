"""The fields of each generation's classes: those of one generation, by class, with their defaults."""

import copy
import dataclasses
import os

GENERATIONS = ("0.8", "0.11", "0.15", "current", "branches")
GENERATION = os.environ.get("FAKE_VLLM", "current")
assert GENERATION in GENERATIONS, f"FAKE_VLLM={GENERATION}: expected one of {GENERATIONS}"
AGE = GENERATIONS.index(GENERATION)


def since(generation, **fields):
    return fields if GENERATIONS.index(generation) <= AGE else {}


def until(generation, **fields):
    return fields if AGE <= GENERATIONS.index(generation) else {}


def record_class(name, **fields):
    """A dataclass whose mutable defaults are its instances' own. A class as default stands for one of its instances."""
    members = []
    for field, default in fields.items():
        make = default if isinstance(default, type) else lambda default=default: copy.copy(default)
        members.append((field, object, dataclasses.field(default_factory=make)))
    return dataclasses.make_dataclass(name, members)
