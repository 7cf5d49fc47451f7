"""What a call of LangChain is as a request. Pure, and without LangChain: importing old caches needs it too.

LangChain names a call by two texts: the prompt, which is a text or the JSON of messages, and a description of model and
parameters, which is JSON, `repr` or both. Both count, whole. Of the messages only what LangChain itself changes
when an answer comes from a cache is left out: ids, counted tokens, and our own mark.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Literal

from cache_management.adapters.guarded import MARK, Asked

_ROLES = {
    **dict.fromkeys(("HumanMessage", "HumanMessageChunk"), "user"),
    **dict.fromkeys(("AIMessage", "AIMessageChunk"), "assistant"),
    **dict.fromkeys(("SystemMessage", "SystemMessageChunk"), "system"),
    **dict.fromkeys(("ToolMessage", "ToolMessageChunk"), "tool"),
    "FunctionMessage": "function",
}
_PLAIN = frozenset({"HumanMessage", "AIMessage", "SystemMessage", "ToolMessage", "FunctionMessage"})
_HOME = ["langchain", "schema", "messages"]
_NOT_ASKED = frozenset({"content", "type", "id", "usage_metadata"})
_MODEL_NAMES = ("model", "model_name", "model_id")
_MODEL = re.compile(r"\('(?:model|model_name|model_id)', '([^'\\]{1,200})'\)")


def ask_of(prompt: str, llm_string: str) -> Asked:
    """Return the request that a prompt and a description of the model are.

    Messages become a conversation, so that the last of the user may be found by meaning; what cannot be
    understood is kept as it is, and found exactly only.
    """
    form: Literal["text", "messages", "raw"] = "text"
    history: list[dict[str, Any]] | None = None
    text: Any = prompt
    if prompt.startswith('[{"lc":'):
        history = _conversation(prompt)
        form = "raw" if history is None else "messages"
        # A part that is no text has no meaning to search.
        text = None if history else [{"type": "langchain", "prompt": prompt}]
    return Asked(
        prompt=text,
        model=_model_of(llm_string),
        history=history or (),
        # By the name of a secret it is known by a digest only: it may hold keys, and nobody else could ask with it.
        params={"langchain": form, "langchain_llm.secret": llm_string},
    )


def _conversation(prompt: str) -> list[dict[str, Any]] | None:
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    found = [_message(each) for each in messages]
    return None if None in found else [each for each in found if each is not None]


def _message(given: Any) -> dict[str, Any] | None:
    """Return a message as a chat message; all that is not role and content stands beside it and counts."""
    match given:
        case {"lc": 1, "type": "constructor", "id": [*home, str(name)], "kwargs": {"content": content, **rest}} if (
            len(given) == 4 and home == _HOME and name in _ROLES
        ):
            pass
        case _:
            return None
    parts = content if isinstance(content, str) else _parts(content)
    if parts is None:
        return None
    kept = {key: value for key, value in rest.items() if key not in _NOT_ASKED and value not in (None, "", [], {})}
    metadata = kept.get("response_metadata")
    if isinstance(metadata, dict) and MARK in metadata:
        kept["response_metadata"] = {key: value for key, value in metadata.items() if key != MARK}
        if not kept["response_metadata"]:
            del kept["response_metadata"]
    if name not in _PLAIN:
        kept["class"] = name
    message = {"role": _ROLES[name], "content": parts}
    return {**message, "langchain": kept} if kept else message


def _parts(content: Any) -> list[dict[str, Any]] | None:
    if not isinstance(content, list):
        return None
    parts = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    is_known = all(isinstance(each, dict) and isinstance(each.get("type"), str) for each in parts)
    return parts if is_known else None


@lru_cache(maxsize=256)
def _model_of(llm_string: str) -> str | None:
    """Return the name of the model, for statistics by model; the whole description counts besides."""
    if llm_string.startswith("{"):
        try:
            described, _ = json.JSONDecoder().raw_decode(llm_string)
        except (ValueError, RecursionError):
            described = {}
        given = described.get("kwargs")
        for name in _MODEL_NAMES if isinstance(given, dict) else ():
            if isinstance(given.get(name), str) and given[name]:
                return str(given[name])
    found = _MODEL.search(llm_string)
    return None if found is None else found[1]
