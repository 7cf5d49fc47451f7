"""demo: the main job from end to end, on servers that it starts and stops itself."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from cache_management.cache.values import SimilarityMatch
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import print_pairs, print_table
from cache_management.cli.servers import print_state, start_set
from cache_management.cli.watching import end_of, print_job, watch_job
from cache_management.services.supervisor import request_stop
from cache_management.settings import Settings
from cache_management.wiring import RUN_FOLDER, Platform, read_settings
from cache_management.workers.client import JobClient, submit_warm_file

_DATA = files("cache_management.cli") / "demo_data"
_EXACT_SHOWN = 5
_SHOWN = 8
_Near = tuple[dict[str, Any], SimilarityMatch | None]


@click.command()
@click.option("--keep", is_flag=True, help="Leave the servers running and the data in place, and say where.")
@pass_cli
def demo(cli: CliContext, keep: bool) -> int:
    """Warm a cache with a real worker on embedded servers, then ask it questions.

    It uses a folder of its own; nothing of yours is touched.
    """
    with _embedded_set(keep=keep) as settings:
        code = _warm(settings)
        if code is not ExitCode.OK:
            return code
        cli_context = CliContext(None)
        cli_context.__dict__["loaded"] = read_settings(arguments={"data_dir": settings.data_dir})
        asked = cli_context.run(_ask)
        _report(settings)
        return ExitCode.OK if asked else ExitCode.FAILED


@contextmanager
def _embedded_set(*, keep: bool) -> Iterator[Settings]:
    folder = Path(tempfile.mkdtemp(prefix="cache-demo-"))
    _step("Starting an embedded set: a broker, a cache node, two workers and the scheduler")
    click.echo(f"  $ export CACHE_DATA_DIR={folder}\n  $ cache-cli up --with-redis\n")
    try:
        loaded = read_settings(arguments={"data_dir": folder})
        _stores_ready(loaded.settings)
        print_state(start_set(loaded, with_redis=True))
        yield read_settings(arguments={"data_dir": folder}).settings
    finally:
        if keep:
            click.echo(f"\nEverything still runs, its data is in {folder}:\n  $ CACHE_DATA_DIR={folder} cache-cli down")
        else:
            _step("Shutting down")
            click.echo("  $ cache-cli down\n")
            request_stop(folder / RUN_FOLDER)
            shutil.rmtree(folder, ignore_errors=True)
            click.echo("All servers stopped, the demo's data removed.")


def _stores_ready(settings: Settings) -> None:
    from cache_management.models.store import open_stores

    stores = open_stores(settings.metadata_url)
    stores.upgrade()
    stores.close()


def _warm(settings: Settings) -> ExitCode:
    _step("Warming 300 support questions and answers through the worker")
    click.echo("  $ cache-cli warm support.jsonl\n")
    client = JobClient(settings)
    try:
        with as_file(_DATA / "support.jsonl") as file:
            submitted = submit_warm_file(client, file)
        job, timed_out = watch_job(client, submitted.job_id, timeout=150)
        click.echo()
        print_job(job)
        return ExitCode.TIMEOUT if timed_out else end_of(job)
    finally:
        client.close()


async def _ask(platform: Platform) -> bool:
    """Show the three kinds of answers; return whether each came out as it should."""
    manager = platform.manager
    _step("Exact hits: the same question again, answered without a model")
    click.echo("  $ cache-cli get-cache PROMPT\n")
    await platform.llm_cache.backend.ping()  # connects, which is not what is shown here
    rows = []
    for line in (_DATA / "support.jsonl").read_text().splitlines()[:_EXACT_SHOWN]:
        prompt = json.loads(line)["prompt"]
        started = perf_counter()
        found = await manager.get_llm_cache(prompt)
        rows.append((prompt, found.response if found else "MISS", f"{(perf_counter() - started) * 1e6:,.0f} us"))
    print_table("Exact", ("asked", "answer", "took"), rows)
    exact = all(row[1] != "MISS" for row in rows)

    _step("Hits by meaning: a paraphrase gets the stored answer")
    click.echo("  $ cache-cli get-similar PROMPT\n")
    await manager.find_similar("loads the model", 0.99)
    paraphrases = _load("paraphrases.json")
    hits = [(each, await _best(platform, each["ask"])) for each in paraphrases]
    print_table(
        f"{sum(_served(match) for _, match in hits)} of {len(hits)} paraphrases answered (the first {_SHOWN})",
        ("asked", "stored question", "score"),
        [(each["ask"], match.prompt if match else "MISS", match.score if match else None) for each, match in hits][
            :_SHOWN
        ],
    )
    right = all(match is not None and match.prompt == each["expects"] for each, match in hits)

    _step("Near-misses: close, but another question. They must not be answered")
    near = [(each, await _best(platform, each["ask"], threshold=0.5)) for each in _load("near_misses.json")]
    wrong = [each for each, match in near if _served(match, platform.settings.similarity_threshold)]
    near.sort(key=lambda pair: pair[1].score if pair[1] else 0.0, reverse=True)
    near = _one_of_each_first(near)
    print_table(
        f"{len(near) - len(wrong)} of {len(near)} near-misses refused (first the closest of each gate)",
        ("asked", "closest stored question", "score", "refused because"),
        [
            (
                each["ask"],
                match.prompt if match else None,
                match.score if match else None,
                _why(match, platform.settings),
            )
            for each, match in near[:_SHOWN]
        ],
    )
    stats = await manager.get_stats()
    _step("Statistics")
    print_pairs(
        "This process",
        {
            "entries in the cache": stats.total_entries,
            "exact hits": stats.hits,
            "tokens saved": stats.tokens_saved,
            "backend": stats.backend,
        },
    )
    return exact and right and not wrong


async def _best(platform: Platform, ask: str, threshold: float | None = None) -> SimilarityMatch | None:
    found = await platform.manager.find_similar(ask, threshold, 1)
    return found[0] if found else None


def _served(match: SimilarityMatch | None, threshold: float = -1.0) -> bool:
    return match is not None and not match.vetoes and match.score >= threshold


def _one_of_each_first(near: list[_Near]) -> list[_Near]:
    """Put the closest that each gate refused before the rest, so that each gate is seen."""
    seen: set[tuple[str, ...]] = set()
    first: list[_Near] = []
    rest: list[_Near] = []
    for pair in near:
        vetoes = pair[1].vetoes if pair[1] is not None else ()
        (rest if not vetoes or vetoes in seen else first).append(pair)
        seen.add(vetoes)
    return first + rest


def _why(match: SimilarityMatch | None, settings: Settings) -> str:
    if match is None:
        return "nothing close"
    reasons = [f"{veto} differs" for veto in match.vetoes]
    if match.score < settings.similarity_threshold:
        reasons.append(f"below {settings.similarity_threshold:g}")
    return ", ".join(reasons) or "NOT REFUSED"


def _report(settings: Settings) -> None:
    from cache_management.models.store import open_stores

    stores = open_stores(settings.metadata_url)
    try:
        _step("The job is on record, and so is who did what")
        click.echo("  $ cache-cli jobs show JOB   $ cache-cli audit tail   $ cache-cli audit verify\n")
        job = stores.jobs.list(limit=1)[0]
        print_table(
            "Timeline", ("at", "event", "shard"), [(e.at, e.event, e.shard) for e in stores.jobs.events(job.id)]
        )
        trail = [row for row in stores.audit.tail(20) if row.job_id == job.id]
        print_table(
            "Audit log", ("at", "actor", "action", "outcome"), [(r.at, r.actor, r.action, r.outcome) for r in trail]
        )
        broken = stores.audit.verify()
        click.echo("The audit log is intact." if broken is None else f"The audit log is broken at entry {broken}.")
    finally:
        stores.close()


def _load(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((_DATA / name).read_text())
    return found


def _step(title: str) -> None:
    click.secho(f"\n== {title}", bold=True)
