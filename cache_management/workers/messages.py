"""What travels: task names, queues, limits, and the parameters of each kind of job.

One check for submitter and worker. A message holds a job's id, a shard and a fence; never
prompts or answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cache_management.cache.clock import run_version
from cache_management.cache.config import explain_validation
from cache_management.cache.errors import BrokerUnavailable, InvalidInput
from cache_management.cache.invalidation import Selection
from cache_management.cache.sweeping import Wanted
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
    ("repair", "plan"): Route("repair.scan", "repair"),
    ("stats", "plan"): Route("control.rollup", "control"),
    ("evict", "plan"): Route("evict.plan", "evict"),
    ("evict", "data"): Route("evict.sweep", "evict"),
    ("export", "plan"): Route("transfer.plan_export", "transfer"),
    ("export", "data"): Route("transfer.export", "transfer"),
    ("import", "plan"): Route("transfer.verify", "transfer"),
    ("import", "data"): Route("transfer.import", "transfer"),
    ("prune", "plan"): Route("control.prune", "control"),
    ("audit-verify", "plan"): Route("control.audit_verify", "control"),
}
"""By kind of job and of shard."""

TASK_LIMITS: Final = {
    "warm.plan": Limits(60, 90),
    "warm.chunk": Limits(120, 150),
    "embed.batch": Limits(60, 120),
    "embed.plan": Limits(60, 120),
    "embed.walk": Limits(60, 120),
    "evict.plan": Limits(30, 60),
    "evict.sweep": Limits(30, 60),
    "repair.scan": Limits(60, 90),
    "transfer.plan_export": Limits(60, 90),
    "transfer.export": Limits(60, 90),
    "transfer.verify": Limits(60, 90),
    "transfer.import": Limits(60, 90),
    "control.reconcile": Limits(10, 20),
    "control.schedule": Limits(10, 20),
    "control.rollup": Limits(30, 60),
    "control.prune": Limits(30, 60),
    "control.audit_verify": Limits(30, 60),
    "control.pulse": Limits(10, 20),
    "control.heartbeat": Limits(10, 20),
}

QUEUES: Final = ("control", "warm", "embed", "evict", "repair", "transfer")
LIGHT_QUEUES: Final = ("control", "warm", "evict", "repair", "transfer")
"""What a worker without a model consumes."""

LOWEST_PRIORITY: Final = 0
PRIORITY: Final = 5
HIGHEST_PRIORITY: Final = 9
"""Of a job: more is sooner. A message's counts the other way: 0 is taken first."""


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


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoParams(_Params):
    """Parameters of a job that has none."""


class WarmParams(_Params):
    """Parameters of a warm job. Its items travel as inputs of the job, or it finds them itself.

    `take`: "misses" are the `top` questions of the last day that had no answer most often and still have none;
    "expiring" the most popular entries that expire within `expire_within_seconds`. Both ask the provider. Nothing is
    asked any more once `max_cost_usd` is spent. `version` is the moment as of which the job writes.
    """

    take: Literal["inputs", "misses", "expiring"] = "inputs"
    top: int = Field(default=100, ge=1, le=10_000)
    expire_within_seconds: float = Field(default=600, gt=0, le=30 * 86_400)
    max_cost_usd: float | None = Field(default=None, gt=0, le=1_000_000)
    version: int = Field(default_factory=run_version, ge=0)
    shards: int = Field(default=1, ge=1, le=64)
    batch_size: int = Field(default=50, ge=1, le=500)
    embed: bool = True
    source: str = "program"
    source_digest: str | None = None


class EmbedParams(_Params):
    """Parameters of an embed job: what `cache/semantic/re_embedding.py` calls wanted.

    `model` is the one that the submitter means: a worker that was left with another configuration
    must not take the vectors of the new model for those of an old one.
    """

    model: str
    check: bool = False
    all: bool = False
    drop_old: bool = False


class _FileParams(_Params):
    """What a job is told that reads or writes a stream file; `entries_per_second` of 0 is no bound."""

    path: str
    entries_per_second: float = Field(default=0, ge=0)

    @field_validator("path")
    @classmethod
    def _is_a_stream_that_a_worker_finds(cls, value: str) -> str:
        if not Path(value).is_absolute():
            raise ValueError("must be absolute: a worker has another working directory")
        if not value.endswith((".jsonl", ".jsonl.zst")):
            raise ValueError("must end with .jsonl or .jsonl.zst: other forms are small, and done without a job")
        return value


