"""The deployment's Celery settings, and what a worker may take from a message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

import celeryconfig
from cache_management.cache.errors import InvalidInput
from cache_management.workers import defaults
from cache_management.workers.messages import QUEUES, ROUTES, TASK_LIMITS

ROOT = Path(__file__).resolve().parents[2]


def test_messages_are_json_only() -> None:
    assert defaults.accept_content == ["json"]
    assert defaults.task_serializer == "json"


def test_the_visibility_timeout_is_five_times_the_longest_chunk() -> None:
    longest = max(limits.hard_seconds for limits in TASK_LIMITS.values())

    assert defaults.broker_transport_options["visibility_timeout"] >= 5 * longest


def test_every_route_has_limits_and_a_queue_that_a_worker_consumes() -> None:
    for route in ROUTES.values():
        assert route.task in TASK_LIMITS
        assert route.queue in QUEUES


def test_a_worker_that_is_told_no_queues_consumes_all_of_them() -> None:
    app = Celery("tests", broker="memory://")
    app.config_from_object(defaults)

    consumed = app.amqp.queues.consume_from

    assert set(consumed) == set(QUEUES)
    for name, queue in consumed.items():
        # As a producer that knows no queues makes them up: both must mean the same list.
        assert (queue.exchange.name, queue.exchange.type, queue.routing_key) == (name, "direct", name)


def test_scheduled_messages_expire_before_the_next_one() -> None:
    for entry in defaults.beat_schedule.values():
        assert entry["options"]["expires"] < entry["schedule"]
        assert entry["options"]["queue"] in QUEUES


@pytest.mark.parametrize(
    ("kind", "params", "says"), [("warn", {}, "no job of kind 'warn'"), ("warm", {"take": "nope"}, "take: .*'nope'")]
)
def test_a_schedule_that_no_worker_could_run_is_refused_where_it_is_written(
    kind: str, params: dict[str, str], says: str
) -> None:
    with pytest.raises(InvalidInput, match=f"(?s)schedule 'mine': .*{says}"):
        defaults.scheduled("mine", kind, every_seconds=60, params=params)


def test_settings_that_are_not_there_are_named(tmp_path: Path) -> None:
    given = {
        "CACHE_CELERY_CONFIG": "settings_of_nobody",
        "CACHE_BROKER_URL": "redis://127.0.0.1:1/0",
        "CACHE_DATA_DIR": str(tmp_path),
    }

    ended = subprocess.run(
        [sys.executable, "-m", "cache_management.cli", "beat"],
        env=os.environ | given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(
        "Error: CACHE_CELERY_CONFIG names 'settings_of_nobody', and there is no such module"
    )


def test_the_deployment_starts_from_the_defaults() -> None:
    assert celeryconfig.task_acks_late is defaults.task_acks_late
    assert celeryconfig.beat_schedule is defaults.beat_schedule


def test_submitting_loads_no_task_and_no_model() -> None:
    code = """
import sys
from cache_management import enqueue_warm
from cache_management.workers.client import JobClient
loaded = {"torch", "sentence_transformers", "numpy", "cache_management.workers.warm",
          "cache_management.workers.chunk", "cache_management.workers.app"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_celery_finds_the_app_by_the_package_name() -> None:
    code = """
import os
os.environ["CACHE_BROKER_URL"] = "memory://"
from cache_management.workers import celery_app
celery_app.loader.import_default_modules()
print(sorted(name for name in celery_app.tasks if not name.startswith("celery.")))
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert found.stdout.strip() == str(sorted(TASK_LIMITS))
