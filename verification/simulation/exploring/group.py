"""A small group, and the steps that it takes.

`choices` are the steps that are possible in a `World`; `Group.take` gives the world that one of them leads to, or
raises `Violation`. What members do is the shipped code's doing, by way of a `Cast`; here is what surrounds them.
"""

from __future__ import annotations

from typing import Any

from colocache.core.group.messages import EVERYTHING, Event, Set, tag_target
from colocache.core.group.outcomes import Written
from colocache.core.group.ring import Ring, slot_of
from colocache.core.receipt import Receipt
from colocache.testing.simulator import Simulated
from verification.simulation.exploring import checks
from verification.simulation.exploring.choices import OPTIONAL, choices
from verification.simulation.exploring.machine import Birth, Cast, Effects, Input, View
from verification.simulation.exploring.scenarios import Operation, Peek, Put, Read, Scenario, Start, Unrelated, Write
from verification.simulation.exploring.world import (
    BUS,
    Announced,
    Channel,
    Choice,
    Thread,
    Violation,
    World,
    channels_of,
    message_of,
)

FOR_EVER = 1e9  # s
TAG, OTHER_KEY = "t", "another key"
FAILURE = ValueError("the source is down")
AT_ONCE = 500  # steps that a group may take without time's passing


class Group:
    """The members of one scenario, and their steps."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.cast = Cast()
        seats = [0 if name == scenario.successor else place for place, name in enumerate(scenario.members)]
        self.key = _key_of(seats, seats[scenario.members.index(scenario.owner)])
        rates = [1 / 1.01 if name in scenario.slow else 1.0 for name in scenario.members]
        births = [Birth(place, seat, rates[place], scenario.settings, self.key) for place, seat in enumerate(seats)]
        born = [self.cast.birth(birth) for birth in births]
        self._born = [state for state, _ in born]
        self.members = [member for _, member in born]
        self._places = {member.incarnation: place for place, member in enumerate(self.members)}
        self.threads = [(scenario.members.index(name), operations) for name, operations in scenario.threads]
        self._late = {place for place, operations in self.threads if isinstance(operations[0], Start)}

    @property
    def has_joiners(self) -> bool:
        """Whether somebody starts later than the others."""
        return bool(self._late)

    def name(self, place: int) -> str:
        """Return a member's letter."""
        return self.scenario.members[place]

    def view(self, world: World, place: int) -> View | None:
        """Return what can be seen of a member; None if it does not live."""
        state = world.states[place]
        return None if state is None else self.cast.views[state]

    def living(self, world: World) -> list[tuple[int, View]]:
        """Return the members that live, and what can be seen of them."""
        return [(place, self.cast.views[state]) for place, state in enumerate(world.states) if state is not None]

    # --- The beginning and the end

    def first(self) -> World:
        """Return the world that the exploration begins with."""
        world = self.prepared()
        for choice in self.scenario.opening:
            world = self.take(world, choice)
        return world

    def prepared(self) -> World:
        """Return the world in which all are current who are there from the start, and the preparations are over."""
        size = len(self.members)
        world = World(0.0, (None,) * size, (), (0,) * size)
        for place in range(size):
            if place not in self._late:
                world = self._start(world, place)
        threads, self.threads = self.threads, []
        world = self.settle(world)
        for name, operation in self.scenario.prepared:
            self.threads = [(self.scenario.members.index(name), (operation,))]
            world = self.settle(self._begin(world._replace(threads=(Thread(),)), 0))
        self.threads = threads
        return world._replace(threads=(Thread(),) * len(threads), loads=0)

    def settle(self, world: World) -> World:
        """Let all arrive, and time pass, until everything is as it should be. Raises Violation if it never is."""
        settings = self.scenario.settings
        ends = world.now + settings.load_timeout + 3 * settings.lease
        at_once = 0
        while world.now < ends:
            urgent = next((choice for choice in choices(self, world) if choice[0] not in OPTIONAL), None)
            if urgent is not None:
                world = self.take(world, urgent)
                checks.check(self, world)
                at_once += 1
            elif checks.unsettled(self, world):
                due = min(view.deadline() for _, view in self.living(world))
                world, at_once = world._replace(now=max(due, world.now) + 1e-6), 0
            else:
                return world
            if at_once > AT_ONCE:
                raise Violation(f"there is no end to it: {at_once} steps, and no time has passed")
        raise Violation(f"when all has arrived, and time has passed, {checks.unsettled(self, world)}")

    # --- Steps

    def take(self, world: World, choice: Choice) -> World:
        """Return the world that a choice leads to. Raises Violation if the step itself breaks the contract."""
        after: World = getattr(self, "_" + choice[0])(world, *choice[1:])
        return after

    def _deliver(self, world: World, channel: Channel) -> World:
        world, frame = world.without_first(channel)
        return self._step(world, channel[1], ("receive", frame, channel[2] == BUS))

    def _lose(self, world: World, channel: Channel) -> World:
        return world.without_first(channel)[0].with_fault("losses")

    def _reset(self, world: World, channel: Channel) -> World:
        return world.without_first(channel)[0].with_fault("resets")

    def _pass(self, world: World, seconds: float) -> World:
        return world._replace(now=world.now + seconds).with_fault("passed")

    def _introduce(self, world: World, place: int, other: int) -> World:
        return self._step(world, place, ("meet", self.members[other]))

    def _wake(self, world: World, place: int) -> World:
        return self._step(world, place, ("wake",))

    def _look(self, world: World, thread: int) -> World:
        return world.with_thread(thread, phase="has read", seen=world.source)

    def _give(self, world: World, thread: int) -> World:
        return self._loaded(world, thread, world.threads[thread].seen)

    def _fail(self, world: World, thread: int) -> World:
        return self._loaded(world.with_fault("failures"), thread, FAILURE)

    def _loaded(self, world: World, thread: int, value: object) -> World:
        world = world.with_thread(thread, phase="waits", seen=0)
        return self._step(world, self.threads[thread][0], ("load", thread, value))

    def _die(self, world: World, dead: int, last_words: str) -> World:
        view = self.view(world, dead)
        assert view is not None
        arrives = last_words == "what it sent arrives"
        others = [place for place, _ in self.living(world) if place != dead]
        world = world.with_state(dead, None)._replace(
            channels=tuple((c, frames) for c, frames in world.channels if c[1] != dead and (arrives or c[0] != dead)),
            dead=(*world.dead, (dead, view.journal)),
            unreaped=world.unreaped + tuple((other, dead) for other in others),
        )
        for number, (place, operations) in enumerate(self.threads):
            if place == dead:
                world = world.with_thread(number, phase="", next=len(operations), version=0, seen=0)
        return world

    def _reap(self, world: World, survivor: int, dead: int) -> World:
        rest = tuple(pair for pair in world.unreaped if pair != (survivor, dead))
        journal = dict(world.dead)[dead]
        return self._step(world._replace(unreaped=rest), survivor, ("reap", self.members[dead], journal))

    def _start(self, world: World, place: int) -> World:
        meets = self.scenario.meets if world.threads else ""
        living = [other for other, _ in self.living(world)]
        others = tuple(self.members[other] for other in living if not meets or self.name(other) in meets)
        world = world.with_state(place, self._born[place])
        world = world._replace(unreaped=world.unreaped + tuple((place, dead) for dead, _ in world.dead))
        return self._step(world, place, ("start", others, not meets))

    # --- Operations

    def _begin(self, world: World, number: int) -> World:
        place, operations = self.threads[number]
        operation = operations[world.threads[number].next]
        if isinstance(operation, Start):
            return self._start(world.with_thread(number, next=world.threads[number].next + 1), place)
        if isinstance(operation, Read | Peek):
            version = checks.floor(self, world, place)
        else:
            version = world.source + (not isinstance(operation, Unrelated))
            world = world._replace(source=version, loads=0)
        if isinstance(operation, Write):
            world = world.with_own(place, version)
        world = world.with_thread(number, phase="waits", version=version)
        return self._step(world, place, self._input(operation, number, version))

    def _input(self, operation: Operation, number: int, version: int) -> Input:
        if isinstance(operation, Read):
            return ("read", number, (TAG,) if operation.tagged else ())
        if isinstance(operation, Peek):
            return ("peek", number)
        if isinstance(operation, Put):
            return ("set", number, version, operation.acknowledged)
        if isinstance(operation, Unrelated):
            return ("invalidate", number, OTHER_KEY, 0.0)
        assert isinstance(operation, Write)
        target = {"the key": self.key, "the tag": tag_target(TAG), "everything": EVERYTHING}[operation.target]
        return ("invalidate", number, target, FOR_EVER if operation.wait else 0.0)

    def _step(self, world: World, place: int, given: Input) -> World:
        state = world.states[place]
        assert state is not None
        try:
            after, effects = self.cast.step(state, world.now, given)
        except Exception as error:
            raise Violation(f"{self.name(place)} raises {error!r}") from error
        checks.tokens(self.name(place), self.cast.views[state], self.cast.views[after])
        world = self._sent(world.with_state(place, after), place, given, effects)
        for number, what, value in effects.results:
            if what == "loads":
                world = world.with_thread(number, phase="loads")._replace(loads=world.loads + (not world.source))
            else:
                world = self._returned(world, number, value)
        return world

    def _sent(self, world: World, place: int, given: Input, effects: Effects) -> World:
        frames = []
        for to, frame in effects.sent:
            channels = channels_of(place, self._places.get(to or b""), frame, range(len(self.members)))
            frames += [(channel, frame) for channel in channels if world.states[channel[1]] is not None]
            message = message_of(frame)
            if isinstance(message, Event):
                event = Announced(place, message.number, world.now, _version(world, given))
                world = world._replace(announced=(*world.announced, event))
        return world.with_frames(frames) if frames else world

    def _returned(self, world: World, number: int, value: Any) -> World:
        place, operations = self.threads[number]
        thread = world.threads[number]
        if isinstance(operations[thread.next], Read | Peek):
            checks.returned(self.name(place), value, thread.version)
        else:
            receipt = value.receipt if isinstance(value, Written) else value
            if isinstance(receipt, Receipt) and receipt.complete and not isinstance(operations[thread.next], Unrelated):
                world = world._replace(acknowledged=max(world.acknowledged, thread.version))
            if not isinstance(operations[thread.next], Unrelated):
                world = world.with_own(place, thread.version)
        return world.with_thread(number, phase="", next=thread.next + 1, version=0)


def _key_of(seats: list[int], seat: int) -> str:
    """Return a key that a seat owns."""
    ring = Ring(f"host/{seat}" for seat in seats)
    return next(key for key in map(str, range(1000)) if ring.owner(slot_of(Simulated.wire(key))) == f"host/{seat}")


def _version(world: World, given: Input) -> int:
    """Return the version that an event of this step is for: that of the set which it announces, or the newest."""
    if given[0] == "invalidate" and given[2] == OTHER_KEY:
        return 0
    message = message_of(given[1]) if given[0] == "receive" else None
    return int(message.payload) if isinstance(message, Set) else world.source
