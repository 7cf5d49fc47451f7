"""The layout that docs and tools rely on: root links, the wheel, the public names, light imports."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cache_management
from tests.conftest import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "cache_management"
LINKED = ("cache", "workers", "models", "migrations")
REFERENCE_NAMES = {
    "CacheBackend",
    "CacheConfig",
    "CacheManager",
    "CacheWarmer",
    "CachedResponse",
    "CoTStep",
    "DistributedCache",
    "EmbeddingModel",
    "EvictionPolicy",
    "LLMCache",
    "MetricsCollector",
    "ReasoningCache",
    "ReasoningResult",
    "ReplicationConfig",
    "ShardingStrategy",
    "SimilarityConfig",
    "SimilarityMatcher",
    "ToTNode",
}
OWN_NAMES = {
    "CachingTransport",
    "Computed",
    "CrossEncoderOpinion",
    "Lookup",
    "Selection",
    "cached",
    "cached_anthropic",
    "cached_openai",
    "enqueue_warm",
}
HEAVY = {
    *("torch", "celery", "sqlalchemy", "numpy", "redis", "sentence_transformers", "click", "alembic"),
    *("httpx", "httpx2", "openai", "anthropic", "starlette", "uvicorn"),
}


def sources() -> Iterator[Path]:
    return (file for folder in (PACKAGE, PROJECT_ROOT / "tests") for file in sorted(folder.rglob("*.py")))


def modules_after(statement: str, **env: str) -> set[str]:
    """Return the modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport json, sys\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("CACHE_")}, **env},
    )
    return set(json.loads(said.stdout.splitlines()[-1]))


# the root


@pytest.mark.parametrize("name", LINKED)
def test_root_link_points_into_the_package(name: str) -> None:
    link = PROJECT_ROOT / name

    assert link.is_symlink()
    assert str(link.readlink()) == f"cache_management/{name}"
    assert (link / "__init__.py").samefile(PACKAGE / name / "__init__.py")


@pytest.mark.parametrize("name", LINKED)
def test_root_link_is_committed_as_a_link(name: str) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--stage", name], cwd=PROJECT_ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert listed.startswith("120000 ")


def test_no_ignore_rule_hides_the_package() -> None:
    hidden = subprocess.run(
        ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "cache_management", "tests"],
        cwd=PROJECT_ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()

    assert [name for name in hidden if "__pycache__" not in name] == []


def test_nothing_imports_through_the_root_links() -> None:
    wrong = []
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            wrong += [f"{file.relative_to(PROJECT_ROOT)}: {name}" for name in names if name.split(".")[0] in LINKED]

    assert wrong == []


# the public names


def test_public_names_are_the_reference_document_s_and_ours() -> None:
    assert set(cache_management.__all__) == (REFERENCE_NAMES | OWN_NAMES)
    assert len(REFERENCE_NAMES) == 18


@pytest.mark.parametrize("name", sorted(cache_management.__all__))
def test_public_name_loads_on_first_use(name: str) -> None:
    found = getattr(cache_management, name)

    assert found.__name__ == name
    assert found.__module__.startswith("cache_management.")
    assert name in dir(cache_management)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LLMCahce'"):
        cache_management.LLMCahce  # noqa: B018


def test_editors_and_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    shown = {
        (alias.asname, f"{node.module}")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert shown == {(name, f"cache_management.{home}") for name, home in cache_management._HOME.items()}


# light imports


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = modules_after("import cache_management")

    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ("CacheBackend, CacheConfig, CachedResponse, EvictionPolicy, LLMCache", set()),
        ("SimilarityConfig, EmbeddingModel", set()),
        ("CachingTransport, cached_anthropic, cached_openai", set()),
        ("CacheManager, CacheWarmer, SimilarityMatcher", {"numpy"}),
    ],
)
def test_core_names_load_no_toolkit_that_they_do_not_need(names: str, allowed: set[str]) -> None:
    loaded = modules_after(f"from cache_management import {names}")

    assert loaded & HEAVY <= allowed


