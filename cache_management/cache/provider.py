"""Whoever answers prompts that nobody has answered yet: a command, or a function of the operator's.

A question is a dictionary of JSON values: `prompt`, `model`, and of a whole request also `system`, `history`,
`params`, `tools`, `tool_choice`, `response_format` and `tenant`; what the request did not say is left out.

A command gets the question as JSON on its standard input, never in its arguments, and prints the answer: text, or a
JSON object with `response` and, if known, `model`, `token_count`, `cost_usd`, `finish_reason`, `metadata`. Exit code
75 means "not now". A function takes the question and returns the same: text, a dictionary, `Computed` or a
`CachedResponse`; it may be async.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import inspect
import json
import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from cache_management.cache.compute import Computed
from cache_management.cache.errors import ConfigurationError, InvalidInput, ProviderBusy, ProviderRefused, ProviderStuck
from cache_management.cache.on_thread import on_thread
from cache_management.cache.payloads import check_metadata
from cache_management.cache.values import CachedResponse

Question = dict[str, Any]
Provider = Callable[[Question], Awaitable[Computed]]
"""Answers a question, or raises ProviderBusy, ProviderStuck or ProviderRefused."""

TRY_LATER = os.EX_TEMPFAIL if hasattr(os, "EX_TEMPFAIL") else 75
_OUTPUT_BYTES = 64 * 2**20
_LOOK_SECONDS = 0.5
_TOO_MANY = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_NOT_NOW = frozenset({408, 409, 425, 429, 502, 503, 504, 529})
_NO_RIGHTS = frozenset({401, 403})
_MICRO = 1_000_000


class _Answer(BaseModel):
    """What a provider may say of its answer."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    response: str
    model: str | None = None
    token_count: int = Field(default=0, ge=0, lt=2**63)
    cost_usd: float | None = Field(default=None, ge=0, le=1_000_000)
    finish_reason: str | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)


def open_provider(*, command: str | None, function: str | None, timeout_seconds: float) -> Provider | None:
    """Return the provider that a configuration names; None when it names none.

    Raises:
        ConfigurationError: It names two, or one that cannot be.
    """
    if command and function:
        raise ConfigurationError("provider.command and provider.callable both answer prompts: set one of them")
    if command:
        return _command(command, timeout_seconds)
    return _function(function, timeout_seconds) if function else None


def _command(command: str, timeout_seconds: float) -> Provider:
    try:
        argv = shlex.split(command)
    except ValueError as exc:
        raise ConfigurationError(f"provider.command {command!r} cannot be read: {exc}") from None
    if not argv:
        raise ConfigurationError("provider.command is empty")

    async def ask(question: Question) -> Computed:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # it may quote the prompt
                start_new_session=True,
            )
        except OSError as exc:
            if exc.errno in _TOO_MANY:
                raise ProviderBusy(f"the command cannot be started: {exc.strerror}") from exc
            raise ConfigurationError(f"provider.command: {argv[0]} cannot be started: {exc.strerror}") from exc
        try:
            async with asyncio.timeout(timeout_seconds):
                output = await _talk(process, json.dumps(question).encode())
                code = await process.wait()
        except TimeoutError:
            raise ProviderStuck(f"it gave no answer within {timeout_seconds:g} s") from None
        finally:
            _end(process)
            # Its pipe may be held open by something it left behind. There is no public way to close our end.
            process._transport.close()  # type: ignore[attr-defined]
            await process.wait()
        if code == TRY_LATER:
            raise ProviderBusy(f"the command ended with {TRY_LATER}")
        if code:
            raise ProviderRefused(f"the command ended with {code}")
        return as_computed(_parse_output(output))

    return ask


