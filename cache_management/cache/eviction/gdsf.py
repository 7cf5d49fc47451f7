"""Least worth for its bytes goes first (GreedyDual-Size with Frequency)."""

from __future__ import annotations

import math

from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.records import Weight

_COSTS_REMEMBERED = 1000


class GdsfEvictor(LfuEvictor):
    """Orders keys by H = L + uses * cost^a / size, where L is the H of the last victim.

    With a = 1 it saves money at the price of hits, with a = 0 it counts hits by size alone; 0.5
    lies between. Ties go by last use (Cherkasova, "Improving WWW proxies performance with
    Greedy-Dual-Size-Frequency caching policy", 1998).

    An entry of unknown cost counts as a typical one: the geometric mean of the costs of late,
    which a few very expensive answers do not move, or 1 before any is known.
    """

    def __init__(self, *, cost_weight: float = 1.0) -> None:
        super().__init__()
        self._cost_weight = cost_weight
        self._costs_known = 0
        self._log_cost = 0.0

    def worth(self, weight: Weight) -> float:
        size = max(weight.size_bytes, 1)
        if not self._cost_weight:
            return 1.0 / size
        if 0.0 < weight.cost < math.inf:
            self._costs_known = min(self._costs_known + 1, _COSTS_REMEMBERED)
            log_cost = math.log(weight.cost)
            self._log_cost += (log_cost - self._log_cost) / self._costs_known
        else:
            log_cost = self._log_cost
        return math.exp(self._cost_weight * log_cost) / size
