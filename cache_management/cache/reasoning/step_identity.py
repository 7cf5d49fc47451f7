"""Names of steps: each is a hash of the step before it and its own text, so that equal beginnings share their names.

The root covers the problem, the namespace and everything under which the steps were thought: another model, prompt or
parameter shares nothing.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cache_management.cache.codec import encode_metadata
from cache_management.cache.errors import InvalidInput
from cache_management.cache.reasoning.result import ReasoningResult, ReasoningType

SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "seed", "frequency_penalty", "presence_penalty", "stop")
"""What of a result's metadata is a parameter of its model."""

Canonical = Callable[[str], str]
ID_BYTES = 16


class Conditions(msgspec.Struct, frozen=True):
    """Under which conditions steps were thought; `params` is canonical JSON."""

    reasoning_type: ReasoningType = "cot"
    model: str = ""
    prompt_version: str = ""
    params: str = "{}"


def conditions(
    reasoning_type: ReasoningType = "cot",
    *,
    model: str | None = None,
    prompt_version: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> Conditions:
    """Return conditions.

    Raises:
        InvalidInput: They cannot be compared: parameters that are no JSON, a model that is no text.
    """
    if reasoning_type not in ("cot", "tot"):
        raise InvalidInput(f"reasoning_type={reasoning_type!r:.40}: take cot or tot")
    for name, value in (("model", model), ("prompt_version", prompt_version)):
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"{name}={value!r:.40} must be text")
    return Conditions(reasoning_type, model or "", prompt_version or "", _canonical_json(params or {}))


def conditions_of(result: ReasoningResult) -> Conditions:
    """Return the conditions that a result names in its metadata."""
    metadata = result.metadata
    params = {name: metadata[name] for name in SAMPLING if name in metadata}
    given = metadata.get("params")
    if isinstance(given, Mapping):
        params |= given
    model, version = metadata.get("model"), metadata.get("prompt_version")
    return conditions(
        result.reasoning_type,
        model=_as_text(model),
        prompt_version=_as_text(version),
        params=params,
    )


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)


def _canonical_json(params: Mapping[str, Any]) -> str:
    if not isinstance(params, Mapping):
        raise InvalidInput(f"params={params!r:.40} must be an object of names and values")
    try:
        return json.dumps(json.loads(encode_metadata(dict(params))), sort_keys=True, separators=(",", ":"))
    except ValueError as exc:  # InvalidEntry is one
        raise InvalidInput(f"params cannot be compared: {exc}") from None


def canonical_text(text: str) -> str:
    """Return the text by which steps and problems are compared: Unicode NFC, without white space around it."""
    return unicodedata.normalize("NFC", text).strip()


def problem_id(problem: str) -> str:
    """Return the name of a problem, 32 hexadecimal digits."""
    if not isinstance(problem, str):
        raise InvalidInput(f"a problem must be text, not {type(problem).__name__}")
    try:
        text = canonical_text(problem).encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"the problem is not valid Unicode at character {exc.start}") from None
    if not text:
        raise InvalidInput("the problem is empty: say what was to be solved")
    return hashlib.blake2b(text, digest_size=ID_BYTES).hexdigest()


def root_id(problem: str, namespace: str, under: Conditions) -> bytes:
    """Return the name that stands before the first step."""
    words = [problem_id(problem), namespace, *msgspec.structs.astuple(under)]
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=ID_BYTES).digest()


def step_id(parent_id: bytes, canonical: str) -> bytes:
    """Return the name of a step behind another one."""
    return hashlib.blake2b(parent_id + canonical.encode(), digest_size=ID_BYTES).digest()
