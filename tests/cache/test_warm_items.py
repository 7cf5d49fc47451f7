from __future__ import annotations

import codecs
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache_management.cache import warm_items
from cache_management.cache.errors import InvalidInput
from cache_management.cache.values import CachedResponse
from cache_management.cache.warm_items import WarmItem, check_items, read_warm_file

GOOD = {"prompt": "What is Python?", "response": "A language."}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.fixed_dictionaries(
    {"prompt": TEXT.filter(bool), "response": TEXT},
    optional={
        "model": TEXT,
        "token_count": st.integers(0, 10**9),
        "metadata": st.dictionaries(TEXT, JSON, max_size=3),
        "ttl_seconds": st.sampled_from([None, -1, 1, 3600]),
        "key": st.none() | TEXT.filter(bool),
    },
)


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "warm.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(folder: Path, content: str | bytes) -> list[WarmItem]:
    return list(read_warm_file(write(folder, content)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ITEMS, min_size=1, max_size=6), indent=st.sampled_from([None, 2]), plain=st.booleans())
def test_any_items_survive_a_json_list_and_json_lines(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None, plain: bool
) -> None:
    expected = [WarmItem(**row) for row in rows]

    assert read(tmp_path, json.dumps(rows, indent=indent, ensure_ascii=plain)) == expected
    assert read(tmp_path, "\n".join(json.dumps(row, ensure_ascii=plain) for row in rows)) == expected


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([GOOD]),
        "\n\n  [\n" + json.dumps(GOOD) + "\n]\n\n",
        json.dumps(GOOD),
        json.dumps(GOOD) + "\r\n\r\n",
        "\n" + json.dumps(GOOD) + "\n\n",
        codecs.BOM_UTF8 + json.dumps([GOOD]).encode(),
    ],
)
def test_blank_lines_marks_and_line_ends_do_not_matter(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == [WarmItem(prompt="What is Python?", response="A language.")]


def row(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


BAD: dict[str, tuple[str | bytes, str]] = {
    "empty file": (b"", "the file is empty"),
    "blank file": (" \n\n\t", "the file is empty"),
    "empty list": ("[ \n ]", "the list holds no items"),
    "broken line": (f"{row()}\n{row()}\n{{oops\n", r"line 3, column 2: invalid JSON"),
    "broken item of a list": (f"[\n{row()},\n{row()},\n{{oops}}\n]", r"line 4, column 2: invalid JSON"),
    "list not closed": (f"[\n{row()}\n", "line 3: invalid JSON: the list is not closed"),
    "list cut in an item": (f'[\n{row()},\n{{"prompt": "a', r"line 3, column \d+: invalid JSON"),
    "comma at the end": (f"[{row()},\n]", "line 2, column 1: invalid JSON"),
    "comma missing": (f"[{row()}\n{row()}]", "line 2: invalid JSON: a comma or ] is expected"),
    "text behind the list": (f"[{row()}]\n\nmore", "line 3: invalid JSON: text behind"),
    "second list": (f"[{row()}]\n[{row()}]", "line 2: invalid JSON: text behind"),
    "two objects in a line": (f"{row()} {row()}", r"line 1, column \d+: invalid JSON: Extra data"),
    "text instead of an object": (f'{row()}\n"text"', "line 2: an object .* not text"),
    "number instead of an object": ("[\n1\n]", "line 2, item 1: an object .* not a number"),
    "null instead of an object": ("null", "line 1: an object .* not null"),
    "truth instead of an object": ("[true]", "line 1, item 1: an object .* not a truth value"),
    "list instead of an object": (f"[\n[{row()}]]", "line 2, item [0-9]: an object .* not a list"),
    "prompt missing": (f'{row()}\n{{"response": "r"}}', r"line 2 is not valid:\n  prompt: Field required"),
    "prompt empty": (row(prompt=""), r"line 1 is not valid:\n  prompt: .*at least 1 character \(got ''\)"),
    "prompt a number": (row(prompt=7), r"prompt: .*valid string \(got 7\)"),
    "response missing": (f'{row()}\n{{"prompt": "lonely"}}', "line 2: the prompt 'lonely' has no response"),
    "response null": (row(response=None), "line 1: .* has no response"),
    "token_count negative": (row(token_count=-1), r"token_count: .*greater than or equal to 0 \(got -1\)"),
    "token_count text": (row(token_count="8"), r"token_count: .*valid integer \(got '8'\)"),
    "token_count a truth value": (row(token_count=True), r"token_count: .*valid integer"),
    "metadata that would be served": (row(metadata={"gateway": {}}), "line 1: metadata may not hold 'gateway'"),
    "metadata a list": (row(metadata=[]), "metadata: .*dictionary"),
    "ttl zero": (row(ttl_seconds=0), r"ttl_seconds: must be positive seconds.*\(got 0\)"),
    "ttl a fraction": (row(ttl_seconds=1.5), "ttl_seconds: .*integer"),
    "key empty": (row(key=""), "key: .*at least 1 character"),
    "unknown field": (row(promt="typo"), r"promt: Extra inputs are not permitted \(got 'typo'\)"),
    "prompt of 10 MB": (row(prompt="x" * 10**7), "line 1: the prompt has 10,000,000 bytes, .* give the item a shorter"),
    "key of 65 KiB": (row(key="x" * 66_560), "line 1: the key has 66,560 bytes, .* shorten it"),
    "not UTF-8": (row().encode() + b"\n\n\xff\xfe", r"line 3: byte \d+ is not UTF-8"),
    "UTF-16": (row().encode("utf-16"), "line 1: byte 0 is not UTF-8"),
    "NaN": (
        f'{row()}\n{{"prompt": "p", "response": "r", "token_count": NaN}}',
        "line 2: invalid JSON: NaN is not JSON",
    ),
    "Infinity in a list": (
        '[\n{"metadata": {"a": -Infinity}}]',
        "line 2, item [0-9]: invalid JSON: -Infinity is not JSON",
    ),
    "number beyond all bounds": (f'{row()}\n{{"metadata": {{"a": 1e999}}}}', "line 2: invalid JSON: 1e999"),
    "endless whole number": ('{"token_count": ' + "9" * 5000 + "}", "line 1: invalid JSON"),
    "deep nesting in a line": (row() + "\n" + "[" * 200_000, "line 2: .*nested too deeply"),
    "deep nesting in a list": (
        '[\n{"a": ' + "[" * 200_000 + "]" * 200_000 + "}]",
        "line 2, item [0-9]: .*nested too deeply",
    ),
    "deep metadata of a line": ('{"metadata": ' + '{"a":' * 100_000, "line 1: .*nested too deeply"),
    "half a character": ('{"prompt": "\\ud83d", "response": "r"}', "line 1"),
    "half a character in the response": ('{"prompt": "p", "response": "\\ud83d"}', "line 1"),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_bad_file_is_refused_with_its_name_the_line_and_the_reason(
    tmp_path: Path, content: tuple[str | bytes, str]
) -> None:
    data, why = content

    with pytest.raises(InvalidInput, match=why) as raised:
        read(tmp_path, data)

    assert "warm.json" in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("depth", [50, 200, 300, 900, 990])
def test_metadata_of_any_depth_is_read_or_refused_but_never_a_crash(tmp_path: Path, depth: int) -> None:
    content = '{"prompt": "p", "response": "r", "metadata": {"a": ' + "[" * depth + "]" * depth + "}}"

    try:
        (item,) = read(tmp_path, content)
    except InvalidInput:
        return
    assert item.prompt == "p"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.json: there is no such file"):
        list(read_warm_file(tmp_path / "nowhere.json"))


def test_folder_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(read_warm_file(tmp_path))


def test_large_prompt_with_a_key_of_its_own_is_taken(tmp_path: Path) -> None:
    (item,) = read(tmp_path, row(prompt="x" * 10**6, key="short"))

    assert (len(item.prompt), item.entry_key) == (10**6, "short")


def test_item_is_found_under_its_key_or_its_prompt() -> None:
    assert WarmItem(prompt="p", response="r").entry_key == "p"
    assert WarmItem(prompt="p", response="r", key="k").entry_key == "k"


def test_item_without_a_response_makes_no_entry() -> None:
    with pytest.raises(InvalidInput, match="no response"):
        WarmItem(prompt="p").to_response(1.0)


def test_programs_may_give_responses_items_or_dictionaries() -> None:
    value = CachedResponse(
        prompt="p", response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC), token_count=3
    )

    items = list(check_items([value, WarmItem(prompt="p", response="r"), dict(GOOD)]))

    assert [(item.prompt, item.response) for item in items] == [("p", "r"), ("p", "r"), tuple(GOOD.values())]
    assert (items[0].model, items[0].token_count) == ("m", 3)


@pytest.mark.parametrize(
    "bad",
    [
        7,
        "text",
        {},
        {"prompt": "p"},
        {"prompt": "", "response": "r"},
        CachedResponse(prompt="", response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC)),
        CachedResponse(prompt="x" * 70_000, response="r", model="m", timestamp=datetime(2026, 1, 1, tzinfo=UTC)),
        WarmItem(prompt="p"),
        WarmItem(prompt="p", response="r").model_copy(update={"prompt": "\ud83d"}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_item_of_a_program_is_named_by_its_position(bad: object) -> None:
    with pytest.raises(InvalidInput, match="item 1"):
        list(check_items([dict(GOOD), bad]))


@pytest.mark.parametrize("metadata", ['{"a": "\\ud83d"}', '{"\\ud83d": 1}'])
def test_metadata_with_half_a_character_is_refused_with_its_line(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "w.json"
    path.write_text('[{"prompt": "q", "response": "a", "metadata": ' + metadata + "}]")

    with pytest.raises(InvalidInput, match="line 1"):
        list(read_warm_file(path))


def test_an_item_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_items, "MAX_ITEM_BYTES", 1000)

    with pytest.raises(InvalidInput, match="at most 1,000"):
        list(check_items([{"prompt": "q", "response": "a" * 1001}]))


def test_a_timestamp_in_a_file_is_iso_8601(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text('{"prompt": "q", "response": "a", "timestamp": "2020-01-01T01:00:00+01:00"}')

    assert next(read_warm_file(path)).timestamp == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("timestamp", ['"yesterday"', "7", "true"])
def test_another_timestamp_is_refused(tmp_path: Path, timestamp: str) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text('{"prompt": "q", "response": "a", "timestamp": ' + timestamp + "}")

    with pytest.raises(InvalidInput, match="timestamp"):
        next(read_warm_file(path))
