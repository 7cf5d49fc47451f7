"""What every backend and every journal promises. Implementations inherit these suites."""

from __future__ import annotations

import asyncio
import gc
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_management.cache.backends.base import Backend, Journal
from cache_management.cache.errors import JournalGap
from cache_management.cache.records import Record
from tests.contracts.clock import ManualClock

PREFIX = "cm1:llm:contract:k"
LIFE_SECONDS = 3600.0

# Each backend inherits the same property, and a prefix is as good on a store that the last example used.
INHERITED = [HealthCheck.differing_executors, HealthCheck.function_scoped_fixture]
GLOB_TEXT = st.text(alphabet="ab*?[]\\^-\U0010ffff", max_size=6)


class BackendContract(ABC):
    """Inherit it, and say in `make` how the backend is opened with `self.clock`."""

    @abstractmethod
    async def make(self) -> Backend: ...

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the backend; a server with a clock of its own needs more than this."""
        self.clock.advance(seconds)

    def setup_method(self) -> None:
        self.clock = ManualClock()

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        backend = await self.make()
        yield backend
        await backend.aclose()

    def record(self, value: bytes = b"value", *, life: float = LIFE_SECONDS, version: int = 1) -> Record:
        return Record(value=value, expires_at=self.clock.now + life, version=version)

    async def test_record_comes_back_as_it_went_in(self, backend: Backend) -> None:
        record = Record(value=b"answer", expires_at=self.clock.now + 12.25, version=2**62)

        await backend.put(PREFIX + "a", record)

        assert await backend.get(PREFIX + "a") == record

    @pytest.mark.keeps_keys
    async def test_record_without_expiry_stays(self, backend: Backend) -> None:
        await backend.put(PREFIX + "a", Record(value=b"answer", expires_at=None, version=-1))

        await self.pass_time(10 * 365 * 24 * 3600)

        assert await backend.get(PREFIX + "a") == Record(value=b"answer", expires_at=None, version=-1)

    async def test_absent_keys_are_left_out(self, backend: Backend) -> None:
        await backend.put(PREFIX + "there", self.record())

        found = await backend.get_many([PREFIX + "there", PREFIX + "absent"])

        assert list(found) == [PREFIX + "there"]
        assert await backend.get(PREFIX + "absent") is None

    async def test_same_key_asked_twice_is_found(self, backend: Backend) -> None:
        await backend.put(PREFIX + "a", self.record())

        assert await backend.get_many([PREFIX + "a", PREFIX + "a"]) == {PREFIX + "a": self.record()}

    async def test_second_put_replaces_the_first(self, backend: Backend) -> None:
        await backend.put(PREFIX + "a", self.record(b"first"))

        await backend.put(PREFIX + "a", self.record(b"second", version=2))

        assert await backend.get(PREFIX + "a") == self.record(b"second", version=2)
        assert await backend.count(PREFIX) == 1

    async def test_put_replaces_the_expiry_too(self, backend: Backend) -> None:
        await backend.put(PREFIX + "a", self.record(life=60))
        await backend.put(PREFIX + "a", self.record(life=600))

        await self.pass_time(120)

        assert await backend.get(PREFIX + "a") is not None

    async def test_many_records_in_one_call(self, backend: Backend) -> None:
        records = {f"{PREFIX}{at}": self.record(str(at).encode()) for at in range(1200)}

        await backend.put_many(records)

        assert await backend.get_many(list(records)) == records
        assert {key async for key in backend.scan(PREFIX)} == set(records)
        assert await backend.count(PREFIX) == len(records)

    async def test_record_is_served_until_its_last_moment_and_not_after(self, backend: Backend) -> None:
        await backend.put(PREFIX + "a", self.record(life=60))

        await self.pass_time(59.75)
        before = await backend.get(PREFIX + "a")
        await self.pass_time(0.25)
        after = await backend.get(PREFIX + "a")

        assert before is not None
        assert after is None

    async def test_expired_record_is_not_listed_counted_or_deleted(self, backend: Backend) -> None:
        await backend.put_many({PREFIX + "old": self.record(life=60), PREFIX + "new": self.record(life=600)})

        await self.pass_time(60)

        assert [key async for key in backend.scan(PREFIX)] == [PREFIX + "new"]
        assert await backend.count(PREFIX) == 1
        assert await backend.delete(PREFIX + "old") is False

    async def test_expired_record_is_stored_as_absent(self, backend: Backend) -> None:
        await backend.put(PREFIX + "a", self.record())

        await backend.put(PREFIX + "a", self.record(life=0))

        assert await backend.get(PREFIX + "a") is None
        assert await backend.count(PREFIX) == 0

    async def test_inspecting_finds_what_reading_finds(self, backend: Backend) -> None:
        records = {f"{PREFIX}{at}": self.record(str(at).encode()) for at in range(600)}
        await backend.put_many({**records, PREFIX + "old": self.record(life=60)})
        await self.pass_time(60)

        assert await backend.inspect_many([*records, PREFIX + "old", PREFIX + "absent"]) == records
        assert await backend.inspect_many([]) == {}

    async def test_expired_and_live_records_in_one_call_do_not_mix(self, backend: Backend) -> None:
        await backend.put_many({PREFIX + "dead": self.record(life=-5), PREFIX + "live": self.record()})

        assert await backend.get_many([PREFIX + "dead", PREFIX + "live"]) == {PREFIX + "live": self.record()}

    async def test_delete_counts_what_was_there(self, backend: Backend) -> None:
        await backend.put_many({PREFIX + "a": self.record(), PREFIX + "b": self.record()})

        assert await backend.delete_many([PREFIX + "a", PREFIX + "absent"]) == 1
        assert await backend.delete(PREFIX + "a") is False
        assert await backend.delete(PREFIX + "b") is True
        assert await backend.count(PREFIX) == 0

    async def test_empty_batches_do_nothing(self, backend: Backend) -> None:
        await backend.put_many({})

        assert await backend.get_many([]) == {}
        assert await backend.delete_many([]) == 0
        assert await backend.count() == 0

    @pytest.mark.parametrize(
        "key", ["üñí", "日本語", "🙂" * 40, "a b\tc\r\nd", "nul\x00inside", "cm1:x:", "e\u0301", "é"]
    )
    async def test_unicode_key_is_found_under_exactly_its_own_text(self, backend: Backend, key: str) -> None:
        await backend.put(PREFIX + key, self.record(key.encode()))

        assert await backend.get(PREFIX + key) == self.record(key.encode())
        assert [found async for found in backend.scan(PREFIX)] == [PREFIX + key]
        assert await backend.delete(PREFIX + key) is True

    async def test_binary_value_survives(self, backend: Backend) -> None:
        value = bytes(range(256)) * 3

        await backend.put_many({PREFIX + "all": self.record(value), PREFIX + "empty": self.record(b"")})

        assert (await backend.get_many([PREFIX + "all", PREFIX + "empty"])) == {
            PREFIX + "all": self.record(value),
            PREFIX + "empty": self.record(b""),
        }

    async def test_value_of_a_megabyte_survives(self, backend: Backend) -> None:
        value = bytes(at * 7 % 251 for at in range(1_000_000))

        await backend.put(PREFIX + "large", self.record(value))

        assert (await backend.get_many([PREFIX + "large"]))[PREFIX + "large"].value == value

    async def test_five_hundred_gets_at_once_all_answer(self, backend: Backend) -> None:
        records = {f"{PREFIX}{at}": self.record(str(at).encode()) for at in range(500)}
        await backend.put_many(records)

        found = await asyncio.gather(*(backend.get(key) for key in records))

        assert found == list(records.values())

    async def test_ping_answers(self, backend: Backend) -> None:
        await backend.ping()

    async def test_scan_stays_in_its_prefix(self, backend: Backend) -> None:
        inside = ["cm1:llm:one:ka", "cm1:llm:one:kb"]
        outside = ["cm1:llm:one1:ka", "cm1:llm:on:ka", "cm1:llm:One:ka", "cm1:vec:one:ka"]
        await backend.put_many({key: self.record() for key in [*inside, *outside]})

        assert sorted([key async for key in backend.scan("cm1:llm:one:")]) == inside
        assert sorted([key async for key in backend.scan()]) == sorted([*inside, *outside])
        assert await backend.count("cm1:llm:one:") == 2

    @settings(max_examples=25, suppress_health_check=INHERITED)
    @given(keys=st.sets(GLOB_TEXT, max_size=8), prefix=GLOB_TEXT)
    async def test_glob_characters_in_prefixes_and_keys_are_plain_text(
        self, backend: Backend, keys: set[str], prefix: str
    ) -> None:
        stored = {PREFIX + key for key in keys}
        await backend.delete_many([key async for key in backend.scan()])
        await backend.put_many({key: self.record() for key in stored})

        found = {key async for key in backend.scan(PREFIX + prefix)}

        assert found == {key for key in stored if key.startswith(PREFIX + prefix)}
        assert await backend.count(PREFIX + prefix) == len(found)

    async def test_deleting_during_a_scan_is_allowed(self, backend: Backend) -> None:
        await backend.put_many({f"{PREFIX}{at}": self.record() for at in range(50)})

        async for key in backend.scan(PREFIX):
            await backend.delete(key)

        assert await backend.count(PREFIX) == 0

    async def test_walk_by_pages_sees_what_was_there_all_the_while(self, backend: Backend) -> None:
        stay = {f"{PREFIX}stay {at}" for at in range(700)}
        come_and_go = [f"{PREFIX}guest {at}" for at in range(2_000)]
        await backend.put_many({key: self.record() for key in [*stay, *come_and_go[:400]]})

        pages, bookmark, number = [], "", 0
        while True:
            page, after = await backend.scan_page(PREFIX, bookmark, 100)
            pages.append(page)
            if after is None:
                break
            # Enough of them to make a server lay out its table anew.
            await backend.put_many({key: self.record() for key in come_and_go[400 + 80 * number :][:80]})
            await backend.delete_many(come_and_go[60 * number :][:60])
            bookmark, number = after, number + 1

        seen = {key for page in pages for key in page}
        assert stay <= seen <= {*stay, *come_and_go}
        assert max(map(len, pages)) <= 200
        assert len(pages) > 3

    async def test_bookmark_outlives_the_connection(self, backend: Backend) -> None:
        keys = {f"{PREFIX}{at}" for at in range(300)}
        await backend.put_many({key: self.record() for key in keys})

        seen: list[str] = []
        bookmark: str | None = ""
        while bookmark is not None:
            page, bookmark = await backend.scan_page(PREFIX, bookmark, 50)
            seen += page
            await backend.aclose()

        assert set(seen) == keys

    async def test_page_stays_in_its_prefix_and_leaves_out_what_expired(self, backend: Backend) -> None:
        await backend.put_many({PREFIX + "old": self.record(life=60), PREFIX + "*new": self.record(life=600)})
        await backend.put("cm1:llm:other:k", self.record(life=600))

        await self.pass_time(60)

        assert await self.walk(backend, PREFIX) == [PREFIX + "*new"]
        assert await self.walk(backend, PREFIX + "*") == [PREFIX + "*new"]
        assert await self.walk(backend, PREFIX + "?") == []

    async def walk(self, backend: Backend, prefix: str) -> list[str]:
        """Return what all pages of a prefix hold, sorted."""
        seen: list[str] = []
        bookmark: str | None = ""
        while bookmark is not None:
            page, bookmark = await backend.scan_page(prefix, bookmark, 10)
            seen += page
        return sorted(seen)

    async def test_closed_backend_opens_again_at_the_next_call(self, backend: Backend) -> None:
        await backend.put(PREFIX + "a", self.record())

        await backend.aclose()
        await backend.aclose()

        assert await backend.get(PREFIX + "a") == self.record()

    # What a loop leaves unclosed is freed by the garbage collector, which says so: here, not in a later test.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_backend_serves_a_second_event_loop(self) -> None:
        async def write() -> Backend:
            backend = await self.make()
            await backend.put(PREFIX + "a", self.record())
            return backend

        async def read(backend: Backend) -> Record | None:
            found = await backend.get(PREFIX + "a")
            await backend.aclose()
            return found

        backend = asyncio.run(write())
        found = asyncio.run(read(backend))
        gc.collect()

        assert found == self.record()


class JournalContract(ABC):
    """Inherit it, and say how a stream loses its beginning."""

    @abstractmethod
    async def make_journal(self) -> Journal: ...

    @abstractmethod
    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        """Make the oldest notes of a stream go; the newest stays."""

    @abstractmethod
    async def count_notes(self, journal: Journal, stream: str) -> int:
        """Return how many notes of a stream take room, at the node that holds most of them."""

    @pytest.fixture
    async def journal(self) -> AsyncIterator[Journal]:
        journal = await self.make_journal()
        yield journal
        assert isinstance(journal, Backend)
        await journal.aclose()

    async def test_notes_come_in_order(self, journal: Journal) -> None:
        await journal.append("s", [b"1", b"2"])
        await journal.append("s", [b"3"])

        notes, _ = await journal.read_after("s", "", limit=10)

        assert notes == [b"1", b"2", b"3"]

    async def test_cursor_stands_behind_the_last_note_read(self, journal: Journal) -> None:
        await journal.append("s", [b"1", b"2", b"3"])

        first, cursor = await journal.read_after("s", "", limit=2)
        second, end = await journal.read_after("s", cursor, limit=2)
        nothing, still = await journal.read_after("s", end, limit=2)

        assert (first, second, nothing) == ([b"1", b"2"], [b"3"], [])
        assert still == end

    async def test_append_returns_the_cursor_behind_its_last_note(self, journal: Journal) -> None:
        cursor = await journal.append("s", [b"1", b"2"])

        await journal.append("s", [b"3"])

        assert (await journal.read_after("s", cursor, limit=10))[0] == [b"3"]

    async def test_tail_skips_what_is_there(self, journal: Journal) -> None:
        await journal.append("s", [b"old"])

        cursor = await journal.tail("s")
        await journal.append("s", [b"new"])

        assert (await journal.read_after("s", cursor, limit=10))[0] == [b"new"]

    async def test_tail_of_an_empty_stream_stands_before_its_first_note(self, journal: Journal) -> None:
        cursor = await journal.tail("s")

        assert await journal.read_after("s", cursor, limit=10) == ([], cursor)
        await journal.append("s", [b"first"])

        assert (await journal.read_after("s", cursor, limit=10))[0] == [b"first"]

    async def test_appending_nothing_moves_nothing(self, journal: Journal) -> None:
        before = await journal.append("s", [b"1"])

        assert await journal.append("s", []) == before
        assert await journal.append("empty", []) == await journal.tail("empty")

    async def test_streams_are_apart(self, journal: Journal) -> None:
        await journal.append("one", [b"a"])
        await journal.append("two", [b"b"])
        cursor = await journal.append("one", [b"c"])
        await journal.append("two", [b"d"])

        assert (await journal.read_after("one", "", limit=10))[0] == [b"a", b"c"]
        assert (await journal.read_after("two", "", limit=10))[0] == [b"b", b"d"]
        assert (await journal.read_after("one", cursor, limit=10))[0] == []

    async def test_binary_notes_survive(self, journal: Journal) -> None:
        await journal.append("s", [bytes(range(256)), b""])

        assert (await journal.read_after("s", "", limit=10))[0] == [bytes(range(256)), b""]

    async def test_reader_whose_cursor_was_trimmed_away_hears_of_a_gap(self, journal: Journal) -> None:
        cursor = await journal.append("s", [b"1"])
        await journal.append("s", [b"2", b"3"])

        await self.lose_beginning(journal, "s")

        with pytest.raises(JournalGap, match="'s'"):
            await journal.read_after("s", cursor, limit=10)

    async def test_reader_from_the_start_hears_of_a_gap(self, journal: Journal) -> None:
        await journal.append("s", [b"1", b"2", b"3"])

        await self.lose_beginning(journal, "s")

        with pytest.raises(JournalGap):
            await journal.read_after("s", "", limit=10)

    async def test_reader_at_the_end_hears_of_no_gap(self, journal: Journal) -> None:
        await journal.append("s", [b"1", b"2", b"3"])

        await self.lose_beginning(journal, "s")
        cursor = await journal.tail("s")
        await journal.append("s", [b"new"])

        assert (await journal.read_after("s", cursor, limit=10))[0] == [b"new"]

    async def test_trimming_lets_go_of_what_was_read_and_of_nothing_else(self, journal: Journal) -> None:
        notes = [b"%d" % at * 1000 for at in range(9)]
        await journal.append("s", notes)
        _, cursor = await journal.read_after("s", "", limit=8)

        await journal.trim("s", cursor)
        await journal.trim("s", cursor)

        assert await self.count_notes(journal, "s") <= 5, "a server lets go of four notes of this size at a time"
        rest, end = await journal.read_after("s", cursor, limit=10)
        assert rest == notes[8:]
        await journal.trim("s", end)
        await journal.append("s", [b"new"])
        assert (await journal.read_after("s", end, limit=10))[0] == [b"new"]

    async def test_who_stands_before_what_was_trimmed_misses_nothing_unknowingly(self, journal: Journal) -> None:
        notes = [b"%d" % at * 1000 for at in range(8)]
        early = await journal.append("s", notes[:1])
        await journal.trim("s", await journal.append("s", notes[1:]))

        try:
            found, _ = await journal.read_after("s", early, limit=10)
        except JournalGap:
            return
        assert found == notes[1:]

    async def test_trimming_to_the_beginning_takes_nothing(self, journal: Journal) -> None:
        await journal.append("s", [b"1", b"2"])

        await journal.trim("s", "")
        await journal.trim("empty", "")

        assert (await journal.read_after("s", "", limit=10))[0] == [b"1", b"2"]

    @pytest.mark.parametrize("cursor", ["5-x", '{"places":{"a":["b","1-1"]}}', "-1", "１", "9" * 5000])
    async def test_cursor_of_another_kind_of_store_is_a_gap(self, journal: Journal, cursor: str) -> None:
        await journal.append("s", [b"1"])

        with pytest.raises(JournalGap):
            await journal.read_after("s", cursor, limit=10)

    async def test_cursor_that_a_lost_journal_gave_is_a_gap(self, journal: Journal) -> None:
        cursor = await journal.append("lost", [b"1", b"2", b"3"])
        other = await self.journal_after_a_loss(journal, "lost")

        with pytest.raises(JournalGap):
            await other.read_after("lost", cursor, limit=10)

    @abstractmethod
    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        """Return a journal in which the stream was never written."""
