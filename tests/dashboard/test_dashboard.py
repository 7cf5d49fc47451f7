"""What the dashboard knows, and its page in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from cache_management import CacheManager, LLMCache, MetricsCollector, SimilarityConfig, SimilarityMatcher
from cache_management.cache.events import HitEvent, JudgedEvent, MissEvent, VetoEvent
from cache_management.cache.values import NearMiss
from cache_management.cache.warm_items import WarmItem
from cache_management.dashboard.serving import page, routes
from cache_management.dashboard.state import Dashboard
from cache_management.metrics.endpoint import Endpoint, serve
from cache_management.services.provider import free_port
from cache_management.settings import Settings, load_settings
from tests.workers.conftest import make_inline as make_inline  # noqa: PLC0414 - a fixture is passed on
from tests.workers.inline import Inline

HOSTILE = '</script><script>document.title = "taken"</script><img src=x onerror="document.title = \'taken\'">'
MEANING = SimilarityConfig(model="hashing", threshold=0.5)
CHROMIUM = which("chromium") or which("chromium-browser")


def settings_at(tmp_path: Path, **more: Any) -> Settings:
    given = {"data_dir": tmp_path, "url": f"disk://{tmp_path / 'cache'}", **more}
    return load_settings(env={}, arguments=given).settings


@pytest.fixture
def used(tmp_path: Path) -> Iterator[Dashboard]:
    """A dashboard of a cache that was used, with a job and with something refused."""
    settings = settings_at(tmp_path)
    metrics = MetricsCollector(settings.metrics_folder)
    for event in (
        HitEvent("exact", "default", "k", 5, 0.2),
        MissEvent("vetoed", "default", "k", 3.0),
        VetoEvent("number", "default"),
        *[JudgedEvent("recheck", "same", "default")] * 9,
        JudgedEvent("recheck", "different", "default"),
    ):
        metrics(event)
    refused = [NearMiss(datetime.now(UTC).timestamp(), "default", HOSTILE, "stored question", 0.93, ("number",))]
    shown = Dashboard(settings, refused=lambda: refused)
    shown._stores.upgrade()
    operations = shown._stores.operations
    amounts = {"hits": 30, "semantic_hits": 10, "misses": 10, "tokens_saved": 900, "saved_micro": 2_500_000}
    for seconds in (3600, 86_400):
        operations.add_stats(amounts, namespace="default", model="gpt-4", period_seconds=seconds)
    operations.add_stats({"hits": 7}, namespace="other", model="gpt-4", period_seconds=3600)
    shown._client.submit_warm([WarmItem(prompt="q", response="a")])
    yield shown
    shown.close()


def test_it_knows_the_use_of_its_namespace_alone(used: Dashboard) -> None:
    state = used.state()

    day = state["usage"]["day"]
    assert (day["exact"], day["semantic"], day["misses"], day["usd"]) == (30, 10, 10, 2.5)
    assert [point["exact"] for point in state["usage"]["hours"]] == [30]
    assert [model["hit_rate"] for model in state["usage"]["models"]] == [0.8]
    assert (state["misses"], state["vetoes"]) == ({"vetoed": 1}, {"number": 1})
    assert state["latency"]["exact"]["p95"] == pytest.approx(0.2, rel=0.01)
    assert (state["false_hits"]["wrong"], state["false_hits"]["checked"]) == (1, 10)
    assert 0 < state["false_hits"]["low"] < 0.1 < state["false_hits"]["high"] < 1
    assert [job["kind"] for job in state["jobs"]] == ["warm"]
    assert state["problems"] == []
    json.dumps(state)


def test_a_model_is_listed_once_for_all_namespaces(used: Dashboard, tmp_path: Path) -> None:
    shown = Dashboard(settings_at(tmp_path), everywhere=True)
    shown._stores.operations.add_stats({"misses": 3}, namespace="third", model="gpt-5", period_seconds=3600)

    models = shown.state()["usage"]["models"]
    shown.close()

    assert [(each["model"], each["exact"], each["misses"]) for each in models] == [("gpt-4", 37, 10), ("gpt-5", 0, 3)]
    assert models[0]["hit_rate"] == pytest.approx(47 / 57)


class Names:
    """Answers for the names of keys, one after the other; None did not come in time."""

    def __init__(self, *answers: dict[Any, str] | None) -> None:
        self.asked: list[list[str]] = []
        self._answers = list(answers)

    def ask(self) -> Callable[[], dict[Any, str] | None]:
        return lambda: self._answers.pop(0)


def test_names_of_keys_that_did_not_come_in_time_are_asked_for_again(
    used: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_management.dashboard.state.is_unmade", lambda settings: False)
    keys = {("default", "abc"): (1, 0), ("default", "def"): (1, 0)}
    used._stores.operations.count_usage("a stream", ("", "1"), {}, keys)
    used._asked_names = Names(None, {("default", "abc"): "What is Python?"})  # type: ignore[assignment]

    shown = [[each["key"] for each in used.state()["hot_keys"]] for _ in range(3)]

    assert [sorted(each) for each in shown] == [["abc", "def"], *[["What is Python?", "def"]] * 2]
    assert used._names.keys() == {("default", "abc"), ("default", "def")}


async def ask_twice(settings: Settings, *, refuse: bool = False) -> None:
    """What an application does: a miss and a hit, and something that is near enough and refused."""
    cache = LLMCache(settings)
    meaning = MEANING.model_copy(update={"namespace": settings.namespace})
    async with CacheManager(cache, SimilarityMatcher(meaning, backend=cache.backend)) as manager:
        for _ in range(2):
            await manager.answer("how do I reset my password", lambda: "by the link", model="gpt-4")
        if refuse:
            await manager.lookup("how do I not reset my password", model="gpt-4")


def test_use_is_shown_at_once_without_a_worker_or_a_database_and_once_only_with_both(
    make_inline: Callable[..., Inline], tmp_path: Path
) -> None:
    inline = make_inline(CACHE_URL=f"disk://{tmp_path / 'cache'}")
    settings = inline.settings
    asyncio.run(ask_twice(settings))
    shown = Dashboard(settings)
    try:
        for _ in range(2):
            asyncio.run(ask_twice(settings))
            before = shown.state()
            inline.run("stats")
            after = shown.state()
            assert before["usage"]["day"] == after["usage"]["day"]
            assert before["usage"]["models"] == after["usage"]["models"]
            assert before["usage"]["hours"] == after["usage"]["hours"]
    finally:
        shown.close()

    day = after["usage"]["day"]
    assert (day["exact"], day["misses"]) == (5, 1)
    assert [model["model"] for model in after["usage"]["models"]] == ["gpt-4"]


def test_who_looks_live_is_told_keys_and_what_was_refused_by_other_processes(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    asyncio.run(ask_twice(settings, refuse=True))
    shown = Dashboard(settings, is_live=True)
    try:
        first = shown.state()
        asyncio.run(ask_twice(settings, refuse=True))
        second = shown.state()
    finally:
        shown.close()

    assert (first["hot_keys"], first["refused"]) == ([], [])
    assert second["hot_keys"][0]["key"] == "how do I reset my password"
    assert [each["vetoes"] for each in second["refused"]] == [("polarity",)]
    assert not (tmp_path / "metadata.db").exists(), "looking makes no database"


def test_where_all_namespaces_are_shown_so_are_their_keys(tmp_path: Path) -> None:
    settings = settings_at(tmp_path)
    shown = Dashboard(settings, everywhere=True, is_live=True)
    try:
        for namespace in ("one", "two", "one", "two"):
            asyncio.run(ask_twice(settings.model_copy(update={"namespace": namespace})))
            state = shown.state()
    finally:
        shown.close()

    assert [each["key"] for each in state["hot_keys"]] == ["how do I reset my password"] * 2
    assert [model["model"] for model in state["usage"]["models"]] == ["gpt-4"]


def test_what_is_away_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    settings = settings_at(
        tmp_path,
        url=f"redis://127.0.0.1:{free_port()}/0",
        broker_url=f"redis://127.0.0.1:{free_port()}/0",
        metadata_url=f"postgresql+psycopg://u@127.0.0.1:{free_port()}/x",
    )
    shown = Dashboard(settings, answer_seconds=2.0)
    try:
        state = shown.state()
    finally:
        shown.close()

    assert sorted(state["problems"]) == [
        "the broker does not answer",
        "the cache store does not answer",
        "the database does not answer",
    ]
    assert (state["usage"], state["nodes"], state["queues"], state["misses"]) == (None, None, None, {})


def test_a_report_needs_nothing_else_and_nothing_in_it_runs(used: Dashboard) -> None:
    text = page(used.state())

    assert HOSTILE not in text
    assert text.count("</script>") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "/*STATE*/null" not in text


def dom_of(url: str, folder: Path, *, budget_ms: int = 4000) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={folder / 'browser'}"]
    found = subprocess.run(
        [str(CHROMIUM), *flags, f"--virtual-time-budget={budget_ms}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return found.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_shows_it_in_a_browser(used: Dashboard, tmp_path: Path) -> None:
    server = serve(list, host="127.0.0.1", port=0, path="/metrics", routes=routes(used.state))
    with Endpoint(server, "/") as endpoint:
        live = dom_of(f"http://127.0.0.1:{endpoint.port}/", tmp_path)
    file = tmp_path / "report.html"
    file.write_text(page(used.state()))
    written = dom_of(f"file://{file}", tmp_path)

    for shown in (live, written):
        assert "<title>Cache</title>" in shown, "nothing of a prompt ran"
        assert "80.0 %" in shown
        assert "$2.50" in shown
        assert "stored question" in shown
        assert "&lt;/script&gt;" in shown
        assert 'aria-busy="false"' in shown
        assert "Loading" not in shown
    assert "As of" in written
    assert "Updated" in live


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_goes_on_to_ask_and_shows_what_is_new(used: Dashboard, tmp_path: Path) -> None:
    asked = []

    def state() -> dict[str, Any]:
        asked.append(1)
        found = used.state()
        found["usage"]["day"]["tokens"] = 1_000_000 + len(asked)
        return found

    server = serve(list, host="127.0.0.1", port=0, path="/metrics", routes=routes(state))
    with Endpoint(server, "/") as endpoint:
        shown = dom_of(f"http://127.0.0.1:{endpoint.port}/", tmp_path, budget_ms=9000)

    assert len(asked) > 1
    assert f"{1_000_000 + len(asked):,}" in shown


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_says_so_when_nothing_is_there_or_its_server_fails(tmp_path: Path) -> None:
    empty = Dashboard(settings_at(tmp_path))
    empty._stores.upgrade()
    try:
        file = tmp_path / "empty.html"
        file.write_text(page(empty.state()))
        shown = dom_of(f"file://{file}", tmp_path)
    finally:
        empty.close()
    server = serve(list, host="127.0.0.1", port=0, path="/metrics", routes={"/": routes(dict)["/"]})
    with Endpoint(server, "/") as endpoint:
        broken = dom_of(f"http://127.0.0.1:{endpoint.port}/", tmp_path)

    assert "Nothing was asked yet." in shown
    assert "No job yet." in shown
    assert "No broker is configured" in shown
    assert "own server does not answer (status 404)" in broken
