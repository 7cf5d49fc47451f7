"""The APIs that are known, one file each; `dialect_of` says which a request speaks."""

from __future__ import annotations

from cache_management.gateway.dialects.base import Api
from cache_management.gateway.dialects.chat import Chat
from cache_management.gateway.dialects.embeddings import Embeddings
from cache_management.gateway.dialects.messages import Messages
from cache_management.gateway.dialects.responses import Responses

DIALECTS: tuple[Api, ...] = (Chat(), Responses(), Embeddings(), Messages())


def dialect_of(method: str, path: str) -> Api | None:
    """Return the dialect of a request; None where there is nothing to cache."""
    if method.upper() != "POST":
        return None
    plain = path.partition("?")[0]
    if "/threads/" in plain:
        return None  # messages of OpenAI's assistants, which are kept there
    return next((dialect for dialect in DIALECTS if plain.endswith(dialect.suffix)), None)
