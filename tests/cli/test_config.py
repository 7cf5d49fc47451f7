"""config show, set, validate, and how settings reach the commands."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydantic import SecretStr

from cache_management.cli.config import is_whole_secret
from cache_management.settings import ProviderSettings, Settings, load_settings, setting_names
from cache_management.settings_use import unused_settings
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
    assert cli("config", "validate", "--json").data == {"valid": True, "file": None, "warnings": []}

    monkeypatch.setenv("CACHE_MAX_SIZE", "many")

    assert cli("config", "validate").code == 2


def test_a_missing_file_is_an_error_only_when_asked_for(cli: Cli) -> None:
    assert cli("stats").code == 0
    found = cli("-c", "nowhere.yaml", "stats")
    assert found.code == 2
    assert "nowhere.yaml" in found.err


def test_what_is_no_file_is_no_configuration(cli: Cli) -> None:
    assert "is a folder" in cli("-c", ".", "stats").err

    Path("cache_config.yaml").symlink_to("nowhere.yaml")
    for args in (("stats",), ("config", "validate")):
        found = cli(*args)
        assert found.code == 2
        assert "cache_config.yaml is a link to nothing" in found.err

    Path("cache_config.yaml").unlink()
    Path("cache_config.yaml").mkdir()
    found = cli("stats")
    assert (found.code, "cache_config.yaml is a folder" in found.err) == (2, True)


@pytest.mark.parametrize(
    ("key", "url", "says"),
    [
        ("broker_url", "hunter2", "redis://host:6379/0"),
        ("broker_url", "redis+cluster://:hunter2@a:1", "redis+cluster:// cannot be used"),
        ("broker_url", "amqp://me:hunter2@a", "amqp:// cannot be used"),
        ("metadata_url", "hunter2", "postgresql://user@host/database"),
        ("metadata_url", "mysql://me:hunter2@db/x", "mysql:// cannot be used"),
    ],
)
def test_a_url_that_nothing_can_use_is_refused(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, key: str, url: str, says: str
) -> None:
    monkeypatch.setenv(f"CACHE_{key.upper()}", url)

    found = cli("config", "validate")

    assert found.code == 2
    assert f"CACHE_{key.upper()}" in found.err
    assert says in found.err
    assert "hunter2" not in found.err


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


# set

FILE = """\
# How we keep answers
backend: "disk"  # memory, disk or redis

max_size: 10000    # entries
distributed:
  enabled: false
  nodes:  # where the copies lie
    - a:6379
    - b:6379
  # how slots are given
  sharding: 'range'
