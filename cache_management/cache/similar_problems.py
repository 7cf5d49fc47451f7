"""Problems that mean the same: a solution of one is offered for the other, and never passed off as its own.

    set    -> the problem becomes an entry of a namespace of its own ("<namespace>.problems"), within the context of its
              conditions; the entry says which problem it is
    find   -> exact; else the nearest problem under the same conditions that no gate refuses, and whose numbers are the
              same ones, each as often

A problem with another number is another problem, however close its words are: the gate for numbers lets an addition
pass, which is right for questions and wrong for sums.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from cache_management.cache.errors import InvalidInput
from cache_management.cache.front_door import FrontDoor
from cache_management.cache.reasoning.cache import Reasoned, ReasoningCache
from cache_management.cache.reasoning.result import ReasoningResult
from cache_management.cache.reasoning.step_identity import Conditions, conditions_of, problem_id
from cache_management.cache.requests import Request, make_request
from cache_management.cache.semantic.gates.facets import facets
from cache_management.cache.semantic.gates.numbers import is_number_word, unit_of
from cache_management.cache.values import CachedResponse, Lookup

SUFFIX = ".problems"
NUMBERS = "numbers"
"""The veto of a problem that counts something else."""

_SHARE_WORDS = """
    half halves twice double doubled triple tripled thrice quadruple third thirds quarter quarters fourth fourths
    fifth fifths dozen dozens pair pairs both neither single couple few several
    square squares squared cube cubes cubed root roots sqrt cbrt factorial
"""
_SHARES = frozenset(_SHARE_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+")
_WORD_OR_NUMBER = re.compile(r"\w+")
_OPERATOR = re.compile(r"\s*([-+*/^=<>!√×÷·−–]+)\s*")


class SimilarReasoning(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for a problem, and why nothing was. True in a condition when something was found.

    `borrowed_from` is the problem that the result solves, where that is another one that means the same: its steps are
    not those of the problem that was asked until somebody confirms them (`ReasoningCache.set`). `reason` and `vetoes`
    are as in `Lookup`; the veto "numbers" says that the nearest one counts something else.
    """

    result: ReasoningResult | None = None
    kind: Literal["exact", "semantic"] | None = None
    key: str | None = None
    similarity: float | None = None
    borrowed_from: str | None = None
    reason: str = "no_candidate"
    vetoes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.result is not None


def same_numbers(asked: str, stored: str) -> bool:
    """Tell whether two problems count and measure the same: digits or words, in whatever order.

    Within a formula the order counts: 10 - 4 is not 4 - 10.
    """
    return _counted(asked) == _counted(stored)


def _counted(problem: str) -> tuple[Counter[Any], ...]:
    found = facets(problem)
    words = Counter(word.lower() for word in _WORD.findall(problem))
    return (
        Counter((each.value, each.unit) for each in found.quantities),
        Counter(found.ids),
        Counter(found.dates),
        Counter({word: count for word, count in words.items() if word in _SHARES or word.endswith("fold")}),
        _formulas(problem),
        _units_asked_for(problem),
    )


def _formulas(problem: str) -> Counter[str]:
    """Return what is joined by operators, such as 2^3, and signs that are numbers and no digits, such as ² and ½."""
    terms = (term.strip(".,;:?()") for term in _OPERATOR.sub(r"\1", problem.lower()).split())
    formulas = [term for term in terms if _OPERATOR.search(term) and any(each.isnumeric() for each in term)]
    return Counter([*formulas, *(each for each in problem if each.isnumeric() and not each.isdecimal())])


def _units_asked_for(problem: str) -> Counter[tuple[str, str]]:
    """Return the units that no number stands before: in which an answer is to be given."""
    words = _WORD_OR_NUMBER.findall(problem.lower())
    found: Counter[tuple[str, str]] = Counter()
    for before, word in zip(["", *words], words, strict=False):
        unit = unit_of(word) if len(word) > 1 and not is_number_word(before) else None
        if unit is not None:
            found[unit] += 1
    return found


class SimilarProblems:
    """Finds solved problems by meaning.

    Args:
        reasoning: Where the solutions are.
    """

    def __init__(self, reasoning: ReasoningCache) -> None:
        self._reasoning = reasoning

    @property
    def namespace(self) -> str:
        """Return the namespace in which problems are entries.

        Raises:
            InvalidInput: The name of the reasoning's own is too long for that.
        """
        name = self._reasoning.namespace + SUFFIX
        if len(name) > 64:
            raise InvalidInput(f"namespace {self._reasoning.namespace!r} is too long: {64 - len(SUFFIX)} at most")
        return name

    async def note(
        self, door: FrontDoor, result: ReasoningResult, *, ttl_seconds: int | None, tags: Sequence[str]
    ) -> None:
        """Make a solved problem findable by meaning."""
        under = conditions_of(result)
        request = _request(result.problem, under)
        entry = CachedResponse(
            prompt=request.last_text or result.problem,
            response=result.problem,
            model=under.model or "unknown",
            timestamp=datetime.fromtimestamp(self._reasoning.clock(), UTC),
            metadata={"reasoning": problem_id(result.problem)},
        )
        await door.store(request, entry, ttl_seconds=ttl_seconds, tags=tags)

    async def find(
        self,
        door: FrontDoor | None,
        problem: str,
        under: Conditions,
        *,
        threshold: float | None = None,
    ) -> SimilarReasoning:
        """Return the newest solution of a problem, or of one that means the same, under the same conditions.

        Args:
            door: Of the problems' namespace; None looks for the very problem only.
        """
        own = await self._newest(problem, under)
        if own is not None:
            return SimilarReasoning(result=own.result, kind="exact", key=own.key, similarity=1.0, reason="exact")
        if door is None:
            return SimilarReasoning()
        found = await door.lookup(_request(problem, under), threshold)
        if not found.hit or found.response is None:
            return _missed(found)
        other = found.response.response
        if not same_numbers(problem, other):
            return SimilarReasoning(reason="vetoed", vetoes=(NUMBERS,), similarity=found.similarity)
        solved = await self._newest(other, under)
        if solved is None:
            return SimilarReasoning(reason="expired", similarity=found.similarity)
        return SimilarReasoning(
            result=solved.result,
            kind="semantic",
            key=solved.key,
            similarity=found.similarity,
            borrowed_from=other,
            reason="semantic",
        )

    async def _newest(self, problem: str, under: Conditions) -> Reasoned | None:
        for each in await self._reasoning.list_by_problem(problem, reasoning_type=under.reasoning_type):
            if each.conditions == under:
                return each
        return None


def _missed(found: Lookup) -> SimilarReasoning:
    nearest = found.nearest
    return SimilarReasoning(
        reason=found.reason,
        vetoes=found.vetoes,
        similarity=None if nearest is None else nearest.score,
    )


def _request(problem: str, under: Conditions) -> Request:
    """Return a problem as a request: the conditions are its context."""
    words: dict[str, object] = {"reasoning_type": under.reasoning_type, "params": under.params}
    if under.prompt_version:
        words["prompt_version"] = under.prompt_version
    return make_request(problem, model=under.model or None, params={"reasoning": words})
