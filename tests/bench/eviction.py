"""Tables 4 and 5: what each eviction policy finds beside the best there is, and what it takes.

Hit ratios stand beside Belady's optimum, which knows the future; money beside LRU, on made-up
answers (see `llm_weights`). Times stand beside an OrderedDict that does LRU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cache_management.cache.eviction.base import Evictor
from cache_management.cache.eviction.gdsf import GdsfEvictor
from cache_management.cache.eviction.lfu import LfuEvictor
from cache_management.cache.eviction.lru import LruEvictor
from cache_management.cache.eviction.s3fifo import S3FifoEvictor
from cache_management.cache.eviction.ttl import TtlEvictor
from cache_management.cache.records import Weight
from tests.bench.measure import Comparison, Effort, Figures, Report, Side, compare
from tests.cache.eviction.replay import WEB07, belady, llm_weights, moving_favourites, read_trace, replay

NAME = "eviction"
SPEED_NAME = "eviction speed"
_TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / WEB07
_POLICIES: dict[str, Callable[[], Evictor]] = {
    "lru": LruEvictor,
    "lfu": LfuEvictor,
    "s3fifo": S3FifoEvictor,
    "gdsf a=0.5": partial(GdsfEvictor, cost_weight=0.5),
    "gdsf a=1": GdsfEvictor,
}
_KEPT = 2000


async def measure(*, quick: bool, requests: int = 10_000) -> Report:
    """Replay a trace, or the first `requests` of it; the result does not depend on the machine."""
    trace, keys = _read_keys()
    if quick:
        keys = keys[:requests]
    distinct = len(set(keys))
    weights = llm_weights(keys)
    total = sum(weight.size_bytes for weight in weights.values())
    rows = []
    for share in (0.01, 0.10):
        capacity = int(distinct * share)
        best = belady(keys, capacity=capacity)
        rows += [
            _row(f"hits, {share:.0%} of keys, {name}", "Belady", replay(make(), keys, capacity=capacity).hits, best)
            for name, make in _POLICIES.items()
            if name != "gdsf a=0.5"  # of equal size and cost, all GDSF are one
        ]
    for share in (0.01, 0.05, 0.20):
        found = {
            name: replay(make(), keys, capacity=int(total * share), weights=weights) for name, make in _POLICIES.items()
        }
        for name, outcome in found.items():
            rows.append(_row(f"money, {share:.0%} of bytes, {name}", "lru", outcome.money, found["lru"].money))
            rows.append(_row(f"hits, {share:.0%} of bytes, {name}", "lru", outcome.hits, found["lru"].hits))
    return Report(
        name=NAME,
        title="4. eviction, per cent of requests answered and of their cost saved",
        rows=rows,
        notes=[f"keys: {trace}, {len(keys):,} requests, {distinct:,} distinct; sizes and costs made up, seed 7"],
    )


async def measure_speed(effort: Effort) -> Report:
    """Time a hit, and the change of one key for another in a full store."""
    keys = [f"cm1:llm:default:kquestion number {at}" for at in range(_KEPT)]
    others = [f"cm1:llm:default:kanother one {at}" for at in range(_KEPT * 4)]
    rows = []
    for name, make in {**_POLICIES, "ttl": TtlEvictor}.items():
        rows.append(
            await compare(
                Side(_filled(make(), keys).on_hit, [(key,) for key in keys], awaited=False),
                Side(OrderedDict.fromkeys(keys).move_to_end, [(key,) for key in keys], awaited=False),
                effort,
                what=f"{name} hit",
                reference="OrderedDict",
                goal="0.3 us" if name == "lru" else "",
            )
        )
        rows.append(
            await compare(
                Side(partial(_change, _filled(make(), keys)), [(key,) for key in others], awaited=False),
                Side(partial(_change_bare, OrderedDict.fromkeys(keys)), [(key,) for key in others], awaited=False),
                effort,
                what=f"{name} evict and insert",
                reference="OrderedDict",
            )
        )
    notes = [f"{_KEPT:,} keys; ratio: ours / beside, below 1 is faster"]
    return Report(name=SPEED_NAME, title="5. time of an eviction policy, microseconds", rows=rows, notes=notes)


def _read_keys() -> tuple[str, list[str]]:
    if _TRACE.is_file():
        return _TRACE.name, read_trace(_TRACE)
    return "moving favourites, generated", moving_favourites(phases=20, requests=3000)


def _row(what: str, reference: str, ours: float, theirs: float) -> Comparison:
    ratio = ours / theirs
    return Comparison(
        what=what,
        reference=reference,
        unit="%",
        ours=Figures(median=100 * ours),
        theirs=Figures(median=100 * theirs),
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        runs=1,
    )


def _weight(key: str) -> Weight:
    at = len(key) + ord(key[-1])
    return Weight(size_bytes=300 + 40 * (at % 50), cost=1.0 + at % 17, expires_at=1e9 + at)


def _filled(evictor: Evictor, keys: Sequence[str]) -> Evictor:
    for key in keys:
        evictor.on_insert(key, _weight(key))
    return evictor


def _change(evictor: Evictor, key: str) -> None:
    victim = evictor.victim()
    assert victim is not None
    evictor.on_remove(victim)
    evictor.on_insert(key, _weight(key))


def _change_bare(order: OrderedDict[str, None], key: str) -> None:
    order.popitem(last=False)
    order[key] = None
    _weight(key)