metrics: {port: 9091}
"""


@pytest.mark.parametrize(
    ("key", "value", "before", "after"),
    [
        ("backend", "memory", 'backend: "disk"', 'backend: "memory"'),
        ("max_size", "500", "max_size: 10000", "max_size: 500"),
        ("distributed.replicas", "1", "'range'\n", "'range'\n  replicas: 1\n"),
        (
            "distributed.nodes",
            "a:1, b:2,c:3",
            "nodes:  # where the copies lie\n    - a:6379\n    - b:6379\n",
            "nodes: ['a:1', 'b:2', 'c:3']  # where the copies lie\n",
        ),
        ("metrics.enabled", "false", "{port: 9091}", "{port: 9091, enabled: false}"),
        ("logging.file", "/tmp/a b.log", "9091}\n", "9091}\nlogging:\n  file: /tmp/a b.log\n"),
        ("namespace", "12", "9091}\n", "9091}\nnamespace: '12'\n"),
        ("prices", '{"gpt-4.1": 2}', "9091}\n", "9091}\nprices: {gpt-4.1: 2}\n"),
        ("ttl_seconds", "null", "9091}\n", "9091}\nttl_seconds: null\n"),
        ("max_size", "null", "max_size: 10000    # entries\n", ""),
        ("metrics.port", "null", "metrics: {port: 9091}\n", ""),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_set_changes_one_value_and_leaves_every_other_sign(
    cli: Cli, key: str, value: str, before: str, after: str, newline: str
) -> None:
    file = Path("cache_config.yaml")
    file.write_bytes(FILE.replace("\n", newline).encode())
    file.chmod(0o640)

    found = cli("config", "set", key, value)

    assert (found.code, found.err) == (0, found.err)
    assert before in FILE
    assert file.read_bytes().decode() == FILE.replace(before, after, 1).replace("\n", newline)
    assert file.stat().st_mode & 0o777 == 0o640
    assert cli("config", "validate").code == 0
    assert [each.name for each in Path().iterdir() if each.name.endswith(".tmp")] == []


def test_a_value_may_begin_with_a_dash(cli: Cli) -> None:
    assert cli("config", "set", "ttl_seconds", "-1").code == 0
    assert cli("config", "show", "--json").data["values"]["ttl_seconds"] == -1
    assert cli("config", "set", "similarity_threshold", "-0.5", "--json").code == 0
    wrong = cli("config", "set", "ttl_seconds", "--soon")
    assert (wrong.code, "No such option" in wrong.err) == (2, True)


def test_set_makes_the_file_that_is_missing(cli: Cli) -> None:
    assert cli("config", "set", "backend", "redis").code == 0
    assert cli("-c", "other.yaml", "config", "set", "logging.level", "DEBUG").code == 0

    assert Path("cache_config.yaml").read_text() == "backend: redis\n"
    assert Path("other.yaml").read_text() == "logging:\n  level: DEBUG\n"


def test_set_follows_a_link_and_stays_one(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text("max_size: 1\n")
    Path("cache_config.yaml").symlink_to("shared.yaml")

    assert cli("config", "set", "max_size", 2, "--json").data == {
        "file": "cache_config.yaml",
        "key": "max_size",
        "value": 2,
        "in_file": True,
    }

    assert Path("cache_config.yaml").is_symlink()
    assert (tmp_path / "shared.yaml").read_text() == "max_size: 2\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("ttl", "5"), "did you mean ttl_seconds?"),
        (("CACHE_TTL_SECONDS", "5"), "did you mean ttl_seconds?"),
        (("CACHE_METRICS__PORT", "5"), "did you mean metrics.port?"),
        (("distributed", "5"), "distributed is a group: set one of distributed.enabled"),
        (("distributed.replica", "5"), "did you mean distributed.replicas?"),
        (("max_size", "many"), "(got 'many')"),
        (("backend", "postgres"), "'postgres'"),
        (("distributed.enabled", "true"), "needs 3 nodes"),
        (("redis_password", "hunter2"), "leave VALUE out to be asked for it, or give it to --stdin"),
        (("encryption_keys", "hunter2"), "holds a secret"),
        (("provider.command", "ask hunter2"), "holds a secret"),
        (("url", "redis://:hunter2@h/0"), "holds a secret"),
        (("semantic.index_url", "postgresql://me:hunter2@h/d"), "holds a secret"),
        (("redis_password",), "without a terminal"),
        (("max_size",), "cache-cli config set max_size VALUE"),
        (("max_size", "5", "--stdin"), "twice"),
    ],
)
def test_what_cannot_be_set_is_told_and_changes_nothing(
    cli: Cli, args: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("cache_config.yaml").write_text(FILE)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    found = cli("config", "set", *args)

    assert (found.code, found.out) == (2, "")
    assert says in found.err
    assert "hunter2" not in found.err
    assert Path("cache_config.yaml").read_text() == FILE


def test_a_file_that_is_wrong_already_is_not_written_unless_this_mends_it(cli: Cli) -> None:
    Path("cache_config.yaml").write_text("max_size: many\n")

    assert "line 1" in cli("config", "set", "backend", "redis").err
    assert cli("config", "set", "max_size", "7").code == 0

    assert Path("cache_config.yaml").read_text() == "max_size: 7\n"


def test_a_secret_comes_by_standard_input_or_a_hidden_prompt(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2: #1\n"))
    Path("cache_config.yaml").write_text("backend: redis\n")
    Path("cache_config.yaml").chmod(0o644)

    found = cli("config", "set", "redis_password", "--stdin")

    assert (found.code, found.out) == (0, "redis_password is ******** in cache_config.yaml.\n")
    assert "can be read by others: chmod 600 cache_config.yaml" in found.err
    secret = load_settings().settings.redis_password
    assert secret is not None
    assert secret.get_secret_value() == "hunter2: #1"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda prompt: "hunter3")
    found = cli("config", "set", "redis_password")

    assert "hunter3" not in found.out + found.err
    assert load_settings().settings.redis_password == SecretStr("hunter3")
    assert cli("config", "set", "redis_password", "null").code == 0
    assert load_settings().settings.redis_password is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("redis_password", "abc #def"),
        ("redis_password", "#hash"),
        ("redis_password", "'quoted'"),
        ("redis_password", "[1, 2"),
        ("redis_password", "12"),
        ("provider.command", "ask --key hunter2 # now"),
        ("broker_url", "redis://:a #b@h/0"),
    ],
)
def test_a_secret_is_kept_sign_by_sign(cli: Cli, monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(value + "\n"))

    found = cli("config", "set", key, "--stdin")

    assert found.code == 0, found.err
    assert value not in found.out + found.err
    kept: object = load_settings().settings
    for part in key.split("."):
        kept = getattr(kept, part)
    assert (kept.get_secret_value() if isinstance(kept, SecretStr) else kept) == value
    assert Path("cache_config.yaml").stat().st_mode & 0o777 == 0o600


def test_only_secrets_are_refused_on_the_command_line() -> None:
    kept_hidden = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}

    secrets = {name for name in setting_names() if is_whole_secret(name)}

    assert secrets == kept_hidden | {"provider.command"}
    assert all("SecretStr" not in str(field.annotation) for field in ProviderSettings.model_fields.values())


def test_what_keeps_a_value_from_having_an_effect_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_METRICS__PORT", "1")

    assert "CACHE_METRICS__PORT is set in the environment, and wins" in cli("config", "set", "metrics.port", "2").err
    assert "redis_port has no effect now: the backend is disk" in cli("config", "set", "redis_port", "2").err
    cli("config", "set", "url", "memory://")
    assert "url says it, and wins" in cli("config", "set", "backend", "redis").err


def test_a_layout_that_cannot_be_changed_is_left_as_it_is(cli: Cli) -> None:
    text = "metrics: {port, path: /m}\n"
    Path("cache_config.yaml").write_text(text)

    assert "by hand" in cli("config", "set", "metrics.port", "5").err

    assert Path("cache_config.yaml").read_text() == text


# validate


def test_validate_names_every_problem_with_its_line(cli: Cli) -> None:
    Path("cache_config.yaml").write_text(
        "backend: postgres\nredis_prot: 1\nredis_password: [hunter2]\n"
        "distributed:\n  replicas: many\n  nodez: []\nlogging: DEBUG\n"
    )

    found = cli("config", "validate", "--json")

    assert found.code == 2
    assert [(each["key"], each["line"]) for each in found.data["problems"]] == [
        ("backend", 1),
        ("redis_prot", 2),
        ("redis_password", 3),
        ("distributed.replicas", 5),
        ("distributed.nodez", 6),
        ("logging", 7),
    ]
    assert "has 6 problems:\n  line 1: backend" in found.err
    assert "hunter2" not in found.out + found.err


def test_validate_warns_of_what_is_set_and_has_no_effect(cli: Cli) -> None:
    Path("cache_config.yaml").write_text("backend: redis\n\ndisk_path: /x\nmetrics:\n  enabled: false\n  port: 1\n")

    found = cli("config", "validate", "--json")

    assert found.code == 0
    assert [(each["key"], each["line"]) for each in found.data["warnings"]] == [("disk_path", 3), ("metrics.port", 6)]
    assert "cache_config.yaml, line 3: disk_path has no effect: the backend is redis." in found.err


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({"backend": "memory"}, {"redis_host", "disk_path", "eviction_low_watermark", "distributed.nodes"}),
        ({"backend": "redis"}, {"disk_size_limit", "max_size", "memory_limit", "near_memory_limit"}),
        ({"url": "redis://h"}, {"backend", "redis_host", "redis_password", "disk_path"}),
        ({"url": "redis+cluster://h:1"}, {"eviction_policy", "eviction_high_watermark"}),
        ({"eviction_policy": "gdsf"}, {"eviction_objective", "provider.burst", "semantic.recheck_rate"}),
        ({"distributed": {"enabled": True, "nodes": ["a:1", "b:1", "c:1"]}}, {"redis_port", "disk_path", "max_size"}),
        ({"metrics": {"enabled": False}, "encryption_keys_file": "k"}, {"metrics.port", "encryption_keys"}),
    ],
)
def test_what_has_no_effect_is_known(data_dir: Path, given: dict[str, object], unused: set[str]) -> None:
    settings = load_settings(arguments=given).settings

    found = {each.key for each in unused_settings(settings, setting_names())}

    assert found >= unused
    assert not found & {"ttl_seconds", "namespace", "metrics.path", "logging.level", "distributed.enabled"}


def test_no_problem_shows_a_password(cli: Cli) -> None:
    Path("cache_config.yaml").write_text(
        "distributed:\n  enabled: true\n  nodes: ['redis://:hunter2@a:1', 'b:1', 'c:1']\nbroker_url: [hunter2]\n"
    )

    found = cli("config", "validate", "--json")

    assert found.code == 2
    assert "redis://:********@a:1" in found.err
    assert "hunter2" not in found.out + found.err


def test_a_wrong_variable_is_named_beside_a_wrong_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cache_config.yaml").write_text("backend: disk\nredis_port: high\n")
    monkeypatch.setenv("CACHE_METRICS__PORT", "low")

    found = cli("stats")

    assert found.code == 2
    assert "line 2: redis_port" in found.err
    assert "CACHE_METRICS__PORT in the environment" in found.err


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_no_format_shows_a_secret(cli: Cli, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "CACHE_BROKER_URL": "redis://me:hunter2@b/0",
        "CACHE_METADATA_URL": "postgresql+psycopg://me:hunter2@d/x?password=hunter2",
        "CACHE_URL": "redis+sentinel://me:hunter2@s/m?sentinel_password=hunter2",
        "CACHE_SEMANTIC__INDEX_URL": "postgresql://me:hunter2@d/x",
        "CACHE_ENCRYPTION_KEYS": "k: hunter2",
        "CACHE_PROVIDER__COMMAND": "ask --key hunter2",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)

    found = cli("config", "show", "-f", form)

    assert found.code == 0
    assert "hunter2" not in found.out + found.err
