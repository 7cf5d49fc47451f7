"""Which entries shall go: by key, age, tag or model, or all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import msgspec

from cache_management.cache.backends.base import Backend, Tags
from cache_management.cache.clock import version_time
from cache_management.cache.codec import decode_stored, decode_unknown
from cache_management.cache.errors import ConfigurationError, CorruptRecord, InvalidInput
from cache_management.cache.identity import KeySpace
from cache_management.cache.patterns import glob_matcher
from cache_management.cache.records import Record

PAGE = 500
_REGEX_SECONDS = 1.0
_SECONDS_ON_LOOP = 0.005
_QUICK_SECONDS = 0.0001


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Entries for which everything holds that is given.

    `pattern` is a shell glob over whole keys, `regex` a Python regular expression found anywhere
    in them; the keys on which it is slow may take it a second together. `older_than_seconds` counts
    from when an entry was stored. `everything` must be said: a selection that says nothing selects
    nothing.
    """

    pattern: str | None = None
    regex: str | None = None
    older_than_seconds: float | None = None
    tag: str | None = None
    model: str | None = None
    everything: bool = False

    def check(self) -> None:
        """Raise InvalidInput when nothing is selected, or something cannot be."""
        chosen = (self.pattern, self.regex, self.older_than_seconds, self.tag, self.model)
        if self.everything == any(part is not None for part in chosen):
            raise InvalidInput(
                "say what shall go: a pattern, a regex, an age, a tag, a model, or else everything, not both or neither"
            )
        age = self.older_than_seconds
        if age is not None and (isinstance(age, bool) or not isinstance(age, int | float) or not age >= 0):
            raise InvalidInput(f"older than {repr(age)[:40]} seconds: must be a number, 0 or more")
        if self.regex is not None:
            Expression(self.regex)


class Selected(NamedTuple):
    """One entry of a selection; `key` is None when its record cannot be read."""

    storage_key: str
    key: str | None
    tags: tuple[str, ...]


class Expression:
    """A regular expression that may be slow for one second, all texts together.

    A text that takes longer than a moment is searched on a thread, so that other tasks run.

    Raises:
        InvalidInput: It is no regular expression; when searching, the second is spent.
    """

    def __init__(self, pattern: str) -> None:
        import regex  # few processes select by one, and it takes as long to load as the store

        try:
            self._compiled = regex.compile(pattern)
        except regex.error as exc:
            raise InvalidInput(f"{pattern[:80]!r} is no regular expression: {exc}") from None
        self._pattern = pattern
        self._seconds_left = _REGEX_SECONDS
        self._paused_at = perf_counter()

    async def is_in(self, text: str) -> bool:
        """Tell whether it is found in a text."""
        try:
            found = self._search(text, most=_SECONDS_ON_LOOP)
        except TimeoutError:
            found = await self._search_aside(text)
        if perf_counter() - self._paused_at > _SECONDS_ON_LOOP:
            await asyncio.sleep(0)
            self._paused_at = perf_counter()
        return found

    async def _search_aside(self, text: str) -> bool:
        try:
            return await asyncio.to_thread(self._search, text, most=_REGEX_SECONDS)
        except TimeoutError:
            raise InvalidInput(
                f"the regular expression {self._pattern[:80]!r} takes too long: {_REGEX_SECONDS:g} s spent, the last"
                f" key has {len(text):,} characters; nothing was removed. Avoid nested repetitions, or select by a"
                " pattern (a shell glob)"
            ) from None

    def _search(self, text: str, *, most: float) -> bool:
        if self._seconds_left <= 0:
            raise TimeoutError
        started = perf_counter()
        try:
            return (
                self._compiled.search(
                    text,
                    timeout=min(most, self._seconds_left),
                    concurrent=most > _SECONDS_ON_LOOP,  # on a thread it lets others have the interpreter
                )
                is not None
            )
        finally:
            seconds = perf_counter() - started
            if seconds > _QUICK_SECONDS:  # a large store alone spends nothing
                self._seconds_left -= seconds


def tag_name(namespace: str, tag: str) -> str:
    """Return the name under which a store keeps a tag of a namespace."""
    return f"cm1:tag:{namespace}:{tag}"


async def select(
    selection: Selection,
    backend: Backend,
    keys: KeySpace,
    *,
    now: float,
    limit_bytes: int,
    corrupt: Callable[[str, str], None],
) -> AsyncIterator[list[Selected]]:
    """Yield what a selection holds, page by page. By tag no other entry is read.

    With a regular expression nothing is yielded before every key was matched, so that one that
    takes too long removes nothing.

    `corrupt` hears the storage key of a record that cannot be read, and why.

    Raises:
        InvalidInput: The selection cannot be used, or its regular expression takes too long.
        BackendUnavailable: The store cannot be read.
    """
    selection.check()
    chooser = Chooser(selection, backend, keys, now=now, limit_bytes=limit_bytes, corrupt=corrupt)
    held_back = []
    async for page in _candidates(selection, backend, keys):
        found = await chooser.choose(page)
        if found and selection.regex is None:
            yield found
        elif found:
            held_back.append(found)
    for found in held_back:
        yield found


