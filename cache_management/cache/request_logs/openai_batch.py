"""OpenAI's batches: a file of requests, and one of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache_management.cache.request_logs.fields import (
    NOT_PARAMS,
    LeftOut,
    LoggedRequest,
    answer_of,
    chat,
    moment,
    tokens_of,
)


def read(row: Mapping[str, Any], answer: Mapping[str, Any] | None) -> LoggedRequest:
    """Return the request of a row, with its result.

    Raises:
        LeftOut, InvalidInput: It cannot be replayed.
    """
    body = row.get("body")
    if not isinstance(body, dict) or "messages" not in body:
        raise LeftOut("a batch of something other than chat completions")
    if answer is None:
        raise LeftOut("no result: name the batch's output file too")
    result = answer.get("response")
    told = result if isinstance(result, dict) else {}
    reply = told.get("body")
    if not isinstance(reply, dict) or told.get("status_code", 200) != 200:
        raise LeftOut("an error instead of an answer")
    params = {name: value for name, value in body.items() if name not in NOT_PARAMS}
    request = chat(body["messages"], body.get("model"), params, system=body.get("system"))
    said = answer_of(reply)
    return LoggedRequest(
        request,
        said.text,
        at=moment(reply.get("created")),
        tokens=tokens_of(reply),
        finish_reason=said.finish_reason,
        has_tool_calls=said.has_tool_calls,
    )
