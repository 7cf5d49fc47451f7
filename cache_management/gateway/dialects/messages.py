"""Anthropic messages: `POST .../messages`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from cache_management.cache.compute import Computed
from cache_management.cache.identity import digest
from cache_management.cache.shown import shown
from cache_management.cache.values import CachedResponse
from cache_management.gateway.bodies import encode, pieces, read_answer, zeroed
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
    objects,
    tokens,
    wrong_type,
)
from cache_management.gateway.sse import Event

_PLAIN_TOOLS = frozenset({None, "custom"})
_NO_USAGE = {"input_tokens": 0, "output_tokens": 0}
_GROWING = {"text_delta": "text", "thinking_delta": "thinking"}


class Messages:
    """Anthropic's Messages API."""

    name = "messages"
    suffix = "/messages"
    home = "https://api.anthropic.com/v1"

    def read(self, body: Mapping[str, Any]) -> Reading:
        history = check_objects(body.get("messages"), "messages")
        system = body.get("system")
        if system is not None and not isinstance(system, str | list):
            raise wrong_type("system", "a string or an array", system)
        streams = check_flag(body, "stream")
        params = as_params(body, ("model", "messages", "system", "stream")) | {"api": self.name}
        if system == []:
            system = None
        return Reading(
            history=exact_only(history) if has_media(history) else history,
            model=check_text(body, "model"),
            system=system,
            params=params,
            streams=streams,
            bypass=_why_not(body),
        )

    def finished(self, body: dict[str, Any], *, choices: int = 1) -> Computed:
        content = objects(body.get("content"), "content")
        if body.get("type") != "message" or body.get("error"):
            raise NotUnderstood("no message")
        model = body.get("model")
        text = "".join(str(block.get("text") or "") for block in content if block.get("type") == "text")
        calls = [block for block in content if block.get("type") == "tool_use"]
        return Computed(
            response=shown(text, [{"name": call.get("name"), "args": call.get("input")} for call in calls]),
            model=model if isinstance(model, str) else None,
            token_count=tokens(body, "output_tokens"),
            metadata=kept(self.name, body),
            finish_reason=str(body.get("stop_reason") or "incomplete"),
            has_tool_calls=bool(calls),
        )

    def collector(self) -> MessagesCollector:
        return MessagesCollector()

    def as_hit(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "usage": zeroed(body.get("usage") or _NO_USAGE), "cache_hit": True}

    def from_text(self, response: CachedResponse) -> dict[str, Any]:
        return {
            "id": "msg_" + digest(response.prompt + "\0" + response.response),
            "type": "message",
            "role": "assistant",
            "model": response.model,
            "content": [{"type": "text", "text": response.response}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": _NO_USAGE,
        }

    def events(self, body: dict[str, Any], *, includes_usage: bool) -> Iterable[Event]:
        begun = {**body, "content": [], "stop_reason": None, "stop_sequence": None}
        yield _event("message_start", message=begun)
        for at, block in enumerate(body["content"]):
            yield from _block_events(at, block)
        last = {name: body.get(name) for name in ("stop_reason", "stop_sequence")}
        last |= {name: body[name] for name in ("stop_details", "container") if name in body}
        usage = {name: value for name, value in body["usage"].items() if value is not None}
        yield _event("message_delta", delta=last, usage={"output_tokens": 0, **usage})
        yield _event("message_stop")

    def error(self, message: str, *, status: int, param: str | None, code: str | None) -> dict[str, Any]:
        kind = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            504: "timeout_error",
        }.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}


class MessagesCollector:
    """Puts the blocks of a message together."""

    def __init__(self) -> None:
        self.has_ended = False
        self._message: dict[str, Any] | None = None
        self._blocks: list[dict[str, Any]] = []
        self._json: dict[int, list[str]] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}

    def take(self, event: Event) -> None:
        """Add an event."""
        said = read_answer(event.data)
        kind = said.get("type")
        if kind == "ping":
            return
        if kind == "message_start" and self._message is None:
            self._message = dict(_object(said, "message"))
            self._message["content"] = []
        elif self._message is None:
            raise NotUnderstood(f"{str(kind)[:40]!r} before the start")
        elif kind == "content_block_start":
            if said.get("index") != len(self._blocks):
                raise NotUnderstood("blocks out of their order")
            self._blocks.append(dict(_object(said, "content_block")))
        elif kind == "content_block_delta":
            self._grow(said)
        elif kind == "content_block_stop":
            self._close(said)
        elif kind == "message_delta":
            self._message.update(_object(said, "delta"))
            usage = said.get("usage")
            if isinstance(usage, dict):
                held = self._message.get("usage") or {}
                self._message["usage"] = held | {name: value for name, value in usage.items() if value is not None}
        elif kind == "message_stop":
            self.has_ended = True
        else:
            raise NotUnderstood(f"an event {str(kind)[:40]!r}")

    def body(self) -> dict[str, Any]:
        """Return the message."""
        for (at, name), parts in self._texts.items():
            self._blocks[at][name] = "".join(parts)
        return {**(self._message or {}), "content": self._blocks}

    def _grow(self, said: dict[str, Any]) -> None:
        at = said.get("index")
        delta = _object(said, "delta")
        if not isinstance(at, int) or not 0 <= at < len(self._blocks):
            raise NotUnderstood("a piece of no block")
        block, kind = self._blocks[at], delta.get("type")
        if is_one_of(kind, _GROWING):
            name = _GROWING[str(kind)]
            parts = self._texts.setdefault((at, name), [str(block.get(name) or "")])
            parts.append(str(delta.get(name) or ""))
        elif kind == "input_json_delta":
            self._json.setdefault(at, []).append(str(delta.get("partial_json") or ""))
        elif kind == "signature_delta":
            block["signature"] = delta.get("signature")
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta.get("citation")]
        else:
            raise NotUnderstood(f"a piece {str(kind)[:40]!r}")

    def _close(self, said: dict[str, Any]) -> None:
        parts = self._json.pop(said.get("index", -1), None)
        if parts is not None:
            text = "".join(parts)
            self._blocks[said["index"]]["input"] = read_answer(text) if text else {}


def _why_not(body: Mapping[str, Any]) -> str | None:
    if body.get("container") or body.get("mcp_servers"):
        return "the provider knows more of it than it says"
    return acts_now(body, _PLAIN_TOOLS)


def _block_events(at: int, block: dict[str, Any]) -> Iterator[Event]:
    kind = block.get("type")
    begun = dict(block)
    deltas: list[dict[str, Any]] = []
    if kind == "text":
        begun |= {"text": ""} | ({"citations": []} if block.get("citations") else {})
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(str(block.get("text") or ""))]
        deltas += [{"type": "citations_delta", "citation": each} for each in block.get("citations") or []]
    elif kind == "thinking":
        begun |= {"thinking": "", "signature": ""}
        thought = str(block.get("thinking") or "")
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(thought)]
        deltas.append({"type": "signature_delta", "signature": block.get("signature") or ""})
    elif kind == "tool_use":
        begun["input"] = {}
        text = encode(block.get("input") or {}).decode()
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(text)]
    yield _event("content_block_start", index=at, content_block=begun)
    for delta in deltas:
        yield _event("content_block_delta", index=at, delta=delta)
    yield _event("content_block_stop", index=at)


def _event(kind: str, **more: Any) -> Event:
    return Event(msgspec.json.encode({"type": kind, **more}).decode(), name=kind)


def _object(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = said.get(name)
    if not isinstance(found, dict):
        raise NotUnderstood(f"an event without its {name}")
    return found
