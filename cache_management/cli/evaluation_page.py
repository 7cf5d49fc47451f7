"""The result of `evaluate` as one page that needs nothing else: tables, and plots in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor

from cache_management.cache.semantic.evaluation import CURVE, Report
from cache_management.cli.evaluation_tables import facts_of, tables_of
from cache_management.cli.plain_page import page, table

_ABOUT = (
    "Shares stand with their 95 % interval (Wilson) and their counts. Solid blue: with gates. Dashed: cosine alone."
)
_WIDTH, _HEIGHT, _MARGIN = 560, 320, 46


def render(reports: Sequence[Report], source: str) -> str:
    """Return the page."""
    return page(f"Answers by meaning: {source}", _ABOUT, "\n".join(map(_section, reports)))


def _section(report: Report) -> str:
    facts = "".join(f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in facts_of(report).items())
    wrong = [(f"{each.score:.3f}", each.pair.category, each.pair.asked, each.pair.stored) for each in report.examples]
    ours = [(found.hit_ratio, found.precision) for found in report.curve_gated if found.right + found.wrong]
    others = [(found.hit_ratio, found.precision.share) for found in report.curve_cosine if found.right + found.wrong]
    return "\n".join(
        (
            f"<h2>{escape(report.kind)}: {report.pairs:,} pairs</h2><ul>{facts}</ul>",
            _plot(
                "Precision over cache-hit ratio",
                ours,
                others,
                ("cache-hit ratio", "precision"),
                low=_tenth_below([low for _, (low, _, _) in ours] + [share for _, share in others]),
            ),
            _plot(
                "Wrongly served over threshold",
                [(at, found.false_hits) for at, found in zip(CURVE, report.curve_gated, strict=True)],
                [(at, found.false_hits.share) for at, found in zip(CURVE, report.curve_cosine, strict=True)],
                ("threshold", "share of different questions served"),
                left=CURVE[0],
            ),
            *(table(*each) for each in tables_of(report)),
            table(
                f"Wrongly served at {report.threshold:.2f}, closest first",
                ("score", "category", "asked", "stored"),
                wrong,
            ),
        )
    )


def _tenth_below(shares: Sequence[float]) -> float:
    """Return where an axis starts that shows all of them, and is not empty."""
    return min(0.9, floor(min(shares, default=0.0) * 10 + 1e-9) / 10)


def _plot(
    title: str,
    ours: Sequence[tuple[float, tuple[float, float, float]]],
    others: Sequence[tuple[float, float]],
    axes: tuple[str, str],
    left: float = 0.0,
    low: float = 0.0,
) -> str:
    right = 1.0
    top = max([share for _, (_, share, _) in ours] + [share for _, share in others] + [low + 0.01])
    top = min(1.0, top * 1.05)

    def at(x: float, y: float) -> str:
        across = (x - left) / (right - left) * (_WIDTH - 2 * _MARGIN)
        up = (y - low) / (top - low) * (_HEIGHT - 2 * _MARGIN)
        return f"{_MARGIN + across:.1f},{_HEIGHT - _MARGIN - min(up, _HEIGHT - 2 * _MARGIN):.1f}"

    band = [at(x, high) for x, (_, _, high) in ours] + [at(x, low_) for x, (low_, _, _) in reversed(ours)]
    ticks = "".join(
        f'<text x="{_MARGIN - 6}" y="{at(left, y).split(",")[1]}" text-anchor="end" dy=".3em">{y:.2f}</text>'
        for y in (low, (low + top) / 2, top)
    ) + "".join(
        f'<text x="{at(x, low).split(",")[0]}" y="{_HEIGHT - _MARGIN + 18}" text-anchor="middle">{x:.2f}</text>'
        for x in (left, (left + right) / 2, right)
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{escape(title)}">'
        f'<path class="axis" fill="none" d="M{_MARGIN},{_MARGIN / 2} V{_HEIGHT - _MARGIN} H{_WIDTH - _MARGIN}"/>{ticks}'
        f'<polygon class="band" points="{" ".join(band)}"/>'
        f'<polyline class="other" points="{" ".join(at(x, y) for x, y in others)}"/>'
        f'<polyline class="ours" points="{" ".join(at(x, share) for x, (_, share, _) in ours)}"/>'
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(axes[0])}</text>'
        f'<text x="{_MARGIN}" y="14">{escape(axes[1])}</text>'
        f"</svg><figcaption>{escape(title)}</figcaption></figure>"
    )
