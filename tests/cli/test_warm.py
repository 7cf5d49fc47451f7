"""warm in this process, and every wrong warm file."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

PAIRS = [{"prompt": f"q{at}", "response": f"a{at}", "model": "gpt-4", "token_count": 1} for at in range(25)]


@pytest.fixture
def warm_file(cli: Cli) -> Path:
    path = Path("queries.json")
    path.write_text(json.dumps(PAIRS))
    return path


def test_without_a_broker_this_process_does_the_work_and_says_so(cli: Cli, warm_file: Path) -> None:
    found = cli("warm", warm_file, "--json")

    assert found.code == 0
    assert found.data["stored"] == 25
    assert "No broker is configured" in found.err
    assert cli("get-cache", "q7").out == "a7\n"
    assert cli("get-similar", "q7", "--json").data["matches"][0]["key"] == "q7"


def test_warming_again_skips_what_is_equal_and_fresh(cli: Cli, warm_file: Path) -> None:
    cli("warm", warm_file, "--local")

    found = cli("warm", warm_file, "--local", "--json")

    assert (found.data["stored"], found.data["skipped"]) == (0, 25)


def test_of_equal_prompts_the_last_wins_and_they_are_counted(cli: Cli) -> None:
    Path("twice.jsonl").write_text("\n".join(json.dumps({"prompt": "q", "response": r}) for r in ("old", "new")))

    found = cli("warm", "twice.jsonl", "--local", "--json")

    assert (found.data["stored"], found.data["duplicates"]) == (1, 1)
    assert cli("get-cache", "q").out == "new\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ("  \n ", "is empty"),
        ("[]", "no items"),
        ('[{"prompt": "q", "response": "a"},\n {"prompt": }]', "line 2"),
        ('{"prompt": "q", "response": "a"}\n{"prompt": "q2"', "line 2"),
        ('[{"prompt": "q", "response": "a"}', "not closed"),
        ('[{"prompt": "q", "response": "a"}] x', "behind the closing"),
        ('[{"prompt": "q", "response": "a"}\n {"prompt": "r", "response": "b"}]', "comma"),
        ('[\n\n{"prompt": 7, "response": "a"}]', "line 3"),
        ('[{"prompt": "q", "response": "a", "token_count": "many"}]', "token_count"),
        ('[{"prompt": "q", "response": "a", "token_count": 1' + "0" * 30 + "}]", "token_count"),
        ('[{"prompt": "q", "response": "a", "ttl_seconds": 0}]', "ttl_seconds"),
        ('[{"prompt": "q", "response": "a", "promt": "x"}]', "promt"),
        ('[{"prompt": "q"}]', "no response"),
        ('{"prompt": "fine", "response": "a"}\n["not", "an", "object"]', "line 2"),
        (json.dumps([{"prompt": "x" * 10_000_000, "response": "a"}]), "10,000,000 bytes"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"prompt": "q", "response": "a", "metadata": {"x": NaN}}]', "NaN"),
        (b'[{"prompt": "\xff", "response": "a"}]', "not UTF-8"),
    ],
)
@pytest.mark.parametrize("how", ["--local", "--json"])
def test_a_wrong_file_names_the_line_and_changes_nothing(
    cli: Cli, content: str | bytes | None, says: str, how: str
) -> None:
    path = Path("wrong.json")
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    found = cli("warm", path, how)

    assert found.code == 2
    assert "wrong.json" in found.err
    assert says in found.err
    assert cli("stats", "--json").data["total_entries"] == 0


def test_an_unreachable_broker_is_exit_code_4_and_queues_nothing(
    cli: Cli, warm_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", "redis://:secret@127.0.0.1:1/0")

    found = cli("warm", warm_file)

    assert found.code == 4
    assert "127.0.0.1:1" in found.err
    assert "secret" not in found.err
    assert cli("jobs", "list", "--json").data == []


def test_an_unreachable_database_is_exit_code_5_and_queues_nothing(
    cli: Cli, warm_file: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    import redis

    monkeypatch.setenv("CACHE_BROKER_URL", redis_url)
    monkeypatch.setenv("CACHE_METADATA_URL", "postgresql+psycopg://me:secret@127.0.0.1:1/cache")

    found = cli("warm", warm_file)

    assert found.code == 5
    assert "127.0.0.1:1" in found.err
    assert "secret" not in found.err
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("warm") == 0


def test_a_job_that_nobody_takes_is_exit_code_6_after_the_timeout(
    cli: Cli, warm_file: Path, monkeypatch: pytest.MonkeyPatch, own_redis: object
) -> None:
    broker = own_redis()  # type: ignore[operator]  # a private one: kombu's keys carry no TTL
    monkeypatch.setenv("CACHE_BROKER_URL", broker.url)

    found = cli("warm", warm_file, "--timeout", "0.1", "--json")

    assert found.code == 6
    job_id = found.data["id"]
    assert cli("jobs", "show", job_id[:20], "--json").data["job"]["state"] == "dispatched"
    assert cli("jobs", "cancel", job_id, "--json").data["state"] == "cancelled"
    assert cli("jobs", "watch", job_id).code == 1
    assert cli("jobs", "list", "--state", "cancelled", "--json").data[0]["id"] == job_id
    assert [row["action"] for row in cli("audit", "tail", "--json").data][:1] == ["job.submit"]
    assert cli("audit", "verify").code == 0


def test_an_unreachable_cache_is_exit_code_7_and_queues_nothing(
    cli: Cli, warm_file: Path, monkeypatch: pytest.MonkeyPatch, own_redis: object
) -> None:
    monkeypatch.setenv("CACHE_BROKER_URL", own_redis().url)  # type: ignore[operator]
    monkeypatch.setenv("CACHE_URL", "redis://127.0.0.1:1/0")

    assert cli("warm", warm_file).code == 7
    assert cli("jobs", "list", "--json").data == []


def test_an_unknown_job_is_an_error_that_names_it(cli: Cli) -> None:
    found = cli("jobs", "show", "nope")

    assert found.code == 1
    assert "nope" in found.err


def test_the_database_can_be_upgraded_and_checked(cli: Cli) -> None:
    assert cli("db", "upgrade").code == 0
    assert cli("db", "check", "--json").data == {"up_to_date": True}


def test_checking_an_empty_database_says_how_to_upgrade(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setenv("CACHE_METADATA_URL", postgres_url)

    found = cli("db", "check")

    assert found.code == 5
    assert "cache-cli db upgrade" in found.err
    assert cli("db", "upgrade").code == 0
    assert cli("db", "check").code == 0


@pytest.fixture
def provider(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that answers prompts, and refuses one."""
    Path("provider.py").write_text(
        "import json, sys\n"
        "prompt = json.load(sys.stdin)['prompt']\n"
        "if prompt == 'bad': sys.exit(3)\n"
        "print(json.dumps({'response': prompt.upper(), 'cost_usd': 0.01}))"
    )
    monkeypatch.setenv("CACHE_PROVIDER__COMMAND", f"{sys.executable} provider.py")


