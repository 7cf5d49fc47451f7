"""OpenAI responses: `POST .../responses`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from cache_management.cache.compute import Computed
from cache_management.cache.identity import digest
from cache_management.cache.requests import ROLES
from cache_management.cache.shown import shown
from cache_management.cache.values import CachedResponse
from cache_management.gateway.bodies import pieces, read_answer, zeroed
from cache_management.gateway.calls import NotUnderstood
from cache_management.gateway.dialects.base import (
    Reading,
    acts_now,
    as_params,
    check_flag,
    check_objects,
    check_text,
    exact_only,
    has_media,
    is_one_of,
    kept,
    missing,
    objects,
    openai_error,
    tokens,
    usage_wanted,
)
from cache_management.gateway.sse import Event

_PLAIN_TOOLS = frozenset({"function", "custom"})
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed"})
_STATE = ("previous_response_id", "conversation", "prompt", "background")
_NO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


class Responses:
    """The Responses API."""

    name = "responses"
    suffix = "/responses"
    home = "https://api.openai.com/v1"

    def read(self, body: Mapping[str, Any]) -> Reading:
        given = body.get("input")
        bypass = _why_not(body)
        if given is None and bypass is None:
            raise missing("input")
        # What is not for the cache is the provider's to read.
        items = _items(given) if bypass is None else []
        history = [_turn(item) for item in items]
        if any(item.get("type") == "item_reference" for item in items):
            bypass = "a part of it is kept by the provider"
        streams = check_flag(body, "stream")
        usage_wanted(body)
        # Instructions stay a parameter: a system message of the input is another thing.
        params = as_params(body, ("model", "input", "stream", "stream_options")) | {"api": self.name}
        return Reading(
            history=exact_only(history) if history and has_media(history) else history,
            model=check_text(body, "model"),
            params=params,
            streams=streams,
            bypass=bypass,
        )

    def finished(self, body: dict[str, Any], *, choices: int = 1) -> Computed:
        output = objects(body.get("output"), "output")
        if body.get("error") or not isinstance(body.get("status"), str):
            raise NotUnderstood("no finished response")
        texts, refusals = [], []
        for item in output:
            if item.get("type") != "message":
                continue
            for part in objects(item.get("content"), "content"):
                if part.get("type") == "output_text":
                    texts.append(str(part.get("text") or ""))
                elif part.get("type") == "refusal":
                    refusals.append(str(part.get("refusal") or "refused"))
        details = body.get("incomplete_details")
        reason = str(details.get("reason") or "incomplete") if isinstance(details, dict) else "incomplete"
        model = body.get("model")
        return Computed(
            response=shown("".join(texts), [_call(item) for item in output if _is_call(item)]),
            model=model if isinstance(model, str) else None,
            token_count=tokens(body, "output_tokens"),
            metadata=kept(self.name, body),
            finish_reason="completed" if body["status"] == "completed" else reason,
            refusal=refusals[0] if refusals else None,
            has_tool_calls=any(map(_is_call, output)),
        )

    def collector(self) -> ResponsesCollector:
        return ResponsesCollector()

    def as_hit(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "usage": zeroed(body.get("usage") or _NO_USAGE), "cache_hit": True}

    def from_text(self, response: CachedResponse) -> dict[str, Any]:
        name = digest(response.prompt + "\0" + response.response)
        part = {"type": "output_text", "text": response.response, "annotations": []}
        message = {
            "id": "msg_" + name,
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        return {
            "id": "resp_" + name,
            "object": "response",
            "created_at": int(response.timestamp.timestamp()),
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "model": response.model,
            "output": [message],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": _NO_USAGE,
        }

    def events(self, body: dict[str, Any], *, includes_usage: bool) -> Iterable[Event]:
        begun = {**body, "status": "in_progress", "output": [], "usage": None}
        said: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        for at, item in enumerate(body["output"]):
            said += _item_events(at, item)
        said.append({"type": "response.completed", "response": body})
        for number, event in enumerate(said):
            data = msgspec.json.encode({**event, "sequence_number": number}).decode()
            yield Event(data, name=event["type"])

    def error(self, message: str, *, status: int, param: str | None, code: str | None) -> dict[str, Any]:
        return openai_error(message, status=status, param=param, code=code)


class ResponsesCollector:
    """Waits for the last event, which holds the whole response."""

    def __init__(self) -> None:
        self.has_ended = False
        self._body: dict[str, Any] = {}

    def take(self, event: Event) -> None:
        """Look at an event."""
        said = read_answer(event.data)
        kind = said.get("type")
        if kind == "error" or said.get("error"):
            raise NotUnderstood("an error in the stream")
        if is_one_of(kind, _LAST):
            body = said.get("response")
            if not isinstance(body, dict):
                raise NotUnderstood("a last event without its response")
            self._body, self.has_ended = body, True

    def body(self) -> dict[str, Any]:
        """Return the response."""
        return self._body


def _why_not(body: Mapping[str, Any]) -> str | None:
    if any(body.get(name) for name in _STATE):
        return "the provider knows more of it than it says"
    if body.get("store") is True:
        return "the provider shall keep this answer"
    return acts_now(body, _PLAIN_TOOLS)


def _is_call(item: Mapping[str, Any]) -> bool:
    return str(item.get("type")).endswith("_call")


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call of a tool by what it says; its ids are others each time."""
    said = item.get("arguments", item.get("input"))
    if said is None:
        said = {name: value for name, value in item.items() if name not in {"id", "call_id", "status"}}
    return {"name": item.get("name", item.get("type")), "args": said}


