"""Bad input and bad days, for every command there is.

The commands come from the program itself, so that a new one fails here until it says what it needs.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from cache_management.cli.exit_codes import ExitCode
from cache_management.cli.main import cli as program
from cache_management.cli.main import run
from cache_management.services.provider import free_port
from tests.cli.conftest import Cli
from tests.conftest import PROJECT_ROOT
from tests.migration_sources.stores import langchain
from tests.waiting import wait_until


class Needs(NamedTuple):
    """What a command is called with, and without what it cannot do its work."""

    args: str = ""
    store: bool = False
    nodes: bool = False
    broker: bool = False
    database: bool = False
    runs_on: bool = False  # until it is stopped


_STEPS = '[{"step":1,"text":"t"}]'
COMMANDS = {
    "set-cache": Needs("q a", store=True),
    "get-cache": Needs("q", store=True),
    "get-similar": Needs("q", store=True),
    "set-reasoning": Needs(f"cot p {_STEPS}", store=True),
    "get-reasoning": Needs("p", store=True),
    "reasoning diff": Needs("p o", store=True),
    "reasoning list": Needs(store=True),
    "reasoning mark": Needs("p t", store=True),
    "reasoning prune": Needs("p t", store=True),
    "reasoning stats": Needs(store=True),
    "explain": Needs("q", store=True),
    "feedback": Needs("q --right", store=True),
    "evaluate": Needs("pairs.csv"),
    "tune": Needs("pairs.csv"),
    "simulate": Needs("requests.jsonl --exact"),
    "invalidate": Needs("--all --no-confirm", store=True),
    "warm": Needs("items.json", store=True, broker=True),
    "embed run": Needs(store=True, broker=True),
    "embed check": Needs(store=True, broker=True),
    "embed plan": Needs(store=True),
    "evict run": Needs(store=True, broker=True),
    "evict plan": Needs(store=True),
    "export": Needs("out.jsonl", store=True, broker=True),
    "import-cache": Needs("in.jsonl --no-confirm", store=True, broker=True),
    "migrate": Needs("foreign.db --from langchain-sqlite --no-confirm", store=True),
    "repair check": Needs(nodes=True),
    "repair run": Needs(nodes=True, broker=True),
    "nodes accept-loss": Needs("--no-confirm", nodes=True),
    "nodes add": Needs("127.0.0.1:1", nodes=True),
    "nodes drain": Needs("127.0.0.1:1", nodes=True),
    "nodes remove": Needs("127.0.0.1:1", nodes=True),
    "nodes status": Needs(nodes=True),
    "stats": Needs(store=True),
    "metrics": Needs(),
    "serve": Needs("--exact-only", runs_on=True),
    "dashboard": Needs(runs_on=True),
    "report": Needs("page.html"),
    "config set": Needs("max_size 5"),
    "config show": Needs(),
    "config validate": Needs(),
    "jobs cancel": Needs("a1", database=True),
    "jobs items": Needs("a1", database=True),
    "jobs list": Needs(database=True),
    "jobs logs": Needs("a1", database=True),
    "jobs pause": Needs("a1", database=True),
    "jobs resume": Needs("a1", database=True),
    "jobs retry": Needs("a1", database=True, broker=True),
    "jobs show": Needs("a1", database=True),
    "jobs submit": Needs("prune", database=True, broker=True),
    "jobs watch": Needs("a1", database=True),
    "queues": Needs(broker=True),
    "doctor": Needs("--no-model"),
    "audit export": Needs("log.jsonl", database=True),
    "audit tail": Needs(database=True),
    "audit verify": Needs(database=True),
    "db dump": Needs("out.jsonl", database=True),
    "db restore": Needs("dump.jsonl", database=True),
    "db check": Needs(database=True),
    "db upgrade": Needs(database=True),
    "worker": Needs(database=True, runs_on=True),
    "beat": Needs(database=True, runs_on=True),
    "up": Needs(database=True, runs_on=True),
    "down": Needs(),
    "services": Needs(),
    "demo": Needs(runs_on=True),
    "completion": Needs("bash"),
}
ENDING = {name: needs for name, needs in COMMANDS.items() if not needs.runs_on}
NO_DATA = {"worker", "beat", "demo", "completion", "dashboard", "serve"}
"""Commands that print no data, and so no JSON."""


def leaves(command: click.Command = program, above: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, with its name."""
    if not isinstance(command, click.Group):
        yield " ".join(above), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*above, name))


