"""One HTTP request to a language model, answered by the cache where it can be.

    hit      the stored body, plain or as a stream, whichever is asked
    miss     the first caller gets what the provider sends as it comes, while the answer is collected; who asks the
             same meanwhile waits for that one answer and gets it replayed
    else     the provider's own answer, untouched: errors, what cannot be read, what is not for the cache

The provider is asked on a task of the exchange's own: a caller that hangs up leaves no half answer behind, and what
others wait for goes on. A cache that is broken is as if it were not there.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, NoReturn, cast

import msgspec

from cache_management.cache.compute import Computed
from cache_management.cache.errors import InvalidInput
from cache_management.cache.identity import digest
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import PAYLOADS
from cache_management.cache.requests import entry_key, is_reserved_key, make_request
from cache_management.cache.values import Answered
from cache_management.gateway import sse
from cache_management.gateway.bodies import encode, read_answer, read_request
from cache_management.gateway.calls import (
    AsItCame,
    BadRequest,
    BrokenStream,
    Call,
    Headers,
    NotUnderstood,
    Reply,
    Upstream,
    UpstreamFailed,
    close,
    for_upstream,
    header,
    marked,
    whole,
    without_hops,
)
from cache_management.gateway.controls import Wishes, read_wishes
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.dialects.base import Api, Collector, Dialect, Reading, stored_body
from cache_management.gateway.dialects.embeddings import Embeddings
from cache_management.gateway.headers import telling_headers
from cache_management.gateway.pipe import LiveBody, Pipe
from cache_management.gateway.streams import chain, read_up_to
from cache_management.gateway.vectors import AskedVectors, VectorExchange

logger = logging.getLogger("cache_management")

LITELLM_FIELD = "cache"
_ATTEMPTS = 3
_VECTORS_TIMES = 4  # 2,048 vectors of 3,072 numbers are 140 MB of JSON
_LARGE_BYTES = 64 * 1024
_PATIENCE_SECONDS = 5.0
_OWN_ERRORS = frozenset({401, 402, 403, 404})
_SHARED_HEADERS = frozenset({"content-type", "content-encoding", "retry-after"})


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the cache may answer."""

    dialect: Dialect
    reading: Reading
    call: Call
    wishes: Wishes
    namespace: str | None
    key: str
    label: str = "miss"

    def anew(self) -> Asked:
        """Return the same, to be asked of the provider whatever is stored."""
        wishes = msgspec.structs.replace(self.wishes, controls={**self.wishes.controls, "no-cache": True})
        return msgspec.structs.replace(self, wishes=wishes)

    def finished(self, body: dict[str, Any]) -> Computed:
        """Return what is stored of an answer; see `Dialect.finished`."""
        return self.dialect.finished(body, choices=self.reading.choices)


class _Opened(msgspec.Struct, frozen=True):
    """A request whose body and wishes are read; `place` counts beside the body."""

    call: Call
    body: dict[str, Any]
    wishes: Wishes
    namespace: str | None
    place: dict[str, Any]


class _Foreign(Exception):
    """A stored answer is more than its text, in words that the gateway does not read."""


