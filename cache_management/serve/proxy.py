"""The proxy as an ASGI application: reads a request within its limits, and sends what the exchange answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

import msgspec

from cache_management.gateway.calls import (
    OURS,
    BrokenStream,
    Call,
    Headers,
    Reply,
    close,
    decoded,
    encoded,
    header,
    marked,
    without_hops,
)
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.exchange import Exchange
from cache_management.serve.asking import Asking, UpstreamGone, failure, is_anthropic, spoken
from cache_management.serve.tenants import Tenants

logger = logging.getLogger("cache_management")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROOT = "/v1"
_BODY_SECONDS = 60.0
_TAKING_SECONDS = 120.0
_DISCARDED_BYTES = 200 * 10**6
_SEPARATORS = re.compile(r"[/\\]")
_DECODED_TIMES = 5
# TRACE is none: it may show the proxy's own key.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_NOT_THEIRS = frozenset({b"transfer-encoding", b"date", b"server"})
"""Headers of the provider's that are told by the server of this proxy, or of none but the provider's."""


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
        hosts: The names by which it is asked, beside `localhost` and addresses; None for any.
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
        hosts: Collection[str] | None = None,
    ) -> None:
        self._hosts = hosts
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
        path = spoken(str(scope["path"]).removeprefix(ROOT), decoded(scope["headers"]))
        has_begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

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
            await self._handle(scope, receive, sending)
        except _Refused as exc:
            headers = (*exc.headers, ("x-cache", "bypass"))
            await _send_reply(send, failure(path, str(exc), status=exc.status, code=exc.code, headers=headers))
        except _HungUp:
            pass
        except Exception as exc:
            if has_begun:
                raise  # the connection is closed within the body
            # Without its text, which may hold what was asked.
            logger.error("a request failed in the proxy: %s", type(exc).__name__)
            await _send_reply(send, failure(path, "The proxy failed.", status=500, code="proxy_error"))
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
        call = msgspec.structs.replace(call, body=body)
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
                reply = await self._asking.send(msgspec.structs.replace(call, headers=plain))
                reply = Reply(reply.status, marked(without_hops(reply.headers), "bypass"), reply.body)
            elif (form := (header(call.headers, "content-encoding") or "identity").strip().lower()) != "identity":
                raise _Refused(
                    f"A body with content-encoding {form[:40]!r} is not read here: send it uncompressed.",
                    status=415,
                    code="unsupported_content_encoding",
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
        if scope["method"] not in _METHODS:
            raise _Refused(
                f"The method {scope['method'][:20]} is not known here.",
                status=405,
                code="method_not_allowed",
                headers=(("allow", ", ".join(_METHODS)),),
            )
        path = path.partition("?")[0]
        if not path.startswith(ROOT + "/") or _climbs(path):
            raise _Refused(f"There is nothing at {path[:80]}.", status=404, code="unknown_url")
        headers = decoded(scope["headers"])
        host = _name_of(header(headers, "host") or "")
        if self._hosts is not None and not (is_address(host) or host == "localhost" or host in self._hosts):
            # A page in a browser on this machine may have a name that leads here.
            raise _Refused(
                f"This proxy does not answer to the name {host[:80]!r}: serve.hosts names those that it answers to.",
                status=403,
                code="unknown_host",
            )
        if header(headers, "transfer-encoding") and header(headers, "content-length"):
            # Two readers may take two lengths from it, and the rest for another request.
            raise _Refused("The length of the body is told twice.", status=400, code="invalid_headers")
        namespace = self._tenants.namespace(headers)
        if namespace is None:
            raise _Refused("Incorrect API key provided.", status=401, code="invalid_api_key")
        path = path.removeprefix(ROOT)
        call = Call(
            method=scope["method"],
            path=path + (f"?{query}" if query else ""),
            base=self._anthropic if is_anthropic(path, headers) else self._upstream,
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


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address, and no name."""
    with contextlib.suppress(ValueError):
        ip_address(host)
        return True
    return False


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address is this machine's own."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def _name_of(host: str) -> str:
    """Return a host header without its port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower()


def _climbs(path: str) -> bool:
    """Tell whether a path has a segment of dots, however often it is encoded: another server may decode it again."""
    for _ in range(_DECODED_TIMES):
        if not {".", ".."}.isdisjoint(_SEPARATORS.split(path)):
            return True
        plain = unquote(path)
        if plain == path:
            return False
        path = plain
    return True


async def _hangs_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_reply(send: Send, reply: Reply) -> None:
    headers = [(name.lower(), value) for name, value in encoded(reply.headers) if name.lower() not in _NOT_THEIRS]
    try:
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        async for part in reply.body:
            # One who takes nothing keeps a place from others.
            async with asyncio.timeout(_TAKING_SECONDS):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await close(reply.body)