LEAVES = dict(leaves())
OPTIONS = [
    (name, option)
    for name, command in LEAVES.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag
]


def words(name: str) -> list[str]:
    """Return a call of a command that is right."""
    return [*name.split(), *COMMANDS[name].args.split()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files that an export and a dump wrote."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CACHE_DATA_DIR", str(folder))
        assert run(["set-cache", "q", "a"]) == 0
        assert run(["export", "--local", str(folder / "in.jsonl")]) == 0
        assert run(["db", "dump", str(folder / "dump.jsonl")]) == 0
    return {name: (folder / name).read_bytes() for name in ("in.jsonl", "dump.jsonl")}


@pytest.fixture
def files(data_dir: Path, written: dict[str, bytes]) -> None:
    Path("requests.jsonl").write_text(2 * '{"prompt": "q", "response": "a"}\n')
    """The files that the commands are called with, in the working directory."""
    langchain(Path("foreign.db"), [("q", "fake", 0, "an answer")])
    Path("items.json").write_text('[{"prompt": "q", "response": "a"}]')
    Path("pairs.csv").write_text("text_a,text_b,label\nhow do I pay,how can I pay,1\nhow do I pay,who are you,0\n")
    for name, data in written.items():
        Path(name).write_bytes(data)


@pytest.fixture
def closed_port() -> int:
    return free_port()


def test_every_command_says_what_it_needs() -> None:
    assert set(COMMANDS) == set(LEAVES)


# wrong words


@pytest.mark.parametrize("name", LEAVES)
def test_an_unknown_option_is_named(cli: Cli, name: str, data_dir: Path) -> None:
    found = cli(*words(name), "--jsno")

    assert (found.code, found.out) == (2, "")
    assert "No such option '--jsno'" in found.err
    assert ("'--json'" in found.err.partition("Did you mean")[2]) == (name not in NO_DATA)
    assert not data_dir.exists()


@pytest.mark.parametrize("name", [name for name, command in LEAVES.items() if any(p.required for p in command.params)])
def test_a_missing_argument_is_named(cli: Cli, name: str) -> None:
    found = cli(*name.split())

    assert (found.code, found.out) == (2, "")
    assert "Missing argument" in found.err


@pytest.mark.parametrize("group", ["", *(name.split()[0] for name in LEAVES if " " in name)])
def test_an_unknown_command_suggests_one(cli: Cli, group: str) -> None:
    known = next(name for name in LEAVES if name.startswith(group)).split()[-1]

    found = cli(*group.split(), known + "x")

    assert (found.code, found.out) == (2, "")
    assert repr(known) in found.err.partition("Did you mean")[2]


@pytest.mark.parametrize(
    ("name", "option"),
    [pytest.param(n, o, id=f"{n} {o.opts[0]}") for n, o in OPTIONS if o.type.name not in ("text", "path", "file")],
)
def test_a_value_of_a_wrong_type_names_its_option(cli: Cli, name: str, option: click.Option, data_dir: Path) -> None:
    wrong = ["§", *(["nan"] if isinstance(option.type, click.types.FloatParamType) else [])]
    for value in wrong:
        found = cli(*words(name), option.opts[0], value)

        assert (found.code, found.out) == (2, ""), value
        assert option.opts[-1] in found.err or option.opts[0] in found.err


# files

_INPUTS = {
    "warm": "warm {} --local",
    "warm, a job": "jobs submit warm -s {}",
    "evaluate": "evaluate {}",
    "migrate": "migrate {} --from langchain-sqlite --no-confirm",
    "tune": "tune {}",
    "simulate": "simulate {} --exact",
    "import-cache": "import-cache {} --no-confirm --local",
    "explain --history": "explain q --history {}",
    "feedback --history": "feedback q --right --history {}",
    "config validate": "config validate {}",
    "db restore": "db restore {}",
    "set-reasoning": "set-reasoning cot p @{}",
    "-c": "-c {} stats",
}
_OUTPUTS = {
    "export": "export {}",
    "export, a stream": "export {} --local",
    "audit export": "audit export {}",
    "db dump": "db dump {}",
    "evaluate --html": "evaluate pairs.csv --html {}",
    "report": "report {}",
    "simulate --html": "simulate requests.jsonl --exact --html {}",
    "evaluate --markdown": "evaluate pairs.csv --markdown {}",
    "config set": "-c {} config set max_size 5",
}
_NO_FILES = {"--config", "--source", "--history", "--html", "--markdown", "queries_file", "pairs_file", "input_file"}
_NO_FILES |= {"output_file", "file", "files"}


