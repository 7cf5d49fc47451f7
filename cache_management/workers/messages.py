"""What travels: task names, queues, limits, and the parameters of each kind of job.

One check for submitter and worker. A message holds a job's id, a shard and a fence; never
prompts or answers.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from cache_management.cache.errors import BrokerUnavailable
from cache_management.settings import Settings


class Route(NamedTuple):
    """The task that answers a ring, and the queue it waits in."""

    task: str
    queue: str


class Limits(NamedTuple):
    """Seconds that one chunk may take: asked to stop at the soft limit, killed at the hard one."""

    soft_seconds: int
    hard_seconds: int


ROUTES: Final = {
    ("warm", "plan"): Route("warm.plan", "warm"),
    ("warm", "data"): Route("warm.chunk", "warm"),
    ("warm", "embed"): Route("embed.batch", "embed"),
    ("embed", "plan"): Route("embed.plan", "embed"),
    ("embed", "data"): Route("embed.walk", "embed"),
}
"""By kind of job and of shard."""

TASK_LIMITS: Final = {
    "warm.plan": Limits(60, 90),
    "warm.chunk": Limits(60, 90),
    "embed.batch": Limits(60, 120),
    "embed.plan": Limits(60, 120),
    "embed.walk": Limits(60, 120),
    "control.reconcile": Limits(10, 20),
}

QUEUES: Final = ("control", "warm", "embed")
LIGHT_QUEUES: Final = ("control", "warm")
"""What a worker without a model consumes."""


def route_of(job_kind: str, shard_kind: str) -> Route:
    """Return where a ring goes.

    Raises:
        KeyError: No such kind; a newer program wrote this job.
    """
    return ROUTES[job_kind, shard_kind]


def queue_of(job_kind: str, shard_kind: str) -> str:
    """Name the queue of a shard; for unknown kinds the one that nobody is kept waiting in."""
    route = ROUTES.get((job_kind, shard_kind))
    return route.queue if route else "control"


def require_broker(settings: Settings) -> str:
    """Return the broker's URL.

    Raises:
        BrokerUnavailable: There is none.
    """
    if not settings.broker_url:
        raise BrokerUnavailable("no broker is configured: set broker_url, or start an embedded set with `cache-cli up`")
    return settings.broker_url


class WarmParams(BaseModel):
    """Parameters of a warm job; its items travel as inputs of the job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=0)
    shards: int = Field(default=1, ge=1, le=64)
    batch_size: int = Field(default=50, ge=1, le=500)
    embed: bool = True
    source: str = "program"
    source_digest: str | None = None


class EmbedParams(BaseModel):
    """Parameters of an embed job: what `cache/semantic/re_embedding.py` calls wanted.

    `model` is the one that the submitter means: a worker that was left with another configuration
    must not take the vectors of the new model for those of an old one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    check: bool = False
    all: bool = False
    drop_old: bool = False
