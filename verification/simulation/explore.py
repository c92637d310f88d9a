"""Every interleaving of a few members, one key and a handful of operations.

    python -m verification.simulation.explore  # all scenarios on all cores, then all mutants
    python -m verification.simulation.explore two_writers --states 2000000
    python -m verification.simulation.explore --mutant token_is_not_voided  # a shortest path that breaks the contract
    python -m verification.simulation.explore two_writers --replay 0.3.1

Where the campaign draws histories at random, this takes every one there is, up to a number of choices: which frame is
delivered or lost next, who begins, whose loader reads and returns, how time passes, who looks at his clock, who dies.
It goes breadth first, so what it finds wrong, it finds by a shortest interleaving. Worlds that are equal in all that
decides their future are looked at once. No other reduction is made: what could be left out soundly would have to be
argued, and there is no need, since a member's step is computed once for all the worlds in which it occurs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from array import array
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from verification.simulation.exploring.checks import check
from verification.simulation.exploring.choices import choices, is_quiet
from verification.simulation.exploring.group import Group
from verification.simulation.exploring.scenarios import SCENARIOS
from verification.simulation.exploring.story import story
from verification.simulation.exploring.world import Violation, World

STATES = 250_000  # worlds, after which a scenario is cut
BEYOND = 200  # of the worlds at which it was cut, so many are settled all the same

#: Where each rule of the protocol that may be taken out is missed first.
CAUGHT_IN = {
    "lease_counts_from_the_pongs_receipt": "a_silent_reader_is_waited_out",
    "lease_extends_though_events_are_missing": "a_silent_reader_is_waited_out",
    "ping_counts_though_the_members_known_differ": "a_joiner_that_one_member_knows",
    "token_is_not_voided": "a_reader_invalidates_under_the_owners_load",
    "fill_is_accepted_without_its_token": "a_reader_invalidates_under_the_owners_load",
    "waiter_inherits_a_voided_load": "everybody_reads_what_one_invalidates",
    "fetch_is_not_marked": "a_reader_invalidates_under_the_owners_load",
    "fetch_is_not_marked_by_a_tag": "a_tag_event_under_a_fill",
    "fetch_is_not_marked_by_everything": "everything_is_invalidated",
    "requests_name_no_dependencies": "the_reader_hears_before_the_owner",
    "reset_is_no_dependency": "a_joiner_reads_what_others_invalidate",
    "events_are_remembered_for_a_moment_only": "a_writer_that_dies_after_announcing",
    "serves_thrice_as_old_while_behind": "a_silent_reader_is_waited_out",
    "silent_members_are_skipped": "a_silent_reader_is_waited_out",
    "waits_out_half_the_lease": "a_silent_reader_is_waited_out",
    "waits_out_exactly_the_lease": "a_silent_reader_is_waited_out",
    "newcomer_whose_acquaintance_left_is_alone": "a_joiner_whose_acquaintance_dies",
    "joiner_promises": "a_joiner_that_one_member_knows",
    "age_counts_from_the_arrival": "an_old_value_comes_late",
    "fills_are_handed_over_while_behind": "an_owner_that_is_behind",
    "value_of_an_owner_that_is_behind_is_kept": "a_value_of_an_owner_that_is_behind",
    "reader_joins_an_old_load_while_behind": "a_load_that_outlives_the_lease",
    "reset_drops_nothing": "lost_events_are_too_old_to_be_replayed",
    "stream_ends_without_a_reset": "a_writer_that_dies_after_announcing",
    "member_is_forgotten_without_a_reset": "a_member_that_is_forgotten",
    "gap_is_overlooked": "lost_events_are_replayed",
    "tags_are_not_checked_at_a_fill": "a_tag_event_under_a_fill",
    "late_set_is_kept": "a_set_that_is_late",
    "tag_drops_nothing": "a_tag_event_of_another_member",
}


class Visited:
    """The worlds that were come to, in order, with the way to each. A world is kept as the numbers of its parts."""

    def __init__(self) -> None:
        self._parts: dict[Any, int] = {}
        self._worlds: dict[bytes, int] = {}
        self._before = array("l")
        self._choices = array("H")

    def __len__(self) -> int:
        return len(self._worlds)

    def add(self, world: World, before: int, choice: int) -> int | None:
        """Return the number of a world that is new; None if it is not."""
        packed = array("I", [self._parts.setdefault(part, len(self._parts)) for part in world]).tobytes()
        number = len(self._worlds)
        if self._worlds.setdefault(packed, number) != number:
            return None
        self._before.append(before)
        self._choices.append(choice)
        return number

    def path(self, number: int) -> list[int]:
        """Return the choices that lead to a world, each as its place among those that were possible."""
        found: list[int] = []
        while number:
            found.append(self._choices[number])
            number = self._before[number]
        return found[::-1]


class Report(NamedTuple):
    """What an exploration found."""

    name: str
    members: int
    choices: int  # every path of so many was taken
    exhausted: bool  # and there is no longer one
    states: int
    transitions: int
    ends: int  # worlds from which all was let arrive and end
    member_states: int
    seconds: float
    path: tuple[int, ...] | None = None  # to what breaks the contract
    story: tuple[str, ...] = ()

    def line(self) -> str:
        """Return a line of the table."""
        return (
            f"{self.name:44} {self.members:3} {self.states:10,} {self.transitions:11,} {self.ends:7,} "
            f"{self.member_states:7,} {self.choices:7} {'all' if self.exhausted else 'cut':>4} {self.seconds:7.1f}"
        )


HEAD = "{:42} {} {:>8} {:>11} {:>7} {:>7} {:>7} {:4} {:>7}".format(
    "scenario", "members", "states", "transitions", "ends", "member", "choices", "", "s"
)


class Search:
    """One scenario, breadth first."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.group = Group(SCENARIOS[name])
        self.limit = limit
        self.visited = Visited()
        self.choices = self.transitions = self.ends = 0
        self.broken: list[int] | None = None
        self._front: list[tuple[int, World]] = []

    def run(self) -> Report:
        """Take every path, until no path is left, one breaks the contract, or the limit is reached."""
        began = time.perf_counter()
        self._arrive(self.group.first(), 0, 0)
        while self._front and self._advance():
            self.choices += 1
        for number, world in self._front[:: len(self._front) // BEYOND + 1] if self.broken is None else ():
            self._settle(number, world)
        exhausted, path = self.broken is None and not self._front, self.broken
        return Report(
            self.name, len(self.group.members), self.choices - exhausted, exhausted, len(self.visited),
            self.transitions, self.ends, len(self.group.cast.views), time.perf_counter() - began,
            *((tuple(path), tuple(story(self.group, path))) if path is not None else ()),
        )  # fmt: skip

    def _advance(self) -> bool:
        """Take one more choice from every world of the front; whether that came to its end."""
        front, self._front = self._front, []
        for number, world in front:
            self._expand(number, world)
            if self.broken is not None or len(self.visited) >= self.limit:
                return False
        return True

    def _expand(self, number: int, world: World) -> None:
        possible = choices(self.group, world)
        if is_quiet(possible):
            self._settle(number, world)
        for place, choice in enumerate(possible) if self.broken is None else ():
            self.transitions += 1
            try:
                self._arrive(self.group.take(world, choice), number, place)
            except Violation:
                self.broken = [*self.visited.path(number), place]
                return

    def _settle(self, number: int, world: World) -> None:
        self.ends += 1
        try:
            self.group.settle(world)
        except Violation:
            self.broken = self.visited.path(number)

    def _arrive(self, world: World, before: int, choice: int) -> None:
        number = self.visited.add(world, before, choice)
        if number is not None:
            check(self.group, world)
            self._front.append((number, world))


def without(mutant: str) -> contextlib.AbstractContextManager[Any]:
    """Take a rule out of the protocol for a while; "" for none."""
    if not mutant:
        return contextlib.nullcontext()
    from verification.simulation.mutants import MUTANTS

    replaced: contextlib.AbstractContextManager[Any] = MUTANTS[mutant]()
    return replaced


def explore(name: str, states: int = STATES, mutant: str = "") -> Report:
    """Explore a scenario."""
    with without(mutant):
        return Search(name, states).run()


def told(report: Report, mutant: str = "") -> str:
    """Return the interleaving that breaks the contract, and the command that replays it."""
    lines = [SCENARIOS[report.name].story]
    lines += [f"{number:4}. {line}" for number, line in enumerate(report.story, 1)]
    path = ".".join(map(str, report.path or ()))
    command = f"python -m verification.simulation.explore {report.name} --replay {path}"
    return "\n".join([*lines, f"{command} --mutant {mutant}" if mutant else command])


def scenarios(names: list[str], states: int) -> int:
    """Explore scenarios on all cores, with a line for each; return how many break the contract."""
    print(HEAD, flush=True)
    broken, known, transitions = 0, 0, 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for report in pool.map(partial(explore, states=states), names):
            known, transitions = known + report.states, transitions + report.transitions
            print(report.line(), flush=True)
            if report.path is not None:
                broken += 1
                print(told(report), flush=True)
    print(f"{known:,} states, {transitions:,} transitions; {broken} scenarios break the contract")
    return broken


def mutants(states: int) -> int:
    """Take one rule out after another, with a line for each; return how many are not missed."""
    print(f"\n{'mutant':48} {'choices':>7} {'states':>8}  found in", flush=True)
    unseen = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(explore, CAUGHT_IN.values(), [states] * len(CAUGHT_IN), CAUGHT_IN)
        for mutant, report in zip(CAUGHT_IN, found, strict=True):
            unseen += report.path is None
            length = "NEVER" if report.path is None else len(report.path)
            print(f"{mutant:48} {length:>7} {report.states:8,}  {report.name}", flush=True)
    return unseen


def replay(name: str, path: str, mutant: str) -> int:
    """Tell a path; return 0."""
    with without(mutant):
        lines = story(Group(SCENARIOS[name]), [int(choice) for choice in path.split(".") if choice])
    for number, line in enumerate(lines, 1):
        print(f"{number:4}. {line}")
    return 0


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--states", type=int, default=STATES, help="cut a scenario after so many (%(default)s)")
    parser.add_argument("--mutant", default="", choices=["", *CAUGHT_IN], metavar="MUTANT", help=", ".join(CAUGHT_IN))
    parser.add_argument("--replay", metavar="PATH", help="tell one path: numbers with dots between them")
    options = parser.parse_args()
    if options.replay is not None:
        return replay(options.names[0], options.replay, options.mutant)
    if options.mutant:
        report = explore((options.names or [CAUGHT_IN[options.mutant]])[0], options.states, options.mutant)
        print(told(report, options.mutant) if report.path is not None else f"not missed: {report}")
        return report.path is None
    broken = scenarios(options.names or list(SCENARIOS), options.states)
    return bool(broken if options.names else broken + mutants(options.states))


if __name__ == "__main__":
    sys.exit(main())
