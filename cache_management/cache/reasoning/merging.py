"""Brings what one book knows into another one of the same problem."""

from __future__ import annotations

import math

import msgspec

from cache_management.cache.reasoning.book import ROOT, Book, Branch, StoredResult
from cache_management.cache.reasoning.samples import HOLE, Samples


def merge(into: Book, other: Book, *, now: float) -> list[StoredResult]:
    """Bring in what is absent, or newer; return the results that were taken. What is there stays.

    The results of a key are compared by the moment at which they were stored. Of samples a state is taken whole, where
    there is none; who was generating some is not waited for.
    """
    taken = []
    places = {branch: _bring_steps(into, other, branch) for branch in range(len(other.branches))}
    for result in other.results:
        own = into.result_of(result.key)
        is_over = result.expires_at is not None and result.expires_at <= now
        if is_over or (own is not None and own.created_at >= result.created_at):
            continue
        into.remove(result.key)
        branch, nodes = places[result.branch]
        copy = _moved(into, other, result, branch, nodes)
        into.results.append(copy)
        taken.append(copy)
    return taken


def _bring_steps(into: Book, other: Book, branch: int) -> tuple[int, dict[int, int]]:
    """Bring the steps of a branch; return the branch there, and where each node is there."""
    theirs = other.branches[branch]
    at = into.opened(theirs.under)
    ours = into.branches[at]
    nodes = {ROOT: ROOT}
    for node in range(1, len(theirs.parents)):  # each behind its parent
        nodes[node] = into.extend(at, nodes[theirs.parents[node]], other.thought(branch, node))
    for node, score in theirs.scores.items():
        ours.scores.setdefault(nodes[node], score)
    for node, cost in theirs.costs.items():
        ours.costs.setdefault(nodes[node], cost)
    for node, text in theirs.final.items():
        ours.final.setdefault(nodes[node], text if text < 0 else into.intern(other.texts[text]))
    for node, why in theirs.wrong.items():
        ours.wrong.setdefault(nodes[node], why)
    ours.hidden |= {nodes[node] for node in theirs.hidden}
    ours.held |= {nodes[node] for node in theirs.held}
    for (node, prompt), state in theirs.states.items():
        if (nodes[node], prompt) not in ours.states:
            texts = [text if text == HOLE else into.intern(other.texts[text]) for text in state.texts]
            uses = {name: msgspec.structs.replace(use) for name, use in state.uses.items()}
            brought = Samples(state.epoch, texts, uses, dict(state.tickets))
            brought.expire(math.inf)  # what they were to generate is for the next
            ours.states[nodes[node], prompt] = brought
    ours.steps_until = _later(ours, theirs)
    return at, nodes


def _later(ours: Branch, theirs: Branch) -> float | None:
    if ours.steps_until is None or theirs.steps_until is None:
        return None
    return max(ours.steps_until, theirs.steps_until)


def _moved(into: Book, other: Book, result: StoredResult, branch: int, nodes: dict[int, int]) -> StoredResult:
    def text(place: int | None) -> int | None:
        return None if place is None else into.intern(other.texts[place])

    def sure(place: int) -> int:
        return into.intern(other.texts[place])

    return msgspec.structs.replace(
        result,
        branch=branch,
        nodes=[nodes[node] for node in result.nodes],
        answer=text(result.answer),
        metadata=text(result.metadata),
        problem=text(result.problem),
        rationales=[text(place) for place in result.rationales],
        ids=[sure(place) for place in result.ids],
        raw=_raw(into, other, result, branch, nodes),
        step_metadata={at: sure(place) for at, place in result.step_metadata.items()},
        children={
            at: [each if each >= 0 else -1 - sure(-1 - each) for each in listed]
            for at, listed in result.children.items()
        },
    )


def _raw(into: Book, other: Book, result: StoredResult, branch: int, nodes: dict[int, int]) -> dict[int, int]:
    """Return how thoughts are written: a node that was there before may have another spelling of the same text."""
    raw = {}
    for at, node in enumerate(result.nodes):
        place = result.raw.get(at)
        written = other.thought(result.branch, node) if place is None else other.texts[place]
        if written != into.thought(branch, nodes[node]):
            raw[at] = into.intern(written)
    return raw
