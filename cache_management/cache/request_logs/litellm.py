"""LiteLLM's rows: of its spend logs, and of its logging callbacks.

A spend log keeps no `messages`: what was asked stands in `proxy_server_request`, as JSON in a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache_management.cache.request_logs.fields import (
    LeftOut,
    LoggedRequest,
    answer_of,
    as_params,
    chat,
    count,
    first,
    micro,
    moment,
    parsed,
    tokens_of,
)
from cache_management.cache.requests import Request

# What the proxy is told, or notes, beside the question: logging, routing, budgets, this cache.
_BOOKKEEPING = frozenset(
    {
        *("metadata", "tags", "cache", "caching", "ttl", "no-log", "proxy_server_request", "secret_fields"),
        *("fallbacks", "context_window_fallbacks", "model_info", "session_id", "user_api_key"),
    }
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
    reply = parsed(row.get("response"))
    tokens = row.get("completion_tokens") or row.get("total_tokens")
    request, said = _request(row), answer_of(reply)
    return LoggedRequest(
        request,
        said.text,
        at=moment(row.get("startTime")),
        tokens=count(tokens) or tokens_of(reply),
        cost_micro=micro(first(row, "response_cost", "spend")),
        finish_reason=said.finish_reason,
        has_tool_calls=said.has_tool_calls,
    )


def _request(row: Mapping[str, Any]) -> Request:
    """Return what was asked: as the proxy was sent it, or else as it is told in pieces."""
    sent = parsed(row.get("proxy_server_request"))
    if isinstance(sent, dict) and "messages" not in sent:
        sent = parsed(sent.get("body"))
    if isinstance(sent, dict) and sent.get("messages"):
        messages, model = sent["messages"], first(sent, "model") or row.get("model")
        params: Mapping[str, Any] = sent
    else:
        messages, model = parsed(row.get("messages")), row.get("model")
        params = as_params(parsed(first(row, "model_parameters", "optional_params")))
    counting = {name: value for name, value in params.items() if not _is_bookkeeping(name)}
    return chat(messages, model, counting, tenant=_tenant(row))


def _is_bookkeeping(name: str) -> bool:
    return name in _BOOKKEEPING or name.startswith(("litellm_", "_"))


def _tenant(row: Mapping[str, Any]) -> str | None:
    """Return whose request it is: of a key, or else of a team."""
    told = parsed(row.get("metadata"))
    metadata = told if isinstance(told, dict) else {}
    found = (
        first(row, "api_key", "user_api_key_hash")
        or first(metadata, "user_api_key_hash", "user_api_key")
        or first(row, "team_id", "user_api_key_team_id")
        or first(metadata, "user_api_key_team_id", "team_id")
    )
    return None if found is None else str(found)
