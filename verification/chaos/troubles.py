"""What a worker process can be told to do to itself and to its host, and to say of itself: see `worker.py`."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import colocache
from colocache.core.host.board import Board
from colocache.core.host.logs import Logs
from colocache.runtime import board_file, bus, region
from colocache.runtime.waiting import threads

_start_new_thread = threads._start_new_thread


def _refuse(*_: Any) -> int:
    raise RuntimeError("can't start new thread")


class Troubles:
    """The commands. Every public method is one."""

    cache: colocache.Cache
    _pipes: tuple[tuple[int, int], ...] = ()

    # --- What runs out

    def limit_descriptors(self, room: int | None) -> None:
        """Allow so many more open files; None: as many as the system does.

        What colocache keeps open has high numbers, and does not count.
        """
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        used = max(number for number in map(int, os.listdir("/proc/self/fd")) if number < 500)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if room is None else used + room, hard))

    def limit_file_size(self, size: int) -> None:
        """Have every write beyond so many bytes of a file fail, as on a full disk."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def run_out(self, of: str, room: float) -> None:
        """Have something run out, but for a share of what may be left; "nothing": have all there again."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        if of == "descriptors":
            self.limit_descriptors(int(80 * room))
        elif of == "file size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int((64 << 20) * room), hard))
        elif of == "threads":
            threads._start_new_thread = _refuse
        else:
            self.limit_descriptors(None)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            threads._start_new_thread = _start_new_thread

    def open_files(self) -> int:
        return len(os.listdir("/proc/self/fd"))

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

    def close_all_files(self) -> None:
        """Close all descriptors but those of the standard streams and the test's own, as daemonisers do."""
        kept = {0, 1, 2, *self.streams()}
        for number in map(int, os.listdir("/proc/self/fd")):
            if number not in kept:
                with suppress(OSError):
                    os.close(number)

    def tick_often(self) -> None:
        """Have what looks after the files every half minute do so all the time, once this process has joined."""
        bus.TICK = 0.05  # type: ignore[misc]

    def have_layout(self, layout: int) -> None:
        """Be of a version of the package whose memory has another layout."""
        board_file.LAYOUT = layout  # type: ignore[misc]

    def streams(self) -> list[int]:
        """The descriptors by which the test talks to this process. See `worker.py`."""
        raise NotImplementedError

    # --- Who stops where

    def stop_at(self, step: str) -> None:
        """Have this process stop itself once, at a step of its next write to the shelf.

        ``locked``: it has the ring's lock, and has stored nothing. ``appended``: the bytes are there, and cannot be
        found. ``committed``: they can, and older copies are not void yet. ``stamped``: they are, and the lock is held.
        """
        self._at(step, signal.SIGSTOP)

    def die_at(self, step: str) -> None:
        """Have this process kill itself there."""
        self._at(step, signal.SIGKILL)

    def _at(self, step: str, number: signal.Signals) -> None:
        owner, name, before = {
            "locked": (Logs, "find_way", True),
            "appended": (Logs, "commit", True),
            "committed": (Board, "stamp_write", True),
            "stamped": (Board, "stamp_write", False),
        }[step]
        genuine = getattr(owner, name)

        def reached(*arguments: Any) -> Any:
            setattr(owner, name, genuine)
            if before:
                _hit_oneself(number)
            result = genuine(*arguments)
            if not before:
                _hit_oneself(number)
            return result

        setattr(owner, name, reached)

    def stop_while_joining(self, step: str) -> None:
        """Have this process stop itself once, while it joins; see `colocache.runtime.region`."""

        def reached(at: str) -> None:
            if at == step:
                region._reached = lambda _: None
                _hit_oneself(signal.SIGSTOP)

        region._reached = reached

    # --- Forks that Python does not hear of

    def fork_past_python(self) -> int:
        """Fork as uWSGI does, by the C library: no hook of Python runs. The child serves commands of its own.

        If another thread has asked for the interpreter at that moment, the child would wait for ever until it takes it.
        So the bus's thread is to have opened its socket.
        """
        host = self.cache._member.own_host()
        while host is not None and not os.path.exists(f"{host.region.path}/{host.region.seat.number}.bus"):
            time.sleep(0.001)
        before = sys.getswitchinterval()
        sys.setswitchinterval(1000)  # nobody asks
        time.sleep(0.05)  # who has asked gets it
        pid: int = ctypes.PyDLL(None).fork()
        sys.setswitchinterval(before)
        if not pid:
            self.be_a_child()
        return pid

    def be_a_child(self) -> None:
        """Serve commands in a forked child. See `worker.py`."""
        raise NotImplementedError

    def hit(self, key: str) -> Any:
        """What a reader is served at once, without a look at the shelf or at the pid; None if nothing is."""
        value = self.cache._keyspace.hit(key)
        return None if value is colocache.MISSING else value

    def be_user(self, uid: int) -> None:
        """Be another user from now on."""
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    # --- What there is

    def bad_frames(self) -> int:
        """How much was heard that nobody says."""
        return self.cache._member.join()._shared.bus.bad_frames  # type: ignore[union-attr]

    def bus_threads(self) -> int:
        return sum(thread.name == "colocache bus" for thread in threading.enumerate())

    def census(self) -> dict[str, int]:
        """What there is in this process's memory, and in its tables."""
        gc.collect()
        host: Any = self.cache._member.join()
        entries, size = host.keeper.store.size()
        return {
            "blocks": sys.getallocatedblocks(),
            "objects": len(gc.get_objects()),
            "threads": threading.active_count(),
            "files": self.open_files(),
            "entries": entries,
            "bytes": size,
            "loads": len(host.claims._loads),
            "sleepers": len(host.claims._sleepers),
            "claims": len(host.region.claims._mine),
            "processes": 1 + len(host.region.seats()),
        }


def _hit_oneself(number: signal.Signals) -> None:
    """Send a signal to this process, by this thread: to the process alone, others could take it, and this one go on."""
    signal.pthread_kill(threading.get_ident(), number)
