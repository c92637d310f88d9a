"""The processes of several hosts on this machine, for benchmarks: each host is a network namespace, with its own group.

    with Hosts(3) as hosts:
        [one] = hosts.start("h1", Asker)       # as `benchmarks.group.Group.start`
        hosts.serve("h2")                      # a process of `colocache serve`
        hosts.await_current()

Between two hosts are two veth links, and a router: see `verification.network.namespaces`. All of them share the cores
of this machine, so there is no network that would be slow, and a process that computes slows all hosts down.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.group import MEMORY, PATIENCE, Member, Worker, serve, together
from verification.network.namespaces import Namespaces

LOOK_EVERY = 0.02  # s


class HostMember(Member):
    """A process of a host that has others beside it."""

    def start(self) -> None:
        """Join the host, without waiting for other hosts."""
        self.cache.start()

    def is_current(self, others: int) -> bool:
        """Tell whether this host is current, and knows so many others that live."""
        host = self.cache._member.own_host()
        return host is not None and host.is_current() and len(self.hosts.rows.live()) == others

    def is_gateway(self) -> bool:
        """Tell whether this process speaks for its host."""
        return bool(self.hosts.network.is_gateway)

    @property
    def hosts(self) -> Any:
        """What the cache knows of other hosts."""
        host = self.cache._member.own_host()
        assert host is not None
        assert host.hosts is not None
        return host.hosts

    def figures(self) -> dict[str, int]:
        """Return what the network thread has counted."""
        return dict(self.hosts.network.network.figures())

    def processor(self) -> float:
        """Return the seconds of processor time that this process has taken."""
        times = os.times()
        return times.user + times.system

    def resident(self) -> float:
        """Return the memory of this process, in MiB."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Placed(Worker):
    """A process in a host."""

    def __init__(self, hosts: Hosts, name: str, member: Callable[..., Any]) -> None:
        mine, theirs = socket.socketpair()
        module = sys.modules[member.__module__]
        name_of_it = module.__spec__.name if module.__spec__ is not None else member.__module__  # not "__main__"
        what = f"{name_of_it}:{member.__qualname__}"
        command = [sys.executable, "-m", "benchmarks.placed", str(theirs.fileno()), what]
        with theirs:
            self._popen = hosts.net.start(
                name, command, pass_fds=(theirs.fileno(),), env=hosts.environment(name), stdin=subprocess.DEVNULL
            )
        self._channel = Connection(mine.detach())
        self.pid = self._popen.pid  # each command on the way becomes the next one
        self.host = name

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._popen.kill()
        self.end()

    def end(self) -> None:
        """Have the process end, in its own time."""
        try:
            self._channel.send(None)
            self._popen.wait(PATIENCE / 10)
        except (OSError, subprocess.TimeoutExpired):
            pass
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        self._channel.close()


class Hosts:
    """Hosts, and their processes. They end with the ``with`` block."""

    def __init__(self, count: int, shelf: str = "64MiB") -> None:
        """``shelf`` is the memory of each host."""
        self.net = Namespaces(count, has_ipv6=False)
        self._shelf = shelf
        self._servers: list[subprocess.Popen[Any]] = []
        self.workers: list[Placed] = []

    def __enter__(self) -> Hosts:
        self.directory = Path(tempfile.mkdtemp(prefix="bench", dir=MEMORY))
        self.net.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.workers:
            worker.end()
        self.net.__exit__(*exc_info)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def names(self) -> list[str]:
        """The names of the hosts: h1, h2 and so on."""
        return [host.name for host in self.net.hosts]

    def address(self, name: str) -> str:
        """Return the IP address of a host."""
        return self.net[name].address

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of a process in a host."""
        return self.net.environment(name, self.directory) | {
            "COLOCACHE_GROUP": "bench", "COLOCACHE_SHELF": self._shelf,
        }  # fmt: skip

    def start(self, name: str, member: Callable[..., Any] = HostMember, count: int = 1) -> list[Placed]:
        """Start processes in a host, and wait until they have joined it."""
        started = [Placed(self, name, member) for _ in range(count)]
        self.workers += started
        together(started, "start")
        return started

    def start_all(self, names: Sequence[str], member: Callable[..., Any] = HostMember) -> list[Placed]:
        """Start one process in each of these hosts, some at a time."""
        started: list[Placed] = []
        for place in range(0, len(names), 8):
            some = [Placed(self, name, member) for name in names[place : place + 8]]
            self.workers += some
            together(some, "start")
            started += some
        return started

    def remove(self, worker: Placed) -> None:
        """Have a process end, in its own time."""
        self.workers.remove(worker)
        worker.end()

    def serve(self, name: str) -> None:
        """Have `colocache serve` run in a host, and wait until it is ready."""
        command = [sys.executable, "-m", "colocache", "serve"]
        server = self.run(name, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert server.stdout is not None
        if b"ready" not in server.stdout.readline():
            raise RuntimeError("colocache serve has not started")

    def run(self, name: str, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start any command in a host. It is killed at the end."""
        return self.net.start(name, command, env=self.environment(name), stdin=subprocess.DEVNULL, **options)

    def await_current(self) -> None:
        """Wait until all hosts know each other, and all are current."""
        others = len({worker.host for worker in self.workers}) - 1
        await_true(lambda: all(together(self.workers, "is_current", others)), "the hosts are not current")


def await_true(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until something is so. Raise TimeoutError with the text if it takes too long."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"{otherwise}, after {PATIENCE:.0f} s")
        time.sleep(LOOK_EVERY)


def main(descriptor: int, what: str) -> None:
    """Be a process of a host, and do what comes by this socket."""
    module, _, name = what.partition(":")
    member = getattr(importlib.import_module(module), name)
    serve(Connection(descriptor), member, os.environ["COLOCACHE_DIR"], {})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
