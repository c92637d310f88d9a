"""How frames travel between the members of a host: by ZeroMQ. This is the only module that imports zmq.

There are four kinds of socket:

- the **publisher**, a PUB, sends this member's stream;
- the **subscriber**, a SUB, hears the streams of all others;
- the **router**, a ROUTER, gets the requests of the others;
- a **link**, a DEALER per member, sends requests to that member.

Publisher and subscribers are **the bus**. Answers go back through the router, on the connection that the member's own
requests came by. No routing id is set: a link that reconnects with a fixed one would be refused as its own double.

The driver's thread alone uses a transport, because signal handlers of the application never run in that thread:

1. a handler raises in the middle of making a socket;
2. libzmq has the socket, and nobody can close it;
3. ending libzmq's context waits for that socket.

Errors of ZeroMQ leave this module as OSError.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Protocol, cast

import zmq

from ..core.group.messages import MAX_BUS, MAX_LINK

# As numbers: libzmq's own names are enums, and each use of one in a flag costs as much as a small message.
NOBLOCK, SNDMORE, RCVMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE), int(zmq.RCVMORE)
EVENTS, POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

BATCH = 256  # frames taken from one socket before the others, and the clock, get their turn
GOODBYE = 200  # ms that the last frames of a leaving member, or the only one of a connection, are given
EARLY = 64  # frames kept for a link that is not connected yet; connecting takes about a millisecond


class Receive(Protocol):
    """What takes in a frame, by the bus or by a link; it returns the frame's sender if that is a member."""

    def __call__(self, frame: bytes, now: float, *, bus: bool = False) -> bytes | None: ...


class _Link:
    """The requests' way to one member."""

    def __init__(self, socket: zmq.Socket[bytes], link_endpoint: str, bus_endpoint: str) -> None:
        self.socket = socket
        self.link_endpoint = link_endpoint
        self.bus_endpoint = bus_endpoint
        self.early: deque[bytes] | None = deque()  # None once the link was connected