async def _candidates(selection: Selection, backend: Backend, keys: KeySpace) -> AsyncIterator[list[str]]:
    if selection.tag is not None:
        if not isinstance(backend, Tags):
            raise ConfigurationError(f"the {backend.name} backend keeps no tags")
        # A tag is shared by answers and reasoning; each cache removes its own.
        names = [n for n in await backend.tagged(tag_name(keys.namespace, selection.tag)) if n.startswith(keys.prefix)]
        for start in range(0, len(names), PAGE):
            yield names[start : start + PAGE]
        return
    seen: set[str] = set()
    page: list[str] = []
    async for name in backend.scan(keys.prefix):
        if name in seen:
            continue
        seen.add(name)
        page.append(name)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


class Chooser:
    """Chooses from pages of storage keys. Its regular expression has a second for all of them together.

    Args:
        now: From when an age is counted.
        corrupt: Hears the storage key of a record that cannot be read, and why.
    """

    def __init__(
        self,
        selection: Selection,
        backend: Backend,
        keys: KeySpace,
        *,
        now: float,
        limit_bytes: int,
        corrupt: Callable[[str, str], None],
    ) -> None:
        self._selection = selection
        self._backend = backend
        self._keys = keys
        self._before = None if selection.older_than_seconds is None else now - selection.older_than_seconds
        self._limit_bytes = limit_bytes
        self._corrupt = corrupt
        self._matches = None if selection.pattern is None else glob_matcher(selection.pattern)
        self._expression = None if selection.regex is None else Expression(selection.regex)
        self._needs_records = any(
            part is not None for part in (selection.older_than_seconds, selection.tag, selection.model)
        )

    async def choose(self, page: Sequence[str]) -> list[Selected]:
        """Return those entries of a page that the selection holds.

        Raises:
            InvalidInput: The regular expression takes too long.
            BackendUnavailable: The store cannot be read.
        """
        found = []
        unread = []
        for name in page:
            key = self._keys.from_storage(name)
            if key is not None and not (self._glob_matches(key) and await self._regex_matches(key)):
                continue
            # A name alone decides when it can: reading every record costs a hundred times as much.
            if key is None or self._needs_records:
                unread.append(name)
            else:
                found.append(Selected(name, key, ()))
        # Not as `get` does: what is looked at to be removed is not used.
        records = await self._backend.inspect_many(unread) if unread else {}
        for name, record in records.items():
            each = None if record is None else self._judge(name, record)
            # The regular expression comes last, of those whose name did not say the key.
            if each is not None and (self._keys.from_storage(name) is not None or await self._regex_matches(each.key)):
                found.append(each)
        return found

    def _glob_matches(self, key: str) -> bool:
        return self._matches is None or self._matches(key)

    async def _regex_matches(self, key: str | None) -> bool:
        return self._expression is None or (key is not None and await self._expression.is_in(key))

    def _judge(self, name: str, record: Record) -> Selected | None:
        """Choose by all but the regular expression."""
        key = self._keys.from_storage(name)
        try:
            if key is None:
                key, _ = decode_unknown(record.value, limit_bytes=self._limit_bytes)
            stored = decode_stored(key, record.value, limit_bytes=self._limit_bytes)
        except CorruptRecord as exc:
            self._corrupt(name, str(exc))
            # Served to nobody; it goes with everything and with its age, not with what it may have said.
            unasked = (self._selection.tag, self._selection.model, self._matches, self._expression)
            only_age = all(part is None for part in unasked)
            return Selected(name, None, ()) if only_age and self._is_old(record) else None
        chosen = (
            self._glob_matches(key)
            and self._is_old(record)
            and self._selection.model in (None, stored.response.model)
            # An entry that was overwritten without the tag is still noted under it.
            and (self._selection.tag is None or self._selection.tag in stored.facts.tags)
        )
        return Selected(name, key, stored.facts.tags) if chosen else None

    def _is_old(self, record: Record) -> bool:
        return self._before is None or version_time(record.version) <= self._before


def by_tag(namespace: str, page: Sequence[Selected]) -> dict[str, list[str]]:
    """Return the tags of removed entries with their storage keys, for forgetting them."""
    found: dict[str, list[str]] = {}
    for each in page:
        for tag in each.tags:
            found.setdefault(tag_name(namespace, tag), []).append(each.storage_key)
    return found
