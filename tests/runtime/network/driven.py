"""Whole hosts on loopback, each with the real protocol over memory of its own: in threads, or in processes."""

from __future__ import annotations

import math
import mmap
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from colocache.core.host.board import Board
from colocache.core.hosts import layout
from colocache.core.hosts.event import KEYS, Event, Position
from colocache.core.hosts.gateway import Gateway, Meetings, Times
from colocache.core.hosts.log import HostLog
from colocache.core.hosts.rows import ACKED, APPLIED, LIVE, Host, Row, Rows
from colocache.runtime.files import Held
from colocache.runtime.logs import Log
from colocache.runtime.network.addresses import parse_listen
from colocache.runtime.network.driver import Network
from colocache.runtime.network.office import Office
from colocache.runtime.network.peers import parse_peers
from colocache.runtime.network.secret import Secret
from colocache.runtime.network.settings import Settings
from colocache.runtime.region import Region
from colocache.runtime.waiting.threads import ThreadErrands

from .hosts import free_port

PATIENCE = 30.0  # s
SECOND = 10**9


def until(condition: Callable[[], object], what: Callable[[], object] = lambda: "", patience: float = PATIENCE) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < ends, what()
        time.sleep(0.001)


class OneProcess:
    """An election in which only one network at a time is elected, for those that share it in one process."""

    def __init__(self) -> None:
        self.holder: object = None
        self.preferred: object = None
        self.changes = 0

    def seat(self) -> Candidate:
        """Return what one network stands with."""
        return Candidate(self)


class Candidate:
    """One process's part in `OneProcess`."""

    def __init__(self, office: OneProcess) -> None:
        self.office = office

    def take(self) -> int | None:
        if self.office.holder in (None, self):
            self.office.holder = self
            return 0
        return None

    def give_back(self) -> None:
        if self.office.holder is self:
            self.office.holder = None

    def is_vacant(self) -> bool:
        return self.office.holder in (None, self)

    def prefer(self) -> None:
        self.office.preferred = self

    def must_wait(self) -> bool:
        return self.office.preferred not in (None, self)

    def version(self) -> int:
        return self.office.changes


class _NoLocks:
    """The locks of lanes, where one thread appends."""

    def lock(self, lane: int) -> bool:
        return True

    def unlock(self, lane: int) -> None:
        pass


