"""What goes out comes back equal: every field, every form of file, every store."""

from __future__ import annotations

import os
import stat
import time
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import redis
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_management import CachedResponse, LLMCache, Selection
from cache_management.cache.codec import Facts, decode_fields
from cache_management.cache.identity import digest
from cache_management.cache.manager import CacheManager
from cache_management.cache.transfer import exporting
from cache_management.cache.transfer.documents import DocumentBuilder, write_document
from cache_management.cache.transfer.exporting import ExportWanted, header_of
from tests.cache.transfer.shelves import answer, contents, export_to, fill, import_from, open_cache, shelf_of

ROUGH = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
KEY = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=120)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.dictionaries(
    KEY,
    st.tuples(
        st.builds(
            CachedResponse,
            prompt=TEXT,
            response=TEXT,
            model=TEXT,
            timestamp=st.datetimes(timezones=st.just(UTC)),
            token_count=st.integers(0, 2**63 - 1),
            metadata=st.dictionaries(TEXT, JSON, max_size=3),
        ),
        st.builds(
            Facts,
            fresh_until=st.none() | st.floats(2e9, 3e9),
            compute_seconds=st.floats(0, 1e5),
            cost_micro=st.integers(0, 2**40),
            tags=st.lists(st.text("abc\n", min_size=1, max_size=5), unique=True, max_size=3).map(tuple),
            scope=st.none() | TEXT,
        ),
        st.sampled_from([-1, 600, None]),
    ),
    max_size=8,
)


async def write_as_document(file: Path, form: Any, cache: LLMCache) -> None:
    shelf = shelf_of(cache)
    builder = DocumentBuilder(form)
    names = [name async for name in cache.backend.scan(shelf.keys.prefix)]
    async for lines, _ in shelf.read(names):
        builder.add(lines)
    header = header_of(shelf, ExportWanted(file, "0.0-test"), "an-id")
    write_document(file, builder.build(header, unreadable=0), owner="an-id", replace=True)


async def stored_in(cache: LLMCache) -> dict[str, Any]:
    """Return the records of a cache, decoded: an entry without facts may be written in two ways."""
    names = [name async for name in cache.backend.scan(shelf_of(cache).keys.prefix)]
    return {
        name: (decode_fields(record.value, limit_bytes=2**20), record.expires_at, record.version, record.cost_micro)
        for name, record in (await cache.backend.get_many(names)).items()
    }


@ROUGH
@given(entries=ENTRIES)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.zst", "json", "yaml"])
async def test_any_entry_comes_back_equal_from_any_form(tmp_path: Path, ending: str, entries: dict[str, Any]) -> None:
    there = open_cache()
    for key, (response, facts, ttl) in entries.items():
        await there.store(key, response, facts, ttl)
    file = tmp_path / f"export.{ending}"
    if ending.startswith("jsonl"):
        await export_to(file, there, replace=True)
    else:
        await write_as_document(file, ending, there)
    here = open_cache()

    place = await import_from(file, here)

    assert await contents(here) == await contents(there)
    assert place.tally.added == len(entries)
    assert await stored_in(here) == await stored_in(there)


async def test_a_store_of_many_parts_comes_back_and_nothing_is_written_twice(
    cache: LLMCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PART_ENTRIES", 50)
    keys = await fill(cache, 1_203)
    await cache.set("tagged", answer("t"), tags=["news"])
    before = await contents(cache)
    file = tmp_path / "all.jsonl.zst"

    exported = await export_to(file, cache)
    again = await import_from(file, cache)
    await cache.delete_many(keys[:700])
    restored = await import_from(file, cache)

    assert exported.unreadable == 0
    assert exported.written.parts >= 25
    assert again.tally.present == exported.written.entries
    assert restored.tally.added == 700
    assert await contents(cache) == before


async def test_a_tag_leads_to_an_entry_that_was_imported(cache: LLMCache, tmp_path: Path) -> None:
    there = open_cache()
    await there.set("tagged", answer("t"), tags=["news", "other"])
    await there.set("plain", answer("t"))
    await export_to(tmp_path / "x.jsonl", there)

    await import_from(tmp_path / "x.jsonl", cache)

    assert await cache.invalidate(Selection(tag="news")) == 1
    assert await cache.list_keys() == ["plain"]


async def test_only_what_the_glob_matches_is_exported_whether_the_store_shows_the_key_or_hashes_it(
    cache: LLMCache, tmp_path: Path
) -> None:
    long = "what is " + "x" * 300
    for key in ("what is a", "who is b", long):
        await cache.set(key, answer("a"))

    place = await export_to(tmp_path / "x.jsonl", cache, pattern="what*")
    here = open_cache()
    await import_from(tmp_path / "x.jsonl", here)

    assert sorted(await contents(here)) == sorted(["what is a", long])
    assert (place.seen, place.written.entries) == (3, 2)


async def test_an_entry_keeps_its_end_and_a_dead_one_is_not_brought_back(tmp_path: Path) -> None:
    there = open_cache()
    await there.set("short", answer("a"), 600)
    await there.set("long", answer("a"), 6_000)
    await export_to(tmp_path / "x.jsonl", there)
    ends = {key: entry["expires_at"] for key, entry in (await contents(there)).items()}
    here = LLMCache(there.config, backend=open_cache().backend, clock=lambda: time.time() + 1_000)

    place = await import_from(tmp_path / "x.jsonl", here)

    assert (place.tally.added, place.tally.expired) == (1, 1)
    assert {key: entry["expires_at"] for key, entry in (await contents(here)).items()} == {"long": ends["long"]}


async def test_the_file_is_nobody_else_s_and_a_plain_zst(tmp_path: Path) -> None:
    there = open_cache()
    await fill(there, 10)
    old = os.umask(0)
    try:
        await export_to(tmp_path / "x.jsonl", there)
        await export_to(tmp_path / "x.jsonl.zst", there)
        await write_as_document(tmp_path / "x.json", "json", there)
    finally:
        os.umask(old)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"x.jsonl": 0o600, "x.jsonl.zst": 0o600, "x.json": 0o600}
    with (tmp_path / "x.jsonl.zst").open("rb") as packed:
        whole = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read()
    assert whole.count(b'{"type":"entry"') == 10
    assert whole.endswith(b"\n")


