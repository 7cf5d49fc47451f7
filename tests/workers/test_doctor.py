"""Each check alone: what is well, what warns, what fails, and that there is a way out."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from cache_management.cache.cluster.standing import NodeStanding, Standing
from cache_management.cache.errors import MetadataUnavailable
from cache_management.models.store.results import Mark
from cache_management.settings import load_settings
from cache_management.workers import doctor, examination, reading
from cache_management.workers.doctor import About, WorkerFacts
from cache_management.workers.queues import QueueView
from tests.workers.findings import WELL, levels

OWN = About(version="1", model="hashing", store="redis://cache:6379/0", metadata="sqlite:////m.sqlite")
VIEW = QueueView("warm", 0, None, 0, 1, 3.0, False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"policy": "allkeys-lru"}, {"broker policy": "fail"}),
        ({"policy": "volatile-ttl", "limit_bytes": 10**9}, {"broker policy": "fail"}),
        ({"keeps_log": False}, {"broker persistence": "warn"}),
        ({"log_is_well": False}, {"broker persistence": "fail"}),
        ({"version": "6.0.16"}, {"broker version": "fail"}),
        ({"version": "6.2.0"}, {}),
        ({"version": "10.1.0"}, {}),
        ({"is_cluster": True}, {"broker kind": "fail"}),
        ({"is_replica": True}, {"broker kind": "fail"}),
    ],
)
def test_a_broker(changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert levels(doctor.check_broker(msgspec.structs.replace(WELL, **changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"run_id": "b"}, {}),
        ({"run_id": "b", "policy": "allkeys-lru"}, {"cache policy": "warn"}),
        ({"run_id": "b", "is_replica": True}, {"cache kind": "fail"}),
        ({}, {"broker apart from the cache": "fail"}),
    ],
)
def test_a_cache_server_beside_its_broker(changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert levels(doctor.check_cache_server(msgspec.structs.replace(WELL, **changes), WELL)) == expected
    assert "broker apart from the cache" not in levels(doctor.check_cache_server(WELL, None))


def node(at: int, **changes: Any) -> NodeStanding:
    well = NodeStanding(f"n{at}", "member", policy="noeviction", keeps_log=True, run_id=f"run {at}", clock_seconds=5.0)
    return msgspec.structs.replace(well, **changes)


@pytest.mark.parametrize(
    ("first", "second", "differing", "expected"),
    [
        ({}, {}, 0, {}),
        ({"keeps_log": False}, {}, 0, {}),
        ({"clock_seconds": 5.9}, {"clock_seconds": None}, 0, {}),
        ({"clock_seconds": 6.1}, {}, 0, {"clocks of the nodes": "warn"}),
        ({}, {}, 3, {"copies": "warn"}),
        ({"policy": "allkeys-lru"}, {}, 0, {"policy of n1": "fail"}),
        ({"policy": None}, {}, 0, {}),
        ({"run_id": "a"}, {}, 0, {"broker apart from the cache": "fail"}),
        ({"state": "unreachable", "why": "refused"}, {}, 0, {"node n1": "warn"}),
        ({"state": "out"}, {"state": "syncing"}, 0, {"nodes": "fail", "node n1": "fail", "node n2": "fail"}),
    ],
)
def test_nodes_of_a_replicated_cache(
    first: dict[str, Any], second: dict[str, Any], differing: int, expected: dict[str, str]
) -> None:
    standing = Standing(3, 0, 1, (node(1, **first), node(2, **second), node(3)))

    assert levels(doctor.check_nodes(standing, differing=differing, consistency="quorum", broker=WELL)) == expected


def test_a_first_start_without_one_of_the_nodes_fails_and_says_so() -> None:
    standing = Standing(0, 0, 1, (node(1, state="unused"), node(2, state="unreachable"), node(3, state="unused")))

    found = {each.check: each for each in doctor.check_nodes(standing, differing=0, consistency="quorum", broker=None)}

    assert found["nodes"].level == "fail"
    assert "needs every node, and n2 cannot be reached" in found["nodes"].what


def test_with_consistency_one_a_node_that_evicts_is_no_failure() -> None:
    standing = Standing(3, 0, 0, (node(1, policy="allkeys-lru"),))

    assert levels(doctor.check_nodes(standing, differing=0, consistency="one", broker=None)) == {"policy of n1": "warn"}


@pytest.mark.parametrize(
    ("skew", "doubt", "level"),
    [
        (0.0, 0.0, "ok"),
        (1.9, 0.0, "ok"),
        (-3.0, 0.0, "warn"),
        (3.0, 1.5, "ok"),
        (61.0, 0.0, "fail"),
        (-600.0, 5, "fail"),
    ],
)
def test_a_clock(skew: float, doubt: float, level: str) -> None:
    found = doctor.check_skew("broker", "there", skew, doubt)

    assert found.level == level
    assert level == "ok" or ("ahead" if skew > 0 else "behind") in found.what


@pytest.mark.parametrize(
    ("visibility", "level"), [(900, "ok"), (600, "ok"), (599, "warn"), (121, "warn"), (120, "fail")]
)
def test_a_visibility_timeout(visibility: float, level: str) -> None:
    assert doctor.check_visibility(visibility, 120.0).level == level


def mark(queue: str, worker: str, age: float) -> Mark:
    return Mark(queue, worker, datetime.now(UTC), age)


@pytest.mark.parametrize(
    ("marks", "level", "says"),
    [
        ([], "fail", "none was ever heard"),
        ([mark("control", "w", 1)], "fail", "none was ever heard"),
        ([mark("beat", "a:1", 400)], "fail", "400 s ago"),
        ([mark("beat", "a:1", 10)], "ok", "1 scheduler: a:1"),
        ([mark("beat", "a:1", 10), mark("beat", "b:2", 3), mark("beat", "c:3", 500)], "ok", "2 schedulers: a:1, b:2"),
    ],
)
def test_schedulers(marks: list[Mark], level: str, says: str) -> None:
    found = doctor.check_beats(marks)

    assert (found.level, says in found.what) == (level, True)


def test_queues_that_are_stuck_unconsumed_or_unknown() -> None:
    stuck = QueueView("embed", 4, 300.0, 0, 0, 900.0, True)
    idle = QueueView("evict", 0, None, 0, 0, None, False)

    assert levels(doctor.check_queues([VIEW], {})) == {}
    assert levels(doctor.check_queues([VIEW, stuck, idle], {"celery": 3})) == {
        "queue embed": "fail",
        "unconsumed queues": "warn",
        "queue celery": "warn",
    }


def test_workers_that_fell_silent_are_named_and_schedulers_are_none() -> None:
    marks = [mark("warm", "w@here", 600), mark("control", "w@here", 10), mark("embed", "e@here", 600)]
    marks += [mark("beat", "b:1", 900)]

    (found,) = doctor.check_marks(marks)

    assert (found.level, "e@here took nothing for 10 min" in found.what) == ("warn", True)


@pytest.mark.parametrize(
    ("worker", "expected"),
    [
        (WorkerFacts("w", "prefork", ("warm",), OWN), {}),
        (WorkerFacts("w", "prefork", ("warm",), None), {}),
        (WorkerFacts("w", "solo", ("control",), OWN), {}),
        (WorkerFacts("w", "solo", ("control", "warm"), OWN), {"pool of w": "warn"}),
        (WorkerFacts("w", "threads", ("warm",), OWN), {"pool of w": "warn"}),
        (
            WorkerFacts("w", "prefork", ("embed",), msgspec.structs.replace(OWN, model="other")),
            {"settings of w": "fail"},
        ),
        (
            WorkerFacts("w", "prefork", ("warm",), msgspec.structs.replace(OWN, store="redis://b:1/0")),
            {"settings of w": "warn"},
        ),
        (
            WorkerFacts("w", "prefork", ("warm",), msgspec.structs.replace(OWN, version="0")),
            {"settings of w": "warn"},
        ),
    ],
)
def test_workers(worker: WorkerFacts, expected: dict[str, str]) -> None:
    assert levels(doctor.check_workers([worker], OWN)) == expected
    assert levels(doctor.check_workers([], OWN)) == {"workers": "warn"}


@pytest.mark.parametrize(
    ("spaces", "previous", "level"),
    [
        ({}, None, "ok"),
        ({"mine": 5}, None, "ok"),
        ({"mine": 5, "other": 1}, None, "warn"),
        ({"other": 5}, None, "fail"),
        ({"other": 5}, "the other", "warn"),
    ],
)
def test_vectors_of_other_models(spaces: dict[str, int], previous: str | None, level: str) -> None:
    assert doctor.check_embedder("mine", spaces, previous_model=previous).level == level


def test_embed_jobs_of_another_model() -> None:
    assert levels(doctor.check_jobs_models(["mine"], "mine")) == {}
    assert levels(doctor.check_jobs_models(["mine", "b", "a"], "mine")) == {"embed jobs": "warn"}


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"exists": True, "is_writable": True, "mode": 0o40700}, "ok"),
        ({"exists": False, "is_writable": True, "mode": None}, "ok"),
        ({"exists": True, "is_writable": True, "mode": 0o40755}, "warn"),
        ({"exists": True, "is_writable": False, "mode": 0o40500}, "fail"),
        ({"exists": False, "is_writable": False, "mode": None}, "fail"),
    ],
)
def test_a_data_folder(facts: dict[str, Any], level: str) -> None:
    assert doctor.worst(doctor.check_folder("/data", **facts)) == level


@pytest.mark.parametrize(
    ("free", "total", "level"),
    [(50e9, 100e9, "ok"), (2e9, 100e9, "warn"), (0.5e9, 1e9, "warn"), (1e7, 100e9, "fail")],
)
def test_space_on_the_disk(free: float, total: float, level: str) -> None:
    assert doctor.check_space("/data", free_bytes=int(free), total_bytes=int(total)).level == level


def test_passwords_are_not_told() -> None:
    env = {
        "CACHE_URL": "redis://u:secret@there:1/2",
        "CACHE_METADATA_URL": "postgresql://u:secret@db/x",
        "CACHE_EMBEDDING_MODEL": "hashing",
    }

    told = doctor.about(load_settings(env=env).settings)

    assert "secret" not in repr(told)
    assert told.store == "redis://there:1/2"


def test_a_part_that_hangs_or_breaks_hides_no_other() -> None:
    may_end = threading.Event()

    def breaks() -> None:
        raise MetadataUnavailable("the database is down\nand more lines")

    found = examination.read_all(
        {
            "hangs": (lambda: may_end.wait(60), 0.3),
            "breaks": (breaks, 5.0),
            "works": (lambda: 42, 5.0),
            "odd": (lambda: {}["x"], 5.0),
        }
    )
    may_end.set()

    assert found["hangs"].failed == "no answer within 0.3 s"
    assert found["breaks"].failed == "the database is down"
    assert found["works"].value == 42
    assert found["odd"].failed == "KeyError: 'x'"


def test_a_check_that_is_wrong_itself_says_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(doctor, "check_folder", broken)
    settings = load_settings(env={"CACHE_EMBEDDING_MODEL": "hashing", "CACHE_URL": "memory://"}).settings

    found = {each.check: each for each in examination.examine(settings, with_model=False)}

    assert found["here"].level == "fail"
    assert "ZeroDivisionError: of all things" in found["here"].what
    assert found["metadata"].level == "ok"


def test_the_deployments_settings_are_looked_at() -> None:
    visibility, longest = reading.delivery_limits()

    assert visibility == 900
    assert 100 < longest <= visibility / 5
