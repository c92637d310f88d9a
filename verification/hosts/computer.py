"""The memory of simulated hosts, and their processes: all of the shipped core, over one machine.

A **region** is what one incarnation of a host has: its file ``hosts``, board, shelf and claims. A **worker** is a
process of it. All regions lie in the memory of one machine, so everything that threads do is interleaved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from colocache.core.host.board import Board
from colocache.core.host.claims import Claims
from colocache.core.host.hashes import ROOT
from colocache.core.host.memory import Words
from colocache.core.host.numbers import Numbers
from colocache.core.host.shelf import Shelf
from colocache.core.hosts import gateway, layout, log, messages, owner, requests, rows, waiting
from colocache.core.hosts.announcing import Pending
from colocache.core.hosts.applying import stamp
from colocache.core.hosts.event import NAMESPACES, WRITES, Event, Position
from colocache.core.hosts.gateway import Forgetting, Gateway, Reply, Send
from colocache.core.hosts.layout import LANES, ROWS
from colocache.core.hosts.lease import Lease
from colocache.core.hosts.log import HostLog, NoLane
from colocache.core.hosts.owner import Hooks, HostMemory, Owner
from colocache.core.hosts.rows import Host, Incarnation, Row, Rows
from colocache.core.hosts.rows import Numbers as Positions
from colocache.core.near import NearStore
from verification.host.machine import (
    WORD,
    Process,
    SimulatedClaimLocks,
    SimulatedFences,
    SimulatedRingLocks,
    SimulatedWords,
    State,
    Thread,
)
from verification.host.mutations import replaced
from verification.host.world import Memory, small_geometry
from verification.hosts.copying import Copying
from verification.hosts.timed import Timed

if TYPE_CHECKING:
    from verification.hosts.history import History

GEOMETRY = small_geometry(8192, 57344, 256)
MARKS = 4096
SLOTS, ENTRIES, LISTENERS = 32, 24, 16  # of the small layout
NS = 10**9
NET = " net"  # what the names of threads of the network end with

ROWS_AT = 512 + LANES * SLOTS * layout.SLOT_WORDS
HOSTS_WORDS = ROWS_AT + ROWS * (ENTRIES + LISTENERS) * layout.ENTRY_WORDS
REGION_BYTES = Memory.size(MARKS, GEOMETRY) + WORD * HOSTS_WORDS + 4096


@contextmanager
def small_layout() -> Iterator[None]:
    """Have logs that are soon overwritten, and little memory. The program is the same, with other numbers in it."""
    changes: list[tuple[Any, str, float]] = [
        (layout, "SLOTS", SLOTS), (layout, "LANE_WORDS", SLOTS * layout.SLOT_WORDS), (layout, "ENTRIES", ENTRIES),
        (layout, "ROW_WORDS", (ENTRIES + LISTENERS) * layout.ENTRY_WORDS), (layout, "ROWS_AT", ROWS_AT),
        (layout, "WORDS", HOSTS_WORDS), (log, "SLOTS", SLOTS), (log, "MAX_CHUNKS", SLOTS // 8),
        (layout, "LISTENERS", LISTENERS), (rows.Rows, "_MOST", ENTRIES - 1), (rows.Listeners, "_FIRST", ENTRIES),
        (rows.Listeners, "_MOST", LISTENERS), (messages, "ENTRIES", ENTRIES), (messages, "MOST_REPLAYED", 8),
        (gateway, "SLOTS", SLOTS), (gateway, "SLACK", 4), (gateway, "MOST_TOLD", 12), (gateway, "MOST_REPLAYED", 8),
        (waiting, "LONGEST_PAUSE", 0.016), (owner, "LOOK_EVERY", 0.012),  # fewer looks
    ]  # fmt: skip
    with ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(replaced(module, name, value))
        yield


class _RegionLocks:
    """Locks of one region among those of the machine, which are all in one table."""

    def __init__(self, region: Region, process: Process, first: int) -> None:
        self._locks = SimulatedRingLocks(region.history.machine, process)
        self._first = 100 * region.number + first

    def lock(self, place: int, /) -> bool:
        """Take one."""
        return self._locks.lock(self._first + place)

    def unlock(self, place: int, /) -> None:
        """Give it back."""
        self._locks.unlock(self._first + place)


class _RegionClaims:
    """The same for the bytes of claims."""

    def __init__(self, region: Region, process: Process) -> None:
        self._locks = SimulatedClaimLocks(region.history.machine, process)
        self._first = region.number << 64

    def take(self, place: int, /) -> bool:
        """Take a byte's lock."""
        return self._locks.take(self._first + place)

    def free(self, place: int, /) -> None:
        """Give it back."""
        self._locks.free(self._first + place)

    def is_taken(self, place: int, /) -> bool:
        """Tell whether anybody has it."""
        return self._locks.is_taken(self._first + place)


