"""An agent with tools: what a model decides is cached, what a tool reads lives shortly, what acts is never cached."""

from __future__ import annotations

import asyncio
import json

from cache_management import CacheConfig, CacheManager, Computed, LLMCache, cached

TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "book", "parameters": {"type": "object"}}},
]
calls = {"model": 0, "weather": 0, "book": 0}


async def decide(question: str) -> Computed:
    """Stand in for a model that answers with a tool call."""
    calls["model"] += 1
    name = "book" if "book" in question.lower() else "weather"
    text = json.dumps({"tool": name, "arguments": {"city": "Oslo"}})
    return Computed(response=text, model="gpt-4", finish_reason="tool_calls", has_tool_calls=True, token_count=12)


async def main() -> None:
    """Ask twice about the weather, and book twice."""
    async with CacheManager(LLMCache(CacheConfig(url="memory://"))) as manager:

        @cached(manager.llm_cache, ttl_seconds=60, name="weather-1")  # weather of a minute ago will do
        async def weather(city: str) -> str:
            calls["weather"] += 1
            return f"Rain in {city}."

        async def book(city: str) -> str:
            calls["book"] += 1  # never from a cache: it does something
            return f"Booked: {city}."

        tools = {"weather": weather, "book": book}
        for question in (
            "Is it raining in Oslo?",
            "Is it raining in Oslo?",
            "Book a room in Oslo.",
            "Book a room in Oslo.",
        ):
            found = await manager.answer(
                question, lambda question=question: decide(question), model="gpt-4", params={"tools": TOOLS}
            )
            decision = json.loads(found.response.response)
            said = await tools[decision["tool"]](**decision["arguments"])
            print(f"{question:<24} {decision['tool']:<8} {said:<16} decision: {found.kind or 'asked the model'}")
        # Other tools are another request: what was decided with these would be wrong with those.
        other = await manager.lookup("Is it raining in Oslo?", model="gpt-4", params={"tools": TOOLS[:1]})
        print(f"with one tool less: {'hit' if other else 'miss'}")
    print(f"model {calls['model']}, weather {calls['weather']}, book {calls['book']}")


if __name__ == "__main__":
    asyncio.run(main())
