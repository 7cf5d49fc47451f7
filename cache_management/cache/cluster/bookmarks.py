"""Where a walk through several nodes stands: one node after the other, each to its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cache_management.cache.cluster.node import Node
from cache_management.cache.errors import InvalidInput


class Counting(msgspec.Struct, frozen=True):
    """Where a count of sums stands: who counts, and the nodes left, the first of them at `cursor` (0: not begun)."""

    who: str
    left: tuple[str, ...]
    cursor: int = 0

    def behind(self, cursor: int) -> Counting:
        """Return the place behind a page (0: the first node is at its end)."""
        return Counting(self.who, self.left if cursor else self.left[1:], cursor)


class Bookmark(msgspec.Struct, frozen=True):
    """A place within a walk: the nodes that were read to their end, those that did not answer, and the next place.

    A node that did not answer is not gone back to: what it holds was shown by others, or is shown by those to come.
    `began_ms` is when the walk began, in the cluster's time. `counts_on` are nodes that something was left
    for to show, as they were in `epoch`. `counting`: of a repair whose pass is over.
    """

    began_ms: int = 0

    node: str = ""
    cursor: int = 0
    read: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    counts_on: tuple[str, ...] = ()
    epoch: int = 0
    counting: Counting | None = None

    @classmethod
    def read_text(cls, text: str, *, now_ms: int = 0) -> Bookmark:
        """Read what `text` wrote; an empty one begins a walk.

        Raises:
            InvalidInput: It is something else.
        """
        if not text:
            return cls(began_ms=now_ms)
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError:
            raise InvalidInput(
                f"{text!r:.80} is no bookmark of a replicated cache: begin again with an empty one"
            ) from None

    def text(self) -> str:
        return msgspec.json.encode(self).decode()

    def at(self, nodes: Sequence[Node]) -> Node | None:
        """Return the node to read next; None at the end of the walk."""
        for node in nodes:
            if node.id == self.node and node.id not in (*self.read, *self.missed):
                return node
        rest = [node for node in nodes if node.id not in self.read and node.id not in self.missed]
        return rest[0] if rest else None

    def cursor_at(self, node: Node) -> int:
        return self.cursor if node.id == self.node else 0

    def behind(self, node: Node, cursor: int) -> Bookmark:
        """Return the place behind a page of a node, whose server stands at `cursor` now (0: at its end)."""
        if cursor:
            return msgspec.structs.replace(self, node=node.id, cursor=cursor)
        return msgspec.structs.replace(self, node="", cursor=0, read=(*self.read, node.id))

    def counting_on(self, nodes: Iterable[Node], *, epoch: int) -> Bookmark:
        """Return the place with more nodes that something was left for."""
        more = sorted({node.id for node in nodes} - set(self.counts_on))
        return msgspec.structs.replace(self, counts_on=(*self.counts_on, *more), epoch=epoch) if more else self

    def in_epoch(self, epoch: int) -> Bookmark:
        """Return the place; the beginning, when slots have left nodes that have yet to show something."""
        if self.epoch == epoch or set(self.counts_on) <= {*self.read, *self.missed}:
            return self
        return Bookmark(began_ms=self.began_ms, missed=self.missed)

    def skipped(self, node: Node) -> Bookmark:
        """Return the place behind a node that did not answer; what was left for it to show the others show anew."""
        missed = (*self.missed, node.id)
        if node.id in self.counts_on:
            return Bookmark(began_ms=self.began_ms, missed=missed)
        return msgspec.structs.replace(self, node="", cursor=0, missed=missed)
