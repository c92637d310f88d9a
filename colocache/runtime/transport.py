"""How frames travel between the processes of a host: by ZeroMQ.

The thread of the bus alone uses it, because signal handlers of the application never run in that thread:

1. a handler raises in the middle of making a socket;
2. libzmq has the socket, and nobody can close it;
3. ending libzmq's context waits for that socket.

Errors of ZeroMQ leave this module as OSError.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any, cast

import zmq

# As numbers: libzmq's own names are enums, and each use of one in a flag costs as much as a small message.
NOBLOCK, EVENTS, POLLIN = int(zmq.NOBLOCK), int(zmq.EVENTS), int(zmq.POLLIN)

BATCH = 256  # frames taken from one socket before the others, and the clock, get their turn


@contextlib.contextmanager
def _errors_of_the_system() -> Iterator[None]:
    try:
        yield
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"ZeroMQ: {error.strerror}") from error


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
