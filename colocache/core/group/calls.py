"""What the calls of users ask of a member. Each call has a ticket, under which the driver finds its outcome."""

from __future__ import annotations

from collections.abc import Iterable

from ..options import EntryOptions
from ..receipt import Receipt
from .engine import Engine
from .entry import Entry
from .fetches import Ticket
from .messages import split_targets
from .outcomes import Fence, Found, Loaded


class Calls:
    """The calls that a member's driver may make for users. Only `is_awaited` is thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._knowledge = engine.knowledge
        self._outbox = engine.outbox

    @property
    def position(self) -> tuple[bytes, int]:
        """This member's incarnation, and the number of its newest event."""
        return self._engine.announcer.stream, self._engine.announcer.last

    # --- Reading

    def read(self, ticket: int, wire: bytes, tags: tuple[str, ...], patience: float, now: float) -> None:
        """Get a key's value, or the duty to load it."""
        self._knowledge.now = now
        entry = self._usable(wire)
        if entry is not None:
            self._outbox.resolve(ticket, Found(entry))
        else:
            self._engine.reads.read(Ticket(ticket, wire, tags, now, now + patience))
        self._engine.finish()

    def peek(self, ticket: int, wires: Iterable[bytes], now: float) -> None:
        """Get the values that anybody has of some keys."""
        self._knowledge.now = now
        known, unknown = {}, []
        for wire in wires:
            entry = self._usable(wire)
            if entry is None:
                unknown.append(wire)
            else:
                known[wire] = entry
        self._engine.peeks.peek(ticket, known, unknown)
        self._engine.finish()

    def loaded(self, fetch: int, loaded: Loaded, now: float) -> None:
        """Take the value of a loader that a `Lead` asked for."""
        self._knowledge.now = now
        self._engine.reads.loaded(fetch, loaded)
        self._engine.finish()

    def failed(self, fetch: int, now: float) -> None:
        """A loader that a `Lead` asked for raised."""
        self._knowledge.now = now
        self._outbox.counters.failed_loads += 1
        self._engine.reads.failed(fetch)
        self._engine.finish()

    def is_awaited(self, fetch: int) -> bool:
        """Tell whether anybody besides its caller waits for the load that a `Lead` asked for, as far as known here.

        Any thread may ask. No lock is taken: a reader that comes a moment later waits for the next load instead.
        """
        return self._engine.reads.is_awaited(fetch)

    def detach(self, fetch: int, now: float) -> None:
        """The caller of a load no longer waits, and the load goes on."""
        self._knowledge.now = now
        self._engine.reads.detach(fetch)
        self._engine.finish()

    def abandon(self, ticket: int, now: float) -> None:
        """A call no longer waits."""
        self._knowledge.now = now
        self._engine.reads.abandon(ticket)
        self._engine.catching_up.abandon(ticket)
        self._engine.finish()

    def catch_up(self, ticket: int, positions: dict[bytes, int], patience: float, now: float) -> None:
        """Wait until the positions are applied here, for ``patience`` seconds at most."""
        self._knowledge.now = now
        self._engine.catching_up.wait(ticket, positions, patience)
        self._engine.finish()

    # --- Writing

    def set(
        self, ticket: int, wire: bytes, payload: bytes, options: EntryOptions, acknowledged: bool, now: float
    ) -> None:
        """Have a value stored by its owner; ``acknowledged``: and have everybody acknowledge it."""
        self._knowledge.now = now
        self._engine.sets.set(ticket, wire, payload, options, acknowledged)
        self._engine.finish()

    def get_fenced(self, ticket: int, wire: bytes, now: float) -> None:
        """Get what the owner has under a key, with a fence for a set that is to follow."""
        self._knowledge.now = now
        self._engine.attempts.get(ticket, wire)
        self._engine.finish()

    def set_fenced(
        self, ticket: int, wire: bytes, payload: bytes, options: EntryOptions, fence: Fence, now: float
    ) -> None:
        """Have a value stored by its owner, if no event invalidated the key since the fence was given."""
        self._knowledge.now = now
        self._engine.attempts.set(ticket, wire, payload, options, fence)
        self._engine.finish()

    def alter(
        self, ticket: int, wire: bytes, delta: int | None, start: bytes, options: EntryOptions, now: float
    ) -> None:
        """Have the owner count by ``delta``. Without a ``delta``, give the value another expiry.

        ``start`` is stored where nothing is, unless it is empty.
        """
        self._knowledge.now = now
        self._engine.attempts.alter(ticket, wire, delta, start, options)
        self._engine.finish()

    def invalidate(
        self, ticket: int, targets: Iterable[bytes], patience: float, now: float, *, counts: bool = True
    ) -> None:
        """Announce that targets have changed. The outcome is a `Receipt`, after ``patience`` seconds at the latest.

        ``counts`` is False for a step of a greater invalidation.
        """
        self._knowledge.now = now
        for part in split_targets(targets):
            self._engine.effects.announce(part)
        self._outbox.counters.invalidations += counts
        if patience > 0:
            self._await_receipt(ticket, patience)
        else:
            alone = not len(self._engine.members) and self._knowledge.established
            self._outbox.resolve(ticket, Receipt((), (), alone, 0.0))
        self._engine.finish()

    def await_receipt(self, ticket: int, patience: float, now: float) -> None:
        """Get the receipt of this member's newest event, and so of all before it."""
        self._knowledge.now = now
        self._await_receipt(ticket, patience)
        self._engine.finish()

    # --- For tests

    def age(self, seconds: float, now: float) -> None:
        """Be as if so many seconds had passed. For tests of a member that is alone.

        A load under way counts as one that took longer than it may: its caller gets the value, and nobody keeps it.
        """
        self._knowledge.now = now
        self._knowledge.advance()
        self._engine.store.age(seconds)
        self._engine.fences.age(seconds)
        self._engine.fetches.mark_all("")
        self._engine.queues.pass_on_all("")
        self._engine.tick()

    # --- Steps

    def _usable(self, wire: bytes) -> Entry | None:
        entry = self._knowledge.servable(self._engine.store, wire)
        return self._engine.store.use(entry) if entry is not None else None

    def _await_receipt(self, ticket: int, patience: float) -> None:
        last, now = self._engine.effects.last, self._knowledge.now
        self._engine.announcements.wait(last, now, patience, lambda receipt: self._resolve(ticket, receipt))

    def _resolve(self, ticket: int, receipt: Receipt) -> None:
        if not receipt.complete:
            self._outbox.counters.incomplete += 1
        self._outbox.resolve(ticket, receipt)
