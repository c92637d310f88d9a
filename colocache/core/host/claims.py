"""One load of a missing key on a host: who loads, and who waits for it.

The kernel decides. A reader that misses a key takes the record lock of a byte that the key and its label choose, and
loads. The kernel frees the byte when its holder dies. A **hint** in shared memory tells which claim holds a byte, and
whether somebody waits for it. A lost, doubled or torn hint costs a wait, and never correctness: labels alone decide
what is served.

No message is needed. A waiter looks again at growing intervals, and takes the byte once it is free. If the holder finds
at its end that somebody waits, it has the waiters woken at once. The more keys a process waits for, the longer the
intervals: with 10,000 tasks that wait, the looks would otherwise leave no time for anything else.

A reader that misses the key after an event has another label, and so another byte. So nobody waits for a load that
began before an event that this reader has to see.

**Behind.** While the host is behind (`colocache.core.hosts.lease`), another host may have had an event of which nobody
here has heard, and which has changed no label. Then a call takes no value of a load that was begun more than a lease
before the call, unless it began after the call. It waits for the end of such a load all the same, and then one of all
that have waited loads for them: otherwise each call would load beside all others.

**Loads that give nothing.** A request may have a time limit, and give up its load:

1. A load takes 5 s, although 0.4 s is usual. Each request has 1 s.
2. The first request gives up. The second one, which has 0.1 s left, begins to load.
3. It gives up, too, and so on. As long as requests come, nobody gets a value.

So after `MOST_FAILURES` loads that gave nothing, a reader that has waited for them loads at once, beside all others.
Before that, the newest request loads next, because it will wait longest. And a load that goes on without its caller, as
tasks do, is an **orphan**: one of those who wait for it loads beside it, and the first value serves all.

The kernel does not exclude a process from a byte that it holds itself. So in each process a table of loads joins
threads and tasks first.

**Loads that another host has granted.** The hint also tells by which host and under which number. When the holder is
killed, the gateway of this host finds that the byte is free, and gives the load back in its place: `Claims.abandoned`.
Otherwise the granting host would wait until the time is over that loads may take, and all hosts with it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from xxhash import xxh3_64_intdigest

from .board import Label
from .memory import Fences, HostLease, Words
from .numbers import Numbers
from .record import Miss, Record
from .shelf import Shelf

T = TypeVar("T")

HINTS = 1024  # hints of a host, a power of two
HINT_WORDS = 8  # words of a hint; 64 bytes, so that two holders never write to one cache line
_PLACE, _ID, _WAITS, _OWNER, _OWNER_TOO, _TOKEN, _SUM, _ = range(HINT_WORDS)  # the words of a hint
_OWNER_ID = struct.Struct("=2Q")

FIRST_PAUSE, LAST_PAUSE = 0.001, 0.05  # s between two looks of a waiter: at first, and at last
PAUSE_FOR_EACH = 0.00025  # s more for each other key that this process waits for; a look takes about a tenth of it

MOST_FAILURES = 2  # loads that one call waits for, and that give nothing

#: What became of a load whose value nobody can be handed: its waiters look again.
AGAIN: Final = object()

#: What is called with an outcome. It may be called more than once; the first outcome counts.
Waiter = Callable[[Any], object]

#: Those that wait, the newest last. A dictionary, because nothing is raised by taking out what is gone already: in that
#: place an exception of a signal handler would be taken for it.
Queue = dict[object, Waiter]


class ClaimLocks(Protocol):
    """The record locks of single bytes. The kernel frees them when their process ends."""

    def take(self, place: int, /) -> bool:
        """Take a byte's lock; return False if anybody has it."""

    def free(self, place: int, /) -> None:
        """Give it back."""

    def is_taken(self, place: int, /) -> bool:
        """Tell whether anybody has it, this process included. Where that cannot be known, somebody has."""


class Value(NamedTuple):
    """A value that another thread of this process has loaded, as an object."""

    value: Any
    expires: float = math.inf
    loaded: float = math.inf  # the instant from which its age counts


class Sleep(NamedTuple):
    """The step of a flow that waits until it is woken, for so many seconds at most.

    A driver that may block its thread calls ``block`` in place of that, if there is one. It returns whether it has done
    what was waited for; otherwise the driver waits.
    """

    register: Callable[[Waiter], None]
    seconds: float
    block: Callable[[], bool] | None = None


