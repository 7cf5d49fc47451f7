"""Files of rows to the requests of a log, in the order of their time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.request_logs import fields, langfuse, litellm, openai_batch, own
from cache_management.cache.request_logs.fields import LeftOut, LoggedRequest

Shape = Literal["own", "openai-batch", "litellm", "langfuse"]
SHAPES: tuple[Shape, ...] = ("own", "openai-batch", "litellm", "langfuse")
MAX_REQUESTS = 1_000_000
_MAX_BYTES = 2**31
_IN_ROWS = {"prompt", "messages", "response", "input", "output", "custom_id"}  # one of them is in every row


class Log(msgspec.Struct):
    """The requests of a log in the order of their time, and how many rows were left out, by reason.

    `untimed` of the requests had no time of their own and have that of the row before, where any row has one.
    `without_model` of them name no model, and are taken as asked of one.
    """

    requests: list[LoggedRequest]
    left_out: dict[str, int]
    untimed: int = 0
    without_model: int = 0


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
                    name = fields.text(row.get("custom_id"), "no custom_id")
                    if name in into:  # unique within one batch only
                        raise _StandsTwice(
                            f"{path}: the custom_id {name[:80]!r} stands twice: replay one batch at a time"
                        )
                    into[name] = row
                    continue
                found.append(_READERS[kind](row))
            except LeftOut as exc:
                left_out[str(exc)] += 1
            except _StandsTwice:
                raise
            except InvalidInput as exc:
                left_out[f"not a request: {str(exc)[:80]}"] += 1
            if len(found) + len(asked) > MAX_REQUESTS:
                raise InvalidInput(f"the log holds more than {MAX_REQUESTS:,} requests; take a part of it")
    for name, row in asked.items():
        try:
            found.append(openai_batch.read(row, answers.get(name)))
        except (LeftOut, InvalidInput) as exc:
            left_out[str(exc)[:80]] += 1
    lonely = len(answers.keys() - asked.keys())
    if lonely:
        left_out["results of a batch without its requests: name that file too"] = lonely
    if not found:
        said = "; ".join(f"{rows(count)}: {reason}" for reason, count in left_out.most_common(3))
        raise InvalidInput(f"{', '.join(map(str, paths))}: nothing can be replayed ({said or 'no rows'})")
    untimed = sum(each.at is None for each in found)
    without_model = sum(each.request.model is None for each in found)
    return Log(_in_order(found), dict(left_out), untimed, without_model)


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
    whole = _loaded(text, f"{path}") if text.lstrip()[:1] == "[" else _one_over_lines(text)
    if whole is not None:
        for number, row in enumerate(whole if isinstance(whole, list) else [whole], start=1):
            yield from _of_page(row, f"{path}, row {number}")
        return
    # Not by `splitlines`, which also cuts at separators inside of a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield from _of_page(_loaded(line, f"{path}, line {number}"), f"{path}, line {number}")


def _one_over_lines(text: str) -> Any:
    """Return the one object that stands over many lines, as a page of an API may; None where lines are objects."""
    for piece in (text.lstrip().split("\n", 1)[0], text):
        try:
            found = json.loads(piece)
        except (ValueError, RecursionError):
            continue
        return found if piece is text else None
    return None


def _of_page(row: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows that a page of an API holds, or the row itself."""
    found = _mapping(row, where)
    listed = found.get("data")
    if isinstance(listed, list) and not _IN_ROWS & found.keys():
        yield from (_mapping(each, f"{where}, item {number}") for number, each in enumerate(listed, start=1))
    else:
        yield found


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


_READERS: Mapping[str, Callable[[Mapping[str, Any]], LoggedRequest]] = {
    "own": own.read,
    "litellm": litellm.read,
    "langfuse": langfuse.read,
}
