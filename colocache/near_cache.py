"""The near cache: where readers of this process find entries at once, without asking anybody."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Iterable
from time import monotonic

from .core.entry import Entry, Home
from .core.host.memory import Heard
from .core.host.scores import HOTTEST
from .core.keys import Key
from .core.near import NearStore
from .runtime.holds import Alone, Holds, hold_of_caller
from .runtime.waiting.threads import drained, hand_over
from .stats import Counters, Ledger

WAITING = 8  # entries that wait for their place among what is kept, at most
LARGE = 32 << 10  # bytes; an entry that takes more does not wait

MAX_MODES = 1000  # namespaces that are not in use now, and for which it is remembered whether readers get copies

#: The bell of a process that is on no host. No entry has it.
NO_BELL: Heard = memoryview(bytearray(8)).cast("d")


class NearCache:
    """What a reader of one namespace looks at before it asks anybody."""

    __slots__ = ("__weakref__", "copies", "counters", "home", "is_function", "near", "one_part", "path")

    home: Home[Entry]
    near: tuple[dict[Key, Entry], Heard]  # the entries of `home`, and the bell that tells whether they are current
    counters: Counters  # of the namespace

    def __init__(
        self, near_caches: NearCaches, path: str, copies: bool, one_part: bool, is_function: bool = False
    ) -> None:
        self.path = path  # the namespace
        self.is_function = is_function  # whether it is that of a decorated function
        self.copies = copies  # whether each reader gets a value of its own
        self.one_part = one_part  # all keys are tuples of one part, and readers find entries by that part
        near_caches.add(self)


class NearCaches:
    """The near caches of one member, and the homes in which their readers find entries. For any thread."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[NearCache] = weakref.WeakSet()
        self._modes: dict[str, bool] = {}  # recent namespaces, the oldest first, to whether their readers get copies
        self._alone = Alone()
        self.bind(None, Ledger())

    def bind(self, store: NearStore | None, ledger: Ledger) -> None:
        """Have readers find the entries of this store, or none if ``store`` is None, and count in a ledger.

        A reader takes the entries and their bell in one step. Otherwise it could compare an entry of one region with
        the bell of another one, and their numbers may be equal.
        """

        def bind() -> None:
            self._store, self._bell, self._ledger = store, NO_BELL if store is None else store.bell, ledger
            self._homes = weakref.WeakValueDictionary[tuple[str, bool], Home[Entry]]()
            for near in list(self._all):
                self._give_home(near)

        self._alone.run(bind)

    def add(self, near: NearCache) -> None:
        """Give a new near cache its home. Raise ValueError if its namespace is in use with other copying."""
        path, copies = near.path, near.copies

        def add() -> None:
            if self.copies_in(path) is (not copies):
                raise ValueError(
                    f"the namespace {path!r} cannot have copy={copies}: it is in use with copy={not copies}, and all "
                    "its readers share what they find; use another namespace"
                )
            self._remember_mode(path, copies)
            self._all.add(near)
            self._give_home(near)

        self._alone.run(add)

    def copies_in(self, path: str) -> bool | None:
        """Tell whether readers of a namespace get copies; None if nobody uses it."""
        for one_part in (False, True):
            home = self._homes.get((path, one_part))
            if home is not None:
                return home.copies
        return self._modes.get(path)

    def _remember_mode(self, path: str, copies: bool) -> None:
        """Remember how a namespace is read, also while nobody reads it, unless there were many others since."""
        self._modes.pop(path, None)
        self._modes[path] = copies
        if len(self._modes) > MAX_MODES:
            self._modes.pop(next(iter([*self._modes])), None)

    def _give_home(self, near: NearCache) -> None:
        """Give a near cache the home of its namespace, which all near caches of the namespace share.

        Only for one thread at a time. Otherwise, of two that make a home at once, one has readers who find nothing.
        """
        name = near.path, near.one_part
        home = self._homes.get(name)
        near.counters = self._ledger.of(near.path, near.is_function)
        if home is None:
            home = self._homes[name] = Home(self._store, near.copies, near.counters)
        near.home = home
        near.near = home.entries, self._bell


