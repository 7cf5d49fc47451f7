"""How often the cache had an answer within the last day, what the misses say, and what would make them fewer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cache_management.cache.findings import Finding
from cache_management.models.usage import HotKeyView
from cache_management.settings import Settings

LOW_RATE = 0.25
ENOUGH = 200
"""Fewer questions in a day say nothing."""
_MATTERS = 0.1
_FEW_BY_MEANING = 0.02


class UsageFacts(msgspec.Struct, frozen=True):
    """Questions of one namespace within a day, and the keys that missed most since yesterday.

    `is_recorded` tells whether anything was added up for any namespace, `is_added_up` whether a scheduler runs that
    asks for it; `store_is_full` whether new entries make old ones go; `meaning_works` whether there are vectors.
    """

    hits: int = 0
    semantic_hits: int = 0
    misses: int = 0
    missed_most: Sequence[HotKeyView] = ()
    is_recorded: bool = True
    is_added_up: bool = True
    store_is_full: bool = False
    meaning_works: bool = False

    @property
    def questions(self) -> int:
        return self.hits + self.semantic_hits + self.misses


def check_usage(facts: UsageFacts, settings: Settings) -> list[Finding]:
    """Check the hit rate of a day."""
    if not settings.usage_interval_seconds:
        return [
            Finding(
                "usage",
                "warn",
                "usage_interval_seconds is 0: nobody counts hits and misses",
                "`cache-cli stats`, hot keys, warming of misses and this check have nothing to go by",
                "set usage_interval_seconds to 10",
            )
        ]
    if not facts.is_recorded:
        what = "no use of the cache was added up within a day"
        if not settings.broker_url:
            return [Finding("usage", "ok", f"{what}; beat and a worker do that (`cache-cli up`)")]
        if facts.is_added_up:
            return [Finding("usage", "ok", f"{what}: nobody asked, or not through a store on disk or Redis")]
        return [
            Finding(
                "usage",
                "warn",
                f"{what}, and no scheduler is heard that asks for it",
                "hit rate, hot keys and savings are not known; the store forgets what was not added up for a week",
                "start `cache-cli beat`, and a worker of the queue control",
            )
        ]
    if facts.questions < ENOUGH:
        return [Finding("hit rate", "ok", f"{facts.questions:,} questions within a day: too few to judge the hit rate")]
    served = facts.hits + facts.semantic_hits
    rate = served / facts.questions
    told = (
        f"{rate:.0%} of {facts.questions:,} questions within a day were answered from the cache,"
        f" {facts.semantic_hits:,} of them by meaning"
    )
    if rate >= LOW_RATE:
        return [Finding("hit rate", "ok", told)]
    remedies = list(_remedies(facts, settings))
    return [
        Finding(
            "hit rate",
            "warn",
            told,
            f"{facts.misses:,} answers were paid for and waited for",
            "; ".join(remedies or ["the questions do not repeat: see `cache-cli stats --hot 20` for the ones that do"]),
        )
    ]


def _remedies(facts: UsageFacts, settings: Settings) -> Iterable[str]:
    """Yield what applies of life, size, warming and threshold, with the numbers that say so."""
    gone = sum(key.misses for key in facts.missed_most if key.hits)
    never = sum(key.misses - 1 for key in facts.missed_most if not key.hits and key.misses > 1)
    of_keys = sum(key.misses for key in facts.missed_most)
    if gone > _MATTERS * of_keys:
        if facts.store_is_full:
            yield (
                f"{gone:,} misses since yesterday were of keys that were there before, and the store is full: raise"
                " max_size, disk_size_limit or redis_memory_limit, or set eviction_policy to auto"
            )
        else:
            shown = "none" if settings.ttl_seconds is None else f"{settings.ttl_seconds:,} s"
            yield (
                f"{gone:,} misses since yesterday were of keys that were there before: raise ttl_seconds ({shown}), or"
                " set stale_while_revalidate_seconds"
            )
    if never > _MATTERS * of_keys:
        yield (
            f"{never:,} misses since yesterday were of keys asked for again and never found: see that the application"
            " stores its answers (get_or_compute does), or warm them: `cache-cli jobs submit warm -p take=misses`"
        )
    if not facts.meaning_works:
        yield (
            "nothing is found by meaning, for no entry has a vector: `cache-cli embed`, and ask with lookup or"
            " find_similar"
        )
    elif facts.semantic_hits < _FEW_BY_MEANING * facts.questions:
        yield (
            f"{facts.semantic_hits:,} hits were by meaning at similarity_threshold {settings.similarity_threshold:g}:"
            " `cache-cli explain PROMPT` shows what refuses a question, `cache-cli tune PAIRS --precision 0.97` finds a"
            " lower threshold that holds"
        )
    if not gone and not never:
        yield (
            "few keys missed twice: warm what is asked first, from a file (`cache-cli warm FILE`) or"
            " `cache-cli jobs submit warm -p take=misses` each night"
        )
