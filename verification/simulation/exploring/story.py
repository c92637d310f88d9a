"""A path through the worlds, as a numbered interleaving that a person can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from colocache.core.group import messages as m
from verification.simulation.exploring.checks import check
from verification.simulation.exploring.choices import choices
from verification.simulation.exploring.group import Group
from verification.simulation.exploring.scenarios import Peek, Put, Read, Start, Unrelated
from verification.simulation.exploring.world import BUS, Choice, Violation, World, message_of

#: What a frame says, in a word or two.
WORDS: dict[type[Any], Callable[[Any], str]] = {
    m.Event: lambda e: f"event {e.number}",
    m.Goodbye: lambda e: "end of a stream",
    m.Ping: lambda e: f"ping {e.id}",
    m.Pong: lambda e: f"pong {e.id}: last event {e.last}",
    m.Roster: lambda e: "roster",
    m.Ack: lambda e: f"acknowledgement of event {e.applied}",
    m.Replay: lambda e: f"replay from event {e.first}",
    m.Replayed: lambda e: f"{len(e.frames)} replayed events",
    m.Reset: lambda e: f"reset to event {e.last}",
    m.Get: lambda e: f"get {e.id}",
    m.Value: lambda e: f"value {int(e.payload)} for get {e.id}{'' if e.current else ', being behind'}",
    m.Load: lambda e: f"token {e.token} for get {e.id}",
    m.Wait: lambda e: f"'wait' for get {e.id}",
    m.Alone: lambda e: f"'load alone' for get {e.id}",
    m.Cancel: lambda e: f"cancel get {e.id}",
    m.Fill: lambda e: f"fill {int(e.payload)} under token {e.token}",
    m.Fail: lambda e: f"nothing under token {e.token}",
    m.Peek: lambda e: f"peek {e.id}",
    m.Peeked: lambda e: f"{len(e.records)} values for peek {e.id}",
    m.Set: lambda e: f"set {int(e.payload)}",
    m.Stored: lambda e: f"stored, as event {e.number}",
    m.SetReceipt: lambda e: "receipt of a set",
}

LETTERS = "ABCDEFGH"  # of the threads


def story(group: Group, path: Sequence[int]) -> list[str]:
    """Return a line per step, from the scenario's opening on, and one for what is wrong then, if anything is.

    ``path``: the choices that follow the opening, each as its place among `choices`.
    """
    world, lines = group.prepared(), []
    try:
        steps: list[Choice | int] = [*group.scenario.opening, *path]
        for step in steps:
            choice = choices(group, world)[step] if isinstance(step, int) else step
            lines.append(_begun(group, world, choice))
            after = group.take(world, choice)
            lines[-1] = "; ".join([lines[-1], *_consequences(group, world, choice, after)])
            check(group, after)
            world = after
        group.settle(world)
    except Violation as violation:
        lines.append(f"=> {violation}")
    return lines


def _begun(group: Group, world: World, choice: Choice) -> str:
    name, (kind, what) = group.name, choice[:2]
    if kind in ("deliver", "lose", "reset"):
        by, to, words = name(what[0]), name(what[1]), _words(dict(world.channels)[what][0])
        if kind != "deliver":
            return f"{by}'s {words} to {to} is lost"
        return f"{to} {'hears' if what[2] == BUS else 'takes'} {by}'s {words}"
    if kind == "pass":
        return f"{what} s pass"
    if kind == "wake":
        return f"{name(what)} looks at its clock"
    if kind == "die":
        return f"{name(what)} dies; {choice[2]}"
    if kind == "introduce":
        return f"{name(what)} is shown {name(choice[2])}"
    if kind == "reap":
        return f"{name(what)} is told of the death of {name(choice[2])}, and reads its journal"
    return _of_thread(group, world, kind, what)


def _of_thread(group: Group, world: World, kind: str, number: int) -> str:
    place, operations = group.threads[number]
    who = f"{group.name(place)}, {LETTERS[number]}:"
    if kind == "look":
        return f"{who} the loader reads {world.source} from the source"
    if kind == "give":
        return f"{who} the loader returns {world.threads[number].seen}"
    if kind == "fail":
        return f"{who} the loader raises"
    operation = operations[world.threads[number].next]
    if isinstance(operation, Read):
        return f"{who} a read begins"
    if isinstance(operation, Peek):
        return f"{who} a look without loading begins"
    if isinstance(operation, Start):
        return f"{group.name(place)} starts"
    if isinstance(operation, Put):
        return f"{who} commits {world.source + 1}, and sets it"
    if isinstance(operation, Unrelated):
        return f"{who} invalidates another key"
    how = "" if operation.wait else ", waiting for nobody"
    return f"{who} commits {world.source + 1}, and invalidates {operation.target}{how}"


def _consequences(group: Group, before: World, choice: Choice, after: World) -> list[str]:
    found: dict[str, list[str]] = {}
    under_way = dict(before.channels)
    if choice[0] in ("deliver", "lose", "reset"):
        under_way[choice[1]] = under_way[choice[1]][1:]
    for channel, frames in after.channels if choice[0] != "die" else ():
        for frame in frames[len(under_way.get(channel, ())) :]:
            verb = "publishes" if channel[2] == BUS else "sends"
            found.setdefault(f"{verb} {_words(frame)}", []).append(group.name(channel[1]))
    sent = [f"{said} to {' and '.join(receivers)}" for said, receivers in found.items()]
    return sent + _progress(group, before, after)


def _words(frame: bytes) -> str:
    message = message_of(frame)
    return WORDS[type(message)](message)


def _progress(group: Group, before: World, after: World) -> list[str]:
    found = []
    for number, (old, new) in enumerate(zip(before.threads, after.threads, strict=True)):
        place, operations = group.threads[number]
        who = f"{group.name(place)}, {LETTERS[number]}:"
        if new.phase == "loads" and old.phase != "loads":
            found.append(f"{who} the loader is called")
        elif new.next != old.next and not isinstance(operations[old.next], Start):
            found.append(f"{who} the call returns")
    if after.acknowledged > before.acknowledged:
        found.append(f"the receipt for {after.acknowledged} is complete")
    return found
