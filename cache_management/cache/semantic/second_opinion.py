"""What somebody else says about the best candidate, where the similarity leaves room for doubt."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from cache_management.cache.events import Listener, VetoEvent
from cache_management.cache.on_thread import on_thread, yes_or_no
from cache_management.cache.semantic.decision import decide

if TYPE_CHECKING:
    from cache_management.cache.semantic.matcher import Candidate

logger = logging.getLogger("cache_management")

Opinion = Callable[[str, str], bool | Awaitable[bool | None] | None]
"""Takes what is asked and what was asked then; returns whether one answer serves both, None when it cannot tell.

May be async; a plain function runs on a thread.
"""

SECOND_OPINION = "second_opinion"
"""The veto of a candidate that the opinion refused."""
GATE_ERROR = "gate_error"
"""The veto where no opinion came: it failed, or was late."""

_MOST_UNDER_WAY = 32


class SecondOpinion:
    """Asks about the candidate that would be served. It can only refuse, never serve what a gate refused.

    Args:
        ask: A function of the application, or a `CrossEncoderOpinion`.
        sure_from: Cosine similarity from which nobody is asked.
        timeout_seconds: An opinion that takes longer refuses.
    """

    def __init__(
        self, ask: Opinion, *, sure_from: float, timeout_seconds: float, namespace: str, listener: Listener
    ) -> None:
        self._ask = ask
        self._sure_from = sure_from
        self._timeout_seconds = timeout_seconds
        self._namespace = namespace
        self._listener = listener
        self._warned = False
        self._free = threading.BoundedSemaphore(_MOST_UNDER_WAY)

    async def weigh(self, asked: str, candidates: Sequence[Candidate], threshold: float) -> list[Candidate]:
        """Return the candidates, with a veto on the one that would be served and on those behind it, if it is refused.

        What is less alike than a refused one is not served in its place.
        """
        found = list(candidates)
        at, _ = decide([each.match for each in found], threshold)
        if at is None or found[at].match.score >= self._sure_from:
            return found
        veto = await self._veto(asked, found[at].match.prompt)
        if veto is None:
            return found
        self._listener(VetoEvent(veto, self._namespace))
        return [*found[:at], *(each if each.match.vetoes else _refused(each, veto) for each in found[at:])]

    async def _veto(self, asked: str, stored: str) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                said = yes_or_no(await self._said(asked, stored))
        except Exception as exc:  # noqa: BLE001 - the application's errors: what cannot be weighed is not served
            if not self._warned:
                self._warned = True
                logger.warning("no second opinion, so the answer is not served: %s: %s", type(exc).__name__, exc)
            return GATE_ERROR
        return SECOND_OPINION if said is False else None

    async def _said(self, asked: str, stored: str) -> bool | None:
        is_async = inspect.iscoroutinefunction(self._ask) or inspect.iscoroutinefunction(type(self._ask).__call__)
        if is_async:
            found = self._ask(asked, stored)
        else:
            found = await self._on_thread(asked, stored)
        return await found if inspect.isawaitable(found) else found

    async def _on_thread(self, asked: str, stored: str) -> bool | Awaitable[bool | None] | None:
        """Ask a plain function; one that never ends costs a thread, and there are only so many of those."""
        if not self._free.acquire(blocking=False):
            raise TimeoutError(f"{_MOST_UNDER_WAY} opinions are still under way")

        def ask() -> bool | Awaitable[bool | None] | None:
            try:
                return self._ask(asked, stored)
            finally:
                self._free.release()

        return await on_thread(ask, name="cache-opinion")


def _refused(candidate: Candidate, veto: str) -> Candidate:
    match = msgspec.structs.replace(candidate.match, vetoes=(veto,))
    return msgspec.structs.replace(candidate, match=match)
