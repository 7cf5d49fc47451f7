"""What is wrong with a set-up, and the way out: pure checks over what `workers/examination.py` has read.

Each check says one thing about one part. "fail" is what loses work or answers, "warn" what may.
"""

from __future__ import annotations

from cache_management.cache.findings import Finding, Level, worst
from cache_management.workers.doctor.here import check_folder, check_set, check_space, check_unused
from cache_management.workers.doctor.jobs import LATELY, LOSS, JobFacts, check_audit, check_jobs
from cache_management.workers.doctor.meaning import MeaningFacts, check_embedder, check_jobs_models, check_meaning
from cache_management.workers.doctor.nodes import check_nodes
from cache_management.workers.doctor.reaching import unreached
from cache_management.workers.doctor.room import DiskFacts, check_copies, check_disk_room, check_server_room, is_full
from cache_management.workers.doctor.servers import (
    ServerFacts,
    check_broker,
    check_cache_server,
    check_skew,
    check_visibility,
    server_facts,
)
from cache_management.workers.doctor.usage import UsageFacts, check_usage
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
    "LATELY",
    "LOSS",
    "About",
    "DiskFacts",
    "Finding",
    "JobFacts",
    "Level",
    "MeaningFacts",
    "ServerFacts",
    "UsageFacts",
    "WorkerFacts",
    "about",
    "check_audit",
    "check_beats",
    "check_broker",
    "check_cache_server",
    "check_copies",
    "check_disk_room",
    "check_embedder",
    "check_folder",
    "check_jobs",
    "check_jobs_models",
    "check_marks",
    "check_meaning",
    "check_nodes",
    "check_queues",
    "check_server_room",
    "check_set",
    "check_skew",
    "check_space",
    "check_unused",
    "check_usage",
    "check_visibility",
    "check_workers",
    "is_full",
    "server_facts",
    "unreached",
    "worst",
]
