"""The other hosts of the group, as one process sees them: who owns a key, what it is asked, who has heard of events.

Nothing of this is there in a group of one host.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol, TypeVar, cast

from .config import Config
from .core.host.claims import Sleep
from .core.host.hashes import ROOT
from .core.host.memory import Fences, Words
from .core.hosts import requests
from .core.hosts.announcing import Announcement, Pending
from .core.hosts.copies import WARM, second
from .core.hosts.dependencies import Dependencies, dependencies, dependencies_of_client, has_applied
from .core.hosts.event import NAMESPACES, WRITES, Event, Position
from .core.hosts.gateway import Times
from .core.hosts.hedging import AWAITED, UNASKED, Hedging, Race
from .core.hosts.layout import CLIENT, ESTABLISHED, UNTIL
from .core.hosts.lease import Lease
from .core.hosts.log import HostLog, NoLane
from .core.hosts.offers import Offers
from .core.hosts.owner import CATCHING_UP, LOOK_EVERY
from .core.hosts.requests import (
    SLOT_BYTES,
    Announce,
    Announced,
    Answer,
    Done,
    Fill,
    Found,
    Get,
    Granted,
    Refused,
    Report,
    Reported,
    Request,
    Settle,
    Settlement,
)
from .core.hosts.ring import Ring, ring_of, slot_of
from .core.hosts.rows import ALIVE, ENDED, ENDED_AT, ROUND_TRIP, TOLD, Host, Incarnation, Numbers, Rows
from .core.hosts.waiting import LONGEST_PAUSE, Progress, Settled, pauses, settle
from .errors import WireError
from .group_stats import GroupStats, HostStats, stats_of_report
from .interruptions import value_of
from .runtime.region import Region
from .runtime.waiting.answers import TOO_LATE
from .runtime.waiting.threads import may_not_wait
from .version import __version__

FETCH_TIMEOUT: Final = 0.25  # s that an owner host has for an answer
WRITE_TIMEOUT: Final = 1.0
WEIGHT: Final = 64 << 20  # bytes of shelf for one step of a host's weight
AT_ONCE: Final = 64  # requests of one call that are under way at the same time
DEAL_EVERY: Final = 0.2  # s: who owns what is looked at again
SLOW_AFTER: Final = 3  # times in a row that a host has not answered; then it is passed over for a while
PASSED_OVER: Final = 1.0  # s
PENDING: Final = 0.06  # s that a client waits until what it has invalidated has come back
LEFT_BEHIND: Final = 2 * 10**9  # ns after which a gateway announces what its client host has invalidated
MOST_LEFT: Final = 64  # invalidations that it announces one by one

_NS: Final = 1e9

T = TypeVar("T")

Sleeping = Generator[Sleep, Any, T]  # the part of a flow that only sleeps; see `colocache.operations.flow`


@dataclass(frozen=True, slots=True)
class HostInfo:
    """One host of the group, as this one sees it."""

    name: str
    address: str  # where it listens, as others dial it; of this host empty where it does not know that itself
    version: str  # of colocache; "" if it has not said so
    owns: int  # bytes of shelf by which the keys are dealt, in whole steps of 64 MiB; 0 for a client
    #: Of this host: "joining" until it has heard all others, "current", or "behind". Of others: "live", "silent" if
    #: their word does not hold any more, or "forgotten" if nobody waits for them.
    state: str
    age: float | None  # s since another host has said what it has invalidated; None of this host, or if it never has
    round_trip: float | None  # s, of the last ping to another host
    me: bool


class Network(Protocol):
    """What speaks to other hosts."""

    def request(
        self, to: Incarnation, body: bytes, on_answer: Callable[[bytes | None], object], timeout: float,
        on_late: Callable[[bytes], object] | None = None,
    ) -> None:  # fmt: skip
        """Ask a host, and have the answer given, or None. Any thread may call it; it returns at once.

        ``on_late`` is given an answer that comes after its time.
        """

    def ask(self, to: Incarnation, body: bytes, timeout: float) -> bytes | object | None:
        """Ask a host, and wait for the answer in this thread. None is no answer; what is no bytes was not asked."""

    @property
    def is_gateway(self) -> bool:
        """Whether this process speaks for its host."""

    def wake_gateway(self) -> None:
        """Have the gateway of this host look at the host's log."""


