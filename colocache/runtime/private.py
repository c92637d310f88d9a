"""A member of no group: what a private cache has in place of a bus. It drives the same `Peer`, which knows nobody else.

There is no thread, socket, pipe or file. A call is carried out by the thread that makes it, at once. What is due by the
clock is done by the next call, and by those who wait, for they keep an eye on the clock themselves.

Calls go through a queue, though there is one thread at a time that carries them out. The lock can be entered again by
the thread that has it, so a signal handler or a finalizer may use the cache while its own thread is inside: its command
is queued, and carried out by the call that it has interrupted. It does not wait for the answer, which would never come.

What a handler raises here, as time limits do, may come in the middle of a step of the peer. Then nobody knows how far
the step came, so this member ends: everybody who waits is let go, and the next call makes a new, empty one.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from secrets import token_bytes
from time import monotonic
from typing import Any, NamedTuple, cast

from ..config import Config
from ..core.gate import Gate
from ..core.group.members import Member
from ..core.group.peer import Peer
from ..core.group.seam import Settings
from ..core.store import Store
from ..stats import Stats
from .waiting import TOO_LATE, Answer, Asked, RLock, drained, is_patched, thread_id


class Alone(NamedTuple):
    """This process in no group, for `Cache.members`."""

    member: Member
    others: list[tuple[Member, float, bool]]


class _Command(NamedTuple):
    carry_out: Callable[[float], None]
    refuse: Callable[[], None]  # instead, if the member has ended


class _Journal:
    """Nobody reads after the end of this process what it has announced."""

    def append(self, number: int, frame: bytes) -> None:
        """Keep nothing."""


class _Asked(Asked):
    """An answer whose waiters see to it that what is due by the clock is done meanwhile."""

    __slots__ = ("_bus",)

    def __init__(self, bus: PrivateBus) -> None:
        super().__init__()
        self._bus = bus

    def result(self, timeout: float) -> Any:
        """Wait in this thread, or greenlet, and return the outcome; `TOO_LATE` after so many seconds."""
        bus, ends = self._bus, monotonic() + timeout
        while True:
            outcome = super().result(bus.patience(ends))
            if outcome is not TOO_LATE or not bus.may_answer_before(ends):
                return outcome
            bus.look_at_the_clock()

    async def awaited(self, timeout: float) -> Any:
        """Wait in this task, and return the outcome; `TOO_LATE` after so many seconds."""
        bus, ends = self._bus, monotonic() + timeout
        while True:
            outcome = await super().awaited(bus.patience(ends))
            if outcome is not TOO_LATE or not bus.may_answer_before(ends):
                return outcome
            bus.look_at_the_clock()


class PrivateBus:
    """The member of a private cache. It has the interface of `Bus`; commands may come from any thread."""

    def __init__(self, config: Config) -> None:
        """Make an empty one. It needs nothing of the system but memory."""
        self._commands: deque[_Command] = deque()
        self._calls: dict[int, tuple[Asked, Any]] = {}
        self._ticket = 0
        self._lock = RLock()
        self._working = 0  # the id of the thread that carries out commands
        self._alive = True
        self.store = Store(config.memory, config.memory // 4, config.policy)
        settings = Settings(
            config.lease, config.max_stale, config.fetch_timeout, config.load_timeout, config.forget_after
        )
        me = Member(token_bytes(16), "private/0", os.getpid())
        self._peer = Peer(me, settings, self.store, _Journal(), monotonic())
        self._peer.start(monotonic())
        self._due = self._peer.deadline()  # when the clock has to be looked at
        self.gate = Gate()  # not the peer's, which shuts when nobody has ticked for a lease: here nobody must be heard
        self.gate.current_until = self.gate.max_stale = math.inf

    # --- For any thread

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return self._alive

    def tell(self, command: Callable[[Peer, float], None]) -> None:
        """Do something with the peer; nothing comes back."""
        self._order(lambda now: command(self._peer, now), lambda: None)

    def ask(self, command: Callable[[Peer, int, float], None], otherwise: Any) -> Asked:
        """Ask something of the peer; ``otherwise`` is the answer if this member ends first."""
        asked = _Asked(self)

        def start(now: float) -> None:
            self._ticket += 1
            asked.ticket = self._ticket
            self._calls[self._ticket] = (asked, otherwise)
            command(self._peer, self._ticket, now)

        self._order(start, lambda: asked.give(otherwise))
        return asked

    def abandon(self, asked: Answer) -> None:
        """A call waits no more, or did not take its answer: if that was the duty to load, somebody else gets it."""
        if not isinstance(asked, Asked):
            return

        def forget(now: float) -> None:
            self._calls.pop(asked.ticket, None)
            self._peer.abandon(asked.ticket, now)

        self._order(forget, lambda: None)

    def is_awaited(self, fetch: int) -> bool:
        """Whether anybody waits for a load besides its caller. May be called from any thread, and does not wait."""
        return self._peer.is_awaited(fetch)

    def stats(self) -> Stats:
        """Return the member's figures."""
        return cast(Stats, self._look(self._peer.stats))

    def members(self) -> Alone:
        """Return this member."""
        return Alone(self._peer.me, [])

    def age(self, seconds: float) -> None:
        """Be as if so many seconds had passed: for tests."""
        self.tell(lambda peer, now: peer.age(seconds, now))

    def patience(self, ends: float) -> float:
        """Return for how many seconds a waiter may sleep: until something is due, or its own time is over."""
        return max(0.0, min(ends, self._due) - monotonic()) if self.may_answer_before(ends) else 0.0

    def may_answer_before(self, ends: float) -> bool:
        """Whether it makes sense to wait any longer."""
        return self._alive and self._working != thread_id() and monotonic() < ends

    def look_at_the_clock(self) -> None:
        """Do what is due."""
        self.tell(lambda peer, now: None)

    def close(self, patience: float) -> None:
        """End, and let go of all who wait; there is nothing to wait for. Takes no lock."""
        self.shut_gate()
        self._alive = False
        self._let_go_of_all()

    leave = close

    def forget_after_fork(self) -> None:
        """In a forked child: what was inherited is the parent's."""
        self.shut_gate()
        self._alive = False
        if is_patched():  # unlike threads, greenlets that wait are copied, too
            self._let_go_of_all()

    # --- One thread at a time

    def _look(self, view: Callable[[float], Any]) -> Any:
        seen: list[Any] = []
        self._order(lambda now: seen.append(view(now)), lambda: seen.append(view(monotonic())))
        return seen[0] if seen else view(monotonic())  # a signal handler reads what its own thread is about to change

    def _order(self, carry_out: Callable[[float], None], refuse: Callable[[], None]) -> None:
        try:
            self._commands.append(_Command(carry_out, refuse))
            self._work()
        except BaseException:
            self.close(0.0)
            raise
        if not self._alive:
            self._let_go_of_all()

    def _work(self) -> None:
        """Carry out what is queued; where this very thread is at it already, it will.

        What is queued after the last look at the queue, and before `_working` is taken back, is not carried out by who
        has queued it; so the queue is looked at once more.
        """
        with self._lock:
            while self._commands and self._alive and not self._working:
                self._working = thread_id()
                try:
                    self._carry_out_all()
                finally:
                    self._working = 0

    def _carry_out_all(self) -> None:
        peer, commands = self._peer, self._commands
        while commands and self._alive:
            command, now = commands.popleft(), monotonic()
            if now >= self._due:
                peer.tick(now)
            command.carry_out(now)
            peer.actions()  # there is nobody to send anything to
            for ticket, outcome in peer.outcomes():
                call = self._calls.pop(ticket, None)
                if call is not None:
                    call[0].give(outcome)
            self._due = peer.deadline()

    def shut_gate(self) -> None:
        """Let no reader be served what this member holds. From any thread."""
        self.gate.current_until = self.gate.max_stale = -math.inf

    def _let_go_of_all(self) -> None:
        for command in drained(self._commands):
            command.refuse()
        for asked, otherwise in list(self._calls.values()):
            asked.give(otherwise)
        self._calls.clear()
