"""Places that keep records."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never, get_args

from cache_management.cache.backends.base import Backend
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.clock import Clock, system_clock
from cache_management.cache.config import CacheBackend, CacheConfig, EvictionPolicy
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.events import Listener, ignore
from cache_management.cache.identity import Kind, storage_prefix

if TYPE_CHECKING:
    from cache_management.cache.crypto import Keyring


def open_backend(config: CacheConfig, *, clock: Clock = system_clock, listener: Listener = ignore) -> Backend:
    """Return the backend that a configuration asks for; nothing is connected yet.

    Raises:
        ImportError: A driver is not installed; the message names the extra.
        ConfigurationError: The encryption keys cannot be used.
    """
    return enclose(_open_store(config, clock=clock, listener=listener), config, clock=clock, listener=listener)


def follow_policy(backend: Backend, config: CacheConfig, policy: EvictionPolicy) -> CacheConfig:
    """Let a store evict by another policy from now on; return the configuration that says so.

    Raises:
        ConfigurationError: There is no such policy, or the store evicts by none of ours.
    """
    changed = config.with_eviction_policy(policy)
    if not isinstance(backend, FullBackend):
        raise ConfigurationError(f"the {backend.name} backend evicts by no policy: leave eviction_policy out")
    backend.evict_by(changed)
    return changed


def enclose(
    store: FullBackend, config: CacheConfig, *, clock: Clock = system_clock, listener: Listener = ignore
) -> FullBackend:
    """Return a store with what a configuration puts around any: encryption, and memory in front.

    Raises:
        ImportError: A library is not installed; the message names the extra.
        ConfigurationError: The encryption keys cannot be used.
    """
    store = _encrypted(store, config, listener)
    return _with_memory_in_front(store, config, clock) if config.near_max_size else store


def _encrypted(store: FullBackend, config: CacheConfig, listener: Listener) -> FullBackend:
    keyring = open_keyring(config)
    if keyring is None:
        return store
    from cache_management.cache.backends.encrypted import EncryptedBackend

    return EncryptedBackend(store, keyring, listener=listener)


def open_keyring(config: CacheConfig) -> Keyring | None:
    """Return the keys that values are encrypted with, None when they are not to be.

    Raises:
        ImportError: The extra for it is not installed.
        ConfigurationError: The keys cannot be used.
    """
    if config.encryption_keys is None and config.encryption_keys_file is None:
        return None
    from cache_management.cache.crypto import Keyring

    if config.encryption_keys_file is not None:
        return Keyring.from_file(config.encryption_keys_file)
    text = config.encryption_keys.get_secret_value() if config.encryption_keys else ""
    return Keyring.from_text(text, where="encryption_keys")


def _with_memory_in_front(store: FullBackend, config: CacheConfig, clock: Clock) -> FullBackend:
    from cache_management.cache.backends.memory import MemoryBackend
    from cache_management.cache.backends.tiered import TieredBackend

    near = MemoryBackend(
        max_size=config.near_max_size,
        memory_limit=config.near_memory_limit,
        policy=EvictionPolicy.S3FIFO,
        clock=clock,
    )
    prefixes = [storage_prefix(kind, config.namespace) for kind in get_args(Kind)]
    return TieredBackend(store, near, prefixes=prefixes)


def _open_store(config: CacheConfig, *, clock: Clock, listener: Listener) -> FullBackend:
    match config.backend:
        case CacheBackend.MEMORY:
            from cache_management.cache.backends.memory import MemoryBackend

            return MemoryBackend(
                max_size=config.max_size,
                memory_limit=config.memory_limit,
                policy=config.eviction_policy,
                objective=config.eviction_objective,
                cost_weight=config.eviction_cost_weight,
                clock=clock,
                listener=listener,
            )
        case CacheBackend.DISK:
            from cache_management.cache.backends.disk import DiskBackend
            from cache_management.cache.backends.guarded import GuardedBackend

            return GuardedBackend(
                DiskBackend(
                    config.disk_path,
                    max_size=config.max_size,
                    size_limit_bytes=config.disk_size_limit,
                    policy=config.eviction_policy,
                    objective=config.eviction_objective,
                    cost_weight=config.eviction_cost_weight,
                    low_watermark=config.eviction_low_watermark,
                    timeout_seconds=config.timeout_seconds,
                    clock=clock,
                    listener=listener,
                )
            )
        case CacheBackend.REDIS if config.is_cluster:
            from cache_management.cache.backends.redis_cluster import RedisClusterBackend

            # Each node has a breaker of its own: one that is down must not shut out the others. Nothing is batched
            # either, as a batch would fail as a whole; what one loop turn reads of a node is written at once anyway.
            return RedisClusterBackend(config, clock=clock, listener=listener)
        case CacheBackend.REDIS:
            from cache_management.cache.backends.batching import BatchingBackend
            from cache_management.cache.backends.guarded import GuardedBackend
            from cache_management.cache.backends.redis import RedisBackend

            return GuardedBackend(BatchingBackend(RedisBackend(config, clock=clock, listener=listener)))
        case _:
            assert_never(config.backend)
