"""Loads that give nothing, in one process after the other: they are not handed on for ever."""

from __future__ import annotations

from array import array
from collections.abc import Generator
from typing import Any

import pytest

from colocache.core.host.claims import AGAIN, HINT_WORDS, HINTS, MOST_FAILURES, Claims, Lead, Load, Sleep
from colocache.core.host.hashes import ROOT, key_hash
from colocache.core.host.record import Record
from tests.core.host.shelves import Host, Process

WIRE = b"k"
HASH = key_hash(WIRE)
PATIENCE = 100.0


class Bytes:
    """The claims of one process, among those of all."""

    def __init__(self, holders: dict[int, object]) -> None:
        self._holders = holders

    def take(self, place: int) -> bool:
        return self._holders.setdefault(place, self) is self

    def free(self, place: int) -> None:
        if self._holders.get(place) is self:
            del self._holders[place]

    def is_taken(self, place: int) -> bool:
        """Tell whether anybody has it."""
        return place in self._holders


class Call:
    """A call that may get the duty to load."""

    load: Load | None = None


class Caller:
    """A process with one call, which looks whenever the test says so."""

    def __init__(self, host: Host, writer: int, claims: dict[int, object], hints: Any) -> None:
        self.host = host
        process = Process(host, writer)
        self.claims = Claims(process.shelf, Bytes(claims), hints, process.numbers, process.fences, lambda hash: None)
        self.call = Call()
        self.outcome: Any = None
        self._flow: Generator[Sleep, tuple[float, Any], Any] = self.claims.find_or_lead(
            self.call, WIRE, HASH, (ROOT,), host.now, PATIENCE
        )
        self._step(lambda: next(self._flow))

    def look(self) -> Any:
        """Wake the call, if it sleeps, and return what it has found, or been told to do."""
        if self.outcome is None:
            self._step(lambda: self._flow.send((self.host.now, None)))
        return self.outcome

    def _step(self, go_on: Any) -> None:
        try:
            go_on()
        except StopIteration as end:
            self.outcome = end.value

    def fail(self) -> None:
        assert isinstance(self.outcome, Lead)
        self.claims.end(self.outcome.load, AGAIN)


@pytest.fixture
def callers() -> list[Caller]:
    host, claims, hints = Host(), dict[int, object](), array("Q", bytes(8 * HINTS * HINT_WORDS))
    return [Caller(host, writer, claims, hints) for writer in range(1, 7)]


def test_after_two_loads_that_gave_nothing_all_who_wait_load_at_once(callers: list[Caller]) -> None:
    waiting = list(callers)
    for _ in range(MOST_FAILURES):
        assert [isinstance(each.look(), Lead) for each in waiting] == [True] + [False] * (len(waiting) - 1)
        waiting.pop(0).fail()
        waiting[0].look()
    for each in waiting:
        each.look()  # and see who loads
        assert isinstance(each.look(), Lead)
        assert not each.outcome.late


def test_one_load_that_gave_nothing_is_followed_by_one(callers: list[Caller]) -> None:
    first, second, *others = callers
    first.fail()
    assert isinstance(second.look(), Lead)
    for each in others * 3:
        assert each.look() is None
    payload = b"value"
    host = second.host
    _, stored = Process(host, 99).shelf.fill(WIRE, HASH, payload, second.outcome.load.miss, host.now + 60)
    assert stored is not None
    second.fail()
    for each in others:
        found = each.look()
        assert isinstance(found, Record)
        assert found.payload == payload
