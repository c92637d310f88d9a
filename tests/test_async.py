"""Threads and tasks that want one key at once: who loads, who waits, and what becomes of them when one gives up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from colocache import Cache, EventLoopError, RecursiveLoadError
from colocache.testing import group
from tests.conftest import PATIENCE, waiting
from tests.loaders import never

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


# --- One load


def test_eight_threads_and_eight_tasks_make_one_load(cache: Cache, crew: Crew, source: Source, until: Until) -> None:
    async def tasks() -> list[str]:
        return await asyncio.gather(*[cache.aget_or_load("k", source.aload) for _ in range(8)])

    cache.start()
    crew.start(lambda: cache.get_or_load("k", source.load), times=8)
    crew.start(lambda: asyncio.run(tasks()))
    until(lambda: waiting(cache) == 15)
    source.let_go()
    results = [text for result in crew.join() for text in (result if isinstance(result, list) else [result])]
    assert results == ["load 1"] * 16
    stats = cache.stats()
    assert (source.loads, stats.loads, stats.waits, stats.fills, stats.fallbacks) == (1, 1, 15, 1, 0)


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


@pytest.mark.parametrize(("write", "arguments"), [("set", ("new",)), ("add", ("new",)), ("set_many", ()), ("incr", ())])
def test_a_slow_load_that_was_overtaken_by_a_write_is_not_kept(
    call: Call, pair: list[Cache], crew: Crew, source: Source, write: str, arguments: tuple[Any, ...]
) -> None:
    one, other = pair
    crew.start(lambda: one.get_or_load("k", source.load))
    source.wait_for_a_load()
    if write == "set_many":
        assert call(other, "set_many", {"k": "new"})
    else:
        assert call(other, write, "k", *arguments, **({"initial": 0} if write == "incr" else {}))
    new = 1 if write == "incr" else "new"
    assert call(one, "get", "k") == call(one, "get_or_load", "k", never) == new
    source.let_go()
    assert crew.join() == ["load 1"]
    assert one.get("k") == other.get("k") == new
    assert (one.stats().fills, one.stats().fills_refused) == (0, 1)


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


def test_of_those_who_wait_for_a_load_that_fails_one_loads_for_all(
    call: Call, pair: list[Cache], crew: Crew, until: Until
) -> None:
    _, other = pair
    key = "k"
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
    until(lambda: waiting(other) == 4)
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
    until(lambda: waiting(cache) == 5)
    go_on.set()
    errors = crew.join()
    assert {type(error) for error in errors} == {Broken}
    assert len(set(map(id, errors))) == 6, "nobody is given another one's exception"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_loader_that_tells_its_thread_to_end_leaves_the_key_to_others(
    pair: list[Cache], crew: Crew, until: Until, kind: type[BaseException]
) -> None:
    one, other = pair
    key = "k"
    loading, end = threading.Event(), threading.Event()

    def load() -> None:
        loading.set()
        end.wait(PATIENCE)
        raise kind("told to")

    crew.start(lambda: other.get_or_load(key, load))
    loading.wait(PATIENCE)
    crew.start(lambda: one.get_or_load(key, lambda: "next"))
    crew.start(lambda: other.get_or_load(key, lambda: "next"))
    until(lambda: waiting(one) == 2)
    end.set()
    results = sorted(crew.join(), key=lambda result: isinstance(result, str))
    assert (type(results[0]), results[1:]) == (kind, ["next", "next"])
    assert one.stats().failed_loads == other.stats().failed_loads == 0, "that says nothing of the source"


def test_a_value_that_cannot_be_carried_is_an_error_that_names_it_and_the_key_goes_to_the_next(
    call: Call, pair: list[Cache], crew: Crew, until: Until
) -> None:
    one, other = pair
    key = "k"
    loading, end = threading.Event(), threading.Event()

    def load() -> object:
        loading.set()
        end.wait(PATIENCE)
        return {"connection": threading.Lock()}

    crew.start(lambda: call(other, "get_or_load", key, load))
    loading.wait(PATIENCE)
    crew.start(lambda: call(one, "get_or_load", key, lambda: "next"))
    until(lambda: waiting(one) == 1)
    end.set()
    results = sorted(crew.join(), key=lambda result: isinstance(result, str))
    assert results[1] == "next"
    assert isinstance(results[0], TypeError)
    assert f"the value of the key {key!r} cannot be carried" in str(results[0])
    assert "value['connection']" in str(results[0])
    assert "_thread.lock" in str(results[0])


def test_a_load_that_hangs_is_waited_for_no_longer_than_the_load_timeout(
    call: Call, new_group: Any, crew: Crew, source: Source
) -> None:
    one, other = new_group(2, load_timeout=0.3)
    crew.start(lambda: other.get_or_load("k", source.load))
    source.wait_for_a_load()
    for cache in (one, other):
        crew.start(lambda cache=cache: call(cache, "get_or_load", "k", lambda: "own"))
    while len(crew.results) < 2:
        source.started.acquire(timeout=0.01)
    assert crew.results == ["own", "own"]
    assert call(one, "get_or_load", "k", never) == "own", "the first one that loaded for itself has stored its value"
    source.let_go()
    assert crew.join()[-1] == "load 1"
    assert call(one, "get_or_load", "k", never) == call(other, "get", "k") == "own", "that fill came too late"
    assert one.stats().fills + other.stats().fills == 1
    assert one.stats().fallbacks + other.stats().fallbacks >= 1


def test_a_ring_that_another_process_holds_does_not_hang_the_application(
    call: Call, ready: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a process was stopped in the middle of a write. Nothing but the shelf's own writes needs the lock."""
    host = ready._member.own_host()
    assert host is not None
    assert call(ready, "set", "k", "old")
    assert call(ready, "get", "k") == "old"
    monkeypatch.setattr(host.region.rings, "lock", lambda ring: False)
    assert call(ready, "set", "k", "new") is False
    assert call(ready, "get", "k") is None, "the old value is gone all the same"
    assert call(ready, "get_or_load", "k", lambda: "own") == "own"
    assert call(ready, "add", "l", 1) is False
    assert call(ready, "incr", "l", initial=0) is None
    assert call(ready, "invalidate", "k", strict=True).complete
    stats = ready.stats()
    assert (stats.busy, stats.fallbacks) == (4, 0)
    monkeypatch.undo()
    assert call(ready, "get_or_load", "k", lambda: "loaded") == call(ready, "get", "k") == "loaded"


