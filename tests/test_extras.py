"""What is said where a library is missing that an extra brings."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from cache_management.cache.extras import EXTRAS, missing_extra
from tests.conftest import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "cache_management"
PROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
# What belongs to the application or to a server of ours: it is given to us, or is never loaded by us without it.
GIVEN = {"httpx", "openai", "anthropic"}


def libraries() -> Iterator[tuple[str, Path]]:
    """Give each library from elsewhere that the package imports, and where."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "cache_management":
                    yield top, file


def distributions(lines: list[str]) -> set[str]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    return {canonicalize_name(Requirement(line).name) for line in lines}


def brought_by(extra: str) -> set[str]:
    """Name what an extra installs, and what that needs itself."""
    direct = distributions(PROJECT["optional-dependencies"][extra])
    return direct.union(*(distributions(metadata.requires(name) or []) for name in direct & installed()))


@cache
def installed() -> set[str]:
    return distributions([each.name for each in metadata.distributions()])


def test_every_library_is_a_dependency_or_comes_with_the_extra_that_is_named() -> None:
    homes = metadata.packages_distributions()
    core = distributions(PROJECT["dependencies"])
    extra_of = {library: extra for extra, found in EXTRAS.items() for library in found}
    unknown = {}
    for library, file in libraries():
        dists = distributions(homes.get(library, [library]))
        if dists & core or library in GIVEN:
            continue
        extra = extra_of.get(library)
        if extra is None or not dists & brought_by(extra):
            unknown[library] = (extra, file.relative_to(PROJECT_ROOT))

    assert unknown == {}


def without(missing: str, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code where some libraries are not installed."""
    refuse = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""
    return subprocess.run(
        [sys.executable, "-c", refuse + code],
        cwd=PROJECT_ROOT,
        env={"CACHE_DATA_DIR": str(folder), "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["get-similar", "q"], "semantic"),
        (["explain", "q"], "semantic"),
        (["jobs", "list"], "workers"),
        (["up"], "workers"),
        (["doctor"], "workers"),
        (["serve", "--exact-only"], "serve"),
        (["metrics"], "monitoring"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(command: list[str], extra: str, tmp_path: Path) -> None:
    code = f"from cache_management.cli.main import run; sys.exit(run({command}))"

    said = without(" ".join(EXTRAS[extra]), code, tmp_path)

    assert said.returncode == 1
    assert f"pip install 'cache-management[{extra}]'" in said.stderr
    assert len(said.stderr.splitlines()) == 1, said.stderr


def test_a_log_is_replayed_exactly_without_numpy(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text('[{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "b"}]')
    code = f"from cache_management.cli.main import run; sys.exit(run(['simulate', {str(log)!r}, '--exact', '--json']))"

    said = without("numpy", code, tmp_path)

    assert said.returncode == 0, said.stderr
    assert '"exact":1' in said.stdout.replace(" ", "")


def test_what_is_done_without_a_database_says_why_it_is_not_in_the_audit_log(tmp_path: Path) -> None:
    code = "from cache_management.cli.main import run; sys.exit(run(['invalidate', '--pattern', 'q', '--yes']))"

    said = without(" ".join(EXTRAS["workers"]), code, tmp_path)

    assert said.returncode == 0, said.stderr
    assert "not in the audit log: that needs sqlalchemy, which comes with: pip install" in said.stderr


def test_a_public_name_names_the_extra_that_it_needs(tmp_path: Path) -> None:
    said = without("numpy", "from cache_management import SimilarityMatcher", tmp_path)

    assert said.stderr.endswith(
        "ImportError: SimilarityMatcher needs numpy, which comes with: pip install 'cache-management[semantic]'\n"
    )


def test_what_no_extra_brings_is_said_as_it_is() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert missing_extra(ImportError("cannot import name 'x' from 'numpy'", name="numpy")) is None
