"""The index past one machine: a PostgreSQL with the extension pgvector, shared by all processes.

partition  digest of the partition's name
key        digest of the id; names may be longer than an index of PostgreSQL takes
id         the id itself, as bytes: PostgreSQL's text knows neither NUL nor half a surrogate pair
vector     32-bit floats
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeVar

import numpy as np
from numpy.typing import NDArray

try:
    import psycopg
    from psycopg import errors, sql
except ImportError as exc:
    raise ImportError("The pgvector index needs: pip install 'cache-management[postgres]'") from exc

from cache_management.cache.errors import BackendRefused, BackendUnavailable, ConfigurationError
from cache_management.cache.identity import digest
from cache_management.cache.records import Neighbour
from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.checks import checked_query, checked_rows

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_NAME = "pgvector"
_WIDEST = 2_000  # of what pgvector can put in a graph
_LONGEST_TABLE = 48  # PostgreSQL cuts names at 63 bytes; width and suffix follow
_ROWS = 500  # of one statement
_KNOWN_SECONDS = 60.0
_KNOWN_PARTITIONS = 10_000

# Strict order: the first k are the best k of what was seen. Iterative: a partition that is a small part of the
# table is searched further and further out, up to the default of 20,000 rows, until k of its rows were met.
_SESSION = "SET hnsw.iterative_scan = strict_order; SET hnsw.ef_search = 128"


class PgVectorIndex(VectorIndex):
    """Keeps vectors in one table for each width; what one process adds, all find at once.

    A partition of up to `exact_below` vectors is compared row by row, a larger one through a graph
    (HNSW) over the whole table. The extension, the table and the graph are made at first use.
    `drop` forgets for everybody; `aclose` only ends this process's connections.

    Args:
        url: `postgresql://user:password@host:port/database`, or with SQLAlchemy's `+psycopg`.
        dims: Width of all vectors, at most 2,000.
        table: Beginning of the table's name: ASCII letters, digits and underscores.
        exact_below: Vectors of a partition up to which every row is compared.
        timeout_seconds: For each call, making a connection included.
        connections: How many calls go on at once; others wait.

    Every call raises, beside what `VectorIndex` says:
        BackendUnavailable: The server did not do it in time, or cannot be reached.
        BackendRefused: The server is there and refused: full, read-only, not permitted.
        ConfigurationError: The server lacks the extension, or this account may not install it.
    """

    is_shared = True

    def __init__(
        self,
        url: str,
        *,
        dims: int,
        table: str = "cm_vectors",
        exact_below: int = 20_000,
        timeout_seconds: float = 5.0,
        connections: int = 4,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= dims <= _WIDEST:
            raise ConfigurationError(f"vectors of width {dims}: pgvector searches 1 to {_WIDEST}; use a smaller model")
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", table) or len(table) > _LONGEST_TABLE:
            raise ConfigurationError(
                f"the table name {table!r}: take up to {_LONGEST_TABLE} lower-case letters, digits and underscores"
            )
        self._url = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._dims = dims
        self._table = f"{table}_{dims}"
        self._exact_below = exact_below
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        self._monotonic = monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(connections)
        self._is_ready = False
        self._large_until: dict[str, float] = {}

    async def add(self, partition: str, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        rows = checked_rows(ids, vectors, self._dims)
        latest = {_key(name): (_to_bytes(name), row) for name, row in zip(ids, rows, strict=True)}
        # Sorted, so that two processes that add the same ids lock them in the same order.
        parts = [(key, name, _literal(row)) for key, (name, row) in sorted(latest.items(), key=lambda item: item[0])]
        if not parts:
            return

        async def insert(connection: Connection) -> None:
            for start in range(0, len(parts), _ROWS):
                keys, names, texts = zip(*parts[start : start + _ROWS], strict=True)
                await connection.execute(
                    self._sql(
                        "INSERT INTO {table} (partition, key, id, vector)"
                        " SELECT %s, key, id, near::vector"
                        " FROM unnest(%s::bytea[], %s::bytea[], %s::text[]) AS given (key, id, near)"
                        " ON CONFLICT (partition, key) DO UPDATE SET vector = EXCLUDED.vector"
                        " WHERE {table}.vector IS DISTINCT FROM EXCLUDED.vector"
                    ),
                    [_key(partition), list(keys), list(names), list(texts)],
                )

        await self._call(insert)

    async def remove(self, partition: str, ids: Sequence[str]) -> int:
        async def delete(connection: Connection) -> int:
            done = await connection.execute(
                self._sql("DELETE FROM {table} WHERE partition = %s AND key = ANY(%s::bytea[])"),
                [_key(partition), sorted({_key(name) for name in ids})],
            )
            return done.rowcount

        return await self._call(delete) if ids else 0

    async def search(self, partition: str, query: NDArray[np.float32], *, k: int) -> list[Neighbour]:
        row = checked_query(query, self._dims)
        if k <= 0:
            return []
        near = _literal(row)

        async def select(connection: Connection) -> list[Neighbour]:
            if await self._is_large(connection, partition):
                found = await self._nearest(connection, partition, near, k, order=sql.SQL("vector <#> %s::vector"))
                if len(found) == k:
                    return found
            # Adding 0 makes it another expression than that of the graph: every row of the partition is compared.
            return await self._nearest(connection, partition, near, k, order=sql.SQL("(vector <#> %s::vector) + 0"))

        return await self._call(select)

    async def absent(self, places: Mapping[str, str]) -> set[str]:
        asked = [(_key(partition), _key(name), name) for name, partition in places.items()]

        async def select(connection: Connection) -> set[tuple[bytes, bytes]]:
            held: set[tuple[bytes, bytes]] = set()
            for start in range(0, len(asked), _ROWS):
                partitions, keys, _ = zip(*asked[start : start + _ROWS], strict=True)
                done = await connection.execute(
                    self._sql(
                        "SELECT partition, key FROM {table}"
                        " JOIN unnest(%s::bytea[], %s::bytea[]) AS asked (partition, key) USING (partition, key)"
                    ),
                    [list(partitions), list(keys)],
                )
                held.update(await done.fetchall())
            return held

        held = await self._call(select) if asked else set()
        return {name for partition, key, name in asked if (partition, key) not in held}

    async def size(self, partition: str | None = None) -> int:
        async def count(connection: Connection) -> int:
            done = await connection.execute(
                self._sql("SELECT count(*) FROM {table}")
                if partition is None
                else self._sql("SELECT count(*) FROM {table} WHERE partition = %s"),
                None if partition is None else [_key(partition)],
            )
            (found,) = await done.fetchone() or (0,)
            return int(found)

        return await self._call(count)

    async def drop(self, partition: str | None = None) -> None:
        async def delete(connection: Connection) -> None:
            if partition is None:
                await connection.execute(self._sql("TRUNCATE {table}"))
            else:
                await connection.execute(self._sql("DELETE FROM {table} WHERE partition = %s"), [_key(partition)])

        await self._call(delete)
        if partition is None:
            self._large_until.clear()
        else:
            self._large_until.pop(partition, None)

    async def aclose(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _is_large(self, connection: Connection, partition: str) -> bool:
        """Tell whether a partition is too large to be compared row by row; large ones are remembered for a minute."""
        now = self._monotonic()
        if self._large_until.get(partition, 0.0) > now:
            return True
        done = await connection.execute(
            self._sql("SELECT count(*) FROM (SELECT 1 FROM {table} WHERE partition = %s LIMIT %s) AS counted"),
            [_key(partition), self._exact_below + 1],
        )
        (found,) = await done.fetchone() or (0,)
        if found <= self._exact_below:
            return False
        if len(self._large_until) >= _KNOWN_PARTITIONS:
            self._large_until.clear()
        self._large_until[partition] = now + _KNOWN_SECONDS
        return True

    async def _nearest(
        self, connection: Connection, partition: str, near: str, k: int, *, order: sql.SQL
    ) -> list[Neighbour]:
        done = await connection.execute(
            sql.SQL(
                "SELECT id, -(vector <#> %s::vector) FROM {table} WHERE partition = %s ORDER BY {order} LIMIT %s"
            ).format(table=sql.Identifier(self._table), order=order),
            [near, _key(partition), near, k],
        )
        return [Neighbour(_to_text(name), similarity) for name, similarity in await done.fetchall()]

    def _sql(self, text: LiteralString) -> sql.Composed:
        return sql.SQL(text).format(table=sql.Identifier(self._table))

    async def _call(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something in one transaction, with what the driver raises in words of ours."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                try:
                    return await self._once(work)
                except (psycopg.OperationalError, errors.UndefinedTable):
                    # A server that was started anew, or a table that was removed. All calls may be done twice.
                    self._is_ready = False
                    await self.aclose()
                    return await self._once(work)
        except TimeoutError as exc:
            raise BackendUnavailable(_NAME, f"no answer within {self._timeout_seconds:g} s") from exc
        except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction, errors.InsufficientResources) as exc:
            raise BackendRefused(_NAME, _said(exc)) from exc
        except psycopg.Error as exc:
            raise BackendUnavailable(_NAME, _said(exc)) from exc

    async def _once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._connection() as connection:
            if not self._is_ready:
                await self._prepare(connection)
                self._is_ready = True
            async with connection.transaction():
                return await work(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # A connection belongs to the loop that opened it; this ends its socket without asking that loop.
            for connection in self._idle:
                connection.pgconn.finish()
            self._loop, self._idle, self._free = loop, [], asyncio.Semaphore(self._connections)
        async with self._free:
            connection = self._idle.pop() if self._idle else await self._open()
            try:
                yield connection
            finally:
                if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    await connection.close()
                else:
                    self._idle.append(connection)

    async def _open(self) -> Connection:
        try:
            connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        except psycopg.ProgrammingError as exc:
            raise ConfigurationError(f"the URL of the vector database cannot be read: {_said(exc)}") from exc
        await connection.execute(_SESSION)
        return connection

    async def _prepare(self, connection: Connection) -> None:
        """Make the extension, the table and the graph where they are missing."""
        done = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{self._table}_near"])
        if (await done.fetchone() or (False,))[0]:
            return  # "if not exists" asks for the right to make what exists
        try:
            async with connection.transaction():
                # Two processes that make the same table at once would fail, "if not exists" or not.
                await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self._table])
                await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                await connection.execute(
                    sql.SQL(
                        "CREATE TABLE IF NOT EXISTS {table} (partition bytea NOT NULL, key bytea NOT NULL,"
                        " id bytea NOT NULL, vector vector({dims}) NOT NULL, PRIMARY KEY (partition, key))"
                    ).format(table=sql.Identifier(self._table), dims=sql.Literal(self._dims))
                )
                await connection.execute(
                    sql.SQL(
                        "CREATE INDEX IF NOT EXISTS {near} ON {table} USING hnsw (vector vector_ip_ops)"
                        " WITH (m = 16, ef_construction = 128)"
                    ).format(near=sql.Identifier(f"{self._table}_near"), table=sql.Identifier(self._table))
                )
        except (errors.FeatureNotSupported, errors.UndefinedFile) as exc:
            raise ConfigurationError(
                f"the PostgreSQL server lacks the extension vector (pgvector): install it there ({_said(exc)})"
            ) from exc
        except errors.InsufficientPrivilege as exc:
            raise ConfigurationError(
                f"this account may not set up {self._table!r} ({_said(exc)}): have an administrator run"
                " CREATE EXTENSION vector, and let the account create tables"
            ) from exc
        except errors.UndefinedObject as exc:
            raise ConfigurationError(f"pgvector 0.8 or later is needed: {_said(exc)}") from exc


def _key(name: str) -> bytes:
    return bytes.fromhex(digest(name))


def _to_bytes(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _to_text(name: bytes) -> str:
    return name.decode(errors="surrogatepass")


def _literal(row: NDArray[np.float32]) -> str:
    return str(row.tolist())


def _said(exc: psycopg.Error) -> str:
    return " ".join(str(exc).split())
