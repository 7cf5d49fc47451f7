from __future__ import annotations

import contextlib
import enum
import unicodedata
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cache_management.cache.errors import InvalidInput, InvalidKey
from cache_management.cache.requests import (
    IGNORED,
    IGNORED_HEADERS,
    MAX_DEPTH,
    Request,
    canonical,
    compatibility,
    entry_key,
    fingerprint,
    is_reserved_key,
    is_secret_name,
    make_request,
    searchable_text,
    turn_at,
    turn_keys,
)

TOOL = {
    "type": "function",
    "function": {"name": "get_order", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_order", "arguments": '{"id": "7"}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "Where is order 7?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "shipped"},
    {"role": "assistant", "content": "It is on its way."},
]
FULL: dict[str, Any] = {
    "prompt": "And when does it arrive?",
    "model": "gpt-4o-mini",
    "system": "Answer in one sentence.",
    "history": HISTORY,
    "params": {
        "temperature": 0.2,
        "max_tokens": 256,
        "tools": [TOOL],
        "tool_choice": "required",
        "response_format": {"type": "json_object"},
    },
    "namespace": "shop",
    "tenant": "acme",
    "sample": 0,
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
# Few different leaves, so that equal pairs are drawn too.
LEAVES = st.sampled_from(
    [
        *(0, 0.0, -0.0, 1, 1.0, 1.5, -1, True, False, None, 5e-324),
        *("", "1", "true", "\u00e9", "e\u0301", "A", "a", " a", "\u2126", "\u03a9"),
        *(2**53, 2.0**53, 2**63, 2.0**63, 2**64, 2.0**64, 10**30, 1e30, int(1e30), -(2**63) - 1, 10**400),
    ]
)
JSON = st.recursive(
    LEAVES | TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3).filter(lambda d: distinct(d)),
    max_leaves=8,
)
PARTS = st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT) | st.just(IMAGE) | st.just({"type": "input_audio"}),
    min_size=1,
    max_size=3,
)
MESSAGES = st.builds(
    lambda role, content, name: {"role": role, "content": content, **({"name": name} if name else {})},
    st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    TEXT | PARTS,
    TEXT,
)
PARAMS = st.dictionaries(
    st.sampled_from(["temperature", "top_p", "n", "seed", "num_ctx", "stop", "logit_bias", "x"]), JSON, max_size=3
)
REQUESTS = st.fixed_dictionaries(
    {"prompt": TEXT | PARTS},
    optional={
        "model": TEXT.filter(bool),
        "system": TEXT | PARTS,
        "history": st.lists(MESSAGES, max_size=3),
        "params": PARAMS,
        "namespace": st.sampled_from(["default", "shop"]),
        "tenant": TEXT.filter(bool),
        "sample": st.integers(0, 3),
    },
)


def distinct(names: dict[str, Any]) -> bool:
    return len({unicodedata.normalize("NFC", name) for name in names}) == len(names)


def made(**changes: Any) -> Request:
    return make_request(**{**FULL, **changes})


def with_params(**params: Any) -> Request:
    return make_request("p", params=params)


def meaning(value: Any) -> Any:
    """What a JSON value is, said another way than the module says it."""
    match value:
        case bool() | None:
            return ("word", str(value))
        case int() | float():
            return ("number", Fraction(value))
        case str():
            return ("text", unicodedata.normalize("NFC", value))
        case list():
            return ("list", tuple(meaning(item) for item in value))
        case dict():
            return (
                "object",
                frozenset((unicodedata.normalize("NFC", name), meaning(item)) for name, item in value.items()),
            )
        case msgspec.msgpack.Ext():
            return ("number", Fraction(int(value.data, 16)))
    raise AssertionError(type(value))


