"""Links that threads use by themselves: to ask a host without the network thread.

A question that goes by the network thread passes through it twice: the caller wakes it, and it wakes the caller. That
takes about as long as all the rest, and more where both want the interpreter lock.

1. The network thread makes a link. Once both sides have said Hello, it leaves the link here.
2. A thread that wants to ask takes the link. So nobody else has it.
3. With the answer it gives the link back. If there is none, or anything else has happened to the connection, it does
   not, and the network thread closes the link. So nobody has to tell answers that are late from others.

libzmq lets a socket go from one thread to another if there is a full memory barrier between: the interpreter lock is
one. But no thread may close a socket that another one uses: that can end the process. So a link tells who has it, and
a link that is lost by an exception of a signal handler is told from one whose thread is only slow.

**A forked child uses no link of its parent.** In a child, libzmq answers each call with EINTR:

1. A thread waits in libzmq for an answer. A signal comes, and its handler forks.
2. In the child, too, the handler returns. pyzmq takes EINTR for another signal, and calls libzmq again, without an end.

So a thread waits by the system's `poll`, for a second at most, and a child finds something that refuses in the place of
libzmq's calls. Nothing of Python runs between the look at what is in that place and the call.

**A link is connected once.** Between two questions nobody reads what libzmq reports of the connection. If it dialled
again and again:

1. The other host is restarted with another secret. A link that is idle is refused twice a second, and each attempt is
   reported.
2. After a thousand reports the queue is full. libzmq's one thread for all connections waits until somebody reads one.
3. The network thread closes the link, and waits for libzmq's thread. This host is silent for good.
"""

from __future__ import annotations

import errno
import math
import select
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from os import getpid
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, NoReturn

import zmq

from ...core.hosts.rows import Incarnation
from ...core.hosts.versions import Hello
from ...interruptions import raise_if_from_handler
from ..holds import FOR_EVER, Hold, is_over
from ..waiting.answers import may_block
from ..waiting.threads import PAUSE, drained, genuine_poll, thread_id
from .dialling import Line
from .keys import GroupKeys
from .links import IDLE, QUEUE, Link
from .peers import Address
from .wire import LARGEST_BODY, LARGEST_DATA, data, is_data, read_data, told_address

OF_A_HOST: Final = 2  # links to one host: of more threads that ask at the same time, the others go another way
MOST: Final = 32  # links at a time
MAKING: Final = 10.0  # s that a link may take until it can be used
CLOSING: Final = 1.0  # s that links in use are waited for
WAKES: Final = 1000  # ms after which a thread that waits looks whether it is in a forked child

_POLLIN, _NOBLOCK = int(zmq.POLLIN), int(zmq.NOBLOCK)  # libzmq's numbers: each use of an enum's member costs 1 us

#: In the place of an answer: nothing was asked.
UNABLE: Final = object()


class DirectLink:
    """A connection on which both sides have said Hello. For one thread at a time."""

    __slots__ = (
        "_look", "_monitor", "_number", "_open", "_receive", "_send", "_socket", "_wait", "address", "ends", "taken",
        "to",
    )  # fmt: skip

    def __init__(
        self, to: Incarnation, address: Address, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], now: float
    ) -> None:
        self.to = to
        self.address = address
        self.ends = now  # when the last answer came
        self.taken: dict[int, Hold] = {}  # by which call, under 0: see `colocache.runtime.holds`
        self._socket, self._monitor = socket, monitor
        self._number = 0
        self._open = deque([None])  # whoever takes this out closes the sockets
        self._look: Callable[[], list[Any]] = partial(zmq.zmq_poll, [(each, _POLLIN) for each in (socket, monitor)], 0)
        self._send, self._receive = socket.send, socket.recv
        poll = genuine_poll()
        for each in (socket, monitor):
            poll.register(each.get(zmq.FD), select.POLLIN)
        self._wait = poll.poll

    def take(self, hold: Hold) -> bool:
        """Take the link, in one step; return False if somebody has it."""
        return self.taken.setdefault(0, hold) is hold

    def ask(self, body: bytes, timeout: float) -> bytes | object | None:
        """Ask, and wait for the answer. Return None if there is none, and `UNABLE` if nothing could be asked.

        After both, and after an exception, the link cannot be used any more.
        """
        self._number += 1
        question, ends = data(self._number, body), monotonic() + timeout
        try:
            if self._look():
                return UNABLE  # something has happened to the connection
            self._send(question, _NOBLOCK)
        except zmq.ZMQError as error:
            raise_if_from_handler(error)
            return UNABLE
        try:
            while not (ready := self._look()):  # each look has libzmq see to what has come since: see ZMQ_FD
                left = ends - monotonic()
                if left <= 0:
                    return None
                self._wait(min(math.ceil(1000 * left), WAKES))
            if ready[0][0] is not self._socket:
                return None
            # Not recv_multipart: pyzmq swallows a ValueError that comes while it looks whether there is more.
            received = self._receive(_NOBLOCK, copy=False)
        except zmq.ZMQError as error:  # the owner may have granted a load: so this is no `UNABLE`
            raise_if_from_handler(error)
            return None
        frame = received.bytes
        if received.more or not is_data(frame):
            return UNABLE  # a Hello: the other side has forgotten this one, and has not looked at the question
        number, answer = read_data(frame)
        return answer if number == self._number else None

    @property
    def is_open(self) -> bool:
        """Whether nobody has begun to close the link."""
        return bool(self._open)

    def forget_after_fork(self) -> None:
        """In a forked child, use libzmq no more: a call that goes on there ends without an answer."""
        self._look = self._send = self._receive = _refuse

    def close(self) -> None:
        """Hang up. Any thread may call this, and again, if nobody uses the link."""
        if not list(drained(self._open)):
            return
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger=0)