# --- The four traps


def test_trap_a_waiter_that_is_cancelled_does_not_harm_the_leader(pair: list[Cache], source: Source) -> None:
    """With one future for all who wait, the cancelled one would take it from the others, and from the leader."""
    one, other = pair

    async def main() -> None:
        leader = asyncio.create_task(other.aget_or_load("k", source.aload))
        await true(lambda: source.loads)
        waiters = [asyncio.create_task(other.aget_or_load("k", source.aload)) for _ in range(3)]
        waiters += [asyncio.create_task(one.aget_or_load("k", source.aload))]
        await true(lambda: waiting(one) == 4)
        for cancelled in (waiters[0], waiters[3]):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert waiting(one) == 2
        source.let_go()
        assert await asyncio.gather(leader, *waiters[1:3]) == ["load 1"] * 3

    asyncio.run(main())
    assert source.loads == 1
    assert one.get("k") == other.get("k") == "load 1"
    assert (other.stats().fills, other.stats().waits, one.stats().waits) == (1, 2, 0)


@pytest.mark.parametrize("slow_ends_first", [True, False])
def test_trap_b_when_the_leader_is_cancelled_its_load_goes_on_and_another_one_is_begun_beside_it(
    pair: list[Cache], slow_ends_first: bool
) -> None:
    """Requests have 1 s, and a load takes 5 s: perhaps this one only, perhaps all. The first value serves them all."""
    one, other = pair
    key = "k"

    async def main() -> None:
        loads: list[asyncio.Future[str]] = []

        async def load() -> str:
            loads.append(asyncio.get_running_loop().create_future())
            return await loads[-1]

        async def begin() -> asyncio.Task[str]:
            """Begin a request, after all that were begun before."""
            task, before = asyncio.create_task(other.aget_or_load(key, load)), len(loads) + waiting(other)
            await true(lambda: len(loads) + waiting(other) > before)
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
    assert one.get(key) == other.get(key) == "value"
    stats = other.stats()
    assert (stats.fills, stats.failed_loads, stats.fallbacks) == (1, 0, 0)


def _theirs() -> str:
    shared = Cache("shared")
    with shared:
        return shared.get_or_load("k", lambda: "theirs", ttl=60)


def test_trap_b_a_load_whose_caller_is_cancelled_serves_who_waits_in_another_process(crew: Crew) -> None:
    with group() as both, Cache("shared") as cache:

        async def main() -> list[str]:
            may_end, loads = asyncio.Event(), []

            async def load() -> str:
                loads.append("begun")
                await may_end.wait()
                return "ours"

            leader = asyncio.create_task(cache.aget_or_load("k", load, ttl=60))
            await true(lambda: loads)
            crew.start(lambda: both.other.call(_theirs))
            host = cache._member.own_host()
            assert host is not None
            (claim,) = host.claims._loads.values()
            await true(lambda: host.claims.is_awaited(claim))
            leader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leader
            may_end.set()
            results = await asyncio.to_thread(crew.join)
            assert await cache.aget("k") == "ours"
            return results

        assert asyncio.run(main()) == ["ours"]


