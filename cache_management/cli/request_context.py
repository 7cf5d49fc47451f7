"""In which context an answer was stored: what a request says beside its prompt, and what an entry tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.values import Lookup, SimilarityMatch
from cache_management.wiring import Platform

_Command = TypeVar("_Command", bound=Callable[..., Any])

_MOST_BYTES = 64 * 2**20
_SHOWN, _LOOKED_AT = 3, 20


class Place(msgspec.Struct, frozen=True):
    """Where a stored answer close to a question was asked; `model` is that of the answer."""

    key: str
    score: float
    vetoes: tuple[str, ...]
    model: str
    is_alone: bool  # asked without model, system prompt, parameters and conversation

    def __str__(self) -> str:
        refused = f", refused by {', '.join(self.vetoes)} there too" if self.vetoes else ""
        close = f"{self.key[:80]!r} at {self.score:.2f}"
        if self.is_alone:
            return f"asked as a prompt alone: {close}{refused}; leave out -m, -s, --params and --history"
        return (
            f"asked in another context: {close} (answer of {self.model}){refused};"
            " give -m, -s, --params and --history as its request had them"
        )


def request_options(command: _Command) -> _Command:
    """Add what a request says beside its prompt; read it with `read_request`."""
    for option in (
        click.option(
            "--history", metavar="FILE", type=click.Path(path_type=Path), help="Earlier messages: a JSON list."
        ),
        click.option("--params", metavar="JSON", help="The parameters of the request: a JSON object."),
        click.option("-s", "--system", help="The system prompt of the request."),
        click.option("-m", "--model", help="As in the request: another model is another context."),
    ):
        command = option(command)
    return command


def read_request(*, model: str | None, system: str | None, params: str | None, history: Path | None) -> dict[str, Any]:
    """Return the arguments of a lookup beside its prompt.

    Raises:
        InvalidInput: Something is no JSON, or of a wrong shape; names the option.
    """
    return {
        "model": model,
        "system": system,
        "params": None if params is None else parse_object(params, "--params", '{"temperature": 0}'),
        "history": () if history is None else _read_history(history),
    }


def parse_object(text: str, option: str, example: str) -> dict[str, Any]:
    """Return a JSON object that was given as an option.

    Raises:
        InvalidInput: It is none; shows an example.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{option} is not JSON: {exc}; write an object like '{example}'") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{option} must be a JSON object, like '{example}'")
    return found


def _read_history(file: Path) -> list[Any]:
    try:
        with file.open("rb") as source:
            data = source.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise InvalidInput(f"--history {file} cannot be read: {exc.strerror or exc}") from None
    if len(data) > _MOST_BYTES:
        raise InvalidInput(f"--history {file} holds more than 64 MiB")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"--history {file} is no JSON: {exc}") from None
    if not isinstance(found, list):
        raise InvalidInput(f'--history {file} must hold a list of messages, like [{{"role": "user", "content": "Hi"}}]')
    return found


async def places_of(platform: Platform, matches: Sequence[SimilarityMatch]) -> list[Place]:
    """Return where matches were asked."""
    entries = await platform.llm_cache.load_entries([match.key for match in matches])
    found = []
    for match in matches:
        # What a matcher keeps without an entry has no context.
        entry = entries.get(match.key)
        model, scope = ("unknown", "") if entry is None else (entry.response.model, entry.scope)
        found.append(Place(match.key, match.score, match.vetoes, model, scope == ""))
    return found


async def in_other_contexts(platform: Platform, found: Lookup) -> list[Place]:
    """Return the nearest answers that a lookup could not see because of its context, where it saw nothing near."""
    if found.reason not in {"no_candidate", "below_threshold"} or platform.manager.similarity_matcher is None:
        return []
    matches = await platform.manager.find_similar(found.prompt, found.threshold, _LOOKED_AT)
    known = {match.key for match in found.candidates}
    return await places_of(platform, [match for match in matches if match.key not in known][:_SHOWN])
