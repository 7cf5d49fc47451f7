"""How a cache is used: counted in this process, told to the store now and then, added up by a job.

    app -> Usage.hit | miss | asked   a few dictionary entries; no call waits for anything
        -> every `usage_interval_seconds` one note to the journal, counts and digests of keys only
        -> the requests that were asked for most, as records of their own (`ask`), so that a job can ask them again
    job -> reads the notes behind its cursor -> adds them to the database, cursor and counts in one transaction
    -> a mark that somebody reads; without one notes are short, and no request is kept
page -> reads the notes that no job has come to, and leaves a mark of its own, for which a few keys are told

What a process counted since its last note is lost when it is killed: this is statistics, not accounting.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import chain
from math import isfinite

import msgspec

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.forks import forks
from cache_management.cache.clock import Clock, version_at
from cache_management.cache.errors import BackendRefused, BackendUnavailable
from cache_management.cache.identity import LAYOUT, KeySpace, digest, is_namespace
from cache_management.cache.near_misses import KEPT, note_near_misses
from cache_management.cache.records import Record
from cache_management.cache.requests import Request, has_secrets
from cache_management.cache.values import NearMiss

logger = logging.getLogger("cache_management")

STREAM = f"{LAYOUT}:usage"
"""One for all namespaces of a store: whoever adds up has to find it without knowing them."""
MARK_LIFE_SECONDS = 3600.0
_READ_MARK = f"{LAYOUT}:ask::read"  # of no namespace, for none has an empty name
_LOOK_MARK = f"{LAYOUT}:ask::look"

ASK_LIFE_SECONDS = 2 * 24 * 3600
_KEYS_COUNTED = 10_000
_KEYS_TOLD = 100
_KEYS_SHOWN = 10  # while somebody only looks: notes stay for long then, and must stay short
_QUESTIONS_HELD = 1_000
_PERSONAL_REMEMBERED = 2_000
_MOST = 10**12
"""Of anything in one note: an entry may claim any number of tokens, and a sum must fit into what keeps it."""
_MODELS_COUNTED = 200
_ASK_BYTES = 64 * 1024
_NAME_CHARACTERS = 200
_REFUSED_SECONDS = 600.0
_ASKS_REMEMBERED = 2_000
_OTHER = "other"
"""Stands for the models past the first few hundred of a window: a label must not grow without bound."""


class Counts(msgspec.Struct, array_like=True, gc=False):
    """What happened with the answers of one model.

    `tokens` were served instead of generated; those of answers whose cost is not known are `unpriced_tokens` too, and
    the known costs add up to `saved_micro` (micro-dollars).
    """

    hits: int = 0
    semantic_hits: int = 0
    misses: int = 0
    tokens: int = 0
    unpriced_tokens: int = 0
    saved_micro: int = 0


class UsageNote(msgspec.Struct, array_like=True, gc=False):
    """What one process counted in one namespace since `since` (Unix seconds).

    `keys` has hits and misses by the digest of a key, of the keys with most of either. Fields are only ever added at
    the end.
    """

    since: float
    namespace: str
    models: dict[str, Counts]
    keys: dict[str, tuple[int, int]]


class Ask(msgspec.Struct, array_like=True, frozen=True):
    """What is known of a key: its name, and with `is_question` what has to be asked to answer it anew.

    Without a `request` that is the key alone. The answer is kept with `tags` for `ttl_seconds`. Fields are only ever
    added at the end.
    """

    key: str
    request: Request | None = None
    is_question: bool = False
    tags: tuple[str, ...] = ()
    ttl_seconds: int | None = None

    @property
    def manner(self) -> tuple[bool, tuple[str, ...], int | None]:
        """Return what may change while the key stays the same."""
        return self.is_question, self.tags, self.ttl_seconds


class Usage:
    """Counts for one cache, and tells its store.

    Args:
        interval_seconds: How long one note waits for the next, at least.
    """

    def __init__(self, backend: Backend, namespace: str, *, interval_seconds: float, clock: Clock) -> None:
        self._backend = backend
        self._namespace = namespace
        self._asks = KeySpace("ask", namespace)
        self._interval_seconds = interval_seconds
        self._clock = clock
        _usages.add(self)
        self._forks = forks()
        self._born = self._forks[0]
        self._written: OrderedDict[str, tuple[float, object]] = OrderedDict()  # when an ask was, and how, by key
        self._personal: OrderedDict[str, None] = OrderedDict()
        self._telling: asyncio.Task[None] | None = None
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._refused_until = 0.0
        self._begin()

    def hit(
        self, key: str, model: str, tokens: int, cost_micro: int, now: float, *, semantic: bool = False, asked: str = ""
    ) -> None:
        """Count an answer that was served; `now` is `perf_counter()`.

        It counts for the model that was asked, as its misses do: providers answer in the name of a dated one.
        """
        if self._questions:
            model = self._model_of(asked or key) or model
        counts = self._models.get(model) or self._counts(model)
        if semantic:
            counts.semantic_hits += 1
        else:
            counts.hits += 1
        counts.tokens += tokens
        if cost_micro:
            counts.saved_micro += cost_micro
        else:
            counts.unpriced_tokens += tokens
        seen = self._keys.get(key)
        if seen is not None:
            seen[0] += 1
        elif len(self._keys) < _KEYS_COUNTED:
            self._keys[key] = [1, 0]
        if now >= self._due:
            self._tell_soon(now)

    def miss(self, key: str, now: float) -> None:
        """Count a question that had no answer; `now` is `perf_counter()`."""
        self._counts(self._model_of(key)).misses += 1
        seen = self._keys.get(key)
        if seen is not None:
            seen[1] += 1
        elif len(self._keys) < _KEYS_COUNTED:
            self._keys[key] = [0, 1]
        if now >= self._due:
            self._tell_soon(now)

    def asked(
        self, key: str, request: Request | None, *, tags: tuple[str, ...] = (), ttl_seconds: int | None = None
    ) -> None:
        """Remember what has to be asked to answer a key (None: the key), and how the answer is to be kept.

        Only of keys that this was said of can a job ask: any other may be a name that no model knows.
        """
        had = self._questions.get(key)
        if had is None:
            if len(self._questions) >= _QUESTIONS_HELD or key in self._personal:
                return
        elif not tags and ttl_seconds is None:
            return
        self._questions[key] = Ask(key, request, is_question=True, tags=tags, ttl_seconds=ttl_seconds)

    def personal(self, key: str) -> None:
        """Let nobody else ask for a key: what answers it is meant for one person."""
        self._questions.pop(key, None)
        self._near_misses.pop(key, None)
        self._personal[key] = None
        self._withdrawn.add(key)
        while len(self._personal) > _PERSONAL_REMEMBERED:
            self._personal.popitem(last=False)

    def near_miss(self, key: str, request: Request, near: NearMiss) -> None:
        """Remember what was near enough and not served, for whoever looks from elsewhere."""
        if key in self._personal or has_secrets(request):
            return
        self._near_misses[key] = near
        if len(self._near_misses) > KEPT:
            del self._near_misses[next(iter(self._near_misses))]

    def forget_near_misses(self) -> None:
        """Forget what was refused: it repeats what was stored."""
        self._near_misses.clear()

    def forget(self) -> None:
        """Forget what was asked; what was counted stays."""
        self._questions.clear()
        self.forget_near_misses()
        self._written.clear()

    async def aclose(self) -> None:
        """Tell what is still counted."""
        if self._timer is not None and self._timer[0] is asyncio.get_running_loop():
            self._timer[1].cancel()
            self._timer = None
        telling = self._telling
        if telling is not None and telling.get_loop() is asyncio.get_running_loop():
            await asyncio.wait((telling,))
        await self._tell()

    def _model_of(self, key: str) -> str:
        ask = self._questions.get(key)
        return "" if ask is None or ask.request is None else ask.request.model or ""

    def _counts(self, model: str) -> Counts:
        found = self._models.get(model)
        if found is None:
            name = model if len(self._models) < _MODELS_COUNTED else _OTHER
            found = self._models.setdefault(name, Counts())
        return found

    def _begin(self) -> None:
        self._since = self._clock()
        self._due = 0.0
        self._counting_since: float | None = None  # `perf_counter()`
        self._models: dict[str, Counts] = {}
        self._keys: dict[str, list[int]] = {}
        self._questions: dict[str, Ask] = {}
        self._near_misses: dict[str, NearMiss] = {}
        self._withdrawn: set[str] = set()

    def _tell_soon(self, now: float) -> None:
        """Let what is counted be told after an interval, or at once when it should have been long ago."""
        self._due = now + self._interval_seconds
        if self._left_to_parent():
            return
        is_late = self._counting_since is not None and now - self._counting_since >= self._interval_seconds
        self._counting_since = self._counting_since or now
        with contextlib.suppress(RuntimeError):  # no event loop runs here: a later call will
            loop = asyncio.get_running_loop()
            if (self._telling is not None and not self._telling.done() and _is_alive(self._telling.get_loop())) or (
                self._timer is not None and _is_alive(self._timer[0]) and not is_late
            ):
                return
            # No task that sleeps: a loop that is closed over one complains.
            self._timer = None if is_late else (loop, loop.call_later(self._interval_seconds, self._tell_now))
            if is_late:
                self._tell_now()

    def _tell_now(self) -> None:
        self._timer = None
        self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        """Write one note and the asks that are new. What cannot be told is dropped: nobody waits for it."""
        if self._left_to_parent() or not self._models or not isinstance(self._backend, Journal):
            return
        most_keys = await self._most_keys()
        near_misses, withdrawn = self._near_misses, self._withdrawn
        note, asks = self._take(most_keys)
        if 0 < self._refused_until - self._clock() <= _REFUSED_SECONDS:
            return
        try:
            if asks:
                await self._backend.put_many(asks)
            await self._backend.append(STREAM, [_encode(note)])
            if most_keys and (near_misses or withdrawn):
                await note_near_misses(self._backend, self._namespace, near_misses, withdrawn, now=self._clock())
        except BackendRefused as exc:
            # It has no rights to it, or is full: neither changes soon, and both may.
            self._refused_until = self._clock() + _REFUSED_SECONDS
            logger.warning("usage is not counted for %.0f minutes: %s", _REFUSED_SECONDS / 60, exc)
        except BackendUnavailable as exc:
            logger.debug("usage of %.0f s was not told: %s", self._clock() - note.since, exc)

    async def _most_keys(self) -> int:
        """Return how many keys with their requests to tell: for nobody they would pile up."""
        try:
            marks = await self._backend.get_many([_READ_MARK, _LOOK_MARK])
        except BackendUnavailable:
            return 0
        return _KEYS_TOLD if _READ_MARK in marks else _KEYS_SHOWN if marks else 0

    def _left_to_parent(self) -> bool:
        """Begin anew behind a fork: what was counted before it is the parent's to tell."""
        if self._born == self._forks[0]:
            return False
        self._born = self._forks[0]
        self._telling = self._timer = None
        self._begin()
        return True

    def _take(self, most_keys: int = _KEYS_TOLD) -> tuple[UsageNote, dict[str, Record]]:
        since, models, keys, questions, withdrawn = (
            *(self._since, self._models, self._keys),
            *(self._questions, self._withdrawn),
        )
        # First: what other threads count from now on belongs to the next note.
        self._begin()
        # Copied in one move: a thread may be about to add a key to what is counted no more.
        counted = list(keys.items())
        told = {key: seen for column in (0, 1) for key, seen in _most(counted, column, most_keys)}
        note = UsageNote(
            since=since,
            namespace=self._namespace,
            models={model: _bounded(counts) for model, counts in list(models.items())},
            keys={digest(key): (hits, misses) for key, (hits, misses) in told.items()},
        )
        asks = [questions.get(key) or Ask(key) for key, (hits, _) in told.items() if key in questions or hits]
        # A name instead of the question that may have been told before it was known to be somebody's own.
        asks += [Ask(key) for key in withdrawn if key in self._written]
        return note, self._new_asks(asks)

    def _new_asks(self, asks: Iterable[Ask]) -> dict[str, Record]:
        now = self._clock()
        found = {}
        for ask in asks:
            when, manner = self._written.get(ask.key, (-ASK_LIFE_SECONDS, None))
            if now - when < ASK_LIFE_SECONDS / 2 and manner == ask.manner:
                continue
            self._written[ask.key] = (now, ask.manner)
            self._written.move_to_end(ask.key)
            value = encode_ask(ask)
            if value is not None:
                found[self._asks.to_storage(digest(ask.key))] = Record(value, now + ASK_LIFE_SECONDS, version_at(now))
        while len(self._written) > _ASKS_REMEMBERED:
            self._written.popitem(last=False)
        return found