def rewritten(value: Any) -> Any:
    """The same value, spelt otherwise: order of names, 1 and 1.0, composed and decomposed letters."""
    match value:
        case bool() | None:
            return value
        case int():
            return float(value) if abs(value) < 2**53 else value
        case float():
            return int(value) if value.is_integer() else value
        case str():
            return unicodedata.normalize("NFD", value) if unicodedata.is_normalized("NFC", value) else value
        case list():
            return tuple(rewritten(item) for item in value)
        case dict():
            return OrderedDict((rewritten(name), rewritten(item)) for name, item in reversed(value.items()))
    raise AssertionError(type(value))


# what changes a fingerprint


def one_field_changed() -> list[tuple[str, dict[str, Any]]]:
    params = FULL["params"]
    history = {
        "history role": [{**HISTORY[0], "role": "developer"}, *HISTORY[1:]],
        "history text": [{**HISTORY[0], "content": "Where is order 8?"}, *HISTORY[1:]],
        "history image": [
            {**HISTORY[0], "content": [{"type": "text", "text": "Where is order 7?"}, IMAGE]},
            *HISTORY[1:],
        ],
        "history name": [{**HISTORY[0], "name": "ann"}, *HISTORY[1:]],
        "history tool_calls": [HISTORY[0], {"role": "assistant", "tool_calls": [CALL, CALL]}, *HISTORY[2:]],
        "history tool_call_id": [*HISTORY[:2], {**HISTORY[2], "tool_call_id": "call_2"}, HISTORY[3]],
        "history unknown key": [{**HISTORY[0], "weight": 0}, *HISTORY[1:]],
        "history order": [*HISTORY[:2], HISTORY[3], HISTORY[2]],
        "history length": HISTORY[1:],
        "no history": [],
    }
    other_params = {
        "temperature": {"temperature": 0.3},
        "temperature 0 is not omitted": {"temperature": 0},
        "max_tokens": {"max_tokens": 257},
        "unknown parameter": {"num_ctx": 4096},
        "n": {"n": 2},
        "tools": {"tools": [TOOL, TOOL]},
        "tools omitted": {"tools": None},
        "tool_choice": {"tool_choice": "none"},
        "tool_choice omitted": {"tool_choice": None},
        "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format omitted": {"response_format": None},
        "true is not 1": {"top_logprobs": True},
        "1 is not true": {"top_logprobs": 1},
        "text is not a number": {"top_logprobs": "1"},
        "an anthropic-beta header": {"extra_headers": {"anthropic-beta": "context-1m"}},
    }
    return [
        ("model", {"model": "gpt-4o"}),
        ("case of model", {"model": "GPT-4o-mini"}),
        ("no model", {"model": None}),
        ("system", {"system": "Answer in one Sentence."}),
        ("white space in system", {"system": "Answer in one sentence. "}),
        ("no system", {"system": None}),
        ("empty system", {"system": ""}),
        ("namespace", {"namespace": "bank"}),
        ("no namespace", {"namespace": None}),
        ("tenant", {"tenant": "umbrella"}),
        ("no tenant", {"tenant": None}),
        ("sample", {"sample": 1}),
        *((name, {"history": value}) for name, value in history.items()),
        *((name, {"params": {**params, **value}}) for name, value in other_params.items()),
    ]


CHANGES = one_field_changed()


@pytest.mark.parametrize("changes", [change for _, change in CHANGES], ids=[name for name, _ in CHANGES])
def test_each_field_alone_changes_both_fingerprints(changes: dict[str, Any]) -> None:
    assert fingerprint(made(**changes)) != fingerprint(made())
    assert compatibility(made(**changes)) != compatibility(made())


def test_all_the_changes_differ_from_each_other() -> None:
    assert len({fingerprint(made(**changes)) for _, changes in CHANGES}) == len(CHANGES)
    assert len({compatibility(made(**changes)) for _, changes in CHANGES}) == len(CHANGES)


@pytest.mark.parametrize(
    "prompt", ["And when will it be here?", "and when does it arrive?", "", "And when does it  arrive?"]
)
def test_the_last_user_text_changes_only_the_exact_one(prompt: str) -> None:
    assert fingerprint(made(prompt=prompt)) != fingerprint(made())
    assert compatibility(made(prompt=prompt)) == compatibility(made())


