"""How processors are shared among the processes of a worker."""

from __future__ import annotations

import os

import pytest
from celery.utils.sysinfo import cpu_budget

from cache_management.workers.cores import fit_threads, threads_for


def test_processes_share_what_there_is_and_none_goes_without() -> None:
    cores = cpu_budget(use_cgroup_quota=True).count

    assert threads_for(1) == cores
    assert threads_for(2 * cores) == 1


def test_what_the_environment_says_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)

    fit_threads(4)

    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