#: The part of a flow that waits.
Waits: TypeAlias = Generator[Sleep, tuple[float, Any], T]


class Load:
    """The load of one key in this process, from the miss to the report; or one thread that waits for another process.

    ``miss`` says under which label its value is current.
    """

    __slots__ = (
        "_behind", "beside", "has_begun", "hash", "hint", "is_orphan", "miss", "outcome", "place", "runner",
        "waiters", "wire",
    )  # fmt: skip

    def __init__(self, wire: bytes, hash: int, miss: Miss, runner: object = None) -> None:
        self.wire = wire
        self.hash = hash
        self.miss = miss
        self.runner = runner  # of the call
        self.place: int | None = None  # of the byte; None if it loads without one
        self.hint = 0  # the number by which the hint is known as this load's
        self._behind: float | None = None  # when it has begun, if the host was behind then
        self.has_begun = False  # otherwise it waits for another process
        self.is_orphan = False  # it has begun, and goes on without its caller
        self.beside: list[object] = []  # the call that is to load beside the orphan: the first one in the list
        self.outcome: Any = None  # once it has ended: a `Value`, a `Record`, or `AGAIN`
        self.waiters: Queue = {}

    def begin(self, lease: HostLease, now: float) -> None:
        """Note that it loads, and from when on the age of the value counts. The label may have been read long ago."""
        at = lease.as_of(now)
        self.miss = self.miss._replace(at=at)
        self._behind = now if at >= now else None
        self.has_begun = True

    def loaded(self, lease: HostLease, now: float) -> None:
        """Note that the loader has ended, before the value is used."""
        if self._behind is not None:
            self.age(lease.as_of_end(self._behind, now))

    def age(self, loaded: float) -> None:
        """Note that the loader was given a value that was loaded then, and so may have made its own of it."""
        if loaded < self.miss.at:
            self.miss = self.miss._replace(at=loaded)

    def end(self, outcome: Any) -> None:
        """Tell those that wait, the newest first. It may be called again; the first outcome counts.

        They leave the queue themselves. If they were taken out here, an exception of a signal handler could come while
        one of them is neither in the queue nor woken, and nobody would ever wake it.
        """
        if self.outcome is None:
            self.outcome = outcome
        for waiter in reversed([*self.waiters.values()]):
            waiter(self.outcome)

    def wake_newest(self) -> None:
        """Wake the waiter that has waited for the shortest time, so that it looks again."""
        waiting = [*self.waiters.items()]
        if waiting:
            place, waiter = waiting[-1]
            waiter(AGAIN)
            self.waiters.pop(place, None)  # it does not wait for this load any more

    def lets_load_beside(self, call: object) -> bool:
        """Tell whether a call is to load beside an orphan. Only one is."""
        if self.is_orphan and not self.beside:
            self.beside.append(call)
            return self.beside[0] is call
        return False


class Abandoned(NamedTuple):
    """A load that another host has granted, and whose holder was killed."""

    owner: bytes  # the host
    token: int


class Lead(NamedTuple):
    """The caller loads, and reports with `Claims.end`. It is late if its patience is over: another one still loads."""

    load: Load
    late: bool


class Call(Protocol):
    """A call that may get the duty to load. Whatever is raised at whatever instruction, it can give the duty back."""

    load: Load | None  # what `Claims.end` takes


class _Search:
    """What one call for a missing key knows so far."""

    __slots__ = (
        "after", "began", "call", "ends", "failures", "hash", "holder", "mine", "now", "outcome", "pause", "runner",
        "waiting", "wire",
    )  # fmt: skip

    def __init__(
        self, call: Call, wire: bytes, hash: int, now: float, after: float, patience: float, runner: object
    ) -> None:
        self.call = call
        self.runner = runner
        self.wire = wire
        self.hash = hash
        self.began = self.now = now
        self.after = after  # what may be served to this call was loaded after this instant
        self.ends = now + patience
        self.pause = FIRST_PAUSE
        self.failures = 0  # loads of others that gave nothing
        self.holder = 0  # the hint number of the load in another process
        self.mine: Load | None = None  # while this call sees to the key, for all threads of this process
        self.outcome: Any = AGAIN  # with which that load is ended
        self.waiting: _Waiting | None = None  # where it waits, or has waited last

    @property
    def is_late(self) -> bool:
        """Whether patience is over."""
        return self.now >= self.ends

    @property
    def has_waited_enough(self) -> bool:
        """Whether it has waited for too many loads that gave nothing."""
        return self.failures >= MOST_FAILURES

    def lead(self, late: bool) -> Lead:
        """Leave the load to the caller, who ends it."""
        assert self.mine is not None
        lead, self.mine = Lead(self.mine, late), None
        return lead


