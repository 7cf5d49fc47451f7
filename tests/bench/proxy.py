"""Table 17: `cache-cli serve` beside LiteLLM's proxy, and beside the provider itself.

Each is a process of its own, in front of the same provider on this machine, which answers at once: what is left is what
a proxy adds. Both keep answers in their memory, or in the same Redis. A caller sends bytes made beforehand over
connections that stay open, so that little of the time is its own. LiteLLM's proxy comes from an environment of its own
(`make bench` makes it), since its pins are not ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Final, Literal, Self

import msgspec
import yaml

from cache_management.services import start_redis
from cache_management.services.processes import wait_for
from cache_management.services.provider import free_port
from tests.bench.measure import Comparison, Effort, Figures, Report, Side, compare, percentile, spread

NAME = "proxy"
Store = Literal["memory", "redis"]
_KNOWN = 50  # LiteLLM keeps 200 in memory
_START_SECONDS = 120.0
_MODEL = "gpt-x"
_GOAL: Final = "0.5 x"  # of LiteLLM's


class Wire:
    """One connection that stays open, and just enough of HTTP to know where an answer ends."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes) -> bytes:
        """Return the body of an answer.

        Raises:
            RuntimeError: It is no good answer.
        """
        is_new = self._streams is None
        try:
            return await self._exchange(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            if is_new:
                raise
            # Servers close what was idle for some seconds, while the other side was measured.
            await self.aclose()
            return await self._exchange(body)

    async def _exchange(self, body: bytes) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer sk-bench\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        answer = await reader.readexactly(int(length)) if length else await _chunks(reader)
        if b" 200 " not in head[:20]:
            raise RuntimeError(f"port {self._port}: {head!r} {answer!r}")
        return answer

    async def aclose(self) -> None:
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


class Callers:
    """Some callers at once of one address, each with a connection."""

    def __init__(self, port: int, at_once: int) -> None:
        self.wires = [Wire(port) for _ in range(at_once)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for wire in self.wires:
            await wire.aclose()

    async def ask(self, bodies: Iterator[bytes]) -> list[float]:
        """Share out questions among the callers; return how long each took, in seconds."""
        seconds = []

        async def work(wire: Wire) -> None:
            for body in bodies:
                began = perf_counter()
                await wire.ask(body)
                seconds.append(perf_counter() - began)

        await asyncio.gather(*map(work, self.wires))
        return seconds


async def measure(
    effort: Effort, *, stores: Sequence[Store] = ("memory", "redis"), at_once: int = 50, requests: int = 1_000
) -> Report:
    """Measure the table."""
    report = Report(
        name=NAME,
        title="17. caching proxies, microseconds for each request",
        rows=[],
        notes=[
            "chat completions of 0.5 kB from a provider that answers at once; one process each, all on the same cores",
            f"{at_once} callers: the time of {requests:,} hits, divided by their number; p99 is of one of them",
            "both find exactly only: `--exact-only`, and LiteLLM's `local` or `redis` cache",
        ],
    )
    litellm = litellm_program()
    if litellm is None:
        report.notes.append("LiteLLM's proxy is left out: it is not installed; `make bench` installs it")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider = stack.enter_context(_running(_provider, folder))
        for store in stores:
            url = "memory://"
            if store == "redis":
                server = start_redis(folder / "redis")
                stack.callback(server.stop)
                url = server.url
            ours = stack.enter_context(_running(lambda port, url=url: _ours(port, provider, url, folder), folder))
            beside = {"the provider": provider}
            if litellm is not None:
                argv = _litellm(litellm, provider, url, folder)
                beside["LiteLLM"] = stack.enter_context(_running(argv, folder))
            for name, port in beside.items():
                report.rows += await _beside(store, name, ours, port, effort, at_once, requests)
    return report


async def _beside(
    store: Store, name: str, ours: int, theirs: int, effort: Effort, at_once: int, requests: int
) -> list[Comparison]:
    """Compare with one other address."""
    rows = []
    async with AsyncExitStack() as stack:
        one = [(await stack.enter_async_context(Callers(port, 1))).wires[0] for port in (ours, theirs)]
        many = [await stack.enter_async_context(Callers(port, at_once)) for port in (ours, theirs)]
        known = [(question(f"What is {number}?"),) for number in range(_KNOWN)]
        streamed = [(question(f"What is {number}?", stream=True),) for number in range(_KNOWN)]
        for wire in one:
            for (body,) in (*known, *streamed):
                await wire.ask(body)
        new = count()
        asked = {
            "hit": [Side(wire.ask, known) for wire in one],
            "streamed hit": [Side(wire.ask, streamed) for wire in one],
            "miss": [Side(_fresh(wire, new), [()]) for wire in one],
            "streamed miss": [Side(_fresh(wire, new, stream=True), [()]) for wire in one],
        }
        for what, sides in asked.items():
            row = await compare(*sides, effort, what=f"{store}: {what}", reference=name, goal=_goal(name))
            # What was measured of this process is the caller's alone.
            rows.append(msgspec.structs.replace(row, cpu_ratio=None))
        rows.append(await _together(f"{store}: hit, {at_once} callers", name, many, known, effort, requests))
    return rows


async def _together(
    what: str, name: str, sides: Sequence[Callers], known: Sequence[tuple[bytes]], effort: Effort, requests: int
) -> Comparison:
    """Compare how fast hits come when many ask at once."""
    runs: tuple[list[float], list[float]] = ([], [])
    singles: tuple[list[float], list[float]] = ([], [])
    bodies = [known[number % len(known)][0] for number in range(requests)]
    rounds = max(2, effort.rounds // 8)
    for number in range(rounds + 1):
        for at in (0, 1) if number % 2 == 0 else (1, 0):
            began = perf_counter()
            seconds = await sides[at].ask(iter(bodies))
            if number:  # the first run opens the connections
                runs[at].append((perf_counter() - began) / requests)
                singles[at].extend(seconds)
    middle, low, high = spread([a / b for a, b in zip(*runs, strict=True)])
    ours, theirs = (
        Figures(median=statistics.median(runs[at]) * 1e6, p99=percentile(singles[at], 99) * 1e6) for at in (0, 1)
    )
    return Comparison(
        what=what,
        reference=name,
        unit="us",
        ours=ours,
        theirs=theirs,
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        callers=len(sides[0].wires),
        runs=rounds,
        goal=_goal(name),
    )


def _goal(name: str) -> str:
    return _GOAL if name == "LiteLLM" else ""


def question(text: str, *, stream: bool = False) -> bytes:
    """Return the body of a request."""
    body = {"model": _MODEL, "messages": [{"role": "user", "content": text}], **({"stream": True} if stream else {})}
    return json.dumps(body).encode()


def _fresh(wire: Wire, numbers: Iterator[int], *, stream: bool = False) -> Callable[[], Awaitable[bytes]]:
    return lambda: wire.ask(question(f"What is the answer to new question {next(numbers)}?", stream=stream))


def litellm_program() -> Path | None:
    """Find LiteLLM's proxy: in the environment beside this one, else on the PATH."""
    prefix = Path(sys.prefix)
    beside = prefix.with_name(f"{prefix.name}-litellm") / "bin" / "litellm"
    found = str(beside) if beside.exists() else shutil.which("litellm")
    return Path(found) if found else None


def _provider(port: int) -> list[str]:
    app = "tests.gateway.upstream:LocalUpstream"
    return [sys.executable, "-m", "uvicorn", "--factory", app, "--port", str(port), "--log-level", "error"]


def _ours(port: int, provider: int, url: str, folder: Path) -> list[str]:
    config = folder / f"ours-{port}.yaml"
    config.write_text(yaml.safe_dump({"url": url, "data_dir": str(folder)}))
    upstream = f"http://127.0.0.1:{provider}/v1"
    argv = [sys.executable, "-m", "cache_management.cli", "--config", str(config), "serve", "--port", str(port)]
    return [*argv, "--upstream", upstream, "--exact-only"]


def _litellm(program: Path, provider: int, url: str, folder: Path) -> Callable[[int], list[str]]:
    cache = {"type": "local"} if url == "memory://" else {"type": "redis", "url": url}
    model = {"model": f"openai/{_MODEL}", "api_base": f"http://127.0.0.1:{provider}/v1", "api_key": "sk-bench"}
    settings = {
        "model_list": [{"model_name": _MODEL, "litellm_params": model}],
        "litellm_settings": {"cache": True, "cache_params": {**cache, "ttl": 3600}},
    }

    def argv(port: int) -> list[str]:
        config = folder / f"litellm-{port}.yaml"
        config.write_text(yaml.safe_dump(settings))
        quiet = folder / "quiet.json"  # no line for each request: ours writes none
        quiet.write_text(json.dumps({"version": 1, "loggers": {"uvicorn.access": {"level": "ERROR"}}}))
        where = ["--host", "127.0.0.1", "--port", str(port)]
        return [str(program), "--config", str(config), *where, "--telemetry", "False", "--log_config", str(quiet)]

    return argv


@contextmanager
def _running(argv: Callable[[int], list[str]], folder: Path) -> Iterator[int]:
    """Run a server on a free port until it is not needed any more."""
    port = free_port()
    log = folder / f"{port}.log"
    # No list of prices from the internet.
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with log.open("w") as out, subprocess.Popen(argv(port), stdout=out, stderr=out, env=env) as process:
        try:
            wait_for(lambda: _answers(port) or process.poll() is not None, timeout=_START_SECONDS)
            if not _answers(port):
                raise RuntimeError(f"{argv(port)[0]} does not answer: {log.read_text()[-2000:]}")
            yield port
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
