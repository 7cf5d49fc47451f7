"""OpenAI chat completions, as the many servers that speak it do: `POST .../chat/completions`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from cache_management.cache.admission import looks_like_refusal
from cache_management.cache.compute import Computed
from cache_management.cache.identity import digest
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
    kept,
    objects,
    openai_error,
    tokens,
    usage_wanted,
)
from cache_management.gateway.sse import Event

_GOOD = frozenset({"stop", "tool_calls", "function_call"})
_PLAIN_TOOLS = frozenset({None, "function", "custom"})
_SEARCHES = ("web_search_options", "search_parameters", "enable_search", "plugins")  # OpenAI, xAI, Qwen, OpenRouter
_CHUNK_ONLY = frozenset({"object", "choices", "obfuscation"})
_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
DONE = "[DONE]"


class Chat:
    """Chat completions."""

    name = "chat"
    suffix = "/chat/completions"
    home = "https://api.openai.com/v1"

    def read(self, body: Mapping[str, Any]) -> Reading:
        model = check_text(body, "model")
        history = check_objects(body.get("messages"), "messages")
        streams = check_flag(body, "stream")
        bypass = None
        if body.get("store") is True:
            bypass = "the provider shall keep a record of this answer"
        elif any(body.get(name) not in (None, False) for name in _SEARCHES):
            bypass = "the answer is searched for now"
        bypass = bypass or acts_now(body, _PLAIN_TOOLS)
        choices = body.get("n")
        speaks = isinstance(body.get("modalities"), list) and "audio" in body["modalities"]
        return Reading(
            history=exact_only(history) if speaks or has_media(history) else history,
            model=model,
            params=as_params(body, ("model", "messages", "stream", "stream_options")),
            streams=streams,
            includes_usage=usage_wanted(body),
            choices=choices if type(choices) is int else 1,
            bypass=bypass,
        )

    def finished(self, body: dict[str, Any], *, choices: int = 1) -> Computed:
        given = objects(body.get("choices"), "choices")
        if body.get("error") or not given:
            raise NotUnderstood("no choices")
        messages = []
        for choice in given:
            message = choice.get("message")
            if not isinstance(message, dict):
                raise NotUnderstood("a choice without a message")
            messages.append(message)
        texts = [shown(_text(message), _calls(message)) for message in messages]
        reasons = [str(choice.get("finish_reason") or "incomplete") for choice in given]
        if len(given) != choices:
            reasons = ["incomplete"]
        refusals = [str(message["refusal"]) for message in messages if message.get("refusal")]
        refusals += [text for text in texts[1:] if looks_like_refusal(text)]
        model = body.get("model")
        return Computed(
            response="\n\n".join(texts) if all(text.strip() for text in texts) else "",
            model=model if isinstance(model, str) else None,
            token_count=tokens(body, "completion_tokens"),
            metadata=kept(self.name, body),
            finish_reason=next((reason for reason in reasons if reason not in _GOOD), reasons[0]),
            refusal=refusals[0] if refusals else None,
            has_tool_calls=all(map(_calls, messages)),
        )

    def collector(self) -> ChatCollector:
        return ChatCollector()

    def as_hit(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "usage": zeroed(body.get("usage") or _NO_USAGE), "cache_hit": True}

    def from_text(self, response: CachedResponse) -> dict[str, Any]:
        message = {"role": "assistant", "content": response.response, "refusal": None}
        return {
            "id": "chatcmpl-" + digest(response.prompt + "\0" + response.response)[:29],
            "object": "chat.completion",
            "created": int(response.timestamp.timestamp()),
            "model": response.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _NO_USAGE,
        }

    def events(self, body: dict[str, Any], *, includes_usage: bool) -> Iterable[Event]:
        shared = {name: value for name, value in body.items() if name not in {"object", "choices", "usage"}}
        shared["object"] = "chat.completion.chunk"
        if includes_usage:
            shared["usage"] = None
        for choice in body["choices"]:
            for part in _parts(choice):
                yield _event({**shared, "choices": [part]})
        if includes_usage:
            yield _event({**shared, "choices": [], "usage": body.get("usage")})
        yield Event(DONE)

    def error(self, message: str, *, status: int, param: str | None, code: str | None) -> dict[str, Any]:
        return openai_error(message, status=status, param=param, code=code)


class ChatCollector:
    """Puts chunks together."""

    def __init__(self) -> None:
        self.has_ended = False
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def take(self, event: Event) -> None:
        """Add a chunk."""
        if event.data == DONE:
            self.has_ended = True
            return
        if event.name not in {"", "message"}:
            raise NotUnderstood(f"an event {event.name[:40]!r}")
        chunk = read_answer(event.data)
        if chunk.get("error"):
            raise NotUnderstood("an error in the stream")
        for name, value in chunk.items():
            if name not in _CHUNK_ONLY and value is not None:
                self._top[name] = value
        for choice in objects(chunk.get("choices", []), "choices"):
            self._add(choice)

    def body(self) -> dict[str, Any]:
        """Return the chat completion."""
        usage = {"usage": self._top["usage"]} if "usage" in self._top else {}
        top = {name: value for name, value in self._top.items() if name != "usage"}
        choices = [_completed(joined(self._choices[index])) for index in sorted(self._choices)]
        return {**top, "object": "chat.completion", "choices": choices, **usage}

    def _add(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        if not isinstance(index, int):
            raise NotUnderstood("a choice without a number")
        held = self._choices.setdefault(index, {"index": index, "message": {"role": "assistant", "content": None}})
        for name, value in choice.items():
            if name == "delta":
                if not isinstance(value, dict):
                    raise NotUnderstood("a delta that is no object")
                if isinstance(value.get("audio"), dict) and "data" in value["audio"]:
                    raise NotUnderstood("sound in pieces, which are no text to be joined")
                merge(held["message"], value)
            elif name == "logprobs" and isinstance(value, dict):
                held["logprobs"] = merge(held.get("logprobs") or {}, value)
            elif name not in {"index", "delta"} and (value is not None or name not in held):
                held[name] = value


class _Text(list[str]):
    """A text that grows: pieces are joined once, for a long answer comes in thousands."""


def joined(held: Any) -> Any:
    """Return what `merge` put together with its texts in one piece."""
    if isinstance(held, _Text):
        return "".join(held)
    if isinstance(held, dict):
        return {name: joined(value) for name, value in held.items()}
    return [joined(value) for value in held] if isinstance(held, list) else held


def merge(held: dict[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Add a delta to what came before: texts grow, lists grow, numbered items are merged by their number.

    What comes of it is read by `joined`.

    Raises:
        NotUnderstood: Its types are others than before.
    """
    for name, value in delta.items():
        before = held.get(name)
        if value is None:
            held.setdefault(name, None)
        elif before is None and not isinstance(value, dict | list):
            held[name] = value
        elif isinstance(value, str) and name in {"role", "type", "id"}:
            held[name] = value or before
        elif isinstance(value, dict) and isinstance(before or {}, dict):
            held[name] = merge(before or {}, value)
        elif isinstance(value, str) and isinstance(before, _Text):
            before.append(value)
        elif isinstance(value, str) and isinstance(before, str):
            held[name] = _Text((before, value))
        elif isinstance(value, list) and isinstance(before or [], list) and not isinstance(before, _Text):
            held[name] = _merged(before or [], value)
        elif isinstance(value, int | float) and isinstance(before, int | float):
            held[name] = value
        else:
            raise NotUnderstood(f"{name[:40]} changes its type within a stream")
    return held


