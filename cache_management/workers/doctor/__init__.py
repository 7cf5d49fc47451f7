"""What is wrong with a set-up, and the way out: pure checks over what `workers/examination.py` has read.

Each check says one thing about one part. "fail" is what loses work or answers, "warn" what may.
"""

from __future__ import annotations

from cache_management.cache.findings import Finding, Level, worst
from cache_management.workers.doctor.here import check_folder, check_space
from cache_management.workers.doctor.meaning import check_embedder, check_jobs_models
from cache_management.workers.doctor.nodes import check_nodes
from cache_management.workers.doctor.reaching import unreached
from cache_management.workers.doctor.servers import (
    ServerFacts,
    check_broker,
    check_cache_server,
    check_skew,
    check_visibility,
    server_facts,
)
from cache_management.workers.doctor.workers import (
    BEAT,
    About,
    WorkerFacts,
    about,
    check_beats,
    check_marks,
    check_queues,
    check_workers,
)

__all__ = [
    "BEAT",
    "About",
    "Finding",
    "Level",
    "ServerFacts",
    "WorkerFacts",
    "about",
    "check_beats",
    "check_broker",
    "check_cache_server",
    "check_embedder",
    "check_folder",
    "check_jobs_models",
    "check_marks",
    "check_nodes",
    "check_queues",
    "check_skew",
    "check_space",
    "check_visibility",
    "check_workers",
    "server_facts",
    "unreached",
    "worst",
]
