"""docker-compose.yml and Dockerfile: valid by their specifications, and as this program and its documents want them."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cache_management import __version__
from cache_management.cli.main import cli
from cache_management.services import start_redis
from cache_management.settings import load_settings, setting_names
from cache_management.workers import defaults, doctor
from cache_management.workers.messages import QUEUES
from cache_management.workers.process import EMBED_MEMORY_KIB
from tests.conftest import PROJECT_ROOT, start_or_skip
from tests.deploying import COMPOSE, composed, make_secrets, option, ours, services, workers

DOCKERFILE = PROJECT_ROOT / "Dockerfile"
OPTIONAL = "optional-dependencies"
NOT_SETTINGS = {"CACHE_CELERY_CONFIG", "CACHE_READY_FILE"}


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is mounted, and where."""
    return [(each.split(":")[0], each.split(":")[1]) for each in service.get("volumes", [])]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split(None, 1)[0], " ".join(line.split(None, 1)[1].split())) for line in lines]


# valid by their specifications


def test_compose_file_is_valid_by_the_specification() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert found.returncode == 0, found.stdout + found.stderr


def test_linter_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        if os.environ.get("CI"):
            pytest.fail("hadolint is not installed: pip install -e '.[dev]'")
        pytest.skip("hadolint is not installed")

    found = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)

    assert found.returncode == 0, found.stdout + found.stderr


# the set


def test_every_queue_has_a_worker_and_only_one_loads_the_model() -> None:
    consumed = [queue for each in workers().values() for queue in (option(each, "queues") or "").split(",")]

    assert sorted(consumed) == sorted(QUEUES)
    assert [name for name, each in ours().items() if each["image"].endswith("-embed")] == ["worker-embed"]
    assert option(services()["worker-control"], "pool") == "solo"


def test_names_of_workers_are_their_own() -> None:
    names = [option(each, "name") for each in workers().values()]

    assert len(set(names)) == len(names) == len(workers())


def test_workers_are_stopped_as_they_want_and_the_others_as_they_can() -> None:
    for name, each in ours().items():
        if name in workers():
            assert each["stop_signal"] == "SIGQUIT", name
            assert int(each["stop_grace_period"].removesuffix("s")) > defaults.worker_soft_shutdown_timeout, name
        elif name != "migrate":
            assert each["stop_signal"] == "SIGTERM", name


