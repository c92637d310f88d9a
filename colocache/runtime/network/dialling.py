"""A line to another host: the dialling side, which tries the group's secrets in turn and says what is wrong.

libzmq does not tell the sender of a failed handshake, and never dials again after some of them. So each line watches
its socket. What libzmq 4.3.5 reports, measured for one attempt:

- let in: CONNECTED, HANDSHAKE_SUCCEEDED;
- the host has another secret: CONNECTED, HANDSHAKE_FAILED_NO_DETAIL (EPIPE or ECONNRESET), DISCONNECTED, and libzmq
  dials again for ever;
- the host's doorkeeper refuses: CONNECTED, HANDSHAKE_FAILED_AUTH, DISCONNECTED, and libzmq never dials again;
- whoever listens says nothing: CONNECTED, and after the time for a handshake HANDSHAKE_FAILED_NO_DETAIL (EAGAIN);
- whoever listens speaks something else: CONNECTED, DISCONNECTED, and libzmq never dials again;
- nobody listens: CLOSED, CONNECT_RETRIED.

A socket makes attempts with one secret only, and is replaced before another is tried. To connect the same socket anew
with another key would be simpler, but then nobody could tell whose an event is:

1. the attempt with the old key fails for the second time, and libzmq writes an event;
2. this side disconnects because of the first time, and connects with the new key, the right one;
3. it reads that event, takes it for the new key's, and goes back to the old one. So it can go on for ever.

Only a gateway imports this module.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import zmq
from zmq.utils.monitor import recv_monitor_message

from .curve import dial_with
from .keys import GroupKeys
from .options import CONNECTING, HANDSHAKE, RETRY_AT_MOST, set_options
from .rotation import Rotation

EVENTS_AT_ONCE = 64  # that are looked at before other sockets get their turn
DEAF = RETRY_AT_MOST + CONNECTING + 2.0  # s without an event, then libzmq has given up: it dials more often than that
SLOW = HANDSHAKE + 1.0  # s for a handshake; libzmq itself gives up a second earlier, and says so
AGAIN = 1.0  # s until a socket is made anew, if the system has refused one

_SILENT = "accepts the connection and does not answer"
_numbers = itertools.count()  # for the addresses of monitors: pyzmq's own are those of descriptors, which come again

_EVENTS, _POLLIN, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
_WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Address(Protocol):
    """Where a host listens."""

    @property
    def endpoint(self) -> str:
        """What libzmq connects to."""


class State(enum.Enum):
    """What is known about a host at the other end of a line."""

    CONNECTING = "connecting"  # nothing yet, or it was connected a moment ago
    CONNECTED = "connected"
    REFUSED = "refused"  # it does not accept any of our secrets
    UNREACHABLE = "unreachable"


def has_come(socket: zmq.Socket[bytes]) -> bool:
    """Tell whether something can be received from a socket.

    To try gives up the interpreter lock. Where other threads compute, this one gets it back 5 ms later, in vain.
    """
    try:
        return bool(cast(int, socket.get(_EVENTS)) & _POLLIN)
    except zmq.ZMQError:
        return False


def _monitor(context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """Return a socket that receives the events of another one, as `zmq.Socket.get_monitor_socket` does.

    Its queue has no end. Where a queue is full, libzmq's one thread for all connections waits until somebody reads.
    """
    endpoint = f"inproc://colocache.line.{next(_numbers)}"
    with contextlib.ExitStack() as undo:
        socket.monitor(endpoint, _WATCHED)
        undo.callback(socket.disable_monitor)
        monitor = context.socket(zmq.PAIR)
        undo.callback(monitor.close)
        monitor.setsockopt(zmq.RCVHWM, 0)
        monitor.connect(endpoint)
        undo.pop_all()
    return monitor


class Line:
    """A DEALER that is connected to one address, or tries to be. For the thread of the gateway alone.

    Its sockets are in the gateway's poller. When one of them can be read, or when it is `due`, call `receive` until it
    returns None, and then `look`, which may replace the socket with what has come by it. A message that is under way
    when a connection ends is lost: the sender must ask again, as on any network.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        address: Address,
        name: str,
        keys: Sequence[GroupKeys] | None,
        *,
        largest: int,
        queue: int,
        chance: Callable[[], float],
        now: float,
        once: bool = False,
    ) -> None:
        """``name`` is what people call the address, such as ``web2:7400``. It goes into `trouble`.

        The address is an IP address, because libzmq would look up a name in the thread that serves all connections.
        ``keys`` are those of each secret, mine first; None is without encryption, for hosts on loopback that have no
        secret. For ``largest``, ``queue`` and ``chance`` see `set_options`;
        ``now`` is the time on the clock that `look` is given, in seconds. ``once`` is for a line that is to be given
        away: its connection is not made again once it has ended.

        Raise ValueError if ``keys`` is empty. If the system refuses a socket, that is a `trouble` and is tried again.
        """
        self.address = address
        self.name = name
        self.state = State.CONNECTING
        self.attempts = 0  #: sockets that were made
        self.connections = 0  #: how often it was connected
        self._context = context
        self._poller = poller
        self._keys = None if keys is None else tuple(keys)
        self._largest, self._queue, self._chance, self._once = largest, queue, chance, once
        self._rotation = Rotation(1 if self._keys is None else len(self._keys), chance)
        self._why = ""
        self._handshaking = False
        self._connected_at = now  # and then the handshake began
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._due = now
        self._closed = False
        self._open(now)

    @property
    def trouble(self) -> str:
        """What is wrong, in words for the log, or an empty text: ``web2:7400 refuses our secret``."""
        return f"{self.name} {self._why}" if self._why else ""

    @property
    def due(self) -> float:
        """When `look` must be called, even if nothing can be read. Infinity while the line is connected."""
        return self._due

    @property
    def is_apart(self) -> bool:
        """Whether nothing is connected, and no handshake is under way."""
        return self.state is not State.CONNECTED and not self._handshaking

    def owns(self, socket: object) -> bool:
        """Tell whether a socket that the poller has returned is one of this line's."""
        return socket is not None and (socket is self._socket or socket is self._monitor)

    def look(self, now: float) -> None:
        """Take notice of what has happened, and of the time."""
        for _ in range(EVENTS_AT_ONCE):
            event = self._event()
            if event is None:
                break
            self._take(*event, now)
        if now >= self._due:
            self._when_due(now)

    def send(self, frame: bytes) -> bool:
        """Send a message, and return whether it is on its way: not without a connection, or if the queue is full."""
        if self._socket is None:
            return False
        try:
            self._socket.send(frame, _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """Return the next message that has come, or None."""
        if self._socket is None or not has_come(self._socket):
            return None
        try:
            return self._socket.recv_multipart(_NOBLOCK)
        except zmq.ZMQError:
            return None

    def reconnect(self, now: float) -> None:
        """Dial anew, with the same secret: for a caller that finds a connection deaf, although libzmq does not."""
        if not self._closed:
            self.state, self._why = State.CONNECTING, ""
            self._hang_up()
            self._open(now)

    def close(self, linger: float = 0.0) -> None:
        """Hang up for good. Callable twice. What was sent last may take ``linger`` seconds to leave, in the background.

        Then ending the context waits for it.
        """
        self._closed = True
        self._due = math.inf
        self.state, self._why = State.CONNECTING, ""
        self._hang_up(linger)

    def give_away(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]] | None:
        """Give the socket and its monitor to somebody else, and be closed; None if it is not connected.

        Whoever has them disables the monitor first, and closes both.
        """
        if self.state is not State.CONNECTED or self._socket is None or self._monitor is None:
            return None
        sockets = self._socket, self._monitor
        for each in sockets:
            self._poller.unregister(each)
        self._socket = self._monitor = None
        self.close()
        return sockets

    # --- Events

    def _event(self) -> tuple[int, int] | None:
        if self._monitor is None or not has_come(self._monitor):
            return None
        try:
            found = recv_monitor_message(self._monitor, zmq.NOBLOCK)
        except zmq.ZMQError:
            return None
        return int(found["event"]), int(found["value"])

    def _take(self, event: int, value: int, now: float) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._handshaking = True
            self._connected_at = now
            self._due = now + SLOW
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._handshaking = False
            self.connections += 1
            self._rotation.succeeded()
            self.state, self._why, self._due = State.CONNECTED, "", math.inf
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._fail(now, refused=True)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            # If the time for a handshake is over, the error is the last one of libzmq's thread, whoever's it was.
            silent = value in (errno.EAGAIN, errno.ETIMEDOUT) or now - self._connected_at >= 0.9 * HANDSHAKE
            self._fail(now, _SILENT, refused=not silent)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL or (event == zmq.EVENT_DISCONNECTED and self._handshaking):
            self._fail(now, "does not speak as a gateway of colocache does: is it the right port?")
        elif event == zmq.EVENT_DISCONNECTED:
            self.state, self._due = State.CONNECTING, now + DEAF  # libzmq dials again by itself
        else:  # nobody listens, or nobody has answered; libzmq dials again by itself
            self.state = State.UNREACHABLE if event == zmq.EVENT_CLOSED else self.state
            self._why = "cannot be reached" if event == zmq.EVENT_CLOSED else self._why
            self._due = now + DEAF

    def _when_due(self, now: float) -> None:
        if self._handshaking:
            self._fail(now, _SILENT)
            return
        self._hang_up()  # libzmq has given up without a word; or it is time for the next attempt
        self._open(now)

    def _fail(self, now: float, why: str = "", *, refused: bool = False) -> None:
        """Give this attempt up: the next one is with the next secret, at once or after a pause."""
        pause = self._rotation.failed(refused)
        if self._rotation.is_refused:
            self.state, self._why = State.REFUSED, "refuses our secret"
        elif not refused:
            self.state, self._why = State.UNREACHABLE, why
        self._hang_up()
        self._due = now + pause  # and `look` opens the next socket

    # --- Sockets

    def _open(self, now: float) -> None:
        self.attempts += 1
        self._due = now + DEAF
        with contextlib.ExitStack() as undo:
            try:
                socket = self._context.socket(zmq.DEALER)
                undo.callback(socket.close)
                set_options(
                    socket, largest=self._largest, queue=self._queue, chance=self._chance(), dials_again=not self._once
                )
                if self._keys is not None:
                    dial_with(socket, self._keys[self._rotation.current])
                monitor = _monitor(self._context, socket)
                undo.callback(monitor.close)
                undo.callback(socket.disable_monitor)
                socket.connect(self.address.endpoint)
            except (OSError, zmq.ZMQError) as error:
                self.state, self._why = State.UNREACHABLE, f"cannot be dialled: {error.strerror}"
                self._due = now + AGAIN
                return
            undo.pop_all()
        self._socket, self._monitor = socket, monitor
        for each in (socket, monitor):
            self._poller.register(each, zmq.POLLIN)

    def _hang_up(self, linger: float = 0.0) -> None:
        self._handshaking = False
        socket, self._socket = self._socket, None
        monitor, self._monitor = self._monitor, None
        if socket is None or monitor is None:
            return
        for each in (socket, monitor):
            self._poller.unregister(each)
        socket.disable_monitor()  # ends the other end of the monitor, and forgets this one
        monitor.close()
        socket.close(linger=int(linger * 1000))
