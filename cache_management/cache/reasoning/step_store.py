"""Single steps of problems: what is known of a chain, what follows, what to try next, and samples of a state.

A problem's steps are one book, read in one round trip, however deep they lie. A store that is down costs a miss;
whatever is to be changed raises.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from cache_management.cache.arguments import check_text
from cache_management.cache.clock import Clock
from cache_management.cache.codec import encode_metadata
from cache_management.cache.config import check_ttl
from cache_management.cache.errors import BackendUnavailable, InvalidInput
from cache_management.cache.events import Listener, StepsEvent, UnavailableEvent
from cache_management.cache.reasoning.book import ROOT, Book, StoredResult
from cache_management.cache.reasoning.book_codec import decode_book, encode_book
from cache_management.cache.reasoning.bookshelf import Bookshelf
from cache_management.cache.reasoning.result import CoTStep, Metadata, ReasoningResult, ReasoningType, ToTNode
from cache_management.cache.reasoning.samples import Samples, Taking
from cache_management.cache.reasoning.step_identity import Conditions, conditions, problem_id, root_id
from cache_management.cache.reasoning.steps import Prefix, Pruned, SearchState, StepNode, StepPath, Taken, Thought
from cache_management.cache.reasoning.trees import By, best_paths, check_k, check_way, score_of

T = TypeVar("T")

Step = str | CoTStep | ToTNode
LEASE_SECONDS = 30.0
_MOST_SAMPLES = 10_000
_MOST_TOKENS, _MOST_USD, _LONGEST_LEASE_SECONDS = 2**53, 1e9, 1e9


class UnknownStep(InvalidInput):
    """A step is not known, or went since: it was pruned, its time was over, or the store made room."""


class StepStore:
    """The steps of one namespace. `ReasoningCache` is one.

    Args:
        ttl_seconds: How long steps live that were appended by themselves, from the last append; None is for ever.
    """

    def __init__(
        self,
        shelf: Bookshelf,
        *,
        ttl_seconds: float | None,
        strict: bool,
        clock: Clock,
        listener: Listener,
    ) -> None:
        self.shelf = shelf
        self._ttl_seconds = ttl_seconds
        self._strict = strict
        self._clock = clock
        self._tell = listener

    def root(
        self,
        problem: str,
        *,
        reasoning_type: ReasoningType = "cot",
        model: str | None = None,
        prompt_version: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> StepNode:
        """Return what stands before the first step of a problem, under some conditions; nothing is asked or stored.

        Raises:
            InvalidInput: The problem or a condition cannot be used.
        """
        under = conditions(reasoning_type, model=model, prompt_version=prompt_version, params=params)
        return self.root_of(problem, under)

    def root_of(self, problem: str, under: Conditions) -> StepNode:
        """Return what stands before the first step of a problem, under conditions as a result has them."""
        return StepNode(_name(problem, root_id(problem, self.shelf.namespace, under)), problem, under)

    # Reading.

    async def longest_prefix(
        self,
        problem: str | StepNode,
        steps: Sequence[Step],
        *,
        reasoning_type: ReasoningType = "cot",
        model: str | None = None,
        prompt_version: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Prefix:
        """Return how much of a chain is known under the same conditions, and what is known behind.

        Args:
            problem: Or a step of it: the chain begins behind that, under its conditions.
            steps: Texts, or steps of a result.

        Raises:
            InvalidInput: Something cannot be used.
            BackendUnavailable: Only with `strict`.
        """
        node = problem
        if not isinstance(node, StepNode):
            node = self.root(
                node, reasoning_type=reasoning_type, model=model, prompt_version=prompt_version, params=params
            )
        thoughts = _thoughts(steps)
        book = await self._read(node.problem, "longest_prefix")
        place = None if book is None else _place_of(book, node)
        if book is None or place is None:
            return Prefix(node, 0, tuple(thoughts), ())
        branch, at = place
        path = book.walk(branch, at, thoughts)
        deepest = path[-1] if path else at
        seen = _Seen(book, branch)
        if path:
            tokens, micro = seen.cost(path)
            self._tell(StepsEvent("reused", self.shelf.namespace, len(path), tokens, micro))
        return Prefix(
            seen.node(deepest), len(path), tuple(thoughts[len(path) :]), tuple(map(seen.node, seen.served(deepest)))
        )

    async def children(self, node: StepNode | str) -> list[StepNode]:
        """Return the steps that are known behind a step, in the order in which they came.

        Raises:
            BackendUnavailable: Only with `strict`.
        """
        found = await self._find(node, "children")
        if found is None:
            return []
        book, branch, at = found
        seen = _Seen(book, branch)
        return [seen.node(each) for each in seen.served(at)] if book.branches[branch].is_served(at) else []

    async def next_steps(self, node: StepNode | str) -> list[StepNode]:
        """Return the steps that are known behind a step, best score first, those without a score last."""
        return sorted(await self.children(node), key=_by_score)

    async def conditions_of(self, problem: str) -> list[Conditions]:
        """Return the conditions under which anything is known of a problem."""
        book = await self._read(problem, "conditions_of")
        return [] if book is None else [of.under for of in book.branches]

    async def find_step(self, node: StepNode, thoughts: Sequence[str]) -> StepNode | None:
        """Return the step at the end of a way, also one that is marked or hidden; None when it is not known."""
        found = await self._find(node, "find_step")
        if found is None:
            return None
        book, branch, at = found
        for thought in _thoughts(thoughts):
            child = book.child(branch, at, thought)
            if child is None:
                return None
            at = child
        return _Seen(book, branch).node(at)

    async def path(self, node: StepNode | str) -> list[StepNode]:
        """Return the steps from the first to this one; none when it is not known."""
        found = await self._find(node, "path")
        if found is None:
            return []
        book, branch, at = found
        seen = _Seen(book, branch)
        return [seen.node(each) for each in book.branches[branch].path_to(at)]

    async def best_paths(
        self,
        problem: str | StepNode,
        k: int = 1,
        *,
        by: By = "leaf",
        reasoning_type: ReasoningType | None = None,
        model: str | None = None,
    ) -> list[StepPath]:
        """Return the best ways from the first step to a last one, over all that is known of a problem, best first.

        See `trees.best_paths` for `by`. Equal ways of several results are told once.

        Args:
            reasoning_type, model: Take only those; a `StepNode` says its own.
        """
        check_k(k)
        check_way(by)
        name = problem.problem if isinstance(problem, StepNode) else problem
        book = await self._read(name, "best_paths")
        if book is None:
            return []
        named = await self._named(book, "best_paths")
        found: dict[tuple[str, ...], StepPath] = {}
        for branch, of in enumerate(book.branches):
            if isinstance(problem, StepNode) and of.under != problem.under:
                continue
            if (reasoning_type or of.under.reasoning_type) != of.under.reasoning_type:
                continue
            if model is not None and of.under.model != model:
                continue
            for path in [*self._paths_of_results(book, branch, k, by, named), *_loose_paths(book, branch, by)]:
                known = found.get(path.thoughts)
                if known is None or _rank(path.score) > _rank(known.score):
                    found[path.thoughts] = path
        return sorted(found.values(), key=lambda path: _rank(path.score), reverse=True)[:k]

    def _paths_of_results(self, book: Book, branch: int, k: int, by: By, named: Collection[str]) -> list[StepPath]:
        now = self._clock()
        found = []
        for stored in book.results:
            if stored.branch != branch or (stored.expires_at is not None and stored.expires_at <= now):
                continue
            if stored.key not in named:
                continue
            result = restored(book, stored)
            if result is None:
                continue
            for path in best_paths(result, k, by=by):
                thoughts = tuple(each.thought for each in path.thoughts)
                found.append(StepPath(thoughts, path.score, stored.key, result.final_answer))
        return found

    async def _named(self, book: Book, operation: str) -> Collection[str]:
        """Return the keys under which the results of a book are found."""
        return {stored.key for stored in book.results}

    async def frontier(self, problem: str | StepNode) -> list[StepNode]:
        """Return the steps that a search would expand next, best score first: nothing is known behind them.

        Ends of chains, and steps that were appended as final, are none.
        """
        return list((await self.resume(problem)).frontier)

    async def resume(self, problem: str | StepNode) -> SearchState:
        """Return all that a search needs to go on where it, or another process, left off."""
        book = await self._read(problem.problem if isinstance(problem, StepNode) else problem, "resume")
        frontier: list[StepNode] = []
        visited: list[StepNode] = []
        used: dict[str, int] = {}
        tokens = micro = 0
        for branch, of in enumerate([] if book is None else book.branches):
            if book is None or (isinstance(problem, StepNode) and of.under != problem.under):
                continue
            seen = _Seen(book, branch)
            ends = {stored.nodes[-1] for stored in book.results if stored.branch == branch and stored.nodes}
            is_chain = of.under.reasoning_type == "cot"
            for at in range(1, len(of.parents)):
                if not seen.is_served[at]:
                    continue
                node = seen.node(at)
                visited.append(node)
                if not of.children.get(at) and at not in of.final and not (is_chain and at in ends):
                    frontier.append(node)
            for cost in of.costs.values():
                tokens, micro = tokens + cost[0], micro + cost[1]
            for state in of.states.values():
                for namespace in state.uses:
                    used[namespace] = used.get(namespace, 0) + state.used(namespace)
        return SearchState(tuple(sorted(frontier, key=_by_score)), tuple(visited), used, tokens, micro / 1e6)

    # Changing.

    async def append(
        self,
        node: StepNode,
        steps: Step | Sequence[Step],
        *,
        score: float | None = None,
        is_final: bool = False,
        answer: str | None = None,
        tokens: int = 0,
        cost_usd: float = 0.0,
    ) -> list[StepNode]:
        """Add steps behind a step, one after the other; return all of them. What is known already is not added again.

        Args:
            node: From `root`, or from an earlier call.
            score: Of the last of them; that of a `CoTStep` or `ToTNode` is its own. What was said last counts.
            is_final: Nothing comes behind the last of them; `answer` is then the final answer.
            tokens, cost_usd: What generating them took, all together; told as saved whenever they are reused.

        Raises:
            InvalidInput: Something cannot be used.
            BackendUnavailable: It may not be stored.
        """
        _stored_node(node)
        given: list[Step] = [steps] if isinstance(steps, str | CoTStep | ToTNode) else list(_thoughts_given(steps))
        thoughts = _thoughts(given)
        scores = [None if isinstance(each, str) else score_of(each) for each in given]
        if score is not None and scores:
            scores[-1] = score
        for each in scores:
            _check_score(each)
        _check_spent(tokens, cost_usd)
        if answer is not None:
            check_text(answer, "answer")

        def change(book: Book) -> tuple[list[StepNode], int]:
            branch = book.opened(node.under)
            at, before = _known_place(book, branch, node), len(book.branches[branch].parents)
            path = []
            for thought, each in zip(thoughts, scores, strict=True):
                at = book.extend(branch, at, thought)
                path.append(at)
                if each is not None:
                    book.branches[branch].scores[at] = float(each)
            of = book.branches[branch]
            of.hold(path)
            new = [each for each in path if each >= before]
            if new and (tokens or cost_usd):
                of.costs[new[-1]] = (tokens, round(cost_usd * 1e6))
            if is_final and path:
                of.final[path[-1]] = -1 if answer is None else book.intern(answer)
            self._prolong(book, branch)
            seen = _Seen(book, branch)
            return [seen.node(each) for each in path], len(new)

        found, new = await self.shelf.change(node.problem, change)
        self._tell(StepsEvent("submitted", self.shelf.namespace, len(thoughts)))
        if new:
            self._tell(StepsEvent("stored", self.shelf.namespace, new))
        return found

    def _prolong(self, book: Book, branch: int) -> None:
        of = book.branches[branch]
        if self._ttl_seconds is None or of.steps_until is None:
            of.steps_until = None
        else:
            of.steps_until = max(of.steps_until, self._clock() + self._ttl_seconds)

    async def prune(self, node: StepNode | str, *, dry_run: bool = False) -> Pruned:
        """Remove a step and all that is known behind it, with the results that cannot do without it.

        A chain goes whole; of a tree the rest stays.

        Raises:
            InvalidInput: The step is not known.
            BackendUnavailable: It may still be there.
        """
        wanted = await self._sure(node, "prune")
        if dry_run:
            book, branch, at = wanted
            copy = _copy(book)
            return Pruned(*_as_pruned(copy.prune(branch, at)))

        def change(book: Book) -> tuple[int, list[str]]:
            branch, at = _sure_place(book, node)
            return book.prune(branch, at)

        pruned = Pruned(*_as_pruned(await self.shelf.change(wanted[0].problem, change)))
        await self._forget(wanted[0].problem, pruned.results)
        self._tell(StepsEvent("pruned", self.shelf.namespace, pruned.steps))
        return pruned

    async def hide(self, node: StepNode | str, *, is_hidden: bool = True) -> None:
        """Keep a step and all behind it, and serve none of it; or serve it again."""

        def change(book: Book) -> None:
            branch, at = _sure_place(book, node)
            hidden = book.branches[branch].hidden
            (hidden.add if is_hidden else hidden.discard)(at)

        await self._change(node, change)

    async def mark(self, node: StepNode | str, *, correct: bool, reason: str = "") -> None:
        """Note whether a step is right. A wrong one is not served any more, nor anything behind it, in any chain.

        That is kept as long as steps are that were appended, also when the chains through it are gone.
        """
        check_text(reason, "reason")

        def change(book: Book) -> None:
            branch, at = _sure_place(book, node)
            if at == ROOT:
                raise InvalidInput("the problem itself cannot be wrong: mark one of its steps")
            if correct:
                book.branches[branch].wrong.pop(at, None)
            else:
                of = book.branches[branch]
                of.wrong[at] = reason or "marked as wrong"
                of.hold([at])  # else the mark would go with the chain, and the step come back with the next one
                self._prolong(book, branch)

        await self._change(node, change)

    async def _change(self, node: StepNode | str, change: Callable[[Book], T]) -> T:
        book, _, _ = await self._sure(node, "change")
        return await self.shelf.change(book.problem, change)

    async def _forget(self, problem: str, keys: Sequence[str]) -> None:
        """Forget results of a problem whose steps went."""

    # Samples.

    async def take(
        self,
        node: StepNode,
        n: int = 1,
        *,
        namespace: str = "",
        prompt: str = "",
        lease_seconds: float = LEASE_SECONDS,
    ) -> Taken:
        """Take the next samples of what follows a step, which nobody else of the namespace is given.

        What is missing is the caller's to generate and to `offer`; while it does, for at most `lease_seconds`, others
        who ask generate other ones. Another namespace begins at the first sample.

        Args:
            namespace: Of consumers, such as a run of an experiment; "" is nobody: it begins at the first sample each
                time, and nothing is noted as used.
            prompt: Which question about the state is asked, where there are several.
        """
        _stored_node(node)
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= _MOST_SAMPLES:
            raise InvalidInput(f"n={n!r:.40}: take a whole number from 1 to {_MOST_SAMPLES:,}")
        check_text(namespace, "namespace")
        check_text(prompt, "prompt")
        _check_lease(lease_seconds)
        ticket = secrets.token_hex(8)

        def change(book: Book) -> tuple[Taking, tuple[str, ...], int]:
            state = self._state(book, node, prompt)
            but = () if prompt else _unserved_samples(book, node, state)
            taking = state.take(ticket, namespace, n, now=self._clock(), lease_seconds=lease_seconds, but=but)
            return taking, tuple(book.texts[state.texts[at]] for at in taking.present), state.epoch

        taking, samples, epoch = await self.shelf.change(node.problem, change)
        if samples:
            self._tell(StepsEvent("samples_stored", self.shelf.namespace, len(samples)))
        return Taken(
            samples,
            len(taking.missing),
            len(taking.waiting),
            epoch,
            node,
            prompt,
            namespace,
            ticket,
            tuple(taking.present),
        )

    async def take_again(self, taken: Taken, *, lease_seconds: float = LEASE_SECONDS) -> Taken:
        """Look again for samples that others generate; those that they gave up are the caller's to generate now."""
        _taken(taken)
        _check_lease(lease_seconds)

        def change(book: Book) -> tuple[Taking, tuple[str, ...], int]:
            state = self._state(book, taken.node, taken.prompt)
            taking = state.again(taken.ticket, now=self._clock(), lease_seconds=lease_seconds)
            return taking, tuple(book.texts[state.texts[at]] for at in taking.present), state.epoch

        taking, samples, epoch = await self.shelf.change(taken.node.problem, change)
        return msgspec.structs.replace(
            taken,
            samples=samples,
            missing=len(taking.missing),
            waiting=len(taking.waiting),
            epoch=epoch,
            places=(*taken.places, *taking.present),
        )

    async def renew(self, taken: Taken, *, lease_seconds: float = LEASE_SECONDS) -> None:
        """Keep what is missing reserved for longer: others go on waiting for it.

        Raises:
            BackendUnavailable: The lease may end.
        """
        _check_lease(lease_seconds)

        def change(book: Book) -> None:
            self._state(book, taken.node, taken.prompt).renew(taken.ticket, until=self._clock() + lease_seconds)

        await self.shelf.change(_taken(taken).node.problem, change)

    async def offer(self, taken: Taken, samples: Sequence[str | Thought]) -> list[StepNode]:
        """Store samples that were missing; the taker has used them, others find them. Return them as steps.

        What follows a state is also a step behind it, unless the question (`prompt`) was another one.

        Raises:
            InvalidInput: Something cannot be used.
            BackendUnavailable: They may not be stored.
        """
        _taken(taken)
        given = [each if isinstance(each, Thought) else Thought(each) for each in _thoughts_given(samples)]
        _thoughts([each.text for each in given])
        for each in given:
            _check_score(each.score)
            _check_spent(each.tokens, each.cost_usd)
            if each.answer is not None:
                check_text(each.answer, "answer")

        def change(book: Book) -> list[StepNode]:
            state = self._state(book, taken.node, taken.prompt)
            state.offer(taken.ticket, taken.namespace, [book.intern(each.text) for each in given])
            branch = book.opened(taken.node.under)
            at = _known_place(book, branch, taken.node)
            if taken.prompt:
                return []
            nodes = [_add(book, branch, at, each) for each in given]
            seen = _Seen(book, branch)
            return [seen.node(each) for each in nodes]

        nodes = await self.shelf.change(taken.node.problem, change)
        tokens = sum(each.tokens for each in given)
        self._tell(StepsEvent("samples_fresh", self.shelf.namespace, len(given), tokens))
        return nodes

    async def give_back(self, taken: Taken) -> None:
        """Let the namespace have what was taken and not used, and others generate what is missing."""

        def change(book: Book) -> None:
            state = self._state(book, taken.node, taken.prompt)
            if state.epoch == taken.epoch:
                state.give_back(taken.ticket, taken.namespace, taken.places)

        await self.shelf.change(taken.node.problem, change)

    async def samples(self, node: StepNode | str, *, prompt: str = "") -> list[str]:
        """Return all samples of what follows a step, in order; nobody has used them by that."""
        found = await self._find(node, "samples")
        if found is None:
            return []
        book, branch, at = found
        state = book.branches[branch].states.get((at, prompt))
        return [] if state is None else [book.texts[text] for text in state.texts if text >= 0]

    async def reset_samples(self, node: StepNode, *, namespace: str, prompt: str = "") -> None:
        """Let a namespace begin at the first sample again."""

        def change(book: Book) -> None:
            self._state(book, node, prompt).reset(namespace)

        await self.shelf.change(node.problem, change)

    def _state(self, book: Book, node: StepNode, prompt: str) -> Samples:
        branch = book.opened(node.under)
        at = _known_place(book, branch, node)
        self._prolong(book, branch)
        states = book.branches[branch].states
        state = states.get((at, prompt))
        if state is None:
            state = states[at, prompt] = Samples(epoch=int(self._clock() * 1000))
        return state

    # Finding.

    async def _read(self, problem: str, operation: str) -> Book | None:
        try:
            return await self.shelf.read(problem_id(problem))
        except BackendUnavailable as exc:
            self._tolerate(exc, operation)
            return None

    async def _find(self, node: StepNode | str, operation: str) -> tuple[Book, int, int] | None:
        try:
            book = await self.shelf.read(_split(node)[0])
        except BackendUnavailable as exc:
            self._tolerate(exc, operation)
            return None
        place = None if book is None else _place_of(book, node)
        return None if book is None or place is None else (book, *place)

    async def _sure(self, node: StepNode | str, operation: str) -> tuple[Book, int, int]:
        book = await self.shelf.read(_split(node)[0])
        if book is None:
            raise UnknownStep(f"nothing is known of the problem of step {_shown(node)}, to {operation}")
        return book, *_sure_place(book, node)

    def _tolerate(self, error: BackendUnavailable, operation: str) -> None:
        self._tell(UnavailableEvent(error.backend, operation, error.reason))
        if self._strict:
            raise error


