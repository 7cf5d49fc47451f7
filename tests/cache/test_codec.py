from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache_management.cache import codec
from cache_management.cache.codec import decode_stored, decode_unknown, encode_entry, pack, unpack
from cache_management.cache.errors import CorruptRecord, InvalidEntry
from cache_management.cache.records import Record
from cache_management.cache.values import CachedResponse

LIMIT = 64 * 2**20
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=11, minutes=30))])
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=ZONES)  # noqa: DTZ001
RESPONSES = st.builds(
    CachedResponse,
    prompt=TEXT,
    response=TEXT,
    model=TEXT,
    timestamp=MOMENTS,
    token_count=st.integers(0, 2**64 - 1),
    metadata=st.dictionaries(TEXT, JSON, max_size=4),
)
KEYS = TEXT.filter(bool)
RECORDS = st.builds(
    Record,
    value=st.binary(max_size=80),
    expires_at=st.none() | st.floats(allow_nan=False),
    version=st.integers(-(2**63), 2**63 - 1),
)


def response(**changes: Any) -> CachedResponse:
    return CachedResponse(
        **{"prompt": "p", "response": "r", "model": "m", "timestamp": datetime(2026, 1, 2, tzinfo=UTC), **changes}
    )


def decode_entry(key: str, value: bytes, *, limit_bytes: int) -> CachedResponse:
    return decode_stored(key, value, limit_bytes=limit_bytes).response


def encoded(key: str, value: CachedResponse, *, keep_key: bool = False, limit_bytes: int = LIMIT) -> bytes:
    return encode_entry(key, value, keep_key=keep_key, limit_bytes=limit_bytes)


# entries


@pytest.mark.parametrize("form", [b"\x00", b"\x01"])
def test_entries_as_first_written_are_still_read(form: bytes) -> None:
    body = msgspec.msgpack.encode(("r", "m", 1_767_312_000_000_000, 3, "p", None, b'{"a":1}', None, 0, 0, ()))
    stored = form + (zstandard.ZstdCompressor().compress(body) if form == b"\x01" else body)

    assert decode_entry("k", stored, limit_bytes=LIMIT) == response(token_count=3, metadata={"a": 1})


def test_a_first_written_moment_outside_all_years_is_corrupt() -> None:
    with pytest.raises(CorruptRecord, match="microseconds from 1970"):
        decode_entry("k", b"\x00" + msgspec.msgpack.encode(("r", "m", 10**18, 3, "p", None)), limit_bytes=LIMIT)


def test_a_response_can_be_changed_without_changing_the_next_one() -> None:
    stored = encoded("p", response())

    decode_entry("p", stored, limit_bytes=LIMIT).metadata["mine"] = True

    assert decode_entry("p", stored, limit_bytes=LIMIT).metadata == {}


@given(key=KEYS, value=RESPONSES)
def test_entry_comes_back_as_it_went_in(key: str, value: CachedResponse) -> None:
    assert decode_entry(key, encoded(key, value), limit_bytes=LIMIT) == value


@given(key=KEYS, value=RESPONSES)
def test_entry_that_keeps_its_key_tells_it(key: str, value: CachedResponse) -> None:
    stored = encoded(key, value, keep_key=True)

    assert decode_unknown(stored, limit_bytes=LIMIT) == (key, value)
    assert decode_entry(key, stored, limit_bytes=LIMIT) == value


def test_entry_asked_for_under_another_key_is_corrupt() -> None:
    stored = encoded("mine", response(), keep_key=True)

    with pytest.raises(CorruptRecord, match="another key"):
        decode_entry("yours", stored, limit_bytes=LIMIT)


def test_entry_without_its_key_cannot_be_listed() -> None:
    with pytest.raises(CorruptRecord, match="does not say its key"):
        decode_unknown(encoded("k", response()), limit_bytes=LIMIT)


def test_prompt_that_is_the_key_is_stored_once() -> None:
    prompt = "a rather long prompt " * 5

    stored = encoded(prompt, response(prompt=prompt))

    assert prompt.encode() not in stored
    assert decode_entry(prompt, stored, limit_bytes=LIMIT).prompt == prompt


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_first_and_last_moment_survive_to_the_microsecond(moment: str) -> None:
    value = response(timestamp=moment)

    assert decode_entry("k", encoded("k", value), limit_bytes=LIMIT).timestamp == value.timestamp