def test_what_needs_the_tables_waits_for_them() -> None:
    for name, each in ours().items():
        if name == "migrate":
            assert each["command"] == ["db", "upgrade"]
            assert each["depends_on"] == {"postgres": {"condition": "service_healthy"}}
            continue
        assert each["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}, name
        for server, how in each["depends_on"].items():
            assert server == "migrate" or how == {"condition": "service_healthy"}, (name, server)


def test_what_waits_for_another_may_also_reach_it() -> None:
    for name, each in services().items():
        for other in each.get("depends_on", {}):
            assert set(each["networks"]) & set(services()[other]["networks"]), (name, other)


@pytest.mark.parametrize("name", services())
def test_service_has_few_rights_and_bounds(name: str) -> None:
    service = services()[name]

    user, _, _ = str(service["user"]).partition(":")
    assert int(user) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"cap_add", "privileged", "network_mode", "pid", "ipc"}.isdisjoint(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["logging"]["options"]["max-size"]
    assert service["networks"]
    assert "/var/run/docker.sock" not in str(service.get("volumes"))
    if name == "migrate":
        assert service["restart"].startswith("on-failure")
    else:
        assert service["restart"] in ("always", "unless-stopped")
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_nothing_listens_beyond_this_machine() -> None:
    published = {name: each["ports"] for name, each in services().items() if "ports" in each}

    assert set(published) == {"flower", "prometheus", "grafana"}
    for ports in published.values():
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert {name for name, each in services().items() if "outside" in each["networks"]} == {"worker-warm"}
    for network in ("store", "watch"):
        assert composed()["networks"][network]["internal"] is True
    for server in ("postgres", "broker", "cache-1", "cache-2", "cache-3"):
        assert services()[server]["networks"] == ["store"]


def test_every_image_has_an_exact_version() -> None:
    for name, each in services().items():
        tag = each["image"].rpartition(":")[2]
        if name in ours():
            assert tag == f"{__version__}-{each['build']['target']}"
        else:
            assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?", tag), name
    for server in ("cache-1", "cache-2", "cache-3", "broker"):
        assert services()[server]["image"] == services()["cache-1"]["image"]


def test_memory_holds_what_the_processes_may_take() -> None:
    for name, each in workers().items():
        limit = _mebibytes(each["deploy"]["resources"]["limits"]["memory"])
        processes = 0 if option(each, "pool") == "solo" else int(option(each, "concurrency") or 2)
        kib = EMBED_MEMORY_KIB if name == "worker-embed" else defaults.worker_max_memory_per_child
        # Else the kernel would end a child in its chunk, before it begins anew by itself.
        assert limit >= 200 + processes * kib / 1024, name


def _mebibytes(text: str) -> int:
    return int(text[:-1]) * {"m": 1, "g": 1024}[text[-1]]


def test_whatever_is_mounted_is_there() -> None:
    for name, each in services().items():
        for source, _ in mounts(each):
            if source.startswith("."):
                assert (PROJECT_ROOT / source).exists(), (name, source)
                assert f"{source}:" in str(each["volumes"])
            else:
                assert source in composed()["volumes"], (name, source)
        # What is not a volume of its own is read only.
        for volume in each.get("volumes", []):
            assert volume.startswith(".") == volume.endswith(":ro"), (name, volume)


# what the program reads


def test_environment_is_what_the_settings_know(tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path / "secrets")
    known = {f"CACHE_{name.upper().replace('.', '__')}" for name in setting_names()}

    for name, each in ours().items():
        env = {key: value.replace("/run/secrets", str(secrets)) for key, value in each["environment"].items()}
        for key in env:
            assert not key.startswith("CACHE_") or key.removesuffix("_FILE") in known or key in NOT_SETTINGS, key
        found = load_settings(env=env).settings
        assert found.metadata_url == (secrets / "metadata_url").read_text(), name
        assert found.broker_url == (secrets / "broker_url").read_text()
        assert found.redis_password is not None
        assert found.redis_password.get_secret_value() == (secrets / "cache_password").read_text()
        assert [node.partition(":")[0] for node in found.distributed.nodes] == ["cache-1", "cache-2", "cache-3"]


def test_secrets_are_files_that_are_made_once_and_given_to_whoever_reads_them(tmp_path: Path) -> None:
    folder = make_secrets(tmp_path / "secrets")
    before = {path.name: path.read_text() for path in folder.iterdir()}

    make_secrets(folder)

    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {name: each["file"] for name, each in composed()["secrets"].items()} == {
        name: f"deploy/secrets/{name}" for name in composed()["secrets"]
    }
    assert set(composed()["secrets"]) <= set(before)
    for name, each in services().items():
        config = " ".join((PROJECT_ROOT / source).read_text() for source, _ in mounts(each) if source.endswith(".conf"))
        used = set(re.findall(r"/run/secrets/(\w+)", str({**each, "secrets": None}) + config))
        assert used == set(each.get("secrets", [])), name
    words = str([(each.get("command"), each.get("environment")) for each in services().values()])
    assert not re.search(r"requirepass|password=|//[^/ ]*:[^/ ]*@", words)


def test_command_lines_are_understood() -> None:
    for each in ours().values():
        if "entrypoint" in each:
            continue
        command: click.Command = cli
        arguments, parent = list(each["command"]), None
        while isinstance(command, click.Group):
            parent = command.make_context("cache-cli", arguments, parent=parent)
            _, found, arguments = command.resolve_command(parent, [*parent._protected_args, *parent.args])
            assert found is not None
            command = found
        command.make_context(command.name, arguments, parent=parent)


def test_options_of_flower_are_known() -> None:
    pytest.importorskip("flower")
    import flower.options  # noqa: F401 - defines them
    from tornado.options import options

    flower_service = services()["flower"]
    assert flower_service["entrypoint"] == ["celery", "--app=cache_management.workers.app", "flower"]
    for word in flower_service["command"]:
        assert word.removeprefix("--").partition("=")[0] in options, word
    assert "--read_only=true" in flower_service["command"]


@pytest.mark.parametrize("name", ["broker", "cache"])
def test_servers_are_set_as_doctor_wants_them(name: str, tmp_path: Path) -> None:
    """The settings of the file, on a real server."""
    from redis import Redis

    secrets = make_secrets(tmp_path / "secrets")
    given = _directives(PROJECT_ROOT / "deploy" / "valkey" / f"{name}.conf", secrets)
    server = start_or_skip(lambda: start_redis(tmp_path / "data", extra=given))
    try:
        password = (secrets / f"{name}_password").read_text()
        with Redis(port=server.port, password=password) as client:
            facts = doctor.server_facts(name, client.info(), skew_seconds=0, doubt_seconds=0)
    finally:
        server.stop()

    assert {finding.level for finding in doctor.check_broker(facts)} == {"ok"}
    service = services()["cache-1" if name == "cache" else name]
    assert 2 * facts.limit_bytes <= _mebibytes(service["deploy"]["resources"]["limits"]["memory"]) * 2**20


def _directives(path: Path, secrets: Path) -> list[str]:
    """Turn a configuration file, and what it includes, into options of a command line."""
    words = []
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "include":
            words += _directives(secrets / Path(value).name, secrets)
        elif name and not name.startswith("#"):
            words += [f"--{name}", value.strip('"')]
    return words


# the images


def test_images_are_made_of_what_is_there() -> None:
    said = instructions()
    sources = [word for verb, words in said if verb == "COPY" and "--from" not in words for word in words.split()[:-1]]
    rules = [line for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    extras = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"][OPTIONAL]

    assert sources
    for source in sources:
        assert (PROJECT_ROOT / source).exists(), source
        assert not _ignored(source, rules), source
    assert not _ignored("cache_management/cache/llm.py", rules)
    assert _ignored("deploy/secrets/broker_url", rules)
    assert _ignored(".git", rules)
    for name in re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE.read_text()):
        assert set(name.split(",")) <= set(extras)
    pinned = (PROJECT_ROOT / "constraints.txt").read_text()
    assert re.search(r"^flower==", pinned, flags=re.MULTILINE)


def _ignored(path: str, rules: list[str]) -> bool:
    """Decide as docker does: the last rule that matches the path, or a folder above it, counts."""
    above = [path, *(str(each) for each in Path(path).parents if str(each) != ".")]
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        if any(fnmatch.fnmatchcase(each, pattern) for each in above):
            ignored = not rule.startswith("!")
    return ignored


def test_images_run_as_the_accounts_and_in_the_folders_that_compose_names() -> None:
    said = instructions()
    stages = {words.split()[2]: words.split()[0] for verb, words in said if verb == "FROM"}
    last = {verb: words for verb, words in said if verb in ("USER", "STOPSIGNAL", "ENTRYPOINT", "HEALTHCHECK")}
    made = next(words for verb, words in said if verb == "RUN" and "useradd" in words)

    assert stages["light"] == stages["embed"] == "ground"
    assert {words for verb, words in said if verb == "ARG"} >= {"PYTHON=python:3.11.17-slim-trixie"}
    assert {stages["source"], stages["ground"]} == {"${PYTHON}"}
    assert list(stages)[-1] == "light", "the last stage is what is built when no target is named"
    assert last["USER"] == services()["beat"]["user"]
    assert f"--uid {last['USER'].partition(':')[0]} " in made
    assert last["STOPSIGNAL"] == "SIGQUIT"
    assert last["ENTRYPOINT"] == '["cache-cli"]'
    assert "CACHE_READY_FILE" in last["HEALTHCHECK"]
    for each in ours().values():
        for source, target in mounts(each):
            assert source.startswith(".") or target in made.split(), "a volume takes its owner from the image"


# what watches


def test_prometheus_asks_services_that_it_can_reach() -> None:
    config = yaml.safe_load((PROJECT_ROOT / "monitoring" / "prometheus.yml").read_text())
    reached = set(services()["prometheus"]["networks"])

    for job in config["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            host, _, port = target.partition(":")
            if host == "127.0.0.1":
                continue
            assert reached & set(services()[host]["networks"]), target
            assert f"127.0.0.1:{port}/" in str(services()[host]["healthcheck"]["test"])
    assert config["rule_files"] == ["rules/*.yml"]
    assert dict(mounts(services()["prometheus"]))["./monitoring/rules"] == "/etc/prometheus/rules"
    assert dict(mounts(services()["prometheus"]))["./monitoring/prometheus.yml"] == "/etc/prometheus/prometheus.yml"


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    folder = PROJECT_ROOT / "monitoring" / "grafana"
    (source,) = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "provisioning/dashboards/cache.yml").read_text())["providers"]
    mounted = dict(mounts(services()["grafana"]))

    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert set(services()[host]["networks"]) & set(services()["grafana"]["networks"])
    assert services()[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert provider["options"]["path"] == mounted["./monitoring/grafana/dashboards"]
    assert mounted["./monitoring/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_shell_scripts_have_no_syntax_error() -> None:
    shell = shutil.which("sh")
    assert shell
    subprocess.run([shell, "-n", PROJECT_ROOT / "deploy" / "make-secrets"], check=True, timeout=10)


def test_extras_of_the_light_image_load_every_task() -> None:
    """What those extras do not bring is kept from the imports: the tests have everything installed."""
    (extras,) = re.findall(r"'\.\[([\w,]+)\]' flower", DOCKERFILE.read_text())
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for name in extras.split(",") for each in project[OPTIONAL][name])]
    code = f"""
import sys
from importlib import metadata
sys.path.insert(0, {str(PROJECT_ROOT)!r})
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as plain

def closure(lines, extras, found):
    for line in lines:
        need = Requirement(line)
        if need.marker and not any(need.marker.evaluate({{"extra": each}}) for each in extras or ("",)):
            continue
        key = plain(need.name), frozenset(need.extras)
        if key not in found:
            found.add(key)
            closure(metadata.requires(need.name) or [], need.extras, found)
    return {{name for name, _ in found}}

there = closure({wanted!r}, (), set())
homes = metadata.packages_distributions()
for name in [each for each in sys.modules if each.partition(".")[0] == "packaging"]:
    del sys.modules[name]

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owners = {{plain(each) for each in homes.get(top, ())}}
        if owners and not owners & (there | {{"cache-management"}}):
            raise ModuleNotFoundError(f"No module named {{name!r}} without {{sorted(owners)}}", name=name)

sys.meta_path.insert(0, Refuse())
from cache_management.workers.app import app
app.loader.import_default_modules()
import kombu.transport.redis, cache_management.cache.crypto, cache_management.cli.transfer
import cache_management.workers.exporter
print(len([name for name in app.tasks if not name.startswith("celery.")]))
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_")}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=env | {"CACHE_BROKER_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert said.returncode == 0, said.stderr[-2000:]
    assert int(said.stdout) > 10