class _Seen:
    """A branch as its callers see it; what costs a look at everything is worked out once."""

    def __init__(self, book: Book, branch: int) -> None:
        self._book, self._branch = book, branch
        self._of = book.branches[branch]
        self._ids = book.ids(branch)
        self._scores = book.node_scores(branch)
        self._uses = book.uses(branch)
        self._depths = [0]
        self.is_served = self._of.served(range(len(self._of.parents)))
        for at in range(1, len(self._of.parents)):  # each behind its parent
            self._depths.append(self._depths[self._of.parents[at]] + 1)
        self._samples: dict[int, int] = {}
        for (at, _), state in self._of.states.items():
            self._samples[at] = self._samples.get(at, 0) + len(state.texts)

    def node(self, at: int) -> StepNode:
        of, book = self._of, self._book
        parent = of.parents[at]
        return StepNode(
            _name(book.problem, self._ids[at]),
            book.problem,
            of.under,
            book.thought(self._branch, at) if at else "",
            self._depths[at],
            _name(book.problem, self._ids[parent]) if at else None,
            self._scores.get(at),
            self._uses[at],
            self._samples.get(at, 0),
            at in of.final,
            None if of.final.get(at, -1) < 0 else book.texts[of.final[at]],
            of.wrong.get(at, ""),
            of.costs.get(at, (0, 0))[0],
            of.costs.get(at, (0, 0))[1] / 1e6,
        )

    def served(self, at: int) -> list[int]:
        of = self._of
        return [each for each in of.children.get(at, ()) if each not in of.wrong and each not in of.hidden]

    def cost(self, path: Sequence[int]) -> tuple[int, int]:
        costs = [self._of.costs.get(at, (0, 0)) for at in path]
        return sum(cost[0] for cost in costs), sum(cost[1] for cost in costs)


