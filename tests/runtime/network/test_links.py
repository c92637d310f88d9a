"""Links for data, with a line that does what a test says."""

from __future__ import annotations

from typing import Any

import pytest

from colocache.core.hosts.versions import Hello
from colocache.runtime.logs import Log
from colocache.runtime.network import links
from colocache.runtime.network.dialling import State
from colocache.runtime.network.links import Links, Request
from colocache.runtime.network.wire import data, hello, read_data

HELLO = hello("1")


class FakeLine:
    """A line whose other end is the test."""

    def __init__(self, context: Any, poller: Any, address: object, name: str, keys: object, **more: Any) -> None:
        self.name = name
        self.state = State.CONNECTING
        self.connections = 0
        self.due = float("inf")
        self.sent: list[list[bytes]] = []
        self.come: list[list[bytes]] = []
        self.closed = False
        self.is_writable = False  # libzmq connects before anybody has read that it does
        made.append(self)

    def owns(self, socket: object) -> bool:
        return socket is self

    def look(self, now: float) -> None:
        pass

    def send(self, *frames: bytes) -> bool:
        if self.is_writable:
            self.sent.append(list(frames))
        return self.is_writable

    def receive(self) -> list[bytes] | None:
        return self.come.pop(0) if self.come else None

    def close(self) -> None:
        self.closed = True

    def connect(self) -> None:
        """Be connected, perhaps anew."""
        self.state = State.CONNECTED
        self.is_writable = True
        self.connections += 1
        self.sent.clear()


made: list[FakeLine] = []


