"""What a warm file holds: prompts with their answers, or problems with their steps, as a JSON list or JSON Lines."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from cache_management.cache.config import check_ttl, explain_validation
from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import MAX_KEY_BYTES
from cache_management.cache.payloads import check_metadata
from cache_management.cache.values import CachedResponse, UtcDatetime

MAX_ITEM_BYTES = 64 * 2**20


class WarmItem(BaseModel):
    """One prompt to be cached. It is found under `key`, or under the prompt itself.

    `timestamp` is when the model answered; None takes the moment of warming. `reasoning` is a chain or a tree instead
    of an answer: the prompt is its problem.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    prompt: str = Field(min_length=1)
    response: str | None = None
    model: str = "gpt-4"
    token_count: int = Field(default=0, ge=0, lt=2**63)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    ttl_seconds: int | None = None
    key: str | None = Field(default=None, min_length=1)
    timestamp: UtcDatetime | None = None
    reasoning: dict[str, JsonValue] | None = None

    @field_validator("timestamp", mode="before")
    @classmethod
    def _read_timestamp(cls, value: object) -> object:
        # Files are read strictly, and JSON has no moments: text in ISO 8601 is what stands for one.
        return datetime.fromisoformat(value) if isinstance(value, str) else value

    @field_validator("ttl_seconds")
    @classmethod
    def _ttl_means_something(cls, value: int | None) -> int | None:
        return check_ttl(value)

    @property
    def entry_key(self) -> str:
        """Return the key that the entry is stored under; reasoning has keys of its own."""
        return f"reasoning:{self.own_key}" if self.reasoning is not None else self.own_key

    @property
    def is_question(self) -> bool:
        """Tell whether somebody has to be asked for the answer."""
        return self.response is None and self.reasoning is None

    @property
    def own_key(self) -> str:
        """Return the key as it was given."""
        return self.key or self.prompt

    def to_response(self, now: float) -> CachedResponse:
        """Return the entry; `now` is Unix seconds.

        Raises:
            InvalidInput: There is no response.
        """
        if self.response is None:
            raise InvalidInput("the prompt has no response")
        return CachedResponse(
            prompt=self.prompt,
            response=self.response,
            model=self.model,
            timestamp=self.timestamp or datetime.fromtimestamp(now, UTC),
            token_count=self.token_count,
            metadata=self.metadata,
        )

    @classmethod
    def from_response(cls, response: CachedResponse) -> WarmItem:
        """Return the item that stores a response."""
        return cls(
            prompt=response.prompt,
            response=response.response,
            model=response.model,
            token_count=response.token_count,
            metadata=response.metadata,
            timestamp=response.timestamp,
        )


class AskedItem(WarmItem):
    """An item of a job. Without a response a provider is asked, the whole `request` or else the prompt alone."""

    request: dict[str, JsonValue] | None = None
    tags: tuple[str, ...] = ()


def check_item(data: object, *, where: str, may_ask: bool = False) -> WarmItem:
    """Return an item that can be stored; with `may_ask` one without a response is for a provider.

    Raises:
        InvalidInput: A field is wrong or missing, or the prompt cannot be a key; names `where`.
    """
    if not isinstance(data, WarmItem | CachedResponse | dict):
        raise InvalidInput(f"{where}: an object with prompt and response is needed, not {_kind(data)}")
    try:
        if isinstance(data, WarmItem):
            item = data
        elif isinstance(data, CachedResponse):
            item = WarmItem.from_response(data)
        else:
            item = WarmItem.model_validate(_as_reasoning(data), strict=True)
    except ValidationError as exc:
        raise InvalidInput(explain_validation(exc, what=where)) from None
    if not isinstance(data, CachedResponse):  # that of a program was in a cache already, with all it holds
        check_metadata(item.metadata, f"{where}: metadata")
    if item.is_question and not may_ask:
        raise InvalidInput(
            f"{where}: the prompt {_short(item.prompt)} has no response, and no provider is configured to ask for one"
            " (provider.command, provider.callable)"
        )
    try:
        size = len(item.entry_key.encode())
        metadata = json.dumps([item.metadata, item.reasoning], allow_nan=False, ensure_ascii=False)
        whole = sum(len(text.encode()) for text in (item.prompt, item.response or "", item.model, metadata))
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"{where}: the text is not valid Unicode: {exc.reason}") from None
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{where}: metadata must be JSON: {exc}") from None
    if whole > MAX_ITEM_BYTES:
        raise InvalidInput(f"{where}: the item has {whole:,} bytes; at most {MAX_ITEM_BYTES:,} can be warmed")
    if size > MAX_KEY_BYTES:
        advice = "give the item a shorter `key`" if item.key is None else "shorten it"
        raise InvalidInput(
            f"{where}: the {'prompt' if item.key is None else 'key'} has {size:,} bytes, but a key may have at most"
            f" {MAX_KEY_BYTES:,}; {advice}"
        )
    return item


