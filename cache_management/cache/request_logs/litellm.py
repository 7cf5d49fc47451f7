"""LiteLLM's rows: of its spend logs, and of its logging callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache_management.cache.request_logs.fields import (
    LeftOut,
    LoggedRequest,
    answer_of,
    chat,
    count,
    micro,
    moment,
    parsed,
    tokens_of,
)


def read(row: Mapping[str, Any]) -> LoggedRequest:
    """Return the request of a row.

    Raises:
        LeftOut, InvalidInput: It cannot be replayed.
    """
    if row.get("call_type") not in (None, "completion", "acompletion"):
        raise LeftOut("a call of LiteLLM that is no completion")
    if row.get("status") == "failure" or row.get("exception"):
        raise LeftOut("an error instead of an answer")
    params = parsed(row.get("model_parameters") or row.get("optional_params"))
    request = chat(parsed(row.get("messages")), row.get("model"), params, None)
    tokens = row.get("completion_tokens") or row.get("total_tokens")
    reply = parsed(row.get("response"))
    return LoggedRequest(
        request,
        answer_of(reply),
        at=moment(row.get("startTime")),
        tokens=count(tokens) or tokens_of(reply),
        cost_micro=micro(row.get("response_cost", row.get("spend"))),
    )
