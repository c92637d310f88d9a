"""What a service tells systemd, by datagrams (sd_notify(3)): that it is ready, that it stops, that it lives.

Where the service was not started by systemd, or its unit has another type than ``notify``, nothing is sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

PATIENCE = 1.0  # s that a datagram waits for room in the socket of whoever supervises


class Supervisor:
    """Who supervises this process. For one thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` from an environment."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watches_every = _watches_every(environ) if self._address else None
        """Seconds: within each so many, `tell` has to send ``WATCHDOG=1``. None if nobody watches."""

    def tell(self, *states: str) -> None:
        """Send states, such as ``READY=1``, in one datagram. Raise OSError if that fails: tell it, and go on."""
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(PATIENCE)
                sender.sendto("\n".join(states).encode(), self._address)


def _address(text: str) -> str:
    """Return a Unix socket's address: a path, or a name in Linux's abstract namespace. Other kinds give nothing."""
    return f"\0{text[1:]}" if text.startswith("@") else text if text.startswith("/") else ""


def _watches_every(environ: Mapping[str, str]) -> float | None:
    """Return the interval, unless another process is the one that is watched."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (microseconds.isdecimal() and int(microseconds)) or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6
