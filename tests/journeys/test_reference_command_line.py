"""The command line as the reference document describes it: every line of it has its like here, on a real Redis."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import pytest
import yaml

from cache_management.cli.main import cli as program
from cache_management.settings import load_settings
from tests.cli.conftest import Cli
from tests.cli.conftest import cli as cli  # noqa: PLC0414 - a fixture is passed on
from tests.cli.conftest import data_dir as data_dir  # noqa: PLC0414

QUESTION = "Which animals sleep through the winter?"
ANSWER = "Hedgehogs, dormice and bats, among others."

WHOLE_FILE = """\
# Where answers are kept
backend: redis  # redis, memory or disk
redis_host: localhost
redis_port: 6379
redis_db: 0
redis_password: null  # none
redis_ssl: false

# How long, how many
ttl_seconds: 3600
max_size: 10000
eviction_policy: lru

# Only for disk
disk_path: /var/cache/answers
disk_size_limit: 10GB

# Meaning
embedding_model: all-MiniLM-L6-v2
similarity_threshold: 0.85
cache_embeddings: true

# Copies
distributed:
  enabled: true
  nodes:
    - cache-1.internal:6379
    - cache-2.internal:6379
    - cache-3.internal:6379
  sharding: consistent_hash
  replicas: 2
  consistency: quorum

metrics:
  enabled: true
  port: 9090
  path: /metrics

logging:
  level: INFO
  file: /var/log/answers.log
