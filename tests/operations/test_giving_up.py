"""Loads that are given up, because they take longer than a request may: the next request is served all the same."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from colocache import Cache
from tests.conftest import Crew, NewCache, Until, waiting


@pytest.fixture(params=["group", "private"])
def cache(request: pytest.FixtureRequest, new_cache: NewCache) -> Cache:
    cache = new_cache(private=request.param == "private")
    cache.start()
    return cache


async def soon(condition: Any) -> None:
    """Let other tasks run until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def test_beside_a_load_that_goes_on_without_its_caller_one_of_those_who_wait_loads_and_serves_all(cache: Cache) -> None:
    loads: list[str] = []

    async def main() -> None:
        may_end = asyncio.Event()

        async def load() -> str:
            loads.append("begun")
            if len(loads) == 1:  # this one hangs
                await may_end.wait()
                return "slow"
            return "fast"

        tasks = [asyncio.create_task(cache.aget_or_load("k", load)) for _ in range(4)]
        await soon(lambda: waiting(cache) == 3)
        tasks[0].cancel()
        assert await asyncio.gather(*tasks[1:]) == ["fast"] * 3
        may_end.set()
        assert await cache.aget("k") == "fast"

    asyncio.run(main())
    assert len(loads) == 2


def test_no_third_one_loads_and_the_first_value_serves_all(cache: Cache) -> None:
    loads: list[asyncio.Future[str]] = []

    async def main() -> None:
        async def load() -> str:
            loads.append(asyncio.get_running_loop().create_future())
            return await loads[-1]

        tasks = [asyncio.create_task(cache.aget_or_load("k", load)) for _ in range(5)]
        await soon(lambda: waiting(cache) == 4)
        tasks[0].cancel()
        await soon(lambda: len(loads) == 2)
        tasks[4].cancel()  # the newest, which loads beside the first one
        await soon(tasks[4].done)
        late = asyncio.create_task(cache.aget_or_load("k", load))
        await soon(lambda: waiting(cache) == 4)
        assert len(loads) == 2
        loads[0].set_result("first")
        assert await asyncio.gather(*tasks[1:4], late) == ["first"] * 4
        loads[1].set_result("second")
        await asyncio.sleep(0)
        assert await cache.aget("k") == "first"

    asyncio.run(main())


def test_who_has_waited_for_two_loads_that_gave_nothing_loads_at_once(cache: Cache, crew: Crew, until: Until) -> None:
    loads: list[threading.Event] = []

    def load() -> Any:
        loads.append(threading.Event())
        assert loads[-1].wait(30)
        raise LookupError("nothing")

    crew.start(lambda: cache.get_or_load("k", load), times=6)
    for count in (1, 2):
        until(lambda count=count: len(loads) == count and waiting(cache) == 6 - count)  # type: ignore[misc]
        loads[-1].set()
    until(lambda: len(loads) == 6)  # all at once
    for each in loads:
        each.set()
    assert {type(result) for result in crew.join()} == {LookupError}
    assert cache.get_or_load("k", lambda: "value") == "value"


def test_the_newest_of_those_who_wait_loads_next_because_it_will_wait_longest(cache: Cache) -> None:
    loads: list[int] = []

    async def main() -> None:
        may_fail = asyncio.Event()

        async def load(number: int) -> str:
            loads.append(number)
            if number == 0:
                await may_fail.wait()
                raise LookupError
            return f"value of {number}"

        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(cache.aget_or_load("k", lambda number=number: load(number))))  # type: ignore[misc]
            await soon(lambda: len(loads) + waiting(cache) == len(tasks))
        may_fail.set()
        with pytest.raises(LookupError):
            await tasks[0]
        assert await asyncio.gather(*tasks[1:]) == ["value of 3"] * 3

    asyncio.run(main())
    assert loads == [0, 3]
