"""Submits jobs, asks for changes, rings the doorbell. Imports no job code and no model."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import random
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import BaseModel

from cache_management.cache.clock import run_version
from cache_management.cache.errors import (
    BrokerUnavailable,
    CorruptRecord,
    InvalidInput,
    JobError,
    MetadataUnavailable,
)
from cache_management.cache.events import Listener, UnavailableEvent, ignore
from cache_management.cache.values import CachedResponse
from cache_management.cache.warm_items import WarmItem, check_items, read_warm_file
from cache_management.settings import Settings
from cache_management.wiring import read_settings
from cache_management.workers.inputs import pack_inputs, unpack_inputs
from cache_management.workers.messages import (
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    PRIORITY,
    EmbedParams,
    WarmParams,
    check_params,
    namespace_of,
    require_broker,
    route_of,
)

if TYPE_CHECKING:
    from celery import Celery

    from cache_management.models.job import ItemState
    from cache_management.models.store import Stores
    from cache_management.models.store.results import Action, JobView, Requested, Ring, Submitted

logger = logging.getLogger("cache_management.workers")

_LONGEST_DEADLINE_SECONDS = 10 * 366 * 86_400

# A submitter must not wait for a broker that is away: the reconciler rings later.
_GIVE_UP_SOON = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
    "socket_timeout": 2,
    "socket_connect_timeout": 2,
}


Source = Iterable[CachedResponse | WarmItem | dict[str, Any]] | str | os.PathLike[str]
"""What can be warmed: items, or the path of a file of them."""


class JobClient:
    """The way to the jobs for apps, the command line and the workers themselves.

    A job is accepted once the database holds it. When the broker is down the doorbell stays
    silent and the reconciler rings later: nothing is lost.
    """

    def __init__(self, settings: Settings, *, stores: Stores | None = None) -> None:
        self.settings = settings
        self._given = stores

    @cached_property
    def stores(self) -> Stores:
        if self._given is not None:
            return self._given
        from cache_management.models.store import open_stores

        return open_stores(self.settings.metadata_url)

    def submit(
        self,
        kind: str,
        params: Mapping[str, Any] | BaseModel,
        *,
        namespace: str | None = None,
        inputs: Iterable[tuple[bytes, int]] = (),
        idem_key: str | None = None,
        priority: int = PRIORITY,
        deadline_seconds: float = 86_400,
        retry_of: str | None = None,
    ) -> Submitted:
        """Accept a job of any kind and ring for it.

        Args:
            params: Checked against the kind's model in `messages`.
            namespace: The configured one unless given.
            idem_key: While a job of this namespace, kind and key lives, that one is returned.
            priority: 0 to 9; more is sooner.

        Raises:
            InvalidInput: The kind or a parameter cannot be used; nothing was queued.
            MetadataUnavailable: The database cannot take the job; nothing was queued.
        """
        if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
            raise InvalidInput(f"priority {priority} is not from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}")
        if not deadline_seconds > 0:
            raise InvalidInput(f"a deadline of {deadline_seconds} seconds is over before the job begins")
        if deadline_seconds > _LONGEST_DEADLINE_SECONDS:
            raise InvalidInput(
                f"a deadline of {deadline_seconds} seconds is never; at most ten years can be waited for"
            )
        submitted = self.stores.jobs.create(
            kind,
            check_params(kind, params),
            namespace=namespace_of(kind, self.settings.namespace if namespace is None else namespace),
            submitted_by=whoami(),
            inputs=inputs,
            idem_key=idem_key,
            priority=priority,
            deadline_seconds=deadline_seconds,
            retry_of=retry_of,
        )
        if submitted.ring is not None:
            self.ring([submitted.ring])
        return submitted

    def submit_warm(
        self,
        items: Iterable[WarmItem],
        *,
        source: str = "program",
        source_digest: str | None = None,
        batch_size: int = 50,
        shards: int = 4,
        embed: bool = True,
        max_cost_usd: float | None = None,
        **options: Any,
    ) -> Submitted:
        """Accept a warm job and ring for it; `options` are those of `submit`.

        Items are checked while they are read; a wrong one leaves no job behind. `shards` is how
        many batches of `batch_size` may be under way at once.

        Raises:
            InvalidInput: An item is wrong, or there is none.
            MetadataUnavailable: The database cannot take the job; nothing was queued.
        """
        parts = list(pack_inputs(items))
        if not parts:
            raise InvalidInput("there is nothing to warm: the source holds no items")
        params = WarmParams(
            version=run_version(),
            shards=min(shards, len(parts)),
            batch_size=batch_size,
            embed=embed,
            source=source,
            source_digest=source_digest,
            max_cost_usd=max_cost_usd,
        )
        return self.submit("warm", params, inputs=parts, **options)

    def submit_embed(
        self,
        *,
        check: bool = False,
        everything: bool = False,
        drop_old: bool = False,
        **options: Any,
    ) -> Submitted:
        """Accept an embed job for the namespace and ring for it; a live one that does the same is returned.

        Args:
            check: First find and mend vectors that do not belong to their entries.
            everything: Embed entries anew that have their vector, too.
            drop_old: At the end remove the vectors of other models.
            options: Those of `submit`.

        Raises:
            MetadataUnavailable: The database cannot take the job; nothing was queued.
        """
        params = EmbedParams(
            model=str(self.settings.embedding_model), check=check, all=everything, drop_old=drop_old
        ).model_dump()
        key = json.dumps(params, sort_keys=True)
        return self.submit("embed", params, **{"idem_key": key, "deadline_seconds": 7 * 86_400, **options})

    def retry(self, job_id: str, *, failed_only: bool = False) -> Submitted:
        """Submit what a job left undone as a new job; while that one lives, asking again returns it.

        Of a job with items, the failed ones are done again, and the cancelled ones unless `failed_only`. Others
        begin anew with the same parameters.

        Raises:
            JobNotFound: No job has this id.
            JobError: It has not ended, left nothing undone, or its inputs are no longer kept.
        """
        job = self.stores.jobs.get(job_id)
        if not job.ended:
            raise JobError(f"job {job.id} is {job.state}: only one that has ended is tried again")
        if job.state == "succeeded":
            raise JobError(f"job {job.id} left nothing undone: it succeeded; submit another one to do it again")
        again: dict[str, Any] = {
            "idem_key": f"retry:{job.id}",
            "priority": job.priority,
            "retry_of": job.id,
            "namespace": job.namespace,
        }
        if job.kind != "warm":
            return self.submit(job.kind, job.params, **again)
        params = WarmParams.model_validate(job.params).model_copy(update={"version": run_version()})
        if params.take != "inputs" and not _is_planned(job):
            return self.submit("warm", params, **again)  # it has not found its items yet
        return self.submit("warm", params, inputs=pack_inputs(self._undone(job, failed_only=failed_only)), **again)

    def _undone(self, job: JobView, *, failed_only: bool) -> Iterator[WarmItem]:
        """Yield the items that a warm job did not do."""
        jobs = self.stores.jobs
        states: tuple[ItemState, ...] = ("dead",) if failed_only else ("dead", "cancelled")
        if _is_planned(job):
            places = [(item.part, item.part_index) for item in jobs.items_of(job.id, states=states)]
        else:
            # Its items are not all known: everything is done again, and what was stored is skipped as fresh.
            places = [(part, -1) for part in range(jobs.count_inputs(job.id))]
        if not places:
            way_out = "; `cache-cli embed run` makes what it could not embed findable" if job.embed_failed else ""
            raise JobError(f"job {job.id} left nothing undone that could be tried again{way_out}")
        for part, chosen in groupby(sorted(places), key=itemgetter(0)):
            try:
                items = unpack_inputs(jobs.load_input(job.id, part))
            except CorruptRecord as exc:
                raise JobError(
                    f"job {job.id} cannot be tried again: its inputs are no longer kept ({exc}); submit its source anew"
                ) from exc
            for _, index in chosen:
                yield from items if index < 0 else [items[index]]

    def request(self, job_id: str, action: Action) -> Requested:
        """Cancel, pause or resume a job.

        Raises:
            JobNotFound, JobError: There is no such job, or it has ended.
        """
        answer = self.stores.jobs.request(job_id, action, by=whoami())
        self.ring(answer.rings)
        return answer

    def get(self, job_id: str) -> JobView:
        """Return a job by its id or an unambiguous beginning of it."""
        return self.stores.jobs.get(job_id)

    def ring(self, rings: Sequence[Ring], *, delay_seconds: float = 0.0, attempt: int = 0) -> bool:
        """Publish doorbells; return False when the broker did not take them all.

        A ring that gets lost is repeated by the reconciler.
        """
        try:
            rang = [self._ring_one(ring, delay_seconds, attempt) for ring in rings]
        except BrokerUnavailable as exc:
            logger.warning("the doorbell stays silent: %s", exc)
            return False
        except _broker_errors() as exc:
            logger.warning("the broker at %s took no message, the reconciler will ring: %s", self.broker_shown, exc)
            return False
        return all(rang)

    def _ring_one(self, ring: Ring, delay_seconds: float, attempt: int) -> bool:
        try:
            route = route_of(ring.job_kind, ring.shard_kind)
        except KeyError:
            logger.warning(
                "job %s, shard %s: this version knows no work of kind %s/%s",
                ring.job_id,
                ring.shard,
                ring.job_kind,
                ring.shard_kind,
            )
            return False
        self.celery.send_task(
            route.task,
            args=[ring.job_id, ring.shard, ring.fence],
            queue=route.queue,
            countdown=delay_seconds or None,
            priority=HIGHEST_PRIORITY - ring.priority,
            headers={"sent_at": datetime.now(UTC).isoformat(), "attempt": attempt},
            argsrepr=f"({ring.job_id}, {ring.shard}, {ring.fence})",
            kwargsrepr="{}",
            # Once: a connection that was kept may be one to a broker that has since been restarted.
            retry=True,
            retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
        )
        try:
            self.stores.jobs.mark_dispatched(ring)
        except MetadataUnavailable as exc:
            # It rang. At worst the reconciler rings once more, and the fence turns that away.
            logger.warning("job %s: the doorbell could not be noted: %s", ring.job_id, exc)
        return True

    def check_broker(self) -> None:
        """Return when the broker answers.

        Raises:
            BrokerUnavailable: It does not.
        """
        try:
            with self.celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
        except _broker_errors() as exc:
            raise BrokerUnavailable(
                f"the broker at {self.broker_shown} does not answer: {exc}; start it, or run `cache-cli up`"
            ) from exc

    @property
    def broker_shown(self) -> str:
        """Return the broker's URL without its password."""
        from kombu.utils.url import maybe_sanitize_url

        return str(maybe_sanitize_url(self.settings.broker_url or ""))

    @cached_property
    def celery(self) -> Celery:
        """Return a producer: it knows tasks by name only."""
        try:
            from celery import Celery
        except ImportError as exc:
            raise ImportError("Jobs need: pip install 'cache-management[workers]'") from exc
        from cache_management.workers import defaults

        producer = Celery("cache_management.client", broker=require_broker(self.settings), set_as_current=False)
        producer.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            broker_transport_options=defaults.broker_transport_options | _GIVE_UP_SOON,
            broker_connection_timeout=3,
        )
        return producer

    def close(self) -> None:
        """Free connections."""
        if "celery" in self.__dict__:
            self.celery.close()
        if self._given is None and "stores" in self.__dict__:
            self.stores.close()