class _Waiting:
    """A place in a queue of waiters. Whoever waits there leaves it, however the wait ends."""

    def __init__(self, queue: Queue, load: Load | None = None) -> None:
        self.queue = queue
        self._load = load

    def join(self, waiter: Waiter) -> None:
        """Have the waiter called once the load has ended. Both sides do their own step first, and then look."""
        self.queue[self] = waiter
        if self._load is not None and self._load.outcome is not None:
            waiter(self._load.outcome)

    def leave(self) -> None:
        """Leave. It may be called twice."""
        self.queue.pop(self, None)


class Claims:
    """The loads of one process, and its claims among those of its host. Any thread may call all methods."""

    def __init__(
        self, shelf: Shelf, locks: ClaimLocks, hints: Words, numbers: Numbers, fences: Fences,
        wake: Callable[[int], object],
    ) -> None:  # fmt: skip
        """``hints`` are ``HINTS * HINT_WORDS`` words. ``wake`` wakes those that wait for a hash, in all processes."""
        self._shelf = shelf
        self._locks = locks
        self._hints = hints
        self._numbers = numbers
        self._fences = fences
        self._wake = wake
        self._loads: dict[tuple[bytes, Label], Load] = {}
        self._sleepers: dict[int, Queue] = {}  # by hash: the waiters for another process

    def find_or_lead(
        self, call: Call, wire: bytes, hash: int, hashes: Sequence[int], now: float, patience: float,
        runner: object = None,
    ) -> Waits[Record | Value | Lead]:  # fmt: skip
        """Find a key, wait for a load of it, or get the duty to load it.

        ``hashes`` are of all that a value depends on beside the key, as for the shelf. The caller answers each `Sleep`
        with the time, and with what it was woken by. The answer is there within ``patience`` seconds, whoever holds the
        claim meanwhile. If there is no other answer by then, it is a `Lead`, beside somebody else's load.

        ``runner`` is the thread or task that calls. A call that has interrupted another one of the same runner, in a
        signal handler or a finalizer, cannot wait for that one, and loads beside it.

        A flow that is closed while it waits gives back what it has. ``call.load`` is set before a load is begun, and
        stays set: to end it again does nothing.

        What may be served to the call is settled when it begins. So nobody waits in vain for a load that takes longer
        than the lease that other hosts give.

        1. R reads its clock, 100, and finds that its host is behind. It may take what was loaded after 97.
        2. It waits for a load that was begun at 99, and ends at 105.
        3. What is loaded is taken. An event before 99 is in it. A later one is not announced, without this host, before
           102: R had begun by then.
        """
        after = min(self._shelf.lease.loaded_after(now), now)  # before the first label
        found = self._shelf.look(wire, hash, hashes, now, after)
        if isinstance(found, Record):
            return found
        search = _Search(call, wire, hash, now, after, patience, runner)
        try:
            while isinstance(found, Miss):
                load = self._join(search, found)
                if load is search.mine:
                    answer: Record | Value | Lead | None = self._try_to_lead(search, load)
                    if answer is None:
                        answer = yield from self._wait_for_process(search, load)
                else:
                    answer = self._lead_beside(search, load)
                    if answer is None:
                        answer = yield from self._wait_for_thread(search, load)
                if answer is not None:
                    return answer
                found = self._shelf.look(wire, hash, hashes, search.now, after)
            search.outcome = found
            return found
        finally:
            if search.waiting is not None:
                search.waiting.leave()
            if search.mine is not None:
                self.end(search.mine, search.outcome)

    def end(self, load: Load, outcome: Any) -> None:
        """Give a claim back, and tell those that wait; ``outcome`` is a `Value`, or `AGAIN`. It may be called twice.

        Two threads may call it at once, because an orphan and the call that loads beside it share one load. So the
        place is read once here.

        What was loaded is on the shelf by now, if it is to be there.
        """
        awaited, place = False, load.place
        if place is not None:
            awaited = self._is_awaited_elsewhere(load)
            self._forget_hint(load, place)
            self._locks.free(place)
            load.place = None
        name = load.wire, load.miss.label
        if self._loads.get(name) is load:
            self._loads.pop(name, None)
        load.end(outcome)
        if not self._sleepers.get(load.hash, True):
            self._sleepers.pop(load.hash, None)
        if awaited:
            self._wake(load.hash)

    def number(self) -> int:
        """Return a number that was never used before, on this host as long as its region lives."""
        return self._numbers.next()

    def orphan(self, load: Load) -> None:
        """Note that a load goes on without its caller, and have one of those who wait load beside it."""
        load.is_orphan = True
        if load.waiters:
            load.wake_newest()

    def wake(self, hash: int) -> None:
        """Wake those that wait for another process's load of a key, so that they look again. The bus calls it."""
        for waiter in [*self._sleepers.pop(hash, {}).values()]:
            waiter(AGAIN)

    def note_grant(self, load: Load, owner: bytes, token: int) -> None:
        """Note that another host, given by its 16 bytes, has granted a load, so that `abandoned` can find it."""
        place, hints = load.place, self._hints
        if place is None or hints[_hint_of(place) + _ID] != load.hint:  # it loads without a byte, or has lost its hint
            return
        at, (first, second) = _hint_of(place), _OWNER_ID.unpack(owner)
        hints[at + _OWNER], hints[at + _OWNER_TOO], hints[at + _TOKEN] = first, second, token
        hints[at + _SUM] = first ^ second ^ token ^ place ^ load.hint

    def abandoned(self) -> list[Abandoned]:
        """Return the granted loads whose holders were killed, each once. For one process of the host, now and then.

        None of them can be filled any more. A load that ends in order is never among them: its holder makes its hint
        void **before** it frees the byte, and this looks at the byte, and **then** at the hint once more.

        1. The hint names a load, which still runs. 2. It ends: the hint is void, and then the byte is free. 3. The byte
        is found free. Without another look the load would be given back for its holder, who has just sent the value.

        A hint that two holders have written to in the same moment has a wrong sum, and counts for nothing.
        """
        hints, found = self._hints, []
        for at in range(0, HINTS * HINT_WORDS, HINT_WORDS):
            place = hints[at + _PLACE]
            if not place:
                continue
            self._fences.order()
            id, first, second, token = (hints[at + word] for word in (_ID, _OWNER, _OWNER_TOO, _TOKEN))
            if hints[at + _SUM] != first ^ second ^ token ^ place ^ id or self._locks.is_taken(place):
                continue
            self._fences.order()
            if hints[at + _PLACE] == place and hints[at + _ID] == id:
                hints[at + _PLACE] = 0
                found.append(Abandoned(_OWNER_ID.pack(first, second), token))
        return found

    def is_awaited(self, load: Load) -> bool:
        """Tell whether anybody besides its caller waits for a load, as far as is known."""
        return bool(load.waiters) or self._is_awaited_elsewhere(load)

    # --- The parts of `find_or_lead`

    def _join(self, search: _Search, miss: Miss) -> Load:
        """Return the load of a missing key in this process: the call's own, or that of another thread."""
        if search.mine is not None:
            if search.mine.miss.label == miss.label:
                return search.mine
            self.end(search.mine, AGAIN)  # an event has come: it is another load by now
            search.mine, search.failures = None, 0
        search.mine = search.call.load = Load(search.wire, search.hash, miss, search.runner)
        return self._loads.setdefault((search.wire, miss.label), search.mine)

    def _lead_beside(self, search: _Search, other: Load) -> Lead | None:
        """Load beside another thread if this call cannot wait, or if that load is an orphan; otherwise return None."""
        if search.is_late or search.has_waited_enough:
            return search.lead(late=search.is_late)
        if other.runner is not None and other.runner == search.runner:
            return search.lead(late=True)  # in a signal handler or finalizer that has interrupted the other call
        search.mine = None
        if other.lets_load_beside(search.call):
            search.call.load = other
            return Lead(other, late=False)
        return None

    def _wait_for_thread(self, search: _Search, other: Load) -> Waits[Record | Value | None]:
        """Wait for the load of another thread, and return what it gives to this call; None if that is nothing."""
        search.now, woken = yield from _sleep(search, _Waiting(other.waiters, other), search.ends - search.now)
        # Under a label that this call has read itself. But: 1. The other one fills, and is stopped. 2. The value
        # expires. 3. This call begins, and joins. 4. The other one ends the load.
        if isinstance(woken, Value | Record) and woken.expires > search.began:
            loaded = woken.loaded if isinstance(woken, Record) else other.miss.at
            if loaded > search.after:
                return woken
        if other.has_begun and other.outcome is AGAIN:
            search.failures += 1
        return None

    def _try_to_lead(self, search: _Search, mine: Load) -> Record | Lead | None:
        """Load if no other process does, or if this call cannot wait; otherwise return None."""
        taken = self._take(mine, 0)
        late = not taken and search.is_late
        if not taken:
            if not (late or search.has_waited_enough):
                return None
            self._take(mine, 1)  # if another one has that byte, this one goes on without
        # Otherwise two load, one after the other.
        record = self._shelf.find(search.wire, search.hash, search.now, search.after)
        if record is not None:
            search.outcome = record
            return record
        mine.begin(self._shelf.lease, search.now)
        return search.lead(late)  # under the label that was read first: an event may have come

    def _wait_for_process(self, search: _Search, mine: Load) -> Waits[Record | None]:
        """Wait for the load of another process, and return what it has stored by now, if anything."""
        before, search.holder = search.holder, self._say_that_somebody_waits(mine) or search.holder
        if before not in (0, search.holder):
            search.failures += 1
        queue = self._sleepers.setdefault(search.hash, {})
        pause = min(search.pause + PAUSE_FOR_EACH * (len(self._sleepers) - 1), search.ends - search.now)
        search.now, _ = yield from _sleep(search, _Waiting(queue), max(0.0, pause))
        search.pause = min(2 * search.pause, LAST_PAUSE)
        record = self._shelf.find_labelled(search.wire, search.hash, mine.miss.label, search.now, search.after)
        if record is not None:
            search.outcome = record
        return record

    # --- Bytes and hints

    def _take(self, load: Load, generation: int) -> bool:
        """Take the byte of a load. It is noted first: whatever is raised then, it can be given back."""
        load.place = _place(load.miss, generation)
        if not self._locks.take(load.place):
            load.place = None
            return False
        self._write_hint(load)
        return True

    def _write_hint(self, load: Load) -> None:
        assert load.place is not None
        hints, at = self._hints, _hint_of(load.place)
        load.hint = self._numbers.next()
        hints[at + _WAITS] = 0
        hints[at + _ID] = load.hint
        self._fences.order()
        hints[at + _PLACE] = load.place

    def _forget_hint(self, load: Load, place: int) -> None:
        hints, at = self._hints, _hint_of(place)
        if hints[at + _ID] == load.hint:
            hints[at + _PLACE] = 0

    def _say_that_somebody_waits(self, load: Load) -> int:
        """Leave word in the hint of the holder, and return the number by which that hint is known.

        If there is none yet, or another claim's, return 0; the next look comes soon.
        """
        place = _place(load.miss, 0)
        hints, at = self._hints, _hint_of(place)
        if hints[at + _PLACE] != place:
            return 0
        holder = hints[at + _ID]
        hints[at + _WAITS] = holder
        return holder

    def _is_awaited_elsewhere(self, load: Load) -> bool:
        place = load.place
        return place is not None and self._hints[_hint_of(place) + _WAITS] == load.hint


def _sleep(search: _Search, waiting: _Waiting, seconds: float) -> Waits[tuple[float, Any]]:
    search.waiting = waiting  # so that `find_or_lead` leaves the queue, too, if anything is raised here
    try:
        return (yield Sleep(waiting.join, seconds))
    finally:
        waiting.leave()


def _place(miss: Miss, generation: int) -> int:
    """Return the byte of a load: 63 bits, so that the kernel takes it for an offset. 0 stands for none."""
    return (xxh3_64_intdigest(miss.label, generation) >> 2) + 1


def _hint_of(place: int) -> int:
    return (place & HINTS - 1) * HINT_WORDS