def test_every_file_is_tried() -> None:
    taken = {
        option.opts[0]
        for command in LEAVES.values()
        for option in command.params
        if isinstance(option.type, click.Path)
    }

    assert taken <= _NO_FILES


@pytest.mark.parametrize("call", _INPUTS.values(), ids=_INPUTS)
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_stored(cli: Cli, call: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "noise.jsonl").write_bytes(b"\x00\xff\xfe" * 100)
    (tmp_path / "file").touch()

    for name in ("missing.jsonl", "folder.jsonl", "noise.jsonl", "file/below.jsonl"):
        found = cli(*call.format(name).split())

        assert (found.code, found.out) == (2, ""), (name, found)
        assert name in found.err, found.err

    assert cli("reasoning", "list").out == ""
    assert cli("stats", "--json").data["total_entries"] == 0


@pytest.mark.parametrize("call", _OUTPUTS.values(), ids=_OUTPUTS)
def test_a_file_that_cannot_be_written_is_named(cli: Cli, call: str, files: None) -> None:
    Path("folder.jsonl").mkdir()
    Path("file").touch()
    cli("db", "upgrade")
    before = {Path("data"), *Path().iterdir()}

    for name in ("folder.jsonl", "missing/out.jsonl", "file/below.jsonl"):
        found = cli(*call.format(name).split())

        assert (found.code, found.out) == (2, ""), (name, found)
        assert name in found.err, found.err
    full = cli(*call.format("/dev/full").split())
    assert full.code in (1, 2), full
    assert "/dev/full" in full.err, full.err

    assert {Path("data"), *Path().iterdir()} == before


# servers that are away


@pytest.mark.parametrize("name", ENDING)
def test_a_store_that_is_away_is_told(
    cli: Cli, name: str, files: None, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = COMMANDS[name]
    if needs.nodes:
        monkeypatch.setenv("CACHE_DISTRIBUTED__ENABLED", "true")
        monkeypatch.setenv("CACHE_DISTRIBUTED__NODES", ",".join(f"127.0.0.1:{free_port()}" for _ in range(3)))
        monkeypatch.setenv("CACHE_REDIS_PASSWORD", "hunter2")
    else:
        monkeypatch.setenv("CACHE_URL", f"redis://me:hunter2@127.0.0.1:{closed_port}/0")

    found = cli(*words(name))

    assert (found.code == ExitCode.CACHE) == (needs.store or needs.nodes), found
    _is_plain(found.code, found.out, found.err)


@pytest.mark.parametrize("name", [name for name, needs in ENDING.items() if not needs.nodes])
def test_a_broker_that_is_away_is_told(
    cli: Cli, name: str, files: None, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", f"redis://me:hunter2@127.0.0.1:{closed_port}/0")
    found = cli(*words(name))

    assert (found.code == ExitCode.BROKER) == COMMANDS[name].broker, found
    _is_plain(found.code, found.out, found.err)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("demo", "dashboard", "serve")])
def test_a_database_that_is_away_is_told(
    cli: Cli, name: str, files: None, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_METADATA_URL", f"postgresql+psycopg://me:hunter2@127.0.0.1:{closed_port}/x")

    found = cli(*words(name))

    assert (found.code == ExitCode.DATABASE) == COMMANDS[name].database, found
    _is_plain(found.code, found.out, found.err)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("demo", "dashboard", "serve")])
