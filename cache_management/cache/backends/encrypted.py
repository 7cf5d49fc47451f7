"""Values encrypted at rest: sealed before they reach a store, opened when they come back.

Storage keys stay as they are, and so does the key of an entry whose prompt is short: what must
not be readable in the store should not be a key. A value that is not sealed, was changed, moved
under another key or sealed with a lost key is a miss with an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cache_management.cache.backends.wrapped import FullBackend, WrappedBackend
from cache_management.cache.crypto import Keyring
from cache_management.cache.errors import CorruptRecord
from cache_management.cache.events import CorruptEvent, Listener, ignore
from cache_management.cache.records import Record


class EncryptedBackend(WrappedBackend):
    """Seals with the first key of a keyring and opens with any of them."""

    def __init__(self, inner: FullBackend, keyring: Keyring, *, listener: Listener = ignore) -> None:
        super().__init__(inner)
        self._keyring = keyring
        self._listener = listener

    async def get(self, key: str) -> Record | None:
        record = await self.inner.get(key)
        return None if record is None else self._open(key, record)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        found = await self.inner.get_many(keys)
        opened = {key: self._open(key, record) for key, record in found.items()}
        return {key: record for key, record in opened.items() if record is not None}

    async def inspect_many(self, keys: Sequence[str]) -> dict[str, Record | None]:
        found = await self.inner.inspect_many(keys)
        return {key: None if record is None else self._open(key, record) for key, record in found.items()}

    async def put(self, key: str, record: Record) -> None:
        await self.inner.put(key, self._seal(key, record))

    async def put_many(self, records: Mapping[str, Record]) -> None:
        await self.inner.put_many({key: self._seal(key, record) for key, record in records.items()})

    async def put_if(self, key: str, record: Record, *, expected: int | None) -> bool:
        return await self.inner.put_if(key, self._seal(key, record), expected=expected)

    async def stash(self, name: str, piece: bytes, *, ttl_seconds: float) -> None:
        await self.inner.stash(name, self._keyring.seal(piece, name), ttl_seconds=ttl_seconds)

    async def stashed(self, name: str) -> bytes | None:
        sealed = await self.inner.stashed(name)
        try:
            return None if sealed is None else self._keyring.open_sealed(sealed, name)
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.name, name, str(exc)))
            return None

    def _seal(self, key: str, record: Record) -> Record:
        return msgspec.structs.replace(record, value=self._keyring.seal(record.value, key))

    def _open(self, key: str, record: Record) -> Record | None:
        try:
            return msgspec.structs.replace(record, value=self._keyring.open_sealed(record.value, key))
        except CorruptRecord as exc:
            self._listener(CorruptEvent(self.name, key, str(exc)))
            return None
