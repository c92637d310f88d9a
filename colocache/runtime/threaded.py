"""The driver of a member of a group: one thread per process, which owns the sockets and the files.

Threads of the application hand commands over through a queue and a pipe, and wait, if they wait, for an answer of their
own. The thread waits for its sockets, for the pipe, and, where the kernel offers them, for descriptors that say when a
host-mate's process ends.

Joining is done by this thread, too. Signal handlers of the application never run in it, so a join is never interrupted
halfway. No lock of the runtime directory is held in a thread of the application. And what only members of a group need,
zmq above all, is imported by this thread. In a thread of the application, a signal handler can interrupt an import:

- some extension modules load once only, so the import cannot be repeated;
- the handler's exception can leave Python's import lock taken, and then no other thread can import anything.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..core.group.seam import Publish, Send
from ..errors import ColocacheError
from . import files
from .driver import Command, Driver
from .logs import Log
from .servers import call_after_fork
from .switch_interval import SHORT_FOR, SwitchInterval
from .waiting.answers import TOO_LATE, Answer
from .waiting.greenlets import HubErrands
from .waiting.threads import (
    Errands,
    ThreadErrands,
    is_patched,
    on_driver_thread,
    start_driver,
    thread_id,
)
from .waker import Waker

if TYPE_CHECKING:
    from .neighbours import Neighbours
    from .transport import Transport

TICK_EVERY = 0.005  # s; otherwise the time-out of each request, which is answered by then, would cost a tick of its own
JOINING = 30.0  # s; it takes a few milliseconds, and importing zmq some more
LAST_LINES = 1.0  # s that the last lines of the log are given


class CannotJoin(Exception):
    """This process cannot join the group; ``trouble`` says why.

    An exception of the driver's own: those of signal handlers, such as TimeoutError, belong to the application.
    """

    def __init__(self, trouble: Exception) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


class ThreadDriver(Driver):
    """One member of a group, alive in this process. Making it does nothing yet."""

    _transport: Transport
    _neighbours: Neighbours
    _waker: Waker
    _errands: Errands

    def __init__(self, config: Config, log: Log | None = None) -> None:
        super().__init__()
        self.patience = min(1.0, config.lease)
        self._config = config
        self._log = log if log is not None else Log(config.group)
        self._pid = os.getpid()
        self._thread = 0  # its id
        self._woken = True  # nobody wakes a thread that has not begun to wait
        self._stopping: float | None = None  # the instant at which a goodbye waits no more
        self._unheard = True  # until a goodbye says that everybody has heard everything
        self._joined, self._ended = Answer(), Answer()
        self._owned = contextlib.ExitStack()  # what the thread has to give back
        self._ticked_at = self._asking_at = -math.inf  # the latter: when this process asked last
        self._interval = SwitchInterval(config.switch_interval)
        self._state = _StateLog(self._log, config.lease)

    def join(self) -> None:
        """Join the group, and raise CannotJoin if that fails. If anything else is raised, call `leave`."""
        _drivers.add(self)
        call_after_fork(_shut_inherited_gates)
        self._errands = HubErrands() if is_patched() else ThreadErrands()
        if is_patched():
            # A thread of the system and a greenlet that import the same module could wait for each other.
            with contextlib.suppress(ImportError):  # the thread will tell
                from . import neighbours, transport  # noqa: F401
        start_driver(self._run, f"colocache {self._config.group}", self._errands, self._joined.give)
        trouble = self._joined.result(JOINING)
        if trouble is TOO_LATE:
            self.leave(0.0)
            trouble = OSError(errno.ETIMEDOUT, "the cache's thread does not get to work")
        if trouble is not None:
            raise CannotJoin(trouble)

    def leave(self, patience: float) -> None:
        """Begin to do what `close` does, and return at once. Take no lock: a finalizer may call this anywhere."""
        self._stopping = monotonic() + patience
        self._wake()

    def close(self, patience: float) -> None:
        """Leave the group. Wait ``patience`` seconds at most for what is not acknowledged yet, and say goodbye."""
        self.leave(patience)
        if not on_driver_thread():
            self._ended.result(patience + 5.0)
            self._errands.finish(LAST_LINES)

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's. The sockets cannot be closed here, and are left alone."""
        self._alive = False
        self._woken = True  # the pipe is the parent's: never write to it
        if is_patched():  # unlike threads, greenlets that wait are copied, too
            self._let_go_of_all()
        self._interval.restore()
        self._commands.clear()
        self.shut_gate()
        self._neighbours.close()
        _inherited.append(self._transport)

    def _look(self, view: Callable[[float], Any]) -> Any:
        if thread_id() == self._thread:  # in a finalizer
            return view(monotonic())
        if on_driver_thread():  # of another cache, which must not wait
            raise ColocacheError(
                f"the figures and members of the group {self._config.group!r} were asked for in a finalizer, on the "
                "thread of another cache, which must not wait: ask for them in a thread of the application"
            )
        seen = Answer()
        self._order(lambda now: seen.give(_look(view, now)), lambda: seen.give(_look(view, monotonic())))
        for _ in range(50):  # slices: a process that was stopped for long must not take its own thread for dead
            answer = seen.result(0.1)
            if answer is not TOO_LATE:
                break
        else:
            raise TimeoutError(f"colocache: the thread of the group {self._config.group!r} does not answer")
        outcome, error = answer
        if error is not None:
            raise error
        return outcome

    def _order(self, carry_out: Callable[[float], None], refuse: Callable[[], None]) -> None:
        self._commands.append(Command(carry_out, refuse))
        self._wake()
        if not self._alive:  # the thread may have ended before it saw the command
            self._refuse_all()

    def _wake(self) -> None:
        """Interrupt the wait. The flag spares a system call per command while the thread is busy.

        1. The thread clears the flag, and then empties the queue.
        2. A command is queued, and then this looks at the flag.

        A command that comes after the queue was emptied finds the flag cleared, and writes to the pipe.
        """
        if not self._woken:
            self._woken = True
            try:
                self._waker.wake()
            except BaseException:  # a signal handler has raised it, and other threads rely on this one by now
                self._waker.wake()
                raise

    # --- The thread

    def _run(self) -> None:
        self._thread = thread_id()
        try:
            self._join()
        except Exception as error:  # for the thread that joins
            self._finish()
            self._joined.give(error)
            return
        self._alive = True
        self._joined.give(None)
        try:
            self._begin()
            while not self._peer.expelled and (self._stopping is None or not self._may_stop()):
                self._step()
            if self._peer.expelled:  # its lock was lost, as when somebody deleted its files; the next call starts anew
                self._log.warning("leaves the group, because the others took this member for dead")
            else:
                self._goodbye()
        except Exception:
            # A bug, or libzmq in trouble: this member cannot go on, and must not serve. The next call starts anew.
            self._log.exception("this member has failed, and leaves the group")
        finally:
            self._finish()

    def _join(self) -> None:
        from .directory import SEATS, Directory
        from .neighbours import Neighbours, me
        from .transport import Transport

        if files.descriptors_are_scarce():
            raise OSError(errno.EMFILE, "hardly a file descriptor is left in this process")
        config, log = self._config, self._log
        directory = Directory(config.group, config.directory, log=log)
        directory.open()
        seat = directory.take(os.urandom(16))
        self._owned.callback(lambda: seat.release(unheard=self._unheard))
        self._take_peer(me(seat), config, seat.journal, monotonic())
        self._transport = self._owned.enter_context(contextlib.closing(Transport(self._peer.receive, SEATS)))
        self._transport.bind(seat.link_endpoint, seat.bus_endpoint)
        self._waker = Waker()
        self._transport.watch(self._waker.source)
        self._neighbours = Neighbours(directory, seat, self._peer, self._transport, config.lease, log)
        self._owned.callback(self._neighbours.close)
        if self._stopping is not None:
            raise InterruptedError("nobody waits for this member any more")
        seat.announce()

    def _begin(self) -> None:
        self._neighbours.meet_all(monotonic())
        self._act()
        self._peer.start(monotonic())
        self._resolve()
        self._log.info("joined on seat %s", self._peer.me.seat)

    def _step(self) -> None:
        tick_at = max(self._peer.deadline(), self._ticked_at + TICK_EVERY)
        until = min(tick_at, self._neighbours.scan_at, self._stopping or math.inf)
        ready = self._transport.wait(max(0.0, until - monotonic()))
        self._obey(ready)
        self._transport.receive()
        if ready:
            self._neighbours.hear_of_deaths(ready)
        now = monotonic()
        if now >= self._neighbours.scan_at:
            self._scan(now)
        if now >= self._ticked_at + TICK_EVERY and now >= self._peer.deadline():
            self._ticked_at = now
            self._peer.tick(now)
        self._act()
        self._resolve()
        if max(self._peer.asked_at, self._asking_at) > now - SHORT_FOR:
            self._interval.shorten()
        else:
            self._interval.restore()

    def _obey(self, ready: list[int]) -> None:
        if self._waker.source in ready:
            self._waker.rest()
        self._woken = False
        commands = self._commands
        for _ in range(len(commands)):
            self._asking_at = monotonic()
            commands.popleft().carry_out(self._asking_at)

    def _act(self) -> None:
        """Carry out what the peer wants done."""
        neighbours_changed = False
        for action in self._peer.actions():
            if isinstance(action, Send):
                if not self._transport.send(*action):
                    self._peer.counters.frames_dropped += 1
            elif isinstance(action, Publish):
                self._transport.publish(action.frame)
            else:
                self._neighbours.carry_out(action)
                neighbours_changed = True
        if neighbours_changed:  # a member may be found dead on connecting to it, and that leads to more
            self._act()

    def _scan(self, now: float) -> None:
        why = self._neighbours.scan(now)
        if why:  # the next call joins anew
            self._log.warning("leaves the group, because %s", why)
            self._stopping = now
        self._state.note(self._peer.members, now, monotonic() < self.gate.current_until)

    def _may_stop(self) -> bool:
        return not self._peer.busy or monotonic() >= (self._stopping or 0.0)

    def _goodbye(self) -> None:
        self._unheard = self._peer.busy or not self._neighbours.knows_all_that_live()
        self._peer.leave(monotonic())
        self._transport.linger()
        self._act()
        self._log.info("left seat %s", self._peer.me.seat)

    def _finish(self) -> None:
        self.shut_gate()
        self._interval.restore()
        try:
            self._owned.close()
        except OSError:
            self._log.exception("the files of this member could not be put in order")
        finally:
            self._alive = False
            self._let_go_of_all()
            self._ended.give(None)