class HostMemory:
    """The memory of a host, as one process uses it."""

    def __init__(self, path: Path) -> None:
        """``path`` is the host's directory."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        ids, file = path / "id", path / "hosts"
        if not ids.exists():
            ids.write_bytes(secrets.token_bytes(16))
            with file.open("wb") as made:
                made.truncate(8 * layout.WORDS)
        self.id = ids.read_bytes()
        with file.open("r+b") as opened:
            self.words = memoryview(mmap.mmap(opened.fileno(), 0)).cast("Q")
        region = Region.private(1 << 20)
        self.board = Board(region.bell, region.marks, region.mark_count, region.numbers, region.fences)
        self.fences = region.fences
        self.log = HostLog(self.words, _NoLocks(), region.fences, lambda lane: True)
        self.rows = Rows(self.words, region.fences)
        self.election = Office(lambda: Held(os.open(file, os.O_RDWR)), lambda row: True, lambda: 0)


class Process:
    """One process of a host: a network, over the host's memory."""

    def __init__(
        self,
        memory: HostMemory,
        settings: Settings,
        election: Any = None,
        times: Times | None = None,
    ) -> None:
        self.memory = memory
        self.settings = settings
        self.times = times or Times()
        self.served: list[bytes] = []
        self.answer: Callable[[bytes, Callable[[bytes], object]], object] = lambda body, reply: reply(body)
        self.applied: list[Event] = []
        self.engine: Gateway | None = None
        self.network = Network(
            settings, memory.id, str(memory.path), election or memory.election, self._engine, lambda wake: self,
            lambda id: memory.rows.host(id).address, Log(settings.group), ThreadErrands(),
        )  # fmt: skip

    def _engine(self, row: int, me: Host, meetings: Meetings) -> Gateway:
        memory = self.memory
        self.engine = Gateway(
            me, memory.words, Row(memory.words, memory.fences, row), memory.log, memory.board, memory.fences,
            meetings, self.times, now=time.monotonic_ns(), on_event=self.applied.append,
        )  # fmt: skip
        return self.engine

    def serve(self, body: bytes, reply: Callable[[bytes], object]) -> None:
        self.served.append(body)
        self.answer(body, reply)

    has_work = False
    due = math.inf

    def run(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is to be done."""

    # --- What tests look at

    @property
    def id(self) -> bytes:
        return self.memory.id

    def is_current(self) -> bool:
        """Tell whether this host is current."""
        return self.memory.words[layout.UNTIL] > time.monotonic_ns()

    def knows(self, *others: Process) -> bool:
        """Tell whether this host knows that others live."""
        return all(self.memory.rows.state(other.id) == LIVE for other in others)

    def append(self, *hashes: int) -> Position:
        """Append an event, and stamp it, as a writer does."""
        position = self.memory.log.append(Event(KEYS, hashes))
        self.memory.board.invalidate(hashes)
        self.memory.log.mark_stamped(position)
        self.network.event_appended()
        return position

    def is_acknowledged(self, position: Position, *by: Process) -> bool:
        """Tell whether others have acknowledged an event."""
        lane, number = position
        return all(self.memory.rows.largest(other.id, ACKED + lane) >= number for other in by)

    def has_applied(self, other: Process, position: Position) -> bool:
        """Tell whether an event of another host is applied here."""
        lane, number = position
        return self.memory.rows.largest(other.id, APPLIED + lane) >= number

    def request(self, to: bytes, body: bytes, timeout: float = PATIENCE) -> bytes | None:
        """Ask another host, and wait for the answer."""
        answers: list[bytes | None] = []
        came = threading.Event()
        self.network.request(to, body, lambda answer: (answers.append(answer), came.set()), timeout)
        assert came.wait(2 * PATIENCE)
        assert len(answers) == 1
        return answers[0]


class Cast:
    """The hosts of a test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._processes: list[Process] = []
        self._ports: dict[str, int] = {}

    def address(self, name: str) -> str:
        """Return where a host listens."""
        port = self._ports.setdefault(name, free_port())
        return f"127.0.0.1:{port}"

    def settings(
        self, called: str, *peers: str, secrets: tuple[Secret, ...] = (), bind: str = "", **more: Any
    ) -> Settings:
        """Return the settings of a host: it lists others by their names, or by addresses."""
        name = called
        listed = ",".join(each if ":" in each else self.address(each) for each in peers)
        listen = f"{bind}:{self.address(name).rpartition(':')[2]}" if bind else self.address(name)
        fields: dict[str, Any] = {
            "group": "shop", "name": name, "listen": parse_listen(listen),
            "peers": parse_peers(listed) if listed else (), "secrets": secrets,
        }  # fmt: skip
        return Settings(**(fields | more))

    def host(
        self, called: str, *peers: str, secrets: tuple[Secret, ...] = (), election: Any = None,
        times: Times | None = None, directory: str = "", start: bool = True, **more: Any,
    ) -> Process:  # fmt: skip
        """Start a host of one process, in this process, or a further process of one."""
        memory = HostMemory(self.path / (directory or called))
        made = Process(
            memory, self.settings(called, *peers, secrets=secrets, **more), election or OneProcess().seat(), times
        )
        self._processes.append(made)
        if start:
            made.network.start()
        return made

    def hosts(self, *names: str, **more: Any) -> list[Process]:
        """Start hosts that list each other, and wait until all are current."""
        made = [self.host(name, *[other for other in names if other != name], **more) for name in names]
        self.meet(*made)
        return made

    def meet(self, *hosts: Process) -> None:
        """Wait until hosts know each other, and are current."""
        for each in hosts:
            self._meet(each, [other for other in hosts if other is not each])

    def _meet(self, host: Process, others: list[Process]) -> None:
        until(lambda: host.knows(*others) and host.is_current(), host.network.status)

    def close(self) -> None:
        """End all networks."""
        for each in self._processes:
            each.network.leave()
        for each in self._processes:
            assert each.network.close(PATIENCE)
