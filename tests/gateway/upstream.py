"""A provider of language models on a loopback port, which does what a test tells it, and what it does by itself.

It answers in the words of OpenAI's and Anthropic's APIs, written out here and not by the code under test. What it says
follows from the text that was asked last, of embeddings from each input, so that the answer to another text shows. The
answer to another request with that text (system prompt, parameters) shows by its `id`, a digest of the whole body, and
by what was `seen`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import httpx2
import openai
import uvicorn

BROKEN = (openai.APIError, httpx.TransportError, httpx2.TransportError)
"""What a client raises when a stream breaks; which library it sends by depends on its version."""

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class Seen(NamedTuple):
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes

    @property
    def text(self) -> str:
        """Return what was asked last."""
        messages = self.body.get("messages") or self.body.get("input")
        if isinstance(messages, str):
            return messages
        content = messages[-1].get("content") or ""
        return content if isinstance(content, str) else json.dumps(content)


class Act(NamedTuple):
    """What to do in the place of a good answer.

    `status` and `raw` answer otherwise, `dies_after` breaks the connection after so many events, `ends_after` ends the
    stream there as if it were whole (-1: before its last event), `waits` holds it back there until `release`.
    """

    status: int = 200
    raw: bytes | None = None
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    dies_after: int | None = None
    ends_after: int | None = None
    waits: int | None = None
    finish_reason: str = "stop"


def answer_to(text: str) -> str:
    """Return the one right answer to a text."""
    number = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
    return f"To {text[:60]!r}: " + " ".join(WORDS[int(digit)] for digit in str(number))


class LocalUpstream:
    """The provider, and what it saw."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.act: Callable[[Seen], Act] = lambda _: Act()
        self.keys: set[str] | None = None
        self.tool_call: dict[str, Any] | None = None
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate: asyncio.Event | None = None
        self._open = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def hold(self) -> None:
        """Let answers wait where their act says."""
        self._open = False

    def release(self) -> None:
        """Let them go on."""
        self._open = True
        if self._loop is not None and self._gate is not None:
            self._loop.call_soon_threadsafe(self._gate.set)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = self._gate or asyncio.Event()
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        seen = Seen(scope["path"], headers, body, raw)
        self.seen.append(seen)
        given = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
        act = self.act(seen)
        if self.keys is not None and given not in self.keys:
            error = {"error": {"message": f"Incorrect API key provided: {given[:3]}***", "code": "invalid_api_key"}}
            act = Act(status=401, raw=json.dumps(error).encode())
        maker = _makers(self).get(scope["path"].rpartition("/v1")[2])
        if act.raw is not None or body is None or maker is None:
            await self._whole(send, act, act.raw if act.raw is not None else b'{"object":"list","data":[]}')
            return
        plain, events = maker(seen, act)
        if not body.get("stream"):
            if act.waits is not None:
                await self._wait()
            await self._whole(send, act, json.dumps(plain).encode())
            return
        await send({"type": "http.response.start", "status": 200, "headers": _headers(act, "text/event-stream")})
        ends = None if act.ends_after is None else act.ends_after % len(events)
        for at, event in enumerate(events):
            if at == act.waits:
                await self._wait()
            if at == act.dies_after:
                raise ConnectionError("as the test wants it")
            if at == ends:
                break
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _wait(self) -> None:
        if not self._open and self._gate is not None:
            await self._gate.wait()

    async def _whole(self, send: Any, act: Act, body: bytes) -> None:
        await send({"type": "http.response.start", "status": act.status, "headers": _headers(act, act.kind)})
        await send({"type": "http.response.body", "body": body})


def _headers(act: Act, kind: str) -> list[tuple[bytes, bytes]]:
    given = (("content-type", kind), ("x-request-id", "req_1"), *act.headers)
    return [(name.encode(), value.encode()) for name, value in given]


def _makers(upstream: LocalUpstream) -> dict[str, Callable[[Seen, Act], tuple[Any, list[bytes]]]]:
    return {
        "/chat/completions": lambda seen, act: chat(seen, act, upstream.tool_call),
        "/responses": lambda seen, act: responses(seen, act, upstream.tool_call),
        "/messages": lambda seen, act: messages(seen, act, upstream.tool_call),
        "/embeddings": embeddings,
    }


