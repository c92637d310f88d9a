"""The bus: how the processes of a host tell each other what has happened. One thread per process and region.

Coherence does not depend on it, because each process compares its near copies with the board. The bus frees memory, and
it wakes those that wait for a load. So a message may be lost, come late, or come twice.

What has happened is queued by the threads of the application, which take no lock and wait for nobody. The first event
wakes the bus's thread, which gathers for some milliseconds, and sends one frame for each kind. A process opens a way to
its mates only when it has something to say. Nothing happens on the bus of a group that is idle.

::

    bus = Bus("/dev/shm/colocache-1000/shop", 3, 77, mates, near.hear, log, errands)
    bus.start()
    bus.tell(KEYS, (hash_of_key,))
    bus.close(1.0)
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Final, NamedTuple

from .frames import EVERYTHING, KEYS, LARGEST, LOADED, NAMESPACES, TAGS, decode
from .logs import Log
from .mouth import Mates, Mouth
from .servers import why_no_threads
from .short_name import ShortName
from .transport import Ear
from .waiting.answers import Answer
from .waiting.threads import Errands, allocate_lock, drained, on_driver_thread, start_driver
from .waker import Waker

EVENTS: Final = (KEYS, TAGS, NAMESPACES)

MOST: Final = 8192  # events of a kind in one batch; of more, the mates look at everything
GATHER = 0.005  # s from the first event to the frame
PAUSE, PAUSE_AT_MOST = 0.005, 0.1  # s between batches for each mate: so nobody hears more than 200 batches a second
PAUSE_AFTER_EVERYTHING = 0.25  # s: to look at everything takes a while
MOST_ASKED = 100  # at a time, whether the thread does its work
MOST_SENDERS = 4096  # whose frames are counted; those that are dead are among them
LOOK_AFTER_EAR = 1.0  # s
TICK = 30.0  # s
LOOK_AT_REST = 1.0  # s between two looks, after a failure, whether somebody asks if the thread does its work
LAST_FRAMES = 0.1  # s that the last frames are given
LAST_LINES = 1.0  # s that the last lines of the log are given


class Message(NamedTuple):
    """What a mate says: a kind, and hashes. A hash can be there twice."""

    kind: int
    hashes: Sequence[int]


class Bus:
    """One process's end of the bus. Making it touches nothing."""

    def __init__(
        self,
        directory: str,
        seat: int,
        name: int,
        mates: Mates,
        receive: Callable[[Message], object],
        log: Log,
        errands: Errands,
        on_tick: Callable[[], object] = lambda: None,
    ) -> None:
        """``directory``: where the sockets of the group are, each named by its seat. Nobody else may have this seat.

        The bus's thread calls ``receive`` with each message, and ``on_tick`` every 30 s. They must not wait. What they
        drop of users' objects they `hand_over` to ``errands``, because finalizers are code of users.
        """
        self.bad_frames = 0
        self._seat = seat
        self._name = name
        self._mates = mates
        self._receive = receive
        self._log = log
        self._errands = errands
        self._on_tick = on_tick
        self._directory = ShortName(directory, "9999.bus")
        self._events: dict[int, deque[int]] = {kind: deque(maxlen=MOST) for kind in EVENTS}
        self._loaded: deque[int] = deque(maxlen=MOST)
        self._asked: deque[Answer] = deque(maxlen=MOST_ASKED)
        self._idle = self._waits = False  # whether an event, or the end of a load, must wake the thread
        self._waker: Waker | None = None
        self._ear: Ear | None = None
        self._mouth: Mouth | None = None
        self._leaving = False
        self._silent = False  # after a failure
        self._left, self._ended = allocate_lock(), Answer()
        self._left.acquire()
        self._ended.give(None)  # there is no thread yet
        self._tick_at = self._gathered_at = self._say_at = self._look_at = math.inf
        self._next_batch_at = -math.inf
        self._ear_path = ""
        self._frames_of: dict[int, int] = {}  # the number of the last frame of each sender

    # --- For any thread, signal handler or finalizer

    def tell(self, kind: int, hashes: Iterable[int]) -> None:
        """Tell all mates of events: ``kind`` is `KEYS`, `TAGS` or `NAMESPACES`. Take no lock, and return at once."""
        self._events[kind].extend(hashes)
        if self._idle:
            self._rouse()

    def wake(self, hash: int) -> None:
        """Tell those that wait that a load has ended. This is said at once."""
        self._loaded.append(hash)
        if self._waits:
            self._rouse()

    def answers(self, patience: float) -> bool:
        """Have the thread take a turn, and tell whether it did within ``patience`` seconds.

        So the thread of an idle group need not wake to show that it lives. Where it cannot open its sockets, it answers
        all the same, within a second. Where no thread can run, or once it has ended, the answer is no.
        """
        asked = Answer()
        self._asked.append(asked)
        self._rouse()
        return asked.result(patience) is None

    def _rouse(self) -> None:
        """Interrupt the wait. The flags spare a system call per event.

        1. The thread sets a flag, and then looks at the queues.
        2. An event is queued, and then this looks at the flag.

        An event that comes after the thread has looked finds the flag set, and writes to the pipe.
        """
        self._idle = self._waits = False
        waker = self._waker
        if waker is not None:
            try:
                waker.wake()
            except BaseException:  # a signal handler has raised it, and other threads rely on this one by now
                waker.wake()
                raise

    # --- Life

    def start(self) -> bool:
        """Have the thread started, and return at once. Return False where no thread can run: the bus stays silent."""
        why = why_no_threads()
        if why:
            self._not_started(why)
            return False
        self._ended = Answer()
        self._tick_at = monotonic() + TICK
        start_driver(self._run, "colocache bus", self._errands, self._not_started)
        return not self._silent

    def _not_started(self, why: object) -> None:
        self._silent = True
        self._log.warning(
            "hears nothing of other processes, so that it frees memory late, and is late to see that a load of another "
            "process has ended: %s",
            why,
        )
        self._ended.give(None)

    def leave(self) -> None:
        """Begin to do what `close` does, and return at once. Take no lock: a finalizer may call this anywhere."""
        self._leaving = True
        with contextlib.suppress(RuntimeError):  # the second time
            self._left.release()
        self._rouse()

    def close(self, patience: float) -> bool:
        """Say what is still to be said, and end the thread. Return whether it has ended after ``patience`` seconds.

        The seat must not be given up before, because the end of the thread deletes the socket that is named by it.
        """
        self.leave()
        if on_driver_thread():
            return False
        ended = self._ended.result(patience) is None
        self._errands.finish(LAST_LINES)
        return ended

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's."""
        self._idle = self._waits = False
        self._waker = None
        ear, mouth, self._ear, self._mouth = self._ear, self._mouth, None, None
        if ear is not None:
            ear.forget_after_fork()
        if mouth is not None:
            mouth.close()
        self._ended = Answer()
        self._ended.give(None)

    # --- The thread

    def _run(self) -> None:
        try:
            while not self._leaving:
                try:
                    self._serve()
                except OSError as error:
                    self._fail(self._log.warning, "hears nothing of other processes for now: %s", error)
                except Exception:  # a bug
                    self._fail(self._log.exception, "the bus has failed, and will start anew")
                self._rest()
        finally:
            self._ended.give(None)

    def _fail(self, log: Callable[..., None], text: str, *details: object) -> None:
        if not self._silent and not self._leaving:  # the directory may be gone by now
            log(text, *details)
        self._silent = True

    def _rest(self) -> None:
        """After a failure, wait for the next tick."""
        while not self._leaving:
            self._answer()
            pause = self._tick_at - monotonic()
            if pause <= 0:
                self._tick(monotonic())
                return
            self._left.acquire(True, min(pause, LOOK_AT_REST))

    def _answer(self) -> None:
        """Show those that ask that this thread does its work."""
        for asked in drained(self._asked):
            asked.give(None)

    def _serve(self) -> None:
        with contextlib.ExitStack() as owned:
            directory = self._directory.open()
            owned.callback(self._directory.close)
            waker, ear = Waker(), Ear(LARGEST)
            ear.watch(waker.source)
            self._ear_path = f"{directory}/{self._seat}.bus"
            is_late = self._leaving
            if is_late:  # whoever waits for the end may have given up, and then the seat is a successor's
                return
            ear.bind(self._ear_path)
            owned.callback(ear.close)
            mouth = Mouth(self._mates, directory, self._name)
            owned.callback(mouth.close)
            self._look_at = monotonic() + LOOK_AFTER_EAR
            self._mouth, self._ear, self._waker = mouth, ear, waker
            self._answer()  # those that asked when there was no waker
            if self._silent:
                self._silent = False
                self._log.info("hears other processes again")
            try:
                while not self._leaving:
                    self._step(ear, waker, mouth)
                self._finish(ear, waker, mouth)
            finally:
                self._mouth = self._ear = self._waker = None

    def _finish(self, ear: Ear, waker: Waker, mouth: Mouth) -> None:
        """Say what is left to say, and give the last frames a moment to be taken."""
        waker.rest()
        now = monotonic()
        self._say(mouth, now)
        ends = now + LAST_FRAMES
        ear.unbind()
        while mouth.due < ends and now < ends:
            ear.wait(max(0.0, mouth.due - now))
            now = monotonic()
            mouth.go_on(now)

    def _step(self, ear: Ear, waker: Waker, mouth: Mouth) -> None:
        self._idle = self._waits = True  # before the queues are looked at: see `_rouse`
        self._plan(monotonic())
        until = min(self._tick_at, self._say_at, mouth.due)
        roused = ear.wait(max(0.0, until - monotonic()))
        self._idle = self._waits = False
        now = monotonic()
        # The ends of loads first: where other threads compute, this one waits for the interpreter after each call of
        # the system, 5 ms by default.
        if self._loaded:
            mouth.say(LOADED, _taken(self._loaded))
        if roused:
            waker.rest()
        self._hear(ear)
        self._answer()  # here, because work that does not end must not pass for a turn
        now = monotonic()
        self._plan(now)
        if now >= self._say_at:
            self._say(mouth, now)
        mouth.go_on(now)
        if now >= self._tick_at:
            self._tick(now)
        if now >= self._look_at:
            self._look_after_ear(ear, now)

    def _plan(self, now: float) -> None:
        """Decide when to say what is queued."""
        if any(self._events.values()):
            self._idle = False  # further events need not wake this thread
            if self._gathered_at == math.inf:
                self._gathered_at = max(now + GATHER, self._next_batch_at)
        self._say_at = now if self._loaded else self._gathered_at

    def _say(self, mouth: Mouth, now: float) -> None:
        """Say what is queued. The ends of loads do not wait until events are gathered."""
        if self._loaded:
            mouth.say(LOADED, _taken(self._loaded))
        if now < self._gathered_at and not self._leaving:
            return
        self._gathered_at = math.inf
        batches = {kind: _taken(queue) for kind, queue in self._events.items()}
        if any(len(hashes) >= MOST for hashes in batches.values()):
            mouth.say(EVERYTHING, ())
            self._next_batch_at = now + PAUSE_AFTER_EVERYTHING
            return
        for kind, hashes in batches.items():
            if hashes:
                mouth.say(kind, set(hashes))
        self._next_batch_at = now + min(PAUSE * mouth.mates, PAUSE_AT_MOST)

    def _hear(self, ear: Ear) -> None:
        """Hand over what has come: the ends of loads at once, and one message of each other kind."""
        heard: dict[int, list[int]] = {}
        for frame in ear.receive():
            try:
                kind, sender, number, hashes = decode(frame)
            except ValueError as error:
                self._refuse(error)
                continue
            if kind == LOADED:
                self._hand_over(Message(kind, [*hashes]))
            else:
                heard.setdefault(kind, []).extend(hashes)
            if self._is_after_a_gap(sender, number):
                heard[EVERYTHING] = []
        if EVERYTHING in heard or sum(map(len, heard.values())) > MOST:
            heard = {EVERYTHING: []}
        for kind, hashes in heard.items():
            if hashes or kind == EVERYTHING:
                self._hand_over(Message(kind, hashes))

    def _refuse(self, error: ValueError) -> None:
        self.bad_frames += 1
        self._log.warning("what somebody says on the bus cannot be read: %s; %d so far", error, self.bad_frames)

    def _is_after_a_gap(self, sender: int, number: int) -> bool:
        """Tell whether frames of this sender were lost: the queue to a process that is stopped has an end."""
        last = self._frames_of.get(sender)
        if last is None and len(self._frames_of) >= MOST_SENDERS:
            self._frames_of.clear()
        self._frames_of[sender] = number
        return last is not None and number != last + 1

    def _hand_over(self, message: Message) -> None:
        try:
            self._receive(message)
        except Exception:
            self._log.exception("what another process said could not be taken in")

    def _look_after_ear(self, ear: Ear, now: float) -> None:
        """Make sure that others can send. A cleaner of temp directories may delete the socket."""
        self._look_at = now + LOOK_AFTER_EAR
        if not ear.can_be_found:
            ear.bind(self._ear_path)

    def _tick(self, now: float) -> None:
        self._tick_at = now + TICK
        try:
            self._on_tick()
        except Exception:
            self._log.exception("the files of the group could not be looked at")


def _taken(queue: deque[int]) -> list[int]:
    """Take out what a queue holds at this moment. Only one thread takes, and others append meanwhile."""
    return [queue.popleft() for _ in range(len(queue))]
