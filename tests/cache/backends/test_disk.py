from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cache_management.cache.backends import disk, disk_tables
from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.backends.disk import DiskBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.backends.tiered import TieredBackend
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.config import EvictionPolicy
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.events import CorruptEvent, Event, RemoveEvent
from cache_management.cache.records import Record
from tests.cache.backends.disk_child import PREFIX
from tests.conftest import PROJECT_ROOT
from tests.contracts.backend import BackendContract, JournalContract
from tests.contracts.clock import ManualClock
from tests.contracts.watched import KEY, EvictingWatchedContract
from tests.contracts.watched import PREFIX as WATCHED

PATIENT_SECONDS = 20.0


class TestDiskBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def make(self) -> Backend:
        return DiskBackend(
            self.folder,
            max_size=10_000,
            size_limit_bytes=10**9,
            timeout_seconds=PATIENT_SECONDS,
            clock=self.clock,
        )


class TestDiskJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = tmp_path
        monkeypatch.setattr(disk_tables, "NOTES_KEPT", 10)

    async def make_journal(self) -> Journal:
        return opened(self.folder)

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        await journal.append(stream, [b"more"] * 30)

    async def count_notes(self, journal: Journal, stream: str) -> int:
        with closing(sqlite3.connect(self.folder / "cache.sqlite")) as db:
            return int(db.execute("SELECT count(*) FROM notes WHERE stream = ?", (stream,)).fetchone()[0])

    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        assert isinstance(journal, DiskBackend)
        await journal.aclose()
        for file in self.folder.iterdir():
            file.unlink()
        return journal


class TestDiskWatched(EvictingWatchedContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def make(self) -> FullBackend:
        return opened(self.folder, clock=self.clock)

    async def make_small(self) -> FullBackend:
        return opened(self.folder, clock=self.clock, max_size=10)

    async def test_what_expired_and_gave_way_is_told(self) -> None:
        backend = await self.make_small()
        backend.watch([WATCHED], self.told.append)
        await backend.put(KEY, record(expires_at=self.clock.now + 1))
        assert backend.is_current()
        self.told.clear()
        self.clock.advance(2)

        await backend.put_many({f"{WATCHED}k{at}": record() for at in range(10)})

        assert backend.is_current()
        assert self.told == [[KEY]]
        await backend.aclose()

    async def test_what_was_put_and_not_kept_is_told(self) -> None:
        backend = opened(self.folder, clock=self.clock, size_limit_bytes=10_000)
        backend.watch([WATCHED], self.told.append)
        await backend.get(KEY)
        assert backend.is_current()
        self.told.clear()

        await backend.put(KEY, record(bytes(20_000)))

        assert backend.is_current()
        assert self.told == [[KEY]]
        await backend.aclose()

    async def test_what_gave_way_under_another_prefix_is_not_told(self) -> None:
        backend = await self.make_small()
        backend.watch([WATCHED + "other:"], self.told.append)
        await backend.get(KEY)
        assert backend.is_current()
        self.told.clear()

        await backend.put_many({f"{WATCHED}k{at}": record() for at in range(20)})

        assert backend.is_current()
        assert self.told == []
        await backend.aclose()

    async def test_more_than_is_remembered_is_told_as_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk, "_DROPPED_KEPT", 5)
        backend = await self.make_small()
        backend.watch([WATCHED], self.told.append)
        await backend.put(KEY, record())
        assert backend.is_current()
        self.told.clear()

        for at in range(30):
            await backend.put(f"{WATCHED}k{at}", record())

        assert backend.is_current()
        assert self.told == [None]
        await backend.aclose()

    async def test_own_writes_and_reads_elsewhere_are_not_told(self, watching: FullBackend, other: FullBackend) -> None:
        await watching.put(KEY, self.record())
        await other.get(KEY)
        assert watching.is_current()
        self.told.clear()

        await watching.put(KEY, self.record(b"own"))
        await other.get(KEY)

        assert watching.is_current()
        assert self.told == []

    async def test_a_change_is_told_once(self, watching: FullBackend, other: FullBackend) -> None:
        assert watching.is_current()
        await other.put(KEY, self.record())
        self.told.clear()

        assert watching.is_current()
        assert watching.is_current()

        assert self.told == [None]

    async def test_a_write_of_another_process_is_told(self, watching: FullBackend) -> None:
        assert watching.is_current()
        self.told.clear()

        race(start("write-many", self.folder, "a", 1))

        assert watching.is_current()
        assert self.told == [None]

    async def test_nobody_is_current_before_a_read_opened_the_file(self) -> None:
        backend = await self.make()
        backend.watch([KEY], self.told.append)

        assert not backend.is_current()
        await backend.get(KEY)
        assert backend.is_current()
        await backend.aclose()
        self.told.clear()

        assert not backend.is_current()
        assert self.told == [None]

    async def test_a_held_lock_is_not_waited_for(self, watching: FullBackend) -> None:
        with write_lock_held_elsewhere(self.folder):
            writing = asyncio.ensure_future(watching.put(KEY, self.record()))
            await asyncio.sleep(0)
            # Current or not, the answer comes at once: the lock goes only after it.
            watching.is_current()
            assert not writing.done()
        await writing

    async def test_what_cannot_be_asked_is_not_current(self, watching: FullBackend) -> None:
        assert isinstance(watching, DiskBackend)
        assert watching._connection is not None
        assert watching.is_current()

        watching._connection.close()

        assert not watching.is_current()

    async def test_while_its_own_thread_writes_nobody_is_current(self, watching: FullBackend) -> None:
        assert isinstance(watching, DiskBackend)

        with watching._lock:
            assert not watching.is_current()


