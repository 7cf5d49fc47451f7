"""Stream files: resumed where they were written for good, whole or not there, and never over somebody's file."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.transfer import exporting
from cache_management.cache.transfer.exporting import Exporter, ExportPlace, ExportWanted
from cache_management.cache.transfer.stream_files import StreamWriter, TargetFull, TargetLost, check_target
from tests.cache.transfer.shelves import contents, export_to, fill, import_from, open_cache, shelf_of
from tests.contracts.broken import BreakableBackend

ENDINGS = ["jsonl", "jsonl.zst"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PART_ENTRIES", 20)
    monkeypatch.setattr(exporting, "PAGES_AT_ONCE", 2)


@contextmanager
def at_most(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: what a full disk does, for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_export_that_dies_behind_any_step_goes_on_and_is_whole(tmp_path: Path, ending: str) -> None:
    cache = open_cache()
    await fill(cache, 205)
    file = tmp_path / f"x.{ending}"
    place = ExportPlace("some-id")
    steps = 0
    while place.step != "done":
        exporter = Exporter(shelf_of(cache), ExportWanted(file, "0.0-test"), export_id=place.id)
        lost = await exporter.advance(place)  # its note is lost with the one who did it
        assert lost != place
        exporter.close()
        if exporter.writer.unfinished.exists():
            with exporter.writer.unfinished.open("ab") as tail:
                tail.write(b"half a part that nobody notes")
        assert file.exists() == (lost.step == "done"), "nobody sees half a file"
        exporter = Exporter(shelf_of(cache), ExportWanted(file, "0.0-test"), export_id=place.id)
        place = await exporter.advance(place)
        exporter.close()
        steps += 1

    here = open_cache()
    await import_from(file, here)

    assert steps > 5
    assert await contents(here) == await contents(cache)
    assert place.file_bytes == file.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_full_disk_costs_the_unfinished_part_only(tmp_path: Path, ending: str) -> None:
    cache = open_cache()
    await fill(cache, 300)
    file = tmp_path / f"x.{ending}"
    whole = (await export_to(tmp_path / f"measure.{ending}", cache)).file_bytes
    reached = [ExportPlace("some-id")]
    exporter = Exporter(shelf_of(cache), ExportWanted(file, "0.0-test"), export_id="some-id")

    async def go_on() -> None:
        while reached[-1].step != "done":
            reached.append(await exporter.advance(reached[-1]))

    with at_most(int(whole * 0.6)), pytest.raises(TargetFull, match="there is no room"):
        await go_on()

    assert reached[-1].written.offset > 0
    assert exporter.writer.unfinished.stat().st_size <= whole * 0.6
    await go_on()
    here = open_cache()
    await import_from(file, here)
    assert await contents(here) == await contents(cache)


async def test_an_export_whose_unfinished_file_is_gone_or_short_says_so(tmp_path: Path) -> None:
    cache = open_cache()
    await fill(cache, 100)
    wanted = ExportWanted(tmp_path / "x.jsonl", "0.0-test")
    exporter = Exporter(shelf_of(cache), wanted, export_id="some-id")
    place = await exporter.advance(ExportPlace("some-id"))
    exporter.close()
    os.truncate(exporter.writer.unfinished, place.written.offset - 1)

    with pytest.raises(TargetLost, match="begin again"):
        await Exporter(shelf_of(cache), wanted, export_id="some-id").advance(place)
    exporter.writer.discard()
    with pytest.raises(TargetLost, match="cannot be opened"):
        await Exporter(shelf_of(cache), wanted, export_id="some-id").advance(place)


async def test_a_store_that_is_away_leaves_the_place_to_go_on_from(tmp_path: Path) -> None:
    backend = BreakableBackend(up=True)
    cache = open_cache(backend)
    await fill(cache, 100)
    exporter = Exporter(shelf_of(cache), ExportWanted(tmp_path / "x.jsonl", "0.0-test"), export_id="some-id")
    place = await exporter.advance(ExportPlace("some-id"))
    backend.up = False

    with pytest.raises(BackendUnavailable):
        await exporter.advance(place)
    backend.up = True
    while place.step != "done":
        place = await exporter.advance(place)

    assert place.written.entries == 100


async def test_a_file_that_is_there_is_replaced_only_when_that_is_wanted(tmp_path: Path) -> None:
    cache = open_cache()
    file = tmp_path / "x.jsonl"
    file.write_text("somebody's")

    with pytest.raises(InvalidInput, match=r"is there already; give --force"):
        await export_to(file, cache)
    assert file.read_text() == "somebody's"

    await export_to(file, cache, replace=True)
    assert file.read_text().startswith('{"type":"header"')


@pytest.mark.parametrize(
    ("target", "says"),
    [("", "is a folder"), ("absent/x.jsonl", "there is no folder"), ("file/x.jsonl", "there is no folder")],
)
def test_a_target_that_cannot_be_written_is_one_clear_line(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InvalidInput, match=says):
        check_target(tmp_path / target, replace=True)


async def test_a_link_in_the_way_of_the_hidden_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    writer = StreamWriter(tmp_path / "x.jsonl", owner="some-id")
    writer.unfinished.symlink_to(victim)

    with pytest.raises(TargetLost):
        writer.write_whole(b"data", replace=False)

    assert victim.read_text() == "precious"


async def test_what_others_left_unfinished_long_ago_goes_and_what_is_young_stays(tmp_path: Path) -> None:
    cache = open_cache()
    old, young, other = (tmp_path / name for name in (".x.jsonl.old.part", ".x.jsonl.new.part", ".y.jsonl.old.part"))
    for file in (old, young, other):
        file.write_text("")
    for file in (old, other):
        os.utime(file, (1, 1))

    await export_to(tmp_path / "x.jsonl", cache)

    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