def restored(book: Book, stored: StoredResult) -> ReasoningResult | None:
    """Return a stored result; None when a step of it is not served any more, or its metadata cannot be read."""
    try:
        return book.restored(stored, read_metadata=_read_metadata)
    except msgspec.DecodeError:
        return None


def _read_metadata(words: str) -> Metadata:
    found: Metadata = msgspec.json.decode(words)
    return found


def write_metadata(metadata: Metadata) -> str | None:
    """Return metadata as it stands in a book, None for none."""
    return encode_metadata(metadata).decode() if metadata else None


def check_life_of_steps(ttl_seconds: int | None) -> float | None:
    """Return how long steps live by a configured TTL; None for ever."""
    found = check_ttl(ttl_seconds)
    return None if found is None or found == -1 else float(found)


def _add(book: Book, branch: int, parent: int, thought: Thought) -> int:
    """Add a sample as a step behind another one."""
    of = book.branches[branch]
    at = book.extend(branch, parent, thought.text)
    of.hold([at])
    if thought.score is not None:
        of.scores[at] = float(thought.score)
    if thought.is_final:
        of.final[at] = -1 if thought.answer is None else book.intern(thought.answer)
    if at not in of.costs and (thought.tokens or thought.cost_usd):
        of.costs[at] = (thought.tokens, round(thought.cost_usd * 1e6))
    return at


