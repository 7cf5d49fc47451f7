"""Wrong implementations: the real one with one thing left out, planted by name into a process or a test.

Each is something that looks like an optimisation, or is easily forgotten. `test_mutants.py` shows that the harness
catches every one of them; whatever it would not catch, it would not catch in the real code either.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from cache_management.cache.cluster import membership as membership_module
from cache_management.cache.cluster import node as node_module
from cache_management.cache.cluster.envelope import HEAD_BYTES, VALUE, moment_of, read_head
from cache_management.cache.cluster.levelling import Levelled, Levelling
from cache_management.cache.cluster.membership import Membership, Seen
from cache_management.cache.cluster.node import Node, read_marker
from cache_management.cache.cluster.quorum import Level, Quorum
from cache_management.cache.cluster.scripts import Script, ScriptName, script
from cache_management.cache.cluster.slots import slot_of
from cache_management.cache.cluster.syncing import Syncing
from tests.faults.cluster.scenarios import (
    Scenario,
    a_client_that_missed_a_move,
    a_connection_that_breaks_during_a_sync,
    a_copy_near_its_end,
    a_delete_that_one_node_missed,
    a_forgetful_node_while_another_stands_still,
    a_repair_after_a_missed_write,
    a_short_life_that_one_node_missed,
    a_sync_that_comes_to_a_halt,
    a_write_that_is_tried_again,
    a_write_that_one_node_missed,
    an_acknowledgement_by_a_minority,
)

Patch = pytest.MonkeyPatch
_MARKER_CHECK = re.compile(r"if redis\.call\('GET', KEYS\[1\]\) ~= ARGV\[1\] then\n.*?\nend\n", re.DOTALL)


def _rewrite(patch: Patch, change: Callable[[str], str]) -> None:
    """Change the text of the scripts; a change that changes none of them is out of date."""
    names: tuple[ScriptName, ...] = ("put", "heads", "shed", "lease", "tag", "note")
    changed = {}
    for name in names:
        text = change(script(name).text)
        if text != script(name).text:
            changed[name] = Script(text, hashlib.sha1(text.encode()).hexdigest())
    assert changed, "the scripts do not have what this mutant leaves out"

    def mutated(name: ScriptName) -> Script:
        return changed.get(name) or script(name)

    patch.setattr(node_module, "script", mutated)


def no_marker_check(patch: Patch) -> None:
    """Whatever process answers counts, whatever it has forgotten."""
    _rewrite(patch, lambda text: _MARKER_CHECK.sub("", text))
    examine, meet_one = Node._examine, Membership._meet_one

    def any_process(self: Node, info: bytes, offset_seconds: float) -> None:
        self.run_id = None
        examine(self, info, offset_seconds)

    async def keep(self: Membership, node: Node, seen: Seen) -> None:
        if seen.marker is not None and self.is_own(node, seen.marker):
            await meet_one(self, node, seen)

    def counts(self: Node, expected: bytes, held: object) -> bool:
        return True

    patch.setattr(Node, "_examine", any_process)
    patch.setattr(Node, "_check", lambda self, expected, held: None)
    patch.setattr(Node, "answered", counts)
    patch.setattr(Membership, "_meet_one", keep)


def rounded_down_quorum(patch: Patch) -> None:
    """Half is a majority."""
    patch.setattr(membership_module, "majority", lambda count: max(1, count // 2))


def plain_deletes(patch: Patch) -> None:
    """What is deleted leaves nothing behind."""
    _rewrite(
        patch,
        lambda text: text.replace(
            "redis.call('SET', key, copy)\n",
            "if string.sub(copy, 25, 25) == 'd' then redis.call('DEL', key) else redis.call('SET', key, copy) end\n",
        ),
    )


def repair_without_compare(patch: Patch) -> None:
    """Repair copies what the first voter holds to the others, and they take it."""
    _rewrite(
        patch,
        lambda text: text.replace("local is_new = held_version < version", "local is_new = true").replace(
            "elseif held_version > version or", "elseif (how ~= 'c' and held_version > version) or"
        ),
    )

    async def level(self: Levelling, names: Sequence[str], *, required: Collection[Node] = ()) -> Levelled:
        until_ms = self._membership.copies_until()
        for name in names:
            route = self._membership.route(slot_of(name[2:]))
            held = [(await node.fetch([name]))[0] for node in route.nodes]
            source = next((copy for copy in held if copy), None)
            for target in self._targets(route) if source else ():
                assert source is not None
                await target.copy([name], [slot_of(name[2:])], [source], until_ms=until_ms)
        return Levelled()

    patch.setattr(Levelling, "level", level)


def relative_life_of_copies(patch: Patch) -> None:
    """A copy lives as long as the first one did, from when it is made."""
    copy = Node.copy

    def longer(self: Node, keys: Any, slots: Any, copies: Sequence[bytes], *, until_ms: int) -> Any:
        return copy(self, keys, slots, [_from_now(each) for each in copies], until_ms=until_ms)

    patch.setattr(Node, "copy", longer)


def _from_now(copy: bytes) -> bytes:
    head = read_head(copy)
    if head.kind != VALUE or not head.moment_ms:
        return copy
    moment = time.time() * 1000 + head.moment_ms - moment_of(head.version)
    return b"%sv%014d%s" % (head.version, int(moment), copy[HEAD_BYTES:])


def no_epoch_check(patch: Patch) -> None:
    """A client with an old table is as good as any."""
    strip = r"local function who(text) return (string.gsub(text or '', '^(%S+ %S+ %S+) %d+', '%1')) end"
    _rewrite(
        patch,
        lambda text: text.replace(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then",
            f"{strip}\nif who(redis.call('GET', KEYS[1]) or '') ~= who(ARGV[1]) then",
        ),
    )
    check, answered = Node._check, Node.answered

    def without_epoch(held: object) -> object:
        marker = read_marker(held if isinstance(held, bytes) else None)
        return held if marker is None else msgspec.structs.replace(marker, epoch=0)

    def checks(self: Node, expected: bytes, held: bytes | None) -> None:
        check(self, expected, expected if without_epoch(held) == without_epoch(expected) else held)

    def answers(self: Node, expected: bytes, held: object) -> bool:
        return answered(self, expected, expected if without_epoch(held) == without_epoch(expected) else held)

    patch.setattr(Node, "_check", checks)
    patch.setattr(Node, "answered", answers)


def read_from_one(patch: Patch) -> None:
    """The first answer to a read is the answer."""
    read, read_one = Quorum.read, Quorum.read_one

    async def quickly(self: Quorum, keys: Mapping[str, int], level: Level, **rest: Any) -> dict[str, bytes]:
        return await read(self, keys, "one", **rest)

    async def one_quickly(self: Quorum, key: str, slot: int, level: Level) -> bytes:
        return await read_one(self, key, slot, "one")

    patch.setattr(Quorum, "read", quickly)
    patch.setattr(Quorum, "read_one", one_quickly)


def marker_before_sync(patch: Patch) -> None:
    """A node counts as soon as it is being read in."""
    read_in = Syncing._read_in

    async def soon(self: Syncing, node: Node, slots: Collection[int], peers: list[Node]) -> Levelled:
        marker = read_marker(node.marker)
        assert marker is not None
        member = msgspec.structs.replace(marker, state="member")
        await self._membership.remark(node, node.marker, member)
        node.admit(member)
        return await read_in(self, node, slots, peers)

    patch.setattr(Syncing, "_read_in", soon)


def stubs_dropped_early(patch: Patch) -> None:
    """What has expired leaves nothing behind."""
    _rewrite(
        patch,
        lambda text: text.replace(
            "redis.call('SET', key, copy)\n",
            "redis.call('SET', key, copy)\n"
            "local moment = string.gsub(string.sub(copy, 26, 39), '^0+', '')\n"
            "if string.sub(copy, 25, 25) == 'v' and moment ~= '' then redis.call('PEXPIREAT', key, moment) end\n",
        ),
    )


def silent_peers_are_passed_over(patch: Patch) -> None:
    """A node is read in from those who answer."""
    level = Levelling.level

    async def lenient(self: Levelling, names: Sequence[str], *, required: Collection[Node] = ()) -> Levelled:
        return await level(self, names)

    patch.setattr(Levelling, "level", lenient)


def written_anew_when_tried_again(patch: Patch) -> None:
    """Each attempt of a write has a version of its own."""

    class Forgetful(dict[str, bytes]):
        def get(self, *_: object) -> None:  # type: ignore[override]
            return None

    write = Quorum.write

    async def anew(self: Quorum, copies: Any, level: Level, **rest: Any) -> dict[str, bytes]:
        return await write(self, copies, level, **{**rest, "given": Forgetful()})

    patch.setattr(Quorum, "write", anew)


CAUGHT_BY: Mapping[Callable[[Patch], None], Scenario] = {
    no_marker_check: a_forgetful_node_while_another_stands_still,
    rounded_down_quorum: an_acknowledgement_by_a_minority,
    plain_deletes: a_delete_that_one_node_missed,
    repair_without_compare: a_repair_after_a_missed_write,
    relative_life_of_copies: a_copy_near_its_end,
    no_epoch_check: a_client_that_missed_a_move,
    read_from_one: a_write_that_one_node_missed,
    marker_before_sync: a_sync_that_comes_to_a_halt,
    stubs_dropped_early: a_short_life_that_one_node_missed,
    silent_peers_are_passed_over: a_connection_that_breaks_during_a_sync,
    written_anew_when_tried_again: a_write_that_is_tried_again,
}
MUTANTS = {mutant.__name__: mutant for mutant in CAUGHT_BY}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Make this process wrong in one way while the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        yield
