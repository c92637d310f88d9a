"""What a worker process can be told to do to itself and to its host, and to say of itself: see `worker.py`."""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from time import sleep
from typing import Any

import zmq

import colocache
from verification.chaos.strain import Strain


class Troubles:
    """The commands. Every public method is one."""

    cache: colocache.Cache
    _pipes: tuple[tuple[int, int], ...] = ()

    def limit_descriptors(self, room: int | None) -> None:
        """Allow so many more open files; None: as many as the system does."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        used = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if room is None else used + room, hard))

    def limit_file_size(self, size: int) -> None:
        """Have every write beyond so many bytes of a file fail, as on a full disk."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def publisher_is_idle(self) -> bool:
        """Whether libzmq waits for nobody to look after the socket that publishes; until then it frees nothing."""
        driver: Any = self.cache._member.join()
        descriptor = driver._look(lambda now: driver._transport._publisher.getsockopt(zmq.FD))
        return not select.select([descriptor], [], [], 0)[0]

    def open_files(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def limit_queues(self, limit: int) -> None:
        """Have the sockets of the member that is started next queue no more messages than that."""
        Strain(queue=limit).prepare()

    def stall(self, seconds: float) -> None:
        """Have the driver's thread do nothing for so long."""
        stalled: Future[None] = Future()
        driver: Any = self.cache._member.join()
        driver.tell(lambda peer, now: stalled.set_result(sleep(seconds)))
        stalled.result()

    def refuse_sockets(self, refuse: bool) -> None:
        """Have the host refuse a socket to every newcomer."""
        transport: Any = self.cache._member.join()._transport  # type: ignore[union-attr]
        transport.__dict__.pop("_socket", None)
        if refuse:
            transport._socket = _refused

    def open_pipes(self, count: int) -> None:
        self._pipes = tuple(os.pipe() for _ in range(count))
        for pipe in self._pipes:
            os.set_blocking(pipe[0], False)

    def read_pipes(self) -> str:
        """The bytes in the pipes that nothing of the cache has written."""
        found = b""
        for source, _ in self._pipes:
            with suppress(BlockingIOError):
                found += os.read(source, 100)
        return found.decode()

    def driver_threads(self) -> int:
        return sum(thread.name.startswith("colocache") for thread in threading.enumerate())

    def census(self) -> dict[str, int]:
        """What there is in this process's memory, and in its member's tables."""
        gc.collect()
        driver: Any = self.cache._member.join()
        tables = driver._look(lambda now: _tables(driver))
        return {"blocks": sys.getallocatedblocks(), "objects": len(gc.get_objects()), **tables}


def _tables(driver: Any) -> dict[str, int]:
    engine = driver._peer._engine
    return {
        "members": len(engine.members),
        "tombstones": len(engine.members._ended) + len(engine.members._forgotten),
        "connections": len(driver._transport._links) + len(driver._transport._routes),
        "timers": len(engine.timers._heap),
        "events": len(engine.announcer.log) + len(engine.knowledge._remembered),
        "requests": len(engine.requests) + len(engine.queues) + len(engine.owner._parked),
        "entries": len(driver.store),
        "resets": engine.outbox.counters.resets,
    }


def _refused(*_: object) -> None:
    raise zmq.ZMQError(errno.EMFILE)
