"""Small scenarios of the shelf: loads, writes and events of one key, and processes that die there."""

from __future__ import annotations

from collections.abc import Callable

from colocache.core.host.layout import Geometry
from colocache.core.host.logs import MAIN, UNIT_SHIFT, Garbage
from colocache.core.host.shelf import Shelf
from verification.host.board_scenarios import then, times
from verification.host.machine import Violation
from verification.host.oracle import Value
from verification.host.world import Host, World

K, OTHER, PAGE_KEY = 1, 2, 3
SIZE = 80  # bytes of values that fill a ring: with more, a record would be too large for a small log of 1 KiB

SCENARIOS: dict[str, Callable[[World], None]] = {}


def scenario(function: Callable[[World], None]) -> Callable[[World], None]:
    """Register a scenario under its function's name."""
    SCENARIOS[function.__name__] = function
    return function


def last_read(world: World, host: Host, key: int = K) -> None:
    """Have a process read a key at the end, when all has been told."""
    world.at_end.append(lambda: host.read(key))


def beside(one: Host, act: Callable[[], object], other: Host, *acts: Callable[[], object]) -> None:
    """Have one process do something while another one does its own and reads k; the first one reads k at the end."""
    one.spawn(act)
    other.spawn(then(*acts, lambda: other.read(K)))
    last_read(one.world, one)


# --- Loads beside events and writes


@scenario
def a_load_beside_an_invalidation(world: World) -> None:
    """L loads k, fills, and reads it; W invalidates it."""
    writer, loader = world.host("W"), world.host("L")
    beside(writer, lambda: writer.invalidate(K), loader, lambda: loader.load(K))


@scenario
def a_load_beside_a_set(world: World) -> None:
    """L loads k, fills, and reads it; W sets it."""
    writer, loader = world.host("W"), world.host("L")
    beside(writer, lambda: writer.set(K), loader, lambda: loader.load(K))


@scenario
def two_loads_and_an_invalidation(world: World) -> None:
    """L and M load k, one before and one after W invalidates it; who fills last?"""
    writer, loader, other = world.host("W"), world.host("L"), world.host("M")
    loader.spawn(lambda: loader.load(K))
    writer.spawn(then(lambda: writer.invalidate(K), lambda: writer.load(K)))
    last_read(world, other)
    last_read(world, loader)


@scenario
def a_load_while_a_set_is_stamped(world: World) -> None:
    """W sets k, and again; L misses in between, or finds one of them. Its label may be half of each."""
    writer, loader = world.host("W"), world.host("L")
    writer.set(K)
    writer.spawn(lambda: writer.set(K))
    loader.spawn(then(lambda: loader.load(K), lambda: loader.read(K)))
    last_read(world, loader)


@scenario
def a_record_is_read_beside_a_set(world: World) -> None:
    """R reads the record of k, and then its near copy; W sets k."""
    writer, reader = world.host("W"), world.host("R")
    writer.set(K)
    writer.spawn(lambda: writer.set(K))
    reader.spawn(times(2, lambda: reader.read(K)))
    last_read(world, reader)


@scenario
def a_set_with_a_tag_and_an_event_of_it(world: World) -> None:
    """W sets k with a tag; L loads it without; Q invalidates the tag."""
    writer, loader, other = world.host("W"), world.host("L"), world.host("Q")
    loader.spawn(lambda: loader.load(K))
    writer.spawn(then(lambda: writer.set(K, "tag"), lambda: writer.invalidate("tag")))
    last_read(world, loader)
    last_read(world, other)


@scenario
def a_page_made_of_a_part(world: World) -> None:
    """L makes a page of a part, both with one tag, which W invalidates."""
    writer, loader = world.host("W"), world.host("L")
    loader.load(K, "tag")
    loader.read(K)
    writer.spawn(lambda: writer.invalidate("tag"))
    loader.spawn(lambda: loader.load(PAGE_KEY, "tag", parts=(K,)))
    last_read(world, writer, PAGE_KEY)


