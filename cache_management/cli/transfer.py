"""export and import-cache: the entries of a namespace to a file and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache_management import __version__
from cache_management.cache.config import CacheBackend
from cache_management.cache.errors import CacheError, EmbedderUnavailable, InvalidInput
from cache_management.cache.identity import digest, storage_prefix
from cache_management.cache.patterns import glob_matcher
from cache_management.cache.transfer.documents import MAX_ENTRIES, DocumentBuilder, TooLargeForDocument, write_document
from cache_management.cache.transfer.exporting import (
    Exporter,
    ExportPlace,
    ExportWanted,
    header_of,
    new_export_id,
    summary_of_export,
)
from cache_management.cache.transfer.importing import (
    Importer,
    ImportPlace,
    ImportWanted,
    check_namespace_of,
    summary_of_import,
)
from cache_management.cache.transfer.replacing import ImportUnderWay
from cache_management.cache.transfer.sources import ListSource, Source, form_of, open_source
from cache_management.cache.transfer.stream_files import check_target
from cache_management.cli.context import CliContext, pass_cli
from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.invalidate import is_wanted
from cache_management.cli.numbers import Number
from cache_management.cli.output import counted, note, print_json, print_pairs, progress
from cache_management.cli.watching import export_rows, follow, import_rows, waiting_options
from cache_management.wiring import Platform

if TYPE_CHECKING:
    from cache_management.cache.transfer.documents import Form
    from cache_management.cache.transfer.lines import Header
    from cache_management.cache.transfer.shelf import Shelf

_LOOK_AGAIN_SECONDS = 1.0
_RATE = Number(min=100)
_FINDABLE = " `cache-cli embed` makes findable by meaning what is not yet."
_INDEXED_AT_ONCE = 256  # Ctrl-C waits until a model is through with what it was given


@click.command()
@click.argument("output_file", type=click.Path(path_type=Path))
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["json", "yaml"]),
    help="Write a document in this form, whatever the name says. [default: by the name, else json]",
)
@click.option("-F", "--filter", "pattern", help="Shell glob: only entries whose whole key matches.")
@click.option("--reasoning", is_flag=True, help="Write chains and trees of thoughts, and not answers.")
@click.option("--force", is_flag=True, help="Replace OUTPUT_FILE if it is there.")
@click.option("--local", is_flag=True, help="Run in this process instead of submitting a job.")
@click.option("--rate", type=_RATE, help="Entries a second that the job handles at most.  [default: no bound]")
@waiting_options
@pass_cli
def export(
    cli: CliContext,
    output_file: Path,
    form: Form | None,
    pattern: str | None,
    reasoning: bool,
    force: bool,
    local: bool,
    rate: float | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Write the entries of the namespace to OUTPUT_FILE.

    NAME.jsonl.zst or NAME.jsonl is a checksummed stream for any number of entries: a worker writes it as a
    job, and this process with --local or when no broker is configured. NAME.json and NAME.yaml are
    documents for small caches, written by this process at once.

    The file holds prompts and answers in the clear, also those of an encrypted store; only you can
    read it (mode 600). Vectors are not exported: entries are embedded anew.
    """
    file = output_file.absolute()
    written_as = form or form_of(file)
    if form is not None and form_of(file) == "stream":
        raise InvalidInput(f"{output_file}: the name is that of a stream, leave out --format or take another name")
    check_target(file, replace=force)
    _warn_of_encryption(cli)
    if written_as != "stream":
        _check_waiting(local=True, what="A document is written at once", wait=wait, timeout=timeout, rate=rate)
        with cli.audited("cache.export", {"file": str(file), "pattern": pattern}):
            wanted = ExportWanted(
                file, __version__, pattern=pattern, embedder=str(cli.settings.embedding_model), replace=force
            )
            return _export_document(cli, written_as, wanted, of_reasoning=reasoning, as_json=as_json)
    is_here = local or not cli.settings.broker_url
    _check_waiting(local=is_here, what="This process does the work itself", wait=wait, timeout=timeout, rate=rate)
    if is_here:
        _tell_who_works(local=local)
        with cli.audited("cache.export", {"file": str(file), "pattern": pattern}):
            wanted = ExportWanted(
                file, __version__, pattern=pattern, embedder=str(cli.settings.embedding_model), replace=force
            )
            return _export_here(cli, wanted, of_reasoning=reasoning, as_json=as_json)
    cli.run(_reach)
    client = cli.client()
    client.check_broker()
    params = {
        "path": str(file),
        "pattern": pattern,
        "replace": force,
        "entries_per_second": rate or 0,
        "reasoning": reasoning,
    }
    submitted = client.submit("export", params, idem_key=str(file))
    job, code = follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json, doing="an export to this file")
    if job.state == "succeeded" and not file.exists():
        note(f"The file is on the machine of the worker that wrote it; here there is no {file}.")
    return code


