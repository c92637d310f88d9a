"""A shelf over plain memory. Its processes can be made to die before any store, and be overtaken before any step."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from colocache.core.host import hashes
from colocache.core.host.board import GROUP, WRITES_AT, Board, Label
from colocache.core.host.layout import Geometry, ShelfMemory, geometry
from colocache.core.host.memory import Bytes, HostLease, Words
from colocache.core.host.numbers import Numbers
from colocache.core.host.shelf import Shelf
from colocache.core.hosts.lease import FOREVER

MARKS = 1 << 15
SMALLEST = 64 << 10  # bytes: one ring, with a small log of 8 KiB


class Death(BaseException):
    """A process dies. Nothing that comes after it in its program happens."""


class Steps:
    """The loads and stores of one process: it may die before a store, and others may do something before any step."""

    def __init__(self) -> None:
        self.stores_left: int | None = None
        self.steps_left: int | None = None
        self.others: Callable[[], object] = lambda: None
        self.journal: list[str] = []  # what was stored, and which fences were between

    def load(self) -> None:
        """Note that something is about to be loaded."""
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.steps_left = None
                self.others()

    def store(self, what: str) -> None:
        """Note that something is about to be stored."""
        if self.stores_left is not None:
            if self.stores_left == 0:
                raise Death
            self.stores_left -= 1
        self.load()
        self.journal.append(what)


class StepWords:
    """Words as one process loads and stores them."""

    def __init__(self, name: str, words: Words, steps: Steps) -> None:
        self._name, self._words, self._steps = name, words, steps

    def __getitem__(self, place: int) -> int:
        self._steps.load()
        return self._words[place]

    def __setitem__(self, place: int, value: int) -> None:
        self._steps.store(f"{self._name} {place}")
        self._words[place] = value


class StepBytes:
    """Bytes as one process loads and stores them, in two halves."""

    def __init__(self, data: Bytes, steps: Steps) -> None:
        self._data, self._steps = data, steps

    def __getitem__(self, part: slice) -> bytes:
        half = part.start + (part.stop - part.start) // 2
        self._steps.load()
        first = self._data[part.start : half]
        self._steps.load()
        return first + self._data[half : part.stop]

    def __setitem__(self, part: slice, value: bytes) -> None:
        half = len(value) // 2
        self._steps.store("data")
        self._data[part.start : part.start + half] = value[:half]
        self._steps.store("data")
        self._data[part.start + half : part.stop] = value[half:]


class StepFences:
    """The fences of one process. There is but one processor, so all is in order without them."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def order(self) -> None:
        """Note it."""
        self._steps.journal.append("order")

    def full(self) -> None:
        """Note it."""
        self._steps.journal.append("full")


class Locks:
    """The locks of rings, as one process takes them. The kernel gives back those of the dead."""

    def __init__(self, holders: dict[int, object]) -> None:
        """``holders`` are those of all processes."""
        self._holders = holders

    def lock(self, ring: int) -> bool:
        """Take a lock that nobody has."""
        return self._holders.setdefault(ring, self) is self

    def unlock(self, ring: int) -> None:
        """Give it back, if this process has it."""
        if self._holders.get(ring) is self:
            del self._holders[ring]

    def free_all(self) -> None:
        """Do what the kernel does when the process dies."""
        for ring in [ring for ring, holder in self._holders.items() if holder is self]:
            del self._holders[ring]


class Process:
    """One process of a host."""

    def __init__(self, host: Host, writer: int) -> None:
        steps, memory = Steps(), host.memory
        self.steps, self.numbers, self.fences = steps, Numbers(writer), StepFences(steps)
        self.locks = Locks(host.holders)
        bell, marks = StepWords("bell", host.bell, steps), StepWords("mark", host.marks, steps)
        self.board = Board(bell, marks, MARKS, self.numbers, self.fences)

        def bucket(start: int) -> tuple[int, ...]:
            steps.load()
            return memory.bucket(start)

        mine = ShelfMemory(
            geometry=host.geometry,
            head=StepWords("head", memory.head, steps),
            index=StepWords("way", memory.index, steps),
            bucket=bucket,
            used=StepWords("used", memory.used, steps),
            ghosts=StepWords("ghost", memory.ghosts, steps),
            data=StepBytes(memory.data, steps),
            words=StepWords("word", memory.words, steps),
            grow=memory.grow,
        )
        self.shelf = Shelf(mine, self.board, self.numbers, self.fences, self.locks, lambda: host.now, host.lease)


class Host:
    """The memory of one host, its clock, the files' room, and the process that the test is in at present."""

    def __init__(self, capacity: int = SMALLEST, room: int | None = None, lease: HostLease = FOREVER) -> None:
        """``room`` are the bytes that logs may grow by; None for as many as they like."""
        self.geometry: Geometry = geometry(capacity)
        self.map = mmap.mmap(-1, self.geometry.total_size)
        self.now = 1000.0
        self.lease = lease
        self.room = room
        self.grown: list[tuple[int, int]] = []
        self.holders: dict[int, object] = {}
        self.memory = ShelfMemory.over(self.map, self.geometry, self._grow)
        words = memoryview(mmap.mmap(-1, 8 * (2 + MARKS))).cast("Q")
        self.bell, self.marks = words[:1], words[1:]
        self._writers = 0
        self.enter()

    def _grow(self, start: int, end: int) -> bool:
        if self.room is not None:
            if end - start > self.room:
                return False
            self.room -= end - start
        self.grown.append((start, end))
        return True

    def process(self) -> Process:
        """Return another process."""
        self._writers += 1
        return Process(self, self._writers)

    def enter(self) -> None:
        """Be in another process from now on."""
        self.present = self.process()
        self.shelf, self.board, self.numbers = self.present.shelf, self.present.board, self.present.numbers

    def dies(self, action: Callable[[], object], after: int) -> bool:
        """Let the process die after so many stores of an action; return whether it did. Then be in another one."""
        dying = self.present
        dying.steps.stores_left = after
        try:
            action()
        except Death:
            return True
        finally:
            dying.steps.stores_left = None
            dying.locks.free_all()
            self.enter()
        return False

    def overtaken(self, action: Callable[[], object], at: int, others: Callable[[], object]) -> bool:
        """Do something, and let others do something before its step ``at``; return whether it has so many steps."""
        steps = self.present.steps
        steps.steps_left, steps.others = at, others
        try:
            action()
            return steps.steps_left is None
        finally:
            steps.steps_left = None


def groups(label: Label) -> list[bytes]:
    """Return the groups of a label, in their order."""
    return [label[at : at + GROUP.size] for at in range(0, len(label), GROUP.size)]


def but_writes(label: Label) -> Label:
    """Return the label of a key without its third group, which is that of the writes to the key."""
    return label[:WRITES_AT] + label[WRITES_AT + GROUP.size :]


def keys_of_one_bucket(count: int, shelf_geometry: Geometry, prefix: str = "key") -> list[bytes]:
    """Return wire keys that share a bucket."""
    found: list[bytes] = []
    for number in range(1 << 30):
        wire = f"{prefix}{number}".encode()
        if hashes.key_hash(wire) & shelf_geometry.ways - 1 & -8 == 0:
            found.append(wire)
            if len(found) == count:
                break
    return found
