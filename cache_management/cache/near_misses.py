"""Refused answers that were near enough, kept in the store for a while, so that a dashboard elsewhere can show them.

One record for each namespace holds the newest of all processes. Two that write it at once may lose some of each
other's: they are shown, and nothing rests on them. It stands among what was asked, and goes when that is forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from cache_management.cache.backends.base import Backend
from cache_management.cache.clock import version_at
from cache_management.cache.identity import KeySpace, digest
from cache_management.cache.records import Record
from cache_management.cache.values import NearMiss

KEPT = 30
_LIFE_SECONDS = 24 * 3600
_NAME = "near-misses"  # no digest, as the names of other keys are


class _Kept(msgspec.Struct, array_like=True, frozen=True):
    """One of them. Fields are only ever added at the end."""

    key_digest: str
    at: float
    asked: str
    stored: str
    score: float
    vetoes: tuple[str, ...]


async def note_near_misses(
    backend: Backend, namespace: str, new: Mapping[str, NearMiss], withdrawn: Collection[str], *, now: float
) -> None:
    """Add some by their keys, and take those of withdrawn keys out.

    Raises:
        BackendUnavailable: The store cannot be read or written.
    """
    gone = {digest(key) for key in withdrawn}
    kept = [_Kept(digest(key), near.at, near.asked, near.stored, near.score, near.vetoes) for key, near in new.items()]
    there = await _load(backend, namespace)
    all_of_them = [each for each in (*kept, *there) if each.key_digest not in gone]
    if len(all_of_them) == len(there):
        return  # nothing new, nothing withdrawn
    newest = sorted(all_of_them, key=lambda each: -each.at)[:KEPT]
    await backend.put(_place(namespace), Record(_encode(newest), now + _LIFE_SECONDS, version_at(now)))


async def load_near_misses(backend: Backend, namespace: str) -> list[NearMiss]:
    """Return what processes told, the newest first.

    Raises:
        BackendUnavailable: The store cannot be read.
    """
    return [
        NearMiss(each.at, namespace, each.asked, each.stored, each.score, each.vetoes)
        for each in await _load(backend, namespace)
    ]


async def forget_near_misses(backend: Backend, namespace: str) -> None:
    """Remove them.

    Raises:
        BackendUnavailable: They may still be there.
    """
    await backend.delete_many([_place(namespace)])


async def _load(backend: Backend, namespace: str) -> list[_Kept]:
    record = await backend.get(_place(namespace))
    try:
        return [] if record is None else _decode(record.value)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return []  # of a later version, or damaged


def _place(namespace: str) -> str:
    return KeySpace("ask", namespace).to_storage(_NAME)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Kept]).decode
