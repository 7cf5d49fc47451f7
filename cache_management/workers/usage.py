"""Adds up what applications noted of their use of a cache.

notes in the store's journal -> add_up -> the job `stats` writes the sums to the database, each note once
                                      -> Uncounted shows those that no job has come to yet, and writes nothing
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.errors import JournalGap
from cache_management.cache.identity import digest
from cache_management.cache.prices import price_of
from cache_management.cache.usage import STREAM, UsageNote, decode_note
from cache_management.models.usage import USAGE_NAMES, Amounts, HotKeyView, KeyCounts, UsageRow, period_start
from cache_management.settings import Settings

_OLDEST = timedelta(days=8)  # a journal keeps notes for a week
_NOTES_AT_ONCE = 500
_PAGES_AT_ONCE = 20
_KEYS_SHOWN = 10_000


def add_up(notes: Sequence[UsageNote], prices: Mapping[str, float], *, now: datetime) -> tuple[Amounts, KeyCounts]:
    """Sum notes by moment, namespace and model, and hits and misses by key.

    What an answer would have cost is its known cost, or else its tokens by the price of its model. `now` is the
    database's time: a moment that it does not know belongs to an application whose clock is wrong.
    """
    amounts: defaultdict[tuple[datetime, str, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    keys: dict[tuple[str, str], tuple[int, int]] = {}
    for note in notes:
        since = min(max(note.since, (now - _OLDEST).timestamp()), now.timestamp())
        # Seconds of one minute are one moment: fewer rows to add to.
        moment = datetime.fromtimestamp(since // 60 * 60, UTC)
        for model, counts in note.models.items():
            into = amounts[moment, note.namespace, model]
            into["hits"] += counts.hits
            into["semantic_hits"] += counts.semantic_hits
            into["misses"] += counts.misses
            into["tokens_saved"] += counts.tokens
            into["saved_micro"] += counts.saved_micro + round(counts.unpriced_tokens * (price_of(model, prices) or 0))
        for key, (hits, misses) in note.keys.items():
            had = keys.get((note.namespace, key), (0, 0))
            keys[note.namespace, key] = (had[0] + hits, had[1] + misses)
    return {at: {name: n for name, n in named.items() if n} for at, named in amounts.items()}, keys


def stream_of(settings: Settings) -> str:
    """Name the journal of a store: stores that share a database have cursors of their own.

    The name stays when a password changes: under another one all notes would be counted again.
    """
    place = f"redis {settings.redis_host.lower()} {settings.redis_port} {settings.redis_db}"
    if settings.distributed.enabled:
        place = "replicated"  # its nodes come and go, and those of an embedded set change their ports
    elif settings.backend == "disk":
        place = f"disk {settings.disk_path.expanduser().absolute()}"
    elif settings.url is not None and settings.url.startswith("unix:"):
        socket = urlsplit(settings.url)
        place = f"unix {socket.path} {parse_qs(socket.query).get('db', [settings.redis_db])[-1]}"
    return f"{STREAM}@{digest(place)[:16]}"


class Uncounted:
    """The use that no job has added up yet: notes behind what the database counted, read further at each look."""

    def __init__(self, settings: Settings) -> None:
        self.stream = stream_of(settings)
        self._prices = settings.prices
        self._counted: str | None = None
        self._cursor = ""
        self._amounts: dict[tuple[datetime, str, str], dict[str, int]] = {}
        self._keys: dict[tuple[str, str], tuple[int, int]] = {}

    async def look(self, backend: Backend, counted: str, *, now: datetime) -> None:
        """Read what came behind `counted`, the database's cursor; a bounded number of notes, the next look reads on.

        Raises:
            BackendUnavailable: The store cannot be read.
        """
        if not isinstance(backend, Journal):
            return
        if counted != self._counted:  # a job added up some of what was shown here
            self._counted = counted
            self._begin(counted)
        for _ in range(_PAGES_AT_ONCE):
            try:
                data, self._cursor = await backend.read_after(STREAM, self._cursor, limit=_NOTES_AT_ONCE)
            except JournalGap:
                self._begin(await backend.tail(STREAM))  # as the job does
                return
            self._add([note for note in map(decode_note, data) if note is not None], now)
            if len(data) < _NOTES_AT_ONCE:
                return

    def rows(self, counted: Sequence[UsageRow], *, since: datetime, period_seconds: int) -> list[UsageRow]:
        """Add it to what the database says by namespace and model, of periods that begin at `since` or later."""
        found = {(row.namespace, row.model): {name: getattr(row, name) for name in USAGE_NAMES} for row in counted}
        for (moment, namespace, model), amounts in self._amounts.items():
            if period_start(moment, period_seconds) >= since:
                _add(found.setdefault((namespace, model), {}), amounts)
        return [UsageRow(namespace, model, **named) for (namespace, model), named in sorted(found.items())]

    def over_time(
        self,
        counted: Sequence[tuple[datetime, dict[str, int]]],
        *,
        since: datetime,
        period_seconds: int,
        namespace: str | None,
    ) -> list[tuple[datetime, dict[str, int]]]:
        """Add it to what the database says by period, of a namespace or of all, the oldest first."""
        found = {start: dict(named) for start, named in counted}
        for (moment, where, _), amounts in self._amounts.items():
            start = period_start(moment, period_seconds)
            if start >= since and namespace in (None, where):
                _add(found.setdefault(start, {}), amounts)
        return sorted(found.items())

    def hot_keys(self, counted: Sequence[HotKeyView], *, namespace: str | None, limit: int) -> list[HotKeyView]:
        """Add it to what the database says of the keys of a namespace, or of all, those with most hits first."""
        found = {(view.namespace, view.key_digest): (view.hits, view.misses) for view in counted}
        for name, (hits, misses) in self._keys.items():
            if namespace in (None, name[0]):
                had = found.get(name, (0, 0))
                found[name] = (had[0] + hits, had[1] + misses)
        views = [HotKeyView(key, *seen, where) for (where, key), seen in found.items() if seen[0]]
        return sorted(views, key=lambda view: (-view.hits, view.key_digest))[:limit]

    def _begin(self, cursor: str) -> None:
        self._cursor, self._amounts, self._keys = cursor, {}, {}

    def _add(self, notes: Sequence[UsageNote], now: datetime) -> None:
        amounts, keys = add_up(notes, self._prices, now=now)
        for at, named in amounts.items():
            _add(self._amounts.setdefault(at, {}), named)
        for key, (hits, misses) in keys.items():
            had = self._keys.get(key)
            if had is not None:
                self._keys[key] = (had[0] + hits, had[1] + misses)
            elif len(self._keys) < _KEYS_SHOWN:
                self._keys[key] = (hits, misses)


def _add(into: dict[str, int], amounts: Mapping[str, int]) -> None:
    for name, amount in amounts.items():
        into[name] = into.get(name, 0) + amount
