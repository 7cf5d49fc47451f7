"""A dump holds everything, and a file that is not whole restores nothing."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from sqlalchemy import func, select, text

from cache_management.cache.errors import InvalidInput, MetadataUnavailable
from cache_management.models.base import Base, Database
from cache_management.models.job import JobEvent
from cache_management.models.store import Stores, open_stores, schema
from cache_management.models.store import dump as dumping
from cache_management.models.store.dump import dump, restore
from cache_management.settings import load_settings
from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # noqa: PLC0414 - fixtures are passed on
from tests.cli.conftest import data_dir as data_dir  # noqa: PLC0414
from tests.conftest import PROJECT_ROOT
from tests.models.acting import Acting, HandClock

GOLDEN = PROJECT_ROOT / "tests" / "data" / "metadata-0003.jsonl"


@pytest.fixture
def filled(acting: Acting) -> Stores:
    """A database with rows in every table: jobs that ended and one in the middle, counts, marks, an audit log."""
    acting.run(acting.planned(3, embed=True, idem_key="ended"))
    rings = acting.planned(
        4, shards=2, params={"text": "\u00e4\u2028\U0001f642", "share": 0.1}, inputs=[(b"\x00\xff", 3)]
    )
    acting.work(acting.claim(rings[0]))
    operations = acting.stores.operations
    operations.add_stats({"hits": 3}, namespace="faq", model="gpt-4")
    operations.touch_mark("warm", "w@here")
    operations.take_tokens("provider", rate_per_second=3, burst=7)
    moved = operations.usage_cursor("faq"), "5-0"
    now = operations.now()
    assert operations.count_usage("faq", moved, {(now, "faq", "gpt-4"): {"hits": 2}}, {("faq", "digest"): (1, 2)})
    acting.stores.jobs.create_scheduled("nightly", "prune", {}, every_seconds=60, namespace="faq", submitted_by="beat")
    return acting.stores


def contents(url: str) -> dict[str, list[dict[str, Any]]]:
    """Read everything, without the code under test."""
    database = Database(url)
    try:
        with database.read() as connection:
            return {
                table.name: [
                    dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()
                ]
                for table in Base.metadata.sorted_tables
            }
    finally:
        database.close()


def text_of(stores: Stores) -> bytes:
    file = io.BytesIO()
    dump(stores.database, file, compressed=False)
    return file.getvalue()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Stores]:
    """A SQLite database that is not there yet."""
    stores = open_stores(f"sqlite:///{tmp_path}/restored.db")
    yield stores
    stores.close()


def test_everything_comes_back_on_the_other_kind_of_database(
    filled: Stores, tmp_path: Path, request: pytest.FixtureRequest, url: str, clock: HandClock
) -> None:
    before = contents(url)
    assert [name for name, rows in before.items() if not rows] == []
    file = tmp_path / "all.jsonl.zst"
    with file.open("wb") as out:
        end = dump(filled.database, out, compressed=True)
    is_server = url.startswith("postgresql")
    other = f"sqlite:///{tmp_path}/other.db" if is_server else str(request.getfixturevalue("postgres_url"))
    restored = open_stores(other, clock=clock)

    restore(restored.database, file)

    assert end.rows == {name: len(rows) for name, rows in before.items()}
    assert contents(other) == before
    assert restored.audit.verify(head=filled.audit.head()) is None
    # What the database counts by itself goes on behind what was restored, and so do jobs.
    (live,) = [job for job in restored.jobs.list() if job.state == "running"]
    Acting(restored, clock).finish(live.id)
    with restored.database.read() as connection:
        assert connection.execute(select(func.max(JobEvent.id))).scalar_one() > len(before["job_events"])
    restored.close()


def test_a_dump_is_of_one_moment(
    filled: Stores, monkeypatch: pytest.MonkeyPatch, acting: Acting, empty: Stores
) -> None:
    """Somebody submits a job after the first tables were written, and before the last."""
    reached: list[str] = []
    real = dumping._to_json

    def write_meanwhile(kind: Any) -> Any:
        if not reached:
            reached.append(acting.submit(idem_key="meanwhile").job_id)
        return real(kind)

    monkeypatch.setattr(dumping, "_to_json", write_meanwhile)

    lines = [json.loads(line) for line in text_of(filled).splitlines()]

    assert reached
    assert [line for line in lines if reached[0] in str(line)] == []


def test_a_dump_of_an_older_schema_is_brought_up_to_this_one(tmp_path: Path, url: str, empty: Stores) -> None:
    schema.upgrade(url)
    stores = open_stores(url)
    stores.operations.add_stats({"hits": 3}, namespace="faq", model="gpt-4")
    stores.audit.append(actor="me", action="act")
    schema.downgrade(url, "0002")
    file = tmp_path / "old.jsonl"
    file.write_bytes(text_of(stores))

    restore(empty.database, file)

    empty.check()
    assert empty.operations.sum_stats(namespace="faq") == {"hits": 3}
    assert empty.audit.verify(head=empty.audit.head()) is None
    stores.close()


def test_a_dump_of_the_first_release_can_be_read(tmp_path: Path, empty: Stores) -> None:
    """The file was written by version 0.1.0 and is never written anew."""
    restore(empty.database, GOLDEN)

    empty.check()
    assert empty.jobs.count_by_state() == {"succeeded": 1, "running": 1, "queued": 1}
    assert empty.audit.verify(head=empty.audit.head()) is None
    assert empty.operations.sum_stats(namespace="faq") == {"hits": 9}


def sealed(lines: list[bytes]) -> bytes:
    """Give lines an end that fits them, as a forger would."""
    rows = Counter(dict.fromkeys(json.loads(lines[0])["tables"], 0))
    rows.update(json.loads(line)[0] for line in lines[1:])
    body = b"".join(lines)
    return body + json.dumps({"rows": rows, "sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"


def with_header(data: bytes, **changed: object) -> bytes:
    first, *rest = data.splitlines(keepends=True)
    return sealed([json.dumps({**json.loads(first), **changed}).encode() + b"\n", *rest[:-1]])


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off between lines": (lambda data: b"".join(data.splitlines(keepends=True)[:-1]), "cut off"),
    "cut off in a line": (lambda data: data[: len(data) // 2], "no row of a table"),
    "without a row": (lambda data: b"".join(data.splitlines(keepends=True)[:3] + data.splitlines(True)[4:]), "damaged"),
    "changed": (lambda data: data.replace(b"gpt-4", b"gpt-5", 1), "damaged"),
    "with more behind it": (lambda data: data + b"x", "something follows the end"),
    "of another format": (lambda data: with_header(data, format="cache-management metadata 2"), "newer"),
    "of a newer schema": (lambda data: with_header(data, revision="9999"), "newer"),
    "with another table": (lambda data: with_header(data, tables={"users": ["id"]}), "not those of revision"),
    "an answer of another program": (lambda _: b"{}\n", "no dump of a metadata database"),
    "empty": (lambda _: b"", "no dump of a metadata database"),
    "a row twice": (lambda data: sealed([*data.splitlines(True)[:2], *data.splitlines(True)[1:-1]]), "does not fit"),
    "a moment that is none": (
        lambda data: sealed([line.replace(b"2026-01-01T", b"2026-13-01T") for line in data.splitlines(True)[:-1]]),
        "no row of a table",
    ),
    "no zstd behind its first bytes": (lambda _: b"\x28\xb5\x2f\xfdnonsense", "cannot be decompressed"),
    "zstd that is cut off": (lambda data: zstandard.compress(data)[:-9], "no dump of a metadata database"),
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real dump."""
    return GOLDEN.read_bytes()


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_is_damaged_or_made_up_restores_nothing(
    kind: str, real: bytes, tmp_path: Path, empty: Stores
) -> None:
    change, says = DAMAGE[kind]
    changed = change(real)
    assert changed != real
    file = tmp_path / "bad.jsonl"
    file.write_bytes(changed)

    with pytest.raises(InvalidInput, match=says):
        restore(empty.database, file)

    if Path(str(empty.database.file)).exists():
        schema.upgrade(empty.database.url)
        assert not any(contents(empty.database.url).values())
    file.write_bytes(real)
    restore(empty.database, file)


