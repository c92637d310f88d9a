"""One request: waiting once for all that it invalidated, and telling how far another process must be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from colocache import Cache
from colocache.core.group.outcomes import Receipt
from colocache.operations.positions import MAX_POSITIONS, read_positions, write_positions
from colocache.scope import Scope, current

if TYPE_CHECKING:
    from tests.conftest import Call, Until


ZERO = "0" * 32


def settle(scope: Scope, form: str) -> Receipt | None:
    """Settle a scope, in one of its two forms."""
    return scope.settle() if form == "sync" else asyncio.run(scope.asettle())


@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("method", ["invalidate", "delete", "invalidate_tags", "clear"])
def test_what_is_left_to_the_response_is_waited_for_once(pair: list[Cache], form: str, method: str) -> None:
    one, other = pair
    seat = other.members()[0].seat
    scope = Scope(one)
    with scope:
        for _ in range(3):
            receipt = getattr(one, method)(*(() if method == "clear" else ("k",)), wait="response")
            assert receipt.acknowledged == ()
        settled = settle(scope, form)
        assert settled is not None
        assert (settled.acknowledged, settled.complete) == ((seat,), True)
        assert settle(scope, form) is None, "nothing is left"
    assert scope.counts() == {"invalidations": 3}


def test_outside_of_a_scope_it_waits(call: Call, pair: list[Cache]) -> None:
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


def test_a_receipt_that_is_not_complete_is_logged_and_counted(
    new_group: Callable[..., list[Cache]], held: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = new_group(2, lease=0.3, forget_after=1000)
    scope = Scope(one)
    with scope, held(other):
        one.invalidate("k", wait="response")
        receipt = scope.settle()
    assert receipt is not None
    assert receipt.complete
    assert receipt.waited_out
    one.invalidate("k", wait=False)
    with scope:
        one.invalidate("k", wait="response")
        one._member.life.driver.close(0.0)  # type: ignore[union-attr]
        receipt = scope.settle()
    assert receipt is not None
    assert not receipt.complete
    assert "not acknowledged by everybody" in caplog.text


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


def test_what_was_done_inside_is_counted(pair: list[Cache], key_of: Any) -> None:
    one, other = pair
    scope = Scope(one)
    mine, yours = key_of(one), key_of(other)
    other.set(yours, 1)
    with scope:
        assert one.get(yours) == 1
        assert one.get(mine) is None
        assert one.get_or_load(mine, lambda: 2) == 2
        one.set(yours, 3)
        one.invalidate(mine)
    assert scope.counts() == {"fetches": 1, "misses": 1, "loads": 1, "sets": 1, "invalidations": 1}


# --- Positions


def test_who_catches_up_reads_what_the_other_has_invalidated(call: Call, pair: list[Cache], key_of: Any) -> None:
    one, other = pair
    key = key_of(one)
    for number in range(20):
        assert one.get_or_load(key, lambda number=number: number) == number
        assert other.get(key) == number
        scope = Scope(one)
        with scope:
            one.invalidate(key, wait=False)
        position = scope.position()
        assert position is not None
        assert call(other, "catch_up", position)
        assert other.get(key) is None
        assert one.catch_up(position)
        assert other.catch_up(one.position())


def test_a_set_has_the_position_of_its_owner(pair: list[Cache], key_of: Any) -> None:
    one, other = pair
    scope = Scope(one)
    with scope:
        one.set(key_of(other), 1)
        one.incr(key_of(one, name="n"), initial=0)
    position = scope.position()
    assert position is not None
    assert read_positions(position) == {
        bytes.fromhex(cache.members()[0].incarnation): 1 for cache in pair
    }  # fmt: skip


def test_a_position_that_cannot_be_reached_is_given_up(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    stream, _, number = one.position().partition(".")
    assert call(other, "catch_up", f"{stream}.{int(number, 16) + 1:x}", 0.01) is False
    assert call(other, "catch_up", f"{'0' * 32}.0") is False
    assert call(one, "catch_up", f"{stream}.{'f' * 16}") is False
    with pytest.raises(ValueError, match="timeout=-1"):
        call(one, "catch_up", one.position(), -1)


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
    positions = {bytes([number] * 16): (1 << 63) - 1 - number for number in range(MAX_POSITIONS)}
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
    assert positions[bytes([10] * 16)] == 7
    assert bytes([4] * 16) not in positions


def test_who_leaves_joins_again_at_the_next_use(pair: list[Cache], until: Until) -> None:
    one, other = pair
    one.leave()
    assert one.members() == []
    assert one.position() == ""
    until(lambda: len(other.members()) == 1)
    one.set("k", 1)
    until(lambda: len(other.members()) == 2)


def test_a_child_that_is_forked_in_a_request_waits_for_its_own_invalidations(cache: Cache) -> None:
    """The parent answers the request; what the child left to the response, nobody would wait for."""
    with Scope(cache) as scope:
        child = os.fork()
        if not child:
            os._exit(17 if current(cache) is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        assert current(cache) is scope
