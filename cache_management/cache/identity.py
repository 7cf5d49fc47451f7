"""Names of things in a store: namespaces, kinds and storage keys.

A storage key is `cm1:<kind>:<namespace>:<form><key>`. The number belongs to the layout:
another layout gets another number, so old and new never read each other. A namespace
cannot hold a colon, so no key of one namespace begins with the prefix of another.
See docs/design/0001-storage-keys-and-records.md.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from cache_management.cache.config import NAMESPACE_PATTERN
from cache_management.cache.errors import InvalidKey

LAYOUT = "cm1"
MAX_KEY_BYTES = 64 * 1024
_INLINE_BYTES = 200

Kind = Literal["llm", "rsn", "bok", "vec", "evd", "ask", "dst", "lck"]

_NAMESPACE = re.compile(NAMESPACE_PATTERN)


def check_namespace(namespace: str) -> str:
    """Return the namespace.

    Raises:
        InvalidKey: It is not 1 to 64 letters, digits, dots, dashes or underscores.
    """
    if not is_namespace(namespace):
        raise InvalidKey(
            f"namespace {repr(namespace)[:80]} cannot be used: "
            "take 1 to 64 letters, digits, dots, dashes or underscores"
        )
    return namespace


def is_namespace(value: object) -> bool:
    """Tell whether a value can name a namespace."""
    return isinstance(value, str) and _NAMESPACE.fullmatch(value) is not None


_BESIDE = tuple(f"{LAYOUT}:{kind}:" for kind in ("bok", "vec", "evd", "ask", "dst", "lck"))


def is_entry(name: str) -> bool:
    """Tell whether a storage key, or its beginning, is that of what users call an entry, and of nothing beside it."""
    return not name.startswith(_BESIDE)


def storage_prefix(kind: Kind, namespace: str) -> str:
    """Return what every storage key of one kind and namespace begins with."""
    return f"{LAYOUT}:{kind}:{namespace}:"


class KeySpace:
    """Translates between an application's keys and storage keys, for one kind and namespace.

    Keys up to 200 bytes stand in the storage key as they are; longer ones (a whole
    prompt is a legal key) are hashed, and the record keeps the original.
    """

    def __init__(self, kind: Kind, namespace: str) -> None:
        self.namespace = check_namespace(namespace)
        self.prefix = storage_prefix(kind, namespace)
        self._inline = self.prefix + "k"
        self._hashed = self.prefix + "h"

    def to_storage(self, key: str) -> str:
        """Return the storage key.

        Raises:
            InvalidKey: The key is empty, over 64 KiB, not text, or not valid Unicode.
        """
        if key.__class__ is str and 0 < len(key) <= _INLINE_BYTES and key.isascii():
            return self._inline + key
        encoded = _checked(key)
        if len(encoded) <= _INLINE_BYTES:
            return self._inline + key
        return self._hashed + hashlib.blake2b(encoded, digest_size=20).hexdigest()

    def is_hashed(self, storage_key: str) -> bool:
        """Tell whether only the record knows the original key."""
        return storage_key.startswith(self._hashed)

    def from_storage(self, storage_key: str) -> str | None:
        """Return the original key, or None when the storage key holds only its hash."""
        return storage_key[len(self._inline) :] if storage_key.startswith(self._inline) else None


def _checked(key: object) -> bytes:
    if not isinstance(key, str):
        raise InvalidKey(f"a key must be text, not {type(key).__name__}")
    if not key:
        raise InvalidKey("a key must not be empty")
    try:
        encoded = key.encode()
    except UnicodeEncodeError as exc:
        raise InvalidKey(f"the key is not valid Unicode at character {exc.start}: {exc.reason}") from None
    if len(encoded) > MAX_KEY_BYTES:
        raise InvalidKey(f"the key has {len(encoded):,} bytes; at most {MAX_KEY_BYTES:,} (64 KiB) are allowed")
    return encoded


def digest(text: str) -> str:
    """Return a short, stable name for a text that must not be shown (logs, audit, vector ids)."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