class Keeper:
    """Lets any thread put entries into a `NearStore`, and drop them.

    Threads queue what they want. One of them carries out all of it, and no thread waits for another one. What is queued
    leaves the queue when it is done. So an exception of a signal handler in the middle loses nothing: the next thread
    takes over, heals the store, and goes on.

    Keys and values are users' code: their `__eq__` and their finalizers may use the cache. So they are withdrawn, and
    die, when nobody works, and not on the thread of the bus.
    """

    def __init__(self, store: NearStore) -> None:
        self.store = store
        self._closed = False
        self._working = Holds()
        self._interrupted = False  # whether the last change did not come to its end
        self._coming: deque[Entry] = deque()
        self._leaving: deque[int] = deque()
        self._sweeps: deque[float] = deque()
        self._counts: deque[None] = deque()
        self._counted_at = monotonic()
        self.hottest: list[tuple[int, int]] = []  # the keys that were hit most lately; how often in 1000 s
        self._dead: deque[Entry] = deque()  # what has left, and nobody who has the lock holds any more

    def keep(self, entry: Entry) -> None:
        """Let readers find an entry from now on, and others leave if there is no room for all.

        The policy learns of it later, with other entries, because that takes less time for each.
        """
        coming = self._coming
        coming.append(entry)  # first: whatever is raised then, the entry is accounted for
        entry.publish()
        if len(coming) >= WAITING or entry.size > LARGE:
            self._work()
        if self._closed:  # after it has been published: see `close`
            self.forget_all()

    def settle(self) -> None:
        """Let the policy know of all entries. Call this before you count them."""
        self._work()

    def drop(self, hashes: Iterable[int]) -> int:
        """Free the memory of what may not be served any more of keys that have changed; return how many had a copy."""
        if self._coming:
            self._work()
        leaving = [hash for hash in hashes if self.store.has(hash)]
        if leaving:
            self._leaving.extend(leaving)
            self._work()
        return len(leaving)

    def sweep(self) -> None:
        """Free the memory of all that may not be served any more."""
        self._sweeps.append(monotonic())
        self._work()

    def count_hits(self) -> None:
        """Have the hits counted; if another thread works on the entries, by that one.

        It must be somebody who works on them, for an entry may die in the hands of whoever else looks.
        """
        self._counts.append(None)
        self._work()

    def forget_all(self) -> None:
        """Let readers find nothing of what is kept now."""
        self._sweeps.append(math.inf)
        self._work()

    def close(self) -> None:
        """Let readers find nothing from now on.

        `keep` publishes an entry, and then looks whether the keeper is closed. So either `keep` or `close` takes the
        entry away.
        """
        self._closed = True
        self.forget_all()

    def _work(self) -> None:
        """Carry out what is queued, unless another thread, or the function that this one has interrupted, does so.

        The work is given back before the queues are looked at once more:

        1. This thread finds the queues empty.
        2. Another one queues an entry, and finds that this one is still working.
        3. This thread gives the work back, and looks again.
        """
        while (self._coming or self._leaving or self._sweeps or self._counts) and self._work_alone():
            pass
        if self._dead and not self._working.held and not hand_over(self._reap):
            self._reap()

    def _work_alone(self) -> bool:
        held, hold = self._working.held, hold_of_caller()
        try:
            if held.setdefault(0, hold) is not hold and not self._working.take_over(0, hold):
                return False
            if self._interrupted:
                self.store.heal()
            self._interrupted = True
            self._carry_out()
            self._interrupted = False
            self._lay_out()
        finally:  # no call before it is deleted: an exception of a signal handler comes after calls only
            if 0 in held and held[0] is hold:
                del held[0]
        return True

    def _lay_out(self) -> None:
        """Leave what has gone to `_reap`. Before that a value could die under the lock, or on a thread of the cache:

        1. The bus's thread drops an entry, which is in ``gone`` now, and still in a variable.
        2. A thread of the application reaps ``gone``.
        3. The bus's thread lets go of the variable, and so of the last reference.
        """
        gone = self.store.gone
        while gone:
            self._dead.append(gone[0])
            gone.popleft()  # last: an exception of a signal handler has an entry reaped twice, and not never

    def _carry_out(self) -> None:
        """Put what is to come, and then drop what is to leave. What is to leave is read first. In the other order:

        1. This thread finds that nothing more comes.
        2. Another one queues an entry, finds that the keeper is closed, and queues a sweep of all.
        3. This thread carries out that sweep, and puts the entry after it. The entry stays in a closed keeper.
        """
        store, coming, leaving, sweeps = self.store, self._coming, self._leaving, self._sweeps
        some, instants, counts = [*leaving], [*sweeps], [*self._counts]
        while coming:
            store.put(coming[0])
            coming.popleft()
        if some:
            store.drop(some, monotonic())
            for _ in some:
                leaving.popleft()
        if instants:
            store.sweep(max(instants))
            for _ in instants:
                sweeps.popleft()
        if counts:
            now = monotonic()
            seconds, self._counted_at = max(1e-3, now - self._counted_at), now
            hottest = store.count_hits(HOTTEST)
            self.hottest = [(hash, int(1000 * hits / seconds)) for hash, hits in hottest]
            for _ in counts:
                self._counts.popleft()

    def _reap(self) -> None:
        for entry in drained(self._dead):
            self.store.withdraw(entry)
