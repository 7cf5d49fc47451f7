"""Our own rows: what a program of one's own writes down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache_management.cache.request_logs.fields import LoggedRequest, chat, count, micro, moment, text
from cache_management.cache.requests import make_request


def read(row: Mapping[str, Any]) -> LoggedRequest:
    """Return the request of a row.

    Raises:
        LeftOut, InvalidInput: It cannot be replayed.
    """
    said = row.get("tenant")
    tenant = None if said is None else str(said)
    if "messages" in row:
        request = chat(row["messages"], row.get("model"), row.get("params"), system=row.get("system"), tenant=tenant)
    else:
        request = make_request(
            row.get("prompt"),
            model=row.get("model"),
            system=row.get("system"),
            history=row.get("history") or (),
            params=row.get("params"),
            tenant=tenant,
        )
    group, reason = row.get("group"), row.get("finish_reason")
    return LoggedRequest(
        request,
        text(row.get("response"), "no answer"),
        at=moment(row.get("timestamp")),
        tokens=count(row.get("token_count")),
        cost_micro=micro(row.get("cost_usd")),
        group=None if group is None else str(group),
        finish_reason=None if reason is None else str(reason),
    )
