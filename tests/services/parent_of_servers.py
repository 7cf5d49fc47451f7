"""Run as a program: start servers as a child process would, say so, and wait to be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from cache_management.services import start_postgres, start_redis
from tests.waiting import wait_until


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:]]
    servers = []

    def start() -> None:
        servers.append(start_redis(folders[0]))
        servers.append(start_postgres(folders[1], fsync=False))

    # From a thread that ends: the servers must not end with it.
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    # join() returns before the kernel has ended the thread, and only then would it send a signal.
    wait_until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists())
    with suppress(subprocess.TimeoutExpired):
        servers[0].process.wait(0.5)
    alive = [server.is_running() for server in servers]
    print(json.dumps({"pids": [server.pid for server in servers], "alive": alive}), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
