"""Small scenarios of a host's log: what is appended is read whole or not at all, and what is there is never lost."""

from __future__ import annotations

from collections.abc import Callable

from colocache.core.hosts import layout
from colocache.core.hosts.event import KEYS, MAX_HASHES, Event, Position
from colocache.core.hosts.layout import SLOTS
from colocache.core.hosts.log import NoLane
from verification.host.machine import Violation
from verification.host.world import Host, World

SCENARIOS: dict[str, Callable[[World], None]] = {}

A, B, C = (Event(KEYS, (number, number)) for number in (1, 2, 3))


def scenario(function: Callable[[World], None]) -> Callable[[World], None]:
    """Register a scenario under its function's name."""
    SCENARIOS[function.__name__] = function
    return function


class Log:
    """What has been seen of a log, by all processes together."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: dict[Position, Event] = {}
        self.whole: tuple[Event, ...] = ()  # what one call has appended: all of it is there, or nothing
        world.at_end.append(self.look_at_the_end)

    def append(self, host: Host, event: Event) -> None:
        """Append an event."""
        try:
            self.see(host.log.append(event), event)
        except NoLane:
            return

    def append_all(self, host: Host) -> None:
        """Append what takes two events."""
        hashes = list(range(1, MAX_HASHES + 2))
        self.whole = (Event(KEYS, tuple(hashes[:-1])), Event(KEYS, tuple(hashes[-1:]))) * 2
        position = host.log.append_all(KEYS, hashes, related=True)
        for back, event in enumerate(reversed(self.whole)):
            self.see(Position(position.lane, position.number - back), event)

    def read(self, host: Host) -> None:
        """Read all that is there."""
        for lane, last in host.log.lasts().items():
            for number in range(1, last + 1):
                self.see(Position(lane, number), host.log.read(lane, number))
            if self.whole and last % len(self.whole):
                raise Violation(f"{last} events are there of a call that makes {len(self.whole)}")

    def see(self, position: Position, event: Event | None) -> None:
        """Take note of an event. Whatever has been there stays the same."""
        if event is None:
            raise Violation(f"{position} is there and cannot be read")
        self.world.machine.note(position, event)
        known = self.seen.setdefault(position, event)
        if known != event:
            raise Violation(f"{position} is {known.hashes}, and it is {event.hashes}")

    def look_at_the_end(self) -> None:
        """All that was appended, and all that was read, is there still."""
        log = self.world.hosts[-1].log
        for position, event in self.seen.items():
            found = log.read(*position)
            if found != event:
                raise Violation(f"{position} was {event.hashes}, and in the end it is {found and found.hashes}")


def wrap(host: Host, event: Event) -> None:
    """Have so many events gone by that the next one takes the slot of the first one, which is ``event``."""
    host.log.append(event)
    host.world.memory.log[layout.lane_last(0)] = SLOTS


@scenario
def an_event_is_read_while_it_is_appended(world: World) -> None:
    """W appends an event, and another one. R reads what is there, twice."""
    log, writer, reader = Log(world), world.host("W"), world.host("R")

    def write() -> None:
        log.append(writer, A)
        log.append(writer, B)

    def read() -> None:
        log.read(reader)
        log.read(reader)

    writer.spawn(write)
    reader.spawn(read)


@scenario
def two_append_at_once(world: World) -> None:
    """W and V append. One may give up waiting for the other, and open another lane. R reads."""
    log, writer, other, reader = Log(world), world.host("W"), world.host("V"), world.host("R")
    writer.spawn(lambda: log.append(writer, A))
    other.spawn(lambda: log.append(other, B))
    reader.spawn(lambda: log.read(reader))


@scenario
def who_appends_is_killed(world: World) -> None:
    """W, who may be killed, and V append. R reads."""
    log, writer, other, reader = Log(world), world.host("W"), world.host("V"), world.host("R")
    writer.spawn(lambda: log.append(writer, A))
    other.spawn(lambda: log.append(other, B))
    reader.spawn(lambda: log.read(reader))
    world.mortal = (writer.process,)


@scenario
def who_appended_was_killed(world: World) -> None:
    """A process was killed before it stored the last number. W appends, and R reads the first event."""
    log, killed, writer, reader = Log(world), world.host("K"), world.host("W"), world.host("R")
    killed.log.append(C)
    world.memory.log[layout.lane_last(0)] = 0

    def read() -> None:
        event = reader.log.read(0, 1)
        if event is not None:
            log.see(Position(0, 1), event)

    writer.spawn(lambda: log.append(writer, A))
    reader.spawn(read)


@scenario
def a_slot_is_taken_while_it_is_read(world: World) -> None:
    """W appends an event in the slot of the first one, which R reads."""
    log, writer, reader = Log(world), world.host("W"), world.host("R")
    wrap(writer, A)

    def read() -> None:
        event = reader.log.read(0, 1)
        if event is not None and event != A:
            raise Violation(f"the first event, {A.hashes}, was read as {event.hashes}")

    writer.spawn(lambda: log.append(writer, B))
    reader.spawn(read)


@scenario
def a_slot_is_taken_while_its_mark_is_looked_at(world: World) -> None:
    """W appends an event, and marks it, in the slot of the first one, which never was marked. R looks at that."""
    writer, reader = world.host("W"), world.host("R")
    wrap(writer, A)

    def read() -> None:
        if reader.log.is_stamped(0, 1):
            raise Violation("the first event counts as stamped")

    writer.spawn(lambda: writer.log.mark_stamped(writer.log.append(B)))
    reader.spawn(read)


@scenario
def a_call_of_several_events(world: World) -> None:
    """W, who may be killed, appends what takes two events, which come twice. R reads."""
    log, writer, reader = Log(world), world.host("W"), world.host("R")
    writer.spawn(lambda: log.append_all(writer))
    reader.spawn(lambda: log.read(reader))
    world.mortal = (writer.process,)


@scenario
def a_gateway_stamps_what_its_writer_did_not(world: World) -> None:
    """W, who may be killed, appends, stamps, rings and marks. G stamps what is not marked; then R's copy is void."""
    writer, gateway, reader = world.host("W"), world.host("G"), world.host("R")
    reader.load_near(1)
    hash = world.hash_of(1)

    def write() -> None:
        position = writer.log.append(Event(KEYS, (hash,)))
        writer.board.invalidate((hash,))
        writer.log.mark_stamped(position)

    def tell() -> None:
        began = world.oracle.now()
        for lane, last in gateway.log.lasts().items():
            for number in gateway.log.unstamped(lane, 1):
                event = gateway.log.read(lane, number)
                gateway.board.invalidate((0,) if event is None else event.hashes)
            if last:
                world.tell(("event", 1, began))  # other hosts have heard of it by now

    writer.spawn(write)
    gateway.spawn(tell)
    reader.spawn(lambda: reader.read_near(1))
    world.mortal = (writer.process,)
