"""Who answers prompts: commands and functions, and everything that may go wrong with them."""

from __future__ import annotations

import asyncio
import errno
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cache_management import CachedResponse, Computed
from cache_management.cache.errors import ConfigurationError, ProviderBusy, ProviderRefused, ProviderStuck
from cache_management.cache.provider import Provider, open_provider
from tests.cache.test_values import response
from tests.waiting import wait_until

QUESTION = {"prompt": "What is it?", "model": "gpt-4"}


def command(tmp_path: Path, code: str, *, timeout_seconds: float = 20) -> Provider:
    script = tmp_path / "provider.py"
    script.write_text(f"import json, os, sys, time\nquestion = json.load(sys.stdin)\n{code}")
    found = open_provider(
        command=f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}",
        function=None,
        timeout_seconds=timeout_seconds,
    )
    assert found is not None
    return found


def function(monkeypatch: pytest.MonkeyPatch, answer: Any, *, timeout_seconds: float = 20) -> Provider:
    monkeypatch.setitem(sys.modules, "their_model", SimpleNamespace(ask=answer))
    found = open_provider(command=None, function="their_model:ask", timeout_seconds=timeout_seconds)
    assert found is not None
    return found


# commands


async def test_a_command_reads_the_question_and_prints_text(tmp_path: Path) -> None:
    ask = command(tmp_path, "print(question['prompt'], question['model'], len(sys.argv))")

    assert await ask(QUESTION) == Computed(response="What is it? gpt-4 1")


async def test_a_command_may_say_what_it_knows_of_its_answer(tmp_path: Path) -> None:
    said = {"response": "It.", "model": "m", "token_count": 3, "cost_usd": 0.002, "finish_reason": "stop"}
    ask = command(tmp_path, f"print(json.dumps({said}))")

    assert await ask(QUESTION) == Computed(
        response="It.", model="m", token_count=3, cost_micro=2000, finish_reason="stop"
    )


