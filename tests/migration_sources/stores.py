"""Caches of other libraries as those libraries lay them out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_management.migration_sources.found import Found, LeftOut

GPTCACHE = """
CREATE TABLE {0}_question (id INTEGER PRIMARY KEY AUTOINCREMENT, question VARCHAR(3000) NOT NULL,
    create_on DATETIME, last_access DATETIME, embedding_data BLOB, deleted INTEGER);
CREATE TABLE {0}_answer (id INTEGER PRIMARY KEY AUTOINCREMENT, question_id INTEGER NOT NULL,
    answer VARCHAR(3000) NOT NULL, answer_type INTEGER NOT NULL);
CREATE TABLE {0}_question_dep (id INTEGER PRIMARY KEY AUTOINCREMENT, question_id INTEGER NOT NULL,
    dep_name VARCHAR(1000) NOT NULL, dep_data VARCHAR(3000) NOT NULL, dep_type INTEGER NOT NULL);
"""
LANGCHAIN = """
CREATE TABLE full_llm_cache (prompt VARCHAR NOT NULL, llm VARCHAR NOT NULL, idx INTEGER NOT NULL, response VARCHAR,
    PRIMARY KEY (prompt, llm, idx));
"""


def gptcache(
    file: Path,
    rows: Sequence[tuple[Any, Sequence[tuple[Any, int]]]],
    *,
    deleted: Sequence[int] = (),
    attached: Sequence[int] = (),
    prefix: str = "gptcache",
) -> Path:
    """Write questions with their answers, numbered from 1; an answer has a kind: 0 is text, 1 and 2 are images."""
    with sqlite3.connect(file) as connection:
        connection.executescript(GPTCACHE.format(prefix))
        for number, (question, answers) in enumerate(rows, start=1):
            connection.execute(
                f"INSERT INTO {prefix}_question VALUES (?, ?, ?, ?, ?, ?)",
                (number, question, "2026-01-02 03:04:05.000006", None, b"\0" * 8, -1 if number in deleted else 0),
            )
            for answer, kind in answers:
                connection.execute(f"INSERT INTO {prefix}_answer VALUES (NULL, ?, ?, ?)", (number, answer, kind))
        for number in attached:
            connection.execute(f"INSERT INTO {prefix}_question_dep VALUES (NULL, ?, 'image', 'x.png', 2)", (number,))
    connection.close()
    return file


def langchain(file: Path, rows: Sequence[tuple[Any, Any, int, Any]]) -> Path:
    """Write rows of prompt, description of the model, place, and response."""
    with sqlite3.connect(file) as connection:
        connection.executescript(LANGCHAIN)
        connection.executemany("INSERT INTO full_llm_cache VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return file


def found_in(rows: Any) -> tuple[list[Found], list[LeftOut]]:
    """Return what comes along, and what does not."""
    every = list(rows)
    return [row for row in every if isinstance(row, Found)], [row for row in every if isinstance(row, LeftOut)]


def generation(text: str, *, kind: str = "Generation") -> str:
    """Return a generation in LangChain's JSON."""
    path = ["langchain", "schema", "output", kind]
    return json.dumps({"lc": 1, "type": "constructor", "id": path, "kwargs": {"text": text}})


MESSAGES = json.dumps(
    [
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "schema", "messages", "HumanMessage"],
            "kwargs": {"content": "What is Python?", "type": "human"},
        }
    ]
)
"""The prompt of a chat model, as LangChain gives it to a cache."""
