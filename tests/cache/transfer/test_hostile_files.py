"""Files that are damaged, made up or malicious: never a crash, never half applied, and no prompt in the message."""

from __future__ import annotations

import json
import os
import random
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from cache_management import CacheManager, LLMCache
from cache_management.cache.errors import InvalidInput
from cache_management.cache.transfer.documents import MAX_ENTRIES
from cache_management.cache.transfer.lines import Header as StreamHeader
from cache_management.cache.transfer.lines import encode_line, seal_end, seal_header, seal_part
from tests.cache.transfer.shelves import (
    NOW,
    answer,
    contents,
    export_to,
    fill,
    import_from,
    line,
    open_cache,
    stream_of,
    write_stream,
)
from tests.cache.transfer.test_round_trips import write_as_document

SECRET = "a-secret-prompt"
FORMS = ("jsonl", "jsonl.zst", "json", "yaml")


async def real_export(folder: Path, form: str) -> bytes:
    """Return a real file of some entries whose texts must not be told."""
    there = open_cache()
    for at in range(12):
        await there.set(f"{SECRET} {at}", answer(f"{SECRET} answered {at}", metadata={"n": at}), tags=[f"{SECRET}-tag"])
    file = folder / f"real.{form}"
    if form.startswith("jsonl"):
        await export_to(file, there, replace=True)
    else:
        await write_as_document(file, form, there)
    return file.read_bytes()


async def refused(cache: LLMCache, file: Path, *, replace: bool = False) -> str:
    """Import a file that must be refused, and nothing may be changed; return why."""
    before = await contents(cache)
    with pytest.raises(InvalidInput) as raised:
        await import_from(file, cache, replace=replace)
    assert await contents(cache) == before
    assert cache.backend._pieces == {}, "nothing is left of what was staged"  # type: ignore[attr-defined]
    text = str(raised.value)
    assert SECRET not in text
    assert text.startswith(str(file)), text
    assert len(text) < 600
    return text


async def refused_with_memory(cache: LLMCache, file: Path) -> tuple[str, int]:
    """Return why a file is refused, and the most bytes that were allocated at a time meanwhile."""
    tracemalloc.start()
    try:
        return await refused(cache, file, replace=True), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 3))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut_off(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def lose_a_piece(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 200) :]


def insert_rubbish(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 40)) + data[at:]


def repeat_a_piece(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[max(0, at - rng.randrange(1, 300)) : at] + data[at:]


def swap_two_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip,
    cut_off,
    lose_a_piece,
    insert_rubbish,
    repeat_a_piece,
    swap_two_lines,
)


@pytest.mark.parametrize("form", FORMS)
async def test_whatever_happens_to_a_file_it_is_imported_as_it_was_or_refused_whole(tmp_path: Path, form: str) -> None:
    rng = random.Random(f"fuzz {form}")
    real = await real_export(tmp_path, form)
    whole = open_cache()
    await import_from(tmp_path / f"real.{form}", whole)
    expected = await contents(whole)
    file = tmp_path / f"fuzzed.{form}"
    refusals = 0
    for number in range(250):
        mutate = MUTATIONS[number % len(MUTATIONS)]
        file.write_bytes(mutate(real, rng))
        here = open_cache()
        await fill(here, 2)
        before = await contents(here)
        replace = number % 2 == 0
        why = None
        try:
            await import_from(file, here, replace=replace)
        except InvalidInput as exc:
            why = str(exc)
        if why is not None:
            refusals += 1
            assert await contents(here) == before, mutate
            assert SECRET not in why, mutate
            assert "\n" not in why
            continue
        # A stream is sealed whole. Of a document the entries are; what describes it may read otherwise.
        assert not form.startswith("jsonl") or file.read_bytes() == real, mutate
        found = await contents(here)
        assert {key: found[key] for key in expected} == expected, mutate
        assert len(found) == len(expected) + (0 if replace else 2)
    assert refusals > 150


ENTRY = json.loads(encode_line(line(SECRET, metadata={"a": 1})))


