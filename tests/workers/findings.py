"""What tests of doctor look at findings with."""

from __future__ import annotations

from collections.abc import Iterable

from cache_management.workers.doctor import Finding, ServerFacts

WELL = ServerFacts(
    where="redis://there:6379/0",
    version="7.2.4",
    run_id="a",
    policy="noeviction",
    limit_bytes=0,
    used_bytes=1,
    keeps_log=True,
    log_is_well=True,
    is_replica=False,
    is_cluster=False,
    skew_seconds=0.0,
    doubt_seconds=0.0,
)


def levels(findings: Iterable[Finding] | Finding) -> dict[str, str]:
    found = [findings] if isinstance(findings, Finding) else list(findings)
    for each in found:
        # Whatever is not well says why that matters, and what to do.
        assert each.level == "ok" or (each.what and each.why and each.way_out), each
    return {each.check: each.level for each in found if each.level != "ok"}