def test_a_data_folder_that_cannot_be_made_is_told(
    cli: Cli, name: str, files: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CACHE_DATA_DIR", str(tmp_path / "file" / "below"))

    found = cli(*words(name))

    needs = COMMANDS[name]
    if needs.store:
        assert found.code == ExitCode.CACHE, found
    elif needs.database:
        assert found.code == (ExitCode.USAGE if name == "up" else ExitCode.DATABASE), found
    _is_plain(found.code, found.out, found.err)


def _is_plain(code: int, out: str, err: str) -> None:
    assert code in list(ExitCode)
    assert code == 0 or out or err.strip()
    assert "hunter2" not in out + err
    assert "--debug shows where" not in err, err


# output that goes nowhere


@pytest.mark.parametrize("name", ENDING)
def test_output_that_cannot_be_written_is_told_and_a_reader_that_left_is_no_error(
    cli: Cli, name: str, files: None, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> None:
        for made in ("out.jsonl", "log.jsonl"):
            Path(made).unlink(missing_ok=True)
        if name == "db restore":
            shutil.rmtree(data_dir, ignore_errors=True)

    cli("set-cache", "q", "a")
    if name == "db dump":
        cli("db", "upgrade")
    begin()
    usual = cli(*words(name))
    if not usual.out:
        assert usual.code != 0 or name == "reasoning list"
        return
    begin()
    with monkeypatch.context() as patched, Path("/dev/full").open("w") as full:
        patched.setattr(sys, "stdout", full)
        found = cli(*words(name))
    assert found.code == 1, found
    assert found.err.endswith("Error: standard output cannot be written: No space left on device\n")

    begin()
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patched, os.fdopen(writer, "w") as left:
        patched.setattr(sys, "stdout", left)
        found = cli(*words(name))
    assert found.code == 0, found
    assert "rror" not in found.err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"])
def test_closed_streams_are_no_crash(data_dir: Path, closed: str) -> None:
    command = f"{sys.executable} -m cache_management.cli set-cache q a {closed}"

    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert found.returncode == (1 if ">/dev/full 2" in closed else 0)
    assert "Traceback" not in found.stderr
    assert run(["get-cache", "q"]) == 0  # and no line of output went into the store


# JSON


@pytest.mark.parametrize("name", LEAVES)
def test_whatever_prints_data_prints_json(name: str) -> None:
    assert any("--json" in option.opts for option in LEAVES[name].params) == (name not in NO_DATA)


@pytest.mark.parametrize("name", sorted(ENDING.keys() - NO_DATA))
def test_json_is_all_that_stands_on_standard_output(cli: Cli, name: str, files: None) -> None:
    cli("set-cache", "q", "a")

    found = cli(*words(name), "--json")

    assert found.code != 2 or COMMANDS[name].nodes or name == "reasoning diff", found
    if found.out:
        assert found.data is not None
    else:
        assert found.code != 0
        assert found.err.strip()


# Ctrl-C


def test_an_interrupted_command_says_so_and_leaves_nothing_half_done(data_dir: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    provider = tmp_path / "provider"
    provider.write_text(f"#!/bin/sh\ntouch {asked}\nread -r never < {tmp_path / 'pipe'}\n")
    provider.chmod(0o755)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "items.json").write_text('[{"prompt": "q"}]')
    assert run(["db", "upgrade"]) == 0
    calls = {
        "warm": ["warm", "--local", "items.json"],
        "logs": ["jobs", "logs", "-f", _queued_job()],
        "serve": ["metrics", "--serve", "--port", str(free_port())],
    }
    env = dict(os.environ, CACHE_PROVIDER__COMMAND=str(provider))
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "cache_management.cli", *call],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
        )
        for name, call in calls.items()
    }
    wait_until(asked.exists, 30)
    for name, stream in (("logs", running["logs"].stdout), ("serve", running["serve"].stderr)):
        assert stream is not None
        assert stream.readline(), name

    for process in running.values():
        process.send_signal(signal.SIGINT)
    errors = {name: process.communicate(timeout=20)[1] for name, process in running.items()}

    assert {name: process.returncode for name, process in running.items()} == dict.fromkeys(calls, 130)
    assert {name: said.splitlines()[-1] for name, said in errors.items()} == dict.fromkeys(calls, "interrupted")
    assert run(["get-cache", "q"]) == 1


INTERRUPTED_EARLY = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from cache_management.cli import start
start()
"""


def test_a_command_that_is_interrupted_while_it_loads_shows_no_traceback() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"cache-cli": "cache_management.cli:start"}

    found = subprocess.run([sys.executable, "-c", INTERRUPTED_EARLY], capture_output=True, text=True, check=False)

    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def _queued_job() -> str:
    from cache_management.settings import load_settings
    from cache_management.workers.client import JobClient

    client = JobClient(load_settings().settings)
    try:
        return client.submit("prune", {}).job_id
    finally:
        client.close()


def test_an_input_that_ends_is_no_yes(cli: Cli, files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("set-cache", "q", "a")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    found = cli("invalidate", "--all")

    assert found.code == 2
    assert "--yes" in found.err
    assert cli("get-cache", "q").code == 0
