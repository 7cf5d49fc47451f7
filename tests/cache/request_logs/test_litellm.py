from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.request_logs import Log, read_logs
from cache_management.cache.requests import fingerprint

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is TTL?"}]
COMPLETION = {
    "id": "chatcmpl-1",
    "created": 1_700_000_000,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Time to live."}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
}
BODY = {"model": "m", "messages": CHAT, "temperature": 1, "tools": [{"type": "function", "function": {"name": "f"}}]}
SPEND: dict[str, Any] = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "api_key": "",
    "startTime": "2023-11-14 22:13:20+00:00",
    "model": "m",
    "team_id": "",
    "metadata": json.dumps({"user_api_key": None}),
    "spend": 0.002,
    "completion_tokens": 4,
    "messages": "{}",
    "response": json.dumps(COMPLETION),
    "proxy_server_request": json.dumps(BODY),
    "status": "success",
}
CALLBACK: dict[str, Any] = {
    "call_type": "completion",
    "startTime": 1_700_000_000.0,
    "model": "m",
    "messages": CHAT,
    "response": COMPLETION,
    "response_cost": 0.002,
    "completion_tokens": 4,
    "model_parameters": {"temperature": 1},
    "metadata": {"user_api_key_hash": None, "user_api_key_team_id": None},
}


def read(tmp_path: Path, *rows: dict[str, Any]) -> Log:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_logs([path])


def body(**more: Any) -> dict[str, Any]:
    return SPEND | {"proxy_server_request": json.dumps(BODY | more)}


@pytest.mark.parametrize(
    "shown", [json.dumps(BODY), BODY, {"url": "/chat/completions", "method": "POST", "body": BODY}]
)
@pytest.mark.parametrize("messages", ["{}", {}, None, json.dumps(CHAT)])
def test_the_request_of_a_spend_log_is_what_the_proxy_was_sent(shown: Any, messages: Any, tmp_path: Path) -> None:
    (found,) = read(tmp_path, SPEND | {"messages": messages, "proxy_server_request": shown}).requests

    assert (found.request.prompt, found.request.system, found.request.model) == ("What is TTL?", "Be brief.", "m")
    assert (found.request.params, found.request.tools) == ({"temperature": 1}, BODY["tools"])
    assert (found.response, found.at, found.tokens) == ("Time to live.", 1_700_000_000.0, 4)
    assert found.cost_micro == 2_000


def test_parameters_count_and_what_is_the_proxys_own_does_not(tmp_path: Path) -> None:
    bookkeeping = {"metadata": {"at": 1}, "litellm_call_id": "x", "tags": ["a"], "stream": True, "cache": {"ttl": 1}}
    rows = [body(), body(temperature=0), body(tools=None), body(model="other"), body(**bookkeeping)]

    log = read(tmp_path, *rows)

    assert len({fingerprint(each.request) for each in log.requests}) == 4


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (SPEND, [{"api_key": "a"}, {"api_key": "b"}]),
        (SPEND, [{"team_id": "a"}, {"team_id": "b"}]),
        (CALLBACK, [{"metadata": {"user_api_key_hash": "a"}}, {"metadata": {"user_api_key_hash": "b"}}]),
        (CALLBACK, [{"metadata": {"user_api_key_team_id": "a"}}, {"metadata": {"user_api_key_team_id": "b"}}]),
        (SPEND, [{"metadata": json.dumps({"user_api_key": "a"})}, {"metadata": json.dumps({"user_api_key": "b"})}]),
    ],
)
def test_callers_are_kept_apart_by_their_key_or_their_team(
    row: dict[str, Any], names: list[dict[str, Any]], tmp_path: Path
) -> None:
    log = read(tmp_path, *(row | name for name in names), *(row | name for name in names), row)

    assert len({fingerprint(each.request) for each in log.requests}) == 3
    assert log.requests[-1].request.tenant is None


def test_callers_of_one_team_with_keys_of_their_own_are_two(tmp_path: Path) -> None:
    log = read(tmp_path, SPEND | {"team_id": "t", "api_key": "a"}, SPEND | {"team_id": "t", "api_key": "b"})

    assert len({fingerprint(each.request) for each in log.requests}) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            CALLBACK | {"messages": [{"role": "user", "content": "redacted-by-litellm"}]},
            "a prompt or an answer that LiteLLM redacted",
        ),
        (CALLBACK | {"response": {"text": "redacted-by-litellm"}}, "a prompt or an answer that LiteLLM redacted"),
        (
            body(messages=[{"role": "user", "content": [{"type": "text", "text": "redacted-by-litellm"}]}]),
            "a prompt or an answer that LiteLLM redacted",
        ),
        (
            body(messages=[{"role": "user", "content": "a... (litellm_truncated skipped 9 chars. Note) ...z"}]),
            "a prompt that LiteLLM cut",
        ),
        (SPEND | {"proxy_server_request": "{}"}, "no messages"),
        (
            {"type": "GENERATION", "model": "m", "input": "redacted-by-litellm", "output": "redacted-by-litellm"},
            "a prompt or an answer that LiteLLM redacted",
        ),
    ],
)
def test_what_litellm_did_not_keep_is_left_out(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    log = read(tmp_path, SPEND, row)

    assert (len(log.requests), log.left_out) == (1, {reason: 1})
