"""RedisVL's semantic cache: hashes, or JSON documents, below a prefix in Redis. Nothing of it is changed.

Vectors are not read: entries are embedded anew. An entry with filters belongs to a context that only its app knows.
LangChain's `RedisSemanticCache` is one, whose entries say which model they are of.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.payloads import PAYLOADS
from cache_management.cache.redact import hide_password
from cache_management.migration_sources.found import Found, LeftOut
from cache_management.migration_sources.langchain_calls import call_of, generations_in, without_model

try:
    from redis import Redis
    from redis.exceptions import RedisError, ResponseError
except ImportError as exc:
    raise ImportError("Reading a cache of RedisVL needs: pip install 'cache-management[redis]'") from exc

_OWN = {"entry_id", "prompt", "response", "prompt_vector", "inserted_at", "updated_at", "metadata"}
_AT_ONCE = 500
_SCAN, _LOOKS = 1_000, 10
_SHOWN, _MOST_DEEPER = 5, 20
_UNKNOWN = datetime.fromtimestamp(0, UTC)
_TIMEOUT_SECONDS = 10


class RedisVLStore:
    """The entries of a RedisVL cache.

    Args:
        prefix: The name that the cache was given, with or without the colon behind it; by default RedisVL's own.

    Raises:
        InvalidInput: The address is none.
        BackendUnavailable: Nobody answers there.
    """

    def __init__(self, url: str, *, prefix: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._name = (prefix or "llmcache").rstrip(":")
        self._where = hide_password(url)
        self._deeper: set[str] = set()
        try:
            self._client: Any = Redis.from_url(
                url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
            )
        except ValueError as exc:
            raise InvalidInput(f"{self._where}: {exc}") from None
        try:
            self._client.ping()
        except RedisError as exc:
            self._client.close()
            raise BackendUnavailable("the Redis that is read", str(exc)) from exc

    def count(self) -> int:
        return len(self._keys)

    def rows(self) -> Iterator[Found | LeftOut]:
        ours = []
        for key in self._keys:
            inner, _, _ = key[len(self._name) + 1 :].rpartition(b":")
            if inner:
                yield LeftOut(self._of_another(inner), key.decode(errors="replace"))
            else:
                ours.append(key)
        for at in range(0, len(ours), _AT_ONCE):
            yield from self._page(ours[at : at + _AT_ONCE])

    def close(self) -> None:
        self._client.close()

    @cached_property
    def _keys(self) -> list[bytes]:
        """The keys below the prefix, each once.

        Raises:
            InvalidInput: There are none, and no index has that name.
        """
        escaped = "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in self._name)
        try:
            # A scan may say a key twice.
            found = list(dict.fromkeys(self._client.scan_iter(match=f"{escaped}:*", count=_SCAN)))
            others = [] if found else self._others()
        except RedisError as exc:
            raise BackendUnavailable("the Redis that is read", str(exc)) from exc
        if not found and self._name not in others:
            near = get_close_matches(self._name, others, cutoff=0.5) or others[:_SHOWN]
            there = f"there are {', '.join(near)}: name one with --prefix" if near else "nor has any key a prefix"
            raise InvalidInput(f"{self._where}: no key begins with {self._name + ':'!r}, {there}")
        return found

    def _others(self) -> list[str]:
        """Return names that a cache may have: of indexes, and what some of the keys begin with."""
        try:
            names = [each.decode(errors="replace") for each in self._client.execute_command("FT._LIST")]
        except ResponseError:
            names = []  # no index is kept there
        begins: Counter[str] = Counter()
        cursor = 0
        for _ in range(_LOOKS):
            cursor, keys = self._client.scan(cursor, count=_SCAN)
            begins.update(key.decode(errors="replace").rpartition(":")[0] for key in keys)
            if cursor == 0:
                break
        return list(dict.fromkeys([*names, *(name for name, _ in begins.most_common() if name)]))

    def _of_another(self, inner: bytes) -> str:
        """Return why a key below a longer prefix stays: another cache may have it, that of a tenant."""
        deeper = f"{self._name}:{inner.decode(errors='replace')}"[:80]
        if deeper not in self._deeper and len(self._deeper) >= _MOST_DEEPER:
            return "of other caches, whose prefixes begin with this one"
        self._deeper.add(deeper)
        return f"of another cache: --prefix {deeper} brings it along"

    def _page(self, keys: list[bytes]) -> Iterator[Found | LeftOut]:
        try:
            pipe = self._client.pipeline(transaction=False)
            for key in keys:
                pipe.type(key)
                pipe.pttl(key)
            told = pipe.execute()
            for at, key in enumerate(keys):
                kind, life_ms = told[2 * at], told[2 * at + 1]
                if kind != b"none":  # gone since it was listed
                    yield self._row(key, kind, life_ms)
        except RedisError as exc:
            raise BackendUnavailable("the Redis that is read", str(exc)) from exc

    def _row(self, key: bytes, kind: bytes, life_ms: int) -> Found | LeftOut:
        where = key.decode(errors="replace")
        fields = self._fields(key, kind)
        if isinstance(fields, str):
            return LeftOut(fields, where)
        prompt, response = _text(fields.get("prompt")), _text(fields.get("response"))
        if not prompt:
            return LeftOut("no prompt that is a text", where)
        if response is None:
            return LeftOut("a value that is no text" if "response" in fields else "no answer", where, prompt)
        if filters := sorted(set(fields) - _OWN):
            shown = ", ".join(filters)[:80]
            return LeftOut(f"filters ({shown}): only the app knows which context they stand for", where, prompt)
        metadata = _metadata(fields.get("metadata"))
        moment = _moment(fields.get("updated_at"), fields.get("inserted_at"))
        timestamp = _UNKNOWN if moment is None else moment
        generations = generations_in(response)
        found: Found | LeftOut
        if generations is not None and isinstance(llm := metadata.get("llm_string"), str):
            # The description of the model is known by a digest only, as our adapter keeps it: it may hold keys.
            found = call_of(prompt, llm, generations, where=where, timestamp=timestamp)
        else:
            found = without_model(prompt, response, where) or Found(
                where=where, asked={"prompt": prompt}, response=response, timestamp=timestamp, metadata=metadata
            )
        if isinstance(found, LeftOut):
            return found
        expires_at = self._clock() + life_ms / 1000 if life_ms >= 0 else None
        return replace(found, expires_at=expires_at, has_time=moment is not None)

    def _fields(self, key: bytes, kind: bytes) -> dict[str, Any] | str:
        """Return all but the vector, or what the key holds instead of an entry."""
        if kind == b"hash":
            names = [name for name in self._client.hkeys(key) if name != b"prompt_vector"]
            values = self._client.hmget(key, names) if names else []
            return {
                name.decode(errors="replace"): value
                for name, value in zip(names, values, strict=True)
                if value is not None
            }
        if kind != b"ReJSON-RL":
            return f"a {kind.decode(errors='replace')}, which is no entry"
        try:
            found = json.loads(self._client.execute_command("JSON.GET", key))
        except (ResponseError, ValueError, TypeError, RecursionError):
            return "a document that cannot be read"
        if not isinstance(found, dict):
            return "a document that is no entry"
        return {name: value for name, value in found.items() if name != "prompt_vector"}


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    try:
        return value.decode() if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None


def _moment(*given: Any) -> datetime | None:
    for value in given:
        try:
            seconds = float(value)
            if math.isfinite(seconds) and seconds > 0:
                return datetime.fromtimestamp(seconds, UTC)
        except (TypeError, ValueError, OverflowError, OSError):
            continue
    return None


def _metadata(value: Any) -> dict[str, Any]:
    try:
        found = value if isinstance(value, dict) else json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    # What an adapter or the gateway keeps is served in the place of the text: nobody else's may stand there.
    return {name: each for name, each in found.items() if name not in PAYLOADS}
