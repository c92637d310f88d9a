"""What an owner grants is used once, by whom it was granted to, for the key for which it was granted."""

from __future__ import annotations

import math
from array import array

import pytest

from colocache.core.host.claims import HINT_WORDS, HINTS, Claims
from colocache.core.host.hashes import ROOT, key_hash
from colocache.core.host.memory import HostLease
from colocache.core.host.record import Outcome
from colocache.core.hosts import layout
from colocache.core.hosts.event import WRITES, Event, Position
from colocache.core.hosts.gateway import Times
from colocache.core.hosts.lease import FOREVER
from colocache.core.hosts.log import HostLog
from colocache.core.hosts.owner import Hooks, HostMemory, Owner
from colocache.core.hosts.requests import Busy, Done, Fill, Get, Granted, Key, Request, decode_answer, encode
from colocache.core.hosts.rows import Row
from tests.core.host.shelves import Host, Locks
from tests.work import instructions

LOAD_TIMEOUT = 10.0


class Bytes:
    """The locks of claims."""

    def __init__(self, holders: dict[int, object]) -> None:
        self._holders = holders

    def take(self, place: int) -> bool:
        """Take a byte."""
        return self._holders.setdefault(place, self) is self

    def free(self, place: int) -> None:
        """Give it back."""
        if self._holders.get(place) is self:
            del self._holders[place]

    def is_taken(self, place: int) -> bool:
        """Tell whether anybody has it."""
        return place in self._holders


class Port:
    """A process that serves others for a host."""

    def __init__(self, host: Host, holders: dict[int, object], me: bytes, lease: HostLease = FOREVER) -> None:
        host.enter()
        process = host.present
        hints, self.words = array("Q", bytes(8 * HINTS * HINT_WORDS)), array("Q", bytes(8 * layout.WORDS))
        self.shelf = process.shelf
        claims = Claims(process.shelf, Bytes(holders), hints, process.numbers, process.fences, lambda hash: None)
        self.row = Row(self.words, process.fences, 0)
        self.log = HostLog(self.words, Locks({}), process.fences, lambda lane: True)
        self.owner = Owner(
            me,
            HostMemory(
                self.words, self.row, self.log, process.board, process.shelf, claims, process.fences, lease
            ),
            Times(), lambda: host.now, LOAD_TIMEOUT, Hooks(),
        )  # fmt: skip

    def announce(self, hash: int, /) -> Position:
        """Announce a write, for the shelf."""
        return self.log.append(Event(WRITES, (hash,)))

    def done(self, announced: object, /) -> None:
        """Note that it is stamped."""
        assert isinstance(announced, Position)
        self.log.mark_stamped(announced)

    def ask(self, request: Request) -> object:
        """Return the answer to a request."""
        answers: list[bytes] = []
        self.owner.serve(encode(request), answers.append)
        return decode_answer(answers[0])

    def grant(self, wire: bytes, asker: bytes = b"a" * 16) -> int:
        """Return the token of a load that it grants."""
        granted = self.ask(Get(Key(wire, (ROOT,)), {}, True, 1.0, asker))
        assert isinstance(granted, Granted)
        return granted.token

    def fill(self, token: int) -> object:
        """Fill with a value."""
        return self.ask(Fill(token, b"a value of a", math.inf, 0.0))


def test_a_fill_is_stored_once() -> None:
    port = Port(Host(), {}, b"1" * 16)
    token = port.grant(b"a")
    assert port.fill(token) == Done(Outcome.STORED.name)
    assert port.fill(token) == Done(Outcome.REFUSED.name)
    record = port.shelf.find(b"a", key_hash(b"a"), 0.0)
    assert record is not None
    assert record.payload == b"a value of a"


def test_a_fill_comes_to_another_process_that_has_granted_another_key() -> None:
    """The process that granted the load of a has ended, and another one has its port."""
    host, holders = Host(), dict[int, object]()
    before, now = Port(host, holders, b"1" * 16), Port(host, holders, b"1" * 16)
    token = before.grant(b"a")
    now.grant(b"b")
    assert now.fill(token) == Done(Outcome.REFUSED.name)
    assert now.shelf.find(b"b", key_hash(b"b"), 0.0) is None


def test_a_fill_comes_to_the_next_incarnation_of_the_host() -> None:
    before, now = Port(Host(), {}, b"1" * 16), Port(Host(), {}, b"2" * 16)
    token = before.grant(b"a")
    now.grant(b"b")
    assert now.fill(token) == Done(Outcome.REFUSED.name)


def test_a_host_that_asks_again_gets_another_grant_because_its_first_loader_is_gone() -> None:
    port = Port(Host(), {}, b"1" * 16)
    first = port.grant(b"a")
    other = port.grant(b"b")
    again = port.grant(b"a")
    assert len({first, other, again}) == 3
    assert port.fill(first) == Done(Outcome.REFUSED.name)
    assert port.fill(again) == Done(Outcome.STORED.name)


def test_the_grants_of_a_host_that_is_silent_end_and_another_host_may_load() -> None:
    host = Host()
    port = Port(host, {}, b"1" * 16)
    lost = port.grant(b"a", b"d" * 16)  # nothing was ever heard of it
    waiting: list[bytes] = []
    port.owner.serve(encode(Get(Key(b"a", (ROOT,)), {}, True, 1.0, b"e" * 16)), waiting.append)
    assert waiting == [], "somebody else loads"
    host.now += 1.0
    port.owner.run()
    assert decode_answer(waiting[0]) == Busy(), "who waits is told to ask again"
    assert port.grant(b"a", b"e" * 16)
    assert port.fill(lost) == Done(Outcome.REFUSED.name)


def test_what_an_owner_does_at_each_step_does_not_grow_with_the_number_of_those_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In 0.1, each message cost a look at all that waited."""
    work = []
    for count in (10, 1000):
        port = Port(Host(), {}, b"1" * 16)
        monkeypatch.setattr(port.owner, "_heard_until", lambda host: 1 << 62)
        keys = [b"%d" % number for number in range(count)]
        tokens = [port.grant(key) for key in keys]
        answers: list[bytes] = []
        for key in keys:
            port.owner.serve(encode(Get(Key(key, (ROOT,)), {}, True, 30.0, b"b" * 16)), answers.append)
        assert len(port.owner._waiting) == count
        assert not answers

        def step(owner: Owner = port.owner) -> None:
            owner.run()
            assert owner.due > 0

        def fill(port: Port = port, token: int = tokens[5]) -> None:
            assert port.fill(token) == Done(Outcome.STORED.name)
            port.owner.run()

        fill(port, tokens[0])
        work.append([instructions(step), instructions(fill)])
        assert len(answers) == 2, "who waits for what was filled is answered, and nobody else"
    for few, many in zip(*work, strict=True):
        assert many < few + 200, "but for what a dictionary, or a heap, takes more"


def test_nothing_is_left_of_grants_and_requests_that_are_over() -> None:
    host = Host()
    port = Port(host, {}, b"1" * 16)
    for number in range(100):
        port.fill(port.grant(b"%d" % number))
    lost = [port.grant(b"lost %d" % number) for number in range(100)]
    host.now += LOAD_TIMEOUT
    port.owner.run()
    assert port.fill(lost[0]) == Done(Outcome.REFUSED.name)
    port.grant(b"of a silent host")
    port.owner.run()
    host.now += LOAD_TIMEOUT + 1
    port.owner.run()
    owner = port.owner
    assert not owner._grants
    assert not owner._tokens
    assert not owner._of_hosts
    assert not len(owner._ends)
    assert owner.due == math.inf
