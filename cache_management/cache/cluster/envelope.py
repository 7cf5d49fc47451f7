"""What a node keeps under one key: a head that people and scripts can read, then the value.

    version  24 hex digits: a hybrid logical clock (16), then the client that wrote it (8); the first is 0 to 5, to
             the year 2179: what seems to come from later is damaged
    kind     v value, d deleted (a tombstone), x a stub: it expired or was evicted, only its version is kept
    moment   14 digits, ms since 1970: of a value when it expires (all zeros: never), else when it was removed
    payload  a frame of cache/codec.py; nothing for tombstones and stubs

Larger versions win, compared as text; the scripts in lua/ know the same places.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
from collections.abc import Iterable

import msgspec

from cache_management.cache.clock import Clock, VersionClock
from cache_management.cache.codec import pack, unpack
from cache_management.cache.errors import CorruptRecord, InvalidInput
from cache_management.cache.records import Record

VERSION_BYTES = 24
HEAD_BYTES = 39
VALUE, DELETED, STUB = b"v", b"d", b"x"
NOTHING = b""
"""The version of what was never written: smaller than every other."""
_VERSION = re.compile(rb"[0-5][0-9a-f]{23}")
_READABLE = re.compile(_VERSION.pattern + rb"[vdx][0-9]{14}")


class Head(msgspec.Struct, frozen=True, gc=False):
    """The head of a copy; `moment_ms` of a value is its expiry, 0 for never."""

    version: bytes
    kind: bytes
    moment_ms: int

    def is_live(self, now_ms: float) -> bool:
        """Tell whether there is a value to serve at `now_ms`."""
        return self.kind == VALUE and (self.moment_ms == 0 or self.moment_ms > now_ms)


def read_head(stored: bytes) -> Head:
    """Read the head of what a node keeps.

    Raises:
        CorruptRecord: It has none.
    """
    kind, moment = stored[24:25], stored[25:39]
    if len(moment) != 14 or kind not in (VALUE, DELETED, STUB) or not moment.isdigit():
        raise CorruptRecord("a copy on a node has no readable head")
    return Head(stored[:24], kind, int(moment))


def readable(stored: bytes | None) -> bytes:
    """Return what a node keeps, or nothing where that is no copy: damaged, it would win over every version."""
    return stored if stored and _READABLE.match(stored) else NOTHING


def is_version(text: bytes) -> bool:
    """Tell whether a client can have given this version."""
    return _VERSION.fullmatch(text) is not None


def names_in(keys: Iterable[bytes]) -> list[str]:
    """Return keys of a node as names; what is no text was not written by this program."""
    names = []
    for key in keys:
        with contextlib.suppress(UnicodeDecodeError):
            names.append(key.decode())
    return names


def number_in(stored: bytes | None) -> int:
    """Return a number that a node keeps, 0 for none and for what is none."""
    return int(stored) if stored and stored.isdigit() else 0


def value_copy(version: bytes, storage_key: str, record: Record) -> bytes:
    """Return what a node keeps for a record whose `expires_at` is in the cluster's time."""
    moment = 0 if record.expires_at is None else max(1, math.ceil(record.expires_at * 1000))
    return b"%sv%014d%s" % (version, moment, pack(storage_key, record))


def grave(version: bytes, kind: bytes, now_ms: float) -> bytes:
    """Return what a node keeps of something that was deleted, or whose value is gone."""
    return b"%s%s%014d" % (version, kind, int(now_ms))


def read_value(storage_key: str, stored: bytes) -> Record:
    """Return the record of a value.

    Raises:
        CorruptRecord: Its check failed.
    """
    return unpack(storage_key, stored[HEAD_BYTES:])


class Versions:
    """Gives versions that nobody else gives, each larger than all that were seen before.

    Args:
        clock: The cluster's time, not the application's: an application whose clock is an hour behind must not
            lose every race against the others.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = VersionClock(clock)
        self._client, self._pid = b"%08x" % secrets.randbits(32), os.getpid()

    def next(self) -> bytes:
        if self._pid != os.getpid():  # a forked child must not give the versions of its parent
            self._client, self._pid = b"%08x" % secrets.randbits(32), os.getpid()
        return b"%016x%s" % (self._clock.next(), self._client)

    def above(self, version: bytes) -> bytes:
        """Give a version that is larger than another one, and smaller than those that are made from now on."""
        # By chance: what this client gave itself in that millisecond counts up from its beginning.
        given = b"%016x%s" % (int(version[:16], 16) + 1 + secrets.randbelow(2**16), self._client)
        self.observe(given)
        return given

    def observe(self, version: bytes) -> None:
        """Make every later version larger; what is no version teaches nothing."""
        if is_version(version):
            self._clock.observe(int(version[:16], 16))


def token_of(version: bytes) -> int:
    """Return a version as a number, for a fencing token."""
    return int(version, 16)


def version_of(token: int) -> bytes:
    """Return the version that a fencing token stands for.

    Raises:
        InvalidInput: No lock can have given it.
    """
    version = b"%024x" % token if isinstance(token, int) else NOTHING
    if not is_version(version):
        raise InvalidInput(f"fencing_token={token!r:.40} is none: take what fencing_token(name) returns")
    return version


def moment_of(version: bytes) -> float:
    """Return when a version was given, in ms since 1970."""
    return int(version[:16], 16) >> 20
