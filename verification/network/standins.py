"""Caches that stand in for one that speaks between hosts: each has a fault that the campaign must find, or none.

They keep nothing in common between hosts but pings, by which they know of each other what `hosts` and `members` show:
one process of each host is the gateway, by a lock on a file in the host's directory. It listens, and it dials all
others; what it hears it writes to a file, which its host-mates read.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

import colocache
from colocache import Receipt

PING: Final = 0.2  # s
PATIENCE: Final = 1.0  # s; for the answer to a ping
COMPLETE, INCOMPLETE = Receipt((), (), True, 0.0), Receipt((), (), False, 0.0)


class Host(NamedTuple):
    """A host, as another one sees it."""

    name: str
    age: float  # s


class Process(NamedTuple):
    """A process of this host."""

    pid: int
    host: str
    gateway: bool


class Kind(NamedTuple):
    """What is wrong with a stand-in."""

    keeps: float = 0.0  # s, for which values are kept, whatever is invalidated
    is_complete: bool = True  # what it says of invalidations
    hangs: bool = False  # reads do, now and then
    is_deaf: bool = False  # to a host that it has once not heard


#: By name. What ``honest`` reads is always loaded.
KINDS: Final = {
    "honest": Kind(),
    "stale": Kind(keeps=2.0),
    "late": Kind(keeps=60.0, is_complete=False),
    "hanging": Kind(hangs=True),
    "deaf": Kind(is_deaf=True),
}


class StandIn:
    """What the campaign uses of a `colocache.Cache`. Settings come from the variables of one."""

    def __init__(self, kind: str) -> None:
        """Start nothing. Raise KeyError for a kind that there is not."""
        self._kind = KINDS[kind]
        self._kept: dict[str, tuple[float, Any]] = {}
        self._pings: _Pings | None = None
        self._reads = 0

    def start(self) -> None:
        """Join: ping, or see who does."""
        if self._pings is None:
            self._pings = _Pings(self._kind.is_deaf)

    def close(self) -> None:
        """Ping no more."""
        if self._pings is not None:
            self._pings.close()

    def namespace(self, path: str, **_: Any) -> StandIn:
        """The same again: keys are unique without their namespace."""
        return self

    def hosts(self) -> list[Host]:
        """This host, and those that it has ever heard."""
        assert self._pings is not None
        return self._pings.hosts()

    def members(self) -> list[Process]:
        """The gateway, if this host has one."""
        assert self._pings is not None
        pid = self._pings.gateway()
        return [Process(pid, self._pings.name, True)] if pid else []

    def get_or_load(self, key: str, loader: Callable[[], Any], *, tags: Iterable[str] = ()) -> Any:
        """Load, or hand out what was kept."""
        until, value = self._kept.get(key, (0.0, None))
        if monotonic() < until:
            return value
        self._reads += 1
        if self._kind.hangs and self._reads == 50:
            threading.Event().wait()
        value = loader()
        self._kept[key] = monotonic() + self._kind.keeps, value
        return value

    async def aget_or_load(self, key: str, loader: Callable[[], Any], *, tags: Iterable[str] = ()) -> Any:
        """As `get_or_load`."""
        await asyncio.sleep(0)
        return await loader()

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """What is kept."""
        now = monotonic()
        return {key: kept[1] for key in keys if (kept := self._kept.get(key)) and now < kept[0]}

    def cached(self, *, tags: Callable[..., Any]) -> Callable[[Any], Any]:
        """Decorate a function of a key."""
        return lambda function: lambda key: self.get_or_load(f"function {key}", lambda: function(key))

    def invalidate(self, *keys: str, wait: bool | float = True) -> Receipt:
        """Do nothing, and say that it was done, or not."""
        return COMPLETE if self._kind.is_complete and wait else INCOMPLETE

    async def ainvalidate(self, *keys: str, wait: bool | float = True) -> Receipt:
        """As `invalidate`."""
        return self.invalidate(*keys, wait=wait)

    def invalidate_tags(self, *tags: str, wait: bool | float = True) -> Receipt:
        """As `invalidate`."""
        return self.invalidate(wait=wait)

    def clear(self, *, wait: bool | float = True) -> Receipt:
        """As `invalidate`."""
        return self.invalidate(wait=wait)


class OneRegion(colocache.Cache):
    """The real cache, where all hosts share one directory: one host to itself, so no cut concerns it."""

    def hosts(self) -> list[Host]:
        """All, and none is ever silent."""
        return [Host(f"h{number}", 0.0) for number in range(1, 2 + len(os.environ["COLOCACHE_PEERS"].split(",")))]


class _Pings:
    """The pings of one host, by the one of its processes that has the lock."""

    def __init__(self, is_deaf: bool) -> None:
        self.name = os.environ["COLOCACHE_HOST"]
        self._directory = Path(os.environ["COLOCACHE_DIR"])
        self._is_deaf = is_deaf
        self._enough = threading.Event()
        self._heard: dict[str, float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._elect, daemon=True).start()

    def close(self) -> None:
        self._enough.set()

    def hosts(self) -> list[Host]:
        heard = {}
        with suppress(OSError, ValueError):
            heard = json.loads((self._directory / "heard").read_text())
        return [Host(self.name, 0.0), *(Host(name, monotonic() - at) for name, at in heard.items())]

    def gateway(self) -> int:
        with suppress(OSError, ValueError):
            return int((self._directory / "gateway").read_text())
        return 0

    def _elect(self) -> None:
        with open(self._directory / "lock", "ab") as file:
            while not self._enough.is_set():
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    self._enough.wait(0.05)
                else:
                    self._serve()

    def _serve(self) -> None:
        address, _, port = os.environ["COLOCACHE_LISTEN"].rpartition(":")
        with socket.create_server((address, int(port))) as listener:
            _write(self._directory / "gateway", str(os.getpid()))
            for peer in os.environ["COLOCACHE_PEERS"].split(","):
                threading.Thread(target=self._find, args=(peer,), daemon=True).start()
            threading.Thread(target=self._answer, args=(listener,), daemon=True).start()
            self._enough.wait()

    def _answer(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(PATIENCE)
                with connection, suppress(OSError):
                    connection.sendall(self.name.encode())

    def _find(self, peer: str) -> None:
        """Ping each address that a name ever has."""
        name, _, port = peer.rpartition(":")
        known: set[str] = set()
        while not self._enough.wait(PING):
            with suppress(OSError):
                found = {str(each[4][0]) for each in socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)}
                for address in found - known - {os.environ["COLOCACHE_LISTEN"].rpartition(":")[0]}:
                    threading.Thread(target=self._ping, args=(address, port), daemon=True).start()
                known |= found

    def _ping(self, address: str, port: str) -> None:
        has_heard = False
        while not self._enough.wait(PING):
            asked = time.monotonic()
            try:
                with socket.create_connection((address, int(port)), timeout=PATIENCE) as connection:
                    name = connection.recv(99).decode()
            except OSError:
                if has_heard and self._is_deaf:
                    return
                continue
            if name:
                has_heard = True
                with self._lock:
                    self._heard[name] = asked
                    _write(self._directory / "heard", json.dumps(self._heard))


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)
