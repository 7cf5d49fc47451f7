from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.errors import InvalidInput
from cache_management.cache.request_logs import Log, read_logs
from cache_management.cache.requests import fingerprint

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is TTL?"}]
COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "created": 1_700_000_000,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Time to live."}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
}
OWN = {
    "messages": CHAT,
    "model": "m",
    "response": "Time to live.",
    "timestamp": "2023-11-14T22:13:20Z",
    "token_count": 4,
    "cost_usd": 0.002,
    "group": "ttl",
}
BATCH = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": CHAT, "temperature": 0},
}
RESULT = {"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200, "body": COMPLETION}, "error": None}
LITELLM = {
    "call_type": "acompletion",
    "model": "m",
    "messages": json.dumps(CHAT),
    "response": COMPLETION,
    "startTime": 1_700_000_000.0,
    "response_cost": 0.002,
    "completion_tokens": 4,
    "model_parameters": {"temperature": 0, "stream": True},
}
LANGFUSE = {
    "type": "GENERATION",
    "model": "m",
    "input": {"messages": CHAT},
    "output": {"role": "assistant", "content": "Time to live."},
    "startTime": "2023-11-14T22:13:20.000Z",
    "modelParameters": {"temperature": 0},
    "usageDetails": {"input": 12, "output": 4},
    "calculatedTotalCost": 0.002,
}


def read(tmp_path: Path, *files: list[Any]) -> Log:
    paths = []
    for number, rows in enumerate(files):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(path)
    return read_logs(paths)


@pytest.mark.parametrize(
    "files", [([OWN],), ([BATCH], [RESULT]), ([LITELLM],), ([LANGFUSE],)], ids=["own", "batch", "litellm", "langfuse"]
)
def test_each_shape_tells_the_same_request(files: tuple[list[Any], ...], tmp_path: Path) -> None:
    log = read(tmp_path, *files)

    (found,) = log.requests
    assert (found.request.prompt, found.request.system, found.request.model) == ("What is TTL?", "Be brief.", "m")
    assert (found.response, found.at, found.tokens) == ("Time to live.", 1_700_000_000.0, 4)
    assert found.cost_micro in (2_000, None)
    assert "stream" not in found.request.params
    assert log.left_out == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q"}, "no answer"),
        ({"prompt": "", "messages": [], "response": "r"}, "no messages"),
        (OWN | {"cost_usd": "dear"}, "a cost that is no number of dollars"),
        (OWN | {"timestamp": "yesterday"}, "a time that is no ISO 8601"),
        (OWN | {"timestamp": -5}, "a time that is no Unix seconds"),
        (OWN | {"timestamp": 1e300}, "a time that is no Unix seconds"),
        (OWN | {"timestamp": float("nan")}, "a time that is no Unix seconds"),
        (OWN | {"timestamp": True}, "a time that is no Unix seconds"),
        (OWN | {"timestamp": 253_402_300_800_000}, "a time before 1970 or after 9000"),
        (OWN | {"timestamp": 3e14}, "a time before 1970 or after 9000"),
        (OWN | {"timestamp": "9999-12-31T23:59:59-12:00"}, "a time before 1970 or after 9000"),
        (OWN | {"timestamp": "0001-01-01T00:00:00+12:00"}, "a time before 1970 or after 9000"),
        (LITELLM | {"call_type": "aembedding"}, "a call of LiteLLM that is no completion"),
        (LITELLM | {"status": "failure"}, "an error instead of an answer"),
        (OWN | {"params": "t=1"}, "parameters that are no object"),
        (LITELLM | {"model_parameters": "abc"}, "parameters that are no object"),
        (LANGFUSE | {"type": "SPAN"}, "a Langfuse observation that is no generation"),
        (BATCH | {"body": {"input": "x"}}, "a batch of something other than chat completions"),
        (BATCH | {"custom_id": "b"}, "no result: name the batch's output file too"),
        (RESULT | {"custom_id": "z"}, "results of a batch without its requests: name that file too"),
    ],
)
def test_what_cannot_be_replayed_is_left_out_with_its_reason(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    log = read(tmp_path, [OWN, row])

    assert len(log.requests) == 1
    assert list(log.left_out) == [reason]


def test_rows_without_a_time_have_that_of_the_row_before_and_are_counted(tmp_path: Path) -> None:
    def row(said: str, **more: Any) -> dict[str, Any]:
        return {"prompt": said, "response": said, **more}

    rows = [row("first"), row("late", timestamp=200), row("with late", timestamp=None), row("early", timestamp=100)]

    log = read(tmp_path, rows)

    assert [(each.response, each.at) for each in log.requests] == [
        ("early", 100.0),
        ("first", 200.0),
        ("late", 200.0),
        ("with late", 200.0),
    ]
    assert log.untimed == 2


def test_a_log_without_times_stays_without(tmp_path: Path) -> None:
    log = read(tmp_path, [{"prompt": "a", "response": "b"}] * 2)

    assert [each.at for each in log.requests] == [None, None]
    assert log.untimed == 2


def test_requests_come_in_the_order_of_their_time(tmp_path: Path) -> None:
    later = OWN | {"timestamp": 1_700_000_100, "response": "later"}
    in_milliseconds = OWN | {"timestamp": 1_700_000_050_000, "response": "between"}

    log = read(tmp_path, [later, in_milliseconds, OWN])

    assert [each.response for each in log.requests] == ["Time to live.", "between", "later"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ("{", "line 1 is no JSON"),
        ("[1]", "row 1 is no object"),
        ('{"prompt": "q"}', "no answer"),
        ("[" * 100_000, "no JSON"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_file_in_which_there_is_nothing_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(InvalidInput, match=said) as refused:
        read_logs([path])

    assert "log.jsonl" in str(refused.value)


def test_two_batches_at_a_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="stands twice"):
        read(tmp_path, [BATCH], [RESULT], [BATCH])


def test_a_line_is_not_cut_at_separators_inside_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(OWN | {"response": "one\u2028two\u0085three"}, ensure_ascii=False) + "\n")

    assert read_logs([path]).requests[0].response == "one\u2028two\u0085three"


def test_tenants_of_own_rows_are_kept_apart(tmp_path: Path) -> None:
    plain = {"prompt": "What is TTL?", "response": "Time to live."}
    rows = [each | {"tenant": name} for each in (OWN, plain) for name in ("a", "b", 3)]

    log = read(tmp_path, [*rows, plain, OWN])

    assert len({fingerprint(each.request) for each in log.requests}) == 8


def ended(reason: str | None, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": "Time", **message}
    return COMPLETION | {"choices": [{"index": 0, "finish_reason": reason, "message": said}]}


@pytest.mark.parametrize(
    "files",
    [
        ([OWN | {"finish_reason": "length"}],),
        ([BATCH], [RESULT | {"response": {"status_code": 200, "body": ended("length")}}]),
        ([LITELLM | {"response": ended("length")}],),
        ([LITELLM | {"response": json.dumps(ended("length"))}],),
        ([LANGFUSE | {"output": ended("length")}],),
        ([LANGFUSE | {"output": {"role": "assistant", "content": "Time", "stop_reason": "length"}}],),
        ([LITELLM | {"response": COMPLETION | {"choices": [*COMPLETION["choices"], *ended("length")["choices"]]}}],),
    ],
)
def test_the_end_of_an_answer_is_told(files: tuple[list[Any], ...], tmp_path: Path) -> None:
    assert read(tmp_path, *files).requests[0].finish_reason == "length"


def test_an_answer_of_which_nobody_said_how_it_ended_has_no_end(tmp_path: Path) -> None:
    log = read(tmp_path, [OWN, LANGFUSE, LITELLM | {"response": ended(None)}])

    assert [each.finish_reason for each in log.requests] == [None, None, None]


def test_a_marked_refusal_and_a_call_of_a_tool_are_told_as_such(tmp_path: Path) -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    refusal = ended("stop", content=None, refusal="I cannot say.")
    rows = [
        LITELLM | {"response": refusal},
        LITELLM | {"response": ended("tool_calls", content=None, tool_calls=calls)},
    ]

    refused, called = read(tmp_path, rows).requests

    assert (refused.response, refused.finish_reason) == ("I cannot say.", "refusal")
    assert (called.finish_reason, called.has_tool_calls) == ("tool_calls", True)
