"""Table 1: get and set on each backend, beside the bare store with the same bytes.

Memory stands beside a dict, disk beside sqlite3 with the same pragmas, Redis beside redis-py's
own asyncio client on the same server.
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from cache_management.cache.codec import pack
from cache_management.cache.config import CacheConfig
from cache_management.cache.identity import KeySpace
from cache_management.cache.llm import LLMCache
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse
from cache_management.services import start_redis
from tests.bench.measure import Comparison, Effort, Report, Side, compare, gathered

NAME = "backends"
Kind = Literal["memory", "disk", "redis"]
KINDS: Final[tuple[Kind, ...]] = ("memory", "disk", "redis")
SIZES: Final = (100, 1_000, 10_000, 100_000)
_ENTRIES = 1_000
_ENTRIES_OF_100_KB = 200
_AT_ONCE = 100
_BATCH_BYTES = 1_000
_TTL_SECONDS = 3600
_GOALS: Final = {
    ("memory", "backend", "get"): "2 us",
    ("memory", "backend", "set"): "3 us",
    ("disk", "backend", "get"): "10 us",
    ("disk", "backend", "set"): "40 us",
    ("redis", "backend", "get"): "<= 1.0 x",
}


class Workload(msgspec.Struct, frozen=True):
    """Entries of one size, as every layer sees them; `frames` are the bytes a store keeps."""

    keys: list[str]
    responses: list[CachedResponse]
    storage_keys: list[str]
    records: list[Record]
    frames: list[bytes]


class Reference(msgspec.Struct, frozen=True):
    """A bare store. A dict lends its own methods, so that no Python call stands around them."""

    name: str
    awaited: bool
    get: Callable[[str], Any]
    set: Callable[[str, bytes], Any]
    get_many: Callable[[list[str]], Any]
    set_many: Callable[[dict[str, bytes]], Any]


def dict_reference() -> Reference:
    frames: dict[str, bytes] = {}

    def get_many(keys: list[str]) -> dict[str, bytes]:
        return {key: frames[key] for key in keys}

    return Reference("dict", False, frames.__getitem__, frames.__setitem__, get_many, frames.update)


def sqlite_reference(db: sqlite3.Connection) -> Reference:
    """Make one table of keys and blobs, with the pragmas of the disk backend."""
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE frames (key TEXT PRIMARY KEY, frame BLOB NOT NULL)")
    put = "INSERT INTO frames VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET frame = excluded.frame"

    def get(key: str) -> Any:
        return db.execute("SELECT frame FROM frames WHERE key = ?", (key,)).fetchone()[0]

    def get_many(keys: list[str]) -> dict[str, bytes]:
        marks = ",".join("?" * len(keys))
        return dict(db.execute(f"SELECT key, frame FROM frames WHERE key IN ({marks})", keys).fetchall())

    def set_many(frames: dict[str, bytes]) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.executemany(put, list(frames.items()))
        db.execute("COMMIT")

    return Reference("sqlite3", False, get, lambda key, frame: db.execute(put, (key, frame)), get_many, set_many)


def redis_reference(client: Any) -> Reference:
    """Use redis-py's asyncio client as it comes; a set gives the key an expiry, as the backend does."""

    async def set_many(frames: dict[str, bytes]) -> None:
        pipeline = client.pipeline(transaction=False)
        for key, frame in frames.items():
            pipeline.set(key, frame, px=_TTL_SECONDS * 1000)
        await pipeline.execute()

    def put(key: str, frame: bytes) -> Any:
        return client.set(key, frame, px=_TTL_SECONDS * 1000)

    return Reference("redis-py", True, client.get, put, client.mget, set_many)