def test_nothing_is_restored_over_something(filled: Stores, url: str, tmp_path: Path) -> None:
    before = contents(url)

    with pytest.raises(InvalidInput, match=r"holds something \(\w+\), and .* into an empty one only"):
        restore(filled.database, GOLDEN)

    assert contents(url) == before


def test_a_database_whose_tables_are_empty_counts_as_empty(url: str) -> None:
    schema.upgrade(url)
    stores = open_stores(url)

    restore(stores.database, GOLDEN)

    assert stores.jobs.count_by_state()["running"] == 1
    stores.close()


def test_what_is_not_there_cannot_be_dumped(empty: Stores) -> None:
    with pytest.raises(MetadataUnavailable, match="nothing to dump"):
        text_of(empty)

    assert not Path(str(empty.database.file)).exists()


def test_tables_of_others_in_the_same_database_are_left_alone(filled: Stores) -> None:
    with filled.database.write() as connection:
        connection.execute(text("CREATE TABLE vectors_of_somebody (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO vectors_of_somebody VALUES (1)"))

    assert b"vectors_of_somebody" not in text_of(filled)


# the commands


def test_the_commands_dump_and_restore(cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("db", "upgrade")
    stores = open_stores(load_settings().settings.metadata_url)
    stores.audit.append(actor="me", action="act")
    stores.close()

    made = cli("db", "dump", "all.jsonl.zst", "--json")
    assert (made.code, made.data["rows"]["audit_log"]) == (0, 1)
    assert Path("all.jsonl.zst").stat().st_mode & 0o777 == 0o600
    assert cli("db", "dump", "all.jsonl.zst").code == 2
    assert "absent cannot be read" in cli("db", "restore", "absent").err
    assert cli("db", "restore", "all.jsonl.zst").code == 2

    monkeypatch.setenv("CACHE_METADATA_URL", f"sqlite:///{data_dir}/new.db")
    assert cli("db", "restore", "all.jsonl.zst", "--json").data["rows"]["audit_log"] == 1
    assert [row["action"] for row in cli("audit", "tail", "--json").data] == ["act", "db.restore"]
    assert cli("audit", "verify").code == 0
