"""Reach 24 from four numbers by a tree of thoughts; interrupted in the middle, it goes on and asks nothing twice."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from itertools import permutations

from cache_management import CacheConfig, ReasoningCache
from cache_management.cache.reasoning.solving import expand
from cache_management.cache.reasoning.steps import Thought

PROBLEM = "Make 24 of 4 9 10 13"
WIDTH = 3
asked: list[str] = []


class Interrupted(Exception):
    """The power went off."""


def think(numbers: str, count: int) -> list[Thought]:
    """Stand in for a model that is asked for the best next steps: two of the numbers joined, told as what is left."""
    asked.append(numbers)
    found = set()
    for one, other, *rest in permutations([Fraction(each) for each in numbers.split()]):
        results = [one + other, one - other, one * other, *([one / other] if other else [])]
        found |= {tuple(sorted([result, *rest])) for result in results}
    # Small whole numbers look best to this model.
    best = sorted(found, key=lambda left: (any(each < 0 or each.denominator > 1 for each in left), sum(left), left))
    texts = [" ".join(map(str, left)) for left in best[:count]]
    texts += [f"nothing {number}" for number in range(count - len(texts))]
    return [Thought(text, score=1.0 if text == "24" else 0.5, is_final=text == "24") for text in texts]


async def search(cache: ReasoningCache, *, patience: int) -> list[str]:
    """Look for 24, breadth first; after so many questions the power goes off."""
    seen: set[str] = set()  # the same numbers are reached by several ways
    frontier = [(cache.root(PROBLEM, reasoning_type="tot"), "4 9 10 13")]
    while frontier:
        node, numbers = frontier.pop(0)
        if numbers == "24":
            return [step.thought for step in await cache.path(node)]
        if len(numbers.split()) == 1 or numbers.startswith("nothing") or numbers in seen:
            continue
        seen.add(numbers)
        if len(asked) >= patience:
            raise Interrupted
        children = await expand(cache, node, WIDTH, lambda missing, numbers=numbers: think(numbers, missing))
        frontier += [(child, child.thought) for child in children]
    raise RuntimeError("there is no way to 24")


async def main() -> None:
    """Search until the power goes off, and then to the end."""
    async with ReasoningCache(CacheConfig(url="memory://")) as cache:
        try:
            await search(cache, patience=3)
        except Interrupted:
            print(f"interrupted after {len(asked)} questions")
        print("4 9 10 13 ->", " -> ".join(await search(cache, patience=1000)))
    print(f"{len(asked)} questions in all, {len(set(asked))} of them different")


if __name__ == "__main__":
    asyncio.run(main())
