"""LangChain's `SQLiteCache`, `SQLAlchemyCache` and `SQLAlchemyMd5Cache` in SQLite.

Entries keep their identity: an app that asks through our adapter for LangChain finds them exactly. The table says
nothing of time, so that of the file counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from cache_management.adapters.langchain_identity import ask_of
from cache_management.cache.errors import InvalidInput
from cache_management.cache.payloads import LANGCHAIN
from cache_management.migration_sources.found import Found, LeftOut
from cache_management.migration_sources.sqlite_files import SqliteFile, why_no_text

_COLUMNS = ("prompt", "llm", "idx", "response")
_TABLES = ("full_llm_cache", "full_md5_llm_cache")
_KINDS = {"Generation", "GenerationChunk", "ChatGeneration", "ChatGenerationChunk"}


class LangChainStore:
    """The SQLite file of a LangChain cache.

    Raises:
        InvalidInput: It is none.
    """

    def __init__(self, file: Path, *, prefix: str | None = None) -> None:
        if prefix is not None:
            raise InvalidInput("--prefix is for gptcache and redisvl: the tables of LangChain have fixed names")
        self._file = SqliteFile(file)
        self._tables = [name for name in _TABLES if self._file.has(name, _COLUMNS)]
        if not self._tables:
            self._file.close()
            raise InvalidInput(f"{file}: there is no table full_llm_cache of a LangChain cache")

    def count(self) -> int:
        return sum(map(self._file.count, self._tables))

    def rows(self) -> Iterator[Found | LeftOut]:
        for table in self._tables:
            query = f'SELECT prompt, llm, idx, response FROM "{table}" ORDER BY prompt, llm, idx'  # noqa: S608 - one of ours
            for (prompt, llm), rows in groupby(self._file.select(query), key=lambda row: (row[0], row[1])):
                yield self._call(table, prompt, llm, [response for *_, response in rows])

    def close(self) -> None:
        self._file.close()

    def _call(self, table: str, prompt: Any, llm: Any, responses: list[Any]) -> Found | LeftOut:
        if not isinstance(prompt, str) or not isinstance(llm, str):
            return LeftOut("a prompt that is no text", table)
        asked = ask_of(prompt, llm)
        last = asked.history[-1]["content"] if asked.history else prompt
        shown = last if isinstance(last, str) else prompt
        generations = []
        for response in responses:
            if not isinstance(response, str):
                return LeftOut(why_no_text(response), table, shown)
            generation = _generation(response)
            if generation is None:
                return LeftOut("a value that is no generation of LangChain", table, shown)
            generations.append(generation)
        text = generations[0]["kwargs"].get("text")
        calls = _tool_calls(generations[0])
        return Found(
            where=table,
            asked=asked.arguments(),
            response="\n".join(filter(None, (text if isinstance(text, str) else "", calls))),
            timestamp=self._file.changed_at,
            metadata={LANGCHAIN: json.dumps(generations)},
        )


def _generation(text: str) -> dict[str, Any] | None:
    """Return a generation in LangChain's JSON; a text that is no JSON is one of its first releases."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        path = ["langchain", "schema", "output", "Generation"]
        return {"lc": 1, "type": "constructor", "id": path, "kwargs": {"text": text, "type": "Generation"}}
    match found:
        case {"lc": 1, "type": "constructor", "id": [*_, str(name)], "kwargs": dict()} if name in _KINDS:
            return found
    return None


def _tool_calls(generation: dict[str, Any]) -> str:
    match generation["kwargs"].get("message"):
        case {"kwargs": {"tool_calls": [_, *_] as calls}}:
            return json.dumps(
                [{"name": each.get("name"), "args": each.get("args")} for each in calls if isinstance(each, dict)],
                sort_keys=True,
            )
    return ""