@pytest.mark.parametrize("size", [codec.COMPRESS_FROM_BYTES - 1, codec.COMPRESS_FROM_BYTES])
def test_large_entries_are_compressed_from_the_threshold_on(size: int) -> None:
    overhead = len(encoded("p", response(response="x" * 70_000))) - 70_000
    value = response(response="x" * (size - overhead))

    stored = encoded("p", value)

    assert (stored[0] == 1) == (size >= codec.COMPRESS_FROM_BYTES)
    assert (len(stored) < 10_000) == (size >= codec.COMPRESS_FROM_BYTES)
    assert decode_entry("p", stored, limit_bytes=LIMIT) == value


def test_entry_over_the_limit_is_refused_with_sizes_and_the_way_out() -> None:
    with pytest.raises(InvalidEntry, match=r"has 1,0\d\d bytes, the limit is 1,000; raise max_entry_bytes"):
        encoded("p", response(response="x" * 1000), limit_bytes=1000)


def test_limit_counts_before_compression() -> None:
    with pytest.raises(InvalidEntry, match="the limit is 150,000"):
        encoded("p", response(response="x" * 200_000), limit_bytes=150_000)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda x: {"a": x}, lambda x: {"a": [1, {"b": x}]}])
def test_number_that_json_does_not_know_is_an_invalid_entry(number: float, wrap: Any) -> None:
    with pytest.raises(InvalidEntry, match="metadata must be JSON"):
        encoded("p", response(metadata=wrap(number)))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", datetime(2026, 1, 1, tzinfo=UTC)])
def test_metadata_that_is_not_json_is_an_invalid_entry(value: object) -> None:
    unchecked = response().model_copy(update={"metadata": {"a": value}})

    with pytest.raises(InvalidEntry, match="metadata must be JSON"):
        encoded("p", unchecked)


@pytest.mark.parametrize("depth", [100, 900, 5_000, 200_000])
def test_deeply_nested_metadata_is_stored_or_refused_but_never_a_crash(depth: int) -> None:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    value = response().model_copy(update={"metadata": {"a": nested}})

    with contextlib.suppress(InvalidEntry):
        assert decode_entry("p", encoded("p", value), limit_bytes=LIMIT).metadata == value.metadata


def test_huge_whole_numbers_survive_in_metadata() -> None:
    value = response(metadata={"n": 10**400, "m": -(2**70)})

    assert decode_entry("p", encoded("p", value), limit_bytes=LIMIT) == value


def test_whole_number_too_long_to_write_is_an_invalid_entry() -> None:
    with pytest.raises(InvalidEntry, match="metadata must be JSON"):
        encoded("p", response().model_copy(update={"metadata": {"n": 1 << 20_000}}))


def test_token_count_over_64_bits_is_an_invalid_entry() -> None:
    with pytest.raises(InvalidEntry, match="token_count 18446744073709551616 does not fit"):
        encoded("p", response(token_count=2**64))


@pytest.mark.parametrize("field", ["prompt", "response", "model"])
def test_text_that_is_not_valid_unicode_is_an_invalid_entry(field: str) -> None:
    with pytest.raises(InvalidEntry, match="not valid Unicode"):
        encoded("p", response().model_copy(update={field: "half \ud83d"}))


@pytest.mark.parametrize("text", ["\ud83d", "ok \udfff"])
def test_half_a_character_in_metadata_survives_or_is_refused(text: str) -> None:
    value = response().model_copy(update={"metadata": {text: text}})

    with contextlib.suppress(InvalidEntry):
        assert decode_entry("p", encoded("p", value), limit_bytes=LIMIT).metadata == value.metadata


# entries that are none


@settings(max_examples=400)
@given(st.binary(max_size=60))
@example(b"")
@example(b"\x00")
@example(b"\x01")
@example(b"\x02\x97")
@example(b"\x00\x98" + msgspec.msgpack.encode(["r", "m", 0, 0, None, None, b""])[1:] + b"\x91" * 50_000)
def test_random_bytes_are_a_corrupt_entry_and_nothing_else(data: bytes) -> None:
    for decode in (lambda: decode_entry("k", data, limit_bytes=LIMIT), lambda: decode_unknown(data, limit_bytes=LIMIT)):
        with contextlib.suppress(CorruptRecord):
            decode()


