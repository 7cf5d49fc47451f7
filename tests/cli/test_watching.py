"""Following a job while its database comes and goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cache_management.cache.errors import MetadataUnavailable
from cache_management.cli import watching


class Client:
    """Gives what it is told to, one after another; the last one for ever."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def get(self, _job_id: str) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def job(state: str) -> Any:
    counts = dict.fromkeys(("done", "skipped", "failed", "cancelled", "embed_total"), 0)
    return SimpleNamespace(
        id="j", state=state, ended=state == "succeeded", total=1, summary={}, started_at=None, **counts
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds pass at each look."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 10
        return now[0]

    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=monotonic, sleep=lambda _: None))


def test_a_database_that_comes_back_is_waited_for(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    gone = MetadataUnavailable("gone")

    found, timed_out = watching.watch_job(Client([job("running"), gone, gone, job("succeeded")]), "j", quiet=True)  # type: ignore[arg-type]

    assert (found.state, timed_out) == ("succeeded", False)
    assert capsys.readouterr().err.count("looked for again") == 1


def test_a_database_that_stays_away_ends_the_waiting(clock: None) -> None:
    with pytest.raises(MetadataUnavailable):
        watching.watch_job(Client([job("running"), MetadataUnavailable("gone")]), "j", quiet=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "why", "code", "told"),
    [
        ("succeeded", None, 0, ""),
        ("partial", None, 3, ""),
        ("paused", None, 1, "Job j is paused; `cache-cli jobs resume j` lets it go on.\n"),
        (
            "paused",
            "the disk is full",
            1,
            "Job j is paused: the disk is full; `cache-cli jobs resume j` lets it go on.\n",
        ),
        ("failed", "part 1 is damaged", 1, "Error: job j failed: part 1 is damaged\n"),
        ("cancelled", None, 1, "Error: job j was cancelled\n"),
    ],
)
def test_what_is_not_done_is_told_on_standard_error(
    capsys: pytest.CaptureFixture[str], state: str, why: str | None, code: int, told: str
) -> None:
    """A script that goes on with `&&` shall not do so, and a log of errors shall say why."""
    ended: Any = SimpleNamespace(id="j", state=state, last_error=why)

    assert watching.end_of(ended) == code
    assert capsys.readouterr().err == told