class Asker:
    """A process that asks one host."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.now = 0.0
        self.links = Links(
            None,
            None,
            None,
            HELLO,
            {b"b": "127.0.0.1:1", b"far": "10.0.0.5:1"}.get,
            lambda: 0.0,
            Log("shop"),  # type: ignore[arg-type]
        )

    def ask(self, body: bytes = b"x", to: bytes = b"b", within: float = 1.0) -> FakeLine:
        """Ask, and return the line."""
        self.links.ask(Request(to, body, self.answers.append, self.now + within), self.now)
        return made[-1]

    def work(self, *come: list[bytes]) -> None:
        """Let something come on the line, and work."""
        made[-1].come += come
        self.links.work([made[-1]], self.now)


@pytest.fixture
def asker(monkeypatch: pytest.MonkeyPatch) -> Asker:
    monkeypatch.setattr(links, "Line", FakeLine)
    made.clear()
    return Asker()


def connected(asker: Asker) -> FakeLine:
    """Ask, and have both sides say Hello; return the line."""
    line = asker.ask()
    line.connect()
    asker.work()
    asker.work([HELLO.pack()])
    return line


def number_of(line: FakeLine) -> int:
    """Return the number of what was asked last."""
    return read_data(line.sent[-1][0])[0]


def test_a_request_waits_until_both_have_said_hello(asker: Asker) -> None:
    line = asker.ask()
    line.connect()
    asker.work()
    assert line.sent == [[HELLO.pack()]]
    asker.work([HELLO.pack()])
    assert read_data(line.sent[1][0])[1] == b"x"
    asker.work([data(number_of(line), b"y")])
    assert asker.answers == [b"y"]


def test_a_request_has_a_number_of_its_own(asker: Asker) -> None:
    line = connected(asker)
    asker.ask(b"z")
    first, second = [read_data(frame)[0] for (frame,) in line.sent[1:]]
    assert first != second
    asker.work([data(second, b"2")], [data(first, b"1")])
    assert asker.answers == [b"2", b"1"]


def test_what_was_asked_on_a_connection_that_is_gone_is_none_at_once(asker: Asker) -> None:
    line = connected(asker)
    number = number_of(line)
    line.connect()  # lost and there again, before anybody has looked
    asker.work()
    assert asker.answers == [None]
    assert line.sent == [[HELLO.pack()]]
    asker.work([HELLO.pack()], [data(number, b"late")])
    assert asker.answers == [None]
    assert asker.links.late == 1


@pytest.mark.parametrize("state", [State.CONNECTING, State.UNREACHABLE, State.REFUSED])
def test_a_connection_that_is_lost_answers_nothing(asker: Asker, state: State) -> None:
    line = connected(asker)
    line.state = state
    asker.work()
    assert asker.answers == [None]
    asker.ask()
    assert asker.answers == [None, None]


def test_nothing_is_asked_on_a_connection_on_which_nobody_has_said_hello(asker: Asker) -> None:
    line = connected(asker)
    line.state = State.CONNECTING  # lost
    asker.work()
    line.sent.clear()  # connected again, which nobody has looked at
    asker.ask()
    assert line.sent == []
    assert asker.answers == [None, None]


def test_what_was_asked_of_who_has_forgotten_a_hello_is_none_at_once(asker: Asker) -> None:
    connected(asker)
    asker.work([HELLO.pack()])
    assert asker.answers == [None]


def test_who_has_forgotten_a_hello_is_told_it_again(asker: Asker) -> None:
    line = connected(asker)
    line.sent.clear()
    asker.work([HELLO.pack()])
    assert line.sent == [[HELLO.pack()]]
    asker.work([HELLO.pack()])  # its answer
    assert len(line.sent) == 1


def test_a_host_of_no_common_version_is_not_asked(asker: Asker) -> None:
    line = asker.ask()
    line.connect()
    asker.work()
    asker.work([Hello(7, 9).pack()])
    assert asker.answers == [None]
    asker.ask()
    assert asker.answers == [None, None]
    assert line.sent == [[HELLO.pack()]]


@pytest.mark.parametrize(
    "frames", [[b""], [HELLO.pack()[:-1]], [b"1", b"2"], [data(99, b"x")], [data(1, b"x"), b"x"], [b"1", b"2", b"3"]]
)
def test_what_nobody_has_asked_for_is_passed_over(asker: Asker, frames: list[bytes]) -> None:
    line = connected(asker)
    asker.work(frames)
    asker.work([data(number_of(line), b"y")])
    assert asker.answers == [b"y"]


def test_the_time_for_an_answer_ends(asker: Asker) -> None:
    connected(asker)
    assert asker.links.due == 1.0
    asker.now = 0.99
    asker.work()
    assert asker.answers == []
    asker.now = 1.0
    asker.work()
    assert asker.answers == [None]
    assert asker.links.due == links.IDLE


def test_what_waits_for_a_hello_is_not_asked_after_its_time(asker: Asker) -> None:
    line = asker.ask()
    asker.now = 1.0
    asker.work()
    line.connect()
    asker.work()
    asker.work([HELLO.pack()])
    assert asker.answers == [None]
    assert line.sent == [[HELLO.pack()]]


def test_a_link_that_is_used_is_not_closed(asker: Asker) -> None:
    line = connected(asker)
    asker.work([data(number_of(line), b"y")])
    asker.now = links.IDLE - 1
    asker.ask(within=links.IDLE)
    asker.now = 2 * links.IDLE - 2
    asker.work()
    assert not line.closed
    asker.work([data(number_of(line), b"y")])
    asker.now = 3 * links.IDLE
    asker.work()
    assert line.closed


def test_without_a_secret_nothing_beyond_loopback_is_asked(asker: Asker) -> None:
    asker.links.ask(Request(b"far", b"x", asker.answers.append, 1.0), 0.0)
    assert asker.answers == [None]
    assert not made


def test_the_end_answers_everybody(asker: Asker) -> None:
    line = connected(asker)
    asker.links.close()
    assert asker.answers == [None]
    assert line.closed


def test_who_wants_to_know_of_an_answer_that_comes_late_is_told(asker: Asker) -> None:
    """Otherwise a load that was granted too late would be nobody's."""
    line, late = connected(asker), list[bytes]()
    asker.links.ask(Request(b"b", b"x", asker.answers.append, asker.now + 1.0, late.append), asker.now)
    number = number_of(line)
    asker.now += 1.0
    asker.work()
    assert (asker.answers, late) == ([None, None], [])
    asker.work([data(number, b"late")], [data(number, b"again")])
    assert (asker.answers, late) == ([None, None], [b"late"])
