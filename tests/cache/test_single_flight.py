from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from cache_management.cache.backends.local_leases import LocalLeases
from cache_management.cache.errors import BackendUnavailable
from cache_management.cache.single_flight import Holder, SingleFlight
from tests.contracts.clock import ManualClock
from tests.waiting import eventually


class Work:
    """A stored value, and a computation of it that counts and can be held up."""

    def __init__(self) -> None:
        self.stored: str | None = None
        self.runs = 0
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.holders: list[Holder] = []

    async def compute(self, holder: Holder) -> str:
        self.runs += 1
        self.holders.append(holder)
        self.started.set()
        await self.go.wait()
        if await holder.still_holds():
            self.stored = f"value {self.runs}"
        return f"value {self.runs}"

    async def look(self) -> str | None:
        return self.stored


async def test_callers_of_one_process_share_one_computation() -> None:
    work, flights = Work(), SingleFlight[str]()
    callers = [asyncio.create_task(flights.run("k", work.compute, work.look)) for _ in range(25)]
    await work.started.wait()
    work.go.set()

    assert set(await asyncio.gather(*callers)) == {"value 1"}
    assert work.runs == 1


@pytest.mark.parametrize("leases", [None, LocalLeases])
async def test_a_computation_that_asks_for_itself_computes_and_does_not_wait_for_itself(
    leases: type[LocalLeases] | None,
) -> None:
    shared = None if leases is None else leases(clock=ManualClock())
    work, flights, others = Work(), SingleFlight[str](shared), SingleFlight[str](shared)
    work.go.set()

    async def outer(_: Holder) -> str:
        same = await flights.run("k", work.compute, work.look)
        in_a_task = await asyncio.create_task(others.run("k", work.compute, work.look))
        return f"{same}, {in_a_task}"

    async with asyncio.timeout(5):
        assert await flights.run("k", outer, work.look) == "value 1, value 2"
        work.stored = None
        assert await flights.run("k", work.compute, work.look) == "value 3"


async def test_other_names_are_computed_apart() -> None:
    work, flights = Work(), SingleFlight[str]()
    work.go.set()

    await asyncio.gather(*(flights.run(name, work.compute, work.look) for name in "abc"))

    assert work.runs == 3


async def test_processes_share_one_computation_by_the_lease() -> None:
    work, leases = Work(), LocalLeases()
    processes = [SingleFlight[str](leases) for _ in range(4)]
    callers = [asyncio.create_task(each.run("k", work.compute, work.look)) for each in processes for _ in range(25)]
    await work.started.wait()
    work.go.set()

    assert set(await asyncio.gather(*callers)) == {"value 1"}
    assert work.runs == 1


async def test_who_gets_the_lease_looks_before_it_computes() -> None:
    work, leases = Work(), LocalLeases()
    work.stored = "stored meanwhile"

    assert await SingleFlight[str](leases).run("k", work.compute, work.look) == "stored meanwhile"
    assert work.runs == 0


async def test_a_holder_that_died_costs_exactly_one_more_computation() -> None:
    work, leases = Work(), LocalLeases()
    await leases.acquire("k", owner="a process that is gone", ttl_seconds=0.05)
    callers = [asyncio.create_task(SingleFlight[str](leases).run("k", work.compute, work.look)) for _ in range(20)]
    await work.started.wait()
    work.go.set()

    assert set(await asyncio.gather(*callers)) == {"value 1"}
    assert work.runs == 1


async def test_a_holder_that_lost_its_lease_may_not_store() -> None:
    work, leases = Work(), LocalLeases()
    late = asyncio.create_task(SingleFlight[str](leases).run("k", work.compute, work.look))
    await work.started.wait()
    await leases.release("k", owner=work.holders[0]._owner)
    await leases.acquire("k", owner="its successor", ttl_seconds=60)
    work.go.set()

    assert await late == "value 1"
    assert work.stored is None


async def test_a_lease_is_renewed_while_the_computation_runs() -> None:
    work, leases = Work(), LocalLeases()
    running = asyncio.create_task(SingleFlight[str](leases, lease_seconds=0.3).run("k", work.compute, work.look))
    await work.started.wait()
    renewals = 0
    renew = leases.renew

    async def counted(name: str, *, owner: str, ttl_seconds: float) -> bool:
        nonlocal renewals
        renewals += 1
        return await renew(name, owner=owner, ttl_seconds=ttl_seconds)

    leases.renew = counted  # type: ignore[method-assign]
    await eventually(lambda: _answer(renewals >= 3))
    work.go.set()

    assert await running == "value 1"
    assert work.stored == "value 1"
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "nothing is renewed once it is given back"


async def test_a_short_computation_costs_one_task_and_no_renewal() -> None:
    leases = LocalLeases()
    tasks: list[asyncio.Task[object]] = []
    renewed: list[str] = []

    async def compute(holder: Holder) -> str:
        for _ in range(3):  # turns in which a renewal could begin
            await asyncio.sleep(0)
        tasks.extend(asyncio.all_tasks())
        return "value"

    async def counted(name: str, *, owner: str, ttl_seconds: float) -> bool:
        renewed.append(name)
        return True

    async def nothing() -> None:
        return None

    leases.renew = counted  # type: ignore[method-assign]
    flights = SingleFlight[str](leases)

    assert await flights.run("k", compute, nothing) == "value"
    assert len(tasks) == 2, "the caller's and the computation's"
    assert not renewed
    assert not any(flights._loops.values())


