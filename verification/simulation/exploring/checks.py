"""What must hold in every world, and when all is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.simulation.exploring.machine import View
from verification.simulation.exploring.world import Announced, Faults, Violation, World

if TYPE_CHECKING:
    from verification.simulation.exploring.group import Group


def check(group: Group, world: World) -> None:
    """Look at what every member would serve, and at what it keeps. Raises Violation."""
    if world.loads > 1 and world.faults == Faults() and not (world.dead or group.has_joiners):
        raise Violation(f"{world.loads} loads of one value, and nothing has failed")
    for place, view in group.living(world):
        for version, entry in view.entries:
            if version < world.source and entry.expires > view.clock(world.now):
                least = floor(group, world, place)
                if version < least and view.gate.lets(entry, view.clock(world.now)):
                    raise Violation(f"{group.name(place)} serves {version}, and has to serve at least {least}")
                _check_kept(group, world, place, version)


def _check_kept(group: Group, world: World, place: int, version: int) -> None:
    for event in world.announced:
        if version < event.version and _has_applied(group, world, place, event):
            by = group.name(event.by)
            raise Violation(f"{group.name(place)} keeps {version} after it has applied event {event.number} of {by}")


def _has_applied(group: Group, world: World, place: int, event: Announced) -> bool:
    view = group.view(world, place)
    assert view is not None
    return event.by == place or view.applied.get(group.members[event.by].incarnation, -1) >= event.number


def floor(group: Group, world: World, place: int) -> int:
    """Return the lowest version that a read which begins now may return.

    That of the last complete receipt, of the member's own last write, and of what was announced so long ago that a
    member which has not heard it no longer serves what is older.
    """
    before = world.now - max(group.scenario.settings.lease, group.scenario.settings.max_stale) * 1.01
    late = [event.version for event in world.announced if event.at <= before]
    return max(world.acknowledged, world.own[place], *late, 0)


def returned(name: str, value: object, least: int) -> None:
    """Look at what a read returns. Raises Violation."""
    if isinstance(value, int) and value < least:
        raise Violation(f"{name} has read {value}, and had to read at least {least}")


def tokens(name: str, before: View, after: View) -> None:
    """Look at the tokens that stand after a step: new ones have never been given before. Raises Violation."""
    for token, holder in after.grants.items():
        if before.grants.get(token) != holder and token <= before.tokens:
            raise Violation(f"{name} grants token {token} a second time")


def unsettled(group: Group, world: World) -> str:
    """Say what is still to come when nothing is under way any more; "" if all is as it should be."""
    living = group.living(world)
    for thread, (place, _) in zip(world.threads, group.threads, strict=True):
        if thread.phase:
            return f"a call of {group.name(place)} has not returned"
    for place, view in living:
        if view.clock(world.now) >= view.gate.current_until:
            return f"{group.name(place)} is not current"
        for other, theirs in living:
            if other != place and view.applied.get(group.members[other].incarnation) != theirs.last:
                return f"{group.name(place)} has not applied all that {group.name(other)} has announced"
        for version, entry in view.entries:
            if entry.expires > view.clock(world.now) and version != world.source:
                return f"{group.name(place)} keeps {version}, and the source is at {world.source}"
    return ""
