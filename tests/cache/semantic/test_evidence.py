"""Verified mode in simulation, with known truth."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_management.cache.semantic import evidence as evidence_module
from cache_management.cache.semantic.evidence import (
    Evidence,
    Observation,
    Source,
    Verdict,
    decode_observation,
    decode_state,
    encode_observation,
    encode_state,
)

RECHECK = 0.1


def observation(
    verdict: Verdict = "same", score: float = 0.9, *, source: Source = "near_miss", entry: str = "e", cluster: int = 0
) -> Observation:
    return Observation(source, verdict, score, "asked", entry, cluster)


def taught(right: int, *, wrong: int = 0, unsure: int = 0, budget: float = 0.02, score: float = 0.9) -> Evidence:
    evidence = Evidence(budget)
    for verdict, times in (("different", wrong), ("unsure", unsure), ("same", right)):
        for at in range(times):
            evidence.add(observation(verdict, score, entry=f"{verdict}{at}", cluster=at % 64))  # type: ignore[arg-type]
    return evidence


def refusal(
    evidence: Evidence, score: float = 0.9, *, entry: str = "new", asked: str = "new", cluster: int = 3
) -> str | None:
    return evidence.refuses(score, asked=asked, entry=entry, cluster=cluster)


def test_without_evidence_nothing_is_served_and_nothing_is_known() -> None:
    evidence = Evidence(0.02)

    assert refusal(evidence, 1.0) == "unverified"
    assert evidence.threshold() is None
    assert evidence.estimate() == (type(evidence.estimate()))(0.0, 0.0, 1.0, 0)


@pytest.mark.parametrize(("right", "served"), [(150, False), (300, True)])
def test_enough_right_answers_and_no_wrong_one_let_an_entry_nobody_judged_be_served(right: int, served: bool) -> None:
    assert (refusal(taught(right)) is None) == served


def test_evidence_of_low_scores_speaks_for_high_ones_and_not_the_other_way_round() -> None:
    evidence = taught(400, score=0.9)

    assert refusal(evidence, 0.97) is None
    assert evidence.threshold() is not None
    both = taught(400, score=0.95)
    for _ in range(50):
        both.add(observation("different", 0.86))
    assert refusal(both, 0.86, entry="new") == "unverified"


def test_unsure_answers_count_as_wrong() -> None:
    assert refusal(taught(300)) is None
    assert refusal(taught(300, unsure=20)) == "unverified"


def test_a_wrong_answer_to_one_pair_is_blocked_at_once_and_can_be_taken_back() -> None:
    evidence = taught(400)
    evidence.add(Observation("feedback", "different", 0.9, "q", "e", 0))

    assert refusal(evidence, asked="q", entry="e") == "feedback_block"
    evidence.add(Observation("feedback", "same", 0.9, "q", "e", 0))
    assert refusal(evidence, asked="q", entry="e") != "feedback_block"


def test_complaints_raise_what_is_asked_of_their_entry_and_say_nothing_of_the_rate() -> None:
    evidence = taught(250)
    assert refusal(evidence, entry="bad") is None
    for at in range(4):
        evidence.add(Observation("feedback", "different", 0.9, f"q{at}", "bad", 3))

    assert refusal(evidence, entry="bad") == "unverified"
    assert refusal(evidence, entry="other", cluster=4) is None
    assert evidence.estimate().audited == 0


def test_an_entry_nobody_judged_is_held_to_the_entries_like_it() -> None:
    evidence = taught(400)
    for at in range(30):
        evidence.add(observation("different", 0.9, entry=f"x{at}", cluster=9))
        for _ in range(20):
            evidence.add(observation("same", 0.9, entry=f"x{at}", cluster=10))

    assert evidence.refuses(0.9, asked="a", entry="fresh", cluster=9) == "unverified"


class Outcome(NamedTuple):
    served: int
    wrong: int
    evidence: Evidence


def simulate(
    seed: int,
    budget: float,
    truth: Callable[[int, float], float],
    *,
    questions: int = 4000,
    evidence: Evidence | None = None,
) -> Outcome:
    """Ask about 300 entries; a wrong answer has the probability `truth(moment, score)`."""
    rng = random.Random(seed)
    evidence = evidence or Evidence(budget)
    served = wrong = 0
    for moment in range(questions):
        score, entry = min(1.0, max(0.8, rng.gauss(0.92, 0.04))), rng.randrange(300)
        is_wrong = rng.random() < truth(moment, score)
        verdict: Verdict = "different" if is_wrong else "same"
        if evidence.refuses(score, asked=str(moment), entry=str(entry), cluster=entry % 64) is not None:
            evidence.add(Observation("near_miss", verdict, score, str(moment), str(entry), entry % 64))
            continue
        served += 1
        wrong += is_wrong
        if rng.random() < RECHECK:
            evidence.add(Observation("recheck", verdict, score, str(moment), str(entry), entry % 64, 1 / RECHECK))
    return Outcome(served, wrong, evidence)


def falling(_: int, score: float) -> float:
    return max(0.0, (0.96 - score) * 0.8)


@pytest.mark.parametrize("budget", [0.02, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_served_stays_within_its_budget(seed: int, budget: float) -> None:
    found = simulate(seed, budget, falling)

    assert found.wrong <= budget * found.served + 3 * (budget * found.served) ** 0.5
    assert found.served > 300, "and it is not kept by serving nothing"


def test_the_published_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    missed = 0
    for seed in range(20):
        found = simulate(seed, 0.05, lambda _, __: 0.02, questions=1500)
        estimate = found.evidence.estimate()
        missed += not estimate.low <= 0.02 <= estimate.high
    assert missed <= 4


def test_a_model_that_grows_worse_is_noticed() -> None:
    before = simulate(1, 0.03, falling)
    after = simulate(2, 0.03, lambda _, __: 0.3, evidence=before.evidence)

    assert before.served > 300
    assert after.served < 0.15 * 4000
    assert refusal(after.evidence, 0.99) == "unverified"


def grown(comparisons: int, budget: float) -> Evidence:
    """Return the evidence of a namespace that has served well for long."""
    rng, evidence = random.Random(1), Evidence(budget)
    for at in range(comparisons):
        score, entry = min(1.0, max(0.8, rng.gauss(0.92, 0.04))), rng.randrange(300)
        verdict: Verdict = "different" if rng.random() < falling(at, score) else "same"
        evidence.add(Observation("near_miss", verdict, score, str(at), str(entry), entry % 64))
    return evidence


def test_after_a_long_good_time_a_shift_of_traffic_is_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    def overspent() -> float:
        found = simulate(12, 0.05, lambda _, __: 0.3, evidence=grown(15_000, 0.05), questions=2_000)
        return found.wrong - 0.05 * found.served

    watched = overspent()
    monkeypatch.setattr(evidence_module, "_ALARM", float("inf"))

    assert 0 < watched < 0.2 * overspent()


def rechecked(rate: float, times: int, seed: int) -> Evidence:
    evidence, rng = Evidence(0.02), random.Random(seed)
    for _ in range(times):
        evidence.add(observation("different" if rng.random() < rate else "same", source="recheck"))
    return evidence


def test_what_stays_within_the_budget_raises_no_alarm_and_what_does_not_soon_does() -> None:
    for seed in range(3):
        assert sum(tally.total for tally in rechecked(0.008, 2_000, seed).state.bins) == 2_000
        assert sum(tally.total for tally in rechecked(0.16, 300, seed).state.bins) < 300


def test_a_judge_that_never_says_no_is_found_out_by_the_same_test() -> None:
    """The simulation can fail: with a comparison that says "same" to everything the budget is overspent."""

    class Blind(Evidence):
        def add(self, seen: Observation) -> None:
            super().add(Observation(seen.source, "same", *list_of(seen)[2:]))

    found = simulate(1, 0.02, falling, evidence=Blind(0.02))
    assert found.wrong > 0.02 * found.served + 3 * (0.02 * found.served) ** 0.5


def list_of(seen: Observation) -> list[object]:
    return [getattr(seen, name) for name in seen.__struct_fields__]


def test_what_was_added_up_survives_being_written() -> None:
    evidence = simulate(1, 0.05, falling, questions=1500).evidence
    evidence.add(Observation("feedback", "different", 0.9, "q", "e", 0))

    found = decode_state(encode_state(evidence.state, "cursor 7"))

    assert found is not None
    again = Evidence(0.05, found[1])
    assert found[0] == "cursor 7"
    assert again.summary(from_score=0.85) == evidence.summary(from_score=0.85)
    assert refusal(again, asked="q", entry="e") == "feedback_block"


@given(st.binary(max_size=200))
def test_foreign_bytes_are_no_evidence(data: bytes) -> None:
    assert decode_state(data) is None
    found = decode_observation(data)
    assert found is None or isinstance(found, Observation)


def test_an_observation_survives_being_written() -> None:
    assert decode_observation(encode_observation(observation())) == observation()
