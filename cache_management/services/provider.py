"""Find a server program, run one server per data directory, and stop it.

A program comes from the first of: the path that the caller names, the PATH, a wheel of the
extra `embedded`. What runs in a data directory stands in its record, `NAME.json` beside a
lock that is held while a server starts: a second start finds the first server and uses it.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cache_management.cache.errors import ServerStartError
from cache_management.services.processes import (
    Identity,
    identify,
    is_alive,
    send,
    spawn,
    wait_for,
    wait_until_gone,
)

EXTRA = "pip install 'cache-management[embedded]'"
_PORT_ATTEMPTS = 8


class ProgramNotFound(ServerStartError):
    """No program of the wanted kind is installed, or none that suits."""


@dataclass(slots=True)
class Server:
    """A server that runs, or ran.

    `reused` says that it was found running in its data directory, started by another process.
    `stop()` stops it all the same; leaving a `with` block does not.
    """

    name: str
    url: str = field(repr=False)  # may hold a password
    pid: int
    port: int
    log: Path
    data_dir: Path
    identity: Identity = field(repr=False)
    reused: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def is_running(self) -> bool:
        """Tell whether this very process lives; a recycled pid does not count."""
        if self.process is not None:
            return self.process.poll() is None
        return is_alive(self.identity)

    def stop(self, *, timeout: float = 15.0) -> None:
        """Ask it to end, wait `timeout` seconds, then kill it. May be called again."""
        if self._signal(self.stop_signal) and not self._wait(timeout):
            self.kill()
        self._forget()

    def kill(self) -> None:
        """Kill it at once, as a crash would. May be called again."""
        if self._signal(signal.SIGKILL):
            self._wait(30.0)
        self._forget()

    def _signal(self, number: signal.Signals) -> bool:
        if self.process is None:
            return send(self.identity, number)
        if self.process.poll() is not None:
            return False
        self.process.send_signal(number)  # not reaped yet, so the pid is still ours
        return True

    def _wait(self, timeout: float) -> bool:
        if self.process is None:
            return wait_until_gone(self.identity, timeout)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _forget(self) -> None:
        # Another server may have been started in this directory since.
        path = _record_path(self.data_dir, self.name)
        record = _read_record(path)
        if record is not None and record.identity == self.identity:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.reused:
            self.stop()


@dataclass(frozen=True, slots=True)
class _Record:
    identity: Identity
    url: str
    port: int
    log: str


def find_program(names: Sequence[str], *, explicit: Path | None, wheel: str, in_wheel: Callable[[], Path]) -> Path:
    """Find the first of several programs that do the same.

    Raises:
        ProgramNotFound: The explicit path is no program, or nothing was found anywhere.
    """
    if explicit is not None:
        if not os.access(explicit, os.X_OK) or explicit.is_dir():
            raise ProgramNotFound(f"{explicit} is not an executable program: give the path of a {names[0]}")
        return explicit
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    try:
        return in_wheel()
    except Exception as exc:  # a foreign package, and each failure of it means: not there
        raise not_found(names, wheel=wheel, why=f"{type(exc).__name__}: {exc}") from exc


def not_found(names: Sequence[str], *, wheel: str, why: str) -> ProgramNotFound:
    """Say where a program was looked for, and the way out."""
    wanted = " or ".join(names)
    return ProgramNotFound(
        f"no usable {wanted}: no path was given, the PATH has none, and the wheel {wheel} has none "
        f"({why}); give the path of the program, install it, or run {EXTRA}"
    )


def free_port(*, highest: int = 65535) -> int:
    """Find a port on 127.0.0.1 that nobody listens on now; it may be taken a moment later."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    while port > highest:
        candidate = random.randint(20_000, highest)  # noqa: S311 - a guess, no secret
        if _is_free(candidate):
            port = candidate
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of an earlier server that linger in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def run_server(
    name: str,
    data_dir: Path,
    *,
    port: int | None,
    argv: Callable[[int], Sequence[str | Path]],
    url: Callable[[int], str],
    ready: Callable[[int, int], bool],
    timeout: float,
    die_with_parent: bool,
    prepare: Callable[[], None] | None = None,
    pick_port: Callable[[], int] = free_port,
    may_retry: Callable[[str], bool] = lambda _said: False,
    stop_signal: signal.Signals = signal.SIGTERM,
    cwd: Path | None = None,
    user: str | None = None,
) -> Server:
    """Return the server that runs in a data directory; start it when there is none.

    Args:
        argv: Command line for a port.
        ready: Given pid and port: does the server answer, and is it that process?
        prepare: Called under the lock before a start, not before a reuse.
        may_retry: Given what a server that ended had logged: is it worth another try?

    Raises:
        ServerStartError: With the reason and the end of the server's log.
    """
    with _locked(data_dir, name):
        live = _reuse(name, data_dir, port=port, ready=ready, timeout=timeout, stop_signal=stop_signal)
        if live is not None:
            return live
        if port is not None and not _is_free(port):
            raise _port_in_use(name, port)
        if prepare is not None:
            prepare()
        log = data_dir / f"{name}.log"
        for attempt in range(_PORT_ATTEMPTS):
            chosen = port if port is not None else pick_port()
            before = log.stat().st_size if log.exists() else 0
            line = argv(chosen)
            try:
                process = spawn(line, log=log, cwd=cwd, die_with_parent=die_with_parent, user=user)
            except OSError as exc:
                raise ServerStartError(f"{name} cannot be executed: {line[0]}: {exc}") from exc
            identity = identify(process.pid)
            if identity is not None:  # else it has ended already
                server = Server(
                    name=name,
                    url=url(chosen),
                    pid=process.pid,
                    port=chosen,
                    log=log,
                    data_dir=data_dir,
                    identity=identity,
                    stop_signal=stop_signal,
                    process=process,
                )
                _write_record(server)
                try:
                    if _came_up(server, ready, timeout):
                        return server
                except BaseException:  # Ctrl-C while it starts must not leave it behind
                    server.kill()
                    raise
                timed_out = server.is_running()
                server.kill()
                if timed_out:
                    raise ServerStartError(
                        f"{name} did not answer on 127.0.0.1:{chosen} within {timeout:g} s; "
                        f"its log {log} ends: {_tail(log, before)}"
                    )
            process.wait()
            said = _tail(log, before)
            taken = "address already in use" in said.lower()
            if taken and port is not None:
                raise _port_in_use(name, port)
            if not (taken or may_retry(said)) or attempt == _PORT_ATTEMPTS - 1:
                raise ServerStartError(
                    f"{name} ended with status {process.returncode} while it started; "
                    f"its log {log} ends: {said or '(nothing)'}"
                )
        raise AssertionError("unreachable: the last attempt returns or raises")


