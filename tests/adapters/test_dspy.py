"""The real DSPy, where it is installed: it needs a library that unpickles, so it is not among the pins.

What needs no DSPy is tested everywhere, by test_dspy_records.py.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    dspy = pytest.importorskip("dspy")

from dspy.clients.call_result import CACHE_FORMAT

from cache_management.adapters.dspy import ManagedCache
from cache_management.cache.events import CorruptEvent, Event
from cache_management.cache.payloads import DSPY_COMPLETION, DSPY_RECORD
from tests.adapters.making import manager_on, store_with_payload
from tests.adapters.test_litellm import Provider
from tests.contracts.broken import BreakableBackend

pytestmark = pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning", "ignore::DeprecationWarning")
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "q"}], "_fn_identifier": "f"}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    made = Provider()
    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "fake", "custom_handler": made}])
    monkeypatch.setitem(vars(dspy), "cache", None)  # to read it would make DSPy's own, with a folder at home
    return made


def record(text: str = "a", **more: Any) -> dict[str, Any]:
    given = {"responses": [], "outputs": [text], "usage": {}, "cost": None, "cost_details": {}, "raw": {"x": 1}}
    return {"_dspy_format": CACHE_FORMAT, **given, "response_model": "m", **more}


def test_an_app_gets_hits_after_one_line(provider: Provider) -> None:
    dspy.cache = ManagedCache(manager_on())
    lm = dspy.LM("fake/m", temperature=0.5)

    first, again = lm("What is Python?"), lm("What is Python?")
    lm("What is a loan?")
    lm("What is Python?", temperature=0.7)
    dspy.LM("fake/n", temperature=0.5)("What is Python?")
    lm("What is Python?", rollout_id=2)
    lm("What is Python?")

    assert first == again
    assert len(provider.calls) == 5
    assert lm.history[1]["usage"] == {}  # as DSPy marks every hit


def test_nothing_is_found_by_meaning_and_threads_may_ask(provider: Provider) -> None:
    dspy.cache = ManagedCache(manager_on(by_meaning=True))
    lm = dspy.LM("fake/m", temperature=0.5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: lm(f"question number {at % 4} of all of these questions"), range(32)))

    before = len(provider.calls)
    assert before >= 4
    for at in range(4):
        lm(f"question number {at} of all of these questions")
    assert len(provider.calls) == before


async def test_records_of_its_own_come_back_as_they_were() -> None:
    cache = ManagedCache(manager_on())

    await asyncio.to_thread(cache.put, REQUEST, record())

    assert cache.get(REQUEST) == record()
    assert cache.get({**REQUEST, "model": "n"}) is None
    assert cache.get({**REQUEST, "api_key": "k"}, ["api_key"]) == record()


def test_a_completion_that_was_streamed_is_not_kept() -> None:
    """LiteLLM says "stop" of a stream that its provider closed in the middle, too."""
    cache = ManagedCache(manager_on())
    message = litellm.Message(role="assistant", content="You must never")
    whole = litellm.ModelResponse(choices=[litellm.Choices(finish_reason="stop", index=0, message=message)])

    with dspy.context(send_stream=object()):
        cache.put(REQUEST, whole)
    assert cache.get(REQUEST) is None

    cache.put(REQUEST, whole)
    assert cache.get(REQUEST) is not None


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {DSPY_COMPLETION: 5},
        {DSPY_COMPLETION: "{}"},
        {DSPY_RECORD: 5},
        {DSPY_RECORD: "{}"},
        {DSPY_RECORD: "[" * 100_000},
        {DSPY_RECORD: json.dumps({"_dspy_format": CACHE_FORMAT})},
        {DSPY_RECORD: json.dumps(record(responses=[5]))},
        {DSPY_RECORD: json.dumps(record(responses=5))},
    ],
)
async def test_a_hostile_value_is_refused(metadata: dict[str, Any]) -> None:
    heard: list[Event] = []
    manager = manager_on(heard=heard)
    cache = ManagedCache(manager)
    asked = cache._asked(REQUEST, None)
    assert asked is not None
    await store_with_payload(manager, metadata, **asked.arguments())

    assert cache.get(REQUEST) is None
    assert any(isinstance(each, CorruptEvent) for each in heard)


def test_a_broken_store_does_not_break_the_app(provider: Provider) -> None:
    dspy.cache = ManagedCache(manager_on(BreakableBackend(up=False)))

    assert dspy.LM("fake/m", temperature=0.5)("q") == ["answer 1"]
