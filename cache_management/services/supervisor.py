"""Keep several services running in one detached process, and tell others what runs.

The supervisor holds a lock on its directory for as long as it lives and keeps the file
`supervisor.json` there: its own process, its children and their URLs. Killed with SIGKILL it
takes its children along on Linux; elsewhere the next supervisor ends what is left of them.
Processes that a child started are the child's to end when it is taken along like that; in every
other case its whole process group goes.

It knows servers and command lines, not what they are for: the caller gives both.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from cache_management.cache.errors import ServerStartError
from cache_management.services.processes import (
    has_ended,
    identify,
    kill_group,
    spawn,
    wait_for,
)
from cache_management.services.provider import Server, write_private

_log = logging.getLogger(__name__)

Restart = Literal["always", "on-failure", "never"]
Status = Literal["starting", "running", "waiting", "ended", "failed"]
_CALM_SECONDS = 0.5  # the longest that a death without a signal, of a server found running, goes unseen


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerService:
    """A server that a function starts.

    `start` gets the port that the server had before, so that its clients find it again, and
    None the first time.
    """

    name: str
    start: Callable[[int | None], Server]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandService:
    """A program that the supervisor starts itself.

    `argv` and `env` get the URLs of the services before this one, by name. `env` gives the whole
    environment; None copies the supervisor's. `ready` says when the next service may start; None:
    at once.
    """

    name: str
    argv: Callable[[Mapping[str, str]], Sequence[str]]
    env: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None
    cwd: Path | None = None
    ready: Callable[[], bool] | None = None
    ready_seconds: float = 30.0
    restart: Restart = "always"
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30.0


Service = ServerService | CommandService


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the n-th start in a row, and when to give up."""

    first_seconds: float = 0.5
    longest_seconds: float = 30.0
    attempts: int = 10
    stable_seconds: float = 60.0  # who ran this long starts counting anew

    def delay(self, failures: int) -> float | None:
        """Return the seconds to wait after so many failures in a row; None: give up."""
        if failures > self.attempts:
            return None
        return min(self.longest_seconds, self.first_seconds * 2.0 ** (failures - 1))


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a child was when the file was written."""

    status: Status
    pid: int | None
    started: str | None
    url: str | None
    restarts: int
    log: str | None


@dataclass(frozen=True, slots=True)
class State:
    """What a supervisor says of itself and its children; URLs may hold passwords."""

    pid: int
    started: str
    started_at: float  # Unix seconds
    version: str
    ready: bool  # every service has started once
    services: dict[str, ServiceState]

    @property
    def urls(self) -> dict[str, str]:
        return {name: service.url for name, service in self.services.items() if service.url is not None}


def read_state(state_dir: Path) -> State | None:
    """Return what runs; None when no supervisor does, and then what it left is removed."""
    state = _load(state_dir)
    if state is None or _lives(state.pid, state.started):
        return state
    if not _children(state):
        try:
            with _lock(state_dir):
                _path(state_dir).unlink(missing_ok=True)
        except ServerStartError:
            pass  # a new supervisor is about to write its own
    return None


def request_stop(state_dir: Path, *, timeout: float = 60.0) -> bool:
    """Stop the supervisor and its children; False when none ran.

    After `timeout` seconds it is killed, and its children with it.
    """
    state = read_state(state_dir)
    if state is None:
        return False
    _signal(state.pid, state.started, signal.SIGTERM)
    if not wait_for(lambda: not _lives(state.pid, state.started), timeout=timeout):
        # Stopped first, so that it restarts nothing of what is killed now.
        _signal(state.pid, state.started, signal.SIGSTOP)
        latest = _load(state_dir) or state
        _kill_groups(latest)
        _signal(state.pid, state.started, signal.SIGKILL)
        wait_for(lambda: not _lives(state.pid, state.started) and not _children(latest), timeout=10.0)
        read_state(state_dir)
    _detached[:] = [process for process in _detached if process.poll() is None]
    return True


def start_detached(
    argv: Sequence[str], state_dir: Path, *, env: Mapping[str, str] | None = None, timeout: float = 120.0
) -> State:
    """Start a program that runs a `Supervisor` on this directory; wait until all services are up.

    `env` is its whole environment; None copies this process's.

    Raises:
        ServerStartError: One runs already, it ended, or it took too long; then nothing is left.
    """
    running = read_state(state_dir)
    if running is not None:
        raise _already_running(state_dir, running.pid)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = state_dir / "supervisor.log"
    log.unlink(missing_ok=True)
    process = spawn(argv, log=log, env=env, detached=True)
    _detached.append(process)

    def up() -> bool:
        state = _load(state_dir)
        return process.poll() is not None or (state is not None and state.pid == process.pid and state.ready)

    came_up = wait_for(up, timeout=timeout)
    state = read_state(state_dir)
    if came_up and state is not None and state.pid == process.pid:
        return state
    if process.poll() is None and not request_stop(state_dir, timeout=20.0):
        kill_group(process)
    process.wait()
    why = "ended while it started its services" if came_up else f"was not ready within {timeout:g} s"
    raise ServerStartError(f"the supervisor {why}; its log {log} ends: {log.read_text()[-2000:].strip()}")


# Kept so that Python does not warn of children that are meant to outlive it.
_detached: list[subprocess.Popen[bytes]] = []


@dataclass(slots=True)
class _Child:
    service: Service
    status: Status = "starting"
    server: Server | None = None
    process: subprocess.Popen[bytes] | None = None
    started: str | None = None
    since: float = 0.0
    failures: int = 0
    restarts: int = 0
    due: float = 0.0
    log: Path | None = field(default=None)

    @property
    def pid(self) -> int | None:
        if self.server is not None:
            return self.server.pid
        return self.process.pid if self.process is not None else None

    def has_ended(self) -> bool:
        if self.server is not None:
            return not self.server.is_running()
        return self.process is None or has_ended(self.process)


class Supervisor:
    """Start services in order, restart those that die, stop them in reverse order.

    Args:
        state_dir: Made when missing, mode 700. One supervisor at a time.
        version: Of the program, for those who read the state.
        backoff: Between the restarts of one service.
    """

    def __init__(self, state_dir: Path, *, version: str = "", backoff: Backoff | None = None) -> None:
        self._dir = state_dir.absolute()
        self._version = version
        self._backoff = backoff or Backoff()
        self._children: list[_Child] = []
        self._asked_to_stop = False
        self._wake = threading.Event()
        self._started_at = time.time()
        self._started = ""
        self._ready = False

    def run(self, services: Sequence[Service]) -> None:
        """Run until SIGTERM or SIGINT. Call it in the main thread, which alone gets signals.

        Raises:
            ServerStartError: Another supervisor runs here, or a service did not start the first
                time; those before it are stopped again.
        """
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        myself = identify(os.getpid())
        self._started = myself.started if myself is not None else ""
        # Patience: somebody who removes a stale file holds the lock for a moment.
        with _lock(self._dir, patience=1.0), self._signals():
            left = _load(self._dir)
            if left is not None:
                _end(left)
            self._children = [_Child(service) for service in services]
            try:
                self._write()
                for child in self._children:
                    if self._asked_to_stop:
                        return
                    self._start(child)
                    self._write()
                self._ready = True
                self._write()
                while not self._asked_to_stop:
                    self._wake.wait(self._look_after())
                    self._wake.clear()
            finally:
                self._stop_all()
                _path(self._dir).unlink(missing_ok=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._asked_to_stop = True
            self._wake.set()

        def look(_number: int, _frame: FrameType | None) -> None:
            self._wake.set()

        wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGCHLD: look}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, child: _Child, *, port: int | None = None) -> None:
        service = child.service
        if isinstance(service, ServerService):
            child.server = service.start(port)
            child.started, child.log = child.server.identity.started, child.server.log
        else:
            self._start_command(child, service)
        child.status, child.since = "running", time.monotonic()
        _log.info("%s runs as pid %s", service.name, child.pid)

    def _start_command(self, child: _Child, service: CommandService) -> None:
        urls = {other.service.name: other.server.url for other in self._children if other.server is not None}
        child.log = self._dir / f"{service.name}.log"
        try:
            child.process = process = spawn(
                service.argv(urls),
                log=child.log,
                env=None if service.env is None else service.env(urls),
                cwd=service.cwd,
            )
        except OSError as exc:
            raise ServerStartError(f"{service.name} cannot be executed: {exc}") from exc
        found = identify(process.pid)
        child.started = found.started if found is not None else None
        ready = service.ready
        if ready is None:
            return
        wait_for(lambda: self._asked_to_stop or has_ended(process) or ready(), timeout=service.ready_seconds)
        if self._asked_to_stop or (not has_ended(process) and ready()):
            return
        why = "ended" if has_ended(process) else f"was not ready within {service.ready_seconds:g} s"
        kill_group(process)
        child.process = None
        raise ServerStartError(f"{service.name} {why} while it started; see {child.log}")

    def _look_after(self) -> float:
        """Restart what is due; return the seconds until there may be more to do."""
        changed = False
        pause = _CALM_SECONDS
        for child in self._children:
            if child.status == "running" and child.has_ended():
                self._note_end(child)
                changed = True
            if child.status == "waiting" and not self._asked_to_stop:
                wait = child.due - time.monotonic()
                if wait > 0:
                    pause = min(pause, wait)
                else:
                    self._start_again(child)
                    changed = True
        if changed:
            self._write()
        return pause

    def _note_end(self, child: _Child) -> None:
        code: int | None = None
        if child.process is not None:
            # A worker's own children must not go on beside those of its successor.
            kill_group(child.process)
            code = child.process.returncode
        _log.warning("%s (pid %s) ended with status %s", child.service.name, child.pid, code)
        restart = child.service.restart if isinstance(child.service, CommandService) else "always"
        if restart == "never" or (restart == "on-failure" and code == 0):
            child.status = "ended"
            return
        if time.monotonic() - child.since >= self._backoff.stable_seconds:
            child.failures = 0
        self._plan_restart(child)

    def _plan_restart(self, child: _Child) -> None:
        child.failures += 1
        delay = self._backoff.delay(child.failures)
        if delay is None:
            child.status = "failed"
            _log.error("%s ended too often and is given up; see %s", child.service.name, child.log)
        else:
            child.status, child.due = "waiting", time.monotonic() + delay

    def _start_again(self, child: _Child) -> None:
        child.restarts += 1
        try:
            self._start(child, port=child.server.port if child.server is not None else None)
        except ServerStartError as exc:
            _log.error("%s", exc)
            self._plan_restart(child)

    def _stop_all(self) -> None:
        for child in reversed(self._children):
            try:
                _stop(child)
            except OSError:
                _log.exception("%s could not be stopped", child.service.name)

    def _write(self) -> None:
        state = State(
            pid=os.getpid(),
            started=self._started,
            started_at=self._started_at,
            version=self._version,
            ready=self._ready,
            services={
                child.service.name: ServiceState(
                    status=child.status,
                    pid=child.pid if child.status == "running" else None,
                    started=child.started if child.status == "running" else None,
                    url=child.server.url if child.server is not None else None,
                    restarts=child.restarts,
                    log=str(child.log) if child.log is not None else None,
                )
                for child in self._children
            },
        )
        write_private(_path(self._dir), json.dumps(asdict(state), indent=1))


def _stop(child: _Child) -> None:
    if child.server is not None:
        child.server.stop()
    elif child.process is not None and isinstance(child.service, CommandService):
        process = child.process
        if not has_ended(process):
            process.send_signal(child.service.stop_signal)
            wait_for(lambda: has_ended(process), timeout=child.service.stop_seconds)
        kill_group(process)


def _path(state_dir: Path) -> Path:
    return state_dir / "supervisor.json"


def _load(state_dir: Path) -> State | None:
    try:
        found = json.loads(_path(state_dir).read_text())
        services = {name: ServiceState(**service) for name, service in found.pop("services").items()}
        return State(services=services, **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _lives(pid: int, started: str | None) -> bool:
    found = identify(pid)
    return found is not None and found.started == started


def _signal(pid: int, started: str | None, number: signal.Signals) -> None:
    if _lives(pid, started):
        os.kill(pid, number)


def _children(state: State) -> list[tuple[int, str | None]]:
    """Return the recorded children that still run."""
    recorded = [(s.pid, s.started) for s in state.services.values() if s.pid is not None]
    return [(pid, started) for pid, started in recorded if _lives(pid, started)]


def _end(state: State) -> None:
    """End what a dead supervisor left running, which happens where children outlive it."""
    for pid, started in reversed(_children(state)):
        _signal(pid, started, signal.SIGTERM)
    if not wait_for(lambda: not _children(state), timeout=10.0):
        _kill_groups(state)


def _kill_groups(state: State) -> None:
    """Kill each child that still runs, with the children of its own."""
    for pid, _started in _children(state):
        # A child of `spawn` leads the group of its name; one that runs still holds that name.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _already_running(state_dir: Path, pid: int | None) -> ServerStartError:
    who = f"as pid {pid}" if pid is not None else "and is just starting or stopping"
    return ServerStartError(f"a supervisor runs on {state_dir} already {who}: `cache-cli down` stops it")


@contextmanager
def _lock(state_dir: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the directory; the kernel lets go when the holder ends, however it ends."""
    handle = os.open(state_dir / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not wait_for(lambda: _try_lock(handle), timeout=patience):
            state = _load(state_dir)
            raise _already_running(state_dir, state.pid if state is not None else None)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
