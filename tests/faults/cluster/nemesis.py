"""Hurts nodes and wires, one after another or on top of each other, as a seed says.

What is safe to do: values may be lost when a second node *forgets* while a first has not yet been synced again. So at
most one node forgets until all are members again. A node that only stands still, or cannot be reached, forgets
nothing: freezing another while the first is not back must cost answers, never values, and it is the composition that
finds a node that votes too early.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.conftest import OwnRedis
from tests.faults.cluster.arena import Arena
from tests.faults.cluster.proxy import HOLDING, Mode, Wire

FORGETTING = ("kill empty", "kill with data", "kill with an old copy", "flush")
STALLING = ("freeze", "client pause", "pause writes", "refuse writes")
BLIPS = ("kill connections", "forget scripts", "cut")
NETWORK = tuple(mode.value for mode in Mode if mode is not Mode.PASS)
# "full": nodes that are out of memory, so that entries are evicted; absence is no loss then.
# "moves": a node joins or leaves while others are hurt.
KINDS = ("forgetting", "stalling", "network", "composed", "full", "moves")
RECOVERY_SECONDS = 30.0


class Nemesis:
    """Strikes until told to stop. After each strike everything is healed, and all nodes are members again."""

    def __init__(self, arena: Arena, rng: random.Random, *, kind: str = "composed") -> None:
        assert kind in KINDS
        self._arena = arena
        self._rng = rng
        self._kind = kind
        self._has_copy: set[int] = set()
        self.log: list[str] = []
        self.slowest_recovery = 0.0

    def strike(self) -> str:
        """Do one composition of faults, heal it, and wait until all nodes count again."""
        begun = len(self.log)
        self._maybe_remember()
        match self._kind:
            case "forgetting":
                self._forget()
            case "stalling":
                self._one(self._rng.choice(STALLING + BLIPS))
            case "moves":
                self._move()
            case "full":
                self._one("no memory" if self._rng.random() < 0.7 else self._rng.choice(("freeze", *NETWORK)))
            case "network":
                self._one(self._rng.choice((*NETWORK, "cut")))
            case _:
                self._composed()
        since = time.monotonic()
        self._arena.wait_for_members(RECOVERY_SECONDS)
        self.slowest_recovery = max(self.slowest_recovery, time.monotonic() - since)
        return ", ".join(self.log[begun:])

    # Compositions.

    def _composed(self) -> None:
        rng = self._rng
        match rng.choice(("then stall", "then stall", "within a stall", "one", "clients too", "a client stands still")):
            case "then stall":
                at = self._forget()
                for _ in range(rng.choice((1, 1, 2))):
                    time.sleep(rng.choice((0, 0, rng.uniform(0, 0.4))))
                    self._one(rng.choice(("freeze", "freeze", "client pause", *NETWORK)), but_not=at)
            case "within a stall":
                at = self._node()
                with self.fault(rng.choice(("freeze", "client pause", *NETWORK)), at):
                    time.sleep(rng.uniform(0.1, 0.6))
                    self._forget(but_not=at)
                    time.sleep(rng.uniform(0, 0.6))
            case "one":
                self._one(rng.choice(STALLING + BLIPS + NETWORK))
            case "a client stands still":
                victim = rng.randrange(len(self._arena.clients))
                with self._arena.frozen_client(victim):
                    self._say(f"freeze client {victim}")
                    at = self._forget()
                    time.sleep(rng.uniform(0.3, 1.5))
                self._one(rng.choice(("freeze", *NETWORK)), but_not=at)
            case _:
                at = self._forget()
                victim = rng.randrange(len(self._arena.clients))
                self._say(f"kill client {victim}")
                self._arena.replace_client(victim)
                self._one(rng.choice(("freeze", *NETWORK)), but_not=at)

    def _move(self) -> None:
        """Let a node join or leave, and hurt one that is there, or comes, or goes."""
        with ThreadPoolExecutor(1) as pool:
            move = pool.submit(self._arena.join_or_leave)
            time.sleep(self._rng.choice((0, self._rng.uniform(0, 0.5))))
            if self._rng.random() < 0.6:
                at = self._forget()
                if self._rng.random() < 0.5:
                    self._one(self._rng.choice(("freeze", *NETWORK)), but_not=at)
            else:
                self._one(self._rng.choice(("freeze", "client pause", *NETWORK)))
            self._say(move.result())

    def _one(self, name: str, *, but_not: int | None = None) -> None:
        with self.fault(name, self._node(but_not)):
            if name not in BLIPS:
                time.sleep(self._rng.uniform(0.2, 1.5))

    def _forget(self, *, but_not: int | None = None) -> int:
        name = self._rng.choice(FORGETTING)
        at = self._node(but_not)
        if name == "kill with an old copy" and at not in self._has_copy:
            name = "kill empty"
        self.forget(name, at, down_seconds=self._rng.choice((0, 0, self._rng.uniform(0, 1.5))))
        return at

    def forget(self, name: str, at: int, *, down_seconds: float = 0.0) -> None:
        """Make one node forget what it held, or part of it; when this returns, it runs."""
        self._say(f"{name} {at}")
        node = self._arena.nodes[at]
        if name == "flush":
            node.command("FLUSHALL")
            return
        node.kill()
        time.sleep(down_seconds)
        node.restart(empty=name == "kill empty", remembered=name == "kill with an old copy")

    def _maybe_remember(self) -> None:
        if self._rng.random() < 0.4:
            at = self._node()
            self._arena.nodes[at].remember()
            self._has_copy.add(at)

    def _node(self, but_not: int | None = None) -> int:
        return self._rng.choice([at for at in range(len(self._arena.nodes)) if at != but_not])

    def _say(self, what: str) -> None:
        self.log.append(f"{time.monotonic():.2f} {what}")

    # Single faults, each with its end.

    @contextmanager
    def fault(self, name: str, at: int) -> Iterator[None]:
        """Let a node or its wires suffer for as long as the block lasts."""
        if name in NETWORK or name == "cut":
            with self._network(name, at):
                yield
            return
        self._say(f"{name} {at}")
        begin, end = self._stall(name, self._arena.nodes[at])
        begin()
        try:
            yield
        finally:
            end()

    def _stall(self, name: str, node: OwnRedis) -> tuple[Callable[[], object], Callable[[], object]]:
        return {
            "freeze": (node.pause, node.resume),
            # A server that is paused whole does not hear that it shall go on: it ends by itself.
            "client pause": (lambda: node.command("CLIENT", "PAUSE", self._rng.randrange(200, 1500)), _nothing),
            "pause writes": (
                lambda: node.command("CLIENT", "PAUSE", 60_000, "WRITE"),
                lambda: node.command("CLIENT", "UNPAUSE"),
            ),
            "refuse writes": (
                lambda: node.command("CONFIG", "SET", "min-replicas-to-write", 1),
                lambda: node.command("CONFIG", "SET", "min-replicas-to-write", 0),
            ),
            "no memory": (
                lambda: node.command("CONFIG", "SET", "maxmemory", 1),
                lambda: node.command("CONFIG", "SET", "maxmemory", 0),
            ),
            "kill connections": (lambda: node.command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"), _nothing),
            "forget scripts": (lambda: node.command("SCRIPT", "FLUSH"), _nothing),
        }[name]

    @contextmanager
    def _network(self, name: str, at: int) -> Iterator[None]:
        rng = self._rng
        wires = [wires[at % len(wires)] for wires in self._arena.wires]  # a node that joined has no wires of its own
        chosen: Sequence[Wire] = wires if rng.random() < 0.5 else [rng.choice(wires)]
        late = rng.random() < 0.6
        self._say(f"{name} {at} for {len(chosen)} of {len(wires)}{', late' if late and name in HOLDING else ''}")
        if name == "cut":
            for wire in chosen:
                wire.cut()
            yield
            return
        for wire in chosen:
            wire.set(Mode(name), delay_seconds=rng.uniform(0, 0.2), jitter_seconds=rng.uniform(0, 0.3))
        try:
            yield
        finally:
            for wire in chosen:
                wire.heal(deliver=late)


def _nothing() -> None:
    pass
