from __future__ import annotations

import json
import pickle
import sqlite3
from pathlib import Path

import pytest

from cache_management.cache.errors import InvalidInput
from cache_management.migration_sources.langchain_sqlite import LangChainStore
from tests.migration_sources.stores import found_in, langchain


def generation(text: str, *, kind: str = "Generation") -> str:
    path = ["langchain", "schema", "output", kind]
    return json.dumps({"lc": 1, "type": "constructor", "id": path, "kwargs": {"text": text}})


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


def test_another_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE full_llm_cache (prompt, response)")
    connection.close()

    with pytest.raises(InvalidInput, match="no table full_llm_cache"):
        LangChainStore(file)
