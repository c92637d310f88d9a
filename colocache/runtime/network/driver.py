"""The network thread: what a process says to other hosts, and hears of them. One per process and region.

Every process asks other hosts for data, by `links`. One process of each host is its gateway, too: it speaks for the
host, by `speaker`. Which one that is, `election` decides; the others try again and again.

Only a process whose group has several hosts imports this module.

::

    network = Network(settings, region.id, region.path, election, engine, server, address_of, log, errands)
    network.start()
    network.request(owner, body, answer.give, 0.25)
    network.event_appended()
    network.close(1.0)
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias

import zmq

from ...core.hosts.gateway import Gateway, Meetings
from ...core.hosts.rows import Host, Incarnation
from ..files import descriptors_are_scarce
from ..logs import Log
from ..servers import why_no_threads
from ..waiting.answers import Answer
from ..waiting.threads import Errands, allocate_lock, drained, on_driver_thread, start_driver
from ..waker import Waker
from .addresses import refuse_plain
from .election import Election
from .keys import GroupKeys, group_keys
from .links import Links, OnAnswer
from .settings import Settings
from .speaker import HostStatus, Server, Speaker
from .wakes import WakePipe, WakeUp
from .wire import hello

TRY_EVERY: Final = 0.5  # s between two attempts to become the gateway
PREFERRED_EVERY: Final = 0.1  # s, of a process that is preferred
LEAVE_TO_PREFERRED: Final = 0.2  # s that the office is left to it
PAUSE: Final = 1.0  # s after a failure
MOST_SOCKETS: Final = 4096
GOODBYE: Final = 0.2  # s that the last frames are given
LAST_LINES: Final = 1.0  # s that the last lines of the log are given

#: Makes the protocol of a gateway, given the row to write in, what this host says of itself, and who is where.
Engine: TypeAlias = Callable[[int, Host, Meetings], Gateway]


class _Request(NamedTuple):
    to: Incarnation
    body: bytes
    on_answer: OnAnswer
    deadline: float


class Network:
    """One process's end of the network. Making it touches nothing."""

    def __init__(
        self,
        settings: Settings,
        id: Incarnation,
        directory: str,
        election: Election,
        engine: Engine,
        server: Callable[[Callable[[], object]], Server],
        address_of: Callable[[Incarnation], str],
        log: Log,
        errands: Errands,
        *,
        rows: Callable[[], int] = lambda: 1,
        weight: Callable[[], int] = lambda: 1,
    ) -> None:
        """``id`` is that of the host, and ``directory`` is where its processes find each other.

        The network thread calls ``engine``, ``server``, ``address_of`` and ``weight``, which must not wait. ``server``
        makes what answers requests; it is given what wakes the thread.
        ``address_of`` says where a host listens, or an empty text. ``rows`` tells how many gateways may have to be
        woken. ``weight`` is that of what this host owns.

        Raise ConfigError if the settings let anybody in.
        """
        refuse_plain(settings.listen, settings.secrets)
        self.failures = 0  #: how often the thread had to begin anew
        self._settings, self._id, self._directory = settings, id, directory
        self._election = election
        self._engine = engine
        self._server = server
        self._address_of = address_of
        self._log = log
        self._errands = errands
        self._weight = weight
        self._wake_up = WakeUp(directory, rows)
        self._requests: deque[_Request] = deque()
        self._serving = False  # whether requests are taken
        self._idle = False  # whether a request must wake the thread
        self._look = False  # whether there are new own events
        self._waker: Waker | None = None
        self._speaker: Speaker | None = None
        self._links: Links | None = None
        self._context: Any = None
        self._leaving = self._says_goodbye = False
        self._silent = False  # after a failure
        self._left, self._ended = allocate_lock(), Answer()
        self._left.acquire()
        self._ended.give(None)  # there is no thread yet

    # --- For any thread

    def request(self, to: Incarnation, body: bytes, on_answer: OnAnswer, timeout: float) -> None:
        """Ask the gateway of another host, and return at once.

        ``on_answer`` is called once, with the answer, or with None: there is none within ``timeout`` seconds, no way to
        the host, or no such host. It is called in the network thread, or in this one, and must not wait.
        """
        self._requests.append(_Request(to, body, on_answer, monotonic() + timeout))
        # 1. This appends the request, and then looks whether requests are taken.
        # 2. The thread notes that it takes none, and then empties the queue.
        # So one of them empties it.
        if not self._serving:
            self._refuse_requests()
        else:
            self._rouse_if_idle()

    def event_appended(self) -> None:
        """Have the gateway of this host tell others of an event. Take no lock, and return at once."""
        if self._speaker is not None:
            self._look = True
            self._rouse_if_idle()
        else:
            self._wake_up.wake()

    @property
    def is_gateway(self) -> bool:
        """Whether this process speaks for its host."""
        return self._speaker is not None

    def status(self) -> tuple[HostStatus, ...]:
        """Return what this process knows of its lines to other hosts, as of its last tick. Only a gateway has lines."""
        speaker = self._speaker
        return () if speaker is None else speaker.status

    def _rouse_if_idle(self) -> None:
        """Interrupt the wait, if there is one. What is to be seen then is there already: see `_step`."""
        if self._idle:
            self._rouse()

    def _rouse(self) -> None:
        self._idle = False
        waker = self._waker
        if waker is not None:
            try:
                waker.wake()
            except BaseException:  # a signal handler has raised it, and other threads rely on this one by now
                waker.wake()
                raise

    def _refuse_requests(self) -> None:
        for request in drained(self._requests):
            request.on_answer(None)

    # --- Life

    def start(self) -> bool:
        """Have the thread started, and return at once. Return False where no thread can run."""
        why = why_no_threads()
        if why:
            self._not_started(why)
            return False
        self._ended = Answer()
        start_driver(self._run, "colocache network", self._errands, self._not_started)
        return not self._silent

    def _not_started(self, why: object) -> None:
        self._silent = True
        self._log.error("speaks with no other host, and serves nothing from the cache: %s", why)
        self._ended.give(None)

    def say_goodbye(self) -> None:
        """Have `close` tell other hosts that this one has ended. Only for the last process of a host."""
        self._says_goodbye = True

    def leave(self) -> None:
        """Begin to do what `close` does, and return at once. Take no lock: a finalizer may call this anywhere."""
        self._leaving = True
        with contextlib.suppress(RuntimeError):  # the second time
            self._left.release()
        self._rouse()

    def close(self, patience: float) -> bool:
        """End the thread. Return whether it has ended after ``patience`` seconds. What is asked still gets None."""
        self.leave()
        if on_driver_thread():
            return False
        ended = self._ended.result(patience) is None
        self._errands.finish(LAST_LINES)
        return ended

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's. The sockets cannot be closed here, and are left alone."""
        self._idle = self._serving = False
        _inherited.append((self._waker, self._speaker, self._links, self._context))
        self._waker = self._speaker = self._links = self._context = None
        self._requests.clear()
        self._wake_up.forget_after_fork()
        self._ended = Answer()
        self._ended.give(None)

    # --- The thread

    def _run(self) -> None:
        try:
            while not self._leaving:
                try:
                    self._serve()
                except OSError as error:
                    self._fail(self._log.warning, "speaks with no other host for now: %s", error)
                except Exception:  # a bug, or libzmq in trouble
                    self._fail(self._log.exception, "the network thread has failed, and will start anew")
                if not self._leaving:
                    self._left.acquire(True, PAUSE)
        finally:
            self._ended.give(None)

    def _fail(self, log: Callable[..., None], text: str, *details: object) -> None:
        self.failures += 1
        self._silent = True
        log(text, *details)

    def _serve(self) -> None:
        if descriptors_are_scarce():
            raise OSError("hardly a file descriptor is left in this process")
        settings = self._settings
        keys = [group_keys(secret, settings.group) for secret in settings.secrets] or None
        if settings.is_preferred:
            self._election.prefer()
        with contextlib.ExitStack() as owned:
            owned.callback(self._election.give_back)
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            owned.callback(lambda: context.destroy(int(GOODBYE * 1000) if self._says_goodbye else 0))
            context.max_sockets = MOST_SOCKETS
            owned.callback(self._stop)
            waker, poller = Waker(), zmq.Poller()
            poller.register(waker.source, zmq.POLLIN)
            links = Links(context, poller, keys, hello(settings.release), self._address_of, random.random, self._log)
            self._context, self._waker, self._links, self._serving = context, waker, links, True
            self._try_at, self._version = -math.inf, self._election.version()
            self._vacant_since: float | None = None
            while not self._leaving:
                self._step(context, poller, waker, links, keys)

    def _stop(self) -> None:
        """Let go of all sockets."""
        self._serving = False
        speaker, self._speaker = self._speaker, None
        links, self._links = self._links, None
        self._waker = self._context = None
        if links is not None:
            links.close()
        if speaker is not None:
            if self._says_goodbye:
                speaker.say_goodbye()
            speaker.close()
        self._refuse_requests()

    def _step(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        waker: Waker,
        links: Links,
        keys: list[GroupKeys] | None,
    ) -> None:
        # 1. This sets the flag, and then looks at the queues.
        # 2. Another thread appends something, and then looks at the flag.
        # What comes after this has looked finds the flag set, and writes to the pipe.
        self._idle = True
        speaker = self._speaker
        due = min(links.due, self._try_at if speaker is None else speaker.due)
        has_work = self._requests or self._look or (speaker is not None and speaker.has_work)
        wait = 0.0 if has_work else max(0.0, due - monotonic())
        ready = [source for source, _ in poller.poll(min(math.ceil(wait * 1000), 1 << 30))]
        self._idle = False
        if waker.source in ready:
            waker.rest()
        now = monotonic()
        look, self._look = self._look, False
        if speaker is not None:
            speaker.work(ready, now, look)
        for request in drained(self._requests):
            links.ask(*request, now)
        links.work(ready, now)
        if speaker is None:
            self._stand(context, poller, keys, now)

    def _stand(
        self, context: zmq.Context[zmq.Socket[bytes]], poller: zmq.Poller, keys: list[GroupKeys] | None, now: float
    ) -> None:
        """Try to become the gateway, if it is time."""
        version = self._election.version()
        if now < self._try_at and version == self._version:
            return
        self._version = version
        self._try_at = now + (PREFERRED_EVERY if self._settings.is_preferred else TRY_EVERY)
        if not self._settings.is_preferred and self._election.must_wait():
            if not self._election.is_vacant():
                self._vacant_since = None
                return
            if self._vacant_since is None:
                self._vacant_since = now
            if now < self._vacant_since + LEAVE_TO_PREFERRED:
                self._try_at = self._vacant_since + LEAVE_TO_PREFERRED
                return
        row = self._election.take()
        if row is not None:
            try:
                self._begin(context, poller, keys, row)
            except OSError as error:
                self._election.give_back()
                self._try_at = now + PAUSE
                self._fail(
                    self._log.error, "cannot speak with other hosts, and serves nothing from the cache: %s", error
                )

    def _begin(
        self, context: zmq.Context[zmq.Socket[bytes]], poller: zmq.Poller, keys: list[GroupKeys] | None, row: int
    ) -> None:
        """Be the gateway."""
        with contextlib.ExitStack() as undo:
            pipe = WakePipe(self._directory, row)
            undo.callback(pipe.close)
            speaker = Speaker(
                context, poller, self._settings, keys, hello(self._settings.release), pipe,
                self._server(self._rouse_if_idle), self._rouse_if_idle, random.random, self._log,
            )  # fmt: skip
            undo.callback(speaker.close)
            speaker.engine_is(lambda me, meetings: self._engine(row, me, meetings), self._id, self._weight)
            undo.pop_all()
        self._speaker = speaker
        if self._silent:
            self._silent = False
            self._log.info("speaks with other hosts again")


#: What the parent's threads used, which a forked child must not touch, not even to free it: libzmq would wait for I/O
#: threads that are not there.
_inherited: list[Any] = []
