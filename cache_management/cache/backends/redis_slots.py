"""Which primary of a Redis Cluster holds which slot, as one of its nodes told; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cache_management.cache.backends.redis_connection import Argument, Command
from cache_management.cache.errors import InvalidInput

try:
    from redis.crc import key_slot
except ImportError as exc:
    raise ImportError("Redis Cluster needs: pip install 'cache-management[redis]'") from exc

SLOTS = 16384
Address = tuple[str, int]
Slots = frozenset[int]
ALL_SLOTS: Slots = frozenset(range(SLOTS))
NO_SLOTS: Slots = frozenset()
# Where the key stands in a command; all others of ours have it behind their name.
_KEY_AT = {"EVALSHA": 3, "EVAL": 3, "XINFO": 2}


def slot_of(key: Argument) -> int:
    """Return the slot of a key."""
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def slot_of_command(command: Command) -> int:
    """Return the slot of a command's key."""
    return slot_of(command[_KEY_AT.get(str(command[0]), 1)])


class Table(msgspec.Struct):
    """The owner of each slot, None where there is none; the ids of primaries; every node that was named.

    It is patched in place when a node says that one slot has moved.
    """

    owners: list[Address | None]
    ids: dict[Address, str]
    nodes: frozenset[Address]

    def slots_of(self, node: Address) -> Slots:
        """Return the slots that a primary holds."""
        return frozenset(slot for slot, owner in enumerate(self.owners) if owner == node)

    def find(self, node_id: str) -> Address | None:
        """Return where a primary of this id is; None when there is none."""
        return next((node for node, its_id in self.ids.items() if its_id == node_id), None)


def read_table(rows: Iterable[Sequence[Any]], asked: Address) -> Table:
    """Read the answer to CLUSTER SLOTS. A node that does not know its own address leaves it out."""
    owners: list[Address | None] = [None] * SLOTS
    ids: dict[Address, str] = {}
    nodes: set[Address] = set()
    for first, last, primary, *replicas in rows:
        owner = _address(primary, asked)
        ids[owner] = primary[2].decode()
        nodes.add(owner)
        nodes.update(_address(replica, asked) for replica in replicas)
        owners[first : last + 1] = [owner] * (last + 1 - first)
    return Table(owners, ids, frozenset(nodes))


def _address(member: Sequence[Any], asked: Address) -> Address:
    host = (member[0] or b"").decode()
    return (host if host not in {"", "?"} else asked[0], int(member[1]))


def read_redirect(words: str, asked: Address) -> Address:
    """Return where "MOVED 3999 host:port" or "ASK ..." leads to."""
    host, _, port = words.split()[2].rpartition(":")
    return (host if host not in {"", "?"} else asked[0], int(port))


def read_own_slots(lines: str) -> tuple[str, Slots, Mapping[int, str]]:
    """Return what a node's own line in CLUSTER NODES says: its id, the slots it holds, and where some are moving to."""
    node_id = ""
    held: set[int] = set()
    leaving: dict[int, str] = {}
    for line in lines.splitlines():
        words = line.split()
        if len(words) < 8 or "myself" not in words[2].split(","):
            continue
        node_id = words[0]
        for word in words[8:]:
            if not word.startswith("["):
                held |= slots_in(word)
            elif "->-" in word:
                slot, _, target = word.strip("[]").partition("->-")
                leaving[int(slot)] = target
    return node_id, frozenset(held), leaving


def slots_in(text: str) -> Slots:
    """Read "0-99,300"; the empty text holds none.

    Raises:
        ValueError: It is no such list.
    """
    found: set[int] = set()
    for piece in filter(None, text.split(",")):
        first, _, last = piece.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    if not found <= ALL_SLOTS:
        raise ValueError(f"there are {SLOTS} slots")
    return frozenset(found)


def slots_text(slots: Iterable[int]) -> str:
    """Write slots as `slots_in` reads them."""
    pieces: list[list[int]] = []
    for slot in sorted(slots):
        if pieces and pieces[-1][1] == slot - 1:
            pieces[-1][1] = slot
        else:
            pieces.append([slot, slot])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in pieces)


class Walk(msgspec.Struct, frozen=True):
    """Where a walk over the keys of all primaries stands: one primary after the other, each from end to end.

    A slot is done when the node that was read held it from the beginning of its part to the end. One that was leaving
    that node meanwhile is done once the node that it moves to was read *after* it: its keys move in that direction
    only. So a failover or a move of slots costs a part that is read twice, and no key is passed over.

    Args:
        node_id: The node that is being read; empty between two of them.
        cursor: That node's.
        part: The slots that it held when it was begun.
        left: The slots of parts to come.
        again: Ids of nodes to be read behind this one.
    """

    node_id: str = ""
    cursor: str = "0"
    part: Slots = NO_SLOTS
    left: Slots = ALL_SLOTS
    again: tuple[str, ...] = ()

    def is_over(self) -> bool:
        return not (self.node_id or self.left or self.again)

    def begin(self, node_id: str, held: Slots) -> Walk:
        """Return the walk at the beginning of a node."""
        part = self.left & held
        return Walk(node_id, "0", part, self.left - part, self.again)

    def at(self, cursor: str) -> Walk:
        return msgspec.structs.replace(self, cursor=cursor)

    def end(self, held: Slots, leaving: Mapping[int, str]) -> Walk:
        """Return the walk behind a node that now holds these slots, some of which are leaving it."""
        again = {*self.again, *(leaving[slot] for slot in self.part & leaving.keys())} - {self.node_id}
        return Walk(left=self.left | (self.part - held), again=tuple(sorted(again)))

    def lose(self, node_id: str) -> Walk:
        """Return the walk when a node is a primary no longer: its part is to be read wherever it is now.

        What had moved to a node that was to be read again may be anywhere: that walk begins anew.
        """
        return Walk() if node_id in self.again else Walk(left=self.left | self.part, again=self.again)

    def text(self) -> str:
        """Return the bookmark."""
        return "@".join((self.cursor, self.node_id, slots_text(self.part), slots_text(self.left), ",".join(self.again)))


def read_walk(bookmark: str) -> Walk:
    """Read a bookmark; the empty one stands at the beginning.

    Raises:
        InvalidInput: It is none of a Redis Cluster.
    """
    if not bookmark:
        return Walk()
    try:
        cursor, node_id, part, left, again = bookmark.split("@")
        int(cursor)
        return Walk(node_id, cursor, slots_in(part), slots_in(left), tuple(filter(None, again.split(","))))
    except ValueError:
        raise InvalidInput(
            f"{bookmark!r:.80} is no bookmark of a Redis Cluster: begin again with an empty one"
        ) from None
