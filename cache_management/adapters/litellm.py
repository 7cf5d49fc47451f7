"""LiteLLM asks this cache.

litellm.cache = ManagedCache(manager)
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from cache_management import sync
from cache_management.adapters.guarded import Asked, GuardedManager
from cache_management.cache.admission import Controls, parse_controls
from cache_management.cache.errors import InvalidInput
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import LITELLM, is_text_alone
from cache_management.cache.requests import IGNORED, entry_key, make_request
from cache_management.cache.shown import shown
from cache_management.cache.values import CachedResponse, Lookup

try:
    import litellm
    from litellm.caching import caching_handler
    from litellm.caching.caching import Cache, CacheMode
    from litellm.litellm_core_utils.llm_response_utils.convert_dict_to_response import (
        convert_to_model_response_object,
        convert_to_streaming_response,
    )
    from litellm.types.caching import LiteLLMCacheType
    from litellm.types.utils import all_litellm_params
except ImportError as exc:
    raise ImportError("The adapter for LiteLLM needs: pip install 'cache-management[litellm]'") from exc

logger = logging.getLogger("cache_management")

# Of what LiteLLM keeps to itself this can change an answer; the rest is logging, prices, budgets and routing.
_COUNTS: Final = frozenset(
    {
        *("api_base", "api_version", "custom_llm_provider", "headers", "provider_specific_header"),
        *("prompt_id", "prompt_variables", "prompt_version", "prompt_label", "prompt_environment"),
        *("mock_response", "litellm_system_prompt", "allowed_openai_params", "guardrails", "text_completion"),
        *("roles", "bos_token", "eos_token", "final_prompt_value", "hf_model_name", "supports_system_message"),
        *("merge_reasoning_content_in_choices", "ensure_alternating_roles", "enable_json_schema_validation"),
        *("user_continue_message", "assistant_continue_message", "use_litellm_proxy", "base_model"),
    }
)
_WHERE: Final = frozenset({"api_base", "base_url", "api_version", "custom_llm_provider", "organization"})
_LEFT_OUT: Final = frozenset(map(str, all_litellm_params)) - _COUNTS | {"messages", "model", "parent_otel_span"}
_ANSWERED: Final[Any] = ["completion", "acompletion"]


class _Function(msgspec.Struct):
    arguments: str
    name: str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Completion(msgspec.Struct):
    """As much of a completion as must be right for it to be one."""

    choices: list[_Choice]
    object: str = "chat.completion"
    id: str | None = None
    created: int | None = None
    model: str | None = None
    usage: _Usage | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Completion).decode


class ManagedCache(Cache):  # type: ignore[misc, unused-ignore]
    """A `CacheManager` as the cache of LiteLLM's chat completions, sync or async.

    All that is given counts, also what a provider alone knows, in any order; of what LiteLLM keeps to itself only
    what can change an answer. A manager with a matcher also answers by meaning. The controls of a call are
    honoured: `cache={"no-cache", "no-store", "ttl", "s-maxage", "namespace", "use-cache"}`. Streams are answered from
    here, and stored with `store_streams`. Embeddings, images and other calls go past it.

    Args:
        namespace: By default that of the manager.
        ttl: The life of answers in seconds; by default that of the cache.
        threshold: Cosine similarity, -1 to 1; by default the configured one.
        tags: Given to every entry, to invalidate them together.
        store_streams: Store what was streamed, too. A stream whose connection breaks is an error to LiteLLM, and never
            stored. Of one that its provider, or a gateway in between, ends in good order in the middle LiteLLM says
            "stop" as of a whole one: say True where that does not happen.
        mode: `CacheMode.default_off` asks for calls with `cache={"use-cache": True}` only.

    Raises:
        ImportError: This release of LiteLLM breaks on hits where its proxy is not installed.
    """

    def __init__(
        self,
        manager: CacheManager | sync.CacheManager,
        *,
        namespace: str | None = None,
        ttl: int | None = None,
        threshold: float | None = None,
        tags: Sequence[str] = (),
        store_streams: bool = False,
        mode: CacheMode | None = CacheMode.default_on,
    ) -> None:
        _check_that_hits_work()
        self._guarded = GuardedManager(
            manager, namespace=namespace, ttl_seconds=ttl, threshold=threshold, tags=tags, adapter="litellm"
        )
        self._store_streams = store_streams
        super().__init__(type=LiteLLMCacheType.LOCAL, mode=mode, ttl=ttl, supported_call_types=_ANSWERED)

    def get_cache(self, dynamic_cache_object: object = None, **kwargs: Any) -> dict[str, Any] | None:
        """Return what is stored for a call, as LiteLLM keeps it, or None."""
        return self._guarded.run(self.async_get_cache(dynamic_cache_object, **kwargs), None)

    def add_cache(self, result: Any, **kwargs: Any) -> None:
        """Store the completion of a call."""
        self._guarded.run(self.async_add_cache(result, **kwargs), None)

    async def async_get_cache(self, dynamic_cache_object: object = None, **kwargs: Any) -> dict[str, Any] | None:
        """Return what is stored for a call, as LiteLLM keeps it, or None."""
        asked, controls = self._read(kwargs)
        if asked is None:
            return None
        found = await self._guarded.find(asked, controls=controls)
        if found is None or found.response is None:
            return None
        payload = found.response.metadata.get(LITELLM)
        if payload is None:  # somebody else stored it
            if not is_text_alone(found.response.metadata):
                return None
            _tell_similarity(kwargs, found)
            return _as_completion(found.response, now=self._guarded.manager.llm_cache.clock())
        _tell_similarity(kwargs, found)
        completion = completion_of(payload, as_stream=kwargs.get("stream") is True)
        if completion is None:
            self._guarded.corrupt(found.key, "it holds no completion")
            return None
        return completion

    async def async_add_cache(self, result: Any, dynamic_cache_object: object = None, **kwargs: Any) -> None:
        """Store the completion of a call, unless it is cut off, refused or empty, or a stream not to be stored."""
        if kwargs.get("stream") and not self._store_streams:
            return
        asked, controls = self._read(kwargs)
        if asked is None:
            return
        payload = result.model_dump_json() if isinstance(result, BaseModel) else result
        response = entry_of(payload, self._guarded, name=LITELLM, asked=asked)
        if response is not None:
            await self._guarded.keep(asked, response, controls=controls)

    async def async_add_cache_pipeline(self, result: Any, dynamic_cache_object: object = None, **kwargs: Any) -> None:
        """Store nothing: these are embeddings."""

    def get_cache_key(self, **kwargs: Any) -> str:
        """Return the key of a call's entry, which `delete_cache_keys` takes."""
        known: str | None = self._get_preset_cache_key_from_kwargs(**kwargs)
        if known is not None:
            return known
        try:
            key = entry_key(make_request(**self._asked(kwargs).arguments()))
        except (InvalidInput, TypeError, ValueError, KeyError):
            return str(super().get_cache_key(**kwargs))  # of a call that this cache does not answer
        self._set_preset_cache_key_in_kwargs(
            preset_cache_key=key, **{name: each for name, each in kwargs.items() if name != "preset_cache_key"}
        )
        return key

    async def delete_cache_keys(self, keys: Sequence[str]) -> int:
        """Remove entries of the manager's own namespace by key; return how many there were.

        Raises:
            BackendUnavailable: Some may still be there.
        """
        return await self._guarded.manager.llm_cache.delete_many(keys)

    async def ping(self) -> bool:
        """Ask the store for a sign of life.

        Raises:
            BackendUnavailable: It gives none.
        """
        await self._guarded.manager.llm_cache.backend.ping()
        return True

    async def disconnect(self) -> None:
        """Do nothing: the manager is its maker's to close."""

    def _read(self, kwargs: Mapping[str, Any]) -> tuple[Asked | None, Controls]:
        """Return the request of a call and its controls; None for a call that is not to be answered or kept."""
        try:
            wanted: Any = self.should_use_cache
            if wanted(**kwargs) is not True:
                return None, Controls()
            return self._asked(kwargs), _controls_of(kwargs)
        except InvalidInput as exc:
            logger.warning("litellm: a call is not cached: %s", exc)
        except Exception as exc:  # noqa: BLE001 - the edge to an application that goes on without a cache
            self._guarded.survive("lookup", exc)
        return None, Controls()

    def _asked(self, kwargs: Mapping[str, Any]) -> Asked:
        messages = kwargs["messages"]
        given = {name: each for name, each in kwargs.items() if not _is_left_out(name) and each is not None}
        model = str(self._get_model_param_value(dict(kwargs)))
        if model != kwargs.get("model"):
            # A group of deployments that LiteLLM routes among: they are one model at several places.
            given = {name: each for name, each in given.items() if name not in _WHERE}
            given["model_group"] = True
        scope = self._get_semantic_cache_tenant_scope(dict(kwargs))
        if scope:
            # Whoever asks through a proxy shares answers with nobody; the name makes it known by a digest only.
            given["litellm_scope.secret"] = scope
        return Asked(
            history=[_plain(message) for message in messages],
            model=model,
            params={name: _plain(each) for name, each in given.items()},
        )


