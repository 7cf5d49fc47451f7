"""Replays key sequences through an evictor: hit ratio, money saved, and the optimum beside it."""

from __future__ import annotations

import gzip
import heapq
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.records import Weight

UNIT = Weight(size_bytes=1, cost=1.0)
WEB07 = "traces/cache2k_web07.txt.gz"


class Outcome(msgspec.Struct, frozen=True):
    """Shares of all requests: answered from the cache, and of their cost saved by that."""

    hits: float
    money: float


def replay(
    evictor: Evictor, keys: Sequence[str], *, capacity: int, weights: Mapping[str, Weight] | None = None
) -> Outcome:
    """Ask for each key and store what is missing, in a cache of `capacity` bytes (entries without `weights`)."""
    held: dict[str, int] = {}
    used = hits = 0
    saved = total = 0.0
    for key in keys:
        weight = UNIT if weights is None else weights[key]
        total += weight.cost
        if key in held:
            hits += 1
            saved += weight.cost
            evictor.on_hit(key)
            continue
        if weight.size_bytes > capacity:
            continue
        while used + weight.size_bytes > capacity:
            victim = evictor.victim()
            assert victim is not None
            used -= held.pop(victim)
            evictor.on_remove(victim)
        held[key] = weight.size_bytes
        used += weight.size_bytes
        evictor.on_insert(key, weight)
    return Outcome(hits / len(keys), saved / total)


def belady(keys: Sequence[str], *, capacity: int) -> float:
    """Return the best hit ratio there is for entries of equal size: who is needed last goes first."""
    upcoming: dict[str, float] = {}
    next_use = [math.inf] * len(keys)
    for at in range(len(keys) - 1, -1, -1):
        next_use[at] = upcoming.get(keys[at], math.inf)
        upcoming[keys[at]] = at
    held: dict[str, float] = {}
    heap: list[tuple[float, str]] = []
    hits = 0
    for key, needed in zip(keys, next_use, strict=True):
        if key in held:
            hits += 1
        elif len(held) >= capacity:
            while held.get(heap[0][1]) != -heap[0][0]:
                heapq.heappop(heap)
            del held[heapq.heappop(heap)[1]]
        held[key] = needed
        heapq.heappush(heap, (-needed, key))
    return hits / len(keys)


def read_trace(path: Path) -> list[str]:
    """Return the keys of a trace, one a line."""
    with gzip.open(path, "rt") as lines:
        return lines.read().split()


def llm_weights(keys: Sequence[str], *, seed: int = 7) -> dict[str, Weight]:
    """Give each key the size and the cost, in micro-dollars, of a made-up model answer.

    Tokens are lognormal (out 5.3/0.9, in 6.3/1.2); 60 % go to a model of $0.15/$0.60 a million in
    and out, 30 % to one of $2.5/$10, 10 % to one of $15/$75.
    """
    rng = random.Random(seed)
    weights = {}
    for key in dict.fromkeys(keys):
        tokens_out = max(1, round(rng.lognormvariate(5.3, 0.9)))
        tokens_in = max(1, round(rng.lognormvariate(6.3, 1.2)))
        price_in, price_out = rng.choices([(0.15, 0.6), (2.5, 10.0), (15.0, 75.0)], weights=[60, 30, 10])[0]
        cost = tokens_in * price_in + tokens_out * price_out
        weights[key] = Weight(size_bytes=4 * tokens_out + 300, cost=cost)
    return weights


def loop(count: int, rounds: int) -> list[str]:
    """Ask for the same keys in the same order, again and again."""
    return [f"k{at}" for at in range(count)] * rounds


def pairs(count: int, distance: int) -> list[str]:
    """Ask for every other key a second time soon after, and never again: only recency helps (as in corda)."""
    keys = []
    for at in range(count):
        keys += [f"once{at}", f"twice{at}", f"twice{max(0, at - distance)}"]
    return keys


def moving_favourites(*, phases: int, requests: int, seed: int = 1) -> list[str]:
    """Ask mostly for a few keys, other ones in each phase, between keys of no return (as in orm-busy)."""
    rng = random.Random(seed)
    keys = []
    for phase in range(phases):
        for at in range(requests):
            if rng.random() < 0.3:
                keys.append(f"once{phase}.{at}")
            else:
                keys.append(f"p{phase}.{min(int(rng.paretovariate(0.6)), 3000)}")
    return keys
