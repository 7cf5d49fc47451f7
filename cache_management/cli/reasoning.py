"""set-reasoning, get-reasoning, and the group reasoning: list, diff, prune, stats."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache_management.cache.errors import InvalidInput
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import (
    console,
    counted,
    json_option,
    note,
    plain,
    print_json,
    print_pairs,
    print_table,
    print_yaml,
)
from cache_management.wiring import Platform

if TYPE_CHECKING:
    from cache_management.cache.reasoning.cache import Reasoned
    from cache_management.cache.reasoning.result import ReasoningResult
    from cache_management.cache.reasoning.steps import StepNode
    from cache_management.cache.reasoning.validation import Finding

_FORMATS = click.Choice(["json", "tree", "yaml"])
_MOST_FILE_BYTES = 256 * 2**20
_WARNINGS_OF_A_KIND = 3
_DEEPEST_INDENT = 20


@click.command("set-reasoning")
@click.argument("kind", metavar="TYPE", type=click.Choice(["cot", "tot"]))
@click.argument("problem")
@click.argument("steps_json")
@click.option("-a", "--final-answer", help="Final answer.")
@click.option("-k", "--key", help="Key to store it under  [default: the problem]")
@click.option("-m", "--model", help="Model that thought it.")
@click.option("-t", "--ttl", type=int, help="TTL in seconds; -1 never expires  [default: ttl_seconds]")
@click.option("--tag", "tags", multiple=True, help="A group to invalidate it by; may be given again.")
@json_option
@pass_cli
def set_reasoning(
    cli: CliContext,
    kind: str,
    problem: str,
    steps_json: str,
    final_answer: str | None,
    key: str | None,
    model: str | None,
    ttl: int | None,
    tags: Sequence[str],
    as_json: bool,
) -> None:
    """Store the steps of a chain (cot) or the nodes of a tree (tot) that solve PROBLEM.

    STEPS_JSON is a JSON array of steps: {"step": 1, "text": "..."} or the full field names; trees also take id and
    parent. @FILE reads it from a file, - from standard input. What does not fit together is told at once, and nothing
    is stored.
    """
    from cache_management.cache.reasoning.reading import read_result

    given: dict[str, object] = {
        "reasoning_type": kind,
        "problem": problem,
        "steps": _parsed(steps_json),
        "final_answer": final_answer,
        "metadata": {} if model is None else {"model": model},
    }
    result = read_result(given)

    async def work(platform: Platform) -> Sequence[Finding]:
        return await platform.reasoning.set(problem if key is None else key, result, ttl, tags=tags)

    warnings = cli.run(work)
    _tell_warnings(warnings)
    if as_json:
        print_json(
            {
                "stored": True,
                "namespace": cli.settings.namespace,
                "steps": len(result.steps),
                "warnings": plain(list(warnings)),
            }
        )
    else:
        click.echo(f"Stored {counted(len(result.steps), 'step')} in namespace {cli.settings.namespace}.")


def _tell_warnings(warnings: Sequence[Finding]) -> None:
    """Tell what was noticed, of each kind a few."""
    told: Counter[str] = Counter()
    for warning in warnings:
        told[warning.rule] += 1
        if told[warning.rule] <= _WARNINGS_OF_A_KIND:
            note(f"warning: {warning}")
    for rule, count in told.items():
        if count > _WARNINGS_OF_A_KIND:
            note(f"warning: {count - _WARNINGS_OF_A_KIND} more like it ({rule})")


def _parsed(given: str) -> object:
    if given == "-":
        text, where = sys.stdin.read(_MOST_FILE_BYTES), "standard input"
    elif given.startswith("@"):
        path = Path(given[1:])
        try:
            if path.stat().st_size > _MOST_FILE_BYTES:
                raise InvalidInput(f"{path} has more than {_MOST_FILE_BYTES // 2**20} MiB")
            text, where = path.read_text(), str(path)
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"{path} cannot be read: {exc}") from None
    else:
        text, where = given, "STEPS_JSON"
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(
            f'{where} is no JSON ({exc}): give an array such as \'[{{"step": 1, "text": "Add numbers"}}]\''
        ) from None


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{name!r:.40} stands twice in one object")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


@click.command("get-reasoning")
@click.argument("problem")
@click.option("-f", "--format", "form", type=_FORMATS, default="tree", show_default=True, help="Output format.")
@click.option("-m", "--model", help="Take only results of this model.")
@click.option("--all", "all_of_them", is_flag=True, help="Every result, newest first.")
@click.option("--max-depth", type=click.IntRange(min=0), help="Show a tree down to this depth  [default: what fits]")
@click.option("--min-score", type=float, help="Leave out thoughts below this score, unless they lead to better ones.")
@json_option
@pass_cli
def get_reasoning(
    cli: CliContext,
    problem: str,
    form: str,
    model: str | None,
    all_of_them: bool,
    max_depth: int | None,
    min_score: float | None,
    as_json: bool,
) -> int:
    """Print the reasoning stored for PROBLEM, or under it as a key; exit code 1 when there is none."""
    if min_score is not None and not math.isfinite(min_score):
        raise InvalidInput(f"--min-score {min_score} is no score")

    async def work(platform: Platform) -> list[Reasoned]:
        return await _found(platform, problem, model)

    found = cli.run(work)
    if not found:
        note("There is no reasoning for this problem.")
        return ExitCode.FAILED
    results = [each.result for each in found]
    if as_json or form == "json":
        print_json(results if all_of_them else results[0])
    elif form == "yaml":
        print_yaml(results if all_of_them else results[0])
    else:
        for place, each in enumerate(found if all_of_them else found[:1]):
            if place:
                click.echo()
            _draw(each.result, max_depth, min_score)
        if len(found) > 1 and not all_of_them:
            note(f"The newest of {len(found)} results; --all shows every one, --model those of one model.")
    return ExitCode.OK


async def _found(platform: Platform, problem: str, model: str | None) -> list[Reasoned]:
    """Return the results for a problem, newest first; else the one that is stored under it as a key."""
    from cache_management.cache.reasoning.cache import Reasoned
    from cache_management.cache.reasoning.step_identity import conditions_of

    cache = platform.reasoning
    found = await cache.list_by_problem(problem, model=model)
    if found:
        return found
    result = await cache.get(problem)
    if result is None or (model is not None and result.metadata.get("model") != model):
        return []
    return [Reasoned(problem, result, conditions_of(result), 0.0, None)]


def _draw(result: ReasoningResult, max_depth: int | None, min_score: float | None) -> None:
    from rich.text import Text

    from cache_management.cli.reasoning_tree import draw, shown, signs_for

    target = console()
    signs = signs_for(sys.stdout.encoding)
    target.print(Text(f"Problem: {shown(result.problem)}"), soft_wrap=True)
    for line in draw(result, width=target.width, signs=signs, max_depth=max_depth, min_score=min_score):
        target.print(Text(line.text, style="bold green" if line.is_best else ""), soft_wrap=True)
    if result.final_answer is not None:
        target.print(Text(f"Answer: {shown(result.final_answer)}"), soft_wrap=True)


@click.group()
def reasoning() -> None:
    """Look at stored reasoning: what there is, how two solutions differ, how much is reused."""


@reasoning.command("list")
@click.option("-p", "--pattern", default="*", show_default=True, help="A shell glob over keys.")
@json_option
@pass_cli
def list_(cli: CliContext, pattern: str, as_json: bool) -> None:
    """Print the keys of stored results."""

    async def work(platform: Platform) -> list[str]:
        return await platform.reasoning.list_keys(pattern)

    keys = cli.run(work)
    if as_json:
        print_json(keys)
    else:
        from cache_management.cli.reasoning_tree import shown

        is_watched = sys.stdout.isatty()
        for key in keys:  # a script gets them as they are
            click.echo(shown(key) if is_watched else key)


@reasoning.command()
@click.argument("first")
@click.argument("second")
@json_option
@pass_cli
def diff(cli: CliContext, first: str, second: str, as_json: bool) -> int:
    """Compare the results of two problems or keys; exit code 1 when they differ.

    Of a problem with several results the newest is taken; one problem given twice compares its two newest.
    """

    async def work(platform: Platform) -> tuple[ReasoningResult | None, ReasoningResult | None]:
        ones = await _found(platform, first, None)
        if first == second:
            return (ones[1].result, ones[0].result) if len(ones) > 1 else (None, None)
        others = await _found(platform, second, None)
        return ones[0].result if ones else None, others[0].result if others else None

    one, other = cli.run(work)
    if one is None or other is None:
        missing = first if one is None else second
        raise InvalidInput(
            f"there are no two results for {first!r:.60}"
            if first == second
            else f"there is no reasoning for {missing!r:.60}"
        )
    from cache_management.cache.reasoning.differences import compare

    found = compare(one, other)
    if as_json:
        print_json(found)
    else:
        _print_changes(found.changes)
        answers = "the same answer" if found.same_answer else "another answer"
        click.echo(
            f"{found.same:,} the same ({found.shared_prefix:,} of them from the beginning), {found.removed:,} only in"
            f" the first, {found.added:,} only in the second; {answers}."
        )
    return ExitCode.OK if not (found.removed or found.added) and found.same_answer else ExitCode.FAILED


def _print_changes(changes: Sequence[object]) -> None:
    from rich.text import Text

    from cache_management.cache.reasoning.differences import Change
    from cache_management.cli.reasoning_tree import shown

    target = console()
    signs = {"same": ("  ", ""), "removed": ("- ", "red"), "added": ("+ ", "green")}
    for each in changes:
        if isinstance(each, Change):
            sign, style = signs[each.what]
            target.print(
                Text(f"{sign}{'  ' * min(each.depth, _DEEPEST_INDENT)}{shown(each.thought)}", style=style),
                soft_wrap=True,
            )


@reasoning.command()
@click.argument("problem")
@click.argument("steps", nargs=-1, required=True)
@click.option("-m", "--model", help="Of results of this model.")
@click.option("--type", "kind", type=click.Choice(["cot", "tot"]), help="Of chains only, or of trees.")
@click.option("--dry-run", is_flag=True, help="Say what would go; change nothing.")
@json_option
@pass_cli
def prune(
    cli: CliContext,
    problem: str,
    steps: Sequence[str],
    model: str | None,
    kind: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove a step of PROBLEM with all that follows it; STEPS are the thoughts that lead to it, the step itself last.

    Chains that run through it go whole, trees lose the branch. Exit code 1 when there is no such step.
    """
    from cache_management.cache.reasoning.steps import Pruned

    async def work(platform: Platform) -> Pruned | None:
        node = await _step(platform, problem, steps, model=model, kind=kind)
        if node is None:
            return None
        with cli.audited("reasoning.prune", {"step": node.id, "dry_run": dry_run}):
            return await platform.reasoning.prune(node, dry_run=dry_run)

    pruned = cli.run(work)
    if pruned is None:
        note("There is no such step.")
        return ExitCode.FAILED
    if as_json:
        print_json({"steps": pruned.steps, "results": list(pruned.results), "dry_run": dry_run})
    else:
        verb = "would go" if dry_run else "went"
        results = f", and {counted(len(pruned.results), 'result')} with them" if pruned.results else ""
        click.echo(f"{counted(pruned.steps, 'step')} {verb}{results}.")
    return ExitCode.OK


