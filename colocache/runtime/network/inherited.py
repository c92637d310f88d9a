"""What a forked child has of its parent's connections, and must let go of.

libzmq has its sockets closed where a program is executed, and not where a process only forks:

1. A gateway forks. The child has the socket that listens, too.
2. The gateway is killed. Nobody accepts any more, and the kernel goes on to take connections, for the child.
3. The next gateway cannot listen, and other hosts take the old one for stopped, as long as the child lives.

The child cannot ask libzmq, and closes the descriptors under it. The parent does not notice that.
"""

from __future__ import annotations

import _socket  # gevent patches the other module
import contextlib
import os
import stat
from collections.abc import Container, Iterator

from .peers import Address, usable

_PLACES = ("/proc/self/fd", "/dev/fd")


def close_connections(port: int, peers: Container[Address]) -> None:
    """Close what listens at a port of this host, or was accepted there, and connections to some addresses.

    Only for a forked child. Raise nothing. Port 0 is none: each socket that was not bound yet has it.
    """
    for number in _descriptors():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode) and _is_meant(number, port, peers):
                os.close(number)


def _descriptors() -> Iterator[int]:
    for place in _PLACES:
        with contextlib.suppress(OSError):
            yield from [int(name) for name in os.listdir(place) if name.isdecimal()]
            return


def _is_meant(number: int, port: int, peers: Container[Address]) -> bool:
    socket = _socket.socket(fileno=number)
    try:
        if socket.family not in (_socket.AF_INET, _socket.AF_INET6) or socket.type != _socket.SOCK_STREAM:
            return False
        if port and socket.getsockname()[1] == port:
            return True
        with contextlib.suppress(OSError):  # it is connected to nobody
            host, other, *_ = socket.getpeername()
            return usable(host, other) in peers
        return False
    finally:
        socket.detach()
