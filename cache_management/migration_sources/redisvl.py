"""RedisVL's semantic cache: hashes, or JSON documents, below a prefix in Redis. Nothing of it is changed.

Vectors are not read: entries are embedded anew. An entry with filters belongs to a context that only its app knows.
LangChain's `RedisSemanticCache` is one, whose entries say which model they are of.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
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
        self._prefix = (prefix or "llmcache").rstrip(":") + ":"
        try:
            self._client: Any = Redis.from_url(
                url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
            )
        except ValueError as exc:
            raise InvalidInput(f"{hide_password(url)}: {exc}") from None
        try:
            self._client.ping()
        except RedisError as exc:
            self._client.close()
            raise BackendUnavailable("the Redis that is read", str(exc)) from exc

    def count(self) -> int:
        return sum(1 for _ in self._keys())

    def rows(self) -> Iterator[Found | LeftOut]:
        page: list[bytes] = []
        for key in self._keys():
            page.append(key)
            if len(page) == _AT_ONCE:
                yield from self._page(page)
                page = []
        yield from self._page(page)

    def close(self) -> None:
        self._client.close()

    def _keys(self) -> Iterator[bytes]:
        escaped = "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in self._prefix)
        seen: set[bytes] = set()  # a scan may say a key twice
        try:
            for key in self._client.scan_iter(match=f"{escaped}*", count=1000):
                if key not in seen:
                    seen.add(key)
                    yield key
        except RedisError as exc:
            raise BackendUnavailable("the Redis that is read", str(exc)) from exc

    def _page(self, keys: list[bytes]) -> Iterator[Found | LeftOut]:
        if not keys:
            return
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
