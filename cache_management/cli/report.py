"""stats, config show, config validate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from cache_management.cache.config import SimilarityConfig
from cache_management.cache.errors import MetadataUnavailable
from cache_management.cache.redact import hide_password
from cache_management.cache.values import CacheStats
from cache_management.cli.context import CliContext, is_new_sqlite, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.output import json_option, note, plain, print_json, print_pairs, print_table, print_yaml
from cache_management.settings import DEFAULT_FILE, Settings, check_file, setting_names
from cache_management.wiring import Platform


@click.command()
@click.option(
    "-f", "--format", "form", type=click.Choice(["json", "table", "yaml"]), default="table", show_default=True
)
@json_option
@pass_cli
def stats(cli: CliContext, form: str, as_json: bool) -> None:
    """Print what the cache holds, and how its jobs stand."""

    meaning = cli.settings.similarity()
    learns = meaning.serves != "static"

    async def work(platform: Platform) -> tuple[CacheStats, dict[str, Any] | None]:
        judged = plain(await platform.manager.false_hits()) if learns else None
        return await platform.llm_cache.get_stats(), judged

    found, judged = cli.run(work)
    data: dict[str, Any] = {
        "backend": found.backend,
        "namespace": found.namespace,
        "total_entries": found.total_entries,
        "semantic_mode": meaning.serves,
        "similarity_threshold": meaning.threshold,
        "jobs": _job_counts(cli),
    }
    if judged is not None:
        data["false_hits"] = judged
    if as_json or form == "json":
        print_json(data)
    elif form == "yaml":
        print_yaml(data)
    else:
        jobs = data.pop("jobs")
        data.pop("false_hits", None)
        print_pairs("Cache", data)
        if judged is not None:
            print_pairs("Wrong answers by meaning", _in_words(judged, meaning))
        if jobs:
            print_table("Jobs", ("state", "number"), sorted(jobs.items()))


def _in_words(judged: dict[str, Any], meaning: SimilarityConfig) -> dict[str, object]:
    served = judged["served"]
    known = f"{served['rate']:.3f} [{served['low']:.3f}, {served['high']:.3f}], {served['audited']} computed again"
    threshold = judged["threshold"]
    # Evidence knows of scores that the configured threshold keeps from being served.
    floor = "none yet" if threshold is None else f"{max(threshold, meaning.threshold):.2f}"
    is_shadow = meaning.serves == "shadow"
    return {
        "mode": "shadow: nothing is served by meaning" if is_shadow else meaning.serves,
        "error budget": judged["budget"],
        "of those served": known if served["audited"] else "not yet verified",
        "would be served from a score of" if is_shadow else "served from a score of": floor,
        "compared and not served": judged["candidates"],
        "wrong among them": judged["wrong"],
        "unsure among them": judged["unsure"],
        "pairs that somebody called wrong": judged["blocked"],
    }


def _job_counts(cli: CliContext) -> dict[str, int]:
    """Count jobs by state; a database that is away must not hide what the cache holds."""
    if is_new_sqlite(cli.settings.metadata_url):
        return {}
    try:
        return cli.stores().jobs.count_by_state()
    except (MetadataUnavailable, ImportError) as exc:
        note(f"Jobs are not shown: {exc}")
        return {}


@click.group()
def config() -> None:
    """Show and check the configuration."""


@config.command()
@click.option(
    "-f", "--format", "form", type=click.Choice(["json", "table", "yaml"]), default="table", show_default=True
)
@json_option
@pass_cli
def show(cli: CliContext, form: str, as_json: bool) -> None:
    """Print every setting, its value and where it came from; secrets are hidden."""
    values = {name: shown_value(cli.settings, name) for name in setting_names()}
    sources = {name: cli.loaded.sources.get(name, "default") for name in values}
    if as_json or form == "json":
        print_json({"file": cli.loaded.file, "values": values, "sources": sources})
    elif form == "yaml":
        print_yaml(values)
    else:
        print_table("Settings", ("key", "value", "from"), [(n, values[n], sources[n]) for n in values])


@config.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@json_option
@pass_cli
def validate(cli: CliContext, file: Path | None, as_json: bool) -> int:
    """Check a configuration file; the first problem is named with its key and line."""
    path = file or cli.config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    if path is not None:
        check_file(path)
    else:
        _ = cli.loaded  # no file: the environment alone
    if as_json:
        print_json({"valid": True, "file": str(path) if path else None})
    else:
        click.echo(f"{path} is valid." if path else "There is no configuration file; the environment is valid.")
    return ExitCode.OK


def shown_value(settings: Settings, name: str) -> Any:
    """Return a setting for people: passwords are hidden, in URLs too."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, str) and "://" in value:
        return hide_password(value)
    if isinstance(value, tuple):
        return [str(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
