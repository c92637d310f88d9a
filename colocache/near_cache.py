"""The near cache: where readers of this process find entries at once, without asking the member."""

from __future__ import annotations

import weakref

from .core.entry import Entry, Home
from .core.gate import Gate
from .core.keys import Key
from .core.store import Store
from .runtime.waiting.threads import RLock

MAX_MODES = 1000  # namespaces that are not in use now, of which is remembered whether their readers get copies


class NearCache:
    """What a reader of one namespace looks at before it asks anybody."""

    __slots__ = ("__weakref__", "copies", "entries", "gate", "home", "one_part", "path")

    gate: Gate
    home: Home
    entries: dict[Key, Entry]  # of `home`

    def __init__(self, near_caches: NearCaches, path: str, copies: bool, one_part: bool) -> None:
        self.path = path  # the namespace
        self.copies = copies  # whether each reader gets a value of its own
        self.one_part = one_part  # all keys are tuples of one part, and readers find entries by that part
        near_caches.add(self)


class NearCaches:
    """The near caches of one member, and the homes in which their readers find entries."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[NearCache] = weakref.WeakSet()
        self._modes: dict[str, bool] = {}  # recent namespaces, the oldest first, to whether their readers get copies
        self.reset()

    def reset(self) -> None:
        """Be bound to no member, with a lock that nobody holds: at first, and in a forked child."""
        self._lock = RLock()
        self.bind(None, Gate())

    def bind(self, store: Store | None, gate: Gate) -> None:
        """Have readers find the entries of this store, or none if ``store`` is None.

        Readers look at the gate first. So their entries are exchanged first, and the gate second. Otherwise:

        1. A reader finds an entry of the old member.
        2. The cache is bound to a new member.
        3. The reader looks at the gate of the new member, which is open.
        4. It uses the entry, which the new member could not invalidate.
        """
        with self._lock:
            self._store, self._gate = store, gate
            self._homes = weakref.WeakValueDictionary[tuple[str, bool], Home]()
            for near in list(self._all):
                self._give_home(near)

    def add(self, near: NearCache) -> None:
        """Give a new near cache its home. Raise ValueError if its namespace is in use with other copying."""
        path, copies = near.path, near.copies
        with self._lock:
            if self.copies_in(path) is (not copies):
                raise ValueError(
                    f"the namespace {path!r} cannot have copy={copies}: it is in use with copy={not copies}, and all "
                    "its readers share what they find; use another namespace"
                )
            self._remember_mode(path, copies)
            self._all.add(near)
            self._give_home(near)

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
            del self._modes[next(iter(self._modes))]

    def _give_home(self, near: NearCache) -> None:
        """Give a near cache the home of its namespace, which all near caches of the namespace share, and then the gate.

        Only under the lock. Otherwise, of two threads that make a home at once, one has readers who find nothing.
        """
        name = near.path, near.one_part
        home = self._homes.get(name)
        if home is None:
            home = self._homes[name] = Home(self._store, near.copies)
        near.home = home
        near.entries = home.entries
        near.gate = self._gate
