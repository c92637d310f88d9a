"""Who is in the group, seen from several members at once, with all that a network and an operator may do to them.

Each node is one shipped `Members`, with what the peer does around it, and a clock of its own: only their differences
mean anything. The machine knows who lives, what was announced when, and who heard it. It compares this with what the
nodes believe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from colocache.core.group import members as membership
from colocache.core.group.members import MAX_PINGS, Acquaintance, Member, Members
from colocache.core.group.messages import Ping, Pong, Roster
from tests.core.stateful import Machine, explore, machine_test

LEASE, FORGET = 3.0, 10.0
TELL_ENDED, TOMBSTONE = 12.0, 40.0  # shorter than those shipped, so that histories outlast them
ROUNDING = 1e-6
TALK = 1000  # messages at most, beside the answers to old ones, until four nodes know the same members, and are quiet

who = st.integers(0, 9)


class Node:
    """One process: its `Members`, what the peer does with it, and what the machine knows of it."""

    def __init__(self, world: MembersMachine, number: int) -> None:
        self.world = world
        self.offset = 12345.678 * number
        self.member = Member(bytes([number]) * 16, f"host/{number}", number)
        self.incarnation = self.member.incarnation
        self.members = Members(self.member, LEASE, FORGET, self.send)
        self.alive, self.paused = True, False
        # The model; its times are the world's, but for those of leases
        self.announced: list[float] = []
        self.asked: dict[tuple[bytes, int], float] = {}  # (member, ping) to this node's time
        self.answered: dict[bytes, list[tuple[float, int]]] = {}  # member to (time of the ping, last number) of answers
        self.heard: dict[bytes, list[float]] = {}
        self.met_at: dict[bytes, float] = {}
        self.ended: dict[bytes, float] = {}
        self.has_known: set[bytes] = set()
        self.ticked_at = self.woke_at = -math.inf

    @property
    def now(self) -> float:
        """The time by this node's clock."""
        return self.world.now + self.offset

    @property
    def runs(self) -> bool:
        return self.alive and not self.paused

    @property
    def known(self) -> set[bytes]:
        return {other.member.incarnation for other in self.members}

    def is_current(self) -> bool:
        return self.now < self.members.current_until()

    def send(self, message: Any) -> None:
        if isinstance(message, Ping):
            assert (message.to, message.id) not in self.asked, "no ping is sent twice"
            self.asked[message.to, message.id] = self.now
        self.world.under_way.append(message)

    # --- What the peer does

    def meet(self, member: Member) -> None:
        other = self.members.learn(member, self.now)
        if other is None:
            return
        self.has_known.add(member.incarnation)
        self.met_at[member.incarnation] = self.world.now
        self.answered[member.incarnation] = []
        self.asked = {ping: at for ping, at in self.asked.items() if ping[0] != member.incarnation}
        self.members.ping(other, self.now, hurry=True)

    def receive(self, message: Any) -> None:
        if isinstance(message, Ping):
            self.meet(Member(message.sender, message.seat, message.pid))
        other = self.members.get(message.sender)
        if other is None:
            return
        other.heard_at = self.now
        self.heard.setdefault(message.sender, []).append(self.world.now)
        if isinstance(message, Ping):
            self.members.pong(message, len(self.announced), self.now)
        elif isinstance(message, Pong):
            self.hear_pong(other, message)
        else:
            self.read_roster(message)

    def hear_pong(self, other: Acquaintance, pong: Pong) -> None:
        sent_at = self.asked.pop((pong.sender, pong.id), None)
        sender = self.world.nodes[pong.sender]
        if sent_at is not None and pong.digest == digest(self.members):
            self.answered[pong.sender].append((sent_at, pong.last))
        before = other.heard_until
        counts = self.members.hear_pong(pong, self.now)
        if sent_at is None or pong.digest != digest(self.members):
            assert not counts
            assert other.heard_until == before
        assert other.stream.known <= len(sender.announced)
        self.world.note("answers that count", counts)

    def read_roster(self, roster: Roster) -> None:
        new, over, wrong = self.members.read_roster(roster)
        assert not self.ended.keys() & {member.incarnation for member in new}
        for member in new:
            self.meet(member)
        for member, last in over:
            self.end(member, last)
        if wrong:
            self.members.send_roster(roster.sender, self.now, wrong)
        sender = self.members.get(roster.sender)
        if sender is not None and (new or over):
            self.members.ping(sender, self.now, hurry=True)
        self.world.note("rosters read")

    def end(self, member: Member, last: int) -> None:
        if self.members.has_ended(member.incarnation):
            return
        assert not self.world.nodes[member.incarnation].alive
        assert last == len(self.world.nodes[member.incarnation].announced)
        self.members.end(member, last, self.now)
        self.ended[member.incarnation] = self.world.now
        self.world.note("ends")

    def tick(self) -> None:
        if self.world.now - self.ticked_at > LEASE:
            self.woke_at = self.world.now
        self.ticked_at = self.world.now
        self.members.tick(self.now, hurry=not self.is_current())
        for lost in self.members.forgettable(self.now):
            self.world.check_silence(self, lost.member.incarnation)
            self.members.forget(lost.member.incarnation, self.now)
            self.world.note("forgotten")
        for incarnation, at in list(self.ended.items()):
            if self.world.now > at + TOMBSTONE:
                del self.ended[incarnation]

    def catch_up(self, other: Acquaintance, events: int) -> None:
        """Apply some more of a stream, as far as it goes."""
        announced = len(self.world.nodes[other.member.incarnation].announced)
        other.stream.applied = min(announced, other.stream.applied + events)
        other.stream.known = max(other.stream.known, other.stream.applied)
        self.members.extend(other)


