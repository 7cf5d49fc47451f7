"""Run as a program: a supervisor with a Redis and a command that needs its URL."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cache_management.services import start_redis
from cache_management.services.supervisor import Backoff, CommandService, ServerService, Supervisor

# Leaves a grandchild in its group, as a worker with a pool does.
_WORKER = """
import os, signal, subprocess
subprocess.Popen(["sleep", "300"])
print(os.environ["URL"], flush=True)
signal.pause()
"""


def main() -> None:
    state_dir = Path(sys.argv[1])
    faults = sys.argv[2:]
    marker = state_dir / "worker.log"
    supervisor = Supervisor(
        state_dir, version="1.2.3", backoff=Backoff(first_seconds=0.05, longest_seconds=0.1, attempts=3)
    )
    supervisor.run(
        [
            ServerService(name="broker", start=lambda port: start_redis(state_dir / "broker", port=port)),
            CommandService(
                name="worker",
                argv=lambda _urls: [sys.executable, "-c", _WORKER],
                env=lambda urls: {**os.environ, "URL": urls["broker"]},
                ready=lambda: marker.exists() and "redis://" in marker.read_text(),
            ),
            CommandService(
                name="once",
                argv=lambda _urls: ["true"],
                restart="on-failure",
            ),
            *(CommandService(name="broken", argv=lambda _urls: ["false"]) for fault in faults if fault == "broken"),
            *(
                CommandService(name="late", argv=lambda _urls: ["false"], ready=lambda: False)
                for fault in faults
                if fault == "late"
            ),
        ]
    )


if __name__ == "__main__":
    main()
