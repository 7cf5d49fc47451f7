"""Bodies that come in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable


async def read_up_to(body: AsyncIterator[bytes], limit_bytes: int) -> tuple[list[bytes], bool]:
    """Return the parts of a body, and whether these are all: reading ends with the part that is beyond the limit."""
    parts: list[bytes] = []
    size = 0
    async for part in body:
        parts.append(part)
        size += len(part)
        if size > limit_bytes:
            return parts, False
    return parts, True


async def chain(parts: Iterable[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield parts that are there, then what is left of their body."""
    for part in parts:
        yield part
    async for part in rest:
        yield part
