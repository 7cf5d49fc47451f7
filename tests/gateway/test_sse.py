from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.gateway.sse import Event, Parser, StreamSyntaxError, write

LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12)
EVENTS = st.lists(
    st.builds(
        Event,
        data=st.lists(LINE, min_size=1, max_size=3).map("\n".join),
        name=LINE,
        id=st.none() | LINE,
        retry_ms=st.none() | st.integers(0, 999_999_999),
    ),
    max_size=5,
)


def parsed(*parts: bytes) -> list[Event]:
    parser = Parser()
    return [event for part in parts for event in parser.feed(part)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


@given(EVENTS, st.sampled_from([b"\n", b"\r", b"\r\n"]), st.lists(st.integers(0, 10_000), max_size=8))
def test_what_is_written_is_read_wherever_it_is_cut(events: list[Event], end: bytes, places: list[int]) -> None:
    data = b"".join(map(write, events)).replace(b"\n", end)

    assert parsed(*cut(data, places)) == events


@given(st.binary(max_size=200), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_bytes_are_read_alike_however_they_are_cut(data: bytes, places: list[int]) -> None:
    def outcome(parts: list[bytes]) -> object:
        try:
            return parsed(*parts)
        except StreamSyntaxError:
            return "refused"

    assert outcome([data]) == outcome(cut(data, places))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"data: a\ndata: b\n\n", [Event("a\nb")]),
        (b": a comment\n\ndata:no space\n\n", [Event("no space")]),
        (b"data:  two\n\n", [Event(" two")]),
        (b"\xef\xbb\xbfdata: behind a mark\n\n", [Event("behind a mark")]),
        (b"data\n\n", [Event("")]),
        (b"event: only a name\n\n", []),
        (b"data: not ended\n", []),
        (b"unknown: x\ndata: a\n\n", [Event("a")]),
        (b"event: n\nid: 4\nretry: 10\ndata: a\n\n", [Event("a", "n", "4", 10)]),
        (b"retry: soon\nid: a\0b\ndata: a\n\n", [Event("a")]),
        (b"data: a\r\rdata: b\r\n\r\n", [Event("a"), Event("b")]),
        ("data: \u2028 is no line end\n\n".encode(), [Event("\u2028 is no line end")]),
    ],
)
def test_it_reads_as_the_standard_says(data: bytes, found: list[Event]) -> None:
    assert parsed(data) == found
    assert parsed(*(data[at : at + 1] for at in range(len(data)))) == found


def test_what_is_no_utf8_is_refused() -> None:
    with pytest.raises(StreamSyntaxError, match="UTF-8"):
        parsed(b"data: \xff\n\n")


@pytest.mark.parametrize("data", [b"data: " + b"x" * 200, b"data: x\n" * 40])
def test_an_event_has_a_limit(data: bytes) -> None:
    parser = Parser(limit_bytes=100)

    with pytest.raises(StreamSyntaxError, match="longer than 100"):
        parser.feed(data)


@pytest.mark.parametrize("event", [Event("a", name="b\nc"), Event("a", id="b\rc"), Event("a", id="\0")])
def test_a_name_of_two_lines_is_not_written(event: Event) -> None:
    with pytest.raises(ValueError, match="one line"):
        write(event)