async def _talk(process: asyncio.subprocess.Process, question: bytes) -> bytes:
    """Write the question while the answer is read: a command may print before it has read everything."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None  # noqa: S101 - both are pipes, as asked for above
    assert stdout is not None  # noqa: S101

    async def write() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(question)
            await stdin.drain()
        stdin.close()

    pieces: list[bytes] = []

    async def read() -> None:
        size = 0
        while piece := await stdout.read(64 * 1024):
            pieces.append(piece)
            size += len(piece)
            if size > _OUTPUT_BYTES:
                raise ProviderRefused(f"the command printed more than {_OUTPUT_BYTES:,} bytes")

    writing, reading = asyncio.ensure_future(write()), asyncio.ensure_future(read())
    try:
        while not reading.done():
            # A command that has ended says no more, though what it left running may hold its output open. Looked at,
            # because `process.wait()` waits for the output too.
            has_ended, had = process.returncode is not None, len(pieces)
            await asyncio.wait((reading,), timeout=_LOOK_SECONDS)
            if has_ended and len(pieces) == had:
                break
        if reading.done():
            reading.result()
        return b"".join(pieces)
    finally:
        for each in (writing, reading):
            each.cancel()
        await asyncio.wait((writing, reading))


def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a command that still runs, and what it started: its session is its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _parse_output(output: bytes) -> str | dict[str, Any]:
    try:
        text = output.decode()
    except UnicodeDecodeError as exc:
        raise ProviderRefused(f"the command printed what is not UTF-8 at byte {exc.start}") from None
    if text.lstrip()[:1] == "{":
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text)
            if isinstance(found, dict) and "response" in found:
                return found
    return text.removesuffix("\n")


def _function(path: str, timeout_seconds: float) -> Provider:
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as exc:  # a module of the operator's own may raise anything
        raise ConfigurationError(
            f"provider.callable: {path} cannot be loaded ({type(exc).__name__}: {exc}); write package.module:name of a"
            " function"
        ) from exc
    if not callable(function):
        raise ConfigurationError(f"provider.callable: {path} is no function")

    async def ask(question: Question) -> Computed:
        try:
            async with asyncio.timeout(timeout_seconds):
                return as_computed(await _call(function, question))
        except (ProviderBusy, ProviderRefused, ConfigurationError):
            raise
        except TimeoutError:
            raise ProviderStuck(f"it gave no answer within {timeout_seconds:g} s") from None
        except Exception as exc:  # whatever a client library raises: told apart by its status
            raise _translated(exc) from exc

    return ask


async def _call(function: Callable[[Question], Any], question: Question) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(question)
    found = await on_thread(lambda: function(question), name="cache-provider")
    return await found if inspect.isawaitable(found) else found


def _translated(error: Exception) -> ProviderBusy | ProviderRefused:
    """Tell "not now" from "never"; of an error its class and HTTP status are told: a text may quote the prompt."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    name = type(error).__name__
    if status in _NO_RIGHTS:
        # Every item would fail alike: somebody has to mend the key, and none is lost until then.
        return ProviderBusy(f"{name}: it refuses the credentials ({status})", retry_after_seconds=60.0)
    if status in _NOT_NOW:
        return ProviderBusy(f"{name} ({status})", retry_after_seconds=_retry_after(response))
    if isinstance(status, int) and status >= 500:
        return ProviderStuck(f"{name} ({status})")
    if status is None and isinstance(error, ConnectionError | OSError):
        return ProviderBusy(name)
    return ProviderRefused(name if status is None else f"{name} ({status})")


def _retry_after(response: Any) -> float | None:
    headers: Any = getattr(response, "headers", None)
    try:
        seconds = float(headers.get("retry-after"))
    except (AttributeError, TypeError, ValueError):  # none, or a date
        return None
    return seconds if 0 <= seconds <= 3600 else None


def as_computed(said: object) -> Computed:
    """Return what a provider said as an answer.

    Raises:
        ProviderRefused: It is none.
    """
    if isinstance(said, Computed):
        if not isinstance(said.response, str):
            raise ProviderRefused(f"the provider returned Computed with {type(said.response).__name__}, not text")
        return said
    if isinstance(said, str):
        return Computed(response=said)
    if isinstance(said, CachedResponse):
        return Computed(
            response=said.response, model=said.model, token_count=said.token_count, metadata=dict(said.metadata)
        )
    if not isinstance(said, Mapping):
        raise ProviderRefused(f"the provider returned {type(said).__name__}, not text or an object with a response")
    try:
        answer = _Answer.model_validate(dict(said), strict=False)
    except ValidationError as exc:
        raise ProviderRefused(f"the provider's answer has a wrong {wrong_fields(exc)}") from None
    try:
        check_metadata(answer.metadata, "the provider's metadata")
    except InvalidInput as exc:
        raise ProviderRefused(str(exc)) from None
    return Computed(
        response=answer.response,
        model=answer.model,
        token_count=answer.token_count,
        metadata=answer.metadata,
        finish_reason=answer.finish_reason,
        cost_micro=_micro(answer.cost_usd),
    )


def wrong_fields(error: ValidationError) -> str:
    """Return the names of the fields that are wrong, without their values: those are answers."""
    return ", ".join(sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})) or "shape"


def _micro(usd: float | None) -> int | None:
    """Return micro-dollars; what cost something costs one at least, or a ceiling would never be reached."""
    return None if usd is None else max(round(usd * _MICRO), int(usd > 0))