def test_only_the_text_of_a_last_turn_with_an_image_is_left_out() -> None:
    def asked(text: str, url: str) -> Request:
        return made(prompt=[{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}])

    assert compatibility(asked("What is this?", "u:1")) == compatibility(asked("What do you see?", "u:1"))
    assert compatibility(asked("What is this?", "u:1")) != compatibility(asked("What is this?", "u:2"))
    assert compatibility(asked("What is this?", "u:1")) != compatibility(made(prompt="What is this?"))


def test_an_earlier_user_text_is_context_and_not_left_out() -> None:
    ends = [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]
    one, other = (make_request(None, history=[{"role": "user", "content": text}, *ends]) for text in ("a", "b"))

    assert compatibility(one) != compatibility(other)


@given(
    kwargs=REQUESTS,
    field=st.sampled_from(["model", "system", "history", "params", "namespace", "tenant", "sample"]),
    data=st.data(),
)
def test_any_field_changed_changes_both(kwargs: dict[str, Any], field: str, data: st.DataObject) -> None:
    other = {**data.draw(REQUESTS), "prompt": kwargs["prompt"]}
    changed = {**kwargs, field: other[field]} if field in other else {k: v for k, v in kwargs.items() if k != field}
    one, two = make_request(**kwargs), make_request(**changed)
    assume(meaning(canonical(one)) != meaning(canonical(two)))

    assert fingerprint(one) != fingerprint(two)
    assert compatibility(one) != compatibility(two)


@given(kwargs=REQUESTS, prompt=TEXT)
def test_any_paraphrase_keeps_the_compatibility(kwargs: dict[str, Any], prompt: str) -> None:
    assume(isinstance(kwargs["prompt"], str))

    assert compatibility(make_request(**kwargs)) == compatibility(make_request(**{**kwargs, "prompt": prompt}))


@given(one=JSON, other=JSON)
@example(one=True, other=1)
@example(one=[1.0], other=[1])
@example(one=10**30, other=1e30)
@example(one=int(1e30), other=1e30)
@example(one={"a": None}, other={})
@example(one=[], other={})
@example(one=["a", "b"], other=["b", "a"])
@example(one="\u00e9", other="e\u0301")
@example(one="e", other="E")
def test_values_are_the_same_exactly_when_they_mean_the_same(one: Any, other: Any) -> None:
    # Inside a list, because a parameter that is null itself counts as omitted.
    same = fingerprint(with_params(x=[one])) == fingerprint(with_params(x=[other]))

    assert same == (meaning(one) == meaning(other))


@given(one=REQUESTS, other=REQUESTS)
def test_requests_are_the_same_exactly_when_their_canonical_forms_are(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    a, b = make_request(**one), make_request(**other)

    assert (fingerprint(a) == fingerprint(b)) == (meaning(canonical(a)) == meaning(canonical(b)))


@given(kwargs=REQUESTS)
def test_another_spelling_of_the_same_request_changes_nothing(kwargs: dict[str, Any]) -> None:
    sample = {"sample": kwargs["sample"]} if "sample" in kwargs else {}
    other = {**{name: rewritten(value) for name, value in kwargs.items()}, **sample}

    assert fingerprint(make_request(**other)) == fingerprint(make_request(**kwargs))
    assert compatibility(make_request(**other)) == compatibility(make_request(**kwargs))


@given(kwargs=REQUESTS)
def test_the_exact_name_is_never_a_compatibility_name(kwargs: dict[str, Any]) -> None:
    request = make_request(**kwargs)

    assert fingerprint(request)[4:] != compatibility(request)[4:]


# what is left out


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_ignored_parameter_changes_nothing(name: str) -> None:
    assert fingerprint(with_params(**{name: "anything"})) == fingerprint(make_request("p"))


@pytest.mark.parametrize("name", sorted(IGNORED_HEADERS))
def test_ignored_header_changes_nothing(name: str) -> None:
    assert fingerprint(with_params(extra_headers={name.title(): "x"})) == fingerprint(make_request("p"))


@pytest.mark.parametrize(
    "params",
    [
        {"n": 1},
        {"n": 1.0},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"frequency_penalty": 0.0},
        {"presence_penalty": -0.0},
        {"logit_bias": {}},
        {"logprobs": False},
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"tool_choice": "none"},
        {"tools": [], "tool_choice": "none"},
        {"temperature": None, "tools": None, "tool_choice": None, "response_format": None, "seed": None},
        {"extra_headers": {}},
    ],
)
def test_explicit_default_equals_omitted(params: dict[str, Any]) -> None:
    assert fingerprint(with_params(**params)) == fingerprint(make_request("p"))


