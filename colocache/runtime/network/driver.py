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

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ...core.hosts.messages import Ack, Told
from ...core.hosts.rows import Incarnation
from ...errors import ConfigError
from ...interruptions import pass_over
from ..logs import Log
from ..servers import why_no_threads
from ..waiting.answers import Answer
from ..waiting.threads import Errands, allocate_lock, drained, may_not_wait, start_driver
from .addresses import refuse_plain
from .direct import UNABLE, DirectLinks
from .election import Election
from .inherited import close_connections
from .links import OnAnswer, Request
from .session import GOODBYE, Chores, Engine, Given, Session
from .settings import Settings
from .speaker import HostStatus, Server, Speaker
from .wakes import WakeUp

PAUSE: Final = 1.0  # s after a failure
LAST_LINES: Final = 1.0  # s that the last lines of the log are given


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
        chores: Chores | None = None,
        on_acknowledged: Callable[[], object] = lambda: None,
    ) -> None:
        """``id`` is that of the host, and ``directory`` is where its processes find each other.

        The network thread calls ``engine``, ``server``, ``address_of`` and ``weight``, which must not wait. ``server``
        makes what answers requests; it is given what wakes the thread.
        ``address_of`` says where a host listens, or an empty text. ``rows`` tells how many gateways may have to be
        woken. ``weight`` is that of what this host owns. ``chores`` are done in the network thread.
        ``on_acknowledged`` is called in it after other hosts have acknowledged something.

        Raise ConfigError if the settings let anybody in.
        """
        if settings.listen is not None:
            refuse_plain(settings.listen, settings.secrets)
        self.failures = 0  #: how often the thread had to begin anew
        self._given = Given(
            settings, id, directory, election, engine, server, address_of, weight, log, on_acknowledged, chores
        )
        self._hands_over_until: float | None = None
        self._handed_over = Answer()
        self._log = log
        self._errands = errands
        self._wake_up = WakeUp(directory, rows)
        self._requests: deque[Request] = deque()
        self._session: Session | None = None
        self._direct: DirectLinks | None = None  # of the last session: threads may use some after it has ended
        self._idle = False  # whether what is left for the thread must wake it
        self._look = False  # whether there are new own events
        self._leaving = self._says_goodbye = False
        self._silent = False  # after a failure
        self._left, self._ended = allocate_lock(), Answer()
        self._left.acquire()
        self._ended.give(None)  # there is no thread yet

    # --- For any thread

    def request(
        self, to: Incarnation, body: bytes, on_answer: OnAnswer, timeout: float,
        on_late: Callable[[bytes], object] | None = None,
    ) -> None:  # fmt: skip
        """Ask the gateway of another host, and return at once.

        ``on_answer`` is called once, with the answer, or with None: there is none within ``timeout`` seconds, no way to
        the host, or no such host. It is called in the network thread, or in this one, and must not wait. ``on_late`` is
        called with an answer that comes after ``on_answer`` was given None, for want of time, if it comes at all.
        """
        self._requests.append(Request(to, body, on_answer, monotonic() + timeout, on_late))
        # 1. This appends the request, and then looks whether requests are taken.
        # 2. The thread notes that it takes none, and then empties the queue.
        # So one of them empties it.
        if self._session is None:
            self._refuse_requests()
        else:
            self._rouse_if_idle()

    def ask(self, to: Incarnation, body: bytes, timeout: float) -> bytes | object | None:
        """Ask the gateway of another host, and wait for the answer in this thread, for ``timeout`` seconds at most.

        Return None if there is no answer, and `UNABLE` if nothing was asked: then use `request`. See
        `colocache.runtime.network.direct`.
        """
        session = self._session
        return UNABLE if session is None else session.direct.ask(to, body, timeout)

    def event_appended(self) -> None:
        """Have the gateway of this host tell others of an event. Take no lock, and return at once."""
        if self.is_gateway:
            self._look = True
            self._rouse_if_idle()
        else:
            self._wake_up.wake()

    def rouse(self) -> None:
        """Have the chores looked at. Any thread may call this; it takes no lock."""
        self._rouse_if_idle()

    @property
    def is_gateway(self) -> bool:
        """Whether this process speaks for its host."""
        return self._speaker is not None

    def figures(self) -> dict[str, int]:
        """Return what was counted since the thread began, or began anew."""
        session, speaker = self._session, self._speaker
        unanswered, late = (0, 0) if session is None else session.figures
        bad, unsent = (0, 0) if speaker is None else (speaker.bad_frames, speaker.unsent)
        sent = {} if speaker is None else speaker.sent.copy()
        return {
            "unanswered": unanswered, "late_answers": late, "bad_frames": bad, "unsent": unsent,
            "failures": self.failures, "sent": sum(sent.values()),
            "sent_events": sent.get(Told, 0), "sent_acknowledgements": sent.get(Ack, 0),
        }  # fmt: skip

    def status(self) -> tuple[HostStatus, ...]:
        """Return what this process knows of its lines to other hosts, as of its last tick. Only a gateway has lines."""
        speaker = self._speaker
        return () if speaker is None else speaker.status

    @property
    def _speaker(self) -> Speaker | None:
        session = self._session
        return None if session is None else session.speaker

    def _rouse_if_idle(self) -> None:
        """Interrupt the wait, if there is one. What is to be seen then is there already: see `_step`."""
        if self._idle:
            self._rouse()

    def _rouse(self) -> None:
        self._idle = False
        session = self._session
        if session is not None:
            try:
                session.waker.wake()
            except BaseException:  # a signal handler has raised it, and other threads rely on this one by now
                session.waker.wake()
                raise

    def _refuse_requests(self) -> None:
        for request in drained(self._requests):
            try:
                request.on_answer(None)
            except Exception:
                self._log.exception("an answer of another host could not be taken in", event="answer_failed")

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
        self._log.error(
            "speaks with no other host, and serves nothing from the cache: %s", why, event="speaks_with_nobody"
        )
        self._ended.give(None)

    def say_goodbye(self) -> None:
        """Have `close` tell other hosts that this one has ended. Only for the last process of a host."""
        self._says_goodbye = True

    def begin_to_hand_over(self, patience: float) -> None:
        """Begin to hand over to other hosts what this one owns, for so many seconds at most, and return at once.

        Only for the last process of a host. If it is not the gateway, it becomes it as soon as it can.
        """
        if may_not_wait() or self._session is None:
            return
        self._handed_over = Answer()
        self._hands_over_until = monotonic() + patience
        self._rouse()

    def hand_over(self) -> None:
        """Wait until that is done."""
        ends = self._hands_over_until
        if ends is not None:
            self._handed_over.result(max(0.0, ends - monotonic()))

    def leave(self) -> None:
        """Begin to do what `close` does, and return at once. Take no lock: a finalizer may call this anywhere."""
        self._leaving = True
        with pass_over(RuntimeError):  # the second time
            self._left.release()
        self._rouse()

    def close(self, patience: float) -> bool:
        """End the thread. Return whether it has ended after ``patience`` seconds. What is asked still gets None."""
        self.leave()
        if may_not_wait():
            return False
        ended = self._ended.result(patience) is None
        self._errands.finish(LAST_LINES)
        return ended

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's. libzmq cannot close its sockets here."""
        self._idle = False
        session, self._session = self._session, None
        if self._direct is not None:
            self._direct.forget_after_fork()
        if session is not None:
            _inherited.append(session)
            listen = self._given.settings.listen
            close_connections(0 if listen is None else listen.port, session.addresses())
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
                except (OSError, ConfigError) as error:
                    self._fail(
                        self._log.warning, "speaks with no other host for now: %s", error, event="speaks_with_nobody"
                    )
                except Exception:  # a bug, or libzmq in trouble
                    self._fail(
                        self._log.exception,
                        "the network thread has failed, and will start anew",
                        event="network_failed",
                    )
                if not self._leaving:
                    self._left.acquire(True, PAUSE)
        finally:
            self._ended.give(None)

    def _fail(self, log: Callable[..., None], text: str, *details: object, event: str) -> None:
        self.failures += 1
        self._silent = True
        log(text, *details, event=event)

    def _serve(self) -> None:
        session = Session(self._given, self._rouse_if_idle)
        if self._silent:
            self._silent = False
            self._log.info("speaks with other hosts again", event="speaks_again")
        try:
            self._session, self._direct = session, session.direct
            while not self._leaving:
                self._step(session)
                self._see_to_handing_over(session)
            self._session = None
            self._refuse_requests()
            if self._says_goodbye:
                session.part()
        finally:
            self._session = None
            self._refuse_requests()
            session.close(GOODBYE if self._says_goodbye else 0.0)

    def _see_to_handing_over(self, session: Session) -> None:
        ends = self._hands_over_until
        if ends is None:
            return
        session.hand_over(ends)  # it may be another session by now
        if monotonic() >= ends or not session.is_handing_over:
            self._hands_over_until = None
            self._handed_over.give(None)

    def _step(self, session: Session) -> None:
        # 1. This sets the flag, and then looks at what was left for it.
        # 2. Another thread leaves something, and then looks at the flag.
        # What is left after this has looked finds the flag set, and writes to the pipe.
        self._idle = True
        ready = session.wait(at_once=bool(self._requests) or self._look)
        self._idle = False
        look, self._look = self._look, False
        session.work(ready, drained(self._requests), look)


#: What the parent's threads used, which a forked child must not touch, not even to free it: libzmq would wait for I/O
#: threads that are not there.
_inherited: list[Any] = []
