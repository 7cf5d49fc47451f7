from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache_management.metrics.collector import MetricsCollector
from cache_management.serve.app import Application
from cache_management.serve.running import Server, listening
from cache_management.settings import Settings
from cache_management.wiring import open_platform
from tests.gateway.conftest import upstream as upstream  # noqa: PLC0414 - a fixture is passed on
from tests.gateway.conftest import upstream_server as upstream_server  # noqa: PLC0414
from tests.gateway.upstream import LocalUpstream


class RunningProxy:
    """A proxy on a loopback port, in a thread."""

    def __init__(self, settings: Settings, *, by_meaning: bool) -> None:
        self._socket = listening("127.0.0.1", 0)
        self.root = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = self.root + "/v1"
        self._ready = threading.Event()
        self._settings, self._by_meaning = settings, by_meaning
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        metrics = MetricsCollector()
        platform = open_platform(self._settings, metrics=metrics)
        self.application = Application(platform, metrics, by_meaning=self._by_meaning)
        self.server = Server(self.application, drain_seconds=self._settings.serve.drain_seconds)
        self.loop = asyncio.get_running_loop()
        self._ready.set()
        await self.server.serve(sockets=[self._socket])

    def tell_to_stop(self) -> None:
        """Do what SIGTERM does."""
        self.loop.call_soon_threadsafe(self.server.handle_exit, 15, None)

    def wait(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(setattr, self.server, "force_exit", True)
            self.server.should_exit = True
            self.wait()
        self._socket.close()


MakeProxy = Callable[..., RunningProxy]


@pytest.fixture
def make_proxy(upstream: LocalUpstream, tmp_path: Path) -> Iterator[MakeProxy]:
    """A function that starts a proxy in front of the provider; takes the settings below `serve`."""
    made: list[RunningProxy] = []

    def make(*, by_meaning: bool = False, url: str = "memory://", **serve: Any) -> RunningProxy:
        address = upstream.url.removesuffix("/v1")
        given = {"upstream": address, "anthropic_upstream": address, **serve}
        settings = Settings(
            url=url, data_dir=tmp_path, embedding_model="hashing", similarity_threshold=0.6, serve=given
        )
        made.append(RunningProxy(settings, by_meaning=by_meaning))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def proxy(make_proxy: MakeProxy) -> RunningProxy:
    return make_proxy()
