"""Checks of what callers give, each with a message that says what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cache_management.cache.config import check_ttl
from cache_management.cache.errors import InvalidInput


def check_similarity(value: float, name: str = "threshold") -> float:
    """Return a cosine similarity.

    Raises:
        InvalidInput: It is no number from -1 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1.0 <= value <= 1.0:
        raise InvalidInput(f"{name} {_shown(value)} is no cosine similarity; take a number from -1 to 1")
    return value


def check_count(value: int, name: str) -> int:
    """Return a whole number from 1.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        below = " is below 1" if isinstance(value, int) and value < 1 else " is no whole number from 1"
        raise InvalidInput(f"{name} {_shown(value)}{below}")
    return value


def check_text(value: str, name: str) -> str:
    """Return a text.

    Raises:
        InvalidInput: It is of another type, or not valid Unicode.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"{name} is not valid Unicode at character {exc.start}: {exc.reason}") from None
    return value


def check_keys(keys: Iterable[str]) -> list[str]:
    """Return keys as a list; what each may look like is the key space's to say.

    Raises:
        InvalidInput: It is one text, or nothing that can be gone through.
    """
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise InvalidInput(f"keys must be a list of texts, not {_shown(keys)}")
    return list(keys)


def check_life(ttl_seconds: int | None) -> int | None:
    """Return a TTL that can be used, see `check_ttl`.

    Raises:
        InvalidInput: It cannot.
    """
    try:
        return check_ttl(ttl_seconds)
    except ValueError as exc:
        raise InvalidInput(f"ttl_seconds {_shown(ttl_seconds)} {exc}") from None


def check_mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a mapping.

    Raises:
        InvalidInput: It is of another type.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name} must be a mapping, not {type(value).__name__}")
    return value


def check_compute(compute: Callable[..., Any]) -> None:
    """Return when it can be called.

    Raises:
        InvalidInput: It cannot.
    """
    if not callable(compute):
        raise InvalidInput(f"compute must be a function that returns the answer, not {_shown(compute)}")


def _shown(value: object) -> str:
    return repr(value)[:40]