@scenario
def an_expired_set(world: World) -> None:
    """W's set expires and is replaced by a load; a load from before that is still under way."""
    writer, loader, other = world.host("W"), world.host("L"), world.host("M")
    loader.spawn(lambda: loader.load(K))

    def body() -> None:
        writer.set(K, expires=1.0)
        world.machine.clock = 2.0
        other.load(K)

    writer.spawn(body)
    last_read(world, writer)


@scenario
def a_set_that_expires(world: World) -> None:
    """Nobody is given what has expired."""
    writer, reader = world.host("W"), world.host("R")
    writer.spawn(lambda: writer.set(K, expires=1.0))

    def look() -> None:
        world.machine.clock = 1.0
        for host in (reader, writer):
            if host.read(K) is not None:
                raise Violation("a value was served that had expired")

    reader.spawn(lambda: reader.read(K))
    world.at_end.append(look)


@scenario
def a_key_with_the_place_of_another_one(world: World) -> None:
    """Two keys have one bucket and one tag, so one way."""
    writer, reader = world.host("W"), world.host("R")
    world.rehash(OTHER, world.hash_of(K) ^ 1 << 20)
    writer.set(K)
    writer.spawn(then(lambda: writer.set(OTHER), lambda: writer.read(K)))
    reader.spawn(then(lambda: reader.read(OTHER), lambda: reader.load(K)))
    last_read(world, reader)
    last_read(world, reader, OTHER)


# --- Counters


def all_counted(world: World, host: Host, acknowledged: list[Value | None], *, unless_none: bool = True) -> None:
    """Look at the end whether all increments that were acknowledged are in the counter."""

    def look() -> None:
        value = host.read(K)
        counted = {value.number for value in acknowledged if value is not None and value.what == "incr"}
        if value is None:
            if not unless_none:
                raise Violation("the counter is gone")
        elif not counted <= value.counted:
            raise Violation(f"the counter has {sorted(value.counted)}, and not {sorted(counted)}")

    world.at_end.append(look)


@scenario
def two_count(world: World) -> None:
    """P and Q count, and R reads."""
    one, other = world.host("P"), world.host("Q")
    acknowledged: list[Value | None] = []
    one.incr(K)
    one.spawn(lambda: acknowledged.append(one.incr(K)))
    other.spawn(then(lambda: acknowledged.append(other.incr(K)), lambda: other.read(K)))
    all_counted(world, other, acknowledged, unless_none=False)


@scenario
def a_counter_is_read_while_it_is_counted(world: World) -> None:
    """P counts, and R reads meanwhile: a key that has a value all the time is found."""
    one, reader = world.host("P"), world.host("R")
    one.incr(K)
    one.spawn(lambda: one.incr(K))
    reader.spawn(lambda: must_find(reader, K))


@scenario
def who_counts_is_killed(world: World) -> None:
    """P counts and is killed; Q counts, before or after."""
    one, other = world.host("P"), world.host("Q")
    acknowledged: list[Value | None] = []
    one.incr(K)
    acknowledged.append(one.incr(K))
    one.spawn(lambda: acknowledged.append(one.incr(K)))
    other.spawn(then(lambda: other.read(K), lambda: acknowledged.append(other.incr(K)), lambda: other.read(K)))
    world.mortal = (one.process,)
    all_counted(world, other, acknowledged, unless_none=False)


@scenario
def who_sets_is_killed(world: World) -> None:
    """P sets k once more and is killed; k has a value all the time, the old one or the new one."""
    one, other = world.host("P"), world.host("Q")
    one.set(K)
    one.spawn(lambda: one.set(K))
    other.spawn(lambda: must_find(other, K))
    world.mortal = (one.process,)
    world.at_end.append(lambda: must_find(other, K))