def _came_up(server: Server, ready: Callable[[int, int], bool], timeout: float) -> bool:
    """Wait for the first answer, the end of the process or the deadline."""
    wait_for(lambda: not server.is_running() or ready(server.pid, server.port), timeout=timeout)
    return server.is_running() and ready(server.pid, server.port)


def _reuse(
    name: str,
    data_dir: Path,
    *,
    port: int | None,
    ready: Callable[[int, int], bool],
    timeout: float,
    stop_signal: signal.Signals,
) -> Server | None:
    path = _record_path(data_dir, name)
    record = _read_record(path)
    if record is None or not is_alive(record.identity):
        # Stale, cut short, or its pid belongs to another program by now.
        path.unlink(missing_ok=True)
        return None
    pid = record.identity.pid
    if port is not None and port != record.port:
        raise ServerStartError(
            f"{name} already runs in {data_dir} as pid {pid} on port {record.port}, not {port}: "
            f"stop it first, or leave the port out to use it"
        )
    if not wait_for(lambda: ready(pid, record.port), timeout=timeout):
        raise ServerStartError(
            f"{name} runs in {data_dir} as pid {pid} but does not answer on 127.0.0.1:{record.port}; "
            f"see {record.log}, then stop that process and start again"
        )
    return Server(
        name=name,
        url=record.url,
        pid=pid,
        port=record.port,
        log=Path(record.log),
        data_dir=data_dir,
        identity=record.identity,
        reused=True,
        stop_signal=stop_signal,
    )


def _port_in_use(name: str, port: int) -> ServerStartError:
    return ServerStartError(
        f"{name} cannot start: port {port} on 127.0.0.1 is in use; stop what listens there, choose "
        f"another port, or leave it out to get a free one"
    )


@contextmanager
def _locked(data_dir: Path, name: str) -> Iterator[None]:
    """Let one process at a time start a server in a directory; the lock ends with its holder."""
    handle = os.open(data_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _record_path(data_dir: Path, name: str) -> Path:
    return data_dir / f"{name}.json"


def _read_record(path: Path) -> _Record | None:
    try:
        found = json.loads(path.read_text())
        return _Record(
            identity=Identity(int(found["pid"]), str(found["started"]), tuple(found["argv"])),
            url=str(found["url"]),
            port=int(found["port"]),
            log=str(found["log"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_record(server: Server) -> None:
    content = {
        "pid": server.pid,
        "started": server.identity.started,
        "argv": server.identity.argv,
        "url": server.url,
        "port": server.port,
        "log": str(server.log),
    }
    write_private(_record_path(server.data_dir, server.name), json.dumps(content))


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only this account may read it, for it may hold a password."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def _tail(log: Path, start: int) -> str:
    """Return what a server logged since `start`, at most its last lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - 1500))
            return file.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
