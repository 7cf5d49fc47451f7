from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import random
import signal
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_management.cache.backends.redis_node import RedisNode
from cache_management.cache.config import CacheConfig
from cache_management.cache.errors import BackendUnavailable
from tests.conftest import OwnRedisFactory
from tests.contracts.backend import INHERITED
from tests.waiting import eventually

PATIENT_SECONDS = 20.0
BUDGET_SECONDS = 0.3
LIFE = ("EX", 600)


def node_at(url: str, seconds: float = PATIENT_SECONDS) -> RedisNode:
    return RedisNode(CacheConfig(url=url, timeout_seconds=seconds))


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[RedisNode]:
    node = node_at(redis_url)
    yield node
    await node.aclose()


@settings(max_examples=40, suppress_health_check=INHERITED, deadline=None)
@given(choices=st.lists(st.integers(0, 3), min_size=1, max_size=60), seed=st.integers(0, 2**16))
async def test_everybody_gets_the_own_answer_whoever_gives_up(node: RedisNode, choices: list[int], seed: int) -> None:
    chance = random.Random(seed)

    async def ask(number: int, kind: int) -> bool:
        word = f"answer {number}"
        if kind == 0:
            return bool(
                await node.pipeline([("ECHO", word), ("ECHO", word + "!")]) == [word.encode(), f"{word}!".encode()]
            )
        if kind == 1:
            await asyncio.sleep(0)
        return bool(await node.call("ECHO", word) == word.encode())

    tasks = [asyncio.ensure_future(ask(number, kind)) for number, kind in enumerate(choices)]
    for task, kind in zip(tasks, choices, strict=True):
        if kind == 3:
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(each is True or isinstance(each, asyncio.CancelledError) for each in found)
    assert await node.call("ECHO", "last") == b"last"


async def test_one_refused_command_spoils_no_other(node: RedisNode) -> None:
    ask = node.call("ECHO", "before"), node.call("NO-SUCH", "a secret prompt"), node.call("ECHO", "after")
    before, refused, after = await asyncio.gather(*ask, return_exceptions=True)

    assert (before, after) == (b"before", b"after")
    assert isinstance(refused, BackendUnavailable)
    assert "unknown command" in str(refused)
    assert "prompt" not in str(refused)


async def test_a_refusal_inside_a_pipeline_is_told_and_the_rest_is_done(node: RedisNode) -> None:
    with pytest.raises(BackendUnavailable, match="refused: ERR"):
        await node.pipeline([("SET", "a", "1", *LIFE), ("INCRBY", "a", "word"), ("SET", "b", "2", *LIFE)])

    assert await node.call("MGET", "a", "b") == [b"1", b"2"]


async def test_long_pipelines_go_in_parts_and_answer_in_order(node: RedisNode) -> None:
    many = await node.pipeline([("ECHO", str(number)) for number in range(1_234)])
    large = await node.pipeline([("ECHO", str(number) * 400_000) for number in range(5)], payload_bytes=2_000_000)

    assert many == [str(number).encode() for number in range(1_234)]
    assert large == [str(number).encode() * 400_000 for number in range(5)]


