"""simulate: what a cache would have saved, before it is deployed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click

from cache_management.cache.config import EvictionPolicy
from cache_management.cache.errors import InvalidInput
from cache_management.cache.request_logs import SHAPES, Log, LoggedRequest, Shape, read_logs, rows
from cache_management.cache.simulation import Replayed, Scenario, replay
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.numbers import Number
from cache_management.cli.output import json_option, note, plain, print_json, print_table, progress
from cache_management.cli.pages import check_pages, write_page
from cache_management.cli.simulation_tables import COLUMNS, rows_of
from cache_management.settings import Settings

_MOST_SCENARIOS = 60
_REMEMBERED = 200_000


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--shape", type=click.Choice(SHAPES), help="What the rows are  [default: each says by itself]")
@click.option("-t", "--threshold", "thresholds", type=Number(-1, 1), multiple=True, help="By meaning, from here.")
@click.option("--exact", is_flag=True, help="Exact answers alone, beside the thresholds that are given.")
@click.option("--no-gates", is_flag=True, help="Each threshold without gates, too.")
@click.option("--policy", "policies", type=click.Choice([each.value for each in EvictionPolicy]), multiple=True)
@click.option("--max-size", "sizes", type=click.IntRange(1, 10**8), multiple=True, help="Entries that are kept.")
@click.option("--ttl", "lives", type=click.IntRange(-1), multiple=True, help="Seconds; -1 has no end.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots too.")
@json_option
@pass_cli
def simulate(
    cli: CliContext,
    files: tuple[Path, ...],
    shape: Shape | None,
    thresholds: tuple[float, ...],
    exact: bool,
    no_gates: bool,
    policies: tuple[str, ...],
    sizes: tuple[int, ...],
    lives: tuple[int, ...],
    page: Path | None,
    as_json: bool,
) -> int:
    """Replay the request logs FILES on caches of several configurations; print what each would have saved.

    Hit rate, money, tokens, false hits and memory. Options that can be given several times are tried in every
    combination; what is left out is that of the configuration.

    FILES are JSON lists or JSON Lines: rows with prompt or messages, response, model, timestamp, token_count, cost_usd
    and group (a label: one answer serves a group), or OpenAI batches (requests and results), LiteLLM logs, Langfuse
    generations. Nothing is stored, and no model but the embedding model is asked.
    """
    check_pages({"--html": page}, reads=files)
    scenarios = _scenarios(cli.settings, thresholds, exact, no_gates, policies, sizes, lives)
    log = read_logs(files, shape=shape)
    remarks = _remarks(log)
    if cli.settings.semantic.gates_off and any(each.threshold is not None and each.gates for each in scenarios):
        remarks.append(f"Gates that the configuration leaves off: {', '.join(cli.settings.semantic.gates_off)}.")
    for each in remarks:
        note(each)
    found = asyncio.run(_replay_all(log.requests, scenarios, cli.settings, quiet=as_json))
    of_result = _remarks_of_result(found)
    for each in of_result:
        note(each)
    if page is not None:
        from cache_management.cli.simulation_page import render

        write_page(page, render(found, ", ".join(file.name for file in files), [*remarks, *of_result]))
    if as_json:
        scenes = [
            {**plain(each), "hit_rate": each.hit_rate, "saved_usd": each.saved_micro / 1e6, "name": each.scenario.name}
            for each in found
        ]
        print_json(
            {
                "requests": len(log.requests),
                "left_out": log.left_out,
                "untimed": log.untimed,
                "without_model": log.without_model,
                "scenarios": scenes,
            }
        )
        return ExitCode.OK
    print_table(f"{len(log.requests):,} requests replayed", COLUMNS, rows_of(found))
    if page is not None:
        note(f"The page is {page}.")
    return ExitCode.OK


def _remarks(log: Log) -> list[str]:
    """Say what a reader of the result has to know of the log."""
    remarks = [
        f"{rows(count)} {'is' if count == 1 else 'are'} left out: {reason}" for reason, count in log.left_out.items()
    ]
    if log.untimed == len(log.requests):
        remarks.append("No row has a time: a request comes each second.")
    elif log.untimed:
        remarks.append(f"{rows(log.untimed)} {'has' if log.untimed == 1 else 'have'} no time: the row before says it.")
    if log.without_model:
        names = "names" if log.without_model == 1 else "name"
        remarks.append(
            f"{rows(log.without_model)} {names} no model: what is asked without one is taken as asked of the same."
        )
    return remarks


def _remarks_of_result(found: Sequence[Replayed]) -> list[str]:
    """Say what the cache refused to store, and which labels part equal requests: of the scenario with most of it."""
    refused = max((each.not_kept for each in found), key=lambda each: sum(each.values()))
    remarks = [
        f"{'1 answer was' if count == 1 else f'{count:,} answers were'} not kept: {why}"
        for why, count in refused.items()
    ]
    conflicts = max(each.conflicts for each in found)
    if conflicts:
        hits = "1 exact hit has" if conflicts == 1 else f"{conflicts:,} exact hits have"
        remarks.append(
            f"{hits} another label than what answers them: equal requests have one answer, or the log lacks what"
            " tells them apart."
        )
    return remarks


def _scenarios(
    settings: Settings,
    thresholds: Sequence[float],
    exact: bool,
    no_gates: bool,
    policies: Sequence[str],
    sizes: Sequence[int],
    lives: Sequence[int],
) -> list[Scenario]:
    floors: list[float | None] = [*([None] if exact or not thresholds else []), *thresholds]
    if not thresholds and not exact:
        floors.append(settings.similarity_threshold)
    found = [
        Scenario(floor, gates, policy, size, None if life == -1 else life)
        for floor, gates, policy, size, life in product(
            dict.fromkeys(floors),
            (True, False) if no_gates else (True,),
            dict.fromkeys(policies or [str(settings.eviction_policy)]),
            dict.fromkeys(sizes or [settings.max_size]),
            dict.fromkeys(lives or [-1 if settings.ttl_seconds is None else settings.ttl_seconds]),
        )
        if gates or floor is not None
    ]
    if len(found) > _MOST_SCENARIOS:
        raise InvalidInput(f"{len(found)} configurations are too many at once; take at most {_MOST_SCENARIOS}")
    return found


async def _replay_all(
    requests: Sequence[LoggedRequest], scenarios: Sequence[Scenario], settings: Settings, *, quiet: bool
) -> list[Replayed]:
    embedder = None
    if any(each.threshold is not None for each in scenarios):
        from cache_management.cache.embeddings import open_embedder
        from cache_management.cache.semantic.embedding_cache import CachingEmbedder

        config = settings.similarity()
        embedder = CachingEmbedder(
            open_embedder(config.model, engine=config.engine, device=config.device),
            max_size=_REMEMBERED,
            folder=None if config.folder is None or not config.cache_embeddings else config.folder / "texts",
        )
        await embedder.load()
    found = []
    with progress(quiet=quiet) as advance:
        for number, scenario in enumerate(scenarios, start=1):
            name = f"{number}/{len(scenarios)}"
            found.append(
                await replay(
                    requests,
                    scenario,
                    embedder=embedder,
                    config=settings,
                    meaning=settings.similarity(),
                    prices=settings.prices,
                    on_progress=lambda done, name=name: advance(name, done, len(requests)),  # type: ignore[misc]
                )
            )
    return found