def _unserved_samples(book: Book, node: StepNode, state: Samples) -> set[int]:
    """Return the places of samples that are steps marked as wrong, or hidden."""
    branch = book.opened(node.under)
    of, at = book.branches[branch], _known_place(book, branch, node)
    if not of.wrong and not of.hidden:
        return set()
    steps = {place: book.child(branch, at, book.texts[text]) for place, text in enumerate(state.texts) if text >= 0}
    return {place for place, step in steps.items() if step in of.wrong or step in of.hidden}


def _loose_paths(book: Book, branch: int, by: By) -> list[StepPath]:
    """Return the ways to steps that nothing follows, and that are no part of a result, with the scores of steps."""
    of = book.branches[branch]
    uses = book.uses(branch)
    found = []
    for at in range(1, len(of.parents)):
        if uses[at] or of.children.get(at) or not of.is_served(at):
            continue
        path = of.path_to(at)
        steps = [
            CoTStep.model_construct(
                step_number=place + 1, thought=book.thought(branch, each), confidence=of.scores.get(each), metadata={}
            )
            for place, each in enumerate(path)
        ]
        result = ReasoningResult.model_construct(reasoning_type="cot", problem="", steps=steps)
        score = best_paths(result, 1, by=by)[0].score
        found.append(StepPath(tuple(step.thought for step in steps), score))
    return found


