"""Links that threads use by themselves: to ask a host without the network thread.

A question that goes by the network thread passes through it twice: the caller wakes it, and it wakes the caller. That
takes about as long as all the rest, and more where both want the interpreter lock.

1. The network thread makes a link. Once both sides have said Hello, it leaves the link here.
2. A thread that wants to ask takes the link out. So nobody else has it.
3. With the answer it puts the link back. If there is none, or anything else has happened to the connection, it does
   not, and the network thread closes the link. So nobody has to tell answers that are late from others.

libzmq lets a socket go from one thread to another if there is a full memory barrier between: the interpreter lock is
one.

**A link is connected once.** Between two questions nobody reads what libzmq reports of the connection. If it dialled
again and again:

1. The other host is restarted with another secret. A link that is idle is refused twice a second, and each attempt is
   reported.
2. After a thousand reports the queue is full. libzmq's one thread for all connections waits until somebody reads one.
3. The network thread closes the link, and waits for libzmq's thread. This host is silent for good.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Final, NamedTuple

import zmq

from ...core.hosts.rows import Incarnation
from ...core.hosts.versions import Hello
from ..waiting.answers import may_block
from ..waiting.threads import PAUSE
from .dialling import Line
from .keys import GroupKeys
from .links import IDLE, QUEUE, Link
from .peers import Address
from .wire import LARGEST_BODY, LARGEST_DATA, data, is_data, read_data, told_address

OF_A_HOST: Final = 2  # links to one host: of more threads that ask at the same time, the others go another way
MOST: Final = 32  # links at a time
MAKING: Final = 10.0  # s that a link may take until it can be used
CLOSING: Final = 1.0  # s that links in use are waited for
#: s after its answer was due; a link that is not put back by then was lost. It is long, because a thread may be slow:
#: to close a socket that another thread still uses can end the process.
LOST: Final = 5.0

_POLLIN, _NOBLOCK = int(zmq.POLLIN), int(zmq.NOBLOCK)  # libzmq's numbers: each use of an enum's member costs 1 us

#: In the place of an answer: nothing was asked.
UNABLE: Final = object()


class DirectLink:
    """A connection on which both sides have said Hello. For one thread at a time."""

    __slots__ = ("_monitor", "_number", "_open", "_socket", "_watched", "address", "ends", "to")

    def __init__(
        self, to: Incarnation, address: Address, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], now: float
    ) -> None:
        self.to = to
        self.address = address
        self.ends = now  # when the last answer came, or is due
        self._socket, self._monitor = socket, monitor
        self._number = 0
        self._open = [True]  # whoever takes this out closes the sockets
        self._watched = [(each, _POLLIN) for each in (socket, monitor)]

    def ask(self, body: bytes, timeout: float) -> bytes | object | None:
        """Ask, and wait for the answer. Return None if there is none, and `UNABLE` if nothing could be asked.

        After both, and after an exception, the link cannot be used any more.
        """
        self._number += 1
        try:
            if zmq.zmq_poll(self._watched, 0):
                return UNABLE  # something has happened to the connection
            self._socket.send(data(self._number, body), _NOBLOCK)
        except zmq.ZMQError:
            return UNABLE
        try:
            ready = zmq.zmq_poll(self._watched, math.ceil(1000 * timeout))
            if not ready or ready[0][0] is not self._socket:
                return None
            frames = self._socket.recv_multipart(_NOBLOCK)
        except zmq.ZMQError:  # the owner may have granted a load: so this is no `UNABLE`
            return None
        if len(frames) != 1 or not is_data(frames[0]):
            return UNABLE  # a Hello: the other side has forgotten this one, and has not looked at the question
        number, answer = read_data(frames[0])
        return answer if number == self._number else None

    def close(self) -> None:
        """Hang up. Any thread may call this, and again, if nobody uses the link."""
        try:
            self._open.pop()
        except IndexError:
            return
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger=0)


class _Making(NamedTuple):
    """A link that is not ready to be used."""

    link: Link
    address: Address
    ends: float  # when it is given up


class DirectLinks:
    """The direct links of one process."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        keys: Sequence[GroupKeys] | None,
        mine: Hello,
        address_of: Callable[[Incarnation], str],
        chance: Callable[[], float],
    ) -> None:
        self._context, self._poller, self._keys = context, poller, keys
        self._mine = mine
        self._address_of = address_of
        self._chance = chance
        self._wanted: deque[Incarnation] = deque(maxlen=MOST)
        self._making: dict[Incarnation, _Making] = {}
        self._idle: dict[Incarnation, deque[DirectLink]] = {}
        self._links: set[DirectLink] = set()  # all that are open, in use or not
        self._broken: deque[DirectLink] = deque()
        self._closed = False
        self._look_at = math.inf  # when links may have been idle for long

    # --- For any thread

    def ask(self, to: Incarnation, body: bytes, timeout: float) -> bytes | object | None:
        """Ask a host, and wait for the answer for ``timeout`` seconds, as the whole thread.

        Return None if there is no answer in time, or if the connection ends. Return `UNABLE` if nothing was asked,
        because no link is free. Then the network thread makes one for later questions, if there may be more of them.
        """
        idle = self._idle.get(to)
        if not idle or len(body) > LARGEST_BODY or not may_block():
            self._wanted.append(to)
            return UNABLE
        answer: bytes | object | None = UNABLE
        try:
            link = idle.pop()
        except IndexError:  # another thread was faster
            self._wanted.append(to)
            return UNABLE
        try:
            link.ends = monotonic() + timeout
            answer = link.ask(body, timeout)
            return answer
        finally:  # an exception of a signal handler leaves the link in an unknown state
            if isinstance(answer, bytes):
                link.ends = monotonic()
                self._put_back(link)
            else:
                self._broken.append(link)
                self._close_if_closed(self._broken)

    def _put_back(self, link: DirectLink) -> None:
        # 1. This puts the link back, and then looks whether all are closed.
        # 2. `close` notes that, and then takes all links out.
        # So one of them closes this link.
        idle = self._idle[link.to]
        idle.append(link)
        self._close_if_closed(idle)

    def _close_if_closed(self, links: deque[DirectLink]) -> None:
        if self._closed:
            self._close_all(links)

    def _close_all(self, links: deque[DirectLink]) -> None:
        while True:
            try:
                link = links.pop()
            except IndexError:
                return
            self._close(link)

    def _close(self, link: DirectLink) -> None:
        link.close()
        self._links.discard(link)

    # --- For the network thread

    @property
    def due(self) -> float:
        """When `work` must be called, even if nothing can be read."""
        return min([self._look_at, *[min(each.link.line.due, each.ends) for each in self._making.values()]])

    def addresses(self) -> list[Address]:
        """Return the addresses that there are links to, or are about to be."""
        return [*[link.address for link in [*self._links]], *[each.address for each in self._making.values()]]

    def work(self, ready: Sequence[object], now: float) -> None:
        """See to the links: make those that are wanted, and close those that nobody uses."""
        while self._broken:
            self._close(self._broken.popleft())
        for to in {*[self._wanted.popleft() for _ in range(len(self._wanted))]}:
            self._make(to, now)
        for to, each in [*self._making.items()]:
            line = each.link.line
            if now >= min(line.due, each.ends) or any(line.owns(socket) for socket in ready):
                self._go_on_making(to, each, now)
        if now >= self._look_at:
            self._close_unused(now)

    def _make(self, to: Incarnation, now: float) -> None:
        made = Counter(link.to for link in [*self._links])
        if to in self._making or made[to] >= OF_A_HOST or len(self._links) + len(self._making) >= MOST:
            return
        address = told_address(self._address_of(to))
        if address is None or (self._keys is None and not address.is_loopback):
            return  # nobody there is asked in plain text
        line = Line(
            self._context, self._poller, address, str(address), self._keys,
            largest=LARGEST_DATA, queue=QUEUE, chance=self._chance, now=now, once=True,
        )  # fmt: skip
        self._making[to] = _Making(Link(line, self._mine, now), address, now + MAKING)

    def _go_on_making(self, to: Incarnation, making: _Making, now: float) -> None:
        link, address, ends = making
        link.attend(now)
        if link.is_hopeless or now >= ends:
            link.line.close()
            del self._making[to]
        elif link.greeting.version is not None and (sockets := link.line.give_away()) is not None:
            del self._making[to]
            made = DirectLink(to, address, *sockets, now)
            self._links.add(made)
            self._idle.setdefault(to, deque()).append(made)
            self._look_at = min(self._look_at, now + IDLE)

    def _close_unused(self, now: float) -> None:
        """Close links that were not used for long, and what was lost: who is interrupted may not put a link back."""
        for link in [*self._links]:
            is_elsewhere = told_address(self._address_of(link.to)) != link.address
            if (now - link.ends >= IDLE or is_elsewhere) and self._take_out(link):
                self._close(link)
        self._close_lost(now)
        self._look_at = now + IDLE / 2 if self._links else math.inf

    def _take_out(self, link: DirectLink) -> bool:
        """Take a link out if nobody uses it."""
        try:
            self._idle[link.to].remove(link)
        except ValueError:
            return False
        return True

    def _close_lost(self, now: float) -> None:
        for link in [*self._links]:
            if now - link.ends >= LOST and link not in self._idle[link.to]:
                self._close(link)

    def close(self) -> bool:
        """Close all links, once nobody uses them any more. Return whether none is left."""
        self._closed = True
        for making in self._making.values():
            making.link.line.close()
        self._making.clear()
        for links in [*self._idle.values(), self._broken]:
            self._close_all(links)
        ends = monotonic() + CLOSING
        while self._links and monotonic() < ends:
            sleep(PAUSE)
        self._close_lost(monotonic())
        return not self._links