async def tell_all() -> None:
    """Tell what is still counted in this process, of caches that nobody closed."""
    for usage in list(_usages):
        with contextlib.suppress(Exception):  # the process ends: there is nobody to be told of it
            await usage.aclose()


async def mark_as_read(backend: Backend, now: float) -> None:
    """Let the applications know that their notes are added up, so that they tell keys and requests too.

    Raises:
        BackendUnavailable: The store cannot be written.
    """
    await backend.put(_READ_MARK, Record(b"", now + MARK_LIFE_SECONDS, version_at(now)))


async def mark_as_looked_at(backend: Backend, now: float) -> None:
    """Let the applications know that somebody looks, so that they tell a few keys, and what they refuse.

    Raises:
        BackendUnavailable: The store cannot be written.
    """
    await backend.put(_LOOK_MARK, Record(b"", now + MARK_LIFE_SECONDS, version_at(now)))


def encode_ask(ask: Ask) -> bytes | None:
    """Return the value of an `ask` record; None when it is too large to keep beside the answers."""
    if ask.request is not None and has_secrets(ask.request):
        # Known by a digest only, or not to be kept: what is asked without it may get another answer.
        ask = Ask(ask.key)
    value = _encode(ask)
    return value if len(value) <= _ASK_BYTES else None


async def load_asks(backend: Backend, namespace: str, key_digests: Sequence[str]) -> dict[str, Ask]:
    """Return what is known of keys, by the digests of the keys; unreadable ones are left out.

    Raises:
        BackendUnavailable: The store cannot be read.
    """
    space = KeySpace("ask", namespace)
    names = {space.to_storage(each): each for each in key_digests}
    found = {}
    for name, record in (await backend.get_many(list(names))).items():
        with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
            ask = _ask_decoder.decode(record.value)
            if digest(ask.key) == names[name]:
                found[names[name]] = ask
    return found


