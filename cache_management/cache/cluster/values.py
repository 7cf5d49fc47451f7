"""Values of the replicated cache as bytes: text, bytes, JSON values and the library's own entries, and back.

One letter says what follows: t text (UTF-8), b bytes, j JSON, r a `CachedResponse` as JSON; z before it: the rest is
compressed with zstd. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import zstandard
from pydantic import ValidationError

from cache_management.cache.errors import CorruptRecord, EntryTooLarge, InvalidEntry
from cache_management.cache.values import CachedResponse

_COMPRESSED_FROM_BYTES = 100_000
_DEEPEST = 200


def encode_value(value: object, *, limit_bytes: int) -> bytes:
    """Return a value as bytes.

    Raises:
        InvalidEntry: It is of another kind, would not come back as it is, or is larger than the limit.
    """
    if isinstance(value, str):
        try:
            encoded = b"t" + value.encode()
        except UnicodeEncodeError as exc:
            raise InvalidEntry(f"the text is not valid Unicode: {exc.reason} at {exc.start}") from exc
    elif isinstance(value, bytes):
        encoded = b"b" + value
    elif isinstance(value, CachedResponse):
        encoded = b"r" + value.model_dump_json().encode()
    else:
        _refuse_what_is_not_json(value, "the value", 0)
        encoded = b"j" + msgspec.json.encode(value)
    if len(encoded) - 1 > limit_bytes:
        raise EntryTooLarge(f"the value has {len(encoded) - 1:,} bytes, the limit is {limit_bytes:,} (max_entry_bytes)")
    if len(encoded) >= _COMPRESSED_FROM_BYTES:
        return b"z" + zstandard.ZstdCompressor(level=1).compress(encoded)
    return encoded


def decode_value(encoded: bytes, *, limit_bytes: int) -> Any:
    """Return what `encode_value` was given.

    Raises:
        CorruptRecord: It is something else.
    """
    try:
        if encoded[:1] == b"z":
            size = zstandard.frame_content_size(encoded[1:])
            if not 0 <= size <= limit_bytes + 1:
                raise CorruptRecord(f"the compressed value declares {size:,} bytes, the limit is {limit_bytes:,}")
            encoded = zstandard.ZstdDecompressor().decompress(encoded[1:], max_output_size=size)
        kind, rest = encoded[:1], encoded[1:]
        if kind == b"t":
            return rest.decode()
        if kind == b"b":
            return rest
        if kind == b"j":
            return msgspec.json.decode(rest)
        if kind == b"r":
            return CachedResponse.model_validate_json(rest)
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError, ValidationError) as exc:
        raise CorruptRecord(f"a stored value cannot be read: {type(exc).__name__}") from exc
    raise CorruptRecord("a stored value is of an unknown kind")


def _refuse_what_is_not_json(value: object, where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidEntry(f"{where} is nested more than {_DEEPEST} levels deep")
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidEntry(f"{where} is an integer beyond 64 bits: store it as text")
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidEntry(f"{where} is {value}, which JSON has no word for")
        return
    if type(value) is list:
        for place, each in enumerate(value):
            _refuse_what_is_not_json(each, f"{where}[{place}]", depth + 1)
        return
    if type(value) is dict:
        for key, each in value.items():
            if not isinstance(key, str):
                raise InvalidEntry(f"{where} has the key {key!r:.40}, which is not text: it would come back as text")
            _refuse_what_is_not_json(each, f"{where}[{key!r:.40}]", depth + 1)
        return
    raise InvalidEntry(
        f"{where} is of type {type(value).__name__}: store text, bytes, a JSON value (None, bool, number, text, list,"
        " dict) or a CachedResponse"
    )
