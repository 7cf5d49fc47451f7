"""Asks Sentinels which server is the primary now."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from math import inf

from cache_management.cache.backends.redis_connection import Command, ConnectionLost, RedisConnection, Refusal
from cache_management.cache.errors import BackendUnavailable

Address = tuple[str, int]


async def find_primary(
    sentinels: Sequence[Address],
    name: str,
    *,
    hello: Sequence[Command],
    tls: ssl.SSLContext | None,
    patience_seconds: float,
) -> Address:
    """Ask all Sentinels at once; the first that knows the name counts.

    Whoever connects must look whether that server is a primary: a Sentinel that is cut off tells of the former one.

    Raises:
        BackendUnavailable: None of them knows.
    """
    asked = [
        asyncio.create_task(_ask(sentinel, name, hello=hello, tls=tls, patience_seconds=patience_seconds))
        for sentinel in sentinels
    ]
    why = ""
    try:
        for each in asyncio.as_completed(asked):
            try:
                return await each
            except BackendUnavailable as exc:
                why = f"{exc.backend}: {exc.reason}"
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise BackendUnavailable(f"redis primary {name!r}", f"no Sentinel tells where it is ({why})")


async def _ask(
    sentinel: Address, name: str, *, hello: Sequence[Command], tls: ssl.SSLContext | None, patience_seconds: float
) -> Address:
    host, port = sentinel
    shown = f"the Sentinel at {host}:{port}"
    connection = RedisConnection(patience_seconds=patience_seconds)
    try:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, host, port, ssl=tls)
        question: list[Command] = [*hello, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)]
        *greeting, found = await connection.ask_all(question, loop.time(), inf)
    except (OSError, ConnectionLost) as exc:
        raise BackendUnavailable(shown, str(exc) or type(exc).__name__) from exc
    finally:
        connection.end("it was asked")
    for reply in (*greeting, found):
        if type(reply) is Refusal:
            raise BackendUnavailable(shown, f"it refused: {str(reply).partition(', with args')[0]}")
    if found is None:
        raise BackendUnavailable(shown, f"it watches nothing by the name {name!r}")
    return found[0].decode(), int(found[1])