def test_prompts_without_a_response_are_asked_of_the_provider(cli: Cli, provider: None) -> None:
    Path("ask.jsonl").write_text('{"prompt": "one"}\n{"prompt": "bad"}\n{"prompt": "two", "response": "given"}')

    dry = cli("warm", "ask.jsonl", "--local", "--dry-run", "--json")
    found = cli("warm", "ask.jsonl", "--local", "--json")

    assert dry.data == {"items": 3, "to_ask": 2}
    assert (found.code, found.data["stored"], found.data["failed"]) == (3, 2, 1)
    assert "ended with 3" in found.err
    assert cli("get-cache", "one").out == "ONE\n"
    assert cli("get-cache", "two").out == "given\n"


def test_no_more_is_asked_than_may_be_spent(cli: Cli, provider: None) -> None:
    Path("ask.jsonl").write_text("\n".join(json.dumps({"prompt": f"q{at}"}) for at in range(12)))

    found = cli("warm", "ask.jsonl", "--local", "--max-cost", "0.03", "--json")

    # Four at once.
    assert (found.data["stored"], found.data["skipped"]) == (4, 8)


def test_standard_input_is_a_file_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    source = io.TextIOWrapper(io.BytesIO(b'{"prompt": "q", "response": "a"}'))
    monkeypatch.setattr("sys.stdin", source)

    assert cli("warm", "-", "--local", "--json").data["stored"] == 1
