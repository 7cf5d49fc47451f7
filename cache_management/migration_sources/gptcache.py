"""GPTCache's scalar store in SQLite: questions with answers, and nothing of what they were asked with.

Its vectors (FAISS and others) are not read: entries are embedded anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import groupby
from pathlib import Path
from typing import Any

from cache_management.cache.errors import InvalidInput
from cache_management.migration_sources.found import Found, LeftOut
from cache_management.migration_sources.langchain_calls import without_model
from cache_management.migration_sources.sqlite_files import SqliteFile, why_no_text

_TEXT = 0
_IMAGES = (1, 2)
_DEFAULT_FILE = "sqlite.db"


class GPTCacheStore:
    """The SQLite file of a GPTCache, or the folder that holds it as `sqlite.db`.

    Args:
        prefix: That of its tables, where a file holds several.
        zone: Where it was written: its times are local and say no zone. By default that of this machine.

    Raises:
        InvalidInput: It is none.
    """

    def __init__(self, place: Path, *, prefix: str | None = None, zone: tzinfo | None = None) -> None:
        self._zone = zone
        self._file = SqliteFile(place / _DEFAULT_FILE if place.is_dir() else place)
        found = [
            name.removesuffix("_question")
            for name in self._file.tables(["id", "question", "create_on", "deleted"])
            if name.endswith("_question")
            and self._file.has(name.removesuffix("_question") + "_answer", ["question_id", "answer", "answer_type"])
        ]
        if prefix is not None:
            found = [name for name in found if name == prefix]
        if len(found) != 1:
            self._file.close()
            which = "there are " + ", ".join(found) + ": name one with --prefix" if found else "there are none"
            raise InvalidInput(f"{place}: the tables NAME_question and NAME_answer of a GPTCache are needed, {which}")
        self._prefix = found[0]

    def count(self) -> int:
        return self._file.count(f"{self._prefix}_question")

    def rows(self) -> Iterator[Found | LeftOut]:
        name = self._prefix
        attached = set()
        if self._file.has(f"{name}_question_dep", ["question_id"]):
            query = f'SELECT DISTINCT question_id FROM "{name}_question_dep"'  # noqa: S608 - a table of the file, quoted
            attached = {question for (question,) in self._file.select(query)}
        query = (
            "SELECT q.id, q.question, q.create_on, q.deleted, a.answer, a.answer_type"  # noqa: S608 - as above
            f' FROM "{name}_question" q LEFT JOIN "{name}_answer" a ON a.question_id = q.id ORDER BY q.id, a.id'
        )
        for number, answers in groupby(self._file.select(query), key=lambda row: row[0]):
            yield from self._question(number, list(answers), has_parts=number in attached)

    def close(self) -> None:
        self._file.close()

    def _question(self, number: Any, rows: list[tuple[Any, ...]], *, has_parts: bool) -> Iterator[Found | LeftOut]:
        _, question, created, deleted, *_ = rows[0]
        where = f"question {number}"
        shown = question if isinstance(question, str) else ""
        if deleted:
            yield LeftOut("deleted", where, shown, is_fault=False)
            return
        if not isinstance(question, str) or not question:
            yield LeftOut("a question that is no text", where)
            return
        if has_parts:
            yield LeftOut("a question about something attached to it, such as an image", where, shown)
            return
        texts = []
        reasons = []
        for *_, answer, kind in rows:
            if answer is not None and kind in _IMAGES:
                reasons.append("an image as the answer")
            elif not isinstance(answer, str):
                reasons.append(why_no_text(answer))
            elif not answer.strip():
                reasons.append("no answer")
            elif kind != _TEXT:
                reasons.append("an answer of an unknown kind")
            elif stays := without_model(question, answer, where):
                yield stays
            else:
                texts.append(answer)
        for reason in reasons if not texts else ():
            yield LeftOut(reason, where, shown)
        for _ in texts[1:]:
            # It takes any of them at random; a cache of one answer to a question keeps the first.
            yield LeftOut("one more answer to the same question", where, shown, is_fault=False)
        if texts:
            moment = _moment(created, self._zone)
            yield Found(
                where=where,
                asked={"prompt": question},
                response=texts[0],
                timestamp=self._file.changed_at if moment is None else moment,
                has_time=moment is not None,
            )


def _moment(given: Any, zone: tzinfo | None) -> datetime | None:
    """Return when a question was stored, None where that is not said."""
    try:
        moment = datetime.fromisoformat(given)
        return (moment.replace(tzinfo=zone) if moment.tzinfo is None and zone else moment).astimezone(UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
