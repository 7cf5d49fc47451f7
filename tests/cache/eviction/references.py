"""Slow and obvious policies: lists that are searched, with no clever structure to get wrong."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod

from cache_management.cache.records import Weight


class Reference(ABC):
    """What an evictor shall do; `victim` names every key that may go."""

    @abstractmethod
    def insert(self, key: str, weight: Weight) -> None: ...
    @abstractmethod
    def hit(self, key: str) -> None: ...
    @abstractmethod
    def remove(self, key: str) -> None: ...
    @abstractmethod
    def victims(self) -> list[str]: ...
    @abstractmethod
    def evict(self, key: str) -> None:
        """Remove a victim because of its rank, not because it was deleted."""

    @abstractmethod
    def keys(self) -> set[str]: ...


class RankedReference(Reference):
    """Gives each key a rank and an age, and searches all of them."""

    def __init__(self) -> None:
        self.ticks = itertools.count()
        self.rank: dict[str, float] = {}
        self.last: dict[str, int] = {}
        self.uses: dict[str, int] = {}
        self.weight: dict[str, Weight] = {}

    def insert(self, key: str, weight: Weight) -> None:
        self.weight[key] = weight
        self.uses[key] = self.uses.get(key, 0) + 1
        self.learn(weight)
        self.rank[key] = self.rank_of(key)
        self.last[key] = next(self.ticks)

    def hit(self, key: str) -> None:
        if key in self.rank:
            self.uses[key] += 1
            self.rank[key] = self.rank_of(key)
            self.last[key] = next(self.ticks)

    def remove(self, key: str) -> None:
        for each in (self.rank, self.last, self.uses, self.weight):
            each.pop(key, None)

    def victims(self) -> list[str]:
        return [min(self.rank, key=lambda key: (self.rank[key], self.last[key]))] if self.rank else []

    def evict(self, key: str) -> None:
        self.remove(key)

    def keys(self) -> set[str]:
        return set(self.rank)

    def learn(self, weight: Weight) -> None:
        """See the weight of a new entry."""

    def rank_of(self, key: str) -> float:
        return 0.0


class LruReference(RankedReference):
    """The lowest rank is that of the longest unused."""


class TtlReference(RankedReference):
    def rank_of(self, key: str) -> float:
        expires_at = self.weight[key].expires_at
        return math.inf if expires_at is None else expires_at


class AgedReference(RankedReference):
    """H = L + uses * worth, with L the H of the last victim."""

    def __init__(self, cost_weight: float | None = None) -> None:
        super().__init__()
        self.age = 0.0
        self.cost_weight = cost_weight
        self.costs: list[float] = []
        self.worth: dict[str, float] = {}

    def learn(self, weight: Weight) -> None:
        if weight.cost > 0:
            self.costs.append(weight.cost)

    def insert(self, key: str, weight: Weight) -> None:
        self.worth.pop(key, None)
        super().insert(key, weight)

    def rank_of(self, key: str) -> float:
        if key not in self.worth:
            self.worth[key] = self.worth_of(self.weight[key])
        return self.age + self.uses[key] * self.worth[key]

    def worth_of(self, weight: Weight) -> float:
        if self.cost_weight is None:
            return 1.0
        typical = math.prod(self.costs) ** (1 / len(self.costs)) if self.costs else 1.0
        return (weight.cost or typical) ** self.cost_weight / weight.size_bytes

    def remove(self, key: str) -> None:
        super().remove(key)
        self.worth.pop(key, None)

    def victims(self) -> list[str]:
        if not self.rank:
            return []
        lowest = min(self.rank.values())
        self.age = lowest
        # Fractions of a cost are rounded, so near equals may go in either order; whole numbers are exact.
        exact = self.cost_weight in {None, 0.0}
        return super().victims() if exact else [key for key, rank in self.rank.items() if rank - lowest < 1e-9]

    def evict(self, key: str) -> None:
        self.age = self.rank[key]
        self.remove(key)


class S3FifoReference(Reference):
    """The rules of the paper, on lists whose first element is the oldest."""

    def __init__(self) -> None:
        self.small: list[str] = []
        self.main: list[str] = []
        self.ghosts: list[str] = []
        self.uses: dict[str, int] = {}
        self.was_full = False

    def keys(self) -> set[str]:
        return {*self.small, *self.main}

    def insert(self, key: str, weight: Weight) -> None:
        if key in self.keys():
            self.hit(key)
        elif key in self.ghosts:
            self.ghosts.remove(key)
            self.main.append(key)
            self.uses[key] = 0
        else:
            self.small.append(key)
            self.uses[key] = 0

    def hit(self, key: str) -> None:
        if key in self.keys():
            self.uses[key] = min(self.uses[key] + 1, 3)

    def remove(self, key: str) -> None:
        if key in self.keys():
            (self.small if key in self.small else self.main).remove(key)

    def victims(self) -> list[str]:
        if not self.keys():
            self.was_full = True
            return []
        if not self.was_full:
            self.was_full = True
            while len(self.small) > 0.1 * len(self.keys()):
                self.main.append(self.small.pop(0))
        if len(self.small) >= 0.1 * len(self.keys()):
            while self.small:
                if self.uses[self.small[0]] < 2:
                    return [self.small[0]]
                self.uses[self.small[0]] = 0
                self.main.append(self.small.pop(0))
        while self.uses[self.main[0]] > 0:
            self.uses[self.main[0]] -= 1
            self.main.append(self.main.pop(0))
        return [self.main[0]]

    def evict(self, key: str) -> None:
        was_on_probation = key in self.small
        self.remove(key)
        if was_on_probation:
            self.ghosts.append(key)
            if len(self.ghosts) > len(self.keys()) + 1:
                self.ghosts.pop(0)
