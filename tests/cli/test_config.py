"""config show, config validate, and how settings reach the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache_management.settings import load_settings
from tests.cli.conftest import Cli

REFERENCE_STYLE = """\
backend: redis
redis_host: cache.example.com
redis_port: 6380
redis_password: hunter2
ttl_seconds: 7200
disk_size_limit: 10GB
distributed:
  enabled: true
  nodes: [a:6379, b:6379, c:6379]
  replicas: 1
"""


def test_every_setting_is_shown_with_its_source_and_no_secret(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cache_config.yaml").write_text(REFERENCE_STYLE)
    monkeypatch.setenv("CACHE_TTL_SECONDS", "60")
    monkeypatch.setenv("CACHE_METADATA_URL", "postgresql+psycopg://me:hunter2@db/cache")

    found = cli("config", "show", "--json")

    assert found.code == 0
    assert "hunter2" not in found.out
    assert found.data["values"]["ttl_seconds"] == 60
    assert found.data["sources"]["ttl_seconds"] == "environment"
    assert found.data["sources"]["redis_port"] == "file"
    assert found.data["sources"]["max_size"] == "default"
    assert found.data["values"]["distributed.nodes"] == ["a:6379", "b:6379", "c:6379"]


def test_a_valid_file_is_valid(cli: Cli) -> None:
    Path("mine.yaml").write_text(REFERENCE_STYLE)

    assert cli("config", "validate", "mine.yaml").code == 0
    assert cli("-c", "mine.yaml", "config", "validate", "--json").data["valid"] is True


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("semantic:\n  gates_off: [numbers]\n", ["semantic.gates_off", "no gate 'numbers'", "the gates are number"]),
        ("redis_prot: 1", ["redis_prot", "did you mean redis_port?"]),
        ("cache_url: 'memory://'", ["cache_url", "did you mean url?"]),
        ("ttl: 5", ["did you mean ttl_seconds?"]),
        ("recheckrate: 5", ["did you mean semantic.recheck_rate?"]),
        ("zebra: 5", ["`cache-cli config show` lists the keys"]),
        ("backend: postgres", ["backend", "'postgres'", "redis"]),
        ("ttl_seconds: 0", ["ttl_seconds", "0"]),
        ("max_size: many", ["max_size", "'many'"]),
        ("disk_size_limit: 10 parsecs", ["disk_size_limit", "10 parsecs", "10GiB"]),
        ("similarity_threshold: 1.5", ["similarity_threshold", "1.5"]),
        ("distributed:\n  nodez: []", ["distributed.nodez", "distributed.nodes"]),
        ("distributed: 3", ["distributed"]),
        (
            "url: redis://a:1\ndistributed:\n  enabled: true\n  nodes: [a:1, b:1, c:1]",
            ["url and distributed.enabled", "leave one of them out"],
        ),
        ("backend: [", ["line"]),
        ("backend: disk\nbackend: memory", ["backend is set twice", "line 2"]),
        ("- a\n- b", ["holds no settings"]),
        ("a: &a [x]\nb: [*a, *a]", ["aliases"]),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]", ["aliases"]),
        ("x: !!python/object/apply:os.system ['true']", ["line 1"]),
        ("[" * 50_000, ["no YAML"]),
    ],
)
def test_a_wrong_file_names_the_key_the_value_and_the_fix(cli: Cli, text: str, says: list[str]) -> None:
    Path("cache_config.yaml").write_text(text)

    found = cli("config", "validate")

    assert found.code == 2
    for word in ["cache_config.yaml", *says]:
        assert word in found.err


def test_without_a_file_the_environment_is_checked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("config", "validate", "--json").data == {"valid": True, "file": None}

    monkeypatch.setenv("CACHE_MAX_SIZE", "many")

    assert cli("config", "validate").code == 2


def test_a_missing_file_is_an_error_only_when_asked_for(cli: Cli) -> None:
    assert cli("stats").code == 0
    found = cli("-c", "nowhere.yaml", "stats")
    assert found.code == 2
    assert "nowhere.yaml" in found.err


def test_a_misspelt_variable_is_an_error_and_a_foreign_one_is_not(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_OF_ANOTHER_PROGRAM", "1")
    assert cli("stats").code == 0

    monkeypatch.setenv("CACHE_TTL_SECOND", "1")
    found = cli("stats")

    assert found.code == 2
    assert "CACHE_TTL_SECONDS" in found.err


def test_settings_do_not_tell_passwords_when_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"CACHE_URL": "redis://u:hunter2@h/0", "CACHE_BROKER_URL": "redis://u:hunter2@b/0"}
    secret["CACHE_METADATA_URL"] = "postgresql+psycopg://u:hunter2@d/x"

    assert "hunter2" not in repr(load_settings(env=secret).settings)


def test_null_means_for_ever_in_a_file_and_in_the_environment(data_dir: Path) -> None:
    Path("null.yaml").write_text("ttl_seconds: null\ndisk_path: null\n")

    assert load_settings(Path("null.yaml"), env={}).settings.ttl_seconds is None
    assert load_settings(env={"CACHE_TTL_SECONDS": "null"}).settings.ttl_seconds is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("broker_url", "redis://:hunter2@b:6379/0\n", "redis://:hunter2@b:6379/0"),
        ("broker_url", "redis://:hunter2@b:6379/0\r\n", "redis://:hunter2@b:6379/0"),
        ("distributed__nodes", "a:1,b:1", ("a:1", "b:1")),
        ("namespace", "none", "none"),
    ],
)
def test_a_file_may_hold_a_value(tmp_path: Path, name: str, text: str, value: object) -> None:
    file = tmp_path / "value"
    file.write_bytes(text.encode())

    found = load_settings(env={f"CACHE_{name.upper()}_FILE": str(file)})

    assert found.sources[name.replace("__", ".")] == "environment"
    settings: object = found.settings
    for part in name.split("__"):
        settings = getattr(settings, part)
    assert settings == value


def test_a_password_in_a_file_reaches_the_store_and_nobody_else(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text("null")
    monkeypatch.setenv("CACHE_REDIS_PASSWORD_FILE", "secret")

    password = load_settings().settings.redis_password

    assert password is not None
    assert password.get_secret_value() == "null"
    assert cli("config", "show", "--json").data["values"]["redis_password"] == "********"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"CACHE_REDIS_PASSWORD_FILE": "absent"}, ["CACHE_REDIS_PASSWORD_FILE", "absent cannot be read"]),
        ({"CACHE_REDIS_PASSWORD_FILE": "."}, [". cannot be read"]),
        ({"CACHE_REDIS_PASSWORD_FILE": "empty"}, ["empty is empty", "unset CACHE_REDIS_PASSWORD_FILE"]),
        ({"CACHE_REDIS_PASSWORD_FILE": "binary"}, ["binary is not UTF-8 at byte 0"]),
        ({"CACHE_REDIS_PASSWORD_FILE": "large"}, ["large has more than 1 MB"]),
        (
            {"CACHE_REDIS_PASSWORD": "a", "CACHE_REDIS_PASSWORD_FILE": "good"},
            ["CACHE_REDIS_PASSWORD and CACHE_REDIS_PASSWORD_FILE both say what redis_password is"],
        ),
        ({"CACHE_REDIS_PASWORD_FILE": "good"}, ["did you mean CACHE_REDIS_PASSWORD_FILE?"]),
    ],
)
def test_a_wrong_file_of_a_value_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], says: list[str]
) -> None:
    for name, content in {"empty": b"\n", "binary": b"\xff", "large": b"x" * 1_000_001, "good": b"hunter2"}.items():
        Path(name).write_bytes(content)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    found = cli("stats")

    assert found.code == 2
    assert all(each in found.err for each in says), found.err
    assert "hunter2" not in found.err


def test_a_file_that_is_not_named_is_not_asked_for() -> None:
    assert load_settings(env={"CACHE_REDIS_PASSWORD_FILE": "", "CACHE_REDIS_PASSWORD": "a"}).settings.redis_password


def test_a_setting_whose_own_name_ends_so_stays_a_path(tmp_path: Path) -> None:
    found = load_settings(env={"CACHE_ENCRYPTION_KEYS_FILE": str(tmp_path / "keys")}).settings

    assert found.encryption_keys is None
    assert found.encryption_keys_file == tmp_path / "keys"
