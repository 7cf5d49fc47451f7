"""Logs of requests to models, as programs write them: our own lines, OpenAI's batches, LiteLLM, Langfuse.

A file is a JSON list or JSON Lines. Each row says its shape by itself. What cannot be replayed is left out, and said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.requests import Request, make_request

Shape = Literal["own", "openai-batch", "litellm", "langfuse"]
SHAPES: tuple[Shape, ...] = ("own", "openai-batch", "litellm", "langfuse")
MAX_REQUESTS = 1_000_000
_MAX_BYTES = 2**31
_NOT_PARAMS = frozenset({"model", "messages", "system", "stream", "stream_options"})


class LoggedRequest(msgspec.Struct, frozen=True):
    """One request of a log, with the answer that it got.

    `at` is Unix seconds, None where nobody said. `cost_micro` is in micro-dollars, None where nobody said. Requests of
    one `group` have one answer: a label, which only a log that somebody judged has.
    """

    request: Request
    response: str
    at: float | None = None
    tokens: int = 0
    cost_micro: int | None = None
    group: str | None = None


class Log(msgspec.Struct):
    """The requests of a log in the order of their time, and how many rows were left out, by reason.

    `untimed` of the requests had no time of their own and have that of the row before, where any row has one.
    """

    requests: list[LoggedRequest]
    left_out: dict[str, int]
    untimed: int = 0


class _LeftOut(Exception):
    """A row that is no request to replay; says why in a few words."""


class _StandsTwice(InvalidInput):
    """A name that is one of two rows: nobody knows which answer belongs to which."""


def read_logs(paths: Sequence[Path], *, shape: Shape | None = None) -> Log:
    """Return the requests of files; an OpenAI batch and its results are two of them.

    Args:
        shape: What every row is; None looks at each.

    Raises:
        InvalidInput: A file cannot be read or is no JSON, or nothing in it can be replayed.
    """
    found: list[LoggedRequest] = []
    left_out: Counter[str] = Counter()
    asked: dict[str, Mapping[str, Any]] = {}
    answers: dict[str, Mapping[str, Any]] = {}
    for path in paths:
        for row in _rows(path):
            try:
                kind = shape or _shape_of(row)
                if kind == "openai-batch":
                    into = asked if "body" in row else answers
                    name = _text(row.get("custom_id"), "no custom_id")
                    if name in into:  # unique within one batch only
                        raise _StandsTwice(
                            f"{path}: the custom_id {name[:80]!r} stands twice: replay one batch at a time"
                        )
                    into[name] = row
                    continue
                found.append(_READERS[kind](row))
            except _LeftOut as exc:
                left_out[str(exc)] += 1
            except _StandsTwice:
                raise
            except InvalidInput as exc:
                left_out[f"not a request: {str(exc)[:80]}"] += 1
            if len(found) + len(asked) > MAX_REQUESTS:
                raise InvalidInput(f"the log holds more than {MAX_REQUESTS:,} requests; take a part of it")
    for name, row in asked.items():
        try:
            found.append(_of_batch(row, answers.get(name)))
        except (_LeftOut, InvalidInput) as exc:
            left_out[str(exc)[:80]] += 1
    lonely = len(answers.keys() - asked.keys())
    if lonely:
        left_out["results of a batch without its requests: name that file too"] = lonely
    if not found:
        said = "; ".join(f"{rows(count)}: {reason}" for reason, count in left_out.most_common(3))
        raise InvalidInput(f"{', '.join(map(str, paths))}: nothing can be replayed ({said or 'no rows'})")
    untimed = sum(each.at is None for each in found)
    return Log(_in_order(found), dict(left_out), untimed)


def _in_order(requests: list[LoggedRequest]) -> list[LoggedRequest]:
    """Sort by time. Who has none comes at that of the row before, or at the first known one; none stays none."""
    now = next((each.at for each in requests if each.at is not None), None)
    if now is None:
        return requests
    timed = []
    for each in requests:
        now = now if each.at is None else each.at
        timed.append(each if each.at is not None else msgspec.structs.replace(each, at=now))
    return sorted(timed, key=lambda each: each.at or 0.0)  # stable: equal ones stay in the order of the rows


def rows(count: int) -> str:
    """Say how many rows."""
    return "1 row" if count == 1 else f"{count:,} rows"


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInput(f"{path} holds more than 2 GiB; take a part of it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror or exc}") from None
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{path} is not UTF-8 at byte {exc.start}") from None
    if text.lstrip()[:1] == "[":
        loaded = _loaded(text, f"{path}")
        numbered = enumerate(loaded if isinstance(loaded, list) else [], start=1)
        yield from (_mapping(row, f"{path}, row {number}") for number, row in numbered)
        return
    # Not by `splitlines`, which also cuts at separators inside of a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _mapping(_loaded(line, f"{path}, line {number}"), f"{path}, line {number}")


def _loaded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{where} is no JSON: {str(exc)[:100]}") from None


def _mapping(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise InvalidInput(f"{where} is no object")
    return row


def _shape_of(row: Mapping[str, Any]) -> Shape:
    if "custom_id" in row and ("body" in row or "response" in row or "error" in row):
        return "openai-batch"
    if "input" in row and ("output" in row or "type" in row):
        return "langfuse"
    if {"call_type", "startTime", "response_cost", "spend", "litellm_call_id"} & row.keys():
        return "litellm"
    return "own"


def _own(row: Mapping[str, Any]) -> LoggedRequest:
    if "messages" in row:
        request = _chat(row["messages"], row.get("model"), row.get("params"), row.get("system"))
    else:
        request = make_request(
            row.get("prompt"),
            model=row.get("model"),
            system=row.get("system"),
            history=row.get("history") or (),
            params=row.get("params"),
        )
    cost = row.get("cost_usd")
    group = row.get("group")
    return LoggedRequest(
        request,
        _text(row.get("response"), "no answer"),
        _moment(row.get("timestamp")),
        _count(row.get("token_count")),
        None if cost is None else _micro(cost),
        None if group is None else str(group),
    )


def _of_batch(row: Mapping[str, Any], answer: Mapping[str, Any] | None) -> LoggedRequest:
    body = row.get("body")
    if not isinstance(body, dict) or "messages" not in body:
        raise _LeftOut("a batch of something other than chat completions")
    if answer is None:
        raise _LeftOut("no result: name the batch's output file too")
    result = answer.get("response")
    told = result if isinstance(result, dict) else {}
    reply = told.get("body")
    if not isinstance(reply, dict) or told.get("status_code", 200) != 200:
        raise _LeftOut("an error instead of an answer")
    params = {name: value for name, value in body.items() if name not in _NOT_PARAMS}
    request = _chat(body["messages"], body.get("model"), params, body.get("system"))
    return LoggedRequest(request, _answer_of(reply), _moment(reply.get("created")), _tokens_of(reply))


def _litellm(row: Mapping[str, Any]) -> LoggedRequest:
    if row.get("call_type") not in (None, "completion", "acompletion"):
        raise _LeftOut("a call of LiteLLM that is no completion")
    if row.get("status") == "failure" or row.get("exception"):
        raise _LeftOut("an error instead of an answer")
    params = _parsed(row.get("model_parameters") or row.get("optional_params"))
    request = _chat(_parsed(row.get("messages")), row.get("model"), params, None)
    cost = row.get("response_cost", row.get("spend"))
    tokens = row.get("completion_tokens") or row.get("total_tokens")
    reply = _parsed(row.get("response"))
    return LoggedRequest(
        request,
        _answer_of(reply),
        _moment(row.get("startTime")),
        _count(tokens) or _tokens_of(reply),
        None if cost is None else _micro(cost),
    )


def _langfuse(row: Mapping[str, Any]) -> LoggedRequest:
    if str(row.get("type", "GENERATION")).upper() != "GENERATION":
        raise _LeftOut("a Langfuse observation that is no generation")
    if str(row.get("level", "")).upper() == "ERROR":
        raise _LeftOut("an error instead of an answer")
    asked = _parsed(row.get("input"))
    params = dict(_params(_parsed(row.get("modelParameters"))))
    if isinstance(asked, dict):
        params |= {name: value for name, value in asked.items() if name not in _NOT_PARAMS}
        asked = asked.get("messages", asked.get("prompt"))
    model = row.get("model")
    request = make_request(asked, model=model, params=params) if isinstance(asked, str) else None
    usage = row.get("usageDetails") or row.get("usage") or {}
    cost = row.get("calculatedTotalCost", row.get("totalCost"))
    return LoggedRequest(
        request or _chat(asked, model, params, None),
        _answer_of(_parsed(row.get("output"))),
        _moment(row.get("startTime")),
        _count(usage.get("output") if isinstance(usage, dict) else None),
        None if cost is None else _micro(cost),
    )


_READERS = {"own": _own, "litellm": _litellm, "langfuse": _langfuse}


def _chat(messages: Any, model: Any, params: Any, system: Any) -> Request:
    if not isinstance(messages, list) or not messages:
        raise _LeftOut("no messages")
    told = {name: value for name, value in _params(params).items() if name not in _NOT_PARAMS}
    return make_request(None, model=model, system=system, history=messages, params=told)


def _params(value: Any) -> Mapping[str, Any]:
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise _LeftOut("parameters that are no object")
    return value


def _parsed(value: Any) -> Any:
    """Return what text holds, where a table could not keep JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _answer_of(reply: Any) -> str:
    """Return the text of an answer: of a completion, of a message, or as it is."""
    if isinstance(reply, dict) and isinstance(reply.get("choices"), list) and reply["choices"]:
        choice = reply["choices"][0]
        reply = choice.get("message", choice) if isinstance(choice, dict) else None
    if isinstance(reply, dict):
        if reply.get("tool_calls"):
            return json.dumps(reply["tool_calls"], sort_keys=True)
        reply = reply.get("content", reply.get("text"))
    if isinstance(reply, list):
        reply = "\n".join(str(part.get("text", "")) for part in reply if isinstance(part, dict))
    return _text(reply, "no answer")


def _tokens_of(reply: Any) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    return _count(usage.get("completion_tokens")) if isinstance(usage, dict) else 0


def _text(value: Any, missing: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _LeftOut(missing)
    return value


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def _micro(dollars: Any) -> int:
    if isinstance(dollars, bool) or not isinstance(dollars, int | float) or not 0 <= dollars < 1e6:
        raise _LeftOut("a cost that is no number of dollars")
    return round(dollars * 1e6)


def _moment(value: Any) -> float | None:
    """Return Unix seconds of a number of seconds or milliseconds, or of ISO 8601; naive moments are in UTC."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise _LeftOut("a time that is no ISO 8601") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value) / 1000 if value > 1e11 else float(value)
    raise _LeftOut("a time that is no Unix seconds")
