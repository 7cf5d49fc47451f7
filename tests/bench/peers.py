"""Table 6: ours beside other caches, each as its documentation shows it.

Everybody gets the same `CachedResponse` of 1 kB and gives it back, with a life of an hour: the caches in
this process keep the object itself, diskcache, cashews and aiocache pickle it for their stores (aiocache
is told to: its default for Redis is JSON, which takes no objects). The bare stores (sqlite3, redis-py)
keep the bytes that ours would keep. A library that is not installed is left out with a note.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from cache_management.cache.config import CacheConfig
from cache_management.cache.llm import LLMCache
from tests.bench.backends import Reference, Workload, make_workload, open_beside
from tests.bench.measure import Comparison, Effort, Report, Side, compare, gathered

NAME = "peers"
Kind = Literal["memory", "disk", "redis"]
KINDS: Final[tuple[Kind, ...]] = ("memory", "disk", "redis")
# The floor of each kind: no expiry, no objects, or not a cache at all.
FLOORS: Final = ("cachetools LRU", "sqlite3", "redis-py")
_ENTRY_BYTES = 1_000
_AT_ONCE = 100
_TTL_SECONDS = 3600
_ROOM = 1_000_000
_NEAR_SIZE = 10_000
# For what an application calls; table 1 holds the same goals against the backend alone.
_GOALS: Final = {
    "memory LLMCache.get": "2 us",
    "memory LLMCache.set": "3 us",
    "disk LLMCache.get": "10 us",
    "disk LLMCache.set": "40 us",
    ("redis LLMCache.get", "redis-py"): "1.0 x",
    ("redis LLMCache.get, 100 callers", "redis-py"): "0.1 x",
    "near LLMCache.get": "8 us",
}


class Peer(msgspec.Struct, frozen=True):
    """Another cache: what it calls getting and setting."""

    name: str
    get: Callable[[Any], Any]
    set: Callable[[Any, Any], Any]
    awaited: bool = True
    get_many: Callable[[Any], Any] | None = None
    bare: bool = False  # keeps bytes, not objects

    def pairs(self, work: Workload) -> list[tuple[str, Any]]:
        """Return keys and values as this cache is given them."""
        if self.bare:
            return list(zip(work.storage_keys, work.frames, strict=True))
        return list(zip(work.keys, work.responses, strict=True))

    async def fill(self, work: Workload) -> None:
        """Store everything, and make sure that it comes back: some libraries swallow their errors."""
        pairs = self.pairs(work)
        for key, value in pairs:
            stored = self.set(key, value)
            if self.awaited:
                await stored
        key, value = pairs[0]
        answer = self.get(key)
        if self.awaited:
            answer = await answer
        held = answer[0] if isinstance(answer, tuple) else answer  # theine answers with a pair
        if held != value:
            raise AssertionError(f"{self.name} gave back {answer!r}")


async def measure(
    effort: Effort, *, kinds: Sequence[Kind] = KINDS, entries: int = 1_000, at_once: int = _AT_ONCE
) -> Report:
    """Measure the table."""
    report = Report(
        name=NAME,
        title="6. beside other caches, microseconds for each entry",
        rows=[],
        notes=[
            "ratio: ours / beside, below 1 is faster; 10-90 %: spread over neighbouring runs; CPU: ratio of CPU time",
            f"one CachedResponse of {_ENTRY_BYTES} bytes, {entries} keys, at random, life of an hour; bare stores keep"
            " bytes, caches in this process keep the object itself, the others pickle it",
            "theine, cachetools, diskcache and sqlite3 are called without await: they block the event loop",
        ],
    )
    work = make_workload(_ENTRY_BYTES, entries)
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
            async with AsyncExitStack() as stack:
                cache, reference = await open_beside(kind, Path(folder), stack, report)
                await cache.set_many(dict(zip(work.keys, work.responses, strict=True)))
                where = Path(folder) if kind == "disk" else cache.config.url
                peers = await open_peers(kind, where, reference, stack, report.notes)
                for peer in peers:
                    await peer.fill(work)
                    report.rows += await _lone_calls(kind, cache, peer, work, effort)
                    if kind == "redis":
                        report.rows += await _at_once(cache, peer, work, effort, at_once)
                if kind == "redis":
                    report.rows += await _near(cache, reference, work, effort, stack, report)
    return report


async def open_peers(
    kind: Kind,
    where: Any,
    bare: Reference | None,
    stack: AsyncExitStack,
    notes: list[str],
    *,
    room: int = _ROOM,
) -> list[Peer]:
    """Open what stands beside a kind: the bare store, then the caches that are installed.

    `where` is a folder, or a URL; `room` bounds caches in this process.
    """
    peers = {
        "memory": [_cashews, _aiocache, _theine, _cachetools],
        "disk": [_diskcache],
        "redis": [_cashews, _aiocache],
    }[kind]
    found = []
    if bare is not None and kind != "memory":
        found.append(Peer(bare.name, bare.get, bare.set, bare.awaited, bare.get_many, bare=True))
    for open_peer in peers:
        with absent(open_peer.__name__.strip("_"), notes):
            found.append(await open_peer(where, stack, room))
    return found


@contextmanager
def absent(name: str, notes: list[str]) -> Iterator[None]:
    """Go on with a note when a library is not installed."""
    try:
        yield
    except ModuleNotFoundError as exc:
        note = f"{name} is left out: no module {exc.name}; make bench installs it"
        if note not in notes:
            notes.append(note)


async def _cashews(url: Any, stack: AsyncExitStack, room: int, **more: Any) -> Peer:
    cashews = importlib.import_module("cashews")
    cache = cashews.Cache()
    if url.startswith("memory"):
        cache.setup("mem://", size=room)
    else:
        cache.setup(f"{url}/1", **more)
    stack.push_async_callback(cache.close)
    await cache.init()

    def put(key: str, value: Any) -> Any:
        return cache.set(key, value, expire=_TTL_SECONDS)

    return Peer("cashews", cache.get, put, get_many=lambda keys: cache.get_many(*keys))


async def _aiocache(url: Any, stack: AsyncExitStack, room: int) -> Peer:
    aiocache = importlib.import_module("aiocache")
    if url.startswith("memory"):
        cache = aiocache.SimpleMemoryCache()
    else:
        server = urlsplit(url)
        pickled = importlib.import_module("aiocache.serializers").PickleSerializer()
        cache = aiocache.RedisCache(endpoint=server.hostname, port=server.port, db=2, serializer=pickled)
        stack.push_async_callback(cache.close)

    def put(key: str, value: Any) -> Any:
        return cache.set(key, value, ttl=_TTL_SECONDS)

    return Peer("aiocache", cache.get, put, get_many=cache.multi_get)


async def _theine(_: Any, stack: AsyncExitStack, room: int) -> Peer:
    cache = importlib.import_module("theine").Cache(room)
    stack.callback(cache.close)
    life = timedelta(seconds=_TTL_SECONDS)
    return Peer("theine", cache.get, lambda key, value: cache.set(key, value, life), awaited=False)


async def _cachetools(_: Any, stack: AsyncExitStack, room: int) -> Peer:
    cache = importlib.import_module("cachetools").LRUCache(room)
    return Peer("cachetools LRU", cache.__getitem__, cache.__setitem__, awaited=False)


async def _diskcache(folder: Any, stack: AsyncExitStack, room: int) -> Peer:
    cache = importlib.import_module("diskcache").Cache(folder / "diskcache")
    stack.callback(cache.close)
    return Peer("diskcache", cache.get, lambda key, value: cache.set(key, value, expire=_TTL_SECONDS), awaited=False)


async def _lone_calls(kind: Kind, cache: LLMCache, peer: Peer, work: Workload, effort: Effort) -> list[Comparison]:
    pairs = peer.pairs(work)
    theirs = {
        "get": Side(peer.get, [(key,) for key, _ in pairs], peer.awaited),
        "set": Side(peer.set, pairs, peer.awaited),
    }
    ours = {
        "LLMCache.get": Side(cache.get, [(key,) for key in work.keys]),
        "LLMCache.set": Side(cache.set, list(zip(work.keys, work.responses, strict=True))),
    }
    if kind != "redis":  # its backends stand beside redis-py in table 1
        ours["backend.get"] = Side(cache.backend.get, [(key,) for key in work.storage_keys])
        ours["backend.set"] = Side(cache.backend.put, list(zip(work.storage_keys, work.records, strict=True)))
    return [await _beside(f"{kind} {call}", side, theirs[call[-3:]], peer.name, effort) for call, side in ours.items()]


async def _at_once(cache: LLMCache, peer: Peer, work: Workload, effort: Effort, many: int) -> list[Comparison]:
    many = min(many, len(work.keys))
    own = _pages(work.keys, many)
    their = _pages([key for key, _ in peer.pairs(work)], many)
    assert peer.get_many is not None
    ours, theirs = Side(gathered(cache.get), own, True, many), Side(gathered(peer.get), their, True, many)
    if None in await theirs.function(*their[0]):
        raise AssertionError(f"{peer.name} loses answers when {many} are asked for at once")
    own_page, their_page = Side(cache.get_many, own, True, many), Side(peer.get_many, their, True, many)
    return [
        await _beside(f"redis LLMCache.get, {many} callers", ours, theirs, peer.name, effort, callers=many),
        await _beside(f"redis LLMCache.get_many {many}", own_page, their_page, peer.name, effort),
    ]


async def _near(
    cache: LLMCache, bare: Reference, work: Workload, effort: Effort, stack: AsyncExitStack, report: Report
) -> list[Comparison]:
    """Measure hits in memory in front of Redis, once that can be configured."""
    if "near_max_size" not in CacheConfig.model_fields:
        report.notes.append("the near tier is left out: CacheConfig has no near_max_size yet")
        return []
    config = cache.config.model_dump(exclude={"redis_password"})
    near = LLMCache(CacheConfig(**{**config, "near_max_size": _NEAR_SIZE}))
    stack.push_async_callback(near.aclose)
    for key, response in zip(work.keys, work.responses, strict=True):
        await near.set(key, response)
        if await near.get(key) != response:
            raise AssertionError("the near tier lost an entry")
    side = Side(near.get, [(key,) for key in work.keys])
    theirs = Side(bare.get, [(key,) for key in work.storage_keys])
    rows = [await _beside("near LLMCache.get", side, theirs, bare.name, effort)]
    with absent("cashews", report.notes):
        peer = await _cashews(cache.config.url, stack, _ROOM, client_side=True)
        await peer.fill(work)
        theirs = Side(peer.get, [(key,) for key in work.keys])
        rows.append(await _beside("near LLMCache.get", side, theirs, "cashews client_side", effort))
    return rows


async def _beside(what: str, ours: Side, theirs: Side, name: str, effort: Effort, *, callers: int = 1) -> Comparison:
    goal = _GOALS.get((what, name), _GOALS.get(what, ""))
    return await compare(
        ours, theirs, effort, what=what, reference=name, callers=callers, entry_bytes=_ENTRY_BYTES, goal=goal
    )


def _pages(keys: Sequence[str], many: int) -> list[tuple[list[str]]]:
    return [(list(keys[start : start + many]),) for start in range(0, len(keys) - many + 1, many)]
