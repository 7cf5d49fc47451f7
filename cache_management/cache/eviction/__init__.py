"""What goes first when a store is full. Which policy for what: docs/design/0005-eviction.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from cache_management.cache.config import EvictionObjective, EvictionPolicy, parse_policy
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.custom import guarded_factory
from cache_management.cache.eviction.gdsf import GdsfEvictor
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.eviction.lru import LruEvictor
from cache_management.cache.eviction.s3fifo import S3FifoEvictor
from cache_management.cache.eviction.ttl import TtlEvictor


def evictor_factory(
    policy: Any = EvictionPolicy.LRU,
    *,
    objective: EvictionObjective = EvictionObjective.HIT_RATIO,
    cost_weight: float = 1.0,
) -> Callable[[], Evictor]:
    """Return a function that makes a fresh evictor for each group of entries.

    Args:
        policy: An `EvictionPolicy`, or a policy of one's own, see `guarded_factory`.
        objective: What `auto` aims at.
        cost_weight: The a of `gdsf`, 0 to 1.

    Raises:
        ConfigurationError: There is no such policy, or one's own cannot be loaded.
    """
    try:
        policy = parse_policy(policy)
    except ValueError as exc:
        raise ConfigurationError(f"eviction_policy: {exc} (got {policy!r:.80})") from None
    if not isinstance(policy, EvictionPolicy):
        return guarded_factory(policy)
    match policy:
        case EvictionPolicy.LRU:
            return LruEvictor
        case EvictionPolicy.LFU:
            return LfuEvictor
        case EvictionPolicy.TTL:
            return TtlEvictor
        case EvictionPolicy.S3FIFO:
            return S3FifoEvictor
        case EvictionPolicy.GDSF:
            return lambda: GdsfEvictor(cost_weight=cost_weight)
        case EvictionPolicy.AUTO:
            return _best_for(objective)
        case _:
            assert_never(policy)


def make_evictor(
    policy: Any,
    *,
    objective: EvictionObjective = EvictionObjective.HIT_RATIO,
    cost_weight: float = 1.0,
) -> Evictor:
    """Return a fresh evictor for a policy; see `evictor_factory`."""
    return evictor_factory(policy, objective=objective, cost_weight=cost_weight)()


def _best_for(objective: EvictionObjective) -> Callable[[], Evictor]:
    match objective:
        case EvictionObjective.HIT_RATIO:
            return S3FifoEvictor
        case EvictionObjective.BALANCED:
            return lambda: GdsfEvictor(cost_weight=0.5)
        case EvictionObjective.MONEY:
            return lambda: GdsfEvictor(cost_weight=1.0)
        case _:
            assert_never(objective)
