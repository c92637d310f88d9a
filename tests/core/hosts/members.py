"""Hosts over plain memory, whose gateways speak with each other when a test has them do so."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Set

from colocache.core.host.board import PAGE, Board, Label
from colocache.core.host.hashes import ROOT
from colocache.core.host.memory import Words
from colocache.core.host.numbers import Numbers
from colocache.core.hosts import layout
from colocache.core.hosts.applying import stamp
from colocache.core.hosts.event import KEYS, Event, Position
from colocache.core.hosts.gateway import Forgetting, Gateway, Reply, Send, Times
from colocache.core.hosts.layout import UNTIL
from colocache.core.hosts.log import HostLog
from colocache.core.hosts.messages import Message, decode, encode
from colocache.core.hosts.rows import Host, Incarnation, Row, Rows
from tests.core.host.shelves import Locks, StepFences, Steps, StepWords

SECOND = 10**9
TIMES = Times(lease=3 * SECOND, ping=SECOND // 2, forget_after=30 * SECOND)
A_KEY = 1 << 40 | 5 << 27 | 4 << 18 | 3 << 9 | 2


class Everybody:
    """Meetings that are complete, or not."""

    def __init__(self) -> None:
        self.complete = True
        self.told: list[Host] = []
        self.ended: list[tuple[Incarnation, bool]] = []
        self.forgotten: Set[Incarnation] = set()  # as the gateway has said last
        self.vacant: Set[int] = set()
        self.given: Set[int] | None = None  # what the gateway has said last

    def are_complete(self, established: bool, forgotten: Set[Incarnation]) -> bool:
        """Tell whether nobody is missing."""
        self.forgotten = forgotten
        return self.complete

    def tell(self, host: Host) -> None:
        """Note where a host is."""
        self.told.append(host)

    def end(self, host: Incarnation, goodbye: bool) -> None:
        """Note that a host is over."""
        self.ended.append((host, goodbye))

    def given_up(self) -> Set[int]:
        """Return where nobody is missed."""
        return self.vacant

    def give_up(self, places: Set[int]) -> None:
        """Miss nobody there."""
        self.vacant = self.given = places


class Member:
    """A host with its memory, and one gateway, or more."""

    def __init__(self, group: Group, name: str, number: int, client: bool = False) -> None:
        self.group = group
        self.id = bytes([number]) * 16
        self.me = Host(self.id, name, "", 0) if client else Host(self.id, name, f"{name}:7400", 1)
        self.memory = array("Q", bytes(8 * layout.WORDS))
        self.bell, self.marks = array("Q", [0]), array("Q", bytes(8 * (1 + PAGE)))
        self.locks: dict[int, object] = {}
        self.meetings = Everybody()
        self.writer = Process(self)
        self.process = Process(self)
        self.gateway = self.new_gateway(self.process)

    def new_gateway(self, process: Process, row: int = 0, forgetting: Forgetting = Forgetting.AUTO) -> Gateway:
        """Return a gateway, as one process is elected."""
        self.row = Row(process.words, process.fences, row)
        return Gateway(
            self.me, process.words, self.row, process.log, process.board, process.fences, self.meetings, TIMES,
            forgetting, now=self.group.now, wait_for_writer=lambda hash: self.group.waited_for.append(hash),
        )  # fmt: skip

    @property
    def until(self) -> int:
        """Until when the host is current."""
        return self.memory[UNTIL]

    @property
    def is_current(self) -> bool:
        """Whether it is now."""
        return self.until > self.group.now

    def label(self, hash: int = A_KEY) -> Label:
        """Return the label of what is loaded now."""
        return self.writer.board.label((ROOT, hash))

    def stands(self, label: Label) -> bool:
        """Tell whether no event has come since."""
        return self.writer.board.stands(label)

    def invalidate(self, event: Event | None = None) -> Position:
        """Do what a writer does, without waiting."""
        event = event or Event(KEYS, (A_KEY,))
        position = self.writer.log.append(event)
        stamp(self.writer.board, self.writer.fences, event)
        self.writer.log.mark_stamped(position)
        return position


class Process:
    """A process of a host, which may be made to die before any store."""

    def __init__(self, member: Member) -> None:
        self.steps = Steps()
        self.fences = StepFences(self.steps)
        member.group.processes += 1
        self.words: Words = StepWords("word", member.memory, self.steps)
        self.rows = Rows(self.words, self.fences)
        self.log = HostLog(self.words, Locks(member.locks), self.fences, lambda lane: True)
        self.board = Board(
            StepWords("bell", member.bell, self.steps), StepWords("mark", member.marks, self.steps), PAGE,
            Numbers(member.group.processes), self.fences,
        )  # fmt: skip


class Group:
    """Hosts and what is between them."""

    def __init__(self, *names: str) -> None:
        self.now = 1000 * SECOND
        self.processes = self.hosts = 0
        self.waited_for: list[int] = []
        self.cut: set[tuple[str, str]] = set()  # from whom to whom
        self.unreachable: set[tuple[str, str]] = set()  # who does not reach whose address
        self.lost: tuple[type, ...] = ()  # messages that get lost
        self.said: list[tuple[str, str, Message]] = []
        self.members: dict[Incarnation, Member] = {}
        for name in names:
            self.add(name)

    def add(self, name: str, client: bool = False) -> Member:
        """Let a host come, or a client, whom nobody dials."""
        self.hosts += 1
        member = Member(self, name, self.hosts, client)
        self.members[member.id] = member
        return member

    def by_name(self, name: str) -> Member:
        """Return the latest host of a name."""
        return next(member for member in reversed([*self.members.values()]) if member.me.name == name)

    def send(self, source: Member, what: list[Send | Reply], back: Member | None = None) -> None:
        """Deliver messages, and all that they lead to."""
        queue = deque((source, each, back) for each in what)
        while queue:
            source, each, back = queue.popleft()
            target = self.members.get(each.to) if isinstance(each, Send) else back
            if target is None or (source.me.name, target.me.name) in self.cut or isinstance(each.message, self.lost):
                continue
            self.said.append((source.me.name, target.me.name, each.message))
            answers = target.gateway.receive(decode(encode(each.message)), self.now)
            queue.extend((target, answer, source) for answer in answers)

    def tick(self, *names: str) -> None:
        """Have the gateways of these hosts, or of all, do what they do every ping interval."""
        for member in [*self.members.values()]:
            if not names or member.me.name in names:
                self.send(member, member.gateway.tick(self.now))
                for other in [*self.members.values()]:
                    if (
                        other is not member
                        and other.me.weight
                        and (member.me.name, other.me.name) not in self.unreachable
                    ):
                        to = other.id if member.row.state(other.id) else None
                        self.send(member, [Send(other.id, member.gateway.ping(to, self.now))])

    def run(self, seconds: float, *names: str) -> None:
        """Let time pass, with a tick every ping interval."""
        for _ in range(round(seconds * SECOND / TIMES.ping)):
            self.now += TIMES.ping
            self.tick(*names)

    def cut_off(self, *names: str) -> None:
        """Cut some hosts off from the rest, both ways."""
        everybody = {member.me.name for member in self.members.values()}
        for name in names:
            for other in everybody - set(names):
                self.cut |= {(name, other), (other, name)}


def dies(process: Process, stores: int, work: Callable[[], object]) -> bool:
    """Have a process die before a store; return whether it came to that."""
    from tests.core.host.shelves import Death

    process.steps.stores_left = stores
    try:
        work()
    except Death:
        return True
    finally:
        process.steps.stores_left = None
    return False
