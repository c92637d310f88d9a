"""Small scenarios of claims: who loads a key that several miss, and who waits how long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from verification.host.board_scenarios import then
from verification.host.machine import Violation
from verification.host.shelf_scenarios import K, last_read
from verification.host.world import Host, LoaderFailed, World

SCENARIOS: dict[str, Callable[[World], None]] = {}


def scenario(function: Callable[[World], None]) -> Callable[[World], None]:
    """Register a scenario under its function's name."""
    SCENARIOS[function.__name__] = function
    return function


def loads_at_most(world: World, most: int) -> None:
    """Look at the end how many have loaded, and whether anybody was left waiting for a load that had ended."""

    def look() -> None:
        if world.loads - world.late > most:
            raise Violation(f"{world.loads} loads")

    world.at_end.append(look)


def nobody_waits_out(world: World) -> None:
    """Look at the end whether anybody waited until patience was over."""

    def look() -> None:
        if world.waited_out or world.late:
            raise Violation("somebody waited until patience was over")

    world.at_end.append(look)


def fail() -> None:
    """Raise what a loader raises."""
    raise LoaderFailed


def forgive(act: Callable[[], object]) -> None:
    """Do something, and forget that the loader failed."""
    with contextlib.suppress(LoaderFailed):
        act()


def ask(host: Host, thread: str = "") -> None:
    """Have a process ask for k, and load it if need be."""
    host.spawn(lambda: host.get_or_load(K), thread)


def invalidate_and_ask(host: Host) -> None:
    """Have a process invalidate k, and then ask for it."""
    host.spawn(then(lambda: host.invalidate(K), lambda: host.get_or_load(K)))


@scenario
def two_miss_at_once(world: World) -> None:
    """A and B miss k at once, and nobody fails."""
    for host in (world.host("A"), world.host("B")):
        ask(host)
    loads_at_most(world, 1)
    nobody_waits_out(world)


@scenario
def three_miss_at_once(world: World) -> None:
    """A, B and C miss k at once, and nobody fails."""
    for host in (world.host("A"), world.host("B"), world.host("C")):
        ask(host)
    loads_at_most(world, 1)
    nobody_waits_out(world)


@scenario
def two_threads_of_one_process(world: World) -> None:
    """Two threads of A miss k at once."""
    host = world.host("A")
    for name in ("A1", "A2"):
        ask(host, name)
    loads_at_most(world, 1)
    nobody_waits_out(world)


@scenario
def a_load_and_an_invalidation(world: World) -> None:
    """A loads; W invalidates, and reads, and does not wait for A's load."""
    loader, writer = world.host("A"), world.host("W")
    ask(loader)
    invalidate_and_ask(writer)
    nobody_waits_out(world)
    last_read(world, loader)


@scenario
def a_waiter_and_an_invalidation(world: World) -> None:
    """A loads, B waits, W invalidates."""
    loader, waiter, writer = world.host("A"), world.host("B"), world.host("W")
    ask(loader)
    ask(waiter)
    writer.spawn(lambda: writer.invalidate(K))
    last_read(world, waiter)


@scenario
def a_load_that_never_ends_and_an_invalidation(world: World) -> None:
    """A's loader hangs. W invalidates the key, and then loads it at once."""
    loader, writer = world.host("A"), world.host("W")
    hang(world, loader)
    begun = lambda: world.loads > 0  # noqa: E731
    writer.spawn(then(lambda: world.machine.wait(begun), lambda: writer.invalidate(K), lambda: writer.get_or_load(K)))
    nobody_waits_out(world)


@scenario
def a_load_that_never_ends(world: World) -> None:
    """A's loader hangs. B waits until its patience is over, and then loads."""
    loader, waiter = world.host("A"), world.host("B")
    hang(world, loader)
    waiter.spawn(lambda: waiter.get_or_load(K, patience=0.1))


def hang(world: World, host: Host) -> None:
    """Have a process hang in a loader of k."""
    host.spawn(lambda: host.get_or_load(K, loader=lambda: world.machine.wait(lambda: False)))
    world.hanging = (host.process.name,)


@scenario
def the_holder_is_killed(world: World) -> None:
    """A loads and is killed; B takes over without delay."""
    loader, waiter = world.host("A"), world.host("B")
    ask(loader)
    ask(waiter)
    world.mortal = (loader.process,)
    nobody_waits_out(world)


@scenario
def the_holder_is_killed_beside_an_invalidation(world: World) -> None:
    """A loads and is killed; W invalidates and loads."""
    loader, writer = world.host("A"), world.host("W")
    ask(loader)
    invalidate_and_ask(writer)
    world.mortal = (loader.process,)
    nobody_waits_out(world)


@scenario
def the_loader_raises(world: World) -> None:
    """A's loader raises; who waits takes over, in its own process and in another one."""
    loader, waiter = world.host("A"), world.host("B")
    loader.spawn(lambda: forgive(lambda: loader.get_or_load(K, loader=fail)), "A1")
    ask(loader, "A2")
    ask(waiter)
    nobody_waits_out(world)


@scenario
def a_set_beside_a_claimed_load(world: World) -> None:
    """S sets k, while A loads it and B waits."""
    loader, waiter, setter = world.host("A"), world.host("B"), world.host("S")
    ask(loader)
    ask(waiter)
    setter.spawn(lambda: setter.set(K))
    last_read(world, waiter)
    last_read(world, loader)


@scenario
def an_add_beside_a_claimed_load(world: World) -> None:
    """S adds k, while A loads it."""
    loader, setter = world.host("A"), world.host("S")
    loader.spawn(then(lambda: loader.get_or_load(K), lambda: loader.get_or_load(K)))
    setter.spawn(lambda: setter.add(K))
    last_read(world, setter)
    last_read(world, loader)


@scenario
def a_child_of_a_loader(world: World) -> None:
    """P is forked while one of its threads loads k. The child reads k."""
    parent, other = world.host("P"), world.host("Q")

    def forks() -> None:
        child = parent.fork("C")
        ask(child)

    parent.spawn(lambda: parent.get_or_load(K, loader=forks))
    ask(other)
    nobody_waits_out(world)


@scenario
def a_waiter_takes_what_is_not_current(world: World) -> None:
    """A's load is older than W's event. C loads after the event, and B waits for C. Then A fills."""
    old, writer, holder, waiter = world.host("A"), world.host("W"), world.host("C"), world.host("B")
    machine, done = world.machine, list[int]()
    old.spawn(lambda: old.get_or_load(K, loader=lambda: machine.wait(lambda: world.loads == 2)))
    writer.spawn(
        then(lambda: machine.wait(lambda: world.loads == 1), lambda: writer.invalidate(K), lambda: done.append(1))
    )
    holder.spawn(
        then(
            lambda: machine.wait(lambda: bool(done)),
            lambda: holder.get_or_load(K, loader=lambda: machine.wait(lambda: False, until=machine.clock + 0.2)),
        )
    )
    waiter.spawn(then(lambda: machine.wait(lambda: world.loads == 2), lambda: waiter.get_or_load(K)))