class Transport:
    """The sockets of one member. For the driver's thread alone."""

    def __init__(self, receive: Receive, most_members: int) -> None:
        self._deliver = receive
        self._ready: list[zmq.Socket[bytes]] = []
        self._links: dict[bytes, _Link] = {}
        self._links_by_socket: dict[zmq.Socket[bytes], _Link] = {}
        self._routes: dict[bytes, bytes] = {}  # from a member to the ROUTER's name of its connection
        self._poller = zmq.Poller()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()  # never Context.instance(): that one is shared
        self._context.max_sockets = most_members + 8  # by default there is no room for 1020 members

    def bind(self, link_endpoint: str, bus_endpoint: str) -> None:
        """Open the sockets that others connect to. Raise OSError if the system refuses."""
        with _errors_of_the_system():
            self._router = self._socket(zmq.ROUTER, MAX_LINK, 1000)
            self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._publisher = self._socket(zmq.PUB, MAX_BUS, 10_000)
            self._subscriber = self._socket(zmq.SUB, MAX_BUS, 10_000)
            self._subscriber.setsockopt(zmq.SUBSCRIBE, b"")
            self._router.bind(link_endpoint)
            self._publisher.bind(bus_endpoint)
        # Nothing can be read from the publisher. But libzmq frees what it has of a subscriber that is gone only when
        # the socket is looked after, and a member that announces nothing never would do that.
        for socket in (self._router, self._subscriber, self._publisher):
            self._poller.register(socket, zmq.POLLIN)

    def _socket(self, kind: int, largest: int, queue: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),  # only the frames of a goodbye are worth waiting for: see `linger`
            (zmq.SNDTIMEO, 0),
            (zmq.RCVTIMEO, 0),
            (zmq.SNDHWM, queue),
            (zmq.RCVHWM, queue),
            (zmq.MAXMSGSIZE, largest),
            (zmq.BACKLOG, 1024),  # a whole group reconnects at once
            (zmq.HANDSHAKE_IVL, 2000),
            # No heartbeats: the kernel says at once when the other end of an ipc connection is gone, and libzmq aborts
            # the process if a heartbeat is due on such a connection while the queue of what came by it is full.
            (zmq.HEARTBEAT_IVL, 0),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000),
        ):
            socket.setsockopt(option, value)
        return socket

    # --- Waiting and receiving

    def watch(self, descriptor: int) -> None:
        """Have `wait` return when something can be read from a descriptor."""
        self._poller.register(descriptor, zmq.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Undo `watch`, before the descriptor is closed."""
        self._poller.unregister(descriptor)

    def wait(self, seconds: float) -> list[int]:
        """Wait until there is something to do, and return the watched descriptors that can be read."""
        self._ready, descriptors = [], []
        for source, _ in self._poller.poll(math.ceil(seconds * 1000)):
            if isinstance(source, int):
                descriptors.append(source)
            else:
                self._ready.append(source)
        return descriptors

    def receive(self) -> None:
        """Deliver the frames that have come before `wait` returned, and some that have come since."""
        for socket in self._ready:
            if socket is self._router:
                self._drain(socket, self._take_request)
            elif socket is self._subscriber:
                self._drain(socket, self._take_event)
            else:
                self._drain(socket, self._take_answer)
                self._flush(self._links_by_socket[socket])

    def _drain(self, socket: zmq.Socket[bytes], take: Callable[[zmq.Socket[bytes]], None]) -> None:
        with contextlib.suppress(zmq.Again):
            take(socket)
            for _ in range(BATCH - 1):
                if not cast(int, socket.get(EVENTS)) & POLLIN:  # cheaper than to be told by zmq.Again
                    break
                take(socket)

    def _take_event(self, socket: zmq.Socket[bytes]) -> None:
        self._deliver(socket.recv(NOBLOCK), monotonic(), bus=True)

    def _take_request(self, socket: zmq.Socket[bytes]) -> None:
        route, frame = socket.recv(NOBLOCK), b""
        while socket.get(RCVMORE):
            frame = socket.recv(NOBLOCK)
        sender = self._deliver(frame, monotonic())
        if sender is not None:
            self._routes[sender] = route

    def _take_answer(self, socket: zmq.Socket[bytes]) -> None:
        self._deliver(socket.recv(NOBLOCK), monotonic())

    # --- Sending

    def publish(self, frame: bytes) -> None:
        """Send a frame to everybody, by the bus."""
        self._publisher.send(frame)

    def send(self, to: bytes, frame: bytes, reply: bool) -> bool:
        """Send a frame to one member; ``reply``: by its own connection. Return False if the frame is dropped."""
        route = self._routes.get(to) if reply else None
        if route is not None:
            try:
                self._router.send(route, SNDMORE)
                self._router.send(frame)
                return True
            except zmq.ZMQError:
                del self._routes[to]  # that connection is gone, or its queue is full; there is another way
        link = self._links.get(to)
        return link is not None and self._send(link, frame)

    def _send(self, link: _Link, frame: bytes) -> bool:
        try:
            if link.early:
                raise zmq.Again  # older frames go first
            link.socket.send(frame)
        except zmq.Again:
            if link.early is None or len(link.early) >= EARLY:
                return False
            link.early.append(frame)
        return True

    def _flush(self, link: _Link) -> None:
        if link.early is not None:
            early, link.early = link.early, deque()
            for frame in early:
                self._send(link, frame)
            if not link.early:
                link.early = None
                self._poller.modify(link.socket, zmq.POLLIN)

    # --- Connections

    def connect(self, member: bytes, link_endpoint: str, bus_endpoint: str) -> None:
        """Open a link to a member, and hear its events. Raise OSError if the system refuses."""
        with _errors_of_the_system(), contextlib.ExitStack() as undo:
            socket = undo.enter_context(self._socket(zmq.DEALER, MAX_LINK, 1000))
            socket.setsockopt(zmq.IMMEDIATE, 1)  # a full or missing connection says so at once, instead of hoarding
            socket.connect(link_endpoint)
            self._subscriber.connect(bus_endpoint)
            undo.pop_all()
        self._links[member] = self._links_by_socket[socket] = _Link(socket, link_endpoint, bus_endpoint)
        self._poller.register(socket, zmq.POLLIN | zmq.POLLOUT)

    def disconnect(self, member: bytes) -> None:
        """Close the link to a member, and stop hearing its events."""
        self._routes.pop(member, None)
        link = self._links.pop(member, None)
        if link is None:
            return
        self._poller.unregister(link.socket)
        del self._links_by_socket[link.socket]
        link.socket.close()
        with contextlib.suppress(zmq.ZMQError):
            self._subscriber.disconnect(link.bus_endpoint)

    def reconnect(self, member: bytes) -> None:
        """Connect anew to a member: connections can go deaf for good without a word."""
        link = self._links[member]
        for socket, endpoint in ((link.socket, link.link_endpoint), (self._subscriber, link.bus_endpoint)):
            with contextlib.suppress(zmq.ZMQError):
                socket.disconnect(endpoint)
            with contextlib.suppress(zmq.ZMQError):  # the next call tries again
                socket.connect(endpoint)

    def probe(self, link_endpoint: str, frame: bytes) -> None:
        """Send one frame to somebody that this member has no link to. Raise OSError if the system refuses."""
        with _errors_of_the_system(), self._socket(zmq.DEALER, MAX_LINK, 1) as socket:
            socket.setsockopt(zmq.LINGER, GOODBYE)
            socket.connect(link_endpoint)
            socket.send(frame)

    def forget_strangers(self) -> None:
        """Forget the connections of members that have written after their end."""
        for member in self._routes.keys() - self._links.keys():
            del self._routes[member]

    # --- The end

    def linger(self) -> None:
        """Have `close` give the last frames a moment to leave."""
        for socket in (self._publisher, *self._links_by_socket):
            socket.setsockopt(zmq.LINGER, GOODBYE)

    def close(self) -> None:
        """Close all sockets. Not in a forked child: libzmq would wait for I/O threads that are not there."""
        self._context.destroy()  # with its sockets: otherwise it would wait for ever for a forgotten one


@contextlib.contextmanager
def _errors_of_the_system() -> Iterator[None]:
    try:
        yield
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"ZeroMQ: {error.strerror}") from error


# --- The bus of a host

NAME = b"\xff"  # begins the subscription by which a subscriber says who it is; no frame begins so
QUEUE = 64  # frames that wait for a mate that is stopped; of more, the newest are dropped
HANDSHAKE = 2.0  # s, then libzmq gives up a connection to a mate that is stopped


class Broadcast:
    """The two sockets by which the processes of a host tell each other something. For one thread at a time.

    - The **subscriber**, a SUB, is bound, and hears all that say something.
    - The **publisher**, a PUB that sees subscriptions, is connected to the subscribers of others.

    So a process that says nothing connects to nobody. A frame that is sent before the other end has subscribed is lost.
    That is why each subscriber subscribes to its own name, too, and so `reached` tells who hears.

    libzmq connects once, and never again by itself: it would go on trying to reach mates that are dead. What is lost is
    missing from `reached`, and the caller connects again when it has something to say.
    """

    def __init__(self, name: int, largest: int) -> None:
        """``name`` is a number that no other process has; ``largest`` the size of the largest frame."""
        self.reached: set[int] = set()  # the names of those that hear
        self.changes = 0  # how often these have changed
        self._ready: list[Any] = []
        self._bound = ""
        self._file: tuple[int, int] | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with _errors_of_the_system(), contextlib.ExitStack() as undo:
            undo.callback(self._context.destroy)
            self._ear = self._socket(zmq.SUB, largest)
            self._ear.setsockopt(zmq.SUBSCRIBE, b"")  # first: who is reached has subscribed to everything
            self._ear.setsockopt(zmq.SUBSCRIBE, NAME + name.to_bytes(8, "little"))
            self._mouth = self._socket(zmq.XPUB, largest)
            undo.pop_all()
        self._poller = zmq.Poller()
        for socket in (self._ear, self._mouth):
            self._poller.register(socket, zmq.POLLIN)

    def _socket(self, kind: int, largest: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDTIMEO, 0),
            (zmq.RCVTIMEO, 0),
            (zmq.SNDHWM, QUEUE),
            (zmq.RCVHWM, QUEUE),
            (zmq.MAXMSGSIZE, largest),
            (zmq.BACKLOG, 1024),
            (zmq.HANDSHAKE_IVL, int(HANDSHAKE * 1000)),
            (zmq.HEARTBEAT_IVL, 0),
            (zmq.RECONNECT_IVL, -1),
        ):
            socket.setsockopt(option, value)
        return socket

    def bind(self, path: str) -> None:
        """Begin to hear those that connect to a path. What is there is replaced. Raise OSError if that fails."""
        with _errors_of_the_system():
            self._ear.bind(f"ipc://{path}")
        self._bound = path
        self._file = _identity_at(path)

    def unbind(self) -> None:
        """Hear nobody any more: libzmq ends the connections, too. Callable twice."""
        path, self._bound = self._bound, ""
        if path:
            with contextlib.suppress(OSError):
                if _identity_at(path) == self._file:  # it may be a successor's by now
                    os.unlink(path)  # libzmq leaves it
            with contextlib.suppress(zmq.ZMQError):
                self._ear.unbind(f"ipc://{path}")

    @property
    def can_be_found(self) -> bool:
        """Whether others can connect: the ear is bound, and nobody has deleted its socket."""
        return bool(self._bound) and _identity_at(self._bound) is not None

    def watch(self, descriptor: int) -> None:
        """Have `wait` return when something can be read from a descriptor."""
        self._poller.register(descriptor, zmq.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to do, and tell whether a watched descriptor can be read."""
        self._ready = [source for source, _ in self._poller.poll(min(math.ceil(seconds * 1000), 1 << 30))]
        return any(isinstance(source, int) for source in self._ready)

    def receive(self) -> Iterator[bytes]:
        """Return frames that have come before `wait` returned, and some that have come since; notice who is reached.

        Each call that receives gives the interpreter lock up, and in a process that computes gets it back 5 ms later.
        So this asks the sockets first whether they have anything.
        """
        if self._mouth in self._ready:
            for frame in self._frames(self._mouth):
                self._notice(frame)
        if self._ear in self._ready:
            yield from self._frames(self._ear)

    def _frames(self, socket: zmq.Socket[bytes]) -> Iterator[bytes]:
        with contextlib.suppress(zmq.Again):
            for _ in range(BATCH):
                yield socket.recv(NOBLOCK)
                if not cast(int, socket.get(EVENTS)) & POLLIN:
                    break

    def _notice(self, subscription: bytes) -> None:
        if subscription[1:2] == NAME:
            name = int.from_bytes(subscription[2:], "little")
            self.changes += 1
            if subscription[0]:
                self.reached.add(name)
            else:
                self.reached.discard(name)

    def connect(self, path: str) -> None:
        """Begin to connect to the ear at a path. Raise OSError if the system refuses."""
        with _errors_of_the_system():
            self._mouth.connect(f"ipc://{path}")

    def disconnect(self, path: str) -> None:
        """Undo `connect`, whether there is a connection or not."""
        with contextlib.suppress(zmq.ZMQError):
            self._mouth.disconnect(f"ipc://{path}")

    def send(self, frame: bytes) -> None:
        """Send a frame to all that are reached. To those whose queue is full it is not sent."""
        self._mouth.send(frame, NOBLOCK)

    def close(self, linger: float = 0.0) -> None:
        """Close the sockets, and give the last frames some seconds to leave. Never in a forked child."""
        self.unbind()
        self._context.destroy(linger=int(linger * 1000))


def _identity_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
