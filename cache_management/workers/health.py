"""Whether workers and commands of these settings could work now: asked often, by load balancers and supervisors.

Store, broker and database are asked at the same time; who asks while that is under way, or within a second after it,
gets the same answer. What is wrong beyond that, `cache-cli doctor` finds.
"""

from __future__ import annotations

import asyncio
from typing import cast

from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.standing import look_over
from cache_management.cache.errors import MetadataUnavailable
from cache_management.cache.findings import Finding
from cache_management.cache.question import Question
from cache_management.cache.readiness import Health, Routes, ask_all, health_of, routes_for
from cache_management.models.store import Stores, open_stores
from cache_management.settings import Settings
from cache_management.wiring import open_platform
from cache_management.workers.client import JobClient
from cache_management.workers.doctor import about, check_nodes, unreached
from cache_management.workers.doctor.reaching import Part
from cache_management.workers.queues import reaching
from cache_management.workers.store_watch import is_unmade

ANSWER_SECONDS = 4.0
"""How long all parts may take together; probes usually wait for longer."""
KEEP_SECONDS = 1.0


class Readiness:
    """Asks whether the parts of a set-up answer, each at most once at a time. Close what is no longer needed."""

    def __init__(self, settings: Settings, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._settings = settings
        self._seconds = answer_seconds
        self._stores: Stores = open_stores(settings.metadata_url)
        self._client = JobClient(settings, stores=self._stores)
        asked = {"cache store": self._ask_store, "metadata": self._ask_metadata}
        if settings.broker_url:
            asked["broker"] = self._ask_broker
        self._questions = {
            name: Question(ask, name, answer_seconds, keep_seconds=KEEP_SECONDS) for name, ask in asked.items()
        }

    def look(self) -> Health:
        """Return how the parts stand; safe to be called by many threads."""
        return health_of(ask_all(self._questions, self._judge))

    def close(self) -> None:
        """Close connections."""
        self._client.close()
        self._stores.close()

    def _judge(self, name: str, reason: str) -> Finding:
        return unreached(cast("Part", name), reason, on_nodes=self._settings.distributed.enabled)

    def _ask_store(self) -> tuple[Finding, ...]:
        return asyncio.run(_ask_store(self._settings, self._seconds / 2))

    def _ask_broker(self) -> tuple[Finding, ...]:
        with reaching(self._client.celery) as channel:
            client = getattr(channel, "client", None)
            if client is not None:
                client.ping()
        return (Finding("broker", "ok", f"the broker at {self._client.broker_shown} answers"),)

    def _ask_metadata(self) -> tuple[Finding, ...]:
        database = self._stores.database
        if self._stores.is_unmade and not self._settings.broker_url:
            return (Finding("metadata", "ok", f"{database.shown} is not there yet; who needs it makes it"),)
        try:
            self._stores.check()
        except MetadataUnavailable as exc:
            return (unreached("metadata", str(exc)),)
        return (Finding("metadata", "ok", f"{database.shown} answers, and has this version's tables"),)


def readiness(settings: Settings) -> Health:
    """Ask once whether store, broker (where there is one) and database answer; takes a few seconds at most."""
    asking = Readiness(settings)
    try:
        return asking.look()
    finally:
        asking.close()


def routes(settings: Settings) -> Routes:
    """Return the answers to `/healthz` and `/readyz` by path; nothing is asked before the first call."""
    return routes_for(Readiness(settings).look)


async def _ask_store(settings: Settings, seconds: float) -> tuple[Finding, ...]:
    shown = about(settings).store
    if is_unmade(settings):
        return (Finding("cache store", "ok", f"{shown} is made at first use"),)
    # A node that stands still is waited for several times, one after the other.
    each = seconds / 6 if settings.distributed.enabled else seconds
    platform = open_platform(settings.model_copy(update={"strict": True, "timeout_seconds": each}))
    try:
        if settings.distributed.enabled:
            return await _ask_nodes(platform.replicated.backend.membership, settings.distributed.consistency)
        await platform.llm_cache.backend.ping()
    finally:
        await platform.aclose()
    return (Finding("cache store", "ok", f"{shown} answers"),)


async def _ask_nodes(membership: Membership, consistency: str) -> tuple[Finding, ...]:
    """Look at the nodes without making a cluster of them, as a first use would."""
    found = check_nodes(await look_over(membership), differing=0, consistency=consistency, broker=None)
    # How each is set up is for `doctor`: it hinders nobody now.
    return tuple(each for each in found if each.check == "nodes" or each.check.startswith("node "))
