"""Policies that this package does not know: loaded by name, and never trusted with an answer."""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Callable
from typing import Any

from cache_management.cache.errors import ConfigurationError
from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.lru import LruEvictor
from cache_management.cache.records import Weight

logger = logging.getLogger("cache_management")


def guarded_factory(policy: Any) -> Callable[[], Evictor]:
    """Return a function that makes a guarded evictor for each group of entries.

    Args:
        policy: `package.module:Name` of a class or function without arguments, such a class or
            function itself, or an `Evictor` object, of which every group gets a copy.

    Raises:
        ConfigurationError: The name leads nowhere, or the object cannot be copied.
    """
    name = policy if isinstance(policy, str) else getattr(policy, "__qualname__", type(policy).__name__)
    make = _load(policy) if isinstance(policy, str) else policy
    if not callable(make):
        try:
            pristine = copy.deepcopy(make)
        except Exception as exc:
            raise ConfigurationError(
                f"eviction_policy: {name} cannot be copied ({exc}), and every group of entries needs its own; "
                "give its class instead"
            ) from exc
        make = lambda: copy.deepcopy(pristine)  # noqa: E731 - one line says it
    warned = False

    def warn_once(problem: str, error: Exception | None) -> None:
        nonlocal warned
        if not warned:
            warned = True
            logger.warning("the eviction policy %s %s: LRU goes on in its place", name, problem, exc_info=error)

    return lambda: GuardedEvictor(make, warn_once)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(
            f"eviction_policy: {path} cannot be loaded ({exc}); write package.module:Name of something importable"
        ) from exc
    if callable(found) or all(hasattr(found, name) for name in ("on_insert", "on_hit", "on_remove", "victim")):
        return found
    raise ConfigurationError(f"eviction_policy: {path} is a {type(found).__name__}, no evictor and no class of one")


class GuardedEvictor(Evictor):
    """Asks somebody else's policy, and keeps an LRU beside it that takes over when it fails.

    Failing is raising, naming a victim that is not there, and naming none while there are keys.
    The first failure is logged, and the policy is not asked again.
    """

    def __init__(self, make: Callable[[], Any], warn: Callable[[str, Exception | None], None]) -> None:
        self._lru = LruEvictor()
        self._warn = warn
        self._policy: Any = None
        try:
            self._policy = make()
        except Exception as exc:  # noqa: BLE001 - somebody else's code, here and below; the warning logs it
            self._give_up("could not be made", exc)

    def on_insert(self, key: str, weight: Weight) -> None:
        self._lru.on_insert(key, weight)
        if self._policy is not None:
            try:
                self._policy.on_insert(key, weight)
            except Exception as exc:  # noqa: BLE001
                self._give_up("failed in on_insert", exc)

    def on_hit(self, key: str) -> None:
        self._lru.on_hit(key)
        if self._policy is not None:
            try:
                self._policy.on_hit(key)
            except Exception as exc:  # noqa: BLE001
                self._give_up("failed in on_hit", exc)

    def on_remove(self, key: str) -> None:
        self._lru.on_remove(key)
        if self._policy is not None:
            try:
                self._policy.on_remove(key)
            except Exception as exc:  # noqa: BLE001
                self._give_up("failed in on_remove", exc)

    def victim(self) -> str | None:
        expected = self._lru.victim()
        if self._policy is None or expected is None:
            return expected
        try:
            key = self._policy.victim()
            if key in self._lru:
                return str(key)
        except Exception as exc:  # noqa: BLE001
            self._give_up("failed in victim", exc)
        else:
            self._give_up(f"named {key!r:.80}, which is not there", None)
        return expected

    def _give_up(self, problem: str, error: Exception | None) -> None:
        self._policy = None
        self._warn(problem, error)