class MembersMachine(Machine):
    """The nodes, and what is under way between them."""

    @initialize(size=st.integers(1, 4))
    def begin(self, size: int) -> None:
        self.now = 100.0
        self.nodes: dict[bytes, Node] = {}
        self.under_way: list[Any] = []
        self.cuts: set[tuple[bytes, bytes]] = set()
        for _ in range(size):
            self.join(0)
        self.wait(0.6, connected=True)

    def living(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def one(self, number: int) -> Node:
        return self.living()[number % len(self.living())]

    def views(self) -> Iterator[tuple[Node, Acquaintance, Node]]:
        """Each living node with each that it knows, and who that really is."""
        for node in self.living():
            for other in node.members:
                yield node, other, self.nodes[other.member.incarnation]

    # --- The network

    def arrive(self, message: Any) -> None:
        node = self.nodes[message.to]
        if node.runs and (message.sender, message.to) not in self.cuts:
            node.receive(message)

    @rule(which=st.integers(0, 99), copy=st.booleans())
    def deliver(self, which: int, copy: bool) -> None:
        if self.under_way:
            which %= len(self.under_way)
            self.arrive(self.under_way[which] if copy else self.under_way.pop(which))

    @rule(which=st.integers(0, 99), many=st.integers(1, 9))
    def lose(self, which: int, many: int) -> None:
        for _ in range(min(many, len(self.under_way))):
            self.under_way.pop(which % len(self.under_way))

    @rule()
    def deliver_all(self) -> None:
        """Everything arrives, with the answers to it, and theirs: which come to an end by themselves."""
        delivered, most = 0, 5 * len(self.under_way) + TALK
        while self.under_way:
            self.arrive(self.under_way.pop(0))
            delivered += 1
            assert delivered < most, "they talk without pause"

    @rule(what=st.sampled_from(("cut", "cut one way", "mend", "mend", "pause", "wake", "wake")), one=who, other=who)
    def trouble(self, what: str, one: int, other: int) -> None:
        """A link, or a process, stops or goes on."""
        a, b = self.one(one).incarnation, self.one(other).incarnation
        if what == "mend":
            self.cuts.clear()
        elif what in ("pause", "wake"):
            self.one(one).paused = what == "pause"
        else:
            self.cuts |= {(a, b)} if what == "cut one way" else {(a, b), (b, a)}

    # --- What happens

    @rule(seconds=st.sampled_from((0.6, 3.1, 10.5, 12.5)))
    def live(self, seconds: float) -> None:
        """Time passes, and what is sent meanwhile arrives at once."""
        self.wait(seconds, connected=True)

    @rule(seconds=st.sampled_from((0.1, 0.6, 2.0, 3.1)))
    def hold_up(self, seconds: float) -> None:
        """Time passes, and nothing arrives."""
        self.wait(seconds, connected=False)

    def wait(self, seconds: float, connected: bool) -> None:
        ends = self.now + seconds
        while self.now < ends:
            due = min((n.members.deadline() - n.offset for n in self.living() if n.runs), default=math.inf)
            self.now = min(ends, max(due, self.now) + ROUNDING)
            for node in self.living():
                if node.runs and node.members.deadline() <= node.now:
                    node.tick()
            if connected:
                self.deliver_all()

    @rule(to=who)
    def join(self, to: int) -> None:
        """A new process finds one of those that live, and they find each other."""
        if len(self.living()) < 4:
            new = Node(self, len(self.nodes) + 1)
            if self.nodes:
                new.meet(self.one(to).member)
            self.nodes[new.incarnation] = new
            new.tick()

    @rule(one=who, witnesses=st.sets(st.integers(0, 3)))
    def die(self, one: int, witnesses: set[int]) -> None:
        """A process dies; some see it; the others hear of it from them, or never."""
        if len(self.living()) > 2:
            dead = self.one(one)
            dead.alive = False
            for witness in witnesses:
                self.one(witness).end(dead.member, len(dead.announced))

    @rule(one=who, other=who)
    def find(self, one: int, other: int) -> None:
        """Discovery tells a node of another one."""
        node = self.one(one)
        if not node.paused and not node.members.has_forgotten(self.one(other).incarnation):
            node.meet(self.one(other).member)

    @rule(one=who, announced=st.integers(0, 2), applied=st.integers(0, 2), by=who)
    def announce(self, one: int, announced: int, applied: int, by: int) -> None:
        """A node announces events; another one applies some, of everybody."""
        self.one(one).announced.extend([self.now] * announced)
        for other in self.one(by).members:
            self.one(by).catch_up(other, applied)

    # --- What must hold

    @invariant()
    def check(self) -> None:
        self.a_lease_counts_from_the_nodes_own_ping()
        self.until_the_lease_began_everything_is_applied()
        self.who_is_current_is_known_to_all_whom_it_knows()
        self.digests_are_equal_where_the_members_are()
        self.the_dead_do_not_come_back()
        self.memory_is_bounded()

    def a_lease_counts_from_the_nodes_own_ping(self) -> None:
        for node, other, _ in self.views():
            answers = [at for at, last in node.answered[other.member.incarnation] if last <= other.stream.applied]
            assert other.heard_until <= max(answers, default=-math.inf) + LEASE
        for node in self.living():
            leases = [other.heard_until for other in node.members]
            assert node.members.current_until() == (min(leases) if leases else node.members._ticked_at + LEASE)

    def until_the_lease_began_everything_is_applied(self) -> None:
        for node, other, sender in self.views():
            began = other.heard_until - LEASE - node.offset
            assert other.stream.applied >= sum(at < began - ROUNDING for at in sender.announced)

    def who_is_current_is_known_to_all_whom_it_knows(self) -> None:
        for node, other, really in self.views():
            if node.is_current() and really.alive:
                assert node.incarnation in really.known, "it serves what nobody would have it drop"
            if other.met:
                assert node.incarnation in really.has_known

    def digests_are_equal_where_the_members_are(self) -> None:
        for node in self.living():
            for other in self.living():
                same = node.known | {node.incarnation} == other.known | {other.incarnation}
                assert (digest(node.members) == digest(other.members)) is same

    def the_dead_do_not_come_back(self) -> None:
        for node in self.living():
            assert node.incarnation not in node.known
            for incarnation in node.ended:
                assert node.members.has_ended(incarnation)
                assert incarnation not in node.known
                assert node.members.learn(self.nodes[incarnation].member, node.now) is None
            assert not any(node.members.has_forgotten(incarnation) for incarnation in node.known)

    def memory_is_bounded(self) -> None:
        for _, other, _ in self.views():
            assert len(other.pings) <= MAX_PINGS
        assert not any(node.members._told_ago for node in self.living()), "kept until the end is dealt with"

    def check_silence(self, node: Node, lost: bytes) -> None:
        """Check that no member that the node hears has heard the lost one lately, as far as the node can know.

        A node that was stopped must wait for a member again, unless it has not heard it since it met it:

        1. A and B do not hear each other, and forget each other. C hears both, so B meets A again.
        2. A dies. B is stopped, and wakes.
        3. B has not heard A since it met it, so it has waited for A as long as C has: see `Members._wait_with`.
        """
        if any(at >= node.met_at[lost] for at in node.heard.get(lost, ())):
            assert node.woke_at <= self.now - FORGET + ROUNDING, "it was stopped, and could not have heard anybody"
        assert not any(at > self.now - FORGET + ROUNDING for at in node.heard.get(lost, ()))
        tolerance = 2 * node.members.interval()
        for witness in node.members:
            if witness.member.incarnation != lost and node.now < witness.heard_until:
                heard = self.nodes[witness.member.incarnation].heard.get(lost, ())
                assert not any(self.now - FORGET + tolerance + ROUNDING < at < self.now - LEASE for at in heard)
                self.note("forgotten with witnesses")

    def teardown(self) -> None:
        """Once nothing fails any more, and all have found somebody, everybody soon knows, and hears, everybody."""
        if not hasattr(self, "nodes"):
            return
        self.cuts.clear()
        living = self.living()
        for node, found in zip(living, [*living[1:], living[0]], strict=True):
            node.paused = False
            node.meet(found.member)
        self.heal(2 * LEASE)
        everybody = {node.incarnation for node in living}
        seen = everybody.union(*(node.ended for node in living))
        assert all(node.known & seen <= everybody for node in living), "a death that anybody knows of, all know of"
        if any(not node.known <= everybody for node in living):  # a death that nobody saw
            self.heal(FORGET + 2 * LEASE)
        for node in living:
            assert node.known == everybody - {node.incarnation}
            assert node.is_current()
            assert all(other.met for other in node.members)
        self.check()

    def heal(self, seconds: float) -> None:
        for _ in range(round(2 * seconds)):
            self.wait(0.5, connected=True)
            for node, other, _ in self.views():
                node.catch_up(other, 1000)


def digest(members: Members) -> bytes:
    return members._digest


@machine_test
def test_members_believe_no_more_than_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "TELL_ENDED", TELL_ENDED)
    monkeypatch.setattr(membership, "TOMBSTONE", TOMBSTONE)
    explore(MembersMachine, 60, 40, "answers that count", "rosters read", "ends", "forgotten")
