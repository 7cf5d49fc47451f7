"""Pages that are written from the sources are as the sources say, and name all there is."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click
import pytest

import cache_management
from cache_management.cli.main import cli as program

ROOT = Path(__file__).resolve().parent.parent
API = (ROOT / "docs/api.md").read_text()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
]
_LINE = r"\bcache-cli [^\n#;|&>)'\"]*(?:\"[^\"\n]*\"[^\n#;|&>)'\"]*)*"
IN_BLOCKS = {
    found.replace("\\", "").strip() for block in BLOCKS for found in re.findall(_LINE, block) if "$(" not in found
}
IN_PROSE = {
    *(
        " ".join(found.split())
        for page in PAGES
        for found in re.findall(r"`(cache-cli [^`…[]+)`", page.read_text())
        if page.name != "commands.md"
    ),
    # Those that are put together with a job's id or a queue stand in the tests of the checks.
    *(
        found
        for path in (ROOT / "cache_management/workers/doctor").glob("*.py")
        for found in re.findall(r"`(cache-cli [^`{\n]+)`", path.read_text())
    ),
}


@pytest.mark.parametrize("command", sorted(IN_BLOCKS | IN_PROSE))
def test_a_command_can_be_typed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, *words = shlex.split(command, posix=True)
    for name in words:
        if name.isupper() or name.endswith((".json", ".jsonl", ".zst", ".yaml")):
            path = Path(name)
            if not path.is_absolute() and "$" not in name:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
    here: click.Command = program
    with click.Context(program, info_name="cache-cli") as context:
        while isinstance(here, click.Group) and words and not words[0].startswith("-"):
            name, found, words = here.resolve_command(context, words)
            assert found is not None
            here = found
            if isinstance(here, click.Group):
                context = click.Context(here, parent=context, info_name=name)
        # Parsed with every check of its arguments, and not run. Prose may leave out what a command works on.
        prose = () if command in IN_BLOCKS else (click.MissingParameter, click.exceptions.NoArgsIsHelpError)
        with suppress(click.exceptions.Exit, *prose), here.make_context(here.name, words, parent=context):
            pass


@pytest.mark.parametrize("tool", ["api-reference", "command-reference"])
def test_a_written_page_is_up_to_date(tool: str) -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"], capture_output=True, text=True, check=False
    )

    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("tool", ["api-reference", "command-reference", "monitoring"])
@pytest.mark.parametrize(("option", "code"), [("--chekc", 2), ("--help", 0)])
def test_a_tool_that_is_asked_for_something_else_writes_nothing(
    tool: str, option: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runpy.run_path(str(ROOT / "tools" / tool))

    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("written"))

    assert found["main"]([option]) == code


def test_every_public_name_stands_in_the_reference() -> None:
    assert set(cache_management.__all__) <= set(re.findall(r"^### `([^`.]+)`$", API, flags=re.MULTILINE))


@pytest.mark.parametrize("module", ["errors", "events"])
def test_every_error_and_event_stands_there(module: str) -> None:
    source = (ROOT / f"cache_management/cache/{module}.py").read_text()
    section = API.partition(f"## {module.capitalize()}\n")[2]

    assert [
        name for name in re.findall(r"^class ([A-Z]\w+)", source, flags=re.M) if f"| `{name}` |" not in section
    ] == []
