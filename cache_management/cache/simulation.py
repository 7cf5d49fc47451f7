"""What a cache of some configuration would have done with a log of requests: the real parts, and the log's own clock.

Nothing of the cache is modelled. Answers are "computed" by taking those of the log; a store in memory, the matcher, the
gates and the eviction policy are those that would be deployed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from cache_management.cache.compute import Computed
from cache_management.cache.config import GATE_NAMES, CacheBackend, CacheConfig, SimilarityConfig
from cache_management.cache.embeddings.base import Embedder
from cache_management.cache.events import Event, RefusedEvent
from cache_management.cache.front_door import FrontDoor
from cache_management.cache.llm import LLMCache
from cache_management.cache.prices import price_of
from cache_management.cache.request_logs import LoggedRequest
from cache_management.cache.semantic.intervals import Interval, wilson

if TYPE_CHECKING:
    from cache_management.cache.backends.memory import MemoryBackend

_GROUP = "simulated_group"
_TOLD_EVERY = 50
_BOUNDS = ("max_entry_bytes", "memory_limit", "eviction_objective", "eviction_cost_weight")


class Scenario(msgspec.Struct, frozen=True):
    """One configuration to try. `threshold` None: exact answers only. `ttl_seconds` None: for ever."""

    threshold: float | None
    gates: bool = True
    policy: Any = "lru"
    max_size: int = 10_000
    ttl_seconds: int | None = 3600

    @property
    def name(self) -> str:
        """Say it in a few words."""
        meaning = "exact only" if self.threshold is None else f"from {self.threshold:.2f}"
        gates = "" if self.gates or self.threshold is None else ", no gates"
        life = "no end" if self.ttl_seconds is None else f"{self.ttl_seconds:,} s"
        return f"{meaning}{gates}, {self.policy}, {self.max_size:,} entries, {life}"


class Replayed(msgspec.Struct, frozen=True):
    """What came of a scenario. Money is in micro-dollars; `unpriced` hits saved what nobody told.

    `judged` answers by meaning have labels on both sides, and `wrong` of them belong to another group. `conflicts`
    are exact hits of another group: equal requests that the labels part. `not_kept` are answers that the cache refused
    to store, by reason.
    """

    scenario: Scenario
    requests: int
    exact: int
    semantic: int
    evicted: int
    tokens_saved: int
    saved_micro: int
    unpriced: int
    judged: int
    wrong: int
    most_bytes: int
    hits_by_part: list[float]
    not_kept: dict[str, int]
    conflicts: int

    @property
    def hit_rate(self) -> float:
        """Return hits over requests, 0 to 1."""
        return (self.exact + self.semantic) / self.requests if self.requests else 0.0

    @property
    def false_hits(self) -> Interval | None:
        """Return the share of wrong ones among judged answers by meaning, with its interval; None without labels."""
        return wilson(self.wrong, self.judged) if self.judged else None


class _LogClock:
    """The time of the log, which stands still at requests without one; a second a request where none has one."""

    def __init__(self, requests: Sequence[LoggedRequest]) -> None:
        first = next((each.at for each in requests if each.at is not None), None)
        self._timed = first is not None
        self.now = 1e9 if first is None else first  # a log may count from 0

    def __call__(self) -> float:
        return self.now

    def turn_to(self, logged: LoggedRequest) -> None:
        if not self._timed:
            self.now += 1.0
        elif logged.at is not None:
            self.now = max(self.now, logged.at)


async def replay(
    requests: Sequence[LoggedRequest],
    scenario: Scenario,
    *,
    embedder: Embedder | None,
    config: CacheConfig | None = None,
    meaning: SimilarityConfig | None = None,
    prices: Mapping[str, float] | None = None,
    parts: int = 20,
    on_progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Ask a cache of a configuration for each request in turn.

    Args:
        embedder: Embeds questions; needed where a scenario has a threshold. Share one that remembers among scenarios.
        config: Says what a scenario does not: how large an entry and the whole may be, and what eviction aims at.
        meaning: Says what a scenario does not: which gates are off, how long "today" is, what of conversations counts.
        prices: Dollars for a million tokens by model, for requests whose cost is not in the log.
        parts: Into how many pieces of equal length `hits_by_part` cuts the log.
        on_progress: Hears how many requests are done.
    """
    clock = _LogClock(requests)
    refused: Counter[str] = Counter()

    def hear(event: Event) -> None:
        if isinstance(event, RefusedEvent):
            refused[event.reason] += 1

    cache = LLMCache(_in_memory(scenario, config or CacheConfig()), clock=clock, listener=hear)
    store = cast("MemoryBackend", cache.backend)
    matcher = None
    if scenario.threshold is not None and embedder is not None:
        from cache_management.cache.semantic.matcher import SimilarityMatcher  # numpy, which exact answers do not need

        compared = _compared(scenario.threshold, scenario, meaning or SimilarityConfig())
        matcher = SimilarityMatcher(compared, backend=store, embedder=embedder, clock=clock)
    door = FrontDoor(cache, matcher)
    counts = dict.fromkeys(
        ("exact", "semantic", "tokens", "micro", "unpriced", "judged", "wrong", "conflicts", "most"), 0
    )
    hits: list[bool] = []
    try:
        for logged in requests:
            clock.turn_to(logged)
            hits.append(await _ask(door, logged, counts, prices or {}))
            counts["most"] = max(counts["most"], store.size_bytes)
            if on_progress is not None and len(hits) % _TOLD_EVERY == 0:
                on_progress(len(hits))
    finally:
        await door.aclose()
        await cache.aclose()
    if on_progress is not None:
        on_progress(len(hits))
    return Replayed(
        scenario=scenario,
        requests=len(requests),
        exact=counts["exact"],
        semantic=counts["semantic"],
        evicted=cache.stats.evictions,
        tokens_saved=counts["tokens"],
        saved_micro=counts["micro"],
        unpriced=counts["unpriced"],
        judged=counts["judged"],
        wrong=counts["wrong"],
        most_bytes=counts["most"],
        hits_by_part=_by_part(hits, parts),
        not_kept=dict(refused),
        conflicts=counts["conflicts"],
    )