"""

OPTIONS: dict[str, dict[str, object]] = {
    "set-cache": {"-m --model": "gpt-4", "-t --ttl": None, "-M --metadata": None},
    "get-cache": {"-f --format": ("text", ["json", "text", "yaml"])},
    "get-similar": {"-t --threshold": "0.85", "-l --limit": 5},
    "set-reasoning": {"-a --final-answer": None},
    "get-reasoning": {"-f --format": ("tree", ["json", "tree", "yaml"])},
    "invalidate": {
        "-p --pattern": None,
        "-r --regex": False,
        "-o --older-than": None,
        "-a --all": False,
        "--confirm --no-confirm": True,
    },
    "stats": {"-f --format": ("table", ["json", "table", "yaml"])},
    "warm": {"-w --workers": 4, "-b --batch-size": 10},
    "metrics": {"-p --port": "8000", "-f --format": ("prometheus", ["prometheus", "json", "yaml"])},
    "export": {"-f --format": ("json", ["json", "yaml"]), "-F --filter": None},
    "import-cache": {"--merge --replace": True, "--confirm --no-confirm": True},
    "": {"-c --config": "cache_config.yaml", "-v --verbose": False, "-d --debug": False, "--help": None},
}
ARGUMENTS = {
    "set-cache": "PROMPT RESPONSE",
    "get-cache": "PROMPT",
    "get-similar": "PROMPT",
    "set-reasoning": "TYPE PROBLEM STEPS_JSON",
    "get-reasoning": "PROBLEM",
    "warm": "QUERIES_FILE",
    "export": "OUTPUT_FILE",
    "import-cache": "INPUT_FILE",
    "config set": "KEY [VALUE]",
    "config show": "",
    "config validate": "[FILE]",
}


@pytest.fixture
def on_redis(redis_url: str, data_dir: Path) -> None:
    """A configuration file like the first one of the reference."""
    port = redis_url.rpartition(":")[2].partition("/")[0]
    Path("cache_config.yaml").write_text(
        f"backend: redis\nredis_host: localhost\nredis_port: {port}\nredis_db: 0\nttl_seconds: 3600\n"
        "max_size: 10000\nembedding_model: all-MiniLM-L6-v2\nsimilarity_threshold: 0.85\neviction_policy: lru\n"
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_its_names_default_and_formats(cli: Cli, name: str) -> None:
    context = click.Context(program)
    command = program.get_command(context, name) if name else program
    assert command is not None
    help_text = " ".join(cli(*name.split(), "--help").out.split())

    for names, default in OPTIONS[name].items():
        if names == "--help":
            assert "--help" in help_text
            continue
        option = next(each for each in command.params if {*each.opts, *each.secondary_opts} >= set(names.split()))
        if isinstance(default, tuple):
            default, forms = default
            assert isinstance(option.type, click.Choice)
            assert list(option.type.choices) == forms
        if isinstance(default, str):  # where the settings may say another one only the help tells it
            assert option.default == default or f"{default}]" in help_text or f"default: {default}" in help_text
        elif default in (None, False):  # click has a sentinel for both
            assert not isinstance(option.default, str | float) or option.default is False
        else:
            assert option.default == default


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_is_there(cli: Cli, name: str) -> None:
    usage = cli(*name.split(), "--help").out.partition("Options:")[0].splitlines()[0]

    assert usage.replace("{cot|tot}", "TYPE").strip() == f"Usage: cache-cli {name} [OPTIONS] {ARGUMENTS[name]}".strip()


@pytest.mark.keeps_keys  # who compares by meaning says which store it is, for ever
def test_the_first_steps(cli: Cli, on_redis: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("set-cache", QUESTION, ANSWER, "-m", "gpt-4").code == 0
    assert cli("get-cache", QUESTION).out == f"{ANSWER}\n"
    similar = cli("get-similar", QUESTION.lower(), "--threshold", "0.85")
    assert QUESTION in similar.out
    assert similar.code == 0
    assert "total_entries" in cli("stats").out

    assert cli("export", "cache_backup.json").code == 0
    assert [each["key"] for each in json.loads(Path("cache_backup.json").read_text())["entries"]] == [QUESTION]
    cli("invalidate", "--all", "--no-confirm")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    imported = cli("import-cache", "cache_backup.json")
    assert imported.code == 0
    assert "[y/N]" in imported.err
    assert cli("get-cache", QUESTION).out == f"{ANSWER}\n"


@pytest.mark.keeps_keys
def test_answers_in_every_format(cli: Cli, on_redis: None) -> None:
    cli("set-cache", QUESTION, ANSWER, "-m", "gpt-4", "--ttl", 7200, "-M", '{"by": "a biologist"}')

    as_json = cli("get-cache", QUESTION, "--format", "json").data
    as_yaml = yaml.safe_load(cli("get-cache", QUESTION, "-f", "yaml").out)

    assert as_json == as_yaml
    assert (as_json["response"], as_json["metadata"]) == (ANSWER, {"by": "a biologist"})
    assert cli("get-cache", QUESTION, "-f", "text").out == f"{ANSWER}\n"
    assert cli("get-similar", QUESTION, "--threshold", "0.90", "--limit", 10).code == 0


def test_reasoning_in_every_format(cli: Cli, on_redis: None) -> None:
    steps = '[{"step": 1, "text": "Carry the one"}]'
    assert cli("set-reasoning", "cot", "Add 17 and 25", steps, "-a", "42").code == 0
    tree = '[{"id": "r", "text": "Two ways"}, {"id": "a", "text": "By hand", "parent": "r", "score": 0.7}]'
    assert cli("set-reasoning", "tot", "Multiply 17 by 25", tree, "--final-answer", "425").code == 0

    assert "1. Carry the one" in cli("get-reasoning", "Add 17 and 25").out
    assert "By hand (score: 0.70)" in cli("get-reasoning", "Multiply 17 by 25", "-f", "tree").out
    as_json = cli("get-reasoning", "Add 17 and 25", "-f", "json").data
    assert as_json == yaml.safe_load(cli("get-reasoning", "Add 17 and 25", "--format", "yaml").out)
    assert as_json["final_answer"] == "42"


def test_entries_are_invalidated_by_pattern_expression_age_or_all(
    cli: Cli, on_redis: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("guest_7_a", "guest_7_b", "guest_8_a", "host"):
        cli("set-cache", key, "x")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    assert cli("invalidate", "--pattern", "guest_7_*").out == "2 entries removed.\n"
    assert cli("invalidate", "-p", "^guest_[0-9]", "-r", "--no-confirm").out == "1 entries removed.\n"
    assert cli("invalidate", "--older-than", 3600, "--no-confirm").out == "0 entries removed.\n"
    assert cli("invalidate", "--all", "--no-confirm").out == "1 entries removed.\n"


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_statistics_and_metrics_in_every_format(cli: Cli, on_redis: None, form: str) -> None:
    cli("db", "upgrade")
    cli("set-cache", QUESTION, ANSWER)

    stats = cli("stats", "-f", form)
    metrics = cli("metrics", "-f", "prometheus" if form == "table" else form)

    assert (stats.code, metrics.code) == (0, 0)
    if form == "json":
        assert (stats.data["total_entries"], metrics.data["cache_jobs_up"]) == (1, 1)
    elif form == "yaml":
        assert yaml.safe_load(stats.out) == cli("stats", "-f", "json").data
        assert yaml.safe_load(metrics.out)["cache_jobs_up"] == 1
    else:
        assert "total_entries" in stats.out
        by_default = cli("metrics").out
        assert "cache_jobs_up 1.0" in by_default
        assert [line.split()[:-1] for line in by_default.splitlines()] == [
            line.split()[:-1] for line in metrics.out.splitlines()
        ], "the text format is the default; the server's memory differs from one look to the next"


def test_a_cache_is_warmed_from_a_file(cli: Cli, on_redis: None) -> None:
    items = [{"prompt": f"question {number}", "response": "x", "model": "m", "token_count": 1} for number in range(12)]
    Path("queries.json").write_text(json.dumps(items))

    assert cli("warm", "queries.json", "--workers", 4, "--batch-size", 10).code == 0
    assert cli("warm", "queries.json", "-w", 2, "-b", 5).code == 0

    assert cli("stats", "-f", "json").data["total_entries"] == 12


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_cache_is_exported_and_replaces_another(cli: Cli, on_redis: None, form: str) -> None:
    for key in ("keep this", "not that"):
        cli("set-cache", key, "x")

    assert cli("export", f"part.{form}", "-f", form, "-F", "keep*").code == 0
    assert cli("import-cache", f"part.{form}", "--replace", "--no-confirm").code == 0

    assert cli("get-cache", "keep this").code == 0
    assert cli("get-cache", "not that").code == 1
    assert cli("import-cache", f"part.{form}", "--merge", "--no-confirm").code == 0


def test_the_configuration_is_shown_set_and_validated(cli: Cli, on_redis: None) -> None:
    assert cli("config", "set", "backend", "redis").code == 0
    assert cli("config", "set", "similarity_threshold", "0.9").code == 0
    shown = cli("config", "show")
    assert "similarity_threshold" in shown.out
    assert load_settings().settings.similarity_threshold == 0.9
    assert cli("config", "validate").out == "cache_config.yaml is valid.\n"


def test_the_whole_file_is_valid_and_read(cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_EMBEDDING_MODEL")
    Path("cache_config.yaml").write_text(WHOLE_FILE)

    checked = cli("config", "validate", "--json")
    read = load_settings().settings

    assert (checked.code, checked.data["valid"]) == (0, True)
    assert {each["key"] for each in checked.data["warnings"]} >= {"disk_path", "disk_size_limit"}
    assert read.disk_size_limit == 10 * 10**9
    assert read.distributed.nodes == tuple(f"cache-{number}.internal:6379" for number in (1, 2, 3))
    assert (read.distributed.replicas, read.distributed.consistency, read.metrics.port) == (2, "quorum", 9090)
    assert (str(read.logging.file), read.embedding_model) == ("/var/log/answers.log", "all-MiniLM-L6-v2")


def test_the_environment_wins_over_the_file(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cache_config.yaml").write_text("backend: disk\nmax_size: 1\ndistributed:\n  replicas: 2\n")
    given = {"BACKEND": "redis", "REDIS_HOST": "localhost", "REDIS_PORT": "6379", "TTL_SECONDS": "7200"}
    given |= {"MAX_SIZE": "50000", "SIMILARITY_THRESHOLD": "0.90", "DISTRIBUTED__REPLICAS": "1"}
    for name, value in given.items():
        monkeypatch.setenv(f"CACHE_{name}", value)

    read = load_settings().settings

    assert (read.backend, read.redis_host, read.redis_port) == ("redis", "localhost", 6379)
    assert (read.ttl_seconds, read.max_size, read.similarity_threshold) == (7200, 50_000, 0.9)
    assert read.distributed.replicas == 1


def test_debugging_and_health(cli: Cli, on_redis: None) -> None:
    assert "DEBUG" in cli("--debug", "stats").err
    assert cli("-v", "stats").code == 0
    assert cli("stats").code == 0
    assert cli("config", "validate").code == 0
    assert cli("set-cache", "test", "response").code == 0
    assert cli("get-cache", "test").out == "response\n"
    assert cli("-c", "cache_config.yaml", "get-cache", "test").code == 0
