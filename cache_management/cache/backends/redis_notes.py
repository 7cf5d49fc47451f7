"""What this process stored, read and removed of late, for the queue that says what goes first on Redis.

Noting costs a dict entry and no call waits for it; `tell` brings the notes to the server. A process
that dies takes its last notes along: they only say what goes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from cache_management.cache.backends.forks import forks
from cache_management.cache.backends.redis_node import RedisNode
from cache_management.cache.clock import Clock
from cache_management.cache.config import CacheConfig, EvictionObjective, EvictionPolicy
from cache_management.cache.eviction.gdsf import GdsfEvictor
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.records import Record, Weight

LIFE_MS = 24 * 3600 * 1000
"""How long the queue stays when nobody writes any more."""

_AT_ONCE = 500
_MOST = 20_000  # more of one moment are dropped


class Queue:
    """The names of the sorted set and what stands beside it; each rule has its own, as their ranks differ."""

    def __init__(self, config: CacheConfig) -> None:
        self.rule, self.worth, name = _rule(config)
        self.names = [f"cm1:evict:{name}:{part}" for part in ("queue", "marks", "state", "ghosts")]
        self.queue, self.marks, self.state, _ = self.names


class Notes:
    """Gathers notes and tells them; `stored_bytes` counts what was written since the last time."""

    def __init__(self, queue: Queue, *, clock: Clock) -> None:
        self.stored_bytes = 0
        self._queue = queue
        self._clock = clock
        self._notes: dict[str, _Note] = {}
        self._forks = forks()
        self._forks_seen = self._forks[0]

    def __len__(self) -> int:
        if self._forks_seen != self._forks[0]:
            self.clear()  # the parent tells its own
            self._forks_seen = self._forks[0]
        return len(self._notes)

    def __contains__(self, key: str) -> bool:
        return key in self._notes

    def stored(self, key: str, record: Record, size_bytes: int) -> None:
        """Note that a record was written."""
        note = self._note(key)
        worth = self._queue.worth.worth(Weight(size_bytes, record.cost_micro, record.expires_at))
        note.uses = 1 if note.what == "d" else note.uses + 1
        note.what, note.worth = "s", worth
        if self._queue.rule == "ttl":
            note.place = math.inf if record.expires_at is None else record.expires_at
        self.stored_bytes += size_bytes

    def read(self, key: str) -> None:
        """Note that a record was read."""
        note = self._note(key)
        note.uses += 1

    def removed(self, keys: Iterable[str]) -> None:
        """Note that records were deleted."""
        for key in keys:
            self._note(key).what = "d"

    def clear(self) -> None:
        self._notes = {}
        self.stored_bytes = 0

    async def tell(self, node: RedisNode) -> None:
        """Bring the notes into the queue; they are gone from here then, told or not.

        Raises:
            BackendUnavailable: The server did not take them.
        """
        notes = list(self._notes.items())
        self.clear()
        for start in range(0, len(notes), _AT_ONCE):
            words: list[Any] = []
            for key, note in notes[start : start + _AT_ONCE]:
                words += [key, note.what, note.uses, repr(note.worth), repr(note.place)]
            await node.run_script("note_uses", self._queue.names, [self._queue.rule, LIFE_MS, *words])

    def _note(self, key: str) -> _Note:
        note = self._notes.get(key)
        if note is None:
            note = _Note()
            if len(self._notes) < _MOST:
                self._notes[key] = note
        if self._queue.rule != "ttl":
            note.place = self._clock()
        return note


class _Note(msgspec.Struct, gc=False):
    """`what` is stored, read or deleted; `place` the moment of the last use, or of the expiry under `ttl`."""

    what: Literal["s", "r", "d"] = "r"
    uses: int = 0
    worth: float = 0.0
    place: float = 0.0


def _rule(config: CacheConfig) -> tuple[str, LfuEvictor, str]:
    """Return the scripts' word for a policy, what says how much one use is worth, and the queue's name."""
    policy = config.eviction_policy
    cost_weight = config.eviction_cost_weight
    if policy is EvictionPolicy.AUTO:
        policy = EvictionPolicy.GDSF
        match config.eviction_objective:
            case EvictionObjective.HIT_RATIO:
                policy = EvictionPolicy.S3FIFO
            case EvictionObjective.BALANCED:
                cost_weight = 0.5
            case EvictionObjective.MONEY:
                cost_weight = 1.0
    if policy is EvictionPolicy.GDSF:
        return "lfu", GdsfEvictor(cost_weight=cost_weight), f"gdsf-{cost_weight}"
    return str(policy.value), LfuEvictor(), str(policy.value)
