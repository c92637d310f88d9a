"""Requests for data: to the owner of a key on another host, and back. For the network thread alone.

They have connections of their own, so that a value of a megabyte is never in front of a ping. A link is opened when
something is asked, and closed when nothing was asked for a minute.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import zmq

from ...core.agenda import Agenda
from ...core.hosts.rows import Incarnation
from ...core.hosts.versions import Hello
from ...errors import WireError
from ..logs import Log
from .dialling import Line, State
from .keys import GroupKeys
from .peers import Address
from .wire import LARGEST_BODY, LARGEST_DATA, Greeting, data, is_data, is_hello, read_data, told_address

MOST: Final = 32  # links at a time
IDLE: Final = 60.0  # s
MOST_ASKED: Final = 4096  # requests without an answer, on all links
QUEUE: Final = 1000
MOST_LATE: Final = 1024  # requests whose late answers are still wanted
AT_ONCE: Final = 64  # answers of one link that are taken before others get their turn

#: What is told the answer, or None: there is none in time, no link, or the host is not known.
OnAnswer: TypeAlias = Callable[[bytes | None], object]


class Request(NamedTuple):
    """What a host is to be asked."""

    to: Incarnation
    body: bytes
    on_answer: OnAnswer
    deadline: float  # s, on the clock that `Links` is given
    on_late: Callable[[bytes], object] | None = None  # is told an answer that comes after the deadline


class Links:
    """The links of one process."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        keys: Sequence[GroupKeys] | None,
        mine: Hello,
        address_of: Callable[[Incarnation], str],
        chance: Callable[[], float],
        log: Log,
    ) -> None:
        self.late = 0  #: answers that came after their time
        self.unanswered = 0  #: requests that got None
        self._context, self._poller, self._keys = context, poller, keys
        self._mine = mine
        self._address_of = address_of
        self._chance = chance
        self._log = log
        self._numbers = itertools.count(1)
        self._links: dict[Address, Link] = {}  # the one that was used last stands last
        self._asked: dict[int, _Asked] = {}
        self._late: dict[int, _Asked] = {}  # whose time is over; the oldest first
        self._deadlines = Agenda[int]()  # of what was asked

    def ask(self, request: Request, now: float) -> None:
        """Ask a host. ``on_answer`` is called once, by this call or later."""
        to, body, on_answer, deadline, on_late = request
        address = told_address(self._address_of(to)) if len(self._asked) < MOST_ASKED else None
        if address is not None and self._keys is None and not address.is_loopback:
            address = None  # nobody there is asked in plain text
        link = self._link(address, now) if address and len(body) <= LARGEST_BODY and now < deadline else None
        if link is None:
            self._answer(on_answer, None)
            return
        number = next(self._numbers)
        self._asked[number] = _Asked(on_answer, link, on_late)
        self._deadlines.put(number, deadline)
        link.used_at = now
        link.open.add(number)
        if not link.ask(number, body):
            self._give(number, None)
        self._fail_what_cannot_be(link)

    def addresses(self) -> list[Address]:
        """Return the addresses that there are links to."""
        return list(self._links)

    @property
    def due(self) -> float:
        """When `work` must be called, even if nothing can be read."""
        links = self._links.values()
        idle = [link.used_at + IDLE for link in links if not link.open]
        return min([self._deadlines.deadline, *idle, *[link.line.due for link in links]])

    def work(self, ready: Sequence[object], now: float) -> None:
        """Take the answers that have come, and see to the links."""
        for address, link in list(self._links.items()):
            if now >= link.line.due or any(link.line.owns(each) for each in ready):
                self._attend(link, now)
            if not link.open and now >= link.used_at + IDLE:
                self._close(address)
        while (number := self._deadlines.take(now)) is not None:
            asked = self._asked.get(number)
            if asked is not None and asked.on_late is not None:
                self._late[number] = asked
                if len(self._late) > MOST_LATE:
                    del self._late[next(iter(self._late))]
            self._give(number, None)

    def close(self) -> None:
        """Close all links. What was asked gets None."""
        for address in list(self._links):
            self._close(address)

    # --- Inside

    def _link(self, address: Address, now: float) -> Link | None:
        """Return the link to an address, made if need be; None if there are too many."""
        link = self._links.pop(address, None)
        if link is None:
            if len(self._links) >= MOST:
                idle = next((each for each, other in self._links.items() if not other.open), None)
                if idle is None:
                    return None
                self._close(idle)
            line = Line(
                self._context, self._poller, address, str(address), self._keys,
                largest=LARGEST_DATA, queue=QUEUE, chance=self._chance, now=now,
            )  # fmt: skip
            link = Link(line, self._mine, now)
        self._links[address] = link
        return link

    def _close(self, address: Address) -> None:
        link = self._links.pop(address)
        link.line.close()
        self._fail(link)

    def _attend(self, link: Link, now: float) -> None:
        was_connected, connections = link.was_connected, link.connections
        for frames in link.attend(now):
            self._take(link, frames)
        if link.wrong is not None:
            self._log.warning(
                "what %s says cannot be read: %s", link.line.name, link.wrong, about=link.line.name, event="bad_frame"
            )
        if link.is_forgotten or (was_connected and not (link.was_connected and link.connections == connections)):
            self._fail(link)  # what was asked is dropped there, or its answers went to the connection that is gone
        self._fail_what_cannot_be(link)

    def _take(self, link: Link, frames: list[bytes]) -> None:
        if len(frames) == 1 and is_data(frames[0]):
            number, body = read_data(frames[0])
            asked = self._asked.get(number)
            if asked is not None and asked.link is link:
                self._give(number, body)
            else:
                self.late += 1
                late = self._late.pop(number, None)
                if late is not None and late.on_late is not None and late.link is link:
                    self._call(late.on_late, body)

    def _fail_what_cannot_be(self, link: Link) -> None:
        """Say at once that there is no answer, where that is known before the time is over."""
        if link.is_hopeless and link.open:
            self._fail(link)

    def _fail(self, link: Link) -> None:
        link.waiting.clear()
        for number in [number for number, asked in self._late.items() if asked.link is link]:
            del self._late[number]  # that answer went to the connection that is gone
        for number in list(link.open):
            self._give(number, None)

    def _give(self, number: int, body: bytes | None) -> None:
        asked = self._asked.pop(number, None)
        self._deadlines.drop(number)
        if asked is not None:
            asked.link.open.discard(number)
            self._answer(asked.on_answer, body)

    def _answer(self, on_answer: OnAnswer, body: bytes | None) -> None:
        self.unanswered += body is None
        self._call(on_answer, body)

    def _call(self, told: Callable[[Any], object], body: bytes | None) -> None:
        try:
            told(body)
        except Exception:
            self._log.exception("an answer of another host could not be taken in", event="answer_failed")


