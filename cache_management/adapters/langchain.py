"""LangChain asks this cache.

from langchain_core.globals import set_llm_cache

set_llm_cache(ManagedCache(manager))
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cache_management import sync
from cache_management.adapters.guarded import MARK, GuardedManager, mark_of
from cache_management.adapters.langchain_answers import finish_reason, is_streaming, lacks_its_word
from cache_management.adapters.langchain_identity import ask_of
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import LANGCHAIN, is_text_alone
from cache_management.cache.shown import shown
from cache_management.cache.values import CachedResponse, Lookup

try:
    from langchain_core.caches import BaseCache
    from langchain_core.load import dumpd, load
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessageChunk, ChatMessage, ChatMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
except ImportError as exc:
    raise ImportError("The adapter for LangChain needs: pip install 'cache-management[langchain]'") from exc

# What a model may answer with, and nothing else: other classes act when they are made.
_LOADED = (
    *(Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk),
    *(AIMessage, AIMessageChunk, ChatMessage, ChatMessageChunk),
)
# Without the wrapper that says once a process that loading is a beta function, to whoever asks first.
_load: Any = inspect.unwrap(load)


class _Unusable(ValueError):
    """Stored generations are none."""


class ManagedCache(BaseCache):
    """A `CacheManager` as the cache of LangChain's chat models and LLMs.

    The prompt and the whole description of the model count. A manager with a matcher also answers by meaning: the
    last message of the user may be worded differently, all else must be the same. A message from here has no id,
    for an id names one message, and says in `response_metadata["cache_management"]` where it came from; the mark is no
    difference to `==`. All else is as it was stored. Synchronous calls run on the loop of `cache_management.sync`.

    Args:
        namespace: By default that of the manager. `clear` removes all of it.
        ttl_seconds: The life of answers; by default that of the cache.
        threshold: Cosine similarity, -1 to 1; by default the configured one.
        tags: Given to every entry, to invalidate them together.
    """

    def __init__(
        self,
        manager: CacheManager | sync.CacheManager,
        *,
        namespace: str | None = None,
        ttl_seconds: int | None = None,
        threshold: float | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self._cache = GuardedManager(
            manager,
            namespace=namespace,
            ttl_seconds=ttl_seconds,
            threshold=threshold,
            tags=tags,
            adapter="langchain",
        )

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the generations stored for a call, or None."""
        return self._cache.run(self.alookup(prompt, llm_string), None)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store the generations of a call."""
        self._cache.run(self.aupdate(prompt, llm_string, return_val), None)

    def clear(self, **kwargs: Any) -> None:
        """Remove everything of the namespace.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        sync.run(self.aclear(**kwargs))

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the generations stored for a call, or None."""
        found = await self._cache.find(ask_of(prompt, llm_string))
        if found is None or found.response is None:
            return None
        if LANGCHAIN not in found.response.metadata and not is_text_alone(found.response.metadata):
            return None  # somebody else's, of which the text leaves something out
        try:
            generations = generations_of(found.response)
        except _Unusable as exc:
            self._cache.corrupt(found.key, str(exc))
            return None
        for each in generations:
            _mark(each, found)
        return generations

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store the generations of a call, unless one of them is cut off, refused or empty.

        Of what came as a stream only the provider's word tells that it came to its end: without one it is not stored.
        """
        generations = list(return_val)
        streams = is_streaming(llm_string)
        if not generations or not all(self._is_good(each, streams=streams) for each in generations):
            return
        try:
            payload = json.dumps([dumpd(each) for each in generations])
            _loaded(payload)  # what could not be read back is not stored
        except (_Unusable, TypeError, ValueError, RecursionError) as exc:
            self._cache.survive("store", exc)
            return
        asked = ask_of(prompt, llm_string)
        first = generations[0]
        response = CachedResponse(
            prompt="",  # the manager files it under what was asked
            response=shown(first.text, _tool_calls(first)),
            model=asked.model or "unknown",
            timestamp=datetime.fromtimestamp(self._cache.manager.llm_cache.clock(), UTC),
            token_count=sum(map(_tokens, generations)),
            metadata={LANGCHAIN: payload},
        )
        await self._cache.keep(asked, response)

    async def aclear(self, **kwargs: Any) -> None:
        """Remove everything of the namespace.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        await self._cache.clear()

    def _is_good(self, generation: Generation, *, streams: bool) -> bool:
        message = generation.message if isinstance(generation, ChatGeneration) else None
        places = _places(generation)
        word = finish_reason(places)
        refusal = None if message is None else message.additional_kwargs.get("refusal")
        return self._cache.may_keep(
            generation.text,
            finish_reason=word,
            aborted=word is None and (streams or lacks_its_word(places) or _came_as_a_stream(generation)),
            has_tool_calls=bool(_tool_calls(generation)) or (message is not None and _has_other_parts(message.content)),
            refusal=refusal if isinstance(refusal, str) else None,
        )


def generations_of(response: CachedResponse) -> list[Generation]:
    """Return the generations of an entry; one that somebody else stored is a text.

    Raises:
        _Unusable: They are none, or hold something that a model does not answer with.
    """
    payload = response.metadata.get(LANGCHAIN)
    if payload is None:
        return [Generation(text=response.response)]
    if not isinstance(payload, str):
        raise _Unusable("its generations are no text")
    return _loaded(payload)


def _loaded(payload: str) -> list[Generation]:
    try:
        found = _load(json.loads(payload), allowed_objects=_LOADED, secrets_map={}, secrets_from_env=False)
    # What a hostile value makes a constructor raise is nobody's to list.
    except Exception as exc:
        raise _Unusable(f"its generations cannot be loaded ({type(exc).__name__})") from exc
    if not isinstance(found, list) or not found or not all(isinstance(each, Generation) for each in found):
        raise _Unusable("it holds no list of generations")
    return found


class _Metadata(dict[str, Any]):
    """What a provider says of an answer, with our mark, which makes no other answer of it."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and _unmarked(self) == _unmarked(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _unmarked(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name != MARK}


