"""The proxy as an ASGI application: reads a request within its limits, and sends what the exchange answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cache_management.gateway.calls import OURS, BrokenStream, Call, Headers, Reply, close, header, without_hops
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.exchange import Exchange
from cache_management.serve.asking import Asking, UpstreamGone, failure
from cache_management.serve.tenants import Tenants

logger = logging.getLogger("cache_management")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROOT = "/v1"
_BODY_SECONDS = 60.0
_TAKING_SECONDS = 120.0
_DISCARDED_BYTES = 200 * 10**6
_DOTS = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


class _Refused(Exception):
    """A request that goes nowhere, with what is said of it."""

    def __init__(self, message: str, *, status: int, code: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class _HungUp(Exception):
    """The caller has left."""


class Proxy:
    """Answers everything below `/v1`.

    Args:
        upstream: Address of the provider, without `/v1`.
        anthropic_upstream: That of Anthropic's API: for `/v1/messages` and requests with `anthropic-version`.
        body_limit_bytes: The largest body that is read.
        concurrency: How many requests may be under way, those whose callers have left included.
    """

    def __init__(
        self,
        exchange: Exchange,
        asking: Asking,
        tenants: Tenants,
        *,
        upstream: str,
        anthropic_upstream: str,
        body_limit_bytes: int,
        concurrency: int,
    ) -> None:
        self._exchange = exchange
        self._asking = asking
        self._tenants = tenants
        self._upstream = upstream + ROOT
        self._anthropic = anthropic_upstream + ROOT
        self._body_limit = body_limit_bytes
        self._concurrency = concurrency
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        busy = max(self._under_way, self._exchange.under_way) >= self._concurrency
        self._under_way += 1
        self._idle.clear()
        try:
            if self.is_draining:
                raise _Refused(
                    "This proxy is being stopped.",
                    status=503,
                    code="shutting_down",
                    headers=(("connection", "close"), ("retry-after", "1")),
                )
            if busy:
                raise _Refused(
                    "Too many requests are under way.",
                    status=429,
                    code="too_many_requests",
                    headers=(("retry-after", "1"),),
                )
            await self._handle(scope, receive, send)
        except _Refused as exc:
            headers = (*exc.headers, ("x-cache", "bypass"))
            await _send_reply(send, failure(path, str(exc), status=exc.status, code=exc.code, headers=headers))
        except _HungUp:
            pass
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Take no new requests, and wait for those under way, but not for longer than `seconds`."""
        self.is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        call, namespace = self._call_of(scope)
        body = await self._body(call, receive)
        call = Call(method=call.method, path=call.path, base=call.base, headers=call.headers, body=body)
        working = asyncio.get_running_loop().create_task(self._answer(call, namespace, send))
        leaving = asyncio.get_running_loop().create_task(_hangs_up(receive))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # What is computed for others goes on: the exchange has a task of its own for it.
            working.cancel()
            leaving.cancel()
            await asyncio.wait({working, leaving})
        if not working.cancelled():
            working.result()

    async def _answer(self, call: Call, namespace: str, send: Send) -> None:
        try:
            if dialect_of(call.method, call.path) is None:
                kept = without_hops(call.headers, "host", "content-length")
                plain = tuple(pair for pair in kept if not pair[0].startswith(OURS))
                reply = await self._asking.send(
                    Call(method=call.method, path=call.path, base=call.base, headers=plain, body=call.body)
                )
            else:
                reply = await self._exchange.send(call, self._asking.send, namespace=namespace)
        except TimeoutError:
            raise _Refused("The provider did not answer in time.", status=504, code="upstream_timeout") from None
        except (UpstreamGone, BrokenStream):
            raise _Refused("The provider broke off its answer.", status=502, code="upstream_broke_off") from None
        try:
            await _send_reply(send, reply)
        except (UpstreamGone, TimeoutError) as exc:
            # Too late to say so: the connection is closed within the body, which tells the caller that it is not whole.
            logger.warning("an answer broke off: %s", exc)

    def _call_of(self, scope: Scope) -> tuple[Call, str]:
        """Return the request without its body, and whose entries it sees.

        Raises:
            _Refused: It is not to be sent on.
        """
        try:
            path = scope["raw_path"].decode("ascii") if scope.get("raw_path") else str(scope["path"])
            query = scope["query_string"].decode("ascii")
        except UnicodeDecodeError:
            raise _Refused("The address is not ASCII.", status=400, code="invalid_url") from None
        path = path.partition("?")[0]
        if not path.startswith(ROOT + "/") or _DOTS.search(path):
            raise _Refused(f"There is nothing at {path[:80]}.", status=404, code="unknown_url")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        if header(headers, "transfer-encoding") and header(headers, "content-length"):
            # Two readers may take two lengths from it, and the rest for another request.
            raise _Refused("The length of the body is told twice.", status=400, code="invalid_headers")
        namespace = self._tenants.namespace(headers)
        if namespace is None:
            raise _Refused("Incorrect API key provided.", status=401, code="invalid_api_key")
        is_anthropic = path.startswith(ROOT + "/messages") or header(headers, "anthropic-version") is not None
        call = Call(
            method=scope["method"],
            path=path.removeprefix(ROOT) + (f"?{query}" if query else ""),
            base=self._anthropic if is_anthropic else self._upstream,
            headers=headers,
        )
        return call, namespace

    async def _body(self, call: Call, receive: Receive) -> bytes:
        """Read the body.

        Raises:
            _Refused: It is too large, or takes too long.
            _HungUp: The caller has left.
        """
        told = header(call.headers, "content-length") or "0"
        too_large = told.isascii() and told.isdigit() and int(told[:20]) > self._body_limit
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _HungUp
                    part = message.get("body", b"")
                    more = message.get("more_body", False)
                    size += len(part)
                    too_large = too_large or size > self._body_limit
                    # Read on and thrown away, for a while: one who is still sending does not see an answer.
                    if too_large:
                        parts.clear()
                        more = more and size < _DISCARDED_BYTES
                    else:
                        parts.append(part)
        except TimeoutError:
            raise _Refused("The body did not come in time.", status=408, code="request_timeout") from None
        if too_large:
            raise _Refused(f"The body is larger than {self._body_limit:,} bytes.", status=413, code="request_too_large")
        return b"".join(parts)


async def _hangs_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_reply(send: Send, reply: Reply) -> None:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in reply.headers
        if name.lower() != "transfer-encoding"
    ]
    try:
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        async for part in reply.body:
            # One who takes nothing keeps a place from others.
            async with asyncio.timeout(_TAKING_SECONDS):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await close(reply.body)
