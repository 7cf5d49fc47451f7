from __future__ import annotations

import json
import pickle
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from cache_management.cache.errors import InvalidInput
from cache_management.migration_sources.gptcache import GPTCacheStore
from cache_management.migration_sources.langchain_calls import UNKNOWN_MODEL
from tests.migration_sources.stores import MESSAGES, found_in, generation, gptcache


def test_questions_come_with_their_first_answer_and_their_time(tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("What is Python?", [("A language.", 0), ("A snake.", 0)])])

    found, left = found_in(GPTCacheStore(tmp_path).rows())

    assert [(row.asked, row.response) for row in found] == [({"prompt": "What is Python?"}, "A language.")]
    assert found[0].timestamp == datetime(2026, 1, 2, 3, 4, 5, 6).astimezone()
    assert [(row.reason, row.is_fault) for row in left] == [("one more answer to the same question", False)]
    assert GPTCacheStore(file).count() == 1


def test_times_are_those_of_the_zone_where_they_were_written(tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("q", [("a", 0)]), ("r", [("b", 0)])])
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE gptcache_question SET create_on = 'then' WHERE id = 2")
    connection.close()

    (row, without), _ = found_in(GPTCacheStore(file, zone=ZoneInfo("Asia/Tokyo")).rows())

    assert (row.timestamp, row.has_time) == (datetime(2026, 1, 1, 18, 4, 5, 6, tzinfo=UTC), True)
    assert not without.has_time


def test_what_cannot_come_along_says_why(tmp_path: Path) -> None:
    file = gptcache(
        tmp_path / "sqlite.db",
        [
            ("deleted", [("a", 0)]),
            ("without", []),
            ("empty", [(" ", 0)]),
            ("image", [("aGk=", 1), ("http://x/y.png", 2)]),
            ("pickled", [(pickle.dumps({"a": 1}), 0)]),
            ("bytes", [(b"\xff\xfe", 0)]),
            ("attached", [("a", 0)]),
            (b"\xff", [("a", 0)]),
            ("new kind", [("a", 7)]),
            ("good", [("aGk=", 1), ("text", 0)]),
        ],
        deleted=[1],
        attached=[7],
    )

    found, left = found_in(GPTCacheStore(file).rows())

    assert [row.response for row in found] == ["text"]
    assert [(row.where, row.reason) for row in left] == [
        ("question 1", "deleted"),
        ("question 2", "no answer"),
        ("question 3", "no answer"),
        ("question 4", "an image as the answer"),
        ("question 4", "an image as the answer"),
        ("question 5", "a pickled value, which is never read"),
        ("question 6", "a value that is no text"),
        ("question 7", "a question about something attached to it, such as an image"),
        ("question 8", "a question that is no text"),
        ("question 9", "an answer of an unknown kind"),
    ]


def test_what_langchain_stored_stays_behind_for_its_model_is_unknown(tmp_path: Path) -> None:
    answer = json.dumps([generation("A language.")])
    file = gptcache(
        tmp_path / "sqlite.db",
        [
            ("What is Python?", [(answer, 0)]),
            (MESSAGES, [(json.dumps([generation("A language.", kind="ChatGeneration")]), 0)]),
            (MESSAGES, [("A language.", 0)]),
            ("What is JSON?", [('{"a": 1}', 0)]),
        ],
    )

    found, left = found_in(GPTCacheStore(file).rows())

    assert [row.response for row in found] == ['{"a": 1}']
    assert [(row.where, row.reason, row.prompt, row.is_fault) for row in left] == [
        (f"question {number}", UNKNOWN_MODEL, "What is Python?", True) for number in (1, 2, 3)
    ]


def test_a_file_with_two_caches_wants_a_name(tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("q", [("a", 0)])], prefix="one")
    gptcache(file, [("q", [("b", 0)])], prefix="two")

    with pytest.raises(InvalidInput, match="one, two: name one with --prefix"):
        GPTCacheStore(file)
    found, _ = found_in(GPTCacheStore(file, prefix="two").rows())
    assert [row.response for row in found] == ["b"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"q": "a"}), "never read here"),  # GPTCache's map of the first steps
        (b"SQLite format 3\0", "cannot be read"),
        (b"SQLite format 3\0" + b"\xff" * 4096, "cannot be read"),
        (b"text", "no SQLite database"),
        (b"", "no SQLite database"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "data_map.txt"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(InvalidInput, match=says):
        GPTCacheStore(file)


def test_a_file_whose_last_write_was_broken_off_says_what_to_do(tmp_path: Path) -> None:
    file = gptcache(tmp_path / "sqlite.db", [("q", [("a", 0)])])
    copy = tmp_path / "copy.db"
    with sqlite3.connect(file, isolation_level=None) as connection:
        connection.execute("PRAGMA cache_size = 1")  # so that the write goes to the file before its end
        connection.execute("BEGIN")
        for _ in range(100):
            connection.execute("INSERT INTO gptcache_answer VALUES (NULL, 1, ?, 0)", ("a" * 3000,))
        copy.write_bytes(file.read_bytes())
        copy.with_name("copy.db-journal").write_bytes(file.with_name("sqlite.db-journal").read_bytes())
        connection.execute("ROLLBACK")
    connection.close()

    with pytest.raises(InvalidInput, match="open it once with its own app"):
        GPTCacheStore(copy)
    opened = sqlite3.connect(copy)
    opened.execute("SELECT count(*) FROM gptcache_answer").fetchall()
    opened.close()
    found, _ = found_in(GPTCacheStore(copy).rows())
    assert [row.response for row in found] == ["a"]


@pytest.mark.filterwarnings("ignore:.*declarative_base")
def test_a_store_that_gptcache_wrote_itself(tmp_path: Path) -> None:
    pytest.importorskip("gptcache")
    pytest.importorskip("sqlalchemy")
    from gptcache.manager.scalar_data.base import Answer, CacheData, DataType, Question, QuestionDep
    from gptcache.manager.scalar_data.sql_storage import SQLStorage

    storage = SQLStorage(db_type="sqlite", url=f"sqlite:///{tmp_path}/sqlite.db")
    numbers = storage.batch_insert(
        [
            CacheData("What is Python?", "A language."),
            CacheData("Draw it", Answer("aGk=", DataType.IMAGE_BASE64)),
            CacheData(Question("What is on it?", [QuestionDep("image", "x.png", DataType.IMAGE_URL)]), "A snake."),
            CacheData("Gone?", "Yes."),
        ]
    )
    storage.mark_deleted([numbers[3]])
    storage.close()

    found, left = found_in(GPTCacheStore(tmp_path).rows())

    assert [(row.asked["prompt"], row.response) for row in found] == [("What is Python?", "A language.")]
    assert sorted(row.reason for row in left) == [
        "a question about something attached to it, such as an image",
        "an image as the answer",
        "deleted",
    ]
