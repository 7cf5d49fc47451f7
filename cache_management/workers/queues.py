"""What waits in the broker, and who takes it: for `cache-cli queues`, `doctor`, the metrics and the reconciler."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any

import msgspec

from cache_management.cache.errors import BrokerUnavailable
from cache_management.models.store.results import Mark
from cache_management.workers.messages import QUEUES

SILENT_SECONDS = 60.0
"""A queue whose workers took nothing for so long while something waited is stuck."""

_FORGOTTEN_SECONDS = 300.0
_LOOKED_AT = 20
_UNACKED_LOOKED_AT = 20_000


class Waiting(msgspec.Struct, frozen=True):
    """What the broker holds of one queue.

    `depth` messages wait, of all priorities; `oldest_sent_at` is when the one was sent that waits longest, by its
    sender's clock, None when nothing waits or nobody wrote it down. `unacked` were delivered and are not done: at
    work, prefetched, or held back for later.
    """

    depth: int = 0
    oldest_sent_at: datetime | None = None
    unacked: int = 0


class QueueView(msgspec.Struct, frozen=True):
    """One queue as a person sees it.

    `workers` took something from it in the last five minutes, the last one `mark_age_seconds` ago. `stuck`:
    something waits, and nobody took anything for a minute.
    """

    queue: str
    depth: int
    oldest_seconds: float | None
    unacked: int
    workers: int
    mark_age_seconds: float | None
    stuck: bool


def read_queues(app: Any, *, queues: Sequence[str] = QUEUES) -> dict[str, Waiting]:
    """Ask the broker of a Celery app what waits in each queue; one round trip and a look at what is unacknowledged.

    Raises:
        BrokerUnavailable: It does not answer.
    """
    with reaching(app) as channel:
        if getattr(channel, "client", None) is None:
            return {queue: Waiting(depth=depth_of(channel, queue)) for queue in queues}
        return _read_redis(channel, queues)


def oldest_waiting(app: Any, *, queues: Sequence[str] = QUEUES) -> dict[str, datetime]:
    """Return, by queue, when the message that waits longest was sent; queues without one are left out.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    waiting = read_queues(app, queues=queues)
    return {queue: each.oldest_sent_at for queue, each in waiting.items() if each.oldest_sent_at is not None}


def view_queues(waiting: Mapping[str, Waiting], marks: Sequence[Mark] | None, *, now: datetime) -> list[QueueView]:
    """Put what the broker holds beside what workers took, of every queue that was read.

    Args:
        marks: Those of `OperationsStore.marks`; None when they cannot be had, and then no queue is called stuck.
        now: By the clock that `sent_at` was written with, as near as it can be had.
    """
    views = []
    for queue, each in waiting.items():
        ages = [mark.age_seconds for mark in marks or () if mark.queue == queue]
        mark_age = min(ages, default=None)
        sent = each.oldest_sent_at
        oldest = None if sent is None else max(0.0, (now - sent).total_seconds())
        views.append(
            QueueView(
                queue=queue,
                depth=each.depth,
                oldest_seconds=oldest,
                unacked=each.unacked,
                workers=sum(age <= _FORGOTTEN_SECONDS for age in ages),
                mark_age_seconds=mark_age,
                stuck=marks is not None and each.depth > 0 and _is_late(mark_age, oldest),
            )
        )
    return views


def _is_late(mark_age: float | None, oldest: float | None) -> bool:
    """Tell whether what waits has waited for a minute, and no worker took anything meanwhile."""
    if oldest is not None and oldest <= SILENT_SECONDS:
        return False  # it has only just come: the worker may be asleep between two heartbeats
    return mark_age is None or mark_age > SILENT_SECONDS


@contextmanager
def reaching(app: Any) -> Iterator[Any]:
    """Open a channel to the broker of a Celery app, and translate what goes wrong with it.

    Raises:
        BrokerUnavailable: It does not answer.
    """
    from kombu.exceptions import OperationalError

    with app.connection_for_read() as connection:
        shown = connection.as_uri()
        try:
            yield connection.default_channel
        except (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors) as exc:
            reason = str(exc) or type(exc).__name__
            raise BrokerUnavailable(
                f"the broker at {shown} does not answer: {reason}; start it, or run `cache-cli up`"
            ) from exc


def depth_of(channel: Any, queue: str) -> int:
    """Count what waits in a queue, of any kind of broker; 0 where there is no such queue, or an empty one on Redis."""
    from kombu.exceptions import ChannelError

    try:
        return int(channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:
        return 0


def _read_redis(channel: Any, queues: Sequence[str]) -> dict[str, Waiting]:
    # A list for each step of priority; what was sent first stands at its right end.
    lists = {queue: [channel._q_for_pri(queue, step) for step in channel.priority_steps] for queue in queues}
    with channel.client.pipeline(transaction=False) as pipe:
        for names in lists.values():
            for name in names:
                pipe.llen(name).lrange(name, -_LOOKED_AT, -1)
        replies = iter(pipe.execute())
    unacked = _unacked(channel)
    found = {}
    for queue, names in lists.items():
        depth = 0
        sent: list[datetime] = []
        for _ in names:
            depth += next(replies)
            sent += islice(filter(None, map(_sent_at, reversed(next(replies)))), 1)
        found[queue] = Waiting(depth=depth, oldest_sent_at=min(sent, default=None), unacked=unacked[queue])
    return found


def _unacked(channel: Any) -> Counter[str]:
    """Count what was delivered and not acknowledged, by queue."""
    counts: Counter[str] = Counter()
    for _, held in islice(channel.client.hscan_iter(channel.unacked_key, count=500), _UNACKED_LOOKED_AT):
        try:
            _, _, queue = json.loads(held)
        except ValueError:
            continue
        counts[queue] += 1
    return counts


def _sent_at(message: bytes) -> datetime | None:
    try:
        found = datetime.fromisoformat(json.loads(message)["headers"]["sent_at"])
    except (ValueError, KeyError, TypeError):
        return None
    return found if found.tzinfo is not None else None