async def measure(
    effort: Effort, *, kinds: Sequence[Kind] = KINDS, sizes: Sequence[int] = SIZES, entries: int = _ENTRIES
) -> Report:
    """Measure the table."""
    report = Report(
        name=NAME,
        title="1. get and set, microseconds for each entry",
        rows=[],
        notes=[
            "ratio: ours / beside, below 1 is faster; 10-90 %: spread over neighbouring runs; CPU: ratio of CPU time",
            f"entry: bytes of the encoded entry, before compression; {entries} keys, at random; one caller unless said",
        ],
    )
    for kind in kinds:
        for size in sizes:
            work = make_workload(size, entries if size < 100_000 else min(entries, _ENTRIES_OF_100_KB))
            with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
                async with AsyncExitStack() as stack:
                    cache, reference = await open_beside(kind, Path(folder), stack, report)
                    report.rows += await _lone_calls(kind, cache, reference, work, effort, size)
                    if size == _BATCH_BYTES or len(sizes) == 1:
                        report.rows += await _many_at_once(kind, cache, reference, work, effort, size)
    return report


def make_workload(size: int, count: int) -> Workload:
    """Make entries whose encoded form has `size` bytes, of words that compress about as text does."""
    chance = random.Random(size)
    words = ["".join(chance.choices("etaoinshrdlucmfwypvbgkq", k=chance.randint(2, 9))) for _ in range(3000)]
    cache = LLMCache(CacheConfig(url="memory://"))
    keys_of = KeySpace("llm", "default")
    order = list(range(count))
    chance.shuffle(order)
    keys = [f"what is the answer to question {number:06}?" for number in order]
    text = " ".join(chance.choices(words, k=size // 3))
    empty = len(_entry_bytes(cache, keys[0], _response(keys[0], "")))
    responses = []
    for key in keys:
        start = chance.randrange(max(1, len(text) - size))
        body = (text[start:] + text)[: max(1, size - empty - (2 if size > 300 else 0))]
        responses.append(_response(key, body))
    records = [cache.encode(key, response) for key, response in zip(keys, responses, strict=True)]
    storage_keys = [keys_of.to_storage(key) for key in keys]
    frames = [pack(key, record) for key, record in zip(storage_keys, records, strict=True)]
    return Workload(keys, responses, storage_keys, records, frames)


def _response(key: str, text: str) -> CachedResponse:
    return CachedResponse(
        prompt=key, response=text, model="gpt-4", timestamp=datetime(2026, 1, 1, tzinfo=UTC), token_count=120
    )


def _entry_bytes(cache: LLMCache, key: str, response: CachedResponse) -> bytes:
    return cache.encode(key, response).value


async def open_beside(kind: Kind, folder: Path, stack: AsyncExitStack, report: Report) -> tuple[LLMCache, Reference]:
    """Open a cache and the bare store beside it; the stack closes both."""
    reference: Reference
    if kind == "memory":
        url, reference = "memory://", dict_reference()
    elif kind == "disk":
        url = f"disk://{folder / 'ours'}"
        connection = sqlite3.connect(folder / "theirs.sqlite", isolation_level=None)
        reference = sqlite_reference(stack.enter_context(closing(connection)))
    else:
        from redis.asyncio import Redis

        server = start_redis(folder / "redis")
        stack.callback(server.stop)
        url = server.url
        client = Redis.from_url(url)
        stack.push_async_callback(client.aclose)
        report.details["redis_server"] = (await client.info("server"))["redis_version"]
        reference = redis_reference(client)
    config = CacheConfig(url=url, ttl_seconds=_TTL_SECONDS, max_size=1_000_000, timeout_seconds=5.0, strict=True)
    cache = LLMCache(config)
    stack.push_async_callback(cache.aclose)
    return cache, reference


async def _lone_calls(
    kind: Kind, cache: LLMCache, reference: Reference, work: Workload, effort: Effort, size: int
) -> list[Comparison]:
    stored = work.records if kind == "memory" else work.frames
    labels: dict[str, Any] = {
        "reference": reference.name,
        "entry_bytes": size,
        "stored_bytes": len(work.records[0].value if kind == "memory" else work.frames[0]),
    }
    ours_key = [(key,) for key in work.keys]
    key = [(key,) for key in work.storage_keys]
    theirs = {
        "get": Side(reference.get, key, reference.awaited),
        "set": Side(
            reference.set,
            [
                (key, each.value if isinstance(each, Record) else each)
                for key, each in zip(work.storage_keys, stored, strict=True)
            ],
            reference.awaited,
        ),
    }
    layers = {
        ("backend", "set"): Side(cache.backend.put, list(zip(work.storage_keys, work.records, strict=True))),
        ("backend", "get"): Side(cache.backend.get, key),
        ("LLMCache", "set"): Side(cache.set, list(zip(work.keys, work.responses, strict=True))),
        ("LLMCache", "get"): Side(cache.get, ours_key),
    }
    await _fill(cache, reference, work, memory=kind == "memory")
    return [
        await compare(
            ours,
            theirs[call],
            effort,
            what=f"{kind} {layer}.{call}",
            goal=_GOALS.get((kind, layer, call), ""),
            **labels,
        )
        for (layer, call), ours in layers.items()
    ]


async def _many_at_once(
    kind: Kind, cache: LLMCache, reference: Reference, work: Workload, effort: Effort, size: int
) -> list[Comparison]:
    """One call for many entries; on Redis also many callers at once."""
    many = min(_AT_ONCE, len(work.keys))
    pages = [slice(start, start + many) for start in range(0, len(work.keys) - many + 1, many)]
    own = [(work.keys[page],) for page in pages]
    stored = [(work.storage_keys[page],) for page in pages]
    frames: list[tuple[dict[str, bytes]]] = [
        (dict(zip(work.storage_keys[page], work.frames[page], strict=True)),) for page in pages
    ]
    records = [(dict(zip(work.storage_keys[page], work.records[page], strict=True)),) for page in pages]
    responses = [(dict(zip(work.keys[page], work.responses[page], strict=True)),) for page in pages]
    if kind == "memory":
        frames = [({key: record.value for key, record in page.items()},) for (page,) in records]
    get_many = Side(reference.get_many, stored, reference.awaited, many)
    set_many = Side(reference.set_many, frames, reference.awaited, many)
    pairs = [
        (f"{kind} backend.get_many {many}", Side(cache.backend.get_many, stored, True, many), get_many, many, ""),
        (f"{kind} LLMCache.get_many {many}", Side(cache.get_many, own, True, many), get_many, many, ""),
        (f"{kind} backend.put_many {many}", Side(cache.backend.put_many, records, True, many), set_many, many, ""),
        (f"{kind} LLMCache.set_many {many}", Side(cache.set_many, responses, True, many), set_many, many, ""),
    ]
    if kind == "redis":
        together = Side(gathered(reference.get), stored, True, many)
        for layer, side, goal in (
            ("backend", Side(gathered(cache.backend.get), stored, True, many), "0.1 x"),
            ("LLMCache", Side(gathered(cache.get), own, True, many), ""),
        ):
            pairs.append((f"{kind} {layer}.get, {many} callers", side, together, many, goal))
    return [
        await compare(
            ours,
            theirs,
            effort,
            what=what,
            reference=reference.name,
            callers=callers if "callers" in what else 1,
            entry_bytes=size,
            stored_bytes=len(work.frames[0]),
            goal=goal,
        )
        for what, ours, theirs, callers, goal in pairs
    ]


async def _fill(cache: LLMCache, reference: Reference, work: Workload, *, memory: bool) -> None:
    """Store everything on both sides, and make sure that both give it back."""
    await cache.backend.put_many(dict(zip(work.storage_keys, work.records, strict=True)))
    values = [record.value for record in work.records] if memory else work.frames
    for key, value in zip(work.storage_keys, values, strict=True):
        stored = reference.set(key, value)
        if reference.awaited:
            await stored
    answer = reference.get(work.storage_keys[0])
    if reference.awaited:
        answer = await answer
    if answer != values[0] or await cache.get(work.keys[0]) != work.responses[0]:
        raise AssertionError(f"{reference.name} and the cache do not hold the same entry")
