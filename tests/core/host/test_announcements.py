"""When a write is announced to other hosts: after the commit, before the stamps, and marked once it is stamped."""

from __future__ import annotations

import math

import pytest

from colocache.core.host.hashes import ROOT, WRITES, key_hash
from colocache.core.host.record import Outcome, Record
from tests.core.host.shelves import Host

WIRE = b"key"
HASH = key_hash(WIRE)


class Announcer:
    """Takes note of how things stand when it is called."""

    def __init__(self, host: Host, works: bool = True) -> None:
        self.host = host
        self.works = works
        self.before: Record | None = None
        self.announced: list[tuple[int, bytes, bool]] = []  # the hash, the present payload, whether the old one stands
        self.marked: list[tuple[object, bool]] = []

    @property
    def _old_stands(self) -> bool:
        return self.before is not None and self.host.board.stands(self.before.label)

    def announce(self, hash: int) -> object:
        """Announce a write."""
        present = self.host.shelf._peek(WIRE, HASH)
        assert present is not None
        self.announced.append((hash, bytes(present.payload), self._old_stands))
        return "announced" if self.works else None

    def done(self, announced: object) -> None:
        """Note that it is stamped."""
        self.marked.append((announced, self._old_stands))


@pytest.fixture
def host() -> Host:
    host = Host()
    host.shelf.set(WIRE, HASH, b"old", (ROOT,), math.inf)
    return host


def watch(host: Host, works: bool = True) -> Announcer:
    """Have the writes of the present process announced."""
    announcer = Announcer(host, works)
    announcer.before = host.shelf.find(WIRE, HASH, 0.0)
    host.shelf._announcer = announcer
    return announcer


def test_a_write_is_announced_between_its_commit_and_its_stamps(host: Host) -> None:
    """Before the commit, others would fetch the old value; after the stamps, readers here could not name the write."""
    announcer = watch(host)
    assert host.shelf.set(WIRE, HASH, b"new", (ROOT,), math.inf)[0] is Outcome.STORED
    assert announcer.announced == [(HASH ^ WRITES, b"new", True)]
    assert announcer.marked == [("announced", False)]


def test_what_is_derived_is_announced_too(host: Host) -> None:
    announcer = watch(host)
    stored = host.shelf.change(WIRE, HASH, lambda record: (b"changed", math.inf), (ROOT,))
    assert stored[0] is Outcome.STORED
    assert announcer.announced == [(HASH ^ WRITES, b"changed", True)]
    assert announcer.marked == [("announced", False)]


def test_a_fill_is_not_announced(host: Host) -> None:
    announcer = watch(host)
    host.board.invalidate((HASH,))
    miss = host.shelf.look(WIRE, HASH, (ROOT,), 0.0)
    assert not isinstance(miss, Record)
    assert host.shelf.fill(WIRE, HASH, b"filled", miss, math.inf)[0] is Outcome.STORED
    assert announcer.announced == announcer.marked == []


def test_a_write_that_nobody_can_be_told_of_is_not_stored(host: Host) -> None:
    announcer = watch(host, works=False)
    assert host.shelf.set(WIRE, HASH, b"new", (ROOT,), math.inf)[0] is Outcome.BUSY
    assert announcer.marked == []
    assert host.shelf.find(WIRE, HASH, 0.0) is None