def who_stores(thread: Thread) -> str:
    """Return what the labels of stores begin with: the thread of the network, or one that works."""
    return "g_" if thread.name.endswith(NET) else "w_"


class Watched:
    """Words at whose loads and stores something may be aimed."""

    def __init__(self, words: SimulatedWords, policy: Timed, host: int, labels: Sequence[str]) -> None:
        """``labels`` say what each word is; what is aimed at its loads has that name behind "r_",
        and at stores behind "g_" or "w_"."""
        self._words = words
        self._machine = words._machine
        self._view = words._view
        self._policy = policy
        self._arms = policy.arms(host)
        self._host = host
        self._labels = labels

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, place: int, /) -> int:
        if self._arms:
            self._policy.point(self._host, "r_" + self._labels[place])
        machine = self._machine
        if machine.left > 0:  # as `SimulatedNumbers` does: most loads are made here
            machine.left -= 1
            return self._view[place]
        return self._words[place]

    def __setitem__(self, place: int, value: int, /) -> None:
        if self._arms:
            self._policy.point(self._host, who_stores(self._machine.current) + self._labels[place])
        self._words[place] = value


_FIELDS = {
    rows.STATE: "met", rows.HEARD: "heard", rows.FORGOT: "forgot", rows.SIGN: "sign", rows.ID: "entry",
    **dict.fromkeys(range(rows.TOLD, rows.TOLD + LANES), "told"),
    **dict.fromkeys(range(rows.APPLIED, rows.APPLIED + LANES), "applied"),
    **dict.fromkeys(range(rows.ACKED, rows.ACKED + LANES), "acked"),
}  # fmt: skip


def _label_of_hosts(place: int) -> str:
    """Return what is stored to a word of the file ``hosts``."""
    if place >= ROWS_AT:
        return _FIELDS.get((place - ROWS_AT) % layout.ENTRY_WORDS, "")
    if place >= layout.LANES_AT:
        return {0: "record", 2: "marked"}.get((place - layout.LANES_AT) % layout.SLOT_WORDS, "")
    if place == layout.UNTIL:
        return "until"
    return "last" if place >= 64 and place % 8 == 0 else ""


HOSTS_LABELS = [_label_of_hosts(place) for place in range(HOSTS_WORDS)]
BELL_LABELS, MARKS_LABELS = ["bell"], ["stamp"] * (1 + MARKS)


