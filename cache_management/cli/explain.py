"""explain: why a question is answered or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cache_management.cache.clock import version_time
from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic.decision import reaches
from cache_management.cache.values import Lookup
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.numbers import Number
from cache_management.cli.output import json_option, note, plain, print_json, print_table
from cache_management.cli.request_context import Place, in_other_contexts, read_request, request_options
from cache_management.wiring import Platform

_INDEX_AT_ONCE = 1_000


@click.command()
@click.argument("prompt")
@click.option(
    "-t", "--threshold", type=Number(-1, 1), help="Similarity threshold.  [default: similarity_threshold, 0.85]"
)
@request_options
@click.option("--against", metavar="KEY", help="Compare with the entry of this key, however far away it is.")
@json_option
@pass_cli
def explain(
    cli: CliContext,
    prompt: str,
    threshold: float | None,
    model: str | None,
    system: str | None,
    params: str | None,
    history: Path | None,
    against: str | None,
    as_json: bool,
) -> int:
    """Print what a lookup of PROMPT does and why: candidates, scores, gates, threshold, age.

    The exit code is 0 when it would be answered, or with --against when that entry would answer it.
    """

    request = read_request(model=model, system=system, params=params, history=history)

    async def work(platform: Platform) -> tuple[Lookup, dict[str, Any] | None, list[Place], int]:
        manager = platform.manager
        left = await manager.index_missing(limit=_INDEX_AT_ONCE)
        found = await manager.lookup(prompt, **request, threshold=threshold)
        compared = None
        if against is not None:
            compared = await _compare(platform, found, against)
        return found, compared, await in_other_contexts(platform, found), left

    found, compared, elsewhere, left = cli.run(work)
    if left:
        note(f"Not embedded yet and not weighed: {left}; ask again, or warm with embedding.")
    if as_json:
        print_json({**plain(found), "elsewhere": elsewhere, "against": compared})
    else:
        click.echo(found.explain())
        for place in elsewhere:
            click.echo(f"  {place}")
        if compared is not None:
            print_table(f"Against {compared['key']!r}", ("what", "is"), list(compared.items()))
    is_answered = found.hit if compared is None else bool(compared["would_answer"])
    return ExitCode.OK if is_answered else ExitCode.FAILED


async def _compare(platform: Platform, asked: Lookup, key: str) -> dict[str, Any]:
    """Weigh one entry as a lookup would have if it had come near; what evidence refuses is known of those that did."""
    from cache_management.cache.semantic import gates

    entries = await platform.llm_cache.load_entries([key])
    if key not in entries:
        raise InvalidInput(f"there is no entry under {key[:80]!r}; `cache-cli get-similar` shows the keys nearby")
    entry = entries[key]
    matcher = platform.manager.similarity_matcher
    if matcher is None:
        raise InvalidInput("there is no model to compare meaning with")
    ours, theirs = await matcher.vector_of(asked.prompt), await matcher.vector_of(entry.response.prompt)
    score = None if ours is None or theirs is None else float(ours @ theirs)
    weighed = next((match for match in asked.candidates if match.key == key), None)
    if weighed is not None:
        vetoes = weighed.vetoes
    else:
        config = matcher.config
        vetoes = gates.vetoes(
            asked.prompt,
            entry.response.prompt,
            age_seconds=max(0.0, platform.llm_cache.clock() - version_time(entry.version)),
            fresh_seconds=config.fresh_seconds,
            off=config.gates_off,
        )
        if entry.scope is None or entry.scope != asked.scope:
            vetoes = ("scope", *vetoes)
    return {
        "key": key,
        "prompt": entry.response.prompt,
        "score": score,
        "threshold": asked.threshold,
        "vetoes": vetoes,
        "would_answer": score is not None and reaches(score, asked.threshold) and not vetoes,
    }