@scenario
def a_count_beside_an_invalidation(world: World) -> None:
    """P counts, and Q invalidates the counter."""
    one, other = world.host("P"), world.host("Q")
    one.incr(K)
    beside(one, lambda: one.incr(K, start=False), other, lambda: other.invalidate(K))


@scenario
def a_count_beside_an_event_of_its_tag(world: World) -> None:
    """P counts, and Q invalidates a tag of the counter."""
    one, other = world.host("P"), world.host("Q")
    one.incr(K, "tag")
    beside(one, lambda: one.incr(K, "tag", start=False), other, lambda: other.invalidate("tag"))


@scenario
def a_touch_beside_an_invalidation(world: World) -> None:
    """P touches k, and Q invalidates it."""
    one, other = world.host("P"), world.host("Q")
    one.load(K)
    beside(one, lambda: one.touch(K), other, lambda: other.invalidate(K))


@scenario
def a_count_beside_a_set(world: World) -> None:
    """P counts, Q sets the number."""
    one, other = world.host("P"), world.host("Q")
    one.incr(K)
    beside(one, lambda: one.incr(K), other, lambda: other.set(K))


# --- Compare and set, add, fenced sets


def compare_and_set(host: Host, *tags: str) -> bool:
    """Get a value, and set what is made of it."""
    got = host.gets(K)
    return got is not None and host.cas(K, got, *tags)


@scenario
def compare_and_set_beside_an_invalidation(world: World) -> None:
    """P compares and sets, and Q invalidates the key."""
    one, other = world.host("P"), world.host("Q")
    one.load(K)
    beside(one, lambda: compare_and_set(one), other, lambda: other.invalidate(K))


@scenario
def compare_and_set_with_a_new_tag(world: World) -> None:
    """What P sets depends on a tag that the value had not; Q invalidates the tag."""
    one, other = world.host("P"), world.host("Q")
    one.load(K)
    beside(one, lambda: compare_and_set(one, "tag"), other, lambda: other.invalidate("tag"))


@scenario
def two_compare_and_set(world: World) -> None:
    """Of two that compare with the same value, one sets."""
    one, other = world.host("P"), world.host("Q")
    one.load(K)
    done: list[bool] = []
    both = [(host, host.gets(K)) for host in (one, other)]
    for host, got in both:
        assert got is not None
        host.spawn(lambda host=host, got=got: done.append(host.cas(K, got)))  # type: ignore[misc]

    def look() -> None:
        if done.count(True) != 1:
            raise Violation(f"two compare with one value and set: {done}")

    world.at_end.append(look)


@scenario
def two_add(world: World) -> None:
    """Of two that add, one does."""
    one, other = world.host("P"), world.host("Q")
    added: list[Value | None] = []
    one.spawn(lambda: added.append(one.add(K)))
    other.spawn(lambda: added.append(other.add(K)))

    def look() -> None:
        if added.count(None) != 1:
            raise Violation(f"two add one key: {added}")

    world.at_end.append(look)


@scenario
def an_add_beside_a_load(world: World) -> None:
    """P adds, while L loads: what P has added stays."""
    one, loader = world.host("P"), world.host("L")
    loader.spawn(then(lambda: loader.load(K), lambda: loader.read(K)))
    one.spawn(lambda: one.add(K))
    world.at_end.append(lambda: must_find(one, K))
    last_read(world, loader)


@scenario
def a_fenced_set_beside_an_invalidation(world: World) -> None:
    """P misses k, and sets it under the fence; Q invalidates it."""
    one, other = world.host("P"), world.host("Q")
    beside(one, lambda: one.miss_and_set(K), other, lambda: other.invalidate(K))


@scenario
def a_fenced_set_beside_a_set(world: World) -> None:
    """P misses k, and sets it under the fence; Q sets it without."""
    one, other = world.host("P"), world.host("Q")
    beside(one, lambda: one.miss_and_set(K), other, lambda: other.set(K))


