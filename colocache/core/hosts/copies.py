"""Copies of what other hosts have: of what they offer, of what this host owns anew, and of what it leaves behind.

**Every copy is pulled.** An offer, and the answer to `Harvest`, name keys and carry no values. Whoever wants a copy
asks for it by rule R4 (`colocache.core.hosts.taking`), and keeps it as any value that it has fetched. So an event drops
a copy like any record, and nobody has to know who has one. Nor does it matter how late a copy is pulled:

1. O offers k, and C hears of it. 2. W invalidates k. O drops its value. 3. C pulls k.

* C has stamped W's event before it reads its stamps: then it names the event, and O, which must have applied it first,
  has nothing, or a value that was loaded after it.
* C stamps it after that, whenever the answer comes: the copy is kept under stamps that are not the present ones any
  more, so nobody finds it.

W has set k, and O, the owner, has committed that. C may have an older copy, which stands until C hears of the write. So
an offer names O's events, and C applies them before it looks what it lacks. Otherwise C takes the old copy for what is
offered, drops it a moment later, and has none.

**A host that has just joined** owns keys of which others have copies: those that have owned them meanwhile, or have
fetched them. So what it misses it asks its successor in the ring's order for, before anybody loads; and beside that it
asks all others which of its keys they have. The host that a peek asks decides nothing, so it never grants a load.

**A host that leaves** offers what it owns to those that will own it, and answers them until they have it, or its time
is over.

For one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final, Protocol

from ..host.claims import Sleep
from ..host.hashes import ROOT
from ..host.memory import HostLease
from ..host.record import Record, hashes_of
from ..host.shelf import Shelf
from .dependencies import Dependencies
from .log import HostLog
from .offers import BESIDE, Batch
from .requests import (
    MAX_OFFERED,
    MAX_PAYLOAD,
    Answer,
    Done,
    FoundMany,
    Get,
    GetMany,
    Harvest,
    Held,
    Key,
    Offer,
    Request,
)
from .requests import Found as FoundOne
from .rows import Incarnation
from .taking import Asked, Taker

WARM: Final = 60.0  # s after a host is established in which it asks for what it should have
PEEK_WITHIN: Final = 0.005  # s that the second host has to answer
PULL_WITHIN: Final = 1.0  # s
AT_ONCE: Final = 64  # keys of one request while a host harvests
BYTES_A_SECOND: Final = 20e6
SHARE: Final = 0.2  # of a core, at most
FULL: Final = 0.9  # of the shelf: what is pulled beyond that takes the place of other values

WAYS: Final = 64  # places of the index that are looked at before the clock is
STEP: Final = 0.001  # s of work in one step, about
LARGEST_KEY: Final = 2048  # bytes of a key in an answer; larger ones are not harvested

Flow = Generator[float | Sleep, Any, Answer]
Step = Generator[float | Sleep, Any, int]


class Others(Protocol):
    """The other hosts of the group."""

    @property
    def warm_until(self) -> float:
        """Until when, in seconds on the host's clock, it asks for what it should have; 0 if it is not established."""

    def owners(self, wire: bytes, count: int, /) -> list[Incarnation]:
        """Return the hosts that are to have a key, its owner first; fewer, if there are not so many."""

    def everybody(self) -> list[Incarnation]:
        """Return the other hosts that can be asked."""

    def own_slots(self) -> bytes:
        """Return the slots that this host owns, one bit for each, that of slot 0 first."""

    def slot(self, wire: bytes, /) -> int:
        """Return the slot of a key."""

    def dependencies(self) -> Dependencies:
        """Return what a fetch depends on. To be read after the stamps of what is fetched."""

    def ask_all(
        self, asked: Sequence[tuple[Incarnation, Request]], timeout: float, /
    ) -> Generator[Sleep, Any, list[Answer | None]]:
        """Ask several hosts at once, and return their answers in this order; None is none in time."""


