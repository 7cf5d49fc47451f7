"""Questions over documents, with follow-ups: what was read is part of the request, so a changed document changes it."""

from __future__ import annotations

import asyncio

from fake_model import FakeModel

from cache_management import CacheConfig, CacheManager, LLMCache, Selection, SimilarityConfig, SimilarityMatcher

LEAVE = {"leave-policy": "Everybody has 28 days of leave. Unused days expire in March."}
TRAVEL = {"travel-policy": "Trains are booked by yourself, flights by the desk."}


class Reader:
    """Answers over documents, and remembers the conversation."""

    def __init__(self, manager: CacheManager, model: FakeModel, documents: dict[str, str]) -> None:
        self.manager, self.model, self.documents = manager, model, documents
        self.history: list[dict[str, str]] = []

    async def ask(self, question: str) -> str:
        """Answer a question or a follow-up."""
        found = await self.manager.answer(
            question,
            lambda: self.model(question),
            model="gpt-4",
            system="Answer from these documents: " + " ".join(self.documents.values()),
            history=self.history,
            tags=list(self.documents),  # so that a document can take its answers along
        )
        self.history += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": found.response.response},
        ]
        print(f"  {question:<34} {found.response.response:<26} {found.kind or 'asked the model'}")
        return found.response.response


async def main() -> None:
    """Let two people ask about leave, one about travel; then a document changes."""
    model = FakeModel({"expire": "In March.", "days": "28 days.", "flights": "The desk."})
    matcher = SimilarityMatcher(SimilarityConfig(model="hashing", threshold=0.7))
    async with CacheManager(LLMCache(CacheConfig(url="memory://")), matcher) as manager:
        for who in ("Ann", "Ben"):
            print(who)
            reader = Reader(manager, model, LEAVE)
            await reader.ask("How many days of leave do I have?")
            await reader.ask("And when do they expire?")  # means something only behind the first
        print("Cy, another document")
        await Reader(manager, model, TRAVEL).ask("And when do they expire?")
        before = len(model.calls)
        removed = await manager.invalidate(Selection(tag="leave-policy"))
        print(f"the leave policy changes: {removed} answers go")
        print("Ann")
        await Reader(manager, model, LEAVE).ask("How many days of leave do I have?")
        print(f"{before} calls before the change, {len(model.calls) - before} after it")


if __name__ == "__main__":
    asyncio.run(main())
