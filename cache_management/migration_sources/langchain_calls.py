"""Calls of LangChain as its caches keep them, whichever cache that is: its own tables, RedisVL, GPTCache.

Pure, and without LangChain. Entries keep their identity: an app that asks through our adapter finds them exactly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cache_management.adapters.langchain_answers import finish_reason, is_streaming, lacks_its_word
from cache_management.adapters.langchain_identity import ask_of
from cache_management.cache.admission import Refusal, may_store
from cache_management.cache.payloads import LANGCHAIN
from cache_management.cache.shown import shown as as_text
from cache_management.migration_sources.found import Found, LeftOut, left_out_for
from cache_management.migration_sources.sqlite_files import why_no_text

UNKNOWN_MODEL = "an answer to LangChain, and the cache does not say to which model"
_KINDS = {"Generation", "GenerationChunk", "ChatGeneration", "ChatGenerationChunk"}
_FIRST_FIELDS = {"text", "generation_info", "type"}


def call_of(prompt: str, llm: str, responses: Sequence[Any], *, where: str, timestamp: datetime) -> Found | LeftOut:
    """Return the answer to a call as our adapter would keep it.

    Args:
        llm: LangChain's description of the model.
        responses: Generations, each in LangChain's JSON.
    """
    asked = ask_of(prompt, llm)
    shown = _last_text(prompt)
    generations = []
    for response in responses:
        if not isinstance(response, str):
            return LeftOut(why_no_text(response), where, shown)
        generation = _generation(response)
        if generation is None:
            return LeftOut("a value that is no generation of LangChain", where, shown)
        refused = _why_not_kept(generation, is_streaming=is_streaming(llm))
        if refused is not None:
            return left_out_for(refused, where, shown)
        generations.append(generation)
    calls = _tool_calls(generations[0])
    return Found(
        where=where,
        asked=asked.arguments(),
        says_all=True,
        response=as_text(_text(generations[0]), calls),
        timestamp=timestamp,
        metadata={LANGCHAIN: json.dumps(generations)},
        has_tool_calls=bool(calls),
    )


def generations_in(answer: str) -> list[str] | None:
    """Return the generations of which LangChain made one text for another cache; None where the text is no such."""
    if not answer.lstrip().startswith(("[", "{")):
        return None
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    texts = [
        each if isinstance(each, str) else json.dumps(each) for each in (found if isinstance(found, list) else [found])
    ]
    return texts if any(map(_is_of_langchain, texts)) else None


def without_model(prompt: str, response: str, where: str) -> LeftOut | None:
    """Return why a text of LangChain stays behind where nothing says which model it is of; None for other texts.

    Filed as a plain question and answer, its JSON would be served to whoever asks the question.
    """
    if prompt.startswith('[{"lc":') or generations_in(response) is not None:
        return LeftOut(UNKNOWN_MODEL, where, _last_text(prompt))
    return None


def _last_text(prompt: str) -> str:
    """Return what a person sees of a prompt: of messages the last."""
    history = ask_of(prompt, "").history
    last = history[-1]["content"] if history else prompt
    return last if isinstance(last, str) else prompt


def _is_of_langchain(text: str) -> bool:
    found = _loaded(text)
    if not isinstance(found, dict):
        return False
    return {"lc", "type", "id"} <= found.keys() or _is_of_first_releases(found)


def _is_of_first_releases(found: dict[str, Any]) -> bool:
    return {"text", "generation_info"} <= found.keys()


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _generation(text: str) -> dict[str, Any] | None:
    """Return a generation in LangChain's JSON; a text that is no JSON is one of its first releases."""
    found = _loaded(text)
    if not isinstance(found, dict):
        return _plain({"text": text})
    if _is_of_first_releases(found) and found.keys() <= _FIRST_FIELDS and isinstance(found["text"], str):
        return _plain({"text": found["text"], "generation_info": found["generation_info"]})
    match found:
        case {"lc": 1, "type": "constructor", "id": [*_, str(name)], "kwargs": dict()} if name in _KINDS:
            return found
    return None


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    path = ["langchain", "schema", "output", "Generation"]
    return {"lc": 1, "type": "constructor", "id": path, "kwargs": {**kwargs, "type": "Generation"}}


def _why_not_kept(generation: dict[str, Any], *, is_streaming: bool) -> Refusal | None:
    """Return why our adapter for LangChain would not keep a generation, None if it would."""
    kwargs = generation["kwargs"]
    message = _object(_object(kwargs.get("message")).get("kwargs"))
    places = [_object(kwargs.get("generation_info")), _object(message.get("response_metadata"))]
    word = finish_reason(places)
    refusal = _object(message.get("additional_kwargs")).get("refusal")
    is_piece = generation["id"][-1].endswith("Chunk")
    return may_store(
        _text(generation),
        size_bytes=0,  # that of the whole entry is checked with it
        limit_bytes=0,
        finish_reason=word,
        refusal=refusal if isinstance(refusal, str) else None,
        has_tool_calls=bool(_tool_calls(generation)),
        aborted=word is None and (is_streaming or is_piece or lacks_its_word(places)),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(generation: dict[str, Any]) -> str:
    text = generation["kwargs"].get("text")
    return text if isinstance(text, str) else ""


def _tool_calls(generation: dict[str, Any]) -> list[dict[str, Any]]:
    calls = _object(_object(generation["kwargs"].get("message")).get("kwargs")).get("tool_calls")
    return [each for each in calls if isinstance(each, dict)] if isinstance(calls, list) else []
