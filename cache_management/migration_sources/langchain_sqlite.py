"""LangChain's `SQLiteCache`, `SQLAlchemyCache` and `SQLAlchemyMd5Cache` in SQLite.

The tables say nothing of time, so that of the file counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cache_management.cache.errors import InvalidInput
from cache_management.migration_sources.found import Found, LeftOut
from cache_management.migration_sources.langchain_calls import call_of
from cache_management.migration_sources.sqlite_files import SqliteFile

_COLUMNS = ("prompt", "llm", "idx", "response")
_TABLES = ("full_llm_cache", "full_md5_llm_cache")


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
        found = call_of(prompt, llm, responses, where=table, timestamp=self._file.changed_at)
        return found if isinstance(found, LeftOut) else replace(found, has_time=False)
