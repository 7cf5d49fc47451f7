"""explain, feedback."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cache_management.settings import load_settings
from cache_management.wiring import open_platform
from tests.cli.conftest import Cli


def test_explain_says_what_would_answer_and_what_refuses(cli: Cli) -> None:
    cli("set-cache", "fee for 10 transfers abroad", "1 EUR")

    served = cli("explain", "for 10 transfers abroad fee", "-t", 0.7)
    refused = cli("explain", "fee for 12 transfers abroad", "-t", 0.7)
    data = cli("explain", "fee for 12 transfers abroad", "-t", 0.7, "--json")

    assert (served.code, refused.code, data.code) == (0, 1, 1)
    assert "served" in served.out
    assert "refused by number" in refused.out
    assert data.data["reason"] == "vetoed"
    assert data.data["candidates"][0]["vetoes"] == ["number"]


def test_explain_compares_with_one_entry_however_far(cli: Cli) -> None:
    cli("set-cache", "what is a black hole", "a region")

    found = cli("explain", "how do I bake bread", "--against", "what is a black hole", "--json")

    assert found.code == 1
    assert found.data["against"]["score"] < 0.5
    assert found.data["against"]["would_answer"] is False
    absent = cli("explain", "x", "--against", "nothing")
    assert absent.code == 2
    assert "there is no entry under 'nothing'" in absent.err


def stored_in_context(prompt: str, response: str, **more: Any) -> str:
    """Store an answer as an app does, with a model and a system prompt; return its key."""

    async def store() -> str:
        # An app's write fails open when a busy disk is late; here it must not be lost.
        patient = {"strict": True, "timeout_seconds": 10.0}
        platform = open_platform(load_settings().settings.model_copy(update=patient))
        try:
            return await platform.manager.store(prompt, response, model="gpt-4", system="Be brief.", **more)
        finally:
            await platform.aclose()

    return asyncio.run(store())


IN_CONTEXT = ("-m", "gpt-4", "-s", "Be brief.")


def test_explain_compares_with_an_entry_in_its_own_context(cli: Cli) -> None:
    key = stored_in_context("fee for 10 transfers abroad", "1 EUR")
    asked = "for 10 transfers abroad fee"

    same = cli("explain", asked, *IN_CONTEXT, "--against", key, "--json")
    far = cli("explain", "how do I bake bread", *IN_CONTEXT, "--against", key, "--json")
    other = cli("explain", asked, "-m", "gpt-5", "--against", key, "--json")

    assert (same.code, same.data["against"]["vetoes"], same.data["against"]["would_answer"]) == (0, [], True)
    assert (far.code, far.data["against"]["would_answer"]) == (1, False)
    assert "scope" not in far.data["against"]["vetoes"]
    assert (other.code, other.data["against"]["vetoes"]) == (1, ["scope"])


def test_feedback_reaches_an_answer_in_its_context(cli: Cli) -> None:
    key = stored_in_context("how do I reset my password", "on the login page")
    asked = "my password, how do I reset"

    assert cli("feedback", asked, "--wrong").code == 1, "nothing answers the bare prompt"
    noted = cli("feedback", asked, *IN_CONTEXT, "--wrong", "--json")
    against = cli("explain", asked, *IN_CONTEXT, "--against", key, "--json")

    assert (noted.code, noted.data["key"]) == (0, key)
    assert against.data["against"]["vetoes"] == ["feedback_block"]


def test_feedback_keeps_an_answer_from_its_question(cli: Cli) -> None:
    cli("set-cache", "how do I reset my password", "on the login page")
    asked = "my password, how do I reset"
    assert cli("explain", asked).code == 0

    assert cli("feedback", asked, "--wrong").code == 0
    assert "feedback_block" in cli("explain", asked).out
    assert cli("feedback", asked, "--right").code == 0
    assert cli("explain", asked).code == 0


def test_feedback_without_an_answer_or_a_word_says_so(cli: Cli) -> None:
    assert "say --right or --wrong" in cli("feedback", "x").err
    both = cli("feedback", "x", "--right", "--wrong")
    assert (both.code, "not both" in both.err) == (2, True)
    found = cli("feedback", "x", "--wrong", "--json")
    assert (found.code, found.data["noted"]) == (1, False)


def test_explain_says_that_another_context_holds_the_question(cli: Cli) -> None:
    key = stored_in_context("what is a black hole", "a region")

    found = cli("explain", "what is a black hole")
    data = cli("explain", "what is a black hole", "-m", "gpt-4", "--json")

    assert found.code == data.code == 1
    assert "miss: no_candidate" in found.out
    assert f"asked in another context: {key!r} at 1.00 (answer of gpt-4); give -m, -s" in found.out
    assert [each["key"] for each in data.data["elsewhere"]] == [key]


def test_explain_says_what_was_asked_as_a_prompt_alone(cli: Cli) -> None:
    cli("set-cache", "what is a black hole", "a region")
    stored_in_context("how do I bake bread", "slowly")

    found = cli("explain", "what is a black hole", *IN_CONTEXT)

    assert "miss: below_threshold" in found.out
    assert "asked as a prompt alone: 'what is a black hole' at 1.00; leave out -m, -s" in found.out
    assert "asked " not in cli("explain", "something else entirely").out
    assert "asked " not in cli("explain", "how do I bake bread", *IN_CONTEXT).out


def test_explain_takes_parameters_and_a_conversation(cli: Cli) -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    stored_in_context("what is a black hole", "a region", params={"temperature": 0}, history=history)
    Path("history.json").write_text(json.dumps(history))
    request = (*IN_CONTEXT, "--params", '{"temperature": 0}', "--history", "history.json")

    assert cli("explain", "what is a black hole", *request).code == 0
    assert cli("explain", "what is a black hole", *request[:-2]).code == 1
    assert cli("feedback", "a black hole, what is", *request, "--wrong").code == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--params", "{"), "--params is not JSON"),
        (("--params", "[1]"), "--params must be a JSON object"),
        (("--params", '{"a": NaN}'), "params"),
        (("--history", "gone.json"), "--history gone.json cannot be read"),
        (("--history", "bad.json"), "--history bad.json is no JSON"),
        (("--history", "object.json"), "--history object.json must hold a list of messages"),
        (("--history", "role.json"), "history[0]"),
    ],
)
def test_a_context_that_cannot_be_read_is_named(cli: Cli, options: tuple[str, ...], says: str) -> None:
    Path("bad.json").write_bytes(b"\xff")
    Path("object.json").write_text("{}")
    Path("role.json").write_text('[{"content": "Hi"}]')

    found = cli("explain", "x", *options)

    assert found.code == 2
    assert says in found.err


def judged_pairs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("CACHE_SEMANTIC__MAX_ERROR_RATE", "0.05")
    blocked: int = cli("stats", "--json").data["false_hits"]["blocked"]
    return blocked


def test_feedback_for_a_key_that_nothing_has_is_not_noted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cli("feedback", "what is a black hole", "--key", "nope", "--wrong")

    assert found.code == 1
    assert "No entry has the key 'nope'" in found.err
    assert "Nothing was noted" in found.err
    assert judged_pairs(cli, monkeypatch) == 0


def test_feedback_for_an_exact_hit_says_what_to_do(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("set-cache", "what is a black hole", "a region")

    for more in ((), ("--key", "what is a black hole")):
        found = cli("feedback", "what is a black hole", "--wrong", *more)

        assert found.code == 1
        assert "answered exactly" in found.err
        assert "cache-cli invalidate" in found.err
    assert judged_pairs(cli, monkeypatch) == 0


def test_feedback_for_an_entry_that_is_not_close_says_how_close_it_is(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("set-cache", "what is a black hole", "a region")
    cli("set-cache", "x y", "1")
    asked = "what is a white hole on the moon"

    noted = cli("feedback", asked, "--key", "what is a black hole", "--wrong")
    refused = [cli("feedback", far, "--key", "x y", "--wrong", "--json") for far in ("a", "b", "c", "d", "e", "f")]

    assert noted.code == 0
    assert "though its similarity of 0." in noted.out
    assert "below the threshold of 0.85" in noted.out
    opposite = next(each for each in refused if each.code == 1)
    assert opposite.data["noted"] is False
    assert "has a similarity of -0." in opposite.data["why_not"]


def test_feedback_for_an_entry_of_another_context_says_so(cli: Cli) -> None:
    key = stored_in_context("what is a black hole", "a region")

    found = cli("feedback", "what is a black hole", "--key", key, "--wrong")

    assert found.code == 0
    assert "stored in another context" in found.out
    assert "threshold" not in found.out