def opened(folder: Path, **options: object) -> DiskBackend:
    defaults = {"max_size": 10_000, "size_limit_bytes": 10**9, "timeout_seconds": PATIENT_SECONDS}
    return DiskBackend(folder, **{**defaults, **options})  # type: ignore[arg-type]


def record(value: bytes = b"value", expires_at: float | None = None) -> Record:
    return Record(value=value, expires_at=expires_at, version=1)


def start(action: str, folder: Path, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cache.backends.disk_child", action, str(folder), *map(str, args)],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def race(*children: subprocess.Popen[str]) -> None:
    """Let processes begin when all of them are up, and wait for their end."""
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.communicate()
    finish(*children)


def finish(*children: subprocess.Popen[str]) -> list[str]:
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None
    outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0] * len(children), outputs
    return [output for output, _ in outputs]


@contextmanager
def write_lock_held_elsewhere(folder: Path) -> Iterator[None]:
    with start("hold-write-lock", folder) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        yield
        child.communicate(timeout=60)


# several processes


async def test_two_processes_writing_at_once_lose_nothing(tmp_path: Path) -> None:
    race(start("write-many", tmp_path, "a", 400), start("write-many", tmp_path, "b", 400))

    backend = opened(tmp_path)
    names = [f"{name}-{at}" for name in "ab" for at in range(400)]
    found = await backend.get_many([PREFIX + name for name in names])
    notes, _ = await backend.read_after("notes", "", limit=1000)
    shared = await backend.get(PREFIX + "shared")
    await backend.aclose()

    assert {key: item.value for key, item in found.items()} == {PREFIX + name: name.encode() for name in names}
    assert sorted(notes) == sorted(name.encode() for name in names)
    assert shared is not None
    assert shared.value in {b"a-399", b"b-399"}


@pytest.mark.faults
async def test_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    child = start("write-for-ever", tmp_path)
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(200)]

    child.kill()
    rest, _ = child.communicate(timeout=60)
    acknowledged += [line for line in rest.splitlines(keepends=False) if line]

    backend = opened(tmp_path)
    found = await backend.get_many([PREFIX + at for at in acknowledged])
    await backend.put(PREFIX + "next", record())
    assert await backend.get(PREFIX + "next") is not None
    await backend.aclose()
    assert {key: item.value.rstrip(b".") for key, item in found.items()} == {
        PREFIX + at: at.encode() for at in acknowledged
    }


