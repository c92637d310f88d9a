"""The options of every socket whose connections go to another host. Only a gateway imports this module.

Heartbeats of ZMTP stay off, because libzmq aborts the process with them: see docs/decisions/0026. What finds a dead
connection instead is TCP_MAXRT while there is something to send, and the keep-alive of TCP while there is nothing. The
protocol's own pings make sure that there is something every second.
"""

from __future__ import annotations

import zmq

HANDSHAKE = 2.0  # s
CONNECTING = 2.0  # s
RETRY, RETRY_JITTER, RETRY_AT_MOST = 0.1, 0.2, 2.0  # s

_TO_ALL: tuple[tuple[int, int], ...] = (
    (zmq.LINGER, 0),  # the end of a process must not wait for a host that is gone
    (zmq.SNDTIMEO, 0),  # the one thread that has the sockets never waits in them
    (zmq.RCVTIMEO, 0),
    (zmq.HANDSHAKE_IVL, int(HANDSHAKE * 1000)),  # a peer that connects and says nothing is cut off; the default is 30 s
    (zmq.CONNECT_TIMEOUT, int(CONNECTING * 1000)),  # a host behind a black hole; the system would take 2 minutes
    (zmq.HEARTBEAT_IVL, 0),
    (zmq.IPV6, 1),  # or a name that has only IPv6 addresses cannot be reached; IPv4 still works
    # Without traffic: after 10 s, one probe every 3 s. With TCP_MAXRT, Linux gives up at the first probe that is due
    # after 5 s without an answer. Elsewhere three probes may fail.
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 10),
    (zmq.TCP_KEEPALIVE_INTVL, 3),
    (zmq.TCP_KEEPALIVE_CNT, 3),
    # With traffic: what was sent is acknowledged within 5 s, or the connection ends. The system would go on for 15
    # minutes, with growing pauses, so that after a cut nothing arrives for as long again as the cut took.
    (zmq.TCP_MAXRT, 5000),
    (zmq.BACKLOG, 1024),  # a whole group reconnects at once; the default is 100
)


def set_options(
    socket: zmq.Socket[bytes], *, largest: int, queue: int, chance: float, dials_again: bool = True
) -> None:
    """Set all options of a socket for TCP, except its keys, before it binds or connects. For the socket's thread.

    ``largest`` is the size in bytes of the largest message that may come: a larger one ends its connection. Where this
    side has dialled, libzmq does not dial again then, so the sender must check sizes. ``queue`` is the number of
    messages that wait for each connection, in each direction. ``chance`` is a random number from 0 to 1: where libzmq
    has a longest pause it draws no random ones itself, and a whole group would dial a gateway at the same instants.
    ``dials_again`` says whether libzmq dials again when a connection has ended.

    Raise OSError if libzmq refuses an option.
    """
    options = [
        *_TO_ALL,
        (zmq.MAXMSGSIZE, largest),
        (zmq.SNDHWM, queue),
        (zmq.RCVHWM, queue),
        (zmq.RECONNECT_IVL, round((RETRY + RETRY_JITTER * chance) * 1000) if dials_again else -1),
        (zmq.RECONNECT_IVL_MAX, int(RETRY_AT_MOST * 1000) if dials_again else 0),
    ]
    if socket.type == zmq.DEALER:
        options.append((zmq.IMMEDIATE, 1))  # say at once that there is no connection, instead of hoarding messages
    if socket.type == zmq.ROUTER:
        # Say at once that the one that asked is gone. And no ROUTING_ID and no ROUTER_HANDOVER: a DEALER that dials
        # again under a fixed name is refused as its own double as long as its old connection is not known to be dead.
        options.append((zmq.ROUTER_MANDATORY, 1))
    try:
        for option, value in options:
            socket.setsockopt(option, value)
    except zmq.ZMQError as error:
        raise OSError(error.errno, f"ZeroMQ: {error.strerror}") from error
