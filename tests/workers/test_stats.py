"""Usage of the applications, added up in the database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from cache_management import CacheConfig, LLMCache
from cache_management.cache.backends.base import Journal
from cache_management.cache.errors import BackendRefused, JournalGap
from cache_management.cache.identity import digest
from cache_management.cache.prices import price_of
from cache_management.cache.usage import STREAM, Counts, UsageNote, mark_as_read
from cache_management.models.usage import HotKeyView, UsageRow
from cache_management.settings import load_settings
from cache_management.workers import stats
from cache_management.workers.usage import add_up, stream_of
from tests.workers.harness import warm_items
from tests.workers.inline import Inline

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def on_disk(make_inline: Callable[..., Inline], tmp_path: Path) -> Inline:
    return make_inline(CACHE_URL=f"disk://{tmp_path}/store", CACHE_PRICES='{"gpt-*": 30, "gpt-4": 10}')


async def use(url: str, *, namespace: str = "default") -> None:
    """What an application does while its notes are read: two hits and a miss."""
    async with LLMCache(CacheConfig(url=url, namespace=namespace)) as cache:
        await mark_as_read(cache.backend, cache.clock())
        (item,) = warm_items(1)
        await cache.set("q", item.to_response(0.0).model_copy(update={"token_count": 100}))
        for key in ("q", "q", "absent"):
            await cache.get(key)


def test_what_applications_did_is_added_up_once(on_disk: Inline) -> None:
    url = on_disk.settings.url or ""
    on_disk.do(use(url))
    on_disk.do(use(url))

    first = on_disk.run("stats")
    second = on_disk.run("stats")

    assert (first.state, first.done, second.state, second.done) == ("succeeded", 2, "succeeded", 0)
    rows = on_disk.stores.operations.usage(since=LONG_AGO)
    assert rows == [
        UsageRow("default", "", misses=2),
        UsageRow("default", "gpt-4", hits=4, tokens_saved=400, saved_micro=4000),
    ]
    assert rows[1].hit_rate == 1.0
    hot = on_disk.stores.operations.hot_keys(namespace="default", since=LONG_AGO)
    assert hot == [HotKeyView(digest("q"), 4, 0)]
    missed = on_disk.stores.operations.hot_keys(namespace="default", since=LONG_AGO, by="misses")
    assert missed == [HotKeyView(digest("absent"), 0, 2)]


def test_applications_are_told_that_their_notes_are_read(on_disk: Inline) -> None:
    on_disk.run("stats")

    async def look() -> list[str]:
        async with LLMCache(CacheConfig(url=on_disk.settings.url)) as cache:
            await cache.get("absent")
        return [name async for name in on_disk.platform.llm_cache.backend.scan("cm1:ask::")]

    assert len(on_disk.do(look())) == 1
    on_disk.run("stats")
    assert on_disk.stores.operations.hot_keys(namespace="default", since=LONG_AGO, by="misses")


def test_namespaces_are_kept_apart(on_disk: Inline) -> None:
    on_disk.do(use(on_disk.settings.url or "", namespace="one"))
    on_disk.do(use(on_disk.settings.url or "", namespace="two"))

    on_disk.run("stats")

    assert {row.namespace for row in on_disk.stores.operations.usage(since=LONG_AGO)} == {"one", "two"}
    assert len(on_disk.stores.operations.hot_keys(namespace="one", since=LONG_AGO)) == 1


def test_two_that_read_the_same_notes_count_them_once(on_disk: Inline) -> None:
    operations = on_disk.stores.operations
    amounts, keys = add_up([UsageNote(60.0, "n", {"m": Counts(hits=1)}, {"k": (1, 0)})], {}, now=LONG_AGO)

    assert operations.count_usage("s", ("", "5"), amounts, keys)
    assert not operations.count_usage("s", ("", "5"), amounts, keys)
    assert operations.count_usage("s", ("5", "6"), amounts, keys)
    assert not operations.count_usage("s", ("5", "7"), amounts, keys)

    assert operations.usage_cursor("s") == "6"
    assert operations.usage(since=LONG_AGO - timedelta(days=9)) == [UsageRow("n", "m", hits=2)]


def test_more_notes_than_a_page_are_all_counted(on_disk: Inline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_NOTES_AT_ONCE", 2)
    for _ in range(5):
        on_disk.do(use(on_disk.settings.url or ""))

    assert on_disk.run("stats").done == 5


def test_the_notes_that_the_last_job_counted_are_let_go(on_disk: Inline) -> None:
    backend = on_disk.platform.llm_cache.backend
    assert isinstance(backend, Journal)
    for _ in range(2):
        on_disk.do(use(on_disk.settings.url or ""))
        on_disk.run("stats")

    with pytest.raises(JournalGap):
        on_disk.do(backend.read_after(STREAM, "", limit=10))
    on_disk.do(use(on_disk.settings.url or ""))
    assert on_disk.run("stats").done == 1
    assert sum(row.hits for row in on_disk.stores.operations.usage(since=LONG_AGO)) == 6


def test_a_store_that_lets_go_of_nothing_is_counted_all_the_same(
    on_disk: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise BackendRefused("redis", "NOPERM")

    monkeypatch.setattr("cache_management.cache.backends.guarded.GuardedBackend.trim", refuse)
    on_disk.do(use(on_disk.settings.url or ""))

    assert on_disk.run("stats").done == 1


def test_a_note_that_cannot_be_read_is_passed_over(on_disk: Inline) -> None:
    backend = on_disk.platform.llm_cache.backend
    on_disk.do(backend.append(STREAM, [b"from a later version", b""]))  # type: ignore[attr-defined]
    on_disk.do(use(on_disk.settings.url or ""))

    job = on_disk.run("stats")

    assert (job.state, job.done, job.skipped) == ("succeeded", 1, 2)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_no_note_keeps_those_behind_it_from_being_counted(
    make_inline: Callable[..., Inline], tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """Whatever an application counted, or somebody else wrote into the journal."""
    given = {"CACHE_METADATA_URL": request.getfixturevalue("postgres_url")} if database == "postgres" else {}
    inline = make_inline(CACHE_URL=f"disk://{tmp_path}/store", **given)
    now = inline.stores.now().timestamp()
    counts, keys = Counts(hits=1), {"0" * 32: (1, 0)}
    notes = [
        UsageNote(float("nan"), "n", {"m": counts}, keys),
        UsageNote(now, "no\0name", {"m": counts}, keys),
        UsageNote(now, "n", {"m": Counts(tokens=2**63)}, keys),
        UsageNote(now, "n", {"m": Counts(hits=-1)}, keys),
        UsageNote(now, "n", {"m": counts}, {"0" * 32: (2**62, 2**62)}),
        UsageNote(1e300, "n", {"from the future": counts}, keys),
        UsageNote(-1e300, "n", {"from the past": counts}, keys),
        UsageNote(now, "n", {"a\0b": counts, "".join(map(chr, range(0x4E00, 0x4E00 + 9000))): counts}, {"k\0": (1, 0)}),
    ]
    backend = inline.platform.llm_cache.backend
    inline.do(backend.append(STREAM, [msgspec.msgpack.encode(note) for note in notes]))  # type: ignore[attr-defined]
    inline.do(use(inline.settings.url or ""))

    job = inline.run("stats")

    assert (job.state, job.done, job.skipped) == ("succeeded", 4, 5)
    rows = inline.stores.operations.usage(since=inline.stores.now() - timedelta(days=10))
    assert sum(row.hits for row in rows if row.namespace == "n") == 4
    assert {row.model[:20] for row in rows} >= {"from the future", "from the past", "a?b", "gpt-4"}


def test_a_store_keeps_its_place_when_its_password_changes(tmp_path: Path) -> None:
    def stream(**env: str) -> str:
        return stream_of(load_settings(env={"CACHE_DATA_DIR": str(tmp_path), **env}).settings)

    one = stream(CACHE_URL="redis://:old@Host:6379/1")
    assert one == stream(CACHE_URL="rediss://user:new@host/1")
    assert one == stream(CACHE_BACKEND="redis", CACHE_REDIS_HOST="host", CACHE_REDIS_DB="1")
    others = ("redis://host:6380/1", "redis://host/0", f"disk://{tmp_path}/a", f"disk://{tmp_path}/b")
    others += ("unix:///a.sock?db=1", "unix:///b.sock?db=1", "unix:///a.sock?db=2")
    assert len({one, *(stream(CACHE_URL=url) for url in others)}) == 1 + len(others)
    nodes = {"CACHE_DISTRIBUTED__ENABLED": "true", "CACHE_DISTRIBUTED__NODES": "localhost:1,localhost:2,localhost:3"}
    assert stream(**nodes) != stream()
    assert stream(**nodes) == stream(**{**nodes, "CACHE_DISTRIBUTED__NODES": "localhost:4,localhost:5,localhost:6"})


def test_a_store_that_was_emptied_begins_anew(on_disk: Inline) -> None:
    on_disk.stores.operations.count_usage(stream_of(on_disk.settings), ("", "999"), {}, {})
    on_disk.do(use(on_disk.settings.url or ""))

    job = on_disk.run("stats")
    on_disk.do(use(on_disk.settings.url or ""))

    assert job.summary == {"gap": True}
    assert on_disk.run("stats").done == 1


def test_keys_of_a_day_stay_bounded_and_the_top_is_right(on_disk: Inline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_management.models.store.operations._HOT_KEYS_KEPT", 10)
    operations = on_disk.stores.operations
    cursor = ""
    for turn in range(20):
        keys = {("n", f"rare {turn} {each}"): (1, 0) for each in range(3)} | {("n", "hot"): (5, 0)}
        assert operations.count_usage("s", (cursor, str(turn)), {}, keys)
        cursor = str(turn)

    hot = operations.hot_keys(namespace="n", since=LONG_AGO, limit=100)

    assert len(hot) <= 10
    assert hot[0] == HotKeyView("hot", 100, 0, "n")


@pytest.mark.parametrize(
    ("model", "price"), [("gpt-4", 10.0), ("gpt-4o", 30.0), ("gpt-4o-mini", 2.0), ("claude", None)]
)
def test_the_nearest_price_counts(model: str, price: float | None) -> None:
    assert price_of(model, {"gpt-*": 30, "gpt-4": 10, "gpt-4o-m*": 2}) == price


def test_a_routine_job_leaves_no_trace_in_the_audit_log(on_disk: Inline) -> None:
    on_disk.run("stats")

    assert on_disk.stores.audit.tail() == []
