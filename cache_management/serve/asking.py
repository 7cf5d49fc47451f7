"""Asks the provider: one pool of connections, no cookies, no redirects, errors as answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import DefaultCookiePolicy

from cache_management.cache.redact import hide_passwords
from cache_management.gateway.bodies import encode
from cache_management.gateway.calls import Call, Headers, Reply, decoded, encoded, header, once
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.dialects.base import openai_error
from cache_management.serve.tenants import KEY_HEADERS

try:
    import httpx2
except ImportError as exc:
    raise ImportError("The proxy needs: pip install 'cache-management[serve]'") from exc

logger = logging.getLogger("cache_management")

_CONNECT_SECONDS = 10.0


class UpstreamGone(Exception):
    """The provider broke off in the middle of an answer."""


class Asking:
    """Sends requests on.

    Args:
        timeout_seconds: How long the provider may be silent.
        keys: By address of a provider: headers in the place of the caller's key.
    """

    def __init__(
        self, *, timeout_seconds: float, connections: int, keys: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        timeout = httpx2.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx2.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)
        # Else what the provider sets for one caller would be sent with the requests of all.
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._keys = dict(keys or {})
        self._away: set[str] = set()

    async def send(self, call: Call) -> Reply:
        """Return what the provider answers, or an error that says that it does not."""
        api = spoken(call.path, call.headers)
        try:
            request = self._client.build_request(
                call.method, call.base + call.path, headers=encoded(self._headers(call)), content=call.body or None
            )
            response = await self._client.send(request, stream=True)
        except httpx2.TimeoutException as exc:
            self._note_away(call.base, exc)
            return failure(api, "The provider did not answer in time.", status=504, code="upstream_timeout")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
            self._note_away(call.base, exc)
            return failure(api, "The provider cannot be reached.", status=502, code="upstream_unavailable")
        if call.base in self._away:
            self._away.discard(call.base)
            logger.warning("the provider at %s answers again", hide_passwords(call.base))
        return Reply(response.status_code, decoded(response.headers.raw), _Body(response))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _note_away(self, base: str, error: Exception) -> None:
        """Tell the operator, once until it answers again: every caller is told by its own answer."""
        if base not in self._away:
            self._away.add(base)
            logger.warning("the provider at %s does not answer: %s", hide_passwords(base), type(error).__name__)

    def _headers(self, call: Call) -> Headers:
        ours = self._keys.get(call.base)
        if ours is None:
            return call.headers
        return (*(pair for pair in call.headers if pair[0].lower() not in KEY_HEADERS), ours)


def is_anthropic(path: str, headers: Headers) -> bool:
    """Tell whether a request below `/v1` is for Anthropic's API."""
    return path.startswith("/messages") or header(headers, "anthropic-version") is not None


def spoken(path: str, headers: Headers) -> str:
    """Return a path in whose API an error is told: of a path that is not known here, that of its provider."""
    return "/messages" if is_anthropic(path, headers) else path


def failure(path: str, message: str, *, status: int, code: str, headers: Headers = ()) -> Reply:
    """Return an error of the proxy's own, in the words of the API that was asked."""
    dialect = dialect_of("POST", path)
    error = openai_error if dialect is None else dialect.error
    body = encode(error(message, status=status, param=None, code=code))
    told = (("content-type", "application/json"), ("content-length", str(len(body))), *headers)
    return Reply(status, told, once(body))


class _Body(AsyncIterator[bytes]):
    """The body of an answer. Unlike a generator it frees its connection also when nobody began to read it."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._parts = response.aiter_raw()

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._parts)
        except (httpx2.HTTPError, OSError) as exc:
            raise UpstreamGone(type(exc).__name__) from exc

    async def aclose(self) -> None:
        await self._response.aclose()
