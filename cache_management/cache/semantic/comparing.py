"""Whether two answers say the same: what verified mode learns from."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import re
import unicodedata
from collections.abc import Awaitable, Callable
from functools import partial

from cache_management.cache.embeddings.base import Embedder
from cache_management.cache.errors import InvalidInput
from cache_management.cache.on_thread import on_thread, yes_or_no
from cache_management.cache.semantic import gates
from cache_management.cache.semantic.evidence import Verdict

logger = logging.getLogger("cache_management")

Judge = Callable[[str, str, str], bool | Awaitable[bool | None] | None]
"""Takes the question and two answers; returns whether they say the same, None when it cannot tell.

May be async; a plain function runs on a thread. One that takes longer than a minute cannot tell.
"""

_FACTS = ("number", "unit", "id", "symbol", "date", "polarity")
_OFF = tuple(name for name in gates.NAMES if name not in _FACTS)
_SAME, _DIFFERENT = 0.85, 0.6  # cosine; between them it is not sure
_JUDGE_SECONDS = 60.0
_ENDS = re.compile(r"[.,;:!?…]+(?=\s|$)|[\"'“”‘’]")  # the others say something: -5, x > 5, C++
_EMPHASIS = re.compile(r"\*\*|__|`")


async def compare(asked: str, stored: str, fresh: str, *, embedder: Embedder, judge: Judge | None = None) -> Verdict:
    """Return whether a fresh answer to a question says what the stored one does.

    First the text itself, but for case and punctuation between words; then the `judge` if there is one, else its
    JSON, such as calls of tools, which has to be equal, its facts (numbers, units, ids, signs, dates, negations) and
    the meaning of the whole. Two empty texts say nothing. Of a text that is longer than the model reads, its meaning
    is that of the beginning.
    """
    (stored_words, stored_json), (fresh_words, fresh_json) = _parted(stored), _parted(fresh)
    if stored_json == fresh_json and _plain(stored_words) == _plain(fresh_words):
        return "same" if stored.strip() else "unsure"
    if judge is not None:
        try:
            async with asyncio.timeout(_JUDGE_SECONDS):
                found = yes_or_no(await _said(judge, asked, stored, fresh))
        except TimeoutError:
            return "unsure"
        except InvalidInput as exc:
            logger.warning("the judge of answers is not understood: %s", exc)
            return "unsure"
        return "unsure" if found is None else "same" if found else "different"
    if stored_json != fresh_json:
        return "different"
    plain = (_EMPHASIS.sub("", text) for text in (stored, fresh))
    if gates.vetoes(*plain, off=_OFF) or _pictures(stored) ^ _pictures(fresh):
        return "different"
    if not stored.strip() or not fresh.strip():
        return "different"
    rows = await embedder.embed([stored, fresh])
    near = float(rows[0] @ rows[1])
    return "same" if near >= _SAME else "different" if near < _DIFFERENT else "unsure"


async def _said(judge: Judge, asked: str, stored: str, fresh: str) -> bool | None:
    """Ask a judge; one that is not async gets a thread, because most of them ask a model."""
    is_async = inspect.iscoroutinefunction(judge) or inspect.iscoroutinefunction(type(judge).__call__)
    ask = partial(judge, asked, stored, fresh)
    found = ask() if is_async else await on_thread(ask, name="cache-judge")
    return await found if inspect.isawaitable(found) else found


def _parted(text: str) -> tuple[str, object]:
    """Return a text without its JSON, and that: all of it, or its last line when that is an array; else None."""
    for words, rest in (("", text), text.rpartition("\n")[::2]):
        if rest.lstrip()[:1] in {"[", "{"} and (not words or rest.startswith("[")):
            with contextlib.suppress(ValueError, RecursionError):
                return words, json.loads(rest)
    return text, None


def _plain(text: str) -> str:
    return " ".join(_ENDS.sub("", unicodedata.normalize("NFC", text).casefold()).split())


def _pictures(text: str) -> frozenset[str]:
    return frozenset(sign for sign in text if not sign.isascii() and unicodedata.category(sign) == "So")