@reasoning.command()
@click.argument("problem")
@click.argument("steps", nargs=-1, required=True)
@click.option("--wrong/--right", default=True, show_default=True)
@click.option("-r", "--reason", default="", help="Why it is wrong.")
@click.option("-m", "--model", help="Of results of this model.")
@click.option("--type", "kind", type=click.Choice(["cot", "tot"]), help="Of chains only, or of trees.")
@json_option
@pass_cli
def mark(
    cli: CliContext,
    problem: str,
    steps: Sequence[str],
    wrong: bool,
    reason: str,
    model: str | None,
    kind: str | None,
    as_json: bool,
) -> int:
    """Mark a step of PROBLEM as wrong: it is not served any more, nor anything behind it; or as right again.

    STEPS are the thoughts that lead to it, the step itself last. Exit code 1 when there is no such step.
    """

    async def work(platform: Platform) -> bool:
        node = await _step(platform, problem, steps, model=model, kind=kind)
        if node is None:
            return False
        with cli.audited("reasoning.mark", {"step": node.id, "correct": not wrong}):
            await platform.reasoning.mark(node, correct=not wrong, reason=reason)
        return True

    if not cli.run(work):
        note("There is no such step.")
        return ExitCode.FAILED
    print_json({"marked": True, "correct": not wrong}) if as_json else click.echo(
        "Marked as wrong." if wrong else "Marked as right."
    )
    return ExitCode.OK


