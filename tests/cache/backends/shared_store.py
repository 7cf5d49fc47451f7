"""A server with a slow wire, step by step: what a store that tells of changes does, in every order it may."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.records import Record

OnChange = Callable[[Sequence[str] | None], None]


class Server:
    """Keeps the truth, and tells every client what the others change."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.clients: list[Client] = []

    def execute(self, sender: Client, command: str, keys: Sequence[str], records: Mapping[str, Record]) -> Any:
        if command == "get":
            return {key: self.records[key] for key in keys if key in self.records}
        removed = sum(self.records.pop(key, None) is not None for key in keys)
        self.records.update(records)
        for client in self.clients:
            if client is not sender and client.is_connected:
                client.inbox.append((None, list(keys)))
        return removed


class Client(MemoryBackend):
    """One connection: commands wait in `outbox` until `send_one`, answers and news in `inbox` until `hear_one`.

    As with Redis's NOLOOP, nobody is told what the own connection wrote.
    """

    name = "shared"

    def __init__(self, server: Server) -> None:
        super().__init__(max_size=1)
        self.server = server
        self.outbox: deque[tuple[asyncio.Future[Any], str, Sequence[str], Mapping[str, Record]]] = deque()
        self.inbox: deque[tuple[asyncio.Future[Any] | None, Any]] = deque()
        self.is_connected = True
        self._told: OnChange = lambda keys: None
        server.clients.append(self)

    def watch(self, prefixes: Sequence[str], on_change: OnChange) -> None:
        self._told = on_change

    def is_current(self) -> bool:
        return self.is_connected

    def send_one(self, at: int = 0) -> None:
        """Let the server do a command; not always the first one: a disk store writes on a thread."""
        future, command, keys, records = self.outbox[at]
        del self.outbox[at]
        self.inbox.append((future, self.server.execute(self, command, keys, records)))

    def hear_one(self) -> None:
        future, news = self.inbox.popleft()
        if future is None:
            self._told(news)
        elif not future.done():
            future.set_result(news)

    def lose_connection(self) -> None:
        """Lose what is on the wire; what the server has got is done."""
        self.is_connected = False
        waiting = [entry[0] for entry in (*self.outbox, *self.inbox)]
        self.outbox.clear()
        self.inbox.clear()
        self._told(None)
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(BackendUnavailable("shared", "the connection was lost"))

    def connect(self) -> None:
        self.is_connected = True

    async def _call(self, command: str, keys: Sequence[str], records: Mapping[str, Record]) -> Any:
        if not self.is_connected:
            raise BackendUnavailable("shared", "nobody is connected")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.outbox.append((future, command, keys, records))
        return await future

    async def get(self, key: str) -> Record | None:
        return (await self._call("get", [key], {})).get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Record]:
        return await self._call("get", keys, {})

    async def put(self, key: str, record: Record) -> None:
        await self._call("put", [key], {key: record})

    async def put_many(self, records: Mapping[str, Record]) -> None:
        await self._call("put", list(records), records)

    async def delete_many(self, keys: Sequence[str]) -> int:
        return await self._call("delete", keys, {})