LISTING = {"asyncio", "msgspec", "pydantic", "rich", "yaml", "cache_management.settings", "cache_management.wiring"}
OF_OTHER_COMMANDS = {
    "cache_management.cache.backends.memory",
    "cache_management.cache.manager",
    "cache_management.cache.reasoning.cache",
    "cache_management.cache.semantic.gates",
    "cache_management.models.store",
    "cache_management.services.supervisor",
    "cache_management.workers.client",
    *("platformdirs", "prometheus_client", "regex", "rich", "yaml"),
}


@pytest.mark.parametrize(
    ("command", "code", "unloaded"),
    [
        (["--help"], 0, LISTING | OF_OTHER_COMMANDS),
        (["--version"], 0, LISTING | OF_OTHER_COMMANDS),
        (["get-cashe"], 2, LISTING | OF_OTHER_COMMANDS),
        (["config", "show", "--json"], 0, {"asyncio", "cache_management.cache.llm"} | OF_OTHER_COMMANDS),
        (["set-cache", "q", "a"], 0, OF_OTHER_COMMANDS),
        (["get-cache", "q"], 1, OF_OTHER_COMMANDS),
        (["stats", "--json"], 0, OF_OTHER_COMMANDS),
    ],
)
def test_a_command_loads_only_what_it_uses(command: list[str], code: int, unloaded: set[str], tmp_path: Path) -> None:
    statement = f"from cache_management.cli.main import run; assert run({command}) == {code}"

    loaded = modules_after(statement, CACHE_DATA_DIR=str(tmp_path))

    assert loaded & (unloaded | HEAVY - {"click"}) == set()


@pytest.mark.parametrize("command", [["jobs", "list"], ["audit", "tail"], ["stats"], ["db", "check"]])
def test_a_command_on_a_database_loads_that_and_no_more(command: list[str], tmp_path: Path) -> None:
    run = "from cache_management.cli.main import run; assert run({}) == 0"
    modules_after(run.format(["db", "upgrade"]), CACHE_DATA_DIR=str(tmp_path))

    loaded = modules_after(run.format(command), CACHE_DATA_DIR=str(tmp_path))

    unwanted = OF_OTHER_COMMANDS - {"cache_management.models.store", "rich"} | HEAVY - {"click", "sqlalchemy"}
    assert loaded & (unwanted | {"cache_management.cache.warm_items"}) == set()


def test_importing_the_package_reads_no_environment_and_opens_nothing() -> None:
    code = (
        "import os, socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('a side effect of the import')\n"
        "socket.socket.connect = refuse\n"
        "os.mkdir = os.makedirs = refuse\n"
        "import cache_management, cache_management.cache.llm, cache_management.cache.warmer\n"
    )

    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True, timeout=60)


# the wheel


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files in a wheel that is built offline from a copy of what git knows and would add."""
    pytest.importorskip("setuptools", minversion="80")
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT_ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT_ROOT / name).exists() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT_ROOT / name, source / name, follow_symlinks=False)
    built = subprocess.run(
        [sys.executable, "-c", f"import setuptools.build_meta as b; print(b.build_wheel({str(out)!r}))"],
        cwd=source,
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_every_module(wheel_names: set[str]) -> None:
    modules = {str(file.relative_to(PROJECT_ROOT)) for file in PACKAGE.rglob("*.py")}

    assert {name for name in wheel_names if name.endswith(".py")} == modules


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {file.parent for file in PACKAGE.rglob("*.py")}

    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_wheel_holds_the_data_files(wheel_names: set[str]) -> None:
    data = {
        str(file.relative_to(PROJECT_ROOT))
        for file in PACKAGE.rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc"}
    }

    assert "cache_management/py.typed" in data
    assert "cache_management/migrations/script.py.mako" in data
    assert data - wheel_names == set()


def test_wheel_holds_nothing_but_the_package(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"cache_management"}
