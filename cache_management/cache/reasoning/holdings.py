"""What a store holds of reasoning: every book is read, page by page."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from cache_management.cache.reasoning.book import Book
from cache_management.cache.reasoning.step_store import restored

if TYPE_CHECKING:
    from cache_management.cache.reasoning.cache import ReasoningCache

_PAGE = 100
_TOP = 10


class ProblemHoldings(msgspec.Struct, frozen=True):
    """One problem: its results, the steps of them all together, and how many different ones are kept."""

    problem: str
    results: int
    submitted: int
    steps: int


class Holdings(msgspec.Struct, frozen=True):
    """What a namespace holds.

    `submitted` are the steps of all results, `steps` those that are kept. `size_bytes` are the values of the books, and
    `json_bytes` what the results would take as JSON, each by itself; what a store adds for every record is not in them.
    """

    results: int
    problems: int
    submitted: int
    steps: int
    samples: int
    size_bytes: int
    json_bytes: int
    top: tuple[ProblemHoldings, ...]


async def holdings_of(cache: ReasoningCache) -> Holdings:
    """Return what the namespace of a cache holds.

    Raises:
        BackendUnavailable: The store cannot be read.
    """
    counting = _Counting(cache.clock())
    page: list[str] = []
    async for name in cache.backend.scan(cache.shelf.prefix):
        page.append(name)
        if len(page) == _PAGE:
            await _count(cache, page, counting)
            page = []
    await _count(cache, page, counting)
    return counting.total()


async def _count(cache: ReasoningCache, page: Sequence[str], counting: _Counting) -> None:
    for name, record in (await cache.backend.inspect_many(page)).items() if page else ():
        book = None if record is None else cache.shelf.decoded(name, record)
        if book is not None and record is not None:
            counting.add(book, len(record.value))


class _Counting:
    def __init__(self, now: float) -> None:
        self._now = now
        self._problems: list[ProblemHoldings] = []
        self._samples = self._size_bytes = self._json_bytes = 0

    def add(self, book: Book, size_bytes: int) -> None:
        results = submitted = 0
        for stored in book.results:
            if stored.expires_at is not None and stored.expires_at <= self._now:
                continue
            results += 1
            submitted += len(stored.nodes)
            result = restored(book, stored)
            self._json_bytes += 0 if result is None else len(result.model_dump_json().encode())
        steps = sum(len(of.parents) - 1 for of in book.branches)
        self._problems.append(ProblemHoldings(book.problem, results, submitted, steps))
        self._samples += sum(len(state.texts) for of in book.branches for state in of.states.values())
        self._size_bytes += size_bytes

    def total(self) -> Holdings:
        found = self._problems
        return Holdings(
            sum(each.results for each in found),
            len(found),
            sum(each.submitted for each in found),
            sum(each.steps for each in found),
            self._samples,
            self._size_bytes,
            self._json_bytes,
            tuple(heapq.nlargest(_TOP, found, key=lambda each: each.submitted - each.steps)),
        )