class Hosts:
    """The other hosts of one group, for one process. Any thread may call all methods."""

    def __init__(
        self, me: Host, words: Words, rows: Rows, log: HostLog, fences: Fences, times: Times, secret: bytes,
        now: Callable[[], float], replicas: int = 1,
    ) -> None:  # fmt: skip
        """``me`` is this host. ``secret`` keeps others from choosing keys that all have one owner; it may be empty.

        ``replicas`` is how many hosts are to have what this one owns, itself included.
        """
        self.me = me
        self.replicas = replicas
        self.hedging = Hedging()
        self.offers: Offers | None = None  # what others are to have copies of, where there is a network
        self.rows = rows
        self.log = log
        self.times = times
        self.progress = Progress()  # of what others acknowledge, if they tell this process
        self.network: Network | None = None  # set before the first use, because it needs this object, too
        self.is_client = words[CLIENT] == 1  #: it owns nothing, and others do for it what has to be done
        by_age = 0.0 if self.is_client else times.serves_by_age / _NS  # K1
        self.lease = Lease(words, fences, lease=times.lease / _NS, serves_by_age=by_age)
        self._words = words
        self._secret = secret
        self._now = now
        self._ring: tuple[float, Ring, dict[str, Incarnation]] = (-1.0, ring_of({}), {})
        self._slow: dict[Incarnation, tuple[int, float]] = {}  # times without an answer, and until when passed over
        self._pending = Pending(log)  # of a client
        self._announced: dict[Incarnation, dict[int, int]] = {}  # the last events that members have made of them

    @classmethod
    def of(cls, region: Region, config: Config, now: Callable[[], float]) -> Hosts:
        """Return what a process of a region knows of other hosts. ``region.hosts`` is there."""
        file = region.hosts
        assert file is not None
        weight = 0 if file.words[CLIENT] == 1 else max(1, region.geometry.capacity // WEIGHT)
        name, address, secret = region.id.hex(), "", b""
        if config.has_hosts:
            settings = config.hosts()
            name, address = settings.name, str(settings.advertise or settings.listen or "")
            secret = min([each.text.encode() for each in settings.secrets], default=b"")
        me = Host(region.id, name, address, weight, __version__)
        rows = Rows(file.words, region.fences)
        return cls(me, file.words, rows, file.log, region.fences, Times(), secret, now, config.replicas)

    # --- Who owns what

    def owner(self, wire: bytes) -> Incarnation | None:
        """Return the host that owns a key, if it is another one that can be asked; None if it is this one.

        While a host does not answer, the next one in the ring's order is taken for the owner: it may have a copy.
        """
        ring, ids = self._dealt()
        slot = self.slot(wire)
        name = ring.owner(slot)
        if name is None or self.network is None or ids[name] == self.me.id:
            return None
        if self._is_slow(ids[name]):
            id = next(iter(self._in_order(ring, ids, slot, 1)), self.me.id)
            return None if id == self.me.id else id
        return ids[name]

    def owners(self, wire: bytes, count: int, /) -> list[Incarnation]:
        """Return the hosts that are to have a key, its owner first, this one among them; fewer, if there are not so
        many.
        """
        ring, ids = self._dealt()
        return self._in_order(ring, ids, self.slot(wire), count)

    def _in_order(self, ring: Ring, ids: dict[str, Incarnation], slot: int, count: int) -> list[Incarnation]:
        found = []
        for name in ring.owners(slot, len(ids)):
            if not self._is_slow(ids[name]):
                found.append(ids[name])
                if len(found) == count:
                    break
        return found

    def after(self, wire: bytes, owner: Incarnation) -> Incarnation | None:
        """Return the other host that may have a copy of what another one owns; None if that is this one, or nobody."""
        first = next((id for id in self.owners(wire, 3) if id != owner), self.me.id)
        return None if first == self.me.id or self.network is None else first

    def second(self, wire: bytes) -> Incarnation | None:
        """Return which host may have a key that this one owns and misses; None once this one has long been there."""
        if self.network is None or self._now() >= self.warm_until:
            return None
        return second(self.me.id, self, wire)

    def everybody(self) -> list[Incarnation]:
        """Return the other hosts that can be asked."""
        _, ids = self._dealt()
        return [id for id in ids.values() if id != self.me.id and not self._is_slow(id)]

    def slot(self, wire: bytes, /) -> int:
        """Return the slot of a key."""
        return slot_of(wire, self._secret)

    def own_slots(self) -> bytes:
        """Return the slots that this host owns, one bit for each, that of slot 0 first."""
        bits = bytearray(SLOT_BYTES)
        for slot in self._dealt()[0].slots(self.me.name):
            bits[slot >> 3] |= 1 << (slot & 7)
        return bytes(bits)

    @property
    def warm_until(self) -> float:
        """Until when, in seconds on the host's clock, it asks for what it should have; 0 if it is not established."""
        since = self._words[ESTABLISHED]
        return since / _NS + WARM if since and not self.is_client else 0.0

    def _is_slow(self, id: Incarnation) -> bool:
        slow = self._slow.get(id)
        return slow is not None and slow[0] >= SLOW_AFTER and monotonic() < slow[1]

    def _dealt(self) -> tuple[Ring, dict[str, Incarnation]]:
        ends, ring, ids = self._ring
        return (ring, ids) if monotonic() < ends else self._deal()

    def exact_owner(self, wire: bytes) -> Incarnation:
        """Return the host that owns a key, as this host knows it at this very moment.

        What derives a value from the present one must happen at one host. So it asks this one, also if it does not
        answer lately, and that one asks, too. Then no two hosts derive at the same time:

        1. A newcomer derives nothing before it is established. So every other host has it in its roster before.
        2. From then on whoever owned the key before finds that it does not own it any more.
        3. Whom others have forgotten is behind, and derives nothing.
        """
        ring, ids = self._deal()
        name = ring.owner(slot_of(wire, self._secret))
        return self.me.id if name is None else ids[name]

    def _deal(self) -> tuple[Ring, dict[str, Incarnation]]:
        ids, weights, alive = dict[str, Incarnation](), dict[str, int](), dict[str, int]()
        if not self.is_client:
            ids[self.me.name], weights[self.me.name], alive[self.me.name] = self.me.id, self.me.weight, 1 << 63
        for id in self.rows.counted():
            host, heard = self.rows.host(id), self.rows.largest(id, ALIVE)
            if heard > alive.get(host.name, 0) and host.weight:  # of two incarnations the one that was heard last
                ids[host.name], weights[host.name], alive[host.name] = id, host.weight, heard
        ring = ring_of(weights)
        present = {*ids.values()}
        self.hedging.forget(present)
        for id in [*self._slow]:
            if id not in present:  # or hosts that have ended would be remembered for good
                self._slow.pop(id, None)
        self._ring = (monotonic() + DEAL_EVERY, ring, ids)
        return ring, ids

    @property
    def is_established(self) -> bool:
        """Whether this host was current once. Before that it serves nothing, and gives no complete receipts."""
        return self._words[UNTIL] != 0

    # --- Asking

    def dependencies(self) -> Dependencies:
        """Return what a fetch depends on. To be read after the stamps of what is fetched."""
        if self.is_client:
            return dependencies_of_client(self.me.id, self.rows, self._pending.lasts(), self.ns())
        return dependencies(self.me.id, self.rows, self.log, self.ns())

    def catch_up(self, depends: Dependencies) -> Sleeping[bool]:
        """Wait for a moment until this host has applied what a load under a grant depends on, and tell whether it has.

        Whoever reads cached values then is served nothing older: see `colocache.core.hosts.requests.Granted`.
        """
        ends = self._now() + (0.0 if may_not_wait() else CATCHING_UP)
        while not has_applied(self.me.id, self.rows, self.log, depends):
            if self._now() >= ends:
                return False
            yield Sleep(_nothing, LOOK_EVERY)
        return True

    def may_ask(self) -> bool:
        """Tell whether what is fetched may be used: not before this host is established, nor when it is long behind.

        On a client it may always: a member answers what it would serve to its own callers. It is kept, and served by
        this host once it is current.
        """
        if self.is_client:
            return True
        now = self._now()
        return self.lease.loaded_after(now) < now

    def ask(self, to: Incarnation, request: Request, timeout: float = FETCH_TIMEOUT) -> Sleeping[Answer | None]:
        """Ask a host; the answer is None if there is none in time."""
        answers = yield from self.ask_several([(to, request)], timeout)
        return answers[0]

    def ask_several(
        self, asked: Sequence[tuple[Incarnation, Request]], timeout: float = FETCH_TIMEOUT
    ) -> Sleeping[list[Answer | None]]:
        """Do as `ask_all` does, for one who waits. Where nobody may wait, nothing is asked."""
        if may_not_wait():
            return [None] * len(asked)
        return (yield from self.ask_all(asked, timeout))

    def ask_all(
        self, asked: Sequence[tuple[Incarnation, Request]], timeout: float = FETCH_TIMEOUT
    ) -> Sleeping[list[Answer | None]]:
        """Ask several hosts, `AT_ONCE` times at once, and return their answers in this order."""
        answers: list[Answer | None] = []
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            given: list[Answer | None] = [None] * len(some)
            if self.is_client and any(self.me.id in getattr(each, "depends", ()) for _, each in some):
                some = yield from self._with_what_is_pending(some)
                if not some:
                    answers += [Refused()] * len(given)
                    continue
            block = partial(self._block, *some[0], timeout, partial(given.__setitem__, 0)) if len(some) == 1 else None
            yield Sleep(partial(self._send, some, given, timeout), timeout + WRITE_TIMEOUT, block)
            answers += given
        return answers

    def _with_what_is_pending(
        self, asked: Sequence[tuple[Incarnation, Request]]
    ) -> Sleeping[Sequence[tuple[Incarnation, Request]]]:
        """Return requests that name what this client has invalidated, once it has come back; none if it does not."""
        ends, sleeps = self._now() + PENDING, pauses()
        while self.me.id in (depends := self.dependencies()):
            if self._now() >= ends:
                return []
            yield Sleep(_nothing, next(sleeps))
        return [
            (to, each._replace(depends=depends) if hasattr(each, "depends") else each)  # type: ignore[call-arg]
            for to, each in asked
        ]

    def _block(
        self, to: Incarnation, request: Request, timeout: float, take: Callable[[Answer | None], object]
    ) -> bool:
        """Ask one host, wait in this thread, and give the answer to ``take``. Return False if nothing was asked."""
        network, frame, is_over = self.network, requests.encode(request), False
        if network is None:
            return False
        try:
            found = network.ask(to, frame, timeout)
            if found is not None and not isinstance(found, bytes):
                is_over = True
                return False
            answer: Answer | None = None
            if isinstance(found, bytes):
                with suppress(WireError):
                    answer = requests.decode_answer(found)
            self._note_answer(to, answer, timeout)
            take(answer)
            is_over = answer is not None
        finally:  # an exception of a signal handler may come anywhere
            if not is_over and isinstance(request, Get) and request.leads:
                self._refuse_what_is_granted(to, frame)
        return True

    def _note_answer(self, by: Incarnation, answer: Answer | None, timeout: float) -> None:
        if timeout >= FETCH_TIMEOUT or answer is not None:  # who has less time is not slow
            self._note(by, answer is not None)

    def _send(
        self, asked: Sequence[tuple[Incarnation, Request]], answers: list[Answer | None], timeout: float,
        waiter: Callable[[Any], object],
    ) -> None:  # fmt: skip
        network, missing = self.network, [*range(len(asked))]
        if network is None:  # this process has no settings of other hosts, as the others of its host have
            waiter(answers)
            return

        def take(place: int, frame: bytes | None) -> None:
            if frame is not None:
                with suppress(WireError):
                    answers[place] = requests.decode_answer(frame)
            self._note_answer(asked[place][0], answers[place], timeout)
            missing.remove(place)
            if not missing:
                waiter(answers)

        for place, (to, request) in enumerate(asked):
            leads = isinstance(request, Get) and request.leads
            on_late = partial(self._refuse_grant, to) if leads else None
            network.request(to, requests.encode(request), partial(take, place), timeout, on_late)

    def _refuse_grant(self, owner: Incarnation, frame: bytes) -> None:
        """Give back a load that was granted too late. Otherwise nobody could load the key until the grant lapses."""
        with suppress(WireError):
            answer = requests.decode_answer(frame)
            if isinstance(answer, Granted):
                self.give_load_back(owner, answer.token)

    def _refuse_what_is_granted(self, owner: Incarnation, frame: bytes) -> None:
        """Ask once more for a load that may have been granted, and give it back.

        The owner gives a load back itself when the same host asks for the same key again.
        """
        network, refuse = self.network, partial(self._refuse_grant, owner)
        if network is not None:
            network.request(owner, frame, lambda body: body is not None and refuse(body), FETCH_TIMEOUT, refuse)

    def ask_or_copy(
        self, owner: Incarnation, request: Get, on_granted: Callable[[int], object] = int
    ) -> Sleeping[Answer | None]:
        """Ask the owner of a key, and the host that may have a copy, if the owner is slow, or cannot answer.

        The copy says only what it has, and decides nothing. It depends on the same events as the owner does.

        ``on_granted`` is given the token of a load that the owner grants. From then on the caller gives it back, if an
        exception of a signal handler comes before this has returned. Perhaps this does so, too. Where nobody
        may wait, nothing is asked.
        """
        if may_not_wait():
            return None
        began, race = monotonic(), Race()
        delay = self.hedging.delay(owner, began) if self.replicas > 1 else None
        reader = request._replace(leads=False, patience=0.0)
        try:
            if delay is None:
                yield Sleep(_wake, 0.0, partial(self._block, owner, request, FETCH_TIMEOUT, race.take_owners))
            if race.owners is AWAITED:
                self._send_one(owner, request, partial(self._take_owners, race, owner, began))
            if delay is not None and delay < FETCH_TIMEOUT:
                yield Sleep(partial(race.wait, 1), delay)
                if race.owners is AWAITED and self._ask_copy(race, owner, reader):
                    self.hedging.hedge(monotonic())
            while True:
                given, owners, copys = race.given, race.owners, race.copys
                if owners is not AWAITED and not isinstance(owners, Refused | None):
                    if isinstance(owners, Granted):
                        on_granted(owners.token)
                    race.takes_owners = True  # and no call after that: see below
                    return owners  # type: ignore[no-any-return]
                if isinstance(copys, Found):
                    if delay is not None and owners is AWAITED:
                        self.hedging.win()
                    return copys
                if owners is not AWAITED and copys is UNASKED:
                    if not self._ask_copy(race, owner, reader):
                        return cast(Answer, owners)
                elif given == 2:
                    return cast(Answer, owners)
                if (yield Sleep(partial(race.wait, given + 1), FETCH_TIMEOUT + WRITE_TIMEOUT)) is TOO_LATE:
                    return None
        finally:
            race.is_over = True
            if not race.takes_owners:
                self._give_back(race, owner)

    def _ask_copy(self, race: Race, owner: Incarnation, request: Get) -> bool:
        """Ask the host that may have a copy. Return False if there is none."""
        copy = self.after(request.key.wire, owner)
        if copy is None:
            return False
        race.copys = AWAITED
        self._send_one(copy, request, race.take_copys)
        return True

    def _take_owners(self, race: Race, owner: Incarnation, began: float, answer: Answer | None) -> None:
        if isinstance(answer, Found):
            self.hedging.note(owner, monotonic() - began)
        race.take_owners(answer)
        # 1. This notes the answer, and then looks whether the race is over.
        # 2. The asker notes that it is over, and then looks at the answer.
        # So one of them gives back what was granted, or both, which does no harm.
        if race.is_over:
            self._give_back(race, owner)

    def _give_back(self, race: Race, owner: Incarnation) -> None:
        """Give a load back that was granted to nobody: the copy was faster, or the caller does not wait any more."""
        if isinstance(race.owners, Granted) and not race.takes_owners:
            self.give_load_back(owner, race.owners.token)

    def _send_one(self, to: Incarnation, request: Request, take: Callable[[Answer | None], object]) -> None:
        self._send([(to, request)], [None], FETCH_TIMEOUT, lambda answers: take(answers[0]))

    def until_told(self, done: Answer | None) -> Sleeping[None]:
        """Wait until this host is told of a write of another one, so that all its fetches depend on that from then on.

        The owner would answer the new value in any case. But a copy may be asked, by any process of this host:

        1. P sets k at its owner, O. Its call returns.
        2. Q, on P's host, reads k. O is slow, so Q asks C, which has not heard of the write, and has an old copy. Q
           cannot name the write, because its host has not heard of it either.

        That takes about as long as the answer itself. If the owner goes silent just then, its lease runs out before the
        wait ends: then this host serves only what was loaded after the write.
        """
        if not isinstance(done, Done) or done.by is None:
            return
        for pause in self._pauses(self.times.waited / _NS):
            if self.rows.state(done.by) in (ENDED, ENDED_AT) or self.rows.has_reached(done.by, done.events or {}, TOLD):
                return
            yield Sleep(_nothing, pause)

    def _pauses(self, patience: float) -> Iterator[float]:
        ends = monotonic() + patience
        for pause in pauses():
            yield pause
            if monotonic() >= ends:
                return

    def tell(self, to: Incarnation, request: Request, timeout: float = WRITE_TIMEOUT) -> None:
        """Ask a host something whose answer nobody waits for."""
        if self.network is not None:
            self.network.request(to, requests.encode(request), lambda _: None, timeout)

    def give_load_back(self, owner: Incarnation, token: int) -> None:
        """Have a host end a load that it has granted: others may load. If it has ended, nothing happens."""
        self.tell(owner, Fill(token, None, 0.0, 0.0))

    def _note(self, id: Incarnation, answered: bool) -> None:
        if answered:
            self._slow.pop(id, None)
        else:
            self._slow[id] = (self._slow.get(id, (0, 0.0))[0] + 1, monotonic() + PASSED_OVER)

    # --- Copies

    def loaded(self, wire: bytes, seconds: float) -> None:
        """Note that a value was loaded in so many seconds, and filled on this host."""
        if self.offers is not None:
            self.offers.loaded(wire, seconds)

    def written(self, wire: bytes) -> None:
        """Note that a value was stored on this host."""
        if self.offers is not None:
            self.offers.note(wire)

    def names_of(self, *ids: Incarnation | None) -> list[str]:
        """Return the names of hosts."""
        return sorted({self.rows.name(id) for id in ids if id is not None})

    def infos(self) -> list[HostInfo]:
        """Return all hosts of the group, this one first, and the others by their names. Members know their clients."""
        now, mine = self._now(), self.me
        state = "joining" if not self.is_established else "current" if now < self.lease.until(now) else "behind"
        found = [HostInfo(mine.name, mine.address, __version__, mine.weight * WEIGHT, state, None, None, True)]
        for id in self.rows.live():
            host, alive, trip = self.rows.host(id), self.rows.largest(id, ALIVE), self.rows.largest(id, ROUND_TRIP)
            is_alive = alive > self.ns()
            state = "forgotten" if self.rows.is_forgotten(id) else "live" if is_alive else "silent"
            age = (self.ns() - alive + self.times.lease) / _NS if alive else None
            owns, round_trip = host.weight * WEIGHT, trip / _NS if trip else None
            found.append(HostInfo(host.name, host.address, host.release, owns, state, age, round_trip, False))
        for id in self.rows.clients.who_may_serve(self.ns()):
            client = self.rows.clients.host(id)
            found.append(HostInfo(client.name, "", client.release, 0, "live", None, None, False))
        return [found[0], *sorted(found[1:], key=lambda info: info.name)]

    def group_stats(self, mine: HostStats, timeout: float) -> Sleeping[GroupStats]:
        """Ask all other hosts what their processes have counted."""
        ids = [id for id in self.rows.live() if not self.rows.is_forgotten(id)]
        answers = yield from self.ask_all([(id, Report()) for id in ids], timeout)
        found, silent = [mine], list[str]()
        for id, answer in zip(ids, answers, strict=True):
            name = self.rows.host(id).name
            if isinstance(answer, Reported):
                found.append(stats_of_report(name, answer))
            else:
                silent.append(name)
        return GroupStats((mine, *sorted(found[1:], key=lambda host: host.name)), tuple(sorted(silent)))

    # --- Events of this host

    def append(self, kind: int, hashes: Sequence[int], related: bool) -> Position | None:
        """Announce what is invalidated, before it is stamped; return None if nobody can be told."""
        with suppress(NoLane):
            return self.log.append_all(kind, hashes, related)
        return None

    def stamped(self, position: Position | None) -> None:
        """Note that an event is stamped, and have it told to others.

        None is one of which is not known whether it is in the log: its gateway stamps it once more.
        """
        if position is not None:
            self.log.mark_stamped(position)
        if self.network is not None:
            self.network.wake_gateway()

    def announce(self, hash: int, /) -> Position | None:
        """See `colocache.core.host.memory.Announcer`."""
        if self.is_client:
            return None  # it has no events that others hear of
        with suppress(NoLane):
            return self.log.append(Event(WRITES, (hash,)))
        return None

    def done(self, announced: object, /) -> None:
        """See `colocache.core.host.memory.Announcer`."""
        assert isinstance(announced, Position)
        self.stamped(announced)

    def settle(self, numbers: Numbers, patience: float) -> Sleeping[Settled]:
        """Wait until no host serves what was invalidated by events up to these, for so many seconds at most."""
        flow = settle(self._words, self.rows, self.times, numbers, self.ns(), int(min(patience, 1e6) * _NS))
        progress, one = self.progress, object()
        seen = progress.made
        try:
            pause = next(flow)
            while True:
                if self.network is not None and self.network.is_gateway:
                    pause = max(pause, LONGEST_PAUSE)  # it is woken before that
                yield Sleep(partial(progress.join, one, seen), progress.pause(pause))
                seen = progress.made  # before the flow looks
                pause = flow.send(self.ns())
        except StopIteration as end:
            settled: Settled = value_of(end)
            return settled
        finally:
            progress.leave(one)

    # --- Events of a client

    def announce_far(self, kind: int, hashes: Sequence[int], related: bool, *positions: Position) -> Announcement:
        """Have a member invalidate what this client has stamped. ``positions`` are its own in the own log."""
        announcement = Announcement(Announce(self.me.id, kind, tuple(hashes), related), positions)
        self._ask_next(announcement)
        return announcement

    def _ask_next(self, announcement: Announcement) -> None:
        network = self.network
        to = announcement.next(self._whom_to_ask()) if network is not None else None
        if to is None or network is None:
            announcement.fail()
            return
        frame = requests.encode(announcement.request)
        network.request(to, frame, partial(self._on_announced, announcement, to), WRITE_TIMEOUT)

    def _on_announced(self, announcement: Announcement, asked: Incarnation, frame: bytes | None) -> None:
        answer: Answer | None = None
        if frame is not None:
            with suppress(WireError):
                answer = requests.decode_answer(frame)
        self._note(asked, answer is not None)
        if not isinstance(answer, Announced):
            self._ask_next(announcement)
            return
        known = dict(self._announced.get(answer.by, {}))
        for lane, number in answer.numbers.items():
            known[lane] = max(number, known.get(lane, 0))
        self._announced[answer.by] = known
        if answer.is_applied:
            for position in announcement.positions:
                self.log.mark_stamped(position)
        announcement.succeed(answer.by, answer.numbers)

    def _whom_to_ask(self) -> list[Incarnation]:
        """Return the members, in the order in which they are asked: not all clients ask the same one first."""
        now, clock = self.ns(), monotonic()
        ids = sorted(self.rows.counted())
        start = int.from_bytes(self.me.id[:4], "big") % len(ids) if ids else 0

        def is_doubtful(id: Incarnation) -> bool:
            return self.rows.largest(id, ALIVE) <= now or self._slow.get(id, (0, 0.0))[1] > clock

        return sorted([*ids[start:], *ids[:start]], key=is_doubtful)

    def settle_far(self, announcements: Sequence[Announcement], patience: float) -> Sleeping[Settled]:
        """Do what `settle` does, for what members have announced for this client."""
        ends = self._now() + patience
        for _ in range(3):  # a member may end between its two answers
            sleeps = pauses()
            while not all(each.is_over for each in announcements) and self._now() < ends:
                yield Sleep(_nothing, min(next(sleeps), max(0.0, ends - self._now())))
            asked: dict[Incarnation, dict[int, int]] = {}
            for each in announcements:
                if each.by is None:
                    return NOT_SETTLED
                known = asked.setdefault(each.by, {})
                for lane, number in each.numbers.items():
                    known[lane] = max(number, known.get(lane, 0))
            timeout = min(ends - self._now(), self.times.waited / _NS + WRITE_TIMEOUT)
            if timeout <= 0:
                return NOT_SETTLED
            members = list(asked)
            answers = yield from self.ask_all([(id, Settle(self.me.id, id, asked[id])) for id in members], timeout)
            settled = [each for each in answers if isinstance(each, Settlement)]
            if len(settled) == len(members):
                return _together([self.rows.host(id).name for id in members], settled)
            lost = {id for id, each in zip(members, answers, strict=True) if not isinstance(each, Settlement)}
            for each in announcements:
                if each.by in lost:
                    each.begin_anew(each.by)
                    self._ask_next(each)
        return NOT_SETTLED

    def announce_what_was_left(self) -> None:
        """Have members announce what no process of this client has brought to its end: it was killed, or gave up.

        For the gateway's process, now and then.
        """
        log, left = self.log, self._pending.left(self.ns(), LEFT_BEHIND)
        events = [log.read(*each) if log.is_alone(*each) else None for each in left]
        if None in events or len(events) > MOST_LEFT:
            self.announce_far(NAMESPACES, (ROOT,), True, *left)
            return
        for position, event in zip(left, events, strict=True):
            if event is not None:
                self.announce_far(event.kind, event.hashes, event.related, position)

    def announced(self) -> list[tuple[Incarnation, int, int]]:
        """Return by whom, in which lane and as which event was announced what this process has invalidated last."""
        return [(id, lane, number) for id, known in [*self._announced.items()] for lane, number in known.items()]

    # --- What it shows

    def lasts(self) -> Mapping[int, int]:
        """Return the numbers of this host's last events."""
        return self.log.lasts()

    def ns(self) -> int:
        """Return the time of this host, in ns."""
        return int(self._now() * _NS)


NOT_SETTLED: Final = Settled((), (), (), False)


def _together(members: Sequence[str], settled: Sequence[Settlement]) -> Settled:
    """Return what has come of events of several members."""

    def union(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys([name for names in lists for name in names]))

    waited_out = union(each.waited_out for each in settled)
    acknowledged = union([members, *(each.acknowledged for each in settled)])
    return Settled(
        tuple([name for name in acknowledged if name not in waited_out]), waited_out,
        union(each.forgotten for each in settled), all(each.complete for each in settled),
    )  # fmt: skip


def _wake(waiter: Callable[[Any], object]) -> None:
    """Wake at once: this waits for nothing."""
    waiter(None)


def _nothing(waiter: Callable[[Any], object]) -> None:
    """Wake nobody: this is a pause."""