class Region:
    """One incarnation of a host: its memory, and its processes."""

    def __init__(self, history: History, index: int, id: Incarnation, number: int) -> None:
        """``index`` is the host's place; other hosts find it there."""
        self.history = history
        self.machine = machine = history.machine
        self.index = index
        self.id = id
        self.number = number
        self.name = f"h{index}" if not history.regions_of[index] else f"h{index}'{history.regions_of[index]}"
        self.born = machine.clock
        random = history.random
        self.rate = random.uniform(0.996, 1.004)
        self.booted = machine.clock - random.choice((0.01, 50.0, 1000.0 * random.random()))
        self.memory = Memory(machine, MARKS, GEOMETRY)
        self.hosts_words = SimulatedWords(machine, machine.allocate(WORD * HOSTS_WORDS), HOSTS_WORDS)
        self.workers: list[Worker] = []
        self.writers = 0
        self.is_over = False
        self.is_client = index in history.clients
        self.me = Host(id, f"h{index}", "", 0) if self.is_client else Host(id, f"h{index}", f"h{index}:1", 1)
        self.hosts_words._view[layout.CLIENT] = self.is_client
        self.past: list[tuple[Incarnation, Positions | None]] = []  # ends that this directory knows
        self.dials: set[int] = set()  # hosts that discovery lists
        self.must: set[int] = set()  # those of them that must still be met
        self.stamped: dict[Any, int] = {}  # thing → version of the latest own event that is stamped here

    def clock(self) -> float:
        """Return seconds on this host's clock."""
        return (self.machine.clock - self.booted) * self.rate

    def ns(self) -> int:
        """Return the same in ns."""
        return int(self.clock() * 1e9)

    @property
    def until(self) -> int:
        """`UNTIL`, without a step."""
        return self.hosts_words._view[layout.UNTIL]

    def alive(self) -> list[Worker]:
        """Return the processes that live, stopped or not."""
        return [worker for worker in self.workers if worker.process.state in (State.RUNS, State.STOPPED)]

    def awake(self) -> list[Worker]:
        """Return those that run."""
        return [worker for worker in self.workers if worker.process.state is State.RUNS]

    def gateways(self) -> list[Worker]:
        """Return those that are gateways."""
        return [worker for worker in self.alive() if worker.gateway is not None]

    def applied(self, id: Incarnation, lane: int) -> int:
        """Return what is applied of another host's lane, without a step."""
        view, best = self.hosts_words._view, 0
        low, high = int.from_bytes(id[:8], "little"), int.from_bytes(id[8:], "little")
        for row in range(min(view[layout.ROWS_USED], ROWS)):
            for entry in range(1, ENTRIES):
                at = layout.entry_of(row, entry)
                if view[at] == low and view[at + 1] == high:
                    best = max(best, view[at + rows.APPLIED + lane])
        return best


