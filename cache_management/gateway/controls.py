"""What a request wants of the cache: by header, or by LiteLLM's field of the body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from cache_management.cache.admission import parse_controls
from cache_management.cache.arguments import check_similarity
from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import check_namespace
from cache_management.gateway.calls import BadRequest, Headers, header

_SECONDS = re.compile(r"-?[0-9]{1,12}")


class Wishes(msgspec.Struct, frozen=True):
    """Controls as `CacheManager.answer` takes them, and what stands beside them."""

    controls: dict[str, object]
    threshold: float | None = None
    namespace: str | None = None

    @property
    def bypasses(self) -> bool:
        """Tell whether the provider is to be asked whatever is stored."""
        return bool(self.controls.get("no-cache"))

    @property
    def label(self) -> str:
        """Return the `x-cache` of an answer that is not stored."""
        return "bypass" if self.bypasses else "miss"


def read_wishes(headers: Headers, in_body: Mapping[str, Any] | None = None) -> Wishes:
    """Read what is wished; a header wins over the body.

    Raises:
        BadRequest: Something of ours cannot be read; names it.
    """
    controls: dict[str, object] = {
        str(name).replace("_", "-"): value for name, value in (in_body or {}).items() if value is not None
    }
    controls |= _of_cache_control(header(headers, "cache-control") or "")
    if (life := header(headers, "x-cache-ttl")) is not None:
        if _SECONDS.fullmatch(life) is None:
            raise BadRequest("x-cache-ttl must be a whole number of seconds, or -1 for ever", param="x-cache-ttl")
        controls["ttl"] = int(life)
        try:
            parse_controls({"ttl": controls["ttl"]})
        except InvalidInput as exc:
            raise BadRequest(
                f"x-cache-ttl: {str(exc).removeprefix('cache control ttl: ')}", param="x-cache-ttl"
            ) from None
    try:
        parse_controls(controls)
    except InvalidInput as exc:
        raise BadRequest(str(exc), param="cache") from None
    chosen = controls.pop("namespace", None)
    namespace = header(headers, "x-cache-namespace") or chosen
    if namespace is not None:
        try:
            check_namespace(str(namespace))
        except InvalidInput as exc:
            raise BadRequest(str(exc), param="x-cache-namespace") from None
    return Wishes(controls, _threshold(headers), None if namespace is None else str(namespace))


def _of_cache_control(value: str) -> dict[str, Any]:
    """Read `Cache-Control`; what is not known there is for others."""
    found: dict[str, Any] = {}
    for part in value.lower().split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name in {"no-cache", "no-store"}:
            found[name] = True
        elif name == "max-age" and number.isascii() and number.isdigit():
            found["s-maxage"] = float(number[:12])
    return found


def _threshold(headers: Headers) -> float | None:
    given = header(headers, "x-cache-threshold")
    if given is None:
        return None
    try:
        return check_similarity(float(given))
    except ValueError:  # InvalidInput is one, too
        raise BadRequest(
            "x-cache-threshold must be a cosine similarity from -1 to 1", param="x-cache-threshold"
        ) from None
