"""Discovery, with all that name servers, files, networks and other hosts may do to it.

The machine knows what each item listed last, who answered where, and whom others have told of. It says what must be
dialled, what counts as a silent host, and whether all were met, by sets and instants alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from colocache.runtime.network import discovery as module
from colocache.runtime.network.answers import Absent, Failed, Found
from colocache.runtime.network.discovery import AGAIN_AFTER, LOG_PERIOD, Discovery
from colocache.runtime.network.peers import Address, Item, Lines, ListFile, Literal, Name
from tests.core.stateful import Machine, explore, machine_test

FORGET = 30.0
ADDRESSES = [Address(f"10.0.0.{number}", 7400) for number in range(6)]
LITERAL = Literal(ADDRESSES[0])
FILE = ListFile("/peers")
NAMES = [Name(letter, 7400) for letter in "abc"]
SETTING: tuple[Item, ...] = (NAMES[0], LITERAL, FILE)
HOSTS = [f"host {letter}" for letter in "HKL"]

addresses = st.sampled_from(ADDRESSES)
some = st.lists(addresses, max_size=4).map(tuple)
hosts = st.sampled_from(HOSTS)
troubles = st.sampled_from([Absent("no such name"), Failed("server failure")])


class DiscoveryMachine(Machine):
    """One discovery, and the model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.shift = 0.0
        self.discovery = Discovery(SETTING, self.now, forget_after=FORGET)
        # The model. `listed`, and what is known of an item, lasts while the item is listed.
        self.of_name: dict[Item, list[Address]] = {}
        self.lines: list[Item] = []
        self.answered_items: set[Item] = set()
        self.listed: list[Address] = []
        self.counts_from: dict[Address, float] = {}
        self.given_up: set[Address] = set()
        self.given_up_until = 0.0
        self.unlisted_at: dict[Address, float] = {}
        self.answered: set[Address] = set()  # since it was listed
        self.gone: set[Address] = set()
        self.me: set[Address] = set()
        self.again_at: dict[Address, float] = {}
        self.owner: dict[Address, Hashable] = {}
        self.reached: dict[Hashable, Address] = {}
        self.met_hosts: set[Hashable] = set()
        self.warned_at: dict[str, float] = {}
        self.relist()

    # --- The model's parts

    def items(self) -> list[Item]:
        return [*dict.fromkeys([*SETTING, *self.lines])]

    def relist(self) -> None:
        for item in {*self.of_name, *self.answered_items}.difference(self.items()):
            self.of_name.pop(item, None)
            self.answered_items.discard(item)
        before = self.listed
        self.listed = [*dict.fromkeys(each for item in self.items() for each in self.addresses_of(item))]
        for each in set(before).difference(self.listed):
            self.unlisted_at[each] = self.now
        for each in set(self.listed).difference(before):
            if self.now - self.unlisted_at.get(each, -math.inf) >= FORGET:
                is_given_up = each in self.given_up and self.now < self.given_up_until
                self.counts_from[each] = -math.inf if is_given_up else self.now
                self.gone.discard(each)
            if self.reached.get(self.owner.get(each)) != each:
                self.answered.discard(each)
                self.me.discard(each)

    def addresses_of(self, item: Item) -> list[Address]:
        return [item.address] if isinstance(item, Literal) else self.of_name.get(item, [])

    def give_up(self, host: Hashable) -> None:
        self.owner = {address: owner for address, owner in self.owner.items() if owner != host}
        self.tidy()

    def tidy(self) -> None:
        self.met_hosts &= {*self.owner.values()}
        self.reached = {host: at for host, at in self.reached.items() if self.owner.get(at) == host}

    def elsewhere(self, address: Address) -> bool:
        return self.reached.get(self.owner.get(address), address) != address

    def must_dial(self) -> set[Address]:
        listed = set(self.listed)
        dialled = set()
        for each in listed | {*self.owner}:
            if each in self.answered and (each in self.me or self.elsewhere(each)):
                if self.now >= self.again_at[each]:
                    dialled.add(each)
            elif each in listed or not self.elsewhere(each):
                dialled.add(each)
        return dialled

    # --- What happens

    @rule(item=st.sampled_from(NAMES), found=some, turned=st.randoms(use_true_random=False))
    def a_name_is_looked_up(self, item: Item, found: tuple[Address, ...], turned: Any) -> None:
        self.discovery.due(self.now)
        answer = [*found]
        turned.shuffle(answer)
        self.discovery.answer(item, Found(tuple(answer)), self.now)
        if item not in self.items():
            self.note("a late answer")
            return
        before = self.of_name.get(item, [])
        self.of_name[item] = [*dict.fromkeys([*(each for each in before if each in answer), *answer])]
        self.answered_items.add(item)
        self.relist()

    @rule(item=st.sampled_from([*NAMES, FILE]), trouble=troubles)
    def a_lookup_fails(self, item: Item, trouble: Any) -> None:
        self.discovery.due(self.now)
        before = self.discovery.to_dial(self.now), self.discovery.silent(self.now)
        self.discovery.answer(item, trouble, self.now)
        assert (self.discovery.to_dial(self.now), self.discovery.silent(self.now)) == before
        if isinstance(trouble, Absent) and item in self.items():
            self.answered_items.add(item)
        self.note("failed lookups")

    @rule(lines=st.lists(st.sampled_from([*NAMES, LITERAL, Literal(ADDRESSES[5])]), max_size=3, unique=True),
          wrong=st.sampled_from(["", "", "line 9, 'x': it has no port"]))  # fmt: skip
    def the_file_is_read(self, lines: list[Item], wrong: str) -> None:
        self.discovery.due(self.now)
        self.discovery.answer(FILE, Lines(tuple(lines), wrong), self.now)
        self.lines = [*dict.fromkeys([*lines, *self.lines])] if wrong else lines
        if not wrong:
            self.answered_items.add(FILE)
        self.relist()

    @precondition(lambda self: self.must_dial())
    @rule(data=st.data(), host=hosts)
    def a_host_answers(self, data: st.DataObject, host: str) -> None:
        address = data.draw(st.sampled_from(sorted(self.must_dial())))
        self.discovery.met(address, host, self.now)
        self.answered.add(address)
        self.again_at[address] = self.now + AGAIN_AFTER
        self.me.discard(address)
        self.gone.discard(address)
        self.owner[address] = host
        self.tidy()
        self.met_hosts.add(host)
        self.reached.setdefault(host, address)
        self.note("answers")
        if self.elsewhere(address):
            self.note("second addresses of a host")

    @precondition(lambda self: self.must_dial())
    @rule(data=st.data())
    def this_host_answers(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.must_dial())))
        self.discovery.is_me(address, self.now)
        if address not in self.listed:
            self.unlisted_at[address] = self.now
        self.owner.pop(address, None)
        self.tidy()
        self.answered.add(address)
        self.again_at[address] = self.now + AGAIN_AFTER
        self.me.add(address)
        self.gone.discard(address)

    @precondition(lambda self: self.reached)
    @rule(data=st.data())
    def a_connection_is_lost(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(self.reached, key=str)))
        self.discovery.lost(self.reached.pop(host))

    @rule(address=addresses, host=hosts)
    def another_host_tells(self, address: Address, host: str) -> None:
        forgotten = address not in self.discovery._places
        self.discovery.learn(address, host)
        if forgotten:
            self.answered.discard(address)
            self.me.discard(address)
            self.gone.discard(address)
        owner = self.owner.get(address)
        if address in self.me or self.reached.get(owner) == address:
            return
        if owner != host:
            self.answered.discard(address)
        self.owner[address] = host
        self.gone.discard(address)
        self.tidy()

    @rule(host=hosts)
    def a_host_says_goodbye(self, host: str) -> None:
        self.discovery.said_goodbye(host, self.now)
        for address, owner in self.owner.items():
            if owner == host:
                self.gone.add(address)
                if address not in self.listed:
                    self.unlisted_at[address] = self.now
        self.give_up(host)
        self.note("goodbyes")

    @rule(host=hosts)
    def a_host_is_forgotten(self, host: str) -> None:
        self.discovery.ended(host)
        self.give_up(host)

    @rule(seconds=st.sampled_from([0.5, 5.0, 29.5, 30.0, 61.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([5.0, 100.0]))
    def the_process_is_stopped(self, seconds: float) -> None:
        self.now += seconds
        self.shift += seconds
        self.discovery.paused(seconds)
        for instants in (self.counts_from, self.unlisted_at):
            for each in instants:
                instants[each] += seconds

    @rule(others=st.sets(addresses), seconds=st.sampled_from([0.0, 29.5]))
    def another_gateway_has_given_up_places(self, others: set[Address], seconds: float) -> None:
        before = Discovery([Literal(each) for each in sorted(others)], self.now)
        self.discovery.give_up(before.given_up(self.now + FORGET), self.now)
        for each in self.listed:
            if each in self.me or self.owner.get(each) in self.reached:
                continue
            if each in others:
                self.counts_from[each] = -math.inf
                self.note("places that were given up")
            else:
                self.counts_from[each] = self.now
                self.answered.discard(each)
                self.gone.discard(each)
        self.given_up, self.given_up_until = others, self.now + FORGET
        self.now += seconds

    # --- What must hold

    @invariant()
    def what_is_dialled_is_what_must_be(self) -> None:
        dialled = self.discovery.to_dial(self.now)
        assert len(dialled) == len(set(dialled))
        assert set(dialled) == self.must_dial()
        in_order = [each for each in self.listed if each in dialled]
        assert dialled[: len(in_order)] == in_order, "those listed come first, in the order of the items"

    @invariant()
    def what_counts_as_silent_is_listed_and_has_not_answered(self) -> None:
        silent = {
            each
            for each in self.listed
            if each not in self.answered | self.gone
            and each not in self.owner
            and self.now < self.counts_from.get(each, -math.inf) + FORGET
        }
        assert set(self.discovery.silent(self.now)) == silent
        if silent:
            self.note("silent hosts")
            assert self.discovery.deadline(self.now) <= min(self.counts_from[each] for each in silent) + FORGET

    @invariant()
    def all_are_met_or_the_time_is_over(self) -> None:
        lookups = {item for item in self.items() if not isinstance(item, Literal)}
        met = (
            lookups <= self.answered_items
            and all(each in self.answered | self.gone or self.owner.get(each) in self.met_hosts for each in self.listed)
            and {*self.owner.values()} <= self.met_hosts
        )
        over = self.now >= 100.0 + self.shift + FORGET
        assert self.discovery.all_met(self.now) == (met or over)
        for forgotten in HOSTS:
            met_without = (
                lookups <= self.answered_items
                and all(
                    each in self.answered | self.gone or self.owner.get(each) in self.met_hosts | {forgotten}
                    for each in self.listed
                )
                and {*self.owner.values()} <= self.met_hosts | {forgotten}
            )
            assert self.discovery.all_met(self.now, {forgotten}) == (met_without or over)
        if met and not over:
            self.note("hosts that are established early")

    @invariant()
    def a_change_is_told(self) -> None:
        seen = (self.now, self.discovery.version, self.discovery.to_dial(self.now))
        now, version, dialled = getattr(self, "seen", seen)
        assert now != seen[0] or version != seen[1] or dialled == seen[2]
        self.seen = seen

    @invariant()
    def an_item_is_complained_of_once_a_minute(self) -> None:
        for line in self.discovery.lines(self.now):
            if line.level == "warning":
                assert self.now - self.warned_at.get(line.item, -math.inf) >= LOG_PERIOD
                self.warned_at[line.item] = self.now
                self.note("warnings")


@machine_test
def test_discovery_does_what_the_model_says() -> None:
    explore(
        DiscoveryMachine, 200, 40, "answers", "silent hosts", "goodbyes", "failed lookups", "a late answer",
        "second addresses of a host", "hosts that are established early", "warnings", "places that were given up",
    )  # fmt: skip


class Crowd(Machine):
    """More of everything than there is room for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.discovery = Discovery(SETTING, self.now, forget_after=FORGET)

    @rule(item=st.sampled_from(NAMES), found=some)
    def a_name_is_looked_up(self, item: Item, found: tuple[Address, ...]) -> None:
        self.discovery.answer(item, Found(found), self.now)

    @rule(lines=st.lists(st.sampled_from([*NAMES, *map(Literal, ADDRESSES)]), unique=True).map(tuple), wrong=st.text())
    def the_file_is_read(self, lines: tuple[Item, ...], wrong: str) -> None:
        self.discovery.answer(FILE, Lines(lines, wrong), self.now)

    @rule(address=addresses, port=st.integers(1, 4), host=hosts)
    def another_host_tells(self, address: Address, port: int, host: str) -> None:
        self.discovery.learn(address._replace(port=port), host)

    @rule(address=addresses, port=st.sampled_from([1, 2, 7400]), host=hosts)
    def a_host_answers(self, address: Address, port: int, host: str) -> None:
        self.discovery.met(address._replace(port=port), host, self.now)

    @rule(address=addresses)
    def this_host_answers(self, address: Address) -> None:
        self.discovery.is_me(address, self.now)

    @rule(host=hosts, goodbye=st.booleans())
    def a_host_ends(self, host: str, goodbye: bool) -> None:
        if goodbye:
            self.discovery.said_goodbye(host, self.now)
        else:
            self.discovery.ended(host)

    @rule(seconds=st.sampled_from([1.0, 40.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nothing_is_more_than_its_bounds(self) -> None:
        discovery = self.discovery
        told = [len(addresses) for addresses in discovery._told.values()]
        assert len(discovery.to_dial(self.now)) <= 4
        assert len(discovery.silent(self.now)) <= 4
        assert len(discovery._known) <= 4
        assert len(discovery._places) <= 12
        assert sum(told) == discovery._told_count <= 4
        assert all(0 < count <= 2 for count in told)
        assert discovery._reached.keys() <= discovery._met <= discovery._told.keys()
        assert {*SETTING} - {LITERAL} <= discovery._known.keys(), "what the setting lists has room"
        if discovery._left_out:
            self.note("some are left out")
        if sum(told) == 4:
            self.note("no room for what others tell")


@machine_test
def test_discovery_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ADDRESSES", 4)
    monkeypatch.setattr(module, "MAX_ITEMS", 4)
    monkeypatch.setattr(module, "MAX_OF_A_HOST", 2)
    explore(Crowd, 200, 40, "some are left out", "no room for what others tell")
