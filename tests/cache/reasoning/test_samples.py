"""Whatever consumers do, and in whatever order: no sample is given twice within a namespace, none is lost."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from cache_management.cache.reasoning.samples import HOLE, Samples

LEASE = 10.0


class Consumers(RuleBasedStateMachine):
    """Three namespaces take samples, generate what is missing, give up, come too late and stand still."""

    tickets = Bundle("tickets")

    @initialize()
    def begin(self) -> None:
        self.state = Samples(epoch=1)
        self.now = 0.0
        self.names = 0
        self.used: dict[str, set[int]] = {"a": set(), "b": set()}
        self.generated = 0

    @rule(target=tickets, namespace=st.sampled_from(["a", "b"]), count=st.integers(1, 4))
    def take(self, namespace: str, count: int) -> tuple[str, str]:
        self.names += 1
        name = f"ticket {self.names}"
        taking = self.state.take(name, namespace, count, now=self.now, lease_seconds=LEASE)

        places = [*taking.present, *taking.missing, *taking.waiting]
        assert len(places) == len(set(places)) == count
        self._use(namespace, taking.present)
        others = {place for each, ticket in self.state.tickets.items() if each != name for place in ticket.missing}
        assert not others & set(taking.missing), "two generate one place"
        return name, namespace

    @rule(ticket=tickets)
    def look_again(self, ticket: tuple[str, str]) -> None:
        name, namespace = ticket
        self._use(namespace, self.state.again(name, now=self.now, lease_seconds=LEASE).present)

    @rule(ticket=consumes(tickets), extra=st.integers(0, 1))
    def offer(self, ticket: tuple[str, str], extra: int) -> None:
        name, namespace = ticket
        held = self.state.tickets.get(name)
        count = (0 if held is None else len(held.missing)) + extra
        places = self.state.offer(name, namespace, list(range(self.generated, self.generated + count)))
        self.generated += count
        self._use(namespace, places)

    @rule(ticket=consumes(tickets))
    def give_up(self, ticket: tuple[str, str]) -> None:
        self.state.give_back(*ticket)

    @rule(ticket=consumes(tickets))
    def die(self, ticket: tuple[str, str]) -> None:
        """Nothing more is heard of it."""

    @rule(seconds=st.sampled_from([1.0, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=tickets)
    def nothing(self) -> object:
        return multiple()

    def _use(self, namespace: str, places: list[int]) -> None:
        assert not self.used[namespace] & set(places), "a sample was given twice"
        self.used[namespace] |= set(places)

    @invariant()
    def every_sample_that_was_generated_is_there_once(self) -> None:
        if hasattr(self, "state"):
            kept = [text for text in self.state.texts if text != HOLE]
            assert sorted(kept) == list(range(self.generated))


TestConsumers = Consumers.TestCase


def take(state: Samples, namespace: str, count: int, name: str = "t", now: float = 0.0) -> tuple[list[int], int, int]:
    taking = state.take(name, namespace, count, now=now, lease_seconds=LEASE)
    return taking.present, len(taking.missing), len(taking.waiting)


def test_another_namespace_sees_the_same_samples_in_the_same_order() -> None:
    state = Samples(epoch=1, texts=[5, 5, 7])

    assert take(state, "a", 2) == ([0, 1], 0, 0)
    assert take(state, "a", 2) == ([2], 1, 0)
    assert take(state, "b", 3) == ([0, 1, 2], 0, 0)


def test_asking_for_five_while_three_are_under_way_starts_two() -> None:
    state = Samples(epoch=1)

    assert take(state, "a", 3, "first") == ([], 3, 0)
    assert take(state, "b", 5, "second") == ([], 2, 3)

    state.offer("first", "a", [10, 11, 12])
    again = state.again("second", now=1, lease_seconds=LEASE)
    assert (again.present, again.missing, again.waiting) == ([0, 1, 2], [], [])
    state.offer("second", "b", [13, 14])
    assert state.texts == [10, 11, 12, 13, 14]
    assert state.tickets == {}


def test_what_a_dead_consumer_was_to_generate_is_generated_by_who_waits() -> None:
    state = Samples(epoch=1)
    take(state, "a", 1, "dead")
    take(state, "b", 1, "alive")

    assert state.again("alive", now=LEASE - 1, lease_seconds=LEASE).waiting == [0]
    assert state.again("alive", now=LEASE, lease_seconds=LEASE).missing == [0]
    assert take(state, "a", 1, "next", now=LEASE) == ([], 0, 1), "the place comes back to the namespace of the dead one"


def test_what_is_given_back_is_taken_first() -> None:
    state = Samples(epoch=1, texts=[5, 6, 7])
    take(state, "a", 2)
    state.give_back("t", "a", [0])

    assert take(state, "a", 2) == ([0, 2], 0, 0)
    assert state.used("a") == 3


def test_nobody_begins_at_the_first_sample_each_time() -> None:
    state = Samples(epoch=1, texts=[5, 6])

    assert take(state, "", 1) == ([0], 0, 0)
    assert take(state, "", 3) == ([0, 1], 1, 0)
    assert state.uses == {}


def test_who_comes_too_late_adds_a_sample_that_its_namespace_is_not_given() -> None:
    state = Samples(epoch=1)
    take(state, "a", 1, "slow")
    take(state, "b", 1, "other", now=LEASE)
    state.offer("other", "b", [1])

    assert state.offer("slow", "a", [2]) == [1]
    assert state.texts == [1, 2]
    assert take(state, "a", 2, now=LEASE) == ([0], 1, 0)
    assert take(state, "b", 1, now=LEASE) == ([1], 0, 0)


def test_what_was_taken_before_a_reset_is_not_given_back_to_be_taken_twice() -> None:
    state = Samples(epoch=1, texts=[0, 1])
    taking = state.take("t", "n", 3, now=0.0, lease_seconds=1.0)
    state.reset("n")

    state.give_back("t", "n", taking.present)
    state.expire(10.0)

    assert state.take("u", "n", 2, now=10.0, lease_seconds=1.0).present == [0, 1]
    assert state.take("v", "n", 1, now=10.0, lease_seconds=1.0).present == []