@settings(max_examples=400)
@given(value=RESPONSES, data=st.data())
def test_changed_value_is_an_entry_or_corrupt_and_nothing_else(value: CachedResponse, data: st.DataObject) -> None:
    stored = bytearray(encoded("k", value, keep_key=True))
    at = data.draw(st.integers(0, len(stored) - 1))
    stored[at] ^= data.draw(st.integers(1, 255))

    with contextlib.suppress(CorruptRecord):
        decode_entry("k", bytes(stored), limit_bytes=LIMIT)


@pytest.mark.parametrize("timestamp_us", [2**62, -(2**62), 2**63 - 1])
def test_moment_that_no_calendar_holds_is_corrupt(timestamp_us: int) -> None:
    data = b"\x00" + msgspec.msgpack.encode(["r", "m", timestamp_us, 0, None, None, b""])

    with pytest.raises(CorruptRecord):
        decode_entry("k", data, limit_bytes=LIMIT)


@pytest.mark.parametrize("metadata", [b"[1]", b"{", b"\xff", b'"text"', b"[" * 100_000])
def test_stored_metadata_that_is_no_object_is_corrupt(metadata: bytes) -> None:
    data = b"\x00" + msgspec.msgpack.encode(["r", "m", 0, 0, None, None, metadata])

    with pytest.raises(CorruptRecord):
        decode_entry("k", data, limit_bytes=LIMIT)


def test_entry_of_a_later_program_with_more_fields_is_read() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    data = msgspec.msgpack.encode(["r", "m", moment, 0, None, None, b"", None, 0, 0, [], *["a field of next year"] * 9])

    assert decode_entry("k", data, limit_bytes=LIMIT).response == "r"


def test_compressed_bomb_is_refused_before_it_grows() -> None:
    bomb = b"\x01" + zstandard.ZstdCompressor(level=19).compress(b"\x00" * (256 * 2**20))
    assert len(bomb) < 50_000

    with pytest.raises(CorruptRecord, match="declares 268,435,456 bytes"):
        decode_entry("k", bomb, limit_bytes=LIMIT)


def test_compressed_frame_that_hides_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"\x00" * 1000)

    with pytest.raises(CorruptRecord):
        decode_entry("k", b"\x01" + frame, limit_bytes=LIMIT)


def test_compressed_frame_that_lies_about_its_size_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(range(256)) * 2000))
    honest = zstandard.frame_content_size(bytes(frame))
    at = next(i for i in range(4, 12) if int.from_bytes(frame[i : i + 4], "little") == honest)
    frame[at : at + 4] = (100).to_bytes(4, "little")

    with pytest.raises(CorruptRecord):
        decode_entry("k", b"\x01" + bytes(frame), limit_bytes=LIMIT)


# frames


@given(key=TEXT, record=RECORDS)
def test_record_comes_back_from_its_frame(key: str, record: Record) -> None:
    assert unpack(key, pack(key, record)) == record


def test_every_flipped_bit_is_found() -> None:
    frame = pack("cm1:llm:n:k", Record(value=encoded("k", response()), expires_at=1.5, version=7))

    for bit in range(8 * len(frame)):
        bad = bytearray(frame)
        bad[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(CorruptRecord):
            unpack("cm1:llm:n:k", bytes(bad))


def test_every_truncation_and_extension_is_found() -> None:
    frame = pack("key", Record(value=b"some value", expires_at=None, version=7))

    for length in range(len(frame)):
        with pytest.raises(CorruptRecord):
            unpack("key", frame[:length])
    with pytest.raises(CorruptRecord):
        unpack("key", frame + b"\x00")


@given(key=TEXT, other=TEXT, record=RECORDS)
def test_record_moved_under_another_key_is_found(key: str, other: str, record: Record) -> None:
    frame = pack(key, record)

    if key == other:
        assert unpack(other, frame) == record
    else:
        with pytest.raises(CorruptRecord, match="checksum"):
            unpack(other, frame)


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_random_bytes_are_a_corrupt_frame(data: bytes) -> None:
    with pytest.raises(CorruptRecord):
        unpack("key", data)


def test_frame_of_a_later_layout_is_not_guessed_at() -> None:
    frame = bytearray(pack("key", Record(value=b"v", expires_at=None, version=1)))
    frame[2] = 2

    with pytest.raises(CorruptRecord, match="layout 2"):
        unpack("key", bytes(frame))