def _mark(generation: Generation, found: Lookup) -> None:
    # The answer of a plain LLM is a text, and LangChain has no place for what is said of it.
    if isinstance(generation, ChatGeneration):
        message = generation.message
        message.id = None
        message.response_metadata = _Metadata({**message.response_metadata, MARK: mark_of(found)})


def _places(generation: Generation) -> list[dict[str, Any]]:
    """Return where a generation may say why it ended."""
    places = [generation.generation_info or {}]
    if isinstance(generation, ChatGeneration):
        places.append(generation.message.response_metadata)
    return places


def _came_as_a_stream(generation: Generation) -> bool:
    """Tell whether a generation was put together of pieces."""
    if isinstance(generation, GenerationChunk | ChatGenerationChunk):
        return True
    if not isinstance(generation, ChatGeneration):
        return False
    message = generation.message
    if isinstance(message, BaseMessageChunk):
        return True
    all_given = message.model_fields_set >= set(type(message).model_fields) - {"type"}
    # LangChain makes a message of pieces by giving it all fields, also those that nobody knows a value of; and of
    # the newer events of streams a generation whose info is None.
    return all_given or ("generation_info" in generation.model_fields_set and generation.generation_info is None)


def _tool_calls(generation: Generation) -> list[Any]:
    message = generation.message if isinstance(generation, ChatGeneration) else None
    return list(message.tool_calls) if isinstance(message, AIMessage) else []


def _has_other_parts(content: Any) -> bool:
    """Tell whether there is something besides text, such as an image."""
    return isinstance(content, list) and any(isinstance(part, dict) and part.get("type") != "text" for part in content)


def _tokens(generation: Generation) -> int:
    message = generation.message if isinstance(generation, ChatGeneration) else None
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    return max(0, int(usage.get("output_tokens", 0))) if usage else 0


__all__ = ["ManagedCache"]
