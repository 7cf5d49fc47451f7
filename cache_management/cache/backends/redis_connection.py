"""One multiplexed connection to a Redis server: questions go out together, answers come in order.

    idle       a question is written at once
    busy       questions of one loop turn are collected and written together
    full       they wait here, unpacked, until the socket or the server takes more

Speaks RESP3, so that the server can tell of changed keys between its answers.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from math import inf
from typing import Any, cast
from weakref import WeakSet

import msgspec

try:
    from hiredis import ProtocolError, PushNotification, Reader, ReplyError, pack_command
except ImportError as exc:
    raise ImportError("The Redis backend needs: pip install 'cache-management[redis]'") from exc

Argument = str | bytes | int | float
Command = tuple[Argument, ...]
Refusal = ReplyError  # an error reply: a value here, because it may stand among others

_MOST_IN_FLIGHT = 10_000
_BYTES_AT_ONCE = 2**16
_TRUSTED_SECONDS = 0.1  # a connection that was silent for longer is looked at before it is written to
_CURRENT_SECONDS = 1.0
_PING_AFTER_SECONDS = 0.25
CLOSED_HERE = "it was closed here"
_MORE = object()  # not False, hiredis's own word for "nothing yet": RESP3 has a false


class ConnectionLost(Exception):
    """The connection ended. `was_sent`: the server may have done what it was asked; `is_wanted`: it was closed here."""

    def __init__(self, reason: str, *, was_sent: bool, is_wanted: bool = False) -> None:
        super().__init__(reason)
        self.was_sent = was_sent
        self.is_wanted = is_wanted


class _Question(msgspec.Struct):
    """One command, or several whose answers come as one list, and who waits for it."""

    future: asyncio.Future[Any]
    commands: Any  # a Command, or where there are `replies`, a sequence of them; None when they are sent
    deadline: float
    sent_at: float
    replies: list[Any] | None
    count: int = 1


class RedisConnection(asyncio.Protocol):
    """One socket, in one event loop. It ends once, and then fails everybody who waits.

    A caller that gives up (cancelled, out of time) leaves its place in the row: its answer is
    dropped when it comes. The connection is given up when the oldest question is out of time
    and the server has answered nothing for `patience_seconds`: a frozen server is left, one that is busy
    sending a large answer is not. News of changes is no answer.

    Args:
        patience_seconds: What an ordinary question may take.
        on_change: Gets the keys that the server says were changed; None for all, and at the end.
    """

    def __init__(
        self, *, patience_seconds: float, on_change: Callable[[Sequence[str] | None], None] | None = None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_open = False
        self.is_tracking = False
        self.was_closed = False
        # Until when it may be written to unseen. One comparison tells of silence, of the end and of a fork.
        self.trusted_until = -inf
        self._patience = patience_seconds
        self._on_change = on_change
        self._reader = Reader(notEnoughData=_MORE)
        self._unsent: deque[_Question] = deque()
        self._waiting: deque[_Question] = deque()
        self._flush_is_due = False
        self._is_writable = True
        self._heard_at = -inf
        self._told_until = -inf
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = inf
        self._ping: asyncio.Future[Any] | None = None
        self._gone: asyncio.Future[None] = self.loop.create_future()

    def ask(self, command: Command, now: float, deadline: float) -> asyncio.Future[Any]:
        """Send a command; an error reply is a result, a Refusal.

        The future raises TimeoutError at the deadline, and ConnectionLost. `now` and
        `deadline` are of the loop's clock.
        """
        future = self.loop.create_future()
        self._ask(_Question(future, command, deadline, now, None))
        return future

    def ask_all(self, commands: Sequence[Command], now: float, deadline: float) -> asyncio.Future[list[Any]]:
        """Send commands together; the result holds one reply for each."""
        future: asyncio.Future[list[Any]] = self.loop.create_future()
        self._ask(_Question(future, commands, deadline, now, [], len(commands)))
        return future

    def _ask(self, question: _Question) -> None:
        if not self.is_open:
            reason = CLOSED_HERE if self.was_closed else "the connection has ended"
            raise ConnectionLost(reason, was_sent=False, is_wanted=self.was_closed)
        if question.deadline < self._next_look:
            self._look_at(question.deadline)
        if self._waiting or self._unsent or not self._is_writable:
            self._unsent.append(question)
            self._flush_soon()
            return
        # Nobody is under way whose turn this could join: a lone question must not wait for the turn's end.
        self._transport.write(_packed(question))
        self._waiting.append(question)

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        unsent, waiting = self._unsent, self._waiting
        now = self.loop.time()
        parts: list[bytes] = []
        size = 0
        while unsent and self._is_writable and self.is_open and len(waiting) < _MOST_IN_FLIGHT:
            question = unsent.popleft()
            if question.future.done():
                continue
            try:
                parts.append(packed := _packed(question))
            except (TypeError, ValueError) as exc:  # a key that is no UTF-8 is its own caller's
                question.future.set_exception(exc)
                continue
            question.sent_at = now
            waiting.append(question)
            size += len(packed)
            if size >= _BYTES_AT_ONCE:
                self._transport.write(b"".join(parts))
                parts, size = [], 0
        if parts:
            self._transport.write(b"".join(parts))

    def has_unread(self) -> bool:
        """Tell whether something came that the loop has not read yet: perhaps the end."""
        return bool(self._poll.poll(0))

    async def aclose(self) -> None:
        """Close the socket and wait until it is."""
        self.was_closed = True
        self.end(CLOSED_HERE)
        await self._gone

    def end(self, reason: str) -> None:
        """Give the connection up; everybody who waits hears of it."""
        if not self.is_open:
            return
        self.is_open = False
        self.trusted_until = -inf
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        for questions, was_sent in ((self._waiting, True), (self._unsent, False)):
            for question in questions:
                if not question.future.done():
                    error = ConnectionLost(reason, was_sent=was_sent, is_wanted=self.was_closed)
                    question.future.set_exception(error)
            questions.clear()
        self._stop_tracking()

    def abandon(self) -> None:
        """Use it no more and leave its socket alone: that belongs to a loop that is over, or to a parent process."""
        self.is_open = False
        self.trusted_until = -inf
        if not self._gone.done():
            self._gone.set_result(None)
        self._stop_tracking()

    def _stop_tracking(self) -> None:
        if self.is_tracking:
            self.is_tracking = False
            self._tell(None)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True
        socket_ = transport.get_extra_info("socket")
        if socket_.family != socket.AF_UNIX:
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._poll = select.poll()
        self._poll.register(socket_.fileno(), select.POLLIN)
        _living().add(self)

    def data_received(self, data: bytes) -> None:
        now = self.loop.time()
        self.trusted_until = now + _TRUSTED_SECONDS
        reader, waiting = self._reader, self._waiting
        question = None
        was_news = False
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                if type(reply) is PushNotification:
                    self._pushed(reply)
                    was_news = True
                    continue
                if not waiting:
                    raise ProtocolError("an answer that nobody asked for")
                question = waiting[0]
                if question.replies is not None:
                    question.replies.append(reply)
                    if len(question.replies) < question.count:
                        continue
                    reply = question.replies
                waiting.popleft()
                if not question.future.done():
                    question.future.set_result(reply)
        except ProtocolError as exc:
            self.end(f"it does not speak the Redis protocol: {exc}")
            return
        if question is not None or not was_news:  # an answer, or a part of one
            self._heard_at = now
        if question is not None:
            # Not `now`: what comes next in the socket may be older than that.
            self._told_until = question.sent_at
        if self._unsent:
            self._flush_soon()

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._unsent:
            self._flush_soon()

    def eof_received(self) -> None:
        self.end("it closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(str(exc) if exc is not None and str(exc) else "the connection was lost")
        if not self._gone.done():
            self._gone.set_result(None)

    # Time. One timer for all questions: a timer for each would cost a fifteenth of a lone read.

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_look = moment
        self._timer = self.loop.call_at(moment, self._look)

    def _look(self) -> None:
        self._timer, self._next_look = None, inf
        now = self.loop.time()
        following = inf
        for question in chain(self._waiting, self._unsent):
            if question.future.done():
                continue
            if question.deadline <= now:
                question.future.set_exception(TimeoutError())
            else:
                following = min(following, question.deadline)
        # A full socket may stay full for long: whoever gave up is not kept until then.
        self._unsent = deque(question for question in self._unsent if not question.future.done())
        if self._waiting:
            given_up_at = max(self._waiting[0].deadline, self._heard_at + self._patience)
            if given_up_at <= now:
                self.end(f"it answered nothing for {self._patience:.3g} s")
                return
            following = min(following, given_up_at)
        if following < inf:
            # Many deadlines close to each other are one look.
            self._look_at(max(following, now + self._patience / 20))

    # Changes.

    def track(self, prefixes: Sequence[str], now: float, deadline: float) -> asyncio.Future[list[Any]]:
        """Ask to be told of changed keys below prefixes, in place of those asked for before."""
        self._stop_tracking()
        # The server refuses prefixes that lie within each other.
        outer = [p for p in set(prefixes) if not any(p != other and p.startswith(other) for other in prefixes)]
        commands: list[Command] = [("CLIENT", "TRACKING", "OFF")]
        if outer:
            words = [word for prefix in outer for word in ("PREFIX", prefix)]
            commands.append(("CLIENT", "TRACKING", "ON", "BCAST", "NOLOOP", *words))
        return self.ask_all(commands, now, deadline)

    def is_current(self) -> bool:
        """Tell whether every change up to a second ago was told; ask the server when it is not that sure."""
        now = self.loop.time()
        age = now - self._told_until
        if age > _PING_AFTER_SECONDS and self.is_tracking and (self._ping is None or self._ping.done()):
            self._ping = self.ask(("PING",), now, now + self._patience)
            self._ping.add_done_callback(retrieve)
        return self.is_tracking and age <= _CURRENT_SECONDS

    def _pushed(self, push: list[Any]) -> None:
        if push[0] == b"invalidate":
            keys = push[1]
            self._tell(None if keys is None else [key.decode(errors="replace") for key in keys])

    def _tell(self, keys: Sequence[str] | None) -> None:
        if self._on_change is not None:
            self._on_change(keys)


def _packed(question: _Question) -> bytes:
    """Return the bytes to write; the question holds them no longer, as an answer may take its time."""
    commands, question.commands = question.commands, None
    if question.replies is None:
        packed: bytes = pack_command(commands)
        return packed
    return b"".join(map(pack_command, commands))


def retrieve(future: asyncio.Future[Any]) -> None:
    """Look at an outcome that nobody awaits: asyncio complains of errors that nobody saw."""
    if not future.cancelled():
        future.exception()


@cache
def _living() -> WeakSet[RedisConnection]:
    """Return the connections of this process; a child that it forks abandons them."""
    living: WeakSet[RedisConnection] = WeakSet()
    inherited: list[RedisConnection] = []  # kept: closing a transport would reach into the parent's event loop

    def abandon_all() -> None:
        inherited.extend(living)
        for connection in inherited:
            # Told at the next connection: `on_change` may want a lock that another thread held at the fork.
            connection._on_change = None
            connection.abandon()

    os.register_at_fork(after_in_child=abandon_all)
    return living
