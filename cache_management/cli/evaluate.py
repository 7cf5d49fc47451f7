"""evaluate, tune: what threshold and gates do to labelled pairs of questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cache_management.cache.semantic.evaluation import Judged, Outcome, Report, Tuned, evaluate, tune
from cache_management.cache.semantic.pairs import LabelledPair, read_pairs
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.evaluation_tables import facts_of, precision_of, recall_of, tables_of, to_markdown, wrong_of
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.numbers import Number
from cache_management.cli.output import json_option, note, print_json, print_pairs, print_table, progress
from cache_management.cli.pages import check_pages, write_page
from cache_management.settings import Settings

_AT_ONCE = 256


@click.command("evaluate")
@click.argument("pairs_file", type=click.Path(path_type=Path))
@click.option(
    "-t", "--threshold", type=Number(-1, 1), help="Similarity threshold  [default: similarity_threshold, 0.85]"
)
@click.option("--budget", type=Number(0, 1, min_open=True, max_open=True), help="Error budget of verified mode.")
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
    check_pages({"--html": page, "--markdown": markdown}, reads=[pairs_file])
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
    type=Number(0, 1, min_open=True),
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


def _print(report: Report) -> None:
    print_pairs(f"{report.kind}: {report.pairs:,} pairs", facts_of(report))
    for title, columns, rows in tables_of(report):
        print_table(title, columns, rows)