def entry(**changes: Any) -> bytes:
    return json.dumps({**ENTRY, **changes}).encode()


BAD_LINES = {
    "no JSON": b'{"type":"entry","key":"a-secret-prompt',
    "not UTF-8": encode_line(line(SECRET)).replace(b"secret-p", b"\xff\xfe\xfa"),
    "a lone surrogate": entry().replace(b"a-secret-prompt", b"a-secret-prompt\\ud800"),
    "a surrogate in metadata": entry(metadata={"x": "S"}).replace(b'"S"', b'"a-secret-prompt\\udc00"'),
    "NaN": entry(metadata={"x": "S"}).replace(b'"S"', b"NaN"),
    "Infinity as expiry": entry().replace(b'"expires_at": null', b'"expires_at": Infinity'),
    "a number beyond all": entry(metadata={"x": "S"}).replace(b'"S"', b"1e999"),
    "a number of 5000 digits": entry(metadata={"x": "S"}).replace(b'"S"', b"9" * 5_000),
    "an expiry far away": entry(expires_at=1e300),
    "a negative expiry": entry(expires_at=-1),
    "a key that is a number": entry(key=5),
    "an empty key": entry(key=""),
    "a key of a megabyte": entry(key="x" * 2**20),
    "no key": entry().replace(b'"key"', b'"kex"'),
    "no response": b'{"type":"entry","key":"a-secret-prompt","timestamp":"2026-01-01T00:00:00Z"}',
    "an unknown field": entry(**{"x a-secret-prompt": 1}),
    "metadata that is a list": entry(metadata=["a-secret-prompt"]),
    "metadata nested deeply": entry(metadata={"x": "S"}).replace(b'"S"', b"[" * 500 + b"]" * 500),
    "metadata nested without end": entry(metadata={"x": "S"}).replace(b'"S"', b"[" * 100_000),
    "a nested bomb of objects": entry(metadata={"x": "S"}).replace(b'"S"', b'{"a":' * 60_000),
    "a timestamp that is none": entry(timestamp="a-secret-prompt"),
    "a timestamp before the year 1": entry(timestamp="0001-01-01T00:00:00+23:59"),
    "tokens below zero": entry(token_count=-1),
    "more tokens than 64 bits": entry(token_count=2**64),
    "a version that is text": entry(version="a-secret-prompt"),
    "a truth value as version": entry(version=True),
    "tags that are text": entry(tags="a-secret-prompt"),
    "an empty tag": entry(tags=[""]),
    "a long tag": entry(tags=["a-secret-prompt" * 50]),
    "another kind of line": entry(type="a-secret-prompt"),
    "a header among entries": encode_line(StreamHeader(program="x", id="y", namespace="z", created_at=NOW)),
    "a list": b'["a-secret-prompt"]',
    "null": b"null",
    "nothing": b"",
    "an entry over the limit": encode_line(line(SECRET, "x" * 3_000_000)),
}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("bad", list(BAD_LINES))
async def test_a_sealed_file_with_one_bad_line_is_refused_whole_and_the_line_is_named(
    tmp_path: Path, bad: str, replace: bool
) -> None:
    cache = open_cache(max_entry_bytes=2_000_000)
    await fill(cache, 2)
    file = write_stream(tmp_path / "x.jsonl", [line("first")], [line("second"), BAD_LINES[bad], line("third")])

    text = await refused(cache, file, replace=replace)

    # Header, entry, part, entry: it is line 5.
    assert "line 5" in text or "lines 4 to" in text, text


@pytest.mark.parametrize("bad", list(BAD_LINES))
async def test_the_same_in_a_document(tmp_path: Path, bad: str) -> None:
    cache = open_cache(max_entry_bytes=2_000_000)
    await fill(cache, 2)
    head = b'{"format":"cache-management-export","version":1,"namespace":"default","sha256":null,"entries":['
    good = encode_line(line("first"))
    (tmp_path / "x.json").write_bytes(head + good + b"," + BAD_LINES[bad] + b"]}")
    await refused(cache, tmp_path / "x.json", replace=True)

    (tmp_path / "x.json").write_bytes(head + good + b"]}")
    await import_from(tmp_path / "x.json", cache, replace=True)
    assert list(await contents(cache)) == ["first"], "it was the line"


