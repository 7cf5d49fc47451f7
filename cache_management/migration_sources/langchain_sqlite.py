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

from cache_management.adapters.langchain_answers import finish_reason, is_streaming, lacks_its_word
from cache_management.adapters.langchain_identity import ask_of
from cache_management.cache.admission import Refusal, may_store
from cache_management.cache.errors import InvalidInput
from cache_management.cache.payloads import LANGCHAIN
from cache_management.cache.shown import shown as as_text
from cache_management.migration_sources.found import Found, LeftOut, left_out_for
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
            refused = _why_not_kept(generation, is_streaming=is_streaming(llm))
            if refused is not None:
                return left_out_for(refused, table, shown)
            generations.append(generation)
        calls = _tool_calls(generations[0])
        return Found(
            where=table,
            asked=asked.arguments(),
            response=as_text(_text(generations[0]), calls),
            timestamp=self._file.changed_at,
            metadata={LANGCHAIN: json.dumps(generations)},
            has_tool_calls=bool(calls),
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


def _why_not_kept(generation: dict[str, Any], *, is_streaming: bool) -> Refusal | None:
    """Return why our adapter for LangChain would not keep a generation, None if it would."""
    kwargs = generation["kwargs"]
    message = _object(_object(kwargs.get("message")).get("kwargs"))
    places = [_object(kwargs.get("generation_info")), _object(message.get("response_metadata"))]
    word = finish_reason(places)
    refusal = _object(message.get("additional_kwargs")).get("refusal")
    is_piece = generation["id"][-1].endswith("Chunk")
    return may_store(
        _text(generation),
        size_bytes=0,  # that of the whole entry is checked with it
        limit_bytes=0,
        finish_reason=word,
        refusal=refusal if isinstance(refusal, str) else None,
        has_tool_calls=bool(_tool_calls(generation)),
        aborted=word is None and (is_streaming or is_piece or lacks_its_word(places)),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(generation: dict[str, Any]) -> str:
    text = generation["kwargs"].get("text")
    return text if isinstance(text, str) else ""


def _tool_calls(generation: dict[str, Any]) -> list[dict[str, Any]]:
    calls = _object(_object(generation["kwargs"].get("message")).get("kwargs")).get("tool_calls")
    return [each for each in calls if isinstance(each, dict)] if isinstance(calls, list) else []
