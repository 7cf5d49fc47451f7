"""feedback: whether the answer that a question got by meaning was right."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.semantic.decision import reaches
from cache_management.cache.values import Lookup
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, note, print_json
from cache_management.cli.request_context import read_request, request_options
from cache_management.wiring import Platform


class _Judged(msgspec.Struct, frozen=True):
    """The entry that somebody's word is about, or why there is none."""

    key: str | None = None
    similarity: float | None = None
    why_not: str | None = None
    remark: str = ""


@click.command()
@click.argument("prompt")
@request_options
@click.option("--key", help="The entry that answered it  [default: the one that a lookup finds by meaning]")
@click.option("--right", is_flag=True, help="Its answer was right.")
@click.option("--wrong", is_flag=True, help="Its answer was wrong.")
@json_option
@pass_cli
def feedback(
    cli: CliContext,
    prompt: str,
    model: str | None,
    system: str | None,
    params: str | None,
    history: Path | None,
    key: str | None,
    right: bool,
    wrong: bool,
    as_json: bool,
) -> int:
    """Say whether the answer that PROMPT got by meaning was right. A wrong one is not served to it again."""
    if right == wrong:
        raise InvalidInput("say --right or --wrong" + (", not both" if right else ""))
    request = read_request(model=model, system=system, params=params, history=history)

    async def work(platform: Platform) -> _Judged:
        found = await platform.manager.lookup(prompt, **request)
        judged = await _named(platform, found, key) if key is not None else _served(found, correct=right)
        if judged.key is not None and judged.similarity is not None:
            await platform.manager.judge(prompt, judged.key, score=judged.similarity, correct=right)
        return judged

    judged = cli.run(work)
    if as_json:
        print_json(
            {
                "noted": judged.key is not None,
                "key": judged.key,
                "correct": right,
                "similarity": judged.similarity,
                "why_not": judged.why_not,
            }
        )
    elif judged.key is not None:
        click.echo(f"Noted for the entry {judged.key[:80]!r}{judged.remark}.")
    if judged.why_not is not None:
        note(f"{judged.why_not} Nothing was noted.")
        return ExitCode.FAILED
    return ExitCode.OK


def _served(found: Lookup, *, correct: bool) -> _Judged:
    """Return what a lookup serves by meaning, or what was called wrong before."""
    if found.kind == "exact":
        return _exact(found)
    for each in found.candidates:
        if (found.hit and each.key == found.key) or (correct and each.vetoes == ("feedback_block",)):
            return _Judged(each.key, each.score)
    return _Judged(why_not="No entry answers this prompt by meaning; `cache-cli explain` shows what is near.")


async def _named(platform: Platform, found: Lookup, key: str) -> _Judged:
    """Return the entry of a key, with its similarity to what was asked."""
    if found.kind == "exact" and key == found.key:
        return _exact(found)
    shown = repr(key[:80])
    remark = ""
    score = next((each.score for each in found.candidates if each.key == key), None)
    if score is None:
        entry = (await platform.llm_cache.load_entries([key])).get(key)
        if entry is None:
            return _Judged(why_not=f"No entry has the key {shown}; `cache-cli get-similar --json` shows keys nearby.")
        matcher = platform.manager.similarity_matcher
        if matcher is None:
            raise InvalidInput("there is no model to compare meaning with")
        ours, theirs = await matcher.vector_of(found.prompt), await matcher.vector_of(entry.response.prompt)
        if ours is None or theirs is None:
            return _Judged(why_not=f"The prompt, or that of {shown}, can be found exactly only, never by meaning.")
        score = min(1.0, float(ours @ theirs))  # a product of equal vectors may lie above by rounding
        if entry.scope is None or entry.scope != found.scope:
            remark = ", which was stored in another context and answers this prompt in its own only"
    if score < 0:
        why = f"The entry {shown} has a similarity of {score:.2f} to this prompt, and could not have answered it."
        return _Judged(why_not=why)
    if not reaches(score, found.threshold):
        remark += f", though its similarity of {score:.2f} is below the threshold of {found.threshold:.2f}"
    return _Judged(key, score, remark=remark)


def _exact(found: Lookup) -> _Judged:
    return _Judged(
        why_not=f"This prompt is answered exactly, by the entry {found.key[:80]!r}, and only answers by meaning are"
        " judged: remove that entry with `cache-cli invalidate`, or store another answer with `cache-cli set-cache`."
    )