async def test_number_of_entries_is_bounded_under_concurrent_writers(tmp_path: Path) -> None:
    race(start("fill", tmp_path, "a", 40, 10**9), start("fill", tmp_path, "b", 40, 10**9))

    backend = opened(tmp_path)
    assert await backend.count() == 40
    await backend.aclose()


async def test_bytes_are_bounded_under_concurrent_writers(tmp_path: Path) -> None:
    race(start("fill", tmp_path, "a", 10**6, 20_000), start("fill", tmp_path, "b", 10**6, 20_000))

    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        size, entries = db.execute("SELECT sum(length(frame)), count(*) FROM records").fetchone()
        counted = db.execute("SELECT total(bytes), total(entries) FROM groups WHERE id > 0").fetchone()
        whole = db.execute("SELECT bytes FROM groups WHERE id = 0").fetchone()

    assert 10_000 < size <= 20_000
    assert counted == (size, entries)
    assert whole == (size,)


async def test_forked_child_opens_its_own_connection(tmp_path: Path) -> None:
    (said,) = finish(start("fork-and-use", tmp_path))

    assert said.splitlines() == ["child 0", "parent current True", "found before child contended parent waited"]


# copies kept in front of it


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
async def test_no_copy_outlives_a_delete_that_found_its_original_evicted(tmp_path: Path, policy: str) -> None:
    here, there = (opened(tmp_path, max_size=10, policy=EvictionPolicy(policy)) for _ in range(2))
    tier = TieredBackend(here, MemoryBackend(max_size=1000), prefixes=[PREFIX])
    await there.ping()
    await tier.get(PREFIX + "absent")
    await tier.put(PREFIX + "victim", record())
    assert tier.peek(PREFIX + "victim") is not None

    for at in range(40):
        await tier.put(f"{PREFIX}{at}", record())
    assert not await there.delete(PREFIX + "victim"), "it is not gone yet, so this shows nothing"

    assert tier.peek(PREFIX + "victim") is None
    assert await tier.get(PREFIX + "victim") is None
    assert tier.peek(f"{PREFIX}39") is not None, "what still stands on disk stays in memory"
    await tier.aclose()
    await there.aclose()


async def test_no_copy_is_kept_of_what_was_evicted_by_its_own_batch(tmp_path: Path) -> None:
    here = opened(tmp_path, max_size=10)
    tier = TieredBackend(here, MemoryBackend(max_size=1000), prefixes=[PREFIX])
    await tier.get(PREFIX + "absent")

    await tier.put_many({f"{PREFIX}{at}": record() for at in range(40)})

    kept = {f"{PREFIX}{at}" for at in range(40) if tier.peek(f"{PREFIX}{at}") is not None}
    assert kept == {key async for key in here.scan(PREFIX)}
    await tier.aclose()


async def test_no_copy_is_kept_of_what_is_too_large_for_the_disk(tmp_path: Path) -> None:
    tier = TieredBackend(opened(tmp_path, size_limit_bytes=10_000), MemoryBackend(max_size=1000), prefixes=[PREFIX])
    await tier.get(PREFIX + "absent")

    await tier.put(PREFIX + "a", record(bytes(20_000)))

    assert tier.peek(PREFIX + "a") is None
    await tier.aclose()


# the write lock


async def test_write_waits_for_a_lock_held_elsewhere_and_then_succeeds(tmp_path: Path) -> None:
    backend = opened(tmp_path)
    await backend.put(PREFIX + "a", record(b"old"))

    with write_lock_held_elsewhere(tmp_path):
        writing = asyncio.ensure_future(backend.put(PREFIX + "a", record(b"new")))
        await asyncio.sleep(0)
        # Readers go on meanwhile, on the event loop, and see what was there.
        assert (await backend.get_many([PREFIX + "a"]))[PREFIX + "a"].value == b"old"
        assert not writing.done()
    await writing

    assert (await backend.get_many([PREFIX + "a"]))[PREFIX + "a"].value == b"new"
    await backend.aclose()


