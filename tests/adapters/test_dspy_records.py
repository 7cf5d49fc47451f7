"""What the adapter for DSPy keeps, with a stand-in for the four names of DSPy that it uses."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")

from tests.adapters.making import manager_on

pytestmark = pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning")
FORMAT = "a format"
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "q"}]}


class Cache:
    """As DSPy's own, of which the adapter takes the key of a request and the mark of a hit."""

    def __init__(self, **options: Any) -> None:
        assert not any(options.values())  # no memory, no disk, no folder

    def cache_key(self, request: dict[str, Any], ignored: list[str] | None = None) -> str:
        return json.dumps(request, sort_keys=True)

    def _prepare_cached_response(self, value: Any) -> Any:
        return value


@pytest.fixture
def settings() -> SimpleNamespace:
    return SimpleNamespace(send_stream=None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, settings: SimpleNamespace) -> Any:
    """Return the class of the adapter, loaded with the stand-in."""
    result = SimpleNamespace(load=lambda record: record)
    for name, held in {
        "dspy": {"settings": settings},
        "dspy.clients": {},
        "dspy.clients.cache": {"Cache": Cache},
        "dspy.clients.call_result": {"CACHE_FORMAT": FORMAT, "CallResult": result},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, name, module)
    # Else the adapter would stay as it is loaded now, for tests with the real one.
    name = "cache_management.adapters.dspy"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    del sys.modules[name]
    return importlib.import_module(name).ManagedCache


def record(text: Any = "a", **more: Any) -> dict[str, Any]:
    return {"_dspy_format": FORMAT, "responses": [], "outputs": [text], "usage": {}, "response_model": "m", **more}


REFUSED = "I'm sorry, but I can't help with that."
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "value",
    [
        *("text", [0.5, 0.25], object(), {"plain": 1}, None, record(usage=object())),
        record(""),
        record(outputs=[]),
        record(outputs=None),
        record(outputs=[None]),
        record(outputs=[5]),
        record(outputs=[{"text": "  "}]),
        record(outputs=[{"text": None, "tool_calls": []}]),
        record(outputs=["ok", ""]),
        record(outputs=["ok", REFUSED]),
        record(outputs=[{"text": REFUSED, "logprobs": None}]),
        record(responses=[{"finish_reason": "length"}]),
        record(responses=[{"finish_reason": "stop"}, {"finish_reason": "length"}], outputs=["a", "b"]),
    ],
)
def test_what_is_no_answer_is_not_stored(made: Any, value: Any) -> None:
    cache = made(manager_on())

    cache.put(REQUEST, value)

    assert cache.get(REQUEST) is None


@pytest.mark.parametrize(
    "outputs",
    [
        ["a", "b"],
        [{"text": "a", "reasoning_content": "why"}],
        [{"text": None, "tool_calls": [CALL]}],
        [{"text": REFUSED, "tool_calls": [CALL]}],
    ],
)
def test_every_output_of_a_record_is_an_answer(made: Any, outputs: list[Any]) -> None:
    cache = made(manager_on())

    cache.put(REQUEST, record(outputs=outputs))

    assert cache.get(REQUEST) == record(outputs=outputs)


def test_a_record_that_says_why_it_ended_in_its_own_word_is_kept(made: Any) -> None:
    cache = made(manager_on())
    called = record({"text": None, "tool_calls": [CALL]}, responses=[{"finish_reason": "tool_call"}])

    cache.put(REQUEST, called)

    assert cache.get(REQUEST) == called


@pytest.mark.parametrize("responses", [None, 5, "text", [5], [{"finish_reason": 5}]])
def test_responses_of_an_odd_shape_say_nothing_of_an_end(made: Any, responses: Any) -> None:
    cache = made(manager_on())

    cache.put(REQUEST, record(responses=responses))

    assert cache.get(REQUEST) == record(responses=responses)


def test_a_completion_that_was_streamed_is_not_kept(made: Any, settings: SimpleNamespace) -> None:
    """LiteLLM says "stop" of a stream that its provider closed in the middle, too."""
    cache = made(manager_on())
    message = litellm.Message(role="assistant", content="You must never")
    whole = litellm.ModelResponse(choices=[litellm.Choices(finish_reason="stop", index=0, message=message)])

    settings.send_stream = object()
    cache.put(REQUEST, whole)
    assert cache.get(REQUEST) is None

    settings.send_stream = None
    cache.put(REQUEST, whole)
    assert cache.get(REQUEST).choices[0].message.content == "You must never"