async def test_an_object_without_a_response_is_a_text_like_any_other(tmp_path: Path) -> None:
    assert (await command(tmp_path, "print('{\"a\": 1}')")(QUESTION)).response == '{"a": 1}'


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("sys.exit(75)", ProviderBusy, "ended with 75"),
        ("sys.exit(3)", ProviderRefused, "ended with 3"),
        ("os.kill(os.getpid(), 9)", ProviderRefused, "ended with -9"),
        ("sys.stdout.buffer.write(b'\\xff')", ProviderRefused, "not UTF-8"),
        ('print(json.dumps({"response": 3}))', ProviderRefused, "wrong response"),
        ('print(json.dumps({"response": "a", "token_count": -1}))', ProviderRefused, "wrong token_count"),
        ('print(\'{"response": "a", "cost_usd": NaN}\')', ProviderRefused, "wrong cost_usd"),
    ],
)
async def test_a_command_that_fails_says_why_and_quotes_nothing(
    tmp_path: Path, code: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        await command(tmp_path, code)(QUESTION)

    assert QUESTION["prompt"] not in str(raised.value)


async def test_a_command_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    code = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(mark)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    ask = command(tmp_path, code, timeout_seconds=3)

    with pytest.raises(ProviderStuck, match="no answer within 3 s"):
        await ask(QUESTION)

    pid = int(mark.read_text())
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def test_a_command_whose_asker_leaves_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    ask = command(tmp_path, f"open({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    asking = asyncio.ensure_future(ask(QUESTION))
    while not (mark.exists() and mark.read_text()):
        await asyncio.sleep(0.01)

    asking.cancel()
    await asyncio.wait((asking,))

    assert not psutil.pid_exists(int(mark.read_text()))


async def test_a_command_may_answer_before_it_has_read_a_large_question(tmp_path: Path) -> None:
    script = tmp_path / "hasty.py"
    script.write_text("print('done')")
    ask = open_provider(
        command=f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}", function=None, timeout_seconds=20
    )
    assert ask is not None

    assert (await ask({"prompt": "x" * 2_000_000})).response == "done"


async def test_a_command_has_answered_when_it_ended_though_it_left_something_running(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    ask = command(
        tmp_path,
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"open({str(mark)!r}, 'w').write(str(child.pid))\n"
        "print('done')",
    )
    before = psutil.Process().num_fds()

    assert (await ask(QUESTION)).response == "done"

    left = psutil.Process(int(mark.read_text()))
    assert left.is_running(), "it may be a server of the operator's"
    left.kill()
    await asyncio.sleep(0)
    assert psutil.Process().num_fds() == before


async def test_a_command_for_which_there_is_no_room_now_is_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    ask = open_provider(command="anything", function=None, timeout_seconds=1)
    assert ask is not None

    with pytest.raises(ProviderBusy, match="temporarily"):
        await ask(QUESTION)


async def test_a_command_that_is_not_there_is_a_wrong_configuration() -> None:
    ask = open_provider(command="/no/such/program", function=None, timeout_seconds=1)
    assert ask is not None

    with pytest.raises(ConfigurationError, match="cannot be started"):
        await ask(QUESTION)


# functions


class Failed(Exception):
    """What a client library raises."""

    def __init__(self, status: int | None, headers: dict[str, str] | None = None) -> None:
        super().__init__("What is it? is no good question")
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


@pytest.mark.parametrize(
    "said",
    [
        "It.",
        {"response": "It."},
        Computed(response="It."),
        response(response="It.", token_count=0, model="m"),
    ],
)
async def test_a_function_may_return_any_form_of_answer(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    async def later(question: dict[str, Any]) -> Any:
        return said

    for answer in (lambda question: said, later, lambda question: later(question)):
        found = await function(monkeypatch, answer)(QUESTION)
        assert found.response == "It."
        assert found.model == (said.model if isinstance(said, CachedResponse) else None)


@pytest.mark.parametrize(
    ("error", "expected", "wait"),
    [
        (Failed(429, {"retry-after": "7"}), ProviderBusy, 7.0),
        (Failed(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), ProviderBusy, None),
        (Failed(500), ProviderStuck, None),
        (Failed(599), ProviderStuck, None),
        (Failed(502), ProviderBusy, None),
        (Failed(401), ProviderBusy, 60.0),
        (ConnectionResetError(), ProviderBusy, None),
        (TimeoutError(), ProviderBusy, None),
        (ProviderBusy("soon", retry_after_seconds=3), ProviderBusy, 3),
        (Failed(400), ProviderRefused, None),
        (Failed(None), ProviderRefused, None),
        (KeyError("What is it?"), ProviderRefused, None),
        (ProviderRefused("no"), ProviderRefused, None),
    ],
)
async def test_what_a_function_raises_is_not_now_or_never(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception], wait: float | None
) -> None:
    def answer(question: dict[str, Any]) -> str:
        raise error

    with pytest.raises(expected) as raised:
        await function(monkeypatch, answer)(QUESTION)

    assert QUESTION["prompt"] not in str(raised.value)
    assert getattr(raised.value, "retry_after_seconds", None) == wait


async def test_a_function_that_takes_too_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(question: dict[str, Any]) -> str:
        await asyncio.Event().wait()
        return "never"

    with pytest.raises(ProviderStuck, match="within"):
        await function(monkeypatch, answer, timeout_seconds=0.05)(QUESTION)


@pytest.mark.parametrize("said", [None, 3, b"bytes", {"answer": "It."}, ["It."], Computed(response=None)])  # type: ignore[arg-type]
async def test_a_function_that_returns_no_answer_is_refused(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    with pytest.raises(ProviderRefused):
        await function(monkeypatch, lambda question: said)(QUESTION)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"command": "a", "function": "b:c"}, "set one of them"),
        ({"command": "'", "function": None}, "cannot be read"),
        ({"command": None, "function": "no_such_module_here:ask"}, "cannot be loaded"),
        ({"command": None, "function": "json:no_such_name"}, "cannot be loaded"),
        ({"command": None, "function": "tests.cache.broken_provider:ask"}, "RuntimeError: no model here"),
        ({"command": None, "function": "json:__name__"}, "no function"),
    ],
)
def test_a_provider_that_cannot_be_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_provider(**settings, timeout_seconds=1)


def test_no_provider_is_none() -> None:
    assert open_provider(command=None, function=None, timeout_seconds=1) is None
