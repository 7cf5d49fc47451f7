"""set-cache, get-cache, get-similar."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click
from pydantic import ValidationError

from cache_management.cache.config import explain_validation
from cache_management.cache.errors import InvalidInput
from cache_management.cache.payloads import check_metadata
from cache_management.cache.requests import entry_key, make_request
from cache_management.cache.values import CachedResponse, SimilarityMatch
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.numbers import Number
from cache_management.cli.output import json_option, note, plain, print_json, print_table, print_text, print_yaml
from cache_management.cli.request_context import Place, parse_object, places_of
from cache_management.wiring import Platform

_INDEX_AT_ONCE = 1_000


@click.command("set-cache")
@click.argument("prompt")
@click.argument("response")
@click.option("-m", "--model", default="gpt-4", show_default=True, help="Model name.")
@click.option("-t", "--ttl", type=int, help="TTL in seconds; -1 never expires  [default: ttl_seconds]")
@click.option("-M", "--metadata", help="A JSON object.")
@json_option
@pass_cli
def set_cache(
    cli: CliContext, prompt: str, response: str, model: str, ttl: int | None, metadata: str | None, as_json: bool
) -> None:
    """Store RESPONSE as the answer to PROMPT."""
    given = {} if metadata is None else parse_object(metadata, "--metadata", '{"user": "alice"}')
    check_metadata(given, "--metadata")
    try:
        entry = CachedResponse(
            prompt=prompt,
            response=response,
            model=model,
            timestamp=datetime.now(UTC),
            token_count=0,
            metadata=given,
        )
    except ValidationError as exc:
        raise InvalidInput(explain_validation(exc, what="the entry")) from None

    async def work(platform: Platform) -> None:
        await platform.llm_cache.set(prompt, entry, ttl)

    cli.run(work)
    if as_json:
        print_json({"stored": True, "namespace": cli.settings.namespace, "model": model})
    else:
        click.echo(f"Stored in namespace {cli.settings.namespace}.")


@click.command("get-cache")
@click.argument("prompt")
@click.option("-m", "--model", help="Insist on this model, which an app may have asked with.")
@click.option("-f", "--format", "form", type=click.Choice(["json", "text", "yaml"]), default="text", show_default=True)
@json_option
@pass_cli
def get_cache(cli: CliContext, prompt: str, model: str | None, form: str, as_json: bool) -> int:
    """Print the answer stored for PROMPT; exit code 1 when there is none.

    With -m that is what is stored for the prompt alone and comes from this model, else what an app or `migrate -m`
    stored for the prompt and this model. `cache-cli explain` looks with a system prompt, parameters and history.
    """

    async def work(platform: Platform) -> tuple[CachedResponse | None, CachedResponse | None]:
        alone = await platform.llm_cache.get(prompt)
        if model is None or (alone is not None and alone.model == model):
            return alone, alone
        return await platform.llm_cache.get(entry_key(make_request(prompt, model=model))), alone

    found, alone = cli.run(work)
    if found is None and alone is not None:
        note(f"The entry for this prompt is of model {alone.model}, not {model}.")
        return ExitCode.FAILED
    if found is None:
        note("There is no entry for this prompt; `cache-cli explain` looks with what else its request had.")
        return ExitCode.FAILED
    if as_json or form == "json":
        print_json(found)
    elif form == "yaml":
        print_yaml(found)
    else:
        print_text(found.response)
    return ExitCode.OK


@click.command("get-similar")
@click.argument("prompt")
@click.option(
    "-t", "--threshold", type=Number(-1, 1), help="Similarity threshold.  [default: similarity_threshold, 0.85]"
)
@click.option("-l", "--limit", type=click.IntRange(min=1), default=5, show_default=True, help="Most results.")
@json_option
@pass_cli
def get_similar(cli: CliContext, prompt: str, threshold: float | None, limit: int, as_json: bool) -> int:
    """Print stored prompts that mean nearly the same as PROMPT, and what would refuse them.

    Entries that were never embedded are embedded first, up to a thousand. What an app asked with a model, a
    system prompt, parameters or a conversation is served in that context only; see `cache-cli explain`.
    """
    asked = cli.settings.similarity_threshold if threshold is None else threshold

    async def work(platform: Platform) -> tuple[Sequence[tuple[SimilarityMatch, Place]], int, bool]:
        manager = platform.manager
        left = await manager.index_missing(limit=_INDEX_AT_ONCE)
        matches = await manager.find_similar(prompt, asked, limit)
        matcher = manager.similarity_matcher
        is_readable = bool(matches) or matcher is None or await matcher.vector_of(prompt) is not None
        return list(zip(matches, await places_of(platform, matches), strict=True)), left, is_readable

    matches, left, is_readable = cli.run(work)
    if left:
        note(f"Not embedded yet and not searched: {left}; ask again, or warm with embedding.")
    if as_json:
        found = [{**plain(match), "model": place.model, "is_alone": place.is_alone} for match, place in matches]
        print_json({"threshold": asked, "matches": found, "not_embedded": left})
    elif matches:
        print_table(
            f"Similar to {prompt!r}, threshold {asked:g}",
            ("score", "served", "context", "prompt", "response", "vetoes"),
            [
                (
                    match.score,
                    "no" if match.vetoes else "yes" if place.is_alone else "in its context",
                    "prompt alone" if place.is_alone else f"another, answer of {place.model}",
                    match.prompt,
                    match.response,
                    ", ".join(match.vetoes),
                )
                for match, place in matches
            ],
        )
    elif not is_readable:
        note(
            "This text can be found exactly only (`cache-cli get-cache`): the model does not read it whole,"
            " because it is empty, too long, or has signs that the model does not know."
        )
    else:
        note(f"No stored prompt reaches a similarity of {asked:g}.")
    return ExitCode.OK if matches else ExitCode.FAILED
