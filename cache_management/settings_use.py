"""Which settings have no effect beside the others, and why. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from pydantic import BaseModel

from cache_management.cache.config import CacheBackend, EvictionPolicy
from cache_management.settings import Settings, setting_names

_SERVER = ("redis_host", "redis_port", "redis_db")
_REDIS = (*_SERVER, "redis_username", "redis_password", "redis_ssl", "redis_memory_limit")
_DISK = ("disk_path", "disk_size_limit")
_WATERMARKS = ("eviction_high_watermark", "eviction_low_watermark")
_IN_URL = ("backend", *_SERVER, "redis_username", "redis_password", "redis_ssl", "disk_path")


class Unused(NamedTuple):
    """A setting that says something and changes nothing."""

    key: str
    why: str


def unused_settings(settings: Settings, given: Collection[str]) -> list[Unused]:
    """Return which of the settings that are given are not used, in their order, each once."""
    first: dict[str, str] = {}
    for key, why in _rules(settings):
        first.setdefault(key, why)
    return [Unused(key, first[key]) for key in given if key in first]


def changed_settings(settings: Settings) -> list[str]:
    """Return the settings that are not what they would be if nobody had named them; what others imply is left out."""
    implied = {"disk_path", *(_IN_URL if settings.url else ())}
    return [name for name in setting_names() if name not in implied and _is_changed(settings, name)]


def _is_changed(settings: Settings, name: str) -> bool:
    part: BaseModel = settings
    *above, last = name.split(".")
    for each in above:
        part = getattr(part, each)
    return bool(getattr(part, last) != type(part).model_fields[last].get_default(call_default_factory=True))


def _rules(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what is not used; of a key for which several hold the first counts."""
    if settings.url:
        yield from ((key, "url says it, and wins") for key in _IN_URL)
    is_replicated = settings.distributed.enabled
    if is_replicated:
        unused = (*_SERVER, "redis_memory_limit", *_DISK, "max_size", "memory_limit")
        yield from ((key, "distributed.enabled keeps the entries on distributed.nodes") for key in unused)
    else:
        others = [f"distributed.{name}" for name in type(settings.distributed).model_fields if name != "enabled"]
        yield from ((key, "distributed.enabled is false") for key in others)
        yield from _of_other_backends(settings)
    if settings.is_cluster:
        why = "the nodes of a Redis Cluster evict by their own maxmemory-policy"
        yield from ((key, why) for key in ("eviction_policy", *_WATERMARKS))
    if settings.eviction_policy is not EvictionPolicy.AUTO:
        yield "eviction_objective", f"eviction_policy is {settings.eviction_policy}, and only auto has an aim"
    if settings.eviction_policy not in (EvictionPolicy.AUTO, EvictionPolicy.GDSF):
        yield "eviction_cost_weight", f"eviction_policy is {settings.eviction_policy}; gdsf weighs costs"
    if not settings.near_max_size:
        yield "near_memory_limit", "near_max_size is 0"
    if settings.encryption_keys_file is not None:
        yield "encryption_keys", "encryption_keys_file says it, and wins"
    if not settings.provider.is_set:
        others = [f"provider.{name}" for name in type(settings.provider).model_fields]
        yield from ((key, "no provider is set: provider.command or provider.callable") for key in others)
    if settings.semantic.serves == "static":
        yield "semantic.recheck_rate", "nothing is verified: semantic.mode is static"
    if settings.semantic.engine == "onnx":
        yield "semantic.device", "it is for torch, and semantic.engine is onnx"
    if not settings.metrics.enabled:
        yield from ((key, "metrics.enabled is false") for key in ("metrics.port", "metrics.folder"))


def _of_other_backends(settings: Settings) -> Iterator[tuple[str, str]]:
    backend = settings.backend
    why = f"the backend is {backend}"
    if backend is not CacheBackend.REDIS:
        yield from ((key, why) for key in _REDIS)
    if backend is not CacheBackend.DISK:
        yield from ((key, why) for key in _DISK)
    if backend is not CacheBackend.MEMORY:
        yield "memory_limit", why
    if backend is CacheBackend.REDIS:
        yield "max_size", "on Redis entries are bounded by redis_memory_limit or the server's maxmemory"
    if backend is CacheBackend.MEMORY:
        yield from ((key, why) for key in _WATERMARKS)