class ExportParams(_FileParams):
    """Parameters of an export job. `pattern` is a shell glob over keys; `replace` lets a file go that is there.

    With `reasoning` chains and trees are exported, and not answers.
    """

    pattern: str | None = None
    replace: bool = False
    reasoning: bool = False


class ImportParams(_FileParams):
    """Parameters of an import job: what `cache/transfer/importing.py` calls wanted.

    With `embed` an embed job follows that makes what was written findable by meaning.
    """

    replace: bool = False
    from_namespace: str | None = None
    embed: bool = True


_CENTURY_DAYS: Final = 36_525


class PruneParams(_Params):
    """Parameters of a prune job: how many days what has ended is kept."""

    jobs_days: float = Field(default=30, ge=0, le=_CENTURY_DAYS)
    inputs_days: float = Field(default=7, ge=0, le=_CENTURY_DAYS)
    routine_days: float = Field(default=1, ge=0, le=_CENTURY_DAYS)
    stats_days: float = Field(default=90, ge=0, le=_CENTURY_DAYS)


class RepairParams(_Params):
    """Parameters of a repair job: what `cache/cluster/mending.py` calls so.

    `full` looks at every key and forgets what may be forgotten, else only at those of slots that differ.
    `keys_per_second` bounds how fast keys are looked at; 0 is no bound.
    """

    full: bool = False
    keys_per_second: float = Field(default=5000, ge=0)


class EvictParams(_Params):
    """Parameters of an evict job: what `cache/sweeping.py` calls wanted, with the parts of a selection.

    `before` is the version from which on nothing is removed, None: that of the moment at which a worker begins.
    `keys_per_second` bounds how fast the store is gone through; 0 is no bound.
    """

    policy: bool = False
    expired: bool = False
    leftovers: bool = False
    stale: bool = False
    pattern: str | None = None
    regex: str | None = None
    older_than_seconds: float | None = None
    tag: str | None = None
    model: str | None = None
    everything: bool = False
    before: int | None = Field(default=None, ge=0)
    keys_per_second: float = Field(default=5000, ge=0)

    @property
    def selection(self) -> Selection | None:
        """Return the selection that the parts make up, if any is given."""
        parts = (self.pattern, self.regex, self.older_than_seconds, self.tag, self.model)
        if not self.everything and all(part is None for part in parts):
            return None
        return Selection(
            pattern=self.pattern,
            regex=self.regex,
            older_than_seconds=self.older_than_seconds,
            tag=self.tag,
            model=self.model,
            everything=self.everything,
        )

    @property
    def wanted(self) -> Wanted:
        """Return what a job is to remove."""
        return Wanted(
            policy=self.policy,
            expired=self.expired,
            leftovers=self.leftovers,
            stale=self.stale,
            selection=self.selection,
            before=self.before,
        )

    @model_validator(mode="after")
    def _something_can_go(self) -> Self:
        try:
            self.wanted.check()
        except InvalidInput as exc:
            raise ValueError(str(exc)) from None
        return self


PARAMS: Final[dict[str, type[BaseModel]]] = {
    "warm": WarmParams,
    "embed": EmbedParams,
    "repair": RepairParams,
    "stats": NoParams,
    "evict": EvictParams,
    "export": ExportParams,
    "import": ImportParams,
    "prune": PruneParams,
    "audit-verify": NoParams,
}
"""What a job of each kind is told; also which kinds there are."""

_OF_NO_NAMESPACE: Final = frozenset({"stats", "prune", "audit-verify", "repair"})


def namespace_of(kind: str, namespace: str) -> str:
    """Return whose a job of a kind is when it is submitted in a namespace; "": nobody's.

    What looks after all of them must not wait until one that is at its limit has room.
    """
    return "" if kind in _OF_NO_NAMESPACE else namespace


def is_of_use(kind: str, settings: Settings) -> bool:
    """Tell whether a scheduled job of a kind has anything to do under these settings."""
    return kind != "repair" or settings.distributed.enabled


def check_params(kind: str, params: Mapping[str, Any] | BaseModel) -> dict[str, Any]:
    """Return the parameters of a kind of job as JSON, with their defaults.

    Raises:
        InvalidInput: There is no such kind, or a parameter cannot be used.
    """
    model = PARAMS.get(kind)
    if model is None:
        raise InvalidInput(f"there is no job of kind {kind!r}; the kinds are {', '.join(sorted(PARAMS))}")
    try:
        given = params if isinstance(params, model) else model.model_validate(params)
    except ValidationError as exc:
        raise InvalidInput(explain_validation(exc, what=f"a job of kind {kind}")) from None
    return given.model_dump(mode="json")
