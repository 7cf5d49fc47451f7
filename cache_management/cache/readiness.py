"""Whether something can do its work, as answers of an HTTP endpoint; what is asked is for others to say.

/healthz    200 while the process can answer at all: restart what does not
/readyz     200 when every part that is needed answers, else 503: send no work there. The body says why
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from cache_management.cache.findings import Finding, reason_of
from cache_management.cache.question import Question

if TYPE_CHECKING:
    from cache_management.cache.backends.base import Backend
    from cache_management.cache.llm import LLMCache
    from cache_management.cache.manager import CacheManager

Answer = tuple[int, str, bytes]
"""Status, content type and body."""
Routes = dict[str, Callable[[], Answer]]

HEALTH_PATH, READY_PATH = "/healthz", "/readyz"
_JSON = "application/json"


class Health(msgspec.Struct, frozen=True):
    """Whether every part that is needed answers; a finding for each part, with the way out where one does not."""

    ready: bool
    findings: tuple[Finding, ...]


def health_of(findings: tuple[Finding, ...]) -> Health:
    """Return whether one can work with what was found: what only warns is no reason to send nobody."""
    return Health(all(each.level != "fail" for each in findings), findings)


def alive() -> Answer:
    """Answer `/healthz`."""
    return 200, _JSON, b'{"status":"ok"}\n'


def rendered(health: Health) -> Answer:
    """Answer `/readyz`."""
    told = {"status": "ok" if health.ready else "unavailable", "parts": health.findings}
    return 200 if health.ready else 503, _JSON, msgspec.json.encode(told) + b"\n"


def routes_for(look: Callable[[], Health]) -> Routes:
    """Return both answers by path."""
    return {HEALTH_PATH: alive, READY_PATH: lambda: rendered(look())}


def ask_all(
    questions: Mapping[str, Question[tuple[Finding, ...]]], judge: Callable[[str, str], Finding]
) -> tuple[Finding, ...]:
    """Ask all at the same time, and return what they found, or what `judge` says of a part and why it failed."""
    asked = {name: question.begin() for name, question in questions.items()}
    found: list[Finding] = []
    for name, answer in asked.items():
        try:
            found += answer()
        except TimeoutError:
            found.append(judge(name, "no answer in time"))
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with a part is what is looked for
            found.append(judge(name, reason_of(exc)))
    return tuple(found)


def cache_routes(
    cache: LLMCache | CacheManager,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    seconds: float = 2.0,
    is_needed: bool = True,
) -> Routes:
    """Return both answers for a cache of one's own: it is ready when its store answers.

    The store is asked on the cache's own event loop, so that one which stands still is not ready either. Call what is
    returned on any other thread, as HTTP servers do: on the loop's own it would wait for itself until the time is over.

    Args:
        loop: Where the cache is used; the running one unless given.
        seconds: How long the store, and the loop, may take.
        is_needed: False for what can do its work without the store, such as a proxy: it is told, and no reason to
            send nobody.
    """
    at = asyncio.get_running_loop() if loop is None else loop
    holder: Any = getattr(cache, "llm_cache", cache)
    backend: Backend = holder.backend

    def ask() -> tuple[Finding, ...]:
        pinging = backend.ping()
        try:
            asyncio.run_coroutine_threadsafe(pinging, at).result()
        except RuntimeError:  # the loop was closed, and nobody will await it
            pinging.close()
            raise
        return (Finding("cache store", "ok", f"the {backend.name} store answers"),)

    def judge(name: str, reason: str) -> Finding:
        return Finding(
            name,
            "fail" if is_needed else "warn",
            f"the {backend.name} store: {reason}",
            "every lookup is a miss, and nothing is stored; answers are computed",
            "run `cache-cli doctor`; docs/runbook.md has a chapter CacheStoreDown",
        )

    questions = {"cache store": Question(ask, "cache store", seconds, keep_seconds=1.0)}
    return routes_for(lambda: health_of(ask_all(questions, judge)))
