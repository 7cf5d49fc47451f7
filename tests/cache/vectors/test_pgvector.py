from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg import sql

from cache_management.cache.errors import BackendRefused, BackendUnavailable, ConfigurationError
from cache_management.cache.vectors.base import VectorIndex
from cache_management.cache.vectors.flat import FlatIndex
from cache_management.cache.vectors.pgvector import PgVectorIndex
from cache_management.services import Server
from tests.cache.vectors.test_auto import names, random_rows
from tests.contracts.vector_index import DIMS, VectorIndexContract, unit, units


class PgContract(VectorIndexContract):
    exact_below: int
    tolerance = 1e-5

    @pytest.fixture(autouse=True)
    def _database(self, postgres_url: str) -> Iterator[None]:
        self.index = PgVectorIndex(postgres_url, dims=DIMS, exact_below=self.exact_below)
        yield
        for connection in self.index._idle:  # opened by the loop of the test, which is gone
            connection.pgconn.finish()

    async def make(self) -> VectorIndex:
        await self.index.drop()
        return self.index


class TestSmallPartitions(PgContract):
    exact_below = 20_000


class TestLargePartitions(PgContract):
    exact_below = 0


async def test_what_one_process_adds_another_finds_at_once(postgres_url: str) -> None:
    one, other = PgVectorIndex(postgres_url, dims=4), PgVectorIndex(postgres_url, dims=4)
    await asyncio.gather(one.size(), other.size())  # both make the table

    await one.add("p", ["a"], units(unit(1, 0, 0, 0)))

    assert [each.id for each in await other.search("p", unit(1, 0, 0, 0), k=1)] == ["a"]
    assert await other.remove("p", ["a"]) == 1
    assert await one.search("p", unit(1, 0, 0, 0), k=1) == []
    await one.aclose()
    await other.aclose()


async def test_small_part_of_a_large_table_is_found_through_the_graph(postgres_url: str) -> None:
    rows = random_rows(3_000, dims=16)
    index, exact = PgVectorIndex(postgres_url, dims=16, exact_below=100, timeout_seconds=60), FlatIndex()
    for each in (index, exact):
        await each.add("most", names(2_850), rows[:2_850])
        await each.add("few", names(150), rows[2_850:])

    same = 0
    for query in random_rows(50, dims=16, seed=8):
        found, true = await index.search("few", query, k=10), await exact.search("few", query, k=10)
        assert len(found) == 10
        same += len({each.id for each in found} & {each.id for each in true})

    assert same >= 490
    await index.aclose()


async def test_callers_at_once_share_a_few_connections(postgres_url: str) -> None:
    index = PgVectorIndex(postgres_url, dims=4, connections=2)
    await asyncio.gather(
        *(index.add("p", [str(at), "x"], units(unit(1, at, 0, 0), unit(0, 0, 1, 0))) for at in range(40))
    )

    assert await index.size("p") == 41
    assert len(index._idle) <= 2
    await index.aclose()


def test_index_serves_one_event_loop_after_another(postgres_url: str) -> None:
    index = PgVectorIndex(postgres_url, dims=4)
    asyncio.run(index.add("p", ["a"], units(unit(1, 0, 0, 0))))

    async def rest() -> int:
        try:
            return await index.size("p")
        finally:
            await index.aclose()

    assert asyncio.run(rest()) == 1


async def test_connection_that_the_server_ended_is_opened_again(postgres_url: str) -> None:
    index = PgVectorIndex(postgres_url, dims=4)
    await index.add("p", ["a"], units(unit(1, 0, 0, 0)))
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    assert await index.size("p") == 1

    await index.aclose()


async def test_table_that_was_removed_is_made_again(postgres_url: str) -> None:
    index = PgVectorIndex(postgres_url, dims=4)
    await index.add("p", ["a"], units(unit(1, 0, 0, 0)))
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("DROP TABLE cm_vectors_4")

    assert await index.search("p", unit(1, 0, 0, 0), k=1) == []

    await index.aclose()


async def test_server_that_is_down_is_unavailable() -> None:
    index = PgVectorIndex("postgresql://nobody@127.0.0.1:1/none", dims=4, timeout_seconds=5)

    with pytest.raises(BackendUnavailable, match="pgvector is unavailable"):
        await index.search("p", unit(1, 0, 0, 0), k=1)


async def test_server_that_is_silent_is_unavailable() -> None:
    left = asyncio.Event()

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    index = PgVectorIndex(f"postgresql://nobody@127.0.0.1:{port}/none", dims=4, timeout_seconds=0.1)

    with pytest.raises(BackendUnavailable, match="no answer within"):
        await index.size()

    await left.wait()
    server.close()
    await server.wait_closed()


async def test_url_that_cannot_be_read_is_told() -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        await PgVectorIndex("postgresql://host/db?wrong=1", dims=4).size()


@pytest.mark.parametrize("dims", [0, 2_001])
def test_width_that_cannot_be_searched_is_told(dims: int) -> None:
    with pytest.raises(ConfigurationError, match=f"width {dims}"):
        PgVectorIndex("postgresql://host/db", dims=dims)


@pytest.mark.parametrize("table", ["", "Vectors", "a-b", 'x"; DROP TABLE y', "v" * 60])
def test_table_name_that_cannot_be_used_is_told(table: str) -> None:
    with pytest.raises(ConfigurationError, match="table name"):
        PgVectorIndex("postgresql://host/db", dims=4, table=table)


@pytest.fixture
def guest_url(postgres_server: Server, postgres_url: str) -> Iterator[str]:
    """The URL of an account that may log in and nothing else."""
    name = postgres_url.rsplit("/", 1)[1].replace("test_", "guest_")
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'guest'").format(sql.Identifier(name)))
        try:
            host = postgres_url.rsplit("@", 1)[1]
            yield f"postgresql://{name}:guest@{host}"
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


async def test_account_that_may_not_install_the_extension_is_told_what_to_do(guest_url: str) -> None:
    index = PgVectorIndex(guest_url, dims=4)

    with pytest.raises(ConfigurationError, match="CREATE EXTENSION vector"):
        await index.size()

    await index.aclose()


async def test_account_that_may_not_write_is_refused(guest_url: str, postgres_url: str) -> None:
    owner = PgVectorIndex(postgres_url, dims=4)
    await owner.add("p", ["a"], units(unit(1, 0, 0, 0)))
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute("GRANT SELECT ON cm_vectors_4 TO PUBLIC")
    guest = PgVectorIndex(guest_url, dims=4)

    assert await guest.size() == 1
    with pytest.raises(BackendRefused, match="denied"):
        await guest.add("p", ["b"], units(unit(0, 1, 0, 0)))

    await owner.aclose()
    await guest.aclose()


async def test_similarity_is_that_of_32_bit_floats(postgres_url: str) -> None:
    rows = random_rows(50, dims=384)
    index = PgVectorIndex(postgres_url, dims=384)
    await index.add("p", names(50), rows)

    found = await index.search("p", rows[0], k=50)

    true = rows @ rows[0]
    assert [each.similarity for each in found] == pytest.approx([true[int(each.id)] for each in found], abs=1e-6)
    assert found[0].id == "0"
    assert np.isclose(found[0].similarity, 1.0)
    await index.aclose()