def _copy(book: Book) -> Book:
    largest = 2**62
    return decode_book(encode_book(book, limit_bytes=largest), namespace=book.namespace, limit_bytes=largest)


def _as_pruned(found: tuple[int, list[str]]) -> tuple[int, tuple[str, ...]]:
    return found[0], tuple(found[1])


def _name(problem: str, step: bytes) -> str:
    return f"{problem_id(problem)}/{step.hex()}"


def _split(node: StepNode | str) -> tuple[str, bytes]:
    name = node.id if isinstance(node, StepNode) else node
    problem, _, step = name.partition("/") if isinstance(name, str) else ("", "", "")
    try:
        if len(problem) == 32 and len(step) == 32:
            bytes.fromhex(problem)
            return problem, bytes.fromhex(step)
    except ValueError:
        pass
    raise InvalidInput(f"{_shown(node)} is no step: take the id of a StepNode")


def _place_of(book: Book, node: StepNode | str) -> tuple[int, int] | None:
    return book.find(_split(node)[1])


def _sure_place(book: Book, node: StepNode | str) -> tuple[int, int]:
    place = _place_of(book, node)
    if place is None:
        raise UnknownStep(f"step {_shown(node)} is not known, or went since")
    return place


def _known_place(book: Book, branch: int, node: StepNode) -> int:
    """Return where a step is in a branch; a root needs not be known."""
    name = _split(node)[1]
    ids = book.ids(branch)
    if name not in ids:
        raise UnknownStep(f"step {_shown(node)} is not known, or went since: begin at the root of the problem")
    return ids.index(name)