async def test_a_file_of_a_newer_program_says_so(tmp_path: Path) -> None:
    cache = open_cache()
    await fill(cache, 1)
    files = {
        "x.jsonl": b'{"type":"header","format":"cache-management-export","version":2,"program":"7.1","more":{}}\nrest',
        "x.json": b'{"format":"cache-management-export","version":2,"program":"7.1","more":[]}',
        "x.yaml": b"format: cache-management-export\nversion: 2\nprogram: '7.1'\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        text = await refused(cache, tmp_path / name)
        assert "format 2, written by program '7.1'; this program reads format 1" in text

    write_stream(tmp_path / "y.jsonl", [line("q")], layout="cm9")
    assert "layout 'cm9'" in await refused(cache, tmp_path / "y.jsonl")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.jsonl", b"", "the file is empty"),
        ("x.json", b" \n", "the file is empty"),
        ("x.jsonl", b'{"prompt":"a-secret-prompt","response":"r"}\n', "is no export.*cache-cli warm"),
        ("x.jsonl", b"a-secret-prompt" * 200_000, "is no export"),
        ("x.jsonl", b"\x00" * 5_000_000, "is no export"),
        ("x.json", b'[{"prompt":"a-secret-prompt"}]', "is no export"),
        ("x.json", b'{"format":"a-secret-prompt","version":1}', "is no export"),
        ("x.json", b'{"format":"cache-management-export","version":1,"namespace":"default"}', "entries"),
        ("x.yaml", b"- a-secret-prompt\n", "is no export"),
        ("x.yaml", b"a-secret-prompt: [", "line 2: it is no YAML"),
        ("x.yaml", b"!!python/object/apply:os.system [a-secret-prompt]", "it is no YAML"),
        ("x.yaml", b"\xff\xfe", "UTF-8"),
        ("x.yaml", b"[" * 5_000, "nested too deeply"),
        ("x.yaml", b"{a: " * 5_000, "nested too deeply"),
        ("x.yaml", b"a: &a [x]\nb: *a\n", "line 2: aliases"),
        ("x.zst", b"\x28\xb5\x2f\xfd", "cut off|damaged"),
        ("x.what", b"a-secret-prompt", "is no export"),
    ],
)
async def test_what_is_no_export_is_told_from_one_that_is_damaged(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    cache = open_cache()
    (tmp_path / name).write_bytes(data)

    assert re.search(says, await refused(cache, tmp_path / name))


async def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path) -> None:
    cache = open_cache()
    os.mkfifo(tmp_path / "pipe.jsonl")

    assert "no such file" in await refused(cache, tmp_path / "absent.jsonl")
    assert "no regular file" in await refused(cache, tmp_path)
    assert "no regular file" in await refused(cache, tmp_path / "pipe.jsonl")


def zst(*blocks: bytes, **options: Any) -> bytes:
    return b"".join(zstandard.ZstdCompressor(**options).compress(block) for block in blocks)


async def test_zstd_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    cache = open_cache(max_entry_bytes=100_000)
    await fill(cache, 1)
    header, *_ = stream_of([])
    rle = b"\x28\xb5\x2f\xfd" + b"\xa4" + struct.pack("<I", 2**31)  # declares 2 GiB in one segment
    bombs = {
        "a header of a gigabyte": zst(b"\x00" * 200_000_000),
        "a part of zeros": zst(header, b"\x00" * 200_000_000),
        "a part of undeclared size": zst(header) + undeclared(b"\x00" * 50_000_000),
        "a part that cannot be packed": zst(header) + undeclared(random.Random(1).randbytes(30_000_000)),
        "a size that is a lie": zst(header) + lying(b"x" * 100_000, says=50),
        "two gigabytes declared": zst(header) + rle + b"\x03\x00\x00x" * 4,
        "a window of 128 MiB": zst(header) + wide_window(),
        "frames without end": zst(header) + zst(b"") * 10_000,
        "a packed bomb in a bomb": zst(zst(b"\x00" * 100_000_000)),
        "something else behind": zst(header) + b"a-secret-prompt" * 100,
        "a frame of another kind": zst(header) + b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",
    }
    for name, data in bombs.items():
        file = tmp_path / "bomb.jsonl.zst"
        file.write_bytes(data)

        text, most = await refused_with_memory(cache, file)

        assert most < 20_000_000, f"{name}: {most} bytes for {text}"


