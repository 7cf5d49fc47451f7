"""CachingTransport: a cache inside a client of httpx, and so inside the clients of OpenAI and Anthropic.

    client = openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=CachingTransport(manager)))

It serves `httpx2`, which those clients use now, and `httpx`, which older ones use: a request says which it is.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any, Self, TypeVar

import msgspec

from cache_management import sync
from cache_management.cache.manager import CacheManager
from cache_management.gateway.calls import (
    BrokenStream,
    Call,
    Headers,
    Reply,
    Upstream,
    close,
    decoded,
    encoded,
    for_upstream,
    marked,
    without_hops,
)
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.exchange import Exchange

logger = logging.getLogger("cache_management")

T = TypeVar("T")
_CLOSE_SECONDS = 5.0


class CachingTransport:
    """A transport of httpx that answers from a cache what it can, and asks another transport for the rest.

    Chat completions, responses, embeddings and messages are answered; any other request goes on untouched.

    Args:
        manager: A `CacheManager`, or that of `cache_management.sync`. An asynchronous client uses it on its own event
            loop, a plain one on the loop of `cache_management.sync`.
        transport: Asks the provider; by default the usual one of the client's library.
        namespace: Where answers are kept; by default the manager's. Callers may name another by `x-cache-namespace`.
        limit_seconds: How long an answer may take, also after its caller has hung up.
    """

    def __init__(
        self,
        manager: CacheManager | sync.CacheManager,
        transport: Any = None,
        *,
        namespace: str | None = None,
        limit_seconds: float = 600.0,
    ) -> None:
        given: CacheManager = manager.wrapped if isinstance(manager, sync.CacheManager) else manager
        self._exchange = Exchange(given, may_choose_namespace=True, limit_seconds=limit_seconds)
        self._namespace = namespace
        self._inner = transport
        self._lock = threading.Lock()

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request of an asynchronous client."""
        library = _library_of(request)
        inner = self._transport(library, "AsyncHTTPTransport")
        if dialect_of(request.method, _path_of(request)) is None:
            return await inner.handle_async_request(request)
        call, caller = _call_of(request, await request.aread()), _Caller()

        async def upstream(sent: Call) -> Reply:
            caller.has_asked = True
            response = await inner.handle_async_request(_request_of(library, request, sent))
            return Reply(response.status_code, decoded(response.headers.raw), _read(response.stream))

        reply = await self._answer(call, upstream, caller)
        body = _async_body(library)(reply.body)
        return library.Response(reply.status, headers=encoded(reply.headers), stream=body)

    def handle_request(self, request: Any) -> Any:
        """Answer a request of a plain client."""
        library = _library_of(request)
        inner = self._transport(library, "HTTPTransport")
        if dialect_of(request.method, _path_of(request)) is None:
            return inner.handle_request(request)
        call, caller = _call_of(request, request.read()), _Caller()

        async def upstream(sent: Call) -> Reply:
            caller.has_asked = True
            asking = _Asking(lambda: inner.handle_request(_request_of(library, request, sent)))
            return await asking.reply()

        reply = sync.run(self._answer(call, upstream, caller))
        body = _plain_body(library)(reply.body)
        return library.Response(reply.status, headers=encoded(reply.headers), stream=body)

    async def aclose(self) -> None:
        """Wait a moment for what is being stored, and close the other transport; the manager is its maker's."""
        await self._exchange.aclose(wait_seconds=_CLOSE_SECONDS)
        if self._inner is not None:
            await self._inner.aclose()

    def close(self) -> None:
        """As `aclose`, for a plain client."""
        sync.run(self._exchange.aclose(wait_seconds=_CLOSE_SECONDS))
        if self._inner is not None:
            self._inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def _answer(self, call: Call, upstream: Upstream, caller: _Caller) -> Reply:
        try:
            return await self._exchange.send(call, upstream, namespace=self._namespace)
        except BrokenStream:
            raise
        except Exception:
            if caller.has_asked:  # it is what the provider's transport raised
                raise
            logger.warning("the cache failed, the answer comes from the provider", exc_info=True)
        reply = await upstream(msgspec.structs.replace(call, headers=for_upstream(call.headers)))
        return Reply(reply.status, marked(without_hops(reply.headers), "bypass"), reply.body)

    def _transport(self, library: ModuleType, name: str) -> Any:
        with self._lock:
            if self._inner is None:
                self._inner = getattr(library, name)()
            return self._inner