async def _answer(value: bool) -> bool:
    return value


async def test_an_exception_reaches_every_caller_and_the_next_computes_again() -> None:
    flights = SingleFlight[str](LocalLeases())
    runs = 0

    async def fail(_: Holder) -> str:
        nonlocal runs
        runs += 1
        raise KeyError("provider is down")

    async def nothing() -> None:
        return None

    callers = [flights.run("k", fail, nothing) for _ in range(3)]
    assert [type(found) for found in await asyncio.gather(*callers, return_exceptions=True)] == [KeyError] * 3
    assert runs == 1
    with pytest.raises(KeyError):
        await flights.run("k", fail, nothing)
    assert runs == 2


async def test_those_who_waited_for_a_failure_do_not_wait_for_each_others() -> None:
    leases, nothing_stored = LocalLeases(), Work().look
    go, runs, at_once = asyncio.Event(), 0, 0

    async def fail(_: Holder) -> str:
        nonlocal runs, at_once
        runs += 1
        if runs == 1:
            await go.wait()
        else:
            at_once += 1
            await eventually(lambda: _answer(at_once == 7))  # nobody fails before all have begun
        raise TimeoutError("provider")

    processes = [SingleFlight[str](leases) for _ in range(8)]
    asking = [asyncio.create_task(each.run("k", fail, nothing_stored)) for each in processes]
    await eventually(lambda: _answer(runs == 1))
    await asyncio.sleep(0.02)  # the others wait
    go.set()

    failures = await asyncio.gather(*asking, return_exceptions=True)

    assert [type(failure) for failure in failures] == [TimeoutError] * 8
    assert runs == 8


async def test_the_mark_of_a_failure_is_gone_before_long() -> None:
    clock = ManualClock()
    leases = LocalLeases(clock)

    async def fail(_: Holder) -> str:
        raise TimeoutError("provider")

    with pytest.raises(TimeoutError):
        await SingleFlight[str](leases).run("k", fail, Work().look)
    clock.advance(5)
    work = Work()
    asking = [asyncio.create_task(SingleFlight[str](leases).run("k", work.compute, work.look)) for _ in range(4)]
    await work.started.wait()
    await asyncio.sleep(0.05)
    work.go.set()

    assert set(await asyncio.gather(*asking)) == {"value 1"}
    assert work.runs == 1


async def test_a_cancelled_caller_does_not_stop_the_others() -> None:
    work, flights = Work(), SingleFlight[str](LocalLeases())
    first = asyncio.create_task(flights.run("k", work.compute, work.look))
    second = asyncio.create_task(flights.run("k", work.compute, work.look))
    await work.started.wait()

    first.cancel()
    work.go.set()

    assert await second == "value 1"
    assert first.cancelled() or await _cancelled(first)


async def test_a_cancelled_caller_goes_at_once_and_a_late_one_joins_those_who_stay() -> None:
    work, flights = Work(), SingleFlight[str](LocalLeases())
    first, second = (asyncio.create_task(flights.run("k", work.compute, work.look)) for _ in range(2))
    await work.started.wait()

    first.cancel()
    assert await _cancelled(first)
    late = asyncio.create_task(flights.run("k", work.compute, work.look))
    await asyncio.sleep(0)
    second.cancel()
    assert await _cancelled(second)
    work.go.set()

    assert await late == "value 1"
    assert work.runs == 1


async def test_a_caller_cancelled_as_the_answer_comes_takes_it_from_nobody() -> None:
    flights, go = SingleFlight[str](), asyncio.Event()

    async def compute(_: Holder) -> str:
        await go.wait()
        for caller in callers[::2]:
            caller.cancel()
        return "value"

    async def nothing() -> None:
        return None

    callers = [asyncio.create_task(flights.run("k", compute, nothing)) for _ in range(6)]
    await asyncio.sleep(0)
    go.set()

    assert await asyncio.wait_for(asyncio.gather(*callers[1::2]), 5) == ["value"] * 3
    assert [await _cancelled(caller) for caller in callers[::2]] == [True] * 3


async def test_a_caller_cancelled_at_once_leaves_the_key_free() -> None:
    work, leases = Work(), LocalLeases()
    flights = SingleFlight[str](leases)
    only = asyncio.create_task(flights.run("k", work.compute, work.look))
    await asyncio.sleep(0)  # it waits now; the computation has not had its first turn
    only.cancel()
    assert await _cancelled(only)

    work.go.set()
    assert await flights.run("k", work.compute, work.look) == f"value {work.runs}"
    assert not any(flights._loops.values())


