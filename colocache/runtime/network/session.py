"""One life of the sockets of a process, from when its network thread begins to when it ends, or begins anew.

For the network thread alone.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol, TypeAlias

import zmq

from ...core.hosts.gateway import Gateway, Meetings
from ...core.hosts.rows import Host, Incarnation
from ..files import descriptors_are_scarce
from ..logs import Log
from ..waiting.threads import can_start
from ..waker import Waker
from .direct import DirectLinks
from .election import Election
from .keys import group_keys
from .limits import raise_limit
from .links import Links, Request
from .peers import Address
from .settings import Settings
from .speaker import Server, Speaker
from .wakes import WakePipe
from .wire import hello

TRY_EVERY: Final = 0.5  # s between two attempts to become the gateway
PREFERRED_EVERY: Final = 0.1  # s, of a process that is preferred
LEAVE_TO_PREFERRED: Final = 0.2  # s that the office is left to it
TRY_AGAIN: Final = 1.0  # s after a failure
MOST_SOCKETS: Final = 4096
SPARE_THREADS: Final = 8  # libzmq starts two, and aborts the whole process if it cannot
PARTING: Final = 0.5  # s in which other hosts are to be reached, to say goodbye
PARTING_STEP: Final = 10  # ms
GOODBYE: Final = 0.1  # s that the last frames are given to leave, and then as long again

#: Makes the protocol of a gateway, given the row to write in, what this host says of itself, and who is where.
Engine: TypeAlias = Callable[[int, Host, Meetings], Gateway]


class Chores(Protocol):
    """What the network thread of each process has to do from time to time."""

    @property
    def due(self) -> float:
        """When `run` has something to do, on the monotonic clock, in seconds. Another thread may make it earlier."""

    def run(self) -> object:
        """Do it."""


@dataclass(frozen=True)
class Given:
    """What a network thread is given; see `colocache.runtime.network.driver.Network`."""

    settings: Settings
    id: Incarnation
    directory: str
    election: Election
    engine: Engine
    server: Callable[[Callable[[], object]], Server]  # makes what answers requests, given what wakes the thread
    address_of: Callable[[Incarnation], str]
    weight: Callable[[], int]
    log: Log
    on_acknowledged: Callable[[], object]
    chores: Chores | None = None


class Session:
    """The sockets, with the links of this process, and once it is the gateway, what that needs."""

    def __init__(self, given: Given, wake: Callable[[], object]) -> None:
        """``wake`` is called by any thread that has left something for `step`.

        Raise OSError if the system refuses, and ConfigError if there is no encryption.
        """
        self.waker = Waker()
        self.speaker: Speaker | None = None
        self._given = given
        self._wake = wake
        settings = given.settings
        self._keys = [group_keys(secret, settings.group) for secret in settings.secrets] or None
        self._mine = hello(settings.release)
        self._context = _begun_context()
        self._poller = zmq.Poller()
        self._poller.register(self.waker.source, zmq.POLLIN)
        self._links = Links(
            self._context, self._poller, self._keys, self._mine, given.address_of, random.random, given.log
        )
        self.direct = DirectLinks(self._context, self._poller, self._keys, self._mine, given.address_of, random.random)
        self._try_at = -math.inf
        self._version: int | None = None  # of the processes of this host
        self._vacant_since: float | None = None
        self._is_out_of_office = self._is_parting = False
        self._hands_over_until: float | None = None
        if settings.is_preferred:
            try:
                given.election.prefer()
            except BaseException:
                self._context.destroy()
                raise

    # --- The thread's work

    def wait(self, at_once: bool) -> list[object]:
        """Wait until there is something to do, or not, and return what can be read."""
        speaker = self.speaker
        due = min(self._links.due, self.direct.due, self._try_at if speaker is None else speaker.due)
        chores = self._given.chores
        if chores is not None:
            due = min(due, chores.due)
        at_once = at_once or (speaker is not None and speaker.has_work)
        seconds = 0.0 if at_once else max(0.0, due - monotonic())
        return [source for source, _ in self._poller.poll(min(math.ceil(seconds * 1000), 1 << 30))]

    def work(self, ready: list[object], requests: Iterable[Request], look: bool) -> None:
        """Do what is to be done. ``look`` says that there are new own events."""
        if self.waker.source in ready:
            self.waker.rest()
        now = monotonic()
        for request in requests:  # first, because somebody waits for each of them
            self._links.ask(request, now)
        if self.speaker is not None:
            self.speaker.work(ready, now, look)
        self._links.work(ready, now)
        self.direct.work(ready, now)
        chores = self._given.chores
        if chores is not None and chores.due <= now:
            chores.run()
        if self.speaker is None:
            self._stand(now)

    def hand_over(self, ends: float) -> None:
        """Hand over to other hosts what this one owns. Callable again. If it is not the gateway, it becomes it."""
        if self._hands_over_until is None:
            self._try_at = -math.inf
            self._is_parting = True
            self._hands_over_until = ends
            if self.speaker is not None:
                self.speaker.hand_over(ends)

    @property
    def is_handing_over(self) -> bool:
        """Whether that goes on."""
        return self.speaker is None or self.speaker.is_handing_over

    def part(self) -> None:
        """Say goodbye, for the last process of a host. If it is not the gateway yet, it becomes it."""
        ends = monotonic() + PARTING
        self._try_at = -math.inf
        self._is_parting = True
        self.work([], (), look=True)  # what others are told now, they need not drop everything for
        while monotonic() < ends and not (self.speaker is not None and self.speaker.is_connected):
            self._work_on()
        if self.speaker is None:
            return
        self.speaker.say_goodbye()
        # A connection that is closed while something in it is unread is reset, and then the other side loses what it
        # has not read either.
        ends = monotonic() + GOODBYE
        while monotonic() < ends:
            self._work_on()

    def _work_on(self) -> None:
        self.work([source for source, _ in self._poller.poll(PARTING_STEP)], (), look=False)

    def close(self, linger: float = 0.0) -> None:
        """Let go of everything. Requests get None. What was sent last may take ``linger`` seconds to leave."""
        with contextlib.ExitStack() as all:
            all.callback(self._given.election.give_back)
            all.callback(self._end_context)
            speaker, self.speaker = self.speaker, None
            if speaker is not None:
                all.callback(speaker.close, linger)
            all.callback(self._links.close)

    def _end_context(self) -> None:
        """End libzmq's threads. They wait for all sockets, so not if a thread that asks by itself does not end."""
        if self.direct.close():
            self._context.destroy()
        else:
            _left.append(self._context)

    def addresses(self) -> set[Address]:
        """Return the addresses that this process is connected to, or is about to be."""
        speaker = self.speaker
        return {*self._links.addresses(), *self.direct.addresses(), *(() if speaker is None else speaker.addresses())}

    @property
    def figures(self) -> tuple[int, int]:
        """How many requests got no answer, and how many answers came after their time."""
        return self._links.unanswered, self._links.late

    # --- The office

    def _stand(self, now: float) -> None:
        """Try to become the gateway, if it is time."""
        election, version = self._given.election, self._given.election.version()
        if now < self._try_at and version == self._version:
            return
        self._version = version
        self._try_at = now + (PREFERRED_EVERY if self._given.settings.is_preferred else TRY_EVERY)
        if not self._given.settings.is_preferred and election.must_wait() and not self._has_waited(now):
            return
        row = election.take()
        self._vacant_since = None
        if row is None:
            if self._is_parting:
                self._try_at = now + PARTING_STEP / 1000
            return
        try:
            self._begin(row)
        except OSError as error:
            election.give_back()
            if self._is_parting:  # the gateway before may not have let go of the address yet
                self._try_at = now + PARTING_STEP / 1000
                return
            self._try_at = now + TRY_AGAIN
            self._is_out_of_office = True
            self._given.log.error(
                "cannot speak with other hosts, and serves nothing from the cache: %s",
                error,
                event="speaks_with_nobody",
            )

    def _has_waited(self, now: float) -> bool:
        """Leave the office to a process that is preferred, for a moment. Return whether that is over."""
        if not self._given.election.is_vacant():
            self._vacant_since = None
            return False
        if self._vacant_since is None:
            self._vacant_since = now
        ends = self._vacant_since + LEAVE_TO_PREFERRED
        self._try_at = min(self._try_at, ends)
        return now >= ends

    def _begin(self, row: int) -> None:
        """Be the gateway."""
        given = self._given
        with contextlib.ExitStack() as undo:
            pipe = WakePipe(given.directory, row)
            undo.callback(pipe.close)
            speaker = Speaker(
                self._context, self._poller, given.settings, self._keys, self._mine, pipe,
                given.server(self._wake), self._wake,
                given.on_acknowledged, random.random, given.log,
            )  # fmt: skip
            undo.callback(speaker.close)
            speaker.engine_is(lambda me, meetings: given.engine(row, me, meetings), given.id, given.weight)
            undo.pop_all()
        self.speaker = speaker
        if self._hands_over_until is not None:
            speaker.hand_over(self._hands_over_until)
        if self._is_out_of_office:
            self._is_out_of_office = False
            given.log.info("speaks with other hosts again", event="speaks_again")


def _begun_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return a context of libzmq whose threads run already. Raise OSError if there may not be enough for them.

    They begin with the first socket. Where libzmq can have no thread, or no descriptor for what they wait by, it aborts
    the process. So it is to have all that it needs now, where it was looked for just before. If other threads take it
    in between, there is no help.
    """
    raise_limit()
    if descriptors_are_scarce():
        raise OSError("hardly a file descriptor is left in this process: raise its limit (ulimit -n)")
    if not can_start(SPARE_THREADS):
        raise OSError("hardly a thread can be started: raise the limit of threads (ulimit -u, pids.max), or of memory")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = MOST_SOCKETS
    context.socket(zmq.PAIR).close()
    return context


#: Contexts that cannot be ended, nor freed: see `Session.close`.
_left: list[zmq.Context[zmq.Socket[bytes]]] = []
