"""All that is known of one problem: its steps, each once, the results that run through them, and samples of states.

    texts      each text once, whatever uses it
    branches   one for each kind of conditions: a tree of nodes (parent, text); node 0 is the root, the problem itself
    results    whole chains and trees, as the nodes they run through and what else they say

A book is one record: an append is one step, and a reader never sees a child before its parent. Pure, apart from what
it is given; times are Unix seconds. How it stands in a record: book_codec.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from cache_management.cache.reasoning.result import CoTStep, Metadata, ReasoningResult, ToTNode
from cache_management.cache.reasoning.samples import HOLE, Samples
from cache_management.cache.reasoning.step_identity import Canonical, Conditions, canonical_text, root_id, step_id

ROOT = 0
NEVER = None


class StoredResult(msgspec.Struct, array_like=True):
    """A result as it stands in a book; `nodes` are those of its branch, for each step in order.

    Columns that say nothing are empty. Of a chain whose steps are numbered from 1 `numbers` is empty, of a tree whose
    ids are "0", "1", … `ids`. `parents` and `children` (where they are not just those in order) are places of steps,
    children that are no nodes are texts, as -1 - place. Texts are places in the book's table. `raw` are thoughts that
    are written otherwise than their nodes.
    """

    key: str
    branch: int
    created_at: float
    expires_at: float | None
    nodes: list[int]
    answer: int | None = None
    metadata: int | None = None
    tags: tuple[str, ...] = ()
    numbers: list[int] = []
    rationales: list[int | None] = []
    scores: list[float | None] = []
    ids: list[int] = []
    parents: list[int] = []
    children: dict[int, list[int]] = {}
    raw: dict[int, int] = {}
    step_metadata: dict[int, int] = {}
    problem: int | None = None


class Branch:
    """The tree of steps under one kind of conditions."""

    def __init__(self, under: Conditions) -> None:
        self.under = under
        self.parents: list[int] = [-1]
        self.texts: list[int] = [-1]
        self.scores: dict[int, float] = {}
        self.costs: dict[int, tuple[int, int]] = {}  # tokens, micro-dollars
        self.final: dict[int, int] = {}  # node -> text of the final answer, -1 when nobody said it
        self.wrong: dict[int, str] = {}
        self.hidden: set[int] = set()
        self.states: dict[tuple[int, str], Samples] = {}
        self.held: set[int] = set()  # the last of steps that were appended by themselves
        self.steps_until: float | None = 0.0  # of those, and of states; None: never
        self._children: dict[int, list[int]] | None = None

    @property
    def children(self) -> dict[int, list[int]]:
        """Return the children of each node that has any, in the order in which they came."""
        if self._children is None:
            found: dict[int, list[int]] = {}
            for node in range(1, len(self.parents)):
                found.setdefault(self.parents[node], []).append(node)
            self._children = found
        return self._children

    def add(self, parent: int, text: int) -> int:
        children = self.children
        self.parents.append(parent)
        self.texts.append(text)
        node = len(self.parents) - 1
        children.setdefault(parent, []).append(node)
        return node

    def hold(self, path: Sequence[int]) -> None:
        """Keep steps, one behind the other, until `steps_until`, whatever becomes of results."""
        if path:
            self.held -= {self.parents[path[0]], *path[:-1]}  # the last one keeps those before it
            self.held.add(path[-1])

    def path_to(self, node: int) -> list[int]:
        """Return the nodes from the first step to this one, without the root."""
        path = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def below(self, node: int) -> Iterator[int]:
        """Yield a node and all below it, each before its children."""
        waiting = [node]
        while waiting:
            at = waiting.pop()
            yield at
            waiting += reversed(self.children.get(at, ()))

    def is_served(self, node: int) -> bool:
        """Tell whether neither this step nor one before it was marked wrong or hidden."""
        if not self.wrong and not self.hidden:
            return True
        while node != ROOT:
            if node in self.wrong or node in self.hidden:
                return False
            node = self.parents[node]
        return ROOT not in self.hidden

    def served(self, nodes: Iterable[int]) -> list[bool]:
        """Tell of each node what `is_served` tells; a way that many share is walked once."""
        known = {ROOT: ROOT not in self.hidden}
        found = []
        for node in nodes:
            path = []
            at = node
            while at not in known:
                path.append(at)
                at = self.parents[at]
            for each in reversed(path):
                known[each] = known[at] and each not in self.wrong and each not in self.hidden
                at = each
            found.append(known[node])
        return found


class Book:
    """What is known of one problem in one namespace."""

    def __init__(self, problem: str, namespace: str, *, canonical: Canonical = canonical_text) -> None:
        self.problem = problem
        self.namespace = namespace
        self.texts: list[str] = []
        self.branches: list[Branch] = []
        self.results: list[StoredResult] = []
        self._canonical = canonical
        self._places: dict[str, int] | None = None
        self._known: dict[int, dict[tuple[int, str], int]] = {}
        self._spelt: list[str] = []
        self._ids: dict[int, list[bytes]] = {}

    # Texts.

    def intern(self, text: str) -> int:
        """Return the place of a text in the table."""
        if self._places is None:
            self._places = {each: place for place, each in enumerate(self.texts)}
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self.texts)
            self.texts.append(text)
        return place

    def _spelling(self, place: int) -> str:
        """Return the canonical form of a text of the table."""
        spelt = self._spelt
        if place >= len(spelt):
            # Built whole and then put in place, here and below: several threads may look at a book that is kept.
            self._spelt = spelt = [*spelt, *map(self._canonical, self.texts[len(spelt) :])]
        return spelt[place]

    # Branches and nodes.

    def branch(self, under: Conditions) -> int | None:
        """Return the branch of some conditions."""
        for place, each in enumerate(self.branches):
            if each.under == under:
                return place
        return None

    def opened(self, under: Conditions) -> int:
        """Return the branch of some conditions, which is made if there is none."""
        place = self.branch(under)
        if place is None:
            place = len(self.branches)
            self.branches.append(Branch(under))
        return place

    def child(self, branch: int, node: int, thought: str) -> int | None:
        """Return the node of a thought behind another node."""
        return self._steps(branch).get((node, self._canonical(thought)))

    def _steps(self, branch: int) -> dict[tuple[int, str], int]:
        known = self._known.get(branch)
        if known is None:
            of = self.branches[branch]
            known = self._known[branch] = {
                (of.parents[node], self._spelling(of.texts[node])): node for node in range(1, len(of.parents))
            }
        return known

    def extend(self, branch: int, node: int, thought: str) -> int:
        """Return the node of a thought behind another node, which is made if there is none."""
        known = self._steps(branch)
        spelling = self._canonical(thought)
        found = known.get((node, spelling))
        if found is None:
            # What stands in the table is cleaned of what never counts; a spelling of a task's own keeps its text.
            found = known[node, spelling] = self.branches[branch].add(node, self.intern(canonical_text(thought)))
        return found

    def thought(self, branch: int, node: int) -> str:
        return self.texts[self.branches[branch].texts[node]]

    def walk(self, branch: int, node: int, thoughts: Sequence[str]) -> list[int]:
        """Return the nodes of as many thoughts, from the first, as are known and served."""
        path: list[int] = []
        of = self.branches[branch]
        if not of.is_served(node):
            return path
        for thought in thoughts:
            found = self.child(branch, node, thought)
            if found is None or found in of.wrong or found in of.hidden:
                break
            path.append(found)
            node = found
        return path

    def ids(self, branch: int) -> list[bytes]:
        """Return the names of the nodes of a branch."""
        of = self.branches[branch]
        ids = self._ids.get(branch)
        if ids is None or len(ids) < len(of.parents):
            ids = [root_id(self.problem, self.namespace, of.under)] if ids is None else ids.copy()
            for node in range(len(ids), len(of.parents)):
                ids.append(step_id(ids[of.parents[node]], self._spelling(of.texts[node])))
            self._ids[branch] = ids
        return ids

    def find(self, name: bytes) -> tuple[int, int] | None:
        """Return the branch and the node of a name."""
        for branch in range(len(self.branches)):
            try:
                return branch, self.ids(branch).index(name)
            except ValueError:
                continue
        return None

    def uses(self, branch: int) -> list[int]:
        """Return how many results run through each node."""
        counts = [0] * len(self.branches[branch].parents)
        for result in self.results:
            if result.branch == branch:
                for node in set(result.nodes):
                    counts[node] += 1
        return counts

    def node_scores(self, branch: int) -> dict[int, float]:
        """Return the score of each node that has one: what was appended with it, else the best that a result says."""
        found: dict[int, float] = {}
        for result in self.results:
            if result.branch == branch:
                for node, score in zip(result.nodes, result.scores, strict=False):
                    if score is not None and (node not in found or score > found[node]):
                        found[node] = score
        return found | self.branches[branch].scores

    # Results.

    def put(
        self,
        key: str,
        result: ReasoningResult,
        under: Conditions,
        *,
        metadata: str | None,
        step_metadata: Callable[[CoTStep | ToTNode], str | None],
        created_at: float,
        expires_at: float | None,
        tags: tuple[str, ...] = (),
    ) -> StoredResult:
        """Store a result that was checked, in the place of what was stored under its key."""
        self.remove(key)
        branch = self.opened(under)
        stored = StoredResult(key, branch, created_at, expires_at, [], tags=tags)
        stored.answer = None if result.final_answer is None else self.intern(result.final_answer)
        stored.metadata = None if metadata is None else self.intern(metadata)
        stored.problem = None if result.problem == self.problem else self.intern(result.problem)
        if result.reasoning_type == "cot":
            self._put_chain(stored, result.chain)
        else:
            self._put_tree(stored, result.nodes)
        for place, each in enumerate(result.thoughts):
            if each.thought != self.thought(branch, stored.nodes[place]):
                stored.raw[place] = self.intern(each.thought)
            words = step_metadata(each)
            if words is not None:
                stored.step_metadata[place] = self.intern(words)
        self.results.append(stored)
        return stored

    def _put_chain(self, stored: StoredResult, steps: Sequence[CoTStep]) -> None:
        node = ROOT
        for step in steps:
            node = self.extend(stored.branch, node, step.thought)
            stored.nodes.append(node)
        numbers = [step.step_number for step in steps]
        stored.numbers = [] if numbers == list(range(1, len(steps) + 1)) else numbers
        if any(step.rationale for step in steps):
            stored.rationales = [self.intern(step.rationale) if step.rationale else None for step in steps]
        if any(step.confidence is not None for step in steps):
            stored.scores = [step.confidence for step in steps]

    def _put_tree(self, stored: StoredResult, nodes: Sequence[ToTNode]) -> None:
        places = {node.node_id: place for place, node in enumerate(nodes)}
        below: dict[int, list[int]] = {}
        for place, node in enumerate(nodes):
            parent = -1 if node.parent_id is None else places[node.parent_id]
            stored.parents.append(parent)
            below.setdefault(parent, []).append(place)
        found = [ROOT] * len(nodes)
        waiting = list(reversed(below.get(-1, [])))
        while waiting:
            place = waiting.pop()
            parent = stored.parents[place]
            found[place] = self.extend(stored.branch, ROOT if parent < 0 else found[parent], nodes[place].thought)
            waiting += reversed(below.get(place, []))
        stored.nodes = found
        ids = [node.node_id for node in nodes]
        stored.ids = [] if ids == [str(place) for place in range(len(nodes))] else [self.intern(each) for each in ids]
        if any(node.score is not None for node in nodes):
            stored.scores = [node.score for node in nodes]
        for place, node in enumerate(nodes):
            listed = [places[c] if c in places else -1 - self.intern(c) for c in node.children_ids]
            if listed != below.get(place, []):
                stored.children[place] = listed

    def result_of(self, key: str) -> StoredResult | None:
        """Return what is stored under a key."""
        for result in self.results:
            if result.key == key:
                return result
        return None

    def restored(
        self,
        stored: StoredResult,
        *,
        read_metadata: Callable[[str], Metadata],
    ) -> ReasoningResult | None:
        """Return a result as it was stored, without what was marked wrong or hidden since; None when that breaks it.

        A tree that loses its best leaf loses its answer.
        """
        branch = self.branches[stored.branch]
        served = branch.served(stored.nodes) if branch.wrong or branch.hidden else []
        is_whole = all(served)
        metadata = {} if stored.metadata is None else read_metadata(self.texts[stored.metadata])
        steps: list[CoTStep] | list[ToTNode]
        if branch.under.reasoning_type == "cot":
            if not is_whole:
                return None
            steps = self._chain(stored, read_metadata)
        else:
            kept = None if is_whole else {at for at, is_served in enumerate(served) if is_served}
            if kept is not None and not kept:
                return None
            if kept is not None and not _still_answers(stored, kept):
                stored = msgspec.structs.replace(stored, answer=None)
            steps = self._tree(stored, read_metadata, kept)
        # Trusted: it was checked when it was stored, and its checksum held.
        return ReasoningResult.model_construct(
            reasoning_type=branch.under.reasoning_type,
            problem=self.problem if stored.problem is None else self.texts[stored.problem],
            steps=steps,
            final_answer=None if stored.answer is None else self.texts[stored.answer],
            metadata=metadata,
        )

    def _chain(self, stored: StoredResult, read_metadata: Callable[[str], Metadata]) -> list[CoTStep]:
        steps = []
        for at in range(len(stored.nodes)):
            rationale = stored.rationales[at] if stored.rationales else None
            steps.append(
                CoTStep.model_construct(
                    step_number=stored.numbers[at] if stored.numbers else at + 1,
                    thought=self._thought_at(stored, at),
                    rationale="" if rationale is None else self.texts[rationale],
                    confidence=stored.scores[at] if stored.scores else None,
                    metadata=self._metadata_at(stored, at, read_metadata),
                )
            )
        return steps

    def _tree(
        self, stored: StoredResult, read_metadata: Callable[[str], Metadata], kept: set[int] | None
    ) -> list[ToTNode]:
        count = len(stored.nodes)
        ids = [self.texts[place] for place in stored.ids] if stored.ids else [str(at) for at in range(count)]
        below: dict[int, list[int]] = {}
        for at, parent in enumerate(stored.parents):
            below.setdefault(parent, []).append(at)
        depths = [0] * count
        waiting = list(below.get(-1, []))
        while waiting:
            at = waiting.pop()
            for child in below.get(at, []):
                depths[child] = depths[at] + 1
                waiting.append(child)
        nodes = []
        for at in range(count):
            if kept is not None and at not in kept:
                continue
            listed = stored.children.get(at, below.get(at, []))
            children = [ids[c] if c >= 0 else self.texts[-1 - c] for c in listed if kept is None or c < 0 or c in kept]
            parent = stored.parents[at]
            nodes.append(
                ToTNode.model_construct(
                    node_id=ids[at],
                    thought=self._thought_at(stored, at),
                    parent_id=None if parent < 0 else ids[parent],
                    children_ids=children,
                    score=stored.scores[at] if stored.scores else None,
                    depth=depths[at],
                    metadata=self._metadata_at(stored, at, read_metadata),
                )
            )
        return nodes

    def _thought_at(self, stored: StoredResult, at: int) -> str:
        raw = stored.raw.get(at)
        return self.thought(stored.branch, stored.nodes[at]) if raw is None else self.texts[raw]

    def _metadata_at(self, stored: StoredResult, at: int, read_metadata: Callable[[str], Metadata]) -> Metadata:
        place = stored.step_metadata.get(at)
        return {} if place is None else read_metadata(self.texts[place])

    def remove(self, key: str) -> bool:
        """Forget the result of a key; its steps go at the next `compact`, if nothing else runs through them."""
        before = len(self.results)
        self.results = [result for result in self.results if result.key != key]
        return len(self.results) < before

    # What goes.

    def prune(self, branch: int, node: int) -> tuple[int, list[str]]:
        """Remove a node and all below it, and the results that run through it; return how many nodes, and their keys.

        Of a tree that runs through other nodes, too, the rest stays.
        """
        gone = set(self.branches[branch].below(node))
        keys = []
        left = []
        for result in self.results:
            if result.branch != branch or not gone.intersection(result.nodes):
                left.append(result)
                continue
            kept = [at for at, each in enumerate(result.nodes) if each not in gone]
            if self.branches[branch].under.reasoning_type == "cot" or not kept:
                keys.append(result.key)
            else:
                if not result.ids:  # those that are left keep their names
                    result.ids = [self.intern(str(at)) for at in range(len(result.nodes))]
                if not _still_answers(result, kept):
                    result.answer = None
                left.append(_narrowed(result, kept))
        self.results = left
        of = self.branches[branch]
        if node == ROOT:
            of.steps_until = 0.0
        elif gone & of.held:
            of.held.add(of.parents[node])
        self._keep(branch, [each for each in range(len(of.parents)) if each not in gone or each == ROOT])
        return len(gone - {ROOT}), keys

    def compact(self, now: float) -> None:
        """Forget what nobody can be served any more: results past their time, steps that nothing runs through."""
        self.results = [r for r in self.results if r.expires_at is None or r.expires_at > now]
        for branch, of in enumerate(self.branches):
            if of.steps_until is not None and of.steps_until <= now:
                of.states, of.held = {}, set()
            kept = {ROOT}
            for nodes in (
                of.held,
                [node for node, _ in of.states],
                *(result.nodes for result in self.results if result.branch == branch),
            ):
                for node in nodes:
                    at = node
                    while at not in kept:
                        kept.add(at)
                        at = of.parents[at]
            self._keep(branch, sorted(kept))
        self._drop_empty_branches()
        self._drop_texts()

    def expires_at(self) -> float | None:
        """Return when the last of it is past its time, None for never."""
        moments = [result.expires_at for result in self.results] + [of.steps_until for of in self.branches]
        known = [moment for moment in moments if moment is not None]
        return None if len(known) < len(moments) else max(known, default=0.0)

    def lapses_at(self) -> float:
        """Return when the first of what was left by `compact` is past its time."""
        moments = [result.expires_at for result in self.results] + [of.steps_until for of in self.branches]
        return min([moment for moment in moments if moment], default=math.inf)

    def is_empty(self) -> bool:
        """Tell whether there is nothing in it."""
        return not self.results and all(len(of.parents) == 1 and not of.states for of in self.branches)

    def _keep(self, branch: int, kept: Sequence[int]) -> None:
        of = self.branches[branch]
        if len(kept) == len(of.parents):
            return
        place = {node: at for at, node in enumerate(kept)}
        of.parents = [-1 if node == ROOT else place[of.parents[node]] for node in kept]
        of.texts = [of.texts[node] for node in kept]
        of.scores = {place[node]: score for node, score in of.scores.items() if node in place}
        of.costs = {place[node]: cost for node, cost in of.costs.items() if node in place}
        of.final = {place[node]: text for node, text in of.final.items() if node in place}
        of.wrong = {place[node]: why for node, why in of.wrong.items() if node in place}
        of.hidden = {place[node] for node in of.hidden if node in place}
        of.held = {place[node] for node in of.held if node in place}
        of.states = {(place[node], p): each for (node, p), each in of.states.items() if node in place}
        of._children = None
        for result in self.results:
            if result.branch == branch:
                result.nodes = [place[node] for node in result.nodes]
        self._known.pop(branch, None)
        self._ids.pop(branch, None)

    def _drop_empty_branches(self) -> None:
        used = {result.branch for result in self.results}
        kept = [at for at, of in enumerate(self.branches) if at in used or len(of.parents) > 1 or of.states]
        if len(kept) < len(self.branches):
            place = {branch: at for at, branch in enumerate(kept)}
            self.branches = [self.branches[branch] for branch in kept]
            for result in self.results:
                result.branch = place[result.branch]
            self._known, self._ids = {}, {}

    def _drop_texts(self) -> None:
        used = set(self._texts_used())
        if len(used) == len(self.texts):
            return
        place = {text: at for at, text in enumerate(sorted(used))}
        self.texts = [self.texts[text] for text in sorted(used)]
        for of in self.branches:
            of.texts = [text if text < 0 else place[text] for text in of.texts]
            of.final = {node: text if text < 0 else place[text] for node, text in of.final.items()}
            for state in of.states.values():
                state.texts = [text if text == HOLE else place[text] for text in state.texts]
        for result in self.results:
            _move_texts(result, place)
        self._places, self._spelt = None, []

    def _texts_used(self) -> Iterable[int]:
        for of in self.branches:
            yield from of.texts[1:]
            yield from (text for text in of.final.values() if text >= 0)
            for state in of.states.values():
                yield from (text for text in state.texts if text != HOLE)
        for result in self.results:
            yield from (text for text in (result.answer, result.metadata, result.problem) if text is not None)
            yield from (text for text in result.rationales if text is not None)
            yield from result.ids
            yield from result.raw.values()
            yield from result.step_metadata.values()
            yield from (-1 - child for listed in result.children.values() for child in listed if child < 0)


def _still_answers(result: StoredResult, kept: Collection[int]) -> bool:
    """Tell whether a tree that lost steps still says what it answered: the leaf with the best score is left."""
    inner = set(result.parents)
    scores = {at: score for at, score in enumerate(result.scores) if score is not None and at not in inner}
    return bool(scores) and max(scores, key=lambda at: scores[at]) in kept


def _narrowed(result: StoredResult, kept: Sequence[int]) -> StoredResult:
    """Return a tree that has only some of its steps left; none of them lost its parent."""
    place = {old: at for at, old in enumerate(kept)}
    children = {
        place[at]: [each if each < 0 else place[each] for each in listed if each < 0 or each in place]
        for at, listed in result.children.items()
        if at in place
    }
    return msgspec.structs.replace(
        result,
        nodes=[result.nodes[at] for at in kept],
        scores=[result.scores[at] for at in kept] if result.scores else [],
        ids=[result.ids[at] for at in kept] if result.ids else result.ids,
        parents=[-1 if result.parents[at] < 0 else place[result.parents[at]] for at in kept],
        children=children,
        raw={place[at]: text for at, text in result.raw.items() if at in place},
        step_metadata={place[at]: text for at, text in result.step_metadata.items() if at in place},
    )


def _move_texts(result: StoredResult, place: dict[int, int]) -> None:
    for name in ("answer", "metadata", "problem"):
        text = getattr(result, name)
        if text is not None:
            setattr(result, name, place[text])
    result.rationales = [None if text is None else place[text] for text in result.rationales]
    result.ids = [place[text] for text in result.ids]
    result.raw = {at: place[text] for at, text in result.raw.items()}
    result.step_metadata = {at: place[text] for at, text in result.step_metadata.items()}
    result.children = {
        at: [each if each >= 0 else -1 - place[-1 - each] for each in listed] for at, listed in result.children.items()
    }
