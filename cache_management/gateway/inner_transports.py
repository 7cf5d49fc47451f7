"""What asks the provider behind a `CachingTransport`: a given transport, or the usual one of a client's library."""

from __future__ import annotations

import threading
from http.cookiejar import DefaultCookiePolicy
from types import ModuleType
from typing import Any, Literal
from urllib.request import getproxies

from cache_management.cache.errors import InvalidInput

Kind = Literal["asynchronous", "plain"]
_HANDLES: dict[Kind, str] = {"asynchronous": "handle_async_request", "plain": "handle_request"}


class InnerTransports:
    """The given transport; without one, one for each library and kind of client, made at first use."""

    def __init__(self, given: Any = None) -> None:
        self._given = given
        self._made: dict[tuple[str, Kind], Any] = {}
        self._lock = threading.Lock()

    def get(self, library: ModuleType, kind: Kind) -> Any:
        """Return the transport for a client.

        Raises:
            InvalidInput: The given one serves the other kind only.
        """
        if self._given is not None:
            if not hasattr(self._given, _HANDLES[kind]):
                raise InvalidInput(
                    f"{type(self._given).__name__} cannot ask for a client that is {kind}; "
                    "give each kind of client a CachingTransport of its own, or give it no transport"
                )
            return self._given
        with self._lock:
            name = (library.__name__, kind)
            if name not in self._made:
                self._made[name] = _usual(library, kind)
            return self._made[name]

    def close(self) -> None:
        """Close those of plain clients."""
        for each in self._leaving("plain"):
            each.close()

    async def aclose(self) -> None:
        """Close those of asynchronous clients."""
        for each in self._leaving("asynchronous"):
            await each.aclose()

    def _leaving(self, kind: Kind) -> list[Any]:
        if self._given is not None:
            return [self._given] if hasattr(self._given, _HANDLES[kind]) else []
        # Forgotten: another client of the same CachingTransport may ask on, and a closed one would refuse.
        with self._lock:
            return [self._made.pop(name) for name in list(self._made) if name[1] == kind]


class ClientTransport:
    """A transport that sends by a whole client, with its proxies and limits; `options` are those of its `send`."""

    def __init__(self, client: Any, **options: Any) -> None:
        self._client = client
        self._options = options

    def handle_request(self, request: Any) -> Any:
        """Send a request."""
        return self._client.send(request, stream=True, **self._options)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class AsyncClientTransport:
    """As `ClientTransport`, by an asynchronous client."""

    def __init__(self, client: Any, **options: Any) -> None:
        self._client = client
        self._options = options

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request."""
        return await self._client.send(request, stream=True, **self._options)

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


def _usual(library: ModuleType, kind: Kind) -> Any:
    """Return what a client asks by when it is given no transport: the proxies of the environment, if there are any."""
    is_plain = kind == "plain"
    if not getproxies():
        return library.HTTPTransport() if is_plain else library.AsyncHTTPTransport()
    # Only a client reads them, a transport is told one proxy. Time limits come with each request.
    client = (library.Client if is_plain else library.AsyncClient)(timeout=None)
    # What the provider sets would be kept to no end: the client in front has its own.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # Signed by the client in front already; a user in the address would sign it once more.
    return (ClientTransport if is_plain else AsyncClientTransport)(client, auth=library.Auth())
