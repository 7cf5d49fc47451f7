"""Reads the metrics of queues and jobs from broker and database when somebody asks, and serves them.

Nothing is counted in a process: whichever die or begin anew, the numbers stay right, and totals never go
down, also when history is deleted. A source that is down or does not answer in time is left out and says so
by its `_up`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cache_management.cache.errors import CacheError, ConfigurationError
from cache_management.models.store import Stores, open_stores
from cache_management.models.store.census import Census
from cache_management.models.store.results import Mark
from cache_management.settings import Settings
from cache_management.workers.client import JobClient
from cache_management.workers.metrics import Family, job_families, queue_families
from cache_management.workers.queues import Waiting, read_queues

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

T = TypeVar("T")
Families = Callable[[], Iterable[Family]]

logger = logging.getLogger("cache_management.workers")

ANSWER_SECONDS = 4.0
"""How long a source may take: less than the ten seconds that Prometheus waits for all."""


class Exporter:
    """Asks the database and the broker, each at most once at a time.

    Close what is no longer needed.
    """

    def __init__(self, settings: Settings, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._stores: Stores = open_stores(settings.metadata_url)
        self._client = JobClient(settings, stores=self._stores)
        self._database = _Question(self._ask_database, "database", answer_seconds)
        self._broker = _Question(self._ask_broker, "broker", answer_seconds)

    def families(self) -> list[Family]:
        """Return what is to be told now; takes a few seconds at most, also when a source is down."""
        database, broker = self._database.ask(), self._broker.ask()
        census, marks = database() or (None, None)
        return [*job_families(census), *queue_families(broker(), marks)]

    def close(self) -> None:
        """Close connections."""
        self._client.close()
        self._stores.close()

    def _ask_database(self) -> tuple[Census, list[Mark]]:
        return self._stores.census.take(), self._stores.operations.marks()

    def _ask_broker(self) -> dict[str, Waiting]:
        return read_queues(self._client.celery)


class _Question(Generic[T]):
    """Asks on a thread of its own, which may be left behind; who comes meanwhile gets the same answer."""

    def __init__(self, work: Callable[[], T], whom: str, seconds: float) -> None:
        self._work, self._whom, self._seconds = work, whom, seconds
        self._lock = threading.Lock()
        self._under_way: Future[T] | None = None

    def ask(self) -> Callable[[], T | None]:
        """Begin; call what is returned for the answer, which is None when there is none in time."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = Future()
                threading.Thread(target=self._run, args=(self._under_way,), name="cache-metrics", daemon=True).start()
            asked = self._under_way

        def answer() -> T | None:
            try:
                return asked.result(timeout=self._seconds)
            except TimeoutError:
                logger.warning("the %s does not answer within %g s", self._whom, self._seconds)
            except CacheError as exc:
                logger.warning("the %s cannot be asked: %s", self._whom, exc)
            return None

        return answer

    def _run(self, asked: Future[T]) -> None:
        try:
            asked.set_result(self._work())
        except BaseException as exc:  # noqa: BLE001 - it belongs to whoever asked
            asked.set_exception(exc)


def as_text(families: Families) -> str:
    """Return families in the text format of Prometheus.

    Raises:
        ImportError: The extra is missing.
    """
    from prometheus_client import generate_latest

    return generate_latest(registry_of(families)).decode()


def registry_of(families: Families) -> CollectorRegistry:
    """Return a registry of its own, which asks whenever it is asked.

    Raises:
        ImportError: The extra is missing.
    """
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
        from prometheus_client.registry import Collector
    except ImportError as exc:
        raise ImportError("Metrics for Prometheus need: pip install 'cache-management[monitoring]'") from exc

    class Reading(Collector):
        def describe(self) -> list[Metric]:
            return []  # else the sources would be asked to register, and could refuse by being away

        def collect(self) -> Iterator[Metric]:
            for family in families():
                made = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
                metric = made(family.name, family.help, labels=family.labels)
                for labels, value in family.samples:
                    metric.add_metric(labels, value)
                yield metric

    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(Reading())
    return registry


def serve(families: Families, *, host: str, port: int, path: str) -> WSGIServer:
    """Make a server that answers scrapes on one path; call its `serve_forever`.

    Raises:
        ImportError: The extra is missing.
        ConfigurationError: Nothing can listen there.
    """
    registry = registry_of(families)
    from prometheus_client import make_wsgi_app
    from prometheus_client.exposition import ThreadingWSGIServer

    scrape = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != path:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"metrics are at {path}\n".encode()]
        answer: Iterable[bytes] = scrape(environ, start_response)
        return answer

    try:
        return make_server(host, port, app, ThreadingWSGIServer, handler_class=_Quiet)
    except OSError as exc:
        raise ConfigurationError(
            f"metrics cannot be served at {host}:{port}: {exc.strerror}; choose another port (--port, metrics.port)"
        ) from exc


class _Quiet(WSGIRequestHandler):
    """Answers without a line for each on standard error."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by its base
        logger.debug(format, *args)
