"""What an event does in this member: it drops entries, voids tokens and fences, marks fetches, and is remembered."""

from __future__ import annotations

from .fences import Fences
from .fetches import Fetches
from .knowledge import Knowledge
from .load_queues import LoadQueues
from .messages import EVERYTHING, Event
from .outbox import Outbox
from .store import Store
from .stream import Announcer


class Effects:
    """Applies the events of all streams, and announces those of this member's own. Not thread-safe."""

    def __init__(
        self, knowledge: Knowledge, outbox: Outbox, store: Store, announcer: Announcer,
        fetches: Fetches, queues: LoadQueues, fences: Fences,
    ) -> None:  # fmt: skip
        self._knowledge = knowledge
        self._outbox = outbox
        self._store = store
        self._announcer = announcer
        self._fetches = fetches
        self._queues = queues
        self._fences = fences

    @property
    def last(self) -> int:
        """The number of this member's newest event."""
        return self._announcer.last

    def announce(self, targets: tuple[bytes, ...]) -> int:
        """Announce an event of this member's own stream: journal it, apply it here, publish it; return its number."""
        number, frame = self._announcer.announce(targets, self._knowledge.now)
        self._outbox.counters.events_sent += 1
        self.apply(Event(self._knowledge.incarnation, number, targets))
        self._outbox.publish(frame)
        return number

    def apply(self, event: Event) -> None:
        """Drop, void, mark and remember what an event invalidates."""
        stream, number, targets = event
        self._knowledge.advance()
        for target in targets:
            kind, name = target[:1], target[1:]
            if kind == b"k":
                self._apply_to_key(name, stream, number)
                continue
            self._knowledge.remember_bulk(stream, number)
            text = "" if target == EVERYTHING else name.decode("utf-8", "surrogatepass")
            if kind == b"t":
                self._apply_to_tag(text)
            else:
                self._apply_to_namespace(text)

    def touch(self, wire: bytes) -> None:
        """Drop this member's own copy of a key, and mark its fetches: another value is on its way to the owner."""
        self._knowledge.advance()
        self._store.drop(wire)
        self._fetches.mark(wire)

    def drop_all(self) -> None:
        """Drop, void and mark everything, because what is held may be stale."""
        self._knowledge.advance()
        self._knowledge.remember_drop()
        self._outbox.counters.resets += 1
        self._apply_to_namespace("")

    def reset(self, stream: bytes, last: int) -> None:
        """Drop everything, because the events of a stream up to ``last`` do not come.

        The reset is remembered like a bulk event, so it is a dependency of every key. Otherwise this member would take
        back, from an owner that has not come so far, what it has just dropped. It is remembered first, because the
        tokens that the drop voids are granted anew at once:

        1. The owner of a page resets, and grants its token to the next member that waits, R.
        2. R has not heard the event either. The grant must tell R to apply it first. Otherwise R loads the page of its
           near copy of an old part.
        3. The token stands, and the owner keeps the old page.
        """
        self._knowledge.remember_bulk(stream, last)
        self.drop_all()

    def _apply_to_key(self, wire: bytes, stream: bytes, number: int) -> None:
        self._store.drop(wire)
        self._fetches.mark(wire)
        self._knowledge.remember(wire, stream, number)
        self._fences.fall(wire)
        self._queues.pass_on(wire)

    def _apply_to_tag(self, tag: str) -> None:
        self._knowledge.remember_tag(tag)
        self._store.drop_tag(tag)
        self._fetches.mark_tag(tag)

    def _apply_to_namespace(self, namespace: str) -> None:
        self._store.drop_namespace(namespace)
        self._fetches.mark_all(namespace)
        self._fences.fall_all(namespace)
        self._queues.pass_on_all(namespace)