async def test_a_computation_that_is_cancelled_from_inside_cancels_those_who_wait() -> None:
    flights, go = SingleFlight[str](LocalLeases()), asyncio.Event()

    async def compute(_: Holder) -> str:
        await go.wait()
        raise asyncio.CancelledError

    async def nothing() -> None:
        return None

    callers = [asyncio.create_task(flights.run("k", compute, nothing)) for _ in range(3)]
    await asyncio.sleep(0.01)
    go.set()

    assert [await _cancelled(caller) for caller in callers] == [True] * 3
    assert not any(flights._loops.values())


async def test_a_look_that_fails_gives_the_lease_back() -> None:
    work, leases = Work(), LocalLeases()

    async def broken() -> str | None:
        raise KeyError("the store")

    with pytest.raises(KeyError):
        await SingleFlight[str](leases).run("k", work.compute, broken)

    assert await leases.acquire("k", owner="next", ttl_seconds=1) is not None


async def _cancelled(task: asyncio.Task[str]) -> bool:
    await asyncio.wait([task])
    return task.cancelled()


async def test_when_all_callers_are_cancelled_the_computation_is_too_and_the_lease_is_free() -> None:
    work, leases = Work(), LocalLeases()
    flights = SingleFlight[str](leases)
    only = asyncio.create_task(flights.run("k", work.compute, work.look))
    await work.started.wait()

    only.cancel()
    await asyncio.wait([only])

    await eventually(lambda: leases.acquire("k", owner="next", ttl_seconds=1))
    assert work.stored is None


class DownLeases(LocalLeases):
    async def acquire(self, name: str, *, owner: str, ttl_seconds: float) -> int | None:
        raise BackendUnavailable("redis", "it is down")


async def test_leases_that_are_down_do_not_keep_anybody_from_computing() -> None:
    work = Work()
    work.go.set()

    assert await SingleFlight[str](DownLeases()).run("k", work.compute, work.look) == "value 1"


async def test_waiting_for_another_process_ends() -> None:
    work, leases = Work(), LocalLeases()
    work.go.set()
    await leases.acquire("k", owner="a process that hangs", ttl_seconds=3600)

    found = await SingleFlight[str](leases, wait_seconds=0.05).run("k", work.compute, work.look)

    assert found == "value 1"


class SlowToRelease(LocalLeases):
    """Gives a lease back only when told."""

    def __init__(self) -> None:
        super().__init__()
        self.may_release = asyncio.Event()

    async def release(self, name: str, *, owner: str) -> bool:
        await self.may_release.wait()
        return await super().release(name, owner=owner)


async def test_a_newcomer_does_not_inherit_the_cancellation_of_those_who_left() -> None:
    work, leases = Work(), SlowToRelease()
    flights = SingleFlight[str](leases)
    only = asyncio.create_task(flights.run("k", work.compute, work.look))
    await work.started.wait()
    only.cancel()
    await asyncio.wait([only])

    newcomer = asyncio.create_task(flights.run("k", work.compute, work.look))
    work.go.set()
    leases.may_release.set()

    assert await newcomer == "value 2"


async def test_each_event_loop_has_flights_of_its_own_and_the_lease_joins_them() -> None:
    leases, stored = LocalLeases(), list[str]()
    flights = SingleFlight[str](leases)
    started, go = threading.Event(), threading.Event()

    async def compute(_: Holder) -> str:
        started.set()
        while not go.is_set():
            await asyncio.sleep(0)
        stored.append("value")
        return "value"

    async def look() -> str | None:
        return stored[0] if stored else None

    async def ask() -> list[str]:
        return await asyncio.wait_for(asyncio.gather(*(flights.run("k", compute, look) for _ in range(3))), 10)

    first = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(ask())))
    await asyncio.to_thread(started.wait)
    second = asyncio.create_task(ask())
    await asyncio.sleep(0)
    go.set()

    assert [await first, await second] == [["value"] * 3] * 2
    assert len(stored) == 1


def test_the_flights_of_a_loop_that_is_gone_are_forgotten_and_their_leases_free() -> None:
    leases = LocalLeases()
    flights = SingleFlight[str](leases)
    holders: list[Holder] = []

    async def for_ever(holder: Holder) -> str:
        holders.append(holder)
        return await asyncio.Event().wait() and "never"

    async def compute(_: Holder) -> str:
        return "value"

    async def nothing() -> None:
        return None

    gone = asyncio.new_event_loop()
    pending = gone.create_task(flights.run("k", for_ever, nothing))
    while not holders:
        gone.run_until_complete(asyncio.sleep(0))
    left = asyncio.all_tasks(gone)
    gone.close()

    assert asyncio.run(asyncio.wait_for(flights.run("k", compute, nothing), 5)) == "value"
    assert gone not in flights._loops
    for task in (pending, *left):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # left pending on purpose
    del task, pending, left
    gc.collect()  # what is thrown away with its loop must not raise


async def test_a_forked_child_starts_without_flights(monkeypatch: pytest.MonkeyPatch) -> None:
    work, flights = Work(), SingleFlight[str]()
    parent = asyncio.create_task(flights.run("k", work.compute, work.look))
    await work.started.wait()

    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)
        child = asyncio.create_task(flights.run("k", work.compute, work.look))
        await eventually(lambda: _answer(work.runs == 2))
    work.go.set()

    assert {await parent, await child} == {"value 2"}