def decode_note(data: bytes) -> UsageNote | None:
    """Return a note of the journal; None for one that this version cannot read, or nobody can count."""
    try:
        note = _note_decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    counts = (*chain.from_iterable(map(msgspec.structs.astuple, note.models.values())), *chain(*note.keys.values()))
    # One that the database refuses would keep all behind it from being counted.
    if not (isfinite(note.since) and is_namespace(note.namespace) and all(0 <= count <= _MOST for count in counts)):
        return None
    note.models = {_fitting(model): counts for model, counts in note.models.items()}
    note.keys = {_fitting(key): seen for key, seen in note.keys.items()}
    return note


def _fitting(name: str) -> str:
    """Return a name that every database keeps in an index."""
    return name if len(name) <= _NAME_CHARACTERS and "\0" not in name else name[:_NAME_CHARACTERS].replace("\0", "?")


def _most(keys: Iterable[tuple[str, list[int]]], column: int, number: int) -> list[tuple[str, list[int]]]:
    """Return the keys with most hits (0) or misses (1), those without any left out."""
    chosen = heapq.nlargest(number, keys, key=lambda item: item[1][column])
    return [(key, seen) for key, seen in chosen if seen[column]]


def _bounded(counts: Counts) -> Counts:
    return Counts(*(min(count, _MOST) for count in msgspec.structs.astuple(counts)))


def _is_alive(loop: asyncio.AbstractEventLoop) -> bool:
    return loop.is_running() and not loop.is_closed()


_usages: weakref.WeakSet[Usage] = weakref.WeakSet()
_encode = msgspec.msgpack.Encoder().encode
_note_decoder = msgspec.msgpack.Decoder(UsageNote)
_ask_decoder = msgspec.msgpack.Decoder(Ask)
