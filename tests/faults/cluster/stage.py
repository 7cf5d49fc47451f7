"""A cluster and its clients in one process, moved by hand: compositions of faults that do not wait for luck."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.conftest import OwnRedis, temporary_folder
from tests.faults.cluster.checker import check
from tests.faults.cluster.client_process import Client
from tests.faults.cluster.distributed_target import DistributedTarget
from tests.faults.cluster.history import Recorder, read_history
from tests.faults.cluster.proxy import Board, Mode, Wire
from tests.faults.cluster.rounds import told_of
from tests.faults.cluster.targets import ClientSpec
from tests.waiting import eventually

KEYS = [f"k{at}" for at in range(16)]  # enough that each node is first for some, and only votes for others


class Player(Client):
    """A client of the stage. With `housekeeping` off it leaves every node as it finds it."""

    def __init__(self, spec: ClientSpec, target: DistributedTarget, recorder: Recorder, wires: list[Wire]) -> None:
        super().__init__(spec, target, recorder)
        self.target = target
        self.cache = target.cache
        self.wires = wires

    async def set_all(self, ttl_seconds: float | None = None, keys: Sequence[str] = KEYS) -> set[str]:
        """Write each key, few at once, lest the third voter is asked for being late; return the outcomes."""
        outcomes: set[str] = set()
        for at in range(0, len(keys), 4):
            written = await asyncio.gather(*(self.set(key, ttl_seconds) for key in keys[at : at + 4]))
            outcomes.update(outcome for outcome, _ in written)
        return outcomes

    async def get_all(self, keys: Sequence[str] = KEYS) -> set[str]:
        """Read each key, all at once; return the outcomes."""
        return {outcome for outcome, _ in await asyncio.gather(*(self.get(key) for key in keys))}

    async def delete_all(self, keys: Sequence[str] = KEYS) -> set[str]:
        return {outcome for outcome, _ in await asyncio.gather(*(self.delete(key) for key in keys))}

    async def can_set_all(self, keys: Sequence[str] = KEYS) -> bool:
        return await self.set_all(keys=keys) == {"ok"}

    async def can_get_all(self) -> bool:
        return await self.get_all() == {"ok"}

    async def can_delete_all(self, keys: Sequence[str] = KEYS) -> bool:
        return await self.delete_all(keys) == {"ok"}

    def lose(self, at: int) -> None:
        """Reach a node no more."""
        self.wires[at].set(Mode.RESET)

    def find(self, at: int) -> None:
        self.wires[at].heal(deliver=False)

    async def repair(self) -> None:
        await self.target.repair()

    async def add_node(self, node: OwnRedis) -> None:
        """Add a node and wait until the keys are where they belong."""
        await self.target.move(to=f"127.0.0.1:{node.port}")

    async def all_members(self) -> bool:
        states = await self.states()
        return set(states) == {"member"}


class Stage:
    """The nodes, and who plays."""

    def __init__(self, folder: Path, board: Board, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.nodes: list[OwnRedis] = []
        self._board = board
        self._stack = stack
        self._players = 0

    def start_node(self) -> OwnRedis:
        node = OwnRedis(self.folder / f"node-{len(self.nodes)}")
        self._stack.callback(node.stop)
        self.nodes.append(node)
        return node

    async def player(
        self, *, offset_seconds: float = 0.0, housekeeping: bool = True, waits: bool = True, **replication: Any
    ) -> Player:
        """Let a client with wires of its own join; it is connected when this returns, unless it does not wait."""
        wires = [self._board.wire(node.port) for node in self.nodes]
        number = self._players
        self._players += 1
        spec = ClientSpec(
            number=number,
            nodes=[wire.address for wire in wires],
            history=str(self.folder / f"history-{number}.jsonl"),
            seed=0,
            clock_offset_seconds=offset_seconds,
            replication=replication,
        )
        target = DistributedTarget(spec, clock=lambda: time.time() + offset_seconds)
        self._stack.push_async_callback(target.close)
        if not housekeeping:
            target.keep_still()
        recorder = Recorder(Path(spec.history), number)
        self._stack.callback(recorder.close)
        made = Player(spec, target, recorder, wires)
        if waits:
            await eventually(made.all_members, timeout=20)
        return made

    def empty(self, at: int) -> None:
        """Crash a node; it comes back at once, and empty."""
        self.nodes[at].kill()
        self.nodes[at].restart(empty=True)

    def wrongs(self) -> list[str]:
        """Return what the history so far proves to be wrong, for people."""
        operations = read_history(sorted(self.folder.glob("history-*.jsonl")))
        return [told_of(violation) for violation in check(operations)]


@asynccontextmanager
async def open_stage(nodes: int = 3) -> AsyncIterator[Stage]:
    """Start the nodes; everything ends with the block."""
    with temporary_folder() as folder:
        async with AsyncExitStack() as stack:
            board = Board()
            stack.callback(board.close)
            stage = Stage(folder, board, stack)
            for _ in range(nodes):
                stage.start_node()
            yield stage


async def within(seconds: float, step: Any) -> None:
    """Do something over and over for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await step()
        await asyncio.sleep(0)