def _as_reasoning(data: dict[str, Any]) -> dict[str, Any]:
    """Return an object with a problem and steps as the item that it is; others stay what they are."""
    if "problem" not in data or "prompt" in data or "reasoning" in data:
        return data
    item: dict[str, Any] = {"prompt": data["problem"]}
    rest = dict(data)
    for name in ("key", "ttl_seconds"):
        if name in rest:
            item[name] = rest.pop(name)
    return {**item, "reasoning": rest}


def read_warm_file(path: Path, *, may_ask: bool = False) -> Iterator[WarmItem]:
    """Yield the items of a warm file, checked, in order.

    The file is a JSON list, or one JSON object per line. With `may_ask` a response may be missing: a provider is asked.

    Raises:
        InvalidInput: The file is missing, empty, not UTF-8, not JSON, or an item is wrong; names the line, and
            in a list the item, counted from 1.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"{path}: there is no such file") from None
    except OSError as exc:
        raise InvalidInput(f"{path}: cannot be read: {exc.strerror}") from None
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise InvalidInput(f"{path}, line {line}: byte {exc.start} is not UTF-8") from None
    if not text.strip():
        raise InvalidInput(f"{path}: the file is empty")
    is_list = text.lstrip()[0] == "["  # all of it may be one line
    number = 0
    for number, (line, value) in enumerate(_list_values(text, path) if is_list else _line_values(text, path), start=1):
        item = f", item {number}" if is_list else ""
        yield check_item(value, where=f"{path}, line {line}{item}", may_ask=may_ask)
    if not number:
        raise InvalidInput(f"{path}: the list holds no items")


def check_items(items: Iterable[object], *, may_ask: bool = False) -> Iterator[WarmItem]:
    """Yield items given by a program, checked; errors name the position, counted from 0."""
    for at, item in enumerate(items):
        yield check_item(item, where=f"item {at}", may_ask=may_ask)


def _line_values(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for line, row in enumerate(text.split("\n"), start=1):
        if row.strip():
            yield line, _decode(row, path, line)


def _decode(row: str, path: Path, line: int) -> Any:
    try:
        return json.loads(row, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as exc:
        raise InvalidInput(f"{path}, line {line}, column {exc.colno}: invalid JSON: {exc.msg}") from None
    except (RecursionError, ValueError) as exc:
        raise InvalidInput(f"{path}, line {line}: invalid JSON: {_why(exc)}") from None


def _list_values(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Read a JSON list value by value, so that an error can name its line."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
    at = _skip_space(text, text.index("[") + 1)
    line, counted, number = 1, 0, 1
    expects_value = False
    while True:
        line, counted = line + text.count("\n", counted, at), at
        if at >= len(text):
            raise InvalidInput(f"{path}, line {line}: invalid JSON: the list is not closed with ]")
        if text[at] == "]" and not expects_value:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as exc:
            raise InvalidInput(f"{path}, line {exc.lineno}, column {exc.colno}: invalid JSON: {exc.msg}") from None
        except (RecursionError, ValueError) as exc:
            raise InvalidInput(f"{path}, line {line}, item {number}: invalid JSON: {_why(exc)}") from None
        yield line, value
        number += 1
        at = _skip_space(text, end)
        line, counted = line + text.count("\n", counted, at), at
        expects_value = at < len(text) and text[at] == ","
        if expects_value:
            at = _skip_space(text, at + 1)
        elif at < len(text) and text[at] != "]":
            raise InvalidInput(f"{path}, line {line}: invalid JSON: a comma or ] is expected, not {text[at]!r}")
    rest = _skip_space(text, at + 1)
    if rest < len(text):
        line += text.count("\n", at, rest)
        raise InvalidInput(f"{path}, line {line}: invalid JSON: text behind the closing ]")


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _kind(value: object) -> str:
    return {list: "a list", str: "text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
