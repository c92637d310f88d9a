"""Threads and tasks that want one key at once: who loads, who waits, and what becomes of them when one gives up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

import colocache.operations.drive
from colocache import Cache, EventLoopError, RecursiveLoadError
from colocache.core import keys
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import Call, Crew, NewCache, Until


class Source:
    """A source whose loads hang until they are let go, and are counted."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.loads = 0
        self._free = threading.Event()

    def load(self) -> str:
        """Load in a thread."""
        self._begin()
        assert self._free.wait(PATIENCE)
        return f"load {self.loads}"

    async def aload(self) -> str:
        """Load in a task."""
        self._begin()
        while not self._free.is_set():
            await asyncio.sleep(0)
        return f"load {self.loads}"

    def _begin(self) -> None:
        self.loads += 1
        self.started.release()

    def wait_for_a_load(self) -> None:
        """Wait until one more load has begun."""
        assert self.started.acquire(timeout=PATIENCE)

    def let_go(self) -> None:
        """Let all loads end."""
        self._free.set()


@pytest.fixture
def source() -> Source:
    return Source()


async def true(condition: Callable[[], object]) -> None:
    """Wait, in a task, until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


def waiting_at(owner: Cache, key: str) -> int:
    """How many requests wait at a key's owner for somebody's load."""
    queue = owner._member.life.driver._peer._engine.queues._queues.get(keys.wire(keys.prefix(""), key))  # type: ignore[union-attr]
    return len(queue.waiters) if queue else 0


# --- One load


def test_eight_threads_and_eight_tasks_make_one_load(cache: Cache, crew: Crew, source: Source, until: Until) -> None:
    async def tasks() -> list[str]:
        return await asyncio.gather(*[cache.aget_or_load("k", source.aload) for _ in range(8)])

    cache.start()
    crew.start(lambda: cache.get_or_load("k", source.load), times=8)
    crew.start(lambda: asyncio.run(tasks()))
    until(lambda: cache.stats().waits == 15)
    source.let_go()
    results = [text for result in crew.join() for text in (result if isinstance(result, list) else [result])]
    assert results == ["load 1"] * 16
    assert (source.loads, cache.stats().loads, cache.stats().fallbacks) == (1, 1, 0)


def test_threads_that_want_different_keys_load_at_the_same_time(cache: Cache, crew: Crew) -> None:
    barrier = threading.Barrier(4)
    for number in range(4):
        crew.start(lambda number=number: cache.get_or_load(("k", number), lambda: barrier.wait(PATIENCE)))
    assert sorted(crew.join()) == [0, 1, 2, 3]


def test_a_reader_that_begins_after_an_invalidation_does_not_join_a_load_from_before(
    cache: Cache, crew: Crew, source: Source
) -> None:
    crew.start(lambda: cache.get_or_load("k", source.load))
    source.wait_for_a_load()
    cache.invalidate("k")
    assert cache.get_or_load("k", lambda: "new") == "new"
    source.let_go()
    assert crew.join() == ["load 1"]
    assert cache.get("k") == "new"


def test_a_slow_load_that_was_overtaken_by_a_set_is_not_kept(
    call: Call, pair: list[Cache], crew: Crew, source: Source, key_of: Any
) -> None:
    for owner in pair:
        key = key_of(owner)
        started = source.loads
        crew.start(lambda key=key: pair[0].get_or_load(key, source.load))
        source.wait_for_a_load()
        assert call(pair[1], "set", key, "new", wait="all")
        assert call(pair[0], "get", key) == "new"
        assert source.loads == started + 1
    source.let_go()
    crew.join()
    assert [pair[0].get(key_of(owner)) for owner in pair] == ["new", "new"]


# --- Loads that fail


class Broken(Exception):
    """What a source in trouble raises."""


def test_a_loaders_exception_reaches_its_caller_unchanged_and_nothing_is_kept(call: Call, cache: Cache) -> None:
    error = Broken("gone")

    def load() -> None:
        raise error

    with pytest.raises(Broken) as raised:
        call(cache, "get_or_load", "k", load)
    assert raised.value is error
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert cache.stats().failed_loads == 1
    assert call(cache, "get_or_load", "k", lambda: "second") == "second"


def test_those_who_wait_for_a_load_that_fails_load_themselves_one_after_the_other(
    call: Call, pair: list[Cache], crew: Crew, until: Until, key_of: Any
) -> None:
    one, other = pair
    key = key_of(one)
    loading, fail = threading.Event(), threading.Event()
    loads: list[int] = []

    def load() -> str:
        loads.append(1)
        if len(loads) == 1:
            loading.set()
            assert fail.wait(PATIENCE)
            raise Broken
        return f"load {len(loads)}"

    crew.start(lambda: call(other, "get_or_load", key, load))
    loading.wait(PATIENCE)
    for cache in pair:
        crew.start(lambda cache=cache: call(cache, "get_or_load", key, load), times=2)
    until(lambda: one.stats().waits + other.stats().waits == 3 and waiting_at(one, key) == 1)
    fail.set()
    results = sorted(crew.join(), key=str)
    assert isinstance(results[0], Broken)
    assert results[1:] == ["load 2"] * 4


def test_a_broken_source_makes_each_waiter_learn_of_it_by_itself(
    call: Call, cache: Cache, crew: Crew, until: Until
) -> None:
    go_on = threading.Event()

    def load() -> None:
        go_on.wait(PATIENCE)
        raise Broken(threading.get_ident())

    crew.start(lambda: call(cache, "get_or_load", "k", load), times=6)
    until(lambda: cache.stats().waits == 5)
    go_on.set()
    errors = crew.join()
    assert {type(error) for error in errors} == {Broken}
    assert len(set(map(id, errors))) == 6, "nobody is given another one's exception"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_loader_that_tells_its_thread_to_end_leaves_the_key_to_others(
    pair: list[Cache], crew: Crew, until: Until, key_of: Any, kind: type[BaseException]
) -> None:
    one, other = pair
    key = key_of(one)
    loading, end = threading.Event(), threading.Event()

    def load() -> None:
        loading.set()
        end.wait(PATIENCE)
        raise kind("told to")

    crew.start(lambda: other.get_or_load(key, load))
    loading.wait(PATIENCE)
    crew.start(lambda: one.get_or_load(key, lambda: "next"))
    crew.start(lambda: other.get_or_load(key, lambda: "next"))
    until(lambda: waiting_at(one, key) + other.stats().waits == 2)
    end.set()
    results = sorted(crew.join(), key=lambda result: isinstance(result, str))
    assert (type(results[0]), results[1:]) == (kind, ["next", "next"])
    assert one.stats().failed_loads == other.stats().failed_loads == 0, "that says nothing of the source"


def test_a_value_that_cannot_be_carried_is_an_error_that_names_it_and_the_key_goes_to_the_next(
    call: Call, pair: list[Cache], crew: Crew, until: Until, key_of: Any
) -> None:
    one, other = pair
    key = key_of(one)
    loading, end = threading.Event(), threading.Event()

    def load() -> object:
        loading.set()
        end.wait(PATIENCE)
        return {"connection": threading.Lock()}

    crew.start(lambda: call(other, "get_or_load", key, load))
    loading.wait(PATIENCE)
    crew.start(lambda: call(one, "get_or_load", key, lambda: "next"))
    until(lambda: waiting_at(one, key) == 1)
    end.set()
    results = sorted(crew.join(), key=lambda result: isinstance(result, str))
    assert results[1] == "next"
    assert isinstance(results[0], TypeError)
    assert f"the value of the key {key!r} cannot be carried" in str(results[0])
    assert "value['connection']" in str(results[0])
    assert "_thread.lock" in str(results[0])


def test_a_load_that_hangs_is_waited_for_no_longer_than_the_load_timeout(
    call: Call, new_group: Any, crew: Crew, source: Source, key_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colocache.operations.drive, "GRACE", 0.0)
    one, other = new_group(2, load_timeout=0.3, fetch_timeout=0.2)
    key = key_of(one)
    crew.start(lambda: other.get_or_load(key, source.load))
    source.wait_for_a_load()
    for cache in (one, other):
        crew.start(lambda cache=cache: call(cache, "get_or_load", key, lambda: "own"))
    while len(crew.results) < 2:
        source.started.acquire(timeout=0.01)
    assert crew.results == ["own", "own"]
    assert call(one, "get_or_load", key, lambda: "own") == "own"
    source.let_go()
    assert crew.join()[-1] == "load 1"
    assert call(one, "get_or_load", key, lambda: "own") == "own", "its fill came too late"


def test_a_driver_that_hangs_does_not_hang_the_application(
    call: Call, new_cache: NewCache, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colocache.operations.drive, "GRACE", 0.05)
    cache = new_cache(load_timeout=0.02, fetch_timeout=0.01, lease=0.1)
    cache.start()
    with held(cache):
        assert call(cache, "get_or_load", "k", lambda: "own") == "own"
        assert call(cache, "get", "k") is None
        assert call(cache, "set", "k", 1) is False
        assert not call(cache, "invalidate", "k").complete
    assert cache.stats().fallbacks == 1
    assert call(cache, "get_or_load", "k2", lambda: "loaded") == "loaded"


# --- The four traps


def test_trap_a_waiter_that_is_cancelled_does_not_harm_the_leader(
    pair: list[Cache], source: Source, key_of: Any, until: Until
) -> None:
    """With one future for all who wait, the cancelled one would take it from the others, and from the leader."""
    one, other = pair
    key = key_of(one)

    async def main() -> None:
        leader = asyncio.create_task(other.aget_or_load(key, source.aload))
        await true(lambda: source.loads)
        waiters = [asyncio.create_task(other.aget_or_load(key, source.aload)) for _ in range(3)]
        waiters += [asyncio.create_task(one.aget_or_load(key, source.aload))]
        await true(lambda: other.stats().waits == 3 and waiting_at(one, key) == 1)
        for cancelled in (waiters[0], waiters[3]):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        await true(lambda: waiting_at(one, key) == 0)
        source.let_go()
        assert await asyncio.gather(leader, *waiters[1:3]) == ["load 1"] * 3

    asyncio.run(main())
    assert source.loads == 1
    until(lambda: one.stats().fills == 1)
    assert one.get(key) == other.get(key) == "load 1"


@pytest.mark.parametrize("slow_ends_first", [True, False])
def test_trap_b_when_the_leader_is_cancelled_its_load_goes_on_and_another_one_is_begun_beside_it(
    pair: list[Cache], key_of: Any, until: Callable[..., None], slow_ends_first: bool
) -> None:
    """Requests have 1 s, and a load takes 5 s: perhaps this one only, perhaps all. The first value serves them all."""
    one, other = pair
    key = key_of(one)

    async def main() -> None:
        loads: list[asyncio.Future[str]] = []

        async def load() -> str:
            loads.append(asyncio.get_running_loop().create_future())
            return await loads[-1]

        async def begin() -> asyncio.Task[str]:
            """Begin a request, after all that were begun before."""
            task, before = asyncio.create_task(other.aget_or_load(key, load)), len(loads) + other.stats().waits
            await true(lambda: len(loads) + other.stats().waits > before)
            return task

        async def cancel(task: asyncio.Task[str]) -> None:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        first = await begin()
        waiters = [await begin() for _ in range(3)]
        await cancel(first)
        await true(lambda: len(loads) == 2)
        await cancel(waiters.pop())  # it led the second one
        waiters += [await begin() for _ in range(2)]
        assert len(loads) == 2, "no more than that"
        loads[0 if slow_ends_first else 1].set_result("value")
        assert await asyncio.gather(*waiters) == ["value"] * 4
        late = loads[1 if slow_ends_first else 0]
        if not late.done():  # nobody waits for it any more, so it may be cancelled by now
            late.set_result("late")
        await true(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(main())
    until(lambda: one.stats().fills == 1)
    assert one.get(key) == other.get(key) == "value"
    assert other.stats().failed_loads == other.stats().fallbacks == 0
    until(lambda: one.stats().fills == 1)


def test_trap_b_a_load_whose_caller_is_cancelled_serves_who_waits_in_another_member(
    pair: list[Cache], source: Source, key_of: Any
) -> None:
    one, other = pair
    key = key_of(one)

    async def main() -> str:
        leader = asyncio.create_task(other.aget_or_load(key, source.aload))
        await true(lambda: source.loads == 1)
        waiter = asyncio.create_task(one.aget_or_load(key, source.aload))
        (fetch,) = (each.id for each in other._member.life.driver._peer._engine.fetches.all())  # type: ignore[union-attr]
        await true(lambda: other._member.life.driver.is_awaited(fetch))  # type: ignore[union-attr]
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        source.let_go()
        return await waiter

    assert asyncio.run(main()) == "load 1"


def test_trap_c_a_sync_call_on_the_thread_of_an_event_loop_raises_at_once_and_does_nothing(
    pair: list[Cache], source: Source, key_of: Any
) -> None:
    """It would stop the loop, and with it the very task that loads the key."""
    one, other = pair
    key = key_of(one)
    one.set("kept", "value")

    async def main() -> str:
        loading = asyncio.create_task(other.aget_or_load(key, source.aload))
        await true(lambda: source.loads)
        before = one.stats(), other.stats()
        for cache in pair:
            for use in (
                lambda cache=cache: cache.get(key),
                lambda cache=cache: cache.get_or_load(key, lambda: "never"),
                lambda cache=cache: cache.get_many([key]),
                lambda cache=cache: cache.set("kept", "never"),
                lambda cache=cache: cache.set_many({"kept": "never"}),
                lambda cache=cache: cache.invalidate("kept"),
                lambda cache=cache: cache.delete("kept"),
                lambda cache=cache: cache.invalidate_tags("tag"),
                lambda cache=cache: cache.clear(),
            ):
                with pytest.raises(EventLoopError, match="await its twin instead: aget, aget_or_load"):
                    use()
        for cache, stats in zip(pair, before, strict=True):
            assert (cache.stats().events_sent, cache.stats().waits) == (stats.events_sent, stats.waits)
        source.let_go()
        return await loading

    assert asyncio.run(main()) == "load 1"
    assert one.get("kept") == "value"


def test_trap_c_a_hit_on_the_thread_of_an_event_loop_is_a_hit(cache: Cache, until: Until) -> None:
    cache.set("k", "value")
    assert cache.get("k") == "value"

    @cache.cached()
    def double(n: int) -> int:
        return 2 * n

    assert double(21) == 42
    until(lambda: double.cache_info().currsize == 1)

    async def main() -> list[Any]:
        found = cache.get_many(["k"])
        return [cache.get("k"), cache.get_or_load("k", lambda: "never"), found, double(21)]

    assert asyncio.run(main()) == ["value", "value", {"k": "value"}, 42]


def test_trap_c_what_needs_no_waiting_is_allowed_on_the_thread_of_an_event_loop(
    cache: Cache, new_cache: NewCache
) -> None:
    off = new_cache(disabled=True)

    async def main() -> list[Any]:
        return [
            cache.get_or_load("k", lambda: "uncached", ttl=0),
            cache.invalidate("k", wait=False).complete,
            cache.get_many([]),
            off.get_or_load("k", lambda: "loaded"),
            off.get("k"),
        ]

    cache.start()
    assert asyncio.run(main()) == ["uncached", True, {}, "loaded", None]


def test_trap_d_a_recursive_load_raises_at_once(cache: Cache) -> None:
    with pytest.raises(RecursiveLoadError, match="the loader of the key 'k' asks for that same key"):
        cache.get_or_load("k", lambda: cache.get_or_load("k", lambda: "never"))
    assert cache.get_or_load("k", lambda: "afterwards") == "afterwards"


async def at_once(work: Awaitable[Any]) -> Any:
    return await work


async def in_a_task(work: Awaitable[Any]) -> Any:
    return await asyncio.create_task(at_once(work))


async def in_a_group(work: Awaitable[Any]) -> Any:
    return (await asyncio.gather(work, asyncio.sleep(0)))[0]


async def in_a_thread(work: Awaitable[Any]) -> Any:
    return await asyncio.to_thread(asyncio.run, at_once(work))


def test_trap_d_a_recursive_load_raises_at_once_in_a_task(cache: Cache) -> None:
    async def load() -> Any:
        return await at_once(cache.aget_or_load("k", lambda: "never"))

    with pytest.raises(RecursiveLoadError):
        asyncio.run(cache.aget_or_load("k", load))


@pytest.mark.parametrize("way", [in_a_task, in_a_group, in_a_thread])
def test_trap_d_a_circle_through_what_the_loader_starts_and_awaits_ends_with_the_load_timeout(
    new_cache: Callable[..., Cache], way: Callable[[Awaitable[Any]], Awaitable[Any]]
) -> None:
    """Whether a loader awaits what it has started, nobody can tell: so that waits, as any other reader does."""
    cache, begun = new_cache(fetch_timeout=0.1, load_timeout=0.3), []

    async def load() -> Any:
        begun.append(1)
        return await way(cache.aget_or_load("k", load))

    with pytest.raises(RecursiveLoadError, match="'k' has started asks for that same key"):
        asyncio.run(cache.aget_or_load("k", load))
    assert len(begun) == 1
    assert cache.get_or_load("k", lambda: "afterwards") == "afterwards"


@pytest.mark.parametrize("in_thread", [False, True])
def test_trap_d_what_a_loader_starts_and_does_not_await_gets_the_value(pair: list[Cache], in_thread: bool) -> None:
    """An audit, a refresh, a message to others."""
    cache, _ = pair

    async def main() -> list[Any]:
        others: list[Any] = []

        async def load() -> str:
            waits = cache.stats().waits
            if in_thread:
                others.append(asyncio.ensure_future(asyncio.to_thread(cache.get_or_load, "k", lambda: "never")))
            else:
                others.append(asyncio.create_task(cache.aget_or_load("k", lambda: "never")))
            await true(lambda: cache.stats().waits > waits)
            return "value"

        return [await cache.aget_or_load("k", load), await others[0]]

    assert asyncio.run(main()) == ["value", "value"]


def test_what_a_load_raises_that_has_lost_its_caller_is_counted_and_logged(
    cache: Cache, until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        end, begun = asyncio.get_running_loop().create_future(), asyncio.Event()

        async def load() -> None:
            begun.set()
            await asyncio.shield(end)

        leader = asyncio.create_task(cache.aget_or_load("k", load))
        await begun.wait()
        second = asyncio.get_running_loop().create_future()
        waiters = [asyncio.create_task(cache.aget_or_load("k", lambda: second)) for _ in range(2)]
        await true(lambda: cache.stats().waits == 2)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        end.set_exception(LookupError("gone"))  # one of those who wait loads by now, and the other one still waits
        await true(lambda: "LookupError: gone" in caplog.text)
        second.set_result("second")
        assert await asyncio.gather(*waiters) == ["second"] * 2

    asyncio.run(main())
    assert "a load has failed after its caller was cancelled: of the key 'k': " in caplog.text
    until(lambda: cache.stats().failed_loads == 1)


def test_trap_d_the_same_key_of_another_namespace_is_another_key(cache: Cache) -> None:
    inner = cache.namespace("inner")
    assert cache.get_or_load("k", lambda: inner.get_or_load("k", lambda: "inner")) == "inner"


def test_trap_d_a_loader_may_read_its_own_key_where_that_cannot_wait(cache: Cache) -> None:
    assert cache.get_or_load("k", lambda: cache.get("k", "nothing yet")) == "nothing yet"


def test_mutual_recursion_of_two_functions_works(pair: list[Cache]) -> None:
    """Each loads keys of the other, down to the ground; by owners on both members."""

    def even(cache: Cache, n: int) -> bool:
        return cache.get_or_load(("even", n), lambda: n == 0 or odd(cache, n - 1))

    def odd(cache: Cache, n: int) -> bool:
        return cache.get_or_load(("odd", n), lambda: n != 0 and even(cache, n - 1))

    async def aeven(cache: Cache, n: int) -> bool:
        return await cache.aget_or_load(("even", n), lambda: aodd(cache, n - 1) if n else True)

    async def aodd(cache: Cache, n: int) -> bool:
        return await cache.aget_or_load(("odd", n), lambda: aeven(cache, n - 1))

    assert even(pair[0], 20)
    assert odd(pair[1], 21)
    pair[0].clear()
    assert asyncio.run(aeven(pair[0], 20))
    assert pair[0].stats().loads == 42
    assert pair[1].stats().loads == 1


def test_a_circle_of_two_keys_raises_rather_than_waits(cache: Cache) -> None:
    def a() -> Any:
        return cache.get_or_load("a", b)

    def b() -> Any:
        return cache.get_or_load("b", a)

    with pytest.raises(RecursiveLoadError, match="the loader of the key 'a'"):
        a()
    assert cache.get_or_load("a", lambda: 1) == cache.get_or_load("b", lambda: 1) == 1


# --- Loops


def test_several_event_loops_in_several_threads_share_a_load(
    cache: Cache, crew: Crew, source: Source, until: Until
) -> None:
    cache.start()
    crew.start(lambda: asyncio.run(cache.aget_or_load("k", source.aload)), times=4)
    until(lambda: cache.stats().waits == 3)
    source.let_go()
    assert crew.join() == ["load 1"] * 4


def test_a_loop_that_ends_while_a_task_waits_harms_nobody(cache: Cache, crew: Crew, source: Source) -> None:
    crew.start(lambda: cache.get_or_load("k", source.load))
    source.wait_for_a_load()

    async def impatient() -> None:
        task = asyncio.create_task(cache.aget_or_load("k", source.aload))
        await true(lambda: cache.stats().waits == 1)
        del task  # left to the loop, which cancels it as it ends

    asyncio.run(impatient())
    source.let_go()
    assert crew.join() == ["load 1"]
    assert cache.get("k") == "load 1"


def test_context_variables_are_those_of_the_caller(cache: Cache) -> None:
    from contextvars import ContextVar

    tenant = ContextVar("tenant", default="nobody")

    async def request(name: str) -> str:
        tenant.set(name)
        return await cache.aget_or_load(("k", name), lambda: tenant.get())

    async def main() -> list[str]:
        return await asyncio.gather(request("a"), request("b"))

    assert asyncio.run(main()) == ["a", "b"]
