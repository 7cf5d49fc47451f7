"""Read docker-compose.yml as compose does, and run what it says on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import PROJECT_ROOT

COMPOSE = PROJECT_ROOT / "docker-compose.yml"
_OURS = "cache-management:"


@cache
def composed() -> dict[str, Any]:
    """Return the file with its merges resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def services() -> dict[str, dict[str, Any]]:
    """Return the services by name."""
    found: dict[str, dict[str, Any]] = composed()["services"]
    return found


def ours() -> dict[str, dict[str, Any]]:
    """Return those that run this program."""
    return {name: each for name, each in services().items() if each["image"].startswith(_OURS)}


def workers() -> dict[str, dict[str, Any]]:
    """Return those that consume queues."""
    return {name: each for name, each in ours().items() if name.startswith("worker-")}


def option(service: Mapping[str, Any], name: str) -> str | None:
    """Return the value of `--name=value` in a command."""
    found = [word.partition("=")[2] for word in service["command"] if word.startswith(f"--{name}=")]
    return found[0] if found else None


def make_secrets(folder: Path) -> Path:
    """Make the passwords as the page says."""
    subprocess.run([PROJECT_ROOT / "deploy" / "make-secrets", folder], check=True, timeout=20)
    return folder


def argv_of(service: Mapping[str, Any], places: Mapping[str, str]) -> list[str]:
    """Return what a container would run, by this interpreter and with other places."""
    entrypoint = service.get("entrypoint", ["cache-cli"])
    modules = {"cache-cli": "cache_management.cli", "celery": "celery"}
    words = [*entrypoint[1:], *service["command"]]
    return [sys.executable, "-m", modules[entrypoint[0]], *(_moved(word, places) for word in words)]


def environment_of(service: Mapping[str, Any], places: Mapping[str, str], **more: str) -> dict[str, str]:
    """Return the environment of a container and nothing of the caller's settings, with other places."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CACHE_", "FLOWER_"))}
    given = {name: _moved(value, places) for name, value in service["environment"].items()}
    return inherited | given | more


def _moved(text: str, places: Mapping[str, str]) -> str:
    for there, here in places.items():
        text = text.replace(there, here)
    return text


class Composed:
    """The services of the file as processes of this machine, on servers that are embedded; each ends by its own pid."""

    def __init__(self, folder: Path, places: Mapping[str, str], *, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.places, self._env = places, dict(env)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of one service; its folders are its own, as in a container."""
        data = self.folder / name
        data.mkdir(exist_ok=True, mode=0o700)
        own = {"CACHE_DATA_DIR": str(data), "CACHE_READY_FILE": str(self._ready(name))}
        return environment_of(services()[name], self.places, **own, **self._env)

    def run(self, name: str) -> None:
        """Run a service that ends by itself."""
        said = subprocess.run(
            argv_of(services()[name], self.places),
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert said.returncode == 0, said.stderr

    def start(self, name: str, *options: str) -> None:
        """Start a service that lasts."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [*argv_of(services()[name], self.places), *options],
                env=self.environment(name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_healthy(self, name: str) -> bool:
        """Run the health check of a service, as it stands in the file."""
        assert self._running[name].poll() is None, f"{name} ended:\n{self.log(name)}"
        kind, *words = services()[name]["healthcheck"]["test"]
        places = {**self.places, "/tmp/ready": str(self._ready(name)), "$$": "$"}
        moved = [_moved(word, places) for word in words]
        argv = ["sh", "-c", *moved] if kind == "CMD-SHELL" else [sys.executable, *moved[1:]]
        return subprocess.run(argv, capture_output=True, check=False, timeout=20).returncode == 0

    def stop(self, *names: str) -> dict[str, int]:
        """Stop services with their own signals, all at once; return what each ended with."""
        for name in names:
            self._running[name].send_signal(signal.Signals[services()[name]["stop_signal"]])
        return {name: self._running.pop(name).wait(timeout=60) for name in names}

    def log(self, name: str) -> str:
        """Return the end of what a service said."""
        return (self.folder / f"{name}.log").read_text()[-3000:]

    def close(self) -> None:
        """End what is left."""
        for process in self._running.values():
            process.kill()
            process.wait()

    def _ready(self, name: str) -> Path:
        return self.folder / f"{name}.ready"
