"""Langfuse's observations: of its API, and of its exports."""

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
    count,
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
    params = dict(as_params(parsed(row.get("modelParameters"))))
    if isinstance(asked, dict):
        params |= {name: value for name, value in asked.items() if name not in NOT_PARAMS}
        asked = asked.get("messages", asked.get("prompt"))
    model = row.get("model")
    request = make_request(asked, model=model, params=params) if isinstance(asked, str) else None
    usage = row.get("usageDetails") or row.get("usage") or {}
    return LoggedRequest(
        request or chat(asked, model, params, None),
        answer_of(parsed(row.get("output"))),
        at=moment(row.get("startTime")),
        tokens=count(usage.get("output") if isinstance(usage, dict) else None),
        cost_micro=micro(row.get("calculatedTotalCost", row.get("totalCost"))),
    )