def sse(data: Any, name: str = "") -> bytes:
    """Return one event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chat(seen: Seen, act: Act, tool_call: dict[str, Any] | None) -> tuple[Any, list[bytes]]:
    """Return a chat completion, plain and as a stream."""
    body = seen.body
    top = {
        "id": "chatcmpl-" + hashlib.sha256(seen.raw).hexdigest()[:8],
        "created": 1_790_000_000,
        "model": f"{body['model']}-2026",
        "system_fingerprint": "fp_44",
        "service_tier": "default",
    }
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 11,
        "total_tokens": 18,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    choices, parts = [], []
    for index in range(body.get("n") or 1):
        text = answer_to(seen.text + (f" #{index}" if index else ""))
        if (body.get("response_format") or {}).get("type") == "json_schema":
            text = json.dumps({"answer": text, "sure": True})
        logprobs = None
        if body.get("logprobs"):
            logprobs = {
                "content": [
                    {"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in text.split(" ")
                ],
                "refusal": None,
            }
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        reason = act.finish_reason
        first = {"role": "assistant", "content": "", "refusal": None}
        deltas: list[dict[str, Any]] = [{"content": piece} for piece in _words(text)]
        if tool_call and body.get("tools"):
            arguments = json.dumps(tool_call["arguments"])
            function = {"name": tool_call["name"], "arguments": arguments}
            calls = [{"id": f"call_{at}", "type": "function", "function": function} for at in range(2)]
            message |= {"content": None, "tool_calls": calls}
            reason = "tool_calls"
            first["content"] = None
            deltas = []
            for at in range(2):
                empty = {"name": tool_call["name"], "arguments": ""}
                deltas.append(
                    {"tool_calls": [{"index": at, "id": f"call_{at}", "type": "function", "function": empty}]}
                )
                deltas += [
                    {"tool_calls": [{"index": at, "function": {"arguments": piece}}]} for piece in _words(arguments)
                ]
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
        parts.append({"index": index, "delta": first, "logprobs": None, "finish_reason": None})
        for at, delta in enumerate(deltas):
            said = {"content": [logprobs["content"][at]], "refusal": None} if logprobs else None
            parts.append({"index": index, "delta": delta, "logprobs": said, "finish_reason": None})
        parts.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": reason})
    chunk = {**top, "object": "chat.completion.chunk"}
    events = [sse({**chunk, "choices": [part]}) for part in parts]
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(sse({**chunk, "choices": [], "usage": usage}))
    return {**top, "object": "chat.completion", "choices": choices, "usage": usage}, [*events, sse("[DONE]")]


def responses(seen: Seen, act: Act, tool_call: dict[str, Any] | None) -> tuple[Any, list[bytes]]:
    """Return a response of the Responses API, plain and as a stream."""
    body = seen.body
    name = hashlib.sha256(seen.raw).hexdigest()[:8]
    text = answer_to(seen.text)
    if ((body.get("text") or {}).get("format") or {}).get("type") == "json_schema":
        text = json.dumps({"answer": text, "sure": True})
    thought = {
        "id": f"rs_{name}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Thinking it over."}],
    }
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": f"msg_{name}", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    output: list[dict[str, Any]] = [thought, message]
    if tool_call and body.get("tools"):
        arguments = json.dumps(tool_call["arguments"])
        call = {"id": f"fc_{name}", "type": "function_call", "status": "completed", "call_id": "call_1"}
        output = [thought, {**call, "name": tool_call["name"], "arguments": arguments}]
    whole = {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": 1_790_000_000,
        "status": "completed" if act.finish_reason == "stop" else "incomplete",
        "error": None,
        "incomplete_details": None if act.finish_reason == "stop" else {"reason": act.finish_reason},
        "instructions": body.get("instructions"),
        "metadata": {},
        "model": f"{body['model']}-2026",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 14,
        },
    }
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    said: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    said.append({"type": "response.in_progress", "response": begun})
    for at, item in enumerate(output):
        place = {"output_index": at, "item_id": item["id"]}
        if item["type"] == "reasoning":
            told, where = item["summary"][0], {**place, "summary_index": 0}
            said += [
                {"type": "response.output_item.added", "output_index": at, "item": {**item, "summary": []}},
                {"type": "response.reasoning_summary_part.added", **where, "part": {**told, "text": ""}},
                *({"type": "response.reasoning_summary_text.delta", **where, "delta": w} for w in _words(told["text"])),
                {"type": "response.reasoning_summary_text.done", **where, "text": told["text"]},
                {"type": "response.reasoning_summary_part.done", **where, "part": told},
            ]
        elif item["type"] == "message":
            where = {**place, "content_index": 0}
            empty = {**item, "status": "in_progress", "content": []}
            said += [
                {"type": "response.output_item.added", "output_index": at, "item": empty},
                {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
                *({"type": "response.output_text.delta", **where, "delta": w, "logprobs": []} for w in _words(text)),
                {"type": "response.output_text.done", **where, "text": text, "logprobs": []},
                {"type": "response.content_part.done", **where, "part": part},
            ]
        else:
            empty = {**item, "status": "in_progress", "arguments": ""}
            kind = "response.function_call_arguments"
            said += [
                {"type": "response.output_item.added", "output_index": at, "item": empty},
                *({"type": f"{kind}.delta", **place, "delta": w} for w in _words(item["arguments"])),
                {"type": f"{kind}.done", **place, "name": item["name"], "arguments": item["arguments"]},
            ]
        said.append({"type": "response.output_item.done", "output_index": at, "item": item})
    last = "response.completed" if whole["status"] == "completed" else "response.incomplete"
    said.append({"type": last, "response": whole})
    return whole, [sse({**each, "sequence_number": at}, each["type"]) for at, each in enumerate(said)]


def messages(seen: Seen, act: Act, tool_call: dict[str, Any] | None) -> tuple[Any, list[bytes]]:
    """Return a message of Anthropic's API, plain and as a stream."""
    body = seen.body
    text = answer_to(seen.text)
    content: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Let me see. It is easy.", "signature": "sig=="},
        {"type": "text", "text": text},
    ]
    if tool_call and body.get("tools"):
        content.append(
            {"type": "tool_use", "id": "toolu_1", "name": tool_call["name"], "input": tool_call["arguments"]}
        )
    reason = {"stop": "tool_use" if len(content) == 3 else "end_turn", "length": "max_tokens"}.get(act.finish_reason)
    whole = {
        "id": "msg_" + hashlib.sha256(seen.raw).hexdigest()[:8],
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": reason or act.finish_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 8, "cache_read_input_tokens": 3, "service_tier": "standard"},
    }
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    said: list[dict[str, Any]] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for at, block in enumerate(content):
        empty: dict[str, Any] = {
            "text": {"type": "text", "text": ""},
            "thinking": {"type": "thinking", "thinking": "", "signature": ""},
            "tool_use": {**block, "input": {}},
        }[block["type"]]
        said.append({"type": "content_block_start", "index": at, "content_block": empty})
        deltas: list[dict[str, Any]] = []
        if block["type"] == "text":
            deltas = [{"type": "text_delta", "text": word} for word in _words(text)]
        elif block["type"] == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": word} for word in _words(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        else:
            deltas = [
                {"type": "input_json_delta", "partial_json": word} for word in ["", *_words(json.dumps(block["input"]))]
            ]
        said += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
        said.append({"type": "content_block_stop", "index": at})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    said.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 8}})
    said.append({"type": "message_stop"})
    return whole, [sse(each, each["type"]) for each in said]


def embeddings(seen: Seen, act: Act) -> tuple[Any, list[bytes]]:
    """Return vectors, the last one first, as an API may."""
    body = seen.body
    given = body["input"]
    texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    data: list[dict[str, Any]] = []
    for at, text in enumerate(texts):
        numbers = vector(json.dumps(text), body.get("dimensions") or 8)
        found = packed(numbers) if body.get("encoding_format") == "base64" else numbers
        data.append({"object": "embedding", "index": at, "embedding": found})
    usage = {"prompt_tokens": 3 * len(texts), "total_tokens": 3 * len(texts)}
    return {"object": "list", "data": data[::-1], "model": body["model"] + "-2026", "usage": usage}, []


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


def vector(text: str, width: int) -> list[float]:
    """Return the one right vector of a text, in numbers that float32 holds."""
    seed = hashlib.sha256(text.encode()).digest()
    return [(seed[at % 32] - 128) / 256 for at in range(width)]


def packed(numbers: list[float]) -> str:
    """Return a vector as the API packs it."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Run an ASGI app on a free loopback port, in a thread; yields the port."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", http="h11", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listening.close()