class _Caller:
    """How far one request of the application has come."""

    def __init__(self) -> None:
        self.has_asked = False


class _Asking:
    """One request of a blocking transport, on a thread of its own, told to the loop bit by bit."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._head: asyncio.Future[tuple[int, Headers]] = self._loop.create_future()
        self._parts: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._left = threading.Event()

    async def reply(self) -> Reply:
        threading.Thread(target=self._work, name="cache-upstream", daemon=True).start()
        status, headers = await self._head
        return Reply(status, headers, self._body())

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            while (part := await self._parts.get()) is not None:
                if isinstance(part, BaseException):
                    raise part
                yield part
        finally:
            self._left.set()

    def _work(self) -> None:
        try:
            response = self._ask()
        except BaseException as exc:  # noqa: BLE001 - the thread has nobody else to tell
            self._tell(self._settle, exc)
            return
        try:
            self._tell(self._settle, (response.status_code, decoded(response.headers.raw)))
            for part in response.stream:
                if self._left.is_set():
                    break
                self._tell(self._parts.put_nowait, part)
            self._tell(self._parts.put_nowait, None)
        except BaseException as exc:  # noqa: BLE001
            self._tell(self._parts.put_nowait, exc)
        finally:
            response.close()

    def _settle(self, found: tuple[int, Headers] | BaseException) -> None:
        if self._head.done():
            self._left.set()
        elif isinstance(found, BaseException):
            self._head.set_exception(found)
        else:
            self._head.set_result(found)

    def _tell(self, how: Callable[[Any], None], what: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(how, what)


def _library_of(request: Any) -> ModuleType:
    return importlib.import_module(type(request).__module__.partition(".")[0])


def _path_of(request: Any) -> str:
    """Return the path and the query as they are sent: what is escaped in them may be no path that is known."""
    path: str = request.url.raw_path.decode("ascii")
    return path


def _call_of(request: Any, body: bytes) -> Call:
    path = _path_of(request)
    dialect = dialect_of(request.method, path)
    assert dialect is not None  # noqa: S101 - asked before
    plain, _, query = path.partition("?")
    base = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}{plain.removesuffix(dialect.suffix)}"
    return Call(
        method=request.method,
        path=dialect.suffix + (f"?{query}" if query else ""),
        base=base,
        headers=decoded(request.headers.raw),
        body=body,
    )


def _request_of(library: ModuleType, request: Any, sent: Call) -> Any:
    """Return the request as it goes on: the same address and time limits, what the exchange made of the rest."""
    return library.Request(
        request.method, request.url, headers=encoded(sent.headers), content=sent.body, extensions=request.extensions
    )


async def _read(stream: Any) -> AsyncIterator[bytes]:
    try:
        async for part in stream:
            yield part
    finally:
        await stream.aclose()


@lru_cache(maxsize=4)
def _async_body(library: ModuleType) -> Any:
    """Return the class of a response's body, which each library wants to be its own."""

    class Body(library.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, parts: AsyncIterator[bytes]) -> None:
            self._parts = parts

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for part in self._parts:
                yield part

        async def aclose(self) -> None:
            await close(self._parts)

    return Body


@lru_cache(maxsize=4)
def _plain_body(library: ModuleType) -> Any:
    class Body(library.SyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, parts: AsyncIterator[bytes]) -> None:
            self._parts = parts

        def __iter__(self) -> Iterator[bytes]:
            while True:
                try:
                    part = sync.run(_next(self._parts))
                except StopAsyncIteration:
                    return
                yield part

        def close(self) -> None:
            sync.run(close(self._parts))

    return Body


async def _next(parts: AsyncIterator[T]) -> T:
    return await anext(parts)
