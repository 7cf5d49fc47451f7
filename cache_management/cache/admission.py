"""What may be stored, what may be served, and for how long. Pure rules: times and chance are given.

may_store   before an answer is kept           why not, or None
may_serve   before a stored answer is given    why not, or None
life        when it is stored                  its seconds
freshness, should_refresh_early                when it is read
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from cache_management.cache.config import check_ttl
from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import check_namespace


class Refusal(StrEnum):
    """Why an answer is not stored. The caller still gets it."""

    NO_STORE = "no_store"
    ERROR = "error"
    NON_SUCCESS = "non_success"
    ABORTED_STREAM = "aborted_stream"
    TRUNCATED = "truncated"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    EMPTY = "empty"
    PERSONALISED = "personalised"
    OVERSIZE = "oversize"


Freshness = Literal["fresh", "stale_usable", "stale_if_error", "expired"]

# How providers say that a model came to its end by itself, and how that it did not. In lower case.
_FINISHED = frozenset(
    {
        *("stop", "end_turn", "stop_sequence", "complete", "completed", "eos"),
        *("tool_calls", "tool_call", "tool_use", "function_call"),
    }
)
_UNFINISHED: Mapping[str, Refusal] = {
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_length", "incomplete", "pause_turn"), Refusal.TRUNCATED
    ),
    **dict.fromkeys(
        ("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
        Refusal.CONTENT_FILTER,
    ),
    "guardrail_intervened": Refusal.CONTENT_FILTER,
    "refusal": Refusal.REFUSAL,
    **dict.fromkeys(("abort", "aborted", "cancelled", "canceled", "user_cancel"), Refusal.ABORTED_STREAM),
    **dict.fromkeys(("error", "error_toxic", "malformed_function_call"), Refusal.ERROR),
}

_REFUSAL_MAX_CHARACTERS = 300
_REFUSAL = re.compile(
    r"""\s*(?:(?:i'?m|i\ am)\ (?:really\ |very\ |so\ )?sorry|sorry|i\ apologi[sz]e|unfortunately|as\ an\ ai[\w ]*)?
    [,.!:;\s]*(?:but\s+)?
    (?:i|we)(?:\ can'?t|\ can\ ?not|\ won'?t|\ will\ not|(?:\ am|'m|\ are|'re)\ (?:not\ able|unable)\ to)
    \s+(?:help\b(?!\ but\b)|assist|comply|fulfil+|answer\ (?:that|this)|do\ that|provide\ (?:that|this)
    |discuss\ (?:that|this)|engage|continue\ with|support\ (?:that|this))\b""",
    re.IGNORECASE | re.VERBOSE,
)


class Controls(msgspec.Struct, frozen=True):
    """What one request wants of the cache, in LiteLLM's words.

    `ttl` is the life of a stored answer in seconds (-1: for ever), `s_maxage` the greatest
    age in seconds of an answer that may be served. `no_cache` serves nothing stored,
    `no_store` stores nothing.
    """

    ttl: int | None = None
    s_maxage: float | None = None
    no_cache: bool = False
    no_store: bool = False
    namespace: str | None = None


NO_CONTROLS = Controls()
_WANTED: Mapping[str, str] = {
    "ttl": "a whole number of seconds, or -1 for ever",
    "s_maxage": "seconds from 0",
    "no_cache": "True or False",
    "no_store": "True or False",
    "namespace": "text",
}


def parse_controls(controls: Mapping[str, object] | None) -> Controls:
    """Read the controls of a request; `s-maxage` and `s_maxage` are the same word.

    Raises:
        InvalidInput: A name is unknown or given twice, or a value cannot be used; names it.
    """
    if not controls:
        return NO_CONTROLS
    if not isinstance(controls, Mapping):
        raise InvalidInput(f"cache controls must be a mapping such as {{'ttl': 60}}, not {type(controls).__name__}")
    found: dict[str, object] = {}
    for given, value in controls.items():
        name = str(given).replace("-", "_")
        if name not in Controls.__struct_fields__:
            known = [field.replace("_", "-") for field in Controls.__struct_fields__]
            near = difflib.get_close_matches(str(given).replace("_", "-"), known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise InvalidInput(f"unknown cache control {str(given)[:40]!r}; {advice}")
        if name in found:
            raise InvalidInput(f"the cache control {given!r} is given twice")
        found[name] = value
    try:
        parsed = msgspec.convert(found, Controls, strict=True)
        check_ttl(parsed.ttl)
    except msgspec.ValidationError:
        raise _unusable(found) from None
    except ValueError as exc:
        raise InvalidInput(f"cache control ttl: {exc}") from None
    if parsed.s_maxage is not None and not 0 <= parsed.s_maxage < math.inf:
        raise InvalidInput(f"cache control s-maxage: must be seconds from 0, not {parsed.s_maxage}")
    if parsed.namespace is not None:
        check_namespace(parsed.namespace)
    return parsed


def _unusable(controls: Mapping[str, object]) -> InvalidInput:
    """Return an error that names the first control of a wrong type."""
    for name, value in controls.items():
        try:
            msgspec.convert({name: value}, Controls, strict=True)
        except msgspec.ValidationError:
            break
    return InvalidInput(f"cache control {name.replace('_', '-')} must be {_WANTED[name]}, not {value!r:.40}")


def may_store(
    response_text: str | None,
    *,
    size_bytes: int,
    limit_bytes: int,
    controls: Controls | None = None,
    finish_reason: str | None = None,
    status: int | None = None,
    error: object | None = None,
    aborted: bool = False,
    refusal: str | None = None,
    personalised: bool = False,
    has_tool_calls: bool = False,
    detect_refusals: bool = True,
) -> Refusal | None:
    """Return why an answer must not be stored, or None.

    Args:
        finish_reason: As the provider says it, in any case; an unknown word is `non_success`,
            because a truncated answer that is stored is wrong for as long as it lives.
        status: The HTTP status; 200 to 299 is success.
        refusal: The refusal that the provider marked as such.
        personalised: The answer holds what is meant for one person.
        has_tool_calls: Such an answer may have no text.
        detect_refusals: Also look for the usual words of a refusal at the start of a short text.
    """
    if controls is not None and controls.no_store:
        return Refusal.NO_STORE
    if error is not None:
        return Refusal.ERROR
    if status is not None and not 200 <= status < 300:
        return Refusal.NON_SUCCESS
    if aborted:
        return Refusal.ABORTED_STREAM
    if finish_reason is not None and (word := finish_reason.strip().lower()) not in _FINISHED:
        return _UNFINISHED.get(word, Refusal.NON_SUCCESS)
    if refusal:
        return Refusal.REFUSAL
    text = response_text or ""
    if not text.strip() and not has_tool_calls:
        return Refusal.EMPTY
    if detect_refusals and not has_tool_calls and looks_like_refusal(text):
        return Refusal.REFUSAL
    if personalised:
        return Refusal.PERSONALISED
    return Refusal.OVERSIZE if size_bytes > limit_bytes else None


def looks_like_refusal(text: str) -> bool:
    """Tell whether a short English text begins with the words in which models decline."""
    return len(text) <= _REFUSAL_MAX_CHARACTERS and _REFUSAL.match(text.replace("’", "'")) is not None


def may_serve(
    age_seconds: float, controls: Controls | None = None, *, max_age_seconds: float | None = None
) -> Literal["bypass", "expired"] | None:
    """Return why a stored answer must not be served, or None.

    `max_age_seconds` is the namespace's own limit; the stricter one holds.
    """
    if controls is not None and controls.no_cache:
        return "bypass"
    for limit in (controls.s_maxage if controls is not None else None, max_age_seconds):
        # Turned round, so that an age that is no number is too old.
        if limit is not None and not age_seconds <= limit:
            return "expired"
    return None


def life(ttl_seconds: float | None, *, jitter: float, rng: Callable[[], float]) -> float | None:
    """Return the seconds to keep an entry: the TTL, shortened by a random part of at most `jitter`.

    Entries stored together then do not expire together. None, for ever, stays None.

    Args:
        ttl_seconds: Above 0.
        jitter: 0 to below 1.
        rng: Gives numbers in [0, 1), such as `random.random`.

    Raises:
        ValueError: The TTL or the jitter lies outside its bounds.
    """
    if ttl_seconds is not None and not ttl_seconds > 0:
        raise ValueError(f"ttl_seconds must be above 0, not {ttl_seconds}; None keeps for ever")
    if not 0 <= jitter < 1:
        raise ValueError(f"jitter must be from 0 to below 1, not {jitter}")
    return None if ttl_seconds is None else ttl_seconds * (1 - jitter * rng())


def should_refresh_early(
    now: float, expires_at: float | None, *, delta_seconds: float, beta: float, random_value: float
) -> bool:
    """Tell whether this reader should compute the answer again before it expires.

    XFetch: now - delta * beta * ln(random) >= expiry. From Vattani, Chierichetti and Lowenstein,
    "Optimal Probabilistic Cache Stampede Prevention", VLDB 8 (8), 2015.

    Args:
        delta_seconds: How long computing it takes.
        beta: 1 is optimal; larger refreshes earlier, 0 never early.
        random_value: Uniform in [0, 1), a new one for each read.
    """
    if expires_at is None:
        return False
    lead = delta_seconds * beta
    if lead <= 0:
        return now >= expires_at
    return random_value <= 0 or now - lead * math.log(random_value) >= expires_at


def freshness(
    now: float,
    stored_at: float,
    expires_at: float | None,
    *,
    stale_while_revalidate_s: float = 0,
    stale_if_error_s: float = 0,
) -> Freshness:
    """Tell how an entry may be used; all moments are Unix seconds.

    `stale_usable`: serve it and compute it again in the background. `stale_if_error`: serve it
    only when computing fails. Both windows begin at `expires_at`, after which the record must
    still be kept for the longer of the two.
    """
    if expires_at is None:
        return "fresh"
    # A clock that was set back must not give an entry more life than it was stored with.
    late = max(now, stored_at) - expires_at
    if late < 0:
        return "fresh"
    if late < stale_while_revalidate_s:
        return "stale_usable"
    return "stale_if_error" if late < stale_if_error_s else "expired"
