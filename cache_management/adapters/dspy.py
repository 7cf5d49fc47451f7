"""DSPy asks this cache.

dspy.cache = ManagedCache(manager)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any

from cache_management import sync
from cache_management.adapters.guarded import Asked, GuardedManager
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import DSPY_COMPLETION, DSPY_RECORD
from cache_management.cache.values import CachedResponse

try:
    from dspy import settings
    from dspy.clients.cache import Cache
    from dspy.clients.call_result import CACHE_FORMAT, CallResult
    from litellm import ModelResponse

    from cache_management.adapters.litellm import completion_of, entry_of
except ImportError as exc:
    raise ImportError("The adapter for DSPy needs: pip install 'cache-management[dspy]'") from exc

logger = logging.getLogger("cache_management")


class ManagedCache(Cache):  # type: ignore[misc, unused-ignore]
    """A `CacheManager` as the cache of DSPy's language models.

    What counts is DSPy's own key of the whole request. Answers are found exactly only: DSPy's prompts are templates,
    in which a question is a small part of the text. Chat completions and DSPy's own records are kept, as JSON;
    embeddings and results of other functions go past it, as nothing is pickled.

    Args:
        namespace: By default that of the manager.
        ttl_seconds: The life of answers; by default that of the cache.
        tags: Given to every entry, to invalidate them together.
    """

    def __init__(
        self,
        manager: CacheManager | sync.CacheManager,
        *,
        namespace: str | None = None,
        ttl_seconds: int | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        super().__init__(enable_disk_cache=False, enable_memory_cache=False, disk_cache_dir=None)
        self._guarded = GuardedManager(
            manager, namespace=namespace, ttl_seconds=ttl_seconds, threshold=None, tags=tags, adapter="dspy"
        )

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """Return what is stored for a request, marked as DSPy marks it, or None."""
        asked = self._asked(request, ignored_args_for_cache_key)
        return None if asked is None else self._guarded.run(self._find(asked), None)

    def put(
        self,
        request: dict[str, Any],
        value: Any,
        ignored_args_for_cache_key: list[str] | None = None,
        enable_memory_cache: bool = True,
    ) -> None:
        """Store the answer to a request, unless it is cut off, refused or empty."""
        asked = self._asked(request, ignored_args_for_cache_key)
        if asked is not None:
            self._guarded.run(self._keep(asked, value), None)

    async def _find(self, asked: Asked) -> Any:
        found = await self._guarded.find(asked)
        if found is None or found.response is None:
            return None
        value = _value_of(found.response)
        if value is None:
            self._guarded.corrupt(found.key, "it holds no answer")
            return None
        return self._prepare_cached_response(value)

    async def _keep(self, asked: Asked, value: Any) -> None:
        response = self._entry_of(asked, value)
        if response is not None:
            await self._guarded.keep(asked, response)

    def _entry_of(self, asked: Asked, value: Any) -> CachedResponse | None:
        if isinstance(value, ModelResponse):
            if settings.send_stream is not None:
                return None  # of a stream that its provider closed in the middle LiteLLM says "stop", too
            return entry_of(value.model_dump_json(), self._guarded, name=DSPY_COMPLETION, asked=asked)
        if not isinstance(value, dict) or value.get("_dspy_format") != CACHE_FORMAT:
            return None
        try:
            payload = json.dumps(value)
        except (TypeError, ValueError, RecursionError) as exc:
            self._guarded.survive("store", exc)
            return None
        outputs = _outputs_of(value)
        if not all(
            self._guarded.may_keep(shown, finish_reason=reason, has_tool_calls=bool(calls), refusal=None)
            for reason, (shown, calls) in product(_reasons_of(value), outputs)
        ):
            return None
        return CachedResponse(
            prompt="",  # the manager files it under what was asked
            response=outputs[0][0],
            model=asked.model or "unknown",
            timestamp=datetime.fromtimestamp(self._guarded.manager.llm_cache.clock(), UTC),
            metadata={DSPY_RECORD: payload},
        )

    def _asked(self, request: dict[str, Any], ignored: list[str] | None) -> Asked | None:
        try:
            key = self.cache_key(request, ignored)
        except Exception:  # noqa: BLE001 - what DSPy cannot name is not cached, as in its own
            logger.debug("dspy: a request cannot be cached")
            return None
        model = request.get("model")
        # No text, so it is found exactly only.
        return Asked(prompt=[{"type": "dspy", "key": key}], model=model if isinstance(model, str) and model else None)


def _value_of(response: CachedResponse) -> Any:
    """Return what DSPy stored, and None for what it could not use."""
    payload = response.metadata.get(DSPY_COMPLETION)
    if payload is not None:
        completion = completion_of(payload)
        return None if completion is None else ModelResponse(**completion)
    payload = response.metadata.get(DSPY_RECORD)
    try:
        record = json.loads(payload) if isinstance(payload, str) else None
        if not isinstance(record, dict) or record.get("_dspy_format") != CACHE_FORMAT:
            return None
        CallResult.load(json.loads(str(payload)))  # as DSPy will do it, where an error would be the application's
    # What a hostile value makes a constructor raise is nobody's to list.
    except Exception:  # noqa: BLE001
        return None
    return record


def _reasons_of(record: dict[str, Any]) -> list[str | None]:
    """Return why each response of a record ended; that of one that says nothing is None, and of none, too."""
    responses = record.get("responses")
    found = [
        each.get("finish_reason")
        for each in (responses if isinstance(responses, list) else ())
        if isinstance(each, dict)
    ]
    return [each if isinstance(each, str) else None for each in found] or [None]


def _outputs_of(record: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the text of each output with its calls of tools; a record of none has one that is empty."""
    outputs = record.get("outputs")
    found: list[tuple[str, Any]] = []
    for each in outputs if isinstance(outputs, list) else ():
        text, calls = (each.get("text"), each.get("tool_calls")) if isinstance(each, dict) else (each, None)
        found.append((text if isinstance(text, str) else "", calls))
    return found or [("", None)]


__all__ = ["ManagedCache"]