class Copies:
    """What one host, in the process that answers others, does for copies."""

    def __init__(
        self, me: Incarnation, taker: Taker, shelf: Shelf, log: HostLog, lease: HostLease, others: Others,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.pulled = 0  #: values that were taken from other hosts
        self.handed_over = 0  #: keys that were offered when this host left
        self._me, self._taker, self._shelf, self._log, self._lease = me, taker, shelf, log, lease
        self._others, self._clock = others, clock

    # --- Pulling

    def pull(self, source: Incarnation, keys: Sequence[Key]) -> Step:
        """Ask a host for those keys that are lacking here, and keep them. Return how many bytes came.

        A host that is behind keeps nothing.
        """
        now = self._clock()
        if now >= self._lease.until(now):
            return 0
        looked = [self._taker.look(key.wire, key.hashes, now) for key in keys]
        lacking = [each for each in looked if isinstance(each, Asked)]
        size = 0
        while lacking:
            depends = self._others.dependencies()
            request = GetMany(tuple([each.key for each in lacking]), depends)
            (answer,) = yield from self._others.ask_all([(source, request)], PULL_WITHIN)
            if not isinstance(answer, FoundMany):
                break
            came = 0
            for asked, found in zip(lacking, answer.values, strict=False):
                if found is not None:
                    self._taker.keep(asked, found)
                    came += len(found.payload)
                    self.pulled += 1
            size += came
            # An answer has room for about a mebibyte. What had none may be asked for again.
            left = [each for each, found in zip(lacking, answer.values, strict=False) if found is None]
            if not came or came < MAX_PAYLOAD // 2 or len(left) == len(lacking):
                break
            now = self._clock()
            looked = [self._taker.look(each.wire, each.hashes, now) for each in left]
            lacking = [each for each in looked if isinstance(each, Asked)]
        return size

    def peek(self, asked: Asked) -> Generator[Sleep, Any, Record | None]:
        """Ask the second host for what this one has missed, and should have; None if it has nothing either."""
        second = self.second(asked.wire)
        if second is None:
            return None
        request = Get(asked.key, self._others.dependencies(), False, 0.0)
        (answer,) = yield from self._others.ask_all([(second, request)], PEEK_WITHIN)
        if not isinstance(answer, FoundOne):
            return None
        self.pulled += 1
        return self._taker.keep(asked, answer)

    def second(self, wire: bytes) -> Incarnation | None:
        """Return which host may have a key that this host owns and misses; None once this host has long been there."""
        return second(self._me, self._others, wire) if self._clock() < self._others.warm_until else None

    # --- Harvest

    @property
    def may_harvest(self) -> bool:
        """Whether this host is established, and that is not long ago."""
        return self._clock() < self._others.warm_until

    def harvest(self) -> Step:
        """Pull what this host owns from all others, what is used first. Return how many bytes came."""
        ends, total = self._others.warm_until, 0
        for hot in (True, False):
            for source in self._others.everybody():
                first, slots = 0, self._others.own_slots()
                while self._clock() < ends and self._shelf.taken() < FULL * self._shelf.capacity:
                    (answer,) = yield from self._others.ask_all([(source, Harvest(slots, first, hot))], PULL_WITHIN)
                    if not isinstance(answer, Held):
                        break
                    for start in range(0, len(answer.keys), AT_ONCE):
                        total += yield from self._pull_slowly(source, answer.keys[start : start + AT_ONCE])
                    first = answer.next
                    if not first:
                        break
        return total

    def _pull_slowly(self, source: Incarnation, keys: Sequence[Key]) -> Step:
        """Pull, and rest so long that a share of a core, and of the line, is used."""
        flow, answer, spent = self.pull(source, keys), None, 0.0
        try:
            while True:
                began = self._clock()
                step = flow.send(answer)
                spent += self._clock() - began
                answer = yield step
        except StopIteration as end:
            size: int = end.value
        spent += self._clock() - began
        yield max(size / BYTES_A_SECOND, spent * (1 / SHARE - 1))
        return size

    def held(self, request: Harvest) -> Flow:
        """Say which keys of some slots this host has."""
        keys, first, room = list[Key](), request.first, MAX_PAYLOAD
        while first < self._shelf.ways:
            now = self._clock()
            while first < self._shelf.ways and self._clock() < now + STEP:
                if len(keys) > MAX_OFFERED - WAYS or room <= 0:
                    return Held(tuple(keys), first)
                for wire, record in self._shelf.walk(first, WAYS, request.hot, now):
                    slot, hashes = self._others.slot(wire), (ROOT, *hashes_of(record.label))
                    size = len(wire) + 9 * len(hashes) + BESIDE
                    if request.slots[slot >> 3] >> (slot & 7) & 1 and size <= LARGEST_KEY:
                        keys.append(Key(wire, hashes))
                        room -= size
                first += WAYS
            yield STEP * (1 / SHARE - 1)
        return Held(tuple(keys), 0)

    # --- Leaving

    def hand_over(self, ends: float) -> Step:
        """Offer what this host owns to those that will own it, until that instant at most. Return how many keys."""
        batches = dict[Incarnation, Batch]()
        for heir, wire, record in self._owned():
            if self._clock() >= ends:
                break
            if not batches.setdefault(heir, Batch()).take(wire, record):
                yield from self._offer(batches, ends)
                batches = {heir: Batch()}
                batches[heir].take(wire, record)
        yield from self._offer(batches, ends)
        return self.handed_over

    def _owned(self) -> Iterator[tuple[Incarnation, bytes, Record]]:
        """Give what this host owns, what was used before first, and who will own it."""
        for hot in (True, False):
            for first in range(0, self._shelf.ways, WAYS):
                for wire, record in self._shelf.walk(first, WAYS, hot, self._clock()):
                    heir = second(self._me, self._others, wire)
                    if heir is not None:
                        yield heir, wire, record

    def _offer(self, batches: dict[Incarnation, Batch], ends: float) -> Step:
        depends: Dependencies = {self._me: self._log.lasts()}
        offers = [(to, Offer(self._me, tuple(batch.keys), depends)) for to, batch in batches.items()]
        left = ends - self._clock()
        if offers and left > 0:
            answers = yield from self._others.ask_all(offers, left)
            for (_, offer), answer in zip(offers, answers, strict=True):
                self.handed_over += len(offer.keys) if isinstance(answer, Done) else 0
        return self.handed_over


def second(me: Incarnation, others: Others, wire: bytes) -> Incarnation | None:
    """Return which host would own a key of this one's if this one was not there; None if there is none."""
    owners = others.owners(wire, 2)
    return owners[1] if len(owners) > 1 and owners[0] == me else None
