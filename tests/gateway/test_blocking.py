"""An answer that a thread brings: who leaves ends it, and cuts off nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from cache_management.gateway.blocking import Transfers
from cache_management.gateway.calls import Reply, close, read_all
from tests.waiting import eventually

BROKEN = httpx2.ReadError("closed")


class Answer(httpx2.SyncByteStream):
    """A body of one part, which then waits for `release`."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.is_begun = self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        self.is_begun = True
        yield b"part"
        self.release.wait(10)

    def close(self) -> None:
        self.is_closed = True


class Connection:
    """What httpx tells of a connection."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire

    def get_extra_info(self, _: str) -> socket.socket:
        return self._wire


@pytest.fixture
def answer() -> Iterator[Answer]:
    made = Answer()
    yield made
    made.release.set()


@pytest.fixture
def wires() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


async def ask(transfers: Transfers, answer: Answer, **extensions: Any) -> Reply:
    response = httpx2.Response(200, stream=answer, extensions=extensions)
    return await transfers.ask(lambda: response, is_left=lambda: False, broken=BROKEN)


async def test_an_answer_comes_with_its_headers(answer: Answer) -> None:
    answer.release.set()

    reply = await ask(Transfers(), answer)

    assert (reply.status, await read_all(reply.body, 100)) == (200, b"part")
    await eventually(lambda: is_set(answer, "is_closed"))


async def test_what_the_transport_raises_is_raised() -> None:
    def send() -> Any:
        raise httpx2.ConnectError("away")

    with pytest.raises(httpx2.ConnectError, match="away"):
        await Transfers().ask(send, is_left=lambda: False, broken=BROKEN)


async def test_leaving_ends_a_connection_that_is_of_this_answer_alone(
    answer: Answer, wires: tuple[socket.socket, socket.socket]
) -> None:
    reply = await ask(Transfers(), answer, http_version=b"HTTP/1.1", network_stream=Connection(wires[0]))
    assert await anext(reply.body) == b"part"

    await close(reply.body)

    assert wires[1].recv(1) == b""


async def test_leaving_leaves_a_connection_alone_that_others_share(
    answer: Answer, wires: tuple[socket.socket, socket.socket]
) -> None:
    reply = await ask(Transfers(), answer, http_version=b"HTTP/2", network_stream=Connection(wires[0]))

    await close(reply.body)

    wires[0].sendall(b"x")
    assert wires[1].recv(1) == b"x"


async def test_a_connection_is_not_ended_once_its_answer_is_whole(
    answer: Answer, wires: tuple[socket.socket, socket.socket]
) -> None:
    answer.release.set()
    reply = await ask(Transfers(), answer, http_version=b"HTTP/1.1", network_stream=Connection(wires[0]))
    await eventually(lambda: is_set(answer, "is_closed"))  # it may serve somebody else now

    await close(reply.body)

    wires[0].sendall(b"x")
    assert wires[1].recv(1) == b"x"


async def test_an_answer_that_comes_when_its_caller_has_left_is_not_read(answer: Answer) -> None:
    answering = threading.Event()

    def send() -> Any:
        answering.wait(10)
        return httpx2.Response(200, stream=answer)

    asking = asyncio.create_task(Transfers().ask(send, is_left=lambda: False, broken=BROKEN))
    await asyncio.wait({asking}, timeout=0)
    asking.cancel()
    await asyncio.wait({asking})
    answering.set()

    await eventually(lambda: is_set(answer, "is_closed"))
    assert not answer.is_begun


async def test_an_answer_that_is_ended_is_not_taken_for_a_whole_one(answer: Answer) -> None:
    transfers = Transfers()
    reply = await ask(transfers, answer)
    assert await anext(reply.body) == b"part"

    transfers.end(left_only=True)  # somebody waits for it
    reading = asyncio.ensure_future(anext(reply.body))
    await asyncio.wait({reading}, timeout=0)
    assert not reading.done()
    transfers.end(left_only=False)

    with pytest.raises(httpx2.ReadError, match="closed"):
        await reading


async def is_set(answer: Answer, name: str) -> bool:
    return bool(getattr(answer, name))
