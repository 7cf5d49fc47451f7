"""The result of `simulate` as rows for people."""

from __future__ import annotations

from collections.abc import Sequence

from cache_management.cache.simulation import Replayed

COLUMNS = (
    "configuration",
    "hit rate",
    "exact",
    "by meaning",
    "false hits",
    "USD saved",
    "tokens saved",
    "evicted",
    "memory",
)


def rows_of(found: Sequence[Replayed]) -> list[tuple[str, ...]]:
    """Return a row for each configuration."""
    return [
        (
            each.scenario.name,
            f"{each.hit_rate:.1%}",
            f"{each.exact:,}",
            f"{each.semantic:,}",
            _wrong(each),
            f"{each.saved_micro / 1e6:,.2f}" + (f" and {each.unpriced:,} of unknown cost" if each.unpriced else ""),
            f"{each.tokens_saved:,}",
            f"{each.evicted:,}",
            f"{each.most_bytes / 1e6:,.1f} MB",
        )
        for each in found
    ]


def _wrong(each: Replayed) -> str:
    share = each.false_hits
    if share is None:
        said = "not labelled" if each.semantic else "none"
    else:
        said = f"{share.share:.1%} [{share.low:.1%}, {share.high:.1%}], {each.wrong} of {each.judged}"
    return said + (f", {each.conflicts:,} exact of other labels" if each.conflicts else "")
