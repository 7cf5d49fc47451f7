"""What every shape of a log reads in the same way: parameters, messages, answers, times, numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from cache_management.cache.requests import Request, make_request

_END = datetime(9001, 1, 1, tzinfo=UTC).timestamp()  # what is later has no date once a life is added to it
_CUT = "(litellm_truncated skipped "
_GOOD = frozenset({"stop", "tool_calls", "function_call"})
_REDACTED = "redacted-by-litellm"
NOT_PARAMS = frozenset({"model", "messages", "system", "stream", "stream_options"})


class LoggedRequest(msgspec.Struct, frozen=True):
    """One request of a log, with the answer that it got.

    `at` is Unix seconds, None where nobody said. `cost_micro` is in micro-dollars, None where nobody said. Requests of
    one `group` have one answer: a label, which only a log that somebody judged has. `finish_reason` is the provider's
    word, None where nobody said: it decides whether the answer is kept.
    """

    request: Request
    response: str
    at: float | None = None
    tokens: int = 0
    cost_micro: int | None = None
    group: str | None = None
    finish_reason: str | None = None
    has_tool_calls: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What a model said, and how it came to its end."""

    text: str
    finish_reason: str | None = None
    has_tool_calls: bool = False


class LeftOut(Exception):
    """A row that is no request to replay; says why in a few words."""


def chat(messages: Any, model: Any, params: Any, *, system: Any = None, tenant: str | None = None) -> Request:
    """Return the request that a conversation is."""
    if not isinstance(messages, list) or not messages:
        raise LeftOut("no messages")
    check_is_shown(messages)
    told = {name: value for name, value in as_params(params).items() if name not in NOT_PARAMS}
    return make_request(None, model=model or None, system=system, history=messages, params=told, tenant=tenant)


def check_is_shown(asked: Any) -> None:
    """Leave a row out of whose prompt LiteLLM, which writes to other logs too, shows not all.

    Raises:
        LeftOut: Prompts without their text would all be the same question.
    """
    if isinstance(asked, str):
        if asked == _REDACTED:
            raise LeftOut("a prompt or an answer that LiteLLM redacted")
        if _CUT in asked:
            raise LeftOut("a prompt that LiteLLM cut")
    elif isinstance(asked, list):
        for each in asked:
            if isinstance(each, dict):
                check_is_shown(first(each, "content", "text"))


def first(row: Mapping[str, Any], *names: str) -> Any:
    """Return the value of the first name that says anything; None where none does."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def as_params(value: Any) -> Mapping[str, Any]:
    """Return parameters; none where nobody said."""
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise LeftOut("parameters that are no object")
    return value


def parsed(value: Any) -> Any:
    """Return what text holds, where a table could not keep JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def answer_of(reply: Any) -> Answer:
    """Return an answer: of a completion, of a message, or a text as it is.

    Of several choices the first is the answer, and one that was cut off speaks for all, as for the proxy.
    """
    if isinstance(reply, dict) and isinstance(reply.get("choices"), list) and reply["choices"]:
        choices = [each for each in reply["choices"] if isinstance(each, dict)]
        reasons = [str(each["finish_reason"]) for each in choices if each.get("finish_reason")]
        answer = _said(choices[0].get("message", choices[0]) if choices else None)
        if answer.finish_reason is None and reasons:
            reason = next((each for each in reasons if each not in _GOOD), reasons[0])
            answer = msgspec.structs.replace(answer, finish_reason=reason)
        return answer
    return _said(reply)


def _said(reply: Any) -> Answer:
    """Return what a message says, a list of them of which one is the assistant's, parts of a content, or a text."""
    if isinstance(reply, list) and any(isinstance(each, dict) and "role" in each for each in reply):
        said = [each for each in reply if isinstance(each, dict) and each.get("role") == "assistant"]
        if len(said) > 1:
            raise LeftOut("an answer of several messages")
        reply = said[0] if said else None
    reason = None
    if isinstance(reply, dict):
        told = first(reply, "finish_reason", "stop_reason")
        reason = None if told is None else str(told)
        if reply.get("tool_calls"):
            return Answer(json.dumps(reply["tool_calls"], sort_keys=True), reason, has_tool_calls=True)
        if isinstance(reply.get("refusal"), str) and reply["refusal"].strip():
            return Answer(reply["refusal"], "refusal")
        reply = reply.get("content", reply.get("text"))
    if isinstance(reply, list):
        reply = "\n".join(str(part.get("text", "")) for part in reply if isinstance(part, dict))
    if reply == _REDACTED:
        raise LeftOut("a prompt or an answer that LiteLLM redacted")
    return Answer(text(reply, "no answer"), reason)


def tokens_of(reply: Any) -> int:
    """Return how many tokens a completion says that it has."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    return count(usage.get("completion_tokens")) if isinstance(usage, dict) else 0


def text(value: Any, missing: str) -> str:
    """Return a text; its absence is why the row is left out."""
    if not isinstance(value, str) or not value.strip():
        raise LeftOut(missing)
    return value


def count(value: Any) -> int:
    """Return a number of tokens, which may be told as text; 0 for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def micro(dollars: Any) -> int | None:
    """Return micro-dollars of a number, which may be told as text; None where nobody said."""
    if dollars is None:
        return None
    if isinstance(dollars, str):
        try:
            dollars = float(dollars)
        except ValueError:
            raise LeftOut("a cost that is no number of dollars") from None
    if isinstance(dollars, bool) or not isinstance(dollars, int | float) or not 0 <= dollars < 1e6:
        raise LeftOut("a cost that is no number of dollars")
    return round(dollars * 1e6)


def moment(value: Any) -> float | None:
    """Return Unix seconds of a number of seconds or milliseconds, or of ISO 8601; naive moments are in UTC."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            told = datetime.fromisoformat(value)
        except ValueError:
            raise LeftOut("a time that is no ISO 8601") from None
        found = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15:
        found = float(value) / 1000 if value > 1e11 else float(value)
    else:
        raise LeftOut("a time that is no Unix seconds")
    if not 0 <= found < _END:
        raise LeftOut("a time before 1970 or after 9000")
    return found