def _export_document(
    cli: CliContext, form: Form, wanted: ExportWanted, *, of_reasoning: bool, as_json: bool
) -> ExitCode:
    matches = None if wanted.pattern is None else glob_matcher(wanted.pattern)
    export_id = new_export_id()

    async def work(platform: Platform) -> dict[str, Any]:
        shelf = platform.shelf(of_reasoning=of_reasoning)
        total = await shelf.backend.count(shelf.keys.prefix)
        if matches is None and total > MAX_ENTRIES[form]:
            raise TooLargeForDocument(form, f"{total:,} entries")
        builder = DocumentBuilder(form)
        unreadable: list[str] = []
        seen = 0
        bookmark: str | None = ""
        with progress(quiet=as_json) as advance:
            while bookmark is not None:
                page, bookmark = await shelf.backend.scan_page(shelf.keys.prefix, bookmark, 1_000)
                seen += len(page)
                async for lines, unread in shelf.read(page, matches=matches):
                    builder.add(lines)
                    unreadable += unread
                advance("exported", seen, max(total, seen))
        data = builder.build(header_of(shelf, wanted, export_id), unreadable=len(unreadable))
        write_document(wanted.target, data, owner=export_id, replace=wanted.replace)
        return {
            "seen": seen,
            "exported": len(builder),
            "unreadable": len(unreadable),
            "unreadable_keys": [digest(name) for name in unreadable[:20]],
            "bytes": len(data),
        }

    return _print_export(cli, wanted.target, cli.run(work), as_json=as_json)


def _export_here(cli: CliContext, wanted: ExportWanted, *, of_reasoning: bool, as_json: bool) -> ExitCode:
    async def work(platform: Platform) -> ExportPlace:
        shelf = platform.shelf(of_reasoning=of_reasoning)
        place = ExportPlace(new_export_id())
        exporter = Exporter(shelf, wanted, export_id=place.id)
        try:
            with progress(quiet=as_json) as advance:
                total = await shelf.backend.count(shelf.keys.prefix)
                while place.step != "done":
                    place = await exporter.advance(place)
                    advance("exported", place.seen, max(total, place.seen))
        finally:
            if place.step != "done":
                exporter.writer.discard()
        return place

    return _print_export(cli, wanted.target, summary_of_export(cli.run(work)), as_json=as_json)


def _print_export(cli: CliContext, file: Path, summary: dict[str, Any], *, as_json: bool) -> ExitCode:
    is_whole = not summary["unreadable"]
    if as_json:
        state = "succeeded" if is_whole else "partial"
        print_json({"state": state, "namespace": cli.settings.namespace, "file": str(file), "summary": summary})
    else:
        print_pairs(f"Exported namespace {cli.settings.namespace}", {"file": str(file), **export_rows(summary)})
    if not is_whole:
        note("What cannot be read was left out; is an encryption key missing? (`cache-cli doctor`)")
    return ExitCode.OK if is_whole else ExitCode.PARTIAL