@pytest.mark.parametrize(
    "params",
    [
        {"n": True},
        {"temperature": 1},
        {"temperature": 0},
        {"top_p": 1},
        {"logprobs": 0},
        {"logit_bias": []},
        {"response_format": {"type": "text", "strict": None}},
        {"tool_choice": "auto"},
        {"extra_body": {}},
        {"metadata": {"a": None}},
    ],
)
def test_what_is_no_default_with_every_model_counts(params: dict[str, Any]) -> None:
    assert fingerprint(with_params(**params)) != fingerprint(make_request("p"))


def test_tool_choice_auto_is_the_default_beside_tools_only() -> None:
    omitted = with_params(tools=[TOOL])

    assert fingerprint(with_params(tools=[TOOL], tool_choice="auto")) == fingerprint(omitted)
    assert fingerprint(with_params(tools=[TOOL], tool_choice="none")) != fingerprint(omitted)


def test_known_defaults_hold_for_their_model_only() -> None:
    table = {"m": {"temperature": 1, "n": 4}}

    def named(model: str, **params: Any) -> str:
        return fingerprint(make_request("p", model=model, params=params, known_defaults=table))

    assert named("m", temperature=1.0) == named("m")
    assert named("m", temperature=0) != named("m")
    assert named("m", temperature=True) != named("m")
    assert named("other", temperature=1) != named("other")
    assert named("m", n=1) != named("m")
    assert named("m", n=4) == named("m")


# the two spellings of a conversation


def test_prompt_and_system_may_stand_in_the_history() -> None:
    apart = make_request("How?", system="Be kind.", history=HISTORY)
    whole = [{"role": "system", "content": "Be kind."}, *HISTORY, {"role": "user", "content": "How?"}]

    together = make_request(None, history=whole)

    assert fingerprint(together) == fingerprint(apart)
    assert compatibility(together) == compatibility(apart)
    assert (together.prompt, together.system) == ("How?", "Be kind.")


def test_one_text_part_is_text_and_null_message_keys_are_omitted() -> None:
    parts = make_request([{"type": "text", "text": "How?"}], history=[{**HISTORY[1], "content": None}])

    assert fingerprint(parts) == fingerprint(make_request("How?", history=[HISTORY[1]]))


@pytest.mark.parametrize("extra", [{"cache_control": {"type": "ephemeral"}}, {"annotations": []}])
def test_a_text_part_that_says_more_is_not_plain_text(extra: dict[str, Any]) -> None:
    part = {"type": "text", "text": "How?", **extra}

    assert fingerprint(make_request([part])) != fingerprint(make_request("How?"))


def test_a_request_does_not_see_later_changes_of_what_it_was_made_of() -> None:
    params = {"stop": ["a"], "tools": [{"type": "x"}]}
    history = [{"role": "user", "content": [{"type": "text", "text": "a", "more": {}}]}]
    request = make_request("p", params=params, history=history)
    before = fingerprint(request)

    params["stop"].append("b")
    params["tools"][0]["type"] = "y"
    history[0]["content"][0]["more"]["z"] = 1  # type: ignore[index]

    assert fingerprint(request) == before


# the key of the entry


