"""Copies between simulated hosts: what is offered, pulled, peeked and harvested, and who is asked for what is slow."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from colocache.core.host.claims import Sleep
from colocache.core.hosts import requests
from colocache.core.hosts.copies import Copies, second
from colocache.core.hosts.dependencies import Dependencies, dependencies
from colocache.core.hosts.hedging import AWAITED, UNASKED, Race
from colocache.core.hosts.layout import ESTABLISHED
from colocache.core.hosts.offers import Offers
from colocache.core.hosts.requests import SLOT_BYTES, Answer, Fill, Found, Get, Granted, Refused, Request
from colocache.core.hosts.rows import ENDED, ENDED_AT, TOLD, Incarnation
from colocache.core.hosts.taking import Taker
from colocache.core.hosts.waiting import pauses

if TYPE_CHECKING:
    from verification.hosts.actor import Actor
    from verification.hosts.computer import Worker
    from verification.hosts.items import Item

NS = 10**9
REPLICAS: Final = 2
WARM: Final = 0.8  # s after a host is established in which it asks for what it should have
HEDGED_AFTER: Final = 0.003  # s that the owner has before a copy is asked, too
ANSWERS_WITHIN: Final = 0.25  # s
KEYS: Final = 256  # numbers of keys are less


def owners(worker: Worker, number: int) -> list[Incarnation]:
    """Return the hosts in the order in which they are to have a key, given by its number, the owner first."""
    hosts = _in_order(worker)
    first = number % len(hosts)
    return hosts[first:] + hosts[:first]


def _in_order(worker: Worker) -> list[Incarnation]:
    rows, region = worker.rows, worker.region
    hosts = [(rows.host(id).name, id) for id in rows.counted()]
    if not region.is_client or not hosts:
        hosts.append((region.me.name, region.me.id))
    return [id for _, id in sorted(hosts)]


class Others:
    """The other hosts, as `Copies` and `Offers` of one process see them; as `colocache.hosts.Hosts` does it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @property
    def warm_until(self) -> float:
        """Until when this host asks for what it should have."""
        since = self._worker.words[ESTABLISHED]
        return since / NS + WARM if since and not self._worker.region.is_client else 0.0

    def owners(self, wire: bytes, count: int, /) -> list[Incarnation]:
        """Return the hosts that are to have a key, its owner first."""
        return owners(self._worker, int(wire[1:]))[:count]

    def everybody(self) -> list[Incarnation]:
        """Return the other hosts that can be asked."""
        return self._worker.rows.counted()

    def own_slots(self) -> bytes:
        """Return the slots that this host owns: here there is one for each key."""
        bits, hosts = bytearray(SLOT_BYTES), _in_order(self._worker)
        for number in range(hosts.index(self._worker.region.id), KEYS, len(hosts)):
            bits[number >> 3] |= 1 << (number & 7)
        return bytes(bits)

    def slot(self, wire: bytes, /) -> int:
        """Return the slot of a key."""
        return int(wire[1:])

    def dependencies(self) -> Dependencies:
        """Return what a fetch depends on."""
        worker = self._worker
        return dependencies(worker.region.id, worker.rows, worker.log, worker.region.ns())

    def ask_all(
        self, asked: Sequence[tuple[Incarnation, Request]], timeout: float, /
    ) -> Generator[Sleep, Any, list[Answer | None]]:
        """Ask several hosts at once."""
        worker, answers, missing = self._worker, list[Answer | None]([None] * len(asked)), len(asked)

        def ask(waiter: Callable[[Any], object]) -> None:
            def take(place: int, frame: bytes) -> None:
                nonlocal missing
                answers[place] = requests.decode_answer(frame)
                missing -= 1
                if not missing:
                    waiter(None)

            for place, (to, request) in enumerate(asked):
                index = worker.history.index_of[to]
                worker.history.network.request(worker, index, requests.encode(request), partial(take, place))

        yield Sleep(ask, timeout)
        return [*answers]


class Copying:
    """What one process does for copies, beside its `Owner`."""

    def __init__(self, worker: Worker) -> None:
        region = worker.region
        self._worker = worker
        self._others = others = Others(worker)
        taker = Taker(worker.board, worker.shelf, worker.fences)
        self.copies = Copies(region.id, taker, worker.shelf, worker.log, worker.lease, others, region.clock)
        self.offers = Offers(
            region.id, REPLICAS, worker.shelf, worker.log, others, lambda: worker.deliver(lambda: None), all=True
        )

    @property
    def wait(self) -> float:
        """How many seconds there are until something is to be offered."""
        return max(0.0, self.offers.due - self._worker.region.clock()) + 1e-6

    def run(self) -> None:
        """Offer what others are to have copies of."""
        worker = self._worker
        if worker.region.clock() >= self.offers.due:
            for to, offer in self.offers.take(worker.region.clock()):
                worker.history.counts["offers"] += 1
                worker.history.network.request(
                    worker, worker.history.index_of[to], requests.encode(offer), lambda frame: None
                )

    def peeks_at(self, item: Item) -> Incarnation | None:
        """Return which host may have a key that this one owns and misses, because it has joined just now."""
        if self._worker.region.clock() >= self._others.warm_until:
            return None
        return second(self._worker.region.id, self._others, item.wire)


def ask_or_copy(actor: Actor, owner: Incarnation, item: Item, request: Get) -> Answer | None:
    """Ask the owner, and who may have a copy if the owner is slow, or cannot answer, as `Hosts.ask_or_copy` does."""
    policy, machine, counts = actor.policy, actor.worker.machine, actor.counts
    first = next((id for id in owners(actor.worker, item.number)[:3] if id != owner), None)
    copy = None if first == actor.region.id else first
    race, thread = Race(), machine.current
    race.wait(1, lambda woken: policy.wake(thread))

    def take_owners(answer: Answer) -> None:
        race.take_owners(answer)
        if race.is_over:
            give_back()

    def give_back() -> None:
        if isinstance(race.owners, Granted) and not race.takes_owners:
            actor.request(owner, Fill(race.owners.token, None, 0.0, 0.0))

    def ask_copy() -> None:
        if copy is not None and race.copys is UNASKED:
            counts["hedged"] += 1
            race.copys = AWAITED
            actor.request(copy, request._replace(leads=False, patience=0.0), race.take_copys)

    ends = machine.clock + ANSWERS_WITHIN
    actor.request(owner, request, take_owners)
    policy.wait(lambda: race.owners is not AWAITED, HEDGED_AFTER)
    try:
        while True:
            if race.owners is not AWAITED and not isinstance(race.owners, Refused):
                race.takes_owners = True
                owners_answer: Answer = race.owners
                return owners_answer
            if isinstance(race.copys, Found):
                counts["won"] += 1
                return race.copys
            left = ends - machine.clock
            if left <= 0 or (race.owners is not AWAITED and (copy is None or race.given == 2)):
                return None if race.owners is AWAITED else race.owners
            ask_copy()
            given = race.given
            policy.wait(lambda given=given: race.given > given, left)  # type: ignore[misc]
    finally:
        race.is_over = True
        give_back()


def until_told(actor: Actor, done: requests.Done) -> None:
    """Wait until this host is told of a write of another one, as `Hosts.until_told` does."""
    worker, policy = actor.worker, actor.policy
    ends = worker.machine.clock + worker.times.waited / NS
    assert done.by is not None
    for pause in pauses():
        if worker.rows.state(done.by) in (ENDED, ENDED_AT) or worker.rows.has_reached(done.by, done.events or {}, TOLD):
            return
        policy.sleep(pause)
        if worker.machine.clock >= ends:
            return
