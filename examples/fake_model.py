"""A model that is made up: it counts what it is asked, and takes what it says from a table."""

from __future__ import annotations

import asyncio


class FakeModel:
    """Answers questions, a call a hundredth of a second."""

    def __init__(self, answers: dict[str, str], otherwise: str = "I do not know.") -> None:
        self.answers, self.otherwise = answers, otherwise
        self.calls: list[str] = []

    async def __call__(self, question: str) -> str:
        """Answer by the first word of the table that stands in the question."""
        self.calls.append(question)
        await asyncio.sleep(0.01)
        return next((text for word, text in self.answers.items() if word in question.lower()), self.otherwise)
