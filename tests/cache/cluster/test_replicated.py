from __future__ import annotations

import pytest
from redis import Redis

from cache_management.cache.backends.base import Backend, Journal, Leases, Stash, Tags
from cache_management.cache.backends.wrapped import FullBackend
from cache_management.cache.cluster.membership import Membership
from cache_management.cache.cluster.quorum import Level
from cache_management.cache.cluster.replicated import ReplicatedBackend
from cache_management.cache.config import ReplicationConfig, ShardingStrategy
from cache_management.cache.events import ignore
from tests.cache.cluster.conftest import PATIENT
from tests.contracts.backend import BackendContract, JournalContract
from tests.contracts.clock import ManualClock
from tests.contracts.conditional import ConditionalContract
from tests.contracts.coordination import LeasesContract, StashContract, TagsContract
from tests.contracts.sweepable import SweepableContract
from tests.contracts.watched import WatchedContract


def open_replicated(
    nodes: list[str], clock: ManualClock, *, replicas: int = 2, level: Level = "quorum"
) -> ReplicatedBackend:
    membership = Membership(
        nodes,
        ShardingStrategy.CONSISTENT_HASH,
        ReplicationConfig(replicas=replicas),
        config=PATIENT,
        clock=clock,
        listener=ignore,
        nodes_clock=clock,
    )
    return ReplicatedBackend(membership, config=PATIENT, level=level, clock=clock)


class TestReplicatedBackend(BackendContract):
    replicas = 2
    level: Level = "quorum"

    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make(self) -> Backend:
        return open_replicated(self.nodes, self.clock, replicas=self.replicas, level=self.level)


class TestTwoCopiesAndAVoter(TestReplicatedBackend):
    replicas = 1


class TestOneAnswer(TestReplicatedBackend):
    level: Level = "one"

    async def make(self) -> Backend:
        return open_replicated(self.nodes[:1], self.clock, replicas=0, level="one")


class TestReplicatedJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make_journal(self) -> Journal:
        return open_replicated(self.nodes, ManualClock())

    async def lose_beginning(self, journal: Journal, stream: str) -> None:
        for node in self.nodes:
            with Redis.from_url(f"redis://{node}") as client:
                client.xtrim("j:" + stream, maxlen=1, approximate=False)

    async def test_a_journal_can_be_read_on_before_anything_else(self, journal: Journal) -> None:
        cursor = await journal.append("s", [b"1"])
        await journal.append("s", [b"2"])
        other = open_replicated(self.nodes, ManualClock())

        assert (await other.read_after("s", cursor, limit=10))[0] == [b"2"]

        await other.aclose()

    async def count_notes(self, journal: Journal, stream: str) -> int:
        counts = []
        for node in self.nodes:
            with Redis.from_url(f"redis://{node}") as client:
                counts.append(int(client.xlen("j:" + stream)))
        return max(counts)

    async def journal_after_a_loss(self, journal: Journal, stream: str) -> Journal:
        for node in self.nodes:
            with Redis.from_url(f"redis://{node}") as client:
                client.delete("j:" + stream)
        return journal


class TestReplicatedChanges(ConditionalContract):
    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make(self) -> FullBackend:
        return open_replicated(self.nodes, self.clock)


class TestReplicatedLeases(LeasesContract):
    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make_leases(self) -> Leases:
        return open_replicated(self.nodes, self.clock)

    async def expire(self, name: str) -> None:
        for node in self.nodes:
            with Redis.from_url(f"redis://{node}") as client:
                client.delete("l:" + name)


class TestReplicatedTags(TagsContract):
    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make_tags(self) -> Tags:
        return open_replicated(self.nodes, self.clock)


class TestReplicatedStash(StashContract):
    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make_stash(self) -> Stash:
        return open_replicated(self.nodes, self.clock)


class TestReplicatedSweep(SweepableContract):
    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make(self) -> FullBackend:
        return open_replicated(self.nodes, self.clock)


class TestReplicatedWatch(WatchedContract):
    @pytest.fixture(autouse=True)
    def servers(self, nodes: list[str]) -> None:
        self.nodes = nodes

    async def make(self) -> FullBackend:
        return open_replicated(self.nodes, self.clock)
