"""Tags within one process."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from cache_management.cache.backends.base import Tags
from cache_management.cache.backends.local_lock import local_lock
from cache_management.cache.clock import Clock, system_clock

_SWEEP_FROM = 128


class LocalTags(Tags):
    """Keeps tags in a dict, for all threads; what expired is swept out whenever a tag has doubled."""

    def __init__(self, clock: Clock = system_clock) -> None:
        self._tag_clock = clock
        self._lock = local_lock()
        self._tags: dict[str, dict[str, float | None]] = {}
        self._sweep_at: dict[str, int] = {}

    async def add_tags(self, tags: Mapping[str, Mapping[str, float | None]]) -> None:
        now = self._tag_clock()
        with self._lock:
            for tag, keys in tags.items():
                held = self._tags.setdefault(tag, {})
                held.update(keys)
                if len(held) >= self._sweep_at.get(tag, _SWEEP_FROM):
                    self._tags[tag] = _alive(held, now)
                    self._sweep_at[tag] = max(_SWEEP_FROM, 2 * len(self._tags[tag]))

    async def tagged(self, tag: str) -> list[str]:
        now = self._tag_clock()
        with self._lock:
            return list(_alive(self._tags.get(tag, {}), now))

    async def tagged_page(self, tag: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        return _page(await self.tagged(tag), bookmark, limit)

    async def tags_page(self, prefix: str, bookmark: str, limit: int) -> tuple[list[str], str | None]:
        with self._lock:
            tags = [tag for tag in self._tags if tag.startswith(prefix)]
        return _page(tags, bookmark, limit)

    def drop_expired_tags(self) -> int:
        """Drop all names that expired, and tags without a name; return how many names went."""
        now = self._tag_clock()
        dropped = 0
        with self._lock:
            for tag, held in list(self._tags.items()):
                alive = _alive(held, now)
                dropped += len(held) - len(alive)
                self._tags[tag] = alive
                if not alive:
                    del self._tags[tag]
                    self._sweep_at.pop(tag, None)
        return dropped

    async def remove_tags(self, tags: Mapping[str, Sequence[str]]) -> None:
        with self._lock:
            for tag, keys in tags.items():
                held = self._tags.get(tag, {})
                for key in keys:
                    held.pop(key, None)
                if not held:
                    self._tags.pop(tag, None)
                    self._sweep_at.pop(tag, None)


def _alive(held: Mapping[str, float | None], now: float) -> dict[str, float | None]:
    return {key: expires_at for key, expires_at in held.items() if expires_at is None or expires_at > now}


def _page(names: Iterable[str], bookmark: str, limit: int) -> tuple[list[str], str | None]:
    page = heapq.nsmallest(limit, (name for name in names if name > bookmark))
    return page, page[-1] if len(page) == limit else None
