"""The units of deploy/systemd: valid for systemd, and saying the same as docker-compose.yml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cache_management.settings import load_settings
from cache_management.workers import defaults
from cache_management.workers.messages import QUEUES
from tests.conftest import PROJECT_ROOT
from tests.deploying import option, ours, services, workers

UNITS = PROJECT_ROOT / "deploy" / "systemd"
INSTANCES = [f"cache-worker@{queue}.service" for queue in QUEUES]
LASTING = ["cache-beat.service", "cache-metrics.service", "cache-flower.service"]


def read(unit: str) -> list[tuple[str, str]]:
    """Return the lines of a unit as systemd puts it together: its file, then what is in its folders."""
    template = re.sub(r"@.*\.", "@.", unit)
    folders = sorted({UNITS / "cache-.service.d", UNITS / f"{template}.d", UNITS / f"{unit}.d"})
    files = [UNITS / template, *(file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()))]
    instance = unit.partition("@")[2].removesuffix(".service")
    found = []
    for file in files:
        for line in file.read_text().splitlines():
            if line and line[0] not in "#[":
                name, mark, value = line.partition("=")
                assert mark, (file.name, line)
                found.append((name, value.replace("%i", instance)))
    return found


def last(unit: str) -> dict[str, str]:
    """Return what holds of the settings that are no lists."""
    return dict(read(unit))


def variables(unit: str) -> dict[str, str]:
    """Return the environment of a unit, credentials at their place."""
    pairs = [pair for name, value in read(unit) if name == "Environment" for pair in re.findall(r"[A-Z_]+=\S+", value)]
    pairs += [line for line in (UNITS / "cache.env").read_text().splitlines() if line and line[0] != "#"]
    return dict(pair.split("=", 1) for pair in pairs)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze; the other tests read the units themselves")
    copy = tmp_path / "units"
    shutil.copytree(UNITS, copy)
    for file in copy.glob("*.service"):
        # It wants programs that are there.
        file.write_text(re.sub(r"/opt/cache/bin/\S+", "/bin/true", file.read_text()))

    found = subprocess.run(
        [program, "verify", "--man=no", "--recursive-errors=no", "cache.target", *INSTANCES, *LASTING],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{copy}:"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    # Only what it says of ours: a machine may have other units that it does not like.
    said = [line for line in found.stderr.splitlines() if "cache" in line]
    assert (found.returncode, said) == (0, [])


def test_target_wants_a_worker_of_every_queue_and_what_compose_runs() -> None:
    wanted = [word for name, value in _lines("cache.target") if name == "Wants" for word in value.split()]

    assert sorted(wanted) == sorted([*INSTANCES, *LASTING])
    assert {name.removeprefix("worker-") for name in ours()} == {
        *QUEUES,
        *(unit.removeprefix("cache-").removesuffix(".service") for unit in [*LASTING, "cache-migrate.service"]),
    }


def _lines(unit: str) -> list[tuple[str, str]]:
    lines = (UNITS / unit).read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and line[0] not in "#["]
    return [(name, value) for name, _, value in pairs]


@pytest.mark.parametrize("unit", [*INSTANCES, *LASTING])
def test_unit_is_started_again_and_may_do_little(unit: str) -> None:
    found = last(unit)

    assert found["Restart"] == "always"
    assert found["Requires"] == found["After"] == "cache-migrate.service" or "After" in found
    assert (found["DynamicUser"], found["User"]) == ("yes", "cache")
    assert (found["ProtectSystem"], found["NoNewPrivileges"], found["CapabilityBoundingSet"]) == ("strict", "yes", "")
    assert {"MemoryMax", "TasksMax", "PrivateTmp", "RestrictAddressFamilies", "SystemCallFilter"} <= set(found)
    assert ("After", "cache-migrate.service") in read(unit)


@pytest.mark.parametrize("queue", QUEUES)
def test_worker_is_run_and_stopped_as_in_a_container(queue: str) -> None:
    found = last(f"cache-worker@{queue}.service")
    options = variables(f"cache-worker@{queue}.service")["WORKER_OPTIONS"]
    words = found["ExecStart"].replace("$WORKER_OPTIONS", options).split()
    service = workers()[f"worker-{queue}"]

    assert words == ["/opt/cache/bin/cache-cli", *service["command"]]
    assert (found["KillSignal"], found["KillMode"]) == ("SIGQUIT", "mixed")
    assert int(found["TimeoutStopSec"]) > defaults.worker_soft_shutdown_timeout
    memory = service["deploy"]["resources"]["limits"]["memory"]
    assert found["MemoryMax"].lower() == memory


def test_the_others_are_run_as_in_a_container_but_on_this_machine_only() -> None:
    for unit in LASTING:
        words = last(unit)["ExecStart"].split()
        service = services()[unit.removeprefix("cache-").removesuffix(".service")]
        shown = [*service.get("entrypoint", ["cache-cli"]), *service["command"]]
        differ = {word.partition("=")[0] for word in set(words[1:]) ^ set(shown[1:])}
        assert differ <= {"--address", "--host", "--conf", "--db"}, unit
        assert "0.0.0.0" not in words
    assert "--address=127.0.0.1" in last("cache-flower.service")["ExecStart"]


def test_settings_are_known_and_passwords_are_credentials(tmp_path: Path) -> None:
    unit = "cache-worker@warm.service"
    credentials = dict(value.split(":") for name, value in read(unit) if name == "LoadCredential")
    env = {name: value.replace("%d", str(tmp_path)) for name, value in variables(unit).items()}
    for name in credentials:
        (tmp_path / name).write_text({"metadata_url": "postgresql://c:p@db/cache"}.get(name, "redis://:p@b:6379/0"))

    found = load_settings(env=env).settings

    assert found.distributed.enabled
    assert set(credentials) == set(services()["worker-warm"]["secrets"])
    assert all(path.startswith("/etc/cache/secrets/") for path in credentials.values())
    assert {name for name in env if name.endswith("_FILE")} == {
        name for name in services()["worker-warm"]["environment"] if name.endswith("_FILE")
    }


def test_control_worker_is_alone_in_its_process() -> None:
    assert option(workers()["worker-control"], "pool") == "solo"
    assert variables("cache-worker@control.service")["WORKER_OPTIONS"] == "--pool=solo"
