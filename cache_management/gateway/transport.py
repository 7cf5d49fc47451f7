"""CachingTransport: a cache inside a client of httpx, and so inside the clients of OpenAI and Anthropic.

    client = openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=CachingTransport(manager)))

It serves `httpx2`, which those clients use now, and `httpx`, which older ones use: a request says which it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any, Self, TypeVar

import msgspec

from cache_management import sync
from cache_management.cache.manager import CacheManager
from cache_management.gateway.blocking import Transfers
from cache_management.gateway.calls import (
    BrokenStream,
    Call,
    Reply,
    Upstream,
    close,
    decoded,
    encoded,
    for_upstream,
    header,
    marked,
    without_hops,
)
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.exchange import Exchange
from cache_management.gateway.inner_transports import InnerTransports

logger = logging.getLogger("cache_management")

T = TypeVar("T")
_CLOSE_SECONDS = 5.0
_PORTS = {"http": 80, "https": 443}


class CachingTransport:
    """A transport of httpx that answers from a cache what it can, and asks another transport for the rest.

    Chat completions, responses, embeddings and messages are answered; any other request goes on untouched.

    Args:
        manager: A `CacheManager`, or that of `cache_management.sync`. An asynchronous client uses it on its own event
            loop, a plain one on the loop of `cache_management.sync`.
        transport: Asks the provider; by default what the client would use by itself, with the proxies of the
            environment. A given one serves its own kind of client only, plain or asynchronous.
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
        self._inner = InnerTransports(transport)
        self._transfers = Transfers()

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request of an asynchronous client."""
        library = _library_of(request)
        inner = self._inner.get(library, "asynchronous")
        if dialect_of(request.method, _path_of(request)) is None:
            return await inner.handle_async_request(request)
        call, caller = _call_of(request, await request.aread()), _Caller()

        async def upstream(sent: Call) -> Reply:
            caller.asks()
            response = await inner.handle_async_request(_request_of(library, request, sent))
            return Reply(response.status_code, decoded(response.headers.raw), _Stream(response.stream))

        reply = await self._in_time(call, upstream, caller, request)
        body = _async_body(library)(reply.body)
        return library.Response(reply.status, headers=encoded(reply.headers), stream=body)

    def handle_request(self, request: Any) -> Any:
        """Answer a request of a plain client."""
        library = _library_of(request)
        inner = self._inner.get(library, "plain")
        if dialect_of(request.method, _path_of(request)) is None:
            return inner.handle_request(request)
        call, caller = _call_of(request, request.read()), _Caller()

        async def upstream(sent: Call) -> Reply:
            caller.asks()
            return await self._transfers.ask(
                lambda: inner.handle_request(_request_of(library, request, sent)),
                is_left=lambda: caller.has_left,
                broken=library.ReadError("the client was closed"),
            )

        try:
            reply = sync.run(self._in_time(call, upstream, caller, request))
        except BaseException:
            caller.has_left = True
            raise
        body = _plain_body(library)(reply.body, caller)
        return library.Response(reply.status, headers=encoded(reply.headers), stream=body)

    async def aclose(self) -> None:
        """Wait a moment for what is being stored, and close the other transport; the manager is its maker's."""
        await self._exchange.aclose(wait_seconds=_CLOSE_SECONDS)
        await self._inner.aclose()

    def close(self) -> None:
        """As `aclose`, for a plain client; nothing is read any more of a stream that was left."""
        self._transfers.end(left_only=True)
        sync.run(self._exchange.aclose(wait_seconds=_CLOSE_SECONDS))
        self._transfers.end(left_only=False)
        self._inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def _in_time(self, call: Call, upstream: Upstream, caller: _Caller, request: Any) -> Reply:
        """Answer within the time that the client gives an answer to begin, also when somebody else asked for it."""
        seconds = (request.extensions.get("timeout") or {}).get("read")
        try:
            async with asyncio.timeout(seconds) as limit:
                caller.limit = limit
                return await self._answer(call, upstream, caller)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            message = "an answer that is under way does not come in time"
            raise _library_of(request).ReadTimeout(message, request=request) from exc
        finally:
            caller.limit = None  # it knows the answer, and would keep it as long as the thread that brings it

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


class _Caller:
    """How far one request of the application has come."""

    def __init__(self) -> None:
        self.has_asked = False
        self.has_left = False  # also with the whole answer
        self.limit: asyncio.Timeout | None = None

    def asks(self) -> None:
        """Note that the provider is asked for it: from now on the other transport counts its time."""
        self.has_asked = True
        if self.limit is not None:
            with contextlib.suppress(RuntimeError):  # it has left
                self.limit.reschedule(None)


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
        host=_other_host(request),
        headers=decoded(request.headers.raw),
        body=body,
    )


def _other_host(request: Any) -> str | None:
    """Return the host that the application names, unless it is that of the address."""
    given = header(decoded(request.headers.raw), "host")
    netloc = request.url.netloc.decode("ascii").lower()
    own = {netloc} if request.url.port is not None else {netloc, f"{netloc}:{_PORTS.get(request.url.scheme)}"}
    return None if given is None or given.lower() in own else given.lower()


def _request_of(library: ModuleType, request: Any, sent: Call) -> Any:
    """Return the request as it goes on: the same address and time limits, what the exchange made of the rest."""
    host = [pair for pair in request.headers.raw if pair[0].lower() == b"host"]
    return library.Request(
        request.method,
        request.url,
        headers=[*host, *encoded(sent.headers)],
        content=sent.body,
        extensions=request.extensions,
    )


class _Stream(AsyncIterator[bytes]):
    """The body of an answer. Unlike a generator it frees its connection also when nobody began to read it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts: AsyncIterator[bytes] = aiter(stream)

    async def __anext__(self) -> bytes:
        return await anext(self._parts)

    async def aclose(self) -> None:
        await self._stream.aclose()


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
        def __init__(self, parts: AsyncIterator[bytes], caller: _Caller) -> None:
            self._parts = parts
            self._caller = caller

        def __iter__(self) -> Iterator[bytes]:
            while True:
                try:
                    part = sync.run(_next(self._parts))
                except StopAsyncIteration:
                    return
                yield part

        def close(self) -> None:
            self._caller.has_left = True
            sync.run(close(self._parts))

    return Body


async def _next(parts: AsyncIterator[T]) -> T:
    return await anext(parts)
