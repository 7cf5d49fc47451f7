"""The picture: medians of one run, ours beside the others, on one logarithmic scale."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import peers
from tests.bench.measure import Comparison

OURS: Final = "LLMCache"
NEAR: Final = "LLMCache, near tier"
_REDIS_GET: Final = "redis LLMCache.get"
_INK, _QUIET, _OURS_COLOUR, _OTHER_COLOUR = "#1f2328", "#6b7280", "#1f6feb", "#c3c9d1"
# Left and right of each row of the picture, by the start of what the rows are called.
_PANELS: Final = (
    ("Memory get", "memory LLMCache.get", "Memory set", "memory LLMCache.set"),
    ("Disk get", "disk LLMCache.get", "Disk set", "disk LLMCache.set"),
    ("Redis get, one caller", _REDIS_GET, "Redis set, one caller", "redis LLMCache.set"),
    (
        "Redis get, 100 callers at once",
        "redis LLMCache.get, 100 callers",
        "Redis get_many of 100, each entry",
        "redis LLMCache.get_many 100",
    ),
)


def medians(rows: Sequence[Comparison], what: str) -> dict[str, float]:
    """Return microseconds by library, the fastest first.

    Ours is the median of its medians. The others stand where their ratio puts them, since they were
    not measured at the same moment as each other.
    """
    chosen = [row for row in rows if row.what == what]
    if not chosen:
        return {}
    ours = statistics.median(row.ours.median for row in chosen)
    found = {OURS: ours} | {row.reference: ours / row.ratio for row in chosen}
    if what == _REDIS_GET:
        near = [row.ours.median for row in rows if row.what == "near LLMCache.get"]
        found |= {NEAR: statistics.median(near)} if near else {}
    return dict(sorted(found.items(), key=lambda each: each[1]))


def draw(rows: Sequence[Comparison], path: Path, *, caption: str) -> None:
    """Write the picture of the table of peers.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as exc:
        raise ImportError("the chart needs: pip install 'cache-management[bench]'") from exc
    mpl.use("Agg")
    from matplotlib import pyplot

    panels = [[(title, medians(rows, what)) for title, what in (panel[:2], panel[2:])] for panel in _PANELS]
    every = [value for panel in panels for _, found in panel for value in found.values()]
    heights = [max(len(found) for _, found in panel) for panel in panels]
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9, "text.color": _INK}):
        figure, axes = pyplot.subplots(
            len(panels), 2, figsize=(10, 0.3 * sum(heights) + 0.55 * len(panels) + 0.9), height_ratios=heights
        )
        for pair, panel in zip(axes, panels, strict=True):
            for axis, (title, found) in zip(pair, panel, strict=True):
                _draw_panel(axis, title, found, (min(every) / 1.6, max(every) * 3))
        figure.suptitle(
            "Microseconds for each 1 kB entry, median (shorter is better, logarithmic scale)",
            x=0.01,
            ha="left",
            weight="bold",
            size=11,
        )
        figure.text(0.01, 0.008, caption, ha="left", size=7.5, color=_QUIET)
        figure.tight_layout(rect=(0, 0.02, 1, 0.985), h_pad=1.2, w_pad=2.5)
        figure.savefig(path, dpi=140, metadata={"Software": None})
        pyplot.close(figure)


def _draw_panel(axis: Any, title: str, found: dict[str, float], limits: tuple[float, float]) -> None:
    if not found:
        axis.set_axis_off()
        return
    names = list(found)
    axis.barh(
        names,
        found.values(),
        color=[_OURS_COLOUR if name in (OURS, NEAR) else _OTHER_COLOUR for name in names],
        height=0.72,
    )
    axis.set(xscale="log", xlim=limits)
    axis.invert_yaxis()
    axis.set_title(title, loc="left", size=9.5, color=_INK, weight="bold", pad=4)
    axis.xaxis.set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.spines[:].set_visible(False)
    for at, (name, value) in enumerate(found.items()):
        ours = name in (OURS, NEAR)
        axis.text(
            value * 1.06,
            at,
            f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}",
            va="center",
            color=_OURS_COLOUR if ours else _QUIET,
            weight="bold" if ours else "normal",
        )
    for label, name in zip(axis.get_yticklabels(), names, strict=True):
        floor = name in peers.FLOORS
        label.set(
            color=_OURS_COLOUR if name in (OURS, NEAR) else _QUIET if floor else _INK,
            weight="bold" if name in (OURS, NEAR) else "normal",
            style="italic" if floor else "normal",
        )
