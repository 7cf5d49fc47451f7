"""The tables of an evaluation, for the terminal, a page and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cache_management.cache.semantic.evaluation import Outcome, Report
from cache_management.cache.semantic.intervals import Interval

Table = tuple[str, tuple[str, ...], list[tuple[object, ...]]]


def facts_of(report: Report) -> dict[str, object]:
    """Return what the tables of a report stand on."""
    return {
        "encoder": report.encoder,
        "gates": f"version {report.gates_version}",
        "not read whole by the model": report.unreadable,
        "mean precision over hit ratios, cosine": _mean(report.mean_precision_cosine),
        "the same with gates": _mean(report.mean_precision_gated),
    }


def tables_of(report: Report) -> list[Table]:
    """Return the tables of a report: title, columns, rows."""
    served: list[tuple[object, ...]] = []
    for at in report.cosine:
        for name, found in (("cosine", report.cosine[at]), ("with gates", report.gated[at])):
            served.append((f"{at:.2f}", name, *_cells(found)))
    served.append((f"{report.threshold:.2f}", f"verified, budget {report.budget:.0%}", *_cells(report.verified)))
    categories: list[tuple[object, ...]] = [
        (name, wrong_of(one), wrong_of(other), recall_of(one), recall_of(other))
        for name, (one, other) in report.by_category.items()
    ]
    gates: list[tuple[object, ...]] = [
        (name, found.wrong, found.right, wrong_of(report.without_gate[name]), recall_of(report.without_gate[name]))
        for name, found in report.by_gate.items()
    ]
    at_threshold = f"threshold {report.threshold:.2f}"
    return [
        ("Served", ("threshold", "by", "precision", "recall", "wrongly served", "hit ratio"), served),
        (
            f"By category, {at_threshold}",
            ("category", "cosine: wrongly served", "with gates", "cosine: recall", "with gates"),
            categories,
        ),
        (
            f"By gate, {at_threshold}",
            ("gate", "wrong ones refused", "right ones refused", "wrongly served without it", "recall without it"),
            gates,
        ),
    ]


def to_markdown(reports: Sequence[Report], source: str) -> str:
    """Return reports as a page of Markdown; no text of the pairs is in it."""
    lines = [
        f"# Answers by meaning: {_in_markdown(source)}",
        "",
        f"Written by `cache-cli evaluate {source} --markdown FILE`."
        " Shares stand with their 95 % interval (Wilson) and counts.",
        "",
    ]
    for report in reports:
        lines += [f"## {_in_markdown(report.kind)}: {report.pairs:,} pairs", ""]
        lines += [*(f"* {name}: {_in_markdown(value)}" for name, value in facts_of(report).items()), ""]
        for title, columns, rows in tables_of(report):
            lines += [f"### {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            lines += [f"| {' | '.join(map(_in_markdown, row))} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def _in_markdown(value: object) -> str:
    # As an entity: how many backslashes keep a bar within its cell is a matter of taste among readers of Markdown.
    return " ".join(escape(str(value), quote=False).replace("|", "&#124;").split())


def _cells(found: Outcome) -> tuple[str, ...]:
    return precision_of(found), recall_of(found), wrong_of(found), f"{found.hit_ratio:.3f}"


def precision_of(found: Outcome) -> str:
    """Return the share of right ones among those served, in words."""
    return _share(found.precision, found.right, found.right + found.wrong)


def recall_of(found: Outcome) -> str:
    """Return the share of the pairs with one answer that is served, in words."""
    return _share(found.recall, found.right, found.positives)


def wrong_of(found: Outcome) -> str:
    """Return the share of the pairs with two answers that is served, in words."""
    return _share(found.false_hits, found.wrong, found.negatives)


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(interval: Interval, count: int, total: int) -> str:
    return f"{interval.share:.3f} [{interval.low:.3f}, {interval.high:.3f}] {count}/{total}" if total else "-"