@pytest.mark.parametrize("count", [500, 5_000])
async def test_many_callers_at_once_share_one_connection(redis_url: str, count: int) -> None:
    node = node_at(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        opened = client.info("stats")["total_connections_received"]

        found = await asyncio.gather(*(node.call("ECHO", str(number)) for number in range(count)))

        assert client.info("stats")["total_connections_received"] == opened + 1
    await node.aclose()
    assert found == [str(number).encode() for number in range(count)]


async def test_writers_that_outrun_the_socket_are_all_served(node: RedisNode) -> None:
    value = bytes(200_000)

    found = await asyncio.gather(*(node.call("SET", f"k{at}", value, *LIFE) for at in range(300)))

    assert found == [b"OK"] * 300


async def test_more_than_may_be_under_way_wait_their_turn(node: RedisNode) -> None:
    found = await asyncio.gather(*(node.call("ECHO", at) for at in range(12_000)))

    assert found == [b"%d" % at for at in range(12_000)]


async def test_a_key_that_is_no_text_fails_its_own_caller_only(node: RedisNode) -> None:
    await node.call("PING")

    asked = [node.call("ECHO", word) for word in ("a", "b", "\udc80", "c")]
    found = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(found.pop(2), UnicodeEncodeError)
    assert found == [b"a", b"b", b"c"]


@pytest.mark.parametrize("size", [20_000_000, 64 * 2**20])
async def test_huge_values_come_back(node: RedisNode, size: int) -> None:
    value = random.Random(size).randbytes(1000) * (size // 1000)

    await node.call("SET", "huge", value, *LIFE, payload_bytes=len(value))

    assert await node.call("GET", "huge") == value


async def test_small_calls_do_not_queue_behind_a_large_one() -> None:
    stuck, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"cache-management\r\n")
        writer.write(b"%1\r\n+proto\r\n:3\r\n+OK\r\n")
        if b"SET" in await reader.read(100):
            stuck.set()
            await over.wait()
        writer.write(b"+PONG\r\n")
        await over.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        node = node_at(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        value = bytes(20_000_000)
        large = asyncio.create_task(node.call("SET", "huge", value, payload_bytes=len(value)))
        await stuck.wait()

        assert await node.call("PING") == b"PONG"

        large.cancel()
        over.set()
        await node.aclose()


async def test_other_databases_are_apart(redis_url: str) -> None:
    url = redis_url.removesuffix("/0") + "/5"
    node = node_at(url)

    await node.call("SET", "only-here", "1", *LIFE)
    await node.aclose()

    with redis.Redis.from_url(url) as client:
        assert client.getdel("only-here") == b"1"


async def test_a_database_that_is_not_there_is_named(redis_url: str) -> None:
    node = node_at(redis_url.removesuffix("/0") + "/5000")

    with pytest.raises(BackendUnavailable, match=r"refused: .*out of range"):
        await node.call("PING")
    await node.aclose()


@pytest.mark.parametrize(
    ("credentials", "problem"), [("", "NOAUTH"), (":not-it@", "WRONGPASS"), ("who:not-it@", "WRONGPASS")]
)
async def test_wrong_credentials_are_refused_without_showing_them(
    own_redis: OwnRedisFactory, credentials: str, problem: str
) -> None:
    server = own_redis(extra=["--requirepass", "right-one"])
    node = node_at(server.url.replace("redis://", f"redis://{credentials}"))

    for _ in range(2):
        with pytest.raises(BackendUnavailable, match=problem) as raised:
            await node.call("PING")
        assert "not-it" not in str(raised.value)
    await node.aclose()


async def test_a_user_with_a_password_opens(own_redis: OwnRedisFactory) -> None:
    server = own_redis(extra=["--user", "cache", "on", ">pass", "~*", "+@all"])
    node = node_at(server.url.replace("redis://", "redis://cache:pass@"))

    assert await node.call("ACL", "WHOAMI") == b"cache"
    await node.aclose()


async def test_a_password_in_the_query_of_a_unix_socket_opens(own_redis: OwnRedisFactory) -> None:
    with tempfile.TemporaryDirectory(prefix="cm-") as folder:
        own_redis(extra=["--unixsocket", f"{folder}/s", "--requirepass", "p@ss"])
        node = node_at(f"unix://{folder}/s?db=2&password=p%40ss")

        await node.call("SET", "a", "1", *LIFE)

        assert b" db=2 " in await node.call("CLIENT", "INFO")
        await node.aclose()


# Connections that end.


async def test_connection_killed_with_many_commands_in_flight_hangs_nobody(redis_url: str) -> None:
    node = node_at(redis_url)
    own = await node.call("CLIENT", "ID")
    reads = [node.call("GET", "absent") for _ in range(100)]
    writes = [node.call("SET", str(number), "1", *LIFE) for number in range(100)]

    async def killer() -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.client_kill_filter(_id=own)

    async with asyncio.timeout(PATIENT_SECONDS):
        *found, _ = await asyncio.gather(*reads, *writes, killer(), return_exceptions=True)
        assert found[:100] == [None] * 100, "a read may be asked again"
        assert {type(each) for each in found[100:]} <= {bytes, BackendUnavailable}
        assert await node.call("CLIENT", "ID") != own
    await node.aclose()


async def test_closing_while_it_opens_ends_who_waits_and_opens_nothing_again() -> None:
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        node = node_at(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        calls = [asyncio.create_task(node.call("GET", "a")), asyncio.create_task(node.pipeline([("GET", "a")]))]

        async def is_under_way() -> bool:
            return opened == 1

        await eventually(is_under_way)
        await node.aclose()
        async with asyncio.timeout(PATIENT_SECONDS / 2):
            found = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(each) for each in found] == [BackendUnavailable] * 2
        assert ["it was closed here" in str(each) for each in found] == [True] * 2
        assert opened == 1
        assert not node._small.connections


@pytest.mark.parametrize("turns", range(6))
async def test_closing_ends_calls_in_flight_and_opens_nothing_again(redis_url: str, turns: int) -> None:
    node = node_at(redis_url)
    if turns % 2:
        await node.call("PING")
    calls = [asyncio.create_task(node.call("GET", "a")) for _ in range(3)]
    calls.append(asyncio.create_task(node.pipeline([("GET", "a"), ("GET", "b")])))
    for _ in range(turns):
        await asyncio.sleep(0)

    await node.aclose()
    found = await asyncio.gather(*calls, return_exceptions=True)

    for each in found:
        assert each is None or each == [None, None] or "it was closed here" in str(each)
    if turns:
        assert not node._small.connections, "who calls before is not who opens afterwards"
    await node.aclose()


@pytest.mark.parametrize(("command", "times"), [(("INCR", "a"), 1), (("SET", "a", "b"), 1), (("GET", "a"), 2)])
async def test_only_what_changes_nothing_is_sent_twice(command: tuple[str, ...], times: int) -> None:
    seen: list[bytes] = []
    async with lying_server(b"", hold=False, seen=seen) as url:
        node = node_at(url)

        with pytest.raises(BackendUnavailable, match="closed"):
            await node.call(*command)
        await node.aclose()

    assert len(seen) == times


async def test_first_write_after_the_server_closed_an_idle_connection_works(redis_url: str) -> None:
    node = node_at(redis_url)
    own = await node.call("CLIENT", "ID")
    with redis.Redis.from_url(redis_url) as client:
        client.client_kill_filter(_id=own)
        moment = time.monotonic()
        while time.monotonic() < moment + 0.15:  # the loop stands still, so it cannot hear of the end
            pass

        await node.call("SET", "a", "1", *LIFE)
    await node.aclose()


async def test_waiting_callers_share_one_failed_attempt_and_the_next_tries_anew(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    node = node_at(server.url)
    server.stop()

    found = await asyncio.gather(*(node.call("PING") for _ in range(50)), return_exceptions=True)
    assert all(isinstance(each, BackendUnavailable) for each in found)

    server.restart()
    assert await node.call("PING") == b"PONG"
    await node.aclose()


async def test_cancelling_who_opens_leaves_the_others_a_connection(redis_url: str) -> None:
    node = node_at(redis_url)
    callers = [asyncio.create_task(node.call("PING")) for _ in range(5)]
    await asyncio.sleep(0)

    callers[0].cancel()
    found = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [b"PONG"] * 4
    await node.aclose()


async def test_frozen_server_is_left_and_found_again(own_redis: OwnRedisFactory) -> None:
    server = own_redis()
    node = node_at(server.url, BUDGET_SECONDS)
    own = await node.call("CLIENT", "ID")

    server.pause()
    found = await asyncio.gather(*(node.call("GET", "a") for _ in range(300)), return_exceptions=True)
    server.resume()

    assert {type(each) for each in found} == {BackendUnavailable}
    assert await answer_of(lambda: node.call("CLIENT", "ID")) != own
    await node.aclose()


async def test_a_call_out_of_time_does_not_end_the_connection_of_a_server_that_answers() -> None:
    async with slow_server(seconds_each=BUDGET_SECONDS / 3) as url:
        node = node_at(url, BUDGET_SECONDS)

        found = await asyncio.gather(*(node.call("GET", "a") for _ in range(6)), return_exceptions=True)
        (connection,) = node._small.open_connections()

        assert found[0] == b"1"
        assert isinstance(found[5], BackendUnavailable)

        async def has_heard_all() -> bool:
            return not connection._waiting

        await eventually(has_heard_all)
        assert connection.is_open
        assert await node.call("GET", "a") == b"1"
        await node.aclose()


@asynccontextmanager
async def telling_server(*, reads: bool) -> AsyncIterator[str]:
    """Tell of changes all the time and answer nothing; without `reads` the socket fills up, too."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"cache-management\r\n")
        writer.write(b"%1\r\n+proto\r\n:3\r\n+OK\r\n")
        draining = asyncio.create_task(reader.read()) if reads else None
        while not over.is_set() and not writer.is_closing():
            writer.write(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nx\r\n")
            await asyncio.sleep(0.01)
        if draining is not None:
            draining.cancel()
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=1000) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        over.set()
        await asyncio.sleep(0.05)


async def test_a_server_that_only_tells_of_changes_is_left() -> None:
    async with telling_server(reads=True) as url:
        node = node_at(url, BUDGET_SECONDS)
        calls = [asyncio.create_task(node.call("GET", "a"))]

        async def is_left() -> bool:
            calls.append(asyncio.create_task(node.call("GET", "a")))
            return not (connection := connections[0]).is_open and not connection._waiting

        await asyncio.sleep(0.05)
        connections = node._small.open_connections()
        await eventually(is_left)
        found = await asyncio.gather(*calls, return_exceptions=True)
        await node.aclose()

    assert {type(each) for each in found} == {BackendUnavailable}


async def test_who_gave_up_unsent_is_forgotten_with_what_it_wanted_to_send() -> None:
    async with telling_server(reads=False) as url:
        node = node_at(url, BUDGET_SECONDS)
        loop = asyncio.get_running_loop()
        await node._small.opened(loop, loop.time() + BUDGET_SECONDS)
        (connection,) = node._small.open_connections()
        # Patient questions, so that the connection stays.
        first = [connection.ask(("SET", "k", bytes(200_000)), now := loop.time(), now + 60) for _ in range(300)]
        await asyncio.sleep(0)
        kept = len(connection._unsent)
        assert kept > 0, "the socket took everything, so this shows nothing"

        now = loop.time()
        late = [connection.ask(("SET", "k", bytes(200_000)), now, now + 0.05) for _ in range(20)]
        assert {type(each) for each in await asyncio.gather(*late, return_exceptions=True)} == {TimeoutError}

        async def are_forgotten() -> bool:
            return len(connection._unsent) == kept

        await eventually(are_forgotten)
        assert all(question.commands is None for question in connection._waiting), "what was written is not held"
        assert not any(future.done() for future in first)
        await node.aclose()
        await asyncio.gather(*first, return_exceptions=True)


async def answer_of(call: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer."""
    async with asyncio.timeout(PATIENT_SECONDS):
        while True:
            try:
                return await call()
            except BackendUnavailable:
                continue


async def test_a_child_process_opens_its_own_connection(redis_url: str) -> None:
    node = node_at(redis_url)
    own = await node.call("CLIENT", "ID")
    loop = asyncio.get_running_loop()
    before = node._small.connections[loop]

    child = os.fork()
    if child == 0:
        ok = not before.is_open and node._small.usable(loop, 0.0) is None and not node.is_current()
        os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert await node.call("CLIENT", "ID") == own, "the parent keeps what the child left alone"
    await node.aclose()


def test_a_child_that_runs_a_loop_of_its_own_is_served(redis_url: str) -> None:
    async def session() -> None:
        node = node_at(redis_url)
        own = await node.call("CLIENT", "ID")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(20)
                asyncio.events._set_running_loop(None)
                other = asyncio.new_event_loop()
                code = 0 if other.run_until_complete(node.call("CLIENT", "ID")) != own else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await node.call("CLIENT", "ID") == own
        await node.aclose()

    asyncio.run(session())


# Servers that lie.


@asynccontextmanager
async def lying_server(*answers: bytes, hold: bool = True, seen: list[bytes] | None = None) -> AsyncIterator[str]:
    """Greet as a server does, then give these bytes for a question; close unless `hold`."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"cache-management\r\n")
        writer.write(b"%1\r\n+proto\r\n:3\r\n+OK\r\n")
        for answer in answers:
            question = await reader.read(10_000)
            if not question:
                break
            if seen is not None:
                seen.append(question)
            writer.write(answer)
        if hold:
            await reader.read(10_000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        for writer in writers:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def slow_server(*, seconds_each: float) -> AsyncIterator[str]:
    """Answer every question with 1, each after a while."""
    due: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"cache-management\r\n")
        writer.write(b"%1\r\n+proto\r\n:3\r\n+OK\r\n")
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"a\r\n")
                due.put_nowait(writer)
        writer.close()

    async def answer() -> None:
        while True:
            writer = await due.get()
            await asyncio.sleep(seconds_each)
            writer.write(b"$1\r\n1\r\n")

    answering = asyncio.create_task(answer())
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    answering.cancel()


@pytest.mark.parametrize(
    ("answer", "hold"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
        (b"\x00\xff\xfe", True),
        (b"$100\r\nhalf", False),
        (b"$100\r\nhalf", True),
        (b"", False),
        (b"", True),
        (b"*2\r\n$1\r\na\r\n?", True),
    ],
)
async def test_garbage_is_unavailable_and_hangs_nobody(answer: bytes, hold: bool) -> None:
    async with lying_server(answer, answer, hold=hold) as url:
        node = node_at(url, BUDGET_SECONDS)

        async with asyncio.timeout(PATIENT_SECONDS):
            found = await asyncio.gather(node.call("GET", "a"), node.call("SET", "a", "b"), return_exceptions=True)
        await node.aclose()

    assert [type(each) for each in found] == [BackendUnavailable] * 2


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async with lying_server(b"$1\r\na\r\n$1\r\nb\r\n") as url:
        node = node_at(url, BUDGET_SECONDS)

        assert await node.call("GET", "a") == b"a"
        connection = node._small.connections[asyncio.get_running_loop()]
        assert not connection.is_open
        await node.aclose()


# TLS: the embedded server does not speak it, so a proxy does.


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@asynccontextmanager
async def tls_proxy(redis_url: str, certificate: Path) -> AsyncIterator[str]:
    port = int(redis_url.rpartition(":")[2].split("/")[0])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, forth), pump(back, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def test_tls_serves_and_an_unknown_certificate_does_not(
    redis_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tls_proxy(redis_url, certificate) as url:
        stranger = node_at(url)
        with pytest.raises(BackendUnavailable, match="certificate"):
            await stranger.call("PING")
        await stranger.aclose()

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        node = node_at(url)
        value = bytes(3_000_000)
        await node.call("SET", "a", value, *LIFE, payload_bytes=len(value))
        assert await asyncio.gather(*(node.call("STRLEN", "a") for _ in range(100))) == [3_000_000] * 100
        assert await node.call("GET", "a") == value
        await node.aclose()
