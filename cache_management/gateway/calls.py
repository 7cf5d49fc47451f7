"""Requests and replies as the exchange sees them: plain values, of no HTTP library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import msgspec

from cache_management.cache.errors import InvalidInput

Headers = tuple[tuple[str, str], ...]

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"),
        *("te", "trailer", "trailers", "transfer-encoding", "upgrade"),
    }
)
OURS = ("x-cache", "x-litellm-cache")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request.

    `base` is the address in front of the path that a dialect knows, without a "/" at its end. `host` is what the caller
    names in the place of that address's own host; another host at one address may be another provider.
    """

    method: str
    path: str
    base: str = ""
    host: str | None = None
    headers: Headers = ()
    body: bytes = b""


class Reply(msgspec.Struct, frozen=True):
    """One HTTP response; `body` is read once, and closed by whoever reads it."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


Upstream = Callable[[Call], Awaitable[Reply]]
"""Sends a request to the provider; raises what its HTTP library raises."""


class BadRequest(InvalidInput):
    """A request cannot be read. `param` and `code` are those of an error of OpenAI's API."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = "invalid_request_body", status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class NotUnderstood(Exception):
    """An answer of the provider is none that can be kept, though it may be a good one."""


class AsItCame(Exception):
    """An answer that is nobody's to keep; whoever waits for it gets it as it is."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status, self.headers, self.body = status, headers, body


class UpstreamFailed(Exception):
    """The provider could not be asked, or broke off."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


class BrokenStream(Exception):
    """A stream ended before its time, or with what cannot be put together."""


def decoded(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return headers as text of Latin-1, in which each byte is a character: whatever they are in, none is lost."""
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)


def encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the bytes of headers, see `decoded`; a library of HTTP would take text for ASCII."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def header(headers: Headers, name: str) -> str | None:
    """Return the values of a header, joined by commas; None where there is none."""
    found = [value for given, value in headers if given.lower() == name]
    return ", ".join(found) if found else None


def without_hops(headers: Iterable[tuple[str, str]], *also: str) -> Headers:
    """Leave out what concerns one connection only, and the names in `also`."""
    given = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in given if name == "connection" for part in value.split(",")}
    gone = _HOP_BY_HOP | named | set(also)
    return tuple((name, value) for name, value in given if name not in gone)


def for_upstream(headers: Headers) -> Headers:
    """Return the headers of a request as the provider gets them: without what is meant for the cache."""
    kept = without_hops(headers, "host", "content-length", "accept-encoding")
    plain = tuple((name, value) for name, value in kept if not name.startswith(OURS))
    # What is compressed cannot be read on its way.
    return (*plain, ("accept-encoding", "identity"))


def marked(headers: Headers, label: str, key: str | None = None) -> Headers:
    """Return the headers of an answer with where it came from."""
    kept = tuple((name, value) for name, value in headers if not name.startswith("x-cache"))
    return (*kept, ("x-cache", label), *((("x-cache-key", key),) if key else ()))


def whole(status: int, headers: Headers, body: bytes) -> Reply:
    """Return a reply whose body is there already."""
    return Reply(status, (*headers, ("content-length", str(len(body)))), once(body))


def encoded_whole(status: int, headers: Headers, body: object) -> Reply:
    """Return a reply of JSON."""
    return whole(status, headers, msgspec.json.encode(body))


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Yield a body that is there already."""
    if data:
        yield data


async def close(body: AsyncIterator[bytes]) -> None:
    """Close what is not read to its end."""
    closing = getattr(body, "aclose", None)
    if closing is not None:
        await closing()


async def read_all(body: AsyncIterator[bytes], limit_bytes: int) -> bytes:
    """Read a body to its end.

    Raises:
        NotUnderstood: It is longer than the limit.
    """
    parts: list[bytes] = []
    size = 0
    async for part in body:
        size += len(part)
        if size > limit_bytes:
            raise NotUnderstood(f"an answer of more than {limit_bytes} bytes")
        parts.append(part)
    return b"".join(parts)