@overload
def enqueue_warm(
    items: Source,
    *,
    idem_key: str | None = ...,
    priority: int = ...,
    max_cost_usd: float | None = ...,
    embed: bool = ...,
    settings: Settings | None = ...,
    when_down: Literal["raise"] = ...,
    listener: Listener = ...,
) -> str: ...
@overload
def enqueue_warm(
    items: Source,
    *,
    idem_key: str | None = ...,
    priority: int = ...,
    max_cost_usd: float | None = ...,
    embed: bool = ...,
    settings: Settings | None = ...,
    when_down: Literal["drop"],
    listener: Listener = ...,
) -> str | None: ...
def enqueue_warm(
    items: Source,
    *,
    idem_key: str | None = None,
    priority: int = PRIORITY,
    max_cost_usd: float | None = None,
    embed: bool = True,
    settings: Settings | None = None,
    when_down: Literal["raise", "drop"] = "raise",
    listener: Listener = ignore,
) -> str | None:
    """Submit a warm job and return its id; a worker stores the entries and makes them findable.

    Blocks while the database takes the items, and for a few seconds when the broker is away;
    from a coroutine call it with `asyncio.to_thread`.

    Args:
        items: Responses, dictionaries with prompt and response, or the path of a warm file. A response may be missing
            where a provider is configured.
        idem_key: While a job of this namespace with this key lives, its id is returned and nothing new is queued.
        priority: 0 to 9; more is sooner.
        max_cost_usd: Nothing more is asked of the provider once so much is spent.
        settings: Replaces what the configuration file and the environment say.
        when_down: What becomes of the items when the database cannot take the job: "drop" tells the `listener`
            and the log, and returns None, for applications that must not fail for a cache.

    Raises:
        InvalidInput: An item is wrong; nothing was queued.
        MetadataUnavailable: The database cannot take the job; nothing was queued.
        ConfigurationError: The settings cannot be used.
    """
    if when_down not in ("raise", "drop"):
        raise InvalidInput(f"when_down must be 'raise' or 'drop', not {when_down!r}")
    client = JobClient(settings or read_settings().settings)
    options: dict[str, Any] = {
        "idem_key": idem_key,
        "priority": priority,
        "max_cost_usd": max_cost_usd,
        "embed": embed,
    }
    try:
        if isinstance(items, str | os.PathLike):
            return submit_warm_file(client, Path(items), **options).job_id
        may_ask = client.settings.provider.is_set
        return client.submit_warm(check_items(items, may_ask=may_ask), **options).job_id
    except MetadataUnavailable as exc:
        if when_down == "raise":
            raise
        logger.warning("a warm job was dropped: %s", exc)
        listener(UnavailableEvent("metadata", "enqueue_warm", str(exc)))
        return None
    finally:
        client.close()


def submit_warm_file(client: JobClient, path: Path, *, idem_key: str | None = None, **options: Any) -> Submitted:
    """Submit the items of a warm file; the whole file is checked before anything is queued."""
    items = read_warm_file(path, may_ask=client.settings.provider.is_set)
    first = next(items)  # before the digest: a file that cannot be read says so here
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return client.submit_warm(
        chain([first], items), source=path.name, source_digest=digest, idem_key=idem_key, **options
    )


def _is_planned(job: JobView) -> bool:
    return any(shard.kind == "plan" and shard.state == "done" for shard in job.shards)


def backoff_seconds(attempt: int) -> float:
    """Return the pause before the next try: 1, 2, 4 … 60 seconds, each with up to a quarter more."""
    return min(60.0, 2.0 ** min(attempt, 6)) * (1 + random.random() / 4)  # noqa: S311 - spreads, guards nothing


def whoami() -> str:
    """Name the person and the machine for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _broker_errors() -> tuple[type[Exception], ...]:
    from kombu.exceptions import OperationalError

    return (OperationalError, OSError)