def _items(given: object) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return check_objects(given, "input")


def _turn(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item of the input as a turn of a conversation; what is no message is a turn of a tool."""
    if item.get("type", "message") == "message" and is_one_of(item.get("role"), ROLES):
        return {name: value for name, value in item.items() if name != "type"}
    return {"role": "tool", "content": [{"type": "item", **item}]}


def _item_events(at: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"output_index": at, "item_id": item.get("id") or ""}
    kind = item.get("type")
    begun = {**item, "status": "in_progress"} if "status" in item else dict(item)
    if kind == "message":
        begun["content"] = []
    elif kind == "reasoning":
        begun |= {"summary": []} | ({"content": []} if item.get("content") else {})
    elif kind == "function_call":
        begun["arguments"] = ""
    elif kind == "custom_tool_call":
        begun["input"] = ""
    yield {"type": "response.output_item.added", "output_index": at, "item": begun}
    if kind == "message":
        for number, part in enumerate(item.get("content") or []):
            yield from _part_events({**place, "content_index": number}, part)
    elif kind == "reasoning":
        for number, part in enumerate(item.get("summary") or []):
            yield from _summary_events({**place, "summary_index": number}, part)
        for number, part in enumerate(item.get("content") or []):
            yield from _thought_events({**place, "content_index": number}, part)
    elif kind == "function_call":
        text = str(item.get("arguments") or "")
        for piece in pieces(text):
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        done = {"name": item["name"]} if "name" in item else {}
        yield {"type": "response.function_call_arguments.done", **place, **done, "arguments": text}
    elif kind == "custom_tool_call":
        text = str(item.get("input") or "")
        for piece in pieces(text):
            yield {"type": "response.custom_tool_call_input.delta", **place, "delta": piece}
        yield {"type": "response.custom_tool_call_input.done", **place, "input": text}
    yield {"type": "response.output_item.done", "output_index": at, "item": item}


def _part_events(place: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**part, "text": "", "annotations": []} if part.get("type") == "output_text" else part
    if begun.get("logprobs"):
        begun["logprobs"] = []
    yield {"type": "response.content_part.added", **place, "part": begun}
    if part.get("type") == "output_text":
        text, logprobs = str(part.get("text") or ""), part.get("logprobs") or []
        for number, piece in enumerate(pieces(text)):
            said = logprobs if number == 0 else []
            yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": said}
        for number, annotation in enumerate(part.get("annotations") or []):
            yield {
                "type": "response.output_text.annotation.added",
                **place,
                "annotation_index": number,
                "annotation": annotation,
            }
        yield {"type": "response.output_text.done", **place, "text": text, "logprobs": logprobs}
    yield {"type": "response.content_part.done", **place, "part": part}


def _summary_events(place: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    text = str(part.get("text") or "")
    yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
    for piece in pieces(text):
        yield {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
    yield {"type": "response.reasoning_summary_text.done", **place, "text": text}
    yield {"type": "response.reasoning_summary_part.done", **place, "part": part}


def _thought_events(place: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    text = str(part.get("text") or "")
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for piece in pieces(text):
        yield {"type": "response.reasoning_text.delta", **place, "delta": piece}
    yield {"type": "response.reasoning_text.done", **place, "text": text}
    yield {"type": "response.content_part.done", **place, "part": part}
