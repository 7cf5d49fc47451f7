"""The result of `simulate` as one page that needs nothing else: a table, and plots in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cache_management.cache.simulation import Replayed
from cache_management.cli.plain_page import page, table
from cache_management.cli.simulation_tables import COLUMNS, rows_of

_WIDTH, _ROW, _LEFT = 760, 26, 330
_LINE_HEIGHT, _MARGIN = 220, 40
_ABOUT = (
    "The log was replayed on the real parts of the cache, in its own time. Blue: exact. Brown: by meaning. A false hit"
    " is an answer by meaning of another group than the one that was asked for; without labels none is known."
    " Exact hits of another label are told apart: there equal requests have two labels."
)


def render(found: Sequence[Replayed], source: str, remarks: Sequence[str] = ()) -> str:
    """Return the page. `remarks` say what a reader has to know of the log."""
    best = max(found, key=lambda each: each.hit_rate)
    body = "\n".join(
        (
            *(f"<p>{escape(each)}</p>" for each in remarks),
            _bars(found),
            _line(best),
            table("All configurations", COLUMNS, rows_of(found)),
        )
    )
    return page(f"What a cache would have done with {source}", _ABOUT, body)


def _bars(found: Sequence[Replayed]) -> str:
    """Draw the hit rate of each configuration, exact and by meaning one behind the other."""
    across = _WIDTH - _LEFT - 70
    parts = []
    for number, each in enumerate(found):
        top = number * _ROW + 6
        exact, meaning = (count / each.requests * across for count in (each.exact, each.semantic))
        parts.append(
            f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(each.scenario.name)}</text>'
            f'<rect class="bar" x="{_LEFT}" y="{top}" width="{exact:.1f}" height="16"/>'
            f'<rect class="bar other" x="{_LEFT + exact:.1f}" y="{top}" width="{meaning:.1f}" height="16"/>'
            f'<text x="{_LEFT + exact + meaning + 6:.1f}" y="{top + 13}">{each.hit_rate:.1%}</text>'
        )
    height = len(found) * _ROW + 10
    return _figure("Hit rate", _WIDTH, height, "".join(parts))


def _line(each: Replayed) -> str:
    """Draw how the hit rate grows over the log."""
    points = each.hits_by_part
    across, up = _WIDTH - 2 * _MARGIN, _LINE_HEIGHT - 2 * _MARGIN
    step = across / max(1, len(points) - 1)
    drawn = " ".join(
        f"{_MARGIN + at * step:.1f},{_LINE_HEIGHT - _MARGIN - share * up:.1f}" for at, share in enumerate(points)
    )
    ticks = "".join(
        f'<text x="{_MARGIN - 6}" y="{_LINE_HEIGHT - _MARGIN - share * up:.1f}" text-anchor="end"'
        f' dy=".3em">{share:.0%}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    axis = (
        f'<path class="axis" fill="none" d="M{_MARGIN},{_MARGIN / 2} V{_LINE_HEIGHT - _MARGIN} H{_WIDTH - _MARGIN}"/>'
    )
    title = f"Hit rate from the first to the last request: {each.scenario.name}"
    return _figure(title, _WIDTH, _LINE_HEIGHT, f'{axis}{ticks}<polyline class="ours" points="{drawn}"/>')


def _figure(title: str, width: int, height: int, drawn: str) -> str:
    said = escape(title)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{said}">{drawn}</svg>'
        f"<figcaption>{said}</figcaption></figure>"
    )