@click.command("import-cache")
@click.argument("input_file", type=click.Path(path_type=Path))
@click.option(
    "--merge/--replace",
    "merge",
    default=True,
    show_default=True,
    help="Write what is absent or older; or let the file take the place of all entries.",
)
@click.option("--confirm/--no-confirm", " /--yes", default=True, show_default=True, help="Ask before importing.")
@click.option("--from-namespace", metavar="NAME", help="Bring the entries of this other namespace into the own one.")
@click.option("--no-embed", is_flag=True, help="Do not make the entries findable by meaning.")
@click.option("--local", is_flag=True, help="Run in this process instead of submitting a job.")
@click.option("--rate", type=_RATE, help="Entries a second that the job handles at most.  [default: no bound]")
@waiting_options
@pass_cli
def import_cache(
    cli: CliContext,
    input_file: Path,
    merge: bool,
    confirm: bool,
    from_namespace: str | None,
    no_embed: bool,
    local: bool,
    rate: float | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Bring the entries of INPUT_FILE, written by `export`, into the namespace.

    The whole file is verified before anything is changed. With --merge an entry is written that is absent, or
    older than that of the file; with --replace the file's entries become the only ones: should this be
    interrupted once that is decided, the resumed job or the next import-cache completes it.

    A worker does streams (.jsonl, .jsonl.zst) as a job; this process does documents (.json, .yaml), and
    everything with --local or when no broker is configured.
    """
    file = input_file.absolute()
    wanted = ImportWanted(replace=not merge, from_namespace=from_namespace)
    source = open_source(file, entry_limit_bytes=cli.settings.max_entry_bytes)
    try:
        header, _ = source.start()
        check_namespace_of(header, into=cli.settings.namespace, wanted=wanted, where=str(input_file))
        of_reasoning = header.holds == "reasoning"
        no_embed = no_embed or of_reasoning
        is_here = local or isinstance(source, ListSource) or not cli.settings.broker_url
        _check_waiting(local=is_here, what="This process does the work itself", wait=wait, timeout=timeout, rate=rate)
        if confirm and not is_wanted(_question(cli, input_file, header, source, merge=merge)):
            note("Nothing was imported.")
            return ExitCode.FAILED
        if is_here:
            if not isinstance(source, ListSource):
                _tell_who_works(local=local)
            with cli.audited("cache.import", {"file": str(file), "header": header.id, "replace": not merge}):
                return _import_here(cli, input_file, source, wanted, embed=not no_embed, as_json=as_json)
    finally:
        source.close()
    cli.run(_reach)
    client = cli.client()
    client.check_broker()
    params = {
        "path": str(file),
        "replace": not merge,
        "from_namespace": from_namespace,
        "embed": not no_embed,
        "entries_per_second": rate or 0,
    }
    submitted = client.submit("import", params, idem_key=json.dumps(params, sort_keys=True))
    job, code = follow(client, submitted, wait=wait, timeout=timeout, as_json=as_json)
    if job.state == "succeeded":
        warn_of_size(cli, job.total or 0)
        if embed_job := job.summary.get("embed_job"):
            note(f"Job {embed_job} makes them findable by meaning.")
    return code


def _question(cli: CliContext, file: Path, header: Header, source: Source, *, merge: bool) -> str:
    what = (
        f"{counted(len(source), 'entry', 'entries')} of {file}"
        if isinstance(source, ListSource)
        else f"the entries of {file}"
    )
    into = f"namespace {cli.settings.namespace}"
    whence = f"exported {header.created_at:%Y-%m-%d %H:%M} UTC from namespace {header.namespace}"
    if merge:
        return f"Merge {what} ({whence}) into {into}?"

    async def count(platform: Platform) -> int:
        return await platform.llm_cache.backend.count(storage_prefix("llm", cli.settings.namespace))

    return f"Replace the {counted(cli.run(count), 'entry', 'entries')} of {into} by {what} ({whence})?"


def _import_here(
    cli: CliContext, file: Path, source: Source, wanted: ImportWanted, *, embed: bool, as_json: bool
) -> ExitCode:
    summary, trouble = import_source(cli, str(file), source, wanted, embed=embed, quiet=as_json)
    if as_json:
        state = "partial" if trouble else "succeeded"
        print_json({"state": state, "namespace": cli.settings.namespace, "file": str(file), "summary": summary})
    else:
        print_pairs(f"Imported into namespace {cli.settings.namespace}", {"file": str(file), **import_rows(summary)})
    tell_trouble(cli, summary, trouble)
    return ExitCode.PARTIAL if trouble else ExitCode.OK


def import_source(
    cli: CliContext, where: str, source: Source, wanted: ImportWanted, *, embed: bool, quiet: bool
) -> tuple[dict[str, Any], list[str]]:
    """Import in this process and make the entries findable; return the summary, and why they cannot be found."""
    # With workers about, one that has a model makes the entries findable.
    by_job = embed and bool(cli.settings.broker_url)
    trouble: list[str] = []
    counts: dict[str, int] = {}

    async def index(platform: Platform, keys: list[str]) -> None:
        if embed and not by_job and not trouble:
            try:
                for at in range(0, len(keys), _INDEXED_AT_ONCE):
                    await platform.manager.index(keys[at : at + _INDEXED_AT_ONCE])
            except (EmbedderUnavailable, ImportError) as exc:
                trouble.append(str(exc))

    async def work(platform: Platform) -> ImportPlace:
        shelf = platform.shelf(of_reasoning=source.start()[0].holds == "reasoning")
        importer = Importer(shelf, source, wanted, where=where, keep_written=True)
        place = importer.begin()
        counts["held"] = await _held(cli, shelf)
        with progress(quiet=quiet) as advance:
            while place.step != "done":
                try:
                    await asyncio.sleep(0)  # verifying never waits, and Ctrl-C ends what waits
                    place = await _advance(importer, place)
                    advance("verified", place.tally.entries, None if place.step == "verify" else place.tally.entries)
                    if place.tally.settled:
                        advance("imported", place.tally.settled, place.tally.entries)
                    await index(platform, importer.written)
                except BaseException:
                    await importer.abandon(place)
                    if place.step == "swap":
                        note("The replacing is decided and not complete: the next import-cache completes it.")
                    if place.step == "merge" or importer.written:
                        note("What was imported by now stays: do it once more for the rest." + _FINDABLE * embed)
                    raise
                importer.written.clear()
        counts["holds"] = await _held(cli, shelf)
        return place

    place = cli.run(work)
    summary = {**summary_of_import(place), "replaces": wanted.replace}
    if by_job and place.tally.written:
        try:
            summary["embed_job"] = cli.client().submit_embed().job_id
        except CacheError as exc:
            trouble.append(str(exc))
    summary["not_kept"] = _not_kept(cli, summary, **counts)
    return summary, trouble


def tell_trouble(cli: CliContext, summary: Mapping[str, Any], trouble: list[str]) -> None:
    """Say what is not as one might expect after an import."""
    if summary["not_kept"]:
        note(
            f"{counted(summary['not_kept'], 'entry', 'entries')} did not stay: the store keeps at most"
            f" {cli.settings.max_size:,} of a namespace (max_size); raise it and do this once more to keep all."
        )
    for each in trouble:
        note(f"Error: the entries can only be found exactly: {each}")


async def _held(cli: CliContext, shelf: Shelf) -> int:
    """Return how many entries a store with a bound holds, else 0."""
    return 0 if most_entries(cli) is None else await shelf.backend.count(shelf.keys.prefix)


def _not_kept(cli: CliContext, summary: Mapping[str, Any], *, held: int, holds: int) -> int:
    """Return how many entries a store with a bound gave up for others, of the file or not."""
    most = most_entries(cli)
    # What a replacing removes goes last, and may have had to go before.
    wanted = int(summary["added"]) + (summary["updated"] + summary["present"] if summary["replaces"] else held)
    return 0 if most is None or wanted <= most else max(0, wanted - holds)


async def _advance(importer: Importer, place: ImportPlace) -> ImportPlace:
    """Do the next parts, behind whoever else is at work on the namespace."""
    told = False
    while True:
        try:
            return await importer.advance(place)
        except ImportUnderWay as exc:
            if not told:
                told = True
                note(f"Waiting: {exc}.")
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def _reach(platform: Platform) -> None:
    await platform.llm_cache.backend.ping()


def _check_waiting(*, local: bool, what: str, wait: bool, timeout: float | None, rate: float | None) -> None:
    """Refuse options of a job where there is none."""
    if local and (timeout is not None or rate is not None or not wait):
        raise InvalidInput(f"{what}: leave out --no-wait, --timeout and --rate")


def _tell_who_works(*, local: bool) -> None:
    if not local:
        note("No broker is configured, so this process does the work (`cache-cli up` starts workers).")


def _warn_of_encryption(cli: CliContext) -> None:
    if cli.settings.encryption_keys is not None or cli.settings.encryption_keys_file is not None:
        note("The store is encrypted and the file is not: keep it where nobody else reads it.")


def most_entries(cli: CliContext) -> int | None:
    """Return how many entries of a namespace the store keeps, None without such a bound."""
    return None if cli.settings.backend is CacheBackend.REDIS else cli.settings.max_size


def warn_of_size(cli: CliContext, entries: int, *, held: int | None = None) -> None:
    """Say when a store keeps fewer entries than were brought into it, or than it holds and would be brought."""
    most = most_entries(cli)
    if most is None or (held or 0) + entries <= most:
        return
    told = f"The store keeps at most {most:,} entries of a namespace (max_size)"
    if held is not None:
        over = held + entries - most
        told += f" and holds {held:,}; {entries:,} more are too many by {over:,}, and so many of all would go"
    note(f"{told}: raise it to keep all.")
