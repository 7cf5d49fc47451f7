"""Answers requests for embeddings: input by input from the cache, and what is missing in one request.

Equal inputs that are asked for at the same time, by one event loop, are asked of the provider once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from cache_management.cache.admission import parse_controls
from cache_management.cache.manager import CacheManager
from cache_management.cache.requests import entry_key, make_request
from cache_management.cache.values import CachedResponse
from cache_management.gateway.bodies import encode, read_answer
from cache_management.gateway.calls import (
    AsItCame,
    Call,
    Headers,
    NotUnderstood,
    Reply,
    Upstream,
    UpstreamFailed,
    close,
    encoded_whole,
    header,
    marked,
    read_all,
    whole,
    without_hops,
)
from cache_management.gateway.controls import Wishes
from cache_management.gateway.dialects.embeddings import Embeddings, Input, Vector, Wanted

logger = logging.getLogger("cache_management")

Found = tuple[Vector, str | None]
_NO_USAGE = {"prompt_tokens": 0, "total_tokens": 0}
_OF_A_BODY = ("content-", "etag", "digest", "repr-digest", "last-modified", "accept-ranges")


class AskedVectors(msgspec.Struct, frozen=True, kw_only=True):
    """A request for embeddings that the cache may answer; `keys` are those of its inputs."""

    call: Call
    body: dict[str, Any]
    wanted: Wanted
    wishes: Wishes
    namespace: str | None
    keys: list[str]


class _Told(msgspec.Struct, frozen=True):
    """What the provider said beside the vectors: the usage, how many inputs it was asked for, and its whole reply."""

    usage: Any
    asked: int = 0
    raw: tuple[int, Headers, bytes] | None = None


class _Fetched(msgspec.Struct, frozen=True):
    """What the provider answered."""

    body: dict[str, Any]
    vectors: list[Vector]
    raw: tuple[int, Headers, bytes]


class _Work(msgspec.Struct, frozen=True):
    """One request on its way: `given` are its inputs by their keys, each once."""

    manager: CacheManager
    asked: AskedVectors
    given: dict[str, Input]
    upstream: Upstream

    def place(self, key: str) -> tuple[asyncio.AbstractEventLoop, str | None, str]:
        """Return where the flight of an input is found."""
        return asyncio.get_running_loop(), self.asked.namespace, key


def keys_of(wanted: Wanted) -> list[str]:
    """Return the key of each input.

    Raises:
        InvalidInput: One of them cannot be one.
    """
    return [
        entry_key(make_request(None, model=wanted.model, history=wanted.turn(given), params=wanted.params))
        for given in wanted.inputs
    ]


class VectorExchange:
    """The part of an exchange that answers requests for embeddings.

    Args:
        keep: Holds a task until it is done.
        limit_seconds: How long the provider may take.
        limit_bytes: The largest answer that is read.
    """

    def __init__(self, keep: Callable[[asyncio.Task[Any]], None], *, limit_seconds: float, limit_bytes: int) -> None:
        self._api = Embeddings()
        self._keep = keep
        self._limit_seconds = limit_seconds
        self._limit_bytes = limit_bytes
        self._flights: dict[tuple[asyncio.AbstractEventLoop, str | None, str], asyncio.Future[Found]] = {}

    async def answer(self, manager: CacheManager, asked: AskedVectors, upstream: Upstream) -> Reply:
        """Return the vectors of a request.

        Raises:
            AsItCame: The provider answered otherwise.
            UpstreamFailed: It could not be asked.
            NotUnderstood: What it says does not fit what was asked.
        """
        work = _Work(manager, asked, dict(zip(asked.keys, asked.wanted.inputs, strict=True)), upstream)
        found = {} if asked.wishes.bypasses else await self._held(work)
        absent = [key for key in work.given if key not in found]
        told = _Told(_NO_USAGE)
        if absent:
            told = await self._complete(work, absent, found)
        label = asked.wishes.label if absent else "hit-exact"
        hits: Headers = (("x-cache-hits", f"{len(work.given) - len(absent)}/{len(work.given)}"),)
        said: Headers = (("content-type", "application/json"),)
        if told.raw is not None:
            status, headers, came = told.raw
            if told.asked == len(asked.keys):  # all of it was asked for by this caller
                return whole(status, (*marked(headers, label), *hits), came)
            # It is put together here; what the provider says of its own body does not hold.
            said += tuple(pair for pair in headers if not pair[0].startswith(_OF_A_BODY))
        body = self._api.answer(
            [found[key][0] for key in asked.keys],
            packs=asked.wanted.packs,
            model=next(iter(found.values()))[1] or asked.wanted.model,
            usage=told.usage,
            is_hit=not absent,
        )
        return encoded_whole(200, (*marked(said, label), *hits), body)

    async def _held(self, work: _Work) -> dict[str, Found]:
        asked, wanted = work.asked, work.asked.wanted
        oldest = parse_controls(asked.wishes.controls).s_maxage
        looked = await asyncio.gather(
            *(
                work.manager.lookup(
                    None,
                    model=wanted.model,
                    history=wanted.turn(each),
                    params=wanted.params,
                    namespace=asked.namespace,
                )
                for each in work.given.values()
            )
        )
        found: dict[str, Found] = {}
        for key, lookup in zip(work.given, looked, strict=True):
            if lookup.response is None or (oldest is not None and (lookup.age_seconds or 0.0) > oldest):
                continue
            held = self._api.stored(lookup.response)
            if held is not None:
                found[key] = held
        return found

    async def _complete(self, work: _Work, absent: Sequence[str], found: dict[str, Found]) -> _Told:
        """Add what is absent, asked now or by somebody who asks already; return what this caller was told."""
        loop = asyncio.get_running_loop()
        flights = {key: self._flights.get(work.place(key)) for key in absent}
        mine = [key for key, flight in flights.items() if flight is None]
        told = _Told(_NO_USAGE)
        if mine:
            for key in mine:
                flights[key] = self._flights[work.place(key)] = loop.create_future()
            # A task of its own: others may wait for it when this caller has left.
            asking = loop.create_task(self._ask(work, mine))
            asking.add_done_callback(lambda _: self._give_up(work, mine))
            self._keep(asking)
            told = await asyncio.shield(asking)
        for key, flight in flights.items():
            assert flight is not None  # noqa: S101 - made above
            try:
                found[key] = await asyncio.shield(flight)
            except Exception as exc:
                # Somebody else's, whose key or other inputs may be to blame: this caller asks for itself.
                raise NotUnderstood("what somebody else asked for did not come") from exc
        return told

    def _give_up(self, work: _Work, keys: Sequence[str]) -> None:
        """Let go who still waits for inputs: their task has ended, perhaps before it began."""
        for key in keys:
            flight = self._flights.pop(work.place(key), None)
            if flight is not None and not flight.done():
                flight.set_exception(UpstreamFailed(asyncio.CancelledError()))
                flight.exception()  # nobody may wait for it

    async def _ask(self, work: _Work, keys: Sequence[str]) -> _Told:
        try:
            fetched = await self._fetch(work, [work.given[key] for key in keys])
        except Exception as exc:
            for key in keys:
                flight = self._flights.pop(work.place(key))
                flight.set_exception(exc)
                flight.exception()  # nobody may wait for it
            raise
        model = fetched.body.get("model")
        found = [(vector, model if isinstance(model, str) else None) for vector in fetched.vectors]
        try:
            if not work.asked.wishes.controls.get("no-store"):
                await asyncio.gather(*(self._store(work, key, each) for key, each in zip(keys, found, strict=True)))
        except Exception:
            logger.warning("vectors are not kept", exc_info=True)
        finally:
            for key, each in zip(keys, found, strict=True):
                self._flights.pop(work.place(key)).set_result(each)
        return _Told(fetched.body.get("usage"), len(keys), fetched.raw)

    async def _store(self, work: _Work, key: str, found: Found) -> None:
        wanted, ttl = work.asked.wanted, work.asked.wishes.controls.get("ttl")
        vector, model = found
        entry = CachedResponse(
            prompt="",
            response="a vector",
            model=model or wanted.model or "unknown",
            timestamp=datetime.now(UTC),
            metadata=self._api.metadata(vector, model),
        )
        await work.manager.store(
            None,
            entry,
            model=wanted.model,
            history=wanted.turn(work.given[key]),
            params=wanted.params,
            namespace=work.asked.namespace,
            ttl_seconds=ttl if isinstance(ttl, int) else None,
        )

    async def _fetch(self, work: _Work, inputs: Sequence[Input]) -> _Fetched:
        asked = work.asked
        call = msgspec.structs.replace(asked.call, body=self._api.sent(asked.body, inputs))
        try:
            async with asyncio.timeout(self._limit_seconds):
                reply = await work.upstream(call)
                try:
                    body = await read_all(reply.body, self._limit_bytes)
                finally:
                    await close(reply.body)
        except NotUnderstood:
            raise
        except Exception as exc:
            raise UpstreamFailed(exc) from exc
        headers = without_hops(reply.headers, "content-length")
        plain = header(headers, "content-encoding") in {None, "", "identity"}
        if not 200 <= reply.status < 300 or not plain:
            raise AsItCame(reply.status, headers, body)
        said = read_answer(body)
        try:
            vectors = self._api.vectors(said, len(inputs), as_it_comes=asked.wanted.as_it_comes)
            # In the order of the inputs, as a hit is: many a client does not look at the numbers.
            items = sorted(said["data"], key=lambda item: item["index"])
            raw = body if items == said["data"] else encode({**said, "data": items})
            return _Fetched(said, vectors, (reply.status, headers, raw))
        except NotUnderstood:
            if len(inputs) == len(asked.wanted.inputs):
                raise AsItCame(reply.status, headers, body) from None
            raise