@scenario
def a_fenced_set_beside_a_set_that_is_void(world: World) -> None:
    """P misses k, and sets it under the fence; Q has set it meanwhile, and invalidated a tag of its value."""
    one, other = world.host("P"), world.host("Q")
    beside(one, lambda: one.miss_and_set(K), other, lambda: other.set(K, "tag"), lambda: other.invalidate("tag"))


@scenario
def a_fenced_set_with_a_tag(world: World) -> None:
    """The tag of a fenced set was not known when the key was missed; Q invalidates it."""
    one, other = world.host("P"), world.host("Q")
    beside(one, lambda: one.miss_and_set(K, "tag"), other, lambda: other.invalidate("tag"))


@scenario
def a_fenced_set_beside_a_fill(world: World) -> None:
    """Q loads k while P sets it under a fence."""
    one, other = world.host("P"), world.host("Q")
    beside(one, then(lambda: one.miss_and_set(K), lambda: one.read(K)), other, lambda: other.load(K))


# --- Locks


@scenario
def a_set_without_the_lock(world: World) -> None:
    """P counts under the lock, so long that W's set gives up; the old value is gone then."""
    one, writer, reader = world.host("P"), world.host("W"), world.host("R")
    one.incr(K)
    reader.read(K)
    one.spawn(lambda: one.incr(K))
    writer.spawn(lambda: writer.set(K))
    last_read(world, reader)
    last_read(world, one)


@scenario
def the_lock_is_lost(world: World) -> None:
    """W and L write at once, because W's process has closed a descriptor of the locks' file."""
    writer, loader = world.host("W"), world.host("L")

    def body() -> None:
        world.machine.yield_now()
        world.machine.lose_locks(writer.process)
        loader.load(K)
        loader.read(K)

    writer.spawn(lambda: writer.set(K))
    loader.spawn(body)
    last_read(world, writer)


# --- Tiny logs


@scenario
def a_record_is_overwritten_while_it_is_read(world: World) -> None:
    """R reads a record whose place W gives to others."""
    writer, reader = world.host("W"), world.host("R")
    fill_main(writer)
    fill_up(writer, K)
    writer.spawn(lambda: writer.set(20, size=SIZE))
    reader.spawn(lambda: reader.read(K))


@scenario
def who_writes_in_a_full_ring_is_killed(world: World) -> None:
    """W makes room, and is killed; afterwards Q can write as before, and what is found is whole."""
    writer, other = world.host("W"), world.host("Q")
    fill_main(writer)
    fill_up(writer, K)
    writer.spawn(lambda: writer.set(20, size=SIZE))
    world.mortal = (writer.process,)
    world.at_end.append(lambda: check_logs(other))
    world.at_end.append(lambda: [other.set(key, size=SIZE) for key in range(30, 60)])
    world.at_end.append(lambda: check_logs(other))
    world.at_end.append(lambda: must_find(other, 59))


@scenario
def a_counter_is_moved_while_it_is_counted(world: World) -> None:
    """W makes room by moving a counter that is used; P counts it; W is killed."""
    one, writer = world.host("P"), world.host("W")
    acknowledged: list[Value | None] = []
    fill_main(writer)
    one.incr(K)
    acknowledged.append(one.incr(K))
    be_found(one)
    fill_up(writer)
    one.spawn(lambda: acknowledged.append(one.incr(K, start=False)))
    writer.spawn(lambda: writer.set(20, size=SIZE))
    world.mortal = (writer.process,)
    all_counted(world, one, acknowledged)


@scenario
def a_record_is_moved_while_its_key_is_set(world: World) -> None:
    """W makes room by moving the old record of k, while S sets k."""
    setter, writer = world.host("S"), world.host("W")
    move_beside(writer, setter, lambda: setter.set(K), lambda: setter.set(K))


