"""How many threads the libraries of a model may use in each process of a worker."""

from __future__ import annotations

import os

from celery.utils.sysinfo import cpu_budget


def fit_threads(processes: int) -> None:
    """Share the processors among a worker's processes; call it before numpy, torch or ONNX Runtime load.

    Each of them would take all processors for itself, and two processes that do so are five to fifteen
    times slower than two that share. What the environment says already is kept. A container's quota counts.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_for(processes)))
    # A tokenizer with threads of its own deadlocks in a forked child.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def threads_for(processes: int) -> int:
    """Return how many threads one of so many processes may use; at least one."""
    cores: int = cpu_budget(use_cgroup_quota=True).count
    return max(1, cores // max(1, processes))