def undeclared(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(data) + compressor.flush()


def lying(data: bytes, *, says: int) -> bytes:
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=False).compress(data))
    at = zstandard.frame_header_size(bytes(frame)) - 4
    frame[at : at + 4] = struct.pack("<I", says)
    return bytes(frame)


def wide_window() -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(b"x" * 1000) + compressor.flush()


async def test_a_file_that_was_packed_anew_says_what_to_do(tmp_path: Path) -> None:
    cache = open_cache(max_entry_bytes=100_000)
    large = [[line(f"q{part} {at}", "x" * 9_000) for at in range(400)] for part in range(5)]
    (tmp_path / "x.jsonl.zst").write_bytes(zst(b"".join(stream_of(large))))

    assert "zstd -d" in await refused(cache, tmp_path / "x.jsonl.zst")

    (tmp_path / "x.jsonl").write_bytes(b"".join(stream_of(large)))
    assert (await import_from(tmp_path / "x.jsonl", cache)).tally.added == 2_000


async def test_a_line_without_end_takes_no_memory_without_end(tmp_path: Path) -> None:
    cache = open_cache(max_entry_bytes=100_000)
    header, *_ = stream_of([])
    file = tmp_path / "x.jsonl"
    with file.open("wb") as stream:
        stream.write(header + b'{"type":"entry","key":"a-secret-prompt')
        for _ in range(100):
            stream.write(b"x" * 2_000_000)

    text, most = await refused_with_memory(cache, file)

    assert "without the end of a part" in text
    assert most < 20_000_000


async def test_parts_that_are_exchanged_left_out_or_of_another_file_are_noticed(tmp_path: Path) -> None:
    cache = open_cache()
    header, one, two, end = stream_of([[line("one")], [line("two")]])
    _, other, _ = stream_of([[line("other")]], pattern="another header")
    shorter = stream_of([[line("one")]])[-1]
    made_up = {
        "exchanged": [header, two, one, end],
        "left out": [header, one, end],
        "doubled": [header, one, one, two, end],
        "of another file": [header, other, two, end],
        "an end of another": [header, one, two, shorter],
        "without an end": [header, one, two],
        "two ends": [header, one, two, end, end],
        "a part behind the end": [header, one, end, two],
        "a header in the middle": [header, one, header, two, end],
        "no header": [one, two, end],
    }
    for name, blocks in made_up.items():
        for ending, data in (("jsonl", b"".join(blocks)), ("jsonl.zst", zst(*blocks))):
            file = tmp_path / f"x.{ending}"
            file.write_bytes(data)
            assert await refused(cache, file), name


async def test_counts_that_are_a_lie_are_noticed_though_everything_is_sealed(tmp_path: Path) -> None:
    cache = open_cache()
    block, seal = seal_header(StreamHeader(program="x", id="y", namespace="default", created_at=NOW))
    part, behind = seal_part([encode_line(line("q"))], 1, seal)
    for parts, entries in ((1, 10**15), (2, 1), (0, 0)):
        file = tmp_path / "x.jsonl"
        file.write_bytes(block + part + seal_end(parts=parts, entries=entries, unreadable=0, seal=behind))
        assert "1 parts with 1 entries were read" in await refused(cache, file)
    end = seal_end(parts=1, entries=1, unreadable=0, seal=behind).replace(b'"unreadable":0', b'"unreadable":9')
    file.write_bytes(block + part + end)
    assert "the end does not belong" in await refused(cache, file)