@scenario
def a_record_is_moved_while_its_key_is_invalidated(world: World) -> None:
    """W makes room by moving the record of k, while S invalidates k."""
    setter, writer = world.host("S"), world.host("W")
    move_beside(writer, setter, lambda: setter.load(K), lambda: setter.invalidate(K))


def move_beside(writer: Host, setter: Host, store: Callable[[], object], act: Callable[[], object]) -> None:
    """Have a writer move the record of k that another process has stored, while that one does something."""
    fill_main(writer)
    store()
    be_found(setter)
    fill_up(writer)
    setter.spawn(act)
    writer.spawn(lambda: writer.set(20, size=SIZE))
    last_read(setter.world, setter)
    last_read(writer.world, writer)


@scenario
def a_ring_is_reset_beside_a_load(world: World) -> None:
    """Somebody has scribbled over a tail. W resets the ring, while L loads and fills, and reads."""
    writer, loader = world.host("W"), world.host("L")
    fill_main(writer)
    fill_up(writer, K)
    scribble(world)
    beside(writer, lambda: writer.set(20, size=SIZE), loader, lambda: loader.load(K))
    world.at_end.append(lambda: check_logs(writer))


# --- What scenarios use


def fill_main(host: Host) -> None:
    """Write so many records that the next one goes to the small log."""
    logs = host.shelf._logs
    head = logs._line(0) + 1
    _fill(host, 2000, lambda: logs._head[head] > 0)


def fill_up(host: Host, key: int | None = None) -> None:
    """Write so many records that the next one has to make room; the first is that of ``key``."""
    if key is not None:
        host.set(key, size=SIZE)
    logs = host.shelf._logs
    pops = logs.pops
    _fill(host, 1000, lambda: logs.pops != pops)


def _fill(host: Host, number: int, too_far: Callable[[], bool]) -> None:
    """Write records up to the last one with which it is not too far."""
    memory = host.world.machine.memory
    while True:
        before = bytes(memory)
        host.set(number, size=SIZE)
        if too_far():
            memory[:] = before
            host.shelf._logs._living.clear()
            return
        number += 1


def be_found(host: Host) -> None:
    """Have the record of k found so often that it is moved when it comes to a tail."""
    for _ in range(3):
        host.copies.clear()
        host.read(K)


def scribble(world: World) -> None:
    """Write garbage where the small log's tail is."""
    memory = world.memory
    start = memory.shelf_offset + memory.geometry.data_offset
    world.machine.memory[start : start + 32] = b"garbage!" * 4


def must_find(host: Host, key: int) -> None:
    """Raise `Violation` if a key is not found."""
    if host.read(key) is None:
        raise Violation(f"key {key} was set, and is not found")


def check_logs(host: Host) -> None:
    """Raise `Violation` if the logs are none."""
    check_ring(host.shelf, host.world.memory.geometry)


def check_ring(shelf: Shelf, geometry: Geometry) -> None:
    """Raise `Violation` if a log is none, or a way points to no whole record between its tail and its head."""
    logs = shelf._logs
    for ring in range(geometry.rings):
        for log in range(2):
            at = logs._line(ring) + 3 * log
            tail, head = logs._head[at], logs._head[at + 1]
            try:
                while tail < head:
                    record = logs._read(ring, log, tail)
                    tail = record[0] if record else tail + logs._sizes[log] - tail % logs._sizes[log]
            except Garbage as error:
                raise Violation(str(error)) from None
    for way in range(geometry.ways):
        word = logs._index[way]
        if word:
            position = (word & MAIN - 1) << UNIT_SHIFT
            at = logs._line(way // geometry.ring_ways) + (3 if word & MAIN else 0)
            if not logs._head[at] <= position < logs._head[at + 1]:
                raise Violation(f"the way {way} points to {position}: {logs._head[at]} to {logs._head[at + 1]}")
            if shelf._copy(way, word) is None:
                raise Violation(f"the way {way} points to no whole record")
