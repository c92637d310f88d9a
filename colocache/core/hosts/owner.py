"""What the owner host of a key does for other hosts: it looks for values, grants loads, and writes.

Rule R5: it compares what a fetch depends on with what it has applied, **then** takes the record, and compares the
record's stamps. In the other order:

1. The owner finds a record, which stands.
2. An event is applied, which makes it void.
3. The owner finds that all is applied that the fetch depends on, and answers the old value.

So the owner need not be current to answer. What is older than its own lease allows it does not answer, because the
asker could not serve it either.

A **grant** is a claim of this host that the asker holds: nobody else loads the key meanwhile, on this host or on any
other. It ends with the asker's fill, or after the time that loads may take. If the asker is killed, the gateway of its
host gives the load back: see `colocache.core.host.claims`. If this process ends, the grant is gone: then two load,
once. What is filled stands under the stamps that were read before the grant.

**A client** has no events of its own. What it invalidates is an event of this host, which it is told with all others.

**Writes** happen here, in the order of `colocache.core.host.shelf`. What is derived from a present value is refused
while this host is behind: the value may have been invalidated elsewhere, with a receipt that did not wait for it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple

from ...errors import WireError
from ..agenda import Agenda
from ..host.board import GROUP, Board
from ..host.claims import AGAIN, Claims, Lead, Load, Sleep
from ..host.hashes import ANY_TAG, key_hash
from ..host.memory import Fences, HostLease, Words
from ..host.record import KEY_GROUPS, Miss, Outcome, Record, hashes_of
from ..host.shelf import Shelf
from ..numbers import added
from . import requests
from .copies import Copies
from .dependencies import Dependencies, dependencies, has_applied
from .event import Position
from .gateway import Times
from .log import HostLog
from .offers import Offers
from .requests import (
    Add,
    Announce,
    Announced,
    Answer,
    Busy,
    Count,
    Done,
    Fill,
    Found,
    FoundMany,
    Get,
    GetMany,
    Granted,
    Harvest,
    Missing,
    Offer,
    Put,
    PutFenced,
    Refused,
    Replace,
    Report,
    Reported,
    Request,
    Settle,
    Settlement,
    Touch,
)
from .rows import ACKED, ALIVE, Incarnation, Rows
from .taking import SLOWER_CLOCK, Taker
from .waiting import Settled, pauses, settle

CATCHING_UP = 0.06  # s that a request waits for events on which it depends
LOOK_EVERY = 0.002  # s
TELLING = 0.5  # s that a client has to apply what it has invalidated
ANSWER_WITHIN = 0.2  # s: who waits for a load is told that it still runs, and asks again
MOST_FLOWS = 10_000  # requests that wait at the same time
MOST_GRANTS = 100_000
MOST_PULLS = 64  # offers that are followed at the same time
LOOK_AT_HOSTS_EVERY = 1.0  # s, while any host has a grant

_FENCE = struct.Struct("=16sQd")  # the owner, the stamp of all tags together, when the key was missed

NOT_A_NUMBER = "NOT_A_NUMBER"

Flow = Generator[float | Sleep, Any, Answer]


class Grant(NamedTuple):
    """A load that another host does."""

    load: Load
    wire: bytes
    hash: int
    host: Incarnation  # that loads


class _Waiting:
    """A request that is not answered yet."""

    __slots__ = ("answer", "flow", "reply")

    def __init__(self, flow: Generator[float | Sleep, Any, Any], reply: Callable[[bytes], object] | None) -> None:
        """``reply`` is None for what nobody has asked for."""
        self.flow = flow
        self.reply = reply
        self.answer: Any = None  # what a waiter was given


class _Call:
    """What `Claims.find_or_lead` wants of a call."""

    def __init__(self) -> None:
        self.load: Load | None = None


class HostMemory(NamedTuple):
    """What processes of a host share, as one of them has it."""

    words: Words
    rows: Rows
    log: HostLog
    board: Board
    shelf: Shelf
    claims: Claims
    fences: Fences
    lease: HostLease


class Hooks(NamedTuple):
    """What the process of an owner does for it."""

    wake: Callable[[], object] = lambda: None  # it has `run` called soon; any thread calls it
    on_change: Callable[[int], object] = lambda hash: None  # it is told of keys that were written
    #: It tells whether this host owns a key at this very moment; see `colocache.hosts.Hosts.exact_owner`.
    owns: Callable[[bytes], bool] = lambda wire: True
    #: It invalidates things, as a process of this host does: it is given the kind, the hashes, and whether they are
    #: related. It returns None if that cannot be told to other hosts.
    void: Callable[[int, Sequence[int], bool], Position | None] = lambda kind, hashes, related: None
    report: Callable[[], Reported | None] = lambda: (
        None
    )  # what the processes of this host have counted, if that is known


class Owner:
    """What one process does for other hosts. For one thread, but what wakes a request may be any.

    When it is `due`, or has called ``wake``, call `run`.
    """

    def __init__(
        self, me: Incarnation, memory: HostMemory, times: Times, clock: Callable[[], float], load_timeout: float,
        hooks: Hooks, copies: Copies | None = None, offers: Offers | None = None,
    ) -> None:  # fmt: skip
        """``clock`` gives seconds on the host's monotonic clock.

        ``copies`` sees to copies of what others have, and ``offers`` to those that others are to have, if there may be
        any.
        """
        self.me = me
        self._words, self._rows, self._log, self._board, self._shelf = memory[:5]
        self._claims, self._fences, self._lease = memory[5:]
        self._times, self._clock, self._load_timeout = times, clock, load_timeout
        self._wake, self._on_change, self._owns, self._void, self._report = hooks
        self._copies, self._offers = copies, offers
        self._taker = Taker(self._board, self._shelf, self._fences)
        self._harvests = False
        self._hands_over: _Waiting | None = None
        self._pulls = 0
        self._any_tag = self._board.marks_of(ANY_TAG)[0]
        self._waiting = Agenda[_Waiting]()
        self._woken: deque[_Waiting] = deque()
        self._grants: dict[int, Grant] = {}
        self._ends = Agenda[int]()  # of the grants
        self._of_hosts: dict[Incarnation, set[int]] = {}  # the grants of each that has any
        self._tokens: dict[tuple[bytes, Incarnation], tuple[int]] = {}  # by key and asker
        self._has_last_applied: Dependencies = {}
        self._looked_at = 0.0  # at the hosts that have grants
        self._mine = int.from_bytes(me[:8], "big")
        self._handlers: dict[type[Any], Callable[[Any], Flow]] = {
            Get: self._get, GetMany: self._get_many, Fill: self._fill, Put: self._put, PutFenced: self._put_fenced,
            Add: self._add, Replace: self._replace, Count: self._count, Touch: self._touch,
            Announce: self._announce, Settle: self._settle, Offer: self._take_offer, Harvest: self._held,
            Report: self._tell_report,
        }  # fmt: skip
        self.served = 0
        self.bad_requests = 0

    def serve(self, frame: bytes, reply: Callable[[bytes], object]) -> None:
        """Answer a request, now or later. What cannot be read is answered as refused."""
        try:
            request: Request = requests.decode_request(frame)
        except WireError:
            self.bad_requests += 1
            reply(requests.encode(Refused()))
            return
        if len(self._waiting) >= MOST_FLOWS:
            reply(requests.encode(Refused()))
            return
        self._step(_Waiting(self._handlers[type(request)](request), reply))

    def hand_over(self, ends: float) -> None:
        """Begin to offer to others what this host owns, until that instant on the clock at most."""
        self._hands_over = None if self._copies is None else self._begin(self._copies.hand_over(ends))

    @property
    def is_handing_over(self) -> bool:
        """Whether that goes on."""
        return self._hands_over in self._waiting

    @property
    def has_work(self) -> bool:
        """Whether a request was woken."""
        return bool(self._woken)

    @property
    def due(self) -> float:
        """When `run` has something to do, on the clock; infinity if never."""
        look_at = self._looked_at + LOOK_AT_HOSTS_EVERY if self._grants else float("inf")
        return min(self._waiting.deadline, self._ends.deadline, look_at)

    def run(self) -> None:
        """Go on with the requests that were woken, or whose time has come."""
        now = self._clock()
        while self._woken:
            each = self._woken.popleft()
            if self._waiting.drop(each):
                self._step(each)
        for _ in range(len(self._waiting)):  # not without end, where a request has to be looked at again at once
            due = self._waiting.take(now)
            if due is None:
                break
            self._step(due)
        while (token := self._ends.take(now)) is not None:
            self._give_back((token,))
        if self._grants and now >= self._looked_at + LOOK_AT_HOSTS_EVERY:
            self._looked_at, ns = now, self._ns()
            for host, tokens in [*self._of_hosts.items()]:
                if self._heard_until(host) <= ns:
                    self._give_back([*tokens])
        if not self._harvests and self._copies is not None and self._copies.may_harvest:
            self._harvests = True
            self._begin(self._copies.harvest())

    def _give_back(self, tokens: Iterable[int]) -> None:
        """End grants whose loads do not come to an end any more: others may load.

        The asker's host is silent, or asks for the same key again. It asks once for all its processes. So the one that
        had the grant was killed, or its load was ended by an event.
        """
        for token in tokens:
            grant = self._take(token)
            if grant is not None:
                self._claims.end(grant.load, AGAIN)

    def _take(self, token: int) -> Grant | None:
        """Take a grant out."""
        grant = self._grants.pop(token, None)
        if grant is None:
            return None
        self._ends.drop(token)
        tokens = self._of_hosts[grant.host]
        tokens.discard(token)
        if not tokens:
            del self._of_hosts[grant.host]
        if self._tokens.get((grant.wire, grant.host)) == (token,):
            del self._tokens[grant.wire, grant.host]
        return grant

    def close(self) -> None:
        """Give back all that was granted, and answer nobody any more."""
        for each in self._waiting:
            each.flow.close()
        self._waiting.clear()
        self._give_back([*self._grants])

    def _step(self, waiting: _Waiting) -> None:
        try:
            answer, waiting.answer = waiting.answer, None
            step = waiting.flow.send(answer)
        except StopIteration as end:
            if waiting.reply is not None:
                self.served += 1
                waiting.reply(requests.encode(end.value))
            return
        if isinstance(step, Sleep):
            step.register(lambda woken: self._rouse(waiting, woken))
            step = step.seconds
        self._waiting.put(waiting, self._clock() + step)

    def _begin(self, flow: Generator[float | Sleep, Any, Any]) -> _Waiting:
        """Do something that nobody has asked for."""
        begun = _Waiting(flow, None)
        self._step(begun)
        return begun

    def _rouse(self, waiting: _Waiting, woken: Any) -> None:
        """Any thread may call this."""
        waiting.answer = woken
        self._woken.append(waiting)
        self._wake()

    # --- Reading

    def _dependencies(self) -> Dependencies:
        """Return of which events stamps may know that were read just now."""
        self._fences.order()
        return dependencies(self.me, self._rows, self._log, self._ns())

    def _has_applied(self, depends: Dependencies) -> Generator[float, Any, bool]:
        if depends != self._has_last_applied:  # what is applied stays applied
            ends = self._clock() + CATCHING_UP
            while not has_applied(self.me, self._rows, self._log, depends):
                if self._clock() >= ends:
                    return False
                yield LOOK_EVERY
            self._has_last_applied = depends
        self._fences.order()  # R5: then the record
        return True

    def _get(self, request: Get) -> Flow:
        if not (yield from self._has_applied(request.depends)):
            return Refused()
        (wire, hashes), began = request.key, self._clock()
        any_tag = self._board.marks[self._any_tag]
        self._fences.order()
        asked = self._taker.look(wire, hashes, began)
        if isinstance(asked, Record):
            if self._offers is not None:
                self._offers.note(wire)
            return self._found(asked, any_tag, began)
        if self._lease.loaded_after(began) == float("inf"):
            return Refused()  # as yet, or by now, it knows too little: the asker asks somebody else
        if self._copies is not None and self._copies.second(wire) is not None:
            record = yield from self._copies.peek(asked)
            if record is not None:
                return self._found(record, any_tag, self._clock())
        if not request.leads:
            return Missing(_FENCE.pack(self.me, any_tag, began) + asked.miss.label, self._dependencies())
        if len(self._grants) >= MOST_GRANTS:
            return Refused()
        return (yield from self._lead(request, wire, asked.hash, any_tag))

    def _lead(self, request: Get, wire: bytes, hash: int, any_tag: int) -> Flow:
        """Give the asker the duty to load, or have it ask again while somebody else loads."""
        self._give_back([*self._tokens.get((wire, request.asker), ())])
        began, call = self._clock(), _Call()
        flow = self._claims.find_or_lead(call, wire, hash, request.key.hashes, began, request.patience + ANSWER_WITHIN)
        try:
            step = next(flow)
            while True:
                left = began + ANSWER_WITHIN - self._clock()
                if left <= 0:
                    return Busy()
                woken = yield Sleep(step.register, min(left, step.seconds))
                step = flow.send((self._clock(), woken))
        except StopIteration as end:
            outcome = end.value
        finally:
            flow.close()
        if isinstance(outcome, Record):
            return self._found(outcome, any_tag, self._clock())
        if not isinstance(outcome, Lead):
            return Refused()  # another thread of this process has loaded what the shelf does not take
        # A fill may come to another process that has the port by now, or to the next incarnation of this host.
        token = self._claims.number() ^ self._mine
        self._tokens[wire, request.asker] = (token,)
        self._grants[token] = Grant(outcome.load, wire, hash, request.asker)
        self._ends.put(token, self._clock() + self._load_timeout)
        self._of_hosts.setdefault(request.asker, set()).add(token)
        return Granted(token, self._dependencies())

    def _get_many(self, request: GetMany) -> Flow:
        if not (yield from self._has_applied(request.depends)):
            return Refused()
        now, any_tag = self._clock(), self._board.marks[self._any_tag]
        self._fences.order()
        values: list[Found | None] = []
        room = requests.MAX_PAYLOAD
        for wire, _ in request.keys:
            record = self._shelf.find(wire, key_hash(wire), now)
            if record is None or len(record.payload) > room:
                values.append(None)
                continue
            room -= len(record.payload)
            values.append(self._found(record, any_tag, now))
            if self._offers is not None:
                self._offers.note(wire)
        return FoundMany(tuple(values))

    def _found(self, record: Record, any_tag: int, now: float) -> Found:
        return Found(
            bytes(record.payload), hashes_of(record.label), max(0.0, record.expires - now),
            max(0.0, now - record.loaded), record.version, any_tag,
        )  # fmt: skip

    def _fill(self, request: Fill) -> Flow:
        yield from ()
        grant = self._take(request.token)
        if grant is None:
            return Done(Outcome.REFUSED.name)
        outcome = Outcome.DECLINED
        try:
            if request.payload is not None:
                now = self._clock()
                grant.load.age(now - request.age * SLOWER_CLOCK)
                expires = now + request.ttl
                outcome = self._shelf.fill(grant.wire, grant.hash, request.payload, grant.load.miss, expires)[0]
                if outcome is Outcome.STORED and self._offers is not None:
                    self._offers.loaded(grant.wire, request.age)
        finally:
            self._claims.end(grant.load, AGAIN)
        return Done(outcome.name)

    # --- Copies

    def _take_offer(self, request: Offer) -> Flow:
        if self._copies is None or self._pulls >= MOST_PULLS or not (yield from self._has_applied(request.depends)):
            return Refused()
        self._pulls += 1
        try:
            yield from self._copies.pull(request.sender, request.keys)
        finally:
            self._pulls -= 1
        return Done(Outcome.STORED.name)

    def _held(self, request: Harvest) -> Flow:
        if self._copies is None:
            return Refused()
        return (yield from self._copies.held(request))

    def _tell_report(self, request: Report) -> Flow:
        yield from ()
        return self._report() or Refused()

    # --- Writing

    def _put(self, request: Put) -> Flow:
        wire, hashes = request.key
        hash = key_hash(wire)
        if request.payload is None or request.ttl == 0:
            return Done(Outcome.DECLINED.name)  # the asker invalidates the key
        outcome = self._shelf.set(wire, hash, request.payload, hashes, self._clock() + request.ttl)[0]
        return (yield from self._written(wire, outcome, None, request.waits))

    def _put_fenced(self, request: PutFenced) -> Flow:
        wire, _ = request.key
        hash = key_hash(wire)
        if len(request.fence) < _FENCE.size or (len(request.fence) - _FENCE.size) % GROUP.size:
            return Refused()
        owner, any_tag, at = _FENCE.unpack_from(request.fence)
        label = request.fence[_FENCE.size :]
        if owner != self.me or len(label) < KEY_GROUPS * GROUP.size:
            return Done(Outcome.REFUSED.name)
        if request.tags:
            label += self._board.label(request.tags)
            self._fences.order()
            if self._board.marks[self._any_tag] != any_tag:
                return Done(Outcome.REFUSED.name)
        expires = self._clock() + request.ttl
        outcome = self._shelf.set_fenced(wire, hash, request.payload, Miss(label, at), expires)[0]
        return (yield from self._written(wire, outcome, None, False))

    def _add(self, request: Add) -> Flow:
        if not (yield from self._may_derive(request)):
            return Refused()
        wire, hashes = request.key
        hash = key_hash(wire)
        outcome = self._shelf.add(wire, hash, request.payload, hashes, self._clock() + request.ttl)[0]
        return (yield from self._written(wire, outcome, None, False))

    def _replace(self, request: Replace) -> Flow:
        if not (yield from self._may_derive(request)):
            return Refused()
        wire, hashes = request.key
        hash, marks = key_hash(wire), self._board.marks
        outcome = self._shelf.replace(
            wire, hash, request.version, request.payload, hashes, self._clock() + request.ttl,
            lambda: marks[self._any_tag] == request.any_tag,
        )[0]  # fmt: skip
        return (yield from self._written(wire, outcome, None, False))

    def _count(self, request: Count) -> Flow:
        if not (yield from self._may_derive(request)):
            return Refused()
        counted: list[bytes | None] = []

        def decide(record: Record | None) -> tuple[bytes, float] | None:
            counted.clear()
            if record is None:
                counted.append(request.start)
                return None if request.start is None else (request.start, self._clock() + request.ttl)
            counted.append(added(bytes(record.payload), request.delta))
            return None if counted[0] is None else (counted[0], record.expires)

        wire, hashes = request.key
        hash = key_hash(wire)
        outcome, record = self._shelf.change(wire, hash, decide, hashes)
        if outcome is Outcome.REFUSED and record is not None:
            return Done(NOT_A_NUMBER)
        return (yield from self._written(wire, outcome, counted[0] if counted else None, False))

    def _touch(self, request: Touch) -> Flow:
        if not (yield from self._may_derive(request)):
            return Refused()
        wire, hashes = request.key
        hash = key_hash(wire)

        def decide(record: Record | None) -> tuple[bytes, float] | None:
            return None if record is None else (bytes(record.payload), self._clock() + request.ttl)

        outcome = self._shelf.change(wire, hash, decide, hashes)[0]
        return (yield from self._written(wire, outcome, None, False))

    def _heard_until(self, host: Incarnation) -> int:
        """Return until when (ns) a host counts as one that lives, be it a member or a client."""
        return max(self._rows.largest(host, ALIVE), self._rows.clients.granted(host))

    # --- For clients

    def _announce(self, request: Announce) -> Flow:
        """Invalidate what a client asks for, and answer when its host has applied that, if it may serve anything."""
        if not request.hashes:
            return Refused()
        position = self._void(request.kind, request.hashes, request.related)
        if position is None:
            return Refused()
        numbers, ends, sleeps = {position.lane: position.number}, self._clock() + TELLING, pauses()
        while not self._rows.clients.has_reached(request.sender, numbers, ACKED):
            if self._clock() >= ends or self._rows.clients.granted(request.sender) <= self._ns():
                return Announced(self.me, numbers, False)
            yield next(sleeps)
        return Announced(self.me, numbers, True)

    def _settle(self, request: Settle) -> Flow:
        if request.by != self.me:
            return Refused()  # that host has ended, and its address is this one's now
        now, patience = self._ns(), 4 * self._times.lease
        flow = settle(self._words, self._rows, self._times, request.numbers, now, patience, request.sender)
        return Settlement(*(yield from self._timed(flow)))

    def _may_derive(self, request: Add | Replace | Count | Touch) -> Generator[float, Any, bool]:
        """Tell whether this host is current, as far as the asker, and owns the key."""
        if not (yield from self._has_applied(request.depends)):
            return False
        now = self._clock()
        return now < self._lease.until(now) and self._owns(request.key.wire)

    def _written(self, wire: bytes, outcome: Outcome, payload: bytes | None, waits: bool) -> Flow:
        if outcome is not Outcome.STORED:
            return Done(outcome.name, payload)
        self._on_change(key_hash(wire))
        if self._offers is not None:
            self._offers.note(wire)
        events = self._log.lasts()
        if waits:
            flow = settle(self._words, self._rows, self._times, events, self._ns(), 4 * self._times.lease)
            return Done(outcome.name, payload, (yield from self._timed(flow)).complete, events, self.me)
        return Done(outcome.name, payload, False, events, self.me)

    def _timed(self, flow: Generator[float, int, Settled]) -> Generator[float, Any, Settled]:
        """Tell a flow the time after each pause."""
        try:
            pause = next(flow)
            while True:
                yield pause
                pause = flow.send(self._ns())
        except StopIteration as end:
            settled: Settled = end.value
            return settled

    def _ns(self) -> int:
        return int(self._clock() * 1e9)
