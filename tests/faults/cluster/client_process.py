"""A client of the cluster, in a process of its own: works on a few contended keys and records all it did.

It reads commands from its standard input, one line of JSON each, and answers each with a line; it ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from tests.faults.cluster.history import Outcome, Recorder
from tests.faults.cluster.targets import ClientSpec, NotDone, Target, Unsure, open_target

_SHORT_LIVES = (0.7, 1.0, 2.0)
_SECOND_NS = 1_000_000_000


class Client:
    """Does operations on a target, one by one or as work without end, and records each."""

    def __init__(self, spec: ClientSpec, target: Target, recorder: Recorder) -> None:
        self._spec = spec
        self._target = target
        self._recorder = recorder
        self._rng = random.Random(f"{spec.seed}/{spec.number}")
        self._values = 0
        self._working: list[asyncio.Task[None]] = []
        self._weights = [1 / (at + 1) for at in range(spec.keys)]
        self._begun_at = time.monotonic_ns()
        self._may_work = False
        self.oddities: dict[str, int] = {}

    # Commands.

    async def work(self) -> None:
        """Begin to work, until `rest`."""
        self._may_work = True
        self._working = [asyncio.create_task(self._work()) for _ in range(self._spec.workers)]

    async def rest(self) -> dict[str, Any]:
        """Stop, when what is under way has ended."""
        self._may_work = False
        if self._working:
            await asyncio.wait(self._working, timeout=20)
        for task in self._working:
            if not task.done():
                task.cancel()
                self._odd("an operation did not end within 20 s")
        self._working = []
        return {"counts": self._recorder.counts, "oddities": self.oddities}

    async def read(self, keys: Sequence[str], patience_seconds: float = 10) -> list[str]:
        """Read keys until each has been answered; return those that were not in time."""
        deadline = time.monotonic() + patience_seconds
        left = list(keys)
        while left and time.monotonic() < deadline:
            unanswered = []
            for at in range(0, len(left), 8):
                part = left[at : at + 8]
                answered = await asyncio.gather(*(self.get(key) for key in part))
                unanswered += [key for key, outcome in zip(part, answered, strict=True) if outcome[0] != "ok"]
            left = unanswered
        return left

    async def states(self) -> list[str]:
        return await self._target.states()

    async def repair(self) -> bool:
        """Bring every copy up to date; return whether it could be done now."""
        try:
            await self._target.repair()
        except Unsure:
            return False
        return True

    async def move(self, to: str | None = None, away: str | None = None) -> bool:
        """Add or remove a node, or go on with it (neither); return whether all keys are where they belong."""
        try:
            await self._target.move(to=to, away=away)
        except Unsure:
            return False
        return True

    async def differences(self) -> list[str]:
        return await self._target.differences()

    async def set(self, key: str, ttl_seconds: float | None = None) -> tuple[Outcome, str]:
        """Write a fresh value; return the outcome and the value."""
        value = self._fresh()
        ttl_ns = None if ttl_seconds is None else round(ttl_seconds * _SECOND_NS)
        begun = self._recorder.begin("set", [key], [value], ttl_ns)
        outcome = await self._outcome(lambda: self._target.set(key, self._padded(value), ttl_seconds))
        self._recorder.end(begun, outcome[0])
        return outcome[0], value

    async def delete(self, key: str) -> tuple[Outcome, None]:
        begun = self._recorder.begin("delete", [key], [None], None)
        outcome, _ = await self._outcome(lambda: self._target.delete(key))
        self._recorder.end(begun, outcome)
        return outcome, None

    async def get(self, key: str) -> tuple[Outcome, str | None]:
        begun = self._recorder.begin("get", [key], [None], None)
        outcome, found = await self._outcome(lambda: self._target.get(key))
        value = _name_of(found)
        self._recorder.end(begun, outcome, [value])
        return outcome, value

    async def exists(self, key: str) -> tuple[Outcome, str | None]:
        begun = self._recorder.begin("exists", [key], [None], None)
        outcome, found = await self._outcome(lambda: self._target.exists(key))
        value = "" if found else None
        self._recorder.end(begun, outcome, [value])
        return outcome, value

    async def get_many(self, keys: Sequence[str]) -> Outcome:
        begun = self._recorder.begin("get", keys, [None] * len(keys), None)
        outcome, found = await self._outcome(lambda: self._target.get_many(keys))
        self._recorder.end(begun, outcome, [_name_of((found or {}).get(key)) for key in keys])
        return outcome

    async def set_many(self, keys: Sequence[str]) -> Outcome:
        values = {key: self._fresh() for key in keys}
        begun = self._recorder.begin("set", list(values), list(values.values()), None)
        padded = {key: self._padded(value) for key, value in values.items()}
        outcome, _ = await self._outcome(lambda: self._target.set_many(padded))
        self._recorder.end(begun, outcome)
        return outcome

    # Work.

    async def _work(self) -> None:
        rng = self._rng
        while self._may_work:
            await asyncio.sleep(rng.expovariate(1 / self._spec.pause_seconds))
            key, may_vanish = self._a_key()
            match rng.choices(
                ("set", "get", "exists", "get many", "set many", "delete", "short life", "old"),
                (30, 36, 5, 6, 3, 8 if may_vanish else 0, 6 if may_vanish else 0, 8),
            )[0]:
                case "set":
                    await self.set(key)
                case "get":
                    await self.get(key)
                case "exists":
                    await self.exists(key)
                case "get many":
                    await self.get_many(sorted({key, *(self._a_key()[0] for _ in range(4))}))
                case "set many":
                    await self.set_many(sorted({key, *(self._a_key()[0] for _ in range(2))}))
                case "delete":
                    await self.delete(key)
                case "short life":
                    await self.set(key, rng.choice(_SHORT_LIVES))
                case _:
                    await self.get(self._a_key(older=1 + rng.randrange(5))[0])

    def _a_key(self, older: int = 0) -> tuple[str, bool]:
        """Choose a key, few of them often, and whether it may be deleted or expire.

        All processes go on to new names together: a write of unknown outcome excuses much on its key ever after.
        """
        span = round(self._spec.generation_seconds * _SECOND_NS)
        generation = time.monotonic_ns() // span - older
        at = self._rng.choices(range(self._spec.keys), self._weights)[0]
        return f"g{generation}k{at}", at % 2 == 1

    def _fresh(self) -> str:
        self._values += 1
        return f"{self._spec.number}-{self._values}"

    def _padded(self, value: str) -> str:
        # Some long enough to be compressed, some to need more than one packet.
        return value + "|" + "x" * self._rng.choice((0, 0, 20, 300, 3000))

    async def _outcome(self, call: Callable[[], Awaitable[Any]]) -> tuple[Outcome, Any]:
        try:
            return "ok", await call()
        except Unsure:
            return "info", None
        except NotDone:
            return "fail", None
        except Exception:
            self._odd(traceback.format_exc(limit=-6))
            return "info", None

    def _odd(self, what: str) -> None:
        self.oddities[what] = self.oddities.get(what, 0) + 1


def _name_of(found: str | None) -> str | None:
    return None if found is None else found.partition("|")[0]


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not look like an answer

    def reply(content: Any) -> None:
        os.write(replies, msgspec.json.encode(content) + b"\n")

    spec = msgspec.json.decode(await reader.readline(), type=ClientSpec)
    with ExitStack() as stack:
        if spec.mutant is not None:
            from tests.faults.cluster.mutants import planted

            stack.enter_context(planted(spec.mutant))
        target = open_target(spec)
        recorder = Recorder(Path(spec.history), spec.number)
        client = Client(spec, target, recorder)
        reply("ready")
        while line := await reader.readline():
            command = msgspec.json.decode(line)
            name = command.pop("do")
            try:
                reply({"is": await getattr(client, name)(**command)})
            except Exception as exc:
                reply({"error": f"{type(exc).__name__}: {exc}"})
        await client.rest()
        await target.close()
        recorder.close()


if __name__ == "__main__":
    asyncio.run(main())
