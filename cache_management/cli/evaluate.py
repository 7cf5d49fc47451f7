"""evaluate, tune: what threshold and gates do to labelled pairs of questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from html import escape
from math import isnan
from pathlib import Path
from typing import Any

import click

from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic.evaluation import Judged, Outcome, Report, Tuned, evaluate, tune
from cache_management.cache.semantic.intervals import Interval
from cache_management.cache.semantic.pairs import LabelledPair, read_pairs
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, note, print_json, print_pairs, print_table, progress
from cache_management.cli.pages import check_pages, write_page
from cache_management.settings import Settings

_AT_ONCE = 256


class _Share(click.FloatRange):
    """A share above 0; no number is none, though it is not out of any range either."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        return self.fail(f"{value} is no share", param, ctx) if isnan(found) else found


@click.command("evaluate")
@click.argument("pairs_file", type=click.Path(path_type=Path))
@click.option("-t", "--threshold", type=float, help="Similarity threshold  [default: similarity_threshold, 0.85]")
@click.option("--budget", type=_Share(0, 1, min_open=True, max_open=True), help="Error budget of verified mode.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots too.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables too.")
@json_option
@pass_cli
def evaluate_command(
    cli: CliContext,
    pairs_file: Path,
    threshold: float | None,
    budget: float | None,
    page: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Print what threshold, gates and error budget do to the labelled pairs of PAIRS_FILE.

    A CSV, TSV, JSON or JSON Lines file (also .gz) with text_a, text_b and label (1: one answer serves both),
    and perhaps label_kind, source and category. Intervals are Wilson's, 95 %.
    """
    from cache_management.cache.semantic import gates

    floor = cli.settings.similarity_threshold if threshold is None else threshold
    if not -1.0 <= floor <= 1.0:
        raise InvalidInput(f"--threshold {floor} is no cosine similarity; take a number from -1 to 1")
    check_pages({"--html": page, "--markdown": markdown}, reads=pairs_file)
    pairs = read_pairs(pairs_file)
    judged, encoder = asyncio.run(judge_pairs(pairs, cli.settings, quiet=as_json))
    off = set(cli.settings.semantic.gates_off)
    reports = [
        evaluate(
            [each for each in judged if each.pair.kind == kind],
            kind=kind,
            threshold=floor,
            encoder=encoder,
            gates_version=gates.VERSION,
            gates=[name for name in gates.NAMES if name not in off],
            budget=budget or cli.settings.similarity().budget,
        )
        for kind in sorted({pair.kind for pair in pairs})
    ]
    source = pairs_file.name.encode(errors="replace").decode()  # a name need not be Unicode, a page is
    if page is not None:
        from cache_management.cli.evaluation_page import render

        write_page(page, render(reports, source))
    if markdown is not None:
        write_page(markdown, to_markdown(reports, source))
    if as_json:
        print_json([report.to_json() for report in reports])
        return
    for report in reports:
        _print(report)
    if page is not None:
        note(f"The page is {page}.")


@click.command("tune")
@click.argument("pairs_file", type=click.Path(path_type=Path))
@click.option(
    "-p",
    "--precision",
    type=_Share(0, 1, min_open=True),
    default=0.97,
    show_default=True,
    help="Wanted share.",
)
@json_option
@pass_cli
def tune_command(cli: CliContext, pairs_file: Path, precision: float, as_json: bool) -> int:
    """Print the lowest threshold that has the wanted precision on the labelled pairs of PAIRS_FILE, gates on.

    It is chosen on one half of the pairs, and the other half says what it is worth. Pairs of different
    kinds have thresholds of their own; exit code 1 when none has one, 3 when some have none.
    """
    pairs = read_pairs(pairs_file)
    judged, encoder = asyncio.run(judge_pairs(pairs, cli.settings, quiet=as_json))
    found = {
        kind: tune([each for each in judged if each.pair.kind == kind], precision=precision)
        for kind in sorted({pair.kind for pair in pairs})
    }
    if as_json:
        print_json(
            {
                kind: {
                    "threshold": each.threshold,
                    "encoder": encoder,
                    "chosen_on": each.chosen_on.to_json(),
                    "reported_on": each.reported_on.to_json(),
                    "why_not": each.why_not,
                    "doubts": each.doubts,
                }
                for kind, each in found.items()
            }
        )
    for kind, each in found.items():
        if each.threshold is not None and not as_json:
            _print_tuned(kind, each, each.threshold)
        for doubt in each.doubts if each.threshold is not None else ():
            note(f"Warning: {kind}: {doubt}.")
        if each.why_not is not None:
            note(f"Error: {kind}: no threshold can be recommended: {each.why_not}.")
    without = sum(each.threshold is None for each in found.values())
    return ExitCode.OK if not without else ExitCode.FAILED if without == len(found) else ExitCode.PARTIAL


def _print_tuned(kind: str, found: Tuned, threshold: float) -> None:
    chosen, reported = found.chosen_on, found.reported_on
    print_pairs(
        kind,
        {
            "threshold": f"{threshold:.2f}",
            "pairs it was chosen on": _labels(chosen),
            "pairs of the other half": _labels(reported),
            "precision, half it was chosen on": precision_of(chosen),
            "precision, other half": precision_of(reported),
            "recall, other half": recall_of(reported),
            "wrongly served, other half": wrong_of(reported),
        },
    )
    click.echo(f"  in cache_config.yaml:  similarity_threshold: {threshold:g}")


def _labels(half: Outcome) -> str:
    return f"{half.positives} with label 1, {half.negatives} with label 0"


async def judge_pairs(pairs: Sequence[LabelledPair], settings: Settings, *, quiet: bool) -> tuple[list[Judged], str]:
    """Return the pairs with their similarity and vetoes, and the space of the encoder."""
    from cache_management.cache.embeddings import open_embedder
    from cache_management.cache.semantic import gates
    from cache_management.cache.semantic.stored_vectors import cluster_of

    config = settings.similarity()
    embedder = open_embedder(config.model, engine=config.engine, device=config.device)
    await embedder.load()
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.asked, pair.stored)))
    texts = [text for text in texts if text.strip() and embedder.fits(text)]
    vectors: dict[str, Any] = {}
    with progress(quiet=quiet) as advance:
        for at in range(0, len(texts), _AT_ONCE):
            page = texts[at : at + _AT_ONCE]
            vectors.update(zip(page, await embedder.embed(page), strict=True))
            advance("embedded", len(vectors), len(texts))
    judged = []
    for pair in pairs:
        ours, theirs = vectors.get(pair.asked), vectors.get(pair.stored)
        judged.append(
            Judged(
                pair,
                None if ours is None or theirs is None else float(ours @ theirs),
                # As if it were just stored: how old an answer may be is not what the labels tell.
                gates.vetoes(pair.asked, pair.stored, age_seconds=0.0, off=config.gates_off),
                0 if theirs is None else cluster_of(theirs),
            )
        )
    return judged, embedder.space


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


def _print(report: Report) -> None:
    print_pairs(f"{report.kind}: {report.pairs:,} pairs", facts_of(report))
    for title, columns, rows in tables_of(report):
        print_table(title, columns, rows)


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