async def test_what_the_store_cannot_read_is_counted_and_named_without_its_prompt(
    tmp_path: Path, redis_url: str
) -> None:
    there = open_cache(url=redis_url)
    await fill(there, 5)
    with redis.Redis.from_url(redis_url) as client:
        client.set("cm1:llm:default:ksecret question", b"rubbish", ex=60)

    place = await export_to(tmp_path / "x.jsonl", there)
    await there.aclose()

    assert (place.written.entries, place.unreadable) == (5, 1)
    assert place.named == (digest("cm1:llm:default:ksecret question"),)
    assert b"secret" not in (tmp_path / "x.jsonl").read_bytes()


async def test_an_entry_that_no_import_would_take_is_not_exported(tmp_path: Path) -> None:
    there = open_cache()
    deep: Any = []
    for _ in range(150):
        deep = [deep]
    await there.set("deep", answer("a", metadata={"x": deep}))
    await there.set("fine", answer("a", metadata={"x": [[[1]]], "y": "[" * 300}))

    place = await export_to(tmp_path / "x.jsonl", there)
    here = open_cache()
    await import_from(tmp_path / "x.jsonl", here)

    assert (place.written.entries, place.unreadable) == (1, 1)
    assert list(await contents(here)) == ["fine"]


async def test_an_empty_cache_is_a_whole_file_too(cache: LLMCache, tmp_path: Path) -> None:
    await export_to(tmp_path / "x.jsonl.zst", cache)

    assert (await import_from(tmp_path / "x.jsonl.zst", cache)).tally.entries == 0


async def test_encrypted_entries_are_exported_in_the_clear_and_sealed_again(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    keys = {"encryption_keys": f"k1: {'A' * 43}="}
    there = open_cache(url=f"disk://{tmp_path / 'there'}", **keys)
    await there.set("q", answer("the secret plan"))
    await export_to(tmp_path / "x.jsonl", there)
    here = open_cache(url=f"disk://{tmp_path / 'here'}", **keys)

    await import_from(tmp_path / "x.jsonl", here, replace=True)

    assert b"the secret plan" in (tmp_path / "x.jsonl").read_bytes()
    assert await contents(here) == await contents(there)
    await there.aclose()
    await here.aclose()
    for file in (tmp_path / "here").iterdir():
        assert b"the secret plan" not in file.read_bytes()


async def test_objects_of_a_program_come_back_and_another_namespace_is_left_alone() -> None:
    cache = open_cache()
    other = LLMCache(cache.config.model_copy(update={"namespace": "other"}), backend=cache.backend)
    manager = CacheManager(cache)
    await fill(cache, 3)
    await fill(other, 2, text="other")

    entries = await manager.export_entries("question [01]")
    theirs = await manager.export_entries(namespace="other")
    report = await manager.import_entries(entries, merge=False, namespace="other")

    assert [entry["key"] for entry in entries] == ["question 0", "question 1"]
    assert len(theirs) == 2
    assert (report.updated, report.removed) == (2, 0)
    assert await manager.export_entries("question 0", namespace="other") == entries[:1]
    assert len(await manager.export_entries()) == 3
