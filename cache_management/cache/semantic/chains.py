"""Where in a conversation a question stands: what a search by meaning may compare it with.

A scope is the whole context of a question, its last text left out. Earlier turns are not in it as they
were written but as a chain of what they resolved to, so that two openings which were answered
by one entry lead into one conversation:

    chain(0) = ""    chain(n) = H(chain(n-1), entry that answered turn n, or the turn itself)

A follow-up is compared only within its own chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from cache_management.cache.requests import Request, compatibility, entry_key, is_bare, searchable_text

Conversations = Literal["linked", "strict", "off"]
Resolve = Callable[[Request, str | None], Awaitable[str]]
"""Takes a user turn as a request, and its scope; returns the key of the entry that answers it, or its own."""

_SCOPE_CHARACTERS = 36  # "fc1:" and 128 bits
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def scope_of(request: Request, chain: str = "") -> str | None:
    """Return the scope of a request; "" is a prompt alone, None is a request that only an exact hit may answer."""
    if searchable_text(request) is None:
        return None
    if is_bare(request):
        return "" if entry_key(request) == request.prompt else None
    return compatibility(request, chain=chain)[:_SCOPE_CHARACTERS]


async def chain_of(request: Request, resolve: Resolve, *, conversations: Conversations) -> str | None:
    """Return the chain of the turns before a request, or None when it may only be found exactly.

    Tool turns, and whatever else is no plain text of user or assistant, are compared as they are.
    """
    if not request.history:
        return ""
    if conversations == "off":
        return None
    chain = ""
    for at, message in enumerate(request.history):
        turn = _user_turn(request, at) if conversations == "linked" else None
        if turn is None:
            chain = _link(chain, _encode(message))
        else:
            chain = _link(chain, b"user " + (await resolve(turn, scope_of(turn, chain))).encode())
    return chain


def _user_turn(request: Request, at: int) -> Request | None:
    message = request.history[at]
    if message["role"] != "user" or len(message) != 2:
        return None
    turn = msgspec.structs.replace(request, prompt=message["content"], history=request.history[:at])
    return turn if searchable_text(turn) is not None else None


def _link(chain: str, step: bytes) -> str:
    return hashlib.blake2b(step, digest_size=16, key=chain.encode()).hexdigest()
