"""What client processes did, and when: one line of JSON for every beginning and every end of an operation.

Times are CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share; no clock that a test skews is used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["set", "get", "delete", "exists"]
Outcome = Literal["invoke", "ok", "fail", "info"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """The beginning ("invoke") or the end of an operation; `number` counts within a process.

    "ok": it was done, or `value` was read (None: nothing there; for `exists`, "" stands for something there). "fail":
    it was surely not done. "info": nobody knows. `ttl_ns` is that of a `set`, None for one beyond the run.
    """

    at: int
    type: Outcome
    process: int
    number: int
    kind: Kind
    key: str
    value: str | None = None
    ttl_ns: int | None = None


class Operation(msgspec.Struct, frozen=True):
    """An operation as the checker sees it. A write that `returned` None may take effect at any time from `invoked` on.

    `value` is what was written or read; `exists` reads "" for something and None for nothing.
    """

    process: int
    kind: Kind
    key: str
    invoked: int
    returned: int | None
    value: str | None = None
    ttl_ns: int | None = None
    is_refused: bool = False  # a write that surely never took effect


class Recorder:
    """Writes the events of one process. Each line is in the file at once: a process may be killed at any moment."""

    def __init__(self, path: Path, process: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._process = process
        self._number = 0
        self._encode = msgspec.json.Encoder().encode
        self.counts: dict[str, int] = {}

    def begin(self, kind: Kind, keys: Iterable[str], values: Iterable[str | None], ttl_ns: int | None) -> list[Event]:
        """Note that an operation on some keys begins now."""
        now = time.monotonic_ns()
        events = []
        for key, value in zip(keys, values, strict=True):
            self._number += 1
            events.append(Event(now, "invoke", self._process, self._number, kind, key, value, ttl_ns))
        self._write(events)
        return events

    def end(self, begun: Iterable[Event], outcome: Outcome, values: Iterable[str | None] | None = None) -> None:
        """Note that it ended now; `values` are those that were read."""
        now = time.monotonic_ns()
        begun = list(begun)
        read = [each.value for each in begun] if values is None else list(values)
        self._write(
            [
                Event(now, outcome, each.process, each.number, each.kind, each.key, value)
                for each, value in zip(begun, read, strict=True)
            ]
        )
        for each in begun:
            name = f"{each.kind} {outcome}"
            self.counts[name] = self.counts.get(name, 0) + 1

    def _write(self, events: Iterable[Event]) -> None:
        os.write(self._file, b"".join(self._encode(event) + b"\n" for event in events))

    def close(self) -> None:
        os.close(self._file)


def read_history(paths: Iterable[Path]) -> list[Operation]:
    """Join the beginnings and ends that several processes wrote; reads without an answer say nothing: left out."""
    begun: dict[tuple[int, int], Event] = {}
    operations: list[Operation] = []
    decode = msgspec.json.Decoder(Event).decode
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue  # its process was killed
            event = decode(line)
            name = (event.process, event.number)
            if event.type == "invoke":
                begun[name] = event
            else:
                _add(operations, begun.pop(name), event)
    for event in begun.values():
        _add(operations, event, None)
    return operations


def _add(operations: list[Operation], begun: Event, ended: Event | None) -> None:
    is_write = begun.kind in ("set", "delete")
    is_known = ended is not None and ended.type != "info"
    if not is_write and (ended is None or ended.type != "ok"):
        return
    operations.append(
        Operation(
            process=begun.process,
            kind=begun.kind,
            key=begun.key,
            invoked=begun.at,
            returned=ended.at if is_known and ended is not None else None,
            value=begun.value if is_write or ended is None else ended.value,
            ttl_ns=begun.ttl_ns,
            is_refused=ended is not None and ended.type == "fail",
        )
    )
