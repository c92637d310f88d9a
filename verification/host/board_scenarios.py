"""Small scenarios of the board and of near copies: rules V1 to V5 and V7, and the label rule."""

from __future__ import annotations

from collections.abc import Callable

from verification.host.world import Copy, World

SCENARIOS: dict[str, Callable[[World], None]] = {}


def scenario(function: Callable[[World], None]) -> Callable[[World], None]:
    """Register a scenario under its function's name."""
    SCENARIOS[function.__name__] = function
    return function


def times(count: int, act: Callable[[], object]) -> Callable[[], None]:
    """Return a body that does something several times."""

    def body() -> None:
        for _ in range(count):
            act()

    return body


def then(*acts: Callable[[], object]) -> Callable[[], None]:
    """Return a body that does one thing after the other."""

    def body() -> None:
        for act in acts:
            act()

    return body


@scenario
def a_copy_beside_an_invalidation(world: World) -> None:
    """W invalidates k; R has a near copy, and reads it thrice."""
    writer, reader = world.host("W"), world.host("R")
    reader.load_near(1)
    writer.spawn(lambda: writer.invalidate(1))
    reader.spawn(times(3, lambda: reader.read_near(1)))


@scenario
def two_threads_of_the_reader(world: World) -> None:
    """The same with two threads in R's process, which have the near copy in common."""
    writer, reader = world.host("W"), world.host("R")
    reader.load_near(1)
    writer.spawn(lambda: writer.invalidate(1))
    reader.spawn(times(2, lambda: reader.read_near(1)), "R1")
    reader.spawn(times(2, lambda: reader.read_near(1)), "R2")


@scenario
def two_writers(world: World) -> None:
    """W invalidates k and V another key; one of the two rings is lost."""
    writer, other, reader = world.host("W"), world.host("V"), world.host("R")
    reader.load_near(1)
    writer.spawn(lambda: writer.invalidate(1))
    other.spawn(lambda: other.invalidate(2))
    reader.spawn(times(2, lambda: reader.read_near(1)))


@scenario
def the_reader_has_just_invalidated_something(world: World) -> None:
    """R itself invalidates another key, before it reads."""
    writer, reader = world.host("W"), world.host("R")
    reader.load_near(1)
    writer.spawn(lambda: writer.invalidate(1))
    reader.spawn(then(lambda: reader.invalidate_untold(2), times(2, lambda: reader.read_near(1))))


@scenario
def a_copy_of_a_load_beside_an_invalidation(world: World) -> None:
    """R loads k while W invalidates it, and reads twice."""
    writer, reader = world.host("W"), world.host("R")
    writer.spawn(lambda: writer.invalidate(1))
    reader.spawn(then(lambda: reader.load_near(1), times(2, lambda: reader.read_near(1))))


@scenario
def a_record_is_copied_beside_an_invalidation(world: World) -> None:
    """R makes a near copy of a record on the shelf while W invalidates its key, and reads it twice."""
    writer, reader, loader = world.host("W"), world.host("R"), world.host("L")
    loader.load_near(1)
    record: Copy = loader.copies[1]
    writer.spawn(lambda: writer.invalidate(1))
    reader.spawn(then(lambda: reader.copy(record, 1), times(2, lambda: reader.read_near(1))))


@scenario
def two_invalidations_of_one_key(world: World) -> None:
    """W and V invalidate k at once; W may be killed."""
    writer, other, reader = world.host("W"), world.host("V"), world.host("R")
    reader.load_near(1)
    writer.spawn(lambda: writer.invalidate(1))
    other.spawn(lambda: other.invalidate(1))
    reader.spawn(lambda: reader.read_near(1))
    world.mortal = (writer.process,)


@scenario
def a_tag_and_everything(world: World) -> None:
    """A value of k has tag t. W invalidates t and another key in one call, and R loads and reads meanwhile."""
    writer, reader = world.host("W"), world.host("R")
    reader.load_near(1, "t")
    writer.spawn(lambda: writer.invalidate(2, "t"))
    read = lambda: reader.read_near(1)  # noqa: E731
    reader.spawn(then(read, lambda: reader.load_near(1, "t"), read))


@scenario
def everything_is_invalidated(world: World) -> None:
    """The root has one mark, which stands for four."""
    writer, reader = world.host("W"), world.host("R")
    reader.load_near(1)
    writer.spawn(lambda: writer.invalidate("all"))
    reader.spawn(times(2, lambda: reader.read_near(1)))


@scenario
def parent_and_child_invalidate(world: World) -> None:
    """P and its forked child C invalidate one key after the other. R hears of both."""
    parent, reader = world.host("P"), world.host("R")
    reader.load_near(1)
    child = parent.fork("C")
    parent.spawn(lambda: parent.invalidate(2))
    child.spawn(lambda: child.invalidate(1))
    reader.spawn(times(2, lambda: reader.read_near(1)))


@scenario
def a_child_serves_what_its_parent_kept(world: World) -> None:
    """P has a near copy and is forked. The child serves it as long as P may."""
    parent, writer = world.host("P"), world.host("W")
    parent.load_near(1)
    parent.read_near(1)
    child = parent.fork("C")
    writer.spawn(lambda: writer.invalidate(1))
    child.spawn(times(2, lambda: child.read_near(1)))
    parent.spawn(lambda: parent.read_near(1))
