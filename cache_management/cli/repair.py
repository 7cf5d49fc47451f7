"""repair: whether the copies of a replicated cache are level, and making them so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cache_management.cache.errors import InvalidInput
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.nodes import fates_written
from cache_management.cli.numbers import Number
from cache_management.cli.output import json_option, note, print_json, print_pairs, progress
from cache_management.cli.watching import follow, repair_rows, waiting_options
from cache_management.wiring import Platform, require_nodes
from cache_management.workers.messages import RepairParams

if TYPE_CHECKING:
    from cache_management.cache.cluster.mending import Place
    from cache_management.cache.cluster.standing import Standing

_SLOTS_SHOWN = 10


@click.group()
def repair() -> None:
    """Compare the copies of a replicated cache (distributed.enabled), and bring them to the same versions."""


@repair.command()
@json_option
@pass_cli
def check(cli: CliContext, as_json: bool) -> int:
    """Compare the nodes by their sums of each slot, and tell which do not count now; change nothing.

    Exit code 1 when slots differ, or a node does not count. What is being written meanwhile is looked at again.
    """

    async def look(platform: Platform) -> tuple[Standing, frozenset[int]]:
        from cache_management.cache.cluster.repair import Repair, lasting_differences
        from cache_management.cache.cluster.standing import look_over

        cache = platform.replicated
        membership = cache.backend.membership
        standing = await look_over(membership)
        if not standing.epoch:
            return standing, frozenset()
        return standing, (await lasting_differences(Repair(membership, listener=cache.tell))).slots

    standing, differing = cli.run(look)
    is_level = not differing and not standing.away
    if as_json:
        print_json(
            {
                "level": is_level,
                "slots_differing": sorted(differing),
                "slots_moving": standing.slots_moving,
                "away": [{"node": node.address, "state": node.state, "why": node.why} for node in standing.away],
                "nodes": len(standing.nodes),
            }
        )
    elif is_level and not standing.epoch:
        click.echo(f"{len(standing.nodes)} nodes, and nothing was ever stored on them.")
    elif is_level:
        click.echo(f"The copies on {len(standing.nodes)} nodes are level.")
    else:
        shown = ", ".join(str(slot) for slot in sorted(differing)[:_SLOTS_SHOWN])
        rows: dict[str, object] = {
            "slots that differ": f"{len(differing)}: {shown}{', …' if len(differing) > _SLOTS_SHOWN else ''}"
            if differing
            else None,
            "slots that move": standing.slots_moving or None,
            **{node.address: node.state for node in standing.away},
        }
        print_pairs("Not level", {name: row for name, row in rows.items() if row is not None})
        note("`cache-cli repair run` brings nodes up that answer, and makes copies level.")
    return ExitCode.OK if is_level else ExitCode.FAILED


@repair.command()
@click.option("--full", is_flag=True, help="Look at every key, and forget what may be forgotten.")
@click.option("--rate", type=Number(min=0), default=5000, show_default=True, help="Keys a second; 0: no bound.")
@click.option("--local", is_flag=True, help="Run in this process instead of submitting a job.")
@waiting_options
@pass_cli
def run(cli: CliContext, full: bool, rate: float, local: bool, wait: bool, timeout: float | None, as_json: bool) -> int:
    """Bring nodes up to date that do not count, let moves come to their end, then make copies level.

    Without --full only keys of slots are looked at that differ. A node that does not answer is passed over and told;
    `cache-cli repair check` says how things are afterwards. A worker does the work and records it as a job; with
    --local, or when no broker is configured, this process does.
    """
    if local and (timeout is not None or not wait):
        raise InvalidInput("--local waits for the work it does itself: leave out --no-wait and --timeout")
    require_nodes(cli.settings)
    params = RepairParams(full=full, keys_per_second=rate)
    if local or not cli.settings.broker_url:
        if not local:
            note("No broker is configured, so this process does the work (`cache-cli up` starts workers).")
        return _run_here(cli, params, as_json=as_json)

    async def reach(platform: Platform) -> None:
        await platform.replicated.backend.membership.connect()

    cli.run(reach)
    client = cli.client()
    client.check_broker()
    submitted = client.submit("repair", params, idem_key=json.dumps({"full": full}))
    return follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json)[1]


def _run_here(cli: CliContext, params: RepairParams, *, as_json: bool) -> ExitCode:
    async def work(platform: Platform) -> Place:
        from cache_management.cache.cluster.mending import Mending, Place

        mending = Mending(platform.replicated, full=params.full, keys_per_second=params.keys_per_second)
        place = Place()
        with fates_written(cli, platform.replicated), progress(quiet=as_json) as advance:
            while place.step != "done":
                place = await mending.advance(place)
                if place.brought:
                    advance("brought", place.brought, None)
                advance("looked at", place.tally.seen, None)
                if place.nodes:
                    advance("nodes", place.read, place.nodes)
        return place

    with cli.audited("cache.repair", params.model_dump()):
        place = cli.run(work)
    from cache_management.cache.cluster.mending import summary_of

    summary = summary_of(place)
    if as_json:
        print_json({"state": "succeeded", "summary": summary})
    else:
        print_pairs("Repaired", repair_rows(summary))
    return ExitCode.OK
