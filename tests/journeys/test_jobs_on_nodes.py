"""Jobs over three nodes, of which one is killed and comes back empty: warm, export, import, evict, repair, stats."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cache_management.settings import load_settings
from cache_management.wiring import open_platform
from tests.cache.cluster.copies import are_level, copies_on
from tests.conftest import OwnRedis, OwnRedisFactory
from tests.workers.harness import JobWorld, job_world, warm_items

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

QUEUES = ("control", "warm", "evict", "repair", "transfer")


def run(world: JobWorld, kind: str, **params: Any) -> Any:
    job = world.wait_for_job(world.client.submit(kind, params).job_id)
    assert job.state == "succeeded", job
    return job


def ask(world: JobWorld, prompts: list[str]) -> int:
    """Ask as an application does; return how many answers there are."""

    async def main() -> int:
        platform = open_platform(load_settings(env=world.env, arguments={"strict": True}).settings)
        found = [(await platform.entries.lookup(prompt)).hit for prompt in prompts]
        await platform.aclose()
        return sum(found)

    return asyncio.run(main())


def test_jobs_of_every_kind_while_a_node_is_killed_and_comes_back_empty(
    tmp_path: Path, own_redis: OwnRedisFactory
) -> None:
    servers: list[OwnRedis] = [own_redis() for _ in range(3)]
    nodes = [f"127.0.0.1:{server.port}" for server in servers]
    prompts = [item.prompt for item in warm_items(400)]
    file = tmp_path / "all.jsonl"
    with job_world(tmp_path / "world", broker_url=own_redis(appendonly=True).url, nodes=nodes) as world:
        world.start_worker(queues=QUEUES, concurrency=1)

        warmed = world.wait_for_job(world.client.submit_warm(warm_items(400), embed=False).job_id)
        servers[0].kill()
        exported = run(world, "export", path=str(file))
        evicted = run(world, "evict", pattern="*question number 1*", keys_per_second=0)
        left = [prompt for prompt in prompts if not prompt.startswith("question number 1")]
        with_one_away = ask(world, prompts)
        servers[0].restart(empty=True)
        repaired = run(world, "repair", full=True, keys_per_second=0)
        level_after_repair = are_level(nodes)
        servers[1].kill()
        from_the_others = ask(world, left)
        servers[1].restart(empty=True)
        # The worker may have brought it up by itself by now.
        by_command = subprocess.run(
            [sys.executable, "-m", "cache_management.cli", "repair", "run"],
            env=world.inherited_env() | world.env,
            capture_output=True,
            text=True,
            check=False,
        )
        imported = run(world, "import", path=str(file), embed=False)
        counted = run(world, "stats")

        assert (warmed.state, warmed.done) == ("succeeded", 400)
        assert (exported.done, exported.summary["exported"]) == (400, 400)
        assert (evicted.done, with_one_away) == (400 - len(left), len(left))
        assert repaired.summary["passed_over"] == []
        assert level_after_repair
        assert from_the_others == len(left)
        assert (by_command.returncode, "copies made" in by_command.stdout) == (0, True), by_command
        assert imported.summary["added"] == 400 - len(left), "what was removed since comes back, and nothing else"
        assert ask(world, prompts) == 400
        assert len(copies_on(nodes[0])) >= 400
        assert counted.state == "succeeded"
        assert world.stores.audit.verify() is None