def test_trap_c_a_sync_load_on_the_thread_of_an_event_loop_raises_at_once_and_does_nothing(
    pair: list[Cache], new_cache: NewCache, source: Source
) -> None:
    """It would stop the loop, and with it perhaps the very task that loads the key.

    What the settings are, and whether somebody loads the key just now, makes no difference: otherwise a program that
    is wrong would only now and then say so.
    """
    one, other = pair
    caches = [one, other, new_cache(disabled=True), new_cache("yet to join")]

    async def main() -> str:
        loading = asyncio.create_task(other.aget_or_load("k", source.aload))
        await true(lambda: source.loads)
        for cache in caches:

            @cache.cached
            def decorated(number: int) -> int:
                return number

            before = cache.stats()
            for use in (
                lambda cache=cache: cache.get_or_load("k", never),
                lambda cache=cache: cache.get_or_load("nobody loads this", never),
                lambda cache=cache: cache.get_or_load("k", never, ttl=0),
                lambda decorated=decorated: decorated(1),
            ):
                with pytest.raises(EventLoopError, match="await its twin instead: aget_or_load"):
                    use()
            assert cache.stats() == before
        assert waiting(one) == 0
        source.let_go()
        return await loading

    asyncio.run(main())
    assert source.loads == 1
    assert one.get("nobody loads this") is None


def test_trap_c_a_hit_on_the_thread_of_an_event_loop_is_a_hit(cache: Cache) -> None:
    cache.set("k", "value")
    assert cache.get("k") == "value"

    @cache.cached()
    def double(n: int) -> int:
        return 2 * n

    assert double(21) == 42
    assert double.cache_info().currsize == 1

    async def main() -> list[Any]:
        found = cache.get_many(["k"])
        return [cache.get("k"), cache.get_or_load("k", lambda: "never"), found, double(21)]

    assert asyncio.run(main()) == ["value", "value", {"k": "value"}, 42]


def test_trap_c_all_else_waits_for_nobody_and_is_allowed_on_the_thread_of_an_event_loop(
    cache: Cache, source: Source
) -> None:
    """Also while a task of that very loop loads the key."""

    async def main() -> None:
        loading = asyncio.create_task(cache.aget_or_load("k", source.aload))
        await true(lambda: source.loads)
        assert cache.get("k") is None
        assert cache.get_many(["k", "l"]) == {}
        assert cache.set("k", "new", tags=("t",))
        assert cache.get("k") == cache.get("k") == cache.get_or_load("k", never) == "new"  # a hit waits for nobody
        found = cache.gets("k")
        assert found is not None
        assert cache.cas("k", "newer", found[1])
        assert cache.touch("k", 60)
        assert cache.set_many({"k": "newest", "l": 1})
        assert not cache.add("l", 2)
        assert (cache.incr("l"), cache.decr("l", 2)) == (2, 0)
        assert cache.get_many(["k", "l"]) == {"k": "newest", "l": 0}
        for drop in (
            lambda: cache.invalidate("k"), lambda: cache.delete("k"), lambda: cache.invalidate_tags("t"), cache.clear,
        ):  # fmt: skip
            assert cache.set("k", "again", tags=("t",))
            assert cache.get("k") == "again"
            assert drop().complete
            assert cache.get("k") is None
        source.let_go()
        assert await loading == "load 1"
        assert cache.get("k") is None

    asyncio.run(main())


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
    cache, begun = new_cache(load_timeout=0.3), []

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
            if in_thread:
                others.append(asyncio.ensure_future(asyncio.to_thread(cache.get_or_load, "k", lambda: "never")))
            else:
                others.append(asyncio.create_task(cache.aget_or_load("k", lambda: "never")))
            await true(lambda: waiting(cache) == 1)
            return "value"

        return [await cache.aget_or_load("k", load), await others[0]]

    assert asyncio.run(main()) == ["value", "value"]
    assert (cache.stats().loads, cache.stats().waits) == (1, 1)


def test_what_a_load_raises_that_has_lost_its_caller_is_counted_and_logged(
    cache: Cache, caplog: pytest.LogCaptureFixture
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
        await true(lambda: waiting(cache) == 2)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        end.set_exception(LookupError("gone"))  # one of those who wait loads by now, and the other one still waits
        await true(lambda: "LookupError: gone" in caplog.text)
        second.set_result("second")
        assert await asyncio.gather(*waiters) == ["second"] * 2

    asyncio.run(main())
    assert "a load has failed after its caller was cancelled: of the key 'k': " in caplog.text
    assert cache.stats().failed_loads == 1


def test_trap_d_the_same_key_of_another_namespace_is_another_key(cache: Cache) -> None:
    inner = cache.namespace("inner")
    assert cache.get_or_load("k", lambda: inner.get_or_load("k", lambda: "inner")) == "inner"


def test_trap_d_a_loader_may_read_its_own_key_where_that_cannot_wait(cache: Cache) -> None:
    assert cache.get_or_load("k", lambda: cache.get("k", "nothing yet")) == "nothing yet"


def test_mutual_recursion_of_two_functions_works(pair: list[Cache]) -> None:
    """Each loads keys of the other, down to the ground."""

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
    until(lambda: waiting(cache) == 3)
    source.let_go()
    assert crew.join() == ["load 1"] * 4


def test_a_loop_that_ends_while_a_task_waits_harms_nobody(cache: Cache, crew: Crew, source: Source) -> None:
    crew.start(lambda: cache.get_or_load("k", source.load))
    source.wait_for_a_load()

    async def impatient() -> None:
        task = asyncio.create_task(cache.aget_or_load("k", source.aload))
        await true(lambda: waiting(cache) == 1)
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