async def _step(
    platform: Platform, problem: str, steps: Sequence[str], *, model: str | None, kind: str | None
) -> StepNode | None:
    """Return the step at the end of a way, marked or not, under the first conditions that know it."""
    cache = platform.reasoning
    for under in await cache.conditions_of(problem):
        if (kind or under.reasoning_type) == under.reasoning_type and (model is None or under.model == model):
            found = await cache.find_step(cache.root_of(problem, under), steps)
            if found is not None:
                return found
    return None


@reasoning.command()
@json_option
@pass_cli
def stats(cli: CliContext, as_json: bool) -> None:
    """Print what the namespace holds: results, problems, steps, and how much smaller than every result by itself."""
    from cache_management.cache.reasoning.holdings import holdings_of

    async def work(platform: Platform) -> object:
        return await holdings_of(platform.reasoning)

    found = cli.run(work)
    if as_json:
        print_json(found)
        return
    rows = plain(found)
    top = rows.pop("top")
    print_pairs("Reasoning", {name.replace("_", " "): value for name, value in rows.items() if value is not None})
    if rows["results"]:
        print_table(
            "The most shared problems",
            ("results", "steps", "of them distinct", "problem"),
            [(each["results"], each["submitted"], each["steps"], each["problem"]) for each in top],
        )
