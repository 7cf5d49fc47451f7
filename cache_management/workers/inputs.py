"""Submitted items as compressed parts: written by the submitter, read by the worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import zstandard
from pydantic import ValidationError

from cache_management.cache.errors import CorruptRecord
from cache_management.cache.warm_items import AskedItem, WarmItem

ITEMS_PER_PART = 200
_PART_BYTES = 8 * 2**20  # a part of large items ends early, so that one part always fits into memory
_LIMIT_BYTES = 256 * 2**20


def pack_inputs(items: Iterable[WarmItem]) -> Iterator[tuple[bytes, int]]:
    """Yield parts, each with the number of items in it."""
    lines: list[bytes] = []
    size = 0
    for item in items:
        line = msgspec.json.encode(item.model_dump(mode="json", exclude_defaults=True))
        if lines and (len(lines) == ITEMS_PER_PART or size + len(line) > _PART_BYTES):
            yield _compress(lines), len(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield _compress(lines), len(lines)


def unpack_inputs(payload: bytes) -> list[AskedItem]:
    """Return the items of a part.

    Raises:
        CorruptRecord: It is no such part.
    """
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= _LIMIT_BYTES:
            raise CorruptRecord(f"an input part declares {size:,} bytes")
        data = zstandard.ZstdDecompressor().decompress(payload, max_output_size=size)
        return [AskedItem.model_validate_json(line) for line in data.split(b"\n")]
    except ValidationError as exc:
        # Not its text: that quotes the prompt. Not as the cause either, which a log would print.
        first = exc.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part in AskedItem.model_fields) or "item"
        raise CorruptRecord(f"an input part cannot be decoded: {place}: {first['type']}") from None
    except (zstandard.ZstdError, ValueError) as exc:
        raise CorruptRecord(f"an input part cannot be decoded: {type(exc).__name__}") from None


def _compress(lines: list[bytes]) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(b"\n".join(lines))