@pytest.mark.parametrize("change", ["put", "delete"])
async def test_a_cancelled_write_never_lands_after_a_later_change(tmp_path: Path, change: str) -> None:
    """It waits on a thread for another process's lock, and its caller leaves."""
    backend = opened(tmp_path)
    await backend.ping()
    with closing(sqlite3.connect(backend.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(backend.put(PREFIX + "a", record(b"cancelled")))
        while backend._thread is None:  # until it waits there
            await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        other.execute("COMMIT")
    if change == "put":
        await backend.put(PREFIX + "a", record(b"new"))
    else:
        await backend.delete(PREFIX + "a")
    await asyncio.to_thread(backend._thread.submit(lambda: None).result)  # whatever was left to do there is done

    found = await backend.get(PREFIX + "a")
    assert (found.value if found else None) == (b"new" if change == "put" else None)
    await backend.aclose()


@pytest.mark.parametrize("is_watched", [False, True])
async def test_a_file_that_was_deleted_is_left(tmp_path: Path, is_watched: bool) -> None:
    clock = ManualClock()
    backend, told = opened(tmp_path, clock=clock), list[object]()
    backend.watch([PREFIX], told.append)
    await backend.put(PREFIX + "a", Record(value=b"old", expires_at=None, version=1))
    for file in tmp_path.iterdir():
        file.unlink()
    other = opened(tmp_path, clock=clock)
    await other.put(PREFIX + "a", Record(value=b"new", expires_at=None, version=2))
    told.clear()

    clock.advance(2)

    if is_watched:
        assert not backend.is_current()
        assert None in told
    found = await backend.get(PREFIX + "a")
    assert found is not None
    assert found.value == b"new"
    assert await other.delete(PREFIX + "a")
    assert await backend.get(PREFIX + "a") is None
    await backend.aclose()
    await other.aclose()


async def test_lock_held_too_long_costs_the_budget_and_not_the_event_loop(tmp_path: Path) -> None:
    backend = opened(tmp_path, timeout_seconds=0.3)
    await backend.put(PREFIX + "a", record())
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    with write_lock_held_elsewhere(tmp_path):
        ticking = asyncio.ensure_future(tick())
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match="locked"):
            await backend.put(PREFIX + "b", record())
        elapsed = time.monotonic() - started
        ticking.cancel()
        with pytest.raises(BackendUnavailable):
            await backend.delete(PREFIX + "a")

    # A blocked loop would not have ticked at all; a free one ticks some sixty times.
    assert ticks >= 5
    assert elapsed < 5
    await backend.aclose()


async def test_closing_waits_for_a_write_beside_the_loop_and_leaves_nothing_open(tmp_path: Path) -> None:
    backend = opened(tmp_path, timeout_seconds=0.3)
    await backend.put(PREFIX + "a", record())
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    with write_lock_held_elsewhere(tmp_path):
        ticking = asyncio.ensure_future(tick())
        writing = asyncio.ensure_future(backend.put(PREFIX + "b", record()))
        await asyncio.sleep(0)
        await backend.aclose()
        ticking.cancel()

    assert ticks >= 5
    assert backend._connection is None
    with pytest.raises(BackendUnavailable, match="locked"):
        await writing


async def test_closed_store_opens_anew_for_who_comes_while_it_closes(tmp_path: Path) -> None:
    backend = opened(tmp_path)
    await backend.put(PREFIX + "a", record())

    with write_lock_held_elsewhere(tmp_path):
        writing = [asyncio.ensure_future(backend.put(PREFIX + "b", record()))]
        await asyncio.sleep(0)
        closing_ = asyncio.ensure_future(backend.aclose())
        await asyncio.sleep(0)
        writing.append(asyncio.ensure_future(backend.put(PREFIX + "c", record())))
        await asyncio.sleep(0)
    await asyncio.gather(*writing, closing_)

    assert len(await backend.get_many([PREFIX + name for name in "abc"])) == 3
    await backend.aclose()


async def test_writes_that_wait_in_a_row_share_one_budget(tmp_path: Path) -> None:
    backend = opened(tmp_path, timeout_seconds=0.3)
    await backend.put(PREFIX + "a", record())

    with write_lock_held_elsewhere(tmp_path):
        started = time.monotonic()
        found = await asyncio.gather(
            *(backend.put(f"{PREFIX}{at}", record()) for at in range(20)), return_exceptions=True
        )
        elapsed = time.monotonic() - started

    assert {type(each) for each in found} == {BackendUnavailable}
    assert elapsed < 20 * 0.3 / 2
    await backend.aclose()


async def test_first_opening_waits_for_another_process_no_longer_than_its_budget(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "cache.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        backend = opened(tmp_path, timeout_seconds=0.2)
        with pytest.raises(BackendUnavailable):
            await backend.get(PREFIX + "a")
        db.execute("ROLLBACK")

    assert await backend.get(PREFIX + "a") is None
    await backend.aclose()


async def test_whoever_joins_an_opening_that_gives_up_has_a_budget_of_its_own(tmp_path: Path) -> None:
    backend = opened(tmp_path)
    begun_by_another = backend._opening = Future()
    joined = asyncio.create_task(backend.get(PREFIX + "a"))
    await asyncio.sleep(0)

    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
    gave_up = BackendUnavailable("the disk store", "database is locked")
    gave_up.__cause__ = locked
    begun_by_another.set_exception(gave_up)

    assert await joined is None
    await backend.aclose()


# damage


async def test_garbage_file_is_unavailable_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "cache.sqlite"
    file.write_bytes(b"this is no database" * 1000)
    backend = opened(tmp_path)

    for call in (backend.get(PREFIX + "a"), backend.put(PREFIX + "a", record()), backend.count()):
        with pytest.raises(BackendUnavailable, match=r"cache\.sqlite.*not a database"):
            await call

    await backend.aclose()
    assert file.read_bytes() == b"this is no database" * 1000


async def test_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(BackendUnavailable, match="the disk store"):
        await opened(tmp_path / "file" / "below").ping()


async def test_changed_byte_in_a_record_is_a_miss_with_an_event(tmp_path: Path) -> None:
    heard: list[Event] = []
    backend = opened(tmp_path, listener=heard.append)
    await backend.put_many({PREFIX + "bad": record(b"value"), PREFIX + "good": record(b"value")})
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db, db:
        db.execute("UPDATE records SET frame = CAST(substr(frame, 1, length(frame) - 1) || x'00' AS BLOB) WHERE id = 1")

    found = await backend.get_many([PREFIX + "bad", PREFIX + "good"])
    inspected = await backend.inspect_many([PREFIX + "bad", PREFIX + "good", PREFIX + "absent"])
    await backend.aclose()

    assert list(found) == [PREFIX + "good"]
    assert inspected == {PREFIX + "bad": None, **found}
    heard.pop()
    assert heard == [CorruptEvent(backend="disk", storage_key=PREFIX + "bad", detail="the checksum differs")]


async def test_frame_of_another_type_is_a_miss_with_an_event(tmp_path: Path) -> None:
    heard: list[Event] = []
    backend = opened(tmp_path, listener=heard.append)
    await backend.put(PREFIX + "a", record())
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db, db:
        db.execute("UPDATE records SET frame = 'some text that is long enough for a head'")

    assert await backend.get(PREFIX + "a") is None

    await backend.aclose()
    assert [type(event) for event in heard] == [CorruptEvent]


async def test_key_that_is_not_text_any_more_is_unavailable(tmp_path: Path) -> None:
    backend = opened(tmp_path)
    await backend.put(PREFIX + "a", record())
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db, db:
        db.execute("UPDATE records SET key = CAST(key || x'ff' AS TEXT)")

    with pytest.raises(BackendUnavailable):
        [key async for key in backend.scan(PREFIX)]
    await backend.aclose()


@pytest.mark.parametrize("seed", range(12))
async def test_damaged_file_never_gives_a_wrong_answer(tmp_path: Path, seed: int) -> None:
    backend = opened(tmp_path)
    stored = {f"{PREFIX}{at}": record(str(at).encode() * 50) for at in range(100)}
    await backend.put_many(stored)
    await backend.aclose()
    file = tmp_path / "cache.sqlite"
    data = bytearray(file.read_bytes())
    rng = random.Random(seed)
    for _ in range(60):
        data[rng.randrange(100, len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data[: rng.choice([len(data), len(data) // 2])])

    backend = opened(tmp_path)
    for key, true in stored.items():
        try:
            found = await backend.get(key)
        except BackendUnavailable:
            continue
        assert found in (None, true)
    for call in (backend.count(), backend.put(PREFIX + "new", record()), backend.delete_many(list(stored))):
        try:
            await call
        except BackendUnavailable:
            continue
    await backend.aclose()


# eviction


async def test_least_recently_read_goes_first_even_from_another_process(tmp_path: Path) -> None:
    clock = ManualClock()
    writer = opened(tmp_path, max_size=3, clock=clock)
    for name in "abc":
        await writer.put(PREFIX + name, record())
        clock.advance(1)
    reader = opened(tmp_path, max_size=3, clock=clock)
    await reader.get(PREFIX + "a")
    await reader.aclose()
    clock.advance(1)

    await writer.put(PREFIX + "d", record())

    assert [key[-1] async for key in writer.scan(PREFIX)] == ["a", "c", "d"]
    await writer.aclose()


async def test_the_last_page_of_a_walk_costs_no_more_than_the_first(tmp_path: Path) -> None:
    backend = opened(tmp_path)
    await backend.put_many({f"{PREFIX}{at:05}": record() for at in range(5_000)})
    work = [0]

    async def work_of_a_page(after: str) -> int:
        work[0] = 0
        page, _ = await backend.scan_page(PREFIX, after, 100)
        assert len(page) == 100
        return work[0]

    assert backend._connection is not None
    backend._connection.set_progress_handler(lambda: work.__setitem__(0, work[0] + 1), 1)

    first, last = await work_of_a_page(""), await work_of_a_page(f"{PREFIX}04800")
    backend._connection.set_progress_handler(None, 0)

    assert 100 < first < 5_000
    assert last < 2 * first
    await backend.aclose()


async def test_inspecting_is_no_use(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, max_size=2, clock=clock)
    for name in "ab":
        await backend.put(PREFIX + name, record())
        clock.advance(1)

    await backend.inspect_many([PREFIX + "a"])
    await backend.put(PREFIX + "c", record())

    assert [key[-1] async for key in backend.scan(PREFIX)] == ["b", "c"]
    await backend.aclose()


async def test_expired_entries_make_room_before_live_ones(tmp_path: Path) -> None:
    clock = ManualClock()
    heard: list[Event] = []
    backend = opened(tmp_path, max_size=2, clock=clock, listener=heard.append)
    await backend.put_many({PREFIX + "live": record(), PREFIX + "dead": record(expires_at=clock.now + 1)})
    clock.advance(1)

    await backend.put(PREFIX + "new", record())

    assert [key.removeprefix(PREFIX) async for key in backend.scan(PREFIX)] == ["live", "new"]
    assert heard == []
    await backend.aclose()


async def test_eviction_is_told_with_its_namespace(tmp_path: Path) -> None:
    heard: list[Event] = []
    backend = opened(tmp_path, max_size=2, listener=heard.append)

    await backend.put_many({f"{PREFIX}{at}": record() for at in range(5)})

    assert heard == [RemoveEvent(reason="evicted", namespace="disk", count=3)]
    await backend.aclose()


async def test_entry_larger_than_the_whole_limit_is_not_kept_and_pushes_nothing_out(tmp_path: Path) -> None:
    heard: list[Event] = []
    backend = opened(tmp_path, size_limit_bytes=10_000, listener=heard.append)
    await backend.put_many({f"{PREFIX}{at}": record(b"x" * 1000) for at in range(5)})

    await backend.put_many({PREFIX + "huge": record(b"x" * 50_000), PREFIX + "0": record(b"y" * 50_000)})

    # What stood under its key is out of date.
    assert [key.removeprefix(PREFIX) async for key in backend.scan(PREFIX)] == ["1", "2", "3", "4"]
    assert heard == [RemoveEvent(reason="evicted", namespace="disk", count=2)]
    await backend.aclose()


async def test_later_expiry_of_an_overwrite_counts_and_an_earlier_one_too(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, max_size=3, clock=clock)
    for name, first, second in (("later", 10, 100), ("sooner", 100, 10), ("at last", None, 10)):
        for life in (first, second):
            await backend.put(PREFIX + name, record(expires_at=life and clock.now + life))
    await backend.get(PREFIX + "sooner")
    await backend.get(PREFIX + "at last")
    clock.advance(20)

    await backend.put_many({PREFIX + "new": record(), PREFIX + "newer": record()})

    assert [key.removeprefix(PREFIX) async for key in backend.scan(PREFIX)] == ["later", "new", "newer"]
    await backend.aclose()


async def test_group_that_holds_most_bytes_gives_way(tmp_path: Path) -> None:
    backend = opened(tmp_path, size_limit_bytes=10_000)
    await backend.put("cm1:llm:small:k", record(b"x" * 1000))
    await backend.put_many({f"{PREFIX}{at}": record(b"x" * 1000) for at in range(8)})

    await backend.put("cm1:llm:new:k", record(b"x" * 1000))
    await backend.put(PREFIX + "7", record(b"x" * 4000))

    assert await backend.get("cm1:llm:small:k") is not None
    assert await backend.get("cm1:llm:new:k") is not None
    assert [key.removeprefix(PREFIX) async for key in backend.scan(PREFIX)] == ["4", "5", "6", "7"]
    await backend.aclose()


async def test_reads_reach_the_store_without_any_write(tmp_path: Path) -> None:
    backend = opened(tmp_path)
    keys = [f"{PREFIX}{at}" for at in range(400)]
    await backend.put_many({key: record() for key in keys})

    for key in keys:
        await backend.get(key)
    await backend.aclose()

    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
        (counted,) = db.execute("SELECT count(*) FROM marks WHERE uses = 1").fetchone()
    assert counted == 400


async def test_reads_are_written_down_while_the_store_is_only_read(tmp_path: Path) -> None:
    clock = ManualClock()
    backend = opened(tmp_path, clock=clock)
    keys = [f"{PREFIX}{at}" for at in range(1100)]
    await backend.put_many({key: record() for key in keys})

    def counted() -> int:
        with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db:
            return int(db.execute("SELECT total(uses) FROM marks").fetchone()[0])

    await backend.get(keys[0])
    clock.advance(60)
    assert counted() == 0
    await backend.get_many(keys[:2])
    after_a_while = counted()
    with write_lock_held_elsewhere(tmp_path):
        for key in keys:  # more than are kept: dropped, because nobody may wait
            assert await backend.get(key) is not None
    for key in keys:
        await backend.get(key)

    assert after_a_while == 2 or after_a_while == 3
    assert 1024 <= counted() - after_a_while <= 1100
    await backend.aclose()


async def test_reads_go_on_where_uses_cannot_be_written_down(tmp_path: Path) -> None:
    backend = opened(tmp_path)
    keys = [f"{PREFIX}{at}" for at in range(1100)]
    await backend.put_many({key: record() for key in keys})
    with closing(sqlite3.connect(tmp_path / "cache.sqlite")) as db, db:
        db.execute("DROP TABLE marks")

    for key in keys * 2:
        assert await backend.get(key) == record()

    await backend.aclose()


async def test_data_folder_is_private(tmp_path: Path) -> None:
    backend = opened(tmp_path / "new")
    await backend.ping()
    await backend.aclose()

    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
