"""@cached: a function that asks a model, answered from the cache."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CellType
from typing import Any

from cache_management.cache.errors import InvalidInput
from cache_management.cache.llm import LLMCache
from cache_management.cache.requests import entry_key, make_request

_NAMED = ("model", "system", "history")
_MAX_DEPTH = 64


def cached(
    cache: LLMCache,
    *,
    prompt: str | None = None,
    name: str | None = None,
    ttl_seconds: int | None = None,
    tags: Sequence[str] = (),
    controls: Mapping[str, object] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Answer calls of an async function from a cache.

    The argument named `prompt` (or the one named here, or else the first) is the prompt; `model`,
    `system` and `history` mean what they mean everywhere. The function and all its other arguments
    count too, so calls that differ in any of them are different calls. The function returns text, a
    CachedResponse or Computed; its callers get the text.

    Which function it is: its module and name (and its file in `__main__`), and the text, numbers,
    None, tuples, lists and dicts that it takes from the functions around it. Of those, a list or
    dict counts as it was when it was first seen, and a name that the function itself assigns does
    not count. Nor do globals and other objects, such as clients: what of them changes the answer
    belongs into an argument or into `name`.

    Args:
        name: Says which function it is, instead of all this.

    Raises:
        InvalidInput: The function is not async, a method, or has no such argument; or, when called,
            an argument that is not JSON.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        _check(function, signature, name)
        parameters = signature.parameters
        rest = next((each.name for each in parameters.values() if each.kind is each.VAR_KEYWORD), None)
        named = [each.name for each in parameters.values() if each.kind not in {each.VAR_KEYWORD, each.VAR_POSITIONAL}]
        asked_name = prompt or ("prompt" if "prompt" in named else next(iter(named), ""))
        if asked_name not in named:
            raise InvalidInput(f"{function.__qualname__} has no argument {asked_name!r} that could be the prompt")
        closure = _Closure(function)
        full_name = name or f"{_module(function)}.{function.__qualname__}"

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> str:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = dict(bound.arguments)
            asked = given.pop(asked_name)
            if rest is not None:
                others = given.pop(rest)
                # f(prompt, /, **others) may be given another prompt=.
                doubled = {each: others[each] for each in others if each in parameters}
                given.update((each, others[each]) for each in others if each not in doubled)
                if doubled:
                    given[f"**{rest}"] = doubled
            identity = {"function": full_name, "arguments": given}
            if name is None and (seen := closure.values()):
                identity["closure"] = seen
            parts = {part: given.pop(part) for part in _NAMED if given.get(part) is not None}
            request = make_request(
                asked,
                model=parts.get("model"),
                system=parts.get("system"),
                history=parts.get("history", ()),
                # Always: two functions may answer one prompt in two ways.
                params=identity,
            )
            found = await cache.get_or_compute(
                entry_key(request),
                functools.partial(function, *args, **kwargs),
                prompt=str(asked),
                model=str(parts.get("model") or "unknown"),
                ttl_seconds=ttl_seconds,
                tags=tags,
                controls=controls,
            )
            return found.response

        return call

    return decorate


def _check(function: Callable[..., Any], signature: inspect.Signature, name: str | None) -> None:
    if not inspect.iscoroutinefunction(function):
        raise InvalidInput(
            f"{getattr(function, '__qualname__', repr(function))} is not async: call cache.get_or_compute of"
            " cache_management.sync instead"
        )
    if name is not None and not (isinstance(name, str) and name):
        raise InvalidInput(f"name must be text and not empty, not {name!r:.40}")
    if name is None and not hasattr(function, "__qualname__"):
        raise InvalidInput(f"{function!r:.80} has no name that says which function it is: give name=")
    takes_self = next(iter(signature.parameters), None) in {"self", "cls"}
    if takes_self or (name is None and inspect.ismethod(function)):
        raise InvalidInput(
            f"{function.__qualname__} is a method, and its object (self) may decide the answer too: decorate a"
            " function, or a bound method with a name that says what decides, such as in __init__:"
            " self.ask = cached(cache, name=f'ask in {language}')(self.ask)"
        )


def _module(function: Callable[..., Any]) -> str:
    if function.__module__ != "__main__":
        return function.__module__
    file = inspect.unwrap(function).__code__.co_filename
    return f"__main__:{file if file.startswith('<') else Path(file).resolve()}"


class _Closure:
    """The plain values that a function, and what it wraps, take from the functions around them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._cells: dict[str, CellType] = {}
        self._seen: dict[str, tuple[object, str | None]] = {}
        layer: Any = function
        while layer is not None:
            if code := getattr(layer, "__code__", None):
                own = _assigned(layer)
                cells = zip(code.co_freevars, layer.__closure__ or (), strict=True)
                self._cells = {name: cell for name, cell in cells if name not in own} | self._cells
            layer = getattr(layer, "__wrapped__", None)
        self.values()

    def values(self) -> dict[str, str]:
        """Return them as text, so that True and 1 differ."""
        found = {}
        for name, cell in self._cells.items():
            try:
                value = cell.cell_contents
            except ValueError:  # it is assigned later
                continue
            seen = self._seen.get(name)
            if seen is None or seen[0] is not value:
                # Kept as first seen: a list to which the function itself adds is no part of the question.
                seen = self._seen[name] = value, repr(value) if _is_plain(value) else None
            if seen[1] is not None:
                found[name] = seen[1]
        return found


def _assigned(function: Callable[..., Any]) -> set[str]:
    """Return the names of functions around it that a function assigns, such as a count of its calls."""
    return {each.argval for each in dis.get_instructions(function) if each.opname in {"STORE_DEREF", "DELETE_DEREF"}}


def _is_plain(value: object, depth: int = _MAX_DEPTH) -> bool:
    if value is None or isinstance(value, str | int | float):
        return True
    if not depth:
        return False
    if isinstance(value, dict):
        return all(_is_plain(name, depth - 1) and _is_plain(item, depth - 1) for name, item in value.items())
    return isinstance(value, list | tuple) and all(_is_plain(item, depth - 1) for item in value)
