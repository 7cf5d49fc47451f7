from __future__ import annotations

import base64
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cache_management.cache.backends.base import Backend, Stash
from cache_management.cache.backends.encrypted import EncryptedBackend
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import ConfigurationError
from cache_management.cache.events import CorruptEvent, Event
from cache_management.cache.llm import LLMCache
from cache_management.cache.values import CachedResponse
from tests.contracts.backend import BackendContract
from tests.contracts.coordination import PIECE, StashContract

if not os.environ.get("CI"):
    pytest.importorskip("cryptography")

from cache_management.cache.crypto import Keyring


def key(name: str) -> str:
    return f"{name}: {base64.b64encode(name.encode().ljust(32, b'.')).decode()}"


SECRET = CachedResponse(prompt="p" * 300, response="the secret plan", model="m", timestamp=datetime.now(UTC))


class TestEncryptedBackend(BackendContract):
    async def make(self) -> Backend:
        keyring = Keyring.from_text(key("k1"), where="a test")
        return EncryptedBackend(MemoryBackend(max_size=10_000, clock=self.clock), keyring)


class TestEncryptedStash(StashContract):
    async def make_stash(self) -> Stash:
        inner = MemoryBackend(max_size=1, clock=self.clock)
        return EncryptedBackend(inner, Keyring.from_text(key("k1"), where="a test"))

    async def expire(self, name: str) -> None:
        self.clock.advance(31)

    async def test_the_store_cannot_read_it(self, stash: EncryptedBackend) -> None:
        await stash.stash(PIECE, b"a secret piece", ttl_seconds=60)

        assert b"secret" not in (await stash.inner.stashed(PIECE) or b"")

    async def test_a_piece_that_was_moved_is_none(self, stash: EncryptedBackend) -> None:
        await stash.stash(PIECE, b"piece", ttl_seconds=60)
        await stash.inner.stash(PIECE + "2", await stash.inner.stashed(PIECE) or b"", ttl_seconds=60)

        assert await stash.stashed(PIECE + "2") is None


def open_cache(folder: Path, *keys: str, heard: list[Event] | None = None) -> LLMCache:
    config = CacheConfig(disk_path=folder, encryption_keys="\n".join(map(key, keys)) if keys else None)
    return LLMCache(config, listener=None if heard is None else heard.append)


async def test_answers_come_back_and_are_not_readable_in_the_store(tmp_path: Path) -> None:
    async with open_cache(tmp_path, "k1") as cache:
        await cache.set(SECRET.prompt, SECRET)

        assert await cache.get(SECRET.prompt) == SECRET
    with sqlite3.connect(tmp_path / "cache.sqlite") as db:
        (frame,) = db.execute("SELECT frame FROM records").fetchone()
    db.close()
    assert b"secret plan" not in frame
    assert b"pppp" not in frame


async def test_a_new_first_key_still_opens_what_the_old_one_sealed(tmp_path: Path) -> None:
    async with open_cache(tmp_path, "old") as cache:
        await cache.set("a", SECRET)
    async with open_cache(tmp_path, "new", "old") as cache:
        await cache.set("b", SECRET)
        assert await cache.get("a") == SECRET
    async with open_cache(tmp_path, "new") as cache:
        assert await cache.get("b") == SECRET


@pytest.mark.parametrize(("wrote", "reads"), [(["k1"], ["k2"]), ([], ["k1"]), (["k1"], [])])
async def test_what_cannot_be_opened_is_a_miss_with_an_event(
    tmp_path: Path, wrote: list[str], reads: list[str]
) -> None:
    heard: list[Event] = []
    async with open_cache(tmp_path, *wrote) as cache:
        await cache.set("a", SECRET)

    async with open_cache(tmp_path, *reads, heard=heard) as cache:
        assert await cache.get("a") is None
        if reads:
            assert await cache.backend.inspect_many(["cm1:llm:default:ka"]) == {"cm1:llm:default:ka": None}

    assert any(isinstance(event, CorruptEvent) for event in heard)


def test_keys_that_cannot_be_used_are_a_clear_error_that_does_not_tell_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="k1") as raised:
        LLMCache(CacheConfig(disk_path=tmp_path, encryption_keys="k1: c2VjcmV0"))

    assert "c2VjcmV0" not in str(raised.value)


def test_settings_do_not_tell_the_keys() -> None:
    assert "Li4u" not in repr(CacheConfig(encryption_keys=key("k1")))