@pytest.mark.parametrize(
    "prompt", ["What is Python?", "  spaces stay ", "e\u0301", "fp1 is no prefix", "fp1:Not hex", "x" * 65_536]
)
def test_a_request_with_nothing_but_a_prompt_is_filed_under_the_prompt(prompt: str) -> None:
    assert entry_key(make_request(prompt)) == prompt
    assert entry_key(make_request(prompt, params={"n": 1, "stream": True, "api_key": "k"})) == prompt
    assert entry_key(make_request(None, history=[{"role": "user", "content": prompt}])) == unicodedata.normalize(
        "NFC", prompt
    )


def test_the_namespace_is_not_part_of_a_plain_key_because_keys_live_inside_it() -> None:
    assert entry_key(make_request("p", namespace="shop")) == "p"


@pytest.mark.parametrize(
    "more",
    [
        {"model": "m"},
        {"system": ""},
        {"history": HISTORY},
        {"params": {"temperature": 0}},
        {"params": {"tools": [TOOL]}},
        {"params": {"tool_choice": "auto"}},
        {"params": {"response_format": {"type": "json_object"}}},
        {"tenant": "t"},
        {"sample": 1},
    ],
)
def test_anything_more_is_filed_under_the_fingerprint(more: dict[str, Any]) -> None:
    request = make_request("p", **more)

    assert entry_key(request) == fingerprint(request)


@pytest.mark.parametrize("prompt", ["", "x" * 65_537, "\u20ac" * 30_000])
def test_a_prompt_that_cannot_be_a_key_is_filed_under_the_fingerprint(prompt: str) -> None:
    assert is_reserved_key(entry_key(make_request(prompt)))


def test_no_prompt_can_name_another_request_s_entry() -> None:
    victim = made()

    for prompt in (fingerprint(victim), compatibility(victim), "fp1:", "fp2:00ff"):
        forged = make_request(prompt)
        assert entry_key(forged) == fingerprint(forged) != prompt


@given(one=REQUESTS, other=REQUESTS)
def test_entries_of_different_requests_never_meet(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = (make_request(**{**kwargs, "namespace": "n"}) for kwargs in (one, other))

    if entry_key(a) == entry_key(b):
        assert fingerprint(a) == fingerprint(b)


# searching


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (make_request("How?"), "How?"),
        (make_request([{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}]), "a\nb"),
        (make_request([IMAGE]), None),
        (make_request(" \n"), None),
        (make_request("How?", sample=1), None),
        (make_request(None, history=HISTORY), None),
        (make_request("How?", history=HISTORY), "How?"),
        (make_request(None, history=HISTORY[:3]), None),
    ],
)
def test_searchable_text(request_: Request, text: str | None) -> None:
    assert searchable_text(request_) == text


# secrets


def test_api_keys_never_enter_a_request() -> None:
    secret = "sk-very-secret-0123456789"
    request = make_request(
        "p",
        params={
            "api_key": secret,
            "openai_api_key": secret,
            "extra_headers": {"Authorization": f"Bearer {secret}", "X-Api-Key": secret, "Cookie": secret},
            "webhook_secret": secret,
        },
    )

    assert secret not in str(msgspec.to_builtins(request))
    assert set(request.params) == {"extra_headers", "webhook_secret"}
    assert fingerprint(request) != fingerprint(with_params(webhook_secret="other"))


def test_repr_shows_no_prompt_and_no_parameter() -> None:
    shown = repr(made(tenant="tenant-name"))

    assert fingerprint(made(tenant="tenant-name"))[:16] in shown
    for text in ("arrive", "order", "sentence", "0.2", "tenant-name"):
        assert text not in shown


@pytest.mark.parametrize(
    "name", ["api_key", "x-api-key", "client_secret", "Authorization", "access_token", "token", "password"]
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["max_tokens", "max_completion_tokens", "eos_token", "temperature", "secretary", "stop_token"]
)
def test_names_that_are_no_secret(name: str) -> None:
    assert not is_secret_name(name)


