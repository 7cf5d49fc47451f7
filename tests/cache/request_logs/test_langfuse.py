from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.request_logs import Log, read_logs
from cache_management.cache.requests import fingerprint

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is TTL?"}]
ANSWER = {"role": "assistant", "content": "Time to live."}
API = {
    "id": "o1",
    "type": "GENERATION",
    "startTime": "2023-11-14T22:13:20.000Z",
    "model": "m",
    "modelParameters": {"temperature": 1},
    "input": CHAT,
    "output": ANSWER,
    "usageDetails": {"input": 12, "output": 4, "total": 16},
    "costDetails": {"total": 0.01},
    "calculatedTotalCost": 0.01,
    "level": "DEFAULT",
}
API_V2 = {name: value for name, value in API.items() if name not in {"model", "calculatedTotalCost"}} | {
    "providedModelName": "m",
    "totalCost": 0.01,
}
EXPORT = {
    "id": "o1",
    "trace_id": "t",
    "project_id": "p",
    "type": "GENERATION",
    "start_time": "2023-11-14 22:13:20.000000",
    "end_time": "2023-11-14 22:13:21.000000",
    "provided_model_name": "m",
    "model_parameters": json.dumps({"temperature": 1}),
    "input": json.dumps(CHAT),
    "output": json.dumps(ANSWER),
    "usage_details": {"input": "12", "output": "4", "total": "16"},
    "cost_details": {"total": "0.010000000000"},
    "total_cost": "0.01",
    "level": "DEFAULT",
}


def read(tmp_path: Path, *rows: dict[str, Any]) -> Log:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_logs([path])


@pytest.mark.parametrize("row", [API, API_V2, EXPORT], ids=["api", "api v2", "export"])
def test_every_way_out_of_langfuse_tells_the_same(row: dict[str, Any], tmp_path: Path) -> None:
    (found,) = read(tmp_path, row).requests

    assert (found.request.model, found.request.params, found.request.prompt) == (
        "m",
        {"temperature": 1},
        CHAT[1]["content"],
    )
    assert (found.response, found.at, found.tokens) == ("Time to live.", 1_700_000_000.0, 4)
    assert found.cost_micro == 10_000


@pytest.mark.parametrize(
    ("row", "micro"),
    [
        (EXPORT | {"total_cost": None}, 10_000),
        (EXPORT | {"total_cost": None, "cost_details": json.dumps({"total": 0.02})}, 20_000),
        (API | {"calculatedTotalCost": None, "totalCost": 0.03}, 30_000),
        (API | {"calculatedTotalCost": None, "costDetails": None}, None),
    ],
)
def test_the_cost_is_where_it_is_told(row: dict[str, Any], micro: int | None, tmp_path: Path) -> None:
    assert read(tmp_path, row).requests[0].cost_micro == micro


def test_other_models_and_parameters_of_an_export_are_other_requests(tmp_path: Path) -> None:
    log = read(
        tmp_path,
        EXPORT,
        EXPORT | {"provided_model_name": "other"},
        EXPORT | {"model_parameters": json.dumps({"temperature": 0})},
    )

    assert len({fingerprint(each.request) for each in log.requests}) == 3


def test_rows_that_name_no_model_are_counted(tmp_path: Path) -> None:
    log = read(tmp_path, EXPORT, EXPORT | {"provided_model_name": None}, EXPORT | {"provided_model_name": ""})

    assert (len(log.requests), log.without_model) == (3, 2)


def test_a_page_of_the_api_holds_rows(tmp_path: Path) -> None:
    page = {"data": [API, API], "meta": {"page": 1}}
    pretty = tmp_path / "pretty.json"
    pretty.write_text(json.dumps(page, indent=2))

    log = read(tmp_path, page, page)

    assert (len(log.requests), len(read_logs([pretty]).requests)) == (4, 2)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ([ANSWER], "Time to live."),
        ([*CHAT, ANSWER], "Time to live."),
        ([{"type": "text", "text": "Time"}, {"type": "text", "text": "to live."}], "Time\nto live."),
        ([ANSWER, ANSWER], None),
    ],
)
def test_a_list_is_an_answer_where_one_message_of_it_is(output: list[Any], answer: str | None, tmp_path: Path) -> None:
    log = read(tmp_path, API | {"output": output}, API | {"output": "by"})

    assert [each.response for each in log.requests] == [*([answer] if answer else []), "by"]
    assert log.left_out == ({} if answer else {"an answer of several messages": 1})


def test_what_is_asked_may_name_model_and_parameters_itself(tmp_path: Path) -> None:
    asked = {"model": "m", "messages": CHAT, "temperature": 1}

    (found,) = read(tmp_path, API | {"model": None, "modelParameters": None, "input": asked}).requests

    assert (found.request.model, found.request.params) == ("m", {"temperature": 1})