def _check_that_hits_work() -> None:
    """Find out now whether LiteLLM can answer from any cache: some releases ask for their proxy's packages then."""
    probe = getattr(caching_handler, "_should_defer_streaming_cache_hit_callbacks", None)
    if probe is None or "cached_result" not in inspect.signature(probe).parameters:
        return
    try:
        probe(cached_result=None)
    except ImportError as exc:
        raise ImportError(
            "this release of LiteLLM fails on every hit of any cache unless its proxy is installed"
            " (BerriAI/litellm#42195): pip install 'litellm<1.102', or 'litellm[proxy]'"
        ) from exc


def _is_left_out(name: str) -> bool:
    return name in _LEFT_OUT or name in IGNORED or (name.startswith(("litellm_", "_")) and name not in _COUNTS)


def _plain(value: Any) -> Any:
    """Return a value as JSON; a class that says how an answer must look is its schema."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, type) and issubclass(value, BaseModel):
        return {"class": value.__name__, "schema": value.model_json_schema()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _controls_of(kwargs: Mapping[str, Any]) -> Controls:
    """Return the controls of a call.

    Raises:
        InvalidInput: One is unknown, or cannot be used.
    """
    given = dict(kwargs.get("cache") or {})
    given.pop("use-cache", None)  # LiteLLM's own, see `mode`
    if "s-max-age" in given:
        given.setdefault("s-maxage", given.pop("s-max-age"))
    ttl = given.get("ttl")
    if isinstance(ttl, float) and math.isfinite(ttl):
        given["ttl"] = math.ceil(ttl)
    metadata = kwargs.get("metadata")
    if not given.get("namespace") and isinstance(metadata, Mapping) and metadata.get("redis_namespace"):
        given["namespace"] = metadata["redis_namespace"]
    return parse_controls({name: each for name, each in given.items() if each is not None})


def entry_of(payload: object, guarded: GuardedManager, *, name: str, asked: Asked) -> CachedResponse | None:
    """Return a completion as it is stored; None for what is none, or no good answer."""
    try:
        completion = _decode(payload) if isinstance(payload, str) else None
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        completion = None
    if completion is None or not completion.choices:
        return None
    for choice in completion.choices:
        if not guarded.may_keep(
            choice.message.content or "",
            finish_reason=choice.finish_reason,
            has_tool_calls=bool(choice.message.tool_calls),
            refusal=choice.message.refusal,
        ):
            return None
    return CachedResponse(
        prompt="",  # the manager files it under what was asked
        response=_shown(completion.choices[0]),
        model=completion.model or asked.model or "unknown",
        timestamp=datetime.fromtimestamp(guarded.manager.llm_cache.clock(), UTC),
        token_count=max(0, completion.usage.completion_tokens) if completion.usage else 0,
        metadata={name: payload},
    )


def completion_of(payload: object, *, as_stream: bool = False) -> dict[str, Any] | None:
    """Return a stored completion, and None for what LiteLLM could not make an answer of."""
    try:
        if not isinstance(payload, str) or not _decode(payload).choices:
            return None
        found: dict[str, Any] = json.loads(payload)
        if found.get("object", "chat.completion") != "chat.completion":
            return None
        # As LiteLLM will do it, where an error would be the application's.
        made: Any = convert_to_model_response_object
        made(response_object=json.loads(payload), model_response_object=litellm.ModelResponse())
        if as_stream:
            pieces: Any = convert_to_streaming_response
            list(pieces(response_object=json.loads(payload)))
    # What a hostile value makes a constructor raise is nobody's to list.
    except Exception:  # noqa: BLE001
        return None
    return found


def _as_completion(response: CachedResponse, *, now: float) -> dict[str, Any]:
    message = {"role": "assistant", "content": response.response}
    return {
        "id": f"chatcmpl-{int(response.timestamp.timestamp() * 1000):x}",
        "object": "chat.completion",
        "created": int(now),
        "model": response.model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 0, "completion_tokens": response.token_count, "total_tokens": response.token_count},
    }


def _shown(choice: _Choice) -> str:
    calls = [{"name": each.function.name, "args": each.function.arguments} for each in choice.message.tool_calls or ()]
    return shown(choice.message.content or "", calls)


def _tell_similarity(kwargs: Mapping[str, Any], found: Lookup) -> None:
    """Say how close an answer by meaning is, where LiteLLM's own caches by meaning say it."""
    metadata = kwargs.get("metadata")
    if found.kind == "semantic" and isinstance(metadata, dict):
        metadata["semantic-similarity"] = found.similarity


__all__ = ["ManagedCache"]
