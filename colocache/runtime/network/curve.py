"""CURVE (ZeroMQ RFC 26): encrypted TCP, for those who have a secret of the group. Only a gateway imports this module.

The binding side presents the server's key of its own secret. A dialling side that does not know it gets no further than
the first message of the handshake. Then the `Doorkeeper` looks at the key of the dialling side. Both checks are needed:
CURVE alone lets in everybody who knows the server's key, whatever their own key is (measured, libzmq 4.3.5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import zmq
from zmq.utils import z85

from .keys import GroupKeys

DOMAIN = b"colocache"  # of ZAP: what a binding socket asks the doorkeeper for
DOOR = "inproc://zeromq.zap.01"  # where libzmq looks for a doorkeeper in its context
AT_ONCE = 64  # requests answered before pings and other sockets get their turn

_VERSION, _ACCEPTED, _REFUSED, _CURVE = b"1.0", b"200", b"400", b"CURVE"
_LARGEST_ID = 255  # bytes, as in RFC 27


def bind_with(socket: zmq.Socket[bytes], keys: GroupKeys) -> None:
    """Have a socket that is about to bind let in only those whom the context's `Doorkeeper` accepts."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.server.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.server.secret)
    # Only both together keep everybody out while there is no doorkeeper. With one of them libzmq lets everybody in.
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def dial_with(socket: zmq.Socket[bytes], keys: GroupKeys) -> None:
    """Have a socket that is about to connect reach only hosts whose own secret is the one of these keys."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.public)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.client.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.client.secret)


class Doorkeeper:
    """Says who may come in (ZAP, ZeroMQ RFC 27): those whose key is made of an accepted secret. For one thread.

    It must be there before a socket of its context binds. While it is not, or its thread hangs, nobody comes in. Those
    that wait are cut off after the time for a handshake, and dial again.

    `socket` is for the thread's poller: when it can be read, call `work`.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], accepted: Iterable[GroupKeys]) -> None:
        """``accepted`` are the keys of all secrets of this host. Raise OSError if the context has a doorkeeper."""
        self.let_in = 0  #: how often somebody was let in
        self.refused = 0  #: how often somebody was not, because of an unknown key or another mechanism or domain
        self.malformed = 0  #: how many requests libzmq cannot have written
        self._accepted = frozenset(z85.decode(keys.client.public) for keys in accepted)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        try:
            self.socket.setsockopt(zmq.LINGER, 0)
            self.socket.bind(DOOR)
        except zmq.ZMQError as error:
            self.socket.close()
            raise OSError(error.errno, f"ZeroMQ: {error.strerror}") from error

    def work(self) -> int:
        """Answer requests, `AT_ONCE` at most, and return how many there were. Never raises because of a request."""
        for number in range(AT_ONCE):
            try:
                request = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return number
            answer = self._answer(request)
            with contextlib.suppress(zmq.ZMQError):  # the one that asked has given up meanwhile
                if answer is not None:
                    self.socket.send_multipart(answer, zmq.NOBLOCK)
        return AT_ONCE

    def _answer(self, request: list[bytes]) -> list[bytes] | None:
        # The ROUTER's name for the one that asks, an empty frame, then: version, id, domain, address, identity,
        # mechanism, credentials. The address is not looked at: behind a proxy or NAT it says nothing.
        if len(request) < 8 or request[1] or request[2] != _VERSION or len(request[3]) > _LARGEST_ID:
            self.malformed += 1
            return None
        route, _, version, number, domain, _, _, mechanism, *credentials = request
        welcome = domain == DOMAIN and mechanism == _CURVE and len(credentials) == 1
        welcome = welcome and credentials[0] in self._accepted
        if welcome:
            self.let_in += 1
        else:
            self.refused += 1
        status, text = (_ACCEPTED, b"OK") if welcome else (_REFUSED, b"no secret of this group")
        return [route, b"", version, number, status, text, b"", b""]

    def close(self) -> None:
        """Let nobody in any more. Connections that are there go on. Callable twice."""
        self.socket.close()
