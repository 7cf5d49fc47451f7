"""Jobs answered in this process: submit, and every doorbell is followed until none rings."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection

from cache_management.models.base import read_clock
from cache_management.models.store import open_stores
from cache_management.models.store.results import JobView, Ring
from cache_management.settings import load_settings
from cache_management.workers import runtime
from cache_management.workers.client import JobClient
from cache_management.workers.messages import route_of

TASKS = ("warm", "embed", "upkeep", "stats", "evict", "transfer", "repair")


class Inline:
    """A runtime of this process, with a list in the place of a broker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
        folder.mkdir(exist_ok=True)
        kept_in = {} if "CACHE_DISTRIBUTED__ENABLED" in env else {"CACHE_URL": "memory://"}
        given = {"CACHE_DATA_DIR": str(folder), "CACHE_EMBEDDING_MODEL": "hashing", **kept_in, **env}
        self.settings = load_settings(env=given).settings
        self.runtime = runtime.Runtime(self.settings)
        self.platform = self.runtime.platform
        self._later = 0.0
        self.stores = open_stores(self.settings.metadata_url, clock=self._now)
        self.platform.__dict__["stores"] = self.stores
        self.stores.upgrade()
        self.rung: list[Ring] = []
        self.delays: list[float] = []
        monkeypatch.setattr(runtime, "current", lambda: self.runtime)
        monkeypatch.setattr(JobClient, "ring", lambda _, rings, **options: self._ring(rings, **options))
        self.client = JobClient(self.settings, stores=self.stores)

    def run(self, kind: str, params: Mapping[str, Any] | None = None, **options: Any) -> JobView:
        """Submit a job and work on it to its end."""
        return self.finish(self.client.submit(kind, params or {}, **options).job_id)

    def finish(self, job_id: str) -> JobView:
        while self.rung:
            self.answer(self.rung.pop(0))
        return self.client.get(job_id)

    def answer(self, ring: Ring) -> None:
        """Do what a worker does that hears a doorbell."""
        name = route_of(ring.job_kind, ring.shard_kind).task
        request = SimpleNamespace(id=f"task-{ring.shard}-{ring.fence}", headers={}, delivery_info={})
        task = SimpleNamespace(name=name, request=request)
        _tasks()[name].run.__func__(task, ring.job_id, ring.shard, ring.fence)

    def pass_time(self, seconds: float) -> None:
        """Let the database's clock go on."""
        self._later += seconds

    def do(self, work: Any) -> Any:
        """Run a coroutine on the loop of the runtime, where its caches live."""
        return self.runtime.run(work)

    def _now(self, connection: Connection) -> datetime:
        return read_clock(connection) + timedelta(seconds=self._later)

    def close(self) -> None:
        self.runtime.close()

    def _ring(self, rings: list[Ring], *, delay_seconds: float = 0.0, **_: Any) -> bool:
        self.rung.extend(rings)
        self.delays += [delay_seconds] * len(rings)
        return True


def _tasks() -> dict[str, Any]:
    from celery import current_app

    for name in TASKS:
        try:
            importlib.import_module(f"cache_management.workers.{name}")
        except ModuleNotFoundError:
            continue
    return current_app.tasks