# refusals


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"prompt": 7}, r"^prompt must be text or a list of content parts, not int$"),
        ({"prompt": b"x"}, r"^prompt is not JSON: bytes$"),
        ({"prompt": ["text"]}, r"^prompt\[0\] must be a content part with a type$"),
        ({"prompt": "\ud800"}, r"^prompt is not valid Unicode at character 0"),
        ({"prompt": None}, r"^a request needs a prompt or a history$"),
        ({"prompt": "p", "model": ""}, r"^model must be text and not empty, not ''$"),
        ({"prompt": "p", "model": 4}, r"^model must be text and not empty, not 4$"),
        ({"prompt": "p", "tenant": ""}, r"^tenant must be text and not empty"),
        ({"prompt": "p", "system": 1.5}, r"^system must be text or a list of content parts, not float$"),
        ({"prompt": "p", "sample": -1}, r"^sample must be a whole number from 0, not -1$"),
        ({"prompt": "p", "sample": True}, r"^sample must be a whole number from 0, not True$"),
        ({"prompt": "p", "namespace": "a:b"}, r"^namespace 'a:b' cannot be used"),
        ({"prompt": "p", "history": "text"}, r"^history must be a list of chat messages, not str$"),
        ({"prompt": "p", "history": {"role": "user"}}, r"^history must be a list of chat messages, not dict$"),
        ({"prompt": "p", "history": ["text"]}, r"^history\[0\] must be a chat message with role and content, not str$"),
        (
            {"prompt": "p", "history": [{"content": "x"}]},
            r"^history\[0\]\.role must be one of assistant, .*, not None$",
        ),
        (
            {"prompt": "p", "history": [HISTORY[0], {"role": "User", "content": "x"}]},
            r"^history\[1\]\.role .* not 'User'$",
        ),
        ({"prompt": "p", "history": [{"role": ["user"], "content": "x"}]}, r"^history\[0\]\.role must be one of"),
        ({"prompt": "p", "history": [{"role": "user"}]}, r"^history\[0\] has no content$"),
        (
            {"prompt": "p", "history": [{"role": "user", "content": 1}]},
            r"^history\[0\]\.content must be text or a list",
        ),
        (
            {"prompt": "p", "history": [{"role": "user", "content": [{}]}]},
            r"^history\[0\]\.content\[0\] must be a content",
        ),
        (
            {"prompt": "p", "history": [{"role": "user", "content": [{"type": "x", "y": {"z": {1}}}]}]},
            r"^history\[0\]\.content\[0\]\.y\.z is not JSON: set$",
        ),
        ({"prompt": "p", "params": [1]}, r"^params must be a mapping, not list$"),
        ({"prompt": "p", "params": {"a": float("nan")}}, r"^params\.a is not JSON: nan$"),
        ({"prompt": "p", "params": {"a": [1, float("-inf")]}}, r"^params\.a\[1\] is not JSON: -inf$"),
        ({"prompt": "p", "params": {"a": object()}}, r"^params\.a is not JSON: object$"),
        ({"prompt": "p", "params": {1: 2}}, r"^params has a name that is no text: 1$"),
        (
            {"prompt": "p", "params": {"a": {"\u00e9": 1, "e\u0301": 2}}},
            r"^params\.a has two names that differ only in",
        ),
        ({"prompt": "p", "params": {"a": {"\ud800": 1}}}, r"^params\.a is not valid Unicode at character 0"),
        (
            {"prompt": "p", "params": {"a": nested(MAX_DEPTH + 1)}},
            r"^params\.a\[0\]\[0\].* … .* is nested deeper than 64",
        ),
        ({"prompt": "p", "params": {"a": LOOP}}, r"is nested deeper than 64 levels$"),
        ({"prompt": "p", "params": {"tools": "x"}}, r"^params\.tools must be a list, not str$"),
        ({"prompt": "p", "params": {"headers": "x"}}, r"^params\.headers must be a mapping, not str$"),
        (
            {"prompt": "p", "params": {"headers": {"X-A": "1", "x-a": "2"}}},
            r"^params\.headers has the header 'x-a' twice$",
        ),
        ({"prompt": "p", "params": {"model": "m"}}, r"^params must not hold 'model'; give it as model=$"),
        (
            {"prompt": "p", "params": {"messages": []}},
            r"^params must not hold 'messages'; give it as prompt= and history=$",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(kwargs: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        make_request(**kwargs)


def test_a_wrong_namespace_is_an_invalid_key() -> None:
    with pytest.raises(InvalidKey):
        make_request("p", namespace="a b")


@given(
    value=st.recursive(
        JSON | st.binary() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text() | st.integers(), x),
    )
)
def test_whatever_is_given_makes_a_request_or_a_clear_error(value: Any) -> None:
    for kwargs in ({"params": value}, {"history": value}, {"params": {"a": value}}, {"system": value}):
        with contextlib.suppress(InvalidInput):
            assert fingerprint(make_request("p", **kwargs))


def test_deep_but_allowed_and_subclasses_of_plain_types() -> None:
    class Word(enum.StrEnum):
        AUTO = "auto"

    class Number(enum.IntEnum):
        ONE = 1

    class Real(float):
        pass

    odd = with_params(a=nested(MAX_DEPTH - 1), b=Word.AUTO, c=Number.ONE, d=OrderedDict(x=(1,)), e=Real(2.0))

    assert fingerprint(odd) == fingerprint(with_params(a=nested(MAX_DEPTH - 1), b="auto", c=1, d={"x": [1]}, e=2))


@given(
    st.lists(
        st.one_of(
            st.builds(lambda text: {"role": "user", "content": text}, TEXT),
            st.builds(lambda text: {"role": "assistant", "content": text}, TEXT),
            st.just({"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}),
            st.just({"role": "user", "name": "bob", "content": "q"}),
        ),
        max_size=5,
    ),
    st.sampled_from([{}, {"model": "m"}, {"system": "Be brief.", "params": {"seed": 1, "tools": [TOOL]}}]),
)
def test_the_keys_of_earlier_turns_are_those_of_the_requests_that_they_were(
    history: list[dict[str, Any]], context: dict[str, Any]
) -> None:
    request = make_request("last", history=history, **context)

    keys = turn_keys(request)

    turns = [at for at, message in enumerate(request.history) if message.keys() == {"role", "content"}]
    assert keys == {at: entry_key(turn_at(request, at)) for at in turns if request.history[at]["role"] == "user"}
    for at, key in keys.items():
        as_asked = request.history[at]["content"]
        assert key == entry_key(make_request(as_asked, **{**context, "history": list(request.history[:at])}))


# the layout


@pytest.mark.parametrize(
    ("request_", "exact", "compatible"),
    [
        (
            make_request("What is Python?"),
            "fp2:99931748899402faa858a63f021e8a7dadf7cef6e553df8fdd3b8128c6c9133b",
            "fc1:8387a259c15e72d0c7ab0e80763713c63928871b0b35fa6bdef9f5136aa7ad89",
        ),
        (
            made(),
            "fp2:0182caecea2fefe5acb4e8ca79809eecd876bd9cfe282d2d212a88b9f0c5ed9a",
            "fc1:680c6208c29fb76b960f7c8140ceb04b57abd30fc3f722ec3113ddcead101653",
        ),
        (
            make_request(
                [{"type": "text", "text": "Qu'est-ce que c\u2019est\u202f?"}, IMAGE],
                system="\u03a9mega",
                params={
                    "b": 1.5,
                    "a": [True, None, -1, 2**64, 1e300],
                    "\u00e9": {"z": 1, "\U0001f600": 2, "\uffff": 3},
                },
                sample=2,
            ),
            "fp2:979440990f18752108ff0a6d83ce1eec57824fe70cc5f08f59b809e29dec97c0",
            "fc1:435d745abf77ef11490fc7b53dc8b57d6d94b25e155db57825b7718dd1e7b077",
        ),
    ],
)
def test_fingerprints_never_change_without_a_new_prefix(request_: Request, exact: str, compatible: str) -> None:
    # Another result here makes every stored entry unreachable: raise the number in the prefix too.
    assert fingerprint(request_) == exact
    assert compatibility(request_) == compatible
