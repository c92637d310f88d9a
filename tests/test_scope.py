"""One request: asking once for all that it invalidated, and telling how far another process must be."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from colocache import Cache, EventLoopError
from colocache.core.hosts.waiting import Settled
from colocache.core.receipt import Receipt
from colocache.host import ALONE, LANE_SHIFT, Host, Voided
from colocache.operations.positions import MAX_POSITIONS, lane_of, read_positions, write_positions
from colocache.scope import Scope, current
from tests.interrupts import interrupted

if TYPE_CHECKING:
    from tests.conftest import Call, Crew, NewCache


ZERO = "0" * 32


def settle(scope: Scope, form: str) -> Receipt | None:
    """Settle a scope, in one of its two forms."""
    return scope.settle() if form == "sync" else asyncio.run(scope.asettle())


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cache], AbstractContextManager[None]]:
    """Have a cache leave, and keep it from joining again, for a block."""

    @contextmanager
    def keep_out(cache: Cache) -> Iterator[None]:
        def refuse(*_: object) -> Host:
            raise OSError("there is no room")

        cache.leave()
        with monkeypatch.context() as patch:
            patch.setattr(Host, "join", refuse)
            patch.setattr(Host, "private", refuse)
            yield
        cache.start()

    return keep_out


INVALIDATING = ["invalidate", "delete", "invalidate_tags", "clear"]


def invalidated(cache: Cache, method: str, **options: Any) -> Receipt:
    """Invalidate something by a method."""
    receipt = getattr(cache, method)(*(() if method == "clear" else ("k",)), **options)
    assert isinstance(receipt, Receipt)
    return receipt


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("method", INVALIDATING)
def test_what_is_left_to_the_response_has_happened_already_and_is_told_once(
    pair: list[Cache], form: str, method: str
) -> None:
    one, other = pair
    other.set("k", 1, tags=("k",))
    scope = Scope(one)
    with scope:
        for _ in range(3):
            receipt = invalidated(one, method, wait="response")
            assert (receipt.acknowledged, receipt.waited_out, receipt.complete) == ((), (), True)
            assert other.get("k") is None
        assert settle(scope, form) == Receipt((), (), True, 0.0)
        assert settle(scope, form) is None, "nothing is left"
        assert invalidated(one, method).complete
        assert settle(scope, form) is None, "it was not left to the response"
    assert scope.counts() == {"invalidations": 4}


def test_outside_of_a_scope_nothing_is_left_to_anybody(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    scope = Scope(one)
    with scope:
        pass
    with Scope(other):
        assert call(one, "invalidate", "k", wait="response").complete
    with scope:
        scope.close()
        assert call(one, "invalidate", "k", wait="response").complete
    assert scope.settle() is None


def test_what_is_left_to_the_response_cannot_be_strict(call: Call, cache: Cache) -> None:
    with pytest.raises(ValueError, match="strict is for a call that waits"):
        call(cache, "invalidate", "k", wait="response", strict=True)


@pytest.mark.parametrize("method", INVALIDATING)
def test_a_receipt_that_is_not_complete_is_logged_and_counted(
    cache: Cache, out: Any, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    scope = Scope(cache)
    with scope:
        assert invalidated(cache, method, wait="response").complete
        with out(cache):
            assert not invalidated(cache, method, wait="response").complete
        assert invalidated(cache, method, wait="response").complete, "it has joined again"
        receipt = scope.settle()
        assert receipt is not None
        assert not receipt.complete, "one of them was not"
        assert invalidated(cache, method, wait="response").complete
        receipt = scope.settle()
        assert receipt is not None
        assert receipt.complete, "those before are told already"
    assert caplog.text.count("an invalidation is not complete") == 1
    assert (cache.stats().invalidations, cache.stats().incomplete) == (4, 1)
    assert scope.counts() == {"invalidations": 4}


def test_threads_of_a_request_lose_no_receipt_that_is_not_complete(cache: Cache, crew: Crew) -> None:
    class Slow(Scope):
        @property  # type: ignore[override]
        def _pending(self) -> list[Voided | None]:
            value: list[Voided | None] = self.__dict__["pending"]
            threading.Event().wait(0.001)  # lets another thread run between the read and what is done with it
            return value

        @_pending.setter
        def _pending(self, value: list[Voided | None]) -> None:
            self.__dict__["pending"] = value

    for number in range(10):
        scope, receipts = Slow(cache), list[Receipt | None]()
        for place in range(4):
            voided = ALONE if place != number % 4 else None
            crew.start(lambda scope=scope, voided=voided: scope.collect(voided, 0.0))  # type: ignore[misc]
            crew.start(lambda scope=scope, receipts=receipts: receipts.append(scope.settle()))  # type: ignore[misc]
        crew.join()
        receipts.append(scope.settle())
        assert len([each for each in receipts if each is not None and not each.complete]) == 1


class Others:
    """Stands for the other hosts: they acknowledge as soon as they are waited for."""

    def __init__(self) -> None:
        self.waits: list[tuple[dict[int, int], float]] = []

    def settle(self, numbers: dict[int, int], patience: float) -> Generator[Any, Any, Settled]:
        """Note what is waited for, and for how long at most."""
        yield from ()
        self.waits.append((numbers, patience))
        return Settled(("other",) if patience else (), (), (), bool(patience))


@pytest.fixture
def others(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Others:
    """Have the cache invalidate as in a group of several hosts: the first event is number 1 of lane 3."""
    others, events = Others(), itertools.count(1)
    monkeypatch.setattr(Host, "invalidate", lambda *_: Voided(others, {3: next(events)}))  # type: ignore[arg-type]
    monkeypatch.setattr(type(cache._member), "may_wait", True)
    return others


def test_other_hosts_are_waited_for_as_long_as_the_caller_says(cache: Cache, others: Others) -> None:
    assert cache.invalidate("k").acknowledged == ("other",)
    assert cache.invalidate("k", wait=1.5).complete
    assert not cache.invalidate("k", wait=False).complete
    assert cache.invalidate("k", wait="response").complete, "there is no request to leave it to"
    assert others.waits == [({3: 1}, math.inf), ({3: 2}, 1.5), ({3: 3}, 0.0), ({3: 4}, math.inf)]
    assert cache.stats().incomplete == 0


def test_what_is_left_to_the_response_is_waited_for_once_and_up_to_the_last_event(cache: Cache, others: Others) -> None:
    with Scope(cache) as scope:
        for _ in range(3):
            assert not cache.invalidate("k", wait="response").complete, "others may not have heard of it yet"
        others.waits.clear()
        receipt = scope.settle()
        assert others.waits == [({3: 3}, math.inf)]
        assert receipt is not None
        assert receipt._replace(seconds=0.0) == Receipt(("other",), (), True, 0.0, 2, ())
        assert scope.settle() is None
        scope.close()
        assert cache.invalidate("k", wait="response").complete, "the response is sent"
    assert cache.stats().incomplete == 0


def test_on_the_thread_of_an_event_loop_only_what_waits_for_no_other_host_may_be_called(
    cache: Cache, others: Others
) -> None:
    async def main() -> None:
        for wait in (True, 1.5, "response"):
            with pytest.raises(EventLoopError, match=r"await its twin instead: .* as that of ainvalidate"):
                cache.invalidate("k", wait=wait)
        assert others.waits == []
        assert not cache.invalidate("k", wait=False).complete
        assert (await cache.ainvalidate("k")).complete
        with Scope(cache) as scope:
            assert not cache.invalidate("k", wait="response").complete
            assert (await scope.asettle()) is not None

    asyncio.run(main())


def test_what_could_not_be_announced_has_no_position(cache: Cache, out: Any) -> None:
    scope = Scope(cache)
    with scope, out(cache):
        cache.invalidate("k")
        assert cache.set("k", 1) is False
        assert scope.position() is None


def test_scopes_nest_and_tasks_and_threads_see_them(pair: list[Cache]) -> None:
    one, other = pair
    outer, inner, foreign = Scope(one), Scope(one), Scope(other)
    with outer, inner, foreign:

        async def invalidate() -> None:
            await asyncio.create_task(one.ainvalidate("k", wait="response"))
            await asyncio.to_thread(one.invalidate, "k", wait="response")

        asyncio.run(invalidate())
        assert inner.settle() is not None
        assert outer.settle() is None
        assert foreign.settle() is None
        assert foreign.position() is None


def test_what_was_done_inside_is_counted(pair: list[Cache]) -> None:
    one, other = pair
    other.set_many({"a": 1, "b": 2})
    scope = Scope(one)
    with scope:
        assert one.get("a") == one.get("a") == one.get("a") == 1  # the third one is a hit
        assert one.get_or_load("b", lambda: 3) == 2
        assert one.get("c") is None
        assert one.get_or_load("c", lambda: 2) == 2
        one.set("a", 3)
        assert one.incr("a") == 4
        assert not one.add("a", 5)
        one.invalidate("c")
    one.get("nothing")
    assert scope.counts() == {"fetches": 3, "misses": 1, "loads": 1, "sets": 2, "invalidations": 1}


# --- Positions

CHANGES: dict[str, Callable[[Cache], object]] = {
    "invalidate": lambda cache: cache.invalidate("k", wait=False),
    "invalidate_tags": lambda cache: cache.invalidate_tags("t", wait="response"),
    "clear": lambda cache: cache.clear(),
    "set": lambda cache: cache.set("k", "new"),
    "set_many": lambda cache: cache.set_many({"k": "new"}),
    "set nothing": lambda cache: cache.set("k", "new", ttl=0),
    "add": lambda cache: cache.add("l", "new"),
    "incr": lambda cache: cache.incr("n", initial=0),
    "touch": lambda cache: cache.touch("k", 0),
    "cas": lambda cache: cache.cas("k", "new", cache.gets("k")[1]),  # type: ignore[index]
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_who_catches_up_has_caught_up_already(call: Call, pair: list[Cache], change: Callable[[Cache], object]) -> None:
    one, other = pair
    keys = ["k", "l", "n"]
    one.set("k", "old", tags=("t",))
    assert other.get_many(keys) == one.get_many(keys) == {"k": "old"}
    scope = Scope(one)
    with scope:
        change(one)
    assert other.get_many(keys) == one.get_many(keys) != {"k": "old"}
    position = scope.position()
    assert position is not None
    assert call(other, "catch_up", position)
    assert call(one, "catch_up", position)
    assert call(other, "catch_up", one.position(), 0)


def test_what_changes_nothing_has_no_position(pair: list[Cache]) -> None:
    one, other = pair
    other.set("k", 1)
    scope = Scope(one)
    with scope:
        one.get("k")
        one.get_or_load("l", lambda: 1)
        one.add("k", 2)
        one.incr("nothing")
        one.invalidate()
    assert scope.position() is None


def test_a_position_names_the_memory_that_all_share(pair: list[Cache]) -> None:
    one, other = pair
    scope = Scope(one)
    with scope:
        one.set("k", 1)
        one.incr("n", initial=0)
    mine, yours, within = (read_positions(text or "") for text in (one.position(), other.position(), scope.position()))
    assert mine is not None
    assert yours is not None
    assert within is not None
    assert len(mine) == 1
    assert mine.keys() == yours.keys() == within.keys()


def test_a_position_of_other_memory_is_given_up_at_once(call: Call, new_cache: Any) -> None:
    """It belongs to another host, another group, or to memory that has gone with its last process."""
    one, other, private = new_cache(), new_cache("other"), new_cache(private=True)
    for cache in (one, other, private):
        cache.start()
    position, began = one.position(), time.monotonic()
    assert position
    for strange in (other.position(), private.position(), f"{ZERO}.0", f"{position}-{ZERO}.0"):
        assert call(one, "catch_up", strange) is False
    one.leave()
    assert call(one, "catch_up", position, 30) is False
    assert time.monotonic() < began + 20


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_says_nothing_is_refused(call: Call, cache: Cache, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout="):
        call(cache, "catch_up", cache.position(), timeout)


def test_the_first_call_of_a_cache_may_ask_for_a_position(call: Call, pair: list[Cache], new_cache: Any) -> None:
    assert call(new_cache(), "catch_up", pair[0].position())


def test_who_is_on_no_host_reaches_nothing(call: Call, cache: Cache, out: Any) -> None:
    cache.start()
    position = cache.position()
    with out(cache):
        assert call(cache, "catch_up", position) is False
        assert cache.position() == ""


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "-", "x", ZERO, f"{ZERO}.", f"{'g' * 32}.1", f"{ZERO}.1-", f"{'0' * 31}.1", f"{ZERO}.+1",
        f"{ZERO}.1.2", f"{ZERO}. 1", "\u0660" * 32 + ".1", f"{ZERO}.1_1", "1" * 100_000, f"{ZERO}.{'f' * 17}",
        "-".join([f"{ZERO}.1"] * 17), None, b"x", 5,
    ],
)  # fmt: skip
def test_a_text_that_is_no_position_is_none(cache: Cache, text: Any) -> None:
    assert read_positions(text) is None
    assert cache.catch_up(text) is False


def test_positions_are_written_as_they_are_read() -> None:
    positions = {}
    for number in range(MAX_POSITIONS):
        lane = number % 4
        event = (1 << 63) - 1 - number if lane == 0 else (lane << LANE_SHIFT) + (1 << LANE_SHIFT) - 1 - number
        positions[bytes([number // 2] * 16), lane] = event
    assert len(positions) == MAX_POSITIONS
    assert all(lane_of(event) == lane for (_, lane), event in positions.items())
    text = write_positions(positions)
    assert read_positions(text) == positions
    assert text.isascii()


def test_a_scope_names_the_newest_positions(cache: Cache) -> None:
    scope = Scope(cache)
    for number in range(MAX_POSITIONS + 5):
        scope.note(bytes([number] * 16), 1)
    scope.note(bytes([10] * 16), 7)
    scope.note(bytes([10] * 16), 6)
    positions = read_positions(scope.position() or "")
    assert positions is not None
    assert len(positions) == MAX_POSITIONS
    assert positions[bytes([10] * 16), 0] == 7
    assert (bytes([4] * 16), 0) not in positions


def test_a_scope_names_the_newest_position_in_each_lane_of_a_host(cache: Cache) -> None:
    scope, region = Scope(cache), bytes(16)
    for lane, number in ((1, 5), (2, 3), (1, 7), (2, 2)):
        scope.note(region, lane << LANE_SHIFT | number)
    assert read_positions(scope.position() or "") == {
        (region, 1): 1 << LANE_SHIFT | 7, (region, 2): 2 << LANE_SHIFT | 3,
    }  # fmt: skip


def test_who_leaves_joins_again_at_the_next_use(pair: list[Cache]) -> None:
    one, other = pair
    one.set("k", "old")
    assert one.get("k") == "old"
    one.leave()
    assert one.members() == []
    assert one.position() == ""
    assert len(other.members()) == 1
    other.set("k", "new")
    assert one.get("k") == "new"
    assert len(one.members()) == 1
    assert read_positions(one.position()) is not None


def test_a_child_that_is_forked_in_a_request_waits_for_its_own_invalidations(cache: Cache) -> None:
    """The parent answers the request; what the child left to the response, nobody would wait for."""
    with Scope(cache) as scope:
        child = os.fork()
        if not child:
            os._exit(17 if current(cache) is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        assert current(cache) is scope


def test_a_scope_whose_opening_is_interrupted_is_not_open(new_cache: NewCache) -> None:
    cache, points = new_cache(private=True), 0
    for number in itertools.count(1):
        context = copy_context()
        if not context.run(interrupted, number, lambda: Scope(cache).__enter__(), ("colocache/scope.py",)):
            break
        assert context.run(current, cache) is None
        points = number
    assert points > 4
