"""Keys that are not asked for twice soon go first (S3-FIFO)."""

from __future__ import annotations

from collections import OrderedDict

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Weight

_SMALL_SHARE = 0.1
_MOST_USES = 3
_USES_TO_STAY = 2


class S3FifoEvictor(Evictor):
    """Keeps a small queue on probation, a main queue, and the names of what left the small one.

    A new key waits in the small queue, a tenth of all. When it comes to its end with two hits it
    moves on to the main queue, else it goes and its name is kept for a while: a key that comes
    back in that time enters the main queue at once. There a key that was hit since it last came
    to the end goes round again. A hit only counts, up to 3; nothing is moved (Yang et al., "FIFO
    queues are all you need for cache eviction", 2023).
    """

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}
        self._small: OrderedDict[str, None] = OrderedDict()
        self._main: OrderedDict[str, None] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()  # hashes: a key may be long
        self._named: str | None = None
        self._was_full = False

    def on_insert(self, key: str, weight: Weight) -> None:
        if key in self._uses:
            self.on_hit(key)
            return
        self._uses[key] = 0
        ghost = hash(key)
        if ghost in self._ghosts:
            del self._ghosts[ghost]
            self._main[key] = None
        else:
            self._small[key] = None

    def on_hit(self, key: str) -> None:
        uses = self._uses.get(key, _MOST_USES)
        if uses < _MOST_USES:
            self._uses[key] = uses + 1

    def on_remove(self, key: str) -> None:
        if self._uses.pop(key, None) is None:
            return
        # A deleted or expired key leaves no ghost: it has not shown that it would be wanted again.
        is_evicted = key == self._named
        self._named = None
        if key not in self._small:
            del self._main[key]
            return
        del self._small[key]
        if is_evicted:
            self._ghosts[hash(key)] = None
            if len(self._ghosts) > len(self._uses) + 1:
                self._ghosts.popitem(last=False)

    def victim(self) -> str | None:
        if not self._was_full:
            self._was_full = True
            self._fill_main()
        self._named = self._leaving_small() if len(self._small) >= _SMALL_SHARE * len(self._uses) else None
        if self._named is None:
            self._named = self._leaving_main()
        return self._named

    def _fill_main(self) -> None:
        """Let what came before the store was full skip probation: nothing had to make room for it."""
        while len(self._small) > _SMALL_SHARE * len(self._uses):
            key, _ = self._small.popitem(last=False)
            self._main[key] = None

    def _leaving_small(self) -> str | None:
        while self._small:
            key = next(iter(self._small))
            if self._uses[key] < _USES_TO_STAY:
                return key
            del self._small[key]
            self._main[key] = None
            self._uses[key] = 0
        return None

    def _leaving_main(self) -> str | None:
        while self._main:
            key = next(iter(self._main))
            if self._uses[key] == 0:
                return key
            self._uses[key] -= 1
            self._main.move_to_end(key)
        return None
