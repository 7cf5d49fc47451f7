"""Reasoning as a transfer reads and writes it: each entry of a file is all that is known of a problem.

key        the name of the problem
prompt     the problem
response   its book as JSON: steps, results, samples and who used which
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Literal

from cache_management.cache.clock import version_at, version_time
from cache_management.cache.errors import CorruptRecord, InvalidEntry
from cache_management.cache.identity import Kind
from cache_management.cache.reasoning.book import Book, StoredResult
from cache_management.cache.reasoning.book_codec import book_from_json, book_to_json, decode_book, encode_book
from cache_management.cache.reasoning.cache import ReasoningCache
from cache_management.cache.reasoning.merging import merge
from cache_management.cache.reasoning.step_identity import problem_id
from cache_management.cache.records import Record
from cache_management.cache.transfer.lines import EntryLine
from cache_management.cache.transfer.shelf import Shelf, Verdict


class ReasoningShelf(Shelf):
    """The books of a namespace. What a file brings is merged into what is there: results by key and moment."""

    kind: ClassVar[Kind] = "bok"
    holds: ClassVar[Literal["reasoning"]] = "reasoning"

    def __init__(self, cache: ReasoningCache) -> None:
        super().__init__(
            cache.backend,
            namespace=cache.namespace,
            clock=cache.clock,
            limit_bytes=cache.config.max_entry_bytes,
            ttl_seconds=cache.config.ttl_seconds,
        )
        self._cache = cache

    def may_match(self, name: str, matches: Callable[[str], bool]) -> bool:
        return True  # the keys of results stand in their book

    def verdict(self, live: Record | None, new: Record, *, now: float) -> Verdict:
        if new.is_expired(now):
            return "expired"
        if live is None:
            return "added"
        # An equal book is written, too: who died in an earlier import may have stored no records under its keys.
        return "updated"

    def _line(self, name: str, record: Record, matches: Callable[[str], bool] | None) -> bytes | None:
        book = decode_book(record.value, namespace=self.namespace, limit_bytes=self.limit_bytes)
        if matches is not None:
            book.results = [result for result in book.results if matches(result.key)]
            if not book.results:
                return None
            for branch in book.branches:
                branch.steps_until, branch.states, branch.held = 0.0, {}, set()
        book.compact(self.clock())
        if book.is_empty():
            return None
        return self._written(
            EntryLine(
                key=problem_id(book.problem),
                prompt=book.problem,
                response=book_to_json(book),
                model="",
                timestamp=datetime.fromtimestamp(version_time(max(0, record.version)), UTC),
                expires_at=book.expires_at(),
                version=max(0, record.version),
            )
        )

    def record(self, line: EntryLine, *, now: float) -> tuple[str, Record]:
        """Return the storage key and the record of a book that is imported at `now`.

        Raises:
            InvalidInput: It cannot be stored.
        """
        try:
            book = book_from_json(line.response, namespace=self.namespace)
        except CorruptRecord as exc:
            raise InvalidEntry(str(exc)) from None
        if problem_id(book.problem) != line.key:
            raise InvalidEntry("its key is not the name of its problem")
        for result in book.results:
            self._cache.check_key(result.key)
        version = min(version_at(now) if line.version is None else line.version, version_at(now))
        value = encode_book(book, limit_bytes=self.limit_bytes)
        return self.keys.to_storage(line.key), Record(value, book.expires_at(), version)

    async def put(self, records: Mapping[str, Record], tags: Mapping[str, Sequence[str]]) -> None:
        """Merge books into those that are there, and store the records under the keys of their results.

        Raises:
            BackendUnavailable: Some may be stored; merging them again changes nothing.
        """
        for name, record in records.items():
            book = decode_book(record.value, namespace=self.namespace, limit_bytes=self.limit_bytes)
            now = self.clock()

            def bring_in(into: Book, book: Book = book, now: float = now) -> list[tuple[StoredResult, str]]:
                merge(into, book, now=now)
                # Of those that were there, too: who died here before had stored no records under keys. As they stand in
                # the book now: what is there may be newer than what the file says.
                held = [into.result_of(result.key) for result in book.results]
                return [(each, into.branches[each.branch].under.model) for each in held if each is not None]

            held = await self._cache.shelf.change(book.problem, bring_in)
            await self._cache.put_pointers(
                self.keys.from_storage(name) or problem_id(book.problem),
                [
                    (each.key, model, each.created_at, each.expires_at, each.tags)
                    for each, model in held
                    if each.expires_at is None or each.expires_at > now
                ],
            )
