"""Every step that can be a group's next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.simulation.exploring.scenarios import Put, Start
from verification.simulation.exploring.world import BUS, Choice, World

if TYPE_CHECKING:
    from verification.simulation.exploring.group import Group

#: Steps that no group needs to be settled: operations that are not begun, time, and faults.
OPTIONAL = {"begin", "pass", "die", "lose", "reset", "fail"}


def choices(group: Group, world: World) -> list[Choice]:
    """Return every step that is possible, always in the same order."""
    found: list[Choice] = [("deliver", channel) for channel, _ in world.channels]
    for number, thread in enumerate(world.threads):
        if thread.phase == "loads":
            found.append(("look", number))
        elif thread.phase == "has read":
            found.append(("give", number))
        elif not thread.phase and _may_begin(group, world, number):
            found.append(("begin", number))
    found += [("reap", *pair) for pair in world.unreaped]
    found += _introductions(group, world)
    found += [("wake", place) for place, view in group.living(world) if view.deadline() <= world.now]
    return found + _faults(group, world)


def is_quiet(found: list[Choice]) -> bool:
    """Whether all has arrived and ended, until time passes or somebody dies."""
    return all(choice[0] in ("pass", "die") for choice in found)


def _may_begin(group: Group, world: World, number: int) -> bool:
    place, operations = group.threads[number]
    at = world.threads[number].next
    if at == len(operations):
        return False
    if isinstance(operations[at], Put) and _is_anybody_setting(group, world):
        return False
    if not isinstance(operations[at], Start):
        return world.states[place] is not None
    seat = group.members[place].seat
    return not any(group.members[other].seat == seat for other, _ in group.living(world))


def _is_anybody_setting(group: Group, world: World) -> bool:
    """Whether a set is under way: it vouches for its value, so those of one key are made one after another."""
    return any(
        thread.phase and isinstance(operations[thread.next], Put)
        for thread, (_, operations) in zip(world.threads, group.threads, strict=True)
    )


def _introductions(group: Group, world: World) -> list[Choice]:
    """Return the members that a driver may try next: its member knew only one other, and that one died."""
    if not group.scenario.meets or not world.dead:
        return []
    living = group.living(world)
    return [
        ("introduce", place, other)
        for place, view in living
        for other, _ in living
        if not view.introduced and other != place and group.members[other].incarnation not in view.applied
    ]


def _faults(group: Group, world: World) -> list[Choice]:
    scenario, used = group.scenario, world.faults
    found: list[Choice] = []
    if used.losses < scenario.losses:
        found += [("lose", channel) for channel, _ in world.channels if channel[2] == BUS]
    if used.resets < scenario.resets:
        found += [("reset", channel) for channel, _ in world.channels if channel[2] != BUS]
    if used.failures < scenario.failures:
        found += [("fail", number) for number, thread in enumerate(world.threads) if thread.phase == "loads"]
    if used.passed < len(scenario.lengths):
        found.append(("pass", scenario.lengths[used.passed]))
    for place, _ in group.living(world) if scenario.mortal else ():
        if group.name(place) in scenario.mortal:
            found += [("die", place, "what it sent arrives"), ("die", place, "what it sent is lost")]
    return found