def _merged(before: list[Any], added: list[Any]) -> list[Any]:
    """Return a list with what was added; items that have an index continue the one with the same."""
    for item in added:
        index = item.get("index") if isinstance(item, dict) else None
        if index is None:
            before.append(item)
            continue
        held = next((each for each in before if isinstance(each, dict) and each.get("index") == index), None)
        if held is None:
            held = {}
            before.append(held)
        merge(held, item)
    return before


def _completed(choice: dict[str, Any]) -> dict[str, Any]:
    """Return a collected choice as a plain answer has it."""
    message = dict(choice["message"])
    for name in ("tool_calls", "reasoning_details"):
        calls = message.get(name)
        if isinstance(calls, list):
            message[name] = [
                {key: value for key, value in call.items() if key != "index"} if isinstance(call, dict) else call
                for call in calls
            ]
    if message.get("content") == "" and message.get("tool_calls"):
        message["content"] = None
    return {**choice, "message": message}


def _parts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a choice in the pieces of a stream."""
    index, message = choice.get("index", 0), choice["message"]
    rest = {name: value for name, value in choice.items() if name not in {"index", "message", "finish_reason"}}
    logprobs = rest.pop("logprobs", None)
    content, calls = message.get("content"), message.get("tool_calls") or []

    def part(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}

    first = {"role": message.get("role", "assistant"), "content": "" if isinstance(content, str) else None}
    yield part(first | ({"refusal": message["refusal"]} if "refusal" in message else {}))
    for name, value in message.items():
        if name in {"role", "content", "tool_calls", "refusal"} or value is None:
            continue
        for piece in pieces(value) if isinstance(value, str) else [value]:
            yield part({name: piece})
    # All of them with the first piece: whoever adds them up gets the same list.
    for piece in pieces(content) if isinstance(content, str) else [] if content is None else [content]:
        yield part({"content": piece}, logprobs=logprobs)
        logprobs = None
    for at, call in enumerate(calls):
        for delta in _call_parts(call):
            yield part({"tool_calls": [{"index": at, **delta}]})
    yield part({}, finish_reason=choice.get("finish_reason"), logprobs=logprobs, **rest)


def _call_parts(call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        yield call
        return
    yield {**call, "function": {**function, "arguments": ""}}
    for piece in pieces(function["arguments"]):
        yield {"function": {"arguments": piece}}


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of tools in a message by what they say; their ids are others each time."""
    calls = message.get("tool_calls") or (
        [{"function": message["function_call"]}] if message.get("function_call") else []
    )
    found = []
    for call in calls if isinstance(calls, list) else []:
        said = call.get("function") or call.get("custom") if isinstance(call, dict) else None
        said = said if isinstance(said, dict) else {"name": "unknown", "arguments": call}
        found.append({"name": said.get("name"), "args": said.get("arguments", said.get("input"))})
    return found


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    audio = message.get("audio")
    return str(audio.get("transcript") or "") if isinstance(audio, dict) else ""


def _event(chunk: dict[str, Any]) -> Event:
    return Event(msgspec.json.encode(chunk).decode())
