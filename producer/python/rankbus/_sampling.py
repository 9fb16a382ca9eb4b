"""Which KV blocks are followed: the rule of bus/sampling.hpp, so that everybody follows the same ones."""

from collections.abc import Iterable

_MASK = (1 << 64) - 1


def is_sampled(block_id: int, sample_rate: float) -> bool:
    """Whether a block of that id is in the sample. It is a property of the id, not of the moment."""
    bits = (block_id + 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((bits ^ (bits >> 31)) >> 11) * 2.0**-53 < sample_rate


def sampled(block_ids: Iterable[int], sample_rate: float) -> list[int]:
    """Those of the blocks that are followed, in their order: the `block_ids` of a record kv_block_operations."""
    return [block_id for block_id in block_ids if is_sampled(block_id, sample_rate)]
