"""Verified and shadow mode through the front door, and feedback in every mode."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cache_management import CacheConfig, CacheManager, Computed, LLMCache, Lookup, SimilarityConfig
from cache_management.cache.backends import memory
from cache_management.cache.backends.memory import MemoryBackend
from cache_management.cache.clock import VersionClock
from cache_management.cache.config import GATE_NAMES
from cache_management.cache.embeddings.hashing import HashingEmbedder
from cache_management.cache.errors import ConfigurationError, InvalidInput
from cache_management.cache.events import Event, JudgedEvent, UnavailableEvent
from cache_management.cache.semantic import gates
from cache_management.cache.semantic import matcher as matcher_module
from cache_management.cache.semantic.comparing import compare
from cache_management.cache.semantic.evidence import Observation
from cache_management.cache.semantic.ledger import Ledger
from cache_management.cache.semantic.matcher import SimilarityMatcher
from tests.contracts.broken import BreakableBackend

NAMES = ("amber", "birch", "cedar", "daisy", "elder", "fern", "grass", "hazel", "iris", "jade")
PLACES = ("attic", "barn", "cellar", "den", "entry", "foyer", "garage", "hall", "inn", "jetty", "kitchen", "loft")


def asked(at: int) -> str:
    return f"tell me about the {NAMES[at % 10]} of the {PLACES[at // 10]}"


def reworded(at: int) -> str:
    return f"about the {NAMES[at % 10]} of the {PLACES[at // 10]}, tell me"


def manager_on(backend: BreakableBackend, events: list[Event] | None = None, **similarity: Any) -> CacheManager:
    cache = LLMCache(CacheConfig(), backend=backend, listener=None if events is None else events.append)
    matcher = SimilarityMatcher(
        SimilarityConfig(**{"threshold": 0.8, "gates_off": GATE_NAMES, **similarity}),
        backend=backend,
        embedder=HashingEmbedder(),
        listener=cache.tell,
    )
    return CacheManager(cache, matcher)


async def hear_of(backend: BreakableBackend, times: int, *, wrong: int = 0, events: list[Event] | None = None) -> None:
    """Compare answers until there is evidence. In shadow mode, which serves none, so that all are compared."""
    manager = manager_on(backend, events, mode="shadow", max_error_rate=0.05)
    for at in range(times):
        await manager.store(asked(at), f"answer {at}")
    for at in range(times):
        await manager.get_or_compute(reworded(at), lambda at=at: f"answer {at + (1000 if at < wrong else 0)}")
    await manager.aclose()


async def test_nothing_is_served_before_enough_is_known_and_then_it_is() -> None:
    events: list[Event] = []
    backend = BreakableBackend(up=True)
    manager = manager_on(backend, max_error_rate=0.05)
    await manager.store("how do I reset my password", "on the login page")

    before = await manager.lookup("my password, how do I reset")
    await hear_of(backend, 120, events=events)
    await manager.false_hits()  # reads at once what lookups read within a second
    after = await manager.lookup("my password, how do I reset")

    assert (before.hit, before.reason, before.vetoes) == (False, "unverified", ("unverified",))
    assert "refused by unverified" in before.explain()
    assert after.kind == "semantic"
    assert {event.verdict for event in events if isinstance(event, JudgedEvent)} == {"same"}


async def test_wrong_answers_keep_it_from_serving() -> None:
    backend = BreakableBackend(up=True)
    manager = manager_on(backend, max_error_rate=0.05)
    await manager.store("how do I reset my password", "on the login page")

    await hear_of(backend, 120, wrong=20)

    assert (await manager.lookup("my password, how do I reset")).reason == "unverified"
    known = await manager.false_hits()
    assert (known.candidates, known.wrong, known.threshold, known.budget) == (120, 20, None, 0.05)


async def test_another_process_knows_what_this_one_learned() -> None:
    backend = BreakableBackend(up=True)
    await hear_of(backend, 120)
    other = manager_on(backend, max_error_rate=0.05)

    await other.store("how do I reset my password", "on the login page")

    assert (await other.lookup("my password, how do I reset")).kind == "semantic"


async def test_a_share_of_what_is_served_is_computed_again_and_makes_the_published_rate() -> None:
    backend = BreakableBackend(up=True)
    await hear_of(backend, 120)
    manager = manager_on(backend, max_error_rate=0.05, recheck_rate=1.0)
    computed: list[int] = []

    async def ask(at: int, text: str) -> str:
        async def compute() -> str:
            computed.append(at)
            return text

        found = (await manager.get_or_compute(f"{reworded(at)} please", compute)).response
        await manager._door.finish()
        return found

    served = [await ask(at, f"answer {at}") for at in range(10)]
    assert (await manager.false_hits()).served.rate == 0
    served.append(await ask(10, "another answer altogether 7"))

    assert served == [f"answer {at}" for at in range(11)], "the caller gets what is stored"
    assert computed == list(range(11))
    known = (await manager.false_hits()).served
    assert known.audited == 11
    assert known.low < 1 / 11 < known.high
    assert known.rate == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    "fresh", [Computed(response="answer", finish_reason="length"), "", Computed(response="no", status=500)]
)
async def test_a_fresh_answer_that_would_not_be_stored_is_no_evidence(fresh: str | Computed) -> None:
    backend = BreakableBackend(up=True)
    await hear_of(backend, 120)
    manager = manager_on(backend, max_error_rate=0.05, recheck_rate=1.0)

    served = await manager.get_or_compute(f"{reworded(3)} please", lambda: fresh)
    await manager._door.finish()

    assert served.response == "answer 3"
    assert (await manager.false_hits()).served.audited == 0


async def test_shadow_mode_serves_nothing_and_counts_what_would_have_been() -> None:
    backend = BreakableBackend(up=True)
    manager = manager_on(backend, mode="shadow", max_error_rate=0.05)

    await hear_of(backend, 60, wrong=6)

    assert (await manager.lookup(f"{reworded(3)} please")).reason == "unverified"
    known = await manager.false_hits()
    assert (known.candidates, known.wrong, known.served.audited) == (60, 6, 0)


async def store_by_the_model_before(backend: BreakableBackend) -> None:
    matcher = SimilarityMatcher(
        SimilarityConfig(threshold=0.8, gates_off=GATE_NAMES), backend=backend, embedder=HashingEmbedder(32)
    )
    manager = CacheManager(LLMCache(CacheConfig(), backend=backend), matcher)
    await manager.store("how do I reset my password", "on the login page")


@pytest.fixture
def two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher_module, "open_embedder", lambda model, **_: HashingEmbedder(32))


@pytest.mark.usefixtures("two_models")
@pytest.mark.parametrize("mode", ["static", "shadow", "verified"])
async def test_evidence_of_one_model_serves_nothing_that_the_model_before_found(mode: str) -> None:
    backend = BreakableBackend(up=True)
    await store_by_the_model_before(backend)
    await hear_of(backend, 120)
    manager = manager_on(backend, mode=mode, max_error_rate=0.05, previous_model="before")

    found = await manager.lookup("my password, how do I reset")
    listed = await manager.find_similar("my password, how do I reset")
    await manager.index(["how do I reset my password"])
    embedded_anew = await manager.lookup("my password, how do I reset")

    assert (found.reason, found.hit) == (("semantic", True) if mode == "static" else ("unverified", False))
    assert [match.vetoes for match in listed if match.prompt == "how do I reset my password"] == [
        () if mode == "static" else ("unverified",)
    ]
    assert embedded_anew.hit is (mode != "shadow")


@pytest.mark.usefixtures("two_models")
@pytest.mark.parametrize("mode", ["shadow", "verified"])
async def test_what_the_model_before_found_teaches_nothing_of_this_one(mode: str) -> None:
    backend = BreakableBackend(up=True)
    await store_by_the_model_before(backend)
    manager = manager_on(backend, mode=mode, max_error_rate=0.05, previous_model="before")

    await manager.get_or_compute("my password, how do I reset", lambda: "on the login page")
    await manager._door.finish()

    assert (await manager.false_hits()).candidates == 0


@pytest.mark.usefixtures("two_models")
async def test_what_somebody_called_wrong_is_refused_whichever_model_finds_it() -> None:
    backend = BreakableBackend(up=True)
    await store_by_the_model_before(backend)
    manager = manager_on(backend, mode="verified", max_error_rate=0.05, previous_model="before")

    await manager.judge("my password, how do I reset", "how do I reset my password", score=0.9, correct=False)

    assert (await manager.lookup("my password, how do I reset")).vetoes == ("feedback_block",)


@pytest.mark.parametrize("mode", ["static", "verified"])
async def test_what_somebody_called_wrong_is_not_served_to_that_question_again(mode: str) -> None:
    backend = BreakableBackend(up=True)
    await hear_of(backend, 120)
    manager = manager_on(backend, mode=mode, max_error_rate=0.05)
    await manager.store("how do I reset my password", "on the login page")
    found = await manager.lookup("my password, how do I reset")
    assert found

    await manager.feedback(found, correct=False)

    again = await manager.lookup("my password, how do I reset")
    assert (again.hit, again.vetoes) == (False, ("feedback_block",))
    await manager.feedback(found, correct=True)
    assert mode == "verified" or await manager.lookup("my password, how do I reset")


@pytest.mark.parametrize("mode", ["static", "shadow", "verified"])
async def test_a_listing_shows_what_evidence_refuses_as_a_lookup_does(mode: str) -> None:
    manager = manager_on(BreakableBackend(up=True), mode=mode, max_error_rate=0.05)
    await manager.store("how do I reset my password", "on the login page")
    asked = "my password, how do I reset"

    before = [match.vetoes for match in await manager.find_similar(asked)]
    assert before == [match.vetoes for match in (await manager.lookup(asked)).candidates]
    await manager.judge(asked, "how do I reset my password", score=1.0, correct=False)
    after = [match.vetoes for match in await manager.find_similar(asked)]

    assert before == [()] if mode == "static" else [("unverified",)]
    assert after == [("feedback_block",)]


async def test_only_an_answer_by_meaning_can_be_judged() -> None:
    manager = manager_on(BreakableBackend(up=True))
    await manager.store("q", "r")

    for lookup in (await manager.lookup("q"), await manager.lookup("another")):
        with pytest.raises(InvalidInput, match="only an answer found by meaning"):
            await manager.feedback(lookup, correct=False)
    with pytest.raises(InvalidInput, match="no similarity_matcher"):
        await CacheManager(LLMCache(backend=BreakableBackend(up=True))).judge("q", "k", score=0.9, correct=True)


async def test_a_store_that_is_down_in_the_background_harms_nobody() -> None:
    events: list[Event] = []
    backend = BreakableBackend(up=True)
    manager = manager_on(backend, events, max_error_rate=0.05)
    await manager.store(asked(1), "r")
    await manager.lookup(reworded(1))
    await manager.store(reworded(1), "r")
    backend.up = False
    await manager._door.finish()

    assert isinstance(await manager.lookup(asked(1)), Lookup)
    assert any(isinstance(event, UnavailableEvent) for event in events)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_error_rate": 0}, "max_error_rate"),
        ({"max_error_rate": 1.5}, "max_error_rate"),
        ({"recheck_rate": 2}, "recheck_rate"),
        ({"gates_off": ("numbers",)}, "there is no gate 'numbers'"),
        ({"mode": "sure"}, "mode"),
    ],
)
def test_settings_that_mean_nothing_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SimilarityConfig(**options)


def test_the_gates_that_can_be_switched_off_are_the_gates_there_are() -> None:
    assert gates.NAMES == GATE_NAMES


async def test_what_another_process_heard_of_an_opening_counts_for_its_follow_ups() -> None:
    backend = BreakableBackend(up=True)
    one, other = manager_on(backend), manager_on(backend)
    opening, reply = "how do I reset my password", {"role": "assistant", "content": "on the login page"}
    await one.store(opening, "on the login page")
    await one.store("and on the phone", "in the app", history=[{"role": "user", "content": opening}, reply])
    reworded_opening = "my password, how do I reset"
    history = [{"role": "user", "content": reworded_opening}, reply]
    before = await other.lookup("and on the phone", history=history)

    await one.feedback(await one.lookup(reworded_opening), correct=False)
    await other.false_hits()  # reads at once what lookups read within a second

    assert before.hit
    assert not (await other.lookup("and on the phone", history=history)).hit


# The ledger


def ledger_on(backend: MemoryBackend) -> Ledger:
    return Ledger(backend, backend, namespace="n", space="s", budget=0.02, versions=VersionClock())


def observation(at: int) -> Observation:
    return Observation("near_miss", "same", 0.9, f"q{at}", f"e{at}", 0)


async def test_what_the_journal_no_longer_holds_is_known_from_the_record() -> None:
    backend = MemoryBackend(max_size=100)
    first = ledger_on(backend)
    await first.note([observation(at) for at in range(700)])
    await first.catch_up()
    backend._streams.clear()

    late = ledger_on(backend)
    await late.catch_up()
    await first.note([observation(1)])

    assert late.evidence.seen == 700
    assert (await late.catch_up(at_once=True)).seen >= 700


async def test_what_somebody_said_outlives_a_journal_that_nobody_writes() -> None:
    backend = MemoryBackend(max_size=100)
    first = ledger_on(backend)
    await first.note([Observation("feedback", "different", 0.9, "q", "e", 0)])
    await first.catch_up(at_once=True)
    backend._streams.clear()

    late = await ledger_on(backend).catch_up()

    assert late.refuses(0.99, asked="q", entry="e", cluster=0) == "feedback_block"


async def test_a_few_comparisons_are_written_down_within_the_hour() -> None:
    backend = MemoryBackend(max_size=100)
    now = [0.0]
    ledger = Ledger(
        backend, backend, namespace="n", space="s", budget=0.02, versions=VersionClock(), monotonic=lambda: now[0]
    )
    await ledger.note([observation(1)])
    await ledger.catch_up()
    await ledger.note([observation(2)])
    await ledger.catch_up()

    now[0] += 3600
    await ledger.catch_up()
    backend._streams.clear()

    assert (await ledger_on(backend).catch_up()).seen == 2


async def test_foreign_notes_and_records_are_passed_over() -> None:
    backend = MemoryBackend(max_size=100)
    ledger = ledger_on(backend)
    await backend.append("cm1:log:n:evidence:s", [b"\xff", b""])
    await ledger.note([observation(1)])

    assert (await ledger.catch_up()).seen == 1


# Comparing answers


@pytest.mark.parametrize(
    ("stored", "fresh", "verdict"),
    [
        ("On the login page.", "on the  login page", "same"),
        ("It costs 10 EUR.", "It costs 12 EUR.", "different"),
        ("It is safe.", "It is not safe.", "different"),
        ("the login page it is on", "it is on the login page", "same"),
        ("zebra", "the quick brown fox", "different"),
        ("something", "", "different"),
        ("The balance is -5 EUR.", "The balance is 5 EUR.", "different"),
        ("x > 5", "x < 5", "different"),
        ("3 + 4", "3 - 4", "different"),
        ("It is 50%.", "It is $50.", "different"),
        ("It is 1.5.", "It is 1 5.", "different"),
        ("Yes ✅", "Yes ❌", "different"),
        ("**It is** here.", "It is here!", "same"),
    ],
)
async def test_answers_are_compared_by_text_facts_and_meaning(stored: str, fresh: str, verdict: str) -> None:
    assert await compare("q", stored, fresh, embedder=HashingEmbedder()) == verdict


@pytest.mark.parametrize(("said", "verdict"), [(True, "same"), (False, "different"), (None, "unsure")])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_judge_has_the_last_word(said: bool | None, verdict: str, is_async: bool) -> None:
    async def later(*_: str) -> bool | None:
        return said

    judge = later if is_async else (lambda *_: said)
    assert await compare("q", "one answer", "another", embedder=HashingEmbedder(), judge=judge) == verdict


@pytest.mark.parametrize("texts", [("-5", "5"), ("2³", "23"), ("Use C++.", "Use C.")])
async def test_a_judge_is_asked_whenever_a_sign_differs(texts: tuple[str, str]) -> None:
    assert await compare("q", *texts, embedder=HashingEmbedder(), judge=lambda *_: False) == "different"


async def test_a_judge_that_says_neither_yes_nor_no_is_not_sure(caplog: pytest.LogCaptureFixture) -> None:
    odd: Any = lambda *_: "no"  # noqa: E731

    assert await compare("q", "one answer", "another", embedder=HashingEmbedder(), judge=odd) == "unsure"
    assert "answer True, False or None" in caplog.text


class SlowJournal(MemoryBackend):
    """Hands out notes only after the event loop had other turns."""

    async def read_after(self, stream: str, cursor: str, *, limit: int) -> tuple[list[bytes], str]:
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().read_after(stream, cursor, limit=limit)


async def test_a_newcomer_knows_nothing_before_it_has_read_all() -> None:
    backend = SlowJournal(max_size=100)
    await ledger_on(backend).note([observation(at) for at in range(5)])
    late = ledger_on(backend)

    seen = await asyncio.gather(*(late.catch_up() for _ in range(20)))

    assert {evidence.seen for evidence in seen} == {5}


async def test_a_process_that_missed_notes_takes_over_what_others_wrote_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_JOURNAL_LENGTH", 500)
    backend = MemoryBackend(max_size=100)
    asleep, awake = ledger_on(backend), ledger_on(backend)
    await awake.note([observation(1)])
    await asleep.catch_up()
    for _ in range(3):
        await awake.note([observation(at) for at in range(400)])
        await awake.catch_up(at_once=True)

    assert (await asleep.catch_up(at_once=True)).seen == 1201
    assert (await ledger_on(backend).catch_up()).seen == 1201