def _in_memory(scenario: Scenario, config: CacheConfig) -> CacheConfig:
    return CacheConfig(
        backend=CacheBackend.MEMORY,
        max_size=scenario.max_size,
        eviction_policy=scenario.policy,
        ttl_seconds=-1 if scenario.ttl_seconds is None else scenario.ttl_seconds,
        early_refresh_beta=0,  # nothing is recomputed behind the log's back
        **{name: getattr(config, name) for name in _BOUNDS},
    )


def _compared(threshold: float, scenario: Scenario, meaning: SimilarityConfig) -> SimilarityConfig:
    return SimilarityConfig(
        threshold=threshold,
        gates_off=meaning.gates_off if scenario.gates else GATE_NAMES,
        fresh_seconds=meaning.fresh_seconds,
        conversations=meaning.conversations,
        folder=None,
    )


async def _ask(door: FrontDoor, logged: LoggedRequest, counts: dict[str, int], prices: Mapping[str, float]) -> bool:
    async def compute() -> Computed:
        return Computed(
            response=logged.response,
            model=logged.request.model,
            token_count=logged.tokens,
            cost_micro=logged.cost_micro,
            metadata={} if logged.group is None else {_GROUP: logged.group},
            finish_reason=logged.finish_reason,
            has_tool_calls=logged.has_tool_calls,
        )

    found = await door.answer(logged.request, compute)
    if found.kind is None:
        return False
    counts[found.kind] += 1
    counts["tokens"] += logged.tokens
    cost = logged.cost_micro
    if cost is None:
        price = price_of(logged.request.model or "", prices)
        cost = None if price is None else round(price * logged.tokens)
    if cost is None:
        counts["unpriced"] += 1
    else:
        counts["micro"] += cost
    group = found.response.metadata.get(_GROUP)
    if logged.group is not None and group is not None:
        if found.kind == "semantic":
            counts["judged"] += 1
            counts["wrong"] += group != logged.group
        else:
            counts["conflicts"] += group != logged.group
    return True


def _by_part(hits: Sequence[bool], parts: int) -> list[float]:
    size = max(1, -(-len(hits) // parts))
    pieces = [hits[at : at + size] for at in range(0, len(hits), size)]
    return [sum(piece) / len(piece) for piece in pieces]
