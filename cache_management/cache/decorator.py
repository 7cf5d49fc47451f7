"""@cached: a function that asks a model, answered from the cache."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cache_management.cache.errors import InvalidInput
from cache_management.cache.llm import LLMCache
from cache_management.cache.requests import entry_key, make_request

_NAMED = ("model", "system", "history")


def cached(
    cache: LLMCache,
    *,
    prompt: str | None = None,
    ttl_seconds: int | None = None,
    tags: Sequence[str] = (),
    controls: Mapping[str, object] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Answer calls of an async function from a cache.

    The argument named `prompt` (or the one named here, or else the first) is the prompt; `model`,
    `system` and `history` mean what they mean everywhere. The function's name and all its other
    arguments count too, so calls that differ in any of them are different calls. The function returns
    text, a CachedResponse or Computed; its callers get the text.

    Raises:
        InvalidInput: The function is not async or has no such argument; or, when called, an
            argument that is not JSON.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        if not inspect.iscoroutinefunction(function):
            raise InvalidInput(
                f"{function.__qualname__} is not async: call cache.get_or_compute of cache_management.sync instead"
            )
        names = list(signature.parameters)
        name = prompt or ("prompt" if "prompt" in names else next(iter(names), ""))
        if name not in names:
            raise InvalidInput(f"{function.__qualname__} has no argument {name!r} that could be the prompt")

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> str:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = dict(bound.arguments)
            for parameter in signature.parameters.values():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    given.update(given.pop(parameter.name, {}))
            asked = given.pop(name)
            parts = {part: given.pop(part) for part in _NAMED if given.get(part) is not None}
            request = make_request(
                asked,
                model=parts.get("model"),
                system=parts.get("system"),
                history=parts.get("history", ()),
                # Always: two functions may answer one prompt in two ways.
                params={"function": f"{function.__module__}.{function.__qualname__}", "arguments": given},
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
