"""Which of the candidates is served, if any. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cache_management.cache.values import LookupReason, SimilarityMatch

UNVERIFIED = "unverified"
"""The veto of a candidate that only lacks evidence."""
EXPIRED = "expired"
"""The veto of a candidate that is older than its reader takes."""
_ROUNDING = 1e-6  # of a product in 32 bits: an identical text must reach a threshold of 1


def reaches(score: float, threshold: float) -> bool:
    """Tell whether a similarity reaches a threshold."""
    return score >= threshold - _ROUNDING


def decide(matches: Sequence[SimilarityMatch], threshold: float) -> tuple[int | None, LookupReason]:
    """Return the position of the match to serve, and the reason.

    It is the best one that reaches the threshold and that nothing refuses. `matches` are best first.
    """
    near = [match for match in matches if reaches(match.score, threshold)]
    if not near:
        return None, "below_threshold" if matches else "no_candidate"
    for at, match in enumerate(near):
        if not match.vetoes:
            return at, "semantic"
    alone: tuple[tuple[str, LookupReason], ...] = ((UNVERIFIED, "unverified"), (EXPIRED, "expired"))
    for veto, reason in alone:
        if any(match.vetoes == (veto,) for match in near):
            return None, reason
    return None, "vetoed"
