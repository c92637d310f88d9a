"""A simulated host: memory that shows stores late and loads early, and processes that may be killed between two steps.

The code of `colocache.core.host` runs over it unchanged. Each simulated thread is a greenlet. It can be interrupted
before a load, a store, a full fence and an operation of a lock, and nowhere else. What happens there is chosen by a
`Policy`: by dice, or by enumeration. So a run follows from its choices, and can be repeated.

**Memory.** Each thread has a store buffer, in which its own loads find its stores. On x86 it is drained in order
(Sewell, Sarkar, Owens, Zappa Nardelli, Myreen: "x86-TSO", CACM 53(7), 2010). With ``weak=True`` it is drained in any
order, but stores to the same bytes stay in theirs, and `order` puts a barrier into it. There a load may also be made
early: it gives what stood in the word at any moment since the thread's last fence, but nothing older than what the
thread has seen or stored there. That a load is made late is the same as that those after it are made early. This is
less than what ARM allows (Pulte, Flur, Deacon, French, Sarkar, Sewell: "Simplifying ARM concurrency", POPL 2018) in one
way: no store becomes visible before an earlier load is made. Our fences on such machines are full ones, so only loads
and stores with no fence between them could do that. It is more in another way: a load whose place depends on another
load may be made before that.

Slices are stored and loaded in pieces of 8 to 64 bytes, in any order.

**Threads** of one process have an interpreter lock in common: when another one of them goes on, what the last one has
stored is visible. **Killed** processes take no more steps; their buffers are drained some time later, and after that
the kernel frees their locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, auto
from itertools import pairwise
from typing import Any, NoReturn, Protocol

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]

WORD = 8
CHECKS, FENCE, RINGS = -1, -2, -3  # "offsets" of steps that touch no memory; those of rings' and claims' locks follow
RINGS_AT_MOST = 1 << 16
_LANES = RINGS_AT_MOST // 2  # the first lane's lock among those of rings
FOREVER = 1000.0  # s
PIECES = (8, 16, 32, 64)  # bytes

Payload = int | bytes  # of a store: a word, or some bytes
Store = tuple[int, Payload]  # offset in bytes, what is stored there
Old = tuple[int, bytes]  # offset in bytes, what stood there before


class Violation(Exception):
    """What must not happen has happened."""


class State(Enum):
    """Of a process."""

    RUNS = auto()
    STOPPED = auto()
    KILLED = auto()  # its stores may still wait, and it may still have locks
    BURIED = auto()


class Hold(Enum):
    """Whether a store waits in a buffer."""

    NOT = auto()
    WITH_ALL_LATER = auto()
    ALONE = auto()  # on a weak machine: later ones may overtake it


class Process:
    """A simulated process. Its threads have all Python objects of it in common."""

    def __init__(self, name: str, number: int = -1) -> None:
        self.name = name
        self.number = number
        self.state = State.RUNS
        self.threads: list[Thread] = []
        self.last: Thread | None = None  # who had the interpreter lock last
        self.inner: dict[int, Thread] = {}  # the locks of rings, among its threads
        self.trace = 0  # the hash of all that its threads have seen, in order


class Thread:
    """A simulated thread. It gives a `Violation`, if it raises one, to whoever runs the machine."""

    def __init__(self, name: str, number: int, process: Process, body: Callable[[], object]) -> None:
        self.name = name
        self.number = number
        self.process = process
        self.buffer: list[Store | None] = []  # oldest first; None is a barrier
        self.in_order = True  # whether its buffer is drained in order
        self.window = 0  # the length of the journal at its last fence
        self.seen: dict[int, int] = {}  # word → length of the journal when what the thread saw there was stored
        self.waits: Callable[[], bool] | None = None
        self.wakes_at: float | None = None  # on the machine's clock
        self.gives_up = False  # the wait for a ring's lock takes too long
        self.is_over = False
        self.greenlet = greenlet(self._main)
        self._body = body
        process.threads.append(self)

    def _main(self) -> None:
        try:
            self._body()
        except GreenletExit:
            raise  # the machine was closed
        finally:
            self.is_over = True

    def can_go_on(self) -> bool:
        """Tell whether it can take a step now."""
        if self.is_over or self.process.state is not State.RUNS:
            return False
        return self.waits is None or self.waits()


class Policy(Protocol):
    """Who chooses."""

    def steps(self) -> int:
        """Return how many steps a thread takes, when it goes on, before it is interrupted again."""

    def pause(self, machine: Machine, thread: Thread, offset: int, size: int, stores: bool) -> Thread | None:
        """Choose who goes on at an interruption of a thread that could go on itself; None if nobody can.

        It may drain, kill, stop and continue meanwhile. The thread's next step loads or stores ``size`` bytes from
        ``offset`` on, or does something else, which has an offset below 0.
        """

    def next(self, machine: Machine) -> Thread | None:
        """Choose who goes on when the last thread waits, or is over; None if nobody can."""

    def holds(self, machine: Machine, thread: Thread) -> Hold:
        """Choose whether a store waits in the buffer."""

    def age(self, machine: Machine, choices: int) -> int:
        """Choose what a load gives: 0 is the newest."""

    def pieces(self, machine: Machine, size: int) -> tuple[int, bool]:
        """Choose the pieces of a slice: how large they are, and whether the last one goes first."""

    def gives_up(self, machine: Machine, thread: Thread) -> bool:
        """Tell whether a thread does not wait for the lock of a ring that it found taken."""


class Straight:
    """One thread after the other, with everything in order: for what comes before and after a history."""

    def steps(self) -> int:
        """Never interrupt."""
        return 1 << 60

    def pause(self, machine: Machine, thread: Thread, offset: int, size: int, stores: bool) -> Thread | None:
        """Go on."""
        return thread

    def next(self, machine: Machine) -> Thread | None:
        """Take the first that can."""
        return next((thread for thread in machine.threads if thread.can_go_on()), None)

    def holds(self, machine: Machine, thread: Thread) -> Hold:
        """Store at once."""
        return Hold.NOT

    def age(self, machine: Machine, choices: int) -> int:
        """Load what is there."""
        return 0

    def pieces(self, machine: Machine, size: int) -> tuple[int, bool]:
        """Leave slices whole, nearly."""
        return 64, False

    def gives_up(self, machine: Machine, thread: Thread) -> bool:
        """Wait."""
        return False


class Machine:
    """The memory, the locks, the clock and the processes of one simulated host."""

    def __init__(self, size: int, *, weak: bool = False, traced: bool = False) -> None:
        """``size`` is in bytes. ``traced`` keeps a `fingerprint`."""
        self.memory = bytearray(-(-size // WORD) * WORD)
        self.words = memoryview(self.memory).cast("Q")
        self.weak = weak
        self.policy: Policy = Straight()
        self.processes: list[Process] = []
        self.threads: list[Thread] = []
        self.holders: dict[int, Process] = {}  # of the rings' locks, as the kernel knows them
        self.claims: dict[int, Process] = {}  # the same for bytes of claims
        self.clock = 0.0
        self.outside = Thread("outside", -1, Process("outside"), lambda: None)  # whose steps are never interrupted
        self.outside.process.threads.clear()
        self.current = self.outside
        self.journal: list[Old] = []  # what every store has replaced, on a weak machine
        self.traced = traced
        self.content = 0  # the hash of the memory, if traced
        self.events = 0  # the hash of what the checks have noted, if traced
        self.left = 1 << 60  # steps to the next interruption; 0 or less if each is looked at
        self._saved = 0  # the same, while each is looked at
        self._used = 0
        self._hub = getcurrent()
        self.is_closed = False
        self._end: BaseException | None = None

    # --- Making one

    def allocate(self, size: int) -> int:
        """Return the offset of so many bytes, at the begin of a cache line."""
        start = self._used
        self._used += -(-size // 64) * 64
        if self._used > len(self.memory):
            raise ValueError(f"{self._used} bytes are allocated of {len(self.memory)}")
        return start

    def process(self, name: str) -> Process:
        """Return a new process."""
        process = Process(name, len(self.processes))
        self.processes.append(process)
        return process

    def thread(self, process: Process, name: str, body: Callable[[], object]) -> Thread:
        """Return a new thread of a process. It runs ``body``."""
        thread = Thread(name, len(self.threads), process, body)
        thread.greenlet.parent = self._hub
        thread.window = len(self.journal)
        self.threads.append(thread)
        return thread

    # --- Running

    def run(self, policy: Policy) -> None:
        """Let the threads run until nobody can go on."""
        self.policy = policy
        self._hub = getcurrent()
        for thread in self.threads:
            if not thread.is_over:
                thread.greenlet.parent = self._hub
        try:
            while not self.is_closed and (chosen := self.policy.next(self)) is not None:
                self._go_on(chosen)
        except BaseException as error:
            raise self._end or error from None
        finally:
            self.policy = Straight()
            self.current = self.outside
            self.left, self._saved = 1 << 60, 0
        if self._end is not None:
            raise self._end

    def end(self, error: BaseException) -> NoReturn:
        """End the run with an exception. No thread takes a step any more, not even in a ``finally``."""
        if self._end is None:
            self._end = error
        self.is_closed = True
        self.left = self._saved = 0
        raise error

    def settle(self) -> None:
        """Have all stores seen, and the dead buried."""
        for thread in self.threads:
            self.drain_all(thread)
        for process in self.processes:
            if process.state is State.KILLED:
                self.bury(process)

    def close(self) -> None:
        """End the threads that are left, whose steps do nothing any more."""
        self.is_closed = True
        self.left = 0
        for thread in self.threads:
            while not thread.is_over and thread.greenlet:
                thread.greenlet.parent = getcurrent()
                thread.greenlet.throw(GreenletExit)
            thread.is_over = True

    def _go_on(self, thread: Thread) -> None:
        """Let a thread go on in place of the current one. Return when that one goes on, or, outside, at an end."""
        process = thread.process
        if process.last is not thread:
            for mate in process.threads:
                if mate.buffer and mate is not thread:
                    self.drain_all(mate)
            if self.weak:
                self.refresh(thread)
            process.last = thread
        thread.waits, thread.wakes_at = None, None
        self.current = thread
        self._set_pace(self.policy.steps())
        thread.greenlet.switch()

    def _set_pace(self, steps: int) -> None:
        if self.weak or self.traced or self.current.buffer:
            self.left, self._saved = 0, steps
        else:
            self.left = steps

    def _step(self, offset: int, size: int, stores: bool = False) -> Thread:
        """Come to a step of the current thread, which may be interrupted before it.

        It loads or stores ``size`` bytes; an ``offset`` below 0 stands for what is no memory.
        """
        thread = self.current
        if self.is_closed:
            raise GreenletExit
        if self.left > 0:
            self.left -= 1
        elif self._saved > 0:
            self._saved -= 1
        elif thread is not self.outside:
            chosen = self.policy.pause(self, thread, offset, size, stores)
            if chosen is thread:
                if self.weak or self.traced or thread.buffer:
                    self._saved = self.policy.steps()
                else:
                    self.left = self.policy.steps()
            elif chosen is None:
                self._hub.switch()
            else:
                self._go_on(chosen)
            if self.is_closed:
                raise GreenletExit
        if self.traced:
            process = thread.process
            process.trace = hash((process.trace, thread.number))
        return thread

    def wait(self, condition: Callable[[], bool] | None, until: float | None = None) -> None:
        """Have the current thread wait for a condition, if there is one, or until a moment of the clock."""
        thread = self.current
        if condition is None:
            assert until is not None
            condition = lambda: self.clock >= until  # noqa: E731
        elif until is not None:
            before = condition
            condition = lambda: before() or self.clock >= until  # noqa: E731
        while not condition():
            thread.waits, thread.wakes_at = condition, until
            chosen = self.policy.next(self)
            if chosen is None:
                self._hub.switch()
            elif chosen is not thread:
                self._go_on(chosen)
            if self.is_closed:
                raise GreenletExit
        thread.waits, thread.wakes_at = None, None

    def yield_now(self) -> None:
        """Come to a step that touches no memory."""
        self._step(CHECKS, 0, True)

    def advance(self) -> bool:
        """Move the clock to the next moment that a thread waits for; return False if there is none."""
        moments = [
            thread.wakes_at
            for thread in self.threads
            if thread.wakes_at is not None and not thread.is_over and thread.process.state is State.RUNS
        ]
        if not moments:
            return False
        self.clock = max(self.clock, min(moments))
        if self.clock > FOREVER:
            self.end(Violation("somebody waits for ever"))
        return True

    def note(self, *what: Any) -> None:
        """Take into the fingerprint what a check depends on."""
        if self.traced:
            self.events = hash((self.events, *what))

    # --- Deaths, stops

    def kill(self, process: Process) -> None:
        """End a process now. It takes no more steps."""
        process.state = State.KILLED

    def bury(self, process: Process) -> None:
        """Drain the buffers of a killed process, and have the kernel free its locks."""
        for thread in process.threads:
            self.drain_all(thread)
        process.state = State.BURIED
        self.lose_locks(process)

    def lose_locks(self, process: Process) -> None:
        """Take a process's record locks away, of which it notices nothing: a descriptor of their file was closed."""
        for locks in (self.holders, self.claims):
            for place in [place for place, holder in locks.items() if holder is process]:
                del locks[place]

    def stop(self, process: Process) -> None:
        """Stop a process, as SIGSTOP does."""
        for thread in process.threads:
            self.drain_all(thread)
        process.state = State.STOPPED

    def go_on(self, process: Process) -> None:
        """Let a stopped process go on."""
        process.state = State.RUNS
        process.last = None

    # --- Memory

    def refresh(self, thread: Thread) -> None:
        """Let a thread see nothing any more that is older than now."""
        thread.window = len(self.journal)
        thread.seen.clear()

    def drainable(self, thread: Thread) -> list[int]:
        """Return which stores of a thread's buffer can become visible next."""
        buffer = thread.buffer
        if thread.in_order:
            return [0] if buffer else []
        free: list[int] = []
        taken: list[tuple[int, int]] = []
        for place, store in enumerate(buffer):
            if store is None:
                break
            start, end = store[0], store[0] + _size(store[1])
            if all(end <= other or start >= other_end for other, other_end in taken):
                free.append(place)
            taken.append((start, end))
        return free

    def drain(self, thread: Thread, place: int = 0) -> None:
        """Make a store visible that waits in a thread's buffer."""
        buffer = thread.buffer
        store = buffer.pop(place)
        while buffer and buffer[0] is None:
            del buffer[0]
        assert store is not None
        self._write(thread, *store)
        if not buffer and thread is self.current and not (self.weak or self.traced):
            self.left, self._saved = self._saved, 0

    def drain_all(self, thread: Thread) -> None:
        """Make all stores visible that wait in a thread's buffer."""
        while thread.buffer:
            self.drain(thread)

    def _write(self, thread: Thread, offset: int, payload: Payload) -> None:
        size = _size(payload)
        memory = self.memory
        if self.weak:
            self.journal.append((offset, bytes(memory[offset : offset + size])))
            for word in range(offset // WORD, (offset + size - 1) // WORD + 1):
                thread.seen[word] = len(self.journal)
        if self.traced:
            self._hash_words(offset, size)
        if isinstance(payload, int):
            self.words[offset // WORD] = payload
        else:
            memory[offset : offset + size] = payload
        if self.traced:
            self._hash_words(offset, size)

    def _hash_words(self, offset: int, size: int) -> None:
        for word in range(offset // WORD, (offset + size - 1) // WORD + 1):
            self.content ^= hash((word, self.words[word]))

    def _store(self, thread: Thread, offset: int, payload: Payload) -> None:
        buffer = thread.buffer
        if not buffer:
            hold = Hold.NOT if thread is self.outside else self.policy.holds(self, thread)
            if hold is Hold.NOT:
                self._write(thread, offset, payload)
                return
            thread.in_order = hold is Hold.WITH_ALL_LATER or not self.weak
            if not (self.weak or self.traced):
                self.left, self._saved = 0, self.left
        buffer.append((offset, payload))
        last = len(buffer) - 1
        if last and not thread.in_order and last in self.drainable(thread):
            overtakes = self.policy.holds(self, thread) is Hold.NOT
            if overtakes:
                self.drain(thread, last)

    def _load(self, thread: Thread, offset: int, size: int) -> bytes:
        """Return bytes as a thread sees them, all of one moment."""
        memory = self.memory
        if not (self.weak or thread.buffer):
            return bytes(memory[offset : offset + size])
        seen = bytearray(memory[offset : offset + size])
        if self.weak and thread.window < len(self.journal) and thread is not self.outside:
            self._make_older(thread, offset, seen)
        end = offset + size
        for store in thread.buffer:
            if store is not None:
                start, payload = store
                raw = payload.to_bytes(WORD, "little") if isinstance(payload, int) else payload
                low, high = max(start, offset), min(start + len(raw), end)
                if low < high:
                    seen[low - offset : high - offset] = raw[low - start : high - start]
        return bytes(seen)

    def _make_older(self, thread: Thread, offset: int, seen: bytearray) -> None:
        """Choose among what the bytes were since the thread's last fence."""
        journal, end = self.journal, offset + len(seen)
        words = range(offset // WORD, (end - 1) // WORD + 1)
        floor = max(thread.window, *[thread.seen.get(word, 0) for word in words])
        changes = [
            place for place in range(floor, len(journal))
            if journal[place][0] < end and journal[place][0] + len(journal[place][1]) > offset
        ]  # fmt: skip
        age = self.policy.age(self, len(changes) + 1) if changes else 0
        for place in reversed(changes[len(changes) - age :]):
            start, old = journal[place]
            low, high = max(start, offset), min(start + len(old), end)
            seen[low - offset : high - offset] = old[low - start : high - start]
        at = changes[len(changes) - age] if age else len(journal)
        if len(words) == 1:
            thread.seen[words[0]] = at

    def _windows(self, thread: Thread) -> Any:
        """Return what a thread may see that is older than the present, by words."""
        older: dict[int, list[bytes]] = {}
        seen, window = thread.seen, thread.window
        for place in range(window, len(self.journal)):
            offset, old = self.journal[place]
            for word in range(offset // WORD, (offset + len(old) - 1) // WORD + 1):
                if seen.get(word, 0) <= place:
                    older.setdefault(word, []).append(old)
        return tuple(sorted([(word, tuple(olds)) for word, olds in older.items()]))

    def fingerprint(self) -> int:
        """Return a hash of all on which the future depends, if the machine is traced."""
        threads = []
        for thread in self.threads:
            has_run = thread.process.last is thread
            if thread.buffer or not thread.is_over:
                threads.append((
                    thread.number, thread.is_over, thread.waits is None, has_run, thread.in_order, tuple(thread.buffer),
                    self._windows(thread) if self.weak and has_run else (),
                ))  # fmt: skip
        return hash((
            self.content,
            self.events,
            self.clock,
            tuple(threads),
            tuple([(process.trace, process.state) for process in self.processes]),
            tuple(sorted([(place, process.name) for place, process in self.holders.items()])),
            tuple(sorted([(place, process.name) for place, process in self.claims.items()])),
        ))  # fmt: skip


def _size(payload: Payload) -> int:
    return WORD if isinstance(payload, int) else len(payload)


# --- What the core is given


class SimulatedNumbers:
    """Numbers of 1, 4 or 8 bytes in the memory of a machine."""

    def __init__(self, machine: Machine, offset: int, count: int, size: int) -> None:
        self._machine = machine
        self._offset = offset
        self._size = size
        self._limit = 1 << 8 * size
        view = memoryview(machine.memory)[offset : offset + count * size]
        self._view = view if size == 1 else view.cast("I" if size == 4 else "Q")

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, place: int, /) -> int:
        machine = self._machine
        if machine.left > 0:
            machine.left -= 1
            return self._view[place]
        size = self._size
        offset = self._offset + size * place
        thread = machine._step(offset, size)
        value = self._view[place]
        if thread.buffer or (machine.weak and thread.window < len(machine.journal)):
            value = int.from_bytes(machine._load(thread, offset, size), "little")
        if machine.traced:
            thread.process.trace = hash((thread.process.trace, value))
        return value

    def __setitem__(self, place: int, value: int, /) -> None:
        machine = self._machine
        size = self._size
        if not (0 <= value < self._limit and 0 <= place < len(self._view)):
            self._view[place] = value  # which raises
        offset = self._offset + size * place
        payload = value if size == WORD else value.to_bytes(size, "little")
        machine._store(machine._step(offset, size, True), offset, payload)


class SimulatedWords(SimulatedNumbers):
    """Words in the memory of a machine: `colocache.core.host.memory.Words`."""

    def __init__(self, machine: Machine, offset: int, count: int) -> None:
        super().__init__(machine, offset, count, WORD)

    def several(self, place: int, count: int) -> tuple[int, ...]:
        """Return so many words, loaded one after another."""
        machine = self._machine
        if machine.left >= count:
            machine.left -= count
            return tuple(self._view[place : place + count])
        return tuple([self[each] for each in range(place, place + count)])


class SimulatedBytes:
    """Bytes in the memory of a machine: `colocache.core.host.memory.Bytes`."""

    def __init__(self, machine: Machine, offset: int, size: int) -> None:
        self._machine = machine
        self._offset = offset
        self._size = size

    def _pieces(self, start: int, end: int) -> Iterable[tuple[int, int]]:
        """Cut at multiples of a piece's size."""
        machine = self._machine
        size, backwards = machine.policy.pieces(machine, end - start)
        if machine.traced:
            process = machine.current.process
            process.trace = hash((process.trace, size, backwards))
        first = (start // size + 1) * size
        if first >= end:
            return ((start, end),)
        pieces = list(pairwise((start, *range(first, end, size), end)))
        return reversed(pieces) if backwards else pieces

    def _bounds(self, part: slice) -> tuple[int, int]:
        start, end, stride = part.indices(self._size)
        assert stride == 1
        return self._offset + start, self._offset + max(start, end)

    def __getitem__(self, part: slice, /) -> bytes:
        machine = self._machine
        start, end = self._bounds(part)
        count = (end - start) // 64 + 1
        if machine.left > count:
            machine.left -= count
            return bytes(machine.memory[start:end])
        if start == end:
            return b""
        found = []
        for low, high in self._pieces(start, end):
            thread = machine._step(low, high - low)
            found.append((low, machine._load(thread, low, high - low)))
        whole = b"".join([piece for _, piece in sorted(found)])
        if machine.traced:
            process = machine.current.process
            process.trace = hash((process.trace, whole))
        return whole

    def __setitem__(self, part: slice, value: bytes, /) -> None:
        machine = self._machine
        start, end = self._bounds(part)
        if len(value) != end - start:
            raise IndexError(f"{len(value)} bytes for a slice of {end - start}")
        view = memoryview(value)
        for low, high in self._pieces(start, end) if value else ():
            thread = machine._step(low, high - low, True)
            machine._store(thread, low, bytes(view[low - start : high - start]))


class SimulatedFences:
    """`colocache.core.host.memory.Fences`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def order(self) -> None:
        """Put a barrier between the stores, and between the loads."""
        machine = self._machine
        if machine.weak:
            thread = machine.current
            if thread.buffer and thread.buffer[-1] is not None:
                thread.buffer.append(None)
            machine.refresh(thread)

    def full(self) -> None:
        """Wait until all stores are seen."""
        machine = self._machine
        thread = machine._step(FENCE, 0)
        machine.drain_all(thread)
        machine.refresh(thread)


class SimulatedRingLocks:
    """`colocache.core.host.memory.RingLocks` of one process."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self._machine = machine
        self._process = process

    def lock(self, ring: int, /) -> bool:
        """Take the lock of a ring; return False if it takes too long, of which the policy decides."""
        taken = self._lock(ring)
        if self._machine.traced:
            self._process.trace = hash((self._process.trace, taken))
        return taken

    def _lock(self, ring: int) -> bool:
        machine, process = self._machine, self._process
        thread = machine._step(RINGS - ring, 0, True)
        machine.drain_all(thread)
        inner, holders = process.inner, machine.holders
        if ring in inner or ring in holders:
            if machine.policy.gives_up(machine, thread):
                return False
            thread.gives_up = False
            machine.wait(lambda: thread.gives_up or (ring not in inner and ring not in holders))
            if thread.gives_up:
                thread.gives_up = False
                return False
        inner[ring] = thread
        holders[ring] = process
        machine.refresh(thread)
        return True

    def unlock(self, ring: int, /) -> None:
        """Give it back, if this thread has it, and the process has it still."""
        machine, process = self._machine, self._process
        if process.inner.get(ring) is not machine.current:
            return
        thread = machine._step(RINGS - ring, 0, True)
        machine.drain_all(thread)
        process.inner.pop(ring, None)
        if machine.holders.get(ring) is process:
            del machine.holders[ring]


class SimulatedLaneLocks(SimulatedRingLocks):
    """`colocache.core.hosts.log.LaneLocks` of one process. To the machine they are locks of further rings."""

    def lock(self, lane: int, /) -> bool:
        """Take the lock of a lane; return False if it takes too long, of which the policy decides."""
        return super().lock(_LANES + lane)

    def unlock(self, lane: int, /) -> None:
        """Give it back, if this thread has it."""
        super().unlock(_LANES + lane)


class SimulatedClaimLocks:
    """The record locks of the bytes of claims, of one process."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self._machine = machine
        self._process = process

    def take(self, place: int, /) -> bool:
        """Take a byte's lock; return False if another process has it."""
        machine = self._machine
        thread = machine._step(RINGS - RINGS_AT_MOST - place, 0, True)
        machine.drain_all(thread)
        taken = machine.claims.setdefault(place, self._process) is self._process
        machine.refresh(thread)
        if machine.traced:
            thread.process.trace = hash((thread.process.trace, taken))
        return taken

    def free(self, place: int, /) -> None:
        """Give it back."""
        machine = self._machine
        thread = machine._step(RINGS - RINGS_AT_MOST - place, 0, True)
        machine.drain_all(thread)
        if machine.claims.get(place) is self._process:
            del machine.claims[place]
        machine.refresh(thread)

    def is_taken(self, place: int, /) -> bool:
        """Tell whether anybody has it."""
        machine = self._machine
        thread = machine._step(RINGS - RINGS_AT_MOST - place, 0, True)
        machine.drain_all(thread)
        taken = place in machine.claims
        machine.refresh(thread)
        if machine.traced:
            thread.process.trace = hash((thread.process.trace, taken))
        return taken