class _Announcer:
    """Appends writes to the log of the host, under the lock of the ring."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def announce(self, hash: int, /) -> Position | None:
        """Append."""
        worker = self._worker
        try:
            position = worker.log.append(Event(WRITES, (hash,)))
        except NoLane:
            return None
        worker.last_write = position
        return position

    def done(self, announced: Any, /) -> None:
        """Mark it."""
        self._worker.log.mark_stamped(announced)
        self._worker.region.history.wake_gateways(self._worker.region)


class Meetings:
    """Which hosts have to be met before this one is established: those that discovery lists, and that others tell of.

    Nobody is given up because he has never answered: what comes of that is no part of the contract.
    """

    def __init__(self, region: Region, rows: Rows) -> None:
        self._region = region
        self._rows = rows

    def are_complete(self, established: bool, forgotten: Set[Incarnation]) -> bool:
        """Tell whether nobody is missing."""
        region, known = self._region, self._rows
        if established:
            return True
        if region.machine.clock < region.born + 0.3:
            return False
        if any(not known.largest(id, rows.ALIVE) and id not in forgotten for id in known.live()):
            return False  # it was told, and not met yet
        index_of = region.history.index_of
        region.must -= {index_of[id] for id in known.ids() if id in index_of}
        return not region.must

    def tell(self, host: Host) -> None:
        """Note nothing: a host is found by its place."""

    def end(self, host: Incarnation, goodbye: bool) -> None:
        """Note nothing."""

    def given_up(self) -> set[int]:
        """Return nothing."""
        return set()

    def give_up(self, places: Set[int]) -> None:
        """Note nothing."""


class Worker:
    """A process of a host."""

    def __init__(self, region: Region) -> None:
        history, machine = region.history, region.machine
        region.writers += 1
        self.region, self.history, self.machine, self.policy = region, history, machine, history.policy
        self.name = f"{region.name}.{region.writers}"
        self.process = machine.process(self.name)
        watched = partial(Watched, policy=history.policy, host=region.index)
        self.numbers = Numbers(region.writers)
        self.fences = SimulatedFences(machine)
        memory = region.memory
        self.words: Words = watched(region.hosts_words, labels=HOSTS_LABELS)
        self.bell = watched(memory.bell, labels=BELL_LABELS)
        marks = watched(memory.marks, labels=MARKS_LABELS)
        self.board = Board(self.bell, marks, MARKS, self.numbers, self.fences)
        self.times = history.times
        self.rows = Rows(self.words, self.fences)
        self.log = HostLog(self.words, _RegionLocks(region, self.process, 50), self.fences, lambda lane: True)
        self.pending = Pending(self.log)
        self.lease = Lease(
            self.words, self.fences, lease=self.times.lease / NS,
            serves_by_age=0.0 if region.is_client else self.times.serves_by_age / NS,
        )  # fmt: skip
        self.near = NearStore(1 << 20, "lru", self.board, self.fences, self.lease)
        self.shelf = Shelf(
            memory.shelf(lambda start, end: True), self.board, self.numbers, self.fences,
            _RegionLocks(region, self.process, 0), region.clock, self.lease, _Announcer(self),
        )  # fmt: skip
        self.claims = Claims(
            self.shelf, _RegionClaims(region, self.process), memory.hints, self.numbers, self.fences, self._wake_host
        )
        self.entries: dict[int, Any] = {}  # near copies, by key
        self.last_write: Position | None = None
        self.gateway: Gateway | None = None
        self.row = -1
        self.is_elected = False
        self.inbox: deque[Callable[[], object]] = deque()
        self.net: Thread | None = None
        self.ticks_at = 0.0
        self.copying = Copying(self) if history.plan.copies and not region.is_client else None
        self.owner = Owner(
            region.id,
            HostMemory(
                self.words, self.rows, self.log, self.board, self.shelf, self.claims, self.fences, self.lease
            ),
            self.times, region.clock, history.plan.load_timeout,
            Hooks(wake=lambda: self.deliver(lambda: None), void=self.void),
            self.copying and self.copying.copies, self.copying and self.copying.offers,
        )  # fmt: skip

    def void(self, kind: int, hashes: Sequence[int], related: bool) -> Position | None:
        """Invalidate things, as `colocache.host.Shared.void` does."""
        try:
            position = self.log.append_all(kind, hashes, related)
        except NoLane:
            position = None
        stamp(self.board, self.fences, Event(kind, tuple(hashes), related))
        if position is not None and not self.region.is_client:
            self.log.mark_stamped(position)
            self.history.wake_gateways(self.region)
        return position

    @property
    def runs(self) -> bool:
        """Whether it lives, and is not stopped."""
        return self.process.state is State.RUNS

    def spawn(self, name: str, body: Callable[[], object], delay: float = 0.0) -> Thread:
        """Start a thread."""
        thread = self.machine.thread(self.process, f"{self.name} {name}", body)
        self.policy.start(thread, delay)
        return thread

    def _wake_host(self, hash: int) -> None:
        """Do what the bus of the host does when a load has ended for which others wait; some messages are lost."""
        for worker in self.region.awake():
            if self.history.random.random() < 0.8:
                self.policy.after(0.0002, lambda worker=worker: worker.runs and worker.claims.wake(hash))  # type: ignore[misc]

    # --- The thread of the network

    def deliver(self, what: Callable[[], object]) -> None:
        """Have the thread of the network do something."""
        self.inbox.append(what)
        self.policy.wake(self.net)

    def serve_network(self) -> None:
        """What the thread of the network does, as long as the process lives."""
        region, policy, ping = self.region, self.policy, self.times.ping / NS
        while True:
            wait = min(1.0, max(0.0, self.owner.due - region.clock()) / region.rate + 1e-6)
            if self.gateway is not None:
                wait = min(wait, max(1e-6, self.ticks_at - self.machine.clock))
            if self.copying is not None:
                wait = min(wait, self.copying.wait)
            if not self.inbox:
                policy.wait(lambda: bool(self.inbox), wait)
            while self.inbox:
                self.inbox.popleft()()
                if self.machine.clock >= self.ticks_at + ping:
                    break
            self.owner.run()
            if self.copying is not None:
                self.copying.run()
            if self.gateway is not None and self.machine.clock >= self.ticks_at:
                self.ticks_at = self.machine.clock + ping / region.rate
                self._say(self.gateway.tick(region.ns()), None)
                if region.is_client:
                    self._announce_what_was_left()
                met = {self.history.index_of[id] for id in self.rows.live()}
                for index in sorted(met | region.dials):
                    if index != region.index:
                        known = self.history.met_at.get((self.process, index))
                        self._send(index, self.gateway.ping(known, region.ns()))

    def _announce_what_was_left(self) -> None:
        """Have a member announce what processes of this client have stamped before they were killed, or gave up."""
        region, members = self.region, self.rows.counted()
        left = self.pending.left(region.ns(), self.times.lease)
        if not left or not members:
            return

        def take(frame: bytes) -> None:
            answer = requests.decode_answer(frame)
            if isinstance(answer, requests.Announced) and answer.is_applied:
                for position in left:
                    self.log.mark_stamped(position)

        request = requests.encode(requests.Announce(region.id, NAMESPACES, (ROOT,), True))
        index = self.history.index_of[self.history.random.choice(members)]
        self.history.network.request(self, index, request, lambda frame: self.deliver(lambda: take(frame)))

    def become_gateway(self) -> None:
        """Become the gateway, in the thread of the network."""
        region, used = self.region, {worker.row for worker in self.region.workers if worker.holds_row}
        row = next((row for row in range(ROWS) if row not in used), None)
        if row is None or self.gateway is not None:
            return
        self.row = row
        me = region.me
        own = Row(self.words, self.fences, row)
        self.gateway = Gateway(
            me, self.words, own, self.log, self.board, self.fences, Meetings(region, own), self.times,
            Forgetting.MAJORITY if self.history.plan.forgets else Forgetting.NEVER, now=region.ns(),
            wait_for_writer=self.shelf.wait_for_writer,
        )  # fmt: skip
        for id, last in region.past:
            self.gateway.end(id, None if last is None else dict(last), region.ns())
        self.ticks_at = self.machine.clock

    @property
    def holds_row(self) -> bool:
        """Whether the lock of its row is taken."""
        return self.row >= 0 and self.process.state is not State.BURIED

    def look(self) -> None:
        """Look at the host's own log, if this is the gateway."""
        if self.gateway is not None:
            self._say(self.gateway.look(self.region.ns()), None)

    def receive(self, frame: bytes, reply: Callable[[bytes], object]) -> None:
        """Take in a message of another host."""
        if self.gateway is None:
            return
        message = messages.decode(frame)
        if isinstance(message, messages.Pong):
            self.history.met_at[self.process, self.history.index_of[message.me.id]] = message.me.id
        self._say(self.gateway.receive(message, self.region.ns()), reply)

    def _say(self, what: list[Send | Reply], reply: Callable[[bytes], object] | None) -> None:
        for each in what:
            if isinstance(each, Send):
                self._send(self.history.index_of[each.to], each.message)
            elif reply is not None:
                reply(messages.encode(each.message))

    def _send(self, index: int, message: messages.Message) -> None:
        frame = messages.encode(message)
        network = self.history.network
        if isinstance(message, messages.Pong | messages.Ping):
            self.policy.point(self.region.index, "ping")

        def to_gateway(answer: bytes) -> None:
            network.to_gateways(self.region.index, index, answer, None)

        def back(answer: bytes) -> None:
            self.deliver(lambda: self.receive(answer, to_gateway))

        network.to_gateways(self.region.index, index, frame, (self, back), everybody=isinstance(message, messages.Told))
