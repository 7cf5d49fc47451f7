"""The application: the proxy below `/v1`, and what operators ask beside it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cache_management.cache.errors import CacheError, ConfigurationError
from cache_management.cache.readiness import HEALTH_PATH, READY_PATH, Routes, cache_routes
from cache_management.gateway.exchange import Exchange
from cache_management.metrics.families import as_text
from cache_management.serve.asking import Asking, failure
from cache_management.serve.document import document
from cache_management.serve.proxy import ROOT, Proxy, is_loopback
from cache_management.serve.tenants import Tenants, secret_of

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
except ImportError as exc:
    raise ImportError("The proxy needs: pip install 'cache-management[serve]'") from exc

if TYPE_CHECKING:
    from cache_management.cache.values import NearMiss
    from cache_management.metrics.collector import MetricsCollector
    from cache_management.settings import Settings
    from cache_management.wiring import Platform

logger = logging.getLogger("cache_management")

_FORWARDED = ("forwarded", "x-forwarded-", "x-real-ip", "via")
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Application:
    """The ASGI application of one process, for the settings of a platform.

    Answers are found exactly until the model is loaded, which is begun at the start and waited for by nobody.

    Args:
        metrics: What the platform tells its metrics to.
        by_meaning: Load the model, and serve answers by meaning too.
    """

    def __init__(self, platform: Platform, metrics: MetricsCollector, *, by_meaning: bool = True) -> None:
        settings = platform.settings
        given = settings.serve
        self._platform = platform
        self._metrics = metrics
        self._by_meaning = by_meaning
        self._exchange = Exchange(
            platform.entries,
            may_choose_namespace=given.allow_namespaces,
            answers_bad_bodies=True,
            limit_seconds=given.timeout_seconds,
            ignored_headers=given.ignored_headers,
        )
        # Those that go on without a caller need connections too.
        self._asking = Asking(
            timeout_seconds=given.timeout_seconds, connections=given.concurrency, keys=_keys(settings)
        )
        self.proxy = Proxy(
            self._exchange,
            self._asking,
            _tenants(settings),
            upstream=given.upstream,
            anthropic_upstream=given.anthropic_upstream,
            body_limit_bytes=given.body_limit,
            concurrency=given.concurrency,
            hosts=given.hosts if given.hosts or is_loopback(given.host) else None,
        )
        self._routes: Routes = {}
        self._pages: Routes = {}
        self._loading: asyncio.Task[None] | None = None
        routes = [
            Route(HEALTH_PATH, self._healthz),
            Route(READY_PATH, self._readyz),
            Route("/metrics", self._tell_metrics),
            Route("/openapi.json", self._openapi),
            Route(ROOT + "/{path:path}", self.proxy),
        ]
        self.asgi = Starlette(routes=routes, exception_handlers={HTTPException: _nothing_here}, lifespan=self._life)
        self.asgi.router.redirect_slashes = False  # `/v1` would be an answer without words

    async def wait_for_model(self) -> None:
        """Return once questions are also answered by meaning, if ever."""
        if self._loading is not None:
            await self._loading

    @asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        self._routes = cache_routes(self._platform.llm_cache, is_needed=False)
        if self._by_meaning:
            self._loading = asyncio.get_running_loop().create_task(self._load())
        try:
            yield
        finally:
            if self._loading is not None:
                self._loading.cancel()
                await asyncio.wait({self._loading})
            await self._exchange.aclose()
            await self._asking.aclose()
            await self._platform.aclose()

    async def _load(self) -> None:
        """Load the model; from then on answers are found by meaning, too."""
        try:
            manager = self._platform.manager
            matcher = manager.similarity_matcher
            if matcher is not None:
                await matcher.embedder.load()
        except (CacheError, ImportError) as exc:
            logger.warning("answers are found exactly only, not by meaning: %s", exc)
            return
        self._exchange.manager = manager

    async def _healthz(self, _: Request) -> Response:
        return await self._told(HEALTH_PATH)

    async def _readyz(self, _: Request) -> Response:
        if self.proxy.is_draining:
            body = b'{"status":"unavailable","parts":[],"reason":"this proxy is being stopped"}\n'
            return Response(body, 503, media_type="application/json", headers={"cache-control": "no-store"})
        return await self._told(READY_PATH)

    async def _told(self, path: str) -> Response:
        status, kind, body = await asyncio.to_thread(self._routes[path])
        return Response(body, status, media_type=kind, headers={"cache-control": "no-store"})

    def show(self, pages: Routes) -> None:
        """Show more by path, to callers on this machine alone: it may be about what others asked."""
        self._pages |= pages
        self.asgi.router.routes += [Route(path, self._page) for path in pages]

    def near_misses(self) -> list[NearMiss]:
        """Return what was near enough and refused lately, the newest first."""
        return self._exchange.manager.near_misses()

    async def _page(self, request: Request) -> Response:
        # By name as well: a page of somebody else's, in a browser here, may ask by a name that leads to this machine.
        # And not by way of another proxy on this machine, which asks for anybody.
        is_here = is_loopback(request.client.host if request.client else "") and is_loopback(request.url.hostname or "")
        if not is_here or any(name.startswith(_FORWARDED) for name in request.headers):
            return Response("only on this machine\n", 403, media_type="text/plain; charset=utf-8")
        status, kind, body = await asyncio.to_thread(self._pages[request.url.path])
        return Response(body, status, media_type=kind, headers={"cache-control": "no-store"})

    async def _tell_metrics(self, _: Request) -> Response:
        try:
            text = await asyncio.to_thread(as_text, self._metrics.families)
        except ImportError as exc:
            return Response(f"{exc}\n", 501, media_type="text/plain; charset=utf-8")
        return Response(text, media_type=_EXPOSITION, headers={"cache-control": "no-store"})

    async def _openapi(self, _: Request) -> Response:
        return Response(json.dumps(document()), media_type="application/json")


def _tenants(settings: Settings) -> Tenants:
    given = settings.serve
    ours = given.digest_key.get_secret_value().encode() if given.digest_key else secret_of(settings.data_dir)
    # With a key of the proxy's own, the provider cannot tell who is no customer.
    only_known = bool(given.tenants) and (given.upstream_key is not None or given.anthropic_key is not None)
    return Tenants(given.tenants, secret=ours, anonymous=settings.namespace, only_known=only_known)


def _keys(settings: Settings) -> dict[str, tuple[str, str]]:
    given = settings.serve
    if given.upstream == given.anthropic_upstream and given.upstream_key and given.anthropic_key:
        raise ConfigurationError(
            "serve.upstream and serve.anthropic_upstream are one address, which has two keys; give one of them"
        )
    found = {}
    if given.upstream_key is not None:
        found[given.upstream + ROOT] = ("authorization", f"Bearer {given.upstream_key.get_secret_value()}")
    if given.anthropic_key is not None:
        found[given.anthropic_upstream + ROOT] = ("x-api-key", given.anthropic_key.get_secret_value())
    return found


async def _nothing_here(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    message = f"There is nothing at {request.url.path[:80]}." if status == 404 else "This method is not known here."
    reply = failure(request.url.path, message, status=status, code="unknown_url")
    body = b"".join([part async for part in reply.body])
    given = exc.headers if isinstance(exc, HTTPException) else None
    return Response(body, status, media_type="application/json", headers=given)
