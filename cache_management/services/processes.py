"""Child processes: how they start, how they are recognised, how they end.

A plain child outlives its parent when that is killed with SIGKILL, and keeps its port
and its data directory. On Linux the kernel is asked to kill the child as well
(`PR_SET_PDEATHSIG`). Elsewhere there is no such thing: `die_with_parent` does nothing
there, and the next start finds the server by its record and takes it over.

That signal fires when the *thread* that forked ends, not the process. `spawn` therefore
forks from the main thread, or from one thread of its own that lives until the process
ends; a caller may use any thread.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LINUX = sys.platform.startswith("linux")
# Loaded here, long before a fork: a child between fork and exec must neither import nor take
# a lock that another thread of the parent may have held.
_libc = ctypes.CDLL(None, use_errno=True) if _LINUX else None


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process this is; a later process with the same pid has another start time."""

    pid: int
    started: str
    argv: tuple[str, ...]


def identify(pid: int) -> Identity | None:
    """Describe a live process; None when it is gone or only waits to be reaped."""
    return _identify_by_proc(pid) if _LINUX else _identify_by_ps(pid)


def is_alive(identity: Identity) -> bool:
    """Tell whether exactly this process still runs: same pid, start time and command line."""
    return identify(identity.pid) == identity


def _identify_by_proc(pid: int) -> Identity | None:
    folder = Path("/proc") / str(pid)
    try:
        # The program's name stands in brackets and may hold spaces and brackets itself.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        line = (folder / "cmdline").read_bytes()
        # Ticks since boot alone repeat after a reboot, and so do the pids of services.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    argv = tuple(os.fsdecode(part) for part in line.split(b"\0")[:-1])
    return Identity(pid, f"{boot}/{fields[19]}", argv)


def _identify_by_ps(pid: int) -> Identity | None:
    found = subprocess.run(
        ["ps", "-ww", "-o", "stat=,lstart=,command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
    ).stdout.split()
    if len(found) < 7 or found[0].startswith("Z"):
        return None
    return Identity(pid, " ".join(found[1:6]), tuple(found[6:]))


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    die_with_parent: bool = True,
    user: str | None = None,
    detached: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, its output appended to a log file.

    Args:
        argv: The program and its arguments; no shell is involved.
        log: Created with mode 600 when missing. Opened by the caller, so `user` needs no access.
        env: The whole environment of the child; None: a copy of the caller's.
        cwd: Where the child starts; None: the caller's folder.
        die_with_parent: On Linux the child is killed with SIGKILL when this process ends, however
            it ends. No effect elsewhere.
        user: An account to run as, with its own group and no other; needs root.
        detached: In a session of its own, so that it outlives the terminal and its parent.

    Raises:
        OSError: The program cannot be executed, or the log cannot be written.
    """
    # O_NOFOLLOW: the folder may belong to the account that the server runs as.
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    account = pwd.getpwnam(user) if user is not None else None

    def start() -> subprocess.Popen[bytes]:
        with warnings.catch_warnings():
            # Python 3.12 and later warn of any fork beside threads; `_bind_to` is made for that.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(
                [os.fspath(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                # A Ctrl-C in the terminal goes to the foreground group: the parent decides what stops.
                process_group=None if detached else 0,
                start_new_session=detached,
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                extra_groups=None if account is None else [],
                preexec_fn=_bind_to(os.getpid()) if die_with_parent and not detached else None,  # noqa: PLW1509
            )

    try:
        if detached or not die_with_parent or threading.current_thread() is threading.main_thread():
            return start()
        return _lasting_thread.run(start)
    finally:
        os.close(output)


def _bind_to(parent: int) -> Callable[[], None] | None:
    """Make the function that ties a fresh child to its parent's life."""
    if _libc is None:
        return None
    prctl = _libc.prctl

    def bind() -> None:
        # After the change of user, which would clear the setting again: subprocess calls this last.
        if prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            os._exit(126)
        # The parent may have died between the fork and the line above; nobody would signal then.
        if os.getppid() != parent:
            os._exit(126)

    return bind


class _LastingThread:
    """One thread that forks for the others and lives as long as the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._owner != os.getpid():  # also after a fork, where only the forking thread goes on
                self._owner = os.getpid()
                self._requests = queue.SimpleQueue()
                threading.Thread(target=self._serve, name="spawn", daemon=True).start()
        request = _Request(start, Future())
        self._requests.put(request)
        return request.answer.result()

    def _serve(self) -> None:
        while True:
            request = self._requests.get()
            try:
                request.answer.set_result(request.start())
            except BaseException as exc:  # noqa: BLE001 - it belongs to the caller, in its thread
                request.answer.set_exception(exc)


@dataclass(frozen=True, slots=True)
class _Request:
    start: Callable[[], subprocess.Popen[bytes]]
    answer: Future[subprocess.Popen[bytes]]


_lasting_thread = _LastingThread()


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it is gone."""
    if not is_alive(identity):
        return False
    with suppress(ProcessLookupError):
        os.kill(identity.pid, number)
        return True
    return False


def wait_until_gone(identity: Identity, timeout: float) -> bool:
    """Wait for the end of a process that need not be a child of ours."""
    return wait_for(lambda: not is_alive(identity), timeout=timeout)


def wait_for(condition: Callable[[], bool], *, timeout: float, pause: float = 0.02) -> bool:
    """Look at a condition until it holds; False when it still does not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a child has ended, without reaping it where the system allows that."""
    if process.returncode is None and hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return process.poll() is not None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what a child of `spawn` left in its process group, then reap the child itself."""
    # The child must not be reaped before: until then its pid, which names the group, is not reused.
    with suppress(ProcessLookupError, PermissionError):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def bind_to_parent() -> None:
    """Ask the kernel to kill this very process when its parent ends; no effect off Linux.

    For processes that somebody else forked, such as the pool children of a Celery worker.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
