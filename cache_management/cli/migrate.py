"""migrate: the entries of another library's cache into this one."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from cache_management import __version__
from cache_management.cache.errors import InvalidInput
from cache_management.cache.redact import hide_password
from cache_management.cache.transfer.exporting import new_export_id
from cache_management.cache.transfer.importing import ImportWanted
from cache_management.cache.transfer.lines import Header
from cache_management.cache.transfer.stream_files import StreamReader
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.invalidate import is_wanted
from cache_management.cli.output import counted, json_option, note, print_json, print_pairs, print_table, progress
from cache_management.cli.request_context import read_request
from cache_management.cli.transfer import import_source, most_entries, tell_trouble, warn_of_size
from cache_management.cli.watching import import_rows
from cache_management.migration_sources.found import Converter, ForeignCache, Report
from cache_management.migration_sources.gathering import Gathered, Gatherer
from cache_management.wiring import Platform


class _Source(NamedTuple):
    """Where another cache is; `zone` is what --timezone names."""

    address: str
    prefix: str | None
    zone: ZoneInfo | None


def _gptcache(source: _Source) -> ForeignCache:
    from cache_management.migration_sources.gptcache import GPTCacheStore

    return GPTCacheStore(Path(source.address), prefix=source.prefix, zone=source.zone)


def _langchain(source: _Source) -> ForeignCache:
    from cache_management.migration_sources.langchain_sqlite import LangChainStore

    return LangChainStore(Path(source.address), prefix=source.prefix)


def _redisvl(source: _Source) -> ForeignCache:
    from cache_management.migration_sources.redisvl import RedisVLStore

    return RedisVLStore(source.address, prefix=source.prefix)


_KINDS: Mapping[str, Callable[[_Source], ForeignCache]] = {
    "gptcache": _gptcache,
    "langchain-sqlite": _langchain,
    "redisvl": _redisvl,
}


@click.command()
@click.argument("source")
@click.option("--from", "kind", type=click.Choice(list(_KINDS)), required=True, help="Whose cache SOURCE is.")
@click.option(
    "--prefix", help="redisvl: the name of the cache, which its keys begin with. gptcache: that of its tables."
)
@click.option(
    "--timezone",
    metavar="ZONE",
    help="gptcache: the time zone of the machine that filled it, such as Europe/Oslo.  [default: that of this one]",
)
@click.option("-m", "--model", help="The model that all of it was asked with.")
@click.option("-s", "--system", help="The system prompt that all of it was asked with.")
@click.option("--params", metavar="JSON", help="The parameters that all of it was asked with: a JSON object.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, say what would happen, and change nothing.")
@click.option("--confirm/--no-confirm", " /--yes", default=True, show_default=True, help="Ask before importing.")
@click.option("--no-embed", is_flag=True, help="Do not make the entries findable by meaning.")
@json_option
@pass_cli
def migrate(
    cli: CliContext,
    source: str,
    kind: str,
    prefix: str | None,
    timezone: str | None,
    model: str | None,
    system: str | None,
    params: str | None,
    dry_run: bool,
    confirm: bool,
    no_embed: bool,
    as_json: bool,
) -> int:
    """Bring the entries of another library's cache, SOURCE, into the namespace.

    SOURCE is read and never written: a folder or SQLite file of GPTCache, a SQLite file of LangChain, or the address
    of the Redis that a RedisVL cache is in. Everything is read and checked before anything is stored; what cannot
    come along is counted, with the reason. Doing it twice changes nothing.
    """
    asked = read_request(model=model, system=system, params=params, history=None)
    if kind == "langchain-sqlite" and (model or system or params):
        raise InvalidInput(
            "a LangChain cache says itself what was asked with: leave out --model, --system and --params"
        )
    if timezone is not None and kind != "gptcache":
        raise InvalidInput(f"--timezone is for gptcache: what a cache of {kind} says of time has no zone to be told")
    given = _Source(source, prefix, None if timezone is None else _zone(timezone))
    where = hide_password(source)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="cache-migrate-") as folder:
        file = Path(folder) / "found.jsonl.zst"
        cache = _KINDS[kind](given)
        try:
            found = _collect(cli, cache, file, asked=asked, report=report, embed=not no_embed, quiet=as_json)
        finally:
            cache.close()
        if not as_json:
            _print_report(where, found, report)
        warn_of_size(cli, found.fresh, held=found.held)
        if dry_run or not found.entries:
            note("Nothing was changed." if dry_run else "There is nothing to bring in.")
            return _end(cli, where, None, report, found=found, as_json=as_json)
        what = f"{counted(found.entries, 'entry', 'entries')} of {where}"
        if confirm and not is_wanted(f"Merge {what} into namespace {cli.settings.namespace}?"):
            note("Nothing was imported.")
            return ExitCode.FAILED
        reader = StreamReader(file, entry_limit_bytes=cli.settings.max_entry_bytes)
        try:
            with cli.audited("cache.migrate", {"source": where, "kind": kind}):
                summary, trouble = import_source(cli, where, reader, ImportWanted(), embed=not no_embed, quiet=as_json)
        finally:
            reader.close()
    code = _end(cli, where, summary, report, found=found, as_json=as_json, trouble=trouble)
    tell_trouble(cli, summary, trouble)
    return code


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end at once what reads without waiting: asyncio ends a coroutine where it waits next."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(
            f"--timezone {name!r}: no such time zone is known; write one like Europe/Oslo or UTC"
        ) from None


def _collect(
    cli: CliContext,
    cache: ForeignCache,
    file: Path,
    *,
    asked: Mapping[str, Any],
    report: Report,
    embed: bool,
    quiet: bool,
) -> Gathered:
    """Write what can come along as an export."""
    header = Header(
        program=__version__, id=new_export_id(), namespace=cli.settings.namespace, created_at=datetime.now(UTC)
    )

    async def work(platform: Platform) -> Gathered:
        shelf = platform.shelf()
        manager = platform.manager if embed else platform.entries  # these need no library for vectors
        converter = Converter(shelf, manager.scope_of, asked=asked, report=report)
        gatherer = Gatherer(shelf, converter, report, max_entries=most_entries(cli))
        with progress(quiet=quiet) as advance, _interruptible():
            return await gatherer.gather(cache, file, header, advance)

    return cli.run(work)


def _print_report(where: str, found: Gathered, report: Report) -> None:
    print_pairs(f"Found in {where}", {"entries that can come along": found.entries})
    if report.counts:
        print_table(
            "Left out",
            ["count", "why", "such as"],
            [(count, why, "\n".join(report.examples[why])) for why, count in report.counts.most_common()],
        )


def _end(
    cli: CliContext,
    where: str,
    summary: dict[str, Any] | None,
    report: Report,
    *,
    found: Gathered,
    as_json: bool,
    trouble: list[str] | None = None,
) -> ExitCode:
    loses = found.is_too_much if summary is None else summary["not_kept"]
    code = ExitCode.PARTIAL if report.has_faults or trouble or loses else ExitCode.OK
    if as_json:
        print_json(
            {
                "state": "partial" if code else "succeeded",
                "namespace": cli.settings.namespace,
                "source": where,
                "found": found.entries,
                "store": None
                if found.keeps is None
                else {"keeps": found.keeps, "holds": found.held, "fresh": found.fresh},
                "left_out": {
                    why: {"count": count, "such_as": report.examples[why]} for why, count in report.counts.items()
                },
                "summary": summary,
            }
        )
    elif summary is not None:
        print_pairs(f"Imported into namespace {cli.settings.namespace}", {"source": where, **import_rows(summary)})
    return code