class _StateLog:
    """Logs whether a member is behind, if that lasts: it is so for a moment whenever another member comes."""

    def __init__(self, log: Log, patience: float) -> None:
        self._log = log
        self._patience = patience
        self._behind_since: float | None = None
        self._told = False

    def note(self, members: Callable[[], list[Any]], now: float, current: bool) -> None:
        """Take notice of the present state. ``members`` tells which members are heard."""
        if current:
            self._behind_since = None
            if self._told:
                self._log.info("is current again: it hears everybody")
            self._told = False
        elif self._behind_since is None:
            self._behind_since = now
        elif now >= self._behind_since + self._patience and not self._told:
            self._told = True
            silent = ", ".join(member.seat for member, _, heard in members() if not heard)
            self._log.info("is behind: it does not hear %s", silent or "itself")


#: Transports of the parent that a forked child must not touch, not even to free them: libzmq would wait for I/O threads
#: that are not there.
_inherited: list[Any] = []

_drivers: weakref.WeakSet[ThreadDriver] = weakref.WeakSet()


def members_here() -> list[ThreadDriver]:
    """Return the members of this process that live."""
    while True:
        with contextlib.suppress(RuntimeError):  # another thread joins at this moment
            return [driver for driver in _drivers if driver.alive and driver._pid == os.getpid()]


def _shut_inherited_gates() -> None:
    """After a fork past Python's hooks: nothing that was inherited may be served until its heirs have noticed."""
    for driver in list(_drivers):
        if driver._pid != os.getpid():
            driver.shut_gate()


def _look(view: Callable[[float], Any], now: float) -> tuple[Any, Exception | None]:
    try:
        return view(now), None
    except Exception as error:  # for the thread that looks; the driver's thread has nothing to do with it
        return None, error
