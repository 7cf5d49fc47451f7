"""Cache Management: answers that a language model gave once, kept and found again.

Names load on first use, so that `import cache_management` costs little and pulls
in no heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache_management.cache.cluster.distributed import DistributedCache as DistributedCache
    from cache_management.cache.compute import Computed as Computed
    from cache_management.cache.config import CacheBackend as CacheBackend
    from cache_management.cache.config import CacheConfig as CacheConfig
    from cache_management.cache.config import EmbeddingModel as EmbeddingModel
    from cache_management.cache.config import EvictionPolicy as EvictionPolicy
    from cache_management.cache.config import ReplicationConfig as ReplicationConfig
    from cache_management.cache.config import ShardingStrategy as ShardingStrategy
    from cache_management.cache.config import SimilarityConfig as SimilarityConfig
    from cache_management.cache.decorator import cached as cached
    from cache_management.cache.embeddings.cross_encoder import CrossEncoderOpinion as CrossEncoderOpinion
    from cache_management.cache.invalidation import Selection as Selection
    from cache_management.cache.llm import LLMCache as LLMCache
    from cache_management.cache.manager import CacheManager as CacheManager
    from cache_management.cache.reasoning.cache import ReasoningCache as ReasoningCache
    from cache_management.cache.reasoning.result import CoTStep as CoTStep
    from cache_management.cache.reasoning.result import ReasoningResult as ReasoningResult
    from cache_management.cache.reasoning.result import ToTNode as ToTNode
    from cache_management.cache.semantic.matcher import SimilarityMatcher as SimilarityMatcher
    from cache_management.cache.values import CachedResponse as CachedResponse
    from cache_management.cache.values import Lookup as Lookup
    from cache_management.cache.warmer import CacheWarmer as CacheWarmer
    from cache_management.gateway.clients import cached_anthropic as cached_anthropic
    from cache_management.gateway.clients import cached_openai as cached_openai
    from cache_management.gateway.transport import CachingTransport as CachingTransport
    from cache_management.metrics.collector import MetricsCollector as MetricsCollector
    from cache_management.workers.client import enqueue_warm as enqueue_warm

__version__ = "0.1.0"

_HOME = {
    "CacheBackend": "cache.config",
    "CacheConfig": "cache.config",
    "CacheManager": "cache.manager",
    "CacheWarmer": "cache.warmer",
    "CachedResponse": "cache.values",
    "CachingTransport": "gateway.transport",
    "CoTStep": "cache.reasoning.result",
    "Computed": "cache.compute",
    "CrossEncoderOpinion": "cache.embeddings.cross_encoder",
    "DistributedCache": "cache.cluster.distributed",
    "EmbeddingModel": "cache.config",
    "EvictionPolicy": "cache.config",
    "LLMCache": "cache.llm",
    "Lookup": "cache.values",
    "MetricsCollector": "metrics.collector",
    "ReasoningCache": "cache.reasoning.cache",
    "ReasoningResult": "cache.reasoning.result",
    "ReplicationConfig": "cache.config",
    "Selection": "cache.invalidation",
    "ShardingStrategy": "cache.config",
    "SimilarityConfig": "cache.config",
    "SimilarityMatcher": "cache.semantic.matcher",
    "ToTNode": "cache.reasoning.result",
    "cached": "cache.decorator",
    "cached_anthropic": "gateway.clients",
    "cached_openai": "gateway.clients",
    "enqueue_warm": "workers.client",
}
__all__ = sorted(_HOME)  # noqa: PLE0605 - computed from the table above


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as exc:
        from cache_management.cache.extras import missing_extra

        missing = missing_extra(exc)
        if missing is None:
            raise
        raise ImportError(f"{name} needs {missing}", name=exc.name) from exc
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
