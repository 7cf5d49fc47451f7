"""Langfuse's observations: of its API, and of its exports.

The API of the first version says `model` and `calculatedTotalCost`, that of the second `providedModelName` and
`totalCost`; what is exported to a bucket says `provided_model_name`, `start_time`, `model_parameters`, `total_cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache_management.cache.request_logs.fields import (
    NOT_PARAMS,
    LeftOut,
    LoggedRequest,
    answer_of,
    as_params,
    chat,
    check_is_shown,
    count,
    first,
    micro,
    moment,
    parsed,
)
from cache_management.cache.requests import make_request


def read(row: Mapping[str, Any]) -> LoggedRequest:
    """Return the request of a row.

    Raises:
        LeftOut, InvalidInput: It cannot be replayed.
    """
    if str(row.get("type", "GENERATION")).upper() != "GENERATION":
        raise LeftOut("a Langfuse observation that is no generation")
    if str(row.get("level", "")).upper() == "ERROR":
        raise LeftOut("an error instead of an answer")
    asked = parsed(row.get("input"))
    params = dict(as_params(parsed(first(row, "modelParameters", "model_parameters"))))
    model = first(row, "model", "providedModelName", "provided_model_name")
    if isinstance(asked, dict):
        params |= {name: value for name, value in asked.items() if name not in NOT_PARAMS}
        model = model or asked.get("model")
        asked = asked.get("messages", asked.get("prompt"))
    check_is_shown(asked)
    request = make_request(asked, model=model, params=params) if isinstance(asked, str) else chat(asked, model, params)
    said = answer_of(parsed(row.get("output")))
    usage = parsed(first(row, "usageDetails", "usage_details", "usage"))
    return LoggedRequest(
        request,
        said.text,
        at=moment(first(row, "startTime", "start_time")),
        tokens=count(usage.get("output") if isinstance(usage, dict) else None),
        cost_micro=micro(_cost(row)),
        finish_reason=said.finish_reason,
        has_tool_calls=said.has_tool_calls,
    )


def _cost(row: Mapping[str, Any]) -> Any:
    told = first(row, "calculatedTotalCost", "totalCost", "total_cost")
    if told is None:
        details = parsed(first(row, "costDetails", "cost_details"))
        told = details.get("total") if isinstance(details, dict) else None
    return told
