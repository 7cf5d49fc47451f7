"""Which entries shall go: by key, age, tag or model, or all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import msgspec
import regex

from cache_management.cache.backends.base import Backend, Tags
from cache_management.cache.clock import version_time
from cache_management.cache.codec import decode_stored, decode_unknown
from cache_management.cache.errors import ConfigurationError, CorruptRecord, InvalidInput
from cache_management.cache.identity import KeySpace
from cache_management.cache.patterns import glob_matcher
from cache_management.cache.records import Record

PAGE = 500
_REGEX_SECONDS = 1.0


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Entries for which everything holds that is given.

    `pattern` is a shell glob over whole keys, `regex` a Python regular expression found anywhere
    in them. `older_than_seconds` counts from when an entry was stored. `everything` must be said:
    a selection that says nothing selects nothing.
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
        if self.older_than_seconds is not None and not self.older_than_seconds >= 0:
            raise InvalidInput(f"older than {self.older_than_seconds} seconds: must be 0 or more")
        if self.regex is not None:
            compile_regex(self.regex)


class Selected(NamedTuple):
    """One entry of a selection; `key` is None when its record cannot be read."""

    storage_key: str
    key: str | None
    tags: tuple[str, ...]


def compile_regex(pattern: str) -> Callable[[str], bool]:
    """Return a test for a regular expression that gives up after a second.

    Raises:
        InvalidInput: It is no regular expression; the test raises it when it takes too long.
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as exc:
        raise InvalidInput(f"{pattern[:80]!r} is no regular expression: {exc}") from None

    def matches(text: str) -> bool:
        try:
            return compiled.search(text, timeout=_REGEX_SECONDS) is not None
        except TimeoutError:
            raise InvalidInput(
                f"the regular expression {pattern[:80]!r} takes too long on a key of {len(text):,} characters;"
                " avoid nested repetitions"
            ) from None

    return matches


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

    `corrupt` hears the storage key of a record that cannot be read, and why.

    Raises:
        InvalidInput: The selection cannot be used.
        BackendUnavailable: The store cannot be read.
    """
    selection.check()
    chooser = _Chooser(selection, keys, now, limit_bytes, corrupt)
    async for page in _candidates(selection, backend, keys):
        found = []
        unread = []
        for name in page:
            key = keys.from_storage(name)
            if key is not None and not chooser.names_match(key):
                continue
            # A name alone decides when it can: reading every record costs a hundred times as much.
            if key is None or chooser.needs_records:
                unread.append(name)
            else:
                found.append(Selected(name, key, ()))
        records = await backend.get_many(unread) if unread else {}
        found += [each for name, record in records.items() if (each := chooser.judge(name, record)) is not None]
        if found:
            yield found


async def _candidates(selection: Selection, backend: Backend, keys: KeySpace) -> AsyncIterator[list[str]]:
    if selection.tag is not None:
        if not isinstance(backend, Tags):
            raise ConfigurationError(f"the {backend.name} backend keeps no tags")
        names = await backend.tagged(tag_name(keys.namespace, selection.tag))
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


class _Chooser:
    def __init__(
        self,
        selection: Selection,
        keys: KeySpace,
        now: float,
        limit_bytes: int,
        corrupt: Callable[[str, str], None],
    ) -> None:
        self._selection = selection
        self._keys = keys
        self._before = None if selection.older_than_seconds is None else now - selection.older_than_seconds
        self._limit_bytes = limit_bytes
        self._corrupt = corrupt
        self._tests: list[Callable[[str], bool]] = []
        if selection.pattern is not None:
            self._tests.append(glob_matcher(selection.pattern))
        if selection.regex is not None:
            self._tests.append(compile_regex(selection.regex))
        self.needs_records = any(
            part is not None for part in (selection.older_than_seconds, selection.tag, selection.model)
        )

    def names_match(self, key: str) -> bool:
        return all(test(key) for test in self._tests)

    def judge(self, name: str, record: Record) -> Selected | None:
        key = self._keys.from_storage(name)
        try:
            if key is None:
                key, _ = decode_unknown(record.value, limit_bytes=self._limit_bytes)
            stored = decode_stored(key, record.value, limit_bytes=self._limit_bytes)
        except CorruptRecord as exc:
            self._corrupt(name, str(exc))
            # Served to nobody; it goes with everything and with its age, not with what it may have said.
            only_age = self._selection.tag is None and self._selection.model is None and not self._tests
            return Selected(name, None, ()) if only_age and self._is_old(record) else None
        chosen = (
            self.names_match(key)
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
