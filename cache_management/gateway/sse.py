"""Server-sent events: a strict parser that takes bytes as they come, and a writer.

As the HTML standard has it: lines end in CR LF, LF or CR, an event ends with an empty line, and one that is not ended
is none. What a browser would mend, such as bytes that are no UTF-8, is an error here: it is not to be cached.
"""

from __future__ import annotations

import re

import msgspec

_LINE_END = re.compile(rb"[\r\n]")
_ANY_END = re.compile(r"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
_LF = 10


class StreamSyntaxError(ValueError):
    """The bytes are no stream of events."""


class Event(msgspec.Struct, frozen=True):
    """One event; `name` is empty where none was given, which means "message"."""

    data: str
    name: str = ""
    id: str | None = None
    retry_ms: int | None = None


class Parser:
    """Finds the events in the bytes of one stream, wherever they are cut.

    Args:
        limit_bytes: How long an event may be.
    """

    def __init__(self, limit_bytes: int = 32 * 2**20) -> None:
        self._limit = limit_bytes
        self._rest = bytearray()
        self._searched = 0
        self._skips_lf = False
        self._is_first = True
        self._data: list[str] = []
        self._size = 0
        self._name = ""
        self._id: str | None = None
        self._retry: int | None = None

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete.

        Raises:
            StreamSyntaxError: They are no UTF-8, or an event is too long.
        """
        rest = self._rest
        rest += data
        found: list[Event] = []
        start = 0
        if self._skips_lf and rest:
            start = int(rest[0] == _LF)
            self._skips_lf = False
        at = max(start, self._searched)
        while match := _LINE_END.search(rest, at):
            end, at = match.start(), match.end()
            if rest[end] != _LF:
                if at == len(rest):
                    self._skips_lf = True
                elif rest[at] == _LF:
                    at += 1
            event = self._line(bytes(rest[start:end]))
            if event is not None:
                found.append(event)
            start = at
        del rest[:start]
        self._searched = len(rest)
        if len(rest) + self._size > self._limit:
            raise StreamSyntaxError(f"an event is longer than {self._limit} bytes")
        return found

    def _line(self, raw: bytes) -> Event | None:
        if self._is_first:
            self._is_first = False
            raw = raw.removeprefix(_BOM)
        if not raw:
            return self._dispatch()
        self._size += len(raw)
        try:
            line = raw.decode()
        except UnicodeDecodeError as exc:
            raise StreamSyntaxError(f"not UTF-8 at byte {exc.start} of a line") from None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry = int(value[:9])
        return None

    def _dispatch(self) -> Event | None:
        data, name, given, retry = self._data, self._name, self._id, self._retry
        self._data, self._name, self._id, self._retry, self._size = [], "", None, None, 0
        return Event("\n".join(data), name, given, retry) if data else None


def write(event: Event) -> bytes:
    r"""Return an event as bytes; each line end in its data comes back as "\n".

    Raises:
        ValueError: Its name or id has a line end, or its id a NUL.
    """
    for value in (event.name, event.id or ""):
        if _ANY_END.search(value) or "\0" in value:
            raise ValueError(f"the name or id of an event has one line, not {value[:40]!r}")
    lines = [f"event: {event.name}"] if event.name else []
    if event.id is not None:
        lines.append(f"id: {event.id}")
    if event.retry_ms is not None:
        lines.append(f"retry: {event.retry_ms}")
    lines += [f"data: {line}" for line in _ANY_END.split(event.data)]
    return ("\n".join(lines) + "\n\n").encode()
