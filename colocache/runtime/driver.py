"""What every driver of a `Peer` has: commands that come from any thread, and calls that wait for an outcome.

A driver carries out commands one after another, hands the clock and what comes from other members to the peer, and
gives each call its outcome. `ThreadDriver` has a thread for that, and sockets. `InlineDriver` has neither.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from ..config import Config
from ..core.gate import Gate
from ..core.group.calls import Calls
from ..core.group.members import Member
from ..core.group.peer import Peer
from ..core.group.seam import Settings
from ..core.group.stream import Journal
from ..core.store import Store
from ..stats import Stats
from .waiting.answers import Answer, Asked
from .waiting.threads import drained


class Group(NamedTuple):
    """The members of the group that this one knows, for `Cache.members`."""

    me: Member
    others: list[tuple[Member, float, bool]]


class Command(NamedTuple):
    """What another thread wants of the driver."""

    carry_out: Callable[[float], None]
    refuse: Callable[[], None]  # called instead if the member has ended


class Driver(ABC):
    """Drives one `Peer`. Commands may come from any thread."""

    #: For how many seconds an end may last that nobody has asked for.
    patience = 1.0
    store: Store
    _peer: Peer

    def __init__(self) -> None:
        self.gate = Gate()  # shut, until there is a peer
        self._commands: deque[Command] = deque()
        self._calls: dict[int, tuple[Asked, Any]] = {}
        self._ticket = 0
        self._alive = False

    def _take_peer(self, me: Member, config: Config, journal: Journal, now: float) -> None:
        settings = Settings(
            config.lease, config.max_stale, config.fetch_timeout, config.load_timeout, config.forget_after
        )
        self.store = Store(config.memory, config.memory // 4, config.policy)
        self._peer = Peer(me, settings, self.store, journal, now)
        self.gate = self._peer.gate

    @property
    def alive(self) -> bool:
        """Whether this member works."""
        return self._alive

    def tell(self, command: Callable[[Calls, float], None]) -> None:
        """Have something done with the peer. Nothing comes back."""
        self._order(lambda now: command(self._peer.calls, now), lambda: None)

    def new_call(self) -> Asked:
        """Return the answer to a question that is to be asked. The question can be abandoned from now on."""
        return Asked()

    def ask(self, command: Callable[[Calls, int, float], None], otherwise: Any, asked: Asked | None = None) -> Asked:
        """Ask something of the peer; ``otherwise`` is the answer if this member ends first."""
        asked = asked if asked is not None else self.new_call()

        def start(now: float) -> None:
            self._ticket += 1
            asked.ticket = self._ticket
            self._calls[self._ticket] = (asked, otherwise)
            command(self._peer.calls, self._ticket, now)

        self._order(start, lambda: asked.give(otherwise))
        return asked

    def abandon(self, asked: Answer) -> None:
        """Tell that a call waits no more, or did not take its answer. If that was the duty to load, another gets it."""
        if not isinstance(asked, Asked):
            return

        def forget(now: float) -> None:
            ticket = asked.take_ticket()
            if ticket:
                self._calls.pop(ticket, None)
                self._peer.calls.abandon(ticket, now)

        self._order(forget, lambda: None)

    def is_awaited(self, fetch: int) -> bool:
        """Tell whether anybody besides its caller waits for a load. Callable from any thread; it does not wait."""
        return self._peer.calls.is_awaited(fetch)

    def stats(self) -> Stats:
        """Return the member's figures."""
        return cast(Stats, self._look(self._peer.stats))

    def members(self) -> Group:
        """Return this member and the others."""
        return cast(Group, self._look(lambda now: Group(self._peer.me, self._peer.members())))

    def shut_gate(self) -> None:
        """Let no reader be served what this member holds. Callable from any thread."""
        self.gate.current_until = self.gate.max_stale = -math.inf

    @abstractmethod
    def leave(self, patience: float) -> None:
        """Begin to do what `close` does, and return at once. Take no lock: a finalizer may call this anywhere."""

    @abstractmethod
    def close(self, patience: float) -> None:
        """Leave the group. Wait ``patience`` seconds at most for what is not acknowledged yet."""

    @abstractmethod
    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's."""

    # --- For the drivers

    @abstractmethod
    def _order(self, carry_out: Callable[[float], None], refuse: Callable[[], None]) -> None:
        """Have a command carried out, or refused if this member has ended."""

    @abstractmethod
    def _look(self, view: Callable[[float], Any]) -> Any:
        """Return what a function sees while nothing changes."""

    def _resolve(self) -> None:
        """Give the calls the outcomes that the peer has for them."""
        for ticket, outcome in self._peer.outcomes():
            call = self._calls.pop(ticket, None)
            if call is not None:
                call[0].give(outcome)

    def _refuse_all(self) -> None:
        for command in drained(self._commands):
            command.refuse()

    def _let_go_of_all(self) -> None:
        """Refuse the commands, and give all calls the answer for a member that has ended."""
        self._refuse_all()
        for asked, otherwise in list(self._calls.values()):
            asked.give(otherwise)
        self._calls.clear()
