"""The plan of a warm job."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cache_management.cache.warm_items import WarmItem
from cache_management.models.store.results import Claim
from cache_management.settings import load_settings
from cache_management.wiring import open_platform
from cache_management.workers.inputs import _compress
from cache_management.workers.messages import WarmParams
from cache_management.workers.warm import plan
from tests.workers.harness import warm_items


def part_of(items: list[WarmItem]) -> tuple[bytes, int]:
    return _compress([msgspec.json.encode(item.model_dump(mode="json")) for item in items]), len(items)


async def test_positions_follow_what_the_parts_hold_whatever_their_size(tmp_path: Path) -> None:
    """Written by another version perhaps, whose parts were larger than ours."""
    platform = open_platform(load_settings(env={"CACHE_URL": "memory://", "CACHE_DATA_DIR": str(tmp_path)}).settings)
    jobs = platform.stores.jobs
    platform.stores.upgrade()
    items = warm_items(508)
    parts = [part_of(items[:500]), part_of(items[500:505]), part_of(items[505:])]
    params = WarmParams(version=1).model_dump()
    job_id = jobs.create("warm", params, namespace="default", submitted_by="me", inputs=parts).job_id
    claim = jobs.claim(job_id, 0, 0, owner="me", task_id="t", hard_limit_seconds=90)
    assert isinstance(claim, Claim)

    positions = []
    for _ in parts:
        progress = await plan(platform, claim)
        positions += [item.position for item in progress.new_items]
        committed = jobs.commit(claim, to_cursor=progress.to_cursor, new_items=progress.new_items)
        assert committed is not None
        assert committed.claim is not None
        claim = committed.claim

    assert positions == list(range(1, 509))
    await platform.aclose()
