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
import logging
from collections.abc import AsyncIterator, Collection
from typing import Any, NoReturn

from cache_management.cache.compute import Computed
from cache_management.cache.identity import digest
from cache_management.cache.manager import CacheManager
from cache_management.cache.payloads import is_text_alone
from cache_management.cache.requests import is_reserved_key
from cache_management.cache.values import Answered
from cache_management.gateway import sse
from cache_management.gateway.bodies import encode, read_answer
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
    header,
    marked,
    whole,
    without_hops,
)
from cache_management.gateway.collecting import Collected
from cache_management.gateway.dialects import dialect_of
from cache_management.gateway.dialects.base import Api, stored_body
from cache_management.gateway.pipe import LiveBody, Pipe
from cache_management.gateway.reading import Asked, Reader
from cache_management.gateway.streams import chain, read_up_to
from cache_management.gateway.vectors import AskedVectors, VectorExchange

logger = logging.getLogger("cache_management")

_ATTEMPTS = 3
_VECTORS_TIMES = 4  # 2,048 vectors of 3,072 numbers are 140 MB of JSON
_LARGE_BYTES = 64 * 1024
_PATIENCE_SECONDS = 5.0
_OWN_ERRORS = frozenset({401, 402, 403, 404})
_SHARED_HEADERS = frozenset({"content-type", "content-encoding", "retry-after"})


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
        self.answering: asyncio.Task[Answered] | None = None

    @property
    def is_answered(self) -> bool:
        """Tell whether nobody waits for what is computed: it only refreshes what is stored."""
        return self.answering is not None and self.answering.done()

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
        self.manager = manager
        self._reader = Reader(
            namespace=namespace,
            may_choose_namespace=may_choose_namespace,
            answers_bad_bodies=answers_bad_bodies,
            ignored_headers=ignored_headers,
        )
        self._limit_seconds = limit_seconds
        self._limit_bytes = limit_bytes
        self._running: set[asyncio.Task[Any]] = set()
        self._computing: list[_Turn] = []  # for each computation, the one in which it was begun
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
                asked = await asyncio.to_thread(self._reader.read, dialect, call, namespace)
            else:
                asked = self._reader.read(dialect, call, namespace)
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
        return len(self._running) + sum(turn.is_answered for turn in self._computing)

    async def aclose(self, *, wait_seconds: float = 0.0) -> None:
        """Wait for what is being computed, then give it up."""
        mine = [task for task in self._running if task.get_loop() is asyncio.get_running_loop()]
        if mine and wait_seconds:
            await asyncio.wait(mine, timeout=wait_seconds)
        for task in mine:
            task.cancel()
        if mine:
            await asyncio.wait(mine)

    async def _embed(self, asked: AskedVectors, upstream: Upstream) -> Reply:
        try:
            return await self._vectors.answer(self.manager, asked, upstream)
        except AsItCame as exc:
            return whole(exc.status, marked(exc.headers, asked.wishes.label), exc.body)
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
            self._computing.append(turn)
            try:
                return await self._compute(asked, upstream, mine)
            except BaseException as exc:
                if mine is not None:
                    mine.failure = exc
                raise
            finally:
                self._computing.remove(turn)

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
        turn.answering = answering
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
            collected = Collected(asked.dialect.collector(), self._limit_bytes)
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
        collected: Collected | None,
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
        if body is None and not is_text_alone(response.metadata):
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