class _Asked:
    """A request without an answer."""

    __slots__ = ("link", "on_answer", "on_late")

    def __init__(self, on_answer: OnAnswer, link: Link, on_late: Callable[[bytes], object] | None) -> None:
        self.on_answer = on_answer
        self.link = link
        self.on_late = on_late


class Link:
    """A link to one host."""

    def __init__(self, line: Line, mine: Hello, now: float) -> None:
        self.line = line
        self.greeting = Greeting(mine)
        self.connections = 0
        self.was_connected = False
        self.used_at = now
        self.open: set[int] = set()  # what was asked, and is not answered
        self.waiting: deque[tuple[int, bytes]] = deque()  # for the other side's Hello
        self.wrong: WireError | None = None  # why the last Hello could not be read
        self.is_forgotten = False  # whether the other side has forgotten this one's Hello, and dropped what was asked
        self._awaits_hello = False

    @property
    def is_hopeless(self) -> bool:
        """Whether nobody answers there, as far as is known."""
        return self.line.state in (State.UNREACHABLE, State.REFUSED) or self.greeting.is_with_a_stranger

    def attend(self, now: float) -> list[list[bytes]]:
        """Take notice of what has come, and of what has happened to the connection. Return what is no Hello."""
        self.wrong, self.is_forgotten, others = None, False, list[list[bytes]]()
        for _ in range(AT_ONCE):
            frames = self.line.receive()
            if frames is None:
                break
            if len(frames) != 1 or not is_hello(frames[0]):
                others.append(frames)
                continue
            try:
                self.hear(Hello.unpack(frames[0]))
            except WireError as error:
                self.wrong = error
        self.line.look(now)
        if self.line.connections != self.connections:
            self.greet()
        self.was_connected = self.line.state is State.CONNECTED
        return others

    def greet(self) -> None:
        """Say Hello on a connection that has just come to be."""
        self.connections = self.line.connections
        self.greeting = Greeting(self.greeting.mine)
        self._awaits_hello = self.line.send(self.greeting.mine.pack())

    def hear(self, theirs: Hello) -> None:
        """Take the other side's Hello. One that nobody waits for says that it has forgotten this side's."""
        self.greeting.hear(theirs)
        if not self._awaits_hello:
            self.is_forgotten = True
            self.line.send(self.greeting.mine.pack())
        self._awaits_hello = not self._awaits_hello
        while self.waiting and self.greeting.version is not None:
            number, body = self.waiting.popleft()
            if number in self.open:
                self.ask(number, body)

    def ask(self, number: int, body: bytes) -> bool:
        """Send a request, or keep it until both sides have said Hello. Return False if it cannot be sent.

        Also where libzmq would send it, nothing is sent on a connection that was not noticed:

        1. The other side has ended, and has begun anew. libzmq connects again.
        2. A request goes by that connection before its event is read. Nobody has said Hello there.
        3. The other side says Hello instead of answering. The request would wait until its time is over.
        """
        if self.greeting.version is None:
            self.waiting.append((number, body))
            return True
        return self.line.state is State.CONNECTED and self.line.send(data(number, body))