def _refuse(*_: object, **__: object) -> NoReturn:
    raise zmq.ZMQError(errno.ENOTSOCK)


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
        self._links: dict[Incarnation, tuple[DirectLink, ...]] = {}  # all that are open, in use or not
        self._broken: deque[DirectLink] = deque()
        self._closed = False
        self._look_at = math.inf  # when links may have been idle for long

    # --- For any thread

    def ask(self, to: Incarnation, body: bytes, timeout: float) -> bytes | object | None:
        """Ask a host, and wait for the answer for ``timeout`` seconds, as the whole thread.

        Return None if there is no answer in time, or if the connection ends. Return `UNABLE` if nothing was asked,
        because no link is free. Then the network thread makes one for later questions, if there may be more of them.
        """
        if len(body) > LARGEST_BODY or not may_block():
            return UNABLE
        answer: bytes | object | None = UNABLE
        hold = thread_id(), sys._getframe(), getpid()
        taken: DirectLink | None = None
        try:
            for link in self._links.get(to, ()):
                if link.take(hold):
                    taken = link
                    answer = link.ask(body, timeout)
                    return answer
            self._wanted.append(to)
            return UNABLE
        finally:  # an exception of a signal handler leaves the link in an unknown state
            if taken is not None and isinstance(answer, bytes):
                taken.ends = monotonic()
                self._give_back(taken, hold)
            elif taken is not None:
                self._broken.append(taken)
            if self._closed:
                self._close_free()

    def _give_back(self, link: DirectLink, hold: Hold) -> None:
        # 1. This gives the link back, and then its caller looks whether all are closed.
        # 2. `close` notes that, and then closes all links that it can take.
        # So one of them closes this link.
        if 0 in link.taken and link.taken[0] is hold:
            del link.taken[0]

    def _close_free(self) -> None:
        """Close all links that nobody uses, or that are broken or lost. Any thread may do so once all are closed."""
        for link in self._all():
            if link.take(FOR_EVER) or link in self._broken or is_over(link.taken.get(0, FOR_EVER)):
                link.close()

    def _all(self) -> list[DirectLink]:
        """Return the links that are open."""
        return [link for links in [*self._links.values()] for link in links if link.is_open]

    def forget_after_fork(self) -> None:
        """In a forked child, use no link any more."""
        for link in self._all():
            link.forget_after_fork()

    # --- For the network thread

    @property
    def due(self) -> float:
        """When `work` must be called, even if nothing can be read."""
        return min([self._look_at, *[min(each.link.line.due, each.ends) for each in self._making.values()]])

    def addresses(self) -> list[Address]:
        """Return the addresses that there are links to, or are about to be."""
        return [*[link.address for link in self._all()], *[each.address for each in self._making.values()]]

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
        made = len(self._links.get(to, ()))
        if to in self._making or made >= OF_A_HOST or len(self._all()) + len(self._making) >= MOST:
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
            self._links[to] = (*self._links.get(to, ()), made)
            self._look_at = min(self._look_at, now + IDLE)

    def _close_unused(self, now: float) -> None:
        """Close links that were not used for long, or whose host is elsewhere by now, and those that were lost."""
        for link in self._all():
            is_elsewhere = told_address(self._address_of(link.to)) != link.address
            is_unused = now - link.ends >= IDLE or is_elsewhere
            if (is_unused and link.take(FOR_EVER)) or is_over(link.taken.get(0, FOR_EVER)):
                self._close(link)
        self._look_at = now + IDLE / 2 if self._links else math.inf

    def _close(self, link: DirectLink) -> None:
        link.close()
        others = tuple([each for each in self._links.pop(link.to) if each is not link])
        if others:
            self._links[link.to] = others

    def close(self) -> bool:
        """Close all links, once nobody uses them any more. Return whether none is left."""
        self._closed = True
        for making in self._making.values():
            making.link.line.close()
        self._making.clear()
        ends = monotonic() + CLOSING
        while True:
            self._close_free()
            if not self._all() or monotonic() >= ends:
                return not self._all()
            sleep(PAUSE)
