"""Where in a conversation a question stands: what a search by meaning may compare it with.

A scope is the whole context of a question, its last text left out. Earlier turns are not in it as they
were written but as a chain of what they resolved to, so that two openings which were answered
by one entry lead into one conversation:

    chain(0) = ""    chain(n) = H(chain(n-1), entry that answered turn n, or the turn itself)

A follow-up is compared only within its own chain.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Literal

import msgspec

from cache_management.cache.requests import (
    Request,
    compatibility,
    entry_key,
    is_bare,
    searchable_text,
    turn_at,
    turn_keys,
)

Conversations = Literal["linked", "strict", "off"]
Answer = Callable[[Request, str], Awaitable[str | None]]
"""Takes a user turn as a request, and its scope; returns the key of the entry that answers it by meaning, or None."""
Held = Callable[[Sequence[str]], Awaitable[Container[str]]]
"""Takes keys; returns those that have an entry."""

_SCOPE_CHARACTERS = 36  # "fc1:" and 128 bits
_LINKS_KEPT = 10_000
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Link(msgspec.Struct, frozen=True):
    """Which entry answered a turn by meaning, where and from which similarity up that was so."""

    key: str
    scope: str
    threshold: float


class Links:
    """Remembers which entries answered the earlier turns of conversations.

    A turn that has an entry of its own needs no link. Links are checked before they are used: one to an
    entry that is gone is made anew.

    Args:
        conversations: As in SimilarityConfig.
    """

    def __init__(self, conversations: Conversations, *, held: Held) -> None:
        self._conversations = conversations
        self._held = held
        self._links: OrderedDict[str, Link] = OrderedDict()  # by the key of the turn
        self._lock = threading.Lock()

    async def scope(self, request: Request, threshold: float, answer: Answer) -> str | None:
        """Return where a request may be found by meaning, or None when only exactly."""
        if searchable_text(request) is None or (request.history and self._conversations == "off"):
            return None
        return scope_of(request, await self._chain(request, threshold, answer))

    @property
    def is_empty(self) -> bool:
        """Tell whether no link is remembered."""
        return not self._links

    def forget(self) -> None:
        """Resolve earlier turns anew: what answered them was judged."""
        with self._lock:
            self._links.clear()

    async def _chain(self, request: Request, threshold: float, answer: Answer) -> str:
        """Return the chain of the turns before a request.

        Tool turns, and whatever else is no plain text of user or assistant, are compared as they are.
        """
        linked = self._conversations == "linked" and bool(request.history)
        turns = {at: key for at, key in turn_keys(request).items() if _asks(request, at)} if linked else {}
        links = {key: link for key in turns.values() if (link := self._links.get(key)) is not None}
        # At once: a store is asked one time, however long the conversation is.
        held = await self._held([*turns.values(), *(link.key for link in links.values())]) if turns else ()
        chain = ""
        for at, message in enumerate(request.history):
            own = turns.get(at)
            if own is None:
                chain = _link(chain, _encode(message))
                continue
            resolved = own
            if own not in held and (scope := scope_of(turn := turn_at(request, at), chain)) is not None:
                link = links.get(own)
                if link is None or (link.scope, link.threshold) != (scope, threshold) or link.key not in held:
                    found = await answer(turn, scope)
                    # Without one nothing is kept: the next time there may be one.
                    link = None if found is None else Link(found, scope, threshold)
                if link is not None:
                    self._keep(own, link)
                    resolved = link.key
            chain = _link(chain, b"user " + resolved.encode())
        return chain

    def _keep(self, own: str, link: Link) -> None:
        with self._lock:
            self._links[own] = link
            self._links.move_to_end(own)
            while len(self._links) > _LINKS_KEPT:
                self._links.popitem(last=False)


def scope_of(request: Request, chain: str = "") -> str | None:
    """Return the scope of a request; "" is a prompt alone, None is a request that only an exact hit may answer."""
    if searchable_text(request) is None:
        return None
    if is_bare(request):
        return "" if entry_key(request) == request.prompt else None
    return compatibility(request, chain=chain)[:_SCOPE_CHARACTERS]


def _asks(request: Request, at: int) -> bool:
    """Tell whether a user turn has text that could have been answered by meaning."""
    content = request.history[at]["content"]
    turn = msgspec.structs.replace(request, prompt=content, history=())
    return searchable_text(turn) is not None


def _link(chain: str, step: bytes) -> str:
    return hashlib.blake2b(step, digest_size=16, key=chain.encode()).hexdigest()