def _shown(node: object) -> str:
    return repr(node.thought if isinstance(node, StepNode) and node.thought else getattr(node, "id", node))[:80]


def _stored_node(node: object) -> None:
    if not isinstance(node, StepNode):
        raise InvalidInput(f"{node!r:.60} is no StepNode: take one from `root`, `children` or an earlier call")


def _taken(taken: Taken) -> Taken:
    if not isinstance(taken, Taken):
        raise InvalidInput(f"{taken!r:.60} was not taken: give what `take` returned")
    return taken


def _thoughts_given(given: Sequence[T]) -> Sequence[T]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InvalidInput(f"a list of texts or steps is needed, not {type(given).__name__}")
    return given


def _thoughts(steps: Sequence[Step]) -> list[str]:
    _thoughts_given(steps)
    thoughts = [each if isinstance(each, str) else getattr(each, "thought", None) for each in steps]
    for place, thought in enumerate(thoughts):
        if not isinstance(thought, str):
            raise InvalidInput(f"steps[{place}] is a {type(steps[place]).__name__}: give texts, or steps of a result")
        try:
            thought.encode()
        except UnicodeEncodeError as exc:
            raise InvalidInput(f"steps[{place}] is not valid Unicode at character {exc.start}") from None
    return [thought for thought in thoughts if thought is not None]


# A book that holds a value of another type cannot be read again, with all that was in it.


def _check_score(score: object) -> None:
    if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
        raise InvalidInput(f"score={score!r:.40} is not from 0 to 1")


def _check_spent(tokens: object, cost_usd: object) -> None:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= _MOST_TOKENS:
        raise InvalidInput(f"tokens={tokens!r:.40} must be a whole number from 0")
    if not isinstance(cost_usd, int | float) or not 0 <= cost_usd <= _MOST_USD:
        raise InvalidInput(f"cost_usd={cost_usd!r:.40} must be a number from 0")


def _check_lease(seconds: object) -> None:
    if not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_LEASE_SECONDS:
        raise InvalidInput(f"lease_seconds={seconds!r:.40} must be a number over 0")


def _rank(score: float | None) -> tuple[bool, float]:
    return (score is not None, score or 0.0)


def _by_score(node: StepNode) -> tuple[bool, float]:
    return (node.score is None, -(node.score or 0.0))
