"""One run: work and faults for some seconds, then peace, a read of everything, and the verdict."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.faults.cluster.arena import Arena
from tests.faults.cluster.checker import Violation, check
from tests.faults.cluster.history import Event, Operation
from tests.faults.cluster.nemesis import RECOVERY_SECONDS, Nemesis


class Verdict(msgspec.Struct):
    """What a run showed. `unread`: keys that nobody answered although all was well again."""

    operations: int
    acknowledged: int
    unsure: int
    refused: int
    violations: list[Violation]
    oddities: dict[str, int]
    unread: list[str]
    acts: list[str]
    slowest_recovery_seconds: float
    history: str | None = None

    @property
    def is_good(self) -> bool:
        return not (self.violations or self.oddities or self.unread)

    def counts(self) -> dict[str, int]:
        return dict(Counter(violation.kind for violation in self.violations))

    def told(self, most: int = 5) -> str:
        """Say what is wrong, for people."""
        lines = [f"acts: {'; '.join(self.acts)}", f"history: {self.history}", f"violations: {self.counts()}"]
        lines += [told_of(violation) for violation in self.violations[:most]]
        lines += [f"{count} x {what}" for what, count in self.oddities.items()]
        if self.unread:
            lines.append(f"{len(self.unread)} keys were never answered, such as {self.unread[:5]}")
        return "\n".join(lines)


def told_of(violation: Violation) -> str:
    """Say what is wrong and which operations show it, for people."""
    lines = [f"{violation.kind} {violation.key}: {violation.text}"]
    return "\n".join(lines + [f"    {_line(operation)}" for operation in violation.operations])


def run_round(
    arena: Arena, *, seconds: float, seed: int, kind: str = "composed", keep_in: Path | None = None
) -> Verdict:
    """Fight for some seconds and judge. The arena goes on to be used; its history grows.

    The history of a bad run is copied to a folder in `keep_in`.
    """
    nemesis = Nemesis(arena, random.Random(f"nemesis/{seed}"), kind=kind)
    arena.work()
    until = time.monotonic() + seconds
    time.sleep(0.3)
    try:
        while time.monotonic() < until:
            nemesis.strike()
    finally:
        arena.rest()
    verdict = judge(arena, nemesis, may_evict=kind == "full")
    if keep_in is not None and not verdict.is_good:
        verdict.history = str(keep_history(arena, keep_in))
    return verdict


def judge(arena: Arena, nemesis: Nemesis, *, may_evict: bool = False) -> Verdict:
    """Read every key by two clients while nobody writes, and check all that was recorded."""
    arena.wait_for_members(RECOVERY_SECONDS)
    keys = sorted({operation.key for operation in arena.history()})
    unread = arena.clients[0].ask("read", keys=keys) + arena.observer.ask("read", keys=keys)
    operations = arena.history()
    violations = check(operations, may_evict=may_evict)
    return Verdict(
        operations=len(operations),
        acknowledged=sum(each.returned is not None and not each.is_refused for each in operations if _is_write(each)),
        unsure=sum(each.returned is None for each in operations if _is_write(each)),
        refused=sum(each.is_refused for each in operations),
        violations=violations,
        oddities=arena.oddities,
        unread=unread,
        acts=nemesis.log,
        slowest_recovery_seconds=nemesis.slowest_recovery,
    )


def keep_history(arena: Arena, keep_in: Path) -> Path:
    """Copy what was recorded to where it outlives the run."""
    keep_in.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"history-{arena.seed}-", dir=keep_in))
    for file in (*arena.history_files(), *arena.folder.glob("client-*.log")):
        shutil.copy(file, folder)
    return folder


def serve_without_one(arena: Arena, rng: random.Random, *, seconds: float) -> float:
    """Take one node away under load; return which part of the operations succeeded after the first second."""
    node = rng.choice(arena.nodes)
    arena.work()
    time.sleep(0.5)
    is_killed = rng.random() < 0.5
    if is_killed:
        node.kill()
    else:
        node.pause()
    try:
        begin = time.monotonic_ns() + 1_000_000_000
        time.sleep(seconds)
        end = time.monotonic_ns() - 1_000_000_000  # what began later may not have ended
    finally:
        if is_killed:
            node.restart(empty=True)
        else:
            node.resume()
        arena.rest()
    return share_that_succeeded(arena, begin, end)


def differences_that_stay(arena: Arena, seconds: float) -> list[str]:
    """Repair until every copy of every entry has the same version on its voters; return what differs in the end."""
    until = time.monotonic() + seconds
    while True:
        arena.observer.ask("repair", timeout=seconds + 30)
        different: list[str] = arena.observer.ask("differences", timeout=seconds + 30)
        if not different or time.monotonic() >= until:
            return different


def share_that_succeeded(arena: Arena, begin_ns: int, end_ns: int) -> float:
    """Return which part of all operations that began in a span were answered or acknowledged."""
    decode = msgspec.json.Decoder(Event).decode
    began: set[tuple[int, int]] = set()
    succeeded = 0
    for file in arena.history_files():
        for line in file.read_bytes().splitlines():
            event = decode(line)
            name = (event.process, event.number)
            if event.type == "invoke":
                if begin_ns <= event.at < end_ns:
                    began.add(name)
            elif event.type == "ok" and name in began:
                succeeded += 1
    assert began, "nothing was asked in that time"
    return succeeded / len(began)


def _is_write(operation: Operation) -> bool:
    return operation.kind in ("set", "delete")


def _line(operation: Operation) -> str:
    end = "never" if operation.returned is None else f"{operation.returned / 1e9:.4f}"
    value = f" {operation.value!r}" if operation.kind != "delete" else ""
    ttl = f" for {operation.ttl_ns / 1e9:g} s" if operation.ttl_ns else ""
    return f"{operation.invoked / 1e9:.4f}..{end} client {operation.process} {operation.kind}{value}{ttl}"
