"""What happened, told to whoever listens: statistics, metrics, tests.

A listener is called inline, so it must be quick. `fan_out` makes sure that a
broken one harms nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

logger = logging.getLogger("cache_management")

HitKind = Literal["exact", "semantic"]
NodeChange = Literal["member", "out", "syncing", "given_up", "added", "removed", "data_loss_possible"]


class HitEvent(msgspec.Struct, frozen=True, gc=False):
    """An answer was served from the cache."""

    kind: HitKind
    namespace: str
    key: str
    tokens: int
    latency_ms: float


class MissEvent(msgspec.Struct, frozen=True, gc=False):
    """No answer could be served; `reason` is one of a closed list of words."""

    reason: str
    namespace: str
    key: str
    latency_ms: float


class StoreEvent(msgspec.Struct, frozen=True, gc=False):
    """An entry was stored."""

    namespace: str
    key: str
    size_bytes: int
    latency_ms: float


class RemoveEvent(msgspec.Struct, frozen=True, gc=False):
    """Records were removed; `reason` is "delete", "evicted" or "expired".

    With `of_entries` false they are vectors or other things that stand beside entries.
    """

    reason: Literal["delete", "evicted", "expired"]
    namespace: str
    count: int
    of_entries: bool = True


class CorruptEvent(msgspec.Struct, frozen=True, gc=False):
    """Stored bytes failed their check and were not served."""

    backend: str
    storage_key: str
    detail: str


class UnavailableEvent(msgspec.Struct, frozen=True, gc=False):
    """A store failed; the operation went on without it (or raised, when strict)."""

    backend: str
    operation: str
    reason: str


class RefusedEvent(msgspec.Struct, frozen=True, gc=False):
    """A computed answer was given to the caller and not stored; `reason` is one of a closed list."""

    reason: str
    namespace: str


class ComputeEvent(msgspec.Struct, frozen=True, gc=False):
    """An answer was computed; `background` when nobody waited for it."""

    namespace: str
    key: str
    seconds: float
    background: bool


class StaleEvent(msgspec.Struct, frozen=True, gc=False):
    """An answer past its time was served: while it is computed again, or because computing failed."""

    reason: Literal["revalidate", "error"]
    namespace: str
    key: str


class VetoEvent(msgspec.Struct, frozen=True, gc=False):
    """A gate refused a candidate that was close enough to be served."""

    gate: str
    namespace: str


class JudgedEvent(msgspec.Struct, frozen=True, gc=False):
    """A stored answer was compared with a fresh one, or somebody judged it: evidence of verified mode."""

    source: str
    verdict: str
    namespace: str


StepsWhat = Literal["reused", "submitted", "stored", "pruned", "samples_stored", "samples_fresh"]


class StepsEvent(msgspec.Struct, frozen=True, gc=False):
    """What became of single reasoning steps, or of samples of them.

    `tokens` and `cost_micro` (micro-dollars) are what was told when they were stored: saved, where they are reused.
    """

    what: StepsWhat
    namespace: str
    count: int
    tokens: int = 0
    cost_micro: int = 0


class NodeEvent(msgspec.Struct, frozen=True, gc=False):
    """A node of a replicated cache changed its standing, or something befell the whole of it.

    "member": it counts; "out": it counts no more until it was brought up to date; "syncing": that began;
    "given_up": it was away too long and comes back empty; "added", "removed"; "data_loss_possible": so many nodes
    lost what they held that nobody can tell whether all that was acknowledged is still there.
    """

    node: str
    what: NodeChange
    detail: str


Event = (
    HitEvent
    | MissEvent
    | StoreEvent
    | RemoveEvent
    | CorruptEvent
    | UnavailableEvent
    | RefusedEvent
    | ComputeEvent
    | StaleEvent
    | VetoEvent
    | JudgedEvent
    | StepsEvent
    | NodeEvent
)
Listener = Callable[[Event], None]


class Listening(Protocol):
    """What hears the events of all caches, and tells those of reasoning from those of answers."""

    def __call__(self, event: Event) -> None:
        """Hear of an event of answers."""

    def of_reasoning(self, event: Event) -> None:
        """Hear of an event of reasoning."""


def ignore(event: Event) -> None:
    """Listen to nothing."""


def fan_out(listeners: Sequence[Listener]) -> Listener:
    """Join listeners; one that raises is logged and the others still hear the event."""

    def tell_all(event: Event) -> None:
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a cache listener failed on %s", type(event).__name__)

    return tell_all