class _Turn:
    """What one caller's own computation gives to it alone; nothing when somebody else's answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.began = False
        self.live: asyncio.Future[tuple[int, Headers, Pipe]] = loop.create_future()
        self.raw: tuple[int, Headers, bytes] | None = None
        self.failure: BaseException | None = None
        self.is_over = False

    def end(self) -> None:
        """Take nothing more: the caller has its answer, or has left. What is computed is for the cache alone."""
        self.began = self.is_over = True
        if self.live.done():
            self.live.result()[2].leave()


class Exchange:
    """Stands between callers and a provider, for one manager.

    Args:
        namespace: Where answers are kept unless `send` says; by default the manager's own.
        may_choose_namespace: Callers may name one, by `x-cache-namespace` or LiteLLM's `cache` field.
        answers_bad_bodies: Say of a body that cannot be read that it is wrong, instead of letting the provider say so.
        limit_seconds: How long a computation may take, whoever still waits for it.
        limit_bytes: The largest answer that is kept.
        ignored_headers: Names of request headers, in lower case, that change no answer beside those known not to.
    """

    def __init__(
        self,
        manager: CacheManager,
        *,
        namespace: str | None = None,
        may_choose_namespace: bool = False,
        answers_bad_bodies: bool = False,
        limit_seconds: float = 600.0,
        limit_bytes: int = 64 * 2**20,
        ignored_headers: Collection[str] = (),
    ) -> None:
        self._ignored_headers = frozenset(ignored_headers)
        self.manager = manager
        self._namespace = namespace
        self._may_choose = may_choose_namespace
        self._answers_bad_bodies = answers_bad_bodies
        self._limit_seconds = limit_seconds
        self._limit_bytes = limit_bytes
        self._running: set[asyncio.Task[Any]] = set()
        self._computing: list[asyncio.Task[Answered]] = []  # for each computation, what it was begun for
        self._vectors = VectorExchange(
            self._keep, limit_seconds=limit_seconds, limit_bytes=_VECTORS_TIMES * limit_bytes
        )

    async def send(self, call: Call, upstream: Upstream, *, namespace: str | None = None) -> Reply:
        """Answer a request, from the cache or from `upstream`.

        Raises:
            What `upstream` raises.
        """
        dialect = dialect_of(call.method, call.path)
        if dialect is None:
            return await upstream(call)
        try:
            if len(call.body) > _LARGE_BYTES:  # it may take a second, in which nobody else would be served
                asked = await asyncio.to_thread(self._read, dialect, call, namespace)
            else:
                asked = self._read(dialect, call, namespace)
        except BadRequest as exc:
            return _error_reply(dialect, exc)
        if isinstance(asked, Call):
            return await _pass_on(asked, upstream)
        if isinstance(asked, AskedVectors):
            return await self._embed(asked, upstream)
        return await self._answer(asked, upstream)

    @property
    def under_way(self) -> int:
        """Return how many answers are being found or computed, refreshes that nobody waits for included."""
        return len(self._running) + sum(answering.done() for answering in self._computing)

    async def aclose(self, *, wait_seconds: float = 0.0) -> None:
        """Wait for what is being computed, then give it up."""
        mine = [task for task in self._running if task.get_loop() is asyncio.get_running_loop()]
        if mine and wait_seconds:
            await asyncio.wait(mine, timeout=wait_seconds)
        for task in mine:
            task.cancel()
        if mine:
            await asyncio.wait(mine)

    def _read(self, dialect: Api, call: Call, namespace: str | None) -> Asked | AskedVectors | Call:
        """Return what is asked, or the call as it goes to the provider when that is nothing for the cache.

        Raises:
            BadRequest: It is not to be sent.
        """
        sent = msgspec.structs.replace(call, headers=for_upstream(call.headers))
        try:
            body = read_request(call.body)
        except BadRequest:
            if self._answers_bad_bodies:
                raise
            return sent
        # A field of that name which is no object is somebody else's.
        ours = isinstance(body.get(LITELLM_FIELD), dict)
        wishes = read_wishes(call.headers, body[LITELLM_FIELD] if ours else None)
        if ours:
            body = {name: value for name, value in body.items() if name != LITELLM_FIELD}
            sent = msgspec.structs.replace(sent, body=json.dumps(body).encode())  # any text, also half a character
        within = self._namespace_of(wishes, self._namespace if namespace is None else namespace)
        opened = _Opened(sent, body, wishes, within, _place(dialect, call, self._ignored_headers))
        try:
            if isinstance(dialect, Embeddings):
                return self._read_vectors(dialect, opened)
            return _read_question(cast("Dialect", dialect), opened)
        except BadRequest:
            if self._answers_bad_bodies:
                raise
            return sent
        except InvalidInput:
            return sent  # of a shape that is not known here; the provider may take it

    def _read_vectors(self, api: Embeddings, opened: _Opened) -> AskedVectors | Call:
        wanted = api.read(opened.body)
        if wanted.bypass is not None:
            return opened.call
        wanted = msgspec.structs.replace(wanted, params={**wanted.params, **opened.place})
        return AskedVectors(
            call=opened.call,
            body=opened.body,
            wanted=wanted,
            wishes=opened.wishes,
            namespace=opened.namespace,
            keys=self._vectors.keys(wanted),
        )

    def _namespace_of(self, wishes: Wishes, given: str | None) -> str | None:
        """Return the namespace of a request: one that is chosen lies within the given one.

        Raises:
            BadRequest: None may be chosen here.
        """
        chosen = wishes.namespace
        if chosen is None:
            return given
        if not self._may_choose:
            raise BadRequest(
                "a namespace cannot be chosen here", param="x-cache-namespace", code="namespace_not_allowed", status=403
            )
        return chosen if given is None else nested(given, chosen)

    async def _embed(self, asked: AskedVectors, upstream: Upstream) -> Reply:
        try:
            return await self._vectors.answer(self.manager, asked, upstream)
        except AsItCame as exc:
            return whole(exc.status, marked(exc.headers, "miss"), exc.body)
        except UpstreamFailed as exc:
            raise exc.cause from exc
        except NotUnderstood as exc:
            logger.info("embeddings were not understood, all are asked for: %s", exc)
        except Exception:
            logger.warning("the cache failed, the answer comes from the provider", exc_info=True)
        return await _pass_on(asked.call, upstream)

    async def _answer(self, asked: Asked, upstream: Upstream) -> Reply:
        for attempt in range(_ATTEMPTS):
            turn = _Turn(asyncio.get_running_loop())
            answering = self._begin(asked, upstream, turn)
            first: set[asyncio.Future[Any]] = {answering, turn.live}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                turn.end()
                raise
            if turn.live.done() and not _has_hit(answering):
                status, headers, pipe = turn.live.result()
                body = LiveBody(pipe, answering, patience_seconds=_PATIENCE_SECONDS)
                return Reply(status, marked(headers, asked.label, asked.key), body)
            turn.end()
            if answering.cancelled():
                raise BrokenStream("the client was closed meanwhile")
            try:
                return self._reply(asked, answering.result(), turn)
            except _Foreign:
                # Stored by an adapter of this manager, which alone can read all of it.
                asked = asked.anew()
            except AsItCame as exc:
                # Somebody else's key may have been refused, not this caller's; and its headers tell of somebody else.
                if exc is turn.failure or exc.status not in _OWN_ERRORS:
                    headers = exc.headers if exc is turn.failure else _shared(exc.headers)
                    return whole(exc.status, marked(headers, asked.label, asked.key), exc.body)
            except (UpstreamFailed, BrokenStream) as exc:
                if exc is turn.failure:
                    _give_up(exc)
                # What somebody else asked for broke; now this caller asks, or another who waited.
            except Exception:  # whatever is wrong with the cache, the caller gets an answer
                logger.warning("the cache failed, the answer comes from the provider", exc_info=True)
                break
            logger.debug("attempt %d was somebody else's and failed", attempt + 1)
        if turn.raw is not None:  # it was answered; keeping it failed
            return _raw_reply(asked, turn.raw)
        return await _pass_on(asked.call, upstream)

    def _begin(self, asked: Asked, upstream: Upstream, turn: _Turn) -> asyncio.Task[Answered]:
        reading, wishes = asked.reading, asked.wishes

        async def compute() -> Computed:
            # Called again later, to refresh an answer, it gives to nobody but the cache.
            mine = None if turn.began else turn
            turn.began = True
            self._computing.append(answering)
            try:
                return await self._compute(asked, upstream, mine)
            except BaseException as exc:
                if mine is not None:
                    mine.failure = exc
                raise
            finally:
                self._computing.remove(answering)

        answering = asyncio.get_running_loop().create_task(
            self.manager.answer(
                reading.prompt,
                compute,
                model=reading.model,
                system=reading.system,
                history=reading.history,
                params=reading.params,
                namespace=asked.namespace,
                threshold=wishes.threshold,
                controls=wishes.controls,
            )
        )
        self._keep(answering)
        return answering

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may do so any more

    async def _compute(self, asked: Asked, upstream: Upstream, turn: _Turn | None) -> Computed:
        """Ask the provider and return what may be kept.

        Raises:
            AsItCame: It is to be passed on and not kept.
            UpstreamFailed, BrokenStream: It did not come, or not to its end.
        """
        try:
            async with asyncio.timeout(self._limit_seconds) as limit:
                reply = await upstream(asked.call)
                try:
                    return await self._collect(asked, reply, turn, limit)
                finally:
                    await close(reply.body)
        except (AsItCame, BrokenStream, UpstreamFailed):
            raise
        except Exception as exc:
            raise UpstreamFailed(exc) from exc

    async def _collect(self, asked: Asked, reply: Reply, turn: _Turn | None, limit: asyncio.Timeout) -> Computed:
        headers = without_hops(reply.headers, "content-length")
        kind = (header(headers, "content-type") or "").lower()
        is_plain = header(headers, "content-encoding") in {None, "", "identity"}
        good = 200 <= reply.status < 300 and is_plain
        if good and asked.reading.streams and kind.startswith("text/event-stream"):
            collected = _Collected(asked.dialect.collector(), self._limit_bytes)
            await self._pass_along(reply.body, (reply.status, headers), turn, limit, collected)
            return collected.finish(asked.finished)
        parts, is_whole = await read_up_to(reply.body, self._limit_bytes)
        if not is_whole:
            # Too long to be kept, and not to be withheld from who asked.
            await self._pass_along(chain(parts, reply.body), (reply.status, headers), turn, limit, None)
            raise BrokenStream("it is too long")
        body = b"".join(parts)
        came = AsItCame(reply.status, headers, body)
        if not good or asked.reading.streams:
            raise came
        try:
            computed = asked.finished(read_answer(body))
        except NotUnderstood:
            raise came from None
        except Exception:
            logger.warning("an answer is not kept, for it could not be read", exc_info=True)
            raise came from None
        if turn is not None:
            turn.raw = (reply.status, headers, body)
        return computed

    async def _pass_along(
        self,
        body: AsyncIterator[bytes],
        head: tuple[int, Headers],
        turn: _Turn | None,
        limit: asyncio.Timeout,
        collected: _Collected | None,
    ) -> None:
        """Hand a body to the caller of a turn as it comes; while that one reads, silence alone counts as too long.

        Raises:
            BrokenStream: It cannot be kept.
        """
        pipe = Pipe()
        if turn is None or turn.is_over:
            pipe.leave()
        else:
            turn.live.set_result((*head, pipe))
        try:
            async for data in body:
                await pipe.put(data)
                if collected is not None:
                    collected.add(data)
                if not pipe.has_left:
                    limit.reschedule(asyncio.get_running_loop().time() + self._limit_seconds)
            if collected is not None:
                collected.check()
        except BrokenStream:
            pipe.end()  # for whoever reads along it did come to its end
            raise
        except asyncio.CancelledError:
            pipe.end(TimeoutError("the answer took too long, or is not wanted any more"))
            raise
        except Exception as exc:
            pipe.end(exc)
            raise
        pipe.end(is_whole=True)

    def _reply(self, asked: Asked, answered: Answered, turn: _Turn) -> Reply:
        if answered.kind is None and turn.raw is not None:
            return _raw_reply(asked, turn.raw)
        dialect, response = asked.dialect, answered.response
        body = stored_body(response, dialect.name)
        if body is None and PAYLOADS & response.metadata.keys():
            raise _Foreign
        body = dialect.as_hit(body or dialect.from_text(response))
        told: Headers = (
            ("x-cache", f"hit-{answered.kind or 'exact'}"),
            ("x-cache-key", answered.key if is_reserved_key(answered.key) else digest(answered.key)),
            ("x-cache-similarity", f"{1.0 if answered.similarity is None else answered.similarity:.4f}"),
            ("age", str(int(answered.age_seconds))),
        )
        if not asked.reading.streams:
            return whole(200, (("content-type", "application/json"), *told), encode(body))
        events = dialect.events(body, includes_usage=asked.reading.includes_usage)
        data = b"".join(map(sse.write, events))
        return whole(200, (("content-type", "text/event-stream; charset=utf-8"), *told), data)


class _Collected:
    """A stream that is put together; what cannot be spoils it, and the rest is only passed on."""

    def __init__(self, collector: Collector, limit_bytes: int) -> None:
        self._collector = collector
        self._parser = sse.Parser()
        self._left = limit_bytes
        self._why: str | None = None

    def add(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._why = self._why or "it is too long"
        if self._why is not None:
            return
        try:
            for event in self._parser.feed(data):
                self._collector.take(event)
        except (NotUnderstood, sse.StreamSyntaxError) as exc:
            self._why = str(exc)
        except Exception as exc:
            logger.warning("a stream is not kept, for it could not be read", exc_info=True)
            self._why = type(exc).__name__

    def check(self) -> None:
        """Look whether it came to its end.

        Raises:
            BrokenStream: It did not, or cannot be put together.
        """
        if not self._collector.has_ended:
            self.add(b"\n\n")  # some close behind their last line, without the empty one that ends an event
        if self._why is None and not self._collector.has_ended:
            self._why = "it ended before its end"
        if self._why is not None:
            raise BrokenStream(self._why)

    def finish(self, finished: Callable[[dict[str, Any]], Computed]) -> Computed:
        """Return what was collected.

        Raises:
            BrokenStream: It cannot be kept.
        """
        try:
            return finished(self._collector.body())
        except NotUnderstood as exc:
            raise BrokenStream(str(exc)) from exc
        except Exception as exc:
            logger.warning("a stream is not kept, for it could not be read", exc_info=True)
            raise BrokenStream(type(exc).__name__) from exc


def nested(namespace: str, chosen: str) -> str:
    """Return the name of a namespace within another one: no two pairs have the same."""
    return "in-" + digest(f"{namespace}\0{chosen}")


def _read_question(dialect: Dialect, opened: _Opened) -> Asked | Call:
    reading = dialect.read(opened.body)
    if reading.bypass is not None:
        return opened.call
    if opened.place:
        reading = msgspec.structs.replace(reading, params={**reading.params, **opened.place})
    request = make_request(
        reading.prompt, model=reading.model, system=reading.system, history=reading.history, params=reading.params
    )
    key = entry_key(request)
    return Asked(
        dialect=dialect,
        reading=reading,
        call=opened.call,
        wishes=opened.wishes,
        namespace=opened.namespace,
        key=key if is_reserved_key(key) else digest(key),
        label="bypass" if opened.wishes.controls.get("no-cache") else "miss",
    )


def _place(api: Api, call: Call, ignored: Collection[str]) -> dict[str, Any]:
    """Return what counts beside the body: an unusual address, a query, and headers that may change an answer."""
    found: dict[str, Any] = {}
    path, _, query = call.path.partition("?")
    address = call.base + path.removesuffix(api.suffix)
    if address and address != api.home:
        found["base_url"] = address
    if call.host is not None:
        found["host"] = call.host
    if query:
        found["query"] = query
    told = telling_headers(call.headers, ignored)
    if told:
        found["headers"] = told
    return found


def _shared(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if name in _SHARED_HEADERS)


def _has_hit(answering: asyncio.Task[Answered]) -> bool:
    if not answering.done() or answering.cancelled() or answering.exception() is not None:
        return False
    return answering.result().kind is not None


def _raw_reply(asked: Asked, raw: tuple[int, Headers, bytes]) -> Reply:
    status, headers, body = raw
    return whole(status, marked(headers, asked.label, asked.key), body)


async def _pass_on(call: Call, upstream: Upstream) -> Reply:
    reply = await upstream(call)
    return Reply(reply.status, marked(without_hops(reply.headers), "bypass"), reply.body)


def _error_reply(dialect: Api, exc: BadRequest) -> Reply:
    body = encode(dialect.error(str(exc), status=exc.status, param=exc.param, code=exc.code))
    return whole(exc.status, (("content-type", "application/json"), ("x-cache", "bypass")), body)


def _give_up(exc: UpstreamFailed | BrokenStream) -> NoReturn:
    if isinstance(exc, UpstreamFailed):
        raise exc.cause
    raise exc
