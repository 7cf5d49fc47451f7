"""nodes: those of a replicated cache; how they stand, and how one comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from cache_management.cache.errors import BackendUnavailable, CacheError, ConfigurationError
from cache_management.cache.events import Event, NodeEvent
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.invalidate import is_wanted
from cache_management.cli.output import Advance, Styled, json_option, note, print_json, print_table, progress
from cache_management.cli.watching import Command
from cache_management.wiring import Platform, require_nodes

if TYPE_CHECKING:
    from cache_management.cache.cluster.distributed import DistributedCache
    from cache_management.cache.cluster.standing import NodeStanding, Standing

_LOOK_EVERY_SECONDS = 0.25
_STANDSTILL_SECONDS = 30.0
_STYLES = {"member": "green", "syncing": "yellow", "out": "bold red", "unreachable": "bold red"}


@click.group()
def nodes() -> None:
    """Look at the nodes of a replicated cache (distributed.enabled), add and remove them.

    Not for a Redis Cluster: that is looked after with `redis-cli --cluster`.
    """


@nodes.command()
@json_option
@pass_cli
def status(cli: CliContext, as_json: bool) -> None:
    """Show each node: whether it counts, what it holds, its share of the slots; change nothing.

    member: it counts. syncing: it takes writes, and counts when it was read in. out: it answers and does not count.
    unused: it belongs to no cluster yet.
    """

    async def look(platform: Platform) -> Standing:
        from cache_management.cache.cluster.standing import look_over

        return await look_over(platform.replicated.backend.membership)

    standing = cli.run(look)
    if as_json:
        print_json(standing)
        return
    if not standing.epoch:
        title = "Nodes of a replicated cache that was never used"
    else:
        moving = f"{standing.slots_moving} slots move" if standing.slots_moving else "no slots move"
        title = f"Nodes of the replicated cache, epoch {standing.epoch}, {moving}"
    print_table(title, ("node", "state", "keys", "memory", "slots"), [_row(node) for node in standing.nodes])
    for node in standing.away:
        if node.why:
            note(f"{node.address}: {node.why}")


def _row(node: NodeStanding) -> tuple[object, ...]:
    from cache_management.cache.cluster.slots import SLOTS

    memory = None if node.used_bytes is None else f"{node.used_bytes / 1e6:,.1f} MB"
    if memory and node.limit_bytes:
        memory += f" of {node.limit_bytes / 1e6:,.1f}"
    state = f"{node.state}, leaving" if node.is_leaving and node.state != "unused" else node.state
    share = f"{100 * node.slots_first / SLOTS:.1f} %"
    return node.address, Styled(state, _STYLES.get(node.state, "")), node.keys, memory, share


def _moving_options(command: Command) -> Command:
    for option in (
        json_option,
        click.option(
            "--wait/--no-wait", default=True, show_default=True, help="Show the progress until its slots have moved."
        ),
    ):
        command = option(command)
    return command


@nodes.command()
@click.argument("address")
@_moving_options
@pass_cli
def add(cli: CliContext, address: str, wait: bool, as_json: bool) -> int:
    """Let the server at ADDRESS (host:port, or host:port/database) take part. It must be empty.

    Its share of the slots moves to it. With --no-wait whatever process uses the cache moves them.
    """

    async def begin(cache: DistributedCache, address: str) -> None:
        if address in cache.backend.membership.known_table().addresses.values():
            raise ConfigurationError(f"node {address} is one of the nodes already")
        await cache.backend.keeper.moves.add(address)

    code = _change(cli, "add", address, begin, wait=wait, as_json=as_json)
    note("Name it in distributed.nodes, too: it is where a process looks that begins.")
    return code


@nodes.command()
@click.argument("address")
@_moving_options
@pass_cli
def remove(cli: CliContext, address: str, wait: bool, as_json: bool) -> int:
    """Let a node go, be it up or down. Its slots move to the others; then, not before, it is emptied.

    With --no-wait whatever process uses the cache moves them.
    """

    async def begin(cache: DistributedCache, address: str) -> None:
        await cache.backend.keeper.moves.remove(address)

    return _gone(cli, "remove", address, begin, wait=wait, as_json=as_json)


@nodes.command()
@click.argument("address")
@_moving_options
@pass_cli
def drain(cli: CliContext, address: str, wait: bool, as_json: bool) -> int:
    """Do what `remove` does, but only with a node that counts: one that is still read from while its slots move.

    Until they have moved it keeps and serves what it holds, then it is emptied and may be switched off.
    """

    async def begin(cache: DistributedCache, address: str) -> None:
        found = [node for node in cache.backend.membership.nodes() if node.address == address]
        if found and found[0].state != "member":
            raise CacheError(
                f"node {address} does not count now, so that nothing can be read from it: see `cache-cli nodes"
                " status`; `cache-cli nodes remove` lets it go all the same"
            )
        await cache.backend.keeper.moves.remove(address)

    return _gone(cli, "drain", address, begin, wait=wait, as_json=as_json)


@nodes.command("accept-loss")
@click.option("--confirm/--no-confirm", " /--yes", default=True, show_default=True, help="Ask before.")
@json_option
@pass_cli
def accept_loss(cli: CliContext, confirm: bool, as_json: bool) -> int:
    """Let nodes count again although what they acknowledged may stand only where nobody can read it now.

    For when more nodes lost what they held than may be away: with distributed.on_majority_loss `wait` nobody else
    decides that, with `accept` it happens by itself after a minute. Exit code 1 when no node counts that did not.
    """
    require_nodes(cli.settings)
    if confirm and not is_wanted("What only the nodes that are away hold may be lost. Go on without it?"):
        note("Nothing was changed.")
        return ExitCode.FAILED

    async def work(platform: Platform) -> list[str]:
        with fates_written(cli, platform.replicated), cli.audited("cluster.accept_loss", {}):
            return await platform.replicated.accept_loss()

    back = cli.run(work)
    if as_json:
        print_json({"back": back})
    elif back:
        click.echo(f"These count again: {', '.join(back)}.")
    else:
        click.echo("No node counts now that did not: those that are away do not answer, or there are none.")
    return ExitCode.OK if back else ExitCode.FAILED


@contextmanager
def fates_written(cli: CliContext, cache: DistributedCache) -> Iterator[None]:
    """Write into the audit log what befalls nodes meanwhile: one is removed, given up, or data may be lost."""
    from cache_management.cache.cluster.mending import FATES

    heard: list[Event] = []
    cache.listener = heard.append
    try:
        yield
    finally:
        for event in heard:
            if isinstance(event, NodeEvent) and event.what in FATES:
                with cli.audited(f"cluster.{event.what}", {"node": event.node}):
                    pass


Begin = Callable[["DistributedCache", str], Awaitable[None]]


def _gone(cli: CliContext, what: str, address: str, begin: Begin, *, wait: bool, as_json: bool) -> int:
    code = _change(cli, what, address, begin, wait=wait, as_json=as_json)
    note("Take it out of distributed.nodes, too.")
    return code


def _change(cli: CliContext, what: str, address: str, begin: Begin, *, wait: bool, as_json: bool) -> int:
    async def work(platform: Platform) -> int:
        from cache_management.cache.cluster.addresses import check_address
        from cache_management.cache.cluster.moves import MoveUnderWay

        cache = platform.replicated
        node = check_address(address)
        membership = cache.backend.membership
        await membership.connect()
        await membership.refresh()
        with fates_written(cli, cache), progress(quiet=as_json) as advance:
            if wait and membership.known_table().moving:
                slots = len(membership.known_table().moving_slots())
                note("The slots of an earlier change move first.")
                await _wait(cache, advance, "earlier")
                if (node in membership.known_table().addresses.values()) == (what == "add"):
                    return slots  # the same command, broken off before
            with cli.audited(f"cluster.{what}", {"node": node}):
                try:
                    await begin(cache, node)
                except MoveUnderWay:
                    raise CacheError(
                        "the slots of an earlier change still move: leave out --no-wait, or look at"
                        " `cache-cli nodes status`"
                    ) from None
            slots = len(membership.known_table().moving_slots())
            if wait:
                try:
                    await _wait(cache, advance, "slots")
                except asyncio.CancelledError:
                    note(
                        "The change is begun, and whatever process uses the cache goes on with it; so does the same"
                        " command. `cache-cli nodes status` shows how many slots are left."
                    )
                    raise
        return slots

    slots = cli.run(work)
    if as_json:
        print_json({"node": address, "what": what, "slots": slots, "done": wait})
    elif wait:
        click.echo(f"{slots} slots have moved, and {address} {'takes part' if what == 'add' else 'is out'}.")
    else:
        click.echo(f"{slots} slots of {address} move; `cache-cli nodes status` shows how many are left.")
    return ExitCode.OK


async def _wait(cache: DistributedCache, advance: Advance, name: str) -> None:
    """Let slots move, by this process or another, until none is left to move."""
    membership, keeper = cache.backend.membership, cache.backend.keeper
    total = left = len(membership.known_table().moving_slots())
    moved_at = time.monotonic()
    while True:
        trouble = None
        try:
            await keeper.mend(seconds=_LOOK_EVERY_SECONDS)
        except BackendUnavailable as exc:
            trouble = exc
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
        await membership.refresh()
        before, left = left, len(membership.known_table().moving_slots())
        advance(name, total - left, total)
        if not left and not membership.leavers():
            return
        if left != before or trouble is None:
            moved_at = time.monotonic()
        elif time.monotonic() - moved_at > _STANDSTILL_SECONDS:
            note("What has moved stays moved; whatever process uses the cache goes on when the nodes answer.")
            raise trouble
