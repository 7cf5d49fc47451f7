"""Of several answers to one question the newest, whatever the order in which they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

_NO_TIME = -1.0


class Line(msgspec.Struct, frozen=True):
    """An entry as a line of an export. `time` is Unix seconds, None where the other cache names none.

    `name` is its storage key, `where` its name over there, `prompt` what a person sees of the question.
    """

    name: str
    encoded: bytes
    time: float | None
    where: str
    prompt: str


class Kept(msgspec.Struct, frozen=True):
    """An entry that stays."""

    encoded: bytes
    where: str
    has_time: bool


class _Place(NamedTuple):
    """The rank of a line, and where it stands. The length of its name first: question 10 is behind question 9."""

    time: float
    length: int
    where: str
    offset: int


class Newest:
    """Keeps lines in a file, for another cache may be larger than memory; of each a few hundred bytes stay there."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w+b")
        self._places: dict[bytes, _Place] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, line: Line) -> str | None:
        """Take a line; return which one is left out where the question is there already, by its name over there.

        One with a time is newer than one without; of one time that stays whose name comes last.
        """
        key = hashlib.blake2b(line.name.encode(), digest_size=16).digest()
        time = _NO_TIME if line.time is None else max(0.0, line.time)
        other = self._places.get(key)
        if other is not None and other[:3] >= (time, len(line.where), line.where):
            return line.where
        self._places[key] = _Place(time, len(line.where), line.where, self._file.tell())
        self._file.write(line.encoded + b"\n")
        return None if other is None else other.where

    def lines(self) -> Iterator[Kept]:
        """Yield what stays, in the order in which it came. Nothing is added any more."""
        for place in sorted(self._places.values(), key=lambda each: each.offset):
            self._file.seek(place.offset)
            yield Kept(self._file.readline().rstrip(b"\n"), place.where, has_time=place.time != _NO_TIME)
