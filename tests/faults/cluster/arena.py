"""Nodes, wires and client processes of one run, and what they recorded."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.conftest import PROJECT_ROOT, OwnRedis, temporary_folder
from tests.faults.cluster.history import Operation, read_history
from tests.faults.cluster.proxy import Board, Wire
from tests.faults.cluster.targets import ClientSpec
from tests.waiting import wait_until

START_SECONDS = 60.0
MOVE_SECONDS = 60.0


class ClientGone(Exception):
    """A client process ended, or does not answer."""


class ClientHandle:
    """A client process; its answers come in the order of the commands."""

    def __init__(self, spec: ClientSpec, log: Path) -> None:
        self.spec = spec
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.cluster.client_process"],
                cwd=PROJECT_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._log = log
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._send(msgspec.to_builtins(spec))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def _send(self, content: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(msgspec.json.encode(content) + b"\n")
            self.process.stdin.flush()
        except OSError as exc:
            raise ClientGone(self._last_words()) from exc

    def _answer(self, timeout: float) -> Any:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise ClientGone(f"client {self.spec.number} did not answer for {timeout:g} s; see {self._log}") from None
        if not line:
            raise ClientGone(self._last_words())
        return msgspec.json.decode(line)

    def _last_words(self) -> str:
        return f"client {self.spec.number} ended:\n{self._log.read_text()[-2000:]}"

    def wait_ready(self) -> None:
        assert self._answer(START_SECONDS) == "ready"

    def ask(self, name: str, *, timeout: float = 40.0, **arguments: Any) -> Any:
        """Give a command and return its result."""
        with self._lock:
            self._send({"do": name, **arguments})
            answer = self._answer(timeout)
        if "error" in answer:
            raise ClientGone(f"client {self.spec.number}: {name} failed: {answer['error']}")
        return answer["is"]

    def kill(self) -> None:
        """Crash it, in the middle of whatever it does."""
        assert self.process.poll() is None, "the client was gone before this test killed it"
        self.process.kill()
        self.close()

    def close(self) -> None:
        """End it; one that does not end by itself is killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout=5)
        self.process.stdout.close()


class Arena:
    """A cluster to fight over: `nodes`, `clients` with `wires` of their own to them, and an `observer` without."""

    def __init__(
        self,
        *,
        seed: int,
        nodes: int = 3,
        clients: int = 3,
        target: str = "distributed",
        mutant: str | None = None,
        offsets_seconds: Sequence[float] = (0.0, 3600.0, -3600.0, 5.0),
        appendonly: bool = False,
        replication: Mapping[str, Any] | None = None,
        **workload: Any,
    ) -> None:
        self.seed = seed
        self.workload = workload
        self._counts = (nodes, clients)
        self._target, self._mutant, self._offsets = target, mutant, offsets_seconds
        self._appendonly = appendonly
        self._replication = dict(replication or {})
        self._stack = ExitStack()
        self._started = 0
        self._guest: OwnRedis | None = None
        self.nodes: list[OwnRedis] = []
        self.wires: list[list[Wire]] = []
        self.clients: list[ClientHandle] = []
        self.oddities: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = stack.enter_context(temporary_folder())
            for at in range(self._counts[0]):
                node = OwnRedis(self.folder / f"node-{at}", appendonly=self._appendonly)
                stack.callback(node.stop)
                self.nodes.append(node)
            self.board = Board()
            stack.callback(self.board.close)
            self.wires = [[self.board.wire(node.port) for node in self.nodes] for _ in range(self._counts[1])]
            stack.callback(self._close_clients)
            self.observer = self._start([f"127.0.0.1:{node.port}" for node in self.nodes], 0.0)
            self.clients = [self._start_client(at) for at in range(self._counts[1])]
            for client in (self.observer, *self.clients):
                client.wait_ready()
            for client in (self.observer, *self.clients):
                # A cluster is made once, by all its nodes; who comes first makes it.
                wait_until(lambda client=client: self._are_members(client.ask("states")), START_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _close_clients(self) -> None:
        for client in (*self.clients, *([self.observer] if hasattr(self, "observer") else [])):
            client.close()

    def _start_client(self, at: int) -> ClientHandle:
        return self._start([wire.address for wire in self.wires[at]], self._offsets[at % len(self._offsets)])

    def _start(self, nodes: list[str], offset: float) -> ClientHandle:
        number = self._started
        self._started += 1
        spec = ClientSpec(
            number=number,
            nodes=nodes,
            history=str(self.folder / f"history-{number}.jsonl"),
            seed=self.seed,
            target=self._target,
            mutant=self._mutant,
            clock_offset_seconds=offset,
            replication=self._replication,
            **self.workload,
        )
        return ClientHandle(spec, self.folder / f"client-{number}.log")

    def replace_client(self, at: int) -> None:
        """Kill a client in the middle of its work and let another go on in its place."""
        self.clients[at].kill()
        self.clients[at] = self._start_client(at)
        self.clients[at].wait_ready()
        self.clients[at].ask("work")

    @contextmanager
    def frozen_client(self, at: int) -> Iterator[None]:
        """Let a client stand still, in the middle of whatever it does."""
        process = self.clients[at].process
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def work(self) -> None:
        for client in self.clients:
            client.ask("work")

    def rest(self) -> None:
        for client in self.clients:
            done = client.ask("rest")
            for what, count in done["oddities"].items():
                self.oddities[what] = self.oddities.get(what, 0) + count
            for what, count in done["counts"].items():
                self.counts[what] = self.counts.get(what, 0) + count

    def states(self) -> list[str]:
        """Return the states of the nodes as the observer sees them."""
        states: list[str] = self.observer.ask("states")
        return states

    def wait_for_members(self, timeout: float) -> None:
        """Wait until every node counts."""
        wait_until(lambda: self._all_members(), timeout, pause=0.05)

    def _all_members(self) -> bool:
        return self._are_members(self.states())

    def _are_members(self, states: list[str]) -> bool:
        return len(states) == len(self.nodes) and set(states) == {"member"}

    def join_or_leave(self) -> str:
        """Add a node to the cluster, or take it out again; return which, when the keys have moved."""
        if self._guest is None:
            self._guest = OwnRedis(self.folder / "guest", appendonly=self._appendonly)
            self._stack.callback(self._guest.stop)
        is_in = self._guest in self.nodes
        address = f"127.0.0.1:{self._guest.port}"
        if is_in:
            is_done = self.observer.ask("move", away=address, timeout=MOVE_SECONDS)
        else:
            self._guest.restart(empty=True)
            self.nodes.append(self._guest)
            is_done = self.observer.ask("move", to=address, timeout=MOVE_SECONDS)
        until = time.monotonic() + MOVE_SECONDS
        while not is_done:
            assert time.monotonic() < until, f"the move did not come to its end within {MOVE_SECONDS:g} s"
            time.sleep(0.1)
            is_done = self.observer.ask("move", timeout=MOVE_SECONDS)
        if is_in:
            self.nodes.remove(self._guest)
        return "leave" if is_in else "join"

    def history_files(self) -> list[Path]:
        return sorted(self.folder.glob("history-*.jsonl"))

    def history(self) -> list[Operation]:
        return read_history(self.history_files())
