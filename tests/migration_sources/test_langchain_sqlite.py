from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cache_management.cache.errors import InvalidInput
from cache_management.migration_sources.langchain_sqlite import LangChainStore
from tests.migration_sources.stores import found_in, generation, langchain


def test_the_generations_of_a_call_come_together(tmp_path: Path) -> None:
    file = langchain(
        tmp_path / "x.db",
        [("q", "llm", 1, generation("two")), ("q", "llm", 0, generation("one")), ("r", "llm", 0, "a plain text")],
    )

    found, left = found_in(LangChainStore(file).rows())

    assert [row.response for row in found] == ["one", "a plain text"]
    assert [each["kwargs"]["text"] for each in json.loads(found[0].metadata["langchain"])] == ["one", "two"]
    assert left == []
    assert LangChainStore(file).count() == 3


def test_what_cannot_come_along_says_why(tmp_path: Path) -> None:
    file = langchain(
        tmp_path / "x.db",
        [
            ("none", "llm", 0, None),
            ("pickled", "llm", 0, pickle.dumps(5)),
            ("other", "llm", 0, generation("a", kind="PromptTemplate")),
            ("dict", "llm", 0, "{}"),
            (b"\xff", "llm", 0, generation("a")),
        ],
    )

    found, left = found_in(LangChainStore(file).rows())

    assert found == []
    assert sorted((row.prompt, row.reason) for row in left) == [
        ("", "a prompt that is no text"),
        ("dict", "a value that is no generation of LangChain"),
        ("none", "no answer"),
        ("other", "a value that is no generation of LangChain"),
        ("pickled", "a pickled value, which is never read"),
    ]


def chat(text: str, *, info: dict[str, Any] | None = None, calls: Sequence[Any] = (), **message: Any) -> str:
    kwargs = {"content": text, "tool_calls": list(calls), "response_metadata": {}, **message}
    answer = {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "AIMessage"], "kwargs": kwargs}
    path = ["langchain", "schema", "output", "ChatGeneration"]
    given = {"text": text, "message": answer, "generation_info": info}
    return json.dumps({"lc": 1, "type": "constructor", "id": path, "kwargs": given})


def test_what_our_own_adapter_would_not_keep_stays_behind(tmp_path: Path) -> None:
    refusal = "I'm sorry, but I can't help with that."
    streams = "[('streaming', True)]"
    file = langchain(
        tmp_path / "x.db",
        [
            ("cut", "llm", 0, chat("You must never", info={"finish_reason": "length"})),
            ("second cut", "llm", 0, chat("Yes.")),
            ("second cut", "llm", 1, chat("N", response_metadata={"stop_reason": "max_tokens"})),
            ("filtered", "llm", 0, chat("x", info={"finish_reason": "content_filter"})),
            ("refused", "llm", 0, chat(refusal, info={"finish_reason": "stop"})),
            ("marked", "llm", 0, chat("No.", additional_kwargs={"refusal": "No."})),
            ("odd", "llm", 0, chat("x", info={"finish_reason": "who knows"})),
            ("half", streams, 0, chat("You must never")),
            ("half of a plain one", "llm", 0, generation("You must never", kind="GenerationChunk")),
            ("empty", "llm", 0, chat("")),
            ("good", streams, 0, chat("Yes.", info={"finish_reason": "stop"})),
            ("silent", "llm", 0, chat("Yes.")),
            ("called", "llm", 0, chat("", calls=[{"name": "f", "args": {"a": 1}, "id": "1"}])),
            ("odd message", "llm", 0, chat("Yes.", response_metadata=5, additional_kwargs=[])),
        ],
    )

    found, left = found_in(LangChainStore(file).rows())

    assert {row.asked["prompt"] for row in found} == {"good", "silent", "called", "odd message"}
    assert {row.prompt: (row.reason, row.is_fault) for row in left} == {
        "cut": ("a cut-off answer", False),
        "second cut": ("a cut-off answer", False),
        "filtered": ("a filtered answer", False),
        "refused": ("a refusal", False),
        "marked": ("a refusal", False),
        "odd": ("an answer that did not end well", False),
        "half": ("a stream that does not say that it ended", True),
        "half of a plain one": ("a stream that does not say that it ended", True),
        "empty": ("no answer", True),
    }
    assert [row.has_tool_calls for row in found if row.asked["prompt"] == "called"] == [True]


def test_another_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE full_llm_cache (prompt, response)")
    connection.close()

    with pytest.raises(InvalidInput, match="no table full_llm_cache"):
        LangChainStore(file)