async def test_a_yaml_bomb_of_aliases_and_other_yaml_that_is_no_json(tmp_path: Path) -> None:
    cache = open_cache()
    head = {"format": "cache-management-export", "version": 1, "namespace": "default", "sha256": None}
    laughs = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + at)}: &{chr(98 + at)} [*{chr(97 + at)}, *{chr(97 + at)}]\n" for at in range(24)
    )
    (tmp_path / "x.yaml").write_text(laughs)
    assert "aliases" in await refused(cache, tmp_path / "x.yaml")
    good = {"key": "q", "response": "r", "timestamp": NOW.isoformat(), "expires_at": None}
    for bad in (
        {"metadata": {"x": float("nan")}},
        {"metadata": {"x": NOW}},
        {"metadata": {"x": {1, 2}}},
        {"metadata": {"x": b"bytes"}},
        {"metadata": {"x": {(1, 2): 3}}},
        {"expires_at": float("inf")},
        {"key": None},
        {"timestamp": NOW.date()},
    ):
        (tmp_path / "x.yaml").write_text(yaml.dump({**head, "entries": [{**good, **bad}]}))
        await refused(cache, tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**head, "entries": [good]}))
    assert (await import_from(tmp_path / "x.yaml", cache)).tally.added == 1


async def test_a_document_that_was_edited_is_refused_until_its_sum_is_taken_out(tmp_path: Path) -> None:
    cache = open_cache()
    await fill(cache, 2)
    await write_as_document(tmp_path / "x.json", "json", cache)
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("answer to question 1", "a better answer"))
    assert "make sha256 null" in await refused(cache, tmp_path / "x.json", replace=True)

    document = json.loads((tmp_path / "x.json").read_text())
    document["sha256"] = None
    (tmp_path / "x.json").write_text(json.dumps(document, indent=4))
    await import_from(tmp_path / "x.json", cache, replace=True)

    found = await contents(cache)
    assert found["question 1"]["response"] == "a better answer"


async def test_a_document_has_a_limit_and_names_the_form_without_one(tmp_path: Path) -> None:
    cache = open_cache()
    head = b'{"format":"cache-management-export","version":1,"namespace":"default","sha256":null,"entries":['
    small = b'{"key":"q","response":"","timestamp":"2026-01-01T00:00:00Z"}'
    (tmp_path / "x.json").write_bytes(head + b",".join([small] * (MAX_ENTRIES["json"] + 1)) + b"]}")

    assert ".jsonl.zst" in await refused(cache, tmp_path / "x.json")


OBJECT = {"key": SECRET, "response": "r", "timestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    "bad",
    [
        {"key": 5},
        {"key": f"{SECRET}\ud800"},
        {"response": f"{SECRET}\ud800"},
        {"metadata": {"x": float("nan")}},
        {"metadata": {"x": object()}},
        {"metadata": {"x": 10**5000}},
        {"expires_at": float("nan")},
        {"timestamp": SECRET},
        {SECRET: 1},
        {"tags": [f"{SECRET}\ud800"]},
    ],
    ids=lambda bad: f"{next(iter(bad))[:8]!a}",
)
async def test_objects_of_a_program_are_checked_alike(bad: dict[str, Any], merge: bool) -> None:
    manager = CacheManager(open_cache())
    await fill(manager.llm_cache, 2)
    before = await manager.export_entries()

    with pytest.raises(InvalidInput, match="entry 2") as raised:
        await manager.import_entries([OBJECT, {**OBJECT, **bad}], merge)

    assert SECRET not in str(raised.value)
    assert await manager.export_entries() == before


@pytest.mark.parametrize("bad", ["text", b"bytes", {"key": "q"}, 5, [5], ["q"]])
async def test_what_is_no_list_of_objects_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidInput, match="entries"):
        await CacheManager(open_cache()).import_entries(bad)
