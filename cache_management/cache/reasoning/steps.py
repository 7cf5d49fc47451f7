"""What callers see of single steps: where one stands, what is known behind it, and which ways lead on."""

from __future__ import annotations

import msgspec

from cache_management.cache.reasoning.step_identity import Conditions


class StepNode(msgspec.Struct, frozen=True):
    """A step that is known, or the root that stands before the first.

    `id` holds for good, wherever it is kept: "problem/step", two hashes. `score` is what was said of it, None when
    nothing was. `results` run through it. `wrong` says why it is known to be wrong, "" when it is not. `tokens` and
    `cost_usd` are what generating it took, as far as that was told.
    """

    id: str
    problem: str
    under: Conditions
    thought: str = ""
    depth: int = 0
    parent_id: str | None = None
    score: float | None = None
    results: int = 0
    samples: int = 0
    is_final: bool = False
    answer: str | None = None
    wrong: str = ""
    tokens: int = 0
    cost_usd: float = 0.0

    @property
    def is_root(self) -> bool:
        """Tell whether it stands for the problem itself."""
        return self.depth == 0


class Prefix(msgspec.Struct, frozen=True):
    """How much of a chain is known: the deepest known step, how many that are, what is left, what is known behind.

    `borrowed_from` is the problem that the steps are of, when it is another one that means the same.
    """

    node: StepNode
    matched: int
    remaining: tuple[str, ...]
    continuations: tuple[StepNode, ...]
    borrowed_from: str | None = None


class StepPath(msgspec.Struct, frozen=True):
    """A way from the first step to a last one; `key` is of the result that it belongs to, None for loose steps."""

    thoughts: tuple[str, ...]
    score: float | None
    key: str | None = None
    final_answer: str | None = None


class Pruned(msgspec.Struct, frozen=True):
    """What went, or would go: steps, and the keys of results that cannot do without them."""

    steps: int
    results: tuple[str, ...]


class Thought(msgspec.Struct, frozen=True):
    """What a model said next: the text, what it took to generate it, and what it means for a search.

    `answer` is the final answer, of a thought that is final.
    """

    text: str
    tokens: int = 0
    cost_usd: float = 0.0
    score: float | None = None
    is_final: bool = False
    answer: str | None = None


class Taken(msgspec.Struct, frozen=True):
    """Samples for a consumer: those that are there, how many it is to generate, and how many others generate now.

    `epoch` is another one when the state was lost meanwhile and began anew.
    """

    samples: tuple[str, ...]
    missing: int
    waiting: int
    epoch: int
    node: StepNode
    prompt: str
    namespace: str
    ticket: str
    places: tuple[int, ...] = ()


class SearchState(msgspec.Struct, frozen=True):
    """What a search needs to go on: steps to expand (best first), all that was visited, samples used, and the cost.

    `samples_used` is by namespace. `cost_usd` is what was told when steps were appended.
    """

    frontier: tuple[StepNode, ...]
    visited: tuple[StepNode, ...]
    samples_used: dict[str, int]
    tokens: int
    cost_usd: float


class ReasoningStats(msgspec.Struct, frozen=True):
    """Counts since the cache was opened in this process.

    `steps_submitted` were handed in, `steps_stored` of them were new; `tokens_saved` are those that were told when a
    step was stored, each time it is reused.
    """

    hits: int
    misses: int
    stores: int
    steps_submitted: int
    steps_stored: int
    steps_reused: int
    tokens_saved: int
    cost_saved_usd: float
    samples_stored: int
    samples_fresh: int
    pruned_steps: int
    backend: str
    namespace: str

    @property
    def hit_rate(self) -> float:
        """Return hits over lookups, 0 to 1; 0.0 when nothing was looked up."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0
